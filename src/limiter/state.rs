//! What all processes know of one API's limits, and the rules that follow: when the next request may go.
//!
//! Moments are milliseconds since boot ([`super::clock`]). All here is pure: the time is handed in.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::ServerLimits;
use super::clock::Now;
use super::window::Window;

/// The version of the file; another says nothing.
const VERSION: u32 = 2;

pub const SECOND_MS: i64 = 1000;
pub const HOUR_MS: i64 = 3_600_000;
const HOUR_BUCKET_MS: i64 = 10_000;
// Two clocks part by up to 50 millionths: 0.2 s in an hour.
const HOUR_SLACK_MS: i64 = 1000;
const HOUR_SPAN_MS: i64 = HOUR_MS + HOUR_SLACK_MS + HOUR_BUCKET_MS;

// Requests do not take the same time to the server. Of two that leave a second apart the later may arrive this much
// sooner without being counted into the same second. Costs 1.3 % of the rate.
pub const LEAST_MARGIN_MS: i64 = 13;
const MOST_MARGIN_MS: i64 = 200;
/// So many requests without a refusal take a quarter off what the margin has grown.
const EASE_AFTER: u64 = 100;

// A process that has not sent its request by then is gone: connecting takes a third of it at most.
const RESERVED_FOR_MS: i64 = 30_000;
// Nobody reserves farther ahead, and what says so is a broken file.
const FARTHEST_MS: i64 = 2 * HOUR_MS;
/// Waits of this length are a matter of pace, not of a quota that is used up.
pub const PACE_MS: i64 = 2000;
// A server that wants no requests for longer is asked again after a week.
const LONGEST_BLOCK_MS: i64 = 7 * 24 * HOUR_MS;

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct State {
    version: u32,
    /// The start of the machine that moments count from.
    boot_id: String,
    written_ms: i64,
    /// The same moment in Unix time, for the time between two starts of the machine.
    written_wall_ms: i64,
    /// Requests sent, ever. A request's number is what this was once it was sent.
    sent: u64,
    /// Nothing is sent before this moment: the server said so.
    blocked_until_ms: i64,
    /// The number of the latest request whose answer told of limits; what older ones told is out of date.
    heard: u64,
    pub server_per_second: Option<u32>,
    pub server_per_hour: Option<u32>,
    word: Option<Word>,
    /// By how much requests are kept farther apart than the limit per second wants.
    margin_ms: i64,
    /// [`State::sent`] when the margin was last changed.
    margin_since: u64,
    /// Moments at which requests are to go that have not gone, in order.
    reserved: Vec<i64>,
    second: Window,
    hour: Window,
}

/// What the server said of the hour.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq)]
struct Word {
    /// The request that was answered.
    number: u64,
    /// Requests left in this hour after it.
    remaining: u32,
    at_ms: i64,
    /// It has counted more than we have: others spend the same quota, or our state was lost. When those requests
    /// leave the hour is not known, so its word holds for an hour.
    shared: bool,
}

/// The limits that hold: the lesser of ours and the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    pub per_second: Option<u32>,
    pub per_hour: Option<u32>,
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The limit per second, and those before it.
    Pace,
    /// The limit per hour.
    Hour,
    /// The server, which wants no requests until then.
    Server,
}

/// When the next request may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    pub at_ms: i64,
    pub cause: Cause,
}

/// What becomes of a request whose moment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It goes now, as the request of this number.
    Now(u64),
    /// Others went later than they were to: it goes a little later, at this moment, which is reserved.
    At(i64),
    /// Not soon: it has to reserve anew.
    Shut,
}

impl Default for State {
    fn default() -> State {
        State {
            version: VERSION,
            boot_id: String::new(),
            written_ms: 0,
            written_wall_ms: 0,
            sent: 0,
            blocked_until_ms: 0,
            heard: 0,
            server_per_second: None,
            server_per_hour: None,
            word: None,
            margin_ms: LEAST_MARGIN_MS,
            margin_since: 0,
            reserved: Vec::new(),
            second: Window::default(),
            hour: Window::default(),
        }
    }
}

impl State {
    /// The state in a file, as it is now. One that cannot be understood was left by another version: nothing is
    /// known then.
    pub fn read(text: &[u8], now: &Now) -> State {
        let state: Option<State> = serde_json::from_slice(text).ok();
        let mut state = state.filter(|state| state.version == VERSION).unwrap_or_default();
        // Within one start of the machine its clock never goes back.
        if state.boot_id != now.boot_id || state.written_ms > now.ms {
            state.carry_over(now);
        }
        state.forget(now.ms);
        state
    }

