//! What is loaded: each stage with its export, its receipt and its table; and the messages that name a place
//! in an export.

use postgres::Transaction;

use super::encode::{Remedy, Wrong, shown_key};
use crate::error::{Error, Result};
use crate::paths::Paths;
use crate::pg::catalog::{self, ForeignKey, Table};
use crate::pg::{failure, ledger};
use crate::pipeline::{Pipeline, Stage};
use crate::receipt::{ExtractReceipt, FetchReceipt, Receipt};
use crate::{export, files};

/// The export of one stage, as its receipt vouches for it.
pub struct Export<'a> {
    pub pipeline: &'a Pipeline,
    pub stage: &'a Stage,
    /// As the pipeline file names it.
    pub table: &'a str,
    /// What `all.json` must be; none with `--trust-exports`.
    pub expected_sha256: Option<String>,
    pub records: Option<u64>,
    /// Start of the fetch behind it.
    pub fetched_at: Option<String>,
}

/// An export and the table it goes to.
pub struct Job<'a> {
    pub export: Export<'a>,
    pub table: Table,
    /// Its foreign keys to other tables.
    pub parents: Vec<ForeignKey>,
    /// The delta table, as SQL takes it.
    pub delta: String,
    /// This transaction created the table: nobody else has seen it.
    pub created: bool,
}

/// Whether `all.json` must be what the stage's receipt says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    Receipts,
    Exports,
}

/// What an export was made from that is another by now: pages that were fetched again, an export that was made again.
fn other_input(paths: &Paths, extract: &ExtractReceipt) -> Option<String> {
    let current = |name: &str| match name.strip_prefix("pages/") {
        Some(stage) => Some(Receipt::read(paths, stage).ok()??.fetch?.pages_hash()),
        None => Some(Receipt::read(paths, name).ok()??.extract?.sha256),
    };
    extract.inputs.iter().find(|(name, hash)| current(name).as_ref() != Some(hash)).map(|(name, _)| format!("`{name}`"))
}

