-- The mirror's tables. `mirror42-load` runs this file when a database has none of them; with psql it
-- rebuilds an empty database:  psql -1 -v ON_ERROR_STOP=1 -f schema.sql
--
-- This is the one place that knows columns, keys and foreign keys: the loader reads them back from
-- the database's catalog, takes the columns of an export from the keys of its records, and deletes
-- and drops along the foreign keys.
--
-- Only what the API surely gives is `not null`: keys, the ends of links, names. A null where none was
-- seen before must not cost a night.
-- `ingested_at` is when the row last changed here. It is the loader's; exports do not have it.

create table cursus (
    id          bigint primary key,
    name        text not null,
    slug        text,
    kind        text,
    created_at  timestamptz,
    ingested_at timestamptz not null default now()
);

-- Kept: active, public, three users or more (the filter of the stage decides).
create table campuses (
    id                   bigint primary key,
    name                 text not null,
    time_zone            text,
    language_id          bigint,
    language_name        text,
    language_identifier  text,
    users_count          integer,
    vogsphere_id         bigint,
    country              text,
    address              text,
    zip                  text,
    city                 text,
    website              text,
    facebook             text,
    twitter              text,
    public               boolean,
    active               boolean,
    email_extension      text,
    default_hidden_phone boolean,
    ingested_at          timestamptz not null default now()
);

-- `parent_id` may name an achievement that no kept campus has: no foreign key.
create table achievements (
    id             bigint primary key,
    name           text not null,
    description    text,
    tier           text,
    kind           text,
    visible        boolean,
    image          text,
    nbr_of_success integer,
    users_url      text,
    parent_id      bigint,
    title          text,
    ingested_at    timestamptz not null default now()
);

create table campus_achievements (
    campus_id      bigint not null references campuses on delete cascade,
    achievement_id bigint not null references achievements on delete cascade,
    ingested_at    timestamptz not null default now(),
    primary key (campus_id, achievement_id)
);
-- The primary key serves a campus that goes; this serves an achievement that goes.
create index campus_achievements_achievement_id on campus_achievements (achievement_id);

-- `slug` is null for some. `parent_id` may name a project that is not mirrored: no foreign key.
create table projects (
    id             bigint primary key,
    name           text not null,
    slug           text,
    parent_id      bigint,
    difficulty     integer,
    exam           boolean,
    git_id         bigint,
    repository     text,
    recommendation text,
    created_at     timestamptz,
    updated_at     timestamptz,
    ingested_at    timestamptz not null default now()
);

create table campus_projects (
    campus_id   bigint not null references campuses on delete cascade,
    project_id  bigint not null references projects on delete cascade,
    ingested_at timestamptz not null default now(),
    primary key (campus_id, project_id)
);
create index campus_projects_project_id on campus_projects (project_id);

-- `campus_id` (null: every campus) and `cursus_id` may name ones that are not mirrored, and the session
-- stays: no foreign keys.
create table project_sessions (
    id                      bigint primary key,
    project_id              bigint not null references projects on delete cascade,
    campus_id               bigint,
    cursus_id               bigint,
    begin_at                timestamptz,
    end_at                  timestamptz,
    difficulty              integer,
    estimate_time           text, -- "7 days", or seconds
    exam                    boolean,
    marked                  boolean,
    max_project_submissions integer,
    max_people              integer,
    duration_days           integer,
    commit                  text,
    description             text,
    is_subscriptable        boolean,
    objectives              jsonb,
    scales                  jsonb,
    terminating_after       text,
    uploads                 jsonb,
    solo                    boolean,
    team_behaviour          text,
    created_at              timestamptz,
    updated_at              timestamptz,
    ingested_at             timestamptz not null default now()
);
create index project_sessions_project_id on project_sessions (project_id);

-- `slug` is not unique: two are "analysts". `user_id` names a user, and users are not mirrored yet.
create table coalitions (
    id          bigint primary key,
    name        text not null,
    slug        text,
    image_url   text,
    cover_url   text,
    color       text,
    score       bigint,
    user_id     bigint,
    ingested_at timestamptz not null default now()
);

-- The next phase: people. No stage fills these yet. Keys of the API that end in a question mark
-- (`staff?`, `alumni?`, `active?`, `validated?`) stand here without it.

create table users (
    id               bigint primary key,
    login            text not null,
    email            text,
    first_name       text,
    last_name        text,
    usual_full_name  text,
    displayname      text,
    kind             text,
    image            jsonb,
    staff            boolean,
    alumni           boolean,
    active           boolean,
    correction_point integer,
    wallet           integer,
    pool_month       text,
    pool_year        text,
    location         text,
    created_at       timestamptz,
    updated_at       timestamptz,
    ingested_at      timestamptz not null default now()
);

create table project_users (
    id              bigint primary key,
    project_id      bigint not null references projects on delete cascade,
    user_id         bigint not null references users on delete cascade,
    occurrence      integer,
    final_mark      integer,
    status          text,
    validated       boolean,
    current_team_id bigint,
    marked          boolean,
    marked_at       timestamptz,
    retriable_at    timestamptz,
    created_at      timestamptz,
    updated_at      timestamptz,
    ingested_at     timestamptz not null default now()
);
create index project_users_project_id on project_users (project_id);
create index project_users_user_id on project_users (user_id);

create table achievements_users (
    id             bigint primary key,
    achievement_id bigint not null references achievements on delete cascade,
    user_id        bigint not null references users on delete cascade,
    nbr_of_success integer,
    created_at     timestamptz,
    updated_at     timestamptz,
    ingested_at    timestamptz not null default now()
);
create index achievements_users_achievement_id on achievements_users (achievement_id);
create index achievements_users_user_id on achievements_users (user_id);

create table coalitions_users (
    id           bigint primary key,
    coalition_id bigint not null references coalitions on delete cascade,
    user_id      bigint not null references users on delete cascade,
    score        bigint,
    rank         integer,
    created_at   timestamptz,
    updated_at   timestamptz,
    ingested_at  timestamptz not null default now()
);
create index coalitions_users_coalition_id on coalitions_users (coalition_id);
create index coalitions_users_user_id on coalitions_users (user_id);
