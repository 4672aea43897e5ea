//! The flags of `mirror42 run`: what they have done again, what is left out, and what is told when it cannot be.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::driver::succeed;
use crate::simulator::Simulator;
use crate::space::{Outcome, Space};

const STAGES: [&str; 5] = ["01_cursus", "02_campus", "08_coalitions", "09_names", "10_places"];

/// Two that only feed others, beside three of the project's own.
const MORE: &str = "
[[stage]]
name = '09_names'
from = '08_coalitions'
jq   = '{id, name}'
key  = ['id']

[[stage]]
name = '10_places'
from = '02_campus'
with = { names = '09_names' }
jq   = '{id, city}'
key  = ['id']
";

/// A pipeline that is quickly done: some of the project's own stages, and what else is wanted.
pub fn pipeline(stages: &[&str], more: &str) -> String {
    let text = include_str!("../../pipeline.toml");
    let (text, _) = text.split_once("[[check]]").unwrap();
    let mut parts = text.split("[[stage]]\n");
    let head = parts.next().unwrap().to_string();
    let name_of = |part: &str| part.split('"').nth(1).unwrap().to_string();
    let kept = parts.filter(|part| stages.contains(&name_of(part).as_str())).map(|part| format!("[[stage]]\n{part}"));
    [head].into_iter().chain(kept).collect::<Vec<_>>().join("\n") + "\n" + more
}

/// A folder with a pipeline of five stages, three of which fetch and are loaded.
pub fn small(simulator: &Simulator) -> Space {
    let text = pipeline(&STAGES, MORE);
    simulator.space(&text).file("schema.sql", include_str!("../../schema.sql")).and_database()
}

/// Which stages were made anew since: a file that is written has another inode.
fn inodes(space: &Space) -> BTreeMap<&'static str, u64> {
    STAGES.map(|stage| (stage, fs::metadata(space.paths().all_json(stage)).map_or(0, |file| file.ino()))).into()
}

fn remade(space: &Space, args: &[&str]) -> Vec<&'static str> {
    let before = inodes(space);
    succeed(&space.run("mirror42", &[&["run", "-q"], args].concat()));
    let after = inodes(space);
    STAGES.into_iter().filter(|stage| before[stage] != after[stage]).collect()
}

fn loads(space: &Space) -> String {
    space.query("select count(*) from mirror42.runs").remove(0)
}

fn told(outcome: &Outcome, code: i32) -> &str {
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(code), ""), "{}", outcome.stderr);
    &outcome.stderr
}

#[test]
fn a_stage_is_done_again_alone_or_with_all_that_depends_on_it() {
    let simulator = Simulator::start("");
    let space = small(&simulator);
    succeed(&space.run("mirror42", &["run", "-q"]));
    assert_eq!(remade(&space, &[]), [""; 0]);
    assert_eq!(loads(&space), "1");
    let requests = || simulator.stats()["requests_in_all"].as_u64().unwrap();
    let before = requests();
    assert_eq!(remade(&space, &["--force=09_names,10_places"]), ["09_names", "10_places"]);
    assert_eq!(remade(&space, &["09_names", "--force"]), ["09_names"]);
    assert_eq!(remade(&space, &["--force", "09_names"]), ["09_names"]);
    assert_eq!(remade(&space, &["10_places", "--force=09_names"]), ["09_names"]);
    assert_eq!(requests(), before, "these are made of the pages that are there");
    assert_eq!(loads(&space), "2", "the first of these runs was of all");
    assert_eq!(remade(&space, &["--from", "08_coalitions"]), ["08_coalitions", "09_names", "10_places"]);
    assert_eq!((requests() - before, loads(&space).as_str()), (4, "3"));
    assert_eq!(remade(&space, &["--force"]), STAGES);
    assert_eq!(requests() - before, 4 + 6);
}

