//! The load test: its figures are those of real loads, and whatever becomes of it, nothing of it stays.

use std::fs;
use std::process::Child;
use std::time::Duration;

use mirror42::files::Lock;
use mirror42::pg;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::load::{load, project, state};
use crate::space::{Outcome, Space, rows, wait_until};

const SCHEMAS: &str = "select nspname from pg_namespace where nspname ~ '^mirror42_loadtest_'";

fn loadtest(space: &Space, args: &[&str]) -> Outcome {
    space.run("mirror42", &[&["loadtest", "-q"], args].concat())
}

/// The schemas and folders of load tests that are there.
fn left(space: &Space) -> Vec<String> {
    let names = fs::read_dir(space.paths().state()).into_iter().flatten();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("mirror42_loadtest_")).chain(space.query(SCHEMAS)).collect()
}

/// All relations outside of the system's schemas, with the files that hold them: one that is written anew has another.
fn relations(space: &Space) -> Vec<String> {
    space.query(
        "select relnamespace::regnamespace, relname, relfilenode from pg_class
          where relnamespace::regnamespace::text !~ '^pg_|information_schema' order by 1, 2",
    )
}

#[test]
fn the_figures_are_told_and_nothing_else_is_changed() {
    let space = project();
    load(&space);
    let before = (state(&space), relations(&space), space.query("select * from mirror42.changes"));
    let outcome = loadtest(&space, &["--rows", "2000", "--runs", "2", "--json"]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
    let told: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let numbers = ["rows", "tables", "runs", "changed", "deleted", "new"].map(|name| told[name].as_u64().unwrap());
    assert_eq!(numbers, [2573, 3, 2, 20, 10, 10]);
    assert!(told["export_bytes"][1].as_u64().unwrap() > 500_000);
    let phases = told["phases"].as_array().unwrap();
    let shown: Vec<String> = phases.iter().map(|phase| format!("{} {}", phase["phase"], phase["rows"])).collect();
    assert_eq!(
        shown,
        [
            "\"copy\" 2573",
            "\"foreign keys\" 2000",
            "\"first load\" 2573",
            "\"compare\" 2573",
            "\"prune\" 10",
            "\"update\" 20",
            "\"insert\" 10",
            "\"checks\" 2000",
            "\"next night\" 2573"
        ]
    );
    for phase in phases {
        for figure in ["duration_ms", "rows_per_s", "mb_per_s"] {
            let [least, median, most] = ["least", "median", "most"].map(|which| phase[figure][which].as_f64().unwrap());
            assert!(0.0 < least && least <= median && median <= most, "{phase:#}");
        }
    }
    let ms = |name: &str| {
        phases.iter().find(|phase| phase["phase"] == name).unwrap()["duration_ms"]["least"].as_f64().unwrap()
    };
    assert!(ms("copy") < ms("first load") && ms("compare") + ms("prune") + ms("update") < ms("next night"));
    #[cfg(target_os = "linux")]
    assert!(told["peak_memory_bytes"]["most"].as_f64().unwrap() > 1e6);
    assert_eq!((state(&space), relations(&space), space.query("select * from mirror42.changes")), before);
    assert_eq!(left(&space), [""; 0]);
}

#[test]
fn a_person_reads_a_table() {
    let space = project();
    let args = ["--scale", "1", "--runs", "1", "--changed", "0", "--deleted", "30%"];
    let outcome = loadtest(&space, &args);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert!(lines[0].starts_with("36,227 rows in 3 tables, 10."), "{}", lines[0]);
    assert!(lines[0].ends_with(" MB of JSON; the next night 0 changed, 10,696 gone, 10,696 new"), "{}", lines[0]);
    assert!(lines[1].starts_with("PostgreSQL 1"), "{}", lines[1]);
    assert!(lines[1].contains(", runs: 1, peak memory of mirror42-load: "), "{}", lines[1]);
    let cells: Vec<Vec<&str>> = lines[5..].iter().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(cells[0][..2], ["copy", "36,227"]);
    assert_eq!(cells[0].len(), 9);
    // What did not occur has no rate.
    assert_eq!(cells[5][..3], ["update", "0", "0.0"]);
    assert_eq!(cells[5].len(), 5);
    // The database was empty, and is again.
    assert_eq!(relations(&space), [""; 0]);
}

/// A load test of a size that takes its time.
fn begin(space: &Space) -> Child {
    space.spawn("mirror42", &["loadtest", "--rows", "200000", "--runs", "9"])
}

fn loading(space: &Space) -> bool {
    let database = space.query("select current_database()").remove(0);
    let sessions =
        format!("select pid from pg_stat_activity where application_name = 'mirror42-load' and datname = '{database}'");
    !space.query(&sessions).is_empty()
}

#[test]
fn killed_at_any_moment_it_leaves_nothing() {
    for signal in [Signal::SIGKILL, Signal::SIGINT] {
        for during_a_load in [false, true] {
            let space = Space::with_database().file("pipeline.toml", crate::load::PIPELINE);
            let mut child = begin(&space);
            wait_until("there is a schema", || left(&space).len() == 2);
            if during_a_load {
                wait_until("a load is under way", || loading(&space));
            }
            kill(Pid::from_raw(child.id() as i32), signal).unwrap();
            child.wait().unwrap();
            wait_until("all is removed", || left(&space).is_empty());
            // Nothing comes back either.
            wait_until("the loader is gone", || !loading(&space));
            std::thread::sleep(Duration::from_millis(200));
            assert_eq!(left(&space), [""; 0]);
            assert_eq!(relations(&space), [""; 0]);
        }
    }
}

#[test]
fn a_load_that_fails_fails_it_and_leaves_nothing() {
    let space = Space::with_database().file("pipeline.toml", crate::load::PIPELINE);
    let child = begin(&space);
    wait_until("a load is under way", || loading(&space));
    let ended = "select pg_terminate_backend(pid) from pg_stat_activity
                  where application_name = 'mirror42-load' and datname = current_database()";
    space.query(ended);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("\nmirror42: error: could not "), "{stderr}");
    assert_eq!(left(&space), [""; 0]);
}

