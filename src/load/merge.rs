//! From the delta tables to the tables: orphans out, compare, guard, prune, update, insert.
//!
//! Rows are compared by `*<>`, which looks at their bytes: it works for types that have no `=` (`json`), and tells
//! apart what `=` does not (1.0 from 1.00 in a `numeric`, case in a `citext`). A false difference would cost a
//! write; a false equality cannot be.

use postgres::Transaction;

use super::INGESTED_AT;
use super::job::Job;
use super::stage::Delta;
use crate::error::{Error, Result};
use crate::pg::catalog::ForeignKey;
use crate::pg::{failure, join_condition, quoted, quoted_list, sample, shown_sample};

/// Keys shown in a message or a line of the log.
const SHOWN_KEYS: usize = 5;
/// Up to so many deleted rows have a line of the log each; more share lines of so many.
const KEYS_A_LINE: usize = 20;

/// What a load does, or did, to one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    pub before: i64,
    pub inserted: i64,
    pub updated: i64,
    pub deleted: i64,
    pub orphans: i64,
}

/// The SQL of one table's merge, where the table is `t` and the delta `d`.
struct Sql<'a> {
    job: &'a Job<'a>,
    key: &'a [String],
    same_key: String,
    /// True where the rows of one key differ; none if the key is all there is.
    differs: Option<String>,
}

impl<'a> Sql<'a> {
    fn new(job: &'a Job, delta: &Delta) -> Sql<'a> {
        let key = job.table.primary_key.as_slice();
        let values: Vec<String> = delta.columns.iter().filter(|column| !key.contains(column)).cloned().collect();
        let differs = (!values.is_empty()).then(|| {
            format!("row({})::record *<> row({})::record", quoted_list("t.", &values), quoted_list("d.", &values))
        });
        Sql { job, key, same_key: join_condition("t", key, "d", key), differs }
    }

    fn failed(&self, what: &str) -> impl Fn(postgres::Error) -> Error {
        let doing = format!("could not {what} `{}`", self.job.table.name);
        move |error| failure(&doing, &error)
    }

    fn gone(&self) -> String {
        let Job { table, delta, .. } = self.job;
        let table = &table.quoted;
        format!("from {table} t where not exists (select from {delta} d where {})", self.same_key)
    }
}

/// Two records of one key would fight for one row: refuses them.
pub fn check_keys(tx: &mut Transaction, job: &Job) -> Result<()> {
    let key = quoted_list("", &job.table.primary_key);
    let query = format!("select {key} from {} group by {key} having count(*) > 1", job.delta);
    let found = sample(tx, &query, SHOWN_KEYS)
        .map_err(|error| failure(&format!("could not compare the keys of `{}`", job.export.shown()), &error))?;
    if found.0.is_empty() {
        return Ok(());
    }
    Err(Error::failed(format!("records have the same key: {}", shown_sample(&found))).at(job.export.shown()).hint(
        format!(
            "The key of stage `{}` ({}) must be the primary key of `{}`: {}.",
            job.stage_name(),
            job.export.pipeline.place(job.export.stage.line),
            job.table.name,
            job.table.primary_key.join(", ")
        ),
    ))
}

/// Drops the records that refer to nothing, and counts them. `parent_delta` tells the delta table of a parent that
/// is loaded too, and is clean already.
pub fn drop_orphans<'a>(
    tx: &mut Transaction,
    job: &Job,
    delta: &Delta,
    parent_delta: impl Fn(&ForeignKey) -> Option<&'a str>,
) -> Result<i64> {
    let mut orphans = 0;
    // A key of columns that the export does not fill is none of its business.
    let filled = |key: &&ForeignKey| key.child_columns.iter().all(|column| delta.columns.contains(column));
    for key in job.parents.iter().filter(filled) {
        let parent = if key.refers_to_itself() { Some(job.delta.as_str()) } else { parent_delta(key) };
        let parent = parent.unwrap_or(&key.parent_quoted);
        let sql = format!(
            "with dropped as (delete {} returning {}::text as key) select count(*) over (), key from dropped limit {SHOWN_KEYS}",
            key.orphans_sql(&job.delta, parent),
            json_of("c", job.table.primary_key.iter().chain(&key.child_columns)),
        );
        // One that refers to itself may make new orphans of its children.
        loop {
            let dropped = drop_once(tx, job, key, &sql)?;
            orphans += dropped;
            if dropped == 0 || !key.refers_to_itself() {
                break;
            }
        }
    }
    Ok(orphans)
}

