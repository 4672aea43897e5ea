//! The whole mirror through the driver: the real stages, the real simulator, a real Postgres.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use crate::simulator::Simulator;
use crate::space::{Outcome, Space, wait_until};

pub const TABLES: [&str; 8] = [
    "cursus",
    "campuses",
    "achievements",
    "campus_achievements",
    "projects",
    "campus_projects",
    "project_sessions",
    "coalitions",
];
const STAGES: [&str; 8] = [
    "01_cursus",
    "02_campus",
    "03_achievements",
    "04_campus_achievements",
    "05_projects",
    "06_campus_projects",
    "07_project_sessions",
    "08_coalitions",
];

/// The project's own pipeline and schema, against this simulator, with an empty database.
pub fn project(simulator: &Simulator) -> Space {
    simulator.project().file("schema.sql", include_str!("../../schema.sql")).and_database()
}

pub fn succeed(outcome: &Outcome) {
    assert_eq!(outcome.code, Some(0), "{}\n{}", outcome.stdout, outcome.stderr);
}

/// Every table holds exactly the rows that the simulator says it must, both ways, as Postgres compares them.
fn assert_exact(space: &Space, simulator: &Simulator) {
    assert_eq!(difference(space, simulator), None);
}

/// What is not as it must be, if anything.
pub fn difference(space: &Space, simulator: &Simulator) -> Option<String> {
    let mut client = space.client();
    for table in TABLES {
        let expected = serde_json::Value::from(simulator.table(table)).to_string();
        let differ = |first: &str, second: &str| {
            format!(
                "with expected as (select to_jsonb(r) - 'ingested_at' as row from jsonb_populate_recordset(null::{table}, $1::text::jsonb) r),
                      found as (select to_jsonb(t) - 'ingested_at' as row from {table} t)
                 select row::text from {first} except all select row::text from {second}"
            )
        };
        for (first, second) in [("expected", "found"), ("found", "expected")] {
            let rows = client.query(&differ(first, second), &[&expected]).unwrap();
            let row: Option<String> = rows.first().map(|row| row.get(0));
            if !rows.is_empty() {
                return Some(format!("{table}: {} rows of {first} are not in {second}, first {row:?}", rows.len()));
            }
        }
    }
    None
}

/// All that writing a row would move.
fn writes(space: &Space) -> Vec<String> {
    // The server's counters are told late; a session that asks anew sees what was told by then.
    std::thread::sleep(Duration::from_millis(300));
    space.query(
        "select relname, n_tup_ins, n_tup_upd, n_tup_del, n_dead_tup from pg_stat_user_tables
         where schemaname = 'public' order by relname",
    )
}

/// The inode of every export: a file that is written anew has another.
fn inodes(space: &Space) -> BTreeMap<&'static str, u64> {
    let inode = |stage: &str| fs::metadata(space.paths().all_json(stage)).unwrap().ino();
    STAGES.map(|stage| (stage, inode(stage))).into()
}

/// The whole content of the mirrored tables.
pub fn content(space: &Space) -> Vec<Vec<String>> {
    TABLES.iter().map(|table| space.query(&format!("select t.* from {table} t order by 1, 2"))).collect()
}

#[test]
fn the_tables_are_those_of_the_api_night_after_night() {
    let simulator = Simulator::start("--seed 11");
    let space = project(&simulator);
    for day in 0..3 {
        simulator.day(day);
        succeed(&space.run("mirror42", &["run", "--force"]));
        assert_exact(&space, &simulator);
    }
}

#[test]
fn the_first_night_has_the_counts_of_the_requirements() {
    let simulator = Simulator::start("");
    let space = project(&simulator);
    let outcome = space.run("mirror42", &["run"]);
    succeed(&outcome);
    let count = |table: &str| space.query(&format!("select count(*) from {table}")).remove(0);
    assert_eq!(TABLES.map(count), ["1", "54", "1042", "5495", "519", "20937", "7256", "350"]);
    assert!(outcome.stdout.contains("35,654 rows in 8 tables, 35,654 changed, 0 orphans dropped, all checks passed"));
    assert_eq!(simulator.stats()["requests_in_all"], 95, "94 pages and the token");
}

