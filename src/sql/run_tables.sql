-- Run by the driver: what the load $1 did to its tables, in the order of their stages. Expects the ledger.
-- Times are microseconds since 1970.

select t.run_id, t.table_name, t.stage, t.export_sha256, t.staged, t.inserted, t.updated, t.unchanged, t.deleted,
       t.orphans, t.duration_ms,
       (extract(epoch from r.fetched_at) * 1000000)::bigint
  from mirror42.run_tables t
  join mirror42.runs r on r.id = t.run_id
 where t.run_id = $1
 order by t.stage
