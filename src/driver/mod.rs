//! The driver: decides what is stale, runs the stage binaries as child processes, and tells of it.
//!
//! It adds nothing that a person with `make` could not do: every child is a command that works alone.

mod aside;
mod audit;
mod child;
mod children;
mod command_line;
mod crontab;
mod db;
mod demo;
mod doctor;
mod failures;
mod filters;
mod flags;
mod forced;
mod forecast;
mod foreign;
mod graph;
mod hashes;
mod hooks;
mod init;
mod job;
mod loaded;
mod loadtest;
mod nightly;
mod options;
mod output;
mod owed;
mod own;
mod plan;
mod prometheus;
mod record;
mod replay;
mod report;
mod requests;
mod run;
mod run_lock;
mod sample;
mod schedule;
mod snapshots;
mod staleness;
mod state;
mod status;
mod summary;
mod systemd;
mod targets;
mod told;
mod trusted;
mod verdict;

use clap::{Parser, Subcommand};

use crate::cli::{self, ApiArgs, Common, Context, DatabaseArgs, GuardArgs};
use crate::error::Result;
use crate::files;
use crate::limiter::Limiter;
use crate::log::Format;
use crate::manual;
use crate::pipeline::Secret;
use flags::RunArgs;
use options::{Options, allowing, environment};
use run_lock::RunLock;
use targets::{Targets, Trust};

/// The verbs that are called so, for the lock, for records and for hooks.
const RUN: &str = "run";
const REPLAY: &str = "replay";
const DEMO: &str = "demo";
/// The names of the steps after the stages, as targets of `run`.
const LOAD: &str = "load";
const VALIDATE: &str = "validate";

