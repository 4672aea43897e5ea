//! From the differences to the tables: guard, prune, update, insert.
//!
//! The update compares once more ([`Sql`]), so that a difference that was none costs time, not a write.

use std::io::Write;

use postgres::Transaction;

use super::work::{Way, Work};
use crate::codec::INGESTED_AT;
use crate::diff::buffer::Buffer;
use crate::diff::job::Job;
use crate::diff::plain::{self, Sql};
use crate::diff::{Differ, tuple};
use crate::error::{Error, Result};
use crate::pg::catalog::ForeignKey;
use crate::pg::{failure, join_condition, quoted, quoted_list, sample, shown_sample};

/// Keys shown in a message.
pub const SHOWN_KEYS: usize = 5;

/// Stops a load that would delete more than it may: a short answer must not empty the mirror. `allowed` is what the
/// caller allows once, whatever the pipeline says. All tables of the load are in `all`.
pub fn guard(tx: &mut Transaction, all: &[Work], work: &Work, allowed: Option<u64>) -> Result<()> {
    let (before, deleted) = (work.counts.before, work.counts.deleted);
    let export = &work.job.export;
    let limit = export.stage.max_delete.unwrap_or(export.pipeline.max_delete);
    let most = limit.of(before);
    if deleted == 0 || allowed.is_some_and(|allowed| deleted <= allowed) || (deleted <= most && deleted < before) {
        return Ok(());
    }
    let failed = |error| failure(&format!("could not list the rows to delete from `{}`", work.name()), &error);
    let query = format!(
        "select why, is_there, count(*)
           from (select why, why is null and is_there as is_there
                   from (select {} as why, {} as is_there from {} gone) g) g
          group by why, is_there order by 3 desc, why nulls first, is_there",
        cascaded_from(all, work),
        in_export(tx, work)?,
        rows_that_go(work)
    );
    let reasons = tx.query(&query, &[]).map_err(failed)?;
    let reasons: Vec<String> = reasons.iter().map(|row| reason(row.get(0), row.get(1), row.get(2))).collect();
    let columns = quoted_list("gone.", &work.job.table.primary_key);
    let order = quoted_list("", &work.job.table.primary_key);
    let keys = format!("select {columns} from {} gone order by {order}", work.gone);
    let keys = sample(tx, &keys, SHOWN_KEYS).map_err(failed)?;
    let error = Error::guard(format!("the load would delete {deleted} of the {before} rows of `{}`", work.name()))
        .at(export.shown())
        .detail(format!("Why they would go: {}.", reasons.join(", ")))
        .detail(format!("The first of them: {}.", shown_sample(&keys)));
    let error = match allowed {
        Some(allowed) => error.detail(format!("Allowed by `--allow-delete` are {allowed}.")),
        None if deleted == before => error.detail("A load never empties a table by itself."),
        None => error.detail(format!("Allowed are {most} ({limit}).")),
    };
    Err(error.hint(format!(
        "If they are gone for good, allow it once with `--allow-delete {}={deleted}`; else fetch again.",
        work.name()
    )))
}

fn reason(parent: Option<String>, is_in_export: bool, rows: i64) -> String {
    match parent {
        Some(parent) => format!("{rows} with their row of `{parent}`"),
        None if is_in_export => format!("{rows} dropped as orphans"),
        None => format!("{rows} gone from the API"),
    }
}

/// SQL for whether the export has a record of the row `gone`, be it an orphan. The load stops, so that the export may be
/// staged once more, whole.
fn in_export(tx: &mut Transaction, work: &Work) -> Result<String> {
    if work.read.orphan_count() == 0 {
        return Ok("false".to_string());
    }
    let Job { export, table, .. } = &work.job;
    let with_orphans = Job { export: export.clone(), table: table.clone(), parents: Vec::new() };
    let all = format!("{}_all", work.delta);
    let mut differ = Differ::new(tx, &[])?;
    plain::stage(tx, &mut differ, &with_orphans, &all)?;
    let key = &table.primary_key;
    Ok(format!("exists (select from {all} d where {})", join_condition("d", key, "gone", key)))
}

