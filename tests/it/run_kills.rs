//! Whole runs, with their loads, of which the driver, a stage or all are killed at any moment: the next run ends as if
//! nothing had been.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Instant;

use fastrand::Rng;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::driver::succeed;
use crate::run_flags::{pipeline, small};
use crate::run_stops::processes;
use crate::simulator::Simulator;
use crate::space::{Space, wait_until};

const STAGES: [&str; 5] = ["01_cursus", "02_campus", "03_achievements", "04_campus_achievements", "08_coalitions"];
const TABLES: [&str; 5] = ["cursus", "campuses", "achievements", "campus_achievements", "coalitions"];

/// What a night leaves: every export, and every row.
#[derive(PartialEq, Eq)]
struct Night {
    exports: BTreeMap<&'static str, Vec<u8>>,
    rows: Vec<String>,
}

fn rows(space: &Space) -> Vec<String> {
    let of =
        |table: &&str| space.query(&format!("select '{table}', to_jsonb(t) - 'ingested_at' from {table} t order by 2"));
    TABLES.iter().flat_map(of).collect()
}

fn night(space: &Space) -> Night {
    let export = |stage| (stage, std::fs::read(space.paths().all_json(stage)).unwrap_or_default());
    Night { exports: STAGES.map(export).into(), rows: rows(space) }
}

/// Temporary files below a folder.
fn temporary(folder: &Path) -> Vec<String> {
    let files = walkdir::WalkDir::new(folder).into_iter().filter_map(Result::ok);
    let files = files.filter(|file| file.file_name().to_string_lossy().starts_with(".tmp-"));
    files.map(|file| file.path().display().to_string()).collect()
}

fn sigkill(pid: i32) {
    // One that has ended meanwhile is as good.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

#[test]
fn what_a_run_that_did_not_end_left_in_a_stage_that_is_current_goes_with_the_next_run() {
    let simulator = Simulator::start("");
    let space = small(&simulator);
    let state = space.path().join(".mirror42");
    let run = |code| assert_eq!(space.run("mirror42", &["run", "-q", "08_coalitions"]).code, Some(code));
    let lock = || std::fs::read_to_string(state.join("run.lock")).unwrap();
    let litter = [space.paths().stage("08_coalitions").join(".tmp-all.json-x1"), state.join(".tmp-hashes-x1")];
    run(0);
    assert_eq!(lock(), "", "it ended well");
    litter.iter().for_each(|path| std::fs::write(path, "half").unwrap());
    run(0);
    assert!(litter.iter().all(|path| path.exists()), "nobody was killed, and somebody may be writing");
    space.write(".mirror42/run.lock", "`mirror42 run`, process 1, since yesterday");
    run(0);
    assert!(!litter.iter().any(|path| path.exists()));
    assert_eq!(lock(), "");
    simulator.faults(&["kind = 'json-error'; status = 404; times = 0"]);
    assert_eq!(space.run("mirror42", &["run", "-q", "--force", "08_coalitions"]).code, Some(1));
    assert!(lock().starts_with("`mirror42 run`, process "), "{}", lock());
}

/// Kills somebody in each of so many runs, at a random moment; then an undisturbed run must end exact.
fn kill_at_random(kills: usize) {
    let simulator = Simulator::start("--latency 1ms-8ms");
    let text = pipeline(&STAGES, "").replace("max_age     = \"20h\"", "max_age     = \"20h\"\nkeep_exports = 3");
    let space = simulator.space(&text).file("schema.sql", include_str!("../../schema.sql")).and_database();
    let force = |day: u32| {
        simulator.day(day);
        succeed(&space.run("mirror42", &["run", "-q", "--force"]));
    };
    let nights = [0, 1].map(|day| {
        force(day);
        night(&space)
    });
    assert!(nights[0].exports != nights[1].exports && nights[0].rows != nights[1].rows);
    let began = Instant::now();
    force(0);
    let took = began.elapsed();
    let mut random = Rng::with_seed(42);
    let (mut at, mut done_before, mut not_begun) = (0, 0, 0);
    for round in 0..kills {
        let to = 1 - at;
        simulator.day(to as u32);
        let mut run = space.command("mirror42", &["run", "-q", "--force"]);
        let run = run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        thread::sleep(took.mul_f64(random.f64() * 1.05));
        let driver = run.id().cast_signed();
        let stages: Vec<i32> = processes(&space).into_iter().map(|(pid, _)| pid).filter(|pid| *pid != driver).collect();
        let victim = ["the driver", "a stage", "all"][round % 3];
        match (victim, random.choice(&stages)) {
            ("a stage", Some(stage)) => sigkill(*stage),
            ("all", _) => stages.iter().chain([&driver]).for_each(|pid| sigkill(*pid)),
            _ => sigkill(driver),
        }
        let what = format!("kill {round}, of {victim}");
        let output = run.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        done_before += usize::from(output.status.success());
        wait_until("no process is left", || processes(&space).is_empty());
        let now = rows(&space);
        assert!(now == nights[at].rows || now == nights[to].rows, "{what}: rows of two nights: {told}");
        succeed(&space.run("mirror42", &["run", "-q"]));
        let now = night(&space);
        if now == nights[at] {
            // It was killed before it had noted that all is to be fetched again.
            not_begun += 1;
        } else {
            let differ = STAGES.iter().filter(|stage| now.exports[*stage] != nights[to].exports[*stage]);
            assert!(
                now == nights[to],
                "{what}: not exact, exports that differ: {:?}: {told}",
                differ.collect::<Vec<_>>()
            );
            at = to;
        }
        let left = ["exports", ".mirror42"].map(|folder| temporary(&space.path().join(folder))).concat();
        assert!(left.is_empty(), "{what}: {left:?}");
    }
    assert!(not_begun < kills, "no run was killed while it did something");
    println!(
        "{kills} kills of a run of {took:?}: every next run ended exact; {done_before} were done before, {not_begun} not begun"
    );
}

#[test]
fn whoever_is_killed_the_next_run_ends_exact() {
    kill_at_random(6);
}

/// `make chaos`; docs/faults.md has what came of it.
#[test]
#[ignore = "a campaign of minutes: make chaos"]
fn campaign_of_300_kills() {
    kill_at_random(300);
}
