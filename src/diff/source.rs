//! An export as it is read: hashed, encoded, its records checked against each other and against the keys that they
//! refer to, on a thread of its own while another talks to the server.

use std::cmp::Ordering;
use std::sync::mpsc::SyncSender;

use super::job::{Export, Job};
use super::keys::{Columns, KeySet};
use super::tuple::Key;
use crate::codec::{Encoder, Trouble, Wrong, shown_key};
use crate::error::{Error, Result};
use crate::export;
use crate::pg::catalog::{Binary, ForeignKey, Table};

/// Fewer, larger pieces cost less; `postgres` has buffers of its own below.
const BATCH_BYTES: usize = 128 << 10;
/// How far the reader may be ahead.
pub const BATCHES_AHEAD: usize = 8;
/// Keys shown in messages.
pub const SHOWN_KEYS: usize = 5;

/// Rows of an export, encoded.
#[derive(Debug, Default)]
pub struct Batch {
    pub bytes: Vec<u8>,
    pub rows: u64,
}

/// What the reader sends.
#[derive(Debug)]
pub enum Message {
    Rows(Batch),
    /// The export was read to its end, and nothing in it was wrong.
    End,
}

/// In which form the rows are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Binary,
    /// Each line begins with the line of the file.
    Text,
}

/// What is known of an export that was read.
#[derive(Debug, Default)]
pub struct Read {
    pub records: u64,
    /// Records that were equal to the one before.
    pub duplicates: u64,
    /// Characters that no column can hold, left out or replaced.
    pub mended: u64,
    pub sha256: String,
    /// The keys of a record could not be told here; only the server knows them.
    pub unsure: bool,
    /// One for each of the table's foreign keys that was looked at.
    pub orphans: Vec<Orphans>,
    /// The keys that other tables refer to, by their columns.
    pub sets: Vec<(Vec<String>, KeySet)>,
}

impl Read {
    pub fn orphan_count(&self) -> u64 {
        self.orphans.iter().map(|orphans| orphans.count).sum()
    }
}

/// Records that were dropped since they refer to nothing.
#[derive(Clone, Debug)]
pub struct Orphans {
    pub key: ForeignKey,
    pub count: u64,
    pub first: Vec<String>,
}

/// Why an export was not read to its end.
#[derive(Debug)]
pub enum Stop {
    Error(Box<Error>),
    /// The binary form will not do: what is to be told to the log.
    Doubt(String),
    /// Nobody takes the rows any more: the other side knows why.
    Unheard,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Error(Box::new(error))
    }
}

/// A foreign key of the table, with the keys that there will be.
struct Parent<'a> {
    columns: Columns,
    set: &'a KeySet,
    orphans: Orphans,
}

/// An export, opened, with what is to be looked at in it.
pub struct Source<'a> {
    reader: export::Reader,
    /// The first record was read to learn the columns: its line and its text.
    first: Option<(u64, Vec<u8>)>,
    rows: Rows<'a>,
}

/// The records of an export on their way to be rows.
struct Rows<'a> {
    export: &'a Export<'a>,
    table: &'a Table,
    encoder: Encoder<'a>,
    form: Form,
    parents: Vec<Parent<'a>>,
    sets: Vec<(Vec<String>, Columns, KeySet)>,
    /// In the text form: the columns that `parents` and `sets` look at, which are encoded for them alone.
    looked_at: Vec<usize>,
    scratch: Vec<u8>,
    last: Last,
    read: Read,
}

/// The record before.
#[derive(Default)]
struct Last {
    line: u64,
    row: Vec<u8>,
}

impl Parent<'_> {
    /// Whether the row refers to what there will not be.
    fn lacks(&self, fields: &[u8]) -> bool {
        self.columns.number(fields).is_some_and(|number| !self.set.contains(number))
    }
}

