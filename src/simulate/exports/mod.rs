//! Synthetic exports of any size, as if an API had been fetched and filtered: for load tests without one.
//!
//! A folder gets a pipeline, a schema, and for each stage its `all.json` and the receipt that `mirror42-load` asks
//! for. Records are made one by one and written as they are made ([`record`]); which there are on a night is worked
//! out by itself for each ([`nights`]). So memory does not grow with the table.

mod nights;
mod project;
mod record;

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use crate::cli::{Night, NightArgs};
use crate::error::Result;
use crate::paths::Paths;
use crate::pipeline::{DEFAULT_LEDGER, schema_name};
use crate::receipt::{ExtractReceipt, FetchReceipt, Receipt};
use crate::{export, files, log as logs};
use nights::Nights;
use record::Words;

#[derive(Args, Debug)]
pub struct Exports {
    /// Folder to write pipeline.toml, schema.sql and exports/ into; created if missing
    pub folder: PathBuf,
    /// Rows of the big table
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub rows: u64,
    /// Seed of the synthetic data
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    #[command(flatten)]
    pub nightly: NightArgs,
    /// Nights after the first
    #[arg(long, default_value_t = 0, value_name = "K", value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub night: u32,
    #[command(flatten)]
    pub project: ProjectArgs,
}

/// What pipeline.toml and schema.sql are to say.
#[derive(Args, Clone, Debug, Default)]
pub struct ProjectArgs {
    /// Give the big table a foreign key to projects, which Postgres checks row by row
    #[arg(long)]
    pub foreign_keys: bool,
    /// Give the pipeline checks, which read the big table
    #[arg(long)]
    pub checks: bool,
    /// Schema of the tables
    #[arg(long, value_name = "NAME", value_parser = schema_of_tables)]
    pub schema: Option<String>,
    /// Schema of the loader's ledger; `mirror42` when absent
    #[arg(long, value_name = "NAME", value_parser = schema_name)]
    pub ledger: Option<String>,
}

fn schema_of_tables(text: &str) -> Result<String, String> {
    match text {
        DEFAULT_LEDGER => Err(format!("`{DEFAULT_LEDGER}` is the schema of the loader's ledger")),
        _ => schema_name(text),
    }
}

/// Writes the folder as it is on the night, and says what a load of it will find after the night before.
pub fn write(options: &Exports) -> Result<()> {
    let (rows, night) = (options.rows, options.night);
    let Night { changed, replaced } = options.nightly.of(rows)?;
    let began = Instant::now();
    let paths = Paths::new(&options.folder);
    project::write(&paths, &options.project)?;
    let words = Words::new(options.seed);
    for (stage, records) in [("01_campuses", &words.campuses), ("02_projects", &words.projects)] {
        write_export(&paths, stage, |export| records.iter().try_for_each(|record| export.record(record)))?;
    }
    let nights = Nights::new(options.seed, rows, changed, replaced, night);
    let size_bytes = write_export(&paths, "03_sessions", |export| {
        let mut json = Vec::with_capacity(1 << 10);
        nights.rows().try_for_each(|row| {
            json.clear();
            words.session(&row, &mut json);
            export.record(&json)
        })
    })?;
    let differs = match night {
        0 => String::new(),
        _ => format!(" ({changed} changed; {replaced} new; {replaced} gone)"),
    };
    let (megabytes, seconds) = (size_bytes as f64 / 1e6, began.elapsed().as_secs_f64());
    crate::cli::print(format_args!("night {night}: {rows} sessions{differs}, {megabytes:.1} MB, {seconds:.2} s"));
    Ok(())
}

/// Writes the export that `fill` fills, with its receipt, and tells its size.
fn write_export(paths: &Paths, stage: &str, fill: impl FnOnce(&mut export::Writer) -> Result<()>) -> Result<u64> {
    let _lock = files::Lock::of_stage(paths, stage)?;
    let (started_at, began) = (logs::now(), Instant::now());
    let mut export = export::Writer::create(&paths.all_json(stage))?;
    fill(&mut export)?;
    let records = export.records();
    let written = export.commit()?;
    let (finished_at, duration_ms) = (logs::now(), began.elapsed().as_millis() as u64);
    let mut receipt = Receipt::read_or_new(paths, stage)?;
    // Made by no definition and from no pages: to a run of the driver all of this is stale.
    receipt.fetch = Some(FetchReceipt {
        definition: String::new(),
        inputs: Default::default(),
        started_at,
        finished_at: finished_at.clone(),
        duration_ms,
        requests: 0,
        retries: 0,
        resumed_pages: 0,
        records,
        size_bytes: 0,
        series: Vec::new(),
    });
    receipt.extract = Some(ExtractReceipt {
        definition: String::new(),
        inputs: Default::default(),
        finished_at,
        duration_ms,
        records_in: records,
        records_out: records,
        duplicates: 0,
        size_bytes: written.size_bytes,
        sha256: written.sha256,
    });
    receipt.write(paths)?;
    Ok(written.size_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_schemas_are_taken_or_refused() {
        assert_eq!(schema_of_tables("bench_2"), Ok("bench_2".to_owned()));
        for name in ["", "2nd", "Bench", "a.b", "a b", "a\"b", "pg_bench", "mirror42"] {
            assert!(schema_of_tables(name).is_err(), "{name}");
        }
        assert_eq!(schema_name("mirror42"), Ok("mirror42".to_owned()));
    }
}
