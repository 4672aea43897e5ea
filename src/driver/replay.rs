//! The verb `replay`: the mirror from what is here, without the API; or the exports of a past night, once more.

use clap::Args;

use super::options::Options;
use super::output;
use super::record::Recorder;
use super::run_lock::RunLock;
use super::schedule::{Fetching, Job, Targets};
use super::snapshots::{self, Snapshot};
use super::summary::{number, table};
use super::targets::Trust;
use super::told;
use crate::cli::{self, Common, Context};
use crate::error::{Error, Result};
use crate::files;
use crate::log::Format;

/// Of the folders that a replay unpacks to.
const PREFIX: &str = "replay-";

#[derive(Args, Clone, Debug)]
pub struct ReplayArgs {
    /// The last night up to this day (`2026-11-23`, UTC), time (RFC 3339), or the run of this id
    #[arg(long, value_name = "WHEN")]
    as_of: Option<String>,
    /// Say which nights are kept
    #[arg(long, conflicts_with = "as_of")]
    list: bool,
    /// Extract what is stale, do the whole load, print what it does, and roll it back
    #[arg(long)]
    dry_run: bool,
}

pub fn run(context: &Context, common: &Common, args: &ReplayArgs, trust: Trust, options: &Options) -> Result<()> {
    match &args.as_of {
        _ if args.list => list(context),
        Some(as_of) => past(context, common, args, as_of, options),
        None => present(context, common, args, trust, options),
    }
}

/// What is stale by its filter is extracted, and the exports are loaded. There is no validation: the data is as old as it is.
fn present(context: &Context, common: &Common, args: &ReplayArgs, trust: Trust, options: &Options) -> Result<()> {
    let stages = context.pipeline.stages.iter().map(|stage| stage.name.clone()).collect();
    let targets = Targets { stages, load: !args.dry_run, fetching: Fetching::Never, trust, ..Targets::default() };
    let options = Options { dry_run: args.dry_run, ..options.clone() };
    told::run_and_tell(context, common, &targets, &options)
}

/// The exports of the last night up to `as_of` are loaded.
fn past(context: &Context, common: &Common, args: &ReplayArgs, as_of: &str, options: &Options) -> Result<()> {
    let pipeline = &context.pipeline;
    let lock = RunLock::take(context, options.verb)?;
    let snapshot = snapshots::as_of(&pipeline.paths, as_of)?;
    let state = pipeline.paths.state();
    files::create_dir(&state)?;
    // What a replay that was killed has left; nobody else has the lock.
    for path in snapshots::entries(&state)? {
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX)) {
            files::remove_dir(&path)?;
        }
    }
    let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&state);
    let folder = folder.map_err(|cause| Error::io("create a folder in", &state, &cause))?;
    snapshots::restore(pipeline, &snapshot, folder.path())?;
    log::info!("replaying run {}, loaded at {}", snapshot.run_id, snapshot.loaded_at);
    let exports = folder.path().display().to_string();
    let mut arguments = vec!["--exports", &exports, "--run-id", &options.run_id];
    arguments.extend(args.dry_run.then_some("--dry-run"));
    arguments.extend(options.load_arguments.iter().map(String::as_str));
    let options = Options { dry_run: args.dry_run, ..options.clone() };
    let recorder = Recorder::begin(context, &Targets { load: true, ..Targets::default() }, &options);
    recorder.started_since(&Job::Load, |_, _| format!("replays run {}", snapshot.run_id));
    let done = output::output(context, &options, "mirror42-load", &arguments);
    recorder.ended(&Job::Load, &done);
    let (record, _) = recorder.end(&done, options.database.as_ref());
    if common.log_format == Format::Json && !common.quiet {
        cli::print(format_args!("{}", serde_json::json!(record)));
        return done.and_then(|_| lock.release());
    }
    let printed = done?;
    if args.dry_run {
        cli::print(format_args!("{}", printed.trim_end()));
    } else if !common.quiet {
        cli::print(format_args!("{}", sentence(&snapshot)));
    }
    lock.release()
}

fn sentence(snapshot: &Snapshot) -> String {
    let data = snapshot.fetched_at().map(|time| format!(", its data of {time}")).unwrap_or_default();
    format!(
        "The database is as after run {}, loaded at {}{data}: {} records. `mirror42 run` brings it back to the present.",
        snapshot.run_id,
        snapshot.loaded_at,
        number(snapshot.records())
    )
}

fn list(context: &Context) -> Result<()> {
    let mut table = table(&["Run", "Loaded", "Data of", "Records", "MB"], 3..5);
    let snapshots = snapshots::all(&context.pipeline.paths)?;
    for snapshot in &snapshots {
        table.add_row([
            snapshot.run_id.clone(),
            snapshot.loaded_at.clone(),
            snapshot.fetched_at().unwrap_or_default().to_string(),
            number(snapshot.records()),
            format!("{:.1}", snapshot.size_bytes() as f64 / 1e6),
        ]);
    }
    match snapshots.is_empty() {
        true => cli::print(format_args!("no night is kept: `mirror42 run` keeps one with each load")),
        false => cli::print(format_args!("{table}")),
    }
    Ok(())
}
