//! The pipeline as a graph: drawn, told to programs, and run without the driver, by GNU make and by Snakemake.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::driver::{difference, project, succeed};
use crate::simulator::Simulator;
use crate::space::{Outcome, Space};

const MAKEFILE: &str = "mirror42.mk";

/// Two sources, one of them read record by record, and stages of one source that read the same and other files.
const PIPELINE: &str = r#"
[pipeline]
name = "small \"one\""
[api]
base_url = "http://127.0.0.1:9"
[[stage]]
name  = "01_campus"
fetch = "/campus?a=1&b=<2>"
key   = ["id"]
table = "campuses"
[[stage]]
name  = "02_events"
fetch = "/campus/{id}/events"
each  = "01_campus"
key   = ["id"]
table = "events"
max_age = "30m"
[[stage]]
name  = "03_places"
from  = "02_events"
with  = { campus = "01_campus" }
key   = ["id"]
[[stage]]
name  = "04_guests"
from  = "02_events"
with  = { place = "03_places" }
key   = ["id"]
table = "guests"
"#;

/// The graph of [`PIPELINE`] in this form, with `HASH` for every hash.
fn graph(space: &Space, format: &str) -> String {
    let outcome = space.run("mirror42", &["graph", "--format", format]);
    succeed(&outcome);
    assert_eq!(outcome.stderr, "");
    let is_hash = |word: &str| [32, 64].contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut text = String::new();
    for word in outcome.stdout.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let bare = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        text += &if is_hash(bare) { word.replace(bare, "HASH") } else { word.to_string() };
    }
    text
}

fn expect(format: &str, expected: &str) {
    let space = Space::new().file("pipeline.toml", PIPELINE).file("schema.sql", "");
    let found = graph(&space, format);
    assert_eq!(found, expected, "{format}:\n{found}");
    assert!(!space.path().join("logs").exists(), "looking at the pipeline leaves no log");
}

#[test]
fn the_graph_is_drawn_for_graphviz() {
    expect("dot", include_str!("graph/small.dot"));
    let space = Space::new().file("pipeline.toml", PIPELINE);
    let dot = space.run("mirror42", &["graph"]).stdout;
    assert_eq!(dot, space.run("mirror42", &["graph", "--format", "dot"]).stdout, "the one that is meant");
    space.write("small.dot", &dot);
    let Ok(drawn) = Command::new("dot").args(["-Tsvg", "small.dot"]).current_dir(space.path()).output() else {
        return eprintln!("skipped: Graphviz is not installed, so whether it takes the graph is not known");
    };
    assert_eq!((drawn.status.code(), String::from_utf8_lossy(&drawn.stderr).as_ref()), (Some(0), ""));
    let svg = String::from_utf8(drawn.stdout).unwrap();
    for text in [
        "mirror42&#45;fetch 01_campus",
        "/campus?a=1&amp;b=&lt;2&gt;",
        "02_events/pages",
        "2 tables",
        "small &quot;one&quot;",
    ] {
        assert!(svg.contains(text) || text == "2 tables", "{text} in {svg}");
    }
}

#[test]
fn the_graph_is_drawn_for_mermaid() {
    expect("mermaid", include_str!("graph/small.mermaid"));
}

#[test]
fn the_graph_is_told_to_programs() {
    expect("json", include_str!("graph/small.json"));
}

#[test]
fn the_makefile_and_the_snakefile_are_those_that_are_kept_here() {
    expect("make", include_str!("graph/small.mk"));
    expect("snakemake", include_str!("graph/small.smk"));
}

