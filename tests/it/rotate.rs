//! Logs are compressed and removed by their age and size, and nothing else is touched.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::space::{Outcome, Space};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const PIPELINE: &str = "[pipeline]\nname = \"t\"\n[api]\nbase_url = \"http://127.0.0.1:1\"\n";

fn project() -> Space {
    Space::new().file("pipeline.toml", PIPELINE)
}

fn rotate(space: &Space, args: &[&str]) -> Outcome {
    space.run("mirror42-rotate", args)
}

/// Makes the file as old as this.
fn age(space: &Space, path: &str, age: Duration) {
    let file = File::options().write(true).open(space.path().join(path)).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

/// The names below `logs/`, without the rotation's own log.
fn logs(space: &Space) -> Vec<String> {
    let logs = space.path().join("logs");
    let entries = walkdir::WalkDir::new(&logs).sort_by_file_name().into_iter().map(Result::unwrap);
    let files = entries.filter(|entry| !entry.file_type().is_dir());
    let names = files.map(|entry| entry.path().strip_prefix(&logs).unwrap().to_str().unwrap().to_string());
    names.filter(|name| name != "rotate.log").collect()
}

fn day(age: Duration) -> String {
    jiff::Timestamp::try_from(SystemTime::now() - age).unwrap().strftime("%Y-%m-%d").to_string()
}

fn unzipped(path: &Path) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn old_and_large_logs_are_compressed_and_young_ones_stay() {
    let space = project().file("logs/load.log", "old\n").file("logs/runs/a.log", "old too\n");
    space.write("logs/young.log", "young\n");
    space.write("logs/large.log", &"x".repeat(2001));
    space.write("logs/empty.log", "");
    for old in ["logs/load.log", "logs/runs/a.log", "logs/empty.log"] {
        age(&space, old, DAY * 3);
    }
    age(&space, "logs/young.log", HOUR * 23);
    let outcome = rotate(&space, &["--larger-than", "2kB"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), ""));
    assert!(outcome.stderr.ends_with(" rotate: compressed 3 logs, removed 0\n"), "{}", outcome.stderr);
    let (old, new) = (day(DAY * 3), day(Duration::ZERO));
    assert_eq!(
        logs(&space),
        [
            "empty.log".to_string(),
            format!("large.log.{new}.gz"),
            format!("load.log.{old}.gz"),
            format!("runs/a.log.{old}.gz"),
            "young.log".to_string()
        ]
    );
    let gz = space.path().join(format!("logs/load.log.{old}.gz"));
    assert_eq!(unzipped(&gz), "old\n");
    let kept_time = SystemTime::now().duration_since(fs::metadata(gz).unwrap().modified().unwrap()).unwrap();
    assert!(kept_time >= DAY * 3, "a compressed log is as old as its last line");
    // A second time there is nothing to do.
    let before = logs(&space);
    let again = rotate(&space, &["--larger-than", "2kB"]);
    assert!(again.stderr.ends_with(" rotate: compressed 0 logs, removed 0\n"), "{}", again.stderr);
    assert_eq!(logs(&space), before);
}

#[test]
fn a_log_that_is_written_every_night_is_old_by_its_first_line() {
    let space = project();
    let line = |age: Duration| {
        let time = jiff::Timestamp::try_from(SystemTime::now() - age).unwrap();
        format!("{} INFO  run: done\n", mirror42::log::timestamp(time))
    };
    space.write("logs/run.log", &format!("{}{}", line(HOUR * 25), line(Duration::ZERO)));
    space.write("logs/load.log", &line(HOUR * 23));
    assert_eq!(rotate(&space, &[]).code, Some(0));
    assert_eq!(logs(&space), ["load.log".to_string(), format!("run.log.{}.gz", day(Duration::ZERO))]);
}

#[test]
fn two_of_one_day_stand_side_by_side() {
    let space = project();
    for text in ["one", "two", "three"] {
        space.write("logs/load.log", text);
        assert_eq!(rotate(&space, &["--larger-than", "0", "-q"]).code, Some(0));
    }
    let today = day(Duration::ZERO);
    let names = [format!("load.log.{today}.1.gz"), format!("load.log.{today}.2.gz"), format!("load.log.{today}.gz")];
    let of_load: Vec<String> = logs(&space).into_iter().filter(|name| name.starts_with("load")).collect();
    assert_eq!(of_load, names);
    let texts = names.map(|name| unzipped(&space.path().join("logs").join(name)));
    assert_eq!(texts, ["two", "three", "one"]);
}

#[test]
fn what_was_compressed_long_ago_goes() {
    let space = project();
    for (name, days) in [("a.log.2026-01-01.gz", 31), ("b.log.2026-01-01.3.gz", 29), ("runs/c.log.2026-01-01.gz", 31)] {
        space.write(&format!("logs/{name}"), "");
        age(&space, &format!("logs/{name}"), DAY * days);
    }
    let outcome = rotate(&space, &[]);
    assert!(outcome.stderr.contains("rotate: removed `logs/a.log.2026-01-01.gz`\n"), "{}", outcome.stderr);
    assert_eq!(logs(&space), ["b.log.2026-01-01.3.gz"]);
    assert_eq!(rotate(&space, &["--keep-days", "28"]).code, Some(0));
    assert!(logs(&space).is_empty());
}