impl<'a> Source<'a> {
    pub fn open(job: &'a Job, form: Form) -> Result<Source<'a>> {
        let (export, table) = (&job.export, &job.table);
        let mut reader = export.open()?;
        let first = reader.read()?.map(|(line, record)| (line, record.to_vec()));
        let nul = export.nul();
        let encoder = match &first {
            None => Encoder::of_all_columns(table, nul),
            Some((line, record)) => {
                Encoder::new(table, record, nul).map_err(|wrong| export.record_error(wrong, table, 1, *line, record))?
            }
        };
        let rows = Rows {
            export,
            table,
            encoder,
            form,
            parents: Vec::new(),
            sets: Vec::new(),
            looked_at: Vec::new(),
            scratch: Vec::new(),
            last: Last::default(),
            read: Read::default(),
        };
        Ok(Source { reader, first, rows })
    }

    /// The names of the columns that the export fills, in the order in which they are sent.
    pub fn columns(&self) -> Vec<String> {
        self.rows.encoder.columns().iter().map(|column| column.name.clone()).collect()
    }

    /// Of these columns (by name) their places and types; none if one is not in the export, or if only the server
    /// knows its form.
    pub fn places(&self, names: &[String]) -> Option<Vec<(usize, Binary)>> {
        self.rows.places(names)
    }

    /// Why the rows cannot be sent in the binary form; none if they can.
    pub fn unknown_column(&self) -> Option<String> {
        let unknown = self.rows.encoder.columns().iter().find(|column| column.binary.is_none())?;
        Some(format!("column `{}` is of type {}", unknown.name, unknown.type_name))
    }

    /// Drops the records whose `key` is not in `set`. What cannot be compared is left to the server's constraint.
    pub fn drop_orphans(&mut self, key: &ForeignKey, set: &'a KeySet) {
        if let Some(columns) = self.rows.look_at(&key.child_columns).filter(|columns| columns.comparable(&set.binaries))
        {
            let orphans = Orphans { key: key.clone(), count: 0, first: Vec::new() };
            self.rows.parents.push(Parent { columns, set, orphans });
        }
    }

    /// Gathers the keys of these columns, for the tables that refer to them.
    pub fn gather(&mut self, names: &[String]) {
        if let Some(columns) = self.rows.look_at(names) {
            let expected = usize::try_from(self.rows.export.records.unwrap_or(0)).unwrap_or(0);
            let set = KeySet::new(columns.binaries(), expected);
            self.rows.sets.push((names.to_vec(), columns, set));
        }
    }

    /// The keys that `key`, which refers to this table itself, will find: without those of the records that are
    /// dropped, be it for another record that is. None if only the server can compare them.
    pub fn closure(mut self, key: &ForeignKey) -> Result<Option<KeySet>> {
        let (Some(child), Some(parent)) =
            (self.rows.look_at(&key.child_columns), self.rows.look_at(&key.parent_columns))
        else {
            return Ok(None);
        };
        if !child.comparable(parent.binaries()) {
            return Ok(None);
        }
        let mut set = KeySet::new(parent.binaries(), 0);
        let mut edges = Vec::new();
        let mut next = self.first.take().map(|(_, record)| record);
        loop {
            let record = match next.take() {
                Some(record) => record,
                None => match self.reader.read()? {
                    Some((_, record)) => record.to_vec(),
                    None => break,
                },
            };
            self.rows.scratch.clear();
            let rows = &mut self.rows;
            if rows.encoder.fields(&record, &rows.looked_at, &mut rows.scratch).is_err() {
                return Ok(None); // what is wrong with the record is told when it is loaded
            }
            let fields = rows.scratch.as_slice();
            let dropped = rows.parents.iter().any(|parent| parent.lacks(fields));
            if let Some(number) = parent.number(fields).filter(|_| !dropped) {
                set.insert(number);
                edges.extend(child.number(fields).map(|refers| (number, refers)));
            }
        }
        loop {
            let before = edges.len();
            edges.retain(|(number, refers)| {
                let stays = set.contains(*refers);
                if !stays {
                    set.remove(*number);
                }
                stays
            });
            if edges.len() == before {
                return Ok(Some(set));
            }
        }
    }

    /// Reads to the end and sends the rows. `key` tells whether they come in their order, as [`Form::Binary`] must.
    pub fn run(mut self, key: Option<&Key>, sender: &SyncSender<Message>) -> Result<Read, Stop> {
        let new = || Batch { bytes: Vec::with_capacity(BATCH_BYTES + (BATCH_BYTES >> 3)), rows: 0 };
        let mut batch = new();
        if let Some((line, record)) = self.first.take() {
            self.rows.take(line, &record, key, &mut batch)?;
        }
        while let Some((line, record)) = self.reader.read()? {
            self.rows.take(line, record, key, &mut batch)?;
            if batch.bytes.len() >= BATCH_BYTES {
                sender.send(Message::Rows(std::mem::replace(&mut batch, new()))).map_err(|_| Stop::Unheard)?;
            }
        }
        let read = self.rows.done(self.reader.sha256())?;
        sender.send(Message::Rows(batch)).map_err(|_| Stop::Unheard)?;
        sender.send(Message::End).map_err(|_| Stop::Unheard)?;
        Ok(read)
    }
}

impl Rows<'_> {
    fn places(&self, names: &[String]) -> Option<Vec<(usize, Binary)>> {
        let columns = self.encoder.columns();
        let place = |name: &String| columns.iter().position(|column| column.name == *name);
        names.iter().map(|name| place(name).and_then(|place| Some((place, columns[place].binary?)))).collect()
    }

