//! What else ends in a load: replays, dry runs, and nights that may delete more. None of them is mistaken for the night's run.

use std::fs;

use serde_json::{Value, json};

use crate::cron::with_program;
use crate::driver::succeed;
use crate::record::{records, small};
use crate::simulator::Simulator;
use crate::space::Space;

/// The id of the last run, as `status` has it.
fn last_run(space: &Space) -> Value {
    let outcome = space.run("mirror42", &["status", "--json"]);
    serde_json::from_str::<Value>(&outcome.stdout).unwrap()["last_run"]["run_id"].clone()
}

fn last(space: &Space) -> Value {
    records(space).pop().unwrap()
}

#[test]
fn a_replay_has_a_record_of_its_own_and_is_nobodys_night() {
    let simulator = Simulator::start("");
    let space = with_program(small(&simulator), "tell", "#!/bin/sh\necho x >> told\n");
    let text = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    space.write("pipeline.toml", &text.replace("name = \"small\"", "name = \"small\"\non_success = [\"bin/tell\"]"));
    let told = || fs::read_to_string(space.path().join("told")).unwrap().lines().count();
    succeed(&space.run("mirror42", &["run", "-q"]));
    assert_eq!((told(), last(&space)["verb"].clone()), (1, json!("run")));
    let night = last(&space)["id"].clone();
    assert_eq!(last_run(&space), night);

    fs::remove_file(space.paths().all_json("03_names")).unwrap();
    for arguments in [&["replay", "-q"][..], &["replay", "--dry-run"], &["replay", "--as-of", night.as_str().unwrap()]]
    {
        let count = records(&space).len();
        succeed(&space.run("mirror42", arguments));
        let record = last(&space);
        assert_eq!(
            (records(&space).len(), &record["verb"], &record["exit_code"]),
            (count + 1, &json!("replay"), &json!(0))
        );
        assert_eq!(record["dry_run"], arguments.contains(&"--dry-run"));
        assert_eq!(record["targets"], json!(["load"]));
        assert_eq!((told(), last_run(&space)), (1, night.clone()), "{arguments:?}");
    }
    assert_eq!(last(&space)["steps"][0]["why"], json!(format!("replays run {}", night.as_str().unwrap())));
    assert_eq!(last(&space)["rows"], 351);
    let report = space.run("mirror42", &["report", "--output", "-"]);
    assert!(report.stdout.contains(night.as_str().unwrap()));
    assert!(!report.stdout.contains(&format!("Steps of run {}", last(&space)["id"].as_str().unwrap())));
    let doctor = space.run("mirror42", &["doctor"]);
    assert!(doctor.stdout.contains("last run     it ended well "), "{}", doctor.stdout);
}

#[test]
fn a_dry_run_is_marked_and_is_not_the_last_run() {
    let simulator = Simulator::start("");
    let space = small(&simulator);
    succeed(&space.run("mirror42", &["run", "-q", "--dry-run"]));
    assert_eq!((&last(&space)["verb"], &last(&space)["dry_run"]), (&json!("run"), &json!(true)));
    assert_eq!(last(&space)["targets"], json!([]), "all");
    assert_eq!(last_run(&space), Value::Null);
    succeed(&space.run("mirror42", &["run", "-q"]));
    let night = last(&space)["id"].clone();
    succeed(&space.run("mirror42", &["run", "-q", "--dry-run"]));
    assert_eq!((records(&space).len(), last_run(&space)), (3, night));
    succeed(&space.run("mirror42", &["run", "-q", "--only", "03_names", "load", "--dry-run", "--force=03_names"]));
    assert_eq!(last(&space)["targets"], json!(["03_names", "load"]));
}

#[test]
fn a_record_that_is_damaged_is_told_of_and_only_the_newest_are_read() {
    let simulator = Simulator::start("");
    let space = small(&simulator);
    succeed(&space.run("mirror42", &["run", "-q"]));
    let night = last(&space)["id"].clone();
    // Older ones are not even looked at.
    space.write("logs/runs/20000101T000000Z-1.json", "no record");
    let outcome = space.run("mirror42", &["status"]);
    assert!(!outcome.stderr.contains("logs/runs"), "{}", outcome.stderr);
    space.write("logs/runs/29990101T000000Z-1.json", "no record");
    space.write("logs/runs/29990101T000000Z-2.json", "{\"version\": 99}");
    let outcome = space.run("mirror42", &["status"]);
    let expected =
        "warning: `logs/runs/29990101T000000Z-1.json` is passed over: it is no record of a run: expected ident";
    assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    assert_eq!(last_run(&space), night);
}

#[test]
fn a_night_may_delete_more_for_once() {
    let simulator = Simulator::start("");
    let space = small(&simulator);
    succeed(&space.run("mirror42", &["run", "-q"]));
    let pipeline = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    let filter = "fetch = \"/v2/coalitions\"\njq    = 'select(.id % 2 == 0) | ";
    space.write("pipeline.toml", &pipeline.replace("fetch = \"/v2/coalitions\"\njq    = '", filter));
    let refused = space.run("mirror42", &["run", "-q"]);
    assert_eq!(refused.code, Some(4), "{}", refused.stderr);
    let rows =
        refused.stderr.split("`--allow-delete coalitions=").nth(1).unwrap().split('`').next().unwrap().to_string();
    let allowed = format!("coalitions={rows}");
    for (arguments, message) in [
        (&["--allow-delete", "coalition=1"][..], "`--allow-delete` names `coalition`, which no stage fills"),
        (
            &["01_cursus", "--allow-delete", "coalitions=1"],
            "`--allow-delete` is of a load, and none of the targets is one",
        ),
    ] {
        let outcome = space.run("mirror42", &[&["run"], arguments].concat());
        assert_eq!(outcome.code, Some(2));
        assert!(outcome.stderr.starts_with(&format!("mirror42: error: {message}\n")), "{}", outcome.stderr);
    }
    let outcome = space.run("mirror42", &["run", "--allow-delete", &allowed]);
    succeed(&outcome);
    let log = fs::read_to_string(space.paths().log("run")).unwrap();
    assert!(log.contains(&format!(" INFO  run: this load may delete rows: {allowed}\n")), "{log}");
    assert_eq!(space.query("select count(*) from coalitions where id % 2 = 1"), ["0"]);
    // This once.
    space.write("pipeline.toml", &pipeline.replace("fetch = \"/v2/coalitions\"\njq    = '", &filter.replace('2', "4")));
    let refused = space.run("mirror42", &["run", "-q"]);
    assert_ne!(refused.code, Some(0));
}