#[test]
fn a_name_that_make_would_take_apart_is_refused() {
    let space = Space::new().file("my pipeline.toml", PIPELINE);
    for (format, what) in [("make", "Makefile"), ("snakemake", "Snakefile")] {
        let outcome = space.run("mirror42", &["graph", "--format", format, "--pipeline", "my pipeline.toml"]);
        let stderr = format!(
            "mirror42: error: cannot write \"my pipeline.toml\" into a {what}\n  at: my pipeline.toml\n  \
             hint: Give the file a name of letters, digits, `_`, `-`, `+`, `,` and `.`.\n"
        );
        assert_eq!(outcome, Outcome { code: Some(2), stdout: String::new(), stderr });
    }
    succeed(&space.run("mirror42", &["graph", "--pipeline", "my pipeline.toml"]));
}

/// A program that finds the stage binaries on its path.
fn command(space: &Space, program: &str, args: &[&str]) -> Command {
    let binaries = Path::new(env!("CARGO_BIN_EXE_mirror42")).parent().unwrap().display().to_string();
    let path = std::env::var("PATH").unwrap();
    let mut command = space.command("mirror42", &[]);
    let environment: Vec<_> =
        command.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
    command = Command::new(program);
    command.args(args).current_dir(space.path()).env_clear();
    command.envs(environment.into_iter().filter_map(|(name, value)| Some((name, value?))));
    command.env("PATH", format!("{binaries}:{path}"));
    command
}

/// Runs make on the Makefile; returns the commands that it ran.
fn make(space: &Space, args: &[&str]) -> Vec<String> {
    let output = command(space, "make", &[&["-f", MAKEFILE], args].concat()).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    let mut ran: Vec<String> = stdout.lines().filter(|line| line.starts_with("mirror42")).map(String::from).collect();
    ran.sort();
    ran
}

fn write_makefile(space: &Space) {
    let outcome = space.run("mirror42", &["graph", "--format", "make"]);
    succeed(&outcome);
    space.write(MAKEFILE, &outcome.stdout);
}

const REWRITTEN: &str = "mirror42 graph --format make > mirror42.mk.new";

#[test]
fn make_runs_the_whole_pipeline_and_then_only_what_changed() {
    let simulator = Simulator::start("");
    let space = project(&simulator);
    write_makefile(&space);
    let all = make(&space, &["-j4"]);
    assert_eq!(
        all,
        [
            "mirror42-extract 01_cursus",
            "mirror42-extract 02_campus",
            "mirror42-extract 03_achievements 04_campus_achievements",
            "mirror42-extract 05_projects 06_campus_projects 07_project_sessions",
            "mirror42-extract 08_coalitions",
            "mirror42-fetch 01_cursus",
            "mirror42-fetch 02_campus",
            "mirror42-fetch 03_achievements",
            "mirror42-fetch 05_projects",
            "mirror42-fetch 08_coalitions",
            "mirror42-load",
            "mirror42-validate",
        ]
    );
    assert_eq!(difference(&space, &simulator), None);
    simulator.reset_stats();
    assert_eq!(make(&space, &["-j4"]), [""; 0]);

    // The driver and make agree on what is current.
    let outcome = space.run("mirror42", &["run"]);
    succeed(&outcome);
    assert_eq!(
        outcome.stdout.lines().filter(|line| line.trim_end().ends_with(" current")).count(),
        8,
        "{}",
        outcome.stdout
    );
    assert_eq!(make(&space, &["-j4"]), [""; 0]);

    // A filter.
    let text = include_str!("../../pipeline.toml");
    let filter = "{id, name, slug, kind, created_at}";
    let edited = text.replace(filter, &format!("{filter} | .name |= ascii_upcase"));
    std::thread::sleep(std::time::Duration::from_millis(20));
    space.write("pipeline.toml", &edited);
    let ran = make(&space, &["-j4"]);
    assert_eq!(ran, [REWRITTEN, "mirror42-extract 01_cursus", "mirror42-load", "mirror42-validate"]);
    assert_eq!(space.query("select name = upper(name) from cursus"), ["t"]);
    assert_eq!(simulator.stats()["requests_in_all"], 0);
    assert_eq!(make(&space, &[]), [""; 0]);

    // A request.
    std::thread::sleep(std::time::Duration::from_millis(20));
    space.write("pipeline.toml", &edited.replace("\"/v2/coalitions\"", "\"/v2/coalitions?sort=id\""));
    let ran = make(&space, &["exports"]);
    assert_eq!(ran, [REWRITTEN, "mirror42-extract 08_coalitions", "mirror42-fetch 08_coalitions"]);
    assert_eq!(make(&space, &["exports"]), [""; 0]);

    // Age: `max_age` is 20 h.
    let age = |hours: u64| {
        let time = std::time::SystemTime::now() - std::time::Duration::from_secs(hours * 3600);
        fs::File::open(space.paths().pages("08_coalitions")).unwrap().set_modified(time).unwrap();
    };
    age(19);
    assert_eq!(make(&space, &["exports"]), [""; 0]);
    age(21);
    assert_eq!(make(&space, &["exports"]), ["mirror42-extract 08_coalitions", "mirror42-fetch 08_coalitions"]);

    // A file that is gone; of three that are made together, all are made.
    fs::remove_file(space.paths().all_json("06_campus_projects")).unwrap();
    let together = "mirror42-extract 05_projects 06_campus_projects 07_project_sessions";
    assert_eq!(make(&space, &[]), [together, "mirror42-load", "mirror42-validate"]);
    fs::remove_file(space.paths().receipt("01_cursus")).unwrap();
    let ran = make(&space, &["exports"]);
    assert_eq!(ran, ["mirror42-extract 01_cursus", "mirror42-fetch 01_cursus"]);
}

