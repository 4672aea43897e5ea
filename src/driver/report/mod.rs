//! The verb `report`: one HTML page that needs nothing else, neither network nor scripts.
//!
//! It shows what the receipts say of the stages ([`graph`]), `logs/runs/` of the runs ([`timeline`]) and the ledger of
//! the loads ([`charts`]). What cannot be had is said on the page, which is written all the same: a report is wanted most
//! when something is wrong. All text from data goes through the templates of `maud`, which escape it.

mod charts;
mod graph;
mod page;
mod timeline;

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;

use super::record::Record;
use super::schedule::{self, Decided};
use crate::cli::{self, Common, Context};
use crate::error::Result;
use crate::files;
use crate::pg::{self, ledger};
use crate::pipeline::{Pipeline, Secret, Stage};
use crate::receipt::Receipt;

/// A year of nights, and some runs by hand.
const LOADS: u32 = 400;
const RUNS: usize = 400;

#[derive(Args, Clone, Debug)]
pub struct ReportArgs {
    /// The file to write, `-` for the standard output [default: report.html beside the pipeline file]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// All that the page shows.
struct Data<'a> {
    pipeline: &'a Pipeline,
    now: Timestamp,
    stages: Vec<Shown<'a>>,
    /// The newest first.
    runs: Vec<Record>,
    /// The oldest first; an error says why they are not known.
    loads: Result<Vec<ledger::Run>>,
}

/// A stage as it is now.
struct Shown<'a> {
    stage: &'a Stage,
    receipt: Receipt,
    /// `current`, or why it is not.
    state: String,
    is_current: bool,
}

pub fn run(context: &Context, common: &Common, args: &ReportArgs, url: Option<&Secret>) -> Result<()> {
    let data = gather(context, url)?;
    let page = page::page(&data).into_string();
    let paths = &context.pipeline.paths;
    let target = args.output.clone().unwrap_or_else(|| paths.report());
    if target.as_os_str() == "-" {
        cli::print(format_args!("{}", page.trim_end()));
        return Ok(());
    }
    files::write(&target, page.as_bytes())?;
    if !common.quiet {
        cli::print(format_args!("wrote {}", paths.shown(&target)));
    }
    Ok(())
}

fn gather<'a>(context: &'a Context, url: Option<&Secret>) -> Result<Data<'a>> {
    let pipeline = &context.pipeline;
    let forecast = schedule::forecast(pipeline, &super::forced::remembered(context)?)?;
    let stages = forecast.into_iter().map(|(stage, decided)| shown(pipeline, stage, &decided));
    let loads = loads(pipeline, url);
    if let Err(error) = &loads {
        log::warn!("the report lacks what the database has: {error}");
    }
    Ok(Data {
        pipeline,
        now: Timestamp::now(),
        stages: stages.collect(),
        runs: Record::newest(&pipeline.paths)?.take(RUNS).collect(),
        loads,
    })
}

fn shown<'a>(pipeline: &Pipeline, stage: &'a Stage, decided: &Decided) -> Shown<'a> {
    // Why it cannot be read, the state says.
    let receipt = Receipt::read_or_new(&pipeline.paths, &stage.name).unwrap_or_else(|_| Receipt::new(&stage.name));
    let stale = [&decided.fetch, &decided.extract].into_iter().flatten().find(|verdict| !verdict.is_current());
    let state = stale.map_or("current".to_string(), |verdict| verdict.to_string());
    Shown { stage, receipt, state, is_current: stale.is_none() }
}

fn loads(pipeline: &Pipeline, url: Option<&Secret>) -> Result<Vec<ledger::Run>> {
    match pg::connect_if_there(&pipeline.paths, url, "report")? {
        Some(mut client) => ledger::last_runs(&mut client, pipeline, LOADS),
        None => Ok(Vec::new()),
    }
}

impl Data<'_> {
    fn loads(&self) -> &[ledger::Run] {
        self.loads.as_deref().unwrap_or_default()
    }

    /// What the last load of each table did to it, in the order of the stages.
    fn tables(&self) -> Vec<&ledger::RunTable> {
        let last = |stage: &Stage| {
            let table = stage.table.as_deref()?;
            self.loads().iter().rev().find_map(|load| load.tables.iter().find(|entry| entry.table == table))
        };
        self.stages.iter().filter_map(|shown| last(shown.stage)).collect()
    }

    /// Seconds since the fetch of the oldest table: the age of the mirror. None: never loaded, or not known.
    fn age_s(&self) -> Option<u64> {
        let tables = self.tables();
        let oldest = tables.iter().map(|entry| entry.fetched_at).min()??;
        u64::try_from(self.now.as_second() - oldest.as_second()).ok()
    }
}
