//! The driver: decides what is stale, runs the stage binaries as child processes, and tells of it.
//!
//! It adds nothing that a person with `make` could not do: every child is a command that works alone.

mod audit;
mod child;
mod crontab;
mod db;
mod demo;
mod foreign;
mod hooks;
mod loadtest;
mod nightly;
mod prometheus;
mod record;
mod replay;
mod report;
mod requests;
mod run;
mod schedule;
mod snapshots;
mod staleness;
mod state;
mod status;
mod summary;
mod systemd;

use clap::{Parser, Subcommand};

use crate::cli::{self, ApiArgs, Common, Context, DatabaseArgs, GuardArgs};
use crate::error::Result;
use crate::files;
use crate::limiter::Limiter;
use crate::log::Format;
use crate::pg::ledger;
use crate::pipeline::Secret;
use record::{Record, Recorder};
use run::Options;
use schedule::{Schedule, Targets};

/// The verb that is called so, for the lock and for hooks.
const RUN: &str = "run";
/// The names of the steps after the stages, as targets of `run`.
const LOAD: &str = "load";
const VALIDATE: &str = "validate";

/// Keeps a Postgres database an exact, read-only mirror of a paged REST API
///
/// Exit codes: 0 done, or nothing to do; 1 a stage failed; 2 usage or pipeline.toml; 3 another run
/// holds the lock; 4 the deletion guard stopped it; 5 validation failed; 75 the API allows no more for now, run again
/// later.
#[derive(Parser, Debug)]
#[command(name = "mirror42", version)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Bring everything up to date: fetch and extract what is stale, load, validate
    ///
    /// With names: these stages with what they need, and no load. `load` and `validate` are names
    /// too: `load` brings all stages up to date and loads them, `validate` only validates.
    Run {
        /// Stages, `load` or `validate`
        #[arg(value_name = "STAGE")]
        targets: Vec<String>,
        /// Do the named stages (or all) again whatever their receipts say
        #[arg(long)]
        force: bool,
        /// Processes at a time
        #[arg(short, long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
        jobs: u16,
        #[command(flatten)]
        api: ApiArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Say for every stage what would run and why, how many requests that takes, and how long
    Plan {
        /// Ask the API, with one request a stage, where no earlier fetch tells how many pages there are
        #[arg(long)]
        probe: bool,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Say how old the mirror is and what is in it; fails when it is stale
    Status {
        #[command(flatten)]
        status: state::StatusArgs,
        #[command(flatten)]
        api: ApiArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Print the lines of a crontab that make the mirror every night, or put them there
    Crontab {
        #[command(subcommand)]
        verb: Option<crontab::Verb>,
    },
    /// Print the units of systemd that make the mirror every night, or put them there
    Systemd {
        #[command(flatten)]
        systemd: systemd::SystemdArgs,
    },
    /// Run the whole mirror on this machine: a simulated API and an embedded database
    Demo {
        #[command(flatten)]
        demo: demo::DemoArgs,
    },
    /// Say how fast this machine and its database load, phase by phase
    ///
    /// Synthetic exports are loaded into a scratch schema of the database, which is dropped in the end. Nothing of
    /// the mirror is read or changed.
    Loadtest {
        #[command(flatten)]
        loadtest: loadtest::LoadtestArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Remove what the load test that holds the standard input has made, when it ends
    #[command(hide = true)]
    LoadtestGuardian {
        #[arg(value_name = "SCHEMA")]
        name: String,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Load the exports of a past night again, through the same loader and guard
    ///
    /// Asks nothing of the API. The next `run` puts the database back to the present.
    Replay {
        #[command(flatten)]
        replay: replay::ReplayArgs,
        #[command(flatten)]
        guard: GuardArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Say what was deleted and changed, when, and by which run
    Audit {
        #[command(flatten)]
        audit: audit::AuditArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Write one HTML page: the stages, the last run, what was loaded night after night
    ///
    /// The page needs no network: it can be mailed, or put on any web server.
    Report {
        #[command(flatten)]
        report: report::ReportArgs,
        #[command(flatten)]
        api: ApiArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// The embedded database by hand
    Db {
        #[command(subcommand)]
        verb: db::Verb,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

pub fn run(args: Args) -> Result<()> {
    let mut context = args.common.open("run")?;
    match args.verb {
        Verb::Run { targets, force, jobs, api, database } => {
            api.apply(&mut context.pipeline)?;
            let url = database.url(&context.secrets);
            demo::leave(&context)?;
            let targets = targets_of(&context, &targets, force)?;
            let options =
                Options { jobs: jobs.into(), environment: environment(&api, url.as_ref()), ..options(&args.common) };
            run_and_tell(&context, &args.common, &targets, &options, url.as_ref())
        }
        Verb::Plan { probe, api } => {
            api.apply(&mut context.pipeline)?;
            let options = Options { environment: environment(&api, None), ..options(&args.common) };
            status::plan(&context, probe.then_some(&options))
        }
        Verb::Status { status, api, database } => {
            api.apply(&mut context.pipeline)?;
            state::status(&context, &status, database.url(&context.secrets).as_ref())
        }
        Verb::Crontab { verb } => crontab::run(&context, &args.common, verb),
        Verb::Systemd { systemd } => systemd::run(&context, &args.common, systemd),
        Verb::Demo { demo } => run_demo(context, &args.common, &demo),
        Verb::Loadtest { loadtest, database } => {
            loadtest::run(&context, &args.common, &loadtest, database.url(&context.secrets).as_ref())
        }
        Verb::LoadtestGuardian { name, database } => {
            loadtest::guard(&context, database.url(&context.secrets).as_ref(), &name)
        }
        Verb::Replay { replay, guard, database } => {
            let url = database.url(&context.secrets);
            guard.allowed(&context.pipeline)?;
            let options =
                Options { environment: environment(&ApiArgs::default(), url.as_ref()), ..options(&args.common) };
            replay::run(&context, &args.common, &replay, &guard, &options)
        }
        Verb::Audit { audit, database } => {
            audit::run(&context, database.url(&context.secrets).as_ref(), &audit, args.common.verbose)
        }
        Verb::Report { report, api, database } => {
            api.apply(&mut context.pipeline)?;
            report::run(&context, &args.common, &report, database.url(&context.secrets).as_ref())
        }
        Verb::Db { verb, database } => db::run(&context, database.url(&context.secrets).as_ref(), verb),
    }
}

fn options(common: &Common) -> Options {
    Options { verb: RUN, jobs: 8, environment: Vec::new(), verbose: common.verbose, run_id: ledger::new_run_id() }
}

/// What the children are told by their environment.
fn environment(api: &ApiArgs, database_url: Option<&Secret>) -> Vec<(&'static str, String)> {
    let variables = [
        ("MIRROR42_API_URL", api.api_url.clone()),
        ("MIRROR42_LIMITS", api.limits.clone()),
        ("MIRROR42_MAX_WAIT", api.max_wait.clone()),
        ("DATABASE_URL", database_url.map(|url| url.reveal().to_string())),
    ];
    variables.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn targets_of(context: &Context, names: &[String], force: bool) -> Result<Targets> {
    let named = |step: &str| names.iter().any(|name| name == step);
    let mut stages: Vec<String> =
        names.iter().filter(|name| ![LOAD, VALIDATE].contains(&name.as_str())).cloned().collect();
    for name in &stages {
        context.pipeline.known_stage(name)?;
    }
    let named_stages = stages.clone();
    if names.is_empty() || named(LOAD) {
        stages = context.pipeline.stages.iter().map(|stage| stage.name.clone()).collect();
    }
    let mut forced = run::remembered(context)?;
    if force {
        forced.extend(if named_stages.is_empty() { stages.clone() } else { named_stages });
    }
    Ok(Targets { stages, forced, load: names.is_empty() || named(LOAD), validate: names.is_empty() || named(VALIDATE) })
}

fn run_demo(mut context: Context, common: &Common, args: &demo::DemoArgs) -> Result<()> {
    let lock = run::lock(&context, "demo")?;
    if args.remove {
        return demo::remove(&context);
    }
    let setting = demo::set_up(&context, args)?;
    drop(lock);
    let api = ApiArgs {
        api_url: Some(setting.simulator.url.clone()),
        limits: setting.limits.map(String::from),
        ..ApiArgs::default()
    };
    api.apply(&mut context.pipeline)?;
    let targets = targets_of(&context, &[], true)?;
    let options = Options { verb: "demo", environment: setting.environment(), ..options(common) };
    let url = Secret::new(setting.database_url.clone());
    let done = run_and_tell(&context, common, &targets, &options, Some(&url));
    // The next simulator has another port.
    files::remove(&Limiter::file(&context.pipeline.paths, &context.pipeline.api))?;
    done?;
    if !common.quiet && common.log_format == Format::Text {
        cli::print(format_args!("{}", demo::next_steps(&setting)));
    }
    Ok(())
}

/// A run with its lock, and what it did on the standard output.
fn run_and_tell(
    context: &Context,
    common: &Common,
    targets: &Targets,
    options: &Options,
    url: Option<&Secret>,
) -> Result<()> {
    let _lock = run::lock(context, options.verb)?;
    log::info!("run {} begins", options.run_id);
    let recorder = Recorder::begin(context, targets, options);
    let done = run::run(context, targets, options, &recorder);
    let (record, load) = recorder.end(&done, url);
    match &done {
        Ok(_) => log::info!("run {} done in {:.1} s", record.id, record.duration_ms as f64 / 1e3),
        Err(error) => log::info!("run {} failed: {}", record.id, error.message()),
    }
    let told = done.and_then(|schedule| told(context, targets, &schedule, &record, load.as_ref()));
    // A demo is nobody's night.
    if options.verb == RUN {
        hooks::tell(&context.pipeline, &options.run_id, told.as_deref());
    }
    if common.quiet {
        return told.map(drop);
    }
    if common.log_format == Format::Json {
        cli::print(format_args!("{}", serde_json::json!(record)));
        return told.map(drop);
    }
    cli::print(format_args!("{}", told?));
    Ok(())
}

/// What a run did, for people.
fn told(
    context: &Context,
    targets: &Targets,
    schedule: &Schedule,
    record: &Record,
    load: Option<&ledger::Run>,
) -> Result<String> {
    let mut parts = Vec::new();
    if !targets.stages.is_empty() {
        parts.push(format!("{}\n", summary::stages(context, schedule)?));
    }
    if let Some(load) = load {
        parts.push(format!("{}\n", summary::tables(load)));
    }
    parts.push(summary::verdict(record));
    Ok(parts.join("\n"))
}
