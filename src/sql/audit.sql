-- Run by `mirror42 audit`: what loads deleted and changed, the last load first; within one, table by table and in the order in
-- which it was done. $1 a table or null, $2 a run or null, $3 microseconds since 1970 or null: not before. $4, $5, $6 are of
-- the same length: for each place the key must have a column of the value $4, or the column $5 with the value $6. $7: rows at
-- the most, or null. Expects the ledger.

with events as (
    select id, run_id, table_name, key, deleted_at as at, row as old, null::jsonb as new, cascaded_from
      from mirror42.deletions
    union all
    select id, run_id, table_name, key, changed_at, old, new, null
      from mirror42.changes
)
select e.run_id,
       e.table_name,
       e.key::text,
       (extract(epoch from e.at) * 1000000)::bigint,
       e.old::text,
       e.new::text,
       e.cascaded_from
  from events e
  join mirror42.runs r on r.id = e.run_id
 where ($1::text is null or e.table_name = $1)
   and ($2::text is null or e.run_id = $2)
   and ($3::bigint is null or (extract(epoch from e.at) * 1000000)::bigint >= $3)
   and not exists (
       select from unnest($4::text[], $5::text[], $6::text[]) wanted (whole, name, value)
        where not exists (
            select from jsonb_each_text(e.key) member
             where member.value = wanted.whole or (member.key = wanted.name and member.value = wanted.value)))
 order by r.started_at desc, e.run_id, e.table_name, e.new is null, e.id
 limit $7
