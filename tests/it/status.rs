//! `status`: for people, as JSON and as metrics; and what it says when there is nothing to say it of.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::driver::{project, succeed};
use crate::simulator::Simulator;
use crate::space::{Outcome, Space};

/// The samples of an exposition by their names with labels; panics at what Prometheus would refuse, or promtool complain of.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut described = BTreeSet::new();
    let mut typed = String::new();
    assert!(text.ends_with('\n') && !text.ends_with("\n\n"));
    for line in text.lines() {
        let is_name = |name: &str| {
            name.starts_with("mirror42_")
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(is_name(name) && help.ends_with('.'), "{line}");
            assert!(described.insert(name.to_string()), "{name} is described twice");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            typed = rest.strip_suffix(" gauge").unwrap().to_string();
            assert!(described.contains(&typed), "{line}");
            // These endings are for counters and histograms.
            assert!(!["_total", "_count", "_sum", "_bucket"].iter().any(|end| typed.ends_with(end)), "{line}");
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = sample.strip_suffix('}').unwrap().split_once('{').unwrap();
        assert_eq!(name, typed, "a sample stands below its own type");
        let mut rest = labels;
        while !rest.is_empty() {
            let (label, quoted) = rest.split_once("=\"").unwrap();
            assert!(label.chars().all(|c| c.is_ascii_lowercase()), "{line}");
            let mut escaped = false;
            let end = quoted.find(|c: char| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            rest = quoted[end.unwrap() + 1..].trim_start_matches(',');
        }
        assert!(samples.insert(sample.to_string(), value.parse().unwrap()).is_none(), "{sample} is there twice");
    }
    samples
}

fn status(space: &Space, args: &[&str]) -> Outcome {
    space.run("mirror42", &[&["status"], args].concat())
}

#[test]
fn the_state_is_told_to_people_programs_and_prometheus() {
    let simulator = Simulator::start("");
    let space = project(&simulator);
    succeed(&space.run("mirror42", &["run", "-q"]));
    simulator.day(1);
    succeed(&space.run("mirror42", &["run", "-q", "--force"]));
    let outcome = status(&space, &[]);
    succeed(&outcome);
    let line = |name: &str| {
        let line = outcome.stdout.lines().rfind(|line| line.trim_start().starts_with(name)).unwrap();
        line.split_whitespace().map(str::to_string).collect::<Vec<_>>()
    };
    assert_eq!(line("Table"), ["Table", "Rows", "Change", "Inserted", "Updated", "Deleted", "Age", "Last", "load"]);

    let json = status(&space, &["--json"]);
    assert_eq!((json.code, json.stderr.as_str()), (Some(0), ""));
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&json["up"], &json["stale"], &json["error"]), (&true.into(), &false.into(), &Value::Null));
    assert_eq!(json["stages"].as_array().unwrap().len(), 8);
    assert_eq!(json["stages"][0]["state"], "current");
    let tables = json["tables"].as_array().unwrap();
    assert_eq!(tables.len(), 8);
    for table in tables {
        let name = table["table"].as_str().unwrap();
        let number = |key: &str| table[key].as_i64().unwrap();
        assert_eq!(space.query(&format!("select count(*) from {name}")), [number("rows").to_string()]);
        assert_eq!(number("change"), number("inserted") - number("deleted"));
        let change = match number("change") {
            n @ 1.. => format!("+{n}"),
            n => n.to_string(),
        };
        assert_eq!(line(name)[2], change, "{name}");
    }
    assert!(tables.iter().any(|table| table["change"] != 0));

    let file = space.path().join("node_exporter/mirror42.prom");
    let written = status(&space, &["--prometheus", "node_exporter/mirror42.prom"]);
    assert_eq!(written, Outcome { code: Some(0), stdout: String::new(), stderr: String::new() });
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    let metrics = samples(&fs::read_to_string(&file).unwrap());
    let metric = |name: &str, labels: &str| metrics[&format!("mirror42_{name}{{pipeline=\"42-stable\"{labels}}}")];
    assert_eq!([metric("up", ""), metric("stale", ""), metric("stale_after_seconds", "")], [1.0, 0.0, 86_400.0]);
    let now = jiff::Timestamp::now().as_second() as f64;
    for name in ["data_timestamp_seconds", "last_success_timestamp_seconds"] {
        assert!((now - 60.0..=now + 1.0).contains(&metric(name, "")), "{name}");
    }
    assert!(metric("last_load_duration_seconds", "") > 0.0);
    assert!(metric("last_run_duration_seconds", "") > metric("last_load_duration_seconds", ""));
    assert_eq!(metric("last_run_exit_code", ""), 0.0);
    assert!(metric("last_run_requests", "") > 80.0);
    assert_eq!(json["last_run"]["requests"].as_f64(), Some(metric("last_run_requests", "")));
    for table in tables {
        let name = table["table"].as_str().unwrap();
        assert_eq!(metric("table_rows", &format!(",table=\"{name}\"")), table["rows"].as_f64().unwrap());
        let deleted = metric("table_changed_rows", &format!(",table=\"{name}\",change=\"deleted\""));
        assert_eq!(deleted, table["deleted"].as_f64().unwrap());
    }
    assert_eq!(metric("stage_current", ",stage=\"06_campus_projects\""), 1.0);
    assert_eq!(metric("stage_requests", ",stage=\"01_cursus\""), 1.0);
    let printed = status(&space, &["--prometheus"]).stdout;
    assert_eq!(samples(&printed).keys().collect::<Vec<_>>(), metrics.keys().collect::<Vec<_>>());

    // Old: the file is written all the same, and the exit code says so.
    space.client().batch_execute("update mirror42.runs set fetched_at = fetched_at - interval '25 hours'").unwrap();
    let old = status(&space, &["--prometheus", "node_exporter/mirror42.prom"]);
    assert_eq!(old.code, Some(5));
    assert!(
        old.stderr.starts_with("mirror42: error: the mirror is 1 d 1 h old, stale_after is 1 d\n"),
        "{}",
        old.stderr
    );
    let metrics = samples(&fs::read_to_string(&file).unwrap());
    assert_eq!(metrics["mirror42_stale{pipeline=\"42-stable\"}"], 1.0);
    let json: Value = serde_json::from_str(&status(&space, &["--json"]).stdout).unwrap();
    assert_eq!(json["error"], "the mirror is 1 d 1 h old, stale_after is 1 d");
}

