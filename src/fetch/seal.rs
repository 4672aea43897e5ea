//! The last steps of a fetch: its pages and its receipt take the place of the last ones, as one.
//!
//! Two files cannot be replaced at once. So the receipt is written beside the pages first, and goes where they go:
//! a fetch that is killed between any two steps has left all that is needed, and the next one takes the rest of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::journal::{Begin, Journal};
use crate::error::Result;
use crate::files::{self, Layout};
use crate::paths::Paths;
use crate::receipt::{FetchReceipt, Receipt, age_s};

/// Seals the pages that were gathered.
pub fn seal(paths: &Paths, stage: &str, receipt: FetchReceipt) -> Result<()> {
    files::write_json(&sealed(&paths.pages_under_way(stage)), &receipt, Layout::OneLine)?;
    put_in_place(paths, stage, receipt)
}

/// Takes the steps that a killed fetch has left. True if what it has sealed is what this one is to fetch, and not older
/// than `max_age`.
pub fn finish(paths: &Paths, stage: &str, begin: &Begin, max_age: Duration) -> Result<bool> {
    let is_wanted = |receipt: &FetchReceipt| {
        begin.is_of(&receipt.definition, &receipt.inputs) && age_s(&receipt.started_at) < max_age.as_secs()
    };
    // Its pages are in their place already, whatever is wanted now.
    if let Some(receipt) = read(&paths.pages(stage))? {
        // All but the last step was taken: that fetch was done, and this is another.
        let noted = Receipt::read(paths, stage)?.and_then(|noted| noted.fetch);
        let done = noted.as_ref() != Some(&receipt) && is_wanted(&receipt);
        note(paths, stage, receipt)?;
        // The pages that they have replaced.
        files::remove_dir(&paths.pages_under_way(stage))?;
        return Ok(done);
    }
    match read(&paths.pages_under_way(stage))?.filter(is_wanted) {
        Some(receipt) => put_in_place(paths, stage, receipt).map(|()| true),
        None => Ok(false),
    }
}

fn put_in_place(paths: &Paths, stage: &str, receipt: FetchReceipt) -> Result<()> {
    // A fetch may have been killed before this, with its receipt written: the journal does not go with the pages.
    Journal::remove(&paths.pages_under_way(stage))?;
    files::replace_dir(&paths.pages_under_way(stage), &paths.pages(stage))?;
    note(paths, stage, receipt)
}

/// The receipt goes where it belongs.
fn note(paths: &Paths, stage: &str, receipt: FetchReceipt) -> Result<()> {
    let mut whole = Receipt::read_or_new(paths, stage)?;
    whole.fetch = Some(receipt);
    // Of the time when the stage had a program, if it had one.
    whole.run = None;
    whole.write(paths)?;
    files::remove(&sealed(&paths.pages(stage)))
}

fn sealed(pages: &Path) -> PathBuf {
    pages.join("sealed.json")
}

/// The receipt beside pages; none if it is not there, or of another version.
fn read(pages: &Path) -> Result<Option<FetchReceipt>> {
    let text = files::read_if_there(&sealed(pages))?;
    Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
}
