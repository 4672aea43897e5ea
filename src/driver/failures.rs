//! What a run tells that did not come to its end.

use super::options::Options;
use super::schedule::{Schedule, Targets};
use crate::error::{Error, Kind, Result};
use crate::log::report_failure;
use crate::stop;

/// What has gone wrong so far.
#[derive(Default)]
pub struct Failures {
    /// In the order in which they happened.
    errors: Vec<Error>,
    /// Nothing more is to be started, whatever the options say.
    is_over: bool,
    stopped_by: Option<&'static str>,
    /// A load was made to end, so that what it did is not known.
    load_was_killed: bool,
}

impl Failures {
    pub fn add(&mut self, error: Error) {
        self.errors.push(error);
    }

    /// One that ends the run even where it is to keep going.
    pub fn add_last(&mut self, error: Error) {
        self.errors.push(error);
        self.is_over = true;
    }

    pub fn stopped(&mut self, signal: &'static str) {
        self.stopped_by = Some(signal);
    }

    pub fn load_was_killed(&mut self) {
        self.load_was_killed = true;
    }

    pub fn are_stopped(&self) -> bool {
        self.stopped_by.is_some()
    }

    /// Whether what is ready may still be started.
    pub fn let_go_on(&self, options: &Options) -> bool {
        !self.is_over && self.stopped_by.is_none() && (self.errors.is_empty() || options.keep_going)
    }

    /// The failure of the whole run, if it is one.
    pub fn end(self, schedule: &Schedule, targets: &Targets, options: &Options) -> Result<()> {
        if let Some(signal) = self.stopped_by {
            // The stop is not why these have failed.
            self.errors.iter().for_each(|error| report_failure("mirror42", error));
            let state = match (targets.load, schedule.is_loaded(), self.load_was_killed) {
                (false, _, _) => return Err(stop::error(signal)),
                (true, true, _) => "The load is done; it was not validated to the end.",
                (true, false, true) => {
                    "Whether all of it was loaded or nothing is not known: the load had to be killed."
                }
                (true, false, false) => "Nothing was loaded; the database is as it was.",
            };
            return Err(stop::error(signal).detail(state));
        }
        match options.keep_going {
            true => self.all(schedule, targets),
            // A failure that somebody has to look at is told rather than one that passes with time.
            false => first(self.errors).map_or(Ok(()), |(error, _)| Err(error)),
        }
    }

    /// Every failure, and what was not made for it.
    fn all(self, schedule: &Schedule, targets: &Targets) -> Result<()> {
        let count = self.errors.len();
        let Some((first, others)) = first(self.errors) else { return Ok(()) };
        let mut error = match count {
            1 => first,
            _ => {
                let kind = first.kind();
                [first].iter().chain(&others).for_each(|error| report_failure("mirror42", error));
                Error::of_kind(kind, format!("{count} steps failed: the messages are above"))
            }
        };
        let undone: Vec<&str> = schedule.undone().collect();
        if !undone.is_empty() {
            error = error.detail(format!("Not up to date: {}.", undone.join(", ")));
            if targets.load {
                error = error.detail("Nothing was loaded; the database is as it was.");
            }
        }
        Err(error)
    }
}

/// The first that does not pass with time, or the first, and the others.
fn first(mut errors: Vec<Error>) -> Option<(Error, Vec<Error>)> {
    if errors.is_empty() {
        return None;
    }
    let at = errors.iter().position(|error| error.kind() != Kind::Later).unwrap_or(0);
    Some((errors.remove(at), errors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_with_time_is_told_last() {
        let told = |errors| first(errors).map(|(error, others)| (error.message().to_string(), others.len()));
        assert_eq!(told(vec![]), None);
        assert_eq!(told(vec![Error::later("a"), Error::later("b")]), Some(("a".to_string(), 1)));
        let errors = vec![Error::later("a"), Error::failed("b"), Error::guard("c")];
        assert_eq!(told(errors), Some(("b".to_string(), 2)));
    }
}
