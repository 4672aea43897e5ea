//! What loads deleted and changed, as the ledger has it: for `mirror42 audit`.

use jiff::Timestamp;
use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;
use postgres::types::ToSql;

use super::{failure, ledger};
use crate::error::Result;
use crate::pipeline::Pipeline;

/// Which of it is asked for: all that every part allows.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub table: Option<String>,
    pub run_id: Option<String>,
    pub since: Option<Timestamp>,
    /// What the key must have: a value, or `column=value`.
    pub key: Vec<String>,
    /// So many at the most.
    pub most: Option<u64>,
}

/// A row that was deleted or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub run_id: String,
    pub table: String,
    /// The primary key, a JSON object.
    pub key: String,
    pub at: Timestamp,
    pub what: What,
}

/// JSON objects of columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The whole row, and the table of the parent with which it went, if it did.
    Deleted { row: String, cascaded_from: Option<String> },
    /// The columns that differed, before and after.
    Changed { old: String, new: String },
}

/// The tables of which the ledger tells anything.
pub fn tables(client: &mut Client, pipeline: &Pipeline) -> Result<Vec<String>> {
    let query = "select table_name from mirror42.run_tables union select table_name from mirror42.deletions";
    let rows = client.query(&ledger::sql(query, &pipeline.ledger), &[]);
    let rows = rows.map_err(|error| ledger::read_failed(&error, &pipeline.ledger))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Hands what is wanted to `take`, the last load first, without having all of it in memory. The ledger must be there.
pub fn each(
    client: &mut Client,
    pipeline: &Pipeline,
    wanted: &Wanted,
    mut take: impl FnMut(Event) -> Result<()>,
) -> Result<()> {
    let failed = |error: postgres::Error| failure("could not read what was deleted and changed", &error);
    let (names, values): (Vec<Option<&str>>, Vec<Option<&str>>) =
        wanted.key.iter().map(|part| part.split_once('=').unzip()).unzip();
    let since = wanted.since.map(Timestamp::as_microsecond);
    let most = wanted.most.map(|most| i64::try_from(most).unwrap_or(i64::MAX));
    let parameters: [&(dyn ToSql + Sync); 7] =
        [&wanted.table, &wanted.run_id, &since, &wanted.key, &names, &values, &most];
    let query = ledger::sql(include_str!("../sql/audit.sql"), &pipeline.ledger);
    let mut rows = client.query_raw(&query, parameters).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let old: String = row.get(4);
        let new: Option<String> = row.get(5);
        take(Event {
            run_id: row.get(0),
            table: row.get(1),
            key: row.get(2),
            at: ledger::time(row.get(3)).unwrap_or(Timestamp::UNIX_EPOCH),
            what: match new {
                None => What::Deleted { row: old, cascaded_from: row.get(6) },
                Some(new) => What::Changed { old, new },
            },
        })?;
    }
    Ok(())
}
