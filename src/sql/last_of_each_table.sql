-- Run by validate and the driver: what the last load of each table of the pipeline $1 did. Expects the ledger.
-- Times are microseconds since 1970.

select distinct on (t.table_name)
       t.run_id, t.table_name, t.stage, t.export_sha256, t.staged, t.inserted, t.updated, t.unchanged, t.deleted,
       t.orphans, t.duration_ms,
       (extract(epoch from r.fetched_at) * 1000000)::bigint
  from mirror42.run_tables t
  join mirror42.runs r on r.id = t.run_id
 where r.pipeline = $1
 order by t.table_name, r.started_at desc
