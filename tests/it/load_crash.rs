//! Loading: whatever dies in the middle, the tables are of one night.

use std::process::Child;

use postgres::Client;

use crate::load::{counts, load, project, refused, state};
use crate::space::{Space, rows, wait_until};

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

#[test]
fn a_loader_waits_for_the_lock_of_one_that_was_killed() {
    let space = project();
    load(&space);
    // The server process of the killed loader waits for this lock, and holds the loaders' own meanwhile.
    let mut session = space.client();
    session.batch_execute("begin; lock table campuses in access exclusive mode").unwrap();
    let mut killed = space.spawn("mirror42-load", &["-q"]);
    let mut watcher = space.client();
    waits_for_a_lock(&mut watcher);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let next = space.spawn("mirror42-load", &["-q"]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Long enough for the next one to find the lock taken.
            std::thread::sleep(std::time::Duration::from_millis(1500));
            session.batch_execute("rollback").unwrap();
        });
    });
    let output = next.wait_with_output().unwrap();
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
fn a_load_that_another_session_made_fail_is_tried_once_more() {
    let space = project();
    load(&space);
    // A sequence is not rolled back: the first insert fails, the second does not.
    space
        .client()
        .batch_execute(
            "create sequence tries;
             create function fail_once() returns trigger language plpgsql as $$ begin
                 if nextval('tries') = 1 then raise exception 'deadlock detected' using errcode = '40P01'; end if;
                 return new;
             end $$;
             create trigger fails before insert on campuses execute function fail_once()",
        )
        .unwrap();
    let more = [
        r#"{"id":1,"name":"Paris"}"#,
        r#"{"id":9,"name":"Łódź"}"#,
        r#"{"id":10,"name":"Lyon"}"#,
        r#"{"id":11,"name":"x"}"#,
    ];
    space.export("02_campus", &more);
    let outcome = space.run("mirror42-load", &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains(" load: could not write what differs to `campuses`: deadlock detected; once more\n"),
        "{}",
        outcome.stderr
    );
    assert_eq!(counts(&space)[0], "campuses|4|1|0|3|0|0");
    // Twice is too often.
    space.client().batch_execute("alter sequence tries restart; create or replace function fail_once() returns trigger language plpgsql as $$ begin raise exception 'deadlock detected' using errcode = '40P01'; end $$").unwrap();
    space.export("02_campus", &[&more[..], &[r#"{"id":12,"name":"y"}"#]].concat());
    let stderr = refused(&space, &[], 1);
    assert!(stderr.contains("Postgres calls this 40P01."), "{stderr}");
}

#[test]
fn a_load_does_not_hang_behind_a_lock_or_a_statement_without_end() {
    let space = project();
    load(&space);
    let pipeline = std::fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    let limits = "lock_timeout = \"100ms\"\nstatement_timeout = \"300ms\"\n";
    space.write("pipeline.toml", &pipeline.replace("max_delete", &format!("{limits}max_delete")));
    let mut session = space.client();
    session.batch_execute("begin; lock table projects in row exclusive mode").unwrap();
    let outcome = space.run("mirror42-load", &["-q"]);
    assert_eq!(
        (outcome.code, outcome.stderr.as_str()),
        (
            Some(1),
            "mirror42-load: error: could not lock the tables: canceling statement due to lock timeout\n  \
             detail: Postgres calls this 55P03.\n  \
             detail: Nothing was loaded; the database is as it was.\n  \
             hint: Another session holds the table: `select * from pg_locks where not granted` shows who waits.\n"
        )
    );
    session.batch_execute("rollback").unwrap();
    session
        .batch_execute(
            "create function sleeps() returns trigger language plpgsql as $$ begin perform pg_sleep(20); return new; end $$;
             create trigger sleeps before insert on campuses execute function sleeps()",
        )
        .unwrap();
    space.export(
        "02_campus",
        &[
            r#"{"id":1,"name":"Paris"}"#,
            r#"{"id":9,"name":"Łódź"}"#,
            r#"{"id":10,"name":"Lyon"}"#,
            r#"{"id":11,"name":"x"}"#,
        ],
    );
    let stderr = refused(&space, &[], 1);
    assert!(stderr.contains("canceling statement due to statement timeout\n"), "{stderr}");
}
