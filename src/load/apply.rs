//! The differences are written: new rows, changed rows, and the deletions.
//!
//! New rows come first, parents before children, then changes, and deletions last, children first: a row that has moved
//! from a parent that goes to another is never swept away with it. Where a value that must be unique is still that of
//! a row that goes or changes, deletions come first, and what they sweep away is kept and put back ([`sweep`]).

use std::time::Instant;

use postgres::Transaction;

use super::cascade;
use super::clock::Clock;
use super::compare::{copy_directly, give_way, stage};
use super::report::Phases;
use super::sweep::Kept;
use super::work::{Counts, Way, Work};
use super::{sweep, write};
use crate::diff::Differ;
use crate::error::{Error, Kind, Result};
use crate::pg::failure;

enum Order {
    PruneLast,
    /// With the rows that are to be put back.
    PruneFirst(Kept),
}

/// When rows change: before new ones come, or after.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Updates {
    First,
    Last,
}

/// What all tables are written with.
struct Writer<'w> {
    order: Order,
    differ: &'w mut Differ,
    run_id: &'w str,
    phases: &'w mut Phases,
}

pub fn apply(
    tx: &mut Transaction,
    differ: &mut Differ,
    all: &mut [Work],
    run_id: &str,
    phases: &mut Phases,
) -> Result<()> {
    let planned: Vec<Counts> = all.iter().map(|work| work.counts).collect();
    let mut writer = Writer { order: Order::PruneLast, differ, run_id, phases };
    let mut savepoint = tx.transaction().map_err(failed)?;
    match writer.write(&mut savepoint, all) {
        Err(error) if error.kind() == Kind::Taken => {
            log::debug!("{}: once more, deletions first", error.message());
            savepoint.rollback().map_err(failed)?;
            all.iter_mut().zip(planned).for_each(|(work, counts)| work.counts = counts);
            // What the schema lets wait until the end may wait now.
            tx.batch_execute("set constraints all deferred").map_err(failed)?;
            writer.order = Order::PruneFirst(sweep::keep(tx, all)?);
            writer.write(tx, all).map_err(|error| match error.kind() {
                Kind::Taken => error.hint(
                    "If two rows of the table exchange a value, the server must check it at the end: declare the constraint \
                     `deferrable initially deferred` (docs/pipeline.md). If two records of the export have one, mend the filter.",
                ),
                _ => error,
            })
        }
        done => {
            done?;
            savepoint.commit().map_err(failed)
        }
    }
}

fn failed(error: postgres::Error) -> Error {
    failure("could not write what differs", &error)
}

