//! Rows of tables that no stage fills, which go with a row that does: the server deletes them by the foreign key, and
//! without a word. They are noted in the ledger first.

use postgres::Transaction;

use super::work::Work;
use super::write::{SHOWN_KEYS, json_of, ledger_of, rows_that_go};
use crate::error::{Error, Result};
use crate::pg::{failure, join_condition};

/// A foreign key by which rows go, or change, with those that they refer to, seen from the parent.
pub struct Child {
    pub key: String,
    pub parent: u32,
    pub oid: u32,
    pub quoted: String,
    pub name: String,
    pub columns: Vec<String>,
    pub parent_columns: Vec<String>,
    primary_key: Vec<String>,
    pub cascades: bool,
}

/// Rows that go: an expression for `from`, and the table that they are of.
struct Rows<'a> {
    sql: String,
    table: &'a str,
    oid: u32,
}

/// The tables that are not in the load, and whose rows go with rows of a table that is.
pub fn children_of(tx: &mut Transaction, all: &[Work]) -> Result<Vec<Child>> {
    let loaded: Vec<u32> = all.iter().map(|work| work.job.table.oid).collect();
    let pruned = all.iter().filter(|work| work.counts.deleted > 0).map(|work| work.job.table.oid);
    children(tx, &pruned.collect::<Vec<_>>(), &loaded, &["c"])
}

/// Notes what goes with the rows of `work` that are gone, in tables that are not in the load, and what goes with that.
pub fn note(tx: &mut Transaction, all: &[Work], work: &Work, children: &[Child], run_id: &str) -> Result<()> {
    let mut seen: Vec<u32> = all.iter().map(|work| work.job.table.oid).collect();
    let rows = Rows { sql: rows_that_go(work), table: work.name(), oid: work.job.table.oid };
    note_children(tx, &rows, work, children, run_id, &mut seen)
}

fn note_children(
    tx: &mut Transaction,
    parents: &Rows,
    work: &Work,
    children: &[Child],
    run_id: &str,
    seen: &mut Vec<u32>,
) -> Result<()> {
    for child in children.iter().filter(|child| child.parent == parents.oid) {
        let same = join_condition("p", &child.parent_columns, "c", &child.columns);
        let going = format!("from {} c where exists (select from {} p where {same})", child.quoted, parents.sql);
        // One for each step away from the load.
        let table = format!("mirror42_swept_{}", seen.len());
        let failed = failed(child);
        if !there_are(tx, &going).map_err(&failed)? {
            continue;
        }
        let keep = format!("create temp table {table} on commit drop as select c.* {going}");
        tx.batch_execute(&keep).map_err(&failed)?;
        let columns = if child.primary_key.is_empty() { &child.columns } else { &child.primary_key };
        let insert = format!(
            "with noted as (insert into {ledger}.deletions (run_id, table_name, key, row, cascaded_from)
                            select $1, $2, {key}, to_jsonb(c), $3 from {table} c
                             where not exists (select from {ledger}.deletions d
                                                where d.run_id = $1 and d.table_name = $2 and d.key = {key})
                            returning key::text)
             select count(*) over (), key from noted limit {SHOWN_KEYS}",
            ledger = ledger_of(work),
            key = json_of("c", columns.iter())
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
        let swept = Rows { sql: table.clone(), table: &child.name, oid: child.oid };
        let grandchildren = self::children(tx, &[child.oid], seen, &["c"])?;
        note_children(tx, &swept, work, &grandchildren, run_id, seen)?;
        seen.pop();
        tx.batch_execute(&format!("drop table {table}")).map_err(&failed)?;
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

/// The foreign keys to these tables with one of these actions, but those from some tables.
pub fn children(tx: &mut Transaction, parents: &[u32], but: &[u32], actions: &[&str]) -> Result<Vec<Child>> {
    let rows = tx
        .query(include_str!("../sql/cascades.sql"), &[&parents, &but, &actions])
        .map_err(|error| failure("could not read the foreign keys from the catalog", &error))?;
    let children = rows.iter().map(|row| Child {
        key: row.get(0),
        oid: row.get(1),
        quoted: row.get(2),
        name: row.get(3),
        columns: row.get(4),
        parent_columns: row.get(5),
        primary_key: row.get(6),
        parent: row.get(7),
        cascades: row.get(8),
    });
    Ok(children.collect())
}
