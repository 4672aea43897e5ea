//! One pass over the pages of a source, for all stages that are made from it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Instant;

use jaq_json::Val;
use rayon::prelude::*;
use serde_json::value::RawValue;

use super::jq::Filter;
use super::read::Reader;
use super::source::{self, Page, Source};
use super::spool::{Chunk, Conflict, Spool};
use super::variables::{Export, Exports};
use super::{Place, compile, json};
use crate::error::{Error, Result};
use crate::files::Lock;
use crate::log as logs;
use crate::pipeline::{Pipeline, Raw, Stage};
use crate::progress::Task;
use crate::receipt::{ExtractReceipt, Receipt};

// As many pages as come to this are in memory at a time. Two of the largest of the 42 API, so that
// two threads never wait for one another for long.
const BATCH_BYTES: u64 = 8 << 20;
// Of text that a thread takes at a time: enough to make the taking cheap, little enough that no thread has
// much left to do when the others are done.
const GRAIN_BYTES: usize = 128 << 10;
// For the engine's recursion; of a stack only what is touched costs memory.
const STACK_BYTES: usize = 64 << 20;

thread_local! {
    static READER: RefCell<Reader> = RefCell::default();
}

/// A stage in the making.
struct Job<'a> {
    stage: &'a Stage,
    filter: Filter,
    /// The key members, as the engine's names.
    key: Vec<Val>,
    /// The values of the `with` variables.
    with: Vec<Val>,
    inputs: BTreeMap<String, String>,
    spool: Spool,
}

/// What the filters read at once: a record, or for `slurp` all of a series.
struct Input<'a> {
    records: Vec<&'a RawValue>,
    place: Place,
    each: Option<&'a Val>,
}

pub fn run(pipeline: &Pipeline, stages: &[&Stage]) -> Result<()> {
    let Some(first) = stages.first() else { return Ok(()) };
    let started = Instant::now();
    let (source_stage, raw) = pipeline.source_of(first)?;
    let _locks = stages.iter().map(|stage| Lock::of_stage(&pipeline.paths, &stage.name)).collect::<Result<Vec<_>>>()?;
    let source = Source::open(pipeline, source_stage, raw.records())?;
    let mut exports = Exports::default();
    let each = each_values(pipeline, &source, raw, &mut exports)?;
    let mut jobs = stages
        .iter()
        .map(|stage| Job::new(pipeline, stage, &source, each.as_ref().map(|(export, _)| export), &mut exports))
        .collect::<Result<Vec<_>>>()?;
    let each: Vec<Val> = each.map_or_else(Vec::new, |(_, values)| values);

    let task = Task::start(&first.name, "extract", "pages", Some(source.pages.len() as u64));
    let pool = rayon::ThreadPoolBuilder::new().stack_size(STACK_BYTES).build();
    let pool = pool.map_err(|cause| Error::failed(format!("could not start threads: {cause}")))?;
    let records_in = pool.install(|| filter_all(pipeline, &source, &each, &mut jobs, &task))?;
    task.finish();
    let finish = |job: Job| job.finish(pipeline, &source, records_in, started);
    pool.install(|| jobs.into_par_iter().map(finish).collect::<Vec<_>>()).into_iter().collect()
}

/// The `each` export and its record for each series of the source.
fn each_values(
    pipeline: &Pipeline,
    source: &Source,
    raw: Raw,
    exports: &mut Exports,
) -> Result<Option<(Export, Vec<Val>)>> {
    let Some(name) = raw.each else { return Ok(None) };
    let export = exports.get(pipeline, pipeline.known_stage(name)?)?;
    source.check_each(pipeline, &export)?;
    // The series were read in the order of that very export: check_each has seen its hash.
    let values = export.records().to_vec();
    Ok(Some((export, values)))
}