fn drop_once(tx: &mut Transaction, job: &Job, key: &ForeignKey, sql: &str) -> Result<i64> {
    let rows = tx
        .query(sql, &[])
        .map_err(|error| failure(&format!("could not look for orphans in `{}`", job.export.shown()), &error))?;
    let Some(dropped) = rows.first().map(|row| row.get::<_, i64>(0)) else { return Ok(0) };
    let first: Vec<String> = rows.iter().map(|row| row.get(1)).collect();
    log::warn!(
        target: job.stage_name(),
        "dropped {dropped} records whose {} is not in {}: {}{}",
        key.child_columns.join(", "),
        key.parent_quoted,
        first.join(", "),
        if dropped > rows.len() as i64 { ", …" } else { "" }
    );
    Ok(dropped)
}

/// Counts what would change, and changes nothing.
pub fn compare(tx: &mut Transaction, job: &Job, delta: &Delta) -> Result<Difference> {
    let sql = Sql::new(job, delta);
    let first = quoted(&sql.key[0]);
    let differs = sql.differs.as_deref().unwrap_or("false");
    let query = format!(
        "select count(t.{first}), \
                count(*) filter (where t.{first} is null), \
                count(*) filter (where t.{first} is not null and d.{first} is not null and {differs}), \
                count(*) filter (where d.{first} is null) \
           from {} t full join {} d on {}",
        job.table.quoted, job.delta, sql.same_key
    );
    let row = tx.query_one(&query, &[]).map_err(sql.failed("compare"))?;
    Ok(Difference { before: row.get(0), inserted: row.get(1), updated: row.get(2), deleted: row.get(3), orphans: 0 })
}

/// Stops a load that would delete more than it may: a short answer must not empty the mirror.
pub fn guard(tx: &mut Transaction, job: &Job, delta: &Delta, difference: &Difference) -> Result<()> {
    let Difference { before, deleted, .. } = *difference;
    let stage = job.export.stage;
    let share = stage.max_delete.unwrap_or(job.export.pipeline.max_delete);
    let allowed = (share * before as f64).floor() as i64;
    if deleted == 0 || (deleted <= allowed && deleted < before) {
        return Ok(());
    }
    let sql = Sql::new(job, delta);
    let query = format!("select {} {}", quoted_list("t.", sql.key), sql.gone());
    let keys = sample(tx, &query, SHOWN_KEYS).map_err(sql.failed("list the rows to delete from"))?;
    let error = Error::guard(format!("the load would delete {deleted} of the {before} rows of `{}`", job.table.name))
        .at(job.export.shown())
        .detail(format!("They are not in the export: {}.", shown_sample(&keys)));
    Err(if deleted == before {
        error.detail("A load never empties a table.").hint("If the table must be emptied, do it by hand.")
    } else {
        error.detail(format!("Allowed are {allowed} ({} %).", share * 100.0)).hint(format!(
            "If they are gone from the API, raise `max_delete` of stage `{}` ({}) for one run.",
            stage.name,
            job.export.pipeline.place(stage.line)
        ))
    })
}

/// Deletes the rows that are not in the delta, each into the ledger first.
pub fn prune<'a>(
    tx: &mut Transaction,
    job: &Job,
    delta: &Delta,
    run_id: &str,
    parent_delta: impl Fn(&ForeignKey) -> Option<(&'a str, &'a str)>,
) -> Result<i64> {
    let sql = Sql::new(job, delta);
    let mut cascaded = String::from("null");
    // The first of them is the outermost case, and wins where several parents went.
    let parents = job.parents.iter().rev().filter(|key| !key.refers_to_itself());
    for (parent_key, (table, parent)) in parents.filter_map(|key| Some((key, parent_delta(key)?))) {
        let orphan = parent_key.orphans_sql("(select gone.*)", parent);
        cascaded = format!("case when exists (select {orphan}) then {} else {cascaded} end", literal(table));
    }
    let query = format!(
        "with gone as (delete {} returning t.*), \
              kept as (insert into mirror42.deletions (run_id, table_name, key, row, cascaded_from) \
                       select $1, $2, {}, to_jsonb(gone), {cascaded} from gone \
                       returning key::text, cascaded_from) \
         select * from kept",
        sql.gone(),
        json_of("gone", sql.key.iter()),
    );
    let rows = tx.query(&query, &[&run_id, &job.table.name]).map_err(sql.failed("delete from"))?;
    let gone: Vec<String> = rows.iter().map(|row| deleted_row(row.get(0), row.get(1))).collect();
    let a_line = if gone.len() > KEYS_A_LINE { KEYS_A_LINE } else { 1 };
    for keys in gone.chunks(a_line) {
        log::info!(target: job.stage_name(), "deleted from {}: {}", job.table.name, keys.join(", "));
    }
    Ok(rows.len() as i64)
}