#[test]
fn only_the_named_stages_are_touched_and_what_they_need_must_be_there() {
    let simulator = Simulator::start("");
    let space = small(&simulator);
    let refused = space.run("mirror42", &["run", "-q", "--only", "10_places"]);
    let expected = "mirror42: error: the pages of `02_campus`, which stage `10_places` needs, cannot be found\n  \
                    at: exports/02_campus/pages\n  \
                    hint: Run `mirror42 run 10_places` without `--only`, which makes them.\n";
    assert_eq!(told(&refused, 1), expected);
    assert_eq!(remade(&space, &["--only", "02_campus"]), ["02_campus"]);
    let refused = space.run("mirror42", &["run", "-q", "--only", "10_places"]);
    let expected = "mirror42: error: the export of `09_names`, which stage `10_places` needs, cannot be found\n  \
                    at: exports/09_names/all.json\n  \
                    hint: Run `mirror42 run 10_places` without `--only`, which makes them.\n";
    assert_eq!(told(&refused, 1), expected);
    assert_eq!(remade(&space, &["--only", "08_coalitions", "09_names", "10_places"]), STAGES[2..].to_vec());
    // What 10_places needs has changed, and stays as it is.
    let text = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    space.write("pipeline.toml", &text.replace("{id, name}'", "{id, name: .slug}'").replace("{id, city}", "{id}"));
    assert_eq!(remade(&space, &["--only", "10_places"]), ["10_places"]);
    let refused = space.run("mirror42", &["run", "-q", "--only", "load"]);
    assert_eq!(refused.code, Some(1), "one export is missing");
    assert_eq!(remade(&space, &["01_cursus"]), ["01_cursus"]);
    assert_eq!(remade(&space, &["--only", "load"]), [""; 0]);
    assert_eq!(remade(&space, &["--only", "09_names", "--force"]), ["09_names"]);
    assert_eq!(remade(&space, &["--only", "09_names", "10_places", "--force=10_places"]), ["10_places"]);
    assert_eq!(loads(&space), "1");
}

#[test]
fn what_the_flags_cannot_mean_is_refused() {
    let space = Space::new().file("pipeline.toml", &pipeline(&STAGES, MORE));
    let refused = |args: &[&str]| told(&space.run("mirror42", &[&["run"], args].concat()), 2).to_string();
    assert_eq!(
        refused(&["--force=09_name"]),
        "mirror42: error: no stage is called `09_name`\n  at: pipeline.toml\n  hint: Did you mean `09_names`?\n"
    );
    assert_eq!(
        refused(&["validat"]),
        "mirror42: error: no stage is called `validat`\n  at: pipeline.toml\n  hint: Did you mean `validate`?\n"
    );
    assert_eq!(refused(&["--from", "x"]), "mirror42: error: no stage is called `x`\n  at: pipeline.toml\n");
    assert_eq!(
        refused(&["01_cursus", "--force=09_names"]),
        "mirror42: error: `--force` names `09_names`, which this run does not touch\n  \
         hint: Name it among the targets too.\n"
    );
    assert_eq!(
        refused(&["--only", "10_places", "--force=02_campus"]),
        "mirror42: error: `--force` names `02_campus`, which this run does not touch\n  \
         hint: Name it among the targets too.\n"
    );
    assert_eq!(
        refused(&["01_cursus", "--dry-run"]),
        "mirror42: error: `--dry-run` is of a load, and none of the targets is one\n  \
         hint: Name `load` too, or no target at all.\n"
    );
    let usage = refused(&["--only"]);
    assert!(usage.starts_with("error: the following required arguments were not provided:\n  <STAGE>...\n"), "{usage}");
    let usage = refused(&["--from", "01_cursus", "--force"]);
    assert!(
        usage.starts_with("error: the argument '--from <STAGE>' cannot be used with '--force[=<STAGE,STAGE>]'\n"),
        "{usage}"
    );
    let usage = refused(&["-j", "0"]);
    assert!(usage.starts_with("error: invalid value '0' for '--jobs <N>'"), "{usage}");
}

