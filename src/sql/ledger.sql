-- Run by the loader, inside its transaction, when the database has no column `mirror42.run_tables.state`, the newest of
-- these. Expects the
-- right to create a schema, and takes what older versions made. Here stands what every load did, for `audit`, `status`,
-- `validate` and people.

create schema if not exists mirror42;

-- One row a committed load; a load that failed was rolled back, and its log tells of it.
create table if not exists mirror42.runs (
    id          text primary key,
    pipeline    text not null,
    -- The oldest start of a fetch among the loaded exports: how old the data is. Null: not known.
    fetched_at  timestamptz,
    started_at  timestamptz not null default now(),
    finished_at timestamptz,
    status      text not null
);
alter table mirror42.runs
    -- By what the load was made, in hashes (docs/formats.md). Null: of exports of another night, or by an older version.
    add column if not exists definition text,
    -- Whether the validation after it passed. Null: there was none.
    add column if not exists valid      boolean;
create index if not exists runs_started_at on mirror42.runs (started_at);

create table if not exists mirror42.run_tables (
    run_id        text not null references mirror42.runs on delete cascade,
    table_name    text not null,
    stage         text not null,
    -- Of the all.json that was loaded, as `sha256sum` prints it.
    export_sha256 text not null,
    -- Records of the export; those dropped as orphans or duplicates are among them.
    staged        bigint not null,
    inserted      bigint not null,
    updated       bigint not null,
    unchanged     bigint not null,
    deleted       bigint not null,
    orphans       bigint not null,
    duration_ms   bigint not null,
    primary key (run_id, table_name)
);
alter table mirror42.run_tables
    -- Records that were equal to another of their key.
    add column if not exists duplicates bigint not null default 0,
    -- Characters that no column can hold, left out or replaced (`nul` of pipeline.toml).
    add column if not exists mended     bigint not null default 0,
    -- What tells the table from one that was made anew since (table_states.sql).
    add column if not exists state      text;

-- Every row that a load deleted, whole. Neither this nor the next has an index by its key: people look into them now and
-- then, loads write into them every night.
create table if not exists mirror42.deletions (
    id            bigint generated always as identity primary key,
    run_id        text not null references mirror42.runs on delete cascade,
    table_name    text not null,
    key           jsonb not null,
    row           jsonb not null,
    -- The table of the parent that went too; null: the row itself was gone from the export.
    cascaded_from text,
    deleted_at    timestamptz not null default clock_timestamp()
);

-- Every row that a load changed: the columns that differed, before and after.
create table if not exists mirror42.changes (
    id         bigint generated always as identity primary key,
    run_id     text not null references mirror42.runs on delete cascade,
    table_name text not null,
    key        jsonb not null,
    old        jsonb not null,
    new        jsonb not null,
    changed_at timestamptz not null default clock_timestamp()
);
