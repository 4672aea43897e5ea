-- Run by validate and the driver: what the last load of each table of the pipeline $1 did. Expects the ledger.

select distinct on (t.table_name)
       t.run_id, t.table_name, t.stage, t.export_sha256, t.staged, t.inserted, t.updated, t.unchanged, t.deleted,
       t.orphans, t.duration_ms
  from mirror42.run_tables t
  join mirror42.runs r on r.id = t.run_id
 where r.pipeline = $1
 order by t.table_name, r.started_at desc