fn deleted_row(key: &str, cascaded_from: Option<&str>) -> String {
    match cascaded_from {
        Some(parent) => format!("{key} with its {parent}"),
        None => key.to_string(),
    }
}

/// Rewrites the rows that differ, and no other.
pub fn update(tx: &mut Transaction, job: &Job, delta: &Delta) -> Result<i64> {
    let sql = Sql::new(job, delta);
    let Some(differs) = &sql.differs else { return Ok(0) };
    let values = delta.columns.iter().filter(|column| !sql.key.contains(column));
    let mut assignments: Vec<String> = values.map(|name| format!("{0} = d.{0}", quoted(name))).collect();
    if job.table.column(INGESTED_AT).is_some() {
        assignments.push(format!("{INGESTED_AT} = now()"));
    }
    let statement = format!(
        "update {} t set {} from {} d where {} and {differs}",
        job.table.quoted,
        assignments.join(", "),
        job.delta,
        sql.same_key
    );
    Ok(tx.execute(&statement, &[]).map_err(sql.failed("update"))? as i64)
}

pub fn insert(tx: &mut Transaction, job: &Job, delta: &Delta, difference: &Difference) -> Result<i64> {
    let sql = Sql::new(job, delta);
    let columns = quoted_list("", &delta.columns);
    let (table, source) = (&job.table.quoted, &job.delta);
    let mut statement = format!("insert into {table} ({columns}) select {columns} from {source} d");
    if difference.before > 0 {
        statement.push_str(&format!(" where not exists (select from {table} t where {})", sql.same_key));
    }
    Ok(tx.execute(&statement, &[]).map_err(sql.failed("insert into"))? as i64)
}

/// Takes the foreign keys off the tables that this transaction created, and returns the statement that puts them
/// back. Checked row by row they were half of a first load (0.22 s of 0.44 s in the server for 26,432 links);
/// put back, they are checked by one join each. A table that anybody else has seen keeps its own.
pub fn set_foreign_keys_aside<'a>(tx: &mut Transaction, jobs: impl Iterator<Item = &'a Job<'a>>) -> Result<String> {
    let (mut drop, mut restore) = (String::new(), String::new());
    for key in jobs.filter(|job| job.created).flat_map(|job| &job.parents) {
        let (table, name) = (&key.child_quoted, quoted(&key.name));
        drop.push_str(&format!("alter table {table} drop constraint {name};"));
        restore.push_str(&format!("alter table {table} add constraint {name} {};", key.definition));
    }
    execute_all(tx, &drop, "could not set the foreign keys aside")?;
    Ok(restore)
}

/// Puts the foreign keys back that [`set_foreign_keys_aside`] took off.
pub fn restore_foreign_keys(tx: &mut Transaction, restore: &str) -> Result<()> {
    execute_all(tx, restore, "could not put the foreign keys back")
}

fn execute_all(tx: &mut Transaction, statements: &str, doing: &str) -> Result<()> {
    if statements.is_empty() {
        return Ok(());
    }
    tx.batch_execute(statements).map_err(|error| failure(doing, &error))
}

/// SQL for the columns of `row` as an object, each once.
fn json_of<'a>(row: &str, columns: impl Iterator<Item = &'a String>) -> String {
    let mut members: Vec<String> = Vec::new();
    for column in columns {
        let member = format!("{}, {row}.{}", literal(column), quoted(column));
        if !members.contains(&member) {
            members.push(member);
        }
    }
    format!("jsonb_build_object({})", members.join(", "))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
