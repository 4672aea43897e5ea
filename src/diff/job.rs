//! What is compared or loaded: each stage with its export, its receipt and its table; and the messages that name a
//! place in an export.

use std::collections::BTreeMap;

use crate::codec::{Remedy, Wrong, shown_key};
use crate::error::{Error, Result, excerpt};
use crate::export;
use crate::paths::Paths;
use crate::pg::catalog::{self, ForeignKey, Table};
use crate::pipeline::{Nul, Pipeline, Stage};
use crate::receipt::{FetchReceipt, Receipt};

/// Of a record in a message.
const SHOWN_CHARS: usize = 300;

/// The export of one stage, as its receipt vouches for it.
#[derive(Clone, Debug)]
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
#[derive(Debug)]
pub struct Job<'a> {
    pub export: Export<'a>,
    pub table: Table,
    /// Its foreign keys to tables, itself among them.
    pub parents: Vec<ForeignKey>,
}

/// Whether `all.json` must be what the stage's receipt says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    Receipts,
    Exports,
}

/// What an export was made from that is another by now: pages that were fetched again, an export that was made again.
fn other_input(paths: &Paths, inputs: &BTreeMap<String, String>) -> Option<String> {
    let current = |name: &str| match name.strip_prefix("pages/") {
        Some(stage) => Receipt::read(paths, stage).ok()??.pages_hash(),
        None => Some(Receipt::read(paths, name).ok()??.extract?.sha256),
    };
    inputs.iter().find(|(name, hash)| current(name).as_ref() != Some(hash)).map(|(name, _)| format!("`{name}`"))
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
        let raw = Receipt::read(paths, &source.name)?.filter(|_| trust == Trust::Receipts);
        let (fetch, run) = raw.map_or((None, None), |receipt| (receipt.fetch, receipt.run));
        let read = extract.iter().filter(|_| trust == Trust::Receipts).map(|extract| &extract.inputs);
        if let Some(other) = read.chain(run.iter().map(|run| &run.inputs)).find_map(|read| other_input(paths, read)) {
            return missing(&format!("was made from another {other} than is there now"))
                .map_err(|error| error.hint("Run `mirror42 run`: to load it would mix two nights."));
        }
        if let Some(what) = fetch.as_ref().and_then(FetchReceipt::lacks) {
            return missing(&format!("was made from pages of `{}` that are not whole: {what}", source.name))
                .map_err(|error| error.hint(format!("Run `mirror42-fetch {}`, or `mirror42 run`.", source.name)));
        }
        Ok(Export {
            pipeline,
            stage,
            table,
            records: extract.as_ref().map(|extract| extract.records_out),
            expected_sha256: extract.map(|extract| extract.sha256).filter(|_| trust == Trust::Receipts),
            fetched_at: Receipt::data_of(pipeline, stage)?,
        })
    }

    /// What is done with characters that no column can hold.
    pub fn nul(&self) -> Nul {
        self.stage.nul.unwrap_or(self.pipeline.nul)
    }

    pub fn open(&self) -> Result<export::Reader> {
        export::Reader::open(&self.pipeline.paths.all_json(&self.stage.name), &self.shown())
    }

    pub fn size_bytes(&self) -> Result<u64> {
        let path = self.pipeline.paths.all_json(&self.stage.name);
        let metadata = std::fs::metadata(&path).map_err(|cause| Error::io("read", &path, &cause))?;
        Ok(metadata.len())
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

    /// The error of two records, told by their lines, that have the same key and are not equal.
    pub fn two_records(&self, table: &Table, lines: [u64; 2]) -> Result<Error> {
        let mut reader = self.open()?;
        let mut records = Vec::new();
        while let Some((line, record)) = reader.read()? {
            if lines.contains(&line) {
                records.push(record.to_vec());
            }
        }
        let key = records.first().map(|record| shown_key(record, &table.primary_key)).unwrap_or_default();
        let error = Error::failed(format!("two records of one key are not equal: {key}")).at(format!(
            "{}, lines {} and {}",
            self.shown(),
            lines[0],
            lines[1]
        ));
        let error = records.iter().zip(lines).fold(error, |error, (record, line)| {
            error.detail(format!("Line {line}: {}", excerpt(&String::from_utf8_lossy(record), SHOWN_CHARS)))
        });
        Ok(error.hint(format!(
            "The key of stage `{}` ({}) must be the primary key of `{}`: {}.",
            self.stage.name,
            self.pipeline.place(self.stage.line),
            table.name,
            table.primary_key.join(", ")
        )))
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

    /// The columns of the primary key in the order that the export is in: that of the stage's key, where it has the
    /// same columns.
    pub fn key(&self) -> &[String] {
        let (of_stage, primary) = (&self.export.stage.key, &self.table.primary_key);
        let same = of_stage.len() == primary.len() && primary.iter().all(|column| of_stage.contains(column));
        if same { of_stage } else { primary }
    }
}

/// The exports with their tables, parents before children. `tables` are all those of the pipeline, and `keys` the
/// foreign keys from and to them.
pub fn jobs<'a>(
    pipeline: &Pipeline,
    exports: &[Export<'a>],
    mut tables: Vec<Table>,
    keys: &[ForeignKey],
) -> Result<Vec<Job<'a>>> {
    let wanted = |table: &Table| exports.iter().any(|export| export.table == table.name);
    check_closed(&tables, keys, &wanted, pipeline)?;
    tables.retain(wanted);
    if let Some(table) = tables.iter().find(|table| table.primary_key.is_empty()) {
        return Err(Error::failed(format!("table `{}` has no primary key", table.name))
            .hint("Add one: rows are told apart by it."));
    }
    let order = catalog::parents_first(&tables, keys)?;
    let jobs = order.into_iter().flat_map(|place| {
        let table = &tables[place];
        let export = exports.iter().find(|export| export.table == table.name)?;
        let parents = keys.iter().filter(|key| key.child == table.oid).cloned().collect();
        Some(Job { export: export.clone(), table: table.clone(), parents })
    });
    Ok(jobs.collect())
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
