//! From the API to `exports/NN_name/pages/`: the answers as received, in whole series only.
//!
//! A stage is one series of pages, or one per record of another export ([`plan`]). Several requests
//! are under way at a time ([`pool`]), since the server is slow; a series counts only with its
//! certificate ([`series`]), and one that moves while it is read is mended ([`drift`]). Pages gather in
//! `pages.new`, which takes the place of `pages` when every series is whole: a failed or killed fetch
//! leaves the pages of the last good one, and its own for the next to go on with ([`journal`], [`seal`]).

mod drift;
mod journal;
mod page;
mod plan;
mod pool;
mod probe;
mod sample;
mod seal;
mod series;
#[cfg(test)]
mod series_tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Instant;

use clap::Parser;

use crate::api::Client;
use crate::cli::{ApiArgs, Common, Context};
use crate::error::{Error, Result};
use crate::paths::Paths;
use crate::pipeline::{Fetch, Stage};
use crate::progress::Task;
use crate::receipt::{FetchReceipt, Receipt};
use crate::{files, log as logs, manual, stop};
use journal::{Begin, Journal};
use pool::Pool;

/// Fetches the pages of stages from the API
///
/// Every series of pages is read whole, or the pages of the last good fetch stay. Without stage
/// names, all stages that fetch are fetched, in the order of the pipeline file. Exit codes: 0 done, 1 failed, 2 usage,
/// 3 another fetch of a stage is under way, 75 the API allows no more for now, run again later.
#[derive(Parser, Debug)]
#[command(name = "mirror42-fetch")]
#[command(after_long_help = manual::examples(&[
    ("All stages that fetch", "mirror42-fetch"),
    ("Two of them, with a line for every request", "mirror42-fetch -v 02_campus 08_coalitions"),
    ("How many requests that takes, for one request a stage", "mirror42-fetch --probe"),
    ("From another server, without a limit", "mirror42-fetch --api-url http://127.0.0.1:4242 --limits none"),
]))]
pub struct Args {
    /// The stages to fetch
    #[arg(value_name = "STAGE", add = manual::stages(&[]))]
    stages: Vec<String>,
    /// Fetch nothing: say how many requests each stage would take, by asking for its first page
    #[arg(long)]
    probe: bool,
    /// Fetch nothing for a stage: ask for this path, and print its answer as one JSON object
    #[arg(long, value_name = "PATH", conflicts_with_all = ["stages", "probe"])]
    sample: Option<String>,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    common: Common,
}

pub fn run(args: Args) -> Result<()> {
    let mut context = args.common.open("fetch")?;
    stop::keeps("Pages that have come are kept; the next fetch goes on with them.");
    args.api.apply(&mut context.pipeline)?;
    if let Some(path) = &args.sample {
        return sample::print(&Client::open(&context)?, path);
    }
    let mut stages = Vec::new();
    for stage in context.pipeline.selected(&args.stages)? {
        match stage.fetch() {
            Some(fetch) => stages.push((stage, fetch)),
            None if args.stages.is_empty() => {}
            None => {
                let place = context.pipeline.place(stage.line);
                let key = if stage.run().is_some() { "run" } else { "from" };
                return Err(Error::usage(format!("stage `{}` fetches nothing: it has `{key}`", stage.name)).at(place));
            }
        }
    }
    let client = Client::open(&context)?;
    stages.into_iter().try_for_each(|(stage, fetch)| match args.probe {
        true => probe::stage(&context.pipeline, &client, stage, fetch),
        false => run_stage(&context, &client, stage, fetch),
    })
}

fn run_stage(context: &Context, client: &Client, stage: &Stage, fetch: &Fetch) -> Result<()> {
    let (paths, name) = (&context.pipeline.paths, stage.name.as_str());
    let _lock = files::Lock::of_stage(paths, name)?;
    let started = Instant::now();
    let (requests, retries) = counts(client);

    let mut inputs = BTreeMap::new();
    let plans = plan::series(&context.pipeline, stage, fetch, &mut inputs)?;
    let begin = Begin::new(context.pipeline.fetch_definition(fetch), inputs);
    if seal::finish(paths, name, &begin, fetch.max_age)? {
        log::info!(target: name, "the pages of a fetch that was killed at its end are whole; nothing is asked for");
        return Ok(());
    }
    let folder = paths.pages_under_way(name);
    let (journal, begin, left) = Journal::open(&folder, &fetch.page, begin, fetch.max_age)?;
    let resumed_pages = left.pages();
    if resumed_pages > 0 {
        log::info!(target: name, "going on with {resumed_pages} pages of the fetch of {}", begin.started_at);
    }
    let task = Task::start(name, "fetch", "pages", None);
    let pool = Pool { client, stage: name, fetch, folder: &folder, journal: &journal, task: &task };
    let before = had_records(paths, name, &begin.definition)?;
    let series = pool.fetch_all(plans, left, &before, context.pipeline.api.limits.in_flight);
    let series = series.map_err(|failure| failure.with_what_is_kept(paths.pages(name).exists()))?;
    task.finish();

    let (requests_now, retries_now) = counts(client);
    let pages = || series.iter().flat_map(|series| &series.pages);
    let receipt = FetchReceipt {
        definition: begin.definition,
        inputs: begin.inputs,
        started_at: begin.started_at,
        finished_at: logs::now(),
        duration_ms: started.elapsed().as_millis() as u64,
        requests: requests_now - requests,
        retries: retries_now - retries,
        resumed_pages,
        records: pages().map(|page| page.records).sum(),
        size_bytes: pages().map(|page| page.size_bytes).sum(),
        series,
    };
    log::info!(
        target: name,
        "fetched {} records in {} requests, {:.1} MB, {:.1} s",
        receipt.records,
        receipt.requests,
        receipt.size_bytes as f64 / 1e6,
        started.elapsed().as_secs_f64()
    );
    seal::seal(paths, name, receipt)
}

/// The keys of the series that had records when this was fetched last.
fn had_records(paths: &Paths, stage: &str, definition: &str) -> Result<BTreeSet<Option<String>>> {
    let fetch = Receipt::read(paths, stage)?.and_then(|receipt| receipt.fetch);
    let series = fetch.filter(|fetch| fetch.definition == definition).map_or_else(Vec::new, |fetch| fetch.series);
    Ok(series.into_iter().filter(|series| series.records() > 0).map(|series| series.key).collect())
}

fn counts(client: &Client) -> (u64, u64) {
    (client.counts.requests.load(Ordering::Relaxed), client.counts.retries.load(Ordering::Relaxed))
}
