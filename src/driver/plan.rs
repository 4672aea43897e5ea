//! The verb `plan`: what a run would do and why, what it asks of the API, and how long it takes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::demo;
use super::filters;
use super::forced;
use super::forecast;
use super::loaded::{self, Loaded};
use super::options::Options;
use super::requests::{self, Count, Outlook};
use super::schedule::{Decided, Fetching};
use super::staleness::Judge;
use super::summary::table;
use super::targets::Trust;
use super::verdict::{Reason, Verdict, span};
use crate::cli::{self, Context};
use crate::error::Result;
use crate::log as logs;
use crate::pipeline::Stage;
use crate::receipt::Receipt;

/// What was asked for.
pub struct Asked {
    /// Ask the API where nothing else tells.
    pub probe: bool,
    pub json: bool,
    pub trust: Trust,
}

/// All that is foreseen.
struct Plan<'a> {
    stages: Vec<(&'a Stage, Decided)>,
    loaded: Loaded,
    requests: BTreeMap<&'a str, Count>,
    outlook: Outlook,
    /// What the stale steps of each stage took the last time, in milliseconds; absent where there was none.
    took_ms: BTreeMap<&'a str, u64>,
}

pub fn plan(context: &Context, asked: &Asked, options: &Options) -> Result<()> {
    let plan = Plan::make(context, asked, options)?;
    if asked.json {
        cli::print(format_args!("{:#}", plan.json(context)));
        return Ok(());
    }
    let mut table = table(&["Stage", "Fetch or run", "Extract", "Requests"], 3..4);
    let text = |verdict: &Option<Verdict>| verdict.as_ref().map_or(String::new(), Verdict::to_string);
    for (stage, decided) in &plan.stages {
        let count = plan.requests.get(stage.name.as_str()).map_or(String::new(), Count::to_string);
        table.add_row([stage.name.clone(), text(&decided.fetch), text(&decided.extract), count]);
    }
    cli::print(format_args!("{table}"));
    cli::print(format_args!("load: {}", plan.loaded.load));
    cli::print(format_args!("validate: {}", plan.loaded.validate));
    cli::print(format_args!("{}", plan.outlook.sentence()));
    if let Some(ms) = plan.local_ms() {
        let span = span(ms.div_ceil(1000));
        cli::print(format_args!("extract and load: about {span}, as the last time"));
    }
    demo::note(&context.pipeline.paths).into_iter().for_each(|note| cli::print(format_args!("{note}")));
    Ok(())
}

impl<'a> Plan<'a> {
    fn make(context: &'a Context, asked: &Asked, options: &Options) -> Result<Plan<'a>> {
        let pipeline = &context.pipeline;
        let mut judge = Judge::new(pipeline, asked.trust);
        let forced = forced::remembered(context)?;
        let mut stages = forecast::of_stages(pipeline, &mut judge, &forced, Fetching::AsNeeded)?;
        find_broken(context, options, &mut stages)?;
        let stale = |decided: &Decided| [&decided.fetch, &decided.extract].into_iter().flatten().any(is_stale);
        let loaded = match stages.iter().find(|(_, decided)| stale(decided)) {
            Some((stage, _)) => Loaded {
                last: loaded::foresee(&mut judge, options.database.as_ref()).last,
                ..Loaded::stale(Reason::Waits { stage: stage.name.clone() })
            },
            None => loaded::foresee(&mut judge, options.database.as_ref()),
        };
        let requests = requests::of_stages(context, &stages, asked.probe.then_some(options))?;
        let outlook = Outlook::of(context, &requests)?;
        let mut took_ms = BTreeMap::new();
        for (stage, decided) in &stages {
            // Of one that cannot be read, the verdict tells.
            if decided.extract.as_ref().is_some_and(is_stale)
                && let Ok(Some(receipt)) = Receipt::read(&pipeline.paths, &stage.name)
                && let Some(extract) = receipt.extract
            {
                took_ms.insert(stage.name.as_str(), extract.duration_ms);
            }
        }
        Ok(Plan { stages, loaded, requests, outlook, took_ms })
    }

    /// What extracting and loading took the last time; none if nothing of it is to be done, or was ever done.
    fn local_ms(&self) -> Option<u64> {
        let extracts = (!self.took_ms.is_empty()).then(|| self.took_ms.values().sum::<u64>());
        match (extracts, self.load_ms()) {
            (None, None) => None,
            (extracts, load) => Some(extracts.unwrap_or(0) + load.unwrap_or(0)),
        }
    }

    fn load_ms(&self) -> Option<u64> {
        let last = self.loaded.last.as_ref().filter(|_| is_stale(&self.loaded.load))?;
        last.duration_ms.and_then(|ms| u64::try_from(ms).ok())
    }

    fn json(&self, context: &Context) -> Value {
        let stages = self.stages.iter().map(|(stage, decided)| {
            let name = stage.name.as_str();
            let requests = self.requests.get(name);
            json!({
                "stage": name,
                "fetch": decided.fetch.as_ref().map(verdict),
                "extract": decided.extract.as_ref().map(verdict),
                "requests": requests.filter(|count| **count != Count::Unknown).map(Count::known),
                "requests_exact": requests.map(|count| matches!(count, Count::Known(_))),
                "extract_ms": self.took_ms.get(name),
            })
        });
        let stages: Vec<Value> = stages.collect();
        let verdicts = self.stages.iter().flat_map(|(_, decided)| [&decided.fetch, &decided.extract]).flatten();
        let current = !verdicts.chain([&self.loaded.load, &self.loaded.validate]).any(is_stale);
        json!({
            "pipeline": context.pipeline.name,
            "time": logs::now(),
            "current": current,
            "stages": stages,
            "load": verdict(&self.loaded.load),
            "validate": verdict(&self.loaded.validate),
            "last_load": self.loaded.last.as_ref().map(|last| &last.id),
            "load_ms": self.load_ms(),
            "requests": self.outlook.total.known(),
            "requests_exact": matches!(self.outlook.total, Count::Known(_)),
            "requests_left": self.outlook.forecast.left,
            "requests_ms": self.outlook.took().as_millis() as u64,
        })
    }
}

/// What a run would stop at: filters that do not compile, among those that it would use.
fn find_broken(context: &Context, options: &Options, stages: &mut [(&Stage, Decided)]) -> Result<()> {
    let stale = stages.iter().filter(|(_, decided)| decided.extract.as_ref().is_some_and(is_stale));
    let names: Vec<&str> = stale.map(|(stage, _)| stage.name.as_str()).collect();
    for (name, error) in filters::broken(context, options, &names)? {
        let stage = stages.iter_mut().filter(|(stage, _)| stage.name == name);
        stage.for_each(|(_, decided)| decided.extract = Some(Verdict::broken(&error)));
    }
    Ok(())
}

fn is_stale(verdict: &Verdict) -> bool {
    !verdict.is_current()
}

fn verdict(verdict: &Verdict) -> Value {
    let (state, reason) = match verdict {
        Verdict::Current => ("current", None),
        Verdict::Kept(reason) => ("kept", Some(reason)),
        Verdict::Stale(reason) => ("stale", Some(reason)),
    };
    json!({ "state": state, "reason": reason.map(Reason::code), "text": verdict.to_string() })
}
