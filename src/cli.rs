//! What the command lines share: the flags, and the way from arguments to an exit code.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Args, Command, Parser};
use log::LevelFilter;

use crate::error::{Error, Result};
use crate::log::Format;
use crate::pipeline::{Pipeline, Secret, Secrets};
use crate::style;
use crate::{log as logs, manual, paths, progress, stop};

/// The flags of every binary that works on a pipeline.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// The pipeline file; its folder is the root of exports/, logs/, data/ and .mirror42/
    #[arg(long, value_name = "FILE", default_value = paths::PIPELINE, global = true)]
    pub pipeline: PathBuf,
    /// How the standard error is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text", global = true)]
    pub log_format: Format,
    /// Show warnings and errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Show every request and statement
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// The flags of the binaries that talk to the API.
#[derive(Args, Clone, Debug, Default)]
pub struct ApiArgs {
    /// Address of the API, in place of `base_url` of the pipeline file
    #[arg(long, value_name = "URL", env = "MIRROR42_API_URL", global = true)]
    pub api_url: Option<String>,
    /// Requests a second and an hour, in place of `limits`: `2/1200`, or `none`
    #[arg(long, value_name = "N/N", env = "MIRROR42_LIMITS", global = true)]
    pub limits: Option<String>,
    /// The longest wait for the rate limit, such as `10m`; a longer one ends with exit code 75, to be run again later
    /// [default: 65m]
    #[arg(long, value_name = "DURATION", env = "MIRROR42_MAX_WAIT", global = true)]
    pub max_wait: Option<String>,
    /// How often a request is sent before it is given up [default: 7]
    #[arg(long, value_name = "N", env = "MIRROR42_TRIES", global = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub tries: Option<u32>,
}

/// The flags of the binaries that talk to the database.
#[derive(Args, Clone, Debug, Default)]
pub struct DatabaseArgs {
    /// The database, in place of `DATABASE_URL`; with neither, the embedded server under data/
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
}

/// What a night of synthetic exports differs by from the one before.
#[derive(Args, Clone, Debug)]
pub struct NightArgs {
    /// The share of the rows that change in a night, such as 1% or 0.01
    #[arg(long, default_value = "1%", value_name = "SHARE")]
    pub changed: Share,
    /// The share of the rows that go in a night; as many new ones come
    #[arg(long, default_value = "0.5%", value_name = "SHARE")]
    pub deleted: Share,
}

/// Of so many rows, what a night differs by from the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Night {
    pub changed: u64,
    /// Rows that go, and that come.
    pub replaced: u64,
}

impl NightArgs {
    /// The numbers of rows.
    pub fn of(&self, rows: u64) -> Result<Night> {
        let night = Night { changed: self.changed.of(rows), replaced: self.deleted.of(rows) };
        let Night { changed, replaced } = night;
        if changed + replaced > rows {
            return Err(Error::usage(format!("cannot change {changed} rows and delete {replaced} others of {rows}"))
                .hint("Make `--changed` and `--deleted` together at most 100%."));
        }
        Ok(night)
    }
}

/// A part of all rows, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(f64);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        let share = match text.strip_suffix('%') {
            Some(percent) => percent.parse().map(|percent: f64| percent / 100.0),
            None => text.parse(),
        };
        match share {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(Share(share)),
            _ => Err("expected a share from 0 to 1, such as 1% or 0.01".to_owned()),
        }
    }
}

impl Share {
    fn of(self, rows: u64) -> u64 {
        (self.0 * rows as f64).round() as u64
    }
}

/// As a flag takes it.
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a load may do this once.
#[derive(Args, Clone, Debug, Default)]
pub struct GuardArgs {
    /// Let this table lose up to so many rows, this once, whatever `max_delete` says; for several tables, give it again
    #[arg(long, value_name = "TABLE=ROWS")]
    pub allow_delete: Vec<String>,
}

impl GuardArgs {
    /// The tables and the numbers of rows.
    pub fn allowed(&self, pipeline: &Pipeline) -> Result<Vec<(String, u64)>> {
        let tables: Vec<&str> = pipeline.loaded().map(|(_, table)| table).collect();
        let parsed = self.allow_delete.iter().map(|text| {
            let parts = text.rsplit_once('=').and_then(|(table, rows)| Some((table, rows.parse::<u64>().ok()?)));
            let (table, rows) = parts.ok_or_else(|| {
                Error::usage(format!(
                    "`--allow-delete` is {text:?}, expected a table and a number, such as `projects=120`"
                ))
            })?;
            if !tables.contains(&table) {
                let error = Error::usage(format!("`--allow-delete` names `{table}`, which no stage fills"));
                return Err(match crate::pipeline::nearest(table, tables.iter().copied()) {
                    Some(near) => error.hint(format!("Did you mean `{near}`?")),
                    None => error,
                });
            }
            Ok((table.to_string(), rows))
        });
        parsed.collect()
    }
}

/// A pipeline, opened: parsed, its secrets at hand, its logs begun.
#[derive(Debug)]
pub struct Context {
    pub pipeline: Pipeline,
    pub secrets: Secrets,
}

