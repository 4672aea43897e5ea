//! What is still to be fetched whatever its receipt says, in `.mirror42/forced`, one stage a line.
//!
//! A forced run that is killed half way would else leave pages of two nights, and the next run would take the older ones
//! for current. And records that could not be used are asked for again, since what came may have been a passing fault of
//! the server: unless what failed at them, a filter or the schema, is another by then, since that costs no request.

use super::owed::Owed;
use super::schedule::Schedule;
use crate::cli::Context;
use crate::error::Result;
use crate::files;

/// The file, kept as a run goes on.
pub struct Forced {
    /// Those that this run does not see to.
    others: Vec<String>,
    written: Vec<String>,
}

impl Forced {
    pub fn begin(context: &Context, schedule: &Schedule) -> Result<Forced> {
        let owed = owed(context)?;
        let others = owed.iter().filter(|owed| !schedule.sees_to(&owed.stage)).map(Owed::to_string).collect();
        let mut forced = Forced { others, written: lines(context)? };
        forced.update(context, schedule)?;
        Ok(forced)
    }

    pub fn update(&mut self, context: &Context, schedule: &Schedule) -> Result<()> {
        let left: Vec<String> =
            self.others.iter().cloned().chain(schedule.still_forced().map(Owed::to_string)).collect();
        if left == self.written {
            return Ok(());
        }
        let path = context.pipeline.paths.forced();
        match left.is_empty() {
            true => files::remove(&path)?,
            false => drop(files::write(&path, (left.join("\n") + "\n").as_bytes())?),
        }
        self.written = left;
        Ok(())
    }
}

/// The stages that the next run is to fetch, or whose programs it is to run.
pub fn remembered(context: &Context) -> Result<Vec<String>> {
    Ok(owed(context)?.into_iter().map(|owed| owed.stage).collect())
}

fn owed(context: &Context) -> Result<Vec<Owed>> {
    let pipeline = &context.pipeline;
    let mut found = Vec::new();
    for owed in lines(context)?.iter().filter_map(|line| Owed::parse(line, pipeline)) {
        if owed.is_owed(pipeline)? {
            found.push(owed);
        }
    }
    Ok(found)
}

fn lines(context: &Context) -> Result<Vec<String>> {
    let bytes = files::read_if_there(&context.pipeline.paths.forced())?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_string).collect())
}
