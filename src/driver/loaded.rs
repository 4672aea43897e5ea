//! Whether the database holds the exports as they are: the staleness of the load and of the validation.
//!
//! The ledger is asked. A load is current when the last one that filled these tables was of exactly these exports, of the
//! same fetch and by the same definition, when the tables are those that it left, and when no validation has found fault
//! with it since. That nobody has changed a row by hand, only `mirror42-validate --deep` can tell.

use jiff::Timestamp;

use super::staleness::Judge;
use super::verdict::{Reason, Verdict};
use crate::error::Result;
use crate::pg::ledger::LastLoad;
use crate::pg::{self, catalog, embedded, ledger};
use crate::pipeline::{self, Pipeline, Secret};

/// What was decided of the steps after the stages.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub load: Verdict,
    pub validate: Verdict,
    /// The last load of these tables, if there was one.
    pub last: Option<LastLoad>,
}

impl Loaded {
    pub fn stale(reason: Reason) -> Loaded {
        let waits = Reason::Waits { stage: "load".to_string() };
        Loaded { load: Verdict::Stale(reason), validate: Verdict::Stale(waits), last: None }
    }
}

/// Decides; all exports are as they will be. A server that cannot be asked is no error: the loader will say more of it.
pub fn judge(judge: &mut Judge, url: Option<&Secret>) -> Result<Loaded> {
    match found(judge, url) {
        Ok(found) => decide(judge, found),
        Err(error) => Ok(Loaded::stale(Reason::NotKnown { why: error.message().to_string() })),
    }
}

/// As [`judge`], but starts no embedded server, and tells of what it cannot judge in its place.
pub fn foresee(judge: &mut Judge, url: Option<&Secret>) -> Loaded {
    if url.is_none() && matches!(embedded::status(&judge.pipeline.paths), Ok(embedded::Status::Stopped)) {
        return Loaded::stale(Reason::NotKnown { why: "the embedded server does not run".to_string() });
    }
    self::judge(judge, url).unwrap_or_else(|error| Loaded::stale(Reason::Broken { why: error.message().to_string() }))
}

/// The last load, and what the tables are now, in the order of the pipeline.
type Found = Option<(LastLoad, Vec<String>)>;

fn found(judge: &Judge, url: Option<&Secret>) -> Result<Found> {
    let pipeline = judge.pipeline;
    let tables: Vec<&str> = pipeline.loaded().map(|(_, table)| table).collect();
    let Some(mut client) = pg::connect_if_there(&pipeline.paths, url, "plan")? else { return Ok(None) };
    let Some(last) = ledger::last_load(&mut client, pipeline, &tables)? else { return Ok(None) };
    Ok(Some((last, catalog::states(&mut client, &tables)?)))
}

fn decide(judge: &mut Judge, found: Found) -> Result<Loaded> {
    let Some((last, states)) = found else { return Ok(Loaded::stale(Reason::NeverLoaded)) };
    let load = match reason(judge, &last, &states)? {
        Some(reason) => return Ok(Loaded { last: Some(last), ..Loaded::stale(reason) }),
        None => Verdict::Current,
    };
    let limit_s = judge.pipeline.stale_after.as_secs();
    let age_s = last.age_s();
    let validate = match last.valid {
        Some(_) if age_s.is_none_or(|age_s| age_s >= limit_s) => Verdict::Stale(Reason::MirrorOld { age_s, limit_s }),
        Some(_) => Verdict::Current,
        None => Verdict::Stale(Reason::NeverValidated),
    };
    Ok(Loaded { load, validate, last: Some(last) })
}

fn reason(judge: &mut Judge, last: &LastLoad, states: &[String]) -> Result<Option<Reason>> {
    let pipeline = judge.pipeline;
    let other = || Some(Reason::LoadedOther { run: last.id.clone() });
    let Some(old) = &last.definition else { return Ok(other()) };
    if last.pipeline != pipeline.name || last.tables.len() != pipeline.loaded().count() {
        return Ok(other());
    }
    let definition = pipeline.load_definition()?;
    if *old != definition {
        return Ok(Some(Reason::Changed { part: pipeline::first_difference(old, &definition).to_string() }));
    }
    let mut times = Vec::new();
    for ((stage, table), state) in pipeline.loaded().zip(states) {
        let Some((sha256, old_state)) = last.tables.get(table) else { return Ok(other()) };
        if judge.export(&stage.name)?.as_ref() != Some(sha256) {
            return Ok(Some(Reason::OtherRecords { stage: stage.name.clone() }));
        }
        if state.is_empty() {
            return Ok(Some(Reason::TableMissing { table: table.to_string() }));
        }
        if old_state.as_ref() != Some(state) {
            return Ok(Some(Reason::TableChanged { table: table.to_string() }));
        }
        times.extend(judge.times(stage)?);
    }
    // None, not known, comes first, as the oldest of all.
    match times.into_iter().min() {
        Some(time) if time.as_ref().and_then(|time| time.parse::<Timestamp>().ok()) != last.fetched_at => {
            return Ok(Some(Reason::FetchedAgain));
        }
        Some(_) => {}
        // What comes from files alone is as new as its last load; half way to its end that is noted anew, so that runs of
        // every day are enough.
        None => {
            let (age_s, limit_s) = (last.age_s(), pipeline.stale_after.as_secs());
            if age_s.is_none_or(|age_s| age_s >= limit_s / 2) {
                return Ok(Some(Reason::MirrorOld { age_s, limit_s }));
            }
        }
    }
    Ok((last.valid == Some(false)).then_some(Reason::Invalid))
}

/// Notes in the ledger what the validation of the last load has found.
pub fn note(pipeline: &Pipeline, url: Option<&Secret>, valid: bool) -> Result<()> {
    let tables: Vec<&str> = pipeline.loaded().map(|(_, table)| table).collect();
    let Some(mut client) = pg::connect_if_there(&pipeline.paths, url, "note")? else { return Ok(()) };
    match ledger::last_load(&mut client, pipeline, &tables)? {
        Some(last) => ledger::mark(&mut client, pipeline, &last.id, valid),
        None => Ok(()),
    }
}
