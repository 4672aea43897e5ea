-- Run by the loader when it has written, and by the driver: by what each of the tables $1 (quoted names,
-- schema-qualified or to be found along the search_path) is told from one that was made anew, emptied (`truncate`) or given
-- a column: its oid, its file and its number of columns. Empty for a table that is not there.

select coalesce(c.oid || '/' || c.relfilenode || '/' || c.relnatts, '')
  from unnest($1::text[]) with ordinality wanted (name, place)
  left join pg_class c on c.oid = to_regclass(wanted.name)
 order by wanted.place
