//! What was decided of a step, and why, in words.

use std::fmt;

/// Nothing to do, or why something is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Current,
    /// It would be made anew, but is not: the run was told so.
    Kept(Reason),
    Stale(Reason),
}

/// Each reason is a sentence for `plan` and the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    Forced,
    NeverFetched,
    NeverExtracted,
    RequestChanged,
    FilterChanged,
    /// Since the fetch, and the limit as the pipeline has it.
    Old {
        age_s: u64,
        max_age_s: u64,
    },
    /// An export that was read is another now.
    OtherRecords {
        stage: String,
    },
    OtherPages {
        stage: String,
    },
    PageMissing {
        page: String,
    },
    PageChanged {
        page: String,
    },
    OutputMissing,
    OutputEdited,
    /// Its own pages are to be fetched first.
    WaitsForPages,
    /// A stage that it reads is stale itself: what it makes of that is not known yet.
    Waits {
        stage: String,
    },
}

impl Verdict {
    /// Whether nothing is to be done.
    pub fn is_current(&self) -> bool {
        !matches!(self, Verdict::Stale(_))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Current => f.write_str("current"),
            Verdict::Kept(reason) => write!(f, "kept: {reason}"),
            Verdict::Stale(reason) => reason.fmt(f),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Forced => f.write_str("forced"),
            Reason::NeverFetched => f.write_str("never fetched whole"),
            Reason::NeverExtracted => f.write_str("never extracted"),
            Reason::RequestChanged => f.write_str("what it asks of the API changed"),
            Reason::FilterChanged => f.write_str("the filter or the key changed"),
            Reason::Old { age_s, max_age_s } => {
                write!(f, "last fetched {} ago, max_age {}", span(*age_s), span(*max_age_s))
            }
            Reason::OtherRecords { stage } => write!(f, "{stage} has other records"),
            Reason::OtherPages { stage } => write!(f, "{stage} has other pages"),
            Reason::PageMissing { page } => write!(f, "{page} is not there"),
            Reason::PageChanged { page } => write!(f, "{page} is not what its receipt says"),
            Reason::OutputMissing => f.write_str("all.json is not there"),
            Reason::OutputEdited => f.write_str("all.json was edited by hand"),
            Reason::WaitsForPages => f.write_str("waits for its pages"),
            Reason::Waits { stage } => write!(f, "waits for {stage}"),
        }
    }
}

/// A length of time in its two largest units.
pub fn span(seconds: u64) -> String {
    let (d, h, m, s) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (d, h, m) {
        (0, 0, 0) => format!("{s} s"),
        (0, 0, _) => format!("{m} min"),
        (0, _, 0) => format!("{h} h"),
        (0, _, _) => format!("{h} h {m} min"),
        (_, 0, _) => format!("{d} d"),
        (_, _, _) => format!("{d} d {h} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_two_units_at_the_most() {
        let spans = [5, 60, 3599, 3600, 72_000, 93_600, 86_400, 100_000].map(span);
        assert_eq!(spans, ["5 s", "1 min", "59 min", "1 h", "20 h", "1 d 2 h", "1 d", "1 d 3 h"]);
    }
}
