//! What runs when: each stage as soon as what it reads is there, up to `jobs` at a time.
//!
//! A stage has two steps, fetch (or the run of its program, which stands in the same place) and extract; whether a step has anything to do is decided when all it
//! reads is final, so that a stage that is made again with the same bytes makes nothing else again.
//! Extracts of one source that are ready together go to one process, which parses the pages once.

use std::collections::BTreeMap;

use super::own;
use super::staleness::{self, Reason, Verdict};
use crate::error::Result;
use crate::pipeline::{Pipeline, Stage};

/// What one child process is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    Fetch(String),
    /// The program of a stage.
    Exec(String),
    /// Stages of one source.
    Extract(Vec<String>),
    Load,
    Validate,
}

impl Job {
    pub fn stages(&self) -> &[String] {
        match self {
            Job::Fetch(name) | Job::Exec(name) => std::slice::from_ref(name),
            Job::Extract(names) => names,
            Job::Load | Job::Validate => &[],
        }
    }
}

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Pending,
    Running,
    /// Its files are final.
    Done,
}

#[derive(Clone, Debug)]
struct Progress {
    fetch: Step,
    extract: Step,
    force: bool,
    /// What was decided, for the summary: none until it was.
    decided: Decided,
}

/// Why the steps of a stage ran, or that they did not have to.
#[derive(Clone, Debug, Default)]
pub struct Decided {
    pub fetch: Option<Verdict>,
    pub extract: Option<Verdict>,
}

pub struct Schedule<'a> {
    pipeline: &'a Pipeline,
    stages: BTreeMap<&'a str, Progress>,
    load: Step,
    validate: Step,
}

/// Whether what a target needs is brought up to date with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    #[default]
    WithNeeds,
    /// What is there has to do.
    Only,
}

/// What a run is to bring up to date.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    pub stages: Vec<String>,
    pub reach: Reach,
    /// Make these again whatever their receipts say.
    pub forced: Vec<String>,
    pub load: bool,
    pub validate: bool,
}

