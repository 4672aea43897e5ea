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
use crate::error::{Kind, Result};
use crate::pg::failure;

enum Order {
    PruneLast,
    PruneFirst {
        /// The rows that are to be put back.
        kept: Kept,
        /// Rows change before new ones come.
        update_first: bool,
    },
}

impl Order {
    fn updates_first(&self) -> bool {
        matches!(self, Order::PruneFirst { update_first: true, .. })
    }
}

pub fn apply(
    tx: &mut Transaction,
    differ: &mut Differ,
    all: &mut [Work],
    run_id: &str,
    phases: &mut Phases,
) -> Result<()> {
    let failed = |error: postgres::Error| failure("could not write what differs", &error);
    let planned: Vec<Counts> = all.iter().map(|work| work.counts).collect();
    let mut savepoint = tx.transaction().map_err(failed)?;
    match in_order(&mut Order::PruneLast, &mut savepoint, differ, all, run_id, phases) {
        Err(error) if error.kind() == Kind::Taken => {
            log::debug!("{}: once more, deletions first", error.message());
            savepoint.rollback().map_err(failed)?;
            all.iter_mut().zip(planned).for_each(|(work, counts)| work.counts = counts);
            // What the schema lets wait until the end may wait now.
            tx.batch_execute("set constraints all deferred").map_err(failed)?;
            let mut order = Order::PruneFirst { kept: sweep::keep(tx, all)?, update_first: false };
            in_order(&mut order, tx, differ, all, run_id, phases).map_err(|error| match error.kind() {
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

fn in_order(
    order: &mut Order,
    tx: &mut Transaction,
    differ: &mut Differ,
    all: &mut [Work],
    run_id: &str,
    phases: &mut Phases,
) -> Result<()> {
    if matches!(order, Order::PruneFirst { .. }) {
        prune_all(tx, all, run_id, phases)?;
    }
    for work in &mut *all {
        let began = Instant::now();
        match order {
            Order::PruneLast => write_one(order, tx, differ, work, run_id, phases)?,
            Order::PruneFirst { .. } => write_after_prune(order, tx, differ, work, run_id, phases)?,
        }
        work.duration_ms += began.elapsed().as_millis();
    }
    match order {
        Order::PruneFirst { kept, .. } => kept.check_back(),
        Order::PruneLast => {
            sweep::check(tx, all)?;
            prune_all(tx, all, run_id, phases)
        }
    }
}

/// Writes one table of which the deletions are done. New rows and those that are put back come before changes, since rows may be
/// moved to them; the other way round where a value that must be unique is still that of a row that changes.
fn write_after_prune(
    order: &mut Order,
    tx: &mut Transaction,
    differ: &mut Differ,
    work: &mut Work,
    run_id: &str,
    phases: &mut Phases,
) -> Result<()> {
    let failed = |error: postgres::Error| failure("could not write what differs", &error);
    let planned = (work.counts, work.changed_columns.clone());
    let mut savepoint = tx.transaction().map_err(failed)?;
    match write_one(order, &mut savepoint, differ, work, run_id, phases) {
        Err(error) if error.kind() == Kind::Taken => {
            log::debug!("{}: once more, changes first", error.message());
            savepoint.rollback().map_err(failed)?;
            (work.counts, work.changed_columns) = planned;
            set_update_first(order, true);
            if let Order::PruneFirst { kept, .. } = order {
                kept.is_away_again(work);
            }
            write_one(order, tx, differ, work, run_id, phases)?;
            set_update_first(order, false);
        }
        done => {
            done?;
            savepoint.commit().map_err(failed)?;
        }
    }
    match order {
        Order::PruneFirst { kept, .. } => sweep::put_back_others(tx, kept),
        Order::PruneLast => Ok(()),
    }
}

fn set_update_first(order: &mut Order, first: bool) {
    if let Order::PruneFirst { update_first, .. } = order {
        *update_first = first;
    }
}

/// Deletes what is gone, children before parents.
fn prune_all(tx: &mut Transaction, all: &mut [Work], run_id: &str, phases: &mut Phases) -> Result<()> {
    let mut clock = Clock::new();
    if all.iter().all(|work| work.counts.deleted == 0) {
        return Ok(());
    }
    let children = cascade::children_of(tx, all)?;
    for i in (0..all.len()).rev() {
        if all[i].counts.deleted > 0 {
            let began = Instant::now();
            cascade::note(tx, all, &all[i], &children, run_id)?;
            all[i].counts.deleted = write::prune(tx, all, &all[i], run_id)?;
            all[i].duration_ms += began.elapsed().as_millis();
        }
    }
    phases.prune_ms += clock.lap_ms();
    Ok(())
}

/// Inserts and updates, and fills what is still empty.
fn write_one(
    order: &mut Order,
    tx: &mut Transaction,
    differ: &mut Differ,
    work: &mut Work,
    run_id: &str,
    phases: &mut Phases,
) -> Result<()> {
    let refused = match work.way {
        Way::Direct => {
            if let Order::PruneFirst { kept, .. } = order {
                work.counts.updated += sweep::put_back(tx, kept, work, run_id)?;
            }
            return Ok(());
        }
        Way::Later => {
            let mut clock = Clock::new();
            let refused = copy_directly(tx, differ, work)?;
            phases.copy_ms += clock.lap_ms();
            refused
        }
        Way::Diff { .. } => write_differences(order, tx, work, run_id, phases)?,
        Way::Plain => return write_by_delta(order, tx, work, run_id, phases),
    };
    let Some(why) = refused else { return Ok(()) };
    log::debug!(target: work.stage_name(), "goes the plain way: {why}");
    let (planned, changed_columns) = (work.counts, work.changed_columns.clone());
    stage(tx, differ, work)?;
    match order {
        Order::PruneLast => work.counts = Counts { before: planned.before, deleted: planned.deleted, ..work.counts },
        // The table lacked the rows that are kept: what changes in those was not seen now.
        Order::PruneFirst { .. } => (work.counts, work.changed_columns) = (planned, changed_columns),
    }
    write_by_delta(order, tx, work, run_id, phases)
}

/// Writes what differs from the whole delta table.
fn write_by_delta(
    order: &mut Order,
    tx: &mut Transaction,
    work: &mut Work,
    run_id: &str,
    phases: &mut Phases,
) -> Result<()> {
    let (is_new, is_changed) = (work.counts.inserted > 0, work.counts.updated > 0);
    let mut clock = Clock::new();
    work.counts.updated = 0;
    if is_changed && order.updates_first() {
        work.counts.updated += write::update(tx, work, run_id)?;
        phases.update_ms += clock.lap_ms();
    }
    match order {
        Order::PruneLast if is_new => work.counts.inserted = write::insert_by_delta(tx, work, None)?,
        Order::PruneLast => {}
        // All at once: each may refer to another.
        Order::PruneFirst { kept, .. } => match sweep::prepare_back(tx, kept, work, run_id)? {
            Some(back) => {
                work.counts.inserted = write::insert_by_delta(tx, work, Some(&back))?;
                work.counts.updated += back.changed;
                kept.is_back(work);
            }
            None if is_new => work.counts.inserted = write::insert_by_delta(tx, work, None)?,
            None => {}
        },
    }
    phases.insert_ms += clock.lap_ms();
    if is_changed && !order.updates_first() {
        work.counts.updated += write::update(tx, work, run_id)?;
        phases.update_ms += clock.lap_ms();
    }
    Ok(())
}

/// Sends what differs; returns what the server refused, where the plain way is to be gone.
fn write_differences(
    order: &mut Order,
    tx: &mut Transaction,
    work: &mut Work,
    run_id: &str,
    phases: &mut Phases,
) -> Result<Option<String>> {
    let mut clock = Clock::new();
    let doing = format!("could not write what differs to `{}`", work.name());
    let mut savepoint = tx.transaction().map_err(|error| failure(&doing, &error))?;
    let is_changed = work.counts.updated > 0;
    if is_changed && let Err(error) = write::create_delta(&mut savepoint, work)? {
        return give_way(savepoint, &doing, &error).map(Some);
    }
    let mut updated = 0;
    if is_changed && order.updates_first() {
        updated += write::update(&mut savepoint, work, run_id)?;
    }
    phases.update_ms += clock.lap_ms();
    if let Err(error) = write::insert(&mut savepoint, work)? {
        return give_way(savepoint, &doing, &error).map(Some);
    }
    if let Order::PruneFirst { kept, .. } = order {
        updated += sweep::put_back(&mut savepoint, kept, work, run_id)?;
    }
    phases.insert_ms += clock.lap_ms();
    if is_changed && !order.updates_first() {
        updated += write::update(&mut savepoint, work, run_id)?;
    }
    phases.update_ms += clock.lap_ms();
    work.counts.updated = updated;
    savepoint.commit().map_err(|error| failure(&doing, &error))?;
    Ok(None)
}
