//! From the API to `exports/NN_name/pages/`: the answers as received, in whole series only.
//!
//! A stage is one series of pages, or one per record of another export ([`plan`]). Several requests
//! are under way at a time ([`pool`]), since the server is slow; a series counts only with its
//! certificate ([`series`]). Pages gather in `pages.new`, which takes the place of `pages` when every
//! series is whole: a failed or killed fetch leaves the pages of the last good one.

mod plan;
mod pool;
mod probe;
mod series;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use clap::Parser;

use crate::api::Client;
use crate::cli::{ApiArgs, Common, Context};
use crate::error::{Error, Result};
use crate::pipeline::{Fetch, Stage};
use crate::progress::Task;
use crate::receipt::{FetchReceipt, Receipt};
use crate::{files, log as logs};

/// Fetches the pages of stages from the API
///
/// Every series of pages is read whole, or the pages of the last good fetch stay. Without stage
/// names, all stages that fetch are fetched, in the order of the pipeline file. Exit codes: 0 done, 1 failed, 2 usage,
/// 3 another fetch of a stage is under way, 75 the API allows no more for now, run again later.
#[derive(Parser, Debug)]
#[command(name = "mirror42-fetch", version)]
pub struct Args {
    /// The stages to fetch
    #[arg(value_name = "STAGE")]
    stages: Vec<String>,
    /// Fetch nothing: say how many requests each stage would take, by asking for its first page
    #[arg(long)]
    probe: bool,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    common: Common,
}

pub fn run(args: Args) -> Result<()> {
    let mut context = args.common.open("fetch")?;
    args.api.apply(&mut context.pipeline)?;
    let mut stages = Vec::new();
    for stage in context.pipeline.selected(&args.stages)? {
        match stage.fetch() {
            Some(fetch) => stages.push((stage, fetch)),
            None if args.stages.is_empty() => {}
            None => {
                let place = context.pipeline.place(stage.line);
                return Err(Error::usage(format!("stage `{}` fetches nothing: it has `from`", stage.name)).at(place));
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
    let started_at = logs::now();
    let (requests, retries) = counts(client);

    let mut inputs = BTreeMap::new();
    let plans = plan::series(&context.pipeline, stage, fetch, &mut inputs)?;
    let folder = paths.pages_under_way(name);
    files::remove_dir(&folder)?;
    files::create_dir(&folder)?;
    let task = Task::start(name, "fetch", "pages", None);
    let series = pool::fetch_all(client, name, fetch, plans, &folder, context.pipeline.api.limits.in_flight, &task);
    let series = series.map_err(|error| {
        let kept =
            if paths.pages(name).exists() { "The pages of the last good fetch are kept." } else { "No page is kept." };
        error.detail(kept)
    })?;
    task.finish();
    files::replace_dir(&folder, &paths.pages(name))?;

    let (requests_now, retries_now) = counts(client);
    let pages = || series.iter().flat_map(|series| &series.pages);
    let receipt = FetchReceipt {
        definition: context.pipeline.fetch_definition(fetch),
        inputs,
        started_at,
        finished_at: logs::now(),
        duration_ms: started.elapsed().as_millis() as u64,
        requests: requests_now - requests,
        retries: retries_now - retries,
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
    let mut whole = Receipt::read_or_new(paths, name)?;
    whole.fetch = Some(receipt);
    whole.write(paths)
}

fn counts(client: &Client) -> (u64, u64) {
    (client.counts.requests.load(Ordering::Relaxed), client.counts.retries.load(Ordering::Relaxed))
}
