//! Children under way: what they tell, as it comes, and how they are made to end.
//!
//! A child has ended when its standard error is closed and the kernel has told of its end (SIGCHLD, [`stop`]); what it has
//! left behind in its process group is killed. One that takes longer than it may, and all of them when the driver is
//! asked to end, get SIGTERM, and SIGKILL when they are still there after a while.

use std::collections::BTreeMap;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::child::{self, Message, Reader, Spawned, Stdout, Told};
use crate::error::{Error, Result};
use crate::{progress, stop};

/// What a child that is told to end has for it.
const GRACE: Duration = Duration::from_millis(1500);
// Only what has left its process group can hold the standard error of a child open after its end.
const DRAIN: Duration = Duration::from_secs(1);
// Where the end of a child is told by nobody, one that has nothing to say any more is looked at so often.
const LOOK: Duration = Duration::from_millis(50);

/// Children, each with what its starter calls it by.
pub struct Children<T> {
    sender: Sender<Message>,
    receiver: Receiver<Message>,
    /// By number: a child's messages may come after the next one has started.
    running: BTreeMap<usize, Running<T>>,
    started: usize,
    stopped_by: Option<&'static str>,
}

/// What to start.
pub struct Start<T> {
    pub tag: T,
    pub command: Command,
    /// For messages: the program with its stages.
    pub name: String,
    pub stdout: Stdout,
    pub limit: Option<Limit>,
}

/// The longest that a child may take, and its failure if it takes longer.
pub struct Limit {
    pub time: Duration,
    pub error: Error,
}

struct Running<T> {
    tag: T,
    name: String,
    child: Child,
    told: Told,
    stdout: Option<Reader>,
    /// Its standard error is closed.
    silent: bool,
    status: Option<ExitStatus>,
    /// When the status came.
    ended: Option<Instant>,
    limit: Option<(Instant, Error)>,
    halt: Halt,
}

/// How far it has been made to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Halt {
    No,
    /// SIGTERM, at this time.
    Asked(Instant),
    Killed,
}

/// What a child does, or all of them.
pub enum News<T> {
    /// An event of the child of this number.
    Progress(usize, progress::Event),
    Log {
        level: log::Level,
        stage: String,
        text: String,
    },
    Ended(Ended<T>),
    /// The driver was asked to end: all children are told to.
    Stopped(&'static str),
}

/// A child that is over.
pub struct Ended<T> {
    pub number: usize,
    pub tag: T,
    /// What it printed, if that was asked for.
    pub result: Result<String>,
    /// It did not end when it was told to.
    pub killed: bool,
}

impl<T> Children<T> {
    pub fn new() -> Children<T> {
        let (sender, receiver) = channel();
        let listener = sender.clone();
        stop::listen(move |event| {
            // Nobody receives when the driver is ending itself.
            let _ = listener.send(match event {
                stop::Event::Asked(signal) => Message::Stop(signal),
                stop::Event::ChildEnded => Message::SomeEnded,
            });
        });
        Children { sender, receiver, running: BTreeMap::new(), started: 0, stopped_by: None }
    }

    pub fn len(&self) -> usize {
        self.running.len()
    }

    pub fn start(&mut self, start: Start<T>) -> Result<()> {
        let Spawned { child, told, stdout } =
            child::spawn(start.command, self.started, start.stdout, self.sender.clone())?;
        let running = Running {
            tag: start.tag,
            name: start.name,
            child,
            told,
            stdout,
            silent: false,
            status: None,
            ended: None,
            limit: start.limit.map(|limit| (Instant::now() + limit.time, limit.error)),
            halt: Halt::No,
        };
        self.running.insert(self.started, running);
        self.started += 1;
        Ok(())
    }

    /// Waits for the next news; none when no child is under way.
    pub fn next(&mut self) -> Option<News<T>> {
        loop {
            let now = Instant::now();
            self.running.values_mut().for_each(|child| child.look(now));
            if let Some(number) = self.running.iter().find(|(_, child)| child.is_over(now)).map(|(number, _)| *number) {
                return self.running.remove(&number).map(|child| News::Ended(child.end(number)));
            }
            // None when nothing is to be done at any time: then something is waited for, if anything is under way.
            let wake = self.running.values().filter_map(|child| child.wake(now)).min();
            let message = match wake {
                _ if self.running.is_empty() => return None,
                Some(at) => self.receiver.recv_timeout(at.saturating_duration_since(now)).ok(),
                // The sender is kept here too, so that there is always one.
                None => self.receiver.recv().ok(),
            };
            match message {
                Some(Message::Progress(number, event)) => return Some(News::Progress(number, event)),
                Some(Message::Log { level, stage, text }) => return Some(News::Log { level, stage, text }),
                Some(Message::Silent(number)) => {
                    self.running.get_mut(&number).into_iter().for_each(|child| child.silent = true);
                }
                Some(Message::Stop(signal)) if self.stopped_by.is_none() => {
                    self.stopped_by = Some(signal);
                    self.running.values_mut().for_each(|child| child.ask(now));
                    return Some(News::Stopped(signal));
                }
                Some(Message::SomeEnded | Message::Stop(_)) | None => {}
            }
        }
    }
}

impl<T> Drop for Children<T> {
    fn drop(&mut self) {
        stop::unlisten();
    }
}

impl<T> Running<T> {
    /// Takes in its end if it has ended, and makes it end if it is time.
    fn look(&mut self, now: Instant) {
        // It fails only for a child that was waited for already, which nobody else does.
        if self.status.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            (self.status, self.ended) = (Some(status), Some(now));
            // What it has started and not waited for.
            self.signal(Signal::SIGKILL);
        }
        if self.status.is_some() {
            return;
        }
        match self.halt {
            Halt::No if self.limit.as_ref().is_some_and(|(until, _)| *until <= now) => self.ask(now),
            Halt::Asked(at) if at + GRACE <= now => {
                self.signal(Signal::SIGKILL);
                self.halt = Halt::Killed;
            }
            _ => {}
        }
    }

    fn ask(&mut self, now: Instant) {
        if self.halt == Halt::No && self.status.is_none() {
            self.signal(Signal::SIGTERM);
            self.halt = Halt::Asked(now);
        }
    }

    /// To its process group, which may be gone.
    fn signal(&self, signal: Signal) {
        let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), signal);
    }

    /// When something is to be done to it if nothing comes before.
    fn wake(&self, now: Instant) -> Option<Instant> {
        if let Some(ended) = self.ended {
            return Some(ended + DRAIN);
        }
        let due = match self.halt {
            Halt::No => self.limit.as_ref().map(|(until, _)| *until),
            Halt::Asked(at) => Some(at + GRACE),
            Halt::Killed => None,
        };
        due.into_iter().chain(self.silent.then_some(now + LOOK)).min()
    }

    fn is_over(&self, now: Instant) -> bool {
        self.ended.is_some_and(|ended| self.silent || ended + DRAIN <= now)
    }

    fn end(self, number: usize) -> Ended<T> {
        let Running { tag, name, told, stdout, status, limit, halt, .. } = self;
        let failure = match (status, limit) {
            (Some(status), _) if status.success() => None,
            // It was made to end before the driver was asked to.
            (_, Some((until, error))) if halt != Halt::No && until <= Instant::now() => {
                Some(told.with_last_lines(error))
            }
            (status, _) => status.and_then(|status| told.error(&name, status)),
        };
        let printed = stdout.map_or(Ok(String::new()), |stdout| child::printed(&name, stdout));
        Ended { number, tag, result: failure.map_or(printed, Err), killed: halt == Halt::Killed }
    }
}
