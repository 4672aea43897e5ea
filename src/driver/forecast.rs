//! What `plan` and `status` tell: for each stage what would run and why, as far as that is known before it runs.

use std::collections::{HashMap, HashSet};

use super::own;
use super::schedule::{Decided, Fetching};
use super::staleness::Judge;
use super::targets::Trust;
use super::verdict::{Reason, Verdict};
use crate::error::Result;
use crate::pipeline::{Pipeline, Stage};

/// What a run that began now would decide of every stage, in the order of the file. `forced` are those that a forced run
/// has left undone.
pub fn forecast<'a>(pipeline: &'a Pipeline, forced: &[String]) -> Result<Vec<(&'a Stage, Decided)>> {
    of_stages(pipeline, &mut Judge::new(pipeline, Trust::Receipts), forced, Fetching::AsNeeded)
}

/// As [`forecast`], by this judge.
pub fn of_stages<'a>(
    pipeline: &'a Pipeline,
    judge: &mut Judge,
    forced: &[String],
    fetching: Fetching,
) -> Result<Vec<(&'a Stage, Decided)>> {
    let forced: HashSet<&str> = forced.iter().map(String::as_str).collect();
    let mut decided: HashMap<&str, Decided> = HashMap::new();
    for stage in pipeline.in_order()? {
        let forced = forced.contains(stage.name.as_str());
        let foreseen = foresee(pipeline, judge, stage, &decided, forced, fetching)?;
        decided.insert(&stage.name, foreseen);
    }
    let stages = pipeline.stages.iter();
    Ok(stages.map(|stage| (stage, decided.remove(stage.name.as_str()).unwrap_or_default())).collect())
}

/// What can be said of a stage, given what was said of those that it reads.
fn foresee(
    pipeline: &Pipeline,
    judge: &mut Judge,
    stage: &Stage,
    before: &HashMap<&str, Decided>,
    forced: bool,
    fetching: Fetching,
) -> Result<Decided> {
    let stale = |verdict: &Option<Verdict>| verdict.as_ref().is_some_and(|verdict| !verdict.is_current());
    let remade = |name: &str| before.get(name).is_some_and(|decided| stale(&decided.extract));
    let waits = |name: &str| Verdict::Stale(Reason::Waits { stage: name.to_string() });

    let (source, fetch) = pipeline.source_of(stage)?;
    let own_fetch = match (stage.fetch(), fetch.each.as_deref().filter(|each| remade(each))) {
        (None, _) if stage.run().is_some() => Some(own::foresee(judge, stage, forced, fetching, remade)),
        (None, _) => None,
        (Some(fetch), _) if fetching != Fetching::AsNeeded => Some(judge.unfetched(stage, fetch)),
        (Some(_), _) if forced => Some(Ok(Verdict::Stale(Reason::Forced))),
        (Some(fetch), each) => Some(judge.fetch(stage, fetch).map(|verdict| match (verdict, each) {
            (Verdict::Current, Some(each)) => waits(each),
            (verdict, _) => verdict,
        })),
    };
    // What cannot be told of one stage is told in its place: all else can be told.
    let own_fetch = own_fetch.map(|verdict| verdict.unwrap_or_else(|error| Verdict::broken(&error)));
    let source_fetch = match &own_fetch {
        Some(_) => own_fetch.clone(),
        None => before.get(source.name.as_str()).and_then(|decided| decided.fetch.clone()),
    };
    let unknown = stage.with.iter().map(|(_, name)| name).chain(fetch.each).find(|name| remade(name));
    let extract = match judge.extract(stage).unwrap_or_else(|error| Verdict::broken(&error)) {
        Verdict::Current if stale(&own_fetch) && stage.run().is_some() => Verdict::Stale(Reason::WaitsForProgram),
        Verdict::Current if stale(&own_fetch) => Verdict::Stale(Reason::WaitsForPages),
        Verdict::Current if stale(&source_fetch) => waits(&source.name),
        Verdict::Current => unknown.map_or(Verdict::Current, |name| waits(name)),
        verdict => verdict,
    };
    Ok(Decided { fetch: own_fetch, extract: Some(extract) })
}
