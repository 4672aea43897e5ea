//! Loading: what only the commit would tell, and what stands between the loader and its one transaction.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::load::{load, project, refused, state};
use crate::space::{Space, rows, wait_until};

/// A row of projects that is written has the commit itself fail so many times with this code: what is checked before is
/// deferred once more by its own trigger.
fn commit_fails(space: &Space, times: u32, code: &str) {
    space
        .client()
        .batch_execute(&format!(
            "create sequence tries;
             create table later (n int);
             create function at_commit() returns trigger language plpgsql as $$ begin
                 if nextval('tries') <= {times} then raise exception 'not this time' using errcode = '{code}'; end if;
                 return null;
             end $$;
             create constraint trigger at_commit after insert on later deferrable initially deferred
                 for each row execute function at_commit();
             create function once_more() returns trigger language plpgsql as $$ begin
                 set constraints at_commit deferred;
                 insert into later values (1);
                 return null;
             end $$;
             create constraint trigger once_more after update on projects deferrable initially deferred
                 for each row execute function once_more();"
        ))
        .unwrap();
    space.export(
        "05_projects",
        &[
            r#"{"id":1,"name":"changed","difficulty":100}"#,
            r#"{"id":2,"name":"a\tb\\c\n\"d\" \u00e9\ud83d\ude00","difficulty":null}"#,
            r#"{"id":3,"name":"minishell","difficulty":300}"#,
        ],
    );
}

