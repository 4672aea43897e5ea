//! Exports go into the database: all tables in one transaction, or none.
//!
//! 1. A second loader is refused; missing tables come from `schema.sql`; writers are kept out, readers go on.
//! 2. Every export goes by `COPY` into a delta table of its table ([`stage`], [`encode`]).
//! 3. Records that refer to nothing are dropped, parents before children ([`merge::drop_orphans`]).
//! 4. All tables are compared before any is written, and the guard looks at what would be deleted.
//! 5. Rows that are gone are deleted, children first, each into the ledger; then what differs is updated and what
//!    is new inserted, parents first. A row that is the same is not touched.
//! 6. The counts go into the ledger, the checks run, commit.
//!
//! A failure at any point rolls all of it back, and so does the server when this process dies.

mod encode;
mod job;
mod merge;
mod stage;

use std::time::{Duration, Instant};

use clap::Parser;
use postgres::{Client, Transaction};

use crate::cli::{Common, DatabaseArgs};
use crate::error::{Error, Result};
use crate::pg::catalog::ForeignKey;
use crate::pg::checks::{self, Check};
use crate::pg::ledger::{self, Counts};
use crate::pg::{self, failure};
use crate::pipeline::Pipeline;

use encode::INGESTED_AT;
use job::{Export, Job, Trust};
use merge::Difference;
use stage::Delta;

/// Loads exports into Postgres, all tables in one transaction.
///
/// Reads exports/*/all.json and schema.sql. Exit codes: 0 done, 1 failed, 2 usage, 3 another loader is at work,
/// 4 the deletion guard stopped it, 5 a check failed. In every case but 0 the database is as it was.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Stages to load; all that have a table when none is named
    #[arg(value_name = "STAGE")]
    pub stages: Vec<String>,
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Load all.json as it is, though its receipt is missing or tells of another file
    #[arg(long)]
    pub trust_exports: bool,
    /// How the ledger (mirror42.runs) calls this load; the time and the process when absent
    #[arg(long, value_name = "ID")]
    pub run_id: Option<String>,
}

/// "mirror42 load" in ASCII's eyes; any number would do, as long as every loader takes the same.
const ADVISORY_LOCK: i64 = 0x6d69_7234_326c_6f61;

/// The server notices within a second that a loader was killed (`client_connection_check_interval`), and then rolls back.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Enough for the delta tables of a night to stay in memory, and for its joins to be done there.
const SETTINGS: &str = include_str!("../sql/load_settings.sql");

pub fn run(args: Args) -> Result<()> {
    let context = args.common.open("load")?;
    let pipeline = &context.pipeline;
    let trust = if args.trust_exports { Trust::Exports } else { Trust::Receipts };
    let exports = Export::all(pipeline, &args.stages, trust)?;
    let run_id = args.run_id.unwrap_or_else(ledger::new_run_id);
    let url = args.database.url(&context.secrets);
    let mut client = pg::connect(&pipeline.paths, url.as_ref(), "load")?;
    load(&mut client, pipeline, exports, &run_id)
}

/// The transaction.
fn load(client: &mut Client, pipeline: &Pipeline, exports: Vec<Export>, run_id: &str) -> Result<()> {
    let mut tx = client.transaction().map_err(|error| failure("could not begin a transaction", &error))?;
    let done = steps(&mut tx, pipeline, exports, run_id);
    // Dropped without a commit, the transaction is rolled back.
    let loaded = done.map_err(|error| error.detail("Nothing was loaded; the database is as it was."))?;
    tx.commit().map_err(|error| {
        let failed = failure("could not commit the load", &error);
        match error.as_db_error() {
            Some(_) => failed.detail("Nothing was loaded; the database is as it was."),
            None => failed
                .detail("Whether all of it was loaded or nothing is not known: the server did not answer.")
                .hint("Run again: a load that was done is not done twice."),
        }
    })?;
    for (job, counts) in &loaded {
        log::info!(
            target: job.stage_name(),
            "staged {}, inserted {}, updated {}, unchanged {}, deleted {}, orphans {}",
            counts.staged, counts.inserted, counts.updated, counts.unchanged, counts.deleted, counts.orphans
        );
    }
    Ok(())
}

