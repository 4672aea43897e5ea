-- Run by the loader before it deletes rows of the tables $1 (oids): the tables but $2 (oids) whose rows go or change with them, by
-- a foreign key with one of the actions $3 (`c` on delete cascade, `n` set null, `d` set default). Returns for each key its name,
-- the child with its schema-qualified name as SQL takes it and as people read it (with the schema where the search_path does not
-- find it), the child's and the parent's columns (in the same order), the child's primary key, the parent, and whether the
-- child's rows go.

select f.conname::text,
       f.conrelid,
       quote_ident(n.nspname) || '.' || quote_ident(c.relname),
       case when pg_table_is_visible(c.oid) then c.relname::text else n.nspname || '.' || c.relname end,
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
       f.confrelid,
       f.confdeltype = 'c'
  from pg_constraint f
  join pg_class c on c.oid = f.conrelid
  join pg_namespace n on n.oid = c.relnamespace
 where f.contype = 'f' and f.conparentid = 0 and f.confdeltype::text = any($3) and f.confrelid = any($1)
   and f.conrelid <> all($2)
 order by f.conname
