//! The loads of a load test, and what came of them.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde::Deserialize;

use super::place::Place;
use crate::cli::{Common, Night, NightArgs};
use crate::driver::{child, output};
use crate::error::{Error, Result};
use crate::files;

/// The stage of the big table.
const BIG: &str = "03_sessions";

/// What is to be measured.
pub struct Plan<'a> {
    /// Of the big table.
    pub rows: u64,
    /// What the second night differs by.
    pub night: Night,
    pub nightly: &'a NightArgs,
    pub runs: u16,
}

pub struct Measured {
    pub server_version: String,
    /// One a run: the load into empty tables, and that of the next night.
    pub runs: Vec<[Load; 2]>,
}

/// One load.
pub struct Load {
    /// Of the whole process.
    pub took_ms: f64,
    pub report: Report,
}

/// What a load test reads of the report of `mirror42-load`.
#[derive(Deserialize)]
pub struct Report {
    pub tables: Vec<Table>,
    pub phases: Phases,
    pub peak_memory_bytes: Option<u64>,
}

#[derive(Deserialize)]
pub struct Table {
    stage: String,
    pub export_bytes: u64,
    pub records: u64,
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
}

#[derive(Deserialize)]
pub struct Phases {
    pub copy_ms: f64,
    pub compare_ms: f64,
    pub prune_ms: f64,
    pub update_ms: f64,
    pub insert_ms: f64,
    pub foreign_keys_ms: f64,
    pub checks_ms: f64,
}

impl Report {
    /// The big table; there is one in every report that was checked.
    pub fn big(&self) -> Option<&Table> {
        self.tables.iter().find(|table| table.stage == BIG)
    }

    /// The sum over all tables.
    pub fn sum(&self, of: impl Fn(&Table) -> u64) -> u64 {
        self.tables.iter().map(of).sum()
    }
}

/// Makes the exports of two nights, and loads them as often as is planned, each time into an empty schema.
pub fn all(place: &mut Place, plan: &Plan, common: &Common) -> Result<Measured> {
    let server_version = place.scratch.server_version()?;
    for night in [0, 1] {
        make_exports(place, plan, night)?;
    }
    let mut runs = Vec::new();
    for number in 1..=plan.runs {
        place.scratch.renew()?;
        let first = load(place, plan, common, 0)?;
        let next = load(place, plan, common, 1)?;
        log::info!(
            "run {number} of {}: first load {:.2} s, next night {:.2} s",
            plan.runs,
            first.took_ms / 1e3,
            next.took_ms / 1e3
        );
        runs.push([first, next]);
    }
    Ok(Measured { server_version, runs })
}

fn folder_of_night(place: &Place, night: u32) -> String {
    place.folder.join(format!("night-{night}")).display().to_string()
}

fn make_exports(place: &Place, plan: &Plan, night: u32) -> Result<()> {
    let began = Instant::now();
    let program = "mirror42-simulate";
    let mut command = Command::new(child::program(program)?);
    command.arg("exports").arg(folder_of_night(place, night));
    command.args(["--rows", &plan.rows.to_string(), "--night", &night.to_string()]);
    command.args(["--changed", &plan.nightly.changed.to_string(), "--deleted", &plan.nightly.deleted.to_string()]);
    // As the mirror has them, and in one schema, so that dropping that is enough.
    command.args(["--schema", &place.name, "--ledger", &place.name, "--foreign-keys", "--checks"]);
    output::output_of(command, program)?;
    log::info!("made the exports of night {night} in {:.2} s", began.elapsed().as_secs_f64());
    Ok(())
}

fn load(place: &Place, plan: &Plan, common: &Common, night: u32) -> Result<Load> {
    let program = "mirror42-load";
    let folder = folder_of_night(place, night);
    let report = Path::new(&folder).join("report.json");
    let mut command = Command::new(child::program(program)?);
    command.arg("--pipeline").arg(Path::new(&folder).join("pipeline.toml")).args(["--log-format", "json"]);
    command.arg(if common.verbose { "--verbose" } else { "--quiet" }).arg("--report").arg(&report);
    if night > 0 {
        // Whatever share was asked for, it is to go.
        command.arg("--allow-delete").arg(format!("{}.sessions={}", place.name, plan.night.replaced));
    }
    command.env("DATABASE_URL", place.url.reveal());
    let began = Instant::now();
    output::output_of(command, program)?;
    let took_ms = began.elapsed().as_micros() as f64 / 1e3;
    let report: Report = serde_json::from_slice(&files::read(&report)?).map_err(|cause| {
        Error::failed(format!("cannot read the report of `{program}`: {cause}")).at(report.display().to_string())
    })?;
    check(&report, plan, night)?;
    Ok(Load { took_ms, report })
}

/// Figures of a load that did something else are worth nothing.
fn check(report: &Report, plan: &Plan, night: u32) -> Result<()> {
    let Night { changed, replaced } = plan.night;
    let wanted = if night == 0 { [plan.rows, 0, 0] } else { [replaced, changed, replaced] };
    let done = report.big().map(|table| [table.inserted, table.updated, table.deleted]);
    if done == Some(wanted) {
        return Ok(());
    }
    let told =
        |[inserted, updated, deleted]: [u64; 3]| format!("{inserted} inserted, {updated} updated, {deleted} deleted");
    Err(Error::failed(format!("the load of night {night} did not do what its exports ask for")).detail(format!(
        "Wanted were {}; it told of {}.",
        told(wanted),
        done.map_or("no such table".to_string(), told)
    )))
}
