create table posts (
    id bigint primary key,
    title text not null,
    tags jsonb,
    ingested_at timestamptz not null default now()
);

create table comments (
    id bigint primary key,
    post_id bigint not null references posts on delete cascade,
    body text,
    ingested_at timestamptz not null default now()
);
create index on comments (post_id);
