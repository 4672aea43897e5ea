//! `stage.json`: what made the files beside it, so that whether they are current can be decided by
//! hashes, and what they hold can be shown later.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::{self, Layout};
use crate::paths::Paths;
use crate::pipeline::{Pipeline, Stage};

const VERSION: u32 = 2;

/// In the place of an extract's definition: somebody edited the export, and `--trust-exports` took it.
pub const BY_HAND: &str = "by hand";
/// In the place of an extract's definition: `--trust-exports` took an export that could not be made anew.
pub const AS_IT_WAS: &str = "as it was";

/// One stage's receipt. `fetch` is there for stages that fetch, `run` for those with a program, `extract` once the filter
/// has run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Receipt {
    version: u32,
    pub stage: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fetch: Option<FetchReceipt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<RunReceipt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extract: Option<ExtractReceipt>,
}

/// The evidence that the pages under `pages/` are whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchReceipt {
    /// [`crate::pipeline::Pipeline::fetch_definition`] at the time.
    pub definition: String,
    /// SHA-256 of the exports that were read, by stage.
    pub inputs: BTreeMap<String, String>,
    /// UTC, RFC 3339. The data is as old as the start.
    pub started_at: String,
    pub finished_at: String,
    pub duration_ms: u64,
    /// Requests sent, with those that were sent again.
    pub requests: u64,
    /// Requests among them that were answered badly and sent again.
    pub retries: u64,
    /// Pages that were here already: a fetch that was killed had asked for them.
    pub resumed_pages: u64,
    pub records: u64,
    pub size_bytes: u64,
    pub series: Vec<Series>,
}

/// One series of pages: the records of one index, and the evidence that they are all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series {
    /// The key of the `each` record, which names the folder of its pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    pub proof: Proof,
    /// What the server said it has (`X-Total`), on the first page and the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Records that the server gave to a page that is full; none where pages have no fixed size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_size: Option<u64>,
    /// Different ids of records; none if they have no ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distinct_ids: Option<u64>,
    pub pages: Vec<Page>,
}

/// What shows that a series is whole, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// As many records came as the server says it has, before and after.
    Total,
    /// The server tells no total: it was read on until a page was not full.
    ShortPage,
    /// The server tells no total: it named no further page.
    NoNextPage,
    /// One answer is all there is.
    SingleAnswer,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    pub records: u64,
    pub size_bytes: u64,
    pub sha256: String,
    /// The server's name for these bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// When it was asked for: UTC, RFC 3339. One that was asked for again, and had not changed, was asked for then.
    pub asked_at: String,
    /// Until its last byte had come.
    pub took_ms: u64,
}

impl Series {
    pub fn records(&self) -> u64 {
        self.pages.iter().map(|page| page.records).sum()
    }

    /// What this evidence lacks for a whole series; none if nothing.
    pub fn lacks(&self) -> Option<String> {
        let records = self.records();
        let Some((last, full)) = self.pages.split_last() else { return Some("it has no page".to_string()) };
        if let Some(distinct) = self.distinct_ids.filter(|distinct| *distinct != records) {
            return Some(format!("it has {records} records with {distinct} different ids"));
        }
        if let Some(size) = self.page_size
            && let Some(at) = full.iter().position(|page| page.records != size)
        {
            let (number, count, found) = (at + 1, self.pages.len(), full[at].records);
            return Some(format!("page {number} of {count} has {found} records, not {size}"));
        }
        match (self.proof, self.total, self.page_size) {
            (Proof::Total, Some(total), _) if total != records => {
                Some(format!("its total is {total}, and {records} records came"))
            }
            (Proof::Total, None, _) => Some("its total is not known".to_string()),
            (Proof::ShortPage, _, Some(size)) if last.records >= size => {
                Some(format!("its last page, {}, is full", self.pages.len()))
            }
            (Proof::SingleAnswer, ..) if !full.is_empty() => Some("it has more than one page".to_string()),
            _ => None,
        }
    }
}

/// What a program has read and written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunReceipt {
    /// [`crate::pipeline::Run::definition`] at the time.
    pub definition: String,
    /// SHA-256 of the exports that it was given, by stage.
    pub inputs: BTreeMap<String, String>,
    /// SHA-256 of the files among its `inputs`, by name.
    pub files: BTreeMap<String, String>,
    /// SHA-256 of the program, where it is a file below the pipeline's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// UTC, RFC 3339.
    pub started_at: String,
    pub finished_at: String,
    pub duration_ms: u64,
    pub records: u64,
    pub size_bytes: u64,
    pub pages: Vec<OutputPage>,
}

