//! Loading: all tables or none, exactly the exports, nothing touched that is the same.

use crate::space::{Space, rows, wait_until};

pub const PIPELINE: &str = r#"[pipeline]
name = "small"
max_delete = "50%"

[api]
base_url = "http://127.0.0.1:1"

[[stage]]
name = "02_campus"
fetch = "/v2/campus"
key = ["id"]
table = "campuses"

[[stage]]
name = "05_projects"
fetch = "/v2/projects"
jq = '{id, name, difficulty}'
key = ["id"]
table = "projects"

[[stage]]
name = "06_campus_projects"
from = "05_projects"
key = ["campus_id", "project_id"]
table = "campus_projects"

[[stage]]
name = "07_project_sessions"
from = "05_projects"
key = ["id"]
table = "project_sessions"
"#;

pub const SCHEMA: &str = include_str!("../../schema.sql");

const TABLES: [&str; 4] = ["campuses", "projects", "campus_projects", "project_sessions"];

/// A project with exports for four tables.
pub fn project() -> Space {
    let space = Space::with_database().file("pipeline.toml", PIPELINE).file("schema.sql", SCHEMA);
    space.export(
        "02_campus",
        &[r#"{"id":1,"name":"Paris"}"#, r#"{"id":9,"name":"Łódź"}"#, r#"{"id":10,"name":"Lyon"}"#],
    );
    space.export(
        "05_projects",
        &[
            r#"{"id":1,"name":"Libft","difficulty":100}"#,
            r#"{"id":2,"name":"a\tb\\c\n\"d\" \u00e9\ud83d\ude00","difficulty":null}"#,
            r#"{"id":3,"name":"minishell","difficulty":300}"#,
        ],
    );
    space.export(
        "06_campus_projects",
        &[
            r#"{"campus_id":1,"project_id":1}"#,
            r#"{"campus_id":1,"project_id":2}"#,
            r#"{"campus_id":9,"project_id":1}"#,
            r#"{"campus_id":10,"project_id":3}"#,
        ],
    );
    space.export(
        "07_project_sessions",
        &[
            r#"{"id":7,"project_id":1,"campus_id":99,"objectives":["a\\b"],"begin_at":"2028-07-19T00:00:00.000+08:00"}"#,
            r#"{"id":8,"project_id":3,"campus_id":null,"objectives":"one","begin_at":null}"#,
        ],
    );
    space
}

pub fn load(space: &Space) {
    let outcome = space.run("mirror42-load", &["-q"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
}

/// Fails with this exit code, and all tables stay as they are.
pub fn refused(space: &Space, args: &[&str], code: i32) -> String {
    let before = state(space);
    let outcome = space.run("mirror42-load", &[&["-q"], args].concat());
    assert_eq!(outcome.code, Some(code), "{}", outcome.stderr);
    assert_eq!(state(space), before);
    // Warnings of dropped orphans stand before it.
    let start = outcome.stderr.find("mirror42-load: error: ").unwrap();
    outcome.stderr[start..].to_string()
}

/// Every row of every table, with the place it stands at: a row that is written again moves.
pub fn state(space: &Space) -> Vec<String> {
    let mut client = space.client();
    let there = rows(&mut client, "select to_regclass('campuses') is not null");
    if there != ["t"] {
        return Vec::new();
    }
    let tables = TABLES.iter().copied().chain(["mirror42.runs", "mirror42.run_tables", "mirror42.deletions"]);
    tables
        .flat_map(|table| rows(&mut client, &format!("select '{table}', ctid, xmin, t.* from {table} t order by ctid")))
        .collect()
}

pub fn counts(space: &Space) -> Vec<String> {
    space.query(
        "select table_name, staged, inserted, updated, unchanged, deleted, orphans from mirror42.run_tables
          where run_id = (select id from mirror42.runs order by started_at desc limit 1) order by stage",
    )
}

#[test]
fn a_first_load_fills_an_empty_database() {
    let space = project();
    load(&space);
    assert_eq!(
        space.query("select id, name, difficulty from projects order by id"),
        ["1|Libft|100", "2|a\tb\\c\n\"d\" é😀|∅", "3|minishell|300"]
    );
    assert_eq!(
        space.query("select id, campus_id, objectives, begin_at at time zone 'UTC' from project_sessions order by id"),
        ["7|99|[\"a\\\\b\"]|2028-07-18 16:00:00", "8|∅|\"one\"|∅"]
    );
    assert_eq!(
        counts(&space),
        ["campuses|3|3|0|0|0|0", "projects|3|3|0|0|0|0", "campus_projects|4|4|0|0|0|0", "project_sessions|2|2|0|0|0|0"]
    );
    assert_eq!(
        space.query("select pipeline, status, finished_at >= started_at, fetched_at < started_at from mirror42.runs"),
        ["small|loaded|t|t"]
    );
    // Set aside for the first load, the foreign keys are back, as `schema.sql` has them.
    assert_eq!(
        space.query(
            "select conname, pg_get_constraintdef(oid), convalidated from pg_constraint
              where contype = 'f' and conrelid = 'campus_projects'::regclass order by 1"
        ),
        [
            "campus_projects_campus_id_fkey|FOREIGN KEY (campus_id) REFERENCES campuses(id) ON DELETE CASCADE|t",
            "campus_projects_project_id_fkey|FOREIGN KEY (project_id) REFERENCES projects(id) ON DELETE CASCADE|t",
        ]
    );
}

#[test]
fn a_second_load_touches_no_row() {
    let space = project();
    load(&space);
    let written = "select relname, n_tup_ins, n_tup_upd, n_tup_del, n_dead_tup from pg_stat_user_tables
                    where schemaname = 'public' order by relname";
    wait_until("the first load is in the statistics", || {
        space.query("select n_tup_ins from pg_stat_user_tables where relname = 'campus_projects'") == ["4"]
    });
    let (stat, rows_before) = (space.query(written), mirrored(&space));
    load(&space);
    assert_eq!(mirrored(&space), rows_before);
    // The statistics of a session are there at the latest when it has ended; the run itself tells that.
    wait_until("the second load is in the statistics", || {
        space.query("select n_tup_ins from pg_stat_user_tables where relname = 'run_tables'") == ["8"]
    });
    assert_eq!(space.query(written), stat);
    assert_eq!(
        counts(&space),
        ["campuses|3|0|0|3|0|0", "projects|3|0|0|3|0|0", "campus_projects|4|0|0|4|0|0", "project_sessions|2|0|0|2|0|0"]
    );
    assert_eq!(space.query("select count(*) from mirror42.runs"), ["2"]);
}

fn mirrored(space: &Space) -> Vec<String> {
    state(space).into_iter().filter(|row| !row.starts_with("mirror42.")).collect()
}

#[test]
fn what_changed_is_updated_deleted_and_inserted_and_nothing_else() {
    let space = project();
    load(&space);
    let before = space.query("select id, ingested_at from projects order by id");
    space.export(
        "02_campus",
        &[r#"{"id":1,"name":"Paris"}"#, r#"{"id":9,"name":"Łódź"}"#, r#"{"id":11,"name":"Nice"}"#],
    );
    space.export(
        "05_projects",
        &[
            r#"{"id":1,"name":"Libft","difficulty":100}"#,
            r#"{"id":2,"name":"renamed","difficulty":null}"#,
            r#"{"id":4,"name":"new","difficulty":0}"#,
        ],
    );
    space.export(
        "06_campus_projects",
        &[
            r#"{"campus_id":1,"project_id":1}"#,
            r#"{"campus_id":9,"project_id":1}"#,
            r#"{"campus_id":11,"project_id":4}"#,
        ],
    );
    space.export(
        "07_project_sessions",
        &[r#"{"id":7,"project_id":1,"campus_id":99,"objectives":["a\\b"],"begin_at":"2028-07-18T16:00:00Z"}"#],
    );
    let outcome = space.run("mirror42-load", &["--run-id", "night 2"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert_eq!(
        counts(&space),
        ["campuses|3|1|0|2|1|0", "projects|3|1|1|1|1|0", "campus_projects|3|1|0|2|2|0", "project_sessions|1|0|0|1|1|0"]
    );
    assert_eq!(space.query("select id, name from projects order by id"), ["1|Libft", "2|renamed", "4|new"]);
    let after = space.query("select id, ingested_at from projects order by id");
    assert_eq!(after[0], before[0]);
    assert_ne!(after[1], before[1]);
    // A link whose project went is cascaded; one that the API took away by itself is not.
    assert_eq!(
        space
            .query("select run_id, table_name, key, cascaded_from, row ->> 'name' from mirror42.deletions order by id"),
        [
            "night 2|project_sessions|{\"id\": 8}|projects|∅",
            "night 2|campus_projects|{\"campus_id\": 1, \"project_id\": 2}|∅|∅",
            "night 2|campus_projects|{\"campus_id\": 10, \"project_id\": 3}|campuses|∅",
            "night 2|projects|{\"id\": 3}|∅|minishell",
            "night 2|campuses|{\"id\": 10}|∅|Lyon",
        ]
    );
    assert!(outcome.stderr.contains(" 05_projects: deleted from projects: {\"id\": 3}\n"), "{}", outcome.stderr);
    let log = std::fs::read_to_string(space.path().join("logs/07_project_sessions.log")).unwrap();
    assert!(
        log.contains("07_project_sessions: deleted from project_sessions: {\"id\": 8} with its projects\n"),
        "{log}"
    );
    assert!(log.contains("staged 1, inserted 0, updated 0, unchanged 1, deleted 1, orphans 0\n"), "{log}");
}

#[test]
fn what_others_have_put_on_the_tables_stays_as_it_is() {
    let space = project();
    load(&space);
    let mut admin = space.client();
    admin
        .batch_execute(
            "create view hard as select name from projects where difficulty > 0;
             create materialized view names as select name from projects;
             create index by_name on projects (lower(name));
             create statistics name_difficulty on name, difficulty from projects;
             create table notes (project_id integer unique references projects on delete set null, text text);
             insert into notes values (1, 'mine'), (3, 'goes with its project');
             create function told() returns trigger language plpgsql as 'begin return null; end';
             create trigger told after delete on projects for each row execute function told();
             alter table projects enable row level security;
             create policy everybody on projects using (true);
             grant select on projects to public;
             grant update (name) on projects to public;
             comment on table projects is 'of 42'",
        )
        .unwrap();
    let of_others = "select x from (
           select relname || relkind::text || relfilenode || relrowsecurity || coalesce(relacl::text, '') from pg_class
            where relnamespace = 'public'::regnamespace
           union all select attname || attacl::text from pg_attribute where attrelid = 'projects'::regclass
           union all select conname || contype::text || convalidated || pg_get_constraintdef(oid) from pg_constraint
            where connamespace = 'public'::regnamespace
           union all select pg_get_indexdef(indexrelid) || indisvalid from pg_index where indrelid = 'projects'::regclass
           union all select tgname || tgenabled::text from pg_trigger where tgrelid = 'projects'::regclass
           union all select polname from pg_policy
           union all select stxname from pg_statistic_ext
           union all select pg_get_viewdef('hard') || obj_description('projects'::regclass)) t (x) order by x";
    let before = space.query(of_others);
    assert!(before.len() > 40, "{before:#?}");
    space.export(
        "05_projects",
        &[r#"{"id":1,"name":"renamed","difficulty":100}"#, r#"{"id":2,"name":"b","difficulty":7}"#],
    );
    load(&space);
    assert_eq!(space.query(of_others), before);
    assert_eq!(space.query("select name from hard order by 1"), ["b", "renamed"]);
    assert_eq!(space.query("select * from notes order by text"), ["∅|goes with its project", "1|mine"]);
    assert_eq!(space.query("select count(*) from names"), ["3"], "a materialized view is its owner's to refresh");
}

#[test]
fn an_orphan_is_dropped_and_counted() {
    let space = project();
    space.export("06_campus_projects", &[r#"{"campus_id":1,"project_id":1}"#, r#"{"campus_id":1,"project_id":77}"#]);
    let outcome = space.run("mirror42-load", &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains(
            "06_campus_projects: warning: dropped 1 records whose project_id is not in public.projects \
             (`campus_projects_project_id_fkey`): campus_id 1, project_id 77\n"
        ),
        "{}",
        outcome.stderr
    );
    assert_eq!(counts(&space)[2], "campus_projects|2|1|0|0|0|1");
    load(&space);
    assert_eq!(counts(&space)[2], "campus_projects|2|0|0|1|0|1");
    assert_eq!(space.query("select * from mirror42.deletions"), Vec::<String>::new());
}

#[test]
fn an_export_without_records_fills_nothing() {
    let space = project();
    space.export("07_project_sessions", &[]);
    load(&space);
    assert_eq!(counts(&space)[3], "project_sessions|0|0|0|0|0|0");
}

#[test]
fn schema_sql_rebuilds_an_empty_database() {
    let space = Space::with_database();
    space.client().batch_execute(SCHEMA).unwrap();
    assert_eq!(
        space.query("select string_agg(relname, ' ' order by relname) from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"),
        ["achievements achievements_users campus_achievements campus_projects campuses coalitions coalitions_users cursus \
          project_sessions project_users projects users"]
    );
    // Each has the loader's column, and every foreign key takes its children along.
    assert_eq!(
        space.query("select count(*) from information_schema.columns where column_name = 'ingested_at' and is_nullable = 'NO' and column_default = 'now()'"),
        ["12"]
    );
    assert_eq!(space.query("select distinct confdeltype from pg_constraint where contype = 'f'"), ["c"]);
}
