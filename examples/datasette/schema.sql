create table authors (
    id bigint primary key,
    name text not null,
    ingested_at timestamptz not null default now()
);

create table books (
    id bigint primary key,
    author_id bigint not null references authors on delete cascade,
    title text not null,
    published integer,
    price numeric,
    ingested_at timestamptz not null default now()
);
create index on books (author_id);
