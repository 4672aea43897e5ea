//! The verb `audit`: what was deleted and changed, when, and by which run.

use std::collections::BTreeMap;

use clap::Args;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::value::RawValue;

use super::state::never;
use crate::cli::{self, Context};
use crate::error::{Error, Result, excerpt, printable};
use crate::pg::audit::{self, Event, Wanted, What};
use crate::pg::{self, ledger};
use crate::pipeline::{self, Secret};

/// Of a value, unless all of it is asked for.
const SHOWN_CHARS: usize = 100;
/// Of a row that was deleted.
const SHOWN_ROW_CHARS: usize = 400;

#[derive(Args, Clone, Debug)]
pub struct AuditArgs {
    /// Of this table only
    #[arg(value_name = "TABLE")]
    table: Option<String>,
    /// Rows with this value in their key, or COLUMN=VALUE; given again, all must hold
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// Since this day (`2026-11-23`, UTC), this time (RFC 3339), or so long ago (`7d`, `12h`)
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// By this run only
    #[arg(long, value_name = "ID")]
    run: Option<String>,
    /// So many rows at the most, the last first; 0 for all
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u64,
    /// One JSON object a line, with whole rows
    #[arg(long)]
    json: bool,
}

pub fn run(context: &Context, url: Option<&Secret>, args: &AuditArgs, whole: bool) -> Result<()> {
    let pipeline = &context.pipeline;
    let since = args.since.as_deref().map(|text| since(text, Timestamp::now())).transpose()?;
    let mut client = pg::connect_if_there(&pipeline.paths, url, "audit")?.ok_or_else(never)?;
    if !ledger::exists(&mut client, pipeline)? {
        return Err(never());
    }
    if let Some(table) = &args.table {
        known_table(table, &audit::tables(&mut client, pipeline)?)?;
    }
    let wanted = Wanted {
        table: args.table.clone(),
        run_id: args.run.clone(),
        since,
        key: args.key.clone(),
        // One more tells whether there are more.
        most: (args.limit > 0).then(|| args.limit.saturating_add(1)),
    };
    let mut printer =
        Printer { json: args.json, whole, most: args.limit, shown: 0, more: false, run_id: String::new() };
    audit::each(&mut client, pipeline, &wanted, |event| {
        let printed = printer.take(&event);
        printed.map_err(|cause| Error::failed(format!("cannot read an entry of the ledger: {cause}")))
    })?;
    printer.end();
    Ok(())
}

fn known_table(table: &str, tables: &[String]) -> Result<()> {
    if tables.iter().any(|known| known == table) {
        return Ok(());
    }
    let error = Error::usage(format!("no load has ever touched a table `{}`", printable(table)));
    Err(match pipeline::nearest(table, tables.iter().map(String::as_str)) {
        Some(near) => error.hint(format!("Did you mean `{near}`?")),
        None => error,
    })
}

/// The moment that `--since` means.
fn since(text: &str, now: Timestamp) -> Result<Timestamp> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let day = text.parse::<Date>().ok().and_then(|day| day.to_zoned(TimeZone::UTC).ok());
    if let Some(midnight) = day {
        return Ok(midnight.timestamp());
    }
    let ago = pipeline::parse_duration(text).and_then(|ago| now.checked_sub(ago).ok());
    ago.ok_or_else(|| {
        Error::usage(format!(
            "`--since` is {text:?}, expected a day, a time or a duration, such as `2026-11-23` or `7d`"
        ))
    })
}

struct Printer {
    json: bool,
    /// Values are not cut.
    whole: bool,
    /// Events that are shown; zero: all.
    most: u64,
    shown: u64,
    more: bool,
    /// Of the event before.
    run_id: String,
}

