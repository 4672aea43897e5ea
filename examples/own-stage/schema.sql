create table campuses (
    id          bigint primary key,
    name        text not null,
    language_id bigint,
    users_count integer not null,
    ingested_at timestamptz not null default now()
);

create table languages (
    id          bigint primary key,
    name        text not null,
    ingested_at timestamptz not null default now()
);

create table speakers (
    language_id bigint primary key references languages on delete cascade,
    language    text not null,
    campuses    integer not null,
    users       bigint not null,
    ingested_at timestamptz not null default now()
);
