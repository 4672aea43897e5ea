//! Orphans by foreign keys that only the server can compare: of types that are not known here, or of two types.
//!
//! Both tables of such a key go the plain way ([`Differ::new`]), so that the server finds in the delta tables which records
//! refer to nothing.

use postgres::Transaction;

use super::job::Job;
use super::keys::Columns;
use super::source::{Orphans, Read, SHOWN_KEYS};
use super::{Differ, LINE};
use crate::error::Result;
use crate::pg::catalog::{Binary, ForeignKey, Table};
use crate::pg::{failure, quoted, quoted_list, sample};

/// An export that is in its delta table, whole but for orphans.
#[derive(Debug)]
pub struct Staged {
    pub table: u32,
    pub delta: String,
    pub columns: Vec<String>,
}

/// The types of these columns; none where the binary form of one is not known.
pub fn binaries(table: &Table, names: &[String]) -> Option<Vec<Binary>> {
    names.iter().map(|name| table.column(name).and_then(|column| column.binary)).collect()
}

/// Whether the keys of both sides can be compared here.
pub fn is_comparable(child: &Table, parent: &Table, key: &ForeignKey) -> bool {
    let both = binaries(child, &key.child_columns).zip(binaries(parent, &key.parent_columns));
    both.is_some_and(|(child, parent)| {
        let places: Vec<(usize, Binary)> = child.into_iter().enumerate().collect();
        Columns::new(&places).comparable(&parent)
    })
}

/// Drops the records from the delta table that refer to nothing, by those keys that were not looked at when the export was
/// read. True if there were any.
pub fn drop_all(
    tx: &mut Transaction,
    differ: &Differ,
    job: &Job,
    delta: &str,
    columns: &[String],
    read: &mut Read,
) -> Result<bool> {
    let is_known = |key: &ForeignKey| !read.unsure && read.orphans.iter().any(|orphans| orphans.key.name == key.name);
    if job.parents.iter().all(is_known) {
        return Ok(false);
    }
    let mut keys: Vec<(&ForeignKey, String)> = Vec::new();
    let mut are_all = true;
    // What one key drops may have been referred to by another of the table to itself.
    for key in job.parents.iter().filter(|key| key.refers_to_itself() || !is_known(key)) {
        let parent = parent_of(differ, key, delta, columns);
        match parent.filter(|_| key.child_columns.iter().all(|column| columns.contains(column))) {
            Some(parent) => keys.push((key, parent)),
            None => are_all = false,
        }
    }
    let mut any = false;
    loop {
        let mut dropped = 0;
        for (key, parent) in &keys {
            dropped += drop_by(tx, job, delta, key, parent, read)?;
        }
        if dropped == 0 {
            break;
        }
        any = true;
    }
    read.unsure &= !are_all;
    Ok(any)
}

/// Where the rows are that `key` may refer to; none if the server has them nowhere yet.
fn parent_of(differ: &Differ, key: &ForeignKey, delta: &str, columns: &[String]) -> Option<String> {
    let has = |columns: &[String]| key.parent_columns.iter().all(|column| columns.contains(column));
    if key.refers_to_itself() {
        return has(columns).then(|| delta.to_string());
    }
    if !differ.is_loaded(key.parent) {
        return Some(key.parent_quoted.clone());
    }
    let staged = differ.staged.iter().find(|staged| staged.table == key.parent && has(&staged.columns))?;
    Some(staged.delta.clone())
}

fn drop_by(
    tx: &mut Transaction,
    job: &Job,
    delta: &str,
    key: &ForeignKey,
    parent: &str,
    read: &mut Read,
) -> Result<u64> {
    let failed = |error: postgres::Error| failure(&format!("could not look for orphans by `{}`", key.name), &error);
    let orphans = key.orphans_sql(delta, parent);
    let mut shown: Vec<String> = job.table.primary_key.clone();
    shown.extend(key.child_columns.iter().filter(|column| !job.table.primary_key.contains(column)).cloned());
    let query = format!("select {} {orphans} order by c.{}", quoted_list("c.", &shown), quoted(LINE));
    let (first, _) = sample(tx, &query, SHOWN_KEYS).map_err(failed)?;
    let found = match read.orphans.iter().position(|orphans| orphans.key.name == key.name) {
        Some(place) => &mut read.orphans[place],
        None => {
            read.orphans.push(Orphans { key: key.clone(), count: 0, first: Vec::new() });
            let last = read.orphans.len() - 1;
            &mut read.orphans[last]
        }
    };
    if first.is_empty() {
        return Ok(0);
    }
    let line = quoted(LINE);
    let dropped = tx.execute(&format!("delete from {delta} where {line} in (select c.{line} {orphans})"), &[]);
    let dropped = dropped.map_err(failed)?;
    found.count += dropped;
    found.first.extend(first);
    found.first.truncate(SHOWN_KEYS);
    Ok(dropped)
}
