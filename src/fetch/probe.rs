//! How many requests a stage will take, by the total that the first page tells.

use std::time::Instant;

use super::series::Series;
use super::{page, plan};
use crate::api::{Client, Request};
use crate::cli;
use crate::error::Result;
use crate::pipeline::{Fetch, Pipeline, Stage};

/// Prints a line of JSON: the stage, the requests that it takes as far as that can be told, and whether there may be more.
/// One request is made; none for a stage with `each`, which may have any number of series: it takes one a record at least.
pub fn stage(pipeline: &Pipeline, client: &Client, stage: &Stage, fetch: &Fetch) -> Result<()> {
    let (requests, at_least) = match &fetch.each {
        Some(each) if !pipeline.paths.all_json(each).exists() => (None, true),
        Some(_) => (Some(plan::series(pipeline, stage, fetch, &mut Default::default())?.len() as u64), true),
        None => {
            let (requests, at_least) = pages(pipeline, client, stage, fetch)?;
            (Some(requests), at_least)
        }
    };
    let line = serde_json::json!({ "stage": stage.name, "requests": requests, "at_least": at_least });
    cli::print(format_args!("{line}"));
    Ok(())
}

/// The requests of all series, and whether there may be more.
fn pages(pipeline: &Pipeline, client: &Client, stage: &Stage, fetch: &Fetch) -> Result<(u64, bool)> {
    let (mut pages, mut at_least) = (0, false);
    for plan in plan::series(pipeline, stage, fetch, &mut Default::default())? {
        let mut series = Series::new(plan, &fetch.page, false, Instant::now());
        if let Some(ask) = series.ask() {
            let request = Request { stage: &stage.name, url: &ask.url(client), etag: None, waiting: &|_| {} };
            series.take(ask.number, &page::get(client, &request, &fetch.page)?);
            pages += 1;
        }
        // What there is to ask for next is known once it has decided what the first page means.
        series.state();
        pages += series.left();
        at_least |= !series.knows_its_end();
    }
    Ok((pages, at_least))
}
