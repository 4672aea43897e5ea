-- Run by the loader at the beginning of its transaction. Expects nothing.
-- Enough for the delta tables of a night to stay in memory, and for its joins to be done there.

-- Behind pgbouncer the server session may have had temporary tables before; then its buffers are as large as they
-- were for those, and to set them is an error. A load works with any.
do $$ begin
    perform set_config('temp_buffers', '64MB', true);
exception when invalid_parameter_value then null;
end $$;
set local work_mem = '64MB';
