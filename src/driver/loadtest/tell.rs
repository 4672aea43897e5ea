//! The figures of a load test: for a person, and as JSON.

use serde::Serialize;

use super::measure::{Load, Measured, Plan};
use crate::driver::summary::{self, number};
use crate::error::{Error, Result};

/// The middle of several figures, and their ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    /// None of nothing.
    fn of(mut figures: Vec<f64>) -> Option<Spread> {
        figures.sort_by(f64::total_cmp);
        let (least, most) = (*figures.first()?, *figures.last()?);
        let (low, high) = (figures[(figures.len() - 1) / 2], figures[figures.len() / 2]);
        let thousandths = |figure: f64| (figure * 1e3).round() / 1e3;
        Some(Spread { median: thousandths((low + high) / 2.0), least: thousandths(least), most: thousandths(most) })
    }
}

#[derive(Debug, Serialize)]
struct Told {
    mirror42_version: &'static str,
    server_version: String,
    runs: u16,
    tables: u64,
    /// Of all tables.
    rows: u64,
    /// Of the exports of the first night, and of the second.
    export_bytes: [u64; 2],
    changed: u64,
    deleted: u64,
    new: u64,
    phases: Vec<Phase>,
    /// The most that `mirror42-load` had; null where the system does not tell.
    peak_memory_bytes: Option<Spread>,
}

#[derive(Debug, Serialize)]
struct Phase {
    phase: &'static str,
    rows: u64,
    /// Of JSON; where only some rows of an export are meant, at its mean size of a row.
    bytes: u64,
    duration_ms: Option<Spread>,
    /// Null where there is no row, or no time that could be measured.
    rows_per_s: Option<Spread>,
    mb_per_s: Option<Spread>,
}

