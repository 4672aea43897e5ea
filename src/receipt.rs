//! `stage.json`: what made the files beside it, so that whether they are current can be decided by
//! hashes, and what they hold can be shown later.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;
use crate::paths::Paths;

const VERSION: u32 = 1;

/// One stage's receipt. `fetch` is there for stages that fetch, `extract` once the filter has run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Receipt {
    version: u32,
    pub stage: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fetch: Option<FetchReceipt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extract: Option<ExtractReceipt>,
}

/// The evidence that the pages under `pages/` are whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    pub records: u64,
    pub size_bytes: u64,
    pub series: Vec<Series>,
}

/// One series of pages: the records of one index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series {
    /// The key of the `each` record, which names the folder of its pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What the server said it has (`X-Total`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    pub pages: Vec<Page>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    pub records: u64,
    pub size_bytes: u64,
    pub sha256: String,
}

/// What the filter made of the pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtractReceipt {
    /// [`crate::pipeline::Stage::extract_definition`] at the time.
    pub definition: String,
    /// Hashes of what was read, by stage: of a source its pages ([`FetchReceipt::pages_hash`], under
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

    /// The receipt of a stage to write a part of anew.
    pub fn read_or_new(paths: &Paths, stage: &str) -> Result<Receipt> {
        let new = || Receipt { version: VERSION, stage: stage.to_string(), fetch: None, extract: None };
        Ok(Receipt::read(paths, stage)?.unwrap_or_else(new))
    }

    pub fn write(&self, paths: &Paths) -> Result<()> {
        let path = paths.receipt(&self.stage);
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|cause| Error::failed(format!("cannot write `{}`: {cause}", paths.shown(&path))))?;
        text.push(b'\n');
        files::write(&path, &text).map(drop)
    }
}

impl FetchReceipt {
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
