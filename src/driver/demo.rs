//! The whole mirror on this machine: the simulator as the API, the embedded server as the database.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use clap::Args;
use serde_json::Value;
use walkdir::{DirEntry, WalkDir};

use super::child;
use super::targets::{Fetching, Targets};
use crate::cli::Context;
use crate::error::{Error, Result};
use crate::files;
use crate::paths::Paths;
use crate::pg::embedded;
use crate::pipeline::Stage;

/// The credentials that the simulator takes.
const CLIENT_ID: &str = "sim-uid";
const CLIENT_SECRET: &str = "sim-secret";

#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// No rate limit and no latency: seconds in the place of a minute
    #[arg(long)]
    quick: bool,
    /// The API as it is after so many days of changes
    #[arg(long, value_name = "N")]
    day: Option<u32>,
    /// The day after that of the last demo: rows are added, changed and removed
    #[arg(long, conflicts_with = "day")]
    next_day: bool,
    /// Forget the demo: stop its database and remove its exports, data, logs and state; what was here before it stays
    #[arg(long, conflicts_with_all = ["quick", "day", "next_day"])]
    pub remove: bool,
}

/// The simulator, for as long as this is held: it ends when its standard input closes.
pub struct Simulator {
    child: Child,
    stdin: Option<ChildStdin>,
    pub url: String,
}

impl Drop for Simulator {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // It has nothing to lose; that it is already gone is well.
        let _ = self.child.wait();
    }
}

/// What the demo chose.
pub struct Setting {
    pub simulator: Simulator,
    pub database_url: String,
    pub limits: Option<&'static str>,
    pub day: u32,
}

impl Setting {
    /// The children's environment: the simulator in the place of the API, the embedded server as the database.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut environment = vec![
            ("MIRROR42_API_URL", self.simulator.url.clone()),
            ("FT_CLIENT_ID", CLIENT_ID.to_string()),
            ("FT_CLIENT_SECRET", CLIENT_SECRET.to_string()),
            ("DATABASE_URL", self.database_url.clone()),
        ];
        if let Some(limits) = self.limits {
            environment.push(("MIRROR42_LIMITS", limits.to_string()));
        }
        environment
    }
}

/// Starts all that the demo needs.
pub fn set_up(context: &Context, args: &DemoArgs) -> Result<Setting> {
    let paths = &context.pipeline.paths;
    let marked = Mark::read(paths)?;
    let mark = match &marked {
        Some(mark) => mark.clone(),
        None => {
            refuse_foreign(context)?;
            Mark { day: 0, before: files_of(context)? }
        }
    };
    let day = match (args.day, args.next_day) {
        (Some(day), _) => day,
        (None, true) => marked.map_or(0, |mark| mark.day + 1),
        (None, false) => mark.day,
    };
    Mark { day, ..mark }.write(paths)?;
    let database_url = embedded::started(paths)?.url();
    let mut options = vec!["--day".to_string(), day.to_string()];
    let manners = if args.quick { ["none", "none"] } else { ["2/1200", "realistic"] };
    options.extend(["--limits", manners[0], "--latency", manners[1]].map(String::from));
    let limits = args.quick.then_some("none");
    Ok(Setting { simulator: start_simulator(&options)?, database_url, limits, day })
}

/// What `.mirror42/demo` says: that the mirror in this folder is a demo's.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    /// Of the last demo.
    day: u32,
    /// The files that were here before the first one, from the root.
    before: BTreeSet<String>,
}

impl Mark {
    /// None where there was no demo.
    fn read(paths: &Paths) -> Result<Option<Mark>> {
        let Some(bytes) = files::read_if_there(&paths.demo())? else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.lines();
        let day = lines.next().and_then(|day| day.trim().parse().ok()).ok_or_else(|| {
            Error::failed("the demo's mark does not say its day")
                .at(paths.shown(&paths.demo()))
                .hint("Write a number into its first line, such as 0.")
        })?;
        Ok(Some(Mark { day, before: lines.map(str::to_string).collect() }))
    }

    fn write(&self, paths: &Paths) -> Result<()> {
        let lines = self.before.iter().map(|name| format!("{name}\n"));
        let text = std::iter::once(format!("{}\n", self.day)).chain(lines).collect::<String>();
        files::write(&paths.demo(), text.as_bytes()).map(drop)
    }
}

/// What is here must not be what a demo would put its own in the place of.
fn refuse_foreign(context: &Context) -> Result<()> {
    let paths = &context.pipeline.paths;
    let is_made = |stage: &Stage| {
        let name = &stage.name;
        [paths.receipt(name), paths.all_json(name), paths.pages(name)].iter().any(|path| path.exists())
    };
    let (what, place) = match context.pipeline.stages.iter().any(is_made) {
        true => ("mirror", paths.exports()),
        false if !matches!(embedded::status(paths)?, embedded::Status::Absent) => ("database", paths.postgres()),
        false => return Ok(()),
    };
    Err(Error::usage(format!("this folder holds a {what} that is not the demo's"))
        .at(place.display().to_string())
        .detail("The demo would put synthetic data in its place.")
        .hint("Run the demo in another copy of the project."))
}

/// The files in the places where a demo puts its own, from the root: all but the database and the lock that is held now.
fn files_of(context: &Context) -> Result<BTreeSet<String>> {
    let paths = &context.pipeline.paths;
    let mut found = BTreeSet::new();
    for folder in folders(context) {
        for entry in WalkDir::new(&folder).into_iter().filter_map(there) {
            let entry =
                entry.map_err(|cause| Error::failed(format!("could not read `{}`: {cause}", folder.display())))?;
            if !entry.file_type().is_dir() && entry.path() != paths.run_lock() && is_ours(paths, entry.path()) {
                found.insert(paths.shown(entry.path()));
            }
        }
    }
    Ok(found)
}

