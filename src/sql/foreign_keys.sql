-- Run by load and validate: every foreign key from or to the tables $1 (oids). Returns for each its name,
-- the child with its columns, the parent with its columns (in the same order), both tables' quoted names,
-- whether a deleted parent takes its children with it, whether the server vouches for all rows, the text
-- that makes it, and whether the columns of both sides are of the same types, but for the width of integers, and of collations
-- that tell texts apart by their bytes.

select f.conname::text,
       f.conrelid,
       quote_ident(cn.nspname) || '.' || quote_ident(c.relname),
       (select array_agg(a.attname::text order by k.place)
          from unnest(f.conkey) with ordinality k (attnum, place)
          join pg_attribute a on a.attrelid = f.conrelid and a.attnum = k.attnum),
       f.confrelid,
       quote_ident(pn.nspname) || '.' || quote_ident(p.relname),
       (select array_agg(a.attname::text order by k.place)
          from unnest(f.confkey) with ordinality k (attnum, place)
          join pg_attribute a on a.attrelid = f.confrelid and a.attnum = k.attnum),
       f.confdeltype = 'c',
       f.convalidated,
       pg_get_constraintdef(f.oid),
       (select bool_and((ca.atttypid = pa.atttypid
                        or (ca.atttypid in (20, 21, 23) and pa.atttypid in (20, 21, 23))
                        or (ca.atttypid in (25, 1043) and pa.atttypid in (25, 1043)))
                        and not exists (select from pg_collation l
                                         where l.oid in (ca.attcollation, pa.attcollation) and not l.collisdeterministic))
          from unnest(f.conkey, f.confkey) k (child, parent)
          join pg_attribute ca on ca.attrelid = f.conrelid and ca.attnum = k.child
          join pg_attribute pa on pa.attrelid = f.confrelid and pa.attnum = k.parent)
  from pg_constraint f
  join pg_class c on c.oid = f.conrelid
  join pg_namespace cn on cn.oid = c.relnamespace
  join pg_class p on p.oid = f.confrelid
  join pg_namespace pn on pn.oid = p.relnamespace
 where f.contype = 'f' and f.conparentid = 0 and (f.conrelid = any($1) or f.confrelid = any($1))
 order by f.conname
