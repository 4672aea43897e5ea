//! What a person reads at the end of a run: a table of stages, a table of tables, one sentence.

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle};

use super::loaded::Loaded;
use super::record::Record;
use super::schedule::{Decided, Schedule};
use super::staleness::{Verdict, span};
use crate::cli::Context;
use crate::error::Result;
use crate::pg::ledger::Run;
use crate::receipt::Receipt;
use crate::style::{Mood, paint};

/// Stages that had nothing to do, each in a line of its own; more are told in one.
const MOST_CURRENT: usize = 12;
/// A terminal of fewer columns has no room for a table whatever is done.
const NARROWEST: u16 = 40;

/// The stages of a run: what was done, and what came of it.
pub fn stages(context: &Context, schedule: &Schedule) -> Result<String> {
    let mut table = table(&["Stage", "Requests", "MB", "Records in", "Records out", "Seconds", "Why"], 1..6);
    let decisions: Vec<_> = schedule.decisions().collect();
    let is_current = |decided: &Decided| *decided.told() == Verdict::Current;
    let current = decisions.iter().filter(|(_, decided)| is_current(decided)).count();
    let fold = current > MOST_CURRENT;
    for (stage, decided) in decisions.into_iter().filter(|(_, decided)| !(fold && is_current(decided))) {
        let receipt = Receipt::read_or_new(&context.pipeline.paths, &stage.name)?;
        let ran = |verdict: &Option<Verdict>| verdict.as_ref().is_some_and(|verdict| !verdict.is_current());
        let fetch = receipt.fetch.as_ref().filter(|_| ran(&decided.fetch));
        let run = receipt.run.as_ref().filter(|_| ran(&decided.fetch));
        let extract = receipt.extract.as_ref().filter(|_| ran(&decided.extract));
        let took_ms = [fetch.map(|fetch| fetch.duration_ms), run.map(|run| run.duration_ms)].into_iter();
        let took_ms: Vec<u64> = took_ms.chain([extract.map(|extract| extract.duration_ms)]).flatten().collect();
        let size_bytes = fetch.map(|fetch| fetch.size_bytes).or(run.map(|run| run.size_bytes));
        table.add_row([
            stage.name.clone(),
            fetch.map_or(String::new(), |fetch| number(fetch.requests)),
            size_bytes.map_or(String::new(), |bytes| format!("{:.1}", bytes as f64 / 1e6)),
            extract.map_or(String::new(), |extract| number(extract.records_in)),
            receipt.extract.as_ref().map_or(String::new(), |extract| number(extract.records_out)),
            match took_ms.is_empty() {
                true => String::new(),
                false => format!("{:.1}", took_ms.iter().sum::<u64>() as f64 / 1e3),
            },
            decided.told().to_string(),
        ]);
    }
    if fold {
        let mut row = [const { String::new() }; 7];
        (row[0], row[6]) = (format!("{} stages", number(current as u64)), "current".to_string());
        table.add_row(row);
    }
    // Records in, MB, seconds.
    Ok(fitting(table, terminal_width(std::io::stdout()), &[3, 2, 5]))
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
    // Unchanged, seconds, staged.
    fitting(table, terminal_width(std::io::stdout()), &[4, 7, 1])
}

/// The table as text, no wider than `width`: the columns of `expendable` give way, one after the other. Where that does not
/// do, words wrap within their columns.
fn fitting(mut table: Table, width: Option<u16>, expendable: &[usize]) -> String {
    let Some(width) = width.filter(|width| *width >= NARROWEST) else { return table.trim_fmt() };
    let mut expendable = expendable.iter();
    loop {
        let text = table.trim_fmt();
        if text.lines().all(|line| line.chars().count() <= usize::from(width)) {
            return text;
        }
        match expendable.next().and_then(|column| table.column_mut(*column)) {
            Some(column) => drop(column.set_constraint(ColumnConstraint::Hidden)),
            None => return table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width).trim_fmt(),
        }
    }
}

/// The columns of the terminal that this leads to; none if it leads to none.
fn terminal_width(stream: impl std::os::fd::AsFd) -> Option<u16> {
    terminal_size::terminal_size_of(stream).map(|(terminal_size::Width(width), _)| width)
}

/// The one sentence, in green: the run has ended well.
pub fn verdict(record: &Record) -> String {
    let count = |n: i64| number(n.unsigned_abs());
    let checked = record.steps.iter().any(|step| step.what == "validate");
    let loaded = match record.tables.len() {
        0 if checked => "all checks passed".to_string(),
        0 => "up to date".to_string(),
        tables => format!(
            "{} rows in {tables} tables, {} changed, {} orphans dropped, {}",
            count(record.rows),
            count(record.changed),
            count(record.orphans),
            if checked { "all checks passed" } else { "the load's checks passed" }
        ),
    };
    let requests = match record.requests {
        0 => String::new(),
        1 => "1 request, ".to_string(),
        n => format!("{} requests, ", number(n)),
    };
    paint(Mood::Good, format_args!("{loaded}; {requests}{:.1} s.", record.duration_ms as f64 / 1e3))
}

/// The one line of a run that had nothing to do; none if there is more to tell.
pub fn idle(schedule: &Schedule) -> Option<String> {
    let stages = schedule.decisions().count();
    if !schedule.is_idle() || schedule.decisions().any(|(_, decided)| *decided.told() != Verdict::Current) {
        return None;
    }
    let current = match stages {
        1 => "nothing to do: 1 stage is current".to_string(),
        _ => format!("nothing to do: {} stages are current", number(stages as u64)),
    };
    Some(match schedule.loaded().and_then(as_loaded) {
        None => paint(Mood::Good, format_args!("{current}")),
        Some(as_loaded) => paint(Mood::Good, format_args!("{current}, and {as_loaded}")),
    })
}

/// What is told in the place of a load that did not have to be; none if there was one, or was to be none.
pub fn unchanged(schedule: &Schedule, record: &Record) -> Option<String> {
    let as_loaded = schedule.loaded().and_then(as_loaded)?;
    Some(format!("{as_loaded}; {:.1} s", record.duration_ms as f64 / 1e3))
}

fn as_loaded(loaded: &Loaded) -> Option<String> {
    let last = loaded.last.as_ref().filter(|_| loaded.load.is_current())?;
    let age = last.age_s().map(|age_s| format!(", its data {} old", span(age_s)));
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
    use super::*;

    #[test]
    fn a_table_is_no_wider_than_the_terminal() {
        let text = |width| {
            let mut table = table(&["Table", "Rows", "Seconds", "Why"], 1..3);
            table.add_row(["campus_achievements", "20,937", "61.8", "never fetched whole"]);
            let lines: Vec<String> = fitting(table, width, &[2, 1]).lines().map(str::to_string).collect();
            (lines[0].clone(), lines.last().cloned().unwrap_or_default())
        };
        let whole = " campus_achievements   20,937      61.8   never fetched whole";
        assert_eq!(text(None).1, whole);
        assert_eq!(text(Some(80)).1, whole);
        assert_eq!(text(Some(56)).1, " campus_achievements   20,937   never fetched whole");
        assert_eq!(text(Some(44)).1, " campus_achievements   never fetched whole");
        assert_eq!(text(Some(41)).0, " Table                 Why");
        assert_eq!(text(Some(20)).1, whole, "no terminal is so narrow");
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0, 999, 1000, 35_654, 1_234_567].map(number), ["0", "999", "1,000", "35,654", "1,234,567"]);
    }
}