/// What was there, if it was.
fn there(entry: walkdir::Result<DirEntry>) -> Option<walkdir::Result<DirEntry>> {
    let is_gone = |error: &walkdir::Error| error.io_error().is_some_and(|cause| cause.kind() == ErrorKind::NotFound);
    Some(entry).filter(|entry| !entry.as_ref().is_err_and(is_gone))
}

fn folders(context: &Context) -> Vec<PathBuf> {
    let paths = &context.pipeline.paths;
    let stages = context.pipeline.stages.iter().map(|stage| paths.stage(&stage.name));
    stages.chain([paths.snapshots(), paths.logs(), paths.state()]).collect()
}

/// Whether a file in one of these folders can be a demo's: among the logs people keep notes of their own.
fn is_ours(paths: &Paths, path: &Path) -> bool {
    let has = |extension: &str| path.extension().is_some_and(|found| found == extension);
    match (path.starts_with(paths.logs()), path.starts_with(paths.runs())) {
        (false, _) => true,
        (true, false) => has("log"),
        (true, true) => has("json"),
    }
}

/// A run that is no demo makes the mirror in this folder its own: no later demo may replace or remove it.
/// The run lock is the caller's: one that does not come to run leaves the demo what it is.
pub fn leave(context: &Context, targets: &Targets) -> Result<()> {
    let asks_the_api = targets.fetching == Fetching::AsNeeded && !targets.stages.is_empty();
    if asks_the_api { files::remove(&context.pipeline.paths.demo()) } else { Ok(()) }
}

fn start_simulator(options: &[String]) -> Result<Simulator> {
    let mut command = Command::new(child::program("mirror42-simulate")?);
    command.args(["serve", "--port", "0", "--until-stdin-closes"]).args(options);
    // A ^C is for the driver, which needs it until its children have ended.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
    let failed = |cause: std::io::Error| Error::failed(format!("could not start the simulator: {cause}"));
    let mut child = command.spawn().map_err(failed)?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).map_err(failed)?;
    }
    let stdin = child.stdin.take();
    match line.trim().strip_prefix("listening on ") {
        Some(url) => Ok(Simulator { child, stdin, url: url.to_string() }),
        None => Err(Error::failed("the simulator ended before it was ready")),
    }
}

/// Forgets what demos made in this folder.
pub fn remove(context: &Context) -> Result<()> {
    let paths = &context.pipeline.paths;
    let Some(mark) = Mark::read(paths)? else {
        return Err(Error::usage("there is no demo in this folder").at(paths.root().display().to_string()));
    };
    embedded::remove(paths)?;
    // The mark last: a removal that is killed half way is gone on with.
    for name in files_of(context)?.difference(&mark.before) {
        let path = paths.root().join(name);
        if path != paths.demo() && !is_of_login(paths, &path)? {
            files::remove(&path)?;
        }
    }
    files::remove(&paths.demo())?;
    files::remove(&paths.run_lock())?;
    for folder in folders(context).into_iter().chain([paths.exports(), paths.data()]) {
        for entry in WalkDir::new(&folder).contents_first(true).into_iter().flatten() {
            if entry.file_type().is_dir() {
                // One that is not empty stays.
                let _ = std::fs::remove_dir(entry.path());
            }
        }
    }
    Ok(())
}

/// Whether a file may be of a person's token, without which one has to log in again: of any token but the simulator's, or of
/// one that cannot be read. One that a killed process has not come to put in its place counts too.
fn is_of_login(paths: &Paths, path: &Path) -> Result<bool> {
    let token = paths.token();
    if path == token.with_extension("lock") {
        // It comes after the token, as names go.
        return Ok(token.exists());
    }
    let name = token.file_name().unwrap_or_default().to_string_lossy();
    let is_token = path.file_name().is_some_and(|found| found.to_string_lossy().contains(&*name));
    if path.parent() != token.parent() || !is_token {
        return Ok(false);
    }
    let content: Value = serde_json::from_slice(&files::read(path)?).unwrap_or_default();
    let is_simulated = |tokens: &Vec<Value>| tokens.iter().all(|token| token["client_id"] == CLIENT_ID);
    Ok(!content["tokens"].as_array().is_some_and(is_simulated))
}

/// What is to be told beside the state of a demo's mirror; none if it is none.
pub fn note(paths: &Paths) -> Option<&'static str> {
    paths.demo().exists().then_some(
        "This is a demo: `mirror42 demo --next-day` goes a day on, `mirror42 demo --remove` forgets it, `mirror42 run` asks \
         the API of pipeline.toml.",
    )
}

/// What to do next, on the standard output.
pub fn next_steps(setting: &Setting) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "mirror42".to_string());
    format!(
        "\nThat was day {} of a synthetic API on this machine. Next:\n  \
         {program} demo --next-day    a day later: see what is added, changed and removed\n  \
         {program} db psql            look at the database; it runs until `{program} db stop`\n\n\
         With your own application of the 42 API (https://profile.intra.42.fr/oauth/applications):\n  \
         {program} demo --remove      forget the demo\n  \
         (umask 077; printf 'FT_CLIENT_ID=…\\nFT_CLIENT_SECRET=…\\n' > .env)\n  \
         {program} run                mirror the real API\n  \
         {program} crontab install    and every night, by cron",
        setting.day
    )
}
