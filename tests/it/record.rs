//! What a run tells of itself: `logs/runs/<id>.json`, the same object on the standard output with `--log-format json`,
//! the sentence at the end, and its colours.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::driver::succeed;
use crate::simulator::{CLIENT_SECRET, Simulator};
use crate::space::{Space, wait_until};

/// Two stages that are quick, and a third that a test may break.
const PIPELINE: &str = r#"
[pipeline]
name = "small"

[api]
base_url = "http://127.0.0.1"
auth = { kind = "oauth2", token_path = "/oauth/token", client_id_env = "FT_CLIENT_ID", client_secret_env = "FT_CLIENT_SECRET" }
page = { style = "page-number", size = 100 }

[[stage]]
name  = "01_cursus"
fetch = "/v2/cursus/21"
page  = { style = "none", records = "." }
jq    = '{id, name, slug, kind, created_at}'
key   = ["id"]
table = "cursus"

[[stage]]
name  = "02_coalitions"
fetch = "/v2/coalitions"
jq    = '{id, name}'
key   = ["id"]
table = "coalitions"

[[stage]]
name  = "03_names"
from  = "02_coalitions"
jq    = '{id, name}'
key   = ["id"]
"#;
const SCHEMA: &str =
    "create table cursus (id bigint primary key, name text, slug text, kind text, created_at timestamptz);
    create table coalitions (id bigint primary key, name text);";

pub fn small(simulator: &Simulator) -> Space {
    simulator.space(PIPELINE).file("schema.sql", SCHEMA).and_database()
}

/// The records of all runs, the oldest first.
pub fn records(space: &Space) -> Vec<Value> {
    let Ok(entries) = fs::read_dir(space.paths().runs()) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    // A run that is under way may have a temporary file there.
    let whole = paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    whole.map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect()
}

/// The steps of a record: what, of which stage, why, and how it ended.
fn steps(record: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    let steps = record["steps"].as_array().unwrap().iter();
    steps.map(|step| ["what", "stage", "why", "exit_code"].map(|name| text(&step[name])).join(" | ")).collect()
}

/// The one step of this kind and stage.
fn step<'a>(record: &'a Value, what: &str, stage: &str) -> &'a Value {
    record["steps"].as_array().unwrap().iter().find(|step| step["what"] == what && step["stage"] == stage).unwrap()
}