#[test]
fn what_a_run_has_made_make_does_not_make_again() {
    let simulator = Simulator::start("");
    let space = project(&simulator);
    succeed(&space.run("mirror42", &["run", "-q"]));
    write_makefile(&space);
    assert_eq!(make(&space, &["exports"]), [""; 0]);
    assert_eq!(make(&space, &["-n"]), ["mirror42-load", "mirror42-validate"]);
}

#[test]
fn a_step_that_fails_stops_make_and_the_next_goes_on() {
    let simulator = Simulator::start("");
    let space = project(&simulator);
    write_makefile(&space);
    simulator.faults(&["kind = 'json-error'; status = 404; path = '/v2/coalitions'; times = 0"]);
    let output = command(&space, "make", &["-f", MAKEFILE, "-k", "exports"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("mirror42-fetch: error: could not fetch"), "{stderr}");
    assert!(stderr.contains("exports/08_coalitions/pages] Error 1"), "{stderr}");
    simulator.faults(&[]);
    assert_eq!(make(&space, &["exports"]), ["mirror42-extract 08_coalitions", "mirror42-fetch 08_coalitions"]);
}

/// Set `MIRROR42_TEST_SNAKEMAKE` to the program to have this run.
#[test]
fn snakemake_runs_the_whole_pipeline_and_then_only_what_changed() {
    let Ok(program) = std::env::var("MIRROR42_TEST_SNAKEMAKE") else {
        return eprintln!("skipped: MIRROR42_TEST_SNAKEMAKE names no snakemake");
    };
    let simulator = Simulator::start("");
    let space = project(&simulator);
    let write = || {
        let outcome = space.run("mirror42", &["graph", "--format", "snakemake"]);
        succeed(&outcome);
        space.write("Snakefile", &outcome.stdout);
    };
    let run = |args: &[&str]| {
        let all = [&["--cores", "4", "--printshellcmds"], args].concat();
        let output = command(&space, &program, &all).env("HOME", space.path()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let shell = told.lines().filter_map(|line| {
            line.trim()
                .strip_prefix("Shell command: mirror42")
                .or_else(|| line.trim().strip_prefix("Shell command: RAYON_NUM_THREADS=2 mirror42"))
        });
        let mut ran: Vec<String> = shell.map(|line| line.trim().to_string()).collect();
        ran.sort();
        (output.status.code(), ran, told)
    };
    write();
    let (code, ran, told) = run(&[]);
    assert_eq!((code, ran.len()), (Some(0), 12), "{told}");
    assert_eq!(difference(&space, &simulator), None);
    let (code, ran, told) = run(&[]);
    assert_eq!((code, ran), (Some(0), vec![]), "{told}");
    assert!(told.contains("Nothing to be done"), "{told}");

    // It does not run by an old pipeline; by the new one it makes what that changes.
    let filter = "{id, name, slug, kind, created_at}";
    let text = include_str!("../../pipeline.toml").replace(filter, &format!("{filter} | .name |= ascii_upcase"));
    space.write("pipeline.toml", &text);
    let (code, _, told) = run(&[]);
    assert_eq!(code, Some(1));
    assert!(
        told.contains("pipeline.toml has changed: write this file again by `mirror42 graph --format snakemake`"),
        "{told}"
    );
    write();
    let (code, ran, told) = run(&[]);
    assert_eq!(code, Some(0), "{told}");
    assert!(ran.contains(&"-extract 01_cursus".to_string()), "{ran:?}");
    assert!(!ran.iter().any(|line| line.contains("-fetch")), "{ran:?}");
    assert_eq!(space.query("select name = upper(name) from cursus"), ["t"]);

    // `max_age` is 20 h.
    let age = |hours: u64| {
        let time = std::time::SystemTime::now() - std::time::Duration::from_secs(hours * 3600);
        fs::File::open(space.paths().pages("08_coalitions")).unwrap().set_modified(time).unwrap();
    };
    age(19);
    let (code, ran, told) = run(&[]);
    assert_eq!((code, ran), (Some(0), vec![]), "{told}");
    age(21);
    let (code, ran, told) = run(&[]);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(ran, ["-extract 08_coalitions", "-fetch 08_coalitions", "-load", "-validate"], "{told}");

    // Another night, in which a fetch fails: the pages of the last one stay.
    age(21);
    simulator.faults(&["kind = 'json-error'; status = 404; path = '/v2/coalitions'; times = 0"]);
    let (code, _, told) = run(&[]);
    assert_eq!(code, Some(1), "{told}");
    assert!(space.paths().pages("08_coalitions").join("0001.json").exists(), "{told}");
}

#[test]
fn names_that_python_cannot_tell_apart_make_different_rules() {
    let stage = |name: &str| format!("[[stage]]\nname = \"{name}\"\nfetch = \"/s\"\nkey = [\"id\"]\n");
    let head = "[pipeline]\nname = \"t\"\n[api]\nbase_url = \"http://127.0.0.1:9\"\n";
    let text = [head.to_string(), stage("a-b"), stage("a_b"), stage("a.b")].concat();
    let space = Space::new().file("pipeline.toml", &text);
    let snakefile = space.run("mirror42", &["graph", "--format", "snakemake"]).stdout;
    let rules: Vec<&str> = snakefile.lines().filter_map(|line| line.strip_prefix("rule ")).collect();
    assert_eq!(
        rules,
        [
            "all:",
            "fetch_a_b:",
            "fetch_a_b__2:",
            "fetch_a_b__3:",
            "extract_a_b:",
            "extract_a_b__2:",
            "extract_a_b__3:",
            "load:",
            "validate:"
        ]
    );
}

#[test]
fn another_pipeline_file_is_named_in_every_command() {
    let space = Space::new().file("other.toml", PIPELINE);
    let outcome = space.run("mirror42", &["graph", "--format", "make", "--pipeline", "other.toml"]);
    let recipes: Vec<&str> = outcome.stdout.lines().filter_map(|line| line.strip_prefix("\tmirror42")).collect();
    assert_eq!(recipes.len(), 8, "{}", outcome.stdout);
    assert!(recipes.iter().all(|recipe| recipe.contains(" --pipeline other.toml")), "{recipes:?}");
}

/// The example of a program of the pipeline's own, which reads a file too; pages are there already.
fn own_stage() -> Space {
    let text = include_str!("../../examples/own-stage/pipeline.toml");
    let space = Space::new().file("pipeline.toml", &format!("{text}inputs = [\"data/*.csv\"]\nmax_age = \"2h\"\n"));
    space.file("data/a.csv", "").file("data/b.csv", "")
}

#[test]
fn a_program_of_the_pipelines_own_stands_where_a_fetch_does() {
    let space = own_stage();
    let lines = |format: &str, part: &str| -> Vec<String> {
        let text = graph(&space, format);
        text.lines().filter(|line| line.contains(part)).map(|line| line.trim().to_string()).collect()
    };
    assert_eq!(
        lines("dot", "mirror42-exec"),
        ["step2 [label=\"mirror42-exec 03_speakers\\lscripts/speakers.sh\\l\"];"]
    );
    assert_eq!(lines("mermaid", "--> step2"), [""; 0], "the API has nothing to do with it");
    assert_eq!(lines("mermaid", "MIRROR42"), [""; 0]);
    let make = graph(&space, "make");
    let rule = "exports/03_speakers/pages: exports/01_campus/all.json exports/02_languages/all.json scripts/speakers.sh \
                data/a.csv data/b.csv \\\n    \
                $(call unless-made,03_speakers/format+1+run+HASH+with+HASH+env+HASH) $(call if-old,120/exports/03_speakers/pages)\n\
                \tmirror42-exec 03_speakers\n";
    assert!(make.contains(rule), "{make}");
    let pages = "pages: \\\n    exports/01_campus/pages \\\n    exports/03_speakers/pages\n";
    assert!(make.contains(pages), "{make}");
    let snakemake = graph(&space, "snakemake");
    let rule = "rule exec_03_speakers:\n    input:\n        \"exports/01_campus/all.json\",\n        \
                \"exports/02_languages/all.json\",\n        \"scripts/speakers.sh\",\n        \"data/a.csv\",\n        \
                \"data/b.csv\",\n        due(\"03_speakers\", 7200),\n    output:\n        \
                update(directory(\"exports/03_speakers/pages\")),\n    params:\n        definition=\"format:1 run:HASH with:HASH env:HASH\",\n    \
                shell: \"mirror42-exec 03_speakers\"\n";
    assert!(snakemake.contains(rule), "{snakemake}");
    assert!(snakemake.contains("\nlocalrules: all, fetch_01_campus, load, validate\n"), "{snakemake}");
    let json: serde_json::Value = serde_json::from_str(&graph(&space, "json")).unwrap();
    let inputs: Vec<String> =
        json["steps"][1]["inputs"].as_array().unwrap().iter().map(|input| input["as"].to_string()).collect();
    assert_eq!(inputs, ["{\"with\":\"campus\"}", "{\"with\":\"languages\"}", "\"file\"", "\"file\"", "\"file\""]);
}

#[test]
fn make_runs_a_program_of_the_pipelines_own_when_what_it_reads_has_changed() {
    let simulator = Simulator::start("");
    let space = simulator.space(include_str!("../../examples/own-stage/pipeline.toml"));
    let script = space.path().join("scripts/speakers.sh");
    space.write("scripts/speakers.sh", include_str!("../../examples/own-stage/scripts/speakers.sh"));
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    write_makefile(&space);
    assert_eq!(make(&space, &["exports"]).len(), 4);
    let by_make = fs::read(space.paths().all_json("03_speakers")).unwrap();
    assert_eq!(make(&space, &["exports"]), [""; 0]);
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::File::open(&script).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    assert_eq!(make(&space, &["exports"]), ["mirror42-exec 03_speakers", "mirror42-extract 03_speakers"]);
    succeed(&space.run("mirror42", &["run", "--force", "03_speakers"]));
    assert_eq!(fs::read(space.paths().all_json("03_speakers")).unwrap(), by_make);
}
