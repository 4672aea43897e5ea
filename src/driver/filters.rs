//! Which filters do not compile: told before an hour of fetching, not after.

use super::options::Options;
use super::output;
use crate::cli::Context;
use crate::error::{Error, Kind, Result};

/// The stages among these whose filters do not compile, each with its error. The engine is another program's, and names
/// the first that is bad: where there is one, halves are asked for, down to each of them.
pub fn broken(context: &Context, options: &Options, stages: &[&str]) -> Result<Vec<(String, Error)>> {
    // Without a name it would be asked for all.
    if stages.is_empty() {
        return Ok(Vec::new());
    }
    let arguments = [&["--check"], stages].concat();
    match (output::output(context, options, "mirror42-extract", &arguments), stages) {
        (Ok(_), _) => Ok(Vec::new()),
        // It was asked to end.
        (Err(error), _) if error.kind() == Kind::Later => Err(error),
        (Err(error), [stage]) => Ok(vec![(stage.to_string(), error)]),
        (Err(_), _) => {
            let (first, second) = stages.split_at(stages.len() / 2);
            let mut found = broken(context, options, first)?;
            found.extend(broken(context, options, second)?);
            Ok(found)
        }
    }
}
