//! The ledger: where every load stands with its counts and deletions, in schema `mirror42` or the one that the
//! pipeline names ([`Pipeline::ledger`]). The loader writes it; validate and the driver (`status`, the summary of a
//! run) read it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use postgres::GenericClient;
use serde::{Deserialize, Serialize};

use super::{failure, quoted};
use crate::error::{Error, Result};
use crate::pipeline::{DEFAULT_LEDGER, Pipeline};

/// A committed load.
#[derive(Clone, Debug)]
pub struct Run {
    pub id: String,
    pub pipeline: String,
    /// How old the data is: the oldest start of a fetch. None: loaded without receipts.
    pub fetched_at: Option<Timestamp>,
    pub started_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    pub tables: Vec<RunTable>,
}

/// What a load did to one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunTable {
    pub run_id: String,
    pub table: String,
    pub stage: String,
    /// Of the export that was loaded.
    pub export_sha256: String,
    pub counts: Counts,
    pub duration_ms: i64,
    /// How old its data is, as [`Run::fetched_at`].
    pub fetched_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub staged: i64,
    pub inserted: i64,
    pub updated: i64,
    pub unchanged: i64,
    pub deleted: i64,
    pub orphans: i64,
}

impl Counts {
    /// Rows of the table when the load had ended.
    pub fn rows(&self) -> i64 {
        self.inserted + self.updated + self.unchanged
    }

    /// Rows that were written or went.
    pub fn changed(&self) -> i64 {
        self.inserted + self.updated + self.deleted
    }
}

/// A name for a load that no other has: its time, to the millisecond, and its process. Names are in the order of time: processes
/// alone, within one second, are not, since their numbers begin anew.
pub fn new_run_id() -> String {
    format!("{}-{}", Timestamp::now().strftime("%Y%m%dT%H%M%S%3fZ"), std::process::id())
}

/// A statement of ours on the ledger that stands in `schema`. In the files under `src/sql/`, which psql can run as they
/// are, the word `mirror42` is the name of that schema and nothing else.
pub fn sql(text: &str, schema: &str) -> String {
    match schema {
        DEFAULT_LEDGER => text.to_string(),
        _ => text.replace(DEFAULT_LEDGER, &quoted(schema)),
    }
}

/// Whether the database has this table of the ledger.
fn has(client: &mut impl GenericClient, schema: &str, table: &str) -> Result<bool> {
    let name = format!("{}.{table}", quoted(schema));
    let row = client.query_one("select to_regclass($1::text) is not null", &[&name]);
    Ok(row.map_err(|error| read_failed(&error, schema))?.get(0))
}

/// Whether the database has the ledger that the pipeline names: it has one from the first load on.
pub fn exists(client: &mut impl GenericClient, pipeline: &Pipeline) -> Result<bool> {
    has(client, &pipeline.ledger, "runs")
}

/// Whether the ledger is there, and has all that this version writes.
fn is_whole(client: &mut impl GenericClient, schema: &str) -> Result<bool> {
    let newest =
        "select exists (select from pg_attribute where attrelid = to_regclass($1::text) and attname = 'state')";
    let row = client.query_one(newest, &[&format!("{}.run_tables", quoted(schema))]);
    Ok(row.map_err(|error| read_failed(&error, schema))?.get(0))
}

/// Creates the ledger, or what it lacks since an older version created it.
pub fn ensure(client: &mut impl GenericClient, pipeline: &Pipeline) -> Result<()> {
    let schema = &pipeline.ledger;
    if is_whole(client, schema)? {
        return Ok(());
    }
    let created = client.batch_execute(&sql(include_str!("../sql/ledger.sql"), schema));
    created.map_err(|error| failure(&format!("could not create the ledger of loads (schema `{schema}`)"), &error))
}

/// The load of this id, or the last one of the pipeline.
pub fn run(client: &mut impl GenericClient, pipeline: &Pipeline, id: Option<&str>) -> Result<Option<Run>> {
    if !exists(client, pipeline)? {
        return Ok(None);
    }
    let schema = &pipeline.ledger;
    let failed = |error| read_failed(&error, schema);
    let rows = client.query(&sql(include_str!("../sql/run.sql"), schema), &[&pipeline.name, &id]).map_err(failed)?;
    let Some(row) = rows.first() else { return Ok(None) };
    let id: String = row.get(0);
    let tables = client.query(&sql(include_str!("../sql/run_tables.sql"), schema), &[&id]).map_err(failed)?;
    Ok(Some(Run {
        tables: tables.iter().map(table_of).collect(),
        id,
        pipeline: row.get(1),
        fetched_at: time(row.get(2)),
        started_at: time(row.get(3)).unwrap_or(Timestamp::UNIX_EPOCH),
        finished_at: time(row.get(4)),
    }))
}

/// What the last load of each table of the pipeline did to it: not all tables are in every load.
pub fn last_of_each_table(client: &mut impl GenericClient, pipeline: &Pipeline) -> Result<Vec<RunTable>> {
    if !exists(client, pipeline)? {
        return Ok(Vec::new());
    }
    let query = sql(include_str!("../sql/last_of_each_table.sql"), &pipeline.ledger);
    let rows = client.query(&query, &[&pipeline.name]).map_err(|error| read_failed(&error, &pipeline.ledger))?;
    Ok(rows.iter().map(table_of).collect())
}