fn steps<'a>(
    tx: &mut Transaction,
    pipeline: &'a Pipeline,
    exports: Vec<Export<'a>>,
    run_id: &str,
) -> Result<Vec<(Job<'a>, Counts)>> {
    begin(tx)?;
    let jobs = job::jobs(tx, pipeline, exports)?;
    lock_tables(tx, &jobs)?;
    job::ensure_ledger(tx)?;
    record_run(tx, pipeline, &jobs, run_id)?;
    let mut work = Vec::with_capacity(jobs.len());
    for job in jobs {
        work.push(staged(tx, &work, job)?);
    }
    for Work { job, delta, difference, .. } in &work {
        merge::guard(tx, job, delta, difference)?;
    }
    write(tx, &mut work, run_id)?;
    let loaded = record_tables(tx, work, run_id)?;
    check(tx, pipeline, &loaded)?;
    Ok(loaded)
}

/// One table on its way: staged, compared, then written.
struct Work<'a> {
    job: Job<'a>,
    delta: Delta,
    difference: Difference,
    duration_ms: u128,
}

fn begin(tx: &mut Transaction) -> Result<()> {
    tx.batch_execute(SETTINGS).map_err(|error| failure("could not prepare the transaction", &error))?;
    let began = Instant::now();
    loop {
        let locked = tx.query_one("select pg_try_advisory_xact_lock($1)", &[&ADVISORY_LOCK]);
        let locked = locked.map_err(|error| failure("could not take the loader's lock", &error))?;
        if locked.get(0) {
            return Ok(());
        }
        if began.elapsed() > LOCK_PATIENCE {
            break;
        }
        let paused = tx.batch_execute("select pg_sleep(0.05)");
        paused.map_err(|error| failure("could not wait for the loader's lock", &error))?;
    }
    let holder = tx.query_opt(include_str!("../sql/lock_holder.sql"), &[&ADVISORY_LOCK]).ok().flatten();
    let error = Error::locked("another loader is at work on this database");
    Err(match holder {
        Some(row) => {
            error.detail(format!("It is server process {}, since {}.", row.get::<_, i32>(0), row.get::<_, String>(1)))
        }
        None => error,
    })
}

fn lock_tables(tx: &mut Transaction, jobs: &[Job]) -> Result<()> {
    let tables: Vec<&str> = jobs.iter().map(|job| job.table.quoted.as_str()).collect();
    tx.batch_execute(&format!("lock table {} in share row exclusive mode", tables.join(", ")))
        .map_err(|error| failure("could not lock the tables", &error))
}

/// Stages one table, drops its orphans and compares it. `before` are the tables staged already, its parents among them.
fn staged<'a>(tx: &mut Transaction, before: &[Work], job: Job<'a>) -> Result<Work<'a>> {
    let began = Instant::now();
    let delta = stage::stage(tx, &job)?;
    let columns = quoted_key_columns(&job);
    // The planner knows nothing of a new table; its keys are what the joins are planned by.
    tx.batch_execute(&format!("analyze {} ({columns})", job.delta))
        .map_err(|error| failure(&format!("could not analyze the delta table of `{}`", job.table.name), &error))?;
    merge::check_keys(tx, &job)?;
    let orphans =
        merge::drop_orphans(tx, &job, &delta, |key| parent_in(before, key).map(|work| work.job.delta.as_str()))?;
    let difference = Difference { orphans, ..merge::compare(tx, &job, &delta)? };
    log::debug!(target: job.stage_name(), "staged and compared in {} ms", began.elapsed().as_millis());
    Ok(Work { job, delta, difference, duration_ms: began.elapsed().as_millis() })
}

fn quoted_key_columns(job: &Job) -> String {
    pg::quoted_list("", &job.table.primary_key)
}

fn parent_in<'w, 'a>(work: &'w [Work<'a>], key: &ForeignKey) -> Option<&'w Work<'a>> {
    work.iter().find(|work| work.job.table.oid == key.parent)
}

