//! Rows of tables that no stage fills, which go with a row that does: the server deletes them by the foreign key, and
//! without a word. They are noted in the ledger first.

use postgres::Transaction;

use super::work::Work;
use super::write::{SHOWN_KEYS, json_of, ledger_of, rows_that_go};
use crate::error::{Error, Result};
use crate::pg::{failure, join_condition};

/// A foreign key with `on delete cascade`, seen from the parent.
struct Child {
    key: String,
    oid: u32,
    quoted: String,
    name: String,
    columns: Vec<String>,
    parent_columns: Vec<String>,
    primary_key: Vec<String>,
}

/// Rows that go: an expression for `from`, and the table that they are of.
struct Rows<'a> {
    sql: String,
    table: &'a str,
    oid: u32,
}

/// Notes what goes with the rows of `work` that are gone, in tables that are not in the load, and what goes with that.
pub fn note(tx: &mut Transaction, all: &[Work], work: &Work, run_id: &str) -> Result<()> {
    let mut seen: Vec<u32> = all.iter().map(|work| work.job.table.oid).collect();
    let rows = Rows { sql: rows_that_go(work), table: work.name(), oid: work.job.table.oid };
    note_children(tx, &rows, work, run_id, &mut seen)
}

fn note_children(tx: &mut Transaction, parents: &Rows, work: &Work, run_id: &str, seen: &mut Vec<u32>) -> Result<()> {
    for child in children(tx, parents)? {
        if seen.contains(&child.oid) {
            continue;
        }
        let same = join_condition("p", &child.parent_columns, "c", &child.columns);
        let going = format!("from {} c where exists (select from {} p where {same})", child.quoted, parents.sql);
        let table = format!("mirror42_swept_{}", child.oid);
        let failed = failed(&child);
        if !there_are(tx, &going).map_err(&failed)? {
            continue;
        }
        let keep = format!("create temp table if not exists {table} on commit drop as select c.* {going}");
        tx.batch_execute(&keep).map_err(&failed)?;
        let columns = if child.primary_key.is_empty() { &child.columns } else { &child.primary_key };
        let insert = format!(
            "with noted as (insert into {}.deletions (run_id, table_name, key, row, cascaded_from)
                            select $1, $2, {}, to_jsonb(c), $3 from {table} c returning key::text)
             select count(*) over (), key from noted limit {SHOWN_KEYS}",
            ledger_of(work),
            json_of("c", columns.iter())
        );
        let rows = tx.query(&insert, &[&run_id, &child.name, &parents.table]).map_err(&failed)?;
        let count: i64 = rows.first().map_or(0, |row| row.get(0));
        let first: Vec<String> = rows.iter().map(|row| row.get(1)).collect();
        log::warn!(
            target: work.stage_name(),
            "{count} rows of `{}`, which no stage fills, go with their row of `{}` (`{}`): {}{}",
            child.name,
            parents.table,
            child.key,
            first.join(", "),
            if count > rows.len() as i64 { ", …" } else { "" }
        );
        seen.push(child.oid);
        let swept = Rows { sql: table, table: &child.name, oid: child.oid };
        note_children(tx, &swept, work, run_id, seen)?;
        seen.pop();
    }
    Ok(())
}

fn failed(child: &Child) -> impl Fn(postgres::Error) -> Error {
    let doing = format!("could not note what goes from `{}`", child.name);
    move |error| failure(&doing, &error)
}

fn there_are(tx: &mut Transaction, going: &str) -> Result<bool, postgres::Error> {
    tx.query_one(&format!("select exists (select {going})"), &[]).map(|row| row.get(0))
}

fn children(tx: &mut Transaction, parents: &Rows) -> Result<Vec<Child>> {
    let rows = tx
        .query(include_str!("../sql/cascades.sql"), &[&parents.oid])
        .map_err(|error| failure("could not read the foreign keys from the catalog", &error))?;
    let children = rows.iter().map(|row| Child {
        key: row.get(0),
        oid: row.get(1),
        quoted: row.get(2),
        name: row.get(3),
        columns: row.get(4),
        parent_columns: row.get(5),
        primary_key: row.get(6),
    });
    Ok(children.collect())
}
