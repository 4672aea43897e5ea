//! Is the database what it should be? Built-in checks, then the pipeline's own; one line each.
//!
//! Nothing is written: all of it runs in one transaction, which sees one state of the database and is rolled back. With
//! `--deep` each table is compared with its export, row by row, both ways, as the loader compares them ([`deep`]).

mod deep;

use clap::Parser;
use jiff::Timestamp;
use postgres::{IsolationLevel, Transaction};

use crate::cli::{self, Common, DatabaseArgs};
use crate::diff::job::{Export, Trust};
use crate::error::{Error, Result, printable};
use crate::manual;
use crate::pg::catalog::{self, Table};
use crate::pg::checks::{self, Check};
use crate::pg::ledger::{self, RunTable};
use crate::pg::{self, failure};
use crate::pipeline::Pipeline;
use crate::receipt::Receipt;

/// Checks the database: tables, keys, foreign keys, counts, age, and the checks of the pipeline file.
///
/// Prints one line a check on the standard output. Exit codes: 0 all passed, 1 could not check, 2 usage,
/// 5 a check failed. Nothing is changed.
#[derive(Debug, Parser)]
#[command(name = "mirror42-validate")]
#[command(after_long_help = manual::examples(&[
    ("The checks", "mirror42-validate"),
    ("Every row beside its export too, in another database", "mirror42-validate --deep --database-url postgresql://mirror@localhost/mirror42"),
]))]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Compare every row of every table with its export, too
    #[arg(long)]
    pub deep: bool,
}

/// One line of the report: what was checked, and what was found wrong.
struct Finding {
    name: String,
    wrong: Option<String>,
}

pub fn run(args: Args) -> Result<()> {
    let context = args.common.open("validate")?;
    let pipeline = &context.pipeline;
    let url = args.database.url(&context.secrets);
    let mut client = pg::connect(&pipeline.paths, url.as_ref(), "validate")?;
    let exports = if args.deep { Export::all(pipeline, &[], Trust::Receipts)? } else { Vec::new() };
    let mut tx = client
        .build_transaction()
        // What goes the plain way needs a temporary table.
        .read_only(!args.deep)
        .isolation_level(IsolationLevel::RepeatableRead)
        .start()
        .map_err(|error| failure("could not begin a transaction", &error))?;
    let mut findings = findings(&mut tx, pipeline)?;
    if args.deep {
        deep::compare(&mut tx, pipeline, &exports, &mut findings)?;
    }
    // Dropped without a commit, the transaction is rolled back.
    drop(tx);
    for finding in &findings {
        match &finding.wrong {
            None => cli::print(format_args!("ok      {}", printable(&finding.name))),
            Some(wrong) => cli::print(format_args!("FAILED  {}: {}", printable(&finding.name), printable(wrong))),
        }
    }
    verdict(&findings)
}

fn verdict(findings: &[Finding]) -> Result<()> {
    let failed = findings.iter().filter_map(|finding| Some(format!("{}: {}", finding.name, finding.wrong.as_ref()?)));
    let failed: Vec<String> = failed.collect();
    if failed.is_empty() {
        log::info!("{} checks passed", findings.len());
        return Ok(());
    }
    let error = Error::invalid(format!("{} of {} checks failed", failed.len(), findings.len()));
    Err(failed.into_iter().fold(error, Error::detail))
}

fn findings(tx: &mut Transaction, pipeline: &Pipeline) -> Result<Vec<Finding>> {
    let names: Vec<&str> = pipeline.loaded().map(|(_, table)| table).collect();
    let found = catalog::tables(tx, &names)?;
    let missing: Vec<&str> = names.iter().zip(&found).filter(|(_, t)| t.is_none()).map(|(name, _)| *name).collect();
    let mut findings = vec![Finding {
        name: format!("all {} tables exist", names.len()),
        wrong: (!missing.is_empty()).then(|| format!("missing are {}", missing.join(", "))),
    }];
    if !missing.is_empty() {
        return Ok(findings); // every other check would fail for this one's reason
    }
    let tables: Vec<Table> = found.into_iter().flatten().collect();
    keys(tx, &tables, &mut findings)?;
    foreign_keys(tx, &tables, &mut findings)?;
    let mut loads = ledger::last_of_each_table(tx, pipeline)?;
    loads.retain(|load| names.contains(&load.table.as_str())); // the pipeline may have lost a table
    counts(tx, pipeline, &tables, &loads, &mut findings)?;
    findings.push(age(pipeline, &loads));
    for check in &pipeline.checks {
        findings.push(checked(tx, &Check::of_pipeline(pipeline, check))?);
    }
    Ok(findings)
}

