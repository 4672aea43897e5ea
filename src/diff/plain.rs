//! The plain way: a whole export goes by COPY's text form into a delta table, and the server compares.
//!
//! It needs nothing but what every type has, a text form; so it is the way of the types and orders that only the server
//! knows, and of the values that it refuses: it tells the line, and the column.

use std::io::Write;

use postgres::Transaction;
use postgres::error::{DbError, SqlState};

use super::job::Job;
use super::source::{Form, Read};
use super::{Differ, Done, LINE, Outcome, orphans};
use crate::codec::{Remedy, Wrong, shown_value};
use crate::error::{Error, Result};
use crate::pg::catalog::{Binary, Kind};
use crate::pg::{failure, join_condition, quoted, quoted_list};

/// An export in its delta table, compared with the table. In SQL the table is `t`, and the delta table `d`.
#[derive(Debug)]
pub struct Staged {
    pub read: Read,
    /// That the export fills.
    pub columns: Vec<String>,
    /// Rows of the table.
    pub before: u64,
    pub new: u64,
    pub changed: u64,
    pub gone: u64,
    /// In how many rows they differ, for those columns that do.
    pub changed_columns: Vec<(String, u64)>,
}

/// The SQL that the server compares by. It looks at the bytes of rows, by `*<>`: that works for types that have no `=` (`json`),
/// and tells apart what `=` does not (1.0 from 1.00 in a `numeric`, case in a `citext`).
#[derive(Debug)]
pub struct Sql {
    pub same_key: String,
    /// The columns that the export fills and that rows of one key may differ in: all but the key, and what of the key is
    /// equal for the server by other bytes (1.0 and 1.00, `-0`, texts by a collation or a `citext`).
    pub values: Vec<String>,
    /// True where the rows of one key differ; none if they cannot.
    pub differs: Option<String>,
}

impl Sql {
    pub fn new(job: &Job, columns: &[String]) -> Sql {
        let key = &job.table.primary_key;
        let is_exact = |name: &String| {
            let binary = job.table.column(name).and_then(|column| column.binary);
            key.contains(name) && binary.is_some_and(Binary::is_ordered)
        };
        let values: Vec<String> = columns.iter().filter(|column| !is_exact(column)).cloned().collect();
        let differs = (!values.is_empty()).then(|| {
            format!("row({})::record *<> row({})::record", quoted_list("t.", &values), quoted_list("d.", &values))
        });
        Sql { same_key: join_condition("t", key, "d", key), values, differs }
    }
}

/// Stages the export of `job` in a new temporary table `delta`, and finds there what differs.
pub fn compare(tx: &mut Transaction, differ: &mut Differ, job: &Job, delta: &str) -> Result<Staged> {
    let Done { mut read, plan, taken: () } = stage(tx, differ, job, delta)?;
    let key = quoted_list("", &job.table.primary_key);
    // The planner knows nothing of a new table; its keys are what the joins are planned by.
    tx.batch_execute(&format!("analyze {delta} ({key})"))
        .map_err(|error| failure(&format!("could not analyze the delta table of `{}`", job.table.name), &error))?;
    read.duplicates = collapse_duplicates(tx, job, delta, &plan.columns)?;
    if orphans::drop_all(tx, differ, job, delta, &plan.columns, &mut read)? {
        differ.look_again(tx, job, delta)?;
    }
    let (table, columns) = (job.table.oid, plan.columns.clone());
    differ.staged.push(orphans::Staged { table, delta: delta.to_string(), columns });
    count_differences(tx, job, delta, plan.columns, read)
}

/// Creates the delta table and fills it. Its columns have the types of the table's, domains and lengths too, and none of
/// its constraints.
pub fn stage(tx: &mut Transaction, differ: &mut Differ, job: &Job, delta: &str) -> Result<Done<()>> {
    let doing = format!("could not copy `{}` into its delta table", job.export.shown());
    let read = differ.read(job, Form::Text, |plan, batches| {
        let columns = quoted_list("", &plan.columns);
        let create = format!(
            "create temp table {delta} on commit drop as select 0::bigint as {line}, {columns} from {table} with no data",
            line = quoted(LINE),
            table = job.table.quoted
        );
        tx.batch_execute(&create)
            .map_err(|error| failure(&format!("could not create the delta table of `{}`", job.table.name), &error))?;
        let sql = format!("copy {delta} ({}, {columns}) from stdin", quoted(LINE));
        let mut copy = tx.copy_in(&sql).map_err(|error| failure(&doing, &error))?;
        let mut refused = false;
        for batch in &mut *batches {
            // `finish` knows the server's reason; what the reader finds wrong goes before it.
            refused = refused || copy.write_all(&batch.bytes).is_err();
        }
        batches.check_whole(job)?;
        Ok(copy.finish().err())
    })?;
    let Outcome::Done(done) = read else {
        return Err(Error::failed(format!("{doing}: the text form is in doubt")));
    };
    match done.taken {
        None => Ok(Done { read: done.read, plan: done.plan, taken: () }),
        Some(error) => Err(refused(differ, job, delta, &error).unwrap_or_else(|| failure(&doing, &error))),
    }
}

