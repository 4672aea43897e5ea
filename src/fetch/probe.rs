//! How many requests a stage will take, by the total that the first page tells.

use super::plan;
use super::series::{Page, Series};
use crate::api::Client;
use crate::cli;
use crate::error::Result;
use crate::pipeline::{Fetch, Pipeline, Stage};

/// Prints a line of JSON: the stage, the requests that it takes as far as that can be told, and whether there may be more.
/// One request is made; none for a stage with `each`, which may have any number of series: it takes one a record at least.
pub fn stage(pipeline: &Pipeline, client: &Client, stage: &Stage, fetch: &Fetch) -> Result<()> {
    let (requests, at_least) = match &fetch.each {
        Some(each) if !pipeline.paths.all_json(each).exists() => (None, true),
        Some(_) => (Some(plan::series(pipeline, stage, fetch, &mut Default::default())?.len() as u64), true),
        None => (Some(pages(pipeline, client, stage, fetch)?), false),
    };
    let line = serde_json::json!({ "stage": stage.name, "requests": requests, "at_least": at_least });
    cli::print(format_args!("{line}"));
    Ok(())
}

fn pages(pipeline: &Pipeline, client: &Client, stage: &Stage, fetch: &Fetch) -> Result<u64> {
    let mut pages = 0;
    for plan in plan::series(pipeline, stage, fetch, &mut Default::default())? {
        let mut series = Series::new(plan, fetch.page);
        if let Some((number, path)) = series.ask() {
            series.take(number, client.get(&stage.name, &path, &|_| {}, |answer| Page::read(answer, &fetch.page))?);
        }
        // An empty list is read twice before it is believed.
        pages += if series.is_empty() { 2 } else { series.count().unwrap_or(1) };
    }
    Ok(pages)
}
