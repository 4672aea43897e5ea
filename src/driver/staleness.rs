//! Whether a stage is current, and why not: the one place that decides, and the one that explains.
//!
//! Hashes decide, not clocks: a stage is current when its definition, what it read and what it wrote
//! are those in its receipt; and a fetch also when it is younger than `max_age`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::hashes::Hashes;
use super::targets::Trust;
use crate::error::Result;
use crate::paths::page_file;
use crate::pipeline::{self, Fetch, Pipeline, Stage};
use crate::receipt::{AS_IT_WAS, BY_HAND, ExtractReceipt, FetchReceipt, Receipt, RunReceipt, age_s};

pub use super::verdict::{Reason, Verdict, span};

/// Decides about the stages of a pipeline. What it has read once it knows, until it is told to [`Judge::forget`] it.
pub struct Judge<'a> {
    pub pipeline: &'a Pipeline,
    trust: Trust,
    /// The mirror here is a demo's, whose API has ended with it.
    is_demo: bool,
    hashes: Hashes,
    receipts: HashMap<String, Rc<Known>>,
}

/// What a receipt says; none of it where there is none.
#[derive(Default)]
pub struct Known {
    receipt: Option<Receipt>,
    pages_hash: Option<String>,
}

impl Known {
    fn fetch(&self) -> Option<&FetchReceipt> {
        self.receipt.as_ref()?.fetch.as_ref()
    }

    pub fn run(&self) -> Option<&RunReceipt> {
        self.receipt.as_ref()?.run.as_ref()
    }
}