/// Changes the tables: rows that are gone first, children before parents; then the others, parents before children.
fn write(tx: &mut Transaction, work: &mut [Work], run_id: &str) -> Result<()> {
    for i in (0..work.len()).rev() {
        let began = Instant::now();
        let Work { job, delta, difference, .. } = &work[i];
        if difference.deleted > 0 {
            let parent = |key: &ForeignKey| {
                parent_in(work, key).map(|work| (work.job.table.name.as_str(), work.job.delta.as_str()))
            };
            let deleted = merge::prune(tx, job, delta, run_id, parent)?;
            work[i].difference.deleted = deleted;
            work[i].duration_ms += began.elapsed().as_millis();
        }
    }
    let restore = merge::set_foreign_keys_aside(tx, work.iter().map(|work| &work.job))?;
    for Work { job, delta, difference, duration_ms } in work {
        let began = Instant::now();
        if difference.updated > 0 {
            difference.updated = merge::update(tx, job, delta)?;
        }
        if difference.inserted > 0 {
            difference.inserted = merge::insert(tx, job, delta, difference)?;
        }
        log::debug!(target: job.stage_name(), "written in {} ms", began.elapsed().as_millis());
        *duration_ms += began.elapsed().as_millis();
    }
    merge::restore_foreign_keys(tx, &restore)
}

fn record_run(tx: &mut Transaction, pipeline: &Pipeline, jobs: &[Job], run_id: &str) -> Result<()> {
    // Of one form, so the first in the alphabet is the oldest; one that is not known makes the age unknown.
    let fetched: Option<Vec<&str>> = jobs.iter().map(|job| job.export.fetched_at.as_deref()).collect();
    let fetched_at = fetched.and_then(|times| times.into_iter().min());
    tx.execute(include_str!("../sql/insert_run.sql"), &[&run_id, &pipeline.name, &fetched_at]).map_err(|error| {
        if error.code() == Some(&postgres::error::SqlState::UNIQUE_VIOLATION) {
            return Error::usage(format!("a load called `{run_id}` is in the ledger already"))
                .hint("Give another `--run-id`, or none.");
        }
        failure("could not write to the ledger", &error)
    })?;
    Ok(())
}

fn record_tables<'a>(tx: &mut Transaction, work: Vec<Work<'a>>, run_id: &str) -> Result<Vec<(Job<'a>, Counts)>> {
    let failed = |error: postgres::Error| failure("could not write to the ledger", &error);
    let statement = tx.prepare(include_str!("../sql/insert_run_table.sql")).map_err(failed)?;
    let mut loaded = Vec::with_capacity(work.len());
    for Work { job, delta, difference, duration_ms } in work {
        let staged = delta.records as i64;
        let Difference { inserted, updated, deleted, orphans, .. } = difference;
        let counts =
            Counts { staged, inserted, updated, unchanged: staged - orphans - inserted - updated, deleted, orphans };
        tx.execute(
            &statement,
            &[
                &run_id,
                &job.table.name,
                &job.export.stage.name,
                &delta.export_sha256,
                &counts.staged,
                &counts.inserted,
                &counts.updated,
                &counts.unchanged,
                &counts.deleted,
                &counts.orphans,
                &(duration_ms as i64),
            ],
        )
        .map_err(failed)?;
        loaded.push((job, counts));
    }
    let finished = "update mirror42.runs set finished_at = clock_timestamp(), status = 'loaded' where id = $1";
    tx.execute(finished, &[&run_id]).map_err(failed)?;
    Ok(loaded)
}

/// What the constraints do not vouch for: the pipeline's checks, and foreign keys that are `not valid`.
fn check(tx: &mut Transaction, pipeline: &Pipeline, loaded: &[(Job, Counts)]) -> Result<()> {
    let keys = loaded.iter().flat_map(|(job, _)| &job.parents);
    let unsure = keys.filter(|key| !key.validated).map(Check::no_orphan);
    for check in unsure.chain(pipeline.checks.iter().map(|check| Check::of_pipeline(pipeline, check))) {
        if let Some(offenders) = checks::run(tx, &check)? {
            return Err(offenders.error(&check));
        }
    }
    Ok(())
}