/// The rows that go, as a table of `from`, with all their columns.
pub fn rows_that_go(work: &Work) -> String {
    let key = &work.job.table.primary_key;
    format!(
        "(select t.* from {} t join {} g on {})",
        work.job.table.quoted,
        work.gone,
        join_condition("t", key, "g", key)
    )
}

/// SQL for the name of the parent table whose row goes too, of a row called `gone`; null if none does.
fn cascaded_from(all: &[Work], work: &Work) -> String {
    let mut cascaded = String::from("null::text");
    // The first of them is the outermost case, and wins where several parents go.
    for key in work.job.parents.iter().rev().filter(|key| !key.refers_to_itself()) {
        let parent = all.iter().find(|parent| parent.job.table.oid == key.parent && parent.counts.deleted > 0);
        if let Some(parent) = parent {
            let goes = goes_with(parent, key);
            cascaded = format!("case when {goes} then {} else {cascaded} end", literal(parent.name()));
        }
    }
    cascaded
}

/// Whether the row `gone` refers by `key` to a row of `parent` that goes.
fn goes_with(parent: &Work, key: &ForeignKey) -> String {
    let primary = &parent.job.table.primary_key;
    let by_primary = key.parent_columns.iter().all(|column| primary.contains(column));
    let going = if by_primary { parent.gone.clone() } else { rows_that_go(parent) };
    let same = join_condition("p", &key.parent_columns, "gone", &key.child_columns);
    format!("exists (select from {going} p where {same})")
}

/// Deletes the rows whose keys are gone, each into the ledger first.
pub fn prune(tx: &mut Transaction, all: &[Work], work: &Work, run_id: &str) -> Result<u64> {
    let key = &work.job.table.primary_key;
    let statement = format!(
        "with gone as (delete from {} t using {} g where {} returning t.*) \
         insert into {}.deletions (run_id, table_name, key, row, cascaded_from) \
         select $1, $2, {}, to_jsonb(gone), {} from gone",
        work.job.table.quoted,
        work.gone,
        join_condition("t", key, "g", key),
        ledger_of(work),
        json_of("gone", key.iter()),
        cascaded_from(all, work),
    );
    let deleted = tx.execute(&statement, &[&run_id, &work.job.table.name]);
    deleted.map_err(|error| failure(&format!("could not delete from `{}`", work.name()), &error))
}

/// The schema of the ledger, as SQL takes it.
pub fn ledger_of(work: &Work) -> String {
    quoted(&work.job.export.pipeline.ledger)
}

/// Creates the table of keys that go, and fills it.
pub fn create_gone(tx: &mut Transaction, work: &Work, keys: &mut Buffer) -> Result<()> {
    let columns = work.job.key();
    let doing = format!("could not list what is gone from `{}`", work.name());
    create(tx, &work.gone, work, columns, &doing)?;
    copy(tx, &work.gone, columns, keys)?.map_err(|error| failure(&doing, &error))
}

/// Creates the table of keys that go, from those that the whole delta table lacks.
pub fn create_gone_by_delta(tx: &mut Transaction, work: &Work) -> Result<()> {
    let query = format!(
        "create temp table {} on commit drop as
         select {} from {} t where not exists (select from {} d where {})",
        work.gone,
        quoted_list("t.", &work.job.table.primary_key),
        work.job.table.quoted,
        work.delta,
        Sql::new(&work.job, &work.columns).same_key
    );
    let created = tx.batch_execute(&query);
    created.map_err(|error| failure(&format!("could not list what is gone from `{}`", work.name()), &error))
}

/// How rows of a table that were kept, while others went, are put back as they are to be ([`super::sweep`]).
pub struct Back {
    /// The table that they are in.
    pub rows: String,
    /// The statement.
    pub sql: String,
    /// So many are others than they were.
    pub changed: u64,
}