/// What the last load left in the tables of a pipeline.
#[derive(Clone, Debug)]
pub struct LastLoad {
    pub id: String,
    pub pipeline: String,
    /// [`Pipeline::load_definition`] at the time; none: it was of exports that are not the pipeline's own.
    pub definition: Option<String>,
    /// Whether the validation after it passed; none: there was none.
    pub valid: Option<bool>,
    pub fetched_at: Option<Timestamp>,
    pub duration_ms: Option<i64>,
    /// By table: the hash of the export, and the state of the table after it ([`super::catalog::states`]).
    pub tables: BTreeMap<String, (String, Option<String>)>,
}

impl LastLoad {
    /// Of the data, in seconds; none: not known.
    pub fn age_s(&self) -> Option<u64> {
        self.fetched_at.map(|time| crate::receipt::age_s(&time.to_string()))
    }
}

/// The last load that filled any of these tables; none if there was none, or if an older version made the ledger.
pub fn last_load(client: &mut impl GenericClient, pipeline: &Pipeline, tables: &[&str]) -> Result<Option<LastLoad>> {
    let schema = &pipeline.ledger;
    if !is_whole(client, schema)? {
        return Ok(None);
    }
    let rows = client.query(&sql(include_str!("../sql/last_load.sql"), schema), &[&tables]);
    let rows = rows.map_err(|error| read_failed(&error, schema))?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(LastLoad {
        id: row.get(0),
        pipeline: row.get(1),
        definition: row.get(2),
        valid: row.get(3),
        fetched_at: time(row.get(4)),
        duration_ms: row.get(5),
        tables: rows.iter().map(|row| (row.get(6), (row.get(7), row.get(8)))).collect(),
    }))
}

/// Notes whether a load has passed its validation.
pub fn mark(client: &mut impl GenericClient, pipeline: &Pipeline, id: &str, valid: bool) -> Result<()> {
    let schema = &pipeline.ledger;
    let marked = client.execute(&sql(include_str!("../sql/mark_run.sql"), schema), &[&id, &valid]);
    marked.map(drop).map_err(|error| failure("could not write to the ledger", &error))
}

/// The last `limit` loads of the pipeline, the oldest first.
pub fn last_runs(client: &mut impl GenericClient, pipeline: &Pipeline, limit: u32) -> Result<Vec<Run>> {
    if !exists(client, pipeline)? {
        return Ok(Vec::new());
    }
    let query = sql(include_str!("../sql/last_runs.sql"), &pipeline.ledger);
    let rows = client.query(&query, &[&pipeline.name, &i64::from(limit)]);
    let mut runs: Vec<Run> = Vec::new();
    for row in rows.map_err(|error| read_failed(&error, &pipeline.ledger))? {
        let table = table_of(&row);
        match runs.last_mut().filter(|run| run.id == table.run_id) {
            Some(run) => run.tables.push(table),
            None => runs.push(Run {
                id: table.run_id.clone(),
                pipeline: pipeline.name.clone(),
                fetched_at: table.fetched_at,
                started_at: time(row.get(12)).unwrap_or(Timestamp::UNIX_EPOCH),
                finished_at: time(row.get(13)),
                tables: vec![table],
            }),
        }
    }
    Ok(runs)
}

fn table_of(row: &postgres::Row) -> RunTable {
    RunTable {
        run_id: row.get(0),
        table: row.get(1),
        stage: row.get(2),
        export_sha256: row.get(3),
        counts: Counts {
            staged: row.get(4),
            inserted: row.get(5),
            updated: row.get(6),
            unchanged: row.get(7),
            deleted: row.get(8),
            orphans: row.get(9),
        },
        duration_ms: row.get(10),
        fetched_at: time(row.get(11)),
    }
}

/// The ledger's queries give times in microseconds, which every version of jiff and Postgres understands.
pub(super) fn time(microseconds: Option<i64>) -> Option<Timestamp> {
    Timestamp::from_microsecond(microseconds?).ok()
}

pub(super) fn read_failed(error: &postgres::Error, schema: &str) -> Error {
    failure(&format!("could not read the ledger of loads (schema `{schema}`)"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_run_tells_its_time_to_the_millisecond() {
        let id = new_run_id();
        let (time, process) = id.split_once("Z-").unwrap();
        assert_eq!(
            (time.len(), process),
            ("20261125T031745682".len(), std::process::id().to_string().as_str()),
            "{id}"
        );
    }

    #[test]
    fn the_ledger_may_stand_in_another_schema() {
        let text = include_str!("../sql/run.sql");
        assert_eq!(sql(text, DEFAULT_LEDGER), text);
        assert!(sql(text, "user").contains("\n  from \"user\".runs\n"));
        assert!(!sql(include_str!("../sql/ledger.sql"), "other").contains("mirror42"));
    }
}
