//! The diff: an export and its table read side by side, both in the order of the key, in one pass over each.
//!
//! 1. One thread reads the export ([`source`]): it hashes the file, encodes each record as the row that it is to be
//!    ([`crate::codec`]), and drops those that refer to nothing ([`keys`]).
//! 2. The other reads the table in COPY's binary form ([`table`]) and compares ([`Differ::compare`]). Rows of the same bytes are the
//!    same; of the others the caller is told.
//!
//! Nothing is written here. The loader writes what the diff tells, and validate tells what it should not find.
//! Where the binary form will not do (a type that only the server knows, an order that is not the database's), the
//! outcome is [`Outcome::Doubt`], and the way to go is the plain one ([`plain`]).

pub mod buffer;
pub mod job;
pub mod keys;
mod orphans;
pub mod plain;
pub mod source;
mod table;
pub mod tuple;

use std::cmp::Ordering;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use postgres::Transaction;

use crate::error::{Error, Result};
use crate::pg::catalog::{Binary, ForeignKey};
use crate::pg::{quoted, quoted_list};
use crate::progress::Task;

use job::Job;
use keys::{Columns, KeySet};
use orphans::Staged;
use source::{BATCHES_AHEAD, Batch, Form, Message, Read, Source, Stop};
use table::Rows;
use tuple::Key;

/// The column of a delta table that holds the line of the record in its file.
const LINE: &str = "mirror42 line";

