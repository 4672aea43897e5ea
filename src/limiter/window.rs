//! When requests were sent, in buckets, so that the state stays small whatever the limit.

use serde::{Deserialize, Serialize};

/// Requests per bucket: the bucket's first moment (milliseconds since boot) and its count, in order.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Window(Vec<(i64, u32)>);

impl Window {
    /// Counts requests at `at_ms`. Later ones are added later, but for reservations.
    pub fn add(&mut self, at_ms: i64, bucket_ms: i64, count: u32) {
        let start = at_ms - at_ms.rem_euclid(bucket_ms);
        match self.0.binary_search_by_key(&start, |(start, _)| *start) {
            Ok(i) => self.0[i].1 = self.0[i].1.saturating_add(count),
            Err(i) => self.0.insert(i, (start, count)),
        }
    }

    /// What was counted at one moment is counted at another.
    pub fn shift(&mut self, from_ms: i64, to_ms: i64, bucket_ms: i64) {
        let start = from_ms - from_ms.rem_euclid(bucket_ms);
        if let Ok(i) = self.0.binary_search_by_key(&start, |(start, _)| *start) {
            self.0[i].1 -= 1;
            if self.0[i].1 == 0 {
                self.0.remove(i);
            }
            self.add(to_ms, bucket_ms, 1);
        }
    }

    /// The first moment at which fewer than `limit` requests count, when each counts until `span_ms` after its
    /// bucket's first moment.
    pub fn room_at(&self, limit: u32, span_ms: i64) -> i64 {
        let mut later = 0;
        for (start, count) in self.0.iter().rev() {
            later += u64::from(*count);
            if later >= u64::from(limit) {
                return start.saturating_add(span_ms);
            }
        }
        i64::MIN
    }

    /// Requests in the buckets that begin after `moment_ms`.
    pub fn since(&self, moment_ms: i64) -> u32 {
        let counted = self.0.iter().rev().take_while(|(start, _)| *start > moment_ms);
        counted.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// Moves all by so much, for a clock that begins anew.
    pub fn move_by(&mut self, shift_ms: i64) {
        self.0.iter_mut().for_each(|(start, _)| *start = start.saturating_add(shift_ms));
    }

    /// Keeps the buckets that begin after `from_ms` and not after `to_ms`; no other can count, or be.
    pub fn keep(&mut self, from_ms: i64, to_ms: i64) {
        self.0.retain(|(start, count)| *start > from_ms && *start <= to_ms && *count > 0);
        // Only a file that somebody else wrote is out of order.
        if !self.0.is_sorted_by_key(|(start, _)| *start) {
            self.0.sort_unstable();
        }
    }
}
