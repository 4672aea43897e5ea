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
    others: Vec<Owed>,
    written: Vec<String>,
    /// That it could not be written was told: once is enough.
    is_told: bool,
}

impl Forced {
    pub fn begin(context: &Context, schedule: &Schedule) -> Result<Forced> {
        let others = owed(context)?.into_iter().filter(|owed| !schedule.sees_to(&owed.stage)).collect();
        let mut forced = Forced { others, written: lines(context)?, is_told: false };
        forced.update(context, schedule)?;
        Ok(forced)
    }

    /// One that this run does not see to.
    pub fn add(&mut self, owed: Owed) {
        owed.join(&mut self.others);
    }

    /// An error is told once.
    pub fn update(&mut self, context: &Context, schedule: &Schedule) -> Result<()> {
        let mut left = self.others.clone();
        schedule.still_forced().cloned().for_each(|owed| owed.join(&mut left));
        let left: Vec<String> = left.iter().map(Owed::to_string).collect();
        if left == self.written {
            return Ok(());
        }
        let path = context.pipeline.paths.forced();
        let written = match left.is_empty() {
            true => files::remove(&path),
            false => files::write(&path, (left.join("\n") + "\n").as_bytes()).map(drop),
        };
        match written {
            Ok(()) => self.written = left,
            Err(_) if self.is_told => {}
            Err(error) => {
                self.is_told = true;
                return Err(error);
            }
        }
        Ok(())
    }
}

/// The stages that the next run is to fetch, or whose programs it is to run.
pub fn remembered(context: &Context) -> Result<Vec<String>> {
    Ok(owed(context)?.into_iter().map(|owed| owed.stage).collect())
}

/// The same, with what they are owed for.
pub fn owed(context: &Context) -> Result<Vec<Owed>> {
    let pipeline = &context.pipeline;
    let lines = lines(context)?;
    let owed = lines.iter().filter_map(|line| Owed::parse(line, pipeline)).filter(|owed| owed.is_owed(pipeline));
    let mut found = Vec::new();
    owed.for_each(|owed| owed.join(&mut found));
    Ok(found)
}

fn lines(context: &Context) -> Result<Vec<String>> {
    let bytes = files::read_if_there(&context.pipeline.paths.forced())?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_string).collect())
}