impl Common {
    /// Decides how the standard error is written; [`Common::open`] does it for whoever has a pipeline.
    pub fn begin_telling(&self) {
        progress::init(match self.log_format {
            Format::Json => progress::Mode::Events,
            Format::Text if self.quiet => progress::Mode::Silent,
            Format::Text => progress::mode_of_stderr(),
        });
    }

    /// Reads the pipeline and starts logging as the step `step`.
    pub fn open(&self, step: &'static str) -> Result<Context> {
        let pipeline = Pipeline::load(&self.pipeline)?;
        let console = match (self.quiet, self.verbose) {
            (true, _) => LevelFilter::Warn,
            (_, true) => LevelFilter::Debug,
            _ => LevelFilter::Info,
        };
        self.begin_telling();
        logs::init(&pipeline.paths, step, self.log_format, console)?;
        let secrets = Secrets::load(&pipeline.paths.dotenv())?;
        if let Some(secret) = pipeline.api.auth.secret_variable().and_then(|name| secrets.get(name)) {
            secret.hide();
        }
        Ok(Context { pipeline, secrets })
    }
}

impl ApiArgs {
    /// Puts the flags in the place of what the pipeline file says.
    pub fn apply(&self, pipeline: &mut Pipeline) -> Result<()> {
        let limits = &mut pipeline.api.limits;
        if let Some(text) = self.limits.as_deref().filter(|text| !text.is_empty()) {
            let parsed = match text.split_once('/') {
                _ if text == "none" => Some((None, None)),
                Some((second, hour)) => match (second.parse::<u32>(), hour.parse::<u32>()) {
                    (Ok(second @ 1..), Ok(hour @ 1..)) => Some((Some(second), Some(hour))),
                    _ => None,
                },
                None => None,
            };
            (limits.per_second, limits.per_hour) = parsed.ok_or_else(|| {
                Error::usage(format!(
                    "`--limits` is {text:?}, expected requests a second and an hour, such as `2/1200`, or `none`"
                ))
            })?;
        }
        if let Some(text) = self.max_wait.as_deref().filter(|text| !text.is_empty()) {
            limits.max_wait = crate::pipeline::parse_duration(text).ok_or_else(|| {
                Error::usage(format!("`--max-wait` is {text:?}, expected a duration such as `10m`, `2h` or `0s`"))
            })?;
        }
        limits.tries = self.tries;
        if let Some(url) = self.api_url.as_deref().filter(|url| !url.is_empty()) {
            let checked = crate::pipeline::base_url(url);
            pipeline.api.base_url = checked.map_err(|what| Error::usage(format!("`--api-url` {what}")))?;
        }
        Ok(())
    }
}

impl DatabaseArgs {
    /// The address of the database; none stands for the embedded server.
    pub fn url(&self, secrets: &Secrets) -> Option<Secret> {
        let flag = self.database_url.as_ref().filter(|url| !url.is_empty()).map(Secret::new);
        flag.or_else(|| secrets.get("DATABASE_URL"))
    }
}

/// The definitions of the command line of the program `name`.
pub fn definitions<A: Parser>(name: &'static str) -> Command {
    A::command().name(name).version(manual::VERSION)
}

/// The body of every `main`: parses the command line, runs, prints the one message of a failure.
pub fn run_main<A: Parser>(name: &'static str, run: impl FnOnce(A) -> Result<()>) -> ExitCode {
    let definitions = || definitions::<A>(name);
    manual::complete(definitions);
    let mut words = std::env::args_os().skip(1);
    let done = match (words.next(), words.next(), words.next()) {
        (Some(flag), Some(folder), None) if flag == manual::MAN_FLAG => {
            manual::write_man_pages(definitions(), folder.as_ref())
        }
        _ => {
            let args = parse(definitions());
            stop::init(name);
            run(args)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logs::report_failure(name, &error);
            error.exit_code()
        }
    }
}

/// The arguments of this process. clap prints usage errors itself and exits with 2, as our contract wants.
fn parse<A: Parser>(mut definitions: Command) -> A {
    let mut matches = definitions.get_matches_mut();
    A::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.format(&mut definitions).exit())
}

/// Prints a line on the standard output. That nobody reads it any more (`| head`) is no failure.
pub fn print(line: std::fmt::Arguments) {
    style::print_to_stdout(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_or_refused() {
        assert_eq!("1%".parse(), Ok(Share(0.01)));
        assert_eq!("0.5%".parse(), Ok(Share(0.005)));
        assert_eq!("0.25".parse(), Ok(Share(0.25)));
        assert_eq!("100%".parse(), Ok(Share(1.0)));
        for text in ["101%", "-1%", "1.5", "NaN", "%", "", "one"] {
            assert_eq!(text.parse::<Share>(), Err("expected a share from 0 to 1, such as 1% or 0.01".to_owned()));
        }
        assert_eq!(Share(0.005).to_string().parse(), Ok(Share(0.005)));
    }
}
