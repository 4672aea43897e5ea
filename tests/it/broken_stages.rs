//! A stage that cannot be judged or made, among others that can: what goes on without it, and what is told.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::driver::succeed;
use crate::simulator::{Reply, Server};
use crate::space::{Outcome, Space, wait_until};

const PIPELINE: &str = r#"
[pipeline]
name = "things"

[api]
base_url = "http://ADDRESS"
page = { style = "none" }

[[stage]]
name = "1_owners"
fetch = "/owners"
jq = '{id, name}'
key = ["id"]
table = "owners"

[[stage]]
name = "2_names"
from = "1_owners"
jq = '{id, name: .name}'
key = ["id"]

[[stage]]
name = "3_lengths"
from = "1_owners"
with = { names = "2_names" }
jq = '{id, n: ($names | length)}'
key = ["id"]

[[stage]]
name = "4_things"
fetch = "/things"
jq = '{id}'
key = ["id"]

[[stage]]
name = "5_own"
run = ["./own.sh"]
key = ["id"]
"#;

fn space() -> (Server, Space) {
    let server = Server::start("127.0.0.1:0", |_| Reply::json(r#"[{"id":1,"name":"Ada"},{"id":2,"name":"Bob"}]"#));
    let space = Space::with_database()
        .file("pipeline.toml", &PIPELINE.replace("ADDRESS", &server.address))
        .file("schema.sql", "create table owners (id int primary key, name text);")
        .file("own.sh", "#!/bin/sh\necho '{\"id\":1}' > \"$MIRROR42_OUTPUT\"\n");
    fs::set_permissions(space.path().join("own.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    (server, space)
}

fn edit(space: &Space, from: &str, to: &str) {
    let path = space.path().join("pipeline.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

/// The stages that have an export.
fn made(space: &Space) -> Vec<&'static str> {
    let stages = ["1_owners", "2_names", "3_lengths", "4_things", "5_own"];
    stages.into_iter().filter(|stage| space.paths().all_json(stage).is_file()).collect()
}

fn told(outcome: &Outcome, code: i32) -> &str {
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(code), ""), "{}", outcome.stderr);
    &outcome.stderr
}

/// What `plan --json` says of the export of a stage.
fn plan(space: &Space, stage: &str, step: &str) -> (String, String) {
    let outcome = space.run("mirror42", &["plan", "--json"]);
    succeed(&outcome);
    let plan: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let found = plan["stages"].as_array().unwrap().iter().find(|found| found["stage"] == stage).unwrap();
    let text = |name: &str| found[step][name].as_str().unwrap_or("").to_string();
    (text("reason"), text("text"))
}

const NOT_LOADED: &str = "  detail: Nothing was loaded; the database is as it was.\n";

#[test]
fn a_filter_that_does_not_compile_keeps_nothing_else_from_being_made() {
    let (server, space) = space();
    edit(&space, "{id, name: .name}", "{id, name: .name");
    let outcome = space.run("mirror42", &["run", "-q"]);
    assert!(told(&outcome, 2).contains("the jq filter of stage `2_names` "), "{}", outcome.stderr);
    assert_eq!((made(&space), server.requests()), (vec![], 0), "it is told before anything is fetched");

    let outcome = space.run("mirror42", &["run", "-q", "--keep-going"]);
    let message = told(&outcome, 2);
    assert!(message.starts_with("mirror42: error: the jq filter of stage `2_names` "), "{message}");
    assert!(message.ends_with(&format!("  detail: Not up to date: 2_names, 3_lengths.\n{NOT_LOADED}")), "{message}");
    assert_eq!(made(&space), ["1_owners", "4_things", "5_own"]);
    assert_eq!(server.requests(), 2);
    let (reason, text) = plan(&space, "2_names", "extract");
    assert!(reason == "broken" && text.starts_with("the jq filter of stage `2_names` "), "{reason}: {text}");
    assert_eq!(plan(&space, "4_things", "extract"), (String::new(), "current".to_string()));

    // So is one that fails at a record, though those beside it are extracted with it.
    edit(&space, "{id, name: .name", "error(\"no\")");
    for stage in ["1_owners", "2_names", "3_lengths"] {
        for file in [space.paths().receipt(stage), space.paths().all_json(stage)] {
            // Those that were not made have none.
            let _ = fs::remove_file(file);
        }
    }
    let outcome = space.run("mirror42", &["run", "-q", "--keep-going"]);
    let message = told(&outcome, 1);
    assert!(message.starts_with("mirror42: error: the jq filter of stage `2_names` "), "{message}");
    assert!(message.contains(&format!("  detail: Not up to date: 2_names, 3_lengths.\n{NOT_LOADED}")), "{message}");
    assert_eq!((made(&space), server.requests()), (vec!["1_owners", "4_things", "5_own"], 3));
    edit(&space, "error(\"no\")", "{id, name: .name");

    // Mended, it is made from the pages that are here.
    edit(&space, "{id, name: .name", "{id, name: .name}");
    succeed(&space.run("mirror42", &["run", "-q"]));
    assert_eq!((made(&space).len(), server.requests()), (5, 3));
}

#[test]
fn a_file_that_cannot_be_read_keeps_nothing_else_from_being_made() {
    let (_server, space) = space();
    fs::create_dir_all(space.paths().all_json("2_names")).unwrap();
    for jobs in ["1", "8"] {
        let outcome = space.run("mirror42", &["run", "-q", "-k", "-j", jobs]);
        let message = told(&outcome, 1);
        let head = "mirror42: error: could not read `./exports/2_names/all.json`: ";
        assert!(message.starts_with(head), "{message}");
        let end = format!("  detail: Not up to date: 2_names, 3_lengths.\n{NOT_LOADED}");
        assert!(message.ends_with(&end), "{message}");
        assert_eq!(made(&space), ["1_owners", "4_things", "5_own"]);
    }
    let (reason, text) = plan(&space, "2_names", "extract");
    assert!(reason == "broken" && text.contains("all.json`: "), "{reason}: {text}");
    for verb in ["status", "report"] {
        let outcome = space.run("mirror42", &[verb]);
        assert!(!outcome.stderr.contains("all.json"), "{}", outcome.stderr);
    }
    let report = fs::read_to_string(space.path().join("report.html")).unwrap();
    assert!(report.contains("could not read") && report.contains("5_own"), "{report}");
    fs::remove_dir(space.paths().all_json("2_names")).unwrap();
    succeed(&space.run("mirror42", &["run", "-q"]));
}

#[test]
fn a_program_that_is_not_there_is_told_in_its_place() {
    let (_server, space) = space();
    fs::rename(space.path().join("own.sh"), space.path().join("kept")).unwrap();
    let outcome = space.run("mirror42", &["run", "-q", "-k"]);
    let message = told(&outcome, 1);
    assert!(message.contains("the program `./own.sh` of stage `5_own` is not there"), "{message}");
    assert!(message.ends_with(&format!("  detail: Not up to date: 5_own.\n{NOT_LOADED}")), "{message}");
    assert_eq!(made(&space), ["1_owners", "2_names", "3_lengths", "4_things"]);
    let (reason, text) = plan(&space, "5_own", "fetch");
    assert!(reason == "broken" && text.contains("`./own.sh`"), "{reason}: {text}");
    assert_eq!(plan(&space, "1_owners", "fetch"), (String::new(), "current".to_string()));
    let status = space.run("mirror42", &["status"]);
    assert!(status.stdout.contains("`./own.sh`") && status.stdout.contains("4_things"), "{status:?}");
    succeed(&space.run("mirror42", &["report"]));
    fs::rename(space.path().join("kept"), space.path().join("own.sh")).unwrap();
    succeed(&space.run("mirror42", &["run", "-q"]));
}

#[test]
fn a_filter_that_fails_is_tried_on_other_pages_and_a_mended_one_on_those_that_are_here() {
    let (server, space) = space();
    edit(&space, "{id, name: .name}", "error(\"no\")");
    let run = || space.run("mirror42", &["run", "-q"]);
    assert!(told(&run(), 1).contains("2_names"));
    let requests = server.requests();
    // The same filter again: what came may have been a passing fault of the server.
    told(&run(), 1);
    assert_eq!(server.requests(), requests + 1);
    edit(&space, "error(\"no\")", "{id, name}");
    succeed(&run());
    assert_eq!(server.requests(), requests + 1);
    assert!(!space.paths().forced().exists());

    // So is one that a load could not use, and a schema that it could not fill.
    edit(&space, "'{id, name}'\nkey = [\"id\"]\ntable", "'{id, name, n: .name}'\nkey = [\"id\"]\ntable");
    let mended = "create table owners (id int primary key, name text, n text);";
    space.write("schema.sql", "create table owners (id int primary key, name text, n int);");
    space
        .client()
        .batch_execute("drop table owners; create table owners (id int primary key, name text, n int)")
        .unwrap();
    let before = server.requests();
    let outcome = run();
    assert!(told(&outcome, 1).contains(", record "), "{}", outcome.stderr);
    assert!(space.paths().forced().exists());
    space.write("schema.sql", mended);
    space.client().batch_execute("drop table owners").unwrap();
    succeed(&run());
    assert_eq!(server.requests(), before);
}

#[test]
fn what_was_made_beside_a_stage_that_fails_is_ours() {
    let (_server, space) = space();
    let run = |arguments: &[&str]| space.run("mirror42", &[&["run", "-q", "-k"], arguments].concat());
    succeed(&run(&[]));
    // It is found to fail when the other is written.
    edit(&space, "{id, name: .name}", "{id: 1, name: .name}");
    edit(&space, "'{id, name}'", "'{id, name, n: 1}'");
    for arguments in [&["1_owners", "2_names"][..], &["1_owners", "2_names", "--trust-exports"]] {
        let outcome = run(arguments);
        assert!(told(&outcome, 1).contains("stage `2_names`"), "{}", outcome.stderr);
        let log = fs::read_to_string(space.paths().log("run")).unwrap();
        assert!(!log.contains("by hand") && !outcome.stderr.contains("by hand"), "{log}");
    }
    let receipt = fs::read_to_string(space.paths().receipt("1_owners")).unwrap();
    assert!(!receipt.contains("by hand"), "{receipt}");
}

#[test]
fn pages_that_cannot_be_read_are_told_of_once() {
    let (_server, space) = space();
    // Its export waits for others, its fetch does not.
    let with = "with = { names = \"2_names\", lengths = \"3_lengths\" }";
    edit(&space, "fetch = \"/things\"", &format!("fetch = \"/things\"\n{with}"));
    succeed(&space.run("mirror42", &["run", "-q"]));
    let page = fs::read_dir(space.paths().pages("4_things")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(&page).unwrap();
    fs::create_dir(&page).unwrap();
    let outcome = space.run("mirror42", &["run", "-q", "-k"]);
    let message = told(&outcome, 1);
    assert_eq!(message.matches("mirror42: error: ").count(), 1, "{message}");
    assert!(message.starts_with("mirror42: error: could not read `./exports/4_things/pages/"), "{message}");
}

#[test]
fn what_failed_before_a_run_was_stopped_is_told_too() {
    let (_server, space) = space();
    edit(&space, "'{id}'", "'error(\"no\")'");
    space.write("own.sh", "#!/bin/sh\nwhile [ -e own.sh ]; do sleep 0.05; done\n");
    let run = space.spawn("mirror42", &["run", "-q", "-k"]);
    // It is to be fetched again.
    wait_until("the filter has failed", || space.paths().forced().exists());
    kill(Pid::from_raw(run.id().cast_signed()), Signal::SIGTERM).unwrap();
    let output = run.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(75), "{text}");
    let (failure, stop) = text.split_once("mirror42: error: stopped by SIGTERM\n").unwrap();
    assert!(failure.starts_with("mirror42: error: the jq filter of stage `4_things` "), "{text}");
    assert!(stop.contains("Nothing was loaded"), "{text}");
}

#[test]
fn a_doubt_keeps_its_condition_and_is_noted_whatever_the_run_is_of() {
    let (server, space) = space();
    edit(&space, "{id, name: .name}", "error(\"no\")");
    let run = |arguments: &[&str]| space.run("mirror42", &[&["run", "-q"], arguments].concat());
    let forced = || fs::read_to_string(space.paths().forced()).unwrap_or_default();
    succeed(&run(&["1_owners"]));
    let requests = server.requests();
    // Its source is none of this run.
    for _ in 0..2 {
        told(&run(&["--only", "2_names"]), 1);
        let line = forced();
        assert!(line.starts_with("1_owners\t") && line.ends_with("\textract\t2_names\n"), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
    assert_eq!(server.requests(), requests);
    let line = forced();
    // A fetch that fails does not make it one on no condition.
    let text = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    space.write("pipeline.toml", &text.replace(&server.address, "127.0.0.1:1"));
    told(&run(&["2_names", "--tries", "1"]), 1);
    assert_eq!(forced(), line);
    space.write("pipeline.toml", &text);
    edit(&space, "error(\"no\")", "{id, name: .name}");
    succeed(&run(&["2_names"]));
    assert_eq!((server.requests(), forced().as_str()), (requests, ""));
}
