//! Loading: all tables or none, exactly the exports, nothing touched that is the same.

use std::process::Child;

use postgres::Client;

use crate::space::{Space, rows, wait_until};

const PIPELINE: &str = r#"[pipeline]
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

const SCHEMA: &str = include_str!("../../schema.sql");

const TABLES: [&str; 4] = ["campuses", "projects", "campus_projects", "project_sessions"];

/// A project with exports for four tables.
fn project() -> Space {
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

fn load(space: &Space) {
    let outcome = space.run("mirror42-load", &["-q"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
}

/// Fails with this exit code, and all tables stay as they are.
fn refused(space: &Space, args: &[&str], code: i32) -> String {
    let before = state(space);
    let outcome = space.run("mirror42-load", &[&["-q"], args].concat());
    assert_eq!(outcome.code, Some(code), "{}", outcome.stderr);
    assert_eq!(state(space), before);
    // Warnings of dropped orphans stand before it.
    let start = outcome.stderr.find("mirror42-load: error: ").unwrap();
    outcome.stderr[start..].to_string()
}

/// Every row of every table, with the place it stands at: a row that is written again moves.
fn state(space: &Space) -> Vec<String> {
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

fn counts(space: &Space) -> Vec<String> {
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
fn an_orphan_is_dropped_and_counted() {
    let space = project();
    space.export("06_campus_projects", &[r#"{"campus_id":1,"project_id":1}"#, r#"{"campus_id":1,"project_id":77}"#]);
    let outcome = space.run("mirror42-load", &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains(
            "06_campus_projects: warning: dropped 1 records whose project_id is not in public.projects: \
             {\"campus_id\": 1, \"project_id\": 77}\n"
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
fn the_guard_stops_a_load_that_would_delete_too_much() {
    let space = project();
    load(&space);
    space.export("05_projects", &[r#"{"id":1,"name":"changed","difficulty":100}"#]);
    assert_eq!(
        refused(&space, &[], 4),
        "mirror42-load: error: the load would delete 2 of the 3 rows of `projects`\n  \
         at: exports/05_projects/all.json\n  \
         detail: They are not in the export: id 2; id 3.\n  \
         detail: Allowed are 1 (50 %).\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: If they are gone from the API, raise `max_delete` of stage `05_projects` (pipeline.toml:14) for one run.\n"
    );
}

#[test]
fn no_load_empties_a_table() {
    let space = project();
    load(&space);
    space.write("pipeline.toml", &PIPELINE.replace("50%", "100%"));
    space.export("07_project_sessions", &[]);
    let stderr = refused(&space, &[], 4);
    assert!(stderr.contains("the load would delete 2 of the 2 rows of `project_sessions`\n"), "{stderr}");
    assert!(stderr.contains("detail: A load never empties a table.\n"), "{stderr}");
}

#[test]
fn an_export_without_records_fills_nothing() {
    let space = project();
    space.export("07_project_sessions", &[]);
    load(&space);
    assert_eq!(counts(&space)[3], "project_sessions|0|0|0|0|0|0");
}

#[test]
fn a_value_that_does_not_fit_is_named_with_its_place() {
    let space = project();
    load(&space);
    space.export(
        "05_projects",
        &[r#"{"id":1,"name":"Libft","difficulty":100}"#, r#"{"id":1332,"name":"x","difficulty":"n/a"}"#],
    );
    assert_eq!(
        refused(&space, &[], 1),
        "mirror42-load: error: value \"n/a\" of `difficulty` does not fit integer\n  \
         at: exports/05_projects/all.json, record 2 (id 1332), line 3, column `projects.difficulty`\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: Convert it in the jq filter of stage `05_projects` (pipeline.toml:17).\n"
    );
    space.export("05_projects", &[r#"{"id":1,"name":"Libft","difficulty":2.0}"#]);
    assert_eq!(
        refused(&space, &[], 1),
        "mirror42-load: error: value 2.0 of `difficulty` does not fit integer\n  \
         at: exports/05_projects/all.json, record 1 (id 1), line 2, column `projects.difficulty`\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: Round it (in jq a quotient such as 4/2 is 2.0; `| round` makes it whole) in the jq filter of stage \
         `05_projects` (pipeline.toml:17).\n"
    );
    space.export("05_projects", &[r#"{"id":9223372036854775808,"name":"Libft","difficulty":2}"#]);
    assert_eq!(
        refused(&space, &[], 1),
        "mirror42-load: error: value 9223372036854775808 of `id` does not fit bigint\n  \
         at: exports/05_projects/all.json, record 1 (id 9223372036854775808), line 2, column `projects.id`\n  \
         detail: Postgres says: value \"9223372036854775808\" is out of range for type bigint.\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: Convert it in the jq filter of stage `05_projects` (pipeline.toml:17).\n"
    );
    space.export("05_projects", &[r#"{"id":1,"name":5,"difficulty":2}"#]);
    assert_eq!(
        refused(&space, &[], 1),
        "mirror42-load: error: value 5 of `name` does not fit text\n  \
         at: exports/05_projects/all.json, record 1 (id 1), line 2, column `projects.name`\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: Convert it with `tostring` in the jq filter of stage `05_projects` (pipeline.toml:17).\n"
    );
    space.export("05_projects", &[r#"{"id":1,"name":"a\u0000b","difficulty":2}"#]);
    assert_eq!(
        refused(&space, &[], 1),
        "mirror42-load: error: value \"a\\u0000b\" of `name` holds \\u0000, a character that Postgres cannot store\n  \
         at: exports/05_projects/all.json, record 1 (id 1), line 2, column `projects.name`\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: Remove the character, for example with `gsub`, in the jq filter of stage `05_projects` (pipeline.toml:17).\n"
    );
}

#[test]
fn two_records_of_one_key_are_refused() {
    let space = project();
    space.export("02_campus", &[r#"{"id":1,"name":"Paris"}"#, r#"{"id":1,"name":"Lyon"}"#]);
    assert_eq!(
        refused(&space, &[], 1),
        "mirror42-load: error: records have the same key: id 1\n  \
         at: exports/02_campus/all.json\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: The key of stage `02_campus` (pipeline.toml:8) must be the primary key of `campuses`: id.\n"
    );
}

#[test]
fn a_failure_half_way_leaves_all_tables_as_they_were() {
    let space = project();
    load(&space);
    // The last table's write fails, when the others are written.
    space.client().batch_execute("alter table project_sessions add constraint early check (id < 9)").unwrap();
    space.export("02_campus", &[r#"{"id":1,"name":"changed"}"#, r#"{"id":9,"name":"Łódź"}"#]);
    space.export(
        "07_project_sessions",
        &[
            r#"{"id":7,"project_id":1,"campus_id":1,"objectives":[],"begin_at":null}"#,
            r#"{"id":9,"project_id":3,"campus_id":null,"objectives":[],"begin_at":null}"#,
        ],
    );
    let stderr = refused(&space, &[], 1);
    assert!(
        stderr.starts_with(
            "mirror42-load: error: could not insert into `project_sessions`: new row for relation \"project_sessions\" \
             violates check constraint \"early\"\n"
        ),
        "{stderr}"
    );
    assert!(stderr.contains("  detail: Nothing was loaded; the database is as it was.\n"), "{stderr}");
}

#[test]
fn a_check_that_finds_a_row_stops_the_load() {
    let space = project();
    let check = "\n[[check]]\nname = \"no easy project\"\nsql = \"select id, name from projects where difficulty < 200 -- all\"\n";
    space.write("pipeline.toml", &format!("{PIPELINE}{check}"));
    assert_eq!(
        refused(&space, &[], 5),
        "mirror42-load: error: check `no easy project` failed\n  \
         at: pipeline.toml:33\n  \
         detail: Rows that it must not find: id 1, name Libft.\n  \
         detail: Nothing was loaded; the database is as it was.\n"
    );
}

#[test]
fn a_second_loader_is_refused() {
    let space = project();
    load(&space);
    let (mut session, stalled) = stalled(&space, "stall");
    let stderr = refused(&space, &[], 3);
    assert!(
        stderr.starts_with(
            "mirror42-load: error: another loader is at work on this database\n  detail: It is server process "
        ),
        "{stderr}"
    );
    release(&mut session);
    let output = stalled.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A loader that waits in the middle of its COPY of campuses, and the session whose lock it waits for.
fn stalled(space: &Space, name: &str) -> (Client, Child) {
    let mut session = space.client();
    session
        .batch_execute(
            "create function wait_at(name text) returns boolean language plpgsql as
                 $$ begin if name = 'stall' then perform pg_advisory_lock_shared(99); end if; return true; end $$;
             create domain slow_text as text check (wait_at(value));
             alter table campuses alter name type slow_text;
             select pg_advisory_lock(99)",
        )
        .unwrap();
    space.export(
        "02_campus",
        &[&format!(r#"{{"id":1,"name":"{name}"}}"#), r#"{"id":9,"name":"Łódź"}"#, r#"{"id":10,"name":"Lyon"}"#],
    );
    let child = space.spawn("mirror42-load", &["-q"]);
    waits_for_a_lock(&mut session);
    (session, child)
}

fn waits_for_a_lock(session: &mut Client) {
    let waiting = "select 1 from pg_stat_activity
                    where application_name = 'mirror42-load' and wait_event_type = 'Lock' and datname = current_database()";
    wait_until("the loader waits for the lock", || !rows(session, waiting).is_empty());
}

fn release(session: &mut Client) {
    session.batch_execute("select pg_advisory_unlock_all()").unwrap();
}

/// Waits until the server has noticed that its client is gone.
fn loader_gone(session: &mut Client) {
    let there =
        "select 1 from pg_stat_activity where application_name = 'mirror42-load' and datname = current_database()";
    wait_until("the loader's session has ended", || rows(session, there).is_empty());
}

#[test]
fn killed_during_copy_changes_nothing() {
    let space = project();
    load(&space);
    let (mut session, mut child) = stalled(&space, "stall");
    let before = state(&space);
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    release(&mut session);
    loader_gone(&mut session);
    assert_eq!(state(&space), before);
    load(&space);
    assert_eq!(space.query("select name from campuses where id = 1"), ["stall"]);
}

#[test]
fn killed_between_two_tables_changes_nothing() {
    let space = project();
    load(&space);
    let mut session = space.client();
    session
        .batch_execute(
            "create function wait_here() returns trigger language plpgsql as
                 $$ begin perform pg_advisory_lock_shared(99); return new; end $$;
             create trigger slow before insert on campus_projects execute function wait_here();
             select pg_advisory_lock(99)",
        )
        .unwrap();
    space.export(
        "02_campus",
        &[r#"{"id":1,"name":"changed"}"#, r#"{"id":9,"name":"Łódź"}"#, r#"{"id":11,"name":"new"}"#],
    );
    space.export(
        "06_campus_projects",
        &[
            r#"{"campus_id":1,"project_id":1}"#,
            r#"{"campus_id":1,"project_id":2}"#,
            r#"{"campus_id":11,"project_id":3}"#,
        ],
    );
    let before = state(&space);
    let mut child = space.spawn("mirror42-load", &["-q"]);
    waits_for_a_lock(&mut session);
    assert_eq!(state(&space), before, "readers see the old night");
    child.kill().unwrap();
    child.wait().unwrap();
    release(&mut session);
    loader_gone(&mut session);
    assert_eq!(state(&space), before);
    session.batch_execute("drop trigger slow on campus_projects").unwrap();
    load(&space);
    assert_eq!(counts(&space)[..3], ["campuses|3|1|1|1|1|0", "projects|3|0|0|3|0|0", "campus_projects|3|1|0|2|2|0"]);
}

#[test]
fn an_edited_export_is_refused_unless_it_is_trusted() {
    let space = project();
    space.write("exports/02_campus/all.json", "[\n{\"id\":1,\"name\":\"by hand\"}\n]\n");
    assert_eq!(
        refused(&space, &[], 1),
        "mirror42-load: error: `exports/02_campus/all.json` is not what stage `02_campus` wrote\n  \
         detail: Its hash is not the one in `stage.json` beside it: it was edited, or replaced.\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: Run `mirror42 run 02_campus`, or load the file as it is with `--trust-exports`.\n"
    );
    assert_eq!(space.run("mirror42-load", &["-q", "--trust-exports"]).code, Some(0));
    assert_eq!(space.query("select name from campuses"), ["by hand"]);
    std::fs::remove_file(space.path().join("exports/05_projects/stage.json")).unwrap();
    assert_eq!(
        refused(&space, &[], 1),
        "mirror42-load: error: stage `05_projects` has an export without a receipt\n  \
         at: exports/05_projects/all.json\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: Run `mirror42 run 05_projects`, or load the file as it is with `--trust-exports`.\n"
    );
    std::fs::remove_file(space.path().join("exports/05_projects/all.json")).unwrap();
    assert!(refused(&space, &[], 1).contains("error: stage `05_projects` has no export\n"));
}

#[test]
fn tables_that_are_tied_are_loaded_together() {
    let space = project();
    load(&space);
    assert_eq!(
        refused(&space, &["07_project_sessions"], 2),
        "mirror42-load: error: cannot load `project_sessions` without `projects`: foreign key \
         `project_sessions_project_id_fkey` ties them\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: Name stage `05_projects` too, or no stage at all: then all tables are loaded together.\n"
    );
}

#[test]
fn a_database_with_some_of_the_tables_is_refused() {
    let space = project();
    space.client().batch_execute("create table projects (id bigint primary key)").unwrap();
    let outcome = space.run("mirror42-load", &["-q"]);
    assert_eq!(
        (outcome.code, outcome.stderr.as_str()),
        (
            Some(1),
            "mirror42-load: error: the database lacks tables that the stages fill: `campuses`, `campus_projects`, \
             `project_sessions`\n  \
             detail: Nothing was loaded; the database is as it was.\n  \
             hint: Create them as in `schema.sql`, or drop the others: a database without any gets them all.\n"
        )
    );
}

#[test]
fn a_load_is_in_the_ledger_once() {
    let space = project();
    assert_eq!(space.run("mirror42-load", &["-q", "--run-id", "x"]).code, Some(0));
    assert!(
        refused(&space, &["--run-id", "x"], 2)
            .starts_with("mirror42-load: error: a load called `x` is in the ledger already\n")
    );
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