/// Keeps a Postgres database an exact, read-only mirror of a paged REST API
///
/// Exit codes: 0 done, or nothing to do; 1 a stage failed; 2 usage or pipeline.toml; 3 another run
/// holds the lock; 4 the deletion guard stopped it; 5 validation failed; 75 the API allows no more for now, or a
/// signal stopped it: run again.
#[derive(Parser, Debug)]
#[command(name = "mirror42")]
#[command(after_long_help = manual::examples(&[
    ("See all of it on this machine, in seconds", "mirror42 demo --quick"),
    ("What would run, and why?", "mirror42 plan"),
    ("Bring the mirror up to date", "mirror42 run"),
    ("How old is it?", "mirror42 status"),
]))]
pub struct Args {
    #[command(subcommand)]
    verb: AnyVerb,
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
enum AnyVerb {
    #[command(flatten)]
    OnTheMirror(Verb),
    #[command(flatten)]
    Aside(aside::Verb),
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Bring everything up to date: fetch and extract what is stale, load, validate
    ///
    /// With names: these stages with what they need, and no load. `load` and `validate` are names
    /// too: `load` brings all stages up to date and loads them, `validate` only validates.
    #[command(after_long_help = manual::examples(&[
        ("As cron does, every night", "mirror42 run -q"),
        ("One export, with what it needs", "mirror42 run 06_campus_projects"),
        ("Fetch one again, and load", "mirror42 run 08_coalitions load --force"),
        ("All from the beginning, two processes at a time", "mirror42 run --force -j 2"),
        ("Let the table projects lose up to 120 rows, this once", "mirror42 run --allow-delete projects=120"),
    ]))]
    Run {
        #[command(flatten)]
        run: RunArgs,
        #[command(flatten)]
        trust: TrustArgs,
        #[command(flatten)]
        api: ApiArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Say for every stage what would run and why, how many requests that takes, and how long
    #[command(after_long_help = manual::examples(&[
        ("By what earlier fetches took", "mirror42 plan"),
        ("Ask the API where there was none", "mirror42 plan --probe"),
    ]))]
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
    #[command(after_long_help = manual::examples(&[
        ("For people", "mirror42 status"),
        ("For a monitor", "mirror42 status > /dev/null || echo stale"),
        ("For node_exporter", "mirror42 status --prometheus /var/lib/node_exporter/mirror42.prom"),
    ]))]
    Status {
        #[command(flatten)]
        status: status::StatusArgs,
        #[command(flatten)]
        api: ApiArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Print the lines of a crontab that make the mirror every night, or put them there
    #[command(after_long_help = manual::examples(&[
        ("To look at", "mirror42 crontab"),
        ("For this user's cron", "mirror42 crontab install"),
    ]))]
    Crontab {
        #[command(subcommand)]
        verb: Option<crontab::Verb>,
    },
    /// Print the units of systemd that make the mirror every night, or put them there
    #[command(after_long_help = manual::examples(&[
        ("To look at", "mirror42 systemd"),
        ("For this user's systemd", "mirror42 systemd install"),
    ]))]
    Systemd {
        #[command(flatten)]
        systemd: systemd::SystemdArgs,
    },
    /// Run the whole mirror on this machine: a simulated API and an embedded database
    #[command(after_long_help = manual::examples(&[
        ("With the limit of the real API, in a minute", "mirror42 demo"),
        ("A day later, without it", "mirror42 demo --next-day --quick"),
        ("Forget it", "mirror42 demo --remove"),
    ]))]
    Demo {
        #[command(flatten)]
        demo: demo::DemoArgs,
    },
    /// Say how fast this machine and its database load, phase by phase
    ///
    /// Synthetic exports are loaded into a scratch schema of the database, which is dropped in the end. Nothing of
    /// the mirror is read or changed.
    #[command(after_long_help = manual::examples(&[
        ("Ten times the mirror of 42, five runs", "mirror42 loadtest"),
        ("A million rows, for a program", "mirror42 loadtest --rows 1000000 --runs 3 --json"),
    ]))]
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
    #[command(after_long_help = manual::examples(&[
        ("Which nights are kept?", "mirror42 replay --list"),
        ("What would one of them change?", "mirror42 replay --as-of 2026-11-23 --dry-run"),
        ("Load it", "mirror42 replay --as-of 2026-11-23"),
    ]))]
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
    /// Check that all is there that a night needs, one line a check, with a remedy for what is not
    ///
    /// Asks the API for a token and one record, and looks at the database, folders, disk, clock, timetable and last run.
    /// Exit codes: 0 nothing failed, 1 a check failed; a warning is no failure.
    #[command(after_long_help = manual::examples(&[
        ("Before the first night, and whenever something is wrong", "mirror42 doctor"),
        ("For a program", "mirror42 doctor --json"),
    ]))]
    Doctor {
        #[command(flatten)]
        doctor: doctor::DoctorArgs,
        #[command(flatten)]
        api: ApiArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Say what was deleted and changed, when, and by which run
    #[command(after_long_help = manual::examples(&[
        ("Of one table, in the last week", "mirror42 audit projects --since 7d"),
        ("One row of a table with a key of two columns",
            "mirror42 audit campus_projects --key campus_id=21 --key project_id=1332"),
        ("Every key that was ever deleted, for a program",
            "mirror42 audit --limit 0 --json | jq -c 'select(.deleted) | [.table, .key]'"),
    ]))]
    Audit {
        #[command(flatten)]
        audit: audit::AuditArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Write one HTML page: the stages, the last run, what was loaded night after night
    ///
    /// The page needs no network: it can be mailed, or put on any web server.
    #[command(after_long_help = manual::examples(&[
        ("As report.html, in the folder of the pipeline", "mirror42 report"),
        ("Where a web server finds it", "mirror42 report --output /var/www/html/mirror.html"),
    ]))]
    Report {
        #[command(flatten)]
        report: report::ReportArgs,
        #[command(flatten)]
        api: ApiArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Propose a new pipeline folder for another API, from the addresses of its indexes
    ///
    /// Asks for a page or two of each, and writes pipeline.toml, schema.sql and .gitignore: what `mirror42 run` needs,
    /// and yours to edit. What is there already is never overwritten.
    #[command(after_long_help = manual::examples(&[
        ("An API that wants no credentials", "mirror42 init http://127.0.0.1:3000/posts blog"),
        ("Two indexes of one that wants a token", "mirror42 init https://api.example/v1/users https://api.example/v1/teams teams --auth bearer"),
    ]))]
    Init {
        #[command(flatten)]
        init: init::InitArgs,
    },
    /// The embedded database by hand
    #[command(after_long_help = manual::examples(&[
        ("A session on the mirror, wherever it is", "mirror42 db psql"),
        ("For another client", "psql \"$(mirror42 db url)\""),
    ]))]
    Db {
        #[command(subcommand)]
        verb: db::Verb,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

pub fn run(args: Args) -> Result<()> {
    let verb = match args.verb {
        AnyVerb::Aside(verb) => return aside::run(&verb, &args.common),
        AnyVerb::OnTheMirror(verb) => verb,
    };
    // These two work where there is no pipeline yet, or none that can be read.
    match &verb {
        Verb::Init { init } => {
            args.common.begin_telling();
            return init::run(&args.common, init);
        }
        Verb::Doctor { doctor, api, database } => {
            args.common.begin_telling();
            let options = Options { environment: environment(api, None), ..Options::new(RUN, &args.common) };
            return doctor::run(&args.common, doctor, api, database.database_url.as_deref(), options);
        }
        _ => {}
    }
    let mut context = args.common.open("run")?;
    match verb {
        Verb::Run { run, trust, api, database } => {
            api.apply(&mut context.pipeline)?;
            let url = database.url(&context.secrets);
            let targets = Targets { trust: trust.trust(), ..run.targets(&context)? };
            let options = Options {
                jobs: run.jobs.into(),
                keep_going: run.keep_going,
                dry_run: run.dry_run,
                environment: environment(&api, url.as_ref()),
                database: url,
                load_arguments: allowing(&run.guard),
                ..Options::new(RUN, &args.common)
            };
            told::run_and_tell(&context, &args.common, &targets, &options)
        }
        Verb::Plan { probe, json, trust, api, database } => {
            api.apply(&mut context.pipeline)?;
            let database = database.url(&context.secrets);
            let options = Options { environment: environment(&api, None), database, ..Options::new(RUN, &args.common) };
            let asked = plan::Asked { probe, json, trust: trust.trust() };
            plan::plan(&context, &asked, &options)
        }
        Verb::Status { status, api, database } => {
            api.apply(&mut context.pipeline)?;
            status::status(&context, &status, database.url(&context.secrets).as_ref())
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
        Verb::Replay { replay, trust, guard, database } => {
            let url = database.url(&context.secrets);
            guard.allowed(&context.pipeline)?;
            let environment = environment(&ApiArgs::default(), url.as_ref());
            let load_arguments = allowing(&guard);
            let options = Options { environment, database: url, load_arguments, ..Options::new(REPLAY, &args.common) };
            replay::run(&context, &args.common, &replay, trust.trust(), &options)
        }
        // Done above.
        Verb::Init { .. } | Verb::Doctor { .. } => Ok(()),
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

fn run_demo(mut context: Context, common: &Common, args: &demo::DemoArgs) -> Result<()> {
    let lock = RunLock::take(&context, DEMO)?;
    if args.remove {
        demo::remove(&context)?;
        return lock.release();
    }
    let setting = demo::set_up(&context, args)?;
    lock.release()?;
    let api = ApiArgs {
        api_url: Some(setting.simulator.url.clone()),
        limits: setting.limits.map(String::from),
        ..ApiArgs::default()
    };
    api.apply(&mut context.pipeline)?;
    let targets = flags::all_anew(&context)?;
    let database = Some(Secret::new(setting.database_url.clone()));
    let options = Options { environment: setting.environment(), database, ..Options::new(DEMO, common) };
    let done = told::run_and_tell(&context, common, &targets, &options);
    // The next simulator has another port.
    files::remove(&Limiter::file(&context.pipeline.paths, &context.pipeline.api))?;
    done?;
    if !common.quiet && common.log_format == Format::Text {
        cli::print(format_args!("{}", demo::next_steps(&setting)));
    }
    Ok(())
}
