//! What the simulator has seen and done, for tests to read.

use std::collections::BTreeMap;

use crate::simulate::json::{Json, Object};

#[derive(Debug, Default)]
pub struct Stats {
    /// Requests by the kind of their path.
    pub requests: BTreeMap<&'static str, u64>,
    pub faults_played: BTreeMap<&'static str, u64>,
    pub rate_limited: u64,
    pub unauthorized: u64,
    pub not_modified: u64,
    /// Bytes of bodies, as sent.
    pub body_bytes: u64,
    /// Requests that wait for their answer now, and the most there ever were.
    pub in_flight: u64,
    pub most_in_flight: u64,
    /// Answers that wait for a release now, and all that ever did.
    pub held: u64,
    pub held_in_all: u64,
}

/// Counts by name, as an object.
struct Counts<'a>(&'a BTreeMap<&'static str, u64>);

impl Json for Counts<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let object = Object::new(out);
        self.0.iter().fold(object, |object, (name, count)| object.field(name, *count as i64)).end();
    }
}

impl Stats {
    pub fn count(counts: &mut BTreeMap<&'static str, u64>, name: &'static str) {
        *counts.entry(name).or_default() += 1;
    }

    /// Forgets everything but what is going on now.
    pub fn reset(&mut self) {
        let (in_flight, held) = (self.in_flight, self.held);
        *self = Stats { in_flight, most_in_flight: in_flight, held, ..Stats::default() };
    }

    pub fn json(&self, day: u32, tokens_issued: usize) -> Vec<u8> {
        let mut out = Vec::new();
        Object::new(&mut out)
            .field("day", i64::from(day))
            .field("requests", Counts(&self.requests))
            .field("requests_in_all", self.requests.values().sum::<u64>() as i64)
            .field("rate_limited", self.rate_limited as i64)
            .field("unauthorized", self.unauthorized as i64)
            .field("not_modified", self.not_modified as i64)
            .field("tokens_issued", tokens_issued as i64)
            .field("faults_played", Counts(&self.faults_played))
            .field("body_bytes", self.body_bytes as i64)
            .field("in_flight", self.in_flight as i64)
            .field("most_in_flight", self.most_in_flight as i64)
            .field("held", self.held as i64)
            .field("held_in_all", self.held_in_all as i64)
            .end();
        out
    }
}
