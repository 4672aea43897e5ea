//! Exports go into the database: all tables in one transaction, or none.
//!
//! 1. A second loader is refused; missing tables come from `schema.sql`; writers are kept out, readers go on.
//! 2. Every export is compared with its table, parents before children ([`crate::diff`]): records that refer to nothing are
//!    dropped, and what differs is kept at hand. A table that is empty is filled at once. Where the diff will not do, all of the
//!    export goes into a delta table and the server compares ([`crate::diff::plain`]).
//! 3. All tables are compared before any row is deleted or changed, and the guard looks at what would be deleted.
//! 4. What is new is inserted and what differs updated, parents first; rows that are gone are deleted, children first, each into the
//!    ledger ([`apply`], [`write`]). A row that is the same is not touched.
//! 5. The counts go into the ledger, the checks run, commit; or, for a dry run, roll back.
//!
//! A failure at any point rolls all of it back, and so does the server when this process dies.

mod apply;
mod cascade;
mod clock;
mod compare;
mod report;
mod schema;
mod steps;
mod sweep;
mod work;
mod write;

use std::path::PathBuf;

use clap::Parser;
use postgres::error::{DbError, Severity};
use postgres::{Client, IsolationLevel, Transaction};

use crate::cli::{Common, DatabaseArgs, GuardArgs};
use crate::diff::job::{Export, Trust};
use crate::error::{Kind, Result};
use crate::manual;
use crate::pg::{self, failure, ledger};
use crate::pipeline::Pipeline;
use crate::stop::{self, Shield};

use report::Report;

/// Loads exports into Postgres, all tables in one transaction.
///
/// Reads exports/*/all.json and schema.sql. Exit codes: 0 done, 1 failed, 2 usage, 3 another loader is at work,
/// 4 the deletion guard stopped it, 5 a check failed. In every case but 0 the database is as it was.
#[derive(Debug, Parser)]
#[command(name = "mirror42-load")]
#[command(after_long_help = manual::examples(&[
    ("All tables", "mirror42-load"),
    ("What that would change", "mirror42-load --dry-run"),
    ("Two tables, by their stages", "mirror42-load 05_projects 06_campus_projects"),
    ("Let the table projects lose up to 120 rows, this once", "mirror42-load --allow-delete projects=120"),
    ("Exports of another folder, and how long each part took", "mirror42-load --exports /srv/old/exports --trust-exports --report load.json"),
]))]
pub struct Args {
    /// Stages to load; all that have a table when none is named
    #[arg(value_name = "STAGE", add = manual::stages(&[]))]
    pub stages: Vec<String>,
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    pub guard: GuardArgs,
    /// Do the whole load, print what it does, and roll it back
    #[arg(long)]
    pub dry_run: bool,
    /// Load all.json as it is, though its receipt is missing or tells of another file
    #[arg(long)]
    pub trust_exports: bool,
    /// How the ledger (its table `runs`) calls this load; the time and the process when absent
    #[arg(long, value_name = "ID")]
    pub run_id: Option<String>,
    /// Load FOLDER/STAGE/all.json in the place of exports/STAGE/all.json
    #[arg(long, value_name = "FOLDER")]
    pub exports: Option<PathBuf>,
    /// Write what the load did, and how long each part took, as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// What a load does, beside the exports.
pub struct Plan<'a> {
    pub pipeline: &'a Pipeline,
    pub exports: Vec<Export<'a>>,
    pub run_id: String,
    /// By what it is made ([`Pipeline::load_definition`]); none for exports that are not the pipeline's own.
    pub definition: Option<String>,
    /// Rows that tables (by name) may lose this once.
    pub allowed: Vec<(String, u64)>,
    pub dry_run: bool,
}

pub fn run(args: Args) -> Result<()> {
    let mut context = args.common.open("load")?;
    stop::keeps("Nothing was loaded; the database is as it was.");
    if let Some(folder) = &args.exports {
        context.pipeline.paths = context.pipeline.paths.with_exports(folder);
    }
    let pipeline = &context.pipeline;
    let allowed = args.guard.allowed(pipeline)?;
    let trust = if args.trust_exports { Trust::Exports } else { Trust::Receipts };
    let exports = Export::all(pipeline, &args.stages, trust)?;
    let run_id = args.run_id.unwrap_or_else(ledger::new_run_id);
    let url = args.database.url(&context.secrets);
    let mut client = pg::connect(&pipeline.paths, url.as_ref(), "load")?;
    let definition = args.exports.is_none().then(|| pipeline.load_definition()).transpose()?;
    let plan = Plan { pipeline, exports, run_id, definition, allowed, dry_run: args.dry_run };
    let report = match load(&mut client, &plan) {
        Err(error) if error.kind() == Kind::Conflict => {
            log::info!("{}; once more", error.message());
            load(&mut client, &plan)?
        }
        done => done?,
    };
    if plan.dry_run {
        report.print();
    } else if report.has_deletions()
        && let Err(error) = report::log_deletions(&mut client, &plan)
    {
        log::warn!("{error}");
    }
    report.log();
    match &args.report {
        Some(file) => report.write(file).map_err(|error| {
            error.detail(match plan.dry_run {
                true => "Nothing was loaded; the database is as it was.",
                false => "The load itself is done and committed: the database is as the exports.",
            })
        }),
        None => Ok(()),
    }
}

/// The transaction.
fn load(client: &mut Client, plan: &Plan) -> Result<Report> {
    // Whatever the role's default is: what another session has written before the tables were locked must be seen after it.
    let begun = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start();
    let mut tx = begun.map_err(|error| failure("could not begin a transaction", &error))?;
    // Dropped without a commit, the transaction is rolled back.
    let report =
        steps::run(&mut tx, plan).map_err(|error| error.detail("Nothing was loaded; the database is as it was."))?;
    if plan.dry_run {
        tx.rollback().map_err(|error| failure("could not roll back the dry run", &error))?;
    } else {
        commit(tx)?;
    }
    Ok(report)
}

fn commit(tx: Transaction) -> Result<()> {
    // Who is asked to end from here on could not say what was done.
    let shield = Shield::raise();
    let Err(error) = tx.commit() else {
        shield.keep();
        return Ok(());
    };
    let failed = failure("could not commit the load", &error);
    // A server process that ends itself (FATAL, PANIC) may do so when the commit is on the disk already.
    let is_refusal = |severity: Option<Severity>| severity.is_none_or(|severity| severity == Severity::Error);
    Err(match error.as_db_error().map(DbError::parsed_severity) {
        // All is as before the load: it may be tried once more, and be stopped.
        Some(severity) if is_refusal(severity) => failed.detail("Nothing was loaded; the database is as it was."),
        _ => {
            shield.keep();
            failed
                .detail("Whether all of it was loaded or nothing is not known: the server did not answer.")
                .hint("Run again: a load that was done is not done twice.")
        }
    })
}