/// Inserts the rows of the delta table that the table does not have, and with them, in one statement, those that are put back.
/// Returns how many are new.
pub fn insert_by_delta(tx: &mut Transaction, work: &Work, back: Option<&Back>) -> Result<u64> {
    let sql = Sql::new(&work.job, &work.columns);
    let columns = quoted_list("", &work.columns);
    let table = &work.job.table.quoted;
    let mut statement = format!("insert into {table} ({columns}) select {columns} from {} d", work.delta);
    if work.counts.before > 0 {
        statement.push_str(&format!(" where not exists (select from {table} t where {})", sql.same_key));
    }
    if let Some(Back { rows, sql: put_back, .. }) = back {
        statement = format!(
            "with back as ({put_back}) {statement} and not exists (select from {rows} t where {})",
            sql.same_key
        );
    }
    let inserted = tx.execute(&statement, &[]);
    inserted.map_err(|error| failure(&format!("could not insert into `{}`", work.name()), &error))
}

/// Creates the delta table of the rows that differ, and fills it; the inner error is the server's, of a value.
pub fn create_delta(tx: &mut Transaction, work: &mut Work) -> Result<Result<(), postgres::Error>> {
    create(tx, &work.delta, work, &work.columns, &format!("could not create the delta table of `{}`", work.name()))?;
    match &mut work.way {
        Way::Diff { changed, .. } => copy(tx, &work.delta, &work.columns, changed),
        _ => Ok(Ok(())),
    }
}

/// Inserts the rows that are new; the inner error is the server's.
pub fn insert(tx: &mut Transaction, work: &mut Work) -> Result<Result<(), postgres::Error>> {
    match &mut work.way {
        Way::Diff { new, .. } if new.rows() > 0 => copy(tx, &work.job.table.quoted, &work.columns, new),
        _ => Ok(Ok(())),
    }
}

/// The columns have the types of the table's, domains and lengths too, and none of its constraints.
fn create(tx: &mut Transaction, name: &str, work: &Work, columns: &[String], doing: &str) -> Result<()> {
    let columns = quoted_list("", columns);
    let sql = format!(
        "create temp table {name} on commit drop as select {columns} from {} with no data",
        work.job.table.quoted
    );
    tx.batch_execute(&sql).map_err(|error| failure(doing, &error))
}

/// Sends rows in the binary form; the inner error is the server's.
fn copy(
    tx: &mut Transaction,
    table: &str,
    columns: &[String],
    rows: &mut Buffer,
) -> Result<Result<(), postgres::Error>> {
    let sql = format!("copy {table} ({}) from stdin (format binary)", quoted_list("", columns));
    let mut copy = match tx.copy_in(&sql) {
        Ok(copy) => copy,
        Err(error) => return Ok(Err(error)),
    };
    // `finish` knows the server's reason.
    let mut taken = copy.write_all(tuple::HEADER).is_ok();
    rows.read(|bytes| {
        taken = taken && copy.write_all(bytes).is_ok();
        taken
    })?;
    if taken {
        let _ = copy.write_all(tuple::TRAILER);
    }
    Ok(copy.finish().map(drop))
}