/// The phases in their order: a name, which of the two loads, rows and bytes, the time.
type Part = (&'static str, usize, fn(&Load) -> (u64, u64), fn(&Load) -> f64);

const PARTS: [Part; 9] = [
    ("copy", 0, everything, |load| load.report.phases.copy_ms),
    ("foreign keys", 0, big, |load| load.report.phases.foreign_keys_ms),
    ("first load", 0, everything, |load| load.took_ms),
    ("compare", 1, everything, |load| load.report.phases.compare_ms),
    ("prune", 1, |load| part(load, load.report.sum(|t| t.deleted)), |load| load.report.phases.prune_ms),
    ("update", 1, |load| part(load, load.report.sum(|t| t.updated)), |load| load.report.phases.update_ms),
    ("insert", 1, |load| part(load, load.report.sum(|t| t.inserted)), |load| load.report.phases.insert_ms),
    ("checks", 1, big, |load| load.report.phases.checks_ms),
    ("next night", 1, everything, |load| load.took_ms),
];

fn everything(load: &Load) -> (u64, u64) {
    (load.report.sum(|table| table.records), load.report.sum(|table| table.export_bytes))
}

/// What foreign keys and checks look at.
fn big(load: &Load) -> (u64, u64) {
    load.report.big().map_or((0, 0), |table| (table.records, table.export_bytes))
}

/// Some rows of the big table.
fn part(load: &Load, rows: u64) -> (u64, u64) {
    let (all, bytes) = big(load);
    (rows, (bytes as f64 / all.max(1) as f64 * rows as f64).round() as u64)
}

fn phase((name, which, size, time): &Part, measured: &Measured) -> Phase {
    let loads = || measured.runs.iter().map(|run| &run[*which]);
    let (rows, bytes) = loads().next().map_or((0, 0), size);
    let rate = |amount: f64| {
        let rates: Vec<f64> = loads().map(|load| amount / time(load) * 1e3).collect();
        // No time was long enough to be seen, or there was nothing to do.
        Spread::of(rates).filter(|spread| rows > 0 && spread.most.is_finite())
    };
    Phase {
        phase: name,
        rows,
        bytes,
        duration_ms: Spread::of(loads().map(time).collect()),
        rows_per_s: rate(rows as f64),
        mb_per_s: rate(bytes as f64 / 1e6),
    }
}

fn told(plan: &Plan, measured: &Measured) -> Told {
    let size = |which: usize| measured.runs.first().map_or((0, 0), |run| everything(&run[which]));
    let peaks: Option<Vec<f64>> =
        measured.runs.iter().flatten().map(|load| load.report.peak_memory_bytes.map(|bytes| bytes as f64)).collect();
    Told {
        mirror42_version: env!("CARGO_PKG_VERSION"),
        server_version: measured.server_version.clone(),
        runs: plan.runs,
        tables: measured.runs.first().map_or(0, |run| run[0].report.tables.len() as u64),
        rows: size(0).0,
        export_bytes: [size(0).1, size(1).1],
        changed: plan.night.changed,
        deleted: plan.night.replaced,
        new: plan.night.replaced,
        phases: PARTS.iter().map(|part| phase(part, measured)).collect(),
        peak_memory_bytes: peaks.and_then(Spread::of),
    }
}

/// One JSON document.
pub fn json(plan: &Plan, measured: &Measured) -> Result<String> {
    serde_json::to_string_pretty(&told(plan, measured))
        .map_err(|cause| Error::failed(format!("cannot write the figures as JSON: {cause}")))
}

/// What a person reads: two lines and a table.
pub fn table(plan: &Plan, measured: &Measured) -> String {
    let told = told(plan, measured);
    let head = ["Phase", "Rows", "MB", "Seconds", "least-most", "Rows/s", "least-most", "MB/s", "least-most"];
    let mut table = summary::table(&head, 1..9);
    for phase in &told.phases {
        let seconds = phase.duration_ms.map(|spread| spread.scaled(1e-3));
        let [rows, mb] = [phase.rows_per_s, phase.mb_per_s];
        let figures = [shown(seconds, precise), shown(rows, whole), shown(mb, short)].concat();
        let sizes = [phase.phase.to_string(), number(phase.rows), short(phase.bytes as f64 / 1e6)];
        table.add_row(sizes.into_iter().chain(figures));
    }
    let memory =
        told.peak_memory_bytes.map_or("not known".to_string(), |spread| format!("{} MB", short(spread.most / 1e6)));
    let Told { tables, changed, deleted, new, runs, .. } = &told;
    format!(
        "{} rows in {tables} tables, {} MB of JSON; the next night {} changed, {} gone, {} new\n\
         PostgreSQL {}, mirror42 {}, runs: {runs}, peak memory of mirror42-load: {memory}\n\n{table}",
        number(told.rows),
        short(told.export_bytes[0] as f64 / 1e6),
        number(*changed),
        number(*deleted),
        number(*new),
        told.server_version,
        told.mirror42_version,
    )
}

impl Spread {
    fn scaled(self, by: f64) -> Spread {
        Spread { median: self.median * by, least: self.least * by, most: self.most * by }
    }
}

/// The median, and from where to where.
fn shown(spread: Option<Spread>, figure: fn(f64) -> String) -> [String; 2] {
    let Some(Spread { median, least, most }) = spread else { return Default::default() };
    [figure(median), format!("{}-{}", figure(least), figure(most))]
}

fn precise(figure: f64) -> String {
    format!("{figure:.3}")
}

fn short(figure: f64) -> String {
    format!("{figure:.1}")
}

/// Three digits are more than such a figure is worth.
fn whole(figure: f64) -> String {
    let unit = 10f64.powf((figure.max(1.0).log10().floor() - 2.0).max(0.0));
    number(((figure / unit).round() * unit) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_ends_are_told() {
        let spread = |median, least, most| Some(Spread { median, least, most });
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), spread(2.0, 1.0, 3.0));
        assert_eq!(Spread::of(vec![4.0, 1.0]), spread(2.5, 1.0, 4.0));
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn rates_are_told_in_three_digits() {
        assert_eq!(
            [0.4, 7.0, 999.4, 1234.0, 456_789.0, 9_996_000.0].map(whole),
            ["0", "7", "999", "1,230", "457,000", "10,000,000"]
        );
    }
}
