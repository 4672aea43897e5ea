//! The lines for cron: what they are, how they come into a crontab and out of it, and that cron's mail stays empty.
//!
//! A program of a few lines stands for `crontab`, which is not ours and is not everywhere.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::driver::{project, succeed};
use crate::simulator::Simulator;
use crate::space::{Outcome, Space};

const PIPELINE: &str = include_str!("../../pipeline.toml");
const CRONTAB: &str = r#"#!/bin/sh
# Keeps a file as crontab(1) does.
case "$1" in
    -l) if [ -e "$CRONTAB" ]; then cat "$CRONTAB"; else echo "no crontab for tester" >&2; exit 1; fi ;;
    -r) rm "$CRONTAB" ;;
    -) if [ -e "$CRONTAB.refused" ]; then echo "errors in crontab file, can't install." >&2; exit 1; fi; cat > "$CRONTAB" ;;
    *) exit 64 ;;
esac
"#;

/// Puts a program into the folder `bin` of the space, which is the first in its `PATH`.
pub fn with_program(space: Space, name: &str, text: &str) -> Space {
    space.write(&format!("bin/{name}"), text);
    let file = space.path().join("bin").join(name);
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", space.path().join("bin").display(), std::env::var("PATH").unwrap());
    space.with("PATH", &path)
}

/// With a crontab that is a file of the space.
pub fn with_crontab(space: Space) -> Space {
    let file = space.path().join("crontab").to_str().unwrap().to_string();
    with_program(space, "crontab", CRONTAB).with("CRONTAB", &file).with("TZ", "UTC0")
}

fn crontab(space: &Space) -> PathBuf {
    space.path().join("crontab")
}

/// Where the binaries are.
pub fn bin() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_mirror42")).parent().unwrap()
}

/// The user that the tests run as.
fn user() -> String {
    String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap().trim().to_string()
}

/// The commands of a crontab, as cron gives them to the shell.
fn commands(crontab: &str) -> Vec<String> {
    let lines = crontab.lines().filter(|line| !line.starts_with('#'));
    let command = |line: &str| line.splitn(6, ' ').nth(5).unwrap().replace("\\%", "\u{0}");
    lines.map(|line| command(line).split('%').next().unwrap().replace('\u{0}', "%")).collect()
}

#[test]
fn the_lines_are_those_of_the_documents() {
    let space = Space::new().file("pipeline.toml", PIPELINE).with("TZ", "UTC0");
    let outcome = space.run("mirror42", &["crontab"]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
    let here = space.path().canonicalize().unwrap();
    let shown = outcome.stdout.replace(here.to_str().unwrap(), "/srv/mirror42");
    let shown = shown.replace(bin().to_str().unwrap(), "/usr/local/bin");
    assert_eq!(
        shown,
        "# mirror42 begin /srv/mirror42/pipeline.toml\n\
         # The mirror `42-stable`. To change the times: [cron] of pipeline.toml, then `mirror42 crontab install`.\n\
         5 * * * * cd /srv/mirror42 && /usr/local/bin/mirror42-token ensure -q\n\
         0 1 * * * cd /srv/mirror42 && /usr/local/bin/mirror42 run -q\n\
         0 2 * * * cd /srv/mirror42 && /usr/local/bin/mirror42-rotate -q\n\
         # mirror42 end /srv/mirror42/pipeline.toml\n"
    );
    for document in ["README.md", "docs/operations.md"] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap();
        assert!(text.contains(&format!("```cron\n{shown}```\n")), "{document} shows other lines than\n{shown}");
    }
}