/// Rewrites the rows that differ, and no other: the columns that differ anywhere, and when. What was there goes into
/// the ledger first.
pub fn update(tx: &mut Transaction, work: &Work, run_id: &str) -> Result<u64> {
    let sql = Sql::new(&work.job, &work.columns);
    let Some(differs) = &sql.differs else { return Ok(0) };
    let failed = |error: postgres::Error| failure(&format!("could not update `{}`", work.name()), &error);
    let changed: Vec<String> = work.changed_columns.iter().map(|(name, _)| name.clone()).collect();
    let Work { delta, job, .. } = work;
    let table = &job.table.quoted;
    // By other names: a part of the key may have changed too, to what is equal for the server.
    let new_name = |place: usize| quoted(&format!("mirror42 new {place}"));
    let members =
        changed.iter().enumerate().map(|(place, name)| format!(", d.{} as {}", quoted(name), new_name(place)));
    let members = members.collect::<String>();
    let keys = quoted_list("t.", &job.table.primary_key);
    let assignments =
        changed.iter().enumerate().map(|(place, name)| format!("{} = d.{}", quoted(name), new_name(place)));
    let mut assignments: Vec<String> = assignments.collect();
    if job.table.column(INGESTED_AT).is_some() {
        assignments.push(format!("{INGESTED_AT} = now()"));
    }
    // Rows are compared once, for both.
    let statement = format!(
        "with differing as materialized (
             select {keys}{members}, {key} as \"mirror42 key\", {old} as \"mirror42 old\", {new} as \"mirror42 new\"
               from {delta} d join {table} t on {same_key} where {differs}),
         noted as (
             insert into {ledger}.changes (run_id, table_name, key, old, new)
             select $1, $2, \"mirror42 key\", \"mirror42 old\", \"mirror42 new\" from differing)
         update {table} t set {assignments} from differing d where {same_key}",
        key = json_of("t", job.table.primary_key.iter()),
        old = differing(work, "t"),
        new = differing(work, "d"),
        same_key = sql.same_key,
        ledger = ledger_of(work),
        assignments = assignments.join(", "),
    );
    tx.execute(&statement, &[&run_id, &job.table.name]).map_err(failed)
}

/// Notes in the ledger how the rows of `rows`, which are not in their table for the moment, are to change; returns how many do.
pub fn note_changes(tx: &mut Transaction, work: &Work, rows: &str, run_id: &str) -> Result<u64> {
    let sql = Sql::new(&work.job, &work.columns);
    let Some(differs) = &sql.differs else { return Ok(0) };
    let statement = format!(
        "insert into {ledger}.changes (run_id, table_name, key, old, new)
         select $1, $2, {key}, {old}, {new} from {delta} d join {rows} t on {same_key} where {differs}",
        ledger = ledger_of(work),
        key = json_of("t", work.job.table.primary_key.iter()),
        old = differing(work, "t"),
        new = differing(work, "d"),
        delta = work.delta,
        same_key = sql.same_key,
    );
    let noted = tx.execute(&statement, &[&run_id, &work.job.table.name]);
    noted.map_err(|error| failure(&format!("could not note what changes in `{}`", work.name()), &error))
}

/// SQL for those columns of `row` (`t` or `d`) that differ between the two, as an object.
fn differing(work: &Work, row: &str) -> String {
    let members = work.changed_columns.iter().map(|(name, _)| {
        let column = quoted(name);
        format!(
            "case when row(t.{column})::record *<> row(d.{column})::record \
             then jsonb_build_object({}, {row}.{column}) else '{{}}' end",
            literal(name)
        )
    });
    let members = members.collect::<Vec<_>>().join(" || ");
    if members.is_empty() { "'{}'::jsonb".to_string() } else { members }
}

/// Takes the foreign keys off the tables that this transaction created, and returns the statement that puts them
/// back. Checked row by row they were half of a first load (0.22 s of 0.44 s in the server for 26,432 links);
/// put back, they are checked by one join each. A table that anybody else has seen keeps its own.
pub fn set_foreign_keys_aside<'a>(tx: &mut Transaction, keys: impl Iterator<Item = &'a ForeignKey>) -> Result<String> {
    let (mut drop, mut restore) = (String::new(), String::new());
    for key in keys {
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
pub fn json_of<'a>(row: &str, columns: impl Iterator<Item = &'a String>) -> String {
    let members = columns.map(|column| format!("{}, {row}.{}", literal(column), quoted(column)));
    format!("jsonb_build_object({})", members.collect::<Vec<_>>().join(", "))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
