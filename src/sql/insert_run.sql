-- Run by the loader before it stages: the load $1 of pipeline $2, whose data was fetched at $3 (RFC 3339, or
-- null). Expects the ledger.

insert into mirror42.runs (id, pipeline, fetched_at, status)
values ($1, $2, $3::text::timestamptz, 'loading')
