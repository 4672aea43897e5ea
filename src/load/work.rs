//! One table on its way through a load.

use crate::diff::buffer::Buffer;
use crate::diff::job::Job;
use crate::diff::source::Read;

pub struct Work<'a> {
    pub job: Job<'a>,
    /// The delta table, as SQL takes it: rows that are to be. There is one only where it is needed.
    pub delta: String,
    /// The table of keys that go, as SQL takes it. There is one only if any go.
    pub gone: String,
    pub way: Way,
    pub read: Read,
    /// That the export fills, in the order of the fields.
    pub columns: Vec<String>,
    pub counts: Counts,
    /// In how many rows they differ, for those columns that do.
    pub changed_columns: Vec<(String, u64)>,
    pub duration_ms: u128,
}

/// How an export goes into its table.
pub enum Way {
    /// It is there: the table was empty.
    Direct,
    /// The table is empty, and refers to rows that are not written yet.
    Later,
    /// What differs was found here.
    Diff { new: Buffer, changed: Buffer },
    /// All of it is in the delta table: the server compares.
    Plain,
}

/// What a load does, or did, to one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows before the load.
    pub before: u64,
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
}

impl<'a> Work<'a> {
    /// `place` is that of the table in the load.
    pub fn new(job: Job<'a>, place: usize, way: Way) -> Work<'a> {
        Work {
            delta: temporary("delta", place, &job.table.name),
            gone: temporary("gone", place, &job.table.name),
            job,
            way,
            read: Read::default(),
            columns: Vec::new(),
            counts: Counts::default(),
            changed_columns: Vec::new(),
            duration_ms: 0,
        }
    }

    /// The table, as messages name it.
    pub fn name(&self) -> &str {
        &self.job.table.name
    }

    pub fn stage_name(&self) -> &str {
        self.job.stage_name()
    }

    /// Records that are the rows that they were.
    pub fn unchanged(&self) -> u64 {
        let there = self.read.records - self.read.orphan_count() - self.read.duplicates;
        there.saturating_sub(self.counts.inserted + self.counts.updated)
    }
}

/// Needs no quotes, so that Postgres writes it in its messages as it is here, and is short enough not to be cut.
fn temporary(what: &str, place: usize, table: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let plain: String = table.chars().map(plain).take(38).collect();
    format!("mirror42_{what}_{place}_{plain}")
}
