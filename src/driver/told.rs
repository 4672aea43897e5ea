//! A run from its lock to what is said of it: its record, its hooks, its summary.

use super::options::Options;
use super::record::{Record, Recorder};
use super::run;
use super::run_lock::RunLock;
use super::schedule::{Schedule, Targets};
use super::{RUN, demo, hooks, summary};
use crate::cli::{self, Common, Context};
use crate::error::Result;
use crate::log::Format;
use crate::pg::ledger;
use crate::stop;

/// A run with its lock, and what it did on the standard output.
pub fn run_and_tell(context: &Context, common: &Common, targets: &Targets, options: &Options) -> Result<()> {
    let lock = RunLock::take(context, options.verb)?;
    if options.verb == RUN {
        demo::leave(context, targets)?;
    }
    locked_run(context, common, targets, options)?;
    lock.release()
}

fn locked_run(context: &Context, common: &Common, targets: &Targets, options: &Options) -> Result<()> {
    log::info!("run {} begins", options.run_id);
    let recorder = Recorder::begin(context, targets, options);
    let done = run::run(context, targets, options, &recorder)
        .and_then(|schedule| Ok((schedule, run::dry_load(context, options)?)));
    let (record, load) = recorder.end(&done, options.database.as_ref());
    match &done {
        Ok(_) => log::info!("run {} done in {:.1} s", record.id, record.duration_ms as f64 / 1e3),
        Err(error) => log::info!("run {} failed: {}", record.id, error.message()),
    }
    if let Ok((_, Some(printed))) = &done
        && common.log_format == Format::Text
    {
        cli::print(format_args!("{}", printed.trim_end()));
    }
    let told = done.and_then(|(schedule, _)| told(context, targets, options, &schedule, &record, load.as_ref()));
    // Neither a demo nor a replay is the night's run, and who has stopped a run knows of it.
    if options.verb == RUN && !options.dry_run && !stop::is_asked() {
        hooks::tell(&context.pipeline, &options.run_id, told.as_deref());
    }
    if common.quiet {
        return told.map(drop);
    }
    if common.log_format == Format::Json {
        cli::print(format_args!("{}", serde_json::json!(record)));
        return told.map(drop);
    }
    let told = told?;
    if !told.is_empty() {
        cli::print(format_args!("{told}"));
    }
    Ok(())
}

/// What a run did, for people.
fn told(
    context: &Context,
    targets: &Targets,
    options: &Options,
    schedule: &Schedule,
    record: &Record,
    load: Option<&ledger::Run>,
) -> Result<String> {
    if let Some(sentence) = summary::idle(schedule) {
        // What the dry run did is told already.
        return Ok(if options.dry_run { String::new() } else { sentence });
    }
    let mut parts = Vec::new();
    if !targets.stages.is_empty() {
        parts.push(format!("{}\n", summary::stages(context, schedule)?));
    }
    if let Some(load) = load {
        parts.push(format!("{}\n", summary::tables(load)));
    }
    parts.push(summary::unchanged(schedule, record).unwrap_or_else(|| summary::verdict(record)));
    Ok(parts.join("\n"))
}