impl Writer<'_> {
    fn write(&mut self, tx: &mut Transaction, all: &mut [Work]) -> Result<()> {
        if let Order::PruneFirst(_) = self.order {
            self.prune_all(tx, all)?;
        }
        for work in &mut *all {
            let began = Instant::now();
            match self.order {
                Order::PruneLast => self.write_one(tx, work, Updates::Last)?,
                Order::PruneFirst(_) => self.write_after_prune(tx, work)?,
            }
            work.duration_ms += began.elapsed().as_millis();
        }
        match &self.order {
            Order::PruneFirst(kept) => kept.check_back(),
            Order::PruneLast => {
                sweep::check(tx, all)?;
                self.prune_all(tx, all)
            }
        }
    }

    /// Deletes what is gone, children before parents.
    fn prune_all(&mut self, tx: &mut Transaction, all: &mut [Work]) -> Result<()> {
        let mut clock = Clock::new();
        if all.iter().all(|work| work.counts.deleted == 0) {
            return Ok(());
        }
        let children = cascade::children_of(tx, all)?;
        for i in (0..all.len()).rev() {
            if all[i].counts.deleted > 0 {
                let began = Instant::now();
                cascade::note(tx, all, &all[i], &children, self.run_id)?;
                all[i].counts.deleted = write::prune(tx, all, &all[i], self.run_id)?;
                all[i].duration_ms += began.elapsed().as_millis();
            }
        }
        self.phases.prune_ms += clock.lap_ms();
        Ok(())
    }

    /// Writes one table of which the deletions are done. New rows and those that are put back come before changes, since rows
    /// may be moved to them; the other way round where a value that must be unique is still that of a row that changes.
    fn write_after_prune(&mut self, tx: &mut Transaction, work: &mut Work) -> Result<()> {
        let planned = (work.counts, work.changed_columns.clone());
        let mut savepoint = tx.transaction().map_err(failed)?;
        match self.write_one(&mut savepoint, work, Updates::Last) {
            Err(error) if error.kind() == Kind::Taken => {
                log::debug!("{}: once more, changes first", error.message());
                savepoint.rollback().map_err(failed)?;
                (work.counts, work.changed_columns) = planned;
                if let Order::PruneFirst(kept) = &mut self.order {
                    kept.is_away_again(work);
                }
                self.write_one(tx, work, Updates::First)?;
            }
            done => {
                done?;
                savepoint.commit().map_err(failed)?;
            }
        }
        match &mut self.order {
            Order::PruneFirst(kept) => sweep::put_back_others(tx, kept),
            Order::PruneLast => Ok(()),
        }
    }

    /// Inserts and updates, and fills what is still empty.
    fn write_one(&mut self, tx: &mut Transaction, work: &mut Work, updates: Updates) -> Result<()> {
        let refused = match work.way {
            Way::Direct => {
                if let Order::PruneFirst(kept) = &mut self.order {
                    work.counts.updated += sweep::put_back(tx, kept, work, self.run_id)?;
                }
                return Ok(());
            }
            Way::Later => {
                let mut clock = Clock::new();
                let refused = copy_directly(tx, self.differ, work)?;
                self.phases.copy_ms += clock.lap_ms();
                refused
            }
            Way::Diff { .. } => self.write_differences(tx, work, updates)?,
            Way::Plain => return self.write_by_delta(tx, work, updates),
        };
        let Some(why) = refused else { return Ok(()) };
        log::debug!(target: work.stage_name(), "goes the plain way: {why}");
        let (planned, changed_columns) = (work.counts, work.changed_columns.clone());
        stage(tx, self.differ, work)?;
        match &mut self.order {
            Order::PruneLast => {
                work.counts = Counts { before: planned.before, deleted: planned.deleted, ..work.counts }
            }
            // The table lacked the rows that are kept: what changes in those was not seen now.
            Order::PruneFirst(_) => (work.counts, work.changed_columns) = (planned, changed_columns),
        }
        self.write_by_delta(tx, work, updates)
    }

    /// Writes what differs from the whole delta table.
    fn write_by_delta(&mut self, tx: &mut Transaction, work: &mut Work, updates: Updates) -> Result<()> {
        let (is_new, is_changed) = (work.counts.inserted > 0, work.counts.updated > 0);
        let mut clock = Clock::new();
        work.counts.updated = 0;
        if is_changed && updates == Updates::First {
            work.counts.updated += write::update(tx, work, self.run_id)?;
            self.phases.update_ms += clock.lap_ms();
        }
        match &mut self.order {
            Order::PruneLast if is_new => work.counts.inserted = write::insert_by_delta(tx, work, None)?,
            Order::PruneLast => {}
            // All at once: each may refer to another.
            Order::PruneFirst(kept) => match sweep::prepare_back(tx, kept, work, self.run_id)? {
                Some(back) => {
                    work.counts.inserted = write::insert_by_delta(tx, work, Some(&back))?;
                    work.counts.updated += back.changed;
                    kept.is_back(work);
                }
                None if is_new => work.counts.inserted = write::insert_by_delta(tx, work, None)?,
                None => {}
            },
        }
        self.phases.insert_ms += clock.lap_ms();
        if is_changed && updates == Updates::Last {
            work.counts.updated += write::update(tx, work, self.run_id)?;
            self.phases.update_ms += clock.lap_ms();
        }
        Ok(())
    }

    /// Sends what differs; returns what the server refused, where the plain way is to be gone.
    fn write_differences(&mut self, tx: &mut Transaction, work: &mut Work, updates: Updates) -> Result<Option<String>> {
        let mut clock = Clock::new();
        let doing = format!("could not write what differs to `{}`", work.name());
        let mut savepoint = tx.transaction().map_err(|error| failure(&doing, &error))?;
        let is_changed = work.counts.updated > 0;
        if is_changed && let Err(error) = write::create_delta(&mut savepoint, work)? {
            return give_way(savepoint, &doing, &error).map(Some);
        }
        let mut updated = 0;
        if is_changed && updates == Updates::First {
            updated += write::update(&mut savepoint, work, self.run_id)?;
        }
        self.phases.update_ms += clock.lap_ms();
        if let Err(error) = write::insert(&mut savepoint, work)? {
            return give_way(savepoint, &doing, &error).map(Some);
        }
        if let Order::PruneFirst(kept) = &mut self.order {
            updated += sweep::put_back(&mut savepoint, kept, work, self.run_id)?;
        }
        self.phases.insert_ms += clock.lap_ms();
        if is_changed && updates == Updates::Last {
            updated += write::update(&mut savepoint, work, self.run_id)?;
        }
        self.phases.update_ms += clock.lap_ms();
        work.counts.updated = updated;
        savepoint.commit().map_err(|error| failure(&doing, &error))?;
        Ok(None)
    }
}