#[test]
fn what_is_known_is_told_when_the_database_is_absent_or_stopped_and_it_is_not_started() {
    let space = Space::new()
        .file("pipeline.toml", include_str!("../../pipeline.toml"))
        .file("schema.sql", include_str!("../../schema.sql"));
    let never = "mirror42: error: the mirror was never loaded\n  hint: Run `mirror42 run`, or `mirror42 demo` to see what it \
                 does.\n";
    let down = "mirror42: error: the embedded database is stopped\n  hint: Run `mirror42 db start`; the next run starts it \
                too.\n";
    let tell = |expected: &str| {
        let outcome = status(&space, &["--prometheus", "mirror.prom"]);
        assert_eq!(outcome, Outcome { code: Some(5), stdout: String::new(), stderr: expected.to_string() });
        samples(&fs::read_to_string(space.path().join("mirror.prom")).unwrap())
    };
    let metrics = tell(never);
    assert_eq!(metrics["mirror42_up{pipeline=\"42-stable\"}"], 0.0);
    assert_eq!(metrics["mirror42_stale{pipeline=\"42-stable\"}"], 1.0);
    assert_eq!(metrics["mirror42_stage_current{pipeline=\"42-stable\",stage=\"01_cursus\"}"], 0.0);
    assert!(!metrics.keys().any(|name| name.starts_with("mirror42_data_")), "nobody knows");

    crate::space::watch(space.path());
    succeed(&space.run("mirror42", &["db", "start"]));
    assert_eq!(tell(never)["mirror42_up{pipeline=\"42-stable\"}"], 1.0, "it is there, and empty");
    succeed(&space.run("mirror42", &["db", "stop"]));
    assert_eq!(tell(down)["mirror42_up{pipeline=\"42-stable\"}"], 0.0);
    assert_eq!(space.run("mirror42", &["db", "status"]).stdout, "stopped\n");
    let outcome = status(&space, &["--json"]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(5), down));
    let json: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((&json["up"], &json["error"]), (&false.into(), &"the embedded database is stopped".into()));
}
