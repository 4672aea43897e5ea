//! A run: jobs as child processes until all targets are up to date, or one has failed.

use std::collections::HashMap;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::child::{self, Message, Told};
use super::record::Recorder;
use super::schedule::{Job, Schedule, Targets};
use super::snapshots;
use crate::cli::Context;
use crate::error::{Error, Kind, Result};
use crate::files::{self, Lock};
use crate::log as logs;
use crate::progress::{self, Task, Total};

/// How the children are to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The verb that runs.
    pub verb: &'static str,
    /// Children at a time.
    pub jobs: usize,
    /// Variables for the children's environment; secrets go this way, never by their command lines.
    pub environment: Vec<(&'static str, String)>,
    pub verbose: bool,
    /// How the ledger calls the load.
    pub run_id: String,
}

/// Brings the targets up to date. The run lock is the caller's.
pub fn run<'a>(context: &'a Context, targets: &Targets, options: &Options, record: &Recorder) -> Result<Schedule<'a>> {
    check_filters(context, targets, options)?;
    let mut schedule = Schedule::new(&context.pipeline, targets)?;
    let mut forced = Forced::begin(context, &schedule)?;
    let (sender, receiver) = channel();
    let (running, tasks) = (HashMap::new(), HashMap::new());
    let mut runner = Runner { context, options, record, sender, receiver, running, tasks, started: 0 };
    let total = Total::start(schedule.progress());
    let mut failure: Option<Error> = None;
    loop {
        while failure.is_none() && runner.running.len() < options.jobs {
            match schedule.next()? {
                Some(job) => {
                    record.started(&job, &schedule);
                    runner.start(job)?;
                }
                None => break,
            }
        }
        total.show(schedule.progress());
        if runner.running.is_empty() {
            break;
        }
        match runner.wait() {
            Ok(Some(job)) => {
                if matches!(job, Job::Load)
                    && let Err(error) = snapshots::keep(&context.pipeline, &options.run_id)
                {
                    // The mirror is right all the same.
                    log::warn!("the exports of this load are not kept: {error}");
                }
                schedule.finish(&job);
                forced.update(context, &schedule)?;
            }
            Ok(None) => {}
            Err(error) => {
                if !runner.running.is_empty() {
                    log::info!("a stage failed; waiting for what is under way: {}", error.message());
                }
                if let Some(stage) = blamed(context, &error) {
                    schedule.doubt(stage);
                    forced.update(context, &schedule)?;
                }
                // What else is under way is let finish: its work is kept. A failure that somebody has to look at is
                // told rather than one that passes with time.
                if failure.as_ref().is_none_or(|first| first.kind() == Kind::Later && error.kind() != Kind::Later) {
                    failure = Some(error);
                }
            }
        }
    }
    record.decided(&schedule);
    match failure {
        Some(error) => Err(error),
        None => Ok(schedule),
    }
}

/// The stage whose records could not be used, told by the error's place: the next run asks the API for them again,
/// since what came may have been a passing fault of the server.
fn blamed<'a>(context: &'a Context, error: &Error) -> Option<&'a str> {
    let pipeline = &context.pipeline;
    let (_, place) = error.place()?.split_once("exports/")?;
    let stage = pipeline.stage(place.split('/').next()?)?;
    place.contains(", record ").then(|| pipeline.source_of(stage).ok())?.map(|(source, _)| source.name.as_str())
}

/// Which stages a forced run has still to fetch, in a file: a run that is killed half way would else
/// leave pages of two nights, and the next run would take the older ones for current.
struct Forced {
    /// Those that this run does not touch.
    others: Vec<String>,
    written: Vec<String>,
}

impl Forced {
    fn begin(context: &Context, schedule: &Schedule) -> Result<Forced> {
        let written = remembered(context)?;
        let others = written.iter().filter(|name| !schedule.has(name)).cloned().collect();
        let mut forced = Forced { others, written };
        forced.update(context, schedule)?;
        Ok(forced)
    }

    fn update(&mut self, context: &Context, schedule: &Schedule) -> Result<()> {
        let left: Vec<String> =
            self.others.iter().cloned().chain(schedule.still_forced().map(str::to_string)).collect();
        if left == self.written {
            return Ok(());
        }
        let path = context.pipeline.paths.forced();
        match left.is_empty() {
            true => files::remove(&path)?,
            false => drop(files::write(&path, (left.join("\n") + "\n").as_bytes())?),
        }
        self.written = left;
        Ok(())
    }
}

/// What the last forced run has not fetched.
pub fn remembered(context: &Context) -> Result<Vec<String>> {
    let bytes = files::read_if_there(&context.pipeline.paths.forced())?.unwrap_or_default();
    let names = String::from_utf8_lossy(&bytes).lines().map(str::to_string).collect::<Vec<_>>();
    Ok(names.into_iter().filter(|name| context.pipeline.stage(name).is_some()).collect())
}

