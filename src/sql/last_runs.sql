-- Run by the driver: what the last $2 loads of the pipeline $1 did, the oldest first, the tables of each in the order of their
-- stages. Expects the ledger. Times are microseconds since 1970.

select t.run_id, t.table_name, t.stage, t.export_sha256, t.staged, t.inserted, t.updated, t.unchanged, t.deleted,
       t.orphans, t.duration_ms,
       (extract(epoch from r.fetched_at) * 1000000)::bigint,
       (extract(epoch from r.started_at) * 1000000)::bigint,
       (extract(epoch from r.finished_at) * 1000000)::bigint
  from (select * from mirror42.runs where pipeline = $1 order by started_at desc limit $2) r
  join mirror42.run_tables t on t.run_id = r.id
 order by r.started_at, r.id, t.stage