impl<'a> Job<'a> {
    fn new(
        pipeline: &Pipeline,
        stage: &'a Stage,
        source: &Source,
        each: Option<&Export>,
        exports: &mut Exports,
    ) -> Result<Job<'a>> {
        let mut inputs = BTreeMap::from([(format!("pages/{}", source.name), source.hash.clone())]);
        let mut with = Vec::new();
        if let Some(export) = each {
            inputs.insert(export.stage.clone(), export.sha256.clone());
        }
        for (_, name) in &stage.with {
            let export = exports.get(pipeline, pipeline.known_stage(name)?)?;
            with.extend(export.values());
            inputs.insert(name.clone(), export.sha256);
        }
        let key = stage.key.iter().map(|name| Val::from(name.clone())).collect();
        Ok(Job { stage, filter: compile(pipeline, stage)?, key, with, inputs, spool: Spool::new() })
    }

    /// Runs the filter on one input; the lines it yields go to `chunk`.
    fn filter(&self, value: Val, input: &Input, chunk: &mut Chunk) -> Result<(), String> {
        let variables: Vec<Val> = input.each.into_iter().chain(&self.with).cloned().collect();
        let mut key = Vec::new();
        self.filter.run(&variables, value, |output| {
            let Val::Obj(members) = &output else {
                return Err(format!("it yielded {}, expected an object", crate::error::excerpt(&output.to_string(), 100)));
            };
            key.clear();
            for (name, text) in self.key.iter().zip(&self.stage.key) {
                let member = members.get(name).ok_or_else(|| format!("it yielded a record without the key member `{text}`"))?;
                json::write_key(&mut key, member).map_err(|found| {
                    format!("it yielded a record whose key member `{text}` is {found}, expected an integer, a string or a boolean")
                })?;
            }
            let start = chunk.len();
            json::write(chunk.buffer(), &output).map_err(|what| format!("it yielded what is no JSON: {what}"))?;
            chunk.commit(start, &key, input.place)
        })
    }

    fn finish(self, pipeline: &Pipeline, source: &Source, records_in: u64, started: Instant) -> Result<()> {
        let (paths, name) = (&pipeline.paths, self.stage.name.as_str());
        let outcome = self.spool.write(&paths.all_json(name), self.stage.duplicates)?;
        let outcome = outcome.map_err(|conflict| differ(pipeline, self.stage, source, &conflict))?;
        let extract = ExtractReceipt {
            definition: pipeline.extract_definition(self.stage)?,
            inputs: self.inputs,
            finished_at: logs::now(),
            duration_ms: started.elapsed().as_millis() as u64,
            records_in,
            records_out: outcome.records,
            duplicates: outcome.duplicates,
            size_bytes: outcome.written.size_bytes,
            sha256: outcome.written.sha256,
        };
        log::info!(
            target: name,
            "extracted {} records from {}, {:.1} MB, {} duplicates",
            extract.records_out,
            extract.records_in,
            extract.size_bytes as f64 / 1e6,
            extract.duplicates
        );
        let mut receipt = Receipt::read_or_new(paths, name)?;
        receipt.extract = Some(extract);
        receipt.write(paths)
    }
}

/// Filters all pages, a batch at a time, into the spools of the jobs; returns how many records there were.
fn filter_all(pipeline: &Pipeline, source: &Source, each: &[Val], jobs: &mut [Job], task: &Task) -> Result<u64> {
    let slurp = jobs.iter().any(|job| job.stage.slurp);
    let by_record = jobs.iter().any(|job| !job.stage.slurp);
    let mut records_in = 0;
    let mut start = 0;
    while start < source.pages.len() {
        let end = batch_end(&source.pages, start, slurp);
        let pages = &source.pages[start..end];
        let texts = pages.par_iter().map(|page| source.text(page)).collect::<Vec<_>>();
        let texts = texts.into_iter().collect::<Result<Vec<_>>>()?;
        let split = pages.par_iter().zip(&texts).map(|(page, text)| source.split(page, text)).collect::<Vec<_>>();
        let split = split.into_iter().collect::<Result<Vec<_>>>()?;
        records_in += split.iter().map(|records| records.len() as u64).sum::<u64>();

        for (slurped, wanted) in [(false, by_record), (true, slurp)] {
            if !wanted {
                continue;
            }
            let inputs = inputs(pages, start, &split, each, slurped);
            let size: usize = texts.iter().map(String::len).sum();
            let grain = (GRAIN_BYTES * inputs.len() / size.max(1)).max(1);
            let shared = &*jobs;
            let chunks = inputs
                .par_chunks(grain)
                .map(|inputs| filter_some(pipeline, source, shared, inputs, slurped))
                .collect::<Vec<_>>();
            for chunks in chunks {
                for (job, chunk) in jobs.iter_mut().zip(chunks?) {
                    if chunk.len() > 0 {
                        job.spool.push(chunk, &pipeline.paths.stage(&job.stage.name))?;
                    }
                }
            }
        }
        task.add_sized((end - start) as u64, texts.iter().map(|text| text.len() as u64).sum());
        start = end;
    }
    Ok(records_in)
}