/// A part of what a program wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputPage {
    pub records: u64,
    pub size_bytes: u64,
    pub sha256: String,
}

impl RunReceipt {
    /// One hash for all pages, in order.
    pub fn pages_hash(&self) -> String {
        let hashes: Vec<&str> = self.pages.iter().map(|page| page.sha256.as_str()).collect();
        files::sha256_of(hashes.join(" ").as_bytes())
    }
}

/// What the filter made of the pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtractReceipt {
    /// [`crate::pipeline::Pipeline::extract_definition`] at the time; or [`BY_HAND`], or [`AS_IT_WAS`].
    pub definition: String,
    /// Hashes of what was read, by stage: of a source its pages ([`Receipt::pages_hash`], under
    /// `pages/STAGE`), of an export its `all.json`.
    pub inputs: BTreeMap<String, String>,
    /// UTC, RFC 3339.
    pub finished_at: String,
    pub duration_ms: u64,
    pub records_in: u64,
    pub records_out: u64,
    /// Records that had the key of another, equal or not.
    pub duplicates: u64,
    pub size_bytes: u64,
    /// Of `all.json`.
    pub sha256: String,
}

impl Receipt {
    /// The receipt of a stage; none if there is none or if another version of mirror42 wrote it.
    pub fn read(paths: &Paths, stage: &str) -> Result<Option<Receipt>> {
        let path = paths.receipt(stage);
        let Some(bytes) = files::read_if_there(&path)? else { return Ok(None) };
        // A receipt that cannot be read says nothing: the stage is stale, and the next run writes a new one.
        Ok(serde_json::from_slice(&bytes).ok().filter(|receipt: &Receipt| receipt.version == VERSION))
    }

    /// The fetch part of a stage's receipt, if its evidence says that all its series are whole; else an error that says
    /// what is missing.
    pub fn sealed_fetch(paths: &Paths, stage: &str) -> Result<FetchReceipt> {
        let place = paths.shown(&paths.receipt(stage));
        let refused = |message: String| {
            Error::failed(message).at(&place).hint(format!("Run `mirror42-fetch {stage}`, or `mirror42 run`."))
        };
        let fetch = Receipt::read(paths, stage)?.and_then(|receipt| receipt.fetch);
        let fetch = fetch.ok_or_else(|| refused(format!("stage `{stage}` has no pages that were fetched whole")))?;
        match fetch.lacks() {
            None => Ok(fetch),
            Some(what) => Err(refused(format!("the pages of stage `{stage}` are not whole: {what}"))),
        }
    }

    /// The run part of a stage's receipt, or an error that says what to run.
    pub fn of_run(paths: &Paths, stage: &str) -> Result<RunReceipt> {
        Receipt::read(paths, stage)?.and_then(|receipt| receipt.run).ok_or_else(|| {
            Error::failed(format!("the program of stage `{stage}` has not run"))
                .at(paths.shown(&paths.receipt(stage)))
                .hint(format!("Run `mirror42-exec {stage}`, or `mirror42 run`."))
        })
    }

    /// One hash for all pages, whether they were fetched or a program wrote them; none if there are none.
    pub fn pages_hash(&self) -> Option<String> {
        let fetched = self.fetch.as_ref().map(FetchReceipt::pages_hash);
        fetched.or_else(|| self.run.as_ref().map(RunReceipt::pages_hash))
    }

    /// How old the data of `stage` is: the oldest start of a fetch, or of a program that reads what grows old, among all
    /// that it was made from. What comes from files alone is of now; none: not known.
    pub fn data_of(pipeline: &Pipeline, stage: &Stage) -> Result<Option<String>> {
        let mut oldest = None;
        for aging in pipeline.aging(stage)? {
            let receipt = Receipt::read(&pipeline.paths, &aging.name)?;
            let fetched = receipt.as_ref().and_then(|receipt| Some(&receipt.fetch.as_ref()?.started_at));
            let started = fetched.or(receipt.as_ref().and_then(|receipt| Some(&receipt.run.as_ref()?.started_at)));
            let Some(started) = started.cloned() else { return Ok(None) };
            oldest = Some(oldest.map_or(started.clone(), |oldest: String| oldest.min(started)));
        }
        Ok(oldest.or_else(|| Some(crate::log::now())))
    }

