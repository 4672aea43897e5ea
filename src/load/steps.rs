//! The steps of the transaction, in their order.

use std::time::{Duration, Instant};

use postgres::Transaction;

use super::clock::Clock;
use super::work::{Counts, Work};
use super::{Plan, apply, compare, report, schema, write};
use crate::diff::Differ;
use crate::diff::job::{self, Job};
use crate::error::{Error, Result};
use crate::pg::checks::{self, Check};
use crate::pg::{self, catalog, failure, ledger};

use report::{Phases, Report};

/// The server notices within a second that a loader was killed (`client_connection_check_interval`), and then rolls back.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

pub fn run(tx: &mut Transaction, plan: &Plan) -> Result<Report> {
    let mut clock = Clock::new();
    begin(tx, plan)?;
    let schema = schema::tables(tx, plan.pipeline)?;
    let keys = catalog::foreign_keys(tx, &schema.tables)?;
    let jobs = job::jobs(plan.pipeline, &plan.exports, schema.tables, &keys)?;
    lock_tables(tx, &jobs)?;
    ledger::ensure(tx, plan.pipeline)?;
    record_run(tx, plan, &jobs)?;
    // A table that anybody else has seen keeps its foreign keys.
    let aside = jobs.iter().flat_map(|job| &job.parents).filter(|_| schema.created);
    let restore = write::set_foreign_keys_aside(tx, aside)?;
    let mut differ = Differ::new(tx, &jobs)?;
    let mut phases = Phases { begin_ms: clock.lap_ms(), ..Phases::default() };

    let mut all = compare::compare_all(tx, plan, &mut differ, jobs, &mut phases)?;
    clock.lap_ms();
    for work in &all {
        let allowed = plan.allowed.iter().find(|(table, _)| table == work.name()).map(|(_, rows)| *rows);
        write::guard(tx, &all, work, allowed)?;
    }
    apply::apply(tx, &mut differ, &mut all, &plan.run_id, &mut phases)?;
    clock.lap_ms();
    // Before tables are altered: what waits for the commit would be in the way of that.
    check_deferred(tx)?;
    write::restore_foreign_keys(tx, &restore)?;
    phases.foreign_keys_ms = clock.lap_ms();
    record_tables(tx, plan, &all)?;
    check(tx, plan, &all)?;
    phases.checks_ms = clock.lap_ms();
    report::of(tx, plan, &all, phases)
}

fn begin(tx: &mut Transaction, plan: &Plan) -> Result<()> {
    // Zero is Postgres's own word for "as long as it takes".
    let settings = format!(
        "{} set local lock_timeout = {}; set local statement_timeout = {}",
        include_str!("../sql/load_settings.sql").trim_end(),
        plan.pipeline.lock_timeout.as_millis(),
        plan.pipeline.statement_timeout.as_millis()
    );
    tx.batch_execute(&settings).map_err(|error| failure("could not prepare the transaction", &error))?;
    // A loader with another ledger is no concern of ours: what both want to write, the tables' locks keep apart.
    let lock = pg::lock_key(&format!("load {}", plan.pipeline.ledger));
    let began = Instant::now();
    loop {
        let locked = tx.query_one("select pg_try_advisory_xact_lock($1)", &[&lock]);
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
    let holder = tx.query_opt(include_str!("../sql/lock_holder.sql"), &[&lock]).ok().flatten();
    let error = Error::locked("another loader is at work on this database");
    Err(match holder {
        Some(row) => {
            error.detail(format!("It is server process {}, since {}.", row.get::<_, i32>(0), row.get::<_, String>(1)))
        }
        None => error,
    })
}

/// Constraints that the schema defers to the commit are checked now: the commit could not say whose row it is.
fn check_deferred(tx: &mut Transaction) -> Result<()> {
    tx.batch_execute("set constraints all immediate").map_err(|error| {
        match error.as_db_error().and_then(postgres::error::DbError::table) {
            Some(table) => failure(&format!("could not write `{table}`"), &error),
            None => failure("could not check the deferred constraints", &error),
        }
    })
}

fn lock_tables(tx: &mut Transaction, jobs: &[Job]) -> Result<()> {
    let tables: Vec<&str> = jobs.iter().map(|job| job.table.quoted.as_str()).collect();
    tx.batch_execute(&format!("lock table {} in share row exclusive mode", tables.join(", ")))
        .map_err(|error| failure("could not lock the tables", &error))
}

fn record_run(tx: &mut Transaction, plan: &Plan, jobs: &[Job]) -> Result<()> {
    // Of one form, so the first in the alphabet is the oldest; one that is not known makes the age unknown.
    let fetched: Option<Vec<&str>> = jobs.iter().map(|job| job.export.fetched_at.as_deref()).collect();
    let fetched_at = fetched.and_then(|times| times.into_iter().min());
    let (run_id, pipeline) = (&plan.run_id, &plan.pipeline.name);
    let statement = ledger::sql(include_str!("../sql/insert_run.sql"), &plan.pipeline.ledger);
    tx.execute(&statement, &[run_id, pipeline, &fetched_at, &plan.definition]).map_err(|error| {
        if error.code() == Some(&postgres::error::SqlState::UNIQUE_VIOLATION) {
            return Error::usage(format!("a load called `{run_id}` is in the ledger already"))
                .hint("Give another `--run-id`, or none.");
        }
        failure("could not write to the ledger", &error)
    })?;
    Ok(())
}

fn record_tables(tx: &mut Transaction, plan: &Plan, all: &[Work]) -> Result<()> {
    let failed = |error: postgres::Error| failure("could not write to the ledger", &error);
    let (run_id, schema) = (&plan.run_id, &plan.pipeline.ledger);
    let statement = ledger::sql(include_str!("../sql/insert_run_table.sql"), schema);
    let statement = tx.prepare(&statement).map_err(failed)?;
    let names: Vec<&str> = all.iter().map(Work::name).collect();
    for (work, state) in all.iter().zip(catalog::states(tx, &names)?) {
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let Counts { inserted, updated, deleted, .. } = work.counts;
        tx.execute(
            &statement,
            &[
                run_id,
                &work.name(),
                &work.stage_name(),
                &work.read.sha256,
                &count(work.read.records),
                &count(inserted),
                &count(updated),
                &count(work.unchanged()),
                &count(deleted),
                &count(work.read.orphan_count()),
                &(work.duration_ms as i64),
                &count(work.read.duplicates),
                &count(work.read.mended),
                &state,
            ],
        )
        .map_err(failed)?;
    }
    let finished = ledger::sql(include_str!("../sql/finish_run.sql"), schema);
    tx.execute(&finished, &[run_id]).map_err(failed)?;
    Ok(())
}

/// What the constraints do not vouch for: the pipeline's checks, and foreign keys that are `not valid`.
fn check(tx: &mut Transaction, plan: &Plan, all: &[Work]) -> Result<()> {
    let pipeline = plan.pipeline;
    let keys = all.iter().flat_map(|work| &work.job.parents);
    let unsure = keys.filter(|key| !key.validated).map(Check::no_orphan);
    for check in unsure.chain(pipeline.checks.iter().map(|check| Check::of_pipeline(pipeline, check))) {
        if let Some(offenders) = checks::run(tx, &check)? {
            return Err(offenders.error(&check));
        }
    }
    Ok(())
}
