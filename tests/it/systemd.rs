//! The units of systemd: what they say, as systemd itself understands it, and how they come and go.
//!
//! A program of a few lines stands for `systemctl`, since no systemd may run here, and none of the user's is to be touched.

use std::fs;
use std::process::Command;

use mirror42::pipeline::CronTime;

use crate::cron::{bin, with_program};
use crate::space::{Outcome, Space};

const PIPELINE: &str = include_str!("../../pipeline.toml");
const SYSTEMCTL: &str = r#"#!/bin/sh
echo "$*" >> "$SYSTEMCTL"
if [ -e "$SYSTEMCTL.refused" ]; then
    echo "System has not been booted with systemd as init system (PID 1). Can't operate." >&2
    exit 1
fi
"#;
const TIMERS: &str = "mirror42-42-stable-token.timer mirror42-42-stable-run.timer mirror42-42-stable-rotate.timer";

fn space() -> Space {
    let space = Space::new().file("mirror/pipeline.toml", PIPELINE);
    let (home, log) = (space.path().join("home"), space.path().join("systemctl"));
    let space = with_program(space, "systemctl", SYSTEMCTL);
    space.with("HOME", home.to_str().unwrap()).with("SYSTEMCTL", log.to_str().unwrap())
}

fn systemd(space: &Space, args: &[&str]) -> Outcome {
    space.run("mirror42", &[&["systemd", "--user", "--pipeline", "mirror/pipeline.toml"], args].concat())
}

