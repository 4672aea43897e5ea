-- Run by the doctor: what the server says of itself and of this session. Expects nothing. Returns its version as
-- people write it and as a number, the version of TLS (null: none), how far away it is (`socket`, `loopback`,
-- `network`), role and database, whether it only reads, and its clock in microseconds.

select current_setting('server_version'),
       current_setting('server_version_num')::integer,
       (select version from pg_stat_ssl where pid = pg_backend_pid() and ssl),
       case when inet_server_addr() is null then 'socket'
            when host(inet_server_addr())::inet <<= '127.0.0.0/8' or host(inet_server_addr()) = '::1' then 'loopback'
            else 'network' end,
       current_user::text,
       current_database()::text,
       pg_is_in_recovery(),
       (extract(epoch from clock_timestamp()) * 1000000)::bigint
