-- Run by the driver: the last load that filled any of the tables $1, with all its tables. Expects the ledger.
-- Times are microseconds since 1970.

select r.id, r.pipeline, r.definition, r.valid,
       (extract(epoch from r.fetched_at) * 1000000)::bigint,
       (extract(epoch from r.finished_at - r.started_at) * 1000)::bigint,
       t.table_name, t.export_sha256, t.state
  from mirror42.runs r
  join mirror42.run_tables t on t.run_id = r.id
 where r.id = (select l.id from mirror42.runs l
                where exists (select from mirror42.run_tables f where f.run_id = l.id and f.table_name = any($1))
                order by l.finished_at desc nulls last
                limit 1)
