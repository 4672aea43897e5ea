-- Run by the loader before it deletes rows of the tables $1 (oids): the tables but $2 (oids) whose rows go with them, by a
-- foreign key with `on delete cascade`. Returns for each key its name, the child with its schema-qualified name as SQL takes it
-- and as people read it, the child's and the parent's columns (in the same order), the child's primary key, and the parent.

select f.conname::text,
       f.conrelid,
       quote_ident(n.nspname) || '.' || quote_ident(c.relname),
       case n.nspname when current_schema() then c.relname::text else n.nspname || '.' || c.relname end,
       (select array_agg(a.attname::text order by k.place)
          from unnest(f.conkey) with ordinality k (attnum, place)
          join pg_attribute a on a.attrelid = f.conrelid and a.attnum = k.attnum),
       (select array_agg(a.attname::text order by k.place)
          from unnest(f.confkey) with ordinality k (attnum, place)
          join pg_attribute a on a.attrelid = f.confrelid and a.attnum = k.attnum),
       coalesce((select array_agg(a.attname::text order by k.place)
                   from pg_constraint p
                  cross join unnest(p.conkey) with ordinality k (attnum, place)
                   join pg_attribute a on a.attrelid = p.conrelid and a.attnum = k.attnum
                  where p.conrelid = c.oid and p.contype = 'p'), '{}'),
       f.confrelid
  from pg_constraint f
  join pg_class c on c.oid = f.conrelid
  join pg_namespace n on n.oid = c.relnamespace
 where f.contype = 'f' and f.conparentid = 0 and f.confdeltype = 'c' and f.confrelid = any($1)
   and f.conrelid <> all($2)
 order by f.conname