impl<'a> Schedule<'a> {
    pub fn new(pipeline: &'a Pipeline, targets: &Targets) -> Result<Schedule<'a>> {
        let mut schedule = Schedule {
            pipeline,
            stages: BTreeMap::new(),
            load: if targets.load { Step::Pending } else { Step::Done },
            validate: if targets.validate { Step::Pending } else { Step::Done },
        };
        for name in &targets.stages {
            schedule.add(pipeline.known_stage(name)?, targets.reach)?;
        }
        // One that this run does not touch is left for another.
        targets.forced.iter().for_each(|name| schedule.set(name, |progress| progress.force = true));
        Ok(schedule)
    }

    /// Takes in a stage, with all it needs or without.
    fn add(&mut self, stage: &'a Stage, reach: Reach) -> Result<()> {
        if self.stages.contains_key(stage.name.as_str()) {
            return Ok(());
        }
        let has_pages = stage.fetch().is_some() || stage.run().is_some();
        let fetch = if has_pages { Step::Pending } else { Step::Done };
        let progress = Progress { fetch, extract: Step::Pending, force: false, decided: Decided::default() };
        self.stages.insert(&stage.name, progress);
        match reach {
            Reach::Only => Ok(()),
            Reach::WithNeeds => stage.needs().try_for_each(|name| self.add(self.pipeline.known_stage(name)?, reach)),
        }
    }

    /// The pages of this stage are not to be trusted: they count as forced and not fetched.
    pub fn doubt(&mut self, name: &str) {
        self.set(name, |progress| {
            progress.force = true;
            progress.fetch = Step::Pending;
        });
    }

    /// Whether this run touches the stage.
    pub fn has(&self, name: &str) -> bool {
        self.stages.contains_key(name)
    }

    /// The stages that are forced and not fetched yet.
    pub fn still_forced(&self) -> impl Iterator<Item = &str> {
        let left = self.stages.iter().filter(|(_, progress)| progress.force && progress.fetch != Step::Done);
        left.map(|(name, _)| *name)
    }

    /// The next job that can start now. Steps that have nothing to do are passed over on the way.
    pub fn next(&mut self) -> Result<Option<Job>> {
        loop {
            let before = self.finished();
            if let Some(job) = self.next_fetch()? {
                return Ok(Some(job));
            }
            if let Some(job) = self.next_exec()? {
                return Ok(Some(job));
            }
            if let Some(job) = self.next_extract()? {
                return Ok(Some(job));
            }
            // A step that was passed over may have made another ready.
            if self.finished() == before {
                break;
            }
        }
        let exported = self.stages.values().all(|progress| progress.extract == Step::Done);
        if exported && self.load == Step::Pending {
            self.load = Step::Running;
            return Ok(Some(Job::Load));
        }
        if exported && self.load == Step::Done && self.validate == Step::Pending {
            self.validate = Step::Running;
            return Ok(Some(Job::Validate));
        }
        Ok(None)
    }

    /// A job has ended well.
    pub fn finish(&mut self, job: &Job) {
        match job {
            Job::Fetch(name) | Job::Exec(name) => self.set(name, |progress| progress.fetch = Step::Done),
            Job::Extract(names) => {
                names.iter().for_each(|name| self.set(name, |progress| progress.extract = Step::Done));
            }
            Job::Load => self.load = Step::Done,
            Job::Validate => self.validate = Step::Done,
        }
    }

    /// The stages of this run whose exports are not final.
    pub fn undone(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().filter(|(_, progress)| progress.extract != Step::Done).map(|(name, _)| *name)
    }

    pub fn is_loaded(&self) -> bool {
        self.load == Step::Done
    }

    /// The stages of this run with what was decided of them, in the order of the file.
    pub fn decisions(&self) -> impl Iterator<Item = (&'a Stage, &Decided)> {
        let stages = self.pipeline.stages.iter();
        stages.filter_map(|stage| Some((stage, &self.stages.get(stage.name.as_str())?.decided)))
    }

    /// Why a step of a stage (`fetch`, `exec`, `extract`) runs, in words.
    pub fn why(&self, stage: &str, what: &str) -> String {
        let decided = self.stages.get(stage).map(|progress| &progress.decided);
        let verdict =
            decided.and_then(|decided| if what == "extract" { &decided.extract } else { &decided.fetch }.as_ref());
        verdict.map_or(String::new(), Verdict::to_string)
    }

    /// Steps that were found to have nothing to do.
    pub fn current_steps(&self) -> u64 {
        let decided = self.stages.values().map(|progress| &progress.decided);
        let verdicts = decided.flat_map(|decided| [&decided.fetch, &decided.extract]).flatten();
        verdicts.filter(|verdict| verdict.is_current()).count() as u64
    }

    /// Steps that are done, and all steps.
    pub fn progress(&self) -> (usize, usize) {
        let last = [self.load, self.validate].into_iter().filter(|step| *step == Step::Done).count();
        // What a stage does not have counts as done from the beginning.
        (self.finished() + last, 2 * self.stages.len() + 2)
    }

    fn set(&mut self, name: &str, change: impl FnOnce(&mut Progress)) {
        if let Some(progress) = self.stages.get_mut(name) {
            change(progress);
        }
    }

    fn finished(&self) -> usize {
        let steps = self.stages.values().flat_map(|progress| [progress.fetch, progress.extract]);
        steps.filter(|step| *step == Step::Done).count()
    }

    /// The export of a stage is final. One that this run does not touch is.
    fn exported(&self, name: &str) -> bool {
        self.stages.get(name).is_none_or(|progress| progress.extract == Step::Done)
    }

    fn next_fetch(&mut self) -> Result<Option<Job>> {
        for stage in &self.pipeline.stages {
            let (Some(progress), Some(fetch)) = (self.stages.get(stage.name.as_str()), stage.fetch()) else { continue };
            if progress.fetch != Step::Pending || !fetch.each.as_deref().is_none_or(|each| self.exported(each)) {
                continue;
            }
            let verdict = match progress.force {
                true => Verdict::Stale(Reason::Forced),
                false => staleness::of_fetch(self.pipeline, stage, fetch)?,
            };
            let step = if verdict.is_current() { Step::Done } else { Step::Running };
            self.set(&stage.name, |progress| {
                progress.fetch = step;
                progress.decided.fetch = Some(verdict);
            });
            if step == Step::Running {
                return Ok(Some(Job::Fetch(stage.name.clone())));
            }
        }
        Ok(None)
    }

    fn next_exec(&mut self) -> Result<Option<Job>> {
        for stage in &self.pipeline.stages {
            let (Some(progress), Some(run)) = (self.stages.get(stage.name.as_str()), stage.run()) else { continue };
            if progress.fetch != Step::Pending || !run.with.iter().all(|(_, name)| self.exported(name)) {
                continue;
            }
            let verdict = match progress.force {
                true => Verdict::Stale(Reason::Forced),
                false => own::of_run(self.pipeline, stage, run)?,
            };
            let step = if verdict.is_current() { Step::Done } else { Step::Running };
            self.set(&stage.name, |progress| {
                progress.fetch = step;
                progress.decided.fetch = Some(verdict);
            });
            if step == Step::Running {
                return Ok(Some(Job::Exec(stage.name.clone())));
            }
        }
        Ok(None)
    }

    fn next_extract(&mut self) -> Result<Option<Job>> {
        let mut source_of_job = None;
        let mut names = Vec::new();
        for stage in &self.pipeline.stages {
            let Some(progress) = self.stages.get(stage.name.as_str()) else { continue };
            let (source, fetch) = self.pipeline.source_of(stage)?;
            let fetched = self.stages.get(source.name.as_str()).is_none_or(|source| source.fetch == Step::Done);
            let mut reads = fetch.each.iter().chain(stage.with.iter().map(|(_, name)| name));
            let ready = fetched && reads.all(|name| self.exported(name));
            let other_source = source_of_job.is_some_and(|name: &str| name != source.name);
            if progress.extract != Step::Pending || !ready || other_source {
                continue;
            }
            let verdict = match progress.force {
                true => Verdict::Stale(Reason::Forced),
                false => staleness::of_extract(self.pipeline, stage)?,
            };
            let step = if verdict.is_current() { Step::Done } else { Step::Running };
            self.set(&stage.name, |progress| {
                progress.extract = step;
                progress.decided.extract = Some(verdict);
            });
            if step == Step::Running {
                source_of_job = Some(&source.name);
                names.push(stage.name.clone());
            }
        }
        Ok((!names.is_empty()).then_some(Job::Extract(names)))
    }
}

/// What `plan` prints: for each stage, what would run and why, as far as that is known before it runs.
/// `forced` are those that a forced run has left undone.
pub fn forecast<'a>(pipeline: &'a Pipeline, forced: &[String]) -> Result<Vec<(&'a Stage, Decided)>> {
    let mut forecast: Vec<(&Stage, Decided)> = Vec::new();
    let mut left: Vec<&Stage> = pipeline.stages.iter().collect();
    while !left.is_empty() {
        let waiting: Vec<&str> = left.iter().map(|stage| stage.name.as_str()).collect();
        let (ready, rest): (Vec<&Stage>, Vec<&Stage>) =
            left.into_iter().partition(|stage| !stage.needs().any(|name| waiting.contains(&name)));
        for stage in ready {
            let decided = foresee(pipeline, stage, &forecast, forced.contains(&stage.name))?;
            forecast.push((stage, decided));
        }
        left = rest;
    }
    forecast.sort_by_key(|(stage, _)| stage.line);
    Ok(forecast)
}