/// One run at a time: the lock's file says who holds it.
pub fn lock(context: &Context, verb: &str) -> Result<Lock> {
    let path = context.pipeline.paths.run_lock();
    let owner = format!("`mirror42 {verb}`, process {}, since {}", std::process::id(), logs::now());
    if let Some(lock) = Lock::try_with_owner(&path, &owner)? {
        return Ok(lock);
    }
    let owner = std::fs::read_to_string(&path).unwrap_or_default();
    Err(Error::locked("another run is under way").at(path.display().to_string()).detail(format!("It is {owner}.")))
}

/// A filter that does not compile is told of before an hour of fetching, not after.
fn check_filters(context: &Context, targets: &Targets, options: &Options) -> Result<()> {
    if targets.stages.is_empty() {
        return Ok(());
    }
    output(context, options, "mirror42-extract", &["--check"]).map(drop)
}

/// Runs a program to its end: what it printed, of which there is little.
pub fn output(context: &Context, options: &Options, program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = command(context, options, program)?;
    command.args(arguments);
    output_of(command, program)
}

/// As [`output`], of a command that is ready.
pub fn output_of(command: Command, program: &str) -> Result<String> {
    let (sender, receiver) = channel();
    let mut child = child::spawn(command, 0, Stdio::piped(), sender)?;
    let told = receiver.iter().find_map(|message| match message {
        Message::Ended(_, told) => Some(told),
        Message::Log { level, stage, text } => {
            logs::relay(level, &stage, &text);
            None
        }
        Message::Progress(..) => None,
    });
    let mut printed = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        let read = stdout.read_to_string(&mut printed);
        read.map_err(|cause| Error::failed(format!("could not read what `{program}` printed: {cause}")))?;
    }
    end(program, &mut child, told.unwrap_or_default())?;
    Ok(printed)
}

fn command(context: &Context, options: &Options, program: &str) -> Result<Command> {
    let mut command = Command::new(child::program(program)?);
    command.arg("--pipeline").arg(&context.pipeline.file).args(["--log-format", "json"]);
    if options.verbose {
        command.arg("--verbose");
    }
    command.envs(options.environment.iter().map(|(name, value)| (name, value)));
    Ok(command)
}

/// Waits for a child that is ending.
fn end(program: &str, child: &mut Child, told: Told) -> Result<()> {
    let status = child.wait().map_err(|cause| Error::failed(format!("could not wait for `{program}`: {cause}")))?;
    told.error(program, status).map_or(Ok(()), Err)
}

struct Runner<'a> {
    context: &'a Context,
    options: &'a Options,
    record: &'a Recorder<'a>,
    sender: Sender<Message>,
    receiver: Receiver<Message>,
    /// By number: children's messages may come after the next child has started.
    running: HashMap<usize, Running>,
    tasks: HashMap<(usize, String), Task>,
    started: usize,
}

struct Running {
    job: Job,
    program: &'static str,
    child: Child,
}

impl Runner<'_> {
    fn start(&mut self, job: Job) -> Result<()> {
        let (program, arguments) = match &job {
            Job::Fetch(name) => ("mirror42-fetch", vec![name.clone()]),
            Job::Extract(names) => ("mirror42-extract", names.clone()),
            Job::Load => ("mirror42-load", vec!["--run-id".to_string(), self.options.run_id.clone()]),
            Job::Validate => ("mirror42-validate", Vec::new()),
        };
        let mut command = command(self.context, self.options, program)?;
        command.args(&arguments);
        log::debug!("starting {program} {}", arguments.join(" "));
        let child = child::spawn(command, self.started, Stdio::null(), self.sender.clone())?;
        self.running.insert(self.started, Running { job, program, child });
        self.started += 1;
        Ok(())
    }

    /// Takes in the next message; returns the job that has ended well by it, if one has.
    fn wait(&mut self) -> Result<Option<Job>> {
        // The sender is kept here too, so that there is always one.
        let Ok(message) = self.receiver.recv() else { return Ok(None) };
        match message {
            Message::Log { level, stage, text } => {
                logs::relay(level, &stage, &text);
                Ok(None)
            }
            Message::Progress(number, event) => {
                self.show(number, &event);
                Ok(None)
            }
            Message::Ended(number, told) => {
                self.tasks.retain(|(child, _), _| *child != number);
                let Some(mut running) = self.running.remove(&number) else { return Ok(None) };
                let end = end(running.program, &mut running.child, told);
                self.record.ended(&running.job, &end);
                end.map(|()| Some(running.job))
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
