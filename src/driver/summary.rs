//! What a person reads at the end of a run: a table of stages, a table of tables, one sentence.

use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};

use super::record::Record;
use super::schedule::{Decided, Schedule};
use super::staleness::Verdict;
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
    let is_current = |decided: &Decided| {
        [&decided.fetch, &decided.extract].into_iter().flatten().all(|verdict| verdict.is_current())
    };
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
        let why = [&decided.fetch, &decided.extract].into_iter().flatten().find(|verdict| !verdict.is_current());
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
            why.map_or("current".to_string(), Verdict::to_string),
        ]);
    }
    if fold {
        let mut row = [const { String::new() }; 7];
        (row[0], row[6]) = (format!("{} stages", number(current as u64)), "current".to_string());
        table.add_row(row);
    }
    Ok(fitting(table))
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
    fitting(table)
}

/// The table as text. On a terminal that is too narrow for it, words wrap within their columns, not the lines.
fn fitting(mut table: Table) -> String {
    let width = terminal_width(std::io::stdout()).filter(|width| *width >= NARROWEST);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table.trim_fmt()
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
