//! Synthetic exports of any size, as if an API had been fetched and filtered: for load tests without one.
//!
//! A folder gets a pipeline, a schema, and for each stage its `all.json` and the receipt that `mirror42-load` asks
//! for. Records are made one by one and written as they are made ([`record`]); which there are on a night is worked
//! out by itself for each ([`nights`]). So memory does not grow with the table.

mod nights;
mod project;
mod record;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Instant;

use clap::Args;

use crate::error::{Error, Result};
use crate::paths::Paths;
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
    /// The share of the rows that change in a night, such as 1% or 0.01
    #[arg(long, default_value = "1%", value_name = "SHARE")]
    pub changed: Share,
    /// The share of the rows that go in a night; as many new ones come
    #[arg(long, default_value = "0.5%", value_name = "SHARE")]
    pub deleted: Share,
    /// Nights after the first
    #[arg(long, default_value_t = 0, value_name = "K", value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub night: u32,
    /// Give the big table a foreign key to projects, which Postgres checks row by row
    #[arg(long)]
    pub foreign_keys: bool,
    /// Schema of the tables
    #[arg(long, value_name = "NAME", value_parser = schema_name)]
    pub schema: Option<String>,
}

/// A part of all rows, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(f64);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        let share = match text.strip_suffix('%') {
            Some(percent) => percent.parse().map(|percent: f64| percent / 100.0),
            None => text.parse(),
        };
        match share {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(Share(share)),
            _ => Err("expected a share from 0 to 1, such as 1% or 0.01".to_owned()),
        }
    }
}

impl Share {
    fn of(self, rows: u64) -> u64 {
        (self.0 * rows as f64).round() as u64
    }
}

fn schema_name(text: &str) -> Result<String, String> {
    let first = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    match first && text.len() <= 63 && text.chars().all(plain) {
        true if text == "mirror42" => Err("`mirror42` is the schema of the loader's ledger".to_owned()),
        true => Ok(text.to_owned()),
        false => Err("expected lower-case letters, digits and underscores, of which the first is no digit".to_owned()),
    }
}

/// Writes the folder as it is on the night, and says what a load of it will find after the night before.
pub fn write(options: &Exports) -> Result<()> {
    let (rows, night) = (options.rows, options.night);
    let (changed, replaced) = (options.changed.of(rows), options.deleted.of(rows));
    if changed + replaced > rows {
        return Err(Error::usage(format!("cannot change {changed} rows and delete {replaced} others of {rows}"))
            .hint("Make `--changed` and `--deleted` together at most 100%."));
    }
    let began = Instant::now();
    let paths = Paths::new(&options.folder);
    project::write(&paths, options.schema.as_deref(), options.foreign_keys)?;
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
    fn shares_are_read_or_refused() {
        assert_eq!("1%".parse(), Ok(Share(0.01)));
        assert_eq!("0.5%".parse(), Ok(Share(0.005)));
        assert_eq!("0.25".parse(), Ok(Share(0.25)));
        assert_eq!("100%".parse(), Ok(Share(1.0)));
        for text in ["101%", "-1%", "1.5", "NaN", "%", "", "one"] {
            assert_eq!(text.parse::<Share>(), Err("expected a share from 0 to 1, such as 1% or 0.01".to_owned()));
        }
    }

    #[test]
    fn names_of_schemas_are_taken_or_refused() {
        assert_eq!(schema_name("bench_2"), Ok("bench_2".to_owned()));
        for name in ["", "2nd", "Bench", "a.b", "a b", "a\"b", "mirror42"] {
            assert!(schema_name(name).is_err(), "{name}");
        }
    }
}
