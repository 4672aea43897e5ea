//! What a fetch under way has, line by line, so that one that is killed is gone on with.
//!
//! `pages.new/journal.jsonl`: one line when the fetch begins, one for each page once its file is in its place, one for
//! each series that is begun anew or proven whole. A page whose line was not written is asked for again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::drift::Reading;
use super::page::{self, Next};
use crate::error::{Error, Result};
use crate::files;
use crate::paths::page_file;
use crate::secret::redact;
use crate::{pipeline, receipt};

const JOURNAL: &str = "journal.jsonl";
const VERSION: u32 = 1;

/// What a fetch is of, and since when. Another one does not go on with its pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    version: u32,
    pub definition: String,
    pub inputs: BTreeMap<String, String>,
    /// UTC, RFC 3339: the data is as old as that.
    pub started_at: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Begin(Begin),
    Page(PageLine),
    /// The pages of the series of this key so far are no good.
    Restart {
        key: Option<String>,
    },
    /// Pages of this series are read again one by one: which of them belong together is not known any more if that ends early.
    Moved {
        key: Option<String>,
    },
    /// This series, whose pages have their lines, consists of the first so many.
    Whole {
        series: receipt::Series,
        pages: u32,
    },
}

/// A page whose file is in its place.
#[derive(Clone, Serialize, Deserialize)]
pub struct PageLine {
    pub key: Option<String>,
    pub number: u32,
    pub total: Option<u64>,
    pub granted: Option<u64>,
    pub next: Option<Next>,
    pub receipt: receipt::Page,
}

/// The journal of the fetch under way.
pub struct Journal {
    folder: PathBuf,
    path: PathBuf,
}

/// Pages by their number, with what each says of the next.
pub type Pages = BTreeMap<u32, (Reading, Option<Next>)>;

/// What a killed fetch has left.
#[derive(Default)]
pub struct Left {
    pub whole: BTreeMap<Option<String>, receipt::Series>,
    /// Of series that are not whole: the pages that have come, by number.
    pub begun: BTreeMap<Option<String>, Pages>,
}

impl Left {
    /// How many pages need not be asked for, but for the first of each series that is not whole.
    pub fn pages(&self) -> u64 {
        let whole = self.whole.values().map(|series| series.pages.len());
        let begun = self.begun.values().map(BTreeMap::len);
        whole.chain(begun).sum::<usize>() as u64
    }
}

impl Begin {
    pub fn new(definition: String, inputs: BTreeMap<String, String>) -> Begin {
        Begin { version: VERSION, definition, inputs, started_at: crate::log::now() }
    }

    /// Whether this is a fetch of the same.
    pub fn is_of(&self, definition: &str, inputs: &BTreeMap<String, String>) -> bool {
        self.version == VERSION && self.definition == definition && self.inputs == *inputs
    }
}

impl Journal {
    /// Begins a fetch in `folder`, or goes on with one of the same that was begun less than `max_age` ago. Gives the
    /// beginning that counts, and what is left of it.
    pub fn open(
        folder: &Path,
        page: &pipeline::Page,
        begin: Begin,
        max_age: Duration,
    ) -> Result<(Journal, Begin, Left)> {
        let journal = Journal { folder: folder.to_path_buf(), path: folder.join(JOURNAL) };
        if let Some((old, left)) = journal.read(page)?
            && old.is_of(&begin.definition, &begin.inputs)
            && receipt::age_s(&old.started_at) < max_age.as_secs()
        {
            files::sweep_tree(folder)?;
            return Ok((journal, old, left));
        }
        files::remove_dir(folder)?;
        files::create_dir(folder)?;
        journal.append(&Line::Begin(begin.clone()))?;
        Ok((journal, begin, Left::default()))
    }

    pub fn page(&self, line: PageLine) -> Result<()> {
        self.append(&Line::Page(line))
    }

    pub fn restart(&self, key: Option<&str>) -> Result<()> {
        self.append(&Line::Restart { key: key.map(str::to_string) })
    }

