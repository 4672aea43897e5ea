//! What runs when: each stage as soon as what it reads is there, up to `jobs` at a time.
//!
//! A stage has two steps, fetch (or the run of its program, which stands in the same place) and extract; whether a step has anything to do is decided when all it
//! reads is final, so that a stage that is made again with the same bytes makes nothing else again.
//! Extracts of one source that are ready together go to one process, which parses the pages once.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::loaded::{self, Loaded};
use super::owed::Owed;
use super::own;
use super::staleness::Judge;
use super::trusted;
use super::verdict::{Reason, Verdict};
use crate::error::{Error, Result};
use crate::pipeline::{Pipeline, Secret, Source, Stage};

pub use super::forecast::forecast;
pub use super::job::Job;
pub use super::targets::{Fetching, Reach, Targets};
pub use super::verdict::Decided;

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Pending,
    /// Under way, or ended badly.
    Running,
    /// Its files are final.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fetch,
    Extract,
}

/// A stage of this run.
struct Node<'a> {
    stage: &'a Stage,
    /// The name of the stage whose pages it is made from.
    source: &'a str,
    fetch: Step,
    extract: Step,
    force: bool,
    /// Its extract shares a process with no other's.
    alone: bool,
    /// Why it is to be fetched, by a later run if not by this one.
    owed: Vec<Owed>,
    /// Steps that must be done before these two can be decided.
    fetch_waits_for: usize,
    extract_waits_for: usize,
    /// Steps that wait for the end of the fetch, and of the extract, by their nodes.
    after_fetch: Vec<(usize, Kind)>,
    after_extract: Vec<(usize, Kind)>,
    /// What was decided, for the summary: none until it was.
    decided: Decided,
}

pub struct Schedule<'a> {
    judge: Judge<'a>,
    fetching: Fetching,
    /// In the order of the file.
    nodes: Vec<Node<'a>>,
    index: HashMap<&'a str, usize>,
    /// Steps that wait for nothing and are not decided yet.
    ready_fetches: BTreeSet<usize>,
    ready_extracts: BTreeSet<usize>,
    /// Stages whose exports are not final yet.
    unexported: usize,
    load: Step,
    validate: Step,
    /// Load and validate whatever the ledger says.
    again: bool,
    database: Option<&'a Secret>,
    /// What was decided of the load and the validation: none until it was.
    loaded: Option<Loaded>,
    /// Jobs that were given out.
    jobs: usize,
    /// Why exports could not be judged, while that is not told yet.
    unjudged: VecDeque<Error>,
}

