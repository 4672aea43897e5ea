-- Run by the load test when it begins: the schemas that load tests have made and not dropped. Expects nothing.
-- Their comment is looked at too: a name alone is no leave to drop a schema.

select nspname::text
  from pg_namespace
 where nspname ~ '^mirror42_loadtest_[0-9]+_[0-9a-f]{8}$'
   and obj_description(oid, 'pg_namespace') like 'Scratch of a mirror42 load test%'
 order by nspname