/// The end of the batch that begins at `start`: about [`BATCH_BYTES`], and with `slurp` whole series only.
fn batch_end(pages: &[Page], start: usize, slurp: bool) -> usize {
    let mut size = 0;
    for (i, page) in pages.iter().enumerate().skip(start) {
        let cut = !slurp || i == 0 || pages[i - 1].series != page.series;
        if size > 0 && cut && size + page.size_bytes > BATCH_BYTES {
            return i;
        }
        size += page.size_bytes;
    }
    pages.len()
}

/// What the filters get of these pages, the first of which is the `start`th: their records one by
/// one, or `slurped` by series.
fn inputs<'a>(
    pages: &[Page],
    start: usize,
    split: &[Vec<&'a RawValue>],
    each: &'a [Val],
    slurped: bool,
) -> Vec<Input<'a>> {
    let mut inputs: Vec<Input> = Vec::new();
    let mut series = None;
    for ((number, page), records) in (start..).zip(pages).zip(split) {
        let input = |records, record: usize| Input {
            records,
            place: Place { page: number as u32, record: record as u32 },
            each: each.get(page.series),
        };
        match (slurped, inputs.last_mut()) {
            (false, _) => inputs.extend(records.iter().enumerate().map(|(i, record)| input(vec![*record], i))),
            (true, Some(last)) if series == Some(page.series) => last.records.extend(records),
            (true, _) => inputs.push(input(records.clone(), 0)),
        }
        series = Some(page.series);
    }
    inputs
}

/// The chunks that the filters make of some inputs, one for each job.
fn filter_some(
    pipeline: &Pipeline,
    source: &Source,
    jobs: &[Job],
    inputs: &[Input],
    slurped: bool,
) -> Result<Vec<Chunk>> {
    let mut chunks: Vec<Chunk> = jobs.iter().map(|_| Chunk::default()).collect();
    for input in inputs {
        let mut values = Vec::with_capacity(input.records.len());
        for record in &input.records {
            let value = READER.with_borrow_mut(|reader| reader.read(record.get()));
            values.push(value.map_err(|what| {
                let what = source::half_character(record.get()).unwrap_or(what);
                Error::failed(format!("a record cannot be read: {what}"))
                    .at(source.place(input.place))
                    .detail("All exports are as they were.")
            })?);
        }
        let value = if slurped { Val::Arr(values.into()) } else { values.pop().unwrap_or_default() };
        for (job, chunk) in jobs.iter().zip(&mut chunks).filter(|(job, _)| job.stage.slurp == slurped) {
            job.filter(value.clone(), input, chunk).map_err(|what| {
                Error::failed(format!("the jq filter of stage `{}` failed: {what}", job.stage.name))
                    .at(source.place(input.place))
                    .detail(format!("`exports/{}/all.json` is as it was.", job.stage.name))
                    .hint(format!("The filter stands at {}.", pipeline.place(job.stage.jq.line)))
            })?;
        }
    }
    Ok(chunks)
}

fn differ(pipeline: &Pipeline, stage: &Stage, source: &Source, conflict: &Conflict) -> Error {
    let [first, second] = &conflict.lines;
    Error::failed(format!(
        "two records of stage `{}` have the same key ({}) and differ",
        stage.name,
        stage.key.join(", ")
    ))
    .at(source.place(conflict.places[0]))
    .detail(format!("The one is {first}."))
    .detail(format!("The other, from {}, is {second}.", source.place(conflict.places[1])))
    .hint(format!("Choose with `duplicates = \"first\"` or `\"last\"` at {}.", pipeline.place(stage.line)))
}