#[test]
fn what_a_killed_one_left_the_next_one_removes() {
    let space = Space::with_database().file("pipeline.toml", crate::load::PIPELINE);
    let comment = "Scratch of a mirror42 load test. It may be dropped when none is under way.";
    let mut session = space.client();
    for name in ["mirror42_loadtest_1_00000001", "mirror42_loadtest_1_00000002", "mirror42_loadtest_1_00000003"] {
        session.batch_execute(&format!("create schema {name}; create table {name}.sessions (id int)")).unwrap();
    }
    for name in ["mirror42_loadtest_1_00000001", "mirror42_loadtest_1_00000002"] {
        session.batch_execute(&format!("comment on schema {name} is '{comment}'")).unwrap();
    }
    // The second is in use: its owner's session lives. The third is somebody's own.
    let lock = pg::lock_key("scratch mirror42_loadtest_1_00000002");
    session.execute("select pg_advisory_lock($1)", &[&lock]).unwrap();
    space.write(".mirror42/mirror42_loadtest_1_00000001/night-0/pipeline.toml", "");
    let outcome = space.run("mirror42", &["loadtest", "--rows", "100", "--runs", "1"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("dropped schema `mirror42_loadtest_1_00000001`, which a killed load test had left"),
        "{}",
        outcome.stderr
    );
    assert_eq!(
        rows(&mut session, &format!("{SCHEMAS} order by 1")),
        ["mirror42_loadtest_1_00000002", "mirror42_loadtest_1_00000003"]
    );
    assert!(!space.path().join(".mirror42/mirror42_loadtest_1_00000001").exists());
}

#[test]
fn two_at_a_time_are_refused() {
    let space = Space::with_database().file("pipeline.toml", crate::load::PIPELINE);
    let _lock = Lock::try_with_owner(&space.paths().loadtest_lock(), "process 7, since noon").unwrap().unwrap();
    assert_eq!(
        loadtest(&space, &[]),
        Outcome {
            code: Some(3),
            stdout: String::new(),
            stderr: "mirror42: error: another load test is under way\n  at: ./.mirror42/loadtest.lock\n  \
                     detail: It is process 7, since noon.\n"
                .to_string()
        }
    );
}

#[test]
fn a_role_that_may_create_no_schema_is_told() {
    let space = Space::with_database().file("pipeline.toml", crate::load::PIPELINE);
    // Only a superuser may be any other role.
    if space.query("select rolsuper from pg_roles where rolname = current_user") != ["t"] {
        return;
    }
    let database = space.query("select current_database()").remove(0);
    // A server that is lent may be named without any words of its own.
    let and = if space.url().ends_with('?') { "" } else { "&" };
    let url = format!("{}{and}options=-c%20role%3Dpg_monitor", space.url());
    let outcome = loadtest(&space, &["--database-url", &url]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""));
    let (first, rest) = outcome.stderr.split_once('\n').unwrap();
    assert!(first.starts_with("mirror42: error: could not create the scratch schema `mirror42_loadtest_"), "{first}");
    assert!(first.ends_with(&format!("`: permission denied for database {database}")), "{first}");
    assert_eq!(
        rest,
        "  detail: Postgres calls this 42501.\n  hint: Allow it with `grant create on database … to …`, or name \
         another database with `--database-url`.\n"
    );
    assert_eq!(left(&space), [""; 0]);
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_made() {
    let space = Space::new().file("pipeline.toml", crate::load::PIPELINE);
    for (args, why) in [
        (&["--rows", "0"][..], "invalid value '0' for '--rows <N>': 0 is not in 1..=1000000000"),
        (&["--scale", "0"], "invalid value '0' for '--scale <N>': 0 is not in 1..=28000"),
        (&["--scale", "1.5"], "invalid value '1.5' for '--scale <N>': invalid digit found in string"),
        (&["--scale", "2", "--rows", "9"], "the argument '--scale <N>' cannot be used with '--rows <N>'"),
        (&["--runs", "0"], "invalid value '0' for '--runs <N>': 0 is not in 1..=1000"),
        (
            &["--changed", "200%"],
            "invalid value '200%' for '--changed <SHARE>': expected a share from 0 to 1, such as 1% or 0.01",
        ),
        (
            &["--deleted", "none"],
            "invalid value 'none' for '--deleted <SHARE>': expected a share from 0 to 1, such as 1% or 0.01",
        ),
    ] {
        let outcome = loadtest(&space, args);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""));
        assert_eq!(outcome.stderr.lines().next().unwrap(), format!("error: {why}"));
    }
    let outcome = loadtest(&space, &["--rows", "100", "--changed", "60%", "--deleted", "0.5"]);
    assert_eq!(outcome.code, Some(2));
    assert_eq!(
        outcome.stderr,
        "mirror42: error: cannot change 60 rows and delete 50 others of 100\n  \
         hint: Make `--changed` and `--deleted` together at most 100%.\n"
    );
    let guardian = space.run("mirror42", &["loadtest-guardian", "public"]);
    assert_eq!(guardian.code, Some(2));
    assert_eq!(guardian.stderr, "mirror42: error: `public` is no scratch schema of a load test\n");
    assert!(!space.path().join("data").exists() && !space.path().join(".mirror42").exists());
}
