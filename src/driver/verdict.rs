//! What was decided of a step, and why, in words.

use std::fmt;

use crate::error::Error;

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
    NeverRun,
    NeverExtracted,
    /// A part of its definition is another ([`crate::pipeline::first_difference`]).
    Changed {
        part: String,
    },
    /// Of a demo, whose API ends with it: it was fetched from another.
    DemoOver,
    ProgramChanged,
    /// Among the inputs of a program.
    FileChanged {
        file: String,
    },
    FileNew {
        file: String,
    },
    FileGone {
        file: String,
    },
    /// Since the fetch, and the limit as the pipeline has it.
    Old {
        age_s: u64,
        max_age_s: u64,
    },
    /// As above, of a program.
    OldRun {
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
    /// It was taken as it was, since it could not be made anew.
    OutputTaken,
    /// There is an export, and no receipt of it.
    NoReceipt,
    /// Its own pages are to be fetched first.
    WaitsForPages,
    /// Its own program is to run first.
    WaitsForProgram,
    /// A stage that it reads is stale itself: what it makes of that is not known yet.
    Waits {
        stage: String,
    },
    NeverLoaded,
    /// The last load was of other exports or other tables, or by an older version.
    LoadedOther {
        run: String,
    },
    /// The same records, of a later fetch: how old the mirror is, is to be noted.
    FetchedAgain,
    TableMissing {
        table: String,
    },
    TableChanged {
        table: String,
    },
    /// The validation after the last load failed.
    Invalid,
    /// Nothing has validated what was loaded.
    NeverValidated,
    /// Only a validation can tell what is wrong with the age of the mirror.
    MirrorOld {
        age_s: Option<u64>,
        limit_s: u64,
    },
    /// The database could not be asked.
    NotKnown {
        why: String,
    },
    /// It cannot be told, or cannot be done: a file that cannot be read, a program that is not there, a filter that does not
    /// compile.
    Broken {
        why: String,
    },
}

/// Why the steps of a stage ran, or that they did not have to.
#[derive(Clone, Debug, Default)]
pub struct Decided {
    pub fetch: Option<Verdict>,
    pub extract: Option<Verdict>,
}

impl Decided {
    /// What is to be told of the stage: the first of its steps that is not simply current.
    pub fn told(&self) -> &Verdict {
        let verdicts = [&self.fetch, &self.extract].into_iter().flatten();
        let mut telling = verdicts.filter(|verdict| **verdict != Verdict::Current);
        telling.next().unwrap_or(&Verdict::Current)
    }
}

impl Verdict {
    /// Of a step that cannot be judged, or done, for this.
    pub fn broken(error: &Error) -> Verdict {
        Verdict::Stale(Reason::Broken { why: error.message().to_string() })
    }

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
            Reason::NeverRun => f.write_str("never run"),
            Reason::DemoOver => f.write_str("the demo's API runs no longer"),
            Reason::ProgramChanged => f.write_str("the program changed"),
            Reason::FileChanged { file } => write!(f, "{file} changed"),
            Reason::FileNew { file } => write!(f, "{file} is new"),
            Reason::FileGone { file } => write!(f, "{file} is gone"),
            Reason::OldRun { age_s, max_age_s } => {
                write!(f, "last run {} ago, max_age {}", span(*age_s), span(*max_age_s))
            }
            Reason::WaitsForProgram => f.write_str("waits for its program"),
            Reason::NeverExtracted => f.write_str("never extracted"),
            Reason::Changed { part } => f.write_str(&changed(part)),
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
            Reason::OutputTaken => f.write_str("all.json was taken as it was"),
            Reason::NoReceipt => f.write_str("all.json has no receipt"),
            Reason::NeverLoaded => f.write_str("never loaded"),
            Reason::LoadedOther { run } => write!(f, "the last load, {run}, was of other exports"),
            Reason::FetchedAgain => f.write_str("the same records were fetched again"),
            Reason::TableMissing { table } => write!(f, "table {table} is not there"),
            Reason::TableChanged { table } => write!(f, "table {table} was emptied, altered or made anew"),
            Reason::Invalid => f.write_str("the validation of the last load failed"),
            Reason::NeverValidated => f.write_str("the last load was not validated"),
            Reason::MirrorOld { age_s: Some(age_s), limit_s } => {
                write!(f, "the mirror is {} old, stale_after is {}", span(*age_s), span(*limit_s))
            }
            Reason::MirrorOld { age_s: None, .. } => f.write_str("how old the mirror is is not known"),
            Reason::Broken { why } => f.write_str(why),
            Reason::NotKnown { why } => write!(f, "the database could not be asked: {why}"),
        }
    }
}

/// What it is to a reader that this part of a definition is another.
fn changed(part: &str) -> String {
    let what = match part {
        "format" => return "made by another version of mirror42's data format".to_string(),
        "run" => "what it runs",
        "filter" => "the filter",
        "key" => "the key",
        "records" => return "the records are elsewhere in a page".to_string(),
        "address" => "the address of the API",
        "schema" => "the schema file",
        "tables" => "which stage fills which table",
        "checks" => "the checks",
        key => return format!("`{key}` changed"),
    };
    format!("{what} changed")
}

impl Reason {
    /// As programs tell reasons from each other (`plan --json`).
    pub fn code(&self) -> &'static str {
        match self {
            Reason::Forced => "forced",
            Reason::NeverFetched => "never-fetched",
            Reason::NeverRun => "never-run",
            Reason::NeverExtracted => "never-extracted",
            Reason::DemoOver => "demo-over",
            Reason::ProgramChanged => "program-changed",
            Reason::FileChanged { .. } => "file-changed",
            Reason::FileNew { .. } => "file-new",
            Reason::FileGone { .. } => "file-gone",
            Reason::OldRun { .. } => "old-run",
            Reason::WaitsForProgram => "waits-for-program",
            Reason::Changed { .. } => "definition",
            Reason::Old { .. } => "old",
            Reason::OtherRecords { .. } => "other-records",
            Reason::OtherPages { .. } => "other-pages",
            Reason::PageMissing { .. } => "page-missing",
            Reason::PageChanged { .. } => "page-changed",
            Reason::OutputMissing => "output-missing",
            Reason::OutputEdited => "output-edited",
            Reason::OutputTaken => "output-taken",
            Reason::NoReceipt => "no-receipt",
            Reason::WaitsForPages => "waits-for-pages",
            Reason::Waits { .. } => "waits",
            Reason::NeverLoaded => "never-loaded",
            Reason::LoadedOther { .. } => "loaded-other",
            Reason::FetchedAgain => "fetched-again",
            Reason::TableMissing { .. } => "table-missing",
            Reason::TableChanged { .. } => "table-changed",
            Reason::Invalid => "invalid",
            Reason::NeverValidated => "never-validated",
            Reason::MirrorOld { .. } => "mirror-old",
            Reason::NotKnown { .. } => "not-known",
            Reason::Broken { .. } => "broken",
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