    pub fn stamp(&mut self, now: &Now) {
        (self.boot_id, self.written_ms, self.written_wall_ms) = (now.boot_id.to_string(), now.ms, now.wall_ms);
    }

    /// The machine was started anew. How long that took only the wall clock knows; one that was set back knows
    /// nothing, and no time counts as passed.
    fn carry_over(&mut self, now: &Now) {
        let passed_ms = now.wall_ms.saturating_sub(self.written_wall_ms).max(0);
        let shift_ms = now.ms.saturating_sub(self.written_ms.saturating_add(passed_ms));
        self.second.move_by(shift_ms);
        self.hour.move_by(shift_ms);
        self.blocked_until_ms = self.blocked_until_ms.saturating_add(shift_ms);
        if let Some(word) = &mut self.word {
            word.at_ms = word.at_ms.saturating_add(shift_ms);
        }
        // Those who reserved are gone.
        self.reserved.clear();
    }

    /// Drops what no longer counts, and what cannot be: nothing was sent in times to come.
    fn forget(&mut self, now_ms: i64) {
        self.second.keep(now_ms - 2 * SECOND_MS, now_ms);
        self.hour.keep(now_ms - HOUR_SPAN_MS, now_ms);
        self.reserved.retain(|at| *at > now_ms - RESERVED_FOR_MS && *at <= now_ms + FARTHEST_MS);
        self.reserved.sort_unstable();
        self.word = self.word.filter(|word| (now_ms - HOUR_SPAN_MS..=now_ms).contains(&word.at_ms));
        self.margin_ms = self.margin_ms.clamp(LEAST_MARGIN_MS, MOST_MARGIN_MS);
        if self.blocked_until_ms <= now_ms || self.blocked_until_ms > now_ms + LONGEST_BLOCK_MS {
            self.blocked_until_ms = 0;
        }
    }

    /// When another request may go, after those that were sent and those that are to go.
    pub fn next(&self, now_ms: i64, rates: Rates) -> Opening {
        let (mut second, mut hour) = (Cow::Borrowed(&self.second), Cow::Borrowed(&self.hour));
        for at in &self.reserved {
            second.to_mut().add(*at, bucket_ms(rates), 1);
            hour.to_mut().add(*at, HOUR_BUCKET_MS, 1);
        }
        let limited = rates.per_second.is_some() || rates.per_hour.is_some();
        let last_ms = self.reserved.last().copied().filter(|_| limited).unwrap_or(i64::MIN);
        let opening = self.opening(rates, &second, &hour, self.reserved.len() as u64);
        match opening.at_ms < last_ms {
            // First come, first served. A moment far ahead was given out because of the hour.
            true if last_ms > now_ms + PACE_MS => Opening { at_ms: last_ms, cause: Cause::Hour },
            true => Opening { at_ms: last_ms.max(now_ms), cause: Cause::Pace },
            false if opening.at_ms <= now_ms => Opening { at_ms: now_ms, cause: Cause::Pace },
            false => opening,
        }
    }

    /// The rules. `unsent` requests are under way beside those that the server may have counted.
    fn opening(&self, rates: Rates, second: &Window, hour: &Window, unsent: u64) -> Opening {
        let mut opening = Opening { at_ms: i64::MIN, cause: Cause::Pace };
        let mut not_before = |at_ms: i64, cause| {
            if at_ms > opening.at_ms {
                opening = Opening { at_ms, cause };
            }
        };
        if let Some(limit) = rates.per_second {
            not_before(second.room_at(limit, SECOND_MS + self.margin_ms + bucket_ms(rates)), Cause::Pace);
        }
        if let Some(limit) = rates.per_hour {
            not_before(hour.room_at(limit, HOUR_SPAN_MS), Cause::Hour);
        }
        if let Some(word) = self.word.filter(|word| word.shared)
            && self.sent.saturating_sub(word.number) + unsent >= u64::from(word.remaining)
        {
            not_before(word.at_ms + HOUR_MS + HOUR_SLACK_MS, Cause::Hour);
        }
        not_before(self.blocked_until_ms, Cause::Server);
        opening
    }

    pub fn reserve(&mut self, at_ms: i64) {
        let place = self.reserved.partition_point(|other| *other <= at_ms);
        self.reserved.insert(place, at_ms);
    }

    /// Gives a reservation back.
    pub fn release(&mut self, at_ms: i64) {
        if let Ok(place) = self.reserved.binary_search(&at_ms) {
            self.reserved.remove(place);
        }
    }

