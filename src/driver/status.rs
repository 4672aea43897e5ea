//! What a run would do: the verb `plan`.

use super::requests;
use super::run::{self, Options};
use super::schedule::{self, Decided};
use super::summary::table;
use crate::cli::{self, Context};
use crate::error::{Error, Result};

/// Prints what would run and why, and how long it takes; `probe` says how to ask the API where nothing else tells.
pub fn plan(context: &Context, probe: Option<&Options>) -> Result<()> {
    let forecast = schedule::forecast(&context.pipeline, &run::remembered(context)?)?;
    let counts = requests::of_stages(context, &forecast, probe)?;
    let mut table = table(&["Stage", "Fetch or run", "Extract", "Requests"], 3..4);
    for (stage, Decided { fetch, extract }) in forecast {
        let text =
            |verdict: Option<super::staleness::Verdict>| verdict.map_or(String::new(), |verdict| verdict.to_string());
        let count = counts.get(stage.name.as_str()).map_or(String::new(), requests::Count::to_string);
        table.add_row([stage.name.clone(), text(fetch), text(extract), count]);
    }
    cli::print(format_args!("{table}"));
    cli::print(format_args!("Then all tables are loaded and validated."));
    cli::print(format_args!("{}", requests::outlook(context, &counts)?));
    Ok(())
}

/// Nothing can be told of a mirror that is not there.
pub fn never() -> Error {
    Error::invalid("the mirror was never loaded").hint("Run `mirror42 run`, or `mirror42 demo` to see what it does.")
}
