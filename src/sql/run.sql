-- Run by validate and the driver: the load $2 of the pipeline $1, or its last one where $2 is null.
-- Expects the ledger. Times are microseconds since 1970.

select id, pipeline,
       (extract(epoch from fetched_at) * 1000000)::bigint,
       (extract(epoch from started_at) * 1000000)::bigint,
       (extract(epoch from finished_at) * 1000000)::bigint
  from mirror42.runs
 where pipeline = $1 and ($2::text is null or id = $2)
 order by started_at desc
 limit 1
