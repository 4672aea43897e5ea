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
-- A role that is called as its ledger's schema (as ours on the embedded server) looks there first, by the default search_path, and
-- makes its tables there: such a schema, with a ledger in it and nothing else, is left out. The other names stay as they are,
-- since they may be of schemas that schema.sql is still to make.
select set_config('search_path', regexp_replace(current_setting('search_path'), '"\$user"\s*,?\s*', ''), false)
 where to_regclass(quote_ident(current_user) || '.run_tables') is not null
   and not exists (select from pg_class
                    where relnamespace = to_regnamespace(quote_ident(current_user)) and relkind in ('r', 'p')
                      and relname not in ('runs', 'run_tables', 'deletions', 'changes'));
-- A loader that was killed leaves its statement running and its locks held until the server looks.
-- Not every system lets it look.
do $$ begin
    perform set_config('client_connection_check_interval', '500ms', false);
exception when others then null;
end $$;
