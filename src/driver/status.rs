//! The verb `status`: how old the mirror is and what is in it, for people, programs and Prometheus. It fails when the
//! mirror is stale, and starts nothing: a server that is down is told of.

use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::demo;
use super::forced;
use super::prometheus;
use super::record::Record;
use super::schedule::{self, Decided};
use super::staleness::span;
use super::summary::{number, table};
use crate::cli::{self, Context};
use crate::error::{Error, Result};
use crate::files;
use crate::pg::{self, embedded, ledger};
use crate::pipeline::{Pipeline, Secret};
use crate::receipt::{Receipt, age_s};

const STANDARD_OUTPUT: &str = "-";

#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// As one JSON object
    #[arg(long, conflicts_with = "prometheus")]
    json: bool,
    /// As metrics, into FILE (for the textfile collector of node_exporter) or on the standard output
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = STANDARD_OUTPUT)]
    prometheus: Option<PathBuf>,
}

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

/// Tells the state of every stage and table.
pub fn status(context: &Context, args: &StatusArgs, url: Option<&Secret>) -> Result<()> {
    let mut state = State::new(context)?;
    let verdict = state.ask(&context.pipeline, url);
    state.error = verdict.as_ref().err().map(|error| error.message().to_string());
    match &args.prometheus {
        Some(file) if file == Path::new(STANDARD_OUTPUT) => {
            cli::print(format_args!("{}", prometheus::text(&state).trim_end()));
        }
        // It is read by another user, at any time.
        Some(file) => drop(files::write(file, prometheus::text(&state).as_bytes())?),
        None if args.json => cli::print(format_args!("{}", serde_json::json!(state))),
        None => {
            state.print();
            demo::note(&context.pipeline.paths).into_iter().for_each(|note| cli::print(format_args!("{note}")));
        }
    }
    verdict
}

impl State {
    /// What the files say.
    fn new(context: &Context) -> Result<State> {
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
    fn ask(&mut self, pipeline: &Pipeline, url: Option<&Secret>) -> Result<()> {
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

    /// Two tables and a sentence.
    fn print(&self) {
        let mut stages = table(&["Stage", "Fetched or run", "Records", "State"], 2..3);
        for stage in &self.stages {
            stages.add_row([
                stage.name.clone(),
                stage.age_s.map_or(String::new(), |age| format!("{} ago", span(age))),
                stage.records.map_or(String::new(), number),
                stage.state.clone(),
            ]);
        }
        cli::print(format_args!("{stages}"));
        if self.tables.is_empty() {
            return;
        }
        let header = ["Table", "Rows", "Change", "Inserted", "Updated", "Deleted", "Age", "Last load"];
        let mut tables = table(&header, 1..7);
        for entry in &self.tables {
            let count = |n: i64| number(n.unsigned_abs());
            tables.add_row([
                entry.table.clone(),
                count(entry.rows),
                signed(entry.change),
                count(entry.inserted),
                count(entry.updated),
                count(entry.deleted),
                entry.age_s.map_or(String::new(), span),
                entry.run_id.clone(),
            ]);
        }
        cli::print(format_args!("{tables}"));
        if let Some(age) = self.age_s {
            cli::print(format_args!("The mirror is {} old.", span(age)));
        }
    }
}

/// With a sign, but for nothing.
fn signed(n: i64) -> String {
    let sign = match n {
        0 => "",
        1.. => "+",
        _ => "-",
    };
    format!("{sign}{}", number(n.unsigned_abs()))
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

#[cfg(test)]
mod tests {
    use super::signed;

    #[test]
    fn a_change_has_its_sign() {
        assert_eq!([0, 1, 1234, -1234].map(signed), ["0", "+1", "+1,234", "-1,234"]);
    }
}
