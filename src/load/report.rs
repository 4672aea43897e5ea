//! What a load did: for the log, for a person who asked for a dry run, and as JSON.

use std::path::Path;

use postgres::{Client, Transaction};
use serde::Serialize;

use super::Plan;
use super::work::Work;
use crate::cli;
use crate::error::{Result, printable};
use crate::files::{self, Layout};
use crate::log as logs;
use crate::pg::{failure, ledger};

/// Rows of each kind that are shown of a table.
const SHOWN_ROWS: i64 = 20;
/// Up to so many deleted rows of a table have a line of the log each; more share lines of so many.
const KEYS_A_LINE: usize = 20;

#[derive(Debug, Serialize)]
pub struct Report {
    run_id: String,
    dry_run: bool,
    tables: Vec<Table>,
    phases: Phases,
    /// The most memory that this process had, in bytes; none where the system does not tell.
    peak_memory_bytes: Option<u64>,
}

/// How long the parts took, of all tables together: milliseconds, to the microsecond.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Phases {
    /// Locks, catalog, ledger.
    pub begin_ms: f64,
    /// Filling the tables that were empty, from reading the export on.
    pub copy_ms: f64,
    /// Reading the other exports and tables.
    pub compare_ms: f64,
    pub prune_ms: f64,
    pub update_ms: f64,
    pub insert_ms: f64,
    /// Checking the foreign keys of new tables, and what constraints are deferred.
    pub foreign_keys_ms: f64,
    pub checks_ms: f64,
}

#[derive(Debug, Serialize)]
struct Table {
    table: String,
    stage: String,
    export_bytes: u64,
    rows_before: u64,
    records: u64,
    inserted: u64,
    updated: u64,
    unchanged: u64,
    deleted: u64,
    duplicates: u64,
    /// Characters that no column can hold, left out or replaced.
    mended: u64,
    orphans: Vec<Orphans>,
    /// In how many rows each column differed.
    changed_columns: Vec<ChangedColumn>,
    first_deleted: Vec<Deleted>,
    first_changed: Vec<Changed>,
    duration_ms: u64,
}

#[derive(Debug, Serialize)]
struct ChangedColumn {
    column: String,
    rows: u64,
}

#[derive(Debug, Serialize)]
struct Orphans {
    foreign_key: String,
    columns: Vec<String>,
    parent: String,
    records: u64,
    first: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Deleted {
    key: String,
    cascaded_from: Option<String>,
}

#[derive(Debug, Serialize)]
struct Changed {
    key: String,
    old: String,
    new: String,
}

/// Gathers what was done, while the transaction still sees it.
pub fn of(tx: &mut Transaction, plan: &Plan, all: &[Work], phases: Phases) -> Result<Report> {
    let tables = all.iter().map(|work| table(tx, plan, work)).collect::<Result<_>>()?;
    let (run_id, dry_run) = (plan.run_id.clone(), plan.dry_run);
    Ok(Report { run_id, dry_run, tables, phases, peak_memory_bytes: peak_memory_bytes() })
}

fn table(tx: &mut Transaction, plan: &Plan, work: &Work) -> Result<Table> {
    let counts = work.counts;
    let mut table = Table {
        table: work.name().to_string(),
        stage: work.stage_name().to_string(),
        export_bytes: work.job.export.size_bytes()?,
        rows_before: counts.before,
        records: work.read.records,
        inserted: counts.inserted,
        updated: counts.updated,
        unchanged: work.unchanged(),
        deleted: counts.deleted,
        duplicates: work.read.duplicates,
        mended: work.read.mended,
        orphans: work.read.orphans.iter().filter(|orphans| orphans.count > 0).map(Orphans::of).collect(),
        changed_columns: Vec::new(),
        first_deleted: Vec::new(),
        first_changed: Vec::new(),
        duration_ms: work.duration_ms as u64,
    };
    let schema = &plan.pipeline.ledger;
    let failed = |error: postgres::Error| failure("could not read the ledger of loads", &error);
    if counts.updated > 0 {
        let columns =
            work.changed_columns.iter().map(|(column, rows)| ChangedColumn { column: column.clone(), rows: *rows });
        table.changed_columns = columns.collect();
    }
    // Only a person who asked, or a program, reads the rows; the ledger keeps them.
    if plan.dry_run && counts.deleted > 0 {
        let query = "select key::text, cascaded_from from mirror42.deletions where run_id = $1 and table_name = $2
                     order by key limit $3";
        let rows = tx.query(&ledger::sql(query, schema), &[&plan.run_id, &table.table, &SHOWN_ROWS]).map_err(failed)?;
        table.first_deleted = rows.iter().map(|row| Deleted { key: row.get(0), cascaded_from: row.get(1) }).collect();
    }
    if plan.dry_run && counts.updated > 0 {
        let query = "select key::text, old::text, new::text from mirror42.changes where run_id = $1 and table_name = $2
                     order by key limit $3";
        let rows = tx.query(&ledger::sql(query, schema), &[&plan.run_id, &table.table, &SHOWN_ROWS]).map_err(failed)?;
        table.first_changed =
            rows.iter().map(|row| Changed { key: row.get(0), old: row.get(1), new: row.get(2) }).collect();
    }
    Ok(table)
}

impl Orphans {
    fn of(orphans: &crate::diff::source::Orphans) -> Orphans {
        Orphans {
            foreign_key: orphans.key.name.clone(),
            columns: orphans.key.child_columns.clone(),
            parent: orphans.key.parent_quoted.clone(),
            records: orphans.count,
            first: orphans.first.clone(),
        }
    }