impl Printer {
    fn take(&mut self, event: &Event) -> serde_json::Result<()> {
        if self.most > 0 && self.shown == self.most {
            self.more = true;
            return Ok(());
        }
        self.shown += 1;
        if self.json {
            cli::print(format_args!("{}", line_of(event)?));
            return Ok(());
        }
        if self.run_id != event.run_id {
            let gap = if self.run_id.is_empty() { "" } else { "\n" };
            cli::print(format_args!("{gap}Run {}, {:.0}", printable(&event.run_id), event.at));
            self.run_id.clone_from(&event.run_id);
        }
        let name = format!("{} {}", printable(&event.table), printable(&event.key));
        match &event.what {
            What::Deleted { row, cascaded_from } => {
                let with = cascaded_from.as_ref().map(|parent| format!(", with its row of {}", printable(parent)));
                cli::print(format_args!("  deleted {name}{}", with.unwrap_or_default()));
                cli::print(format_args!("    {}", self.cut(row, SHOWN_ROW_CHARS)));
            }
            What::Changed { old, new } => {
                cli::print(format_args!("  changed {name}"));
                for (column, old, new) in columns(old, new)? {
                    let (old, new) = (self.cut(&old, SHOWN_CHARS), self.cut(&new, SHOWN_CHARS));
                    cli::print(format_args!("    {}: {old} -> {new}", printable(&column)));
                }
            }
        }
        Ok(())
    }

    fn cut(&self, text: &str, most: usize) -> String {
        if self.whole { printable(text) } else { excerpt(text, most) }
    }

    fn end(&self) {
        if self.json {
            return;
        }
        match (self.shown, self.more) {
            (0, _) => cli::print(format_args!("Nothing of that kind was deleted or changed.")),
            (_, true) => cli::print(format_args!("\nThere are more: `--limit 0` shows all.")),
            _ => {}
        }
    }
}

/// Values as the ledger has them: every digit of a number is kept.
#[derive(Serialize)]
struct Line<'a> {
    at: String,
    run: &'a str,
    table: &'a str,
    key: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cascaded_from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new: Option<&'a RawValue>,
}

fn line_of(event: &Event) -> serde_json::Result<String> {
    let (mut deleted, mut cascaded, mut before, mut after) = (None, None, None, None);
    match &event.what {
        What::Deleted { row, cascaded_from } => {
            deleted = Some(serde_json::from_str(row)?);
            cascaded = cascaded_from.as_deref();
        }
        What::Changed { old, new } => {
            before = Some(serde_json::from_str(old)?);
            after = Some(serde_json::from_str(new)?);
        }
    }
    serde_json::to_string(&Line {
        at: event.at.to_string(),
        run: &event.run_id,
        table: &event.table,
        key: serde_json::from_str(&event.key)?,
        deleted,
        cascaded_from: cascaded,
        old: before,
        new: after,
    })
}

/// The columns that differed, with their values as JSON.
fn columns(old: &str, new: &str) -> serde_json::Result<Vec<(String, String, String)>> {
    let old: BTreeMap<String, &RawValue> = serde_json::from_str(old)?;
    let new: BTreeMap<String, &RawValue> = serde_json::from_str(new)?;
    let pairs = old.into_iter().map(|(column, old)| {
        let new = new.get(&column).map_or("null", |value| value.get()).to_string();
        (column, old.get().to_string(), new)
    });
    Ok(pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_a_time_and_a_duration_are_moments() {
        let now = "2026-11-25T12:00:00Z".parse().unwrap();
        let moments = ["2026-11-23", "2026-11-23T05:00:00+02:00", "7d", "12h"].map(|text| since(text, now).unwrap());
        let expected = ["2026-11-23T00:00:00Z", "2026-11-23T03:00:00Z", "2026-11-18T12:00:00Z", "2026-11-25T00:00:00Z"];
        assert_eq!(moments.map(|moment| moment.to_string()), expected);
        assert_eq!(
            since("yesterday", now).unwrap_err().to_string(),
            "`--since` is \"yesterday\", expected a day, a time or a duration, such as `2026-11-23` or `7d`"
        );
    }
}
