//! The verb `status`: how old the mirror is and what is in it, for people, programs and Prometheus. It fails when the
//! mirror is stale, and starts nothing: a server that is down is told of.

use std::path::{Path, PathBuf};

use clap::Args;

use super::staleness::span;
use super::state::State;
use super::summary::{number, table};
use super::{demo, prometheus};
use crate::cli::{self, Context};
use crate::error::Result;
use crate::files;
use crate::pipeline::Secret;

const STANDARD_OUTPUT: &str = "-";

#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// As one JSON object
    #[arg(long, conflicts_with = "prometheus")]
    json: bool,
    /// As metrics, into FILE (for the textfile collector of node_exporter) or on the standard output
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = STANDARD_OUTPUT)]
    prometheus: Option<PathBuf>,
}

/// Tells the state of every stage and table.
pub fn status(context: &Context, args: &StatusArgs, url: Option<&Secret>) -> Result<()> {
    let mut state = State::new(context)?;
    let verdict = state.ask(&context.pipeline, url);
    state.error = verdict.as_ref().err().map(|error| error.message().to_string());
    match &args.prometheus {
        Some(file) if file == Path::new(STANDARD_OUTPUT) => {
            cli::print(format_args!("{}", prometheus::text(&state).trim_end()));
        }
        // It is read by another user, at any time.
        Some(file) => drop(files::write(file, prometheus::text(&state).as_bytes())?),
        None if args.json => cli::print(format_args!("{}", serde_json::json!(state))),
        None => {
            print(&state);
            demo::note(&context.pipeline.paths).into_iter().for_each(|note| cli::print(format_args!("{note}")));
        }
    }
    verdict
}

/// Two tables and a sentence.
fn print(state: &State) {
    let mut stages = table(&["Stage", "Fetched or run", "Records", "State"], 2..3);
    for stage in &state.stages {
        stages.add_row([
            stage.name.clone(),
            stage.age_s.map_or(String::new(), |age| format!("{} ago", span(age))),
            stage.records.map_or(String::new(), number),
            stage.state.clone(),
        ]);
    }
    cli::print(format_args!("{stages}"));
    if state.tables.is_empty() {
        return;
    }
    let header = ["Table", "Rows", "Change", "Inserted", "Updated", "Deleted", "Age", "Last load"];
    let mut tables = table(&header, 1..7);
    for entry in &state.tables {
        let count = |n: i64| number(n.unsigned_abs());
        tables.add_row([
            entry.table.clone(),
            count(entry.rows),
            signed(entry.change),
            count(entry.inserted),
            count(entry.updated),
            count(entry.deleted),
            entry.age_s.map_or(String::new(), span),
            entry.run_id.clone(),
        ]);
    }
    cli::print(format_args!("{tables}"));
    if let Some(age) = state.age_s {
        cli::print(format_args!("The mirror is {} old.", span(age)));
    }
}

/// With a sign, but for nothing.
fn signed(n: i64) -> String {
    let sign = match n {
        0 => "",
        1.. => "+",
        _ => "-",
    };
    format!("{sign}{}", number(n.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::signed;

    #[test]
    fn a_change_has_its_sign() {
        assert_eq!([0, 1, 1234, -1234].map(signed), ["0", "+1", "+1,234", "-1,234"]);
    }
}