#[test]
fn a_second_run_asks_nothing_and_writes_no_row() {
    let simulator = Simulator::start("");
    let space = project(&simulator);
    succeed(&space.run("mirror42", &["run"]));
    let (before, files) = (writes(&space), inodes(&space));
    simulator.reset_stats();
    let outcome = space.run("mirror42", &["run"]);
    succeed(&outcome);
    assert_eq!(simulator.stats()["requests_in_all"], 0);
    assert_eq!(inodes(&space), files);
    assert_eq!(writes(&space), before);
    assert!(
        outcome.stdout.starts_with("nothing to do: 8 stages are current, and the database is as run "),
        "{}",
        outcome.stdout
    );
    // The same answers, fetched again: still no row is written.
    succeed(&space.run("mirror42", &["run", "--force"]));
    assert_eq!(writes(&space), before);
}

#[test]
fn a_deleted_export_is_made_again_and_nothing_else() {
    let simulator = Simulator::start("");
    let space = project(&simulator);
    succeed(&space.run("mirror42", &["run"]));
    simulator.reset_stats();
    for deleted in STAGES {
        let path = space.paths().all_json(deleted);
        let (bytes, files) = (fs::read(&path).unwrap(), inodes(&space));
        // Kept under another name, so that its inode is not given to the new file.
        fs::rename(&path, space.path().join("kept")).unwrap();
        succeed(&space.run("mirror42", &["run", deleted]));
        assert_eq!(fs::read(&path).unwrap(), bytes, "{deleted}");
        let made: Vec<_> = inodes(&space).into_iter().filter(|(stage, inode)| files[stage] != *inode).collect();
        assert_eq!(made.iter().map(|(stage, _)| *stage).collect::<Vec<_>>(), [deleted]);
    }
    assert_eq!(simulator.stats()["requests_in_all"], 0);
}

#[test]
fn plan_says_why() {
    let simulator = Simulator::start("");
    let space = project(&simulator);
    let plan = |space: &Space| {
        let outcome = space.run("mirror42", &["plan"]);
        succeed(&outcome);
        let lines: Vec<String> =
            outcome.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        lines
    };
    let contains = |lines: &[String], line: &str| assert!(lines.iter().any(|l| l == line), "{line} in {lines:#?}");
    let fresh = plan(&space);
    contains(&fresh, "01_cursus never fetched whole never extracted 1");
    contains(&fresh, "04_campus_achievements never extracted");

    succeed(&space.run("mirror42", &["run", "-q"]));
    let current = plan(&space);
    contains(&current, "05_projects current current");
    contains(&current, "06_campus_projects current");

    fs::write(space.paths().all_json("02_campus"), "[\n]\n").unwrap();
    let page = space.paths().pages("08_coalitions").join("0002.json");
    fs::write(&page, "[]").unwrap();
    space.write(
        "pipeline.toml",
        &include_str!("../../pipeline.toml")
            .replace("{id, name, slug, kind, created_at}", "{id, name, slug, created_at}"),
    );
    let edited = plan(&space);
    contains(&edited, "01_cursus current the filter changed");
    contains(&edited, "02_campus current all.json was edited by hand");
    contains(&edited, "03_achievements 02_campus has other records 02_campus has other records 82");
    contains(&edited, "05_projects current 02_campus has other records");
    contains(
        &edited,
        "08_coalitions exports/08_coalitions/pages/0002.json is not what its receipt says waits for its pages 4",
    );
}

