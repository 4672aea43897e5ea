-- Run by load and validate: the columns of the tables $1 (oids). Returns for each its table, name, type
-- as people write it, the name, category and kind of the type under its domains and that type's modifier,
-- whether null is refused, whether there is a default, whether its value is not for us to give, and whether its collation
-- takes texts of other bytes for the same; then the name and category of the type of an array's elements under
-- its domains, empty if it is none.

select a.attrelid,
       a.attname::text,
       format_type(a.atttypid, a.atttypmod),
       base.typname::text,
       base.typcategory::text,
       base.typtype::text,
       base.typmod,
       a.attnotnull,
       a.atthasdef or a.attidentity <> '',
       a.attgenerated <> '' or a.attidentity = 'a',
       exists (select from pg_collation c where c.oid = a.attcollation and not c.collisdeterministic),
       coalesce(element.typname::text, ''),
       coalesce(element.typcategory::text, '')
  from pg_attribute a
 cross join lateral (
       with recursive under as (
           select t.oid, t.typname, t.typcategory, t.typtype, t.typbasetype, t.typelem, a.atttypmod as typmod, t.typtypmod
             from pg_type t where t.oid = a.atttypid
           union all
           select t.oid, t.typname, t.typcategory, t.typtype, t.typbasetype, t.typelem, under.typtypmod, t.typtypmod
             from pg_type t join under on t.oid = under.typbasetype)
       select * from under where under.typbasetype = 0) base
  left join lateral (
       with recursive under as (
           select t.oid, t.typname, t.typcategory, t.typbasetype from pg_type t where t.oid = base.typelem
           union all
           select t.oid, t.typname, t.typcategory, t.typbasetype from pg_type t join under on t.oid = under.typbasetype)
       select * from under where under.typbasetype = 0) element on base.typcategory = 'A'
 where a.attrelid = any($1) and a.attnum > 0 and not a.attisdropped
 order by a.attrelid, a.attnum
