-- Run by the loader before it puts rows back: the columns of the table $1 (oid) that are not computed by the server.

select attname::text
  from pg_attribute
 where attrelid = $1 and attnum > 0 and not attisdropped and attgenerated = ''
 order by attnum
