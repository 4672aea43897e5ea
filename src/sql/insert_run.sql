-- Run by the loader before it stages: the load $1 of pipeline $2, whose data was fetched at $3 (RFC 3339, or
-- null), by the definition $4 (null: of exports that are not the pipeline's own). Expects the ledger.

insert into mirror42.runs (id, pipeline, fetched_at, definition, status)
values ($1, $2, $3::text::timestamptz, $4, 'loading')
