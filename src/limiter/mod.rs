//! One quota for every process that shares a project folder.
//!
//! A request first reserves its slot, a moment before which it is not sent; it counts from the moment it is really sent
//! ([`Limiter::depart`]). Both happen under a file lock, so that a rerun, cron's token refresh and parallel stages spend
//! one budget. In one process one thread at a time waits for a slot and the others wait for their turn: so processes
//! take turns too, and one that is killed leaves at most one slot unused.
//!
//! Each limit is a [`window::Window`] that ends with the moment: no stretch of time of its length holds more requests
//! than the limit, so a server that counts in fixed windows is never exceeded either. What the server says of the hour
//! corrects our count. The rules are in [`state`].

mod clock;
mod state;
#[cfg(test)]
mod tests;
mod window;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;

use crate::error::{Error, Result};
use crate::pipeline::Api;
use crate::{files, paths::Paths};
use clock::{Now, boot_ms};
use state::{Cause, Departure, Opening, PACE_MS, Rates, State};

// A request that left later than this after it was counted is counted anew.
const LATE_MS: i64 = 2;
// The machine may sleep, which timers do not count.
const LONGEST_NAP: Duration = Duration::from_secs(30);

/// The limiter of one API, as this process sees it.
#[derive(Debug)]
pub struct Limiter {
    path: PathBuf,
    /// For messages.
    host: String,
    ours: Rates,
    max_wait: Duration,
    line: Mutex<Line>,
    /// A turn has ended, or all have.
    moved: Condvar,
}

/// The threads of this process that want to send.
#[derive(Debug, Default)]
struct Line {
    next: u64,
    served: u64,
    stopped: bool,
}

/// The right to reserve a slot, which one thread of a process has at a time.
struct Turn<'a>(&'a Limiter);

/// A moment before which a request is not sent; and its number, once it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    at_ms: i64,
    number: Option<u64>,
}

/// What an answer says about the server's limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerLimits {
    pub per_second: Option<u32>,
    pub per_hour: Option<u32>,
    /// Requests left in this hour after the one that was answered.
    pub hourly_remaining: Option<u32>,
}

/// What so many requests would take from now on, by what is known of the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// Until the last one is sent.
    pub took: Duration,
    pub per_second: Option<u32>,
    pub per_hour: Option<u32>,
    /// Requests left in this hour; none where no limit is known.
    pub left: Option<u32>,
}

impl Slot {
    pub fn is_sent(&self) -> bool {
        self.number.is_some()
    }
}

impl Limiter {
    pub fn new(paths: &Paths, api: &Api) -> Limiter {
        let limits = &api.limits;
        Limiter {
            path: Limiter::file(paths, api),
            host: host(api).to_string(),
            ours: Rates { per_second: limits.per_second, per_hour: limits.per_hour },
            max_wait: limits.max_wait,
            line: Mutex::default(),
            moved: Condvar::new(),
        }
    }

    /// The file that all limiters of this API share.
    pub fn file(paths: &Paths, api: &Api) -> PathBuf {
        paths.limiter(host(api))
    }