#[test]
fn plan_says_how_many_requests_and_how_long() {
    let simulator = Simulator::start("");
    let space = project(&simulator);
    let plan = |args: &[&str]| {
        let outcome = space.run("mirror42", &[&["plan"], args].concat());
        succeed(&outcome);
        let last = |line: &str| line.split("  ").last().unwrap().trim().to_string();
        let mut lines: Vec<String> = outcome.stdout.lines().map(last).skip(2).collect();
        assert!(lines.remove(8).starts_with("load: "));
        assert!(lines.remove(8).starts_with("validate: "));
        lines
    };
    let limits = ["--limits", "2/1200"];
    assert_eq!(
        plan(&limits),
        [
            "1",
            "at least 1",
            "unknown",
            "",
            "at least 1",
            "",
            "",
            "at least 1",
            "at least 4 requests, about 3 s at 2 a second; 1,200 of 1,200 left this hour"
        ]
    );
    assert_eq!(simulator.stats()["requests_in_all"], 0);
    // One request each for the campuses, the projects and the coalitions, and the token.
    let probed = plan(&["--probe"]);
    assert_eq!(probed, ["1", "1", "unknown", "", "6", "", "", "4", "at least 12 requests"]);
    assert_eq!(simulator.stats()["requests_in_all"], 4);
    succeed(&space.run("mirror42", &["run", "-q", "02_campus"]));
    assert_eq!(plan(&[])[2], "at least 54", "one a campus");
    succeed(&space.run("mirror42", &["run", "-q"]));
    let current = plan(&limits);
    assert_eq!(current[8], "0 requests; 1,102 of 1,200 left this hour", "94 pages, 3 probes, a token");

    space.write(".mirror42/forced", &STAGES.join("\n"));
    fs::remove_file(limiter_file(&space).unwrap()).unwrap();
    assert_eq!(plan(&limits)[8], "94 requests, about 48 s at 2 a second; 1,200 of 1,200 left this hour");
    let (before, after) = (jiff::Timestamp::now(), plan(&["--limits", "2/50"]).remove(8));
    let (text, rest) = after.split_once(", until ").unwrap();
    let (until, rest) = rest.split_once(' ').unwrap();
    assert_eq!(text, "94 requests, about 1 h at 2 a second and 50 an hour");
    assert_eq!(rest, "if it began now; 50 of 50 left this hour");
    let seconds = until.parse::<jiff::Timestamp>().unwrap().as_second() - before.as_second();
    assert!((3600..3660).contains(&seconds), "{seconds}");
    assert_eq!(limiter_file(&space), None, "a plan writes nothing");
}

/// The file of the limiter, if it has been written.
fn limiter_file(space: &Space) -> Option<std::path::PathBuf> {
    let files = fs::read_dir(space.path().join(".mirror42")).unwrap().map(|entry| entry.unwrap().path());
    files.into_iter().find(|path| path.file_name().unwrap().to_string_lossy().starts_with("limiter-"))
}

#[test]
fn a_stage_that_fails_leaves_the_database_as_it_was_and_says_why_once() {
    let simulator = Simulator::start("");
    let space = project(&simulator);
    succeed(&space.run("mirror42", &["run"]));
    let before = content(&space);
    simulator.day(1);
    simulator.faults(&["kind = \"json-error\"; status = 400; path = \"/v2/coalitions\"; times = 0"]);
    let outcome = space.run("mirror42", &["run", "--force", "-q"]);
    assert_eq!(outcome.code, Some(1));
    assert_eq!(outcome.stderr.matches("error:").count(), 1, "{}", outcome.stderr);
    let expected = format!(
        "mirror42: error: could not fetch `{}/v2/coalitions?page=1&per_page=100`: it answered 400",
        simulator.url
    );
    assert!(outcome.stderr.starts_with(&expected), "{}", outcome.stderr);
    assert_eq!(content(&space), before);
    simulator.faults(&[]);
    succeed(&space.run("mirror42", &["run"]));
    assert_exact(&space, &simulator);
}

#[test]
fn what_a_forced_run_left_undone_the_next_run_does() {
    let simulator = Simulator::start("");
    let space = project(&simulator);
    succeed(&space.run("mirror42", &["run"]));
    simulator.day(1);
    simulator.hold("/v2/coalitions");
    let mut run = space.spawn("mirror42", &["run", "--force", "-q"]);
    wait_until("all else is fetched", || simulator.stats()["requests_in_all"].as_u64() >= Some(95 + 1 + 80));
    run.kill().unwrap();
    run.wait().unwrap();
    simulator.release();
    let plan = space.run("mirror42", &["plan"]).stdout;
    assert!(plan.lines().any(|line| line.contains("08_coalitions") && line.contains("forced")), "{plan}");
    succeed(&space.run("mirror42", &["run", "-q", "02_campus"]));
    succeed(&space.run("mirror42", &["run", "-q"]));
    assert_exact(&space, &simulator);
    simulator.reset_stats();
    succeed(&space.run("mirror42", &["run", "-q"]));
    assert_eq!(simulator.stats()["requests_in_all"], 0);
}

