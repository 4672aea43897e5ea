//! Runs and stages that are asked to end, that take too long, or that die: what is told, and that nothing is lost.

use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::unistd::Pid;

use crate::driver::succeed;
use crate::run_flags::small;
use crate::simulator::Simulator;
use crate::space::{Outcome, Space, wait_until};

const KEPT: &str = "What was fetched and extracted is kept, the pages of a fetch under way too.";
const AGAIN: &str = "Run it again: it goes on from there.";

/// A run that a signal can end, though the tests themselves may have been started so that it cannot.
fn begin(space: &Space, binary: &str, args: &[&str]) -> Child {
    let mut command = space.command(binary, args);
    // SAFETY: one system call between fork and exec, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            for number in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
                signal(number, SigHandler::SigDfl)?;
            }
            Ok(())
        });
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

fn ask(child: &Child, signal: Signal) -> Instant {
    send(child.id().cast_signed(), signal);
    Instant::now()
}

fn end(child: Child) -> Outcome {
    let output = child.wait_with_output().unwrap();
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn told(outcome: &Outcome, code: i32, expected: &str) {
    assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (Some(code), "", expected));
}

/// The processes of ours that work in this folder, by their programs.
pub fn processes(space: &Space) -> Vec<(i32, String)> {
    let folder = space.path().canonicalize().unwrap();
    let entries =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let ours = entries.filter_map(|pid: i32| {
        let link = |name: &str| std::fs::read_link(format!("/proc/{pid}/{name}")).ok();
        let program = link("exe")?.file_name()?.to_str()?.to_string();
        (link("cwd")? == folder && program.starts_with("mirror42")).then_some((pid, program))
    });
    ours.collect()
}

