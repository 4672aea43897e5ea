//! The state of a mirror: what its files, its records and its database say of it. Nothing is started for that.

use jiff::Timestamp;
use serde::Serialize;

use super::forced;
use super::record::Record;
use super::schedule::{self, Decided};
use super::staleness::span;
use crate::cli::Context;
use crate::error::{Error, Result};
use crate::pg::{self, embedded, ledger};
use crate::pipeline::{Pipeline, Secret};
use crate::receipt::{Receipt, age_s};

/// All that is known of a mirror.
#[derive(Debug, Serialize)]
pub struct State {
    pub pipeline: String,
    /// The database could be asked.
    pub up: bool,
    /// It is older than `stale_after`, or it is not known how old.
    pub stale: bool,
    pub stale_after_s: u64,
    /// Of the oldest table, UTC; none: not known.
    pub fetched_at: Option<String>,
    pub age_s: Option<u64>,
    /// Why the command fails.
    pub error: Option<String>,
    pub last_load: Option<LastLoad>,
    pub last_run: Option<LastRun>,
    pub stages: Vec<StageState>,
    pub tables: Vec<TableState>,
}

#[derive(Debug, Serialize)]
pub struct LastLoad {
    pub run_id: String,
    pub started_at: String,
    pub finished_at: Option<String>,
    pub duration_s: Option<f64>,
}

/// The last run that has come to its end, well or not.
#[derive(Debug, Serialize)]
pub struct LastRun {
    pub run_id: String,
    pub ended_at: String,
    pub exit_code: u8,
    pub duration_s: f64,
    pub requests: u64,
}

#[derive(Debug, Serialize)]
pub struct StageState {
    pub name: String,
    /// When it was fetched, or its own program ran. None: it does neither, or has not yet.
    pub fetched_at: Option<String>,
    pub age_s: Option<u64>,
    /// Requests of the last fetch.
    pub requests: Option<u64>,
    /// Records of its export.
    pub records: Option<u64>,
    pub current: bool,
    /// `current`, or why it is not.
    pub state: String,
}

#[derive(Debug, Serialize)]
pub struct TableState {
    pub table: String,
    pub stage: String,
    pub rows: i64,
    /// Rows more than before its last load, or fewer.
    pub change: i64,
    pub inserted: i64,
    pub updated: i64,
    pub unchanged: i64,
    pub deleted: i64,
    pub orphans: i64,
    pub run_id: String,
    pub fetched_at: Option<String>,
    pub age_s: Option<u64>,
}

/// Nothing can be told of a mirror that is not there.
pub fn never() -> Error {
    Error::invalid("the mirror was never loaded").hint("Run `mirror42 run`, or `mirror42 demo` to see what it does.")
}

impl State {
    /// What the files say.
    pub fn new(context: &Context) -> Result<State> {
        let pipeline = &context.pipeline;
        let mut stages = Vec::new();
        for (stage, Decided { fetch, extract }) in schedule::forecast(pipeline, &forced::remembered(context)?)? {
            // Why it cannot be read, the state says.
            let receipt =
                Receipt::read_or_new(&pipeline.paths, &stage.name).unwrap_or_else(|_| Receipt::new(&stage.name));
            let began = receipt.fetch.as_ref().map(|fetch| &fetch.started_at);
            let began = began.or(receipt.run.as_ref().map(|run| &run.started_at)).cloned();
            let stale = [fetch, extract].into_iter().flatten().find(|verdict| !verdict.is_current());
            stages.push(StageState {
                name: stage.name.clone(),
                age_s: began.as_deref().map(age_s),
                requests: receipt.fetch.as_ref().map(|fetch| fetch.requests),
                fetched_at: began,
                records: receipt.extract.map(|extract| extract.records_out),
                current: stale.is_none(),
                state: stale.map_or("current".to_string(), |verdict| verdict.to_string()),
            });
        }
        Ok(State {
            pipeline: pipeline.name.clone(),
            up: false,
            stale: true,
            stale_after_s: pipeline.stale_after.as_secs(),
            fetched_at: None,
            age_s: None,
            error: None,
            last_load: None,
            last_run: Record::newest(&pipeline.paths)?.find_map(LastRun::of),
            stages,
            tables: Vec::new(),
        })
    }

    /// What the database says; the error is why there is no mirror, or none that is young enough.
    pub fn ask(&mut self, pipeline: &Pipeline, url: Option<&Secret>) -> Result<()> {
        check_runs(pipeline, url)?;
        let mut client = pg::connect(&pipeline.paths, url, "status")?;
        self.up = true;
        let mut entries = ledger::last_of_each_table(&mut client, pipeline)?;
        self.tables = entries.iter().map(TableState::of).collect();
        self.last_load = ledger::run(&mut client, pipeline, None)?.map(LastLoad::of);
        // The mirror is as old as its oldest table: a load may be of some only. None comes first.
        entries.sort_by_key(|entry| entry.fetched_at);
        let oldest = entries.first().ok_or_else(never)?;
        let fetched_at = oldest.fetched_at.ok_or_else(|| {
            Error::invalid(format!("how old `{}` is is not known", oldest.table))
                .detail("It was loaded without receipts.")
                .hint("Run `mirror42 run`.")
        })?;
        let (age, limit) = (age_s(&fetched_at.to_string()), self.stale_after_s);
        (self.fetched_at, self.age_s, self.stale) = (Some(text(fetched_at)), Some(age), age >= limit);
        if !self.stale {
            return Ok(());
        }
        Err(Error::invalid(format!("the mirror is {} old, stale_after is {}", span(age), span(limit)))
            .detail(format!("The last load of `{}` was {}.", oldest.table, oldest.run_id))
            .hint("Look into logs/ for why no run has succeeded since."))
    }
}

impl TableState {
    fn of(entry: &ledger::RunTable) -> TableState {
        let counts = &entry.counts;
        TableState {
            table: entry.table.clone(),
            stage: entry.stage.clone(),
            rows: counts.staged - counts.orphans,
            change: counts.inserted - counts.deleted,
            inserted: counts.inserted,
            updated: counts.updated,
            unchanged: counts.unchanged,
            deleted: counts.deleted,
            orphans: counts.orphans,
            run_id: entry.run_id.clone(),
            fetched_at: entry.fetched_at.map(text),
            age_s: entry.fetched_at.map(|time| age_s(&time.to_string())),
        }
    }
}

impl LastRun {
    fn of(record: Record) -> Option<LastRun> {
        Some(LastRun {
            ended_at: record.ended_at?,
            exit_code: record.exit_code?,
            run_id: record.id,
            duration_s: record.duration_ms as f64 / 1e3,
            requests: record.requests,
        })
    }
}

impl LastLoad {
    fn of(run: ledger::Run) -> LastLoad {
        LastLoad {
            run_id: run.id,
            started_at: text(run.started_at),
            finished_at: run.finished_at.map(text),
            duration_s: run.finished_at.map(|end| end.duration_since(run.started_at).as_secs_f64()),
        }
    }
}

fn text(time: Timestamp) -> String {
    crate::log::timestamp(time)
}

/// The embedded server, where the mirror is in it, must be there and run.
fn check_runs(pipeline: &Pipeline, url: Option<&Secret>) -> Result<()> {
    if url.is_some() {
        return Ok(());
    }
    match embedded::status(&pipeline.paths)? {
        embedded::Status::Absent => Err(never()),
        embedded::Status::Stopped => Err(Error::invalid("the embedded database is stopped")
            .hint("Run `mirror42 db start`; the next run starts it too.")),
        embedded::Status::Running(_) => Ok(()),
    }
}
