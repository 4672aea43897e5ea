-- Run by the loader after it has written, once a table: what the load $1 did to it. Expects the ledger.

insert into mirror42.run_tables (run_id, table_name, stage, export_sha256, staged, inserted, updated, unchanged, deleted,
                                 orphans, duration_ms, duplicates, mended, state)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
