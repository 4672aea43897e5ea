//! One quota for every process that shares a project folder.
//!
//! A request first reserves its slot: a moment before which it is not sent. Slots are given out
//! under a file lock, so that a rerun, cron's token refresh and parallel stages spend one budget.
//!
//! Each limit is a [`Window`]: how many slots any stretch of time of its length may hold. Since no
//! stretch at all holds more, a server that counts in fixed windows is never exceeded either. Slots
//! are counted in buckets, a hundredth of a window each, so that the state stays small whatever the
//! limit; a bucket leaves the window with its last moment, which errs to the safe side.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::pipeline::Api;
use crate::{files, paths::Paths};

const SECOND_MS: u64 = 1000;
const HOUR_MS: u64 = 3_600_000;
const BUCKETS: u64 = 100;
// With one request an hour the slots of 256 threads lie ten days ahead.
const FARTHEST_MS: u64 = 14 * 24 * HOUR_MS;
// Requests do not take the same time to the server. Of two that leave a second apart the later may
// arrive this much sooner without being counted into the same second. Costs 3 % of the rate.
const JITTER_MS: u64 = 30;
// A thread that wakes later than this has lost a part of that.
const LATE_MS: u64 = 3;

/// The limiter of one API, as this process sees it.
#[derive(Debug)]
pub struct Limiter {
    path: PathBuf,
    per_second: Option<u32>,
    per_hour: Option<u32>,
    stopped: Mutex<bool>,
    stop: Condvar,
}

/// A moment before which a request is not sent.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    at_ms: u64,
    /// From now until then.
    pub wait: Duration,
}

/// What an answer says about the server's limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerLimits {
    pub per_second: Option<u32>,
    pub per_hour: Option<u32>,
    /// Requests left in this hour after the one that was answered.
    pub hourly_remaining: Option<u32>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
struct State {
    /// When this was last written: no time is earlier, unless the clock was set back.
    written_ms: u64,
    /// Nothing is sent before this moment: the server said so.
    blocked_until_ms: u64,
    /// The last slot given out: slots are given out in order.
    last_ms: u64,
    server_per_second: Option<u32>,
    server_per_hour: Option<u32>,
    second: Window,
    hour: Window,
}

/// Slots per bucket: the bucket's first moment (Unix time, milliseconds) and its count, in order.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
struct Window(Vec<(u64, u32)>);

impl Limiter {
    pub fn new(paths: &Paths, api: &Api) -> Limiter {
        Limiter {
            path: Limiter::clock(paths, api),
            per_second: api.limits.per_second,
            per_hour: api.limits.per_hour,
            stopped: Mutex::new(false),
            stop: Condvar::new(),
        }
    }

    /// The file that all limiters of this API share.
    pub fn clock(paths: &Paths, api: &Api) -> PathBuf {
        paths.limiter(api.base_url.split("://").nth(1).unwrap_or("").split('/').next().unwrap_or(""))
    }

    /// Waits, for a slot or before another try; false if [`Limiter::stop`] was called.
    pub fn sleep(&self, wait: Duration) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let waited = self.stop.wait_timeout_while(stopped, wait, |stopped| !*stopped);
        let (stopped, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        !*stopped
    }

