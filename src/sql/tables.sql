-- Run by load and validate: which of the tables $1 (quoted names, schema-qualified or to be found along
-- the search_path) exist. Expects any number of names; returns a row for each, in their order.

select wanted.name,
       coalesce(c.oid, 0)::oid,
       coalesce(quote_ident(n.nspname) || '.' || quote_ident(c.relname), ''),
       coalesce(c.relkind in ('r', 'p'), false),
       coalesce((select array_agg(a.attname::text order by k.place)
                   from pg_constraint p
                  cross join unnest(p.conkey) with ordinality k (attnum, place)
                   join pg_attribute a on a.attrelid = p.conrelid and a.attnum = k.attnum
                  where p.conrelid = c.oid and p.contype = 'p'), '{}')
  from unnest($1::text[]) with ordinality wanted (name, place)
  left join pg_class c on c.oid = to_regclass(wanted.name)
  left join pg_namespace n on n.oid = c.relnamespace
 order by wanted.place