fn units(space: &Space) -> Vec<String> {
    let Ok(entries) = fs::read_dir(space.path().join("home/.config/systemd/user")) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What systemctl was asked since the last time.
fn asked(space: &Space) -> Vec<String> {
    let file = space.path().join("systemctl");
    let text = fs::read_to_string(&file).unwrap_or_default();
    let _ = fs::remove_file(file);
    text.lines().map(str::to_string).collect()
}

#[test]
fn units_come_once_change_with_the_pipeline_and_go() {
    let space = space();
    let folder = space.path().join("home/.config/systemd/user");
    let shown = folder.display();
    let linger = "They run while you are logged in; `loginctl enable-linger` lets them run always.\n";
    let all = ["rotate.service", "rotate.timer", "run.service", "run.timer", "token.service", "token.timer"];
    let names = |pipeline: &str, units: &[&str]| -> Vec<String> {
        units.iter().map(|unit| format!("mirror42-{pipeline}-{unit}")).collect()
    };
    let done = |stdout: String| Outcome { code: Some(0), stdout, stderr: String::new() };
    assert_eq!(systemd(&space, &["uninstall"]), done(format!("there are no units of this pipeline in {shown}\n")));
    assert_eq!(systemd(&space, &["install"]), done(format!("wrote 6 units into {shown}; their timers run\n{linger}")));
    assert_eq!(units(&space), names("42-stable", &all));
    let commands = ["--user daemon-reload".to_string(), format!("--user enable --now {TIMERS}")];
    assert_eq!(asked(&space), commands);
    assert_eq!(
        systemd(&space, &["install"]),
        done(format!("the units are in {shown} already, and their timers run\n{linger}"))
    );
    assert_eq!(asked(&space), commands);
    // What is printed is what is written.
    let printed = systemd(&space, &[]).stdout;
    for name in units(&space) {
        let text = fs::read_to_string(folder.join(&name)).unwrap();
        assert!(printed.contains(&format!("# {name}\n{}", text.trim_end())), "{name}");
    }
    // Somebody else's units, and those of another pipeline, are left alone.
    fs::write(folder.join("mirror42-42-stable-mine.timer"), "[Timer]\n").unwrap();
    fs::write(folder.join("backup.timer"), "# mirror42 elsewhere\n").unwrap();
    space.write("mirror/pipeline.toml", &PIPELINE.replace("\"42-stable\"", "\"other\""));
    assert_eq!(
        systemd(&space, &["install"]),
        done(format!("wrote 6 units into {shown} and removed 6 others; the timers run\n{linger}"))
    );
    let theirs = ["backup.timer".to_string(), "mirror42-42-stable-mine.timer".to_string()];
    assert_eq!(units(&space), [&theirs[..], &names("other", &all)].concat());
    assert_eq!(
        asked(&space)[0],
        "--user disable --now mirror42-42-stable-rotate.timer mirror42-42-stable-run.timer mirror42-42-stable-token.timer"
    );
    assert_eq!(systemd(&space, &["uninstall"]), done(format!("stopped the timers and removed 6 units from {shown}\n")));
    assert_eq!(units(&space), theirs);
    assert_eq!(
        asked(&space),
        [
            "--user disable --now mirror42-other-rotate.timer mirror42-other-run.timer mirror42-other-token.timer",
            "--user daemon-reload"
        ]
    );
}

#[test]
fn what_systemd_does_not_do_is_told_with_the_commands_that_are_left() {
    let space = space();
    let folder = space.path().join("home/.config/systemd/user");
    let refused = |expected: String| Outcome {
        code: Some(1),
        stdout: String::new(),
        stderr: format!("mirror42: error: {expected}\n"),
    };
    space.write("systemctl.refused", "");
    let said = "it said: System has not been booted with systemd as init system (PID 1). Can't operate.";
    let hint = format!(
        "hint: Where systemd runs, give it `systemctl --user daemon-reload` and `systemctl --user enable --now {TIMERS}`."
    );
    let there = format!("detail: The units are in {}.", folder.display());
    assert_eq!(
        systemd(&space, &["install"]),
        refused(format!("`systemctl daemon-reload` failed: {said}\n  {there}\n  {hint}"))
    );
    assert_eq!(units(&space).len(), 6);
    let outcome = systemd(&space, &["uninstall"]);
    assert!(outcome.stderr.starts_with(&format!("mirror42: error: `systemctl disable` failed: {said}\n")));
    assert!(outcome.stderr.contains(&format!("detail: The units are no more in {}.\n", folder.display())));
    assert_eq!(units(&space).len(), 0);
    let space = space.with("PATH", "/nowhere");
    assert_eq!(systemd(&space, &["install"]), refused(format!("there is no program `systemctl`\n  {there}\n  {hint}")));
    // Two pipelines of one name.
    space.write("twin/pipeline.toml", PIPELINE);
    let outcome = space.run("mirror42", &["systemd", "install", "--user", "--pipeline", "twin/pipeline.toml"]);
    let first = space.path().canonicalize().unwrap().join("mirror/pipeline.toml");
    assert_eq!(
        outcome,
        refused(format!(
            "the unit `mirror42-42-stable-token.service` is there, and is of `{}`\n  at: {}\n  detail: Nothing was \
             changed.\n  hint: Give one of the two pipelines another `name` (pipeline.toml).",
            first.display(),
            folder.join("mirror42-42-stable-token.service").display()
        ))
    );
}

/// Whether a program of systemd is here.
fn has_analyze() -> bool {
    let has = Command::new("systemd-analyze").arg("--version").output().is_ok_and(|output| output.status.success());
    if !has {
        eprintln!("skipped: there is no systemd-analyze on this machine");
    }
    has
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if !has_analyze() {
        return;
    }
    let folder = "it's 100% \"odd\" $HOME";
    let space = Space::new().file(&format!("{folder}/pipeline.toml"), PIPELINE);
    for manager in ["--system", "--user"] {
        let file = format!("{folder}/pipeline.toml");
        let printed = space.run("mirror42", &["systemd", manager, "--pipeline", &file]);
        assert_eq!((printed.code, printed.stderr.as_str()), (Some(0), ""));
        assert_eq!(printed.stdout.contains("ProtectSystem=full"), manager == "--system");
        let mut files = Vec::new();
        for unit in printed.stdout.split("# mirror42-42-stable-").skip(1) {
            let (name, text) = unit.split_once('\n').unwrap();
            let name = format!("units{manager}/mirror42-42-stable-{name}");
            space.write(&name, text);
            files.push(space.path().join(name));
        }
        assert_eq!(files.len(), 6);
        let output = Command::new("systemd-analyze")
            .args(["verify", manager])
            .args(&files)
            .env("XDG_RUNTIME_DIR", space.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let ours: Vec<&str> = said.lines().filter(|line| line.contains("mirror42")).collect();
        assert!(output.status.success() && ours.is_empty(), "{ours:#?}\n{said}");
    }
    assert!(bin().join("mirror42").exists());
}

/// The minutes from `begin` on at which cron runs a job of this time: as crontab(5) has it, minute by minute.
fn minutes_of_cron(time: &CronTime, begin: jiff::civil::DateTime, count: usize) -> Vec<String> {
    let has = |values: u64, value: i8| values >> value & 1 == 1;
    let days = (0..).map(|n| begin.date().checked_add(jiff::Span::new().days(n)).unwrap());
    let matching = days.filter(|day| {
        let weekday = has(time.weekdays, day.weekday().to_sunday_zero_offset());
        let monthday = has(time.days, day.day());
        has(time.months, day.month()) && if time.either_day { weekday || monthday } else { weekday && monthday }
    });
    let minutes = matching.flat_map(|day| {
        let all = (0..24).flat_map(|hour| (0..60).map(move |minute| (hour, minute)));
        let due = all.filter(|(hour, minute)| has(time.hours, *hour) && has(time.minutes, *minute));
        due.map(|(hour, minute)| day.at(hour, minute, 0, 0)).collect::<Vec<_>>()
    });
    let later = minutes.filter(|time| *time > begin);
    later.take(count).map(|time| time.strftime("%a %Y-%m-%d %H:%M:%S UTC").to_string()).collect()
}

#[test]
fn systemd_elapses_at_the_minutes_of_cron() {
    if !has_analyze() {
        return;
    }
    let begin: jiff::civil::DateTime = "2026-01-30T22:30:00".parse().unwrap();
    for text in
        ["5 * * * *", "0 1 * * *", "*/7 0-5,22 * * *", "0 1 29 feb *", "0 1 1,15 * mon", "59 23 */10 1-6/2 sat,7"]
    {
        let pipeline =
            format!("[pipeline]\nname = \"t\"\n[api]\nbase_url = \"http://127.0.0.1\"\n[cron]\nrun = \"{text}\"\n");
        let space = Space::new().file("pipeline.toml", &pipeline);
        let printed = space.run("mirror42", &["systemd", "--user"]).stdout;
        let (_, timer) = printed.split_once("# mirror42-t-run.timer\n").unwrap();
        let timer = timer.split("# mirror42-t-").next().unwrap();
        let expressions: Vec<&str> = timer.lines().filter_map(|line| line.strip_prefix("OnCalendar=")).collect();
        let mut elapses: Vec<(jiff::civil::DateTime, String)> = Vec::new();
        for expression in &expressions {
            let base = format!("--base-time={} UTC", begin.strftime("%Y-%m-%d %H:%M:%S"));
            let mut analyze = Command::new("systemd-analyze");
            let output =
                analyze.args(["calendar", "--iterations=24", &base, expression]).env("TZ", "UTC").output().unwrap();
            assert!(output.status.success(), "{expression}");
            let said = String::from_utf8(output.stdout).unwrap();
            let times = said.lines().filter_map(|line| {
                let (name, time) = line.split_once(": ")?;
                (name.contains("Next elapse") || name.contains("Iter")).then(|| time.trim().to_string())
            });
            elapses.extend(times.map(|time| (time[4..23].replace(' ', "T").parse().unwrap(), time)));
        }
        elapses.sort();
        elapses.dedup();
        let found: Vec<String> = elapses.into_iter().take(12).map(|(_, time)| time).collect();
        assert_eq!(found, minutes_of_cron(&CronTime::parse(text).unwrap(), begin, 12), "{text}: {expressions:?}");
    }
}
