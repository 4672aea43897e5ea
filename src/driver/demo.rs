//! The whole mirror on this machine: the simulator as the API, the embedded server as the database.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use clap::Args;

use super::child;
use crate::cli::Context;
use crate::error::{Error, Result};
use crate::files;
use crate::paths::Paths;
use crate::pg::embedded;

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
    /// Forget the demo: stop its database and remove its exports, data and state
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
    let last_day = last_day(paths)?;
    if last_day.is_none() && has_exports(context) {
        return Err(Error::usage("this folder holds a mirror that is not the demo's")
            .at(paths.exports().display().to_string())
            .detail("The demo would put synthetic data in its place.")
            .hint("Run the demo in another copy of the project."));
    }
    let day = match (args.day, args.next_day) {
        (Some(day), _) => day,
        (None, true) => last_day.map_or(0, |day| day + 1),
        (None, false) => last_day.unwrap_or(0),
    };
    files::write(&paths.demo(), format!("{day}\n").as_bytes())?;
    let database_url = embedded::started(paths)?.url();
    let mut options = vec!["--day".to_string(), day.to_string()];
    let manners = if args.quick { ["none", "none"] } else { ["2/1200", "realistic"] };
    options.extend(["--limits", manners[0], "--latency", manners[1]].map(String::from));
    let limits = args.quick.then_some("none");
    Ok(Setting { simulator: start_simulator(&options)?, database_url, limits, day })
}

/// The day of the last demo in this folder; none if there was none.
fn last_day(paths: &Paths) -> Result<Option<u32>> {
    let bytes = files::read_if_there(&paths.demo())?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim().parse().unwrap_or(0)))
}

/// A run that is no demo makes the mirror in this folder its own: no later demo may replace or remove it.
pub fn leave(context: &Context) -> Result<()> {
    files::remove(&context.pipeline.paths.demo())
}

fn has_exports(context: &Context) -> bool {
    let paths = &context.pipeline.paths;
    context.pipeline.stages.iter().any(|stage| paths.receipt(&stage.name).exists())
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
    if last_day(paths)?.is_none() {
        return Err(Error::usage("there is no demo in this folder").at(paths.root().display().to_string()));
    }
    embedded::remove(paths)?;
    for stage in &context.pipeline.stages {
        files::remove_dir(&paths.stage(&stage.name))?;
    }
    files::remove(&paths.demo())
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