#[test]
fn the_pipeline_file_says_what_is_old_and_large_and_flags_say_otherwise() {
    let pipeline = format!("{PIPELINE}[logs]\ncompress_after = \"2h\"\ncompress_size = \"1kB\"\nkeep = \"3d\"\n");
    let space = Space::new().file("pipeline.toml", &pipeline);
    for (name, text, hours) in [("old", "x", 3), ("young", "x", 1), ("large", &"x".repeat(1001), 0)] {
        space.write(&format!("logs/{name}.log"), text);
        age(&space, &format!("logs/{name}.log"), HOUR * hours);
    }
    space.write("logs/gone.log.2026-01-01.gz", "");
    age(&space, "logs/gone.log.2026-01-01.gz", DAY * 4);
    let flags = ["--older-than", "1d", "--larger-than", "2kB", "--keep-days", "5"];
    let outcome = rotate(&space, &flags);
    assert!(outcome.stderr.ends_with(" rotate: compressed 0 logs, removed 0\n"), "{}", outcome.stderr);
    let outcome = rotate(&space, &[]);
    assert!(outcome.stderr.ends_with(" rotate: compressed 2 logs, removed 1\n"), "{}", outcome.stderr);
    let compressed = |name: &str, age: Duration| format!("{name}.log.{}.gz", day(age));
    assert_eq!(
        logs(&space),
        [compressed("large", Duration::ZERO), compressed("old", HOUR * 3), "young.log".to_string()]
    );
}

#[test]
fn records_of_runs_are_kept_as_they_are_until_they_go() {
    let space = project();
    let (old, young) = ("20260101T010000Z-4711.json", "20260102T010000Z-4712.json");
    let others = ["runs/notes.json", "20260101T010000Z-4711.json"];
    for name in [&format!("runs/{old}"), &format!("runs/{young}"), others[0], others[1]] {
        space.write(&format!("logs/{name}"), "{}");
        age(&space, &format!("logs/{name}"), DAY * 31);
    }
    age(&space, &format!("logs/runs/{young}"), DAY * 29);
    let outcome = rotate(&space, &["--larger-than", "0"]);
    assert!(outcome.stderr.contains(&format!(" rotate: removed `logs/runs/{old}`\n")), "{}", outcome.stderr);
    assert!(outcome.stderr.ends_with(" rotate: compressed 0 logs, removed 1\n"), "{}", outcome.stderr);
    assert_eq!(logs(&space), [others[1], &format!("runs/{young}"), others[0]]);
}

#[test]
fn files_of_others_are_left_alone() {
    let space = project();
    let others = ["a.gz", "access.log.1.gz", "dump.sql", "load.log.2026-1-1.gz", "load.log.bak", "notes.2026-01-01.gz"];
    for name in others {
        space.write(&format!("logs/{name}"), "theirs");
        age(&space, &format!("logs/{name}"), DAY * 400);
    }
    space.write("outside.log", "theirs");
    age(&space, "outside.log", DAY * 400);
    let link = space.path().join("logs/link.log");
    std::os::unix::fs::symlink("../outside.log", &link).unwrap();
    std::os::unix::fs::symlink("..", space.path().join("logs/up")).unwrap();
    let outcome = rotate(&space, &["--larger-than", "0"]);
    assert!(outcome.stderr.ends_with(" rotate: compressed 0 logs, removed 0\n"), "{}", outcome.stderr);
    assert_eq!(logs(&space), [&others[..3], &["link.log"], &others[3..], &["up"]].concat());
    assert_eq!(fs::read_to_string(link).unwrap(), "theirs");
}

#[test]
fn a_killed_rotation_is_finished_by_the_next() {
    let space = project();
    // Killed after the log had its new name; and after the compressed file stood, before the other went.
    space.write("logs/load.log.2026-11-01", "renamed\n");
    space.write("logs/run.log.2026-11-01.1", "compressed\n");
    space.write("logs/run.log.2026-11-01.1.gz", "whatever");
    space.write("logs/.tmp-abc", "half");
    assert_eq!(rotate(&space, &[]).code, Some(0));
    assert_eq!(logs(&space), ["load.log.2026-11-01.gz", "run.log.2026-11-01.1.gz"]);
    assert_eq!(unzipped(&space.path().join("logs/load.log.2026-11-01.gz")), "renamed\n");
    assert_eq!(unzipped(&space.path().join("logs/run.log.2026-11-01.1.gz")), "compressed\n");
}

#[test]
fn no_line_is_lost_beside_a_running_writer() {
    let space = project();
    let log = space.path().join("logs/load.log");
    fs::create_dir(log.parent().unwrap()).unwrap();
    let lines = 20_000;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for i in 0..lines {
                mirror42::files::append_line(&log, format!("line {i}\n").as_bytes()).unwrap();
            }
        });
        while !writer.is_finished() {
            let outcome = rotate(&space, &["--larger-than", "0", "-q"]);
            assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        }
    });
    let mut numbers: Vec<u32> = Vec::new();
    for name in logs(&space).iter().filter(|name| name.starts_with("load.log")) {
        let path = space.path().join("logs").join(name);
        let text = if name.ends_with(".gz") { unzipped(&path) } else { fs::read_to_string(&path).unwrap() };
        numbers.extend(text.lines().map(|line| line.strip_prefix("line ").unwrap().parse::<u32>().unwrap()));
    }
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..lines), "{} of {lines} lines", numbers.len());
}

#[test]
fn one_rotation_at_a_time() {
    let space = project();
    let lock = mirror42::files::Lock::try_with_owner(&space.paths().stage_lock("rotate"), "test").unwrap();
    let outcome = rotate(&space, &[]);
    assert_eq!(outcome.code, Some(3));
    assert_eq!(outcome.stderr, "mirror42-rotate: error: another rotation is under way\n");
    drop(lock);
    assert_eq!(rotate(&space, &[]).code, Some(0));
}