fn checked(tx: &mut Transaction, check: &Check) -> Result<Finding> {
    let offenders = checks::run(tx, check)?;
    Ok(Finding { name: check.name.clone(), wrong: offenders.map(|offenders| offenders.shown().to_string()) })
}

fn keys(tx: &mut Transaction, tables: &[Table], findings: &mut Vec<Finding>) -> Result<()> {
    for table in tables {
        let name = format!("{} has a primary key without nulls", table.name);
        findings.push(match table.primary_key.is_empty() {
            true => Finding { name, wrong: Some("it has no primary key".to_string()) },
            false => checked(tx, &Check::no_null(name, &table.quoted, &table.primary_key))?,
        });
    }
    Ok(())
}

fn foreign_keys(tx: &mut Transaction, tables: &[Table], findings: &mut Vec<Finding>) -> Result<()> {
    let keys = catalog::foreign_keys(tx, tables)?;
    for key in keys.iter().filter(|key| tables.iter().any(|table| table.oid == key.child)) {
        let mut finding = checked(tx, &Check::no_orphan(key))?;
        if !key.validated && finding.wrong.is_none() {
            finding.wrong = Some("the constraint is `not valid`: the server does not vouch for it".to_string());
        }
        findings.push(finding);
    }
    Ok(())
}

/// Each table has as many rows as its export has records, but for the orphans that the load dropped.
fn counts(
    tx: &mut Transaction,
    pipeline: &Pipeline,
    tables: &[Table],
    loads: &[RunTable],
    findings: &mut Vec<Finding>,
) -> Result<()> {
    for (stage, name) in pipeline.loaded() {
        let Some(table) = tables.iter().find(|table| table.name == name) else { continue };
        let receipt = Receipt::read(&pipeline.paths, &stage.name)?;
        let Some(extract) = receipt.and_then(|receipt| receipt.extract) else { continue };
        let row = tx.query_one(&format!("select count(*) from {}", table.quoted), &[]);
        let rows: i64 = row.map_err(|error| failure(&format!("could not count `{name}`"), &error))?.get(0);
        let orphans = loads.iter().find(|load| load.table == name).map_or(0, |load| load.counts.orphans);
        let expected = extract.records_out as i64 - orphans;
        findings.push(Finding {
            name: format!("{name} has the {expected} rows of its export"),
            wrong: (rows != expected).then(|| format!("it has {rows}")),
        });
    }
    Ok(())
}

/// The mirror is as old as the oldest of its tables.
fn age(pipeline: &Pipeline, loads: &[RunTable]) -> Finding {
    let limit = pipeline.stale_after.as_secs() as i64;
    let never = pipeline.loaded().find(|(_, name)| !loads.iter().any(|load| load.table == *name));
    let unknown = loads.iter().find(|load| load.fetched_at.is_none());
    let oldest = loads.iter().min_by_key(|load| load.fetched_at);
    let wrong = match (never, unknown, oldest) {
        (Some((_, name)), _, _) => Some(format!("{name} was never loaded")),
        (None, Some(load), _) => {
            Some(format!("the age of {} is not known: it was loaded without receipts", load.table))
        }
        (None, None, oldest) => oldest.and_then(|load| {
            let fetched_at = load.fetched_at?;
            let age = Timestamp::now().duration_since(fetched_at).as_secs();
            let what = format!("{} was fetched at {fetched_at:.0}, {} ago", load.table, shown_duration(age));
            (age > limit).then_some(what)
        }),
    };
    Finding { name: format!("the data is younger than {}", shown_duration(limit)), wrong }
}

fn shown_duration(seconds: i64) -> String {
    match (seconds / 3600, seconds % 3600 / 60) {
        (0, 0) => format!("{seconds} s"),
        (0, minutes) => format!("{minutes} min"),
        (hours, 0) => format!("{hours} h"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_in_the_units_people_use() {
        assert_eq!([30, 1800, 86400, 90060].map(shown_duration), ["30 s", "30 min", "24 h", "25 h 1 min"]);
    }
}