/// A difference between an export and its table. Rows are in COPY's binary form.
#[derive(Clone, Copy, Debug)]
pub enum Difference<'r> {
    New(&'r [u8]),
    Changed { old: &'r [u8], new: &'r [u8] },
    Gone(&'r [u8]),
}

#[derive(Debug)]
pub enum Outcome<T> {
    Done(T),
    /// The binary form will not do, for this reason.
    Doubt(String),
}

/// Compares the tables of a load, parents before children, and knows the keys that there will be.
#[derive(Debug, Default)]
pub struct Differ {
    /// By the table and its columns.
    sets: Vec<(u32, Vec<String>, KeySet)>,
    /// What the foreign keys of the load refer to.
    referred: Vec<(u32, Vec<String>)>,
    /// The tables of the load.
    loaded: Vec<u32>,
    /// Tables that go the plain way for the sake of this foreign key, which only the server can compare.
    plain: Vec<(u32, String)>,
    /// What has gone the plain way.
    staged: Vec<Staged>,
}

impl Differ {
    /// For these tables; reads the keys of those that they refer to and that are not loaded with them.
    pub fn new(tx: &mut Transaction, jobs: &[Job]) -> Result<Differ> {
        let loaded = jobs.iter().map(|job| job.table.oid).collect();
        let mut differ = Differ { loaded, ..Differ::default() };
        for (job, key) in jobs.iter().flat_map(|job| job.parents.iter().map(move |key| (job, key))) {
            let parent = jobs.iter().find(|parent| parent.table.oid == key.parent);
            let is_comparable = match parent {
                Some(parent) => orphans::is_comparable(&job.table, &parent.table, key),
                None => key.same_types && orphans::binaries(&job.table, &key.child_columns).is_some(),
            };
            if !is_comparable {
                let tables = [Some(key.child), parent.map(|_| key.parent)].into_iter().flatten();
                differ.plain.extend(tables.map(|table| (table, key.name.clone())));
            }
            if key.refers_to_itself() {
                continue;
            }
            let referred = (key.parent, key.parent_columns.clone());
            if differ.referred.contains(&referred) {
                continue;
            }
            if parent.is_none()
                && let Some(set) = keys_of_table(tx, jobs, key)?
            {
                differ.sets.push((key.parent, key.parent_columns.clone(), set));
            }
            differ.referred.push(referred);
        }
        Ok(differ)
    }

    /// Reads the export of `job` to its end; `take` gets what it sends, on the thread that talks to the server.
    pub fn read<T>(
        &mut self,
        job: &Job,
        form: Form,
        take: impl FnOnce(&Plan, &mut Batches) -> Result<T>,
    ) -> Result<Outcome<Done<T>>> {
        let closures = self.closures(job)?;
        let mut source = Source::open(job, form)?;
        for key in &job.parents {
            let of_itself = || closures.iter().find(|(name, _)| *name == key.name).map(|(_, set)| set);
            if let Some(set) = if key.refers_to_itself() { of_itself() } else { self.set(key) } {
                source.drop_orphans(key, set);
            }
        }
        let referred = self.referred.iter().filter(|(table, _)| *table == job.table.oid);
        referred.for_each(|(_, columns)| source.gather(columns));
        let plan = Plan { columns: source.columns(), key: key_of(job, &source) };
        if form == Form::Binary {
            if let Some((_, key)) = self.plain.iter().find(|(table, _)| *table == job.table.oid) {
                return Ok(Outcome::Doubt(format!("foreign key `{key}` is compared by the server only")));
            }
            if let Some(unknown) = source.unknown_column() {
                return Ok(Outcome::Doubt(unknown));
            }
            if plan.key.is_none() {
                return Ok(Outcome::Doubt("the order of its key is known to the server only".to_string()));
            }
        }
        let order = plan.key.clone().filter(|_| form == Form::Binary);
        let task = Task::start(job.stage_name(), "load", "rows", job.export.records);
        let (sender, receiver) = sync_channel(BATCHES_AHEAD);
        let (taken, read) = thread::scope(|scope| {
            let reader = scope.spawn(move || source.run(order.as_ref(), &sender));
            let taken = take(&plan, &mut Batches { receiver, task: &task, whole: false });
            (taken, reader.join())
        });
        task.finish();
        match read {
            Ok(Ok(mut read)) => {
                let sets = std::mem::take(&mut read.sets);
                self.sets.extend(sets.into_iter().map(|(columns, set)| (job.table.oid, columns, set)));
                Ok(Outcome::Done(Done { read, plan, taken: taken? }))
            }
            // Where the reader failed, the other side was cut off for its sake.
            Ok(Err(Stop::Error(error))) => Err(*error),
            Ok(Err(Stop::Doubt(why))) => Ok(Outcome::Doubt(why)),
            Ok(Err(Stop::Unheard)) => Err(taken.err().unwrap_or_else(|| cut_off(job))),
            Err(_) => Err(Error::failed(format!("reading `{}` ended in a panic", job.export.shown()))),
        }
    }

    /// Compares the export of `job` with its table, and tells `take` of every difference, in the order of the key.
    pub fn compare(
        &mut self,
        tx: &mut Transaction,
        job: &Job,
        mut take: impl FnMut(&Key, Difference) -> Result<()>,
    ) -> Result<Outcome<Done<u64>>> {
        self.read(job, Form::Binary, |plan, batches| {
            let query = format!(
                "select {} from {} order by {}",
                quoted_list("", &plan.columns),
                job.table.quoted,
                order_of(job)
            );
            let key = plan.key.as_ref().ok_or_else(|| cut_off(job))?;
            let mut rows = Rows::open(tx, &query, &job.table.name)?;
            merge(job, key, batches, &mut rows, &mut take)?;
            Ok(rows.count)
        })
    }

    fn is_loaded(&self, table: u32) -> bool {
        self.loaded.contains(&table)
    }

    /// The keys of a table as its delta table has them, after records were dropped there.
    fn look_again(&mut self, tx: &mut Transaction, job: &Job, delta: &str) -> Result<()> {
        for (_, columns, set) in self.sets.iter_mut().filter(|(table, ..)| *table == job.table.oid) {
            let query = format!("select {} from {delta}", quoted_list("", columns));
            *set = keys_of(tx, &query, delta, &set.binaries)?;
        }
        Ok(())
    }

    fn set(&self, key: &ForeignKey) -> Option<&KeySet> {
        let (_, _, set) =
            self.sets.iter().find(|(table, columns, _)| *table == key.parent && *columns == key.parent_columns)?;
        Some(set)
    }

    /// For each foreign key of the table to itself, by its name, the keys that stay when every record is dropped that
    /// refers to none, and those that refer to it.
    fn closures(&self, job: &Job) -> Result<Vec<(String, KeySet)>> {
        let own: Vec<&ForeignKey> = job.parents.iter().filter(|key| key.refers_to_itself()).collect();
        let mut closures: Vec<(String, KeySet)> = Vec::new();
        loop {
            let sizes: Vec<usize> = closures.iter().map(|(_, set)| set.size()).collect();
            for key in &own {
                let mut source = Source::open(job, Form::Text)?;
                for other in job.parents.iter().filter(|other| !other.refers_to_itself()) {
                    if let Some(set) = self.set(other) {
                        source.drop_orphans(other, set);
                    }
                }
                for (other, (_, set)) in own.iter().filter_map(|own| Some((own, of_name(&closures, &own.name)?))) {
                    if other.name != key.name {
                        source.drop_orphans(other, set);
                    }
                }
                let Some(set) = source.closure(key)? else { continue };
                closures.retain(|(name, _)| *name != key.name);
                closures.push((key.name.clone(), set));
            }
            // What is dropped by one key may have been referred to by another.
            if own.len() < 2 || closures.iter().map(|(_, set)| set.size()).eq(sizes) {
                return Ok(closures);
            }
        }
    }
}

fn of_name<'c>(closures: &'c [(String, KeySet)], name: &str) -> Option<&'c (String, KeySet)> {
    closures.iter().find(|(of, _)| of == name)
}

