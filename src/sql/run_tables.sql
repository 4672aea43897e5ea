-- Run by the driver: what the loads $1 did to their tables, in the order of their stages. Expects the ledger.

select run_id, table_name, stage, export_sha256, staged, inserted, updated, unchanged, deleted, orphans, duration_ms
  from mirror42.run_tables
 where run_id = any($1)
 order by stage
