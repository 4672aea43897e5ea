-- Run by the doctor: the columns of the tables $1 (oids). Returns for each its table, name and quoted name, its type as
-- people write it, whether null is refused, its default or what it is computed from, and how it comes to its value
-- (empty, or as `attidentity` and `attgenerated` have it).

select a.attrelid,
       a.attname::text,
       quote_ident(a.attname),
       format_type(a.atttypid, a.atttypmod),
       a.attnotnull,
       pg_get_expr(d.adbin, d.adrelid),
       concat(a.attidentity, a.attgenerated)
  from pg_attribute a
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
 where a.attrelid = any($1) and a.attnum > 0 and not a.attisdropped
 order by a.attrelid, a.attnum
