//! The two limits, per second and per hour, as the API counts and announces them.

use std::collections::VecDeque;

use crate::simulate::options::{Limits, Window};

const SECOND_MS: u64 = 1000;
const HOUR_MS: u64 = 3_600_000;

/// Counts requests. Those that are refused do not count.
pub struct Limiter {
    window: Window,
    limits: Option<[Count; 2]>,
}

/// One limit; `since` holds the times of the requests in the current window.
struct Count {
    limit: u32,
    span_ms: u64,
    since: VecDeque<u64>,
}

/// What the headers say: for each of second and hour, the limit and what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    pub limit: [u32; 2],
    pub remaining: [u32; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Unlimited,
    Admitted(Left),
    Refused { left: Left, retry_after_s: u64 },
}

impl Limiter {
    pub fn new(limits: Limits, window: Window) -> Limiter {
        let count = |limit, span_ms| Count { limit, span_ms, since: VecDeque::new() };
        let limits = match limits {
            Limits::None => None,
            Limits::Per { second, hour } => Some([count(second, SECOND_MS), count(hour, HOUR_MS)]),
        };
        Limiter { window, limits }
    }

    /// Admits or refuses a request that arrives `now_ms` after the start.
    pub fn admit(&mut self, now_ms: u64) -> Verdict {
        let window = self.window;
        let Some(counts) = &mut self.limits else {
            return Verdict::Unlimited;
        };
        for count in counts.iter_mut() {
            count.forget(now_ms, window);
        }
        let full_until = counts.iter().filter_map(|count| count.full_until(window)).max();
        if full_until.is_none() {
            for count in counts.iter_mut() {
                count.since.push_back(now_ms);
            }
        }
        let left = Left {
            limit: [counts[0].limit, counts[1].limit],
            remaining: [counts[0].remaining(), counts[1].remaining()],
        };
        match full_until {
            None => Verdict::Admitted(left),
            Some(until_ms) => {
                Verdict::Refused { left, retry_after_s: until_ms.saturating_sub(now_ms).div_ceil(1000).max(1) }
            }
        }
    }
}

impl Count {
    fn forget(&mut self, now_ms: u64, window: Window) {
        let span_ms = self.span_ms;
        let is_over = |at_ms: u64| match window {
            Window::Fixed => at_ms / span_ms < now_ms / span_ms,
            Window::Sliding => at_ms + span_ms <= now_ms,
        };
        while self.since.front().is_some_and(|&at_ms| is_over(at_ms)) {
            self.since.pop_front();
        }
    }

    fn full_until(&self, window: Window) -> Option<u64> {
        let first = *self.since.front().filter(|_| self.remaining() == 0)?;
        Some(match window {
            Window::Fixed => (first / self.span_ms + 1) * self.span_ms,
            Window::Sliding => first + self.span_ms,
        })
    }

    fn remaining(&self) -> u32 {
        self.limit.saturating_sub(self.since.len() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: Limits = Limits::Per { second: 2, hour: 5 };

    fn admitted(limiter: &mut Limiter, times_ms: &[u64]) -> Vec<bool> {
        times_ms.iter().map(|&at| matches!(limiter.admit(at), Verdict::Admitted(_))).collect()
    }

    #[test]
    fn a_fixed_window_starts_anew_with_the_second() {
        let mut limiter = Limiter::new(TWO, Window::Fixed);
        assert_eq!(admitted(&mut limiter, &[900, 950, 999, 1000, 1001, 1002]), [true, true, false, true, true, false]);
    }

    #[test]
    fn a_sliding_window_counts_the_last_second() {
        let mut limiter = Limiter::new(TWO, Window::Sliding);
        assert_eq!(admitted(&mut limiter, &[900, 950, 1000, 1899, 1900, 1950]), [true, true, false, false, true, true]);
    }

    #[test]
    fn the_hour_says_how_long_to_wait() {
        let mut limiter = Limiter::new(TWO, Window::Fixed);
        assert!(admitted(&mut limiter, &[0, 1000, 2000, 3000, 4000]).iter().all(|&admitted| admitted));
        let left = Left { limit: [2, 5], remaining: [2, 0] };
        assert_eq!(limiter.admit(5000), Verdict::Refused { left, retry_after_s: 3595 });
        assert!(matches!(limiter.admit(HOUR_MS), Verdict::Admitted(_)));
    }

    #[test]
    fn headers_tell_what_is_left_after_the_request() {
        let mut limiter = Limiter::new(TWO, Window::Fixed);
        assert_eq!(limiter.admit(0), Verdict::Admitted(Left { limit: [2, 5], remaining: [1, 4] }));
        assert_eq!(Limiter::new(Limits::None, Window::Fixed).admit(0), Verdict::Unlimited);
    }
}
