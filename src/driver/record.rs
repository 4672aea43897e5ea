//! `logs/runs/<id>.json`: what a run did, step by step, for programs and for `report`.
//!
//! The record is kept while the run is under way, once its first step has begun, so that even a run that is killed
//! has one: it then has no end. docs/formats.md shows a whole one.

use std::cell::RefCell;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::options::Options;
use super::schedule::{Job, Schedule, Targets};
use super::{LOAD, REPLAY, RUN, VALIDATE};
use crate::cli::Context;
use crate::error::{Error, Kind, Result};
use crate::files::{self, Layout};
use crate::limiter::Limiter;
use crate::log as logs;
use crate::paths::Paths;
use crate::pg::{self, ledger};
use crate::pipeline::Secret;
use crate::receipt::Receipt;

const VERSION: u32 = 1;
/// A run under way writes its record no more often than this.
const EVERY: Duration = Duration::from_secs(1);

/// A run: what it was to do, what it did, how it ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    pub id: String,
    /// What ran: `run`, `replay` or `demo`.
    #[serde(default = "run")]
    pub verb: String,
    /// Its load was rolled back in the end.
    #[serde(default)]
    pub dry_run: bool,
    pub pipeline: String,
    /// The version of the program.
    pub mirror42: String,
    /// As on the command line: stages, `load`, `validate`; none stands for all.
    pub targets: Vec<String>,
    /// UTC, RFC 3339, as all times here.
    pub started_at: String,
    /// Null: it is under way, or was killed.
    pub ended_at: Option<String>,
    pub duration_ms: u64,
    pub exit_code: Option<u8>,
    /// The parts of its message ([`Error::to_json`]).
    pub error: Option<Value>,
    /// What ran, in the order in which it began.
    pub steps: Vec<Step>,
    /// Steps that had nothing to do.
    pub current_steps: u64,
    /// Requests of the fetches that ended well.
    pub requests: u64,
    pub quota: Option<Quota>,
    /// What the load did; empty if there was none.
    pub tables: Vec<TableCounts>,
    /// Of all tables.
    pub rows: i64,
    pub changed: i64,
    pub deleted: i64,
    pub orphans: i64,
    /// `passed` or `failed`; null: they were not run.
    pub checks: Option<String>,
}

/// What ran where a record does not say it.
fn run() -> String {
    RUN.to_string()
}

/// One step of one stage, or the load, or the validation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// `fetch`, `exec`, `extract`, `load`, `validate`.
    pub what: String,
    pub stage: Option<String>,
    /// Why it ran, as `plan` says it.
    pub why: String,
    pub started_at: String,
    pub ended_at: Option<String>,
    pub duration_ms: u64,
    pub exit_code: Option<u8>,
    pub requests: Option<u64>,
    /// That were fetched, or that the filter gave.
    pub records: Option<u64>,
    /// Of the pages, or of `all.json`.
    pub size_bytes: Option<u64>,
}

/// The API's hourly limit, as far as it is known.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Quota {
    pub per_hour: u32,
    pub left: u32,
}

/// What the ledger says of one table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableCounts {
    pub table: String,
    pub stage: String,
    #[serde(flatten)]
    pub counts: ledger::Counts,
    pub duration_ms: i64,
}

/// Keeps the record of a run that is under way.
pub struct Recorder<'a> {
    context: &'a Context,
    started: Instant,
    state: RefCell<State>,
}

struct State {
    record: Record,
    /// When the file was last written; none: not yet.
    kept: Option<Instant>,
}

