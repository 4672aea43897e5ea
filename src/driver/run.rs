//! A run: jobs as child processes until all targets are up to date, or one has failed.

use std::collections::HashMap;

use super::child::Stdout;
use super::children::{Children, Ended, Limit, News, Start};
use super::failures::Failures;
use super::filters;
use super::forced::Forced;
use super::options::Options;
use super::output::{command, output};
use super::owed::Owed;
use super::record::Recorder;
use super::schedule::{Job, Schedule, Targets};
use super::{loaded, snapshots, staleness};
use crate::cli::Context;
use crate::error::{Error, Kind, Result};
use crate::log as logs;
use crate::progress::{self, Task, Total};
use crate::stop;

/// Brings the targets up to date. The run lock is the caller's.
pub fn run<'a>(
    context: &'a Context,
    targets: &Targets,
    options: &'a Options,
    record: &Recorder,
) -> Result<Schedule<'a>> {
    stop::keeps("What was fetched and extracted is kept, the pages of a fetch under way too.");
    let (mut schedule, mut failures, mut first) = begin(context, targets, options, Vec::new())?;
    // A filter that does not compile is told of before an hour of fetching, not after.
    if first.as_ref().is_some_and(|job| !job.stages().is_empty())
        && let Err(error) = output(context, options, "mirror42-extract", &["--check"])
    {
        if !options.keep_going || error.kind() == Kind::Later {
            return Err(error);
        }
        let stages: Vec<&str> = schedule.decisions().map(|(stage, _)| stage.name.as_str()).collect();
        let broken = filters::broken(context, options, &stages)?;
        (schedule, failures, first) = begin(context, targets, options, broken)?;
    }
    let mut forced = Forced::begin(context, &schedule)?;
    let mut runner = Runner { context, options, record, children: Children::new(), tasks: HashMap::new() };
    let total = Total::start(schedule.progress());
    loop {
        while failures.let_go_on(options) && runner.children.len() < options.jobs {
            let Some(job) = first.take().or_else(|| next(&mut schedule, &mut failures, options)) else { break };
            // A program of ours that cannot be started: nor can the next.
            if let Err(error) = runner.start(job, &schedule) {
                failures.add_last(error);
            }
        }
        total.show(schedule.progress());
        let Some(Ended { tag: job, result, killed, .. }) = runner.wait(&mut failures) else { break };
        if matches!(job, Job::Validate) {
            note_validation(context, options, &result);
        }
        match result {
            Ok(_) => {
                schedule.finish(&job);
                if matches!(job, Job::Load)
                    && let Err(error) = snapshots::keep(&context.pipeline, &options.run_id)
                {
                    // The mirror is right all the same.
                    log::warn!("the exports of this load are not kept: {error}");
                }
            }
            // It was made to.
            Err(_) if failures.are_stopped() => {
                if killed && matches!(job, Job::Load) {
                    failures.load_was_killed();
                }
            }
            Err(error) if options.keep_going && error.kind() == Kind::Failed && schedule.part(&job) => {
                log::info!("stages that were extracted together are tried one by one: {}", error.message());
            }
            Err(error) => {
                // What else is under way is let finish: its work is kept.
                if runner.children.len() > 0 && !options.keep_going {
                    log::info!("a stage failed; waiting for what is under way: {}", error.message());
                }
                match Owed::by_failure(&context.pipeline, &job, &error) {
                    Ok(owed) => {
                        owed.and_then(|owed| schedule.doubt(owed)).into_iter().for_each(|owed| forced.add(owed))
                    }
                    Err(error) => failures.add(error),
                }
                failures.add(error);
            }
        }
        if let Err(error) = forced.update(context, &schedule) {
            failures.add_last(error);
        }
    }
    schedule.remember();
    record.decided(&schedule);
    failures.end(&schedule, targets, options)?;
    Ok(schedule)
}

/// The schedule of a run, with what has gone wrong before its first job: stages with these `broken` filters are given up.
fn begin<'a>(
    context: &'a Context,
    targets: &Targets,
    options: &'a Options,
    broken: Vec<(String, Error)>,
) -> Result<(Schedule<'a>, Failures, Option<Job>)> {
    let mut schedule = Schedule::new(&context.pipeline, targets, options.database.as_ref())?;
    let mut failures = Failures::default();
    for (stage, error) in broken {
        if schedule.give_up(&stage) {
            failures.add(error);
        }
    }
    let first = next(&mut schedule, &mut failures, options);
    Ok((schedule, failures, first))
}