/// Of records that are equal one stays; two of one key that are not are an error.
fn collapse_duplicates(tx: &mut Transaction, job: &Job, delta: &str, columns: &[String]) -> Result<u64> {
    let line = quoted(LINE);
    let key = &job.table.primary_key;
    let name = &job.table.name;
    let failed = |error: postgres::Error| failure(&format!("could not compare the keys of `{name}`"), &error);
    let keys = quoted_list("", key);
    let found = tx.query_opt(&format!("select 1 from {delta} group by {keys} having count(*) > 1 limit 1"), &[]);
    if found.map_err(failed)?.is_none() {
        return Ok(0);
    }
    let same_key = join_condition("d", key, "e", key);
    let (d, e) = (quoted_list("d.", columns), quoted_list("e.", columns));
    let differs = format!(
        "select d.{line}, e.{line} from {delta} d join {delta} e on {same_key} and d.{line} < e.{line}
          where row({d})::record *<> row({e})::record order by 1, 2 limit 1"
    );
    if let Some(row) = tx.query_opt(&differs, &[]).map_err(failed)? {
        let lines = [row.get(0), row.get(1)].map(i64::unsigned_abs);
        return Err(job.export.two_records(&job.table, lines)?);
    }
    let collapse = format!("delete from {delta} e using {delta} d where {same_key} and d.{line} < e.{line}");
    tx.execute(&collapse, &[]).map_err(failed)
}

fn count_differences(tx: &mut Transaction, job: &Job, delta: &str, columns: Vec<String>, read: Read) -> Result<Staged> {
    let sql = Sql::new(job, &columns);
    let first = quoted(&job.table.primary_key[0]);
    let both = format!("t.{first} is not null and d.{first} is not null");
    let by_column = sql.values.iter().map(|name| {
        let name = quoted(name);
        format!(", count(*) filter (where {both} and row(t.{name})::record *<> row(d.{name})::record)")
    });
    let query = format!(
        "select count(t.{first}), \
                count(*) filter (where t.{first} is null), \
                count(*) filter (where {both} and {}), \
                count(*) filter (where d.{first} is null){} \
           from {} t full join {delta} d on {}",
        sql.differs.as_deref().unwrap_or("false"),
        by_column.collect::<String>(),
        job.table.quoted,
        sql.same_key
    );
    let row = tx.query_one(&query, &[]);
    let row = row.map_err(|error| failure(&format!("could not compare `{}`", job.table.name), &error))?;
    let count = |i: usize| row.get::<_, i64>(i).unsigned_abs();
    let by_column = sql.values.iter().enumerate().map(|(i, name)| (name.clone(), count(i + 4)));
    let changed_columns = by_column.filter(|(_, rows)| *rows > 0).collect();
    Ok(Staged { read, columns, before: count(0), new: count(1), changed: count(2), gone: count(3), changed_columns })
}

