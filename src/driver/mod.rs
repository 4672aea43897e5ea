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
mod replay;
mod requests;
mod run;
mod schedule;
mod snapshots;
mod staleness;
mod state;
mod status;
mod summary;
mod systemd;

use std::time::Instant;

use clap::{Parser, Subcommand};

use crate::cli::{self, ApiArgs, Common, Context, DatabaseArgs, GuardArgs};
use crate::error::{Error, Result};
use crate::files;
use crate::limiter::Limiter;
use crate::pg::{self, ledger};
use crate::pipeline::Secret;
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
    if !common.quiet {
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
    let started = Instant::now();
    let _lock = run::lock(context, options.verb)?;
    log::info!("run {} begins", options.run_id);
    let done = run::run(context, targets, options);
    match &done {
        Ok(_) => log::info!("run {} done in {:.1} s", options.run_id, started.elapsed().as_secs_f64()),
        Err(error) => log::info!("run {} failed: {}", options.run_id, error.message()),
    }
    let told = done.and_then(|schedule| told(context, common, targets, options, url, &schedule, started));
    // A demo is nobody's night.
    if options.verb == RUN {
        hooks::tell(&context.pipeline, &options.run_id, told.as_deref());
    }
    let told = told?;
    if !common.quiet {
        cli::print(format_args!("{told}"));
    }
    Ok(())
}

/// What a run did, for people; nothing where nobody wants to know.
fn told(
    context: &Context,
    common: &Common,
    targets: &Targets,
    options: &Options,
    url: Option<&Secret>,
    schedule: &Schedule,
    started: Instant,
) -> Result<String> {
    if common.quiet && context.pipeline.hooks.on_success.is_none() {
        return Ok(String::new());
    }
    let mut parts = Vec::new();
    if !targets.stages.is_empty() {
        parts.push(format!("{}\n", summary::stages(context, schedule)?));
    }
    if targets.load {
        let mut client = pg::connect(&context.pipeline.paths, url, "summary")?;
        let run = ledger::run(&mut client, &context.pipeline, Some(&options.run_id))?;
        let run = run.ok_or_else(|| Error::failed(format!("load {} is not in the ledger", options.run_id)))?;
        parts.push(format!("{}\n", summary::tables(&run)));
        parts.push(summary::verdict(&run, started.elapsed(), targets.validate));
    } else if targets.validate {
        parts.push("all checks passed".to_string());
    }
    Ok(parts.join("\n"))
}
