create table campuses (
    id bigint primary key,
    name text not null,
    city text,
    country text,
    ingested_at timestamptz not null default now()
);

create table coalitions (
    id bigint primary key,
    name text not null,
    slug text,
    score bigint,
    ingested_at timestamptz not null default now()
);
