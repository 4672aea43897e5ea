//! The verb `loadtest`: how fast this machine and its database load, phase by phase, without an API.
//!
//! Synthetic exports of two nights are loaded into a scratch schema by the real loader: the first fills empty tables,
//! the second finds what differs. What is measured is what the loader tells in its report, and whole processes.

mod measure;
mod place;
mod tell;

use clap::Args;

pub use place::guard;

use crate::cli::{self, Common, Context, NightArgs};
use crate::error::{Error, Result};
use crate::files::{self, Lock};
use crate::log as logs;
use crate::pipeline::Secret;
use measure::Plan;
use place::Place;

/// Rows of the mirror of 42.
const MIRROR_ROWS: u64 = 35_654;
const SCALE: u64 = 10;

#[derive(Args, Clone, Debug)]
pub struct LoadtestArgs {
    /// Rows of the big table, as a multiple of the 35,654 rows of the mirror of 42 [default: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=28_000))]
    scale: Option<u64>,
    /// Rows of the big table
    #[arg(long, value_name = "N", conflicts_with = "scale", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    rows: Option<u64>,
    #[command(flatten)]
    nightly: NightArgs,
    /// How often to measure
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Print the figures as one JSON document
    #[arg(long)]
    json: bool,
}

pub fn run(context: &Context, common: &Common, args: &LoadtestArgs, url: Option<&Secret>) -> Result<()> {
    let rows = args.rows.unwrap_or(args.scale.unwrap_or(SCALE) * MIRROR_ROWS);
    let plan = Plan { rows, night: args.nightly.of(rows)?, nightly: &args.nightly, runs: args.runs };
    let _lock = lock(context)?;
    let mut place = Place::make(context, url)?;
    let measured = measure::all(&mut place, &plan, common);
    let removed = place.remove();
    if let (Err(_), Err(second)) = (&measured, &removed) {
        log::warn!("{}", second.to_string().replace('\n', " "));
    }
    let measured = measured?;
    let told = if args.json { tell::json(&plan, &measured)? } else { tell::table(&plan, &measured) };
    cli::print(format_args!("{told}"));
    removed
}

/// Two at a time would measure each other.
fn lock(context: &Context) -> Result<Lock> {
    let path = context.pipeline.paths.loadtest_lock();
    let owner = format!("process {}, since {}", std::process::id(), logs::now());
    if let Some(lock) = Lock::try_with_owner(&path, &owner)? {
        return Ok(lock);
    }
    Err(Error::locked("another load test is under way").at(path.display().to_string()).detail(files::holder(&path)))
}