    fn sentence(&self) -> String {
        let more = if self.records > self.first.len() as u64 { "; …" } else { "" };
        format!(
            "dropped {} records whose {} is not in {} (`{}`): {}{more}",
            self.records,
            self.columns.join(", "),
            self.parent,
            self.foreign_key,
            self.first.join("; ")
        )
    }
}

/// Every deletion into the log, once it is sure.
pub fn log_deletions(client: &mut Client, plan: &Plan) -> Result<()> {
    let rows = client
        .query(&ledger::sql(include_str!("../sql/deletions_of_run.sql"), &plan.pipeline.ledger), &[&plan.run_id])
        .map_err(|error| failure("could not read the ledger for the log of deletions", &error))?;
    let of_table = |row: &postgres::Row| row.get::<_, String>(0);
    for rows in rows.chunk_by(|a, b| of_table(a) == of_table(b)) {
        let table = of_table(&rows[0]);
        let stage = plan.pipeline.loaded().find(|(_, name)| *name == table).map_or("load", |(stage, _)| &stage.name);
        let a_line = if rows.len() > KEYS_A_LINE { KEYS_A_LINE } else { 1 };
        for rows in rows.chunks(a_line) {
            let keys = rows.iter().map(|row| deleted_row(row.get(1), row.get(2))).collect::<Vec<_>>();
            logs::detail(stage, &format!("deleted from {table}: {}", keys.join(", ")));
        }
    }
    Ok(())
}

fn deleted_row(key: &str, cascaded_from: Option<&str>) -> String {
    match cascaded_from {
        Some(parent) => format!("{key} with its {parent}"),
        None => key.to_string(),
    }
}

impl Report {
    /// Whether any row was deleted.
    pub fn has_deletions(&self) -> bool {
        self.tables.iter().any(|table| table.deleted > 0)
    }

    /// One line a table, and one for what was dropped or mended.
    pub fn log(&self) {
        for table in &self.tables {
            let stage = table.stage.as_str();
            if table.duplicates > 0 {
                log::warn!(target: stage, "{} records were there more than once, and equal", table.duplicates);
            }
            if table.mended > 0 {
                log::warn!(
                    target: stage,
                    "{} characters that Postgres cannot store were left out or replaced, as `nul` says",
                    table.mended
                );
            }
            for orphans in &table.orphans {
                log::warn!(target: stage, "{}", orphans.sentence());
            }
            let orphans: u64 = table.orphans.iter().map(|orphans| orphans.records).sum();
            log::info!(
                target: stage,
                "staged {}, inserted {}, updated {}, unchanged {}, deleted {}, orphans {orphans}",
                table.records, table.inserted, table.updated, table.unchanged, table.deleted
            );
        }
    }

    /// For a person, on the standard output.
    pub fn print(&self) {
        for table in &self.tables {
            let Table { table: name, rows_before, inserted, updated, deleted, unchanged, .. } = table;
            cli::print(format_args!(
                "{}: {rows_before} rows; {inserted} inserted, {updated} updated, {deleted} deleted, {unchanged} unchanged",
                printable(name)
            ));
            for ChangedColumn { column, rows } in &table.changed_columns {
                cli::print(format_args!("  {rows} differ in {}", printable(column)));
            }
            for Changed { key, old, new } in &table.first_changed {
                cli::print(format_args!("  ~ {}  {} -> {}", printable(key), printable(old), printable(new)));
            }
            print_more(table.first_changed.len(), *updated);
            for Deleted { key, cascaded_from } in &table.first_deleted {
                let with = cascaded_from.as_ref().map(|parent| format!("  with its {parent}")).unwrap_or_default();
                cli::print(format_args!("  - {}{}", printable(key), printable(&with)));
            }
            print_more(table.first_deleted.len(), *deleted);
            for orphans in &table.orphans {
                cli::print(format_args!("  {}", printable(&orphans.sentence())));
            }
        }
        cli::print(format_args!("The guard and all checks passed. Nothing was changed: this was a dry run."));
    }

    pub fn write(&self, file: &Path) -> Result<()> {
        files::write_json(file, self, Layout::Indented).map(drop)
    }
}

fn print_more(shown: usize, all: u64) {
    let more = all - (shown as u64).min(all);
    if more > 0 {
        cli::print(format_args!("  … and {more} more"));
    }
}

/// What Linux says of this process (proc(5), `VmHWM`).
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kb| kb * 1024)
}
