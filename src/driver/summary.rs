//! What a person reads at the end of a run: a table of stages, a table of tables, one sentence.

use std::time::Duration;

use comfy_table::{Cell, CellAlignment, LineStyle, Table, TableStyle};

use super::loaded::Loaded;
use super::schedule::Schedule;
use super::verdict::{Verdict, span};
use crate::cli::Context;
use crate::error::Result;
use crate::pg::ledger::Run;
use crate::receipt::{Receipt, age_s};

/// The stages of a run: what was done, and what came of it.
pub fn stages(context: &Context, schedule: &Schedule) -> Result<String> {
    let mut table = table(&["Stage", "Requests", "MB", "Records in", "Records out", "Seconds", "Why"], 1..6);
    for (stage, decided) in schedule.decisions() {
        let receipt = Receipt::read_or_new(&context.pipeline.paths, &stage.name)?;
        let ran = |verdict: &Option<Verdict>| verdict.as_ref().is_some_and(|verdict| !verdict.is_current());
        let fetch = receipt.fetch.as_ref().filter(|_| ran(&decided.fetch));
        let extract = receipt.extract.as_ref().filter(|_| ran(&decided.extract));
        let took = fetch.map_or(0, |fetch| fetch.duration_ms) + extract.map_or(0, |extract| extract.duration_ms);
        table.add_row([
            stage.name.clone(),
            fetch.map_or(String::new(), |fetch| number(fetch.requests)),
            fetch.map_or(String::new(), |fetch| format!("{:.1}", fetch.size_bytes as f64 / 1e6)),
            extract.map_or(String::new(), |extract| number(extract.records_in)),
            receipt.extract.as_ref().map_or(String::new(), |extract| number(extract.records_out)),
            if fetch.is_some() || extract.is_some() { format!("{:.1}", took as f64 / 1e3) } else { String::new() },
            decided.told().to_string(),
        ]);
    }
    Ok(table.to_string())
}

/// The tables of a load, parents first, as the ledger has them.
pub fn tables(run: &Run) -> String {
    let mut table =
        table(&["Table", "Staged", "Inserted", "Updated", "Unchanged", "Deleted", "Orphans", "Seconds"], 1..8);
    for entry in &run.tables {
        let counts = &entry.counts;
        let counted =
            [counts.staged, counts.inserted, counts.updated, counts.unchanged, counts.deleted, counts.orphans];
        let row = counted.map(|count| number(count.unsigned_abs()));
        table.add_row(
            [entry.table.clone()].into_iter().chain(row).chain([format!("{:.2}", entry.duration_ms as f64 / 1e3)]),
        );
    }
    table.to_string()
}

/// The one sentence.
pub fn verdict(run: &Run, took: Duration, validated: bool) -> String {
    let rows: i64 = run.tables.iter().map(|table| table.counts.staged - table.counts.orphans).sum();
    let orphans: i64 = run.tables.iter().map(|table| table.counts.orphans).sum();
    let changed =
        |run: &Run| run.tables.iter().map(|t| t.counts.inserted + t.counts.updated + t.counts.deleted).sum::<i64>();
    let checks = if validated { "all checks passed" } else { "the load's checks passed" };
    format!(
        "{} rows in {} tables, {} changed, {} orphans dropped, {checks}; {:.1} s.",
        number(rows.unsigned_abs()),
        run.tables.len(),
        number(changed(run).unsigned_abs()),
        number(orphans.unsigned_abs()),
        took.as_secs_f64()
    )
}

/// The one line of a run that had nothing to do; none if there is more to tell.
pub fn idle(schedule: &Schedule) -> Option<String> {
    let stages = schedule.decisions().count();
    if !schedule.is_idle() || schedule.decisions().any(|(_, decided)| *decided.told() != Verdict::Current) {
        return None;
    }
    let current = format!("nothing to do: {stages} stage{}", if stages == 1 { " is current" } else { "s are current" });
    Some(match schedule.loaded().and_then(as_loaded) {
        None => current,
        Some(as_loaded) => format!("{current}, and {as_loaded}"),
    })
}

/// What is told in the place of a load that did not have to be; none if there was one, or was to be none.
pub fn unchanged(schedule: &Schedule, took: Duration) -> Option<String> {
    let as_loaded = schedule.loaded().and_then(as_loaded)?;
    Some(format!("{as_loaded}; {:.1} s", took.as_secs_f64()))
}

fn as_loaded(loaded: &Loaded) -> Option<String> {
    let last = loaded.last.as_ref().filter(|_| loaded.load.is_current())?;
    let age = last.fetched_at.map(|time| format!(", its data {} old", span(age_s(&time.to_string()))));
    Some(format!("the database is as run {} loaded it{}", last.id, age.unwrap_or_default()))
}

/// A table of ours; the columns of `numbers` are set to the right.
pub fn table(header: &[&str], numbers: std::ops::Range<usize>) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')));
    table.set_header(header.iter().map(Cell::new));
    for column in numbers {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// With a comma between thousands.
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0, 999, 1000, 35_654, 1_234_567].map(number), ["0", "999", "1,000", "35,654", "1,234,567"]);
    }
}