#[test]
fn records_that_could_not_be_used_are_asked_for_again_by_the_next_run() {
    let simulator = Simulator::start("");
    let space = project(&simulator);
    // One is noticed by the filter's reader, the others by the loader.
    for (kind, path, cause) in [
        ("surrogate", "/v2/cursus/21/projects", "a record cannot be read"),
        ("nul", "/v2/cursus/21/projects", "holds \\u0000"),
        ("big-id", "/v2/coalitions", "does not fit bigint"),
    ] {
        simulator.faults(&[&format!("kind = \"{kind}\"; path = \"{path}\"; times = 1")]);
        let outcome = space.run("mirror42", &["run", "-q", "--force"]);
        assert_eq!(outcome.code, Some(1), "{kind}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(cause), "{kind}: {}", outcome.stderr);
        succeed(&space.run("mirror42", &["run", "-q"]));
        assert_exact(&space, &simulator);
    }
}

#[test]
fn a_run_whose_output_nobody_reads_to_the_end_is_a_run() {
    let simulator = Simulator::start("");
    let space = project(&simulator);
    let mut run = space.command("mirror42", &["run"]);
    let mut run = run.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    drop(run.stdout.take());
    assert!(run.wait().unwrap().success());
    assert_exact(&space, &simulator);
}

#[test]
fn exports_of_two_nights_are_not_loaded_together() {
    let simulator = Simulator::start("");
    let space = project(&simulator);
    succeed(&space.run("mirror42", &["run", "-q"]));
    let before = content(&space);
    simulator.day(1);
    succeed(&space.run("mirror42-fetch", &["-q", "02_campus"]));
    succeed(&space.run("mirror42-extract", &["-q", "02_campus"]));
    let outcome = space.run("mirror42-load", &["-q"]);
    assert_eq!(outcome.code, Some(1));
    let expected = "mirror42-load: error: stage `03_achievements` was made from another `02_campus` than is there now\n  \
                    at: exports/03_achievements/all.json\n";
    assert!(outcome.stderr.starts_with(expected), "{}", outcome.stderr);
    assert_eq!(content(&space), before);
}

#[test]
fn an_empty_list_is_believed_when_it_is_read_twice() {
    let simulator = Simulator::start("");
    let space = project(&simulator);
    // No coalition is of this name: the list is really empty.
    let none = include_str!("../../pipeline.toml")
        .replace("fetch = \"/v2/coalitions\"", "fetch = \"/v2/coalitions?filter[name]=nobody\"");
    space.write("pipeline.toml", &none);
    succeed(&space.run("mirror42-fetch", &["-q", "08_coalitions"]));
    assert_eq!(simulator.stats()["requests"]["coalitions"], 2);
}

#[test]
fn the_guard_stops_a_run_with_its_own_exit_code() {
    let simulator = Simulator::start("");
    let space = project(&simulator);
    succeed(&space.run("mirror42", &["run"]));
    let before = content(&space);
    let few = include_str!("../../pipeline.toml")
        .replace("jq    = '{id, name, slug, image_url", "jq    = 'select(.id < 50) | {id, name, slug, image_url");
    space.write("pipeline.toml", &few);
    let outcome = space.run("mirror42", &["run", "-q"]);
    assert_eq!(outcome.code, Some(4), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("coalitions"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("the database is as it was"), "{}", outcome.stderr);
    assert_eq!(content(&space), before);
}

#[test]
fn a_filter_that_does_not_compile_is_told_of_before_anything_is_fetched() {
    let simulator = Simulator::start("");
    let space = project(&simulator);
    space.write(
        "pipeline.toml",
        &include_str!("../../pipeline.toml").replace("{campus_id: $each.id,", "{campus_id: $ech.id,"),
    );
    let outcome = space.run("mirror42", &["run", "-q"]);
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.stderr.starts_with("mirror42: error: the jq filter of stage `04_campus_achievements` is wrong: variable `$ech` is not defined\n  at: pipeline.toml:"), "{}", outcome.stderr);
    assert_eq!(simulator.stats()["requests_in_all"], 0);
}

#[test]
fn only_one_run_at_a_time() {
    let simulator = Simulator::start("");
    let space = project(&simulator);
    simulator.hold("/v2/cursus/21/projects");
    let mut first = space.spawn("mirror42", &["run", "-q"]);
    wait_until("the first run waits for an answer", || simulator.stats()["held"] == 1);
    let second = space.run("mirror42", &["run", "-q"]);
    assert_eq!(second.code, Some(3));
    let expected = format!(
        "mirror42: error: another run is under way\n  at: ./.mirror42/run.lock\n  detail: It is `mirror42 run`, process {}, since ",
        first.id()
    );
    let since = second.stderr.strip_prefix(&expected).expect(&second.stderr).strip_suffix(".\n").unwrap();
    assert!(since.parse::<jiff::Timestamp>().is_ok(), "{since}");
    simulator.release();
    assert!(first.wait().unwrap().success());
    assert_exact(&space, &simulator);
}

#[test]
fn killed_at_any_moment_a_run_begins_again_where_nothing_is_lost() {
    let simulator = Simulator::start("");
    let space = project(&simulator);
    succeed(&space.run("mirror42", &["run"]));
    simulator.day(1);
    let before = content(&space);
    let mut random = fastrand::Rng::with_seed(42);
    for round in 0..8 {
        let mut run = space.spawn("mirror42", &["run", "-q", "--force"]);
        std::thread::sleep(Duration::from_millis(random.u64(0..1500)));
        run.kill().unwrap();
        run.wait().unwrap();
        let now = content(&space);
        assert!(now == before || simulator_has(&space, &simulator), "a night in between after kill {round}");
    }
    let outcome = space.run("mirror42", &["run"]);
    succeed(&outcome);
    assert_exact(&space, &simulator);
    // What a killed writer left goes when its folder is next written to.
    succeed(&space.run("mirror42", &["run", "-q", "--force"]));
    for stage in STAGES {
        let names = fs::read_dir(space.paths().stage(stage)).unwrap();
        let left: Vec<_> =
            names.map(|e| e.unwrap().file_name()).filter(|n| n.to_string_lossy().starts_with('.')).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Whether the tables are those of the simulator's day, by their counts.
fn simulator_has(space: &Space, simulator: &Simulator) -> bool {
    TABLES.iter().all(|table| {
        let count = space.query(&format!("select count(*) from {table}")).remove(0);
        count == simulator.table(table).len().to_string()
    })
}

#[test]
fn a_run_takes_its_children_with_it() {
    let simulator = Simulator::start("");
    let space = project(&simulator);
    simulator.hold("/v2/");
    let mut run = space.spawn("mirror42", &["run", "-q"]);
    wait_until("the children wait for answers", || simulator.stats()["held"].as_u64() >= Some(4));
    run.kill().unwrap();
    run.wait().unwrap();
    wait_until("the children are gone", || simulator.stats()["in_flight"] == 0);
    simulator.release();
    succeed(&space.run("mirror42", &["run", "-q"]));
}

#[test]
fn status_fails_while_there_is_no_mirror_and_when_it_is_old() {
    let simulator = Simulator::start("");
    let space = project(&simulator);
    let outcome = space.run("mirror42", &["status"]);
    assert_eq!(outcome.code, Some(5));
    assert!(outcome.stderr.starts_with("mirror42: error: the mirror was never loaded\n"), "{}", outcome.stderr);
    succeed(&space.run("mirror42", &["run", "-q"]));
    let outcome = space.run("mirror42", &["status"]);
    succeed(&outcome);
    assert!(outcome.stdout.contains("The mirror is "), "{}", outcome.stdout);
    space.client().batch_execute("update mirror42.runs set fetched_at = fetched_at - interval '25 hours'").unwrap();
    let outcome = space.run("mirror42", &["status"]);
    assert_eq!(outcome.code, Some(5));
    assert!(
        outcome.stderr.starts_with("mirror42: error: the mirror is 1 d 1 h old, stale_after is 1 d\n"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn the_demo_does_all_of_it_on_this_machine_and_can_be_forgotten() {
    let space = Space::new()
        .file("pipeline.toml", include_str!("../../pipeline.toml"))
        .file("schema.sql", include_str!("../../schema.sql"));
    crate::space::watch(space.path());
    // What is here already stays.
    let notes = ["logs/notes.txt", "logs/old.log", "exports/01_cursus/notes", ".mirror42/mine"];
    notes.into_iter().for_each(|file| space.write(file, "mine"));
    let outcome = space.run("mirror42", &["demo", "--quick"]);
    succeed(&outcome);
    assert!(outcome.stdout.contains("35,654 rows in 8 tables, 35,654 changed, 0 orphans dropped, all checks passed"));
    let outcome = space.run("mirror42", &["demo", "--quick", "--next-day"]);
    succeed(&outcome);
    assert!(
        outcome.stdout.contains("That was day 1 ") && outcome.stdout.contains("crontab install"),
        "{}",
        outcome.stdout
    );
    for verb in ["plan", "status"] {
        let told = space.run("mirror42", &[verb]).stdout;
        assert!(told.contains("the demo's API runs no longer") && !told.contains("address"), "{told}");
        assert!(told.contains("\nThis is a demo: `mirror42 demo --next-day` goes a day on, "), "{told}");
    }
    let count = space.run("mirror42", &["db", "psql", "--", "-Atc", "select count(*) from campuses"]);
    assert_eq!(count.stdout, "54\n", "{}", count.stderr);
    succeed(&space.run("mirror42", &["demo", "--remove"]));
    let left = walkdir::WalkDir::new(space.path()).sort_by_file_name().into_iter().flatten();
    let left = left.filter(|entry| !entry.file_type().is_dir()).map(|entry| space.paths().shown(entry.path()));
    let mut expected = [&notes[..], &["pipeline.toml", "schema.sql"]].concat();
    expected.sort_unstable();
    assert_eq!(left.filter(|path| path != ".mirror42/run.lock").collect::<Vec<_>>(), expected);
    assert!(!space.paths().data().exists() && !space.paths().runs().exists());
    let outcome = space.run("mirror42", &["demo", "--remove"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""));
    // A database that no demo has made is not one's to remove.
    succeed(&space.run("mirror42", &["db", "start"]));
    let outcome = space.run("mirror42", &["demo", "--quick"]);
    let told = "mirror42: error: this folder holds a database that is not the demo's\n";
    assert!(outcome.code == Some(2) && outcome.stderr.starts_with(told), "{outcome:?}");
}

#[test]
fn a_run_that_does_not_ask_the_api_leaves_the_demo_what_it_is() {
    let space = Space::new()
        .file(
            "pipeline.toml",
            "[pipeline]\nname = \"x\"\n[api]\nbase_url = \"http://127.0.0.1:1\"\npage = { style = \"none\" }\n\
             [[stage]]\nname = \"a\"\nfetch = \"/a\"\nkey = [\"id\"]\n",
        )
        .with("DATABASE_URL", "postgresql://127.0.0.1:1/x");
    let mark = space.paths().demo();
    space.write(".mirror42/demo", "0\n");
    let lock = mirror42::files::Lock::try_with_owner(&space.paths().run_lock(), "another").unwrap().unwrap();
    assert_eq!(space.run("mirror42", &["run", "-q"]).code, Some(3));
    assert!(mark.exists(), "it did not come to run");
    lock.release().unwrap();
    // What these come to is nothing here.
    for arguments in [&["run", "-q", "validate"][..], &["run", "-q", "--offline", "a"]] {
        assert_ne!(space.run("mirror42", arguments).code, Some(0));
        assert!(mark.exists(), "{arguments:?}");
    }
    space.run("mirror42", &["run", "-q", "a", "--tries", "1"]);
    assert!(!mark.exists());
}

#[test]
fn the_end_of_a_demo_takes_no_login_along_and_is_gone_on_with() {
    let space =
        Space::new().file("pipeline.toml", "[pipeline]\nname = \"x\"\n[api]\nbase_url = \"http://127.0.0.1:1\"\n");
    let token = |client: &str| format!("{{\"client_id\":\"{client}\",\"refresh_token\":\"r\"}}");
    let (mine, simulated) = (token("mine"), token("sim-uid"));
    for (content, stays) in [
        (format!("{{\"tokens\":[{simulated},{mine}]}}"), true),
        ("{\"tokens\":[{\"cli".to_string(), true),
        (format!("{{\"tokens\":[{simulated}]}}"), false),
    ] {
        space.write(".mirror42/demo", "0\n");
        let files =
            [space.paths().token(), space.paths().token().with_extension("lock"), space.paths().state().join("x")];
        [".mirror42/token.json", ".mirror42/token.lock", ".mirror42/x"]
            .iter()
            .for_each(|file| space.write(file, &content));
        // As a removal leaves it that was killed.
        space.write("data/postgres.new/base/half", "");
        succeed(&space.run("mirror42", &["demo", "--remove"]));
        assert_eq!(files.map(|file| file.exists()), [stays, stays, false], "{content}");
        assert!(!space.paths().data().exists());
    }
}