impl<'a> Recorder<'a> {
    pub fn begin(context: &'a Context, targets: &Targets, options: &Options) -> Recorder<'a> {
        let record = Record {
            version: VERSION,
            id: options.run_id.clone(),
            verb: options.verb.to_string(),
            dry_run: options.dry_run,
            pipeline: context.pipeline.name.clone(),
            mirror42: env!("CARGO_PKG_VERSION").to_string(),
            targets: names(context, targets, options),
            started_at: logs::now(),
            ended_at: None,
            duration_ms: 0,
            exit_code: None,
            error: None,
            steps: Vec::new(),
            current_steps: 0,
            requests: 0,
            quota: None,
            tables: Vec::new(),
            rows: 0,
            changed: 0,
            deleted: 0,
            orphans: 0,
            checks: None,
        };
        Recorder { context, started: Instant::now(), state: RefCell::new(State { record, kept: None }) }
    }

    /// A job begins: why, the schedule has decided.
    pub fn started(&self, job: &Job, schedule: &Schedule) {
        self.started_since(job, |stage, what| schedule.why(stage, what));
    }

    /// A job begins, for this reason.
    pub fn started_since(&self, job: &Job, why: impl Fn(Option<&str>, &str) -> String) {
        let (what, stages) = parts(job);
        let new = |stage: Option<&str>| Step {
            what: what.to_string(),
            stage: stage.map(str::to_string),
            why: why(stage, what),
            started_at: logs::now(),
            ended_at: None,
            duration_ms: 0,
            exit_code: None,
            requests: None,
            records: None,
            size_bytes: None,
        };
        let mut state = self.state.borrow_mut();
        match stages.is_empty() {
            true => state.record.steps.push(new(None)),
            false => state.record.steps.extend(stages.iter().map(|stage| new(Some(stage)))),
        }
        self.keep(&mut state);
    }

    /// A job has ended so.
    pub fn ended<T>(&self, job: &Job, end: &Result<T>) {
        let (what, stages) = parts(job);
        let mut state = self.state.borrow_mut();
        let mine = |step: &&mut Step| {
            step.what == what
                && step.ended_at.is_none()
                && step.stage.iter().all(|stage| stages.contains(&stage.as_str()))
        };
        for step in state.record.steps.iter_mut().filter(mine) {
            close(step, &self.context.pipeline.paths, end);
        }
        if what == VALIDATE || (what == LOAD && end.is_ok()) {
            state.record.checks = verdict(end);
        } else if what == LOAD && end.as_ref().is_err_and(|error| error.kind() == Kind::Invalid) {
            state.record.checks = Some("failed".to_string());
        }
        self.keep(&mut state);
    }

    /// Nothing more begins: what had nothing to do is known.
    pub fn decided(&self, schedule: &Schedule) {
        self.state.borrow_mut().record.current_steps = schedule.current_steps();
    }

    /// The run has ended so: its record, with what the ledger has of its load, which is written. That it cannot be written fails
    /// no run.
    pub fn end<T>(self, end: &Result<T>, url: Option<&Secret>) -> (Record, Option<ledger::Run>) {
        let mut record = self.state.into_inner().record;
        record.ended_at = Some(logs::now());
        record.duration_ms = self.started.elapsed().as_millis() as u64;
        record.exit_code = Some(end.as_ref().err().map_or(0, |error| error.kind().exit_code()));
        record.error = end.as_ref().err().map(Error::to_json);
        record.requests = record.steps.iter().filter_map(|step| step.requests).sum();
        let pipeline = &self.context.pipeline;
        // Nothing is known of the limits, or the file is in somebody's hands: that is told as not known.
        record.quota = Limiter::new(&pipeline.paths, &pipeline.api)
            .forecast(0)
            .ok()
            .and_then(|forecast| Some(Quota { per_hour: forecast.per_hour?, left: forecast.left? }));
        let load = load_of(self.context, &record, url).unwrap_or_else(|error| {
            log::warn!("the record of this run lacks what the load did: {error}");
            None
        });
        if let Some(load) = &load {
            record.take_counts(load);
        }
        write(&pipeline.paths, &record);
        (record, load)
    }

    fn keep(&self, state: &mut State) {
        if state.kept.is_some_and(|kept| kept.elapsed() < EVERY) {
            return;
        }
        let paths = &self.context.pipeline.paths;
        if state.kept.is_none()
            && let Err(error) = files::sweep(&paths.runs())
        {
            log::warn!("what a killed run left in `{}` stays: {error}", paths.shown(&paths.runs()));
        }
        state.record.duration_ms = self.started.elapsed().as_millis() as u64;
        write(paths, &state.record);
        state.kept = Some(Instant::now());
    }
}

impl Record {
    /// The records of the past runs that were to bring the mirror up to date, the newest first, each read when it is asked
    /// for. A file that is none is told of and passed over: what the others say is wanted all the same.
    pub fn newest(paths: &Paths) -> Result<impl Iterator<Item = Record>> {
        let mut found = super::snapshots::entries(&paths.runs())?;
        found.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        // A name begins with the time of its run.
        found.sort_unstable_by(|a, b| b.cmp(a));
        let records = found.into_iter().filter_map(move |path| {
            Record::read(&path).unwrap_or_else(|error| {
                log::warn!("`{}` is passed over: {error}", paths.shown(&path));
                None
            })
        });
        Ok(records.filter(Record::keeps_up))
    }

    /// The record in a file; none if it is gone by now, or another version of mirror42 wrote it.
    fn read(path: &Path) -> Result<Option<Record>> {
        let Some(bytes) = files::read_if_there(path)? else { return Ok(None) };
        let no_record = |cause: serde_json::Error| Error::failed(format!("it is no record of a run: {cause}"));
        // One of another version may have another form.
        let version = serde_json::from_slice::<Value>(&bytes).map_err(no_record)?["version"].as_u64();
        if version.is_some_and(|version| version != u64::from(VERSION)) {
            return Ok(None);
        }
        serde_json::from_slice(&bytes).map(Some).map_err(no_record)
    }