#[test]
fn a_run_leaves_a_record_of_all_that_it_did() {
    let simulator = Simulator::start("");
    let space = small(&simulator);
    let outcome = space.run("mirror42", &["run"]);
    succeed(&outcome);
    assert!(
        outcome
            .stdout
            .contains("351 rows in 2 tables, 351 changed, 0 orphans dropped, all checks passed; 5 requests, "),
        "{}",
        outcome.stdout
    );
    let record = records(&space).remove(0);
    let mut sorted = steps(&record);
    sorted.sort();
    assert_eq!(
        sorted,
        [
            "extract | 01_cursus | never extracted | 0",
            "extract | 02_coalitions | never extracted | 0",
            "extract | 03_names | never extracted | 0",
            "fetch | 01_cursus | never fetched whole | 0",
            "fetch | 02_coalitions | never fetched whole | 0",
            "load | null | never loaded | 0",
            "validate | null | after the load | 0",
        ]
    );
    let fetch = step(&record, "fetch", "02_coalitions");
    assert_eq!((&fetch["requests"], &fetch["records"]), (&json!(4), &json!(350)));
    let export = fs::metadata(space.paths().all_json("03_names")).unwrap().len();
    assert_eq!(step(&record, "extract", "03_names")["size_bytes"], export);
    let expected = json!({
        "version": 1, "pipeline": "small", "mirror42": env!("CARGO_PKG_VERSION"), "targets": [], "exit_code": 0, "error": null,
        "current_steps": 0, "requests": 5, "quota": null, "rows": 351, "changed": 351, "deleted": 0, "orphans": 0,
        "checks": "passed",
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(record[name], *value, "{name}");
    }
    assert_eq!(record["tables"][1]["table"], "coalitions");
    assert_eq!(record["tables"][1]["inserted"], 350);
    assert_eq!(record["id"], space.query("select id from mirror42.runs").remove(0));
    for time in ["started_at", "ended_at"] {
        let seconds = record[time].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second();
        assert!((jiff::Timestamp::now().as_second() - seconds).abs() < 60);
    }
    assert!(!record.to_string().contains(CLIENT_SECRET) && !record.to_string().contains("access_token"));

    // The sample in the documents has the same members.
    let document = include_str!("../../docs/formats.md").split_once("## `logs/runs/`").unwrap().1;
    let sample = document.split("```json").nth(1).unwrap().split("```").next().unwrap();
    let sample: Value = serde_json::from_str(sample).unwrap();
    let members = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    for (sample, record) in
        [(&sample, &record), (&sample["steps"][0], fetch), (&sample["tables"][0], &record["tables"][0])]
    {
        assert_eq!(members(sample), members(record));
    }

    // What has nothing to do says so, in little.
    let second = space.run("mirror42", &["run", "01_cursus", "03_names"]);
    succeed(&second);
    assert_eq!(second.stdout, "nothing to do: 3 stages are current\n");
    let record = records(&space).remove(1);
    assert_eq!((&record["steps"], &record["current_steps"]), (&json!([]), &json!(5)));
    assert_eq!(record["targets"], json!(["01_cursus", "03_names"]));
    assert_eq!((&record["exit_code"], &record["checks"], &record["tables"]), (&json!(0), &Value::Null, &json!([])));
}

#[test]
fn a_run_that_fails_leaves_a_record_with_its_error() {
    let simulator = Simulator::start("");
    let space = small(&simulator);
    simulator.faults(&["kind = \"json-error\"; status = 403; path = \"/v2/coalitions\"; times = 0"]);
    let outcome = space.run("mirror42", &["run", "--log-format", "json"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    let record = records(&space).remove(0);
    assert_eq!(record["exit_code"], 1);
    let message = record["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("could not fetch `http://127.0.0.1"), "{message}");
    assert!(steps(&record).contains(&"fetch | 02_coalitions | never fetched whole | 1".to_string()));
    assert!(steps(&record).contains(&"fetch | 01_cursus | never fetched whole | 0".to_string()));
    assert_eq!(record["requests"], 1);
    // The standard output has the same object, in one line.
    assert_eq!(serde_json::from_str::<Value>(&outcome.stdout).unwrap(), record);
    assert_eq!(outcome.stdout.lines().count(), 1);

    simulator.faults(&[]);
    let outcome = space.run("mirror42", &["run", "--log-format", "json"]);
    succeed(&outcome);
    assert_eq!(serde_json::from_str::<Value>(&outcome.stdout).unwrap(), records(&space)[1]);
    let quiet = space.run("mirror42", &["run", "-q", "--log-format", "json"]);
    assert_eq!((quiet.code, quiet.stdout.as_str()), (Some(0), ""));
    assert_eq!(records(&space).len(), 3);
}

#[test]
fn a_run_that_is_killed_leaves_a_record_without_an_end() {
    let simulator = Simulator::start("");
    let space = small(&simulator);
    simulator.hold("/v2/coalitions");
    let mut run = space.spawn("mirror42", &["run", "-q"]);
    wait_until("the record is there", || !records(&space).is_empty());
    run.kill().unwrap();
    run.wait().unwrap();
    simulator.release();
    let record = records(&space).remove(0);
    assert_eq!((&record["ended_at"], &record["exit_code"]), (&Value::Null, &Value::Null));
    assert_eq!(record["steps"][0]["what"], "fetch");
    // A temporary file of it goes with the next run.
    space.write("logs/runs/.tmp-x.json-1", "{");
    succeed(&space.run("mirror42", &["run", "-q"]));
    assert!(!space.path().join("logs/runs/.tmp-x.json-1").exists());
    assert_eq!(records(&space)[1]["exit_code"], 0);
}

#[test]
fn a_record_that_cannot_be_kept_fails_no_run() {
    let simulator = Simulator::start("");
    let space = small(&simulator).file("logs/runs", "a file in the way");
    let outcome = space.run("mirror42", &["run", "-q", "01_cursus"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let expected = "run: warning: the record of this run is not kept: could not create the folder `./logs/runs`: ";
    assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
}

#[test]
fn colours_follow_the_usual_rules() {
    let simulator = Simulator::start("");
    let green = "\u{1b}[1m\u{1b}[32mnothing to do: ";
    let red = "\u{1b}[1m\u{1b}[31merror:\u{1b}[0m";
    let space = small(&simulator);
    succeed(&space.run("mirror42", &["run", "-q", "01_cursus"]));
    let told = |variables: &[(&str, &str)], arguments: &[&str]| {
        let output = space.command("mirror42", arguments).envs(variables.iter().copied()).output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let run = ["run", "01_cursus"];
    assert!(!told(&[], &run).contains('\u{1b}'));
    assert!(told(&[("CLICOLOR_FORCE", "1")], &run).contains(green));
    assert!(!told(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], &run).contains('\u{1b}'));
    let unknown = ["run", "nowhere"];
    assert!(told(&[("CLICOLOR_FORCE", "1")], &unknown).starts_with(&format!("mirror42: {red} ")));
    assert!(told(&[], &unknown).starts_with("mirror42: error: "));
}

#[test]
fn many_current_stages_are_told_in_one_line() {
    let simulator = Simulator::start("");
    let mut pipeline = PIPELINE.to_string();
    for n in 0..12 {
        pipeline.push_str(&format!(
            "[[stage]]\nname = \"n{n:02}\"\nfrom = \"01_cursus\"\njq = \"{{id}}\"\nkey = [\"id\"]\n"
        ));
    }
    let space = simulator.space(&pipeline).file("schema.sql", SCHEMA);
    let all: Vec<String> = (0..12).map(|n| format!("n{n:02}")).chain(["03_names".to_string()]).collect();
    let arguments: Vec<&str> = ["run", "-q"].into_iter().chain(all.iter().map(String::as_str)).collect();
    succeed(&space.run("mirror42", &arguments));
    fs::remove_file(space.paths().all_json("n05")).unwrap();
    let arguments: Vec<&str> = arguments.into_iter().filter(|argument| *argument != "-q").collect();
    let outcome = space.run("mirror42", &arguments);
    let lines: Vec<String> =
        outcome.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines[3], "14 stages current", "{}", outcome.stdout);
    assert!(lines[2].starts_with("n05 ") && lines[2].ends_with("all.json is not there"), "{}", outcome.stdout);
}