/// The error of a COPY that the server refused for the sake of one value.
fn refused(differ: &mut Differ, job: &Job, delta: &str, error: &postgres::Error) -> Option<Error> {
    let db = error.as_db_error()?;
    let columns = job.table.columns.iter().map(|column| column.name.as_str());
    let (number, column) = place_in_copy(db.where_()?, delta, columns)?;
    let column = job.table.column(column?)?;
    let wanted = line_of_row(differ, job, number)?;
    let mut reader = job.export.open().ok()?;
    let mut records = 0;
    let (line, record) = loop {
        records += 1;
        let (line, record) = reader.read().ok()??;
        if line == wanted {
            break (line, record);
        }
    };
    let value = shown_value(record, &column.name)?;
    let wrong = Wrong {
        message: format!("value {value} of `{}` does not fit {}", column.name, column.type_name),
        remedy: remedy_of(db, &value, &column.type_name),
        column: Some(column.name.clone()),
    };
    let error = job.export.record_error(wrong, &job.table, records, line, record);
    Some(match db.code() {
        // Of an array the server tells which element.
        _ if matches!(column.kind, Kind::Array(_)) => error.detail(format!("Postgres says: {}.", db.message())),
        // These say no more than the primary line.
        &SqlState::INVALID_TEXT_REPRESENTATION | &SqlState::INVALID_DATETIME_FORMAT => error,
        _ => error.detail(format!("Postgres says: {}.", db.message())),
    })
}

/// The line of the file that was sent as the row of this number. The server counts what it was sent, of which some
/// records were left out: they are sent once more, to nobody.
fn line_of_row(differ: &mut Differ, job: &Job, number: u64) -> Option<u64> {
    let mut line = None;
    let read = differ.read(job, Form::Text, |_, batches| {
        let mut rows = 0;
        for batch in &mut *batches {
            let place = usize::try_from(number.saturating_sub(rows + 1)).unwrap_or(usize::MAX);
            if number > rows && line.is_none() {
                let row = batch.bytes.split(|byte| *byte == b'\n').nth(place).filter(|row| !row.is_empty());
                line = row
                    .and_then(|row| std::str::from_utf8(row.split(|byte| *byte == b'\t').next()?).ok()?.parse().ok());
            }
            rows += batch.rows;
        }
        Ok(())
    });
    read.ok().and(line)
}
fn remedy_of(db: &DbError, value: &str, type_name: &str) -> Remedy {
    let whole = matches!(type_name, "smallint" | "integer" | "bigint");
    let fraction = value.parse::<f64>().is_ok() && value.contains(['.', 'e', 'E']);
    match db.code() {
        &SqlState::INVALID_TEXT_REPRESENTATION if whole && fraction => Remedy::Round,
        _ => Remedy::Convert,
    }
}

/// The line and the column that a COPY stopped at, from the context of its error:
/// `COPY delta, line 204, column difficulty: "n/a"`. Only the table's and the column's names are sure, since the
/// words are in the server's language.
fn place_in_copy<'a>(
    context: &str,
    delta: &str,
    columns: impl Iterator<Item = &'a str>,
) -> Option<(u64, Option<&'a str>)> {
    let (_, rest) = context.split_once(delta)?;
    let start = rest.find(|c: char| c.is_ascii_digit())?;
    let digits = &rest[start..];
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let number = digits[..end].parse().ok()?;
    // `, column NAME: "value"`: the name ends at the colon. The value may hold anything, so look at the start only.
    let named = digits[end..].lines().next().unwrap_or_default();
    let column = columns.filter(|name| {
        let at = named.find(&format!(" {name}:")).or_else(|| named.ends_with(&format!(" {name}")).then_some(0));
        at.is_some_and(|at| !named[..at].contains(':'))
    });
    Some((number, column.max_by_key(|name| name.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(context: &str) -> Option<(u64, Option<&str>)> {
        place_in_copy(context, "delta_1_projects", ["id", "difficulty", "my id"].into_iter())
    }

    #[test]
    fn line_and_column_are_read_from_the_context_of_a_failed_copy() {
        assert_eq!(
            place("COPY delta_1_projects, line 204, column difficulty: \"n/a\""),
            Some((204, Some("difficulty")))
        );
        assert_eq!(
            place("COPY delta_1_projects, line 3, column id: \"x, column difficulty: \"1\"\""),
            Some((3, Some("id")))
        );
        assert_eq!(place("COPY delta_1_projects, line 3, column my id: \"1\""), Some((3, Some("my id"))));
        assert_eq!(place("COPY delta_1_projects, ligne 3, colonne id : « 1 »"), Some((3, None)));
        assert_eq!(place("COPY delta_1_projects, line 7"), Some((7, None)));
        assert_eq!(place("SQL function x"), None);
    }

    #[test]
    fn the_context_of_a_json_error_has_lines_of_its_own() {
        let context = "JSON data, line 1: {\"a\":...\nCOPY delta_1_projects, line 12, column difficulty: \"{\"a\"\"";
        assert_eq!(place(context), Some((12, Some("difficulty"))));
    }
}
