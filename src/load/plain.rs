//! The plain way: a whole export goes by COPY's text form into a delta table, and the server compares.
//!
//! It needs nothing but what every type has, a text form; so it is the way of the types and orders that only the server
//! knows, and of the values that it refuses: it tells the line, and the column.

use std::io::Write;

use postgres::Transaction;
use postgres::error::{DbError, SqlState};

use super::work::Work;
use super::write::Sql;
use crate::codec::{Remedy, Wrong, shown_value};
use crate::diff::job::Job;
use crate::diff::source::Form;
use crate::diff::{Differ, Done, Outcome};
use crate::error::{Error, Result};
use crate::pg::{failure, join_condition, quoted, quoted_list};

/// The column of a delta table that holds the line of the record in its file.
const LINE: &str = "mirror42 line";

/// Stages the export in the delta table of `work`, and finds there what differs.
pub fn compare(tx: &mut Transaction, differ: &mut Differ, work: &mut Work) -> Result<()> {
    let read = stage(tx, differ, &work.job, &work.delta)?;
    work.columns = read.plan.columns;
    work.read = read.read;
    let key = quoted_list("", &work.job.table.primary_key);
    // The planner knows nothing of a new table; its keys are what the joins are planned by.
    tx.batch_execute(&format!("analyze {} ({key})", work.delta))
        .map_err(|error| failure(&format!("could not analyze the delta table of `{}`", work.name()), &error))?;
    work.read.duplicates = collapse_duplicates(tx, work)?;
    count_differences(tx, work)?;
    if work.counts.deleted > 0 {
        let sql = Sql::new(work);
        let query = format!(
            "create temp table {} on commit drop as
             select {} from {} t where not exists (select from {} d where {})",
            work.gone,
            quoted_list("t.", &work.job.table.primary_key),
            work.job.table.quoted,
            work.delta,
            sql.same_key
        );
        tx.batch_execute(&query).map_err(sql.failed("list what is gone from"))?;
    }
    Ok(())
}

/// Creates the delta table and fills it. Its columns have the types of the table's, domains and lengths too, and none of
/// its constraints.
fn stage(tx: &mut Transaction, differ: &mut Differ, job: &Job, delta: &str) -> Result<Done<()>> {
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
fn collapse_duplicates(tx: &mut Transaction, work: &Work) -> Result<u64> {
    let (delta, line) = (&work.delta, quoted(LINE));
    let key = &work.job.table.primary_key;
    let failed = |error: postgres::Error| failure(&format!("could not compare the keys of `{}`", work.name()), &error);
    let keys = quoted_list("", key);
    let found = tx.query_opt(&format!("select 1 from {delta} group by {keys} having count(*) > 1 limit 1"), &[]);
    if found.map_err(failed)?.is_none() {
        return Ok(0);
    }
    let columns = |row| quoted_list(row, &work.columns);
    let pairs = format!("{delta} d join {delta} e on {} and d.{line} < e.{line}", join_condition("d", key, "e", key));
    let (d, e) = (columns("d."), columns("e."));
    let differs = format!(
        "select d.{line}, e.{line} from {pairs} where row({d})::record *<> row({e})::record order by 1, 2 limit 1"
    );
    if let Some(row) = tx.query_opt(&differs, &[]).map_err(failed)? {
        return Err(two_records(&work.job, [row.get(0), row.get(1)])?);
    }
    let collapse = format!(
        "delete from {delta} e using {delta} d where {} and d.{line} < e.{line}",
        join_condition("d", key, "e", key)
    );
    tx.execute(&collapse, &[]).map_err(failed)
}

fn two_records(job: &Job, lines: [i64; 2]) -> Result<Error> {
    let mut records = Vec::new();
    for line in lines {
        records.push(record_of_line(job, line.unsigned_abs())?.unwrap_or_default());
    }
    let [first, second] = lines.map(i64::unsigned_abs);
    Ok(job.export.two_records(&job.table, [(first, &records[0]), (second, &records[1])]))
}

fn record_of_line(job: &Job, wanted: u64) -> Result<Option<Vec<u8>>> {
    let mut reader = job.export.open()?;
    while let Some((line, record)) = reader.read()? {
        if line == wanted {
            return Ok(Some(record.to_vec()));
        }
    }
    Ok(None)
}

fn count_differences(tx: &mut Transaction, work: &mut Work) -> Result<()> {
    let sql = Sql::new(work);
    let first = quoted(&work.job.table.primary_key[0]);
    let differs = sql.differs.as_deref().unwrap_or("false");
    let values: Vec<&String> = sql.values.iter().collect();
    let by_column = values.iter().map(|name| {
        let name = quoted(name);
        format!(
            ", count(*) filter (where t.{first} is not null and d.{first} is not null
                                      and row(t.{name})::record *<> row(d.{name})::record)"
        )
    });
    let query = format!(
        "select count(t.{first}), \
                count(*) filter (where t.{first} is null), \
                count(*) filter (where t.{first} is not null and d.{first} is not null and {differs}), \
                count(*) filter (where d.{first} is null){} \
           from {} t full join {} d on {}",
        by_column.collect::<String>(),
        work.job.table.quoted,
        work.delta,
        sql.same_key
    );
    let row = tx.query_one(&query, &[]).map_err(sql.failed("compare"))?;
    let count = |i: usize| row.get::<_, i64>(i).unsigned_abs();
    let changed = values.iter().enumerate().map(|(i, name)| ((*name).clone(), count(i + 4)));
    let changed = changed.filter(|(_, count)| *count > 0).collect();
    let (before, inserted, updated, deleted) = (count(0), count(1), count(2), count(3));
    work.changed_columns = changed;
    work.counts.before = before;
    work.counts.inserted = inserted;
    work.counts.updated = updated;
    work.counts.deleted = deleted;
    Ok(())
}

/// Inserts the rows of the delta table that the table does not have.
pub fn insert(tx: &mut Transaction, work: &Work) -> Result<u64> {
    let sql = Sql::new(work);
    let columns = quoted_list("", &work.columns);
    let mut statement =
        format!("insert into {} ({columns}) select {columns} from {} d", work.job.table.quoted, work.delta);
    if work.counts.before > 0 {
        statement
            .push_str(&format!(" where not exists (select from {} t where {})", work.job.table.quoted, sql.same_key));
    }
    tx.execute(&statement, &[]).map_err(sql.failed("insert into"))
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
