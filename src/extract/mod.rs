//! From pages to `exports/NN_name/all.json`: records through jq, in the order of their keys.
//!
//! Stages that read the same pages are made in one pass ([`pass`]): each page is parsed once for all
//! of them. A filter sees one record at a time, so that pages are worked on in parallel and memory
//! stays bounded whatever their number; what it yields waits in a [`spool`] for its place in the order.

mod jq;
mod json;
mod pass;
mod read;
mod source;
mod spool;
mod variables;

use clap::Parser;

use crate::cli::Common;
use crate::error::Result;
use crate::manual;
use crate::pipeline::{Pipeline, Stage};
use crate::stop;

/// Filters fetched pages into the exports of stages
///
/// Without stage names, all stages are made, each after those whose exports it reads.
#[derive(Parser, Debug)]
#[command(name = "mirror42-extract")]
#[command(after_long_help = manual::examples(&[
    ("All stages, each after those whose exports it reads", "mirror42-extract"),
    ("Three of one source, whose pages are parsed once", "mirror42-extract 05_projects 06_campus_projects 07_project_sessions"),
    ("Is the filter that I have just edited good?", "mirror42-extract --check 02_campus"),
]))]
pub struct Args {
    /// The stages to make
    #[arg(value_name = "STAGE", add = manual::stages(&[]))]
    stages: Vec<String>,
    /// Only compile the filters
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    common: Common,
}

/// A raw record: the page it stands on and its place there, both counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    page: u32,
    record: u32,
}

pub fn run(args: Args) -> Result<()> {
    let context = args.common.open("extract")?;
    stop::keeps("Every export is whole, or as it was.");
    let pipeline = &context.pipeline;
    let mut left = pipeline.selected(&args.stages)?;
    if args.check {
        return left.into_iter().try_for_each(|stage| compile(pipeline, stage).map(drop));
    }
    while !left.is_empty() {
        let stages = next_pass(pipeline, &left)?;
        left.retain(|stage| !stages.iter().any(|made| made.name == stage.name));
        pass::run(pipeline, &stages)?;
    }
    Ok(())
}

/// The stages of one source that wait for no other stage that is left, beginning with the first such.
fn next_pass<'a>(pipeline: &Pipeline, left: &[&'a Stage]) -> Result<Vec<&'a Stage>> {
    let mut pass: Vec<&Stage> = Vec::new();
    for stage in left {
        // The exports that are read while this one is made. Not that of the source: its pages are there already.
        let each = pipeline.source_of(stage)?.1.each.iter();
        let mut read = each.chain(stage.with.iter().map(|(_, name)| name));
        if read.any(|name| left.iter().any(|other| other.name == *name)) {
            continue;
        }
        let same = match pass.first() {
            Some(first) => pipeline.source_of(first)?.0.name == pipeline.source_of(stage)?.0.name,
            None => true,
        };
        if same {
            pass.push(stage);
        }
    }
    Ok(pass)
}

fn compile(pipeline: &Pipeline, stage: &Stage) -> Result<jq::Filter> {
    let (_, raw) = pipeline.source_of(stage)?;
    jq::Filter::compile(pipeline, stage, &variables::names(stage, raw.each.is_some()))
}