impl<'a> Export<'a> {
    /// The exports of the stages of these names, all those with a table when none is named.
    pub fn all(pipeline: &'a Pipeline, names: &[String], trust: Trust) -> Result<Vec<Export<'a>>> {
        let mut exports = Vec::new();
        for stage in pipeline.selected(names)? {
            match &stage.table {
                Some(table) => exports.push(Export::of(pipeline, stage, table, trust)?),
                None if names.is_empty() => {}
                None => {
                    return Err(Error::usage(format!("stage `{}` has no table to be loaded into", stage.name))
                        .at(pipeline.place(stage.line)));
                }
            }
        }
        match exports.is_empty() {
            true => Err(Error::usage("no stage has a table").at(pipeline.file.display().to_string())),
            false => Ok(exports),
        }
    }

    fn of(pipeline: &'a Pipeline, stage: &'a Stage, table: &'a str, trust: Trust) -> Result<Export<'a>> {
        let paths = &pipeline.paths;
        let missing = |what: &str| {
            Err(Error::failed(format!("stage `{}` {what}", stage.name))
                .at(paths.shown(&paths.all_json(&stage.name)))
                .detail("Nothing was loaded; the database is as it was."))
        };
        if !paths.all_json(&stage.name).exists() {
            return missing("has no export").map_err(|error| error.hint(format!("Run `mirror42 run {}`.", stage.name)));
        }
        let receipt = Receipt::read(paths, &stage.name)?;
        let extract = receipt.and_then(|receipt| receipt.extract);
        if extract.is_none() && trust == Trust::Receipts {
            return missing("has an export without a receipt").map_err(|error| {
                error.hint(format!(
                    "Run `mirror42 run {}`, or load the file as it is with `--trust-exports`.",
                    stage.name
                ))
            });
        }
        let (source, _) = pipeline.source_of(stage)?;
        let fetch = Receipt::read(paths, &source.name)?.and_then(|receipt| receipt.fetch);
        if let Some(other) = extract.as_ref().filter(|_| trust == Trust::Receipts).and_then(|e| other_input(paths, e)) {
            return missing(&format!("was made from another {other} than is there now"))
                .map_err(|error| error.hint("Run `mirror42 run`: to load it would mix two nights."));
        }
        if let Some(what) = fetch.as_ref().filter(|_| trust == Trust::Receipts).and_then(FetchReceipt::lacks) {
            return missing(&format!("was made from pages of `{}` that are not whole: {what}", source.name))
                .map_err(|error| error.hint(format!("Run `mirror42-fetch {}`, or `mirror42 run`.", source.name)));
        }
        Ok(Export {
            pipeline,
            stage,
            table,
            records: extract.as_ref().map(|extract| extract.records_out),
            expected_sha256: extract.map(|extract| extract.sha256).filter(|_| trust == Trust::Receipts),
            fetched_at: fetch.map(|fetch| fetch.started_at),
        })
    }

    pub fn open(&self) -> Result<export::Reader> {
        export::Reader::open(&self.pipeline.paths.all_json(&self.stage.name), &self.shown())
    }

    pub fn shown(&self) -> String {
        let paths = &self.pipeline.paths;
        paths.shown(&paths.all_json(&self.stage.name))
    }

    /// The file was read to its end, and this is what it is.
    pub fn check_sha256(&self, sha256: &str) -> Result<()> {
        match &self.expected_sha256 {
            Some(expected) if expected != sha256 => {
                Err(Error::failed(format!("`{}` is not what stage `{}` wrote", self.shown(), self.stage.name))
                    .detail("Its hash is not the one in `stage.json` beside it: it was edited, or replaced.")
                    .hint(format!(
                        "Run `mirror42 run {}`, or load the file as it is with `--trust-exports`.",
                        self.stage.name
                    )))
            }
            _ => Ok(()),
        }
    }

    /// An error about one record: `number` counts from 1.
    pub fn record_error(&self, wrong: Wrong, table: &Table, number: u64, line: u64, record: &[u8]) -> Error {
        let key = shown_key(record, &table.primary_key);
        let key = if key.is_empty() { key } else { format!(" ({key})") };
        let column = wrong.column.map(|column| format!(", column `{}.{column}`", table.name)).unwrap_or_default();
        let error =
            Error::failed(wrong.message).at(format!("{}, record {number}{key}, line {line}{column}", self.shown()));
        self.with_remedy(error, wrong.remedy)
    }

    pub fn with_remedy(&self, error: Error, remedy: Remedy) -> Error {
        let what = match remedy {
            Remedy::None => return error,
            Remedy::Convert => "Convert it",
            Remedy::ToString => "Convert it with `tostring`",
            Remedy::ToJson => "Pick a value out of it, or convert it with `tojson`,",
            Remedy::Round => "Round it (in jq a quotient such as 4/2 is 2.0; `| round` makes it whole)",
            Remedy::Remove => "Remove the character, for example with `gsub`,",
        };
        let place = self.pipeline.place(self.stage.jq.line);
        error.hint(format!("{what} in the jq filter of stage `{}` ({place}).", self.stage.name))
    }
}

impl Job<'_> {
    pub fn stage_name(&self) -> &str {
        &self.export.stage.name
    }
}

/// The tables of the exports, created if the database has none of the pipeline's, parents before children.
pub fn jobs<'a>(tx: &mut Transaction, pipeline: &'a Pipeline, exports: Vec<Export<'a>>) -> Result<Vec<Job<'a>>> {
    let (mut tables, created) = tables_or_schema(tx, pipeline)?;
    let keys = catalog::foreign_keys(tx, &tables)?;
    let wanted = |table: &Table| exports.iter().any(|export| export.table == table.name);
    check_closed(&tables, &keys, &wanted, pipeline)?;
    tables.retain(wanted);
    if let Some(table) = tables.iter().find(|table| table.primary_key.is_empty()) {
        return Err(Error::failed(format!("table `{}` has no primary key", table.name))
            .hint("Add one: rows are told apart by it."));
    }
    let order = catalog::parents_first(&tables, &keys)?;
    let mut exports: Vec<Option<Export>> = exports.into_iter().map(Some).collect();
    let mut jobs = Vec::new();
    for place in order {
        let table = tables[place].clone();
        let export = exports.iter_mut().find(|export| export.as_ref().is_some_and(|e| e.table == table.name));
        let Some(export) = export.and_then(Option::take) else { continue };
        jobs.push(Job {
            export,
            parents: keys.iter().filter(|key| key.child == table.oid).cloned().collect(),
            delta: delta_name(place, &table.name),
            created,
            table,
        });
    }
    Ok(jobs)
}

/// Needs no quotes, so that Postgres writes it in its messages as it is here, and is short enough not to be cut.
fn delta_name(place: usize, table: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let plain: String = table.chars().map(plain).take(40).collect();
    format!("mirror42_delta_{place}_{plain}")
}

/// The catalog of all tables of the pipeline, and whether they were created just now: a database that has none of
/// them gets them from `schema.sql`.
fn tables_or_schema(tx: &mut Transaction, pipeline: &Pipeline) -> Result<(Vec<Table>, bool)> {
    let names: Vec<&str> = pipeline.loaded().map(|(_, table)| table).collect();
    let found = catalog::tables(tx, &names)?;
    let schema = pipeline.schema.display();
    if found.iter().any(Option::is_some) {
        let tables = all_there(&names, found, |missing| {
            Error::failed(format!("the database lacks tables that the stages fill: {missing}")).hint(format!(
                "Create them as in `{schema}`, or drop the others: a database without any gets them all."
            ))
        });
        return Ok((tables?, false));
    }
    let sql = String::from_utf8(files::read(&pipeline.paths.root().join(&pipeline.schema))?)
        .map_err(|_| Error::failed(format!("`{schema}` is not UTF-8")))?;
    log::info!("the database has none of the tables: running `{schema}`");
    tx.batch_execute(&sql).map_err(|error| failure(&format!("could not run `{schema}`"), &error))?;
    let tables = all_there(&names, catalog::tables(tx, &names)?, |missing| {
        Error::failed(format!("`{schema}` does not create the tables that the stages fill: {missing}"))
    });
    Ok((tables?, true))
}

fn all_there(names: &[&str], found: Vec<Option<Table>>, error: impl Fn(String) -> Error) -> Result<Vec<Table>> {
    let missing: Vec<String> =
        names.iter().zip(&found).filter(|(_, table)| table.is_none()).map(|(name, _)| format!("`{name}`")).collect();
    if missing.is_empty() { Ok(found.into_iter().flatten().collect()) } else { Err(error(missing.join(", "))) }
}

/// Tables that refer to each other must be loaded together: their exports are of one night.
fn check_closed(
    tables: &[Table],
    keys: &[ForeignKey],
    wanted: &impl Fn(&Table) -> bool,
    pipeline: &Pipeline,
) -> Result<()> {
    let table_of = |oid: u32| tables.iter().find(|table| table.oid == oid);
    for key in keys {
        let (Some(child), Some(parent)) = (table_of(key.child), table_of(key.parent)) else { continue };
        if wanted(child) == wanted(parent) {
            continue;
        }
        let (here, other) = if wanted(child) { (child, parent) } else { (parent, child) };
        let stage = pipeline.loaded().find(|(_, table)| *table == other.name).map_or("", |(stage, _)| &stage.name);
        return Err(Error::usage(format!(
            "cannot load `{}` without `{}`: foreign key `{}` ties them",
            here.name, other.name, key.name
        ))
        .hint(format!("Name stage `{stage}` too, or no stage at all: then all tables are loaded together.")));
    }
    Ok(())
}

/// Creates the ledger where it is missing.
pub fn ensure_ledger(tx: &mut Transaction) -> Result<()> {
    if ledger::exists(tx)? {
        return Ok(());
    }
    tx.batch_execute(include_str!("../sql/ledger.sql"))
        .map_err(|error| failure("could not create the schema `mirror42`", &error))
}