/// The process of a stage, once there is one.
fn stage(space: &Space, program: &str) -> i32 {
    let mut found = None;
    wait_until(program, || {
        found = processes(space).into_iter().find(|(_, name)| name == program).map(|(pid, _)| pid);
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn a_run_that_is_asked_to_end_says_what_is_kept_and_the_next_goes_on() {
    let simulator = Simulator::start("");
    let space = small(&simulator);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        simulator.hold("/v2/coalitions&page=4");
        let run = begin(&space, "mirror42", &["run", "-q"]);
        let journal = space.paths().pages_under_way("08_coalitions").join("journal.jsonl");
        let lines = || std::fs::read_to_string(&journal).unwrap_or_default().lines().count();
        wait_until("all else has come", || {
            space.paths().receipt("02_campus").exists() && lines() >= 4 && simulator.stats()["held"] == 1
        });
        let asked = ask(&run, signal);
        let outcome = end(run);
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        let expected = format!(
            "mirror42: error: stopped by {signal}\n  detail: {KEPT}\n  \
             detail: Nothing was loaded; the database is as it was.\n  hint: {AGAIN}\n"
        );
        told(&outcome, 75, &expected);
        assert_eq!(processes(&space), []);
        simulator.release();
    }
    simulator.reset_stats();
    succeed(&space.run("mirror42", &["run", "-q"]));
    assert_eq!(simulator.stats()["requests"]["coalitions"], 2, "the first again, by its ETag, and the last");
    assert_eq!(space.query("select count(*) from coalitions"), ["350"]);
    let log = std::fs::read_to_string(space.paths().log("run")).unwrap();
    assert!(log.contains(" failed: stopped by SIGHUP\n"), "{log}");
}

#[test]
fn a_stage_that_does_not_end_is_killed_and_a_second_signal_waits_for_nobody() {
    let simulator = Simulator::start("");
    let space = small(&simulator);
    simulator.hold("/v2/coalitions");
    for second in [false, true] {
        let run = begin(&space, "mirror42", &["run", "-q", "08_coalitions"]);
        wait_until("the fetch waits", || simulator.stats()["held"].as_u64() > Some(0));
        // Nothing but SIGKILL ends it now.
        send(stage(&space, "mirror42-fetch"), Signal::SIGSTOP);
        let asked = ask(&run, Signal::SIGTERM);
        if second {
            std::thread::sleep(Duration::from_millis(100));
            ask(&run, Signal::SIGINT);
        }
        let outcome = end(run);
        let took = asked.elapsed();
        if second {
            assert_eq!((outcome.code, outcome.stderr.as_str()), (None, ""));
            assert!(took < Duration::from_secs(1), "{took:?}");
        } else {
            let expected = format!("mirror42: error: stopped by SIGTERM\n  detail: {KEPT}\n  hint: {AGAIN}\n");
            told(&outcome, 75, &expected);
            assert!(took > Duration::from_secs(1) && took < Duration::from_secs(2), "{took:?}");
        }
        wait_until("the stage is gone", || processes(&space).is_empty());
    }
}

#[test]
fn a_load_that_is_asked_to_end_leaves_the_database_as_it_was() {
    let simulator = Simulator::start("");
    let space = small(&simulator);
    succeed(&space.run("mirror42", &["run", "-q"]));
    let content = || space.query("select c.*, c.xmin from coalitions c order by id");
    let before = content();
    simulator.day(1);
    let mut client = space.client();
    let mut tx = client.transaction().unwrap();
    tx.batch_execute("lock table coalitions in access share mode; lock table campuses").unwrap();
    let waits = "select 1 from pg_locks where not granted and database = (select oid from pg_database where datname = current_database())";
    for alone in [false, true] {
        let (binary, args): (_, &[&str]) = match alone {
            true => ("mirror42-load", &["-q"]),
            false => ("mirror42", &["run", "-q", "--force"]),
        };
        let run = begin(&space, binary, args);
        wait_until("the load waits for a lock", || !space.query(waits).is_empty());
        ask(&run, Signal::SIGTERM);
        let kept = if alone { String::new() } else { format!("  detail: {KEPT}\n") };
        let expected = format!(
            "{binary}: error: stopped by SIGTERM\n{kept}  detail: Nothing was loaded; the database is as it was.\n  \
             hint: {AGAIN}\n"
        );
        told(&end(run), 75, &expected);
        wait_until("its session has ended", || space.query(waits).is_empty());
    }
    drop(tx);
    assert_eq!(content(), before);
    succeed(&space.run("mirror42", &["run", "-q"]));
    assert_ne!(content(), before);
}

#[test]
fn stages_alone_are_asked_too_and_a_signal_that_is_ignored_stays_ignored() {
    let simulator = Simulator::start("");
    let space = small(&simulator);
    simulator.hold("/v2/coalitions");
    let fetch = begin(&space, "mirror42-fetch", &["-q", "08_coalitions"]);
    wait_until("the fetch waits", || simulator.stats()["held"].as_u64() > Some(0));
    ask(&fetch, Signal::SIGINT);
    let expected = format!(
        "mirror42-fetch: error: stopped by SIGINT\n  \
         detail: Pages that have come are kept; the next fetch goes on with them.\n  hint: {AGAIN}\n"
    );
    told(&end(fetch), 75, &expected);
    let log = std::fs::read_to_string(space.paths().log("fetch")).unwrap();
    assert!(log.contains(" ERROR fetch: stopped by SIGINT "), "{log}");

    let mut command = space.command("mirror42", &["run", "-q", "08_coalitions"]);
    // As nohup does. SAFETY: one system call between fork and exec.
    unsafe {
        command.pre_exec(|| Ok(signal(Signal::SIGHUP, SigHandler::SigIgn).map(|_| ())?));
    }
    let run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the fetch waits again", || simulator.stats()["held"].as_u64() > Some(0));
    ask(&run, Signal::SIGHUP);
    send(stage(&space, "mirror42-fetch"), Signal::SIGHUP);
    std::thread::sleep(Duration::from_millis(100));
    simulator.release();
    succeed(&end(run));
}

#[test]
fn a_step_that_takes_longer_than_its_timeout_is_stopped() {
    let simulator = Simulator::start("");
    let space = small(&simulator);
    let text = std::fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    let with = |timeout: &str| {
        let text =
            text.replace("fetch = \"/v2/coalitions\"", &format!("fetch = \"/v2/coalitions\"\ntimeout = \"{timeout}\""));
        space.write("pipeline.toml", &text);
        text
    };
    let file = with("1s");
    let line = 1 + file.lines().position(|line| line.contains("08_coalitions")).unwrap();
    simulator.hold("/v2/coalitions&page=4");
    let outcome = space.run("mirror42", &["run", "-q", "08_coalitions"]);
    let expected = format!(
        "mirror42: error: the fetch of stage `08_coalitions` took longer than its timeout, 1 s\n  \
         at: pipeline.toml:{}\n  \
         detail: It was stopped. Pages that have come are kept; the next fetch goes on with them.\n  \
         hint: Raise `timeout` of the stage, if it may take longer.\n",
        line - 1
    );
    told(&outcome, 1, &expected);
    simulator.release();
    with("1min");
    succeed(&space.run("mirror42", &["run", "-q", "08_coalitions"]));

    // A filter that does not end.
    with("500ms");
    let file = std::fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    space.write(
        "pipeline.toml",
        &file.replace("jq    = '{id, name, slug, image_url", "jq    = 'last(repeat(.)) | {id, name, slug, image_url"),
    );
    let outcome = space.run("mirror42", &["run", "-q", "08_coalitions"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    let expected = "mirror42: error: the extract of stage `08_coalitions` took longer than its timeout, 500ms\n  at: ";
    assert!(outcome.stderr.starts_with(expected), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("\n  detail: It was stopped. Its export is as it was.\n"), "{}", outcome.stderr);
    assert_eq!(processes(&space), []);

    with("0s");
    let outcome = space.run("mirror42", &["plan"]);
    assert_eq!(outcome.code, Some(2));
    assert!(
        outcome.stderr.contains("`stage.timeout` is \"0s\", expected a duration longer than nothing"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_stage_that_dies_is_told_of_with_its_last_lines() {
    let simulator = Simulator::start("");
    let space = small(&simulator);
    simulator.faults(&["kind = 'server-error'; status = 502; path = '/v2/coalitions'; page = 2; times = 1"]);
    simulator.hold("/v2/coalitions&page=4");
    let run = begin(&space, "mirror42", &["run", "-q", "08_coalitions"]);
    wait_until("it has met with an error", || {
        std::fs::read_to_string(space.paths().log("08_coalitions")).is_ok_and(|log| log.contains("502"))
            && simulator.stats()["held"].as_u64() > Some(0)
    });
    send(stage(&space, "mirror42-fetch"), Signal::SIGKILL);
    let outcome = end(run);
    let begin = "mirror42: error: `mirror42-fetch 08_coalitions` was killed by SIGKILL, without a word of its own\n  \
                 detail: Its last line: ";
    assert_eq!(outcome.code, Some(1));
    let message = outcome.stderr.split_once(begin).unwrap_or_else(|| panic!("{}", outcome.stderr)).1;
    assert!(message.contains("it answered 502"), "{}", outcome.stderr);
    let hint = "\n  hint: If nobody killed it, the kernel did, for want of memory: `dmesg` tells. Then run again.\n";
    assert!(message.ends_with(hint), "{}", outcome.stderr);
}