    /// The receipt of a stage to write a part of anew.
    pub fn read_or_new(paths: &Paths, stage: &str) -> Result<Receipt> {
        Ok(Receipt::read(paths, stage)?.unwrap_or_else(|| Receipt::new(stage)))
    }

    /// One that says nothing.
    pub fn new(stage: &str) -> Receipt {
        Receipt { version: VERSION, stage: stage.to_string(), fetch: None, run: None, extract: None }
    }

    pub fn write(&self, paths: &Paths) -> Result<()> {
        files::write_json(&paths.receipt(&self.stage), self, Layout::Indented).map(drop)
    }
}

impl FetchReceipt {
    /// What the evidence lacks for all series to be whole; none if nothing.
    pub fn lacks(&self) -> Option<String> {
        self.series.iter().find_map(|series| {
            let which = series.key.as_ref().map_or(String::new(), |key| format!(" of key {key}"));
            Some(format!("of its series{which}, {}", series.lacks()?))
        })
    }

    /// One hash for all pages, in order: what an extract read.
    pub fn pages_hash(&self) -> String {
        let mut text = String::new();
        for series in &self.series {
            text.push_str(series.key.as_deref().unwrap_or(""));
            for page in &series.pages {
                text.push(' ');
                text.push_str(&page.sha256);
            }
            text.push('\n');
        }
        files::sha256_of(text.as_bytes())
    }

    pub fn pages(&self) -> impl Iterator<Item = (&Series, u32, &Page)> {
        self.series.iter().flat_map(|series| (1..).zip(&series.pages).map(move |(number, page)| (series, number, page)))
    }
}

/// Seconds since a time of a receipt. One that lies ahead, or is no time, is as old as can be: then the
/// clock was wrong, and nothing is known.
pub fn age_s(time: &str) -> u64 {
    let since = time.parse::<jiff::Timestamp>().map(|time| jiff::Timestamp::now().as_second() - time.as_second());
    since.ok().and_then(|age| u64::try_from(age).ok()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_from_the_future_is_old() {
        assert!(age_s("2999-01-01T00:00:00Z") > 1 << 40);
        assert!(age_s("yesterday") > 1 << 40);
        assert!(age_s(&crate::log::now()) < 5);
    }

    #[test]
    fn evidence_that_does_not_add_up_is_told() {
        let page = |records| Page {
            records,
            size_bytes: 1,
            sha256: String::new(),
            etag: None,
            asked_at: String::new(),
            took_ms: 1,
        };
        let lacks = |proof, total, page_size, distinct_ids, records: &[u64]| {
            let pages = records.iter().map(|records| page(*records)).collect();
            Series { key: None, proof, total, page_size, distinct_ids, pages }.lacks().unwrap_or_default()
        };
        assert_eq!(lacks(Proof::Total, Some(5), Some(2), Some(5), &[2, 2, 1]), "");
        assert_eq!(lacks(Proof::Total, Some(0), Some(2), Some(0), &[0]), "");
        assert_eq!(lacks(Proof::ShortPage, None, Some(2), Some(4), &[2, 2, 0]), "");
        assert_eq!(lacks(Proof::NoNextPage, None, None, None, &[2, 0, 3]), "");
        assert_eq!(lacks(Proof::Total, Some(5), Some(2), Some(4), &[2, 2, 1]), "it has 5 records with 4 different ids");
        assert_eq!(lacks(Proof::Total, Some(5), Some(2), Some(5), &[2, 1, 2]), "page 2 of 3 has 1 records, not 2");
        assert_eq!(lacks(Proof::Total, Some(6), Some(2), Some(5), &[2, 2, 1]), "its total is 6, and 5 records came");
        assert_eq!(lacks(Proof::Total, None, Some(2), Some(5), &[2, 2, 1]), "its total is not known");
        assert_eq!(lacks(Proof::ShortPage, None, Some(2), Some(4), &[2, 2]), "its last page, 2, is full");
        assert_eq!(lacks(Proof::SingleAnswer, None, None, None, &[2, 2]), "it has more than one page");
        assert_eq!(lacks(Proof::Total, Some(0), Some(2), Some(0), &[]), "it has no page");
    }
}