/// The next job that can start; none if nothing more may.
fn next(schedule: &mut Schedule, failures: &mut Failures, options: &Options) -> Option<Job> {
    while failures.let_go_on(options) {
        match schedule.next() {
            Ok(job) => return job,
            Err(error) => failures.add(error),
        }
    }
    None
}

/// Notes what a validation has found, by which the next run decides whether the last load will do.
fn note_validation<T>(context: &Context, options: &Options, result: &Result<T>) {
    let valid = match result {
        Ok(_) => true,
        Err(error) if error.kind() == Kind::Invalid => false,
        Err(_) => return,
    };
    if let Err(error) = loaded::note(&context.pipeline, options.database.as_ref(), valid) {
        log::warn!("what the validation has found is not noted: {error}");
    }
}

/// What the load of a dry run prints, after all else; none if this is none.
pub fn dry_load(context: &Context, options: &Options) -> Result<Option<String>> {
    if !options.dry_run {
        return Ok(None);
    }
    let mut arguments = vec!["--dry-run", "--run-id", &options.run_id];
    arguments.extend(options.load_arguments.iter().map(String::as_str));
    output(context, options, "mirror42-load", &arguments).map(Some)
}

struct Runner<'a> {
    context: &'a Context,
    options: &'a Options,
    record: &'a Recorder<'a>,
    children: Children<Job>,
    tasks: HashMap<(usize, String), Task>,
}

impl Runner<'_> {
    fn start(&mut self, job: Job, schedule: &Schedule) -> Result<()> {
        self.record.started(&job, schedule);
        let started = self.spawn(job.clone());
        if started.is_err() {
            self.record.ended(&job, &started);
        }
        started
    }

    fn spawn(&mut self, job: Job) -> Result<()> {
        let (program, arguments) = match &job {
            Job::Fetch(name) => ("mirror42-fetch", vec![name.clone()]),
            Job::Exec(name) => ("mirror42-exec", vec![name.clone()]),
            Job::Extract(names) => ("mirror42-extract", names.clone()),
            Job::Load => {
                let arguments = ["--run-id", &self.options.run_id].map(String::from);
                ("mirror42-load", arguments.into_iter().chain(self.options.load_arguments.clone()).collect())
            }
            Job::Validate => ("mirror42-validate", Vec::new()),
        };
        let mut command = command(self.context, self.options, program)?;
        command.args(&arguments);
        let stages = job.stages();
        let name = std::iter::once(program).chain(stages.iter().map(String::as_str)).collect::<Vec<_>>().join(" ");
        let limit = self.limit(&job);
        self.children.start(Start { tag: job, command, name, stdout: Stdout::Ignored, limit })
    }

    /// The shortest `timeout` of the stages of a job.
    fn limit(&self, job: &Job) -> Option<Limit> {
        let pipeline = &self.context.pipeline;
        let stages = job.stages().iter().filter_map(|name| pipeline.stage(name));
        let (stage, time) = stages.filter_map(|stage| Some((stage, stage.timeout?))).min_by_key(|(_, time)| *time)?;
        let (step, kept) = match job {
            Job::Fetch(_) => ("fetch", "Pages that have come are kept; the next fetch goes on with them."),
            Job::Exec(_) => ("program", "Its export is as it was."),
            _ => ("extract", "Its export is as it was."),
        };
        let length = if time.as_secs() > 0 { staleness::span(time.as_secs()) } else { format!("{time:?}") };
        let error =
            Error::failed(format!("the {step} of stage `{}` took longer than its timeout, {length}", stage.name))
                .at(pipeline.place(stage.line))
                .detail(format!("It was stopped. {kept}"))
                .hint("Raise `timeout` of the stage, if it may take longer.");
        Some(Limit { time, error })
    }

    /// Waits for the end of a job, and shows meanwhile what all of them do; none when no job is under way.
    fn wait(&mut self, failures: &mut Failures) -> Option<Ended<Job>> {
        loop {
            match self.children.next()? {
                News::Log { level, stage, text } => logs::relay(level, &stage, &text),
                News::Progress(number, event) => self.show(number, &event),
                News::Stopped(signal) => failures.stopped(signal),
                News::Ended(ended) => {
                    self.tasks.retain(|(child, _), _| *child != ended.number);
                    self.record.ended(&ended.tag, &ended.result);
                    return Some(ended);
                }
            }
        }
    }

    fn show(&mut self, number: usize, event: &progress::Event) {
        let key = (number, event.stage.clone());
        if event.finished {
            self.tasks.remove(&key);
            return;
        }
        let task =
            self.tasks.entry(key).or_insert_with(|| Task::start(&event.stage, &event.step, &event.unit, event.total));
        task.show(event);
    }
}
