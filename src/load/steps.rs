//! The steps of the transaction, in their order.

use std::time::{Duration, Instant};

use postgres::Transaction;

use super::work::{Counts, Way, Work};
use super::{Plan, report, schema, write};
use crate::diff::buffer::{Buffer, Pool};
use crate::diff::job::{self, Job};
use crate::diff::source::Form;
use crate::diff::{self, Differ, Difference, Outcome, plain, tuple};
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::pg::checks::{self, Check};
use crate::pg::{self, catalog, failure, ledger, quoted_list};

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

    let mut all = compare_all(tx, plan, &mut differ, jobs, &mut phases)?;
    clock.lap_ms();
    for work in &all {
        let allowed = plan.allowed.iter().find(|(table, _)| table == work.name()).map(|(_, rows)| *rows);
        write::guard(tx, &all, work, allowed)?;
    }
    for i in (0..all.len()).rev() {
        if all[i].counts.deleted > 0 {
            let began = Instant::now();
            all[i].counts.deleted = write::prune(tx, &all, &all[i], &plan.run_id)?;
            all[i].duration_ms += began.elapsed().as_millis();
        }
    }
    phases.prune_ms = clock.lap_ms();
    for work in &mut all {
        let began = Instant::now();
        write_one(tx, &mut differ, work, &plan.run_id, &mut phases)?;
        work.duration_ms += began.elapsed().as_millis();
    }
    clock.lap_ms();
    write::restore_foreign_keys(tx, &restore)?;
    phases.foreign_keys_ms = clock.lap_ms();
    record_tables(tx, plan, &all)?;
    check(tx, plan, &all)?;
    phases.checks_ms = clock.lap_ms();
    report::of(tx, plan, &all, phases)
}

/// Measures what is between two looks at it.
struct Clock(Instant);

impl Clock {
    fn new() -> Clock {
        Clock(Instant::now())
    }

    fn lap_ms(&mut self) -> f64 {
        let lap = self.0.elapsed();
        self.0 = Instant::now();
        lap.as_micros() as f64 / 1e3
    }
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

fn lock_tables(tx: &mut Transaction, jobs: &[Job]) -> Result<()> {
    let tables: Vec<&str> = jobs.iter().map(|job| job.table.quoted.as_str()).collect();
    tx.batch_execute(&format!("lock table {} in share row exclusive mode", tables.join(", ")))
        .map_err(|error| failure("could not lock the tables", &error))
}

/// Compares all tables, parents before children, and fills those that are empty.
fn compare_all<'a>(
    tx: &mut Transaction,
    plan: &Plan,
    differ: &mut Differ,
    jobs: Vec<Job<'a>>,
    phases: &mut Phases,
) -> Result<Vec<Work<'a>>> {
    let mut clock = Clock::new();
    let empty = empty_tables(tx, &jobs)?;
    let folder = plan.pipeline.paths.state();
    files::create_dir(&folder)?;
    let pool = Pool::new(&folder);
    let mut all: Vec<Work> = Vec::with_capacity(jobs.len());
    for (place, (job, is_empty)) in jobs.into_iter().zip(empty).enumerate() {
        let began = Instant::now();
        // Its rows can stand once those that they refer to do.
        let waits = job.parents.iter().filter_map(|key| all.iter().find(|work| work.job.table.oid == key.parent));
        let waits = waits.filter(|parent| !matches!(parent.way, Way::Direct)).any(|parent| parent.counts.inserted > 0);
        let mut work = Work::new(job, place, Way::Direct);
        let doubt = match (is_empty, waits) {
            (true, false) => copy_directly(tx, differ, &mut work)?,
            (true, true) => read_only(differ, &mut work)?,
            (false, _) => compare(tx, differ, &mut work, &pool)?,
        };
        if let Some(why) = doubt {
            log::debug!(target: work.stage_name(), "goes the plain way: {why}");
            stage(tx, differ, &mut work)?;
            if work.counts.deleted > 0 {
                write::create_gone_by_delta(tx, &work)?;
            }
        }
        match work.way {
            Way::Direct => phases.copy_ms += clock.lap_ms(),
            _ => phases.compare_ms += clock.lap_ms(),
        }
        work.duration_ms = began.elapsed().as_millis();
        log::debug!(target: work.stage_name(), "compared in {} ms", work.duration_ms);
        all.push(work);
    }
    Ok(all)
}

