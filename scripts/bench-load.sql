-- Run by scripts/bench-load.sh in a database that mirror42-load has filled. Makes `bench_tables`: the tables that the
-- pipeline fills, parents first, with the parts of the statements of the floors. `before` is the schema where the
-- night before will be, to find the differences.

create table bench_tables as
with tables as (
    select stage, table_name as name, table_name::regclass as oid from mirror42.run_tables
    where run_id = (select id from mirror42.runs order by started_at desc limit 1)
), columns as (
    select t.stage, t.name, a.attnum, quote_ident(a.attname) as "column",
           exists (select from pg_index i where i.indrelid = t.oid and i.indisprimary and a.attnum = any (i.indkey)) as is_key
    from tables t join pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
    where a.attname <> 'ingested_at'
), parts as (
    select row_number() over (order by stage) as place, name,
           string_agg("column", ', ' order by attnum) as columns,
           string_agg('t.' || "column", ', ' order by attnum) as t_columns,
           string_agg("column", ', ' order by attnum) filter (where is_key) as key,
           string_agg('d.' || "column", ', ' order by attnum) filter (where is_key) as d_key,
           string_agg(format('t.%1$s = d.%1$s', "column"), ' and ' order by attnum) filter (where is_key) as same_key,
           -- Null where the key is all there is.
           string_agg('t.' || "column", ', ' order by attnum) filter (where not is_key) as t_values,
           string_agg('d.' || "column", ', ' order by attnum) filter (where not is_key) as d_values,
           string_agg('excluded.' || "column", ', ' order by attnum) filter (where not is_key) as new_values,
           string_agg(format('%1$s = excluded.%1$s', "column"), ', ' order by attnum) filter (where not is_key) as assignments
    from columns group by stage, name
)
select place, name, columns, key, same_key,
       format('on conflict (%s) do ', key) || coalesce('update set ' || assignments, 'nothing') as upsert,
       coalesce(' where (' || t_values || ') is distinct from (' || new_values || ')', '') as if_distinct,
       -- Rows that are new or changed, and keys that are gone.
       format('select %s from %s t left join before.%s d on %s where (%s) is null', t_columns, name, name, same_key, d_key)
           || coalesce(' or (' || t_values || ') is distinct from (' || d_values || ')', '') as differing,
       format('select %s from before.%s d where not exists (select from %s t where %s)', d_key, name, name, same_key) as gone,
       0::bigint as differing_count,
       0::bigint as gone_count
from parts order by place;