#[test]
fn times_are_those_of_the_pipeline_file_and_a_clock_that_is_not_utc_is_told() {
    let text = "[pipeline]\nname = \"t\"\n[api]\nbase_url = \"http://127.0.0.1\"\n[cron]\nrun = \"30 3 * * 1-5\"\n";
    let space = Space::new().file("other.toml", text).with("TZ", "CET-1CEST,M1.1.0,M12.5.0/23");
    let outcome = space.run("mirror42", &["crontab", "--pipeline", "other.toml"]);
    let here = space.path().canonicalize().unwrap();
    let lines: Vec<String> = outcome.stdout.lines().map(|line| line.replace(here.to_str().unwrap(), "HERE")).collect();
    let bin = bin().display();
    assert_eq!(
        lines[2..5],
        [
            "# Cron goes by the clock of this machine, which is UTC+02, not UTC: so do these times.".to_string(),
            format!("30 3 * * 1-5 cd HERE && {bin}/mirror42 run -q --pipeline other.toml"),
            format!("0 2 * * * cd HERE && {bin}/mirror42-rotate -q --pipeline other.toml"),
        ]
    );
    assert_eq!(lines.len(), 6, "no line for a token, which this API does not have");
}

#[test]
fn lines_are_installed_once_beside_those_of_others_and_go_without_a_trace() {
    let space = with_crontab(Space::new().file("a/pipeline.toml", PIPELINE).file("b/pipeline.toml", PIPELINE));
    let run = |folder: &str, args: &[&str]| {
        let file = format!("{folder}/pipeline.toml");
        let outcome = space.run("mirror42", &[&["crontab", "--pipeline", &file], args].concat());
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
        outcome.stdout
    };
    let read = || fs::read_to_string(crontab(&space)).unwrap();
    let user = user();
    let told = |rest: &str| format!("the crontab of `{user}` {rest}\n");
    let theirs = "# mine \n\n@reboot  x\t%y\nMAILTO=me\n";
    fs::write(crontab(&space), theirs).unwrap();
    assert_eq!(run("a", &["uninstall"]), told("has no lines of `42-stable`"));
    assert_eq!(run("a", &["install"]), told("has the lines of `42-stable` now"));
    assert_eq!(read(), format!("{theirs}{}", run("a", &[])));
    assert_eq!(run("a", &["install"]), told("has the lines of `42-stable` already"));
    assert_eq!(run("b", &["install", "-q"]), "");
    let below = "# below\n";
    fs::write(crontab(&space), read() + below).unwrap();
    // Another time goes to the same place.
    space.write("a/pipeline.toml", &format!("{PIPELINE}\n[cron]\nrun = \"7 7 * * *\"\n"));
    assert_eq!(run("a", &["install"]), told("has the lines of `42-stable` now"));
    assert_eq!(read(), format!("{theirs}{}{}{below}", run("a", &[]), run("b", &[])));
    assert!(read().contains("\n7 7 * * * cd "));
    assert_eq!(run("a", &["uninstall"]), told("has no lines of `42-stable` any more"));
    assert_eq!(read(), format!("{theirs}{}{below}", run("b", &[])));
    run("b", &["uninstall"]);
    assert_eq!(read(), format!("{theirs}{below}"));
    // Of a crontab that is empty without us nothing is left.
    fs::remove_file(crontab(&space)).unwrap();
    run("b", &["install"]);
    assert_eq!(read(), run("b", &[]));
    run("b", &["uninstall"]);
    assert!(!crontab(&space).exists());
}