    /// A request whose moment `reserved_ms` has come is about to go. What counts now is what was really sent: who has
    /// only reserved is asked the same when he is about to send.
    pub fn depart(&mut self, now_ms: i64, reserved_ms: i64, rates: Rates) -> Departure {
        self.release(reserved_ms);
        let Opening { at_ms, .. } = self.opening(rates, &self.second, &self.hour, 0);
        if at_ms <= now_ms {
            return Departure::Now(self.send(now_ms, rates));
        }
        if at_ms > now_ms + PACE_MS {
            return Departure::Shut;
        }
        // Not behind those who have reserved: with several processes on a busy machine one was put off so for 7 s.
        self.reserve(at_ms);
        Departure::At(at_ms)
    }

    /// Counts a request that goes now.
    pub fn send(&mut self, now_ms: i64, rates: Rates) -> u64 {
        self.second.add(now_ms, bucket_ms(rates), 1);
        self.hour.add(now_ms, HOUR_BUCKET_MS, 1);
        self.sent = self.sent.saturating_add(1);
        if self.margin_ms > LEAST_MARGIN_MS && self.sent.saturating_sub(self.margin_since) >= EASE_AFTER {
            self.margin_ms -= ((self.margin_ms - LEAST_MARGIN_MS) / 4).max(1);
            self.margin_since = self.sent;
        }
        self.sent
    }

    /// A request that was to go at one moment went at a later one.
    pub fn sent_later(&mut self, from_ms: i64, to_ms: i64, rates: Rates) {
        self.second.shift(from_ms, to_ms, bucket_ms(rates));
    }

    /// Takes in what the answer to the request `number` says. Answers overtake each other: only what the latest request
    /// was told counts.
    pub fn hear(&mut self, now_ms: i64, number: u64, server: ServerLimits, ours_per_hour: Option<u32>) {
        if number <= self.heard || number > self.sent {
            return;
        }
        self.heard = number;
        if self.server_per_second != server.per_second {
            // Those that are under way were sent by another limit; their refusal will say nothing of the margin.
            self.margin_since = self.sent;
        }
        self.server_per_second = server.per_second;
        self.server_per_hour = server.per_hour;
        let limit = server.per_hour.or(ours_per_hour);
        self.word = server.hourly_remaining.map(|remaining| {
            let ours = u64::from(self.hour.since(now_ms - HOUR_MS)).saturating_sub(self.sent - number);
            let shared = limit.is_none_or(|limit| u64::from(limit.saturating_sub(remaining)) > ours);
            Word { number, remaining, at_ms: now_ms, shared }
        });
    }

    /// The server wants no requests for so long.
    pub fn block(&mut self, now_ms: i64, wait_ms: i64) {
        self.blocked_until_ms = self.blocked_until_ms.max(now_ms.saturating_add(wait_ms.min(LONGEST_BLOCK_MS)));
    }

    /// The request `number` was one too many in its second, by the server's count but not by ours: requests take more
    /// unequal times to it than we thought. Once for all that were under way together.
    pub fn widen(&mut self, number: u64, rates: Rates) {
        if rates.per_second.is_some() && number > self.margin_since && number <= self.sent {
            self.margin_ms = (2 * self.margin_ms).min(MOST_MARGIN_MS);
            self.margin_since = self.sent;
        }
    }

    /// Sends so many requests one after the other as soon as each may go: when the last one goes.
    pub fn run(&mut self, now_ms: i64, requests: u64, rates: Rates) -> i64 {
        for at_ms in std::mem::take(&mut self.reserved) {
            self.send(at_ms, rates);
        }
        let mut at_ms = now_ms;
        for _ in 0..requests {
            at_ms = self.next(at_ms, rates).at_ms;
            self.send(at_ms, rates);
        }
        at_ms
    }

    /// Requests that may still be sent in this hour, of the limit per hour.
    pub fn left(&self, now_ms: i64, limit: u32) -> u32 {
        let ours = limit.saturating_sub(self.hour.since(now_ms - HOUR_SPAN_MS));
        let theirs = self.word.filter(|word| word.shared).map_or(ours, |word| {
            word.remaining.saturating_sub(self.sent.saturating_sub(word.number).try_into().unwrap_or(u32::MAX))
        });
        ours.min(theirs)
    }
}

/// Fine enough for the rate to be kept to a hundredth, and a second is a hundred buckets at most from 100 requests on.
fn bucket_ms(rates: Rates) -> i64 {
    rates.per_second.map_or(10, |limit| i64::from(limit / 10).clamp(1, 10))
}
