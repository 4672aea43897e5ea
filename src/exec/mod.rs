//! Programs of the user's own, as stages: what they write becomes pages of raw records, which `mirror42-extract` reads as
//! it reads those of the API.
//!
//! The contract is one of files: a program finds the exports that it reads, and the one file that it writes, by its
//! environment ([`program`]). Only what it has written when it ends well is looked at, and becomes pages
//! if all of it is JSON ([`output`]): a program that fails, is killed or writes anything else leaves all as it was.

mod output;
mod program;

use std::collections::BTreeMap;
use std::time::Instant;

use clap::Parser;

use crate::cli::{Common, Context};
use crate::error::{Error, Result};
use crate::log as logs;
use crate::manual;
use crate::pipeline::{Run, Stage};
use crate::progress::Task;
use crate::receipt::{Receipt, RunReceipt};
use crate::{files, stop};

/// Runs the programs of stages that have one of their own
///
/// What a program has written when it ends well takes the place of what it wrote before; mirror42-extract makes the
/// export of it. Without stage names, the programs of all stages that have one are run, in the order of the pipeline
/// file. Exit codes: 0 done, 1 a program failed or wrote what is no JSON, 2 usage, 3 another process is working on the
/// stage.
#[derive(Parser, Debug)]
#[command(name = "mirror42-exec")]
#[command(after_long_help = manual::examples(&[
    ("All programs of the pipeline's own", "mirror42-exec"),
    ("One of them, and what it wrote as an export", "mirror42-exec 03_speakers && mirror42-extract 03_speakers"),
]))]
pub struct Args {
    /// The stages whose programs to run
    #[arg(value_name = "STAGE", add = manual::stages(&[]))]
    stages: Vec<String>,
    /// Wait for the end of the standard input, then kill the process group that this leads
    #[arg(long, hide = true)]
    guard: bool,
    #[command(flatten)]
    common: Common,
}

pub fn run(args: Args) -> Result<()> {
    if args.guard {
        return program::guard();
    }
    stop::keeps("What programs have written is kept; of the one under way, nothing is.");
    let context = args.common.open("exec")?;
    let mut stages = Vec::new();
    for stage in context.pipeline.selected(&args.stages)? {
        match stage.run() {
            Some(run) => stages.push((stage, run)),
            None if args.stages.is_empty() => {}
            None => {
                let place = context.pipeline.place(stage.line);
                return Err(Error::usage(format!("stage `{}` has no program: it has no `run`", stage.name)).at(place));
            }
        }
    }
    stages.into_iter().try_for_each(|(stage, run)| run_stage(&context, stage, run))
}

fn run_stage(context: &Context, stage: &Stage, run: &Run) -> Result<()> {
    let (paths, name) = (&context.pipeline.paths, stage.name.as_str());
    let _lock = files::Lock::of_stage(paths, name)?;
    let started = Instant::now();
    // Before the program reads them: what is changed while it runs makes the stage stale.
    let begun = begin(context, stage, run)?;
    let output = files::temporary(&paths.stage(name).join("output"))?.into_temp_path();
    let task = Task::start(name, "run", "records", None);
    program::run(context, stage, run, &output)?;
    let pages = output::keep(&context.pipeline, stage, &output, &task)?;
    task.finish();
    files::replace_dir(&paths.pages_under_way(name), &paths.pages(name))?;
    let receipt = RunReceipt {
        finished_at: logs::now(),
        duration_ms: started.elapsed().as_millis() as u64,
        records: pages.iter().map(|page| page.records).sum(),
        size_bytes: pages.iter().map(|page| page.size_bytes).sum(),
        pages,
        ..begun
    };
    log::info!(
        target: name,
        "`{}` wrote {} records, {:.1} MB, {:.1} s",
        run.program,
        receipt.records,
        receipt.size_bytes as f64 / 1e6,
        started.elapsed().as_secs_f64()
    );
    let mut whole = Receipt::read_or_new(paths, name)?;
    whole.run = Some(receipt);
    // Of the time when the stage fetched, if it did.
    whole.fetch = None;
    whole.write(paths)
}

/// The receipt as far as it is known before the program runs: what it reads.
fn begin(context: &Context, stage: &Stage, run: &Run) -> Result<RunReceipt> {
    let (paths, name) = (&context.pipeline.paths, stage.name.as_str());
    let mut inputs = BTreeMap::new();
    for (_, other) in &run.with {
        let path = paths.all_json(other);
        let sha256 = files::sha256(&path)?.ok_or_else(|| {
            Error::failed(format!("`{}`, which the program of stage `{name}` reads, is not there", paths.shown(&path)))
                .at(context.pipeline.place(stage.line))
                .hint(format!("Run `mirror42 run {name}`."))
        })?;
        inputs.insert(other.clone(), sha256);
    }
    let (files, program) = run.hashes(&context.pipeline, stage, files::sha256)?;
    Ok(RunReceipt {
        definition: run.definition(),
        inputs,
        files,
        program,
        started_at: logs::now(),
        ..RunReceipt::default()
    })
}
