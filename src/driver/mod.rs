//! The driver: decides what is stale, runs the stage binaries as child processes, and tells of it.
//!
//! It adds nothing that a person with `make` could not do: every child is a command that works alone.

mod audit;
mod child;
mod db;
mod demo;
mod forecast;
mod hashes;
mod loaded;
mod loadtest;
mod plan;
mod replay;
mod requests;
mod run;
mod schedule;
mod snapshots;
mod staleness;
mod status;
mod summary;
mod trusted;
mod verdict;

use std::time::Instant;

use clap::{Parser, Subcommand};

use crate::cli::{self, ApiArgs, Common, Context, DatabaseArgs, GuardArgs};
use crate::error::{Error, Result};
use crate::files;
use crate::limiter::Limiter;
use crate::pg::{self, ledger};
use crate::pipeline::Secret;
use run::Options;
use schedule::Targets;
use staleness::Trust;

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

/// What counts of an export that somebody has edited.
#[derive(clap::Args, Clone, Copy, Debug)]
struct TrustArgs {
    /// Take each all.json that was edited by hand as it is: what follows is made from it, and it is loaded
    #[arg(long)]
    trust_exports: bool,
}

impl TrustArgs {
    fn trust(self) -> Trust {
        if self.trust_exports { Trust::Exports } else { Trust::Receipts }
    }
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
        trust: TrustArgs,
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
        /// Print it as JSON, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        trust: TrustArgs,
        #[command(flatten)]
        api: ApiArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Say how old the mirror is and what is in it; fails when it is stale
    Status {
        #[command(flatten)]
        api: ApiArgs,
        #[command(flatten)]
        database: DatabaseArgs,
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
    /// Make the mirror from what is here, without the API: extract from the pages, load the exports
    ///
    /// Needs no credentials, and where nothing is to be extracted no pages. With `--as-of`, the exports of a past night
    /// are loaded again; the next `run` puts the database back to the present.
    Replay {
        #[command(flatten)]
        replay: replay::ReplayArgs,
        #[command(flatten)]
        trust: TrustArgs,
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
        Verb::Run { targets, force, jobs, trust, api, database } => {
            api.apply(&mut context.pipeline)?;
            let url = database.url(&context.secrets);
            demo::leave(&context)?;
            let targets = Targets { trust: trust.trust(), ..targets_of(&context, &targets, force)? };
            let environment = environment(&api, url.as_ref());
            let options = Options { jobs: jobs.into(), environment, database: url, ..options(&args.common) };
            run_and_tell(&context, &args.common, &targets, &options)
        }
        Verb::Plan { probe, json, trust, api, database } => {
            api.apply(&mut context.pipeline)?;
            let database = database.url(&context.secrets);
            let options = Options { environment: environment(&api, None), database, ..options(&args.common) };
            let asked = plan::Asked { probe, json, trust: trust.trust() };
            plan::plan(&context, &asked, &options)
        }
        Verb::Status { api, database } => {
            api.apply(&mut context.pipeline)?;
            status::status(&context, database.url(&context.secrets).as_ref())
        }
        Verb::Demo { demo } => run_demo(context, &args.common, &demo),
        Verb::Loadtest { loadtest, database } => {
            loadtest::run(&context, &args.common, &loadtest, database.url(&context.secrets).as_ref())
        }
        Verb::LoadtestGuardian { name, database } => {
            loadtest::guard(&context, database.url(&context.secrets).as_ref(), &name)
        }
        Verb::Replay { replay, trust, guard, database } => {
            let url = database.url(&context.secrets);
            guard.allowed(&context.pipeline)?;
            let environment = environment(&ApiArgs::default(), url.as_ref());
            let load_arguments = guard.allow_delete.iter().flat_map(|allowed| ["--allow-delete", allowed]);
            let load_arguments = load_arguments.map(String::from).collect();
            let options = Options { environment, database: url, load_arguments, ..options(&args.common) };
            replay::run(&context, &args.common, &replay, trust.trust(), &options)
        }
        Verb::Audit { audit, database } => {
            audit::run(&context, database.url(&context.secrets).as_ref(), &audit, args.common.verbose)
        }
        Verb::Db { verb, database } => db::run(&context, database.url(&context.secrets).as_ref(), verb),
    }
}

fn options(common: &Common) -> Options {
    Options {
        jobs: 8,
        environment: Vec::new(),
        verbose: common.verbose,
        run_id: ledger::new_run_id(),
        database: None,
        load_arguments: Vec::new(),
    }
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
    Ok(Targets {
        stages,
        forced,
        load: names.is_empty() || named(LOAD),
        validate: names.is_empty() || named(VALIDATE),
        again: force || named(LOAD) || named(VALIDATE),
        ..Targets::default()
    })
}

fn run_demo(mut context: Context, common: &Common, args: &demo::DemoArgs) -> Result<()> {
    let lock = run::lock(&context)?;
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
    let database = Some(Secret::new(setting.database_url.clone()));
    let options = Options { environment: setting.environment(), database, ..options(common) };
    let done = run_and_tell(&context, common, &targets, &options);
    // The next simulator has another port.
    files::remove(&Limiter::file(&context.pipeline.paths, &context.pipeline.api))?;
    done?;
    if !common.quiet {
        cli::print(format_args!("{}", demo::next_steps(&setting)));
    }
    Ok(())
}

/// A run with its lock, and what it did on the standard output.
fn run_and_tell(context: &Context, common: &Common, targets: &Targets, options: &Options) -> Result<()> {
    let started = Instant::now();
    let _lock = run::lock(context)?;
    log::info!("run {} begins", options.run_id);
    let done = run::run(context, targets, options);
    match &done {
        Ok(_) => log::info!("run {} done in {:.1} s", options.run_id, started.elapsed().as_secs_f64()),
        Err(error) => log::info!("run {} failed: {}", options.run_id, error.message()),
    }
    let schedule = done?;
    if common.quiet {
        return Ok(());
    }
    if let Some(sentence) = summary::idle(&schedule) {
        cli::print(format_args!("{sentence}"));
        return Ok(());
    }
    if !targets.stages.is_empty() {
        cli::print(format_args!("{}\n", summary::stages(context, &schedule)?));
    }
    if let Some(sentence) = summary::unchanged(&schedule, started.elapsed()) {
        cli::print(format_args!("{sentence}"));
    } else if targets.load {
        let mut client = pg::connect(&context.pipeline.paths, options.database.as_ref(), "summary")?;
        let run = ledger::run(&mut client, &context.pipeline, Some(&options.run_id))?;
        let run = run.ok_or_else(|| Error::failed(format!("load {} is not in the ledger", options.run_id)))?;
        cli::print(format_args!(
            "{}\n\n{}",
            summary::tables(&run),
            summary::verdict(&run, started.elapsed(), targets.validate)
        ));
    } else if targets.validate {
        cli::print(format_args!("all checks passed"));
    }
    Ok(())
}