impl<'a> Judge<'a> {
    pub fn new(pipeline: &'a Pipeline, trust: Trust) -> Judge<'a> {
        let (is_demo, hashes) = (pipeline.paths.demo().exists(), Hashes::open(&pipeline.paths));
        Judge { pipeline, trust, is_demo, hashes, receipts: HashMap::new() }
    }

    /// The files of this stage are others by now.
    pub fn forget(&mut self, stage: &str) {
        self.receipts.remove(stage);
    }

    /// Remembers for the next process what files hash to.
    pub fn remember(&mut self) {
        // It only saves time: a full disk must not fail a run for it.
        if let Err(error) = self.hashes.save() {
            log::warn!("what files hash to is not remembered: {error}");
        }
    }

    /// Whether the pages of `stage` are current. The export that `each` names is as it will be.
    pub fn fetch(&mut self, stage: &Stage, fetch: &Fetch) -> Result<Verdict> {
        let known = self.known(&stage.name)?;
        let Some(receipt) = known.fetch() else { return Ok(Verdict::Stale(Reason::NeverFetched)) };
        let stale = match self.fetch_reason(fetch, receipt)? {
            Some(reason) => Some(reason),
            None => self.page_reason(&stage.name, receipt)?,
        };
        Ok(stale.map_or(Verdict::Current, Verdict::Stale))
    }

    /// Why the pages of `stage` would be fetched by a run that asks the API; this one does not. The pages themselves
    /// are not looked at: they may be elsewhere, and who needs none does not miss them.
    pub fn unfetched(&mut self, stage: &Stage, fetch: &Fetch) -> Result<Verdict> {
        let known = self.known(&stage.name)?;
        let Some(receipt) = known.fetch() else { return Ok(Verdict::Kept(Reason::NeverFetched)) };
        Ok(self.fetch_reason(fetch, receipt)?.map_or(Verdict::Current, Verdict::Kept))
    }

    /// Why the pages of the stage `name` are not there to be read; none if they are. They may be old, and those of
    /// another definition.
    pub fn lacks_pages(&mut self, name: &str) -> Result<Option<Reason>> {
        let known = self.known(name)?;
        if let Some(receipt) = known.run() {
            return self.written_reason(name, receipt);
        }
        let stage = self.pipeline.known_stage(name)?;
        let Some(receipt) = known.fetch() else {
            return Ok(Some(if stage.run().is_some() { Reason::NeverRun } else { Reason::NeverFetched }));
        };
        let each = stage.fetch().and_then(|fetch| fetch.each.as_deref());
        match each.map(|each| self.each_reason(each, receipt)).transpose()?.flatten() {
            Some(reason) => Ok(Some(reason)),
            None => self.page_reason(name, receipt),
        }
    }

    fn fetch_reason(&mut self, fetch: &Fetch, receipt: &FetchReceipt) -> Result<Option<Reason>> {
        let definition = self.pipeline.fetch_definition(fetch);
        if receipt.definition != definition {
            return Ok(Some(match changed(&receipt.definition, &definition) {
                Reason::Changed { part } if self.is_demo && part == "address" => Reason::DemoOver,
                reason => reason,
            }));
        }
        if let Some(each) = &fetch.each
            && let Some(reason) = self.each_reason(each, receipt)?
        {
            return Ok(Some(reason));
        }
        let (age_s, max_age_s) = (age_s(&receipt.started_at), fetch.max_age.as_secs());
        Ok((age_s >= max_age_s).then_some(Reason::Old { age_s, max_age_s }))
    }

    fn each_reason(&mut self, each: &str, receipt: &FetchReceipt) -> Result<Option<Reason>> {
        let same = receipt.inputs.get(each) == self.export(each)?.as_ref();
        Ok((!same).then(|| Reason::OtherRecords { stage: each.to_string() }))
    }

    fn page_reason(&mut self, stage: &str, receipt: &FetchReceipt) -> Result<Option<Reason>> {
        let folder = self.pipeline.paths.pages(stage);
        let pages = receipt.pages();
        self.file_reason(
            pages.map(|(series, number, page)| {
                (page_file(&folder, series.key.as_deref(), number), page.sha256.as_str())
            }),
        )
    }

    /// What is not as the program of `stage` wrote it.
    pub fn written_reason(&mut self, stage: &str, receipt: &RunReceipt) -> Result<Option<Reason>> {
        let folder = self.pipeline.paths.pages(stage);
        let pages = (1..).zip(&receipt.pages);
        self.file_reason(pages.map(|(number, page)| (page_file(&folder, None, number), page.sha256.as_str())))
    }

    /// The first page that is not there, or has not this hash.
    fn file_reason<'p>(&mut self, pages: impl Iterator<Item = (PathBuf, &'p str)>) -> Result<Option<Reason>> {
        for (path, expected) in pages {
            let shown = || self.pipeline.paths.shown(&path);
            match self.hashes.of(&path)? {
                None => return Ok(Some(Reason::PageMissing { page: shown() })),
                Some(sha256) if sha256 != expected => return Ok(Some(Reason::PageChanged { page: shown() })),
                Some(_) => {}
            }
        }
        Ok(None)
    }

    /// Whether the export of `stage` is current, given that all it reads is as it will be.
    pub fn extract(&mut self, stage: &Stage) -> Result<Verdict> {
        let known = self.known(&stage.name)?;
        let receipt = known.receipt.as_ref().and_then(|receipt| receipt.extract.as_ref());
        let output = self.export(&stage.name)?;
        if let Some(reason) = by_hand(receipt, output.as_deref()) {
            return Ok(match (self.trust, reason) {
                (Trust::Exports, reason) => Verdict::Kept(reason),
                (Trust::Receipts, Reason::NoReceipt) => Verdict::Stale(Reason::NeverExtracted),
                (Trust::Receipts, reason) => Verdict::Stale(reason),
            });
        }
        let Some(receipt) = receipt else { return Ok(Verdict::Stale(Reason::NeverExtracted)) };
        let stale = match self.input_reason(stage, receipt)? {
            None if output.is_none() => Some(Reason::OutputMissing),
            reason => reason,
        };
        Ok(stale.map_or(Verdict::Current, Verdict::Stale))
    }

    fn input_reason(&mut self, stage: &Stage, receipt: &ExtractReceipt) -> Result<Option<Reason>> {
        let definition = self.pipeline.extract_definition(stage)?;
        if receipt.definition != definition {
            return Ok(Some(changed(&receipt.definition, &definition)));
        }
        let (source, fetch) = self.pipeline.source_of(stage)?;
        if receipt.inputs.get(&format!("pages/{}", source.name)) != self.known(&source.name)?.pages_hash.as_ref() {
            return Ok(Some(Reason::OtherPages { stage: source.name.clone() }));
        }
        for name in fetch.each.iter().chain(stage.with.iter().map(|(_, name)| name)) {
            if receipt.inputs.get(name) != self.export(name)?.as_ref() {
                return Ok(Some(Reason::OtherRecords { stage: name.clone() }));
            }
        }
        Ok(None)
    }

    /// Whether an export that cannot be made anew is to be taken as it is.
    pub fn may_take(&mut self, stage: &Stage) -> Result<bool> {
        Ok(self.trust == Trust::Exports && self.export(&stage.name)?.is_some())
    }

    /// Whether the receipt is of the export that is there, and of its being taken as it is.
    pub fn is_taken(&mut self, stage: &str) -> Result<bool> {
        let known = self.known(stage)?;
        let receipt = known.receipt.as_ref().and_then(|receipt| receipt.extract.as_ref());
        let Some(receipt) = receipt else { return Ok(false) };
        let taken = [BY_HAND, AS_IT_WAS].contains(&receipt.definition.as_str());
        Ok(taken && self.export(stage)?.as_ref() == Some(&receipt.sha256))
    }

    /// The hash of the export of a stage; none if there is none.
    pub fn export(&mut self, stage: &str) -> Result<Option<String>> {
        self.hashes.of(&self.pipeline.paths.all_json(stage))
    }

    /// The hash of a file; none if it is not there.
    pub fn hash(&mut self, path: &Path) -> Result<Option<String>> {
        self.hashes.of(path)
    }

    /// How old the data of a stage is, as [`Receipt::data_of`] tells it: the oldest time among its sources, of which each
    /// may be not known. No time at all: what comes from files alone does not age.
    pub fn times(&mut self, stage: &Stage) -> Result<Vec<Option<String>>> {
        let mut times = Vec::new();
        for aging in self.pipeline.aging(stage)? {
            let known = self.known(&aging.name)?;
            let started = known.fetch().map(|fetch| &fetch.started_at).or(known.run().map(|run| &run.started_at));
            times.push(started.cloned());
        }
        Ok(times)
    }

    pub fn known(&mut self, stage: &str) -> Result<Rc<Known>> {
        if let Some(known) = self.receipts.get(stage) {
            return Ok(known.clone());
        }
        let receipt = Receipt::read(&self.pipeline.paths, stage)?;
        let pages_hash = receipt.as_ref().and_then(Receipt::pages_hash);
        let known = Rc::new(Known { receipt, pages_hash });
        self.receipts.insert(stage.to_string(), known.clone());
        Ok(known)
    }
}

/// Why an export is none that its filter has made; none if it is, as far as its receipt tells.
fn by_hand(receipt: Option<&ExtractReceipt>, output: Option<&str>) -> Option<Reason> {
    match (receipt, output?) {
        (None, _) => Some(Reason::NoReceipt),
        (Some(receipt), sha256) if receipt.sha256 != sha256 => Some(Reason::OutputEdited),
        (Some(receipt), _) if receipt.definition == BY_HAND => Some(Reason::OutputEdited),
        (Some(receipt), _) if receipt.definition == AS_IT_WAS => Some(Reason::OutputTaken),
        (Some(_), _) => None,
    }
}

fn changed(old: &str, new: &str) -> Reason {
    Reason::Changed { part: pipeline::first_difference(old, new).to_string() }
}