    /// These columns, as they are found in what [`Rows::take`] has at hand.
    fn look_at(&mut self, names: &[String]) -> Option<Columns> {
        let mut places = self.places(names)?;
        if self.form == Form::Text {
            for (place, _) in &mut places {
                self.looked_at.push(*place);
                *place = self.looked_at.len() - 1;
            }
        }
        Some(Columns::new(&places))
    }

    fn take(&mut self, line: u64, record: &[u8], key: Option<&Key>, batch: &mut Batch) -> Result<(), Stop> {
        self.read.records += 1;
        let start = batch.bytes.len();
        let fields = match self.form {
            Form::Binary => {
                let encoded = self.encoder.tuple(record, &mut batch.bytes);
                encoded.map_err(|trouble| self.stop(trouble, line, record))?;
                if !self.is_next(line, key, &batch.bytes[start..])? {
                    batch.bytes.truncate(start);
                    self.read.duplicates += 1;
                    return Ok(());
                }
                &batch.bytes[start + 2..]
            }
            Form::Text => {
                self.write_line(line, record, batch).map_err(|wrong| self.stop(wrong.into(), line, record))?;
                self.scratch.clear();
                if self.encoder.fields(record, &self.looked_at, &mut self.scratch).is_err() {
                    // The line was good: only the server can tell the keys of this record.
                    self.read.unsure = true;
                    batch.rows += 1;
                    return Ok(());
                }
                self.scratch.as_slice()
            }
        };
        if let Some(parent) = self.parents.iter_mut().find(|parent| parent.lacks(fields)) {
            parent.orphans.count += 1;
            if parent.orphans.first.len() < SHOWN_KEYS {
                let shown: Vec<String> =
                    self.table.primary_key.iter().chain(&parent.orphans.key.child_columns).cloned().collect();
                parent.orphans.first.push(shown_key(record, &shown));
            }
            batch.bytes.truncate(start);
            return Ok(());
        }
        for (_, columns, set) in &mut self.sets {
            if let Some(number) = columns.number(fields) {
                set.insert(number);
            }
        }
        batch.rows += 1;
        Ok(())
    }

    fn write_line(&self, line: u64, record: &[u8], batch: &mut Batch) -> Result<(), Wrong> {
        batch.bytes.extend_from_slice(format!("{line}\t").as_bytes());
        self.encoder.line(record, &mut batch.bytes)?;
        batch.bytes.push(b'\n');
        Ok(())
    }

    /// Whether the row comes after the one before; it does not count if it is the same once more.
    fn is_next(&mut self, line: u64, key: Option<&Key>, row: &[u8]) -> Result<bool, Stop> {
        let Some(key) = key else { return Ok(true) };
        if self.last.line > 0 {
            match key.compare(&self.last.row, row) {
                Ordering::Less => {}
                Ordering::Greater => {
                    return Err(Stop::Doubt(format!("line {line} is not in the order of the key")));
                }
                Ordering::Equal if self.last.row == row => return Ok(false),
                Ordering::Equal => return Err(self.export.two_records(self.table, [self.last.line, line])?.into()),
            }
        }
        self.last.line = line;
        self.last.row.clear();
        self.last.row.extend_from_slice(row);
        Ok(true)
    }

    fn stop(&self, trouble: Trouble, line: u64, record: &[u8]) -> Stop {
        match trouble {
            Trouble::Wrong(wrong) => {
                self.export.record_error(wrong, self.table, self.read.records, line, record).into()
            }
            Trouble::Doubt => Stop::Doubt(format!("line {line} has a value that only the server understands")),
        }
    }

    fn done(mut self, sha256: String) -> Result<Read> {
        self.export.check_sha256(&sha256)?;
        self.read.mended = self.encoder.mended();
        self.read.sha256 = sha256;
        self.read.orphans = self.parents.into_iter().map(|parent| parent.orphans).collect();
        if !self.read.unsure {
            self.read.sets = self.sets.into_iter().map(|(names, _, set)| (names, set)).collect();
        }
        Ok(self.read)
    }
}
