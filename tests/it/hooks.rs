//! `on_success` and `on_failure`: who is told of what, and that nothing they do changes how a run ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::cron::with_program;
use crate::driver::succeed;
use crate::simulator::Simulator;
use crate::space::{Space, wait_until};

/// Writes down all that it is given.
const TELL: &str = r#"#!/bin/sh
{ echo "$1 in $PWD"; env | grep -e MIRROR42_RUN -e MIRROR42_EXIT -e MIRROR42_PIPE | sort; env | grep -c FROM_DOTENV; cat; } > told.new
mv told.new told
"#;

/// One small stage, without a database; `head` are further lines of `[pipeline]`.
fn project(simulator: &Simulator, head: &str) -> Space {
    let text = format!(
        "[pipeline]\nname = \"t\"\n{head}\n[api]\nbase_url = \"http://127.0.0.1\"\nauth = {{ kind = \"oauth2\", \
         token_path = \"/oauth/token\", client_id_env = \"FT_CLIENT_ID\", client_secret_env = \"FT_CLIENT_SECRET\" }}\n\
         [[stage]]\nname = \"cursus\"\nfetch = \"/v2/cursus/21\"\npage = {{ style = \"none\", records = \".\" }}\nkey = [\"id\"]\n"
    );
    let space = with_program(simulator.space(&text), "tell", TELL).file(".env", "FROM_DOTENV=secret\n");
    fs::set_permissions(space.path().join(".env"), fs::Permissions::from_mode(0o600)).unwrap();
    space
}

fn told(space: &Space) -> Vec<String> {
    let file = space.path().join("told");
    let text = fs::read_to_string(&file).unwrap();
    fs::remove_file(file).unwrap();
    text.lines().map(str::to_string).collect()
}

#[test]
fn who_asked_for_it_is_told_how_a_run_ended() {
    let simulator = Simulator::start("");
    let space = project(&simulator, "on_success = [\"tell\", \"well\"]\non_failure = [\"./bin/tell\", \"badly\"]");
    let here = space.path().canonicalize().unwrap();
    // What is told is the summary, whether it is printed or not.
    let outcome = space.run("mirror42", &["run", "cursus"]);
    succeed(&outcome);
    let expected = |how: &str, code: i32, id: &str, text: &str| {
        let head = format!(
            "{how} in {here}\nMIRROR42_EXIT_CODE={code}\nMIRROR42_PIPELINE={here}/pipeline.toml\nMIRROR42_RUN_ID={id}\n0\n{text}",
            here = here.display()
        );
        head.lines().map(str::to_string).collect::<Vec<_>>()
    };
    let lines = told(&space);
    let id = lines[3].strip_prefix("MIRROR42_RUN_ID=").unwrap();
    let log = fs::read_to_string(space.paths().log("run")).unwrap();
    assert!(log.contains(&format!("run {id} begins\n")), "{log}");
    let text = format!("mirror42: run {id} of `t` is done\n\n{}", outcome.stdout);
    assert_eq!(lines, expected("well", 0, id, text.trim_end()));
    assert!(lines.iter().any(|line| line.starts_with(" cursus ")));
    let quiet = space.run("mirror42", &["run", "-q", "cursus"]);
    assert_eq!((quiet.code, quiet.stdout.as_str(), quiet.stderr.as_str()), (Some(0), "", ""));
    assert!(told(&space).contains(&"nothing to do: 1 stage is current".to_string()));

    simulator.faults(&["kind = 'json-error'; status = 404; path = '/v2/cursus/21'; times = 0"]);
    let failed = space.run("mirror42", &["run", "-q", "--force", "cursus"]);
    assert_eq!(failed.code, Some(1));
    let lines = told(&space);
    let id = lines[3].strip_prefix("MIRROR42_RUN_ID=").unwrap();
    let error = failed.stderr.strip_prefix("mirror42: ").unwrap();
    assert!(error.starts_with("error: could not fetch "), "{error}");
    let text = format!("mirror42: run {id} of `t` failed\n\n{error}");
    assert_eq!(lines, expected("badly", 1, id, &text));
}

#[test]
fn a_run_that_did_not_begin_or_was_stopped_has_nothing_to_tell() {
    let simulator = Simulator::start("");
    let space = project(&simulator, "on_failure = [\"tell\", \"badly\"]");
    simulator.hold("/v2/cursus/21");
    let mut first = space.spawn("mirror42", &["run", "-q", "cursus"]);
    wait_until("the first run waits for an answer", || simulator.stats()["held"] == 1);
    assert_eq!(space.run("mirror42", &["run", "-q", "cursus"]).code, Some(3));
    simulator.release();
    assert!(first.wait().unwrap().success());
    assert!(!space.path().join("told").exists());

    // Nor has one that a person has stopped.
    simulator.hold("/v2/cursus/21");
    let mut stopped = space.spawn("mirror42", &["run", "-q", "--force", "cursus"]);
    wait_until("it waits for an answer", || simulator.stats()["held"] == 1);
    assert!(Command::new("kill").arg(stopped.id().to_string()).status().unwrap().success());
    assert_eq!(stopped.wait().unwrap().code(), Some(75));
    simulator.release();
    assert!(!space.path().join("told").exists());
}

#[test]
fn what_they_do_wrong_is_a_warning_and_no_more() {
    let simulator = Simulator::start("");
    let bad = "on_success = [\"sh\", \"-c\", \"echo one; echo two >&2; exit 7\"]\non_failure = [\"./nothing\"]";
    let space = project(&simulator, bad);
    let warned = |outcome: &str| outcome.split_once(" run: warning: ").unwrap().1.to_string();
    let outcome = space.run("mirror42", &["run", "-q", "cursus"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), ""));
    assert_eq!(
        warned(&outcome.stderr),
        "`on_success` of pipeline.toml, `sh -c echo one; echo two >&2; exit 7`, ended with exit code 7; it printed: \
         one | two\n"
    );
    simulator.faults(&["kind = 'json-error'; status = 404; path = '/v2/cursus/21'; times = 0"]);
    let outcome = space.run("mirror42", &["run", "-q", "--force", "cursus"]);
    assert_eq!(outcome.code, Some(1));
    let expected = "`on_failure` of pipeline.toml, `./nothing`, could not be started: No such file or directory (os error 2)\n\
                    mirror42: error: could not fetch ";
    assert!(warned(&outcome.stderr).starts_with(expected), "{}", outcome.stderr);
}