/// The plain way: all of the export goes into the delta table, and the server compares.
fn stage(tx: &mut Transaction, differ: &mut Differ, work: &mut Work) -> Result<()> {
    let staged = plain::compare(tx, differ, &work.job, &work.delta)?;
    work.way = Way::Plain;
    work.read = staged.read;
    work.columns = staged.columns;
    work.changed_columns = staged.changed_columns;
    work.counts = Counts { before: staged.before, inserted: staged.new, updated: staged.changed, deleted: staged.gone };
    Ok(())
}

fn empty_tables(tx: &mut Transaction, jobs: &[Job]) -> Result<Vec<bool>> {
    let looks = jobs.iter().map(|job| format!("not exists (select from {})", job.table.quoted));
    let row = tx.query_one(&format!("select array[{}]", looks.collect::<Vec<_>>().join(", ")), &[]);
    Ok(row.map_err(|error| failure("could not look into the tables", &error))?.get(0))
}

/// Fills a table that is empty; returns why not, where the plain way is to be gone.
fn copy_directly(tx: &mut Transaction, differ: &mut Differ, work: &mut Work) -> Result<Option<String>> {
    let doing = format!("could not copy `{}`", work.job.export.shown());
    let mut savepoint = tx.transaction().map_err(|error| failure(&doing, &error))?;
    let done = match send_all(&mut savepoint, differ, &work.job)? {
        Outcome::Doubt(why) => return roll_back(savepoint, &doing, why).map(Some),
        Outcome::Done(done) => done,
    };
    work.counts.inserted = match done.taken {
        Ok(rows) => rows,
        Err(error) => return give_way(savepoint, &doing, &error).map(Some),
    };
    savepoint.commit().map_err(|error| failure(&doing, &error))?;
    work.way = Way::Direct;
    work.columns = done.plan.columns;
    work.read = done.read;
    Ok(None)
}

/// What the server said of the rows that it was sent: their number, or why it refused them.
type Sent = Result<u64, postgres::Error>;

fn send_all(tx: &mut Transaction, differ: &mut Differ, job: &Job) -> Result<Outcome<diff::Done<Sent>>> {
    use std::io::Write;
    differ.read(job, Form::Binary, |plan, batches| {
        let columns = quoted_list("", &plan.columns);
        let sql = format!("copy {} ({columns}) from stdin (format binary)", job.table.quoted);
        let mut copy = match tx.copy_in(&sql) {
            Ok(copy) => copy,
            Err(error) => {
                batches.for_each(drop);
                return Ok(Err(error));
            }
        };
        // `finish` knows the server's reason; what the reader finds wrong goes before it.
        let mut taken = copy.write_all(tuple::HEADER).is_ok();
        for batch in &mut *batches {
            taken = taken && copy.write_all(&batch.bytes).is_ok();
        }
        batches.check_whole(job)?;
        if taken {
            let _ = copy.write_all(tuple::TRAILER);
        }
        Ok(copy.finish())
    })
}

fn roll_back(savepoint: Transaction, doing: &str, why: String) -> Result<String> {
    savepoint.rollback().map_err(|error| failure(doing, &error))?;
    Ok(why)
}

/// Rolls back to before what the server refused: the text form will tell what is wrong, and where. What has nothing to
/// do with the rows is an error at once.
fn give_way(savepoint: Transaction, doing: &str, error: &postgres::Error) -> Result<String> {
    let failed = failure(doing, error);
    match failed.kind() {
        Kind::Conflict => Err(failed),
        _ if error.as_db_error().is_none() => Err(failed),
        _ => roll_back(savepoint, doing, failed.message().to_string()),
    }
}

/// Reads the export of an empty table that is filled later, since its children must know its keys now.
fn read_only(differ: &mut Differ, work: &mut Work) -> Result<Option<String>> {
    let outcome = differ.read(&work.job, Form::Binary, |_, batches| {
        let mut rows = 0;
        for batch in &mut *batches {
            rows += batch.rows;
        }
        batches.check_whole(&work.job)?;
        Ok(rows)
    })?;
    let done = match outcome {
        Outcome::Doubt(why) => return Ok(Some(why)),
        Outcome::Done(done) => done,
    };
    work.way = Way::Later;
    work.columns = done.plan.columns;
    work.counts.inserted = done.taken;
    work.read = done.read;
    Ok(None)
}

