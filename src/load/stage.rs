//! An export goes into its delta table: one thread reads, hashes and encodes, while this one sends.

use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use postgres::Transaction;
use postgres::error::{DbError, SqlState};

use super::encode::{Encoder, Remedy, Wrong, shown_value};
use super::job::{Export, Job};
use crate::error::{Error, Result};
use crate::export;
use crate::pg::catalog::Table;
use crate::pg::{failure, quoted_list};
use crate::progress::Task;

/// COPY's own buffers are smaller; fewer, larger sends cost the client less.
const CHUNK_BYTES: usize = 128 << 10;
/// How far the reader may be ahead.
const CHUNKS_AHEAD: usize = 8;

/// A delta table that holds its export.
pub struct Delta {
    pub columns: Vec<String>,
    pub records: u64,
    pub export_sha256: String,
}

/// Creates the delta table of `job` and fills it.
pub fn stage(tx: &mut Transaction, job: &Job) -> Result<Delta> {
    let source = Source::open(job)?;
    let columns = source.encoder.columns();
    create(tx, job, &columns)?;
    let task = Task::start(job.stage_name(), "load", "rows", job.export.records);
    let (sender, chunks) = sync_channel(CHUNKS_AHEAD);
    let (sent, read) = thread::scope(|scope| {
        let reader = scope.spawn(move || source.read(&sender));
        let sent = send(tx, job, &columns, chunks, &task);
        (sent, reader.join())
    });
    // The reader first: where it failed, the COPY was cut off for its sake.
    let (records, sha256) = match read {
        Ok(read) => read?,
        Err(_) => return Err(Error::failed(format!("reading `{}` ended in a panic", job.export.shown()))),
    };
    sent?;
    job.export.check_sha256(&sha256)?;
    task.finish();
    Ok(Delta { columns, records, export_sha256: sha256 })
}

/// The columns have the types of the table's, domains and lengths too, and none of its constraints.
fn create(tx: &mut Transaction, job: &Job, columns: &[String]) -> Result<()> {
    let sql = format!(
        "create temp table {} on commit drop as select {} from {} with no data",
        job.delta,
        quoted_list("", columns),
        job.table.quoted
    );
    tx.batch_execute(&sql)
        .map_err(|error| failure(&format!("could not create the delta table of `{}`", job.table.name), &error))
}

/// One chunk of lines for COPY, with the number of its records.
struct Chunk {
    lines: Vec<u8>,
    records: u64,
}

fn send(tx: &mut Transaction, job: &Job, columns: &[String], chunks: Receiver<Chunk>, task: &Task) -> Result<()> {
    let doing = format!("could not copy `{}` into its delta table", job.export.shown());
    let sql = format!("copy {} ({}) from stdin", job.delta, quoted_list("", columns));
    let mut copy = tx.copy_in(&sql).map_err(|error| failure(&doing, &error))?;
    for chunk in chunks {
        if copy.write_all(&chunk.lines).is_err() {
            break; // `finish` knows the server's reason
        }
        task.add(chunk.records);
    }
    match copy.finish() {
        Ok(_) => Ok(()),
        Err(error) => Err(refused(job, &error).unwrap_or_else(|| failure(&doing, &error))),
    }
}

/// An export being read, its first record already encoded, since it told the columns.
struct Source<'a> {
    export: &'a Export<'a>,
    table: &'a Table,
    reader: export::Reader,
    encoder: Encoder<'a>,
    chunk: Chunk,
}

impl<'a> Source<'a> {
    fn open(job: &'a Job) -> Result<Source<'a>> {
        let (export, table) = (&job.export, &job.table);
        let mut reader = export.open()?;
        let mut chunk = Chunk { lines: Vec::with_capacity(CHUNK_BYTES + (CHUNK_BYTES >> 3)), records: 0 };
        let encoder = match reader.read()? {
            None => Encoder::of_all_columns(table),
            Some((line, record)) => {
                let encoder = Encoder::new(table, record);
                let encoded = encoder.and_then(|encoder| encoder.encode(record, &mut chunk.lines).map(|()| encoder));
                chunk.records = 1;
                encoded.map_err(|wrong| export.record_error(wrong, table, 1, line, record))?
            }
        };
        Ok(Source { export, table, reader, encoder, chunk })
    }

    /// Encodes all records and returns their number and the file's hash. Stops when nobody takes the chunks.
    fn read(mut self, sender: &SyncSender<Chunk>) -> Result<(u64, String)> {
        let mut records = self.chunk.records;
        while let Some((line, record)) = self.reader.read()? {
            records += 1;
            self.chunk.records += 1;
            self.encoder
                .encode(record, &mut self.chunk.lines)
                .map_err(|wrong| self.export.record_error(wrong, self.table, records, line, record))?;
            if self.chunk.lines.len() >= CHUNK_BYTES {
                let lines = Vec::with_capacity(CHUNK_BYTES + (CHUNK_BYTES >> 3));
                let full = std::mem::replace(&mut self.chunk, Chunk { lines, records: 0 });
                if sender.send(full).is_err() {
                    return Ok((records, String::new())); // the sender's error is the one to tell
                }
            }
        }
        let _ = sender.send(self.chunk); // as above
        Ok((records, self.reader.sha256()))
    }
}

/// The error of a COPY that the server refused for the sake of one value.
fn refused(job: &Job, error: &postgres::Error) -> Option<Error> {
    let db = error.as_db_error()?;
    let columns = job.table.columns.iter().map(|column| column.name.as_str());
    let (number, column) = place_in_copy(db.where_()?, &job.delta, columns)?;
    let column = job.table.column(column?)?;
    // The server tells the line of the COPY; the record is found again in the file.
    let mut reader = job.export.open().ok()?;
    for _ in 1..number {
        reader.read().ok()??;
    }
    let (line, record) = reader.read().ok()??;
    let value = shown_value(record, &column.name)?;
    let wrong = Wrong {
        message: format!("value {value} of `{}` does not fit {}", column.name, column.type_name),
        remedy: remedy_of(db, &value, &column.type_name),
        column: Some(column.name.clone()),
    };
    let error = job.export.record_error(wrong, &job.table, number, line, record);
    Some(match db.code() {
        // These say no more than the primary line.
        &SqlState::INVALID_TEXT_REPRESENTATION | &SqlState::INVALID_DATETIME_FORMAT => error,
        _ => error.detail(format!("Postgres says: {}.", db.message())),
    })
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
