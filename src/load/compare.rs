//! What differs, table by table; and the tables that are empty, filled on the way.

use std::io::Write;
use std::time::Instant;

use postgres::Transaction;

use super::clock::Clock;
use super::report::Phases;
use super::work::{Counts, Way, Work};
use super::{Plan, write};
use crate::diff::buffer::Pool;
use crate::diff::job::Job;
use crate::diff::source::Form;
use crate::diff::{self, Differ, Difference, Outcome, plain, tuple};
use crate::error::{Kind, Result};
use crate::files;
use crate::pg::{failure, quoted_list};

/// Compares all tables, parents before children, and fills those that are empty.
pub fn compare_all<'a>(
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
            work.way = Way::Plain;
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
pub fn stage(tx: &mut Transaction, differ: &mut Differ, work: &mut Work) -> Result<()> {
    let staged = plain::compare(tx, differ, &work.job, &work.delta)?;
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
pub fn copy_directly(tx: &mut Transaction, differ: &mut Differ, work: &mut Work) -> Result<Option<String>> {
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
    work.columns = done.plan.columns;
    work.read = done.read;
    Ok(None)
}

/// What the server said of the rows that it was sent: their number, or why it refused them.
type Sent = Result<u64, postgres::Error>;

fn send_all(tx: &mut Transaction, differ: &mut Differ, job: &Job) -> Result<Outcome<diff::Done<Sent>>> {
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
pub fn give_way(savepoint: Transaction, doing: &str, error: &postgres::Error) -> Result<String> {
    let failed = failure(doing, error);
    // Data exceptions, and constraints that a row violates (Postgres, appendix A).
    let of_the_rows = error.code().is_some_and(|code| ["22", "23"].iter().any(|class| code.code().starts_with(class)));
    match failed.kind() {
        Kind::Failed if of_the_rows => roll_back(savepoint, doing, failed.message().to_string()),
        _ => Err(failed),
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
            tuple::count_differing(old, row, &mut differing);
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
        write::create_gone(tx, work, &mut gone)?;
    }
    work.way = Way::Diff { new, changed };
    Ok(None)
}