    /// Waits before another try; false if [`Limiter::stop`] was called.
    pub fn sleep(&self, wait: Duration) -> bool {
        let waited = self.moved.wait_timeout_while(self.line(), wait, |line| !line.stopped);
        let (line, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        !line.stopped
    }

    fn sleep_until(&self, at_ms: i64) -> bool {
        loop {
            let left = Duration::from_millis((at_ms - boot_ms()).try_into().unwrap_or(0));
            if !self.sleep(left.min(LONGEST_NAP)) {
                return false;
            }
            if left.is_zero() {
                return true;
            }
        }
    }

    /// Ends all waiting of this process, that to come too.
    pub fn stop(&self) {
        self.line().stopped = true;
        self.moved.notify_all();
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits for this thread's turn; none after [`Limiter::stop`].
    fn turn(&self) -> Option<Turn<'_>> {
        let mut line = self.line();
        let mine = line.next;
        line.next += 1;
        let line = self.moved.wait_while(line, |line| line.served != mine && !line.stopped);
        let stopped = line.unwrap_or_else(|poisoned| poisoned.into_inner()).stopped;
        // Once stopped, nobody waits for a turn any more.
        (!stopped).then_some(Turn(self))
    }

    /// Waits for the next free slot; none after [`Limiter::stop`]. `waiting` hears until when that is. A wait beyond
    /// `--max-wait` is an error, at once.
    pub fn wait_for_slot(&self, waiting: impl FnOnce(Duration, Timestamp)) -> Result<Option<Slot>> {
        let Some(_turn) = self.turn() else { return Ok(None) };
        let (at_ms, wait) = self.reserve()?;
        waiting(wait, Timestamp::now() + wait);
        if !self.sleep_until(at_ms) {
            self.with_state(|state, _| state.release(at_ms))?;
            return Ok(None);
        }
        Ok(Some(Slot { at_ms, number: None }))
    }

    /// Reserves the next free slot: its moment, and how long that is from now.
    fn reserve(&self) -> Result<(i64, Duration)> {
        self.with_state(|state, now| {
            let opening = state.next(now.ms, self.rates(state));
            let wait_ms = opening.at_ms - now.ms;
            let wait = Duration::from_millis(wait_ms.try_into().unwrap_or(0));
            if opening.cause != Cause::Pace && wait_ms > PACE_MS && wait > self.max_wait {
                return Err(self.later(opening, wait));
            }
            state.reserve(opening.at_ms);
            Ok((opening.at_ms, wait))
        })?
    }

    fn later(&self, opening: Opening, wait: Duration) -> Error {
        let until = (Timestamp::now() + wait).as_second() + 1;
        let until = Timestamp::from_second(until).map_or_else(|_| String::from("later"), |until| until.to_string());
        let host = &self.host;
        let message = match opening.cause {
            Cause::Server => format!("`{host}` wants no requests until {until}"),
            Cause::Hour | Cause::Pace => format!("the hourly quota of `{host}` is used up until {until}"),
        };
        let max_wait = jiff::SignedDuration::try_from(self.max_wait).unwrap_or(jiff::SignedDuration::MAX);
        Error::later(message).hint(format!("Run again after that, or raise `--max-wait`, which is {max_wait:#}."))
    }

    /// A request is about to be sent, all but its bytes: it counts from now. What others sent since the slot was reserved
    /// may move it by a moment, which is waited for; none if it may not go soon, and has to take another slot.
    pub fn depart(&self, slot: Slot) -> Result<Option<Slot>> {
        let mut reserved_ms = slot.at_ms;
        loop {
            let departure = self.with_state(|state, now| {
                let rates = self.rates(state);
                (state.depart(now.ms, reserved_ms, rates), now.ms)
            })?;
            match departure {
                (Departure::Now(number), at_ms) => return Ok(Some(Slot { at_ms, number: Some(number) })),
                (Departure::At(at_ms), _) if self.sleep_until(at_ms) => reserved_ms = at_ms,
                (Departure::At(_) | Departure::Shut, _) => return Ok(None),
            }
        }
    }

    /// The request is sent. On a busy machine that may be a while after it was counted: then it counts from now.
    pub fn departed(&self, slot: Slot) -> Result<()> {
        if boot_ms() <= slot.at_ms + LATE_MS {
            return Ok(());
        }
        self.with_state(|state, now| state.sent_later(slot.at_ms, now.ms, self.rates(state)))
    }

    /// The server refused a request and wants none for so long.
    pub fn block(&self, wait: Duration) -> Result<()> {
        self.with_state(|state, now| state.block(now.ms, wait.as_millis().try_into().unwrap_or(i64::MAX)))
    }

    /// The server refused this request for the limit per second, which we thought was kept.
    pub fn widen(&self, slot: Slot) -> Result<()> {
        let Some(number) = slot.number else { return Ok(()) };
        self.with_state(|state, _| state.widen(number, self.rates(state)))
    }

    /// Takes in what the answer to the request of this slot says: it counts where it is less than what we think. One that
    /// names no limits comes from a server that has none.
    pub fn observe(&self, slot: Slot, server: ServerLimits) -> Result<()> {
        let Some(number) = slot.number else { return Ok(()) };
        self.with_state(|state, now| state.hear(now.ms, number, server, self.ours.per_hour))
    }

    /// How long so many requests would take; nothing is reserved or written.
    pub fn forecast(&self, requests: u64) -> Result<Forecast> {
        let text = match File::open(&self.path) {
            Ok(mut file) => {
                let mut text = Vec::new();
                let read = file.lock_shared().and_then(|()| file.read_to_end(&mut text));
                read.map_err(|cause| Error::io("read", &self.path, &cause))?;
                text
            }
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(cause) => return Err(Error::io("open", &self.path, &cause)),
        };
        let now = Now::read();
        let mut state = State::read(&text, &now);
        let rates = self.rates(&state);
        let left = rates.per_hour.map(|limit| state.left(now.ms, limit));
        let last_ms = state.run(now.ms, requests, rates);
        let took = Duration::from_millis((last_ms - now.ms).try_into().unwrap_or(0));
        Ok(Forecast { took, per_second: rates.per_second, per_hour: rates.per_hour, left })
    }

    fn rates(&self, state: &State) -> Rates {
        Rates {
            per_second: least(self.ours.per_second, state.server_per_second),
            per_hour: least(self.ours.per_hour, state.server_per_hour),
        }
    }

    /// Runs `change` on the state under the lock, and writes it back if it is another then.
    fn with_state<T>(&self, change: impl FnOnce(&mut State, &Now) -> T) -> Result<T> {
        let failed = |doing: &'static str| move |cause: std::io::Error| Error::io(doing, &self.path, &cause);
        files::create_dir(self.path.parent().unwrap_or(Path::new(".")))?;
        let options = File::options().create(true).truncate(false).read(true).write(true).open(&self.path);
        let mut file = options.map_err(failed("open"))?;
        file.lock().map_err(failed("lock"))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed("read"))?;
        // After the lock: others may have held it for a while.
        let now = Now::read();
        let mut state = State::read(&text, &now);
        let before = state.clone();
        let result = change(&mut state, &now);
        if state != before {
            state.stamp(&now);
            let mut json = serde_json::to_vec(&state).map_err(|e| failed("write")(e.into()))?;
            // Blanks over the rest of a longer text, so that one write does it all and a kill cannot
            // leave half a state.
            json.resize(json.len().max(text.len()), b' ');
            let wrote = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&json));
            wrote.map_err(failed("write"))?;
        }
        Ok(result)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.line().served += 1;
        self.0.moved.notify_all();
    }
}

/// The host and the port of the API.
fn host(api: &Api) -> &str {
    api.base_url.split("://").nth(1).unwrap_or("").split('/').next().unwrap_or("")
}

fn least(ours: Option<u32>, theirs: Option<u32>) -> Option<u32> {
    match (ours, theirs) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