/// Loads, but no longer than a minute.
fn load_in_time(space: &Space, args: &[&str]) -> (Option<i32>, String) {
    let mut command = space.command("mirror42-load", args);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_conflict_at_the_commit_is_tried_once_more() {
    for code in ["40001", "40P01"] {
        let space = project();
        load(&space);
        commit_fails(&space, 1, code);
        let (exit, stderr) = load_in_time(&space, &[]);
        assert_eq!(exit, Some(0), "{stderr}");
        assert!(stderr.contains("could not commit the load: not this time; once more\n"), "{stderr}");
        assert_eq!(space.query("select name from projects where id = 1"), ["changed"]);
        assert_eq!(space.query("select count(*) from mirror42.runs"), ["2"]);
    }
}

#[test]
fn a_conflict_at_every_commit_is_told_as_what_it_is() {
    let space = project();
    load(&space);
    commit_fails(&space, 9, "40001");
    let before = state(&space);
    let (exit, stderr) = load_in_time(&space, &["-q"]);
    assert_eq!(exit, Some(1), "{stderr}");
    assert_eq!(state(&space), before);
    assert!(
        stderr
            .starts_with("mirror42-load: error: could not commit the load: not this time\n  detail: Within: PL/pgSQL")
            && stderr.ends_with(
                "  detail: Postgres calls this 40001.\n  detail: Nothing was loaded; the database is as it was.\n"
            ),
        "{stderr}"
    );
}

#[test]
fn what_another_session_wrote_before_the_lock_is_seen_whatever_isolation_is_the_default() {
    let space = project();
    load(&space);
    let mut session = space.client();
    let name = rows(&mut session, "select current_database()").remove(0);
    session
        .batch_execute(&format!("alter database {name} set default_transaction_isolation = 'repeatable read'"))
        .unwrap();
    session.batch_execute("begin; insert into campuses (id, name) values (77, 'late')").unwrap();
    let child = space.spawn("mirror42-load", &["-q"]);
    let waiting = "select 1 from pg_stat_activity
                    where application_name = 'mirror42-load' and wait_event_type = 'Lock' and datname = current_database()";
    let mut watcher = space.client();
    wait_until("the loader waits for the table", || !rows(&mut watcher, waiting).is_empty());
    session.batch_execute("commit").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(space.query("select id from campuses order by id"), ["1", "9", "10"]);
    assert_eq!(space.query("select key from mirror42.deletions"), ["{\"id\": 77}"]);
}

/// A load of table `t`, whose unique name is checked at the end.
fn deferred() -> Space {
    let pipeline = "[pipeline]\nname = \"deferred\"\n\n[api]\nbase_url = \"http://127.0.0.1:1\"\n\n\
                    [[stage]]\nname = \"t\"\nfetch = \"/t\"\nkey = [\"id\"]\ntable = \"t\"\n";
    Space::with_database().file("pipeline.toml", pipeline).file(
        "schema.sql",
        "create table t (id int primary key, name text constraint one_name unique deferrable initially deferred)",
    )
}

#[test]
fn rows_exchange_a_unique_value_that_is_checked_at_the_end() {
    let space = deferred();
    space.export("t", &[r#"{"id":1,"name":"a"}"#, r#"{"id":2,"name":"b"}"#]);
    load(&space);
    space.export("t", &[r#"{"id":1,"name":"b"}"#, r#"{"id":2,"name":"a"}"#]);
    load(&space);
    assert_eq!(space.query("select id, name from t order by id"), ["1|b", "2|a"]);
}

#[test]
fn a_constraint_that_is_deferred_is_told_with_table_and_row_before_the_commit() {
    let space = deferred();
    space.export("t", &[r#"{"id":1,"name":"a"}"#, r#"{"id":2,"name":"a"}"#]);
    let outcome = space.run("mirror42-load", &["-q"]);
    assert_eq!(
        (outcome.code, outcome.stderr.as_str()),
        (
            Some(1),
            "mirror42-load: error: could not write `t`: duplicate key value violates unique constraint \"one_name\"\n  \
             detail: Key (name)=(a) already exists.\n  \
             detail: Postgres calls this 23505.\n  \
             detail: Nothing was loaded; the database is as it was.\n"
        )
    );
    assert_eq!(space.run("mirror42-load", &["-q", "--dry-run"]).code, Some(1), "a dry run does all but the commit");
}

#[test]
fn rows_that_exchange_a_value_row_by_row_are_refused_with_what_to_do() {
    let space = deferred();
    space.write("schema.sql", "create table t (id int primary key, name text constraint one_name unique)");
    space.export("t", &[r#"{"id":1,"name":"a"}"#, r#"{"id":2,"name":"b"}"#]);
    load(&space);
    space.export("t", &[r#"{"id":1,"name":"b"}"#, r#"{"id":2,"name":"a"}"#]);
    let outcome = space.run("mirror42-load", &["-q"]);
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.stderr.ends_with(
            "  hint: If two rows of the table exchange a value, the server must check it at the end: declare the constraint \
             `deferrable initially deferred` (docs/pipeline.md). If two records of the export have one, mend the filter.\n"
        ),
        "{}",
        outcome.stderr
    );
    assert_eq!(space.query("select id, name from t order by id"), ["1|a", "2|b"]);
}

#[test]
fn a_report_that_cannot_be_written_takes_no_load_back() {
    let space = project();
    let outcome = space.run("mirror42-load", &["-q", "--report", "exports"]);
    assert_eq!(outcome.code, Some(1));
    let (first, rest) = outcome.stderr.split_once('\n').unwrap();
    assert!(first.starts_with("mirror42-load: error: could not "), "{first}");
    assert_eq!(rest, "  detail: The load itself is done and committed: the database is as the exports.\n");
    assert_eq!(space.query("select count(*) from mirror42.runs"), ["1"]);
    let outcome = space.run("mirror42-load", &["-q", "--dry-run", "--report", "exports"]);
    assert!(
        outcome.stderr.ends_with("  detail: Nothing was loaded; the database is as it was.\n"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_schema_that_ends_the_transaction_is_refused_and_leaves_nothing() {
    let space = project();
    let schema = std::fs::read_to_string(space.path().join("schema.sql")).unwrap();
    let left = "select count(*) from pg_class where relname in ('campuses', 'early')";
    for (before, after, line) in [("begin;", "commit;", 2), ("", "commit;", schema.matches('\n').count() + 3)] {
        space.write("schema.sql", &format!("create table early ();\n{before}\n{schema}{after}\n"));
        let stderr = refused(&space, &[], 1);
        let told = "`schema.sql` has a command that a load cannot run: EXECUTE of transaction commands";
        assert!(stderr.contains(told), "{stderr}");
        let rest = format!(
            "  at: schema.sql:{line}\n  \
             detail: Nothing was loaded; the database is as it was.\n  \
             hint: A load runs it in its own transaction: `begin`, `commit`, `rollback` and `copy … from stdin` cannot be in it.\n"
        );
        assert!(stderr.ends_with(&rest), "{stderr}");
        assert_eq!(space.query(left), ["0"]);
    }
}

#[test]
fn a_mistake_in_the_schema_is_told_with_its_line() {
    let space = project();
    space.write("schema.sql", "create table early ();\n-- é\ncreate table campuses (id inte primary key);\n");
    assert_eq!(
        refused(&space, &[], 1),
        "mirror42-load: error: could not run `schema.sql`: type \"inte\" does not exist\n  \
         at: schema.sql:3\n  \
         detail: Postgres calls this 42704.\n  \
         detail: Nothing was loaded; the database is as it was.\n"
    );
    assert_eq!(space.query("select count(*) from pg_class where relname = 'early'"), ["0"]);
}

#[test]
fn what_is_deferred_in_a_first_load_is_told_with_its_table_and_keeps_none_that_is_right_from_being_made() {
    let space = project();
    let schema = std::fs::read_to_string(space.path().join("schema.sql")).unwrap();
    let more = "alter table campus_projects add constraint once unique (campus_id) deferrable initially deferred;
                create function nothing() returns trigger language plpgsql as $$ begin return null; end $$;
                create constraint trigger later after insert on campus_projects deferrable initially deferred
                    for each row execute function nothing();";
    space.write("schema.sql", &format!("{schema}\n{more}\n"));
    let stderr = refused(&space, &[], 1);
    assert!(stderr.starts_with("mirror42-load: error: could not write `campus_projects`: duplicate key"), "{stderr}");
    space.write("schema.sql", &format!("{schema}\n{}\n", more.split_once('\n').unwrap().1));
    load(&space);
}
