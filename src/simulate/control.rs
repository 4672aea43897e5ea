//! The control endpoints under `/_simulator/`, for tests: outside limits, tokens and faults.

use std::sync::Arc;

use crate::simulate::answer::Answer;
use crate::simulate::api::{Call, Simulator, lock};
use crate::simulate::days;
use crate::simulate::faults::Faults;
use crate::simulate::hold::Hold;
use crate::simulate::oracle;
use crate::simulate::render::Rendered;

impl Simulator {
    /// Answers a control call.
    pub fn control(&self, call: &Call) -> Answer {
        let path = call.path.trim_start_matches("/_simulator/");
        match (call.method.as_str(), path) {
            ("GET", "stats") => {
                let tokens_issued = lock(&self.tokens).issued();
                Answer::json(200, lock(&self.stats).json(self.rendered().world.day, tokens_issued))
            }
            ("POST", "stats/reset") => {
                lock(&self.stats).reset();
                Answer::fact("reset", true)
            }
            ("POST", "faults") => self.replace_faults(&call.body),
            ("POST", "hold") => {
                lock(&self.holds).push(Hold::of(&call.query()));
                Answer::fact("holds", lock(&self.holds).len() as i64)
            }
            ("POST", "release") => {
                let query = call.query();
                match query.get("path") {
                    Some(_) => lock(&self.holds).retain(|hold| *hold != Hold::of(&query)),
                    None => lock(&self.holds).clear(),
                }
                self.released.notify_waiters();
                Answer::fact("holds", lock(&self.holds).len() as i64)
            }
            ("POST", other) => match other.strip_prefix("day/").map(str::parse) {
                Some(Ok(day)) => self.set_day(day),
                _ => unknown(call),
            },
            ("GET", other) => {
                let rows = other.strip_prefix("tables/").and_then(|table| oracle::rows(&self.rendered().world, table));
                rows.map_or_else(|| unknown(call), |rows| Answer::json(200, oracle::join_lines(&rows)))
            }
            _ => unknown(call),
        }
    }

    fn set_day(&self, day: u32) -> Answer {
        let which = self.which;
        let world = days::world(which.seed, usize::from(which.scale), day);
        *lock(&self.rendered) = Arc::new(Rendered::new(world));
        Answer::fact("day", i64::from(day))
    }

    fn replace_faults(&self, body: &[u8]) -> Answer {
        match Faults::parse(&String::from_utf8_lossy(body), "(request body)", self.which.seed) {
            Ok(faults) => {
                *lock(&self.faults) = faults;
                Answer::fact("faults", "replaced")
            }
            Err(error) => Answer::refusal(400, "Faults Error", &error.to_string()),
        }
    }

    /// Waits until no hold matches this call.
    pub async fn wait_while_held(&self, call: &Call) {
        let mut waiting: Option<Held<'_>> = None;
        loop {
            // Enabled before the look, so that no release in between is missed.
            let mut released = std::pin::pin!(self.released.notified());
            released.as_mut().enable();
            if !lock(&self.holds).iter().any(|hold| hold.matches(&call.path, call.query().page())) {
                return;
            }
            waiting.get_or_insert_with(|| Held::new(self));
            released.await;
        }
    }
}

fn unknown(call: &Call) -> Answer {
    Answer::refusal(404, "Not found", &format!("The simulator has no {} {}", call.method, call.path))
}

/// Counts an answer as held for as long as it is.
struct Held<'a>(&'a Simulator);

impl<'a> Held<'a> {
    fn new(simulator: &'a Simulator) -> Held<'a> {
        let mut stats = lock(&simulator.stats);
        stats.held += 1;
        stats.held_in_all += 1;
        Held(simulator)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        lock(&self.0.stats).held -= 1;
    }
}