    pub fn moved(&self, key: Option<&str>) -> Result<()> {
        self.append(&Line::Moved { key: key.map(str::to_string) })
    }

    pub fn whole(&self, series: &receipt::Series) -> Result<()> {
        let receipt::Series { proof, total, page_size, distinct_ids, .. } = *series;
        let head =
            receipt::Series { key: series.key.clone(), proof, total, page_size, distinct_ids, pages: Vec::new() };
        self.append(&Line::Whole { series: head, pages: series.pages.len() as u32 })
    }

    /// Removes the journal of a fetch whose pages are sealed.
    pub fn remove(folder: &Path) -> Result<()> {
        files::remove(&folder.join(JOURNAL))
    }

    fn append(&self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_string(line)
            .map_err(|cause| Error::failed(format!("cannot write `{}`: {cause}", self.path.display())))?;
        // The address of the next page may hold what the server was sent. A page without a line is asked for again.
        if redact(&text) != text {
            return Ok(());
        }
        text.push('\n');
        files::append_line(&self.path, text.as_bytes()).map_err(|cause| Error::io("write", &self.path, &cause))
    }

    /// What the lines say, as far as the files bear it out; none if there is no beginning. A line that is not whole is
    /// the last: its writer was killed.
    fn read(&self, page: &pipeline::Page) -> Result<Option<(Begin, Left)>> {
        let Some(text) = files::read_if_there(&self.path)? else { return Ok(None) };
        let mut lines = text.split(|byte| *byte == b'\n').map_while(|line| serde_json::from_slice::<Line>(line).ok());
        let Some(Line::Begin(begin)) = lines.next() else { return Ok(None) };
        let mut pages: BTreeMap<Option<String>, BTreeMap<u32, PageLine>> = BTreeMap::new();
        let (mut whole, mut moved) = (BTreeMap::new(), BTreeSet::new());
        let mut left = Left::default();
        for line in lines {
            match line {
                Line::Begin(_) => return Ok(None),
                Line::Page(line) => drop(pages.entry(line.key.clone()).or_default().insert(line.number, line)),
                Line::Restart { key } => {
                    moved.remove(&key);
                    pages.remove(&key);
                }
                Line::Moved { key } => drop(moved.insert(key)),
                Line::Whole { series, pages } => drop(whole.insert(series.key.clone(), (series, pages))),
            }
        }
        let is_there = |series: &receipt::Series| -> Result<bool> {
            for (number, page) in (1..).zip(&series.pages) {
                let file = page_file(&self.folder, series.key.as_deref(), number);
                if files::sha256(&file)?.as_ref() != Some(&page.sha256) {
                    return Ok(false);
                }
            }
            Ok(series.lacks().is_none())
        };
        for (key, (mut series, count)) in whole {
            let lines = pages.remove(&key).unwrap_or_default().into_values();
            series.pages = lines.take(count as usize).map(|line| line.receipt).collect();
            if is_there(&series)? {
                left.whole.insert(key, series);
            }
        }
        for (key, pages) in pages {
            let begun = self.begun(pages, page)?;
            if !begun.is_empty() && !moved.contains(&key) {
                left.begun.insert(key, begun);
            }
        }
        Ok(Some((begin, left)))
    }

    /// The pages that are there, and are what their lines say.
    fn begun(&self, pages: BTreeMap<u32, PageLine>, page: &pipeline::Page) -> Result<Pages> {
        let mut begun = Pages::new();
        for (number, line) in pages {
            let body = files::read_if_there(&page_file(&self.folder, line.key.as_deref(), number))?.unwrap_or_default();
            if files::sha256_of(&body) == line.receipt.sha256 {
                let ids = page::ids_of(&body, page);
                begun.insert(number, (Reading::new(line.receipt, ids, line.total, line.granted, 0), line.next));
            }
        }
        Ok(begun)
    }
}
