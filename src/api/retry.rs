//! A request, of whatever kind, again and again until it succeeds or cannot.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::departure;
use super::outcome::{PUT_OFFS, Verdict, is_hopeless};
use crate::error::{Error, Result};
use crate::limiter::{Limiter, Slot};

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(32);
// With several requests under way, each waits some seconds for its slot: that is no news.
const NOTEWORTHY: Duration = Duration::from_secs(60);

/// What this process asked of the API.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests sent, with those sent again.
    pub requests: AtomicU64,
    /// Attempts that gave nothing to use.
    pub retries: AtomicU64,
    /// Those of them that were not put off.
    pub bad_answers: AtomicU64,
}

/// Why an attempt ended without a value.
pub enum Stop {
    Verdict(Verdict),
    Error(Error),
}

/// The loop around attempts: slots, waits, log lines, the last word.
pub struct Retry<'a> {
    pub limiter: &'a Limiter,
    pub counts: &'a Counts,
    /// How often it is sent before it is given up.
    pub tries: u32,
    /// Whose log the tries go to.
    pub stage: &'a str,
    /// What is tried, for messages: "fetch `https://…`".
    pub what: String,
}

impl Retry<'_> {
    /// Runs `attempt` until it succeeds, cannot succeed, has been tried as often as it may or put off [`PUT_OFFS`] times,
    /// or too many other requests of this process went as badly.
    pub fn run<T>(&self, waiting: &dyn Fn(&str), attempt: impl Fn() -> Result<T, Stop>) -> Result<T> {
        let (mut tries, mut put_offs) = (0, 0);
        loop {
            let outer = departure::arm(Some(self.wait_for_slot(waiting)?));
            self.counts.requests.fetch_add(1, Ordering::Relaxed);
            let outcome = attempt();
            departure::arm(outer);
            let verdict = match outcome {
                Ok(value) => return Ok(value),
                Err(Stop::Error(error)) => return Err(error),
                Err(Stop::Verdict(verdict)) => verdict,
            };
            let wait = match &verdict {
                Verdict::Held => {
                    self.counts.requests.fetch_sub(1, Ordering::Relaxed);
                    continue;
                }
                Verdict::Fail { why } => return Err(self.failure(why, "The answer is final.")),
                // A limit of the server's is no fault of the request, and is waited for more patiently.
                Verdict::Wait { wait, .. } => {
                    put_offs += 1;
                    if put_offs == PUT_OFFS {
                        return Err(self.failure(verdict.why(), &format!("It was put off {PUT_OFFS} times.")));
                    }
                    *wait
                }
                Verdict::Again { .. } | Verdict::Unauthorized { .. } => {
                    tries += 1;
                    if tries == self.tries {
                        let told = if tries == 1 { "once".to_string() } else { format!("{tries} times") };
                        return Err(self.failure(verdict.why(), &format!("It was tried {told}.")));
                    }
                    self.bear(verdict.why())?;
                    backoff(tries)
                }
            };
            self.counts.retries.fetch_add(1, Ordering::Relaxed);
            // Not a warning: what passes by itself is nothing to wake anybody for.
            log::info!(target: self.stage, "{}: {}; trying again in {:.1} s", self.what, verdict.why(), wait.as_secs_f32());
            if matches!(verdict, Verdict::Wait { .. }) {
                self.limiter.block(wait)?;
            } else {
                self.sleep(wait)?;
            }
        }
    }

    /// Counts a bad answer; fails if there were too many to this process.
    fn bear(&self, why: &str) -> Result<()> {
        let bad_answers = self.counts.bad_answers.fetch_add(1, Ordering::Relaxed) + 1;
        let requests = self.counts.requests.load(Ordering::Relaxed);
        if !is_hopeless(bad_answers, requests) {
            return Ok(());
        }
        let why = format!("the server gave {bad_answers} bad answers to {requests} requests; the last: {why}");
        Err(self.failure(&why, "So many are no accident."))
    }

    fn sleep(&self, wait: Duration) -> Result<()> {
        if self.limiter.sleep(wait) { Ok(()) } else { Err(self.stopped()) }
    }

    fn wait_for_slot(&self, waiting: &dyn Fn(&str)) -> Result<Slot> {
        let slot = self.limiter.wait_for_slot(|wait, until| {
            if wait >= NOTEWORTHY {
                let note = format!("waiting for the rate limit until {until:.0}");
                log::info!(target: self.stage, "{note}");
                waiting(&note);
            }
        })?;
        slot.ok_or_else(|| self.stopped())
    }

    fn stopped(&self) -> Error {
        Error::failed(format!("could not {}: another request failed first", self.what))
    }

    fn failure(&self, why: &str, tries: &str) -> Error {
        Error::failed(format!("could not {}: {why}", self.what)).detail(tries)
    }
}

/// Up to 1, 2, 4, 8 … s: any time between none and all of that, at random. Requests that failed together are spread
/// over the whole of it and do not come back together.
fn backoff(tries: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << (tries - 1).min(16)).min(LONGEST_WAIT).mul_f64(fastrand::f64())
}
