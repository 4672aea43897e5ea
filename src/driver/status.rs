//! How old the mirror is and what is in it (`status`, which fails when it is stale).

use super::run;
use super::schedule;
use super::staleness::span;
use super::summary::{number, table};
use crate::cli::{self, Context};
use crate::error::{Error, Result};
use crate::pg::{self, ledger};
use crate::pipeline::Secret;
use crate::receipt::{FetchReceipt, Receipt, RunReceipt, age_s};

/// Nothing can be told of a mirror that is not there.
pub fn never() -> Error {
    Error::invalid("the mirror was never loaded").hint("Run `mirror42 run`, or `mirror42 demo` to see what it does.")
}

/// Prints the state of every stage and table.
pub fn status(context: &Context, url: Option<&Secret>) -> Result<()> {
    let pipeline = &context.pipeline;
    let mut stages = table(&["Stage", "Fetched or run", "Records", "State"], 2..3);
    for (stage, decided) in schedule::forecast(pipeline, &run::remembered(context)?)? {
        let receipt = Receipt::read_or_new(&pipeline.paths, &stage.name)?;
        stages.add_row([
            stage.name.clone(),
            match (&receipt.fetch, &receipt.run) {
                (Some(FetchReceipt { started_at, .. }), _) | (None, Some(RunReceipt { started_at, .. })) => {
                    format!("{} ago", span(age_s(started_at)))
                }
                (None, None) => String::new(),
            },
            receipt.extract.map_or(String::new(), |extract| number(extract.records_out)),
            decided.told().to_string(),
        ]);
    }
    cli::print(format_args!("{stages}"));

    let mut client = pg::connect_if_there(&pipeline.paths, url, "status")?.ok_or_else(never)?;
    let mut tables = table(&["Table", "Rows", "Last load", "Inserted", "Updated", "Deleted", "Data of"], 1..6);
    let entries = ledger::last_of_each_table(&mut client, pipeline)?;
    for entry in &entries {
        let counts = &entry.counts;
        let count = |n: i64| number(n.unsigned_abs());
        tables.add_row([
            entry.table.clone(),
            count(counts.staged - counts.orphans),
            entry.run_id.clone(),
            count(counts.inserted),
            count(counts.updated),
            count(counts.deleted),
            entry.fetched_at.map_or(String::new(), |time| format!("{time:.0}")),
        ]);
    }
    // The mirror is as old as its oldest table: a load may be of some only. None comes first.
    let oldest = entries.iter().min_by_key(|entry| entry.fetched_at).ok_or_else(never)?;
    cli::print(format_args!("{tables}"));
    let fetched_at = oldest.fetched_at.ok_or_else(|| {
        Error::invalid(format!("how old `{}` is is not known", oldest.table))
            .detail("It was loaded without receipts.")
            .hint("Run `mirror42 run`.")
    })?;
    let (age, limit) = (age_s(&fetched_at.to_string()), pipeline.stale_after.as_secs());
    cli::print(format_args!("The mirror is {} old.", span(age)));
    if age < limit {
        return Ok(());
    }
    Err(Error::invalid(format!("the mirror is {} old, stale_after is {}", span(age), span(limit)))
        .detail(format!("The last load of `{}` was {}.", oldest.table, oldest.run_id))
        .hint("Look into logs/ for why no run has succeeded since."))
}
