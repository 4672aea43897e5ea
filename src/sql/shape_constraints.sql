-- Run by the doctor: the constraints of the tables $1 (oids), and the indexes that belong to none. Returns for
-- each its table, its kind (as `contype`, or `i`), its quoted name and the text that makes it.

select c.conrelid, c.contype::text, quote_ident(c.conname), pg_get_constraintdef(c.oid)
  from pg_constraint c
 where c.conrelid = any($1) and c.contype in ('p', 'u', 'f', 'c', 'x')
 union all
select i.indrelid,
       'i',
       quote_ident(r.relname),
       case when i.indisunique then 'unique ' else '' end || substring(pg_get_indexdef(i.indexrelid) from ' USING (.*)$')
  from pg_index i
  join pg_class r on r.oid = i.indexrelid
 where i.indrelid = any($1)
   and not exists (select from pg_constraint c where c.conindid = i.indexrelid and c.conrelid = i.indrelid)
 order by 1, 2, 4