#[test]
fn a_failure_stops_what_depends_on_it_and_all_failures_are_told() {
    let simulator = Simulator::start("");
    let space = small(&simulator);
    simulator.faults(&["kind = 'json-error'; status = 400; path = '/v2/coalitions'; times = 0"]);
    let run = |args: &[&str]| space.run("mirror42", &[&["run", "-q"], args].concat());
    let url = &simulator.url;
    let one = run(&["--keep-going"]);
    let message = told(&one, 1);
    assert!(
        message.starts_with(&format!(
            "mirror42: error: could not fetch `{url}/v2/coalitions?page=1&per_page=100`: it answered 400"
        )),
        "{message}"
    );
    assert!(
        message.ends_with(
            "\n  detail: Not up to date: 08_coalitions, 09_names, 10_places.\n  \
             detail: Nothing was loaded; the database is as it was.\n"
        ),
        "{message}"
    );
    let names = ["01_cursus", "02_campus"].map(|stage| space.paths().all_json(stage).exists());
    assert_eq!(names, [true, true], "these need nothing that failed");

    let text = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    space.write("pipeline.toml", &text.replace("{id, name, slug, kind, created_at}", "error(\"no\")"));
    let two = run(&["--keep-going", "-j", "1"]);
    let message = told(&two, 1);
    assert_eq!(message.matches("mirror42: error: ").count(), 3, "{message}");
    assert!(message.contains("it answered 400") && message.contains("error: the jq filter of "), "{message}");
    assert!(
        message.ends_with(
            "\nmirror42: error: 2 steps failed: the messages are above\n  \
             detail: Not up to date: 01_cursus, 08_coalitions, 09_names, 10_places.\n  \
             detail: Nothing was loaded; the database is as it was.\n"
        ),
        "{message}"
    );
    assert_eq!(space.query("select to_regclass('mirror42.runs')::text"), ["∅"]);
    space.write("pipeline.toml", &text);
    simulator.faults(&[]);
    succeed(&run(&["-k"]));
    assert_eq!(loads(&space), "1");
}

#[test]
fn a_dry_run_brings_all_up_to_date_and_changes_nothing_in_the_database() {
    let simulator = Simulator::start("");
    let space = small(&simulator);
    let outcome = space.run("mirror42", &["run", "-q", "--dry-run"]);
    succeed(&outcome);
    assert!(outcome.stdout.contains("350"), "{}", outcome.stdout);
    assert_eq!(space.query("select to_regclass('coalitions')::text, to_regclass('mirror42.runs')::text"), ["∅|∅"]);
    assert!(space.paths().all_json("10_places").exists());
    assert!(!space.paths().snapshots().exists());
    succeed(&space.run("mirror42", &["run", "-q"]));
    let content = || space.query("select c.*, c.xmin from coalitions c order by id");
    let before = content();
    simulator.day(1);
    let outcome = space.run("mirror42", &["run", "--force", "--dry-run"]);
    succeed(&outcome);
    let direct = space.run("mirror42-load", &["-q", "--dry-run"]);
    succeed(&direct);
    let tells = |text: &str| text.lines().filter(|line| line.starts_with("coalitions")).collect::<Vec<_>>().join("\n");
    assert!(!tells(&direct.stdout).is_empty(), "{}", direct.stdout);
    assert_eq!(tells(&outcome.stdout), tells(&direct.stdout));
    assert_eq!(content(), before);
    assert_eq!(loads(&space), "1");
}

#[test]
fn every_command_line_is_in_the_log_as_a_shell_takes_it() {
    let simulator = Simulator::start("");
    let space = small(&simulator);
    succeed(&space.run("mirror42", &["run", "-q"]));
    let log = fs::read_to_string(space.paths().log("run")).unwrap();
    let lines: Vec<&str> =
        log.lines().filter_map(|line| line.split_once(" INFO  run: starting: ")).map(|l| l.1).collect();
    let of = |program: &str, end: &str| {
        let found = lines
            .iter()
            .find(|line| line.contains(&format!("/{program} --pipeline pipeline.toml")) && line.contains(end));
        found.unwrap_or_else(|| panic!("{program} {end} in {log}"))
    };
    let fetch = of("mirror42-fetch", " --log-format json 08_coalitions");
    assert!(fetch.starts_with(&format!("cd {} && ", space.path().display())), "{fetch}");
    let load = of("mirror42-load", " --run-id ");
    assert!(load.ends_with("  # needs DATABASE_URL in the environment"), "{load}");
    of("mirror42-extract", " 02_campus");
    of("mirror42-validate", "");
    assert!(!log.contains(space.url()));

    fs::remove_dir_all(space.paths().stage("08_coalitions")).unwrap();
    let mut shell = space.command("true", &[]);
    let mut pasted = std::process::Command::new("sh");
    pasted.args(["-c", fetch]).env_clear().current_dir("/");
    pasted.envs(shell.env("FT_CLIENT_ID", "sim-uid").get_envs().filter_map(|(name, value)| Some((name, value?))));
    assert!(pasted.output().unwrap().status.success());
    assert!(space.paths().receipt("08_coalitions").exists());
}