#[test]
fn what_cannot_be_installed_is_told_and_nothing_is_changed() {
    let space = with_crontab(Space::new().file("pipeline.toml", PIPELINE));
    let refused = |space: &Space, code: i32, expected: &str| {
        let outcome = space.run("mirror42", &["crontab", "install"]);
        let expected = format!("mirror42: error: {expected}\n");
        assert_eq!(outcome, Outcome { code: Some(code), stdout: String::new(), stderr: expected });
    };
    let half = "# mirror42 begin /x/pipeline.toml\n0 1 * * * x\n";
    fs::write(crontab(&space), format!("# mine\n{half}")).unwrap();
    refused(
        &space,
        1,
        "the block of mirror42 for `/x/pipeline.toml` has no end\n  at: crontab, line 2\n  detail: Nothing was changed.\n  \
         hint: Run `crontab -e`, and remove what is left of the block.",
    );
    assert_eq!(fs::read_to_string(crontab(&space)).unwrap(), format!("# mine\n{half}"));
    fs::write(crontab(&space), b"caf\xe9\n").unwrap();
    let user = user();
    refused(
        &space,
        1,
        &format!(
            "cannot change the crontab of `{user}`: it is no UTF-8\n  detail: Nothing was changed.\n  \
             hint: `mirror42 crontab` prints the lines, to be put there by hand."
        ),
    );
    fs::remove_file(crontab(&space)).unwrap();
    space.write("crontab.refused", "");
    refused(
        &space,
        1,
        &format!("`crontab` could not write the crontab of `{user}`: it said: errors in crontab file, can't install."),
    );
    let space = space.with("PATH", "/nowhere");
    refused(
        &space,
        1,
        "there is no program `crontab`\n  detail: Nothing was changed.\n  hint: Install the package `cron` (Debian, Ubuntu) \
         or `cronie` (Fedora, Arch), or let systemd do it: `mirror42 systemd install`.",
    );
    let odd = Space::new().file("back\\slash/pipeline.toml", PIPELINE);
    let outcome = odd.run("mirror42", &["crontab", "--pipeline", "back\\slash/pipeline.toml"]);
    let folder = odd.path().canonicalize().unwrap();
    assert_eq!(
        (outcome.code, outcome.stderr),
        (
            Some(2),
            format!(
                "mirror42: error: cannot have `{}/back\\slash` run by itself\n  detail: Its path holds a backslash, a \
                 control character or bytes that are no UTF-8.\n  hint: Give it another name.\n",
                folder.display()
            )
        )
    );
}

#[test]
fn what_cron_runs_prints_nothing_in_any_folder_unless_it_fails() {
    let simulator = Simulator::start("");
    let folder = "it's 100% \"odd\" $HOME";
    let space = with_crontab(project(&simulator))
        .file(&format!("{folder}/pipeline.toml"), PIPELINE)
        .file(&format!("{folder}/schema.sql"), include_str!("../../schema.sql"));
    let file = format!("{folder}/pipeline.toml");
    succeed(&space.run("mirror42", &["crontab", "install", "--pipeline", &file]));
    let commands = commands(&fs::read_to_string(crontab(&space)).unwrap());
    assert_eq!(commands.len(), 3);
    // What passes by itself is nothing to mail.
    simulator.faults(&["kind = 'reset'; path = '/v2/coalitions'; times = 1"]);
    let shell = |command: &str| {
        let Outcome { code, stdout, stderr } = space.run("/bin/sh", &["-c", command]);
        (code, stdout, stderr)
    };
    for command in &commands {
        assert_eq!(shell(command), (Some(0), String::new(), String::new()), "{command}");
    }
    let log = fs::read_to_string(space.path().join(folder).join("logs/08_coalitions.log")).unwrap();
    assert!(log.contains("trying again"), "{log}");
    assert!(!log.contains(" WARN "), "{log}");

    // A failure is one block, whatever went before it.
    simulator.faults(&[
        "kind = 'reset'; path = '/v2/cursus/21/projects'; times = 1",
        "kind = 'json-error'; status = 404; path = '/v2/coalitions'; times = 0",
    ]);
    let (code, stdout, stderr) = shell(&format!("{} --force", commands[1]));
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    let mut lines = stderr.lines();
    let first = format!(
        "mirror42: error: could not fetch `{}/v2/coalitions?page=1&per_page=100`: it answered 404",
        simulator.url
    );
    assert!(lines.next().unwrap().starts_with(&first), "{stderr}");
    assert!(
        lines.all(|line| ["  at: ", "  detail: ", "  hint: "].iter().any(|part| line.starts_with(part))),
        "{stderr}"
    );
}