/// Compares an export with its table; returns why not, where the plain way is to be gone.
fn compare(tx: &mut Transaction, differ: &mut Differ, work: &mut Work, pool: &Pool) -> Result<Option<String>> {
    let (mut new, mut changed, mut gone) = (pool.buffer(), pool.buffer(), pool.buffer());
    // In how many rows a column differs, by its place.
    let mut differing: Vec<u64> = Vec::new();
    let mut gone_row = Vec::new();
    let outcome = differ.compare(tx, &work.job, |key, difference| match difference {
        Difference::New(row) => new.push(row),
        Difference::Changed { old, new: row } => {
            for (place, (old, new)) in tuple::fields(&old[2..]).zip(tuple::fields(&row[2..])).enumerate() {
                differing.resize(differing.len().max(place + 1), 0);
                differing[place] += u64::from(old != new);
            }
            changed.push(row)
        }
        Difference::Gone(row) => {
            gone_row.clear();
            key.write(row, &mut gone_row);
            gone.push(&gone_row)
        }
    })?;
    let done = match outcome {
        Outcome::Doubt(why) => return Ok(Some(why)),
        Outcome::Done(done) => done,
    };
    let named = done.plan.columns.iter().cloned().zip(differing).filter(|(_, rows)| *rows > 0);
    work.changed_columns = named.collect();
    work.columns = done.plan.columns;
    work.read = done.read;
    work.counts.before = done.taken;
    work.counts.inserted = new.rows();
    work.counts.updated = changed.rows();
    work.counts.deleted = gone.rows();
    if gone.rows() > 0 {
        write::create_gone(tx, work, gone)?;
    }
    work.way = Way::Diff { new, changed };
    Ok(None)
}

/// Updates and inserts, and fills what is still empty.
fn write_one(
    tx: &mut Transaction,
    differ: &mut Differ,
    work: &mut Work,
    run_id: &str,
    phases: &mut Phases,
) -> Result<()> {
    let refused = match std::mem::replace(&mut work.way, Way::Direct) {
        Way::Direct => None,
        Way::Later => {
            let mut clock = Clock::new();
            let refused = copy_directly(tx, differ, work)?;
            phases.copy_ms += clock.lap_ms();
            refused
        }
        Way::Diff { new, changed } => write_differences(tx, work, new, changed, run_id, phases)?,
        Way::Plain => Some(String::new()).filter(|_| work.counts.inserted + work.counts.updated > 0),
    };
    let Some(why) = refused else { return Ok(()) };
    if !why.is_empty() {
        log::debug!(target: work.stage_name(), "goes the plain way: {why}");
        let Counts { before, deleted, .. } = work.counts;
        stage(tx, differ, work)?;
        // What is gone is gone by now.
        work.counts = Counts { before, deleted, ..work.counts };
    }
    let mut clock = Clock::new();
    if work.counts.updated > 0 {
        work.counts.updated = write::update(tx, work, run_id)?;
    }
    phases.update_ms += clock.lap_ms();
    if work.counts.inserted > 0 {
        work.counts.inserted = write::insert_by_delta(tx, work)?;
    }
    phases.insert_ms += clock.lap_ms();
    Ok(())
}

/// Sends what differs; returns what the server refused, where the plain way is to be gone.
fn write_differences(
    tx: &mut Transaction,
    work: &mut Work,
    new: Buffer,
    changed: Buffer,
    run_id: &str,
    phases: &mut Phases,
) -> Result<Option<String>> {
    if new.rows() + changed.rows() == 0 {
        return Ok(None);
    }
    let mut clock = Clock::new();
    let doing = format!("could not write what differs to `{}`", work.name());
    let mut savepoint = tx.transaction().map_err(|error| failure(&doing, &error))?;
    if changed.rows() > 0 {
        if let Err(error) = write::create_delta(&mut savepoint, work, changed)? {
            return give_way(savepoint, &doing, &error).map(Some);
        }
        work.counts.updated = write::update(&mut savepoint, work, run_id)?;
    }
    phases.update_ms += clock.lap_ms();
    if new.rows() > 0
        && let Err(error) = write::copy(&mut savepoint, &work.job.table.quoted, &work.columns, new)?
    {
        return give_way(savepoint, &doing, &error).map(Some);
    }
    savepoint.commit().map_err(|error| failure(&doing, &error))?;
    phases.insert_ms += clock.lap_ms();
    Ok(None)
}

fn record_run(tx: &mut Transaction, plan: &Plan, jobs: &[Job]) -> Result<()> {
    // Of one form, so the first in the alphabet is the oldest; one that is not known makes the age unknown.
    let fetched: Option<Vec<&str>> = jobs.iter().map(|job| job.export.fetched_at.as_deref()).collect();
    let fetched_at = fetched.and_then(|times| times.into_iter().min());
    let (run_id, pipeline) = (&plan.run_id, &plan.pipeline.name);
    let statement = ledger::sql(include_str!("../sql/insert_run.sql"), &plan.pipeline.ledger);
    tx.execute(&statement, &[run_id, pipeline, &fetched_at]).map_err(|error| {
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
    for work in all {
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