    /// Ends all [`Limiter::sleep`] of this process, those to come too.
    pub fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = true;
        self.stop.notify_all();
    }

    /// Reserves the next free slot.
    pub fn reserve(&self) -> Result<Slot> {
        self.with_state(|state, now| {
            let per_second = least(self.per_second, state.server_per_second);
            let per_hour = least(self.per_hour, state.server_per_hour);
            let at_ms = state.reserve(now, per_second, per_hour);
            Slot { at_ms, wait: Duration::from_millis(at_ms - now) }
        })
    }

    /// Takes up a slot whose time has come: whether the request may go. Not if the server wants no
    /// requests by now. One that goes late, on a busy machine, counts from the moment it goes.
    pub fn take_up(&self, slot: &Slot) -> Result<bool> {
        self.with_state(|state, now| {
            let open = state.blocked_until_ms <= now;
            if open && now > slot.at_ms + LATE_MS {
                state.second.shift(slot.at_ms, now, SECOND_MS);
            }
            open
        })
    }

    /// The server refused a request and wants none for so long.
    pub fn block(&self, wait: Duration) -> Result<()> {
        self.with_state(|state, now| {
            let until = now.saturating_add(wait.as_millis().try_into().unwrap_or(u64::MAX));
            state.blocked_until_ms = state.blocked_until_ms.max(until);
        })
    }

    /// Takes in what an answer says: it counts where it is less than what we think. One that names no limits comes
    /// from a server that has none.
    pub fn observe(&self, server: ServerLimits) -> Result<()> {
        self.with_state(|state, now| {
            state.server_per_second = server.per_second;
            state.server_per_hour = server.per_hour;
            let limit = least(self.per_hour, state.server_per_hour);
            if let (Some(limit), Some(remaining)) = (limit, server.hourly_remaining) {
                let ours = limit.saturating_sub(state.hour.used(now, HOUR_MS));
                // Others spend the same quota, or our state was lost.
                state.hour.add(now, HOUR_MS, ours.saturating_sub(remaining));
            }
        })
    }

    /// Runs `change` on the state under the lock, and writes it back if it is another then.
    fn with_state<T>(&self, change: impl FnOnce(&mut State, u64) -> T) -> Result<T> {
        let failed = |doing: &'static str| move |cause: std::io::Error| Error::io(doing, &self.path, &cause);
        files::create_dir(self.path.parent().unwrap_or(std::path::Path::new(".")))?;
        let options = File::options().create(true).truncate(false).read(true).write(true).open(&self.path);
        let mut file = options.map_err(failed("open"))?;
        file.lock().map_err(failed("lock"))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed("read"))?;
        let now = unix_ms();
        // A file that cannot be understood was left by another version: nothing is known then.
        let mut state: State = serde_json::from_slice(&text).unwrap_or_default();
        let before = state.clone();
        state.follow_clock(now);
        state.forget(now);
        let result = change(&mut state, now);
        if state != before {
            state.written_ms = now;
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

impl State {
    fn reserve(&mut self, now: u64, per_second: Option<u32>, per_hour: Option<u32>) -> u64 {
        let mut slot = now.max(self.blocked_until_ms);
        if per_second.is_some() || per_hour.is_some() {
            slot = slot.max(self.last_ms);
        }
        if let Some(limit) = per_second {
            slot = slot.max(self.second.free_at(SECOND_MS, limit, JITTER_MS));
        }
        if let Some(limit) = per_hour {
            slot = slot.max(self.hour.free_at(HOUR_MS, limit, 0));
        }
        self.last_ms = slot;
        self.second.add(slot, SECOND_MS, 1);
        self.hour.add(slot, HOUR_MS, 1);
        slot
    }

    /// A clock that was set back would make what was noted lie ahead, and us wait until it comes: it
    /// is moved back as far. The time since the last note is not known then, and counts as none.
    fn follow_clock(&mut self, now: u64) {
        let back = self.written_ms.saturating_sub(now);
        if back == 0 {
            return;
        }
        self.written_ms = now;
        for window in [&mut self.second, &mut self.hour] {
            window.0.iter_mut().for_each(|(start, _)| *start = start.saturating_sub(back));
        }
        for moment in [&mut self.last_ms, &mut self.blocked_until_ms] {
            *moment = moment.saturating_sub(back);
        }
    }

    /// Drops what no longer counts, and what cannot be: moments so far ahead that only a broken file has them.
    fn forget(&mut self, now: u64) {
        let ahead = now + FARTHEST_MS;
        self.second.0.retain(|(start, _)| *start < ahead && start + SECOND_MS + JITTER_MS + SECOND_MS / BUCKETS > now);
        self.hour.0.retain(|(start, _)| *start < ahead && start + HOUR_MS + HOUR_MS / BUCKETS > now);
        for moment in [&mut self.last_ms, &mut self.blocked_until_ms] {
            if *moment > ahead {
                *moment = now;
            }
        }
    }
}

impl Window {
    /// The first moment at which the window that ends there holds fewer than `limit` slots.
    fn free_at(&self, length_ms: u64, limit: u32, margin_ms: u64) -> u64 {
        let mut later = 0;
        for (start, count) in self.0.iter().rev() {
            later += u64::from(*count);
            if later >= u64::from(limit) {
                return start + length_ms / BUCKETS + length_ms + margin_ms;
            }
        }
        0
    }

    fn add(&mut self, at: u64, length_ms: u64, count: u32) {
        if count == 0 {
            return;
        }
        let start = at - at % (length_ms / BUCKETS);
        match self.0.binary_search_by_key(&start, |(start, _)| *start) {
            Ok(i) => self.0[i].1 = self.0[i].1.saturating_add(count),
            Err(i) => self.0.insert(i, (start, count)),
        }
    }

    /// What was to be at one moment is at a later one.
    fn shift(&mut self, from: u64, to: u64, length_ms: u64) {
        let start = from - from % (length_ms / BUCKETS);
        if let Ok(i) = self.0.binary_search_by_key(&start, |(start, _)| *start) {
            self.0[i].1 = self.0[i].1.saturating_sub(1);
            if self.0[i].1 == 0 {
                self.0.remove(i);
            }
            self.add(to, length_ms, 1);
        }
    }

    fn used(&self, now: u64, length_ms: u64) -> u32 {
        let counted = self.0.iter().filter(|(start, _)| start + length_ms / BUCKETS + length_ms > now);
        counted.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

fn least(ours: Option<u32>, theirs: Option<u32>) -> Option<u32> {
    match (ours, theirs) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    /// The most slots in any stretch of `length_ms`.
    fn densest(slots: &[u64], length_ms: u64) -> usize {
        slots.iter().map(|s| slots.iter().filter(|t| (*s..s + length_ms).contains(t)).count()).max().unwrap_or(0)
    }

    #[test]
    fn no_second_and_no_hour_holds_more_than_its_limit() {
        let mut state = State::default();
        let mut now = NOW;
        let mut slots = Vec::new();
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..300 {
            now += random.u64(0..400);
            state.forget(now);
            slots.push(state.reserve(now, Some(2), Some(50)));
            now = now.max(slots[slots.len() - 1]);
        }
        assert_eq!(densest(&slots, SECOND_MS + JITTER_MS), 2);
        assert_eq!(densest(&slots, HOUR_MS), 50);
    }

    #[test]
    fn the_allowed_rate_is_nearly_reached() {
        let mut state = State::default();
        let slots: Vec<u64> = (0..95).map(|_| state.reserve(NOW, Some(2), Some(1200))).collect();
        let took = slots[94] - slots[0];
        assert!(took <= 47 * 1040, "{took} ms for 95 requests, 47 s at the least");
    }

    #[test]
    fn a_server_that_wants_no_requests_gets_none() {
        let mut state = State { blocked_until_ms: NOW + 5000, ..State::default() };
        assert_eq!(state.reserve(NOW, None, None), NOW + 5000);
    }

    #[test]
    fn a_clock_that_was_set_back_neither_stops_us_nor_frees_us() {
        for back in [HOUR_MS / 2, 30 * HOUR_MS] {
            let mut state = State { written_ms: NOW + back, blocked_until_ms: NOW + back + 700, ..State::default() };
            let slots: Vec<u64> = (0..4).map(|_| state.reserve(NOW + back, Some(2), Some(1200))).collect();
            state.follow_clock(NOW);
            state.forget(NOW);
            let slot = state.reserve(NOW, Some(2), Some(1200));
            assert!(slot > slots[3] - back && slot <= NOW + 3000, "{}", slot - NOW);
        }
    }

    #[test]
    fn slots_far_ahead_are_kept_and_impossible_ones_are_not() {
        let mut state = State::default();
        let reserve = |state: &mut State| {
            state.forget(NOW);
            state.reserve(NOW, None, Some(1))
        };
        let slots: Vec<u64> = (0..8).map(|_| reserve(&mut state)).collect();
        assert!(slots[7] >= NOW + 7 * HOUR_MS, "one an hour, whoever asks");
        let broken = Window(vec![(u64::MAX, u32::MAX), (5, 1), (NOW, u32::MAX), (NOW, u32::MAX)]);
        let mut state = State { blocked_until_ms: u64::MAX, last_ms: u64::MAX, hour: broken, ..State::default() };
        assert!(reserve(&mut state) <= NOW + 2 * HOUR_MS);
        assert_eq!(state.hour.used(NOW, HOUR_MS), u32::MAX);
    }

    #[test]
    fn without_limits_nobody_waits_for_slots_of_another_time() {
        let mut state = State { last_ms: NOW + HOUR_MS, ..State::default() };
        assert_eq!(state.reserve(NOW, None, None), NOW);
    }

    #[test]
    fn a_request_that_goes_late_counts_from_when_it_goes() {
        let mut state = State::default();
        let slot = state.reserve(NOW, Some(1), None);
        state.second.shift(slot, NOW + 400, SECOND_MS);
        assert!(state.reserve(NOW + 500, Some(1), None) >= NOW + 1400);
        assert_eq!(state.second.0.len(), 2);
    }

    #[test]
    fn whoever_waits_is_woken_when_it_stops() {
        let pipeline = "[pipeline]\nname = 't'\n[api]\nbase_url = 'http://localhost:1'";
        let pipeline = crate::pipeline::Pipeline::parse(std::path::Path::new("pipeline.toml"), pipeline).unwrap();
        let limiter = Limiter::new(&pipeline.paths, &pipeline.api);
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| limiter.sleep(Duration::from_secs(3600)));
            limiter.stop();
            assert!(!sleeper.join().unwrap());
        });
    }

    #[test]
    fn the_state_stays_small_whatever_the_rate() {
        let mut state = State::default();
        for i in 0..100_000 {
            state.forget(NOW + i);
            state.reserve(NOW + i, Some(1_000_000), Some(1_000_000_000));
        }
        assert!(state.second.0.len() <= 105 && state.hour.0.len() <= 105);
    }

    #[test]
    fn processes_share_one_budget_and_learn_from_the_server() {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"
            [pipeline]
            name = "t"
            [api]
            base_url = "http://localhost:1/api"
            limits = { per_second = 100, per_hour = 1000 }"#;
        let pipeline = crate::pipeline::Pipeline::parse(&folder.path().join("pipeline.toml"), text).unwrap();
        let open = || Limiter::new(&pipeline.paths, &pipeline.api);
        let (one, two) = (open(), open());
        let wait_for_slot = |limiter: &Limiter| limiter.reserve().unwrap().wait;
        let now = one.reserve().unwrap();
        assert_eq!(now.wait, Duration::ZERO);
        assert!(one.take_up(&now).unwrap());
        let server = ServerLimits { per_second: Some(1), per_hour: Some(1200), hourly_remaining: Some(0) };
        two.observe(ServerLimits { hourly_remaining: None, ..server }).unwrap();
        let wait = wait_for_slot(&two);
        assert!(wait > Duration::from_millis(900), "{wait:?}: the server allows one a second");
        two.observe(server).unwrap();
        let wait = wait_for_slot(&one);
        assert!(wait > Duration::from_secs(3500), "{wait:?}: the server says the hour is used up");
        one.block(Duration::from_secs(7)).unwrap();
        assert!(!two.take_up(&now).unwrap());
    }
}
