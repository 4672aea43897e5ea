//! Whether a stage is current, and why not: the one place that decides, and the one that explains.
//!
//! Hashes decide, not clocks: a stage is current when its definition, what it read and what it wrote
//! are those in its receipt; and a fetch also when it is younger than `max_age`.

use std::fmt;

use crate::error::Result;
use crate::files;
use crate::paths::page_file;
use crate::pipeline::{Fetch, Pipeline, Stage};
use crate::receipt::{FetchReceipt, Receipt, age_s};

/// Nothing to do, or why something is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Current,
    Stale(Reason),
}

/// Each reason is a sentence for `plan` and the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    Forced,
    NeverFetched,
    NeverRun,
    NeverExtracted,
    RequestChanged,
    /// What is started, or with what.
    CommandChanged,
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
    FilterChanged,
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
    OutputChanged,
    /// Its own pages are to be fetched first.
    WaitsForPages,
    /// Its own program is to run first.
    WaitsForProgram,
    /// A stage that it reads is stale itself: what it makes of that is not known yet.
    Waits {
        stage: String,
    },
}

impl Verdict {
    pub fn is_current(&self) -> bool {
        *self == Verdict::Current
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Current => f.write_str("current"),
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
            Reason::NeverExtracted => f.write_str("never extracted"),
            Reason::RequestChanged => f.write_str("what it asks of the API changed"),
            Reason::CommandChanged => f.write_str("what it runs changed"),
            Reason::ProgramChanged => f.write_str("the program changed"),
            Reason::FileChanged { file } => write!(f, "{file} changed"),
            Reason::FileNew { file } => write!(f, "{file} is new"),
            Reason::FileGone { file } => write!(f, "{file} is gone"),
            Reason::FilterChanged => f.write_str("the filter or the key changed"),
            Reason::Old { age_s, max_age_s } => {
                write!(f, "last fetched {} ago, max_age {}", span(*age_s), span(*max_age_s))
            }
            Reason::OldRun { age_s, max_age_s } => {
                write!(f, "last run {} ago, max_age {}", span(*age_s), span(*max_age_s))
            }
            Reason::OtherRecords { stage } => write!(f, "{stage} has other records"),
            Reason::OtherPages { stage } => write!(f, "{stage} has other pages"),
            Reason::PageMissing { page } => write!(f, "{page} is not there"),
            Reason::PageChanged { page } => write!(f, "{page} is not what its receipt says"),
            Reason::OutputMissing => f.write_str("all.json is not there"),
            Reason::OutputChanged => f.write_str("all.json was changed by hand"),
            Reason::WaitsForProgram => f.write_str("waits for its program"),
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

/// Whether the pages of `stage` are current. The export that `each` names is as it will be.
pub fn of_fetch(pipeline: &Pipeline, stage: &Stage, fetch: &Fetch) -> Result<Verdict> {
    let receipt = Receipt::read(&pipeline.paths, &stage.name)?.and_then(|receipt| receipt.fetch);
    let Some(receipt) = receipt else { return Ok(Verdict::Stale(Reason::NeverFetched)) };
    let stale = match fetch_reason(pipeline, fetch, &receipt)? {
        Some(reason) => Some(reason),
        None => page_reason(pipeline, &stage.name, &receipt)?,
    };
    Ok(stale.map_or(Verdict::Current, Verdict::Stale))
}

fn fetch_reason(pipeline: &Pipeline, fetch: &Fetch, receipt: &FetchReceipt) -> Result<Option<Reason>> {
    if receipt.definition != pipeline.fetch_definition(fetch) {
        return Ok(Some(Reason::RequestChanged));
    }
    if let Some(each) = &fetch.each
        && receipt.inputs.get(each) != files::sha256(&pipeline.paths.all_json(each))?.as_ref()
    {
        return Ok(Some(Reason::OtherRecords { stage: each.clone() }));
    }
    let (age_s, max_age_s) = (age_s(&receipt.started_at), fetch.max_age.as_secs());
    Ok((age_s >= max_age_s).then_some(Reason::Old { age_s, max_age_s }))
}

fn page_reason(pipeline: &Pipeline, stage: &str, receipt: &FetchReceipt) -> Result<Option<Reason>> {
    let folder = pipeline.paths.pages(stage);
    for (series, number, page) in receipt.pages() {
        let path = page_file(&folder, series.key.as_deref(), number);
        let shown = || pipeline.paths.shown(&path);
        match files::sha256(&path)? {
            None => return Ok(Some(Reason::PageMissing { page: shown() })),
            Some(sha256) if sha256 != page.sha256 => return Ok(Some(Reason::PageChanged { page: shown() })),
            Some(_) => {}
        }
    }
    Ok(None)
}

/// Whether the export of `stage` is current, given that all it reads is as it will be.
pub fn of_extract(pipeline: &Pipeline, stage: &Stage) -> Result<Verdict> {
    let paths = &pipeline.paths;
    let receipt = Receipt::read(paths, &stage.name)?.and_then(|receipt| receipt.extract);
    let Some(receipt) = receipt else { return Ok(Verdict::Stale(Reason::NeverExtracted)) };
    if receipt.definition != stage.extract_definition() {
        return Ok(Verdict::Stale(Reason::FilterChanged));
    }
    let (source, fetch) = pipeline.source_of(stage)?;
    let pages = Receipt::read(paths, &source.name)?.and_then(|receipt| receipt.pages_hash());
    if receipt.inputs.get(&format!("pages/{}", source.name)) != pages.as_ref() {
        return Ok(Verdict::Stale(Reason::OtherPages { stage: source.name.clone() }));
    }
    for name in fetch.each.iter().chain(stage.with.iter().map(|(_, name)| name)) {
        if receipt.inputs.get(name) != files::sha256(&paths.all_json(name))?.as_ref() {
            return Ok(Verdict::Stale(Reason::OtherRecords { stage: name.clone() }));
        }
    }
    Ok(match files::sha256(&paths.all_json(&stage.name))? {
        None => Verdict::Stale(Reason::OutputMissing),
        Some(sha256) if sha256 != receipt.sha256 => Verdict::Stale(Reason::OutputChanged),
        Some(_) => Verdict::Current,
    })
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
