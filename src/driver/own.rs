//! Whether what a stage's own program wrote is current, and why not: as [`staleness`](super::staleness) decides for fetches.

use std::collections::BTreeMap;

use super::staleness::{Reason, Verdict};
use crate::error::Result;
use crate::files;
use crate::paths::page_file;
use crate::pipeline::{Pipeline, Run, Stage};
use crate::receipt::{Receipt, RunReceipt, age_s};

/// Whether the program has to run. The exports that it reads are as they will be.
pub fn of_run(pipeline: &Pipeline, stage: &Stage, run: &Run) -> Result<Verdict> {
    // Before anything else: a file that is not there is a mistake, whether the program has to run or not.
    let (files, program) = run.hashes(pipeline, stage, files::sha256)?;
    let receipt = Receipt::read(&pipeline.paths, &stage.name)?.and_then(|receipt| receipt.run);
    let Some(receipt) = receipt else { return Ok(Verdict::Stale(Reason::NeverRun)) };
    let stale = match run_reason(pipeline, run, &receipt, program.as_ref())? {
        None => file_reason(&receipt.files, &files),
        reason => reason,
    };
    let stale = match stale {
        None => page_reason(pipeline, &stage.name, &receipt)?,
        reason => reason,
    };
    Ok(stale.map_or(Verdict::Current, Verdict::Stale))
}

/// What can be said before the stages that it reads have run.
pub fn foresee(pipeline: &Pipeline, stage: &Stage, forced: bool, remade: impl Fn(&str) -> bool) -> Result<Verdict> {
    let Some(run) = stage.run() else { return Ok(Verdict::Current) };
    if forced {
        return Ok(Verdict::Stale(Reason::Forced));
    }
    let waits = run.with.iter().find(|(_, name)| remade(name));
    Ok(match (of_run(pipeline, stage, run)?, waits) {
        (Verdict::Current, Some((_, name))) => Verdict::Stale(Reason::Waits { stage: name.clone() }),
        (verdict, _) => verdict,
    })
}

fn run_reason(
    pipeline: &Pipeline,
    run: &Run,
    receipt: &RunReceipt,
    program: Option<&String>,
) -> Result<Option<Reason>> {
    if receipt.definition != run.definition() {
        return Ok(Some(Reason::CommandChanged));
    }
    if receipt.program.as_ref() != program {
        return Ok(Some(Reason::ProgramChanged));
    }
    for (_, name) in &run.with {
        if receipt.inputs.get(name) != files::sha256(&pipeline.paths.all_json(name))?.as_ref() {
            return Ok(Some(Reason::OtherRecords { stage: name.clone() }));
        }
    }
    let age_s = age_s(&receipt.started_at);
    let max_age_s = run.max_age.map(|max_age| max_age.as_secs());
    Ok(max_age_s.filter(|max_age_s| age_s >= *max_age_s).map(|max_age_s| Reason::OldRun { age_s, max_age_s }))
}

fn file_reason(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Option<Reason> {
    let changed = now.iter().find_map(|(file, sha256)| match before.get(file) {
        None => Some(Reason::FileNew { file: file.clone() }),
        Some(was) if was != sha256 => Some(Reason::FileChanged { file: file.clone() }),
        Some(_) => None,
    });
    changed.or_else(|| {
        before.keys().find(|file| !now.contains_key(*file)).map(|file| Reason::FileGone { file: file.clone() })
    })
}

fn page_reason(pipeline: &Pipeline, stage: &str, receipt: &RunReceipt) -> Result<Option<Reason>> {
    let folder = pipeline.paths.pages(stage);
    for (number, page) in (1..).zip(&receipt.pages) {
        let path = page_file(&folder, None, number);
        let shown = || pipeline.paths.shown(&path);
        match files::sha256(&path)? {
            None => return Ok(Some(Reason::PageMissing { page: shown() })),
            Some(sha256) if sha256 != page.sha256 => return Ok(Some(Reason::PageChanged { page: shown() })),
            Some(_) => {}
        }
    }
    Ok(None)
}