/// What can be said of a stage, given what was said of those that it reads.
fn foresee(pipeline: &Pipeline, stage: &Stage, before: &[(&Stage, Decided)], forced: bool) -> Result<Decided> {
    let decided = |name: &str| before.iter().find(|(other, _)| other.name == name).map(|(_, decided)| decided);
    let stale = |verdict: &Option<Verdict>| verdict.as_ref().is_some_and(|verdict| !verdict.is_current());
    let remade = |name: &str| decided(name).is_some_and(|decided| stale(&decided.extract));
    let waits = |name: &str| Verdict::Stale(Reason::Waits { stage: name.to_string() });

    let (source, fetch) = pipeline.source_of(stage)?;
    let own_fetch = match (stage.fetch(), fetch.each.as_deref().filter(|each| remade(each))) {
        (None, _) if stage.run().is_some() => Some(own::foresee(pipeline, stage, forced, remade)?),
        (None, _) => None,
        (Some(_), _) if forced => Some(Verdict::Stale(Reason::Forced)),
        (Some(fetch), each) => match (staleness::of_fetch(pipeline, stage, fetch)?, each) {
            (Verdict::Current, Some(each)) => Some(waits(each)),
            (verdict, _) => Some(verdict),
        },
    };
    let source_fetch = match &own_fetch {
        Some(_) => own_fetch.clone(),
        None => decided(&source.name).and_then(|decided| decided.fetch.clone()),
    };
    let unknown = stage.with.iter().map(|(_, name)| name).chain(fetch.each).find(|name| remade(name));
    let extract = match staleness::of_extract(pipeline, stage)? {
        Verdict::Current if stale(&own_fetch) && stage.run().is_some() => Verdict::Stale(Reason::WaitsForProgram),
        Verdict::Current if stale(&own_fetch) => Verdict::Stale(Reason::WaitsForPages),
        Verdict::Current if stale(&source_fetch) => waits(&source.name),
        Verdict::Current => unknown.map_or(Verdict::Current, |name| waits(name)),
        verdict => verdict,
    };
    Ok(Decided { fetch: own_fetch, extract: Some(extract) })
}