    /// Whether it was to bring the mirror up to date: a replay is of old pages, and what a dry run did was taken back.
    fn keeps_up(&self) -> bool {
        self.verb != REPLAY && !self.dry_run
    }

    fn take_counts(&mut self, load: &ledger::Run) {
        let counts_of = |entry: &ledger::RunTable| TableCounts {
            table: entry.table.clone(),
            stage: entry.stage.clone(),
            counts: entry.counts,
            duration_ms: entry.duration_ms,
        };
        self.tables = load.tables.iter().map(counts_of).collect();
        let sum = |of: fn(&ledger::Counts) -> i64| load.tables.iter().map(|entry| of(&entry.counts)).sum();
        self.rows = sum(ledger::Counts::rows);
        self.changed = sum(ledger::Counts::changed);
        self.deleted = sum(|counts| counts.deleted);
        self.orphans = sum(|counts| counts.orphans);
    }
}

/// What a job is called, and the stages that it is of.
fn parts(job: &Job) -> (&'static str, Vec<&str>) {
    match job {
        Job::Fetch(stage) => ("fetch", vec![stage]),
        Job::Exec(stage) => ("exec", vec![stage]),
        Job::Extract(stages) => ("extract", stages.iter().map(String::as_str).collect()),
        Job::Load => (LOAD, Vec::new()),
        Job::Validate => (VALIDATE, Vec::new()),
    }
}

fn close<T>(step: &mut Step, paths: &Paths, end: &Result<T>) {
    let now = jiff::Timestamp::now();
    let since = step.started_at.parse::<jiff::Timestamp>().unwrap_or(now);
    step.ended_at = Some(logs::timestamp(now));
    step.duration_ms = u64::try_from(now.as_millisecond() - since.as_millisecond()).unwrap_or(0);
    step.exit_code = Some(end.as_ref().err().map_or(0, |error| error.kind().exit_code()));
    let Some(stage) = step.stage.as_deref().filter(|_| end.is_ok()) else { return };
    // Numbers only: a receipt that cannot be read fails what comes next, not the record.
    let Ok(Some(receipt)) = Receipt::read(paths, stage) else { return };
    match step.what.as_str() {
        "fetch" => {
            let fetch = receipt.fetch.as_ref();
            step.requests = fetch.map(|fetch| fetch.requests);
            step.records = fetch.map(|fetch| fetch.records);
            step.size_bytes = fetch.map(|fetch| fetch.size_bytes);
        }
        "exec" => {
            step.records = receipt.run.as_ref().map(|run| run.records);
            step.size_bytes = receipt.run.as_ref().map(|run| run.size_bytes);
        }
        _ => {
            step.records = receipt.extract.as_ref().map(|extract| extract.records_out);
            step.size_bytes = receipt.extract.as_ref().map(|extract| extract.size_bytes);
        }
    }
}

fn verdict<T>(end: &Result<T>) -> Option<String> {
    match end {
        Ok(_) => Some("passed".to_string()),
        Err(error) if error.kind() == Kind::Invalid => Some("failed".to_string()),
        Err(_) => None,
    }
}

/// The targets as the command line named them.
fn names(context: &Context, targets: &Targets, options: &Options) -> Vec<String> {
    let all = targets.stages.len() == context.pipeline.stages.len();
    // Of a dry run the load is no target, since it comes after all else; and nothing is validated.
    let load = targets.load || options.dry_run;
    if all && load && (targets.validate || (options.dry_run && options.verb == RUN)) {
        return Vec::new();
    }
    let mut names = if all && load { Vec::new() } else { targets.stages.clone() };
    names.extend(load.then(|| LOAD.to_string()));
    names.extend(targets.validate.then(|| VALIDATE.to_string()));
    names
}

/// What the load of this run did; none if no load ended well.
fn load_of(context: &Context, record: &Record, url: Option<&Secret>) -> Result<Option<ledger::Run>> {
    let loaded = record.steps.iter().any(|step| step.what == LOAD && step.exit_code == Some(0));
    if !loaded {
        return Ok(None);
    }
    let mut client = pg::connect(&context.pipeline.paths, url, "summary")?;
    ledger::run(&mut client, &context.pipeline, Some(&record.id))
}

fn write(paths: &Paths, record: &Record) {
    if let Err(error) = files::write_json(&paths.run_record(&record.id), record, Layout::Indented) {
        log::warn!("the record of this run is not kept: {error}");
    }
}
