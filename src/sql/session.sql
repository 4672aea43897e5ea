-- Run on every connection of ours, in one round trip, right after it is made. Expects nothing.
-- Dates and texts mean the same whatever the role's defaults are, and a night that cannot get its locks
-- fails clearly rather than hangs. `row_security = off` makes a policy that would hide rows an error:
-- rows that the loader cannot see would look like rows to insert.

set timezone = 'UTC';
set datestyle = 'ISO, YMD';
set client_encoding = 'UTF8';
set standard_conforming_strings = on;
set lock_timeout = '30s';
set row_security = off;
set jit = off;
-- A loader that was killed leaves its statement running and its locks held until the server looks.
-- Not every system lets it look.
do $$ begin
    perform set_config('client_connection_check_interval', '500ms', false);
exception when others then null;
end $$;