/// What the reader of an export knows when it begins.
#[derive(Debug)]
pub struct Plan {
    /// The columns that the export fills, in the order of the fields.
    pub columns: Vec<String>,
    /// None: the server alone knows its order.
    pub key: Option<Key>,
}

/// An export that was read to its end.
#[derive(Debug)]
pub struct Done<T> {
    pub read: Read,
    pub plan: Plan,
    /// What came of taking what was read.
    pub taken: T,
}

/// What the reader sends, as it comes.
pub struct Batches<'a> {
    receiver: Receiver<Message>,
    task: &'a Task,
    whole: bool,
}

impl Iterator for Batches<'_> {
    type Item = Batch;

    /// The next rows; none when there are no more, or no more will come.
    fn next(&mut self) -> Option<Batch> {
        match self.receiver.recv() {
            Ok(Message::Rows(batch)) => {
                self.task.add(batch.rows);
                Some(batch)
            }
            Ok(Message::End) => {
                self.whole = true;
                None
            }
            Err(_) => None,
        }
    }
}

impl Batches<'_> {
    /// An error unless all rows have come: a part of them must not pass for the whole.
    pub fn check_whole(&self, job: &Job) -> Result<()> {
        if self.whole { Ok(()) } else { Err(cut_off(job)) }
    }
}

/// What the side that takes rows says when the reader stopped; the reader's own reason is told in its place.
fn cut_off(job: &Job) -> Error {
    Error::failed(format!("`{}` was not read to its end", job.export.shown()))
}

fn key_of(job: &Job, source: &Source) -> Option<Key> {
    let places = source.places(job.key())?;
    places.iter().all(|(_, binary)| binary.is_ordered()).then(|| Key::new(&places))
}

/// The `order by` of the table's rows, texts by their bytes as in the export.
fn order_of(job: &Job) -> String {
    let text = |name: &str| job.table.column(name).is_some_and(|column| column.binary == Some(Binary::Text));
    let order = job.key().iter().map(|name| match text(name) {
        true => format!("{} collate \"C\"", quoted(name)),
        false => quoted(name),
    });
    order.collect::<Vec<_>>().join(", ")
}

/// Walks along both sides, always on from the smaller key.
fn merge(
    job: &Job,
    key: &Key,
    batches: &mut Batches,
    rows: &mut Rows,
    take: &mut impl FnMut(&Key, Difference) -> Result<()>,
) -> Result<()> {
    rows.advance()?;
    for batch in &mut *batches {
        let mut rest = batch.bytes.as_slice();
        while let Some((new, after)) = tuple::length(rest).and_then(|length| rest.split_at_checked(length)) {
            rest = after;
            loop {
                let Some(old) = rows.row() else {
                    take(key, Difference::New(new))?;
                    break;
                };
                if old == new {
                    rows.advance()?;
                    break;
                }
                match key.compare(old, new) {
                    Ordering::Less => take(key, Difference::Gone(old))?,
                    Ordering::Equal => {
                        take(key, Difference::Changed { old, new })?;
                        rows.advance()?;
                        break;
                    }
                    Ordering::Greater => {
                        take(key, Difference::New(new))?;
                        break;
                    }
                }
                rows.advance()?;
            }
        }
    }
    batches.check_whole(job)?;
    while let Some(old) = rows.row() {
        take(key, Difference::Gone(old))?;
        rows.advance()?;
    }
    Ok(())
}

/// The keys of a table that is not loaded with the others; none where only the server can compare them.
fn keys_of_table(tx: &mut Transaction, jobs: &[Job], key: &ForeignKey) -> Result<Option<KeySet>> {
    let child = jobs.iter().find(|job| job.table.oid == key.child).filter(|_| key.same_types);
    let types = child.and_then(|job| orphans::binaries(&job.table, &key.child_columns));
    let Some(types) = types else { return Ok(None) };
    let query = format!("select {} from {}", quoted_list("", &key.parent_columns), key.parent_quoted);
    keys_of(tx, &query, &key.parent_quoted, &types).map(Some)
}

/// The keys that `query` finds; `name` is what it reads.
fn keys_of(tx: &mut Transaction, query: &str, name: &str, types: &[Binary]) -> Result<KeySet> {
    let columns = Columns::new(&types.iter().copied().enumerate().collect::<Vec<_>>());
    let mut set = KeySet::new(types, 0);
    let mut rows = Rows::open(tx, query, name)?;
    rows.advance()?;
    while let Some(row) = rows.row() {
        if let Some(number) = columns.number(&row[2..]) {
            set.insert(number);
        }
        rows.advance()?;
    }
    Ok(set)
}
