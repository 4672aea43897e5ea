//! Whether what a stage's own program wrote is current, and why not: as [`staleness`](super::staleness) decides for fetches.

use std::collections::BTreeMap;

use super::staleness::Judge;
use super::targets::Fetching;
use super::verdict::{Reason, Verdict};
use crate::error::Result;
use crate::pipeline::{Run, Stage, first_difference};
use crate::receipt::{RunReceipt, age_s};

/// Whether the program has to run. The exports that it reads are as they will be.
pub fn of_run(judge: &mut Judge, stage: &Stage, run: &Run) -> Result<Verdict> {
    // Before anything else: a file that is not there is a mistake, whether the program has to run or not.
    let pipeline = judge.pipeline;
    let (files, program) = run.hashes(pipeline, stage, |path| judge.hash(path))?;
    let known = judge.known(&stage.name)?;
    let Some(receipt) = known.run() else { return Ok(Verdict::Stale(Reason::NeverRun)) };
    let stale = match definition_reason(run, receipt) {
        None if receipt.program != program => Some(Reason::ProgramChanged),
        reason => reason,
    };
    let stale = match stale {
        None => input_reason(judge, run, receipt)?,
        reason => reason,
    };
    let stale = match stale {
        None => file_reason(&receipt.files, &files),
        reason => reason,
    };
    let stale = match stale {
        None => judge.written_reason(&stage.name, receipt)?,
        reason => reason,
    };
    Ok(stale.map_or(Verdict::Current, Verdict::Stale))
}

/// Why the program would run, where none does. Neither its files nor what it wrote are looked at: they may be elsewhere.
pub fn not_run(judge: &mut Judge, stage: &Stage, run: &Run) -> Result<Verdict> {
    let known = judge.known(&stage.name)?;
    let Some(receipt) = known.run() else { return Ok(Verdict::Kept(Reason::NeverRun)) };
    let stale = match definition_reason(run, receipt) {
        None => input_reason(judge, run, receipt)?,
        reason => reason,
    };
    Ok(stale.map_or(Verdict::Current, Verdict::Kept))
}

/// What can be said before the stages that it reads have run.
pub fn foresee(
    judge: &mut Judge,
    stage: &Stage,
    forced: bool,
    fetching: Fetching,
    remade: impl Fn(&str) -> bool,
) -> Result<Verdict> {
    let Some(run) = stage.run() else { return Ok(Verdict::Current) };
    if fetching == Fetching::Never {
        return not_run(judge, stage, run);
    }
    if forced {
        return Ok(Verdict::Stale(Reason::Forced));
    }
    let waits = run.with.iter().find(|(_, name)| remade(name));
    Ok(match (of_run(judge, stage, run)?, waits) {
        (Verdict::Current, Some((_, name))) => Verdict::Stale(Reason::Waits { stage: name.clone() }),
        (verdict, _) => verdict,
    })
}

fn definition_reason(run: &Run, receipt: &RunReceipt) -> Option<Reason> {
    let definition = run.definition();
    let part = || first_difference(&receipt.definition, &definition).to_string();
    (receipt.definition != definition).then(|| Reason::Changed { part: part() })
}

fn input_reason(judge: &mut Judge, run: &Run, receipt: &RunReceipt) -> Result<Option<Reason>> {
    for (_, name) in &run.with {
        if receipt.inputs.get(name) != judge.export(name)?.as_ref() {
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