impl<'a> Schedule<'a> {
    /// `database` is the address of the database; none stands for the embedded server.
    pub fn new(pipeline: &'a Pipeline, targets: &Targets, database: Option<&'a Secret>) -> Result<Schedule<'a>> {
        let mut schedule = Schedule {
            judge: Judge::new(pipeline, targets.trust),
            fetching: targets.fetching,
            nodes: Vec::new(),
            index: HashMap::new(),
            ready_fetches: BTreeSet::new(),
            ready_extracts: BTreeSet::new(),
            unexported: 0,
            load: if targets.load { Step::Pending } else { Step::Done },
            validate: if targets.validate { Step::Pending } else { Step::Done },
            again: targets.again,
            database,
            loaded: None,
            jobs: 0,
            unjudged: VecDeque::new(),
        };
        let wanted = match targets.reach {
            Reach::WithNeeds => pipeline.with_needs(&targets.stages)?,
            Reach::Only => targets.stages.iter().map(String::as_str).collect(),
        };
        for stage in pipeline.stages.iter().filter(|stage| wanted.contains(stage.name.as_str())) {
            let has_pages = stage.fetch().is_some() || stage.run().is_some();
            schedule.index.insert(&stage.name, schedule.nodes.len());
            schedule.nodes.push(Node {
                stage,
                source: &pipeline.source_of(stage)?.0.name,
                fetch: if has_pages { Step::Pending } else { Step::Done },
                extract: Step::Pending,
                force: false,
                alone: false,
                owed: Vec::new(),
                fetch_waits_for: 0,
                extract_waits_for: 0,
                after_fetch: Vec::new(),
                after_extract: Vec::new(),
                decided: Decided::default(),
            });
        }
        schedule.unexported = schedule.nodes.len();
        schedule.tie(pipeline)?;
        // One that this run does not touch is left for another.
        let forced = targets.forced.iter().map(|name| Owed::whatever(name));
        for owed in targets.owed.iter().cloned().chain(forced) {
            let (name, sees_to) = (owed.stage.clone(), schedule.sees_to(&owed.stage));
            schedule.set(&name, |node| {
                node.force = true;
                if sees_to && node.fetch == Step::Pending {
                    owed.join(&mut node.owed);
                }
            });
        }
        Ok(schedule)
    }

    /// Notes for each step what waits for it.
    fn tie(&mut self, pipeline: &'a Pipeline) -> Result<()> {
        for at in 0..self.nodes.len() {
            let stage = self.nodes[at].stage;
            let (source, fetch) = pipeline.source_of(stage)?;
            if stage.fetch().is_some() {
                fetch.each.iter().for_each(|each| self.tie_one(each, Kind::Extract, (at, Kind::Fetch)));
            }
            let read = stage.run().map_or(&[][..], |run| &run.with);
            read.iter().for_each(|(_, name)| self.tie_one(name, Kind::Extract, (at, Kind::Fetch)));
            self.tie_one(&source.name, Kind::Fetch, (at, Kind::Extract));
            for name in fetch.each.iter().chain(stage.with.iter().map(|(_, name)| name)) {
                self.tie_one(name, Kind::Extract, (at, Kind::Extract));
            }
            self.make_ready(at);
        }
        Ok(())
    }

    /// The step `after` waits for that step of the stage `name`. What this run does not touch is final.
    fn tie_one(&mut self, name: &str, kind: Kind, after: (usize, Kind)) {
        let Some(&before) = self.index.get(name) else { return };
        match kind {
            Kind::Fetch => self.nodes[before].after_fetch.push(after),
            Kind::Extract => self.nodes[before].after_extract.push(after),
        }
        match after.1 {
            Kind::Fetch => self.nodes[after.0].fetch_waits_for += 1,
            Kind::Extract => self.nodes[after.0].extract_waits_for += 1,
        }
    }

    fn make_ready(&mut self, at: usize) {
        let node = &self.nodes[at];
        if node.fetch_waits_for == 0 && node.fetch == Step::Pending {
            self.ready_fetches.insert(at);
        }
        if node.extract_waits_for == 0 && node.extract == Step::Pending {
            self.ready_extracts.insert(at);
        }
    }

    /// The pages of a stage are not to be trusted: the next run is to fetch them, whatever their receipt says. Gives it
    /// back if the stage is none of this run.
    pub fn doubt(&mut self, owed: Owed) -> Option<Owed> {
        let Some(&at) = self.index.get(owed.stage.as_str()) else { return Some(owed) };
        owed.join(&mut self.nodes[at].owed);
        None
    }

    /// Whether this run asks the API where it has to.
    fn fetches(&self) -> bool {
        self.fetching == Fetching::AsNeeded
    }

    /// Whether this run sees to the pages of the stage.
    pub fn sees_to(&self, name: &str) -> bool {
        let Some(&at) = self.index.get(name) else { return false };
        let runs = self.nodes[at].stage.run().is_some();
        self.fetches() || (runs && self.fetching == Fetching::Offline)
    }

    /// The stages of this run whose exports are not final.
    pub fn undone(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().filter(|node| node.extract != Step::Done).map(|node| node.stage.name.as_str())
    }

    pub fn is_loaded(&self) -> bool {
        self.load == Step::Done
    }

    /// Why a step (`fetch`, `exec`, `extract` of a stage, `load`, `validate`) runs, in words.
    pub fn why(&self, stage: Option<&str>, what: &str) -> String {
        let verdict = match (stage, &self.loaded) {
            (Some(stage), _) => self.index.get(stage).and_then(|at| {
                let Decided { fetch, extract } = &self.nodes[*at].decided;
                if what == "extract" { extract } else { fetch }.as_ref()
            }),
            (None, Some(loaded)) if what == "load" => Some(&loaded.load),
            (None, Some(loaded)) if loaded.load.is_current() => Some(&loaded.validate),
            (None, Some(_)) => return "after the load".to_string(),
            (None, None) => Some(&Verdict::Stale(Reason::Forced)),
        };
        verdict.map_or(String::new(), Verdict::to_string)
    }

    /// Steps that were found to have nothing to do.
    pub fn current_steps(&self) -> u64 {
        let verdicts = self.nodes.iter().flat_map(|node| [&node.decided.fetch, &node.decided.extract]).flatten();
        verdicts.filter(|verdict| verdict.is_current()).count() as u64
    }

    /// Steps that are done, and all steps.
    pub fn progress(&self) -> (usize, usize) {
        let steps = self.nodes.iter().flat_map(|node| [node.fetch, node.extract]).chain([self.load, self.validate]);
        // What a stage does not have counts as done from the beginning.
        (steps.filter(|step| *step == Step::Done).count(), 2 * self.nodes.len() + 2)
    }

    /// The stages that are to be fetched whatever their receipts say, and are not yet.
    pub fn still_forced(&self) -> impl Iterator<Item = &Owed> {
        self.nodes.iter().flat_map(|node| &node.owed)
    }

    /// The next job that can start now. Steps that have nothing to do are passed over on the way. An error is of one step,
    /// which is never done then; it can be asked again for what does not need it.
    pub fn next(&mut self) -> Result<Option<Job>> {
        self.unjudged.pop_front().map_or(Ok(()), Err)?;
        let job = match self.next_of_stages()? {
            None if self.unexported == 0 => self.next_of_database()?,
            None => self.unjudged.pop_front().map_or(Ok(None), Err)?,
            job => job,
        };
        self.jobs += usize::from(job.is_some());
        Ok(job)
    }

    fn next_of_stages(&mut self) -> Result<Option<Job>> {
        loop {
            if let Some(job) = self.next_fetch()? {
                return Ok(Some(job));
            }
            if let Some(job) = self.next_extract()? {
                return Ok(Some(job));
            }
            // An extract that was passed over may have made a fetch ready.
            if self.ready_fetches.is_empty() {
                return Ok(None);
            }
        }
    }

    /// All exports are final.
    fn next_of_database(&mut self) -> Result<Option<Job>> {
        if self.load == Step::Pending {
            // Where it cannot be judged, that is told once.
            self.load = Step::Running;
            let loaded = match self.again {
                true => Loaded::stale(Reason::Forced),
                false => loaded::judge(&mut self.judge, self.database)?,
            };
            let is_current = loaded.load.is_current();
            self.loaded = Some(loaded);
            if !is_current {
                return Ok(Some(Job::Load));
            }
            self.load = Step::Done;
        }
        if self.load == Step::Done && self.validate == Step::Pending {
            if self.loaded.as_ref().is_none_or(|loaded| !loaded.validate.is_current()) {
                self.validate = Step::Running;
                return Ok(Some(Job::Validate));
            }
            self.validate = Step::Done;
        }
        Ok(None)
    }

    /// The export of this stage cannot be made: it is never ready, nor is what needs it. Whether it is one of this run.
    pub fn give_up(&mut self, name: &str) -> bool {
        let Some(&at) = self.index.get(name) else { return false };
        self.nodes[at].extract_waits_for += 1;
        self.ready_extracts.remove(&at);
        true
    }

    /// Extracts that have failed together are to be tried one by one: not all of them need be at fault. Whether there are
    /// others than one.
    pub fn part(&mut self, job: &Job) -> bool {
        let Job::Extract(names) = job else { return false };
        let at: Vec<usize> = names.iter().filter_map(|name| self.index.get(name.as_str()).copied()).collect();
        let are_several = at.len() > 1;
        for at in at.into_iter().filter(|_| are_several) {
            // Those that did not fail have been written.
            self.judge.forget(&self.nodes[at].stage.name);
            (self.nodes[at].extract, self.nodes[at].alone) = (Step::Pending, true);
            self.ready_extracts.insert(at);
        }
        are_several
    }

    /// A job has ended well.
    pub fn finish(&mut self, job: &Job) {
        match job {
            Job::Fetch(name) | Job::Exec(name) => {
                self.set(name, |node| node.owed.clear());
                self.done_by_name(name, Kind::Fetch);
            }
            Job::Extract(names) => names.iter().for_each(|name| self.done_by_name(name, Kind::Extract)),
            Job::Load => self.load = Step::Done,
            Job::Validate => self.validate = Step::Done,
        }
    }

    fn done_by_name(&mut self, name: &str, kind: Kind) {
        self.judge.forget(name);
        if let Some(&at) = self.index.get(name) {
            self.done(at, kind);
        }
    }

    /// The step is final: what waits for nothing else now is ready.
    fn done(&mut self, at: usize, kind: Kind) {
        let node = &mut self.nodes[at];
        let after = match kind {
            Kind::Fetch => {
                node.fetch = Step::Done;
                std::mem::take(&mut node.after_fetch)
            }
            Kind::Extract => {
                node.extract = Step::Done;
                self.unexported -= 1;
                std::mem::take(&mut node.after_extract)
            }
        };
        for (next, kind) in after {
            match kind {
                Kind::Fetch => self.nodes[next].fetch_waits_for -= 1,
                Kind::Extract => self.nodes[next].extract_waits_for -= 1,
            }
            self.make_ready(next);
        }
    }

    /// Whether no job was given out: there was nothing to do.
    pub fn is_idle(&self) -> bool {
        self.jobs == 0
    }

    /// What was decided of the load and the validation, if they were decided about.
    pub fn loaded(&self) -> Option<&Loaded> {
        self.loaded.as_ref()
    }

    /// What was learnt of files' hashes is kept for the next run.
    pub fn remember(&mut self) {
        self.judge.remember();
    }

    /// The stages of this run with what was decided of them, in the order of the file.
    pub fn decisions(&self) -> impl Iterator<Item = (&'a Stage, &Decided)> {
        self.nodes.iter().map(|node| (node.stage, &node.decided))
    }

    fn set(&mut self, name: &str, change: impl FnOnce(&mut Node<'a>)) {
        if let Some(&at) = self.index.get(name) {
            change(&mut self.nodes[at]);
        }
    }

    /// The next fetch, or run of a program.
    fn next_fetch(&mut self) -> Result<Option<Job>> {
        while let Some(at) = self.ready_fetches.pop_first() {
            let stage = self.nodes[at].stage;
            // Where it cannot be judged, that is told once.
            self.nodes[at].fetch = Step::Running;
            let verdict = self.judge_pages(stage, self.nodes[at].force)?;
            let is_current = verdict.is_current();
            self.nodes[at].decided.fetch = Some(verdict);
            if is_current {
                self.done(at, Kind::Fetch);
                continue;
            }
            let name = stage.name.clone();
            return Ok(Some(if stage.run().is_some() { Job::Exec(name) } else { Job::Fetch(name) }));
        }
        Ok(None)
    }

    fn judge_pages(&mut self, stage: &Stage, force: bool) -> Result<Verdict> {
        match (&stage.source, self.fetching) {
            (Source::Fetch(fetch), Fetching::Offline | Fetching::Never) => self.judge.unfetched(stage, fetch),
            (Source::Run(run), Fetching::Never) => own::not_run(&mut self.judge, stage, run),
            (Source::Fetch(_) | Source::Run(_), _) if force => Ok(Verdict::Stale(Reason::Forced)),
            (Source::Fetch(fetch), Fetching::AsNeeded) => self.judge.fetch(stage, fetch),
            (Source::Run(run), Fetching::AsNeeded | Fetching::Offline) => own::of_run(&mut self.judge, stage, run),
            (Source::From(_), _) => Ok(Verdict::Current),
        }
    }

    fn next_extract(&mut self) -> Result<Option<Job>> {
        let (mut source_of_job, mut is_alone) = (None, false);
        let mut names = Vec::new();
        let mut others = Vec::new();
        while let Some(at) = self.ready_extracts.pop_first() {
            let Node { stage, source, alone, .. } = self.nodes[at];
            let has_company = source_of_job.is_some_and(|name| name != source || alone || is_alone);
            if has_company {
                others.push(at);
                continue;
            }
            let verdict = match self.judge_extract(at) {
                Ok(verdict) => verdict,
                // Those that can be made are first.
                Err(error) => {
                    self.unjudged.push_back(error);
                    continue;
                }
            };
            let is_current = verdict.is_current();
            self.nodes[at].decided.extract = Some(verdict);
            if is_current {
                self.done(at, Kind::Extract);
                continue;
            }
            self.nodes[at].extract = Step::Running;
            (source_of_job, is_alone) = (Some(source), alone);
            names.push(stage.name.clone());
        }
        self.ready_extracts.extend(others);
        Ok((!names.is_empty()).then_some(Job::Extract(names)))
    }

    fn judge_extract(&mut self, at: usize) -> Result<Verdict> {
        let Node { stage, source, force, .. } = self.nodes[at];
        let verdict = match force {
            true => Verdict::Stale(Reason::Forced),
            false => self.judge.extract(stage)?,
        };
        self.as_trusted(stage, source, verdict)
    }

    /// The verdict on an extract, when it was seen that it can be made, and that what is to be taken as it is was taken.
    fn as_trusted(&mut self, stage: &Stage, source: &str, verdict: Verdict) -> Result<Verdict> {
        let verdict = match verdict {
            Verdict::Stale(reason) if !self.fetches() => match self.judge.lacks_pages(source)? {
                Some(_) if self.judge.may_take(stage)? => Verdict::Kept(reason),
                Some(lack) => return Err(cannot_be_made(stage, source, &reason, &lack)),
                None => Verdict::Stale(reason),
            },
            verdict => verdict,
        };
        match &verdict {
            Verdict::Kept(reason) if !self.judge.is_taken(&stage.name)? => {
                trusted::take(self.judge.pipeline, stage, reason)?;
                self.judge.forget(&stage.name);
            }
            Verdict::Stale(Reason::OutputEdited) => log::warn!(
                target: &stage.name,
                "all.json was edited by hand, and is made again (`--trust-exports` takes it as it is)"
            ),
            _ => {}
        }
        Ok(verdict)
    }
}

/// A stage that is to be made anew needs pages, which nobody fetches now.
fn cannot_be_made(stage: &Stage, source: &str, why: &Reason, lack: &Reason) -> Error {
    Error::failed(format!("stage `{}` cannot be made without the API: {why}", stage.name))
        .detail(format!("It is made from the pages of `{source}`: {lack}."))
        .hint("Run `mirror42 run`, which fetches them; or take the exports as they are, with `--trust-exports`.")
}
