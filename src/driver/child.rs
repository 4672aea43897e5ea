//! One child process, from its command line to what it said of its end: the only place that starts them.
//!
//! A child tells what it does on its standard error, one JSON object a line (`--log-format json`): log lines, progress,
//! and at the end its error in parts. It leads a process group of its own, so that a ^C is for the driver alone,
//! and whatever it has started ends with it. It dies with the driver.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::command_line;
use crate::error::{Error, Kind, Result};
use crate::process::die_with_parent;
use crate::{log as logs, progress};

/// So many of the last lines of a child are told if it ends without a word.
const LAST_LINES: usize = 5;

/// What the driver waits for; `usize` is a child's number.
pub enum Message {
    Progress(usize, progress::Event),
    /// A log line: level, stage, text.
    Log {
        level: log::Level,
        stage: String,
        text: String,
    },
    /// It has closed its standard error, so it is ending.
    Silent(usize),
    /// A child has ended.
    SomeEnded,
    /// The driver is asked to end, by this signal.
    Stop(&'static str),
}

/// What a child has said so far.
#[derive(Clone, Default)]
pub struct Told(Arc<Mutex<Words>>);

#[derive(Default)]
struct Words {
    /// The parts of its error.
    error: Option<Value>,
    /// What it logged, and lines that were no JSON: a panic, the dynamic linker.
    last: VecDeque<String>,
}

/// What becomes of what a child prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdout {
    Ignored,
    Kept,
}

/// Reads what a child prints while it does, since a full pipe would hold it up.
pub type Reader = JoinHandle<io::Result<String>>;

/// A child that has begun.
pub struct Spawned {
    pub child: Child,
    pub told: Told,
    pub stdout: Option<Reader>,
}

/// The program `name` beside this one.
pub fn program(name: &str) -> Result<PathBuf> {
    let own =
        std::env::current_exe().map_err(|cause| Error::failed(format!("could not find my own program: {cause}")))?;
    let program = own.with_file_name(name);
    if !program.exists() {
        return Err(Error::failed(format!("the program `{name}` is not beside `{}`", own.display()))
            .hint("Install all mirror42 programs into one folder."));
    }
    Ok(program)
}

/// Starts `command`, whose messages go to `sender` under `number`; the log has its command line.
pub fn spawn(mut command: Command, number: usize, stdout: Stdout, sender: Sender<Message>) -> Result<Spawned> {
    let stdout = if stdout == Stdout::Kept { Stdio::piped() } else { Stdio::null() };
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).process_group(0);
    die_with_parent(&mut command);
    logs::note(&format!("starting: {}", command_line::of(&command)));
    let mut child = command.spawn().map_err(|cause| {
        Error::failed(format!("could not start `{}`: {cause}", command.get_program().to_string_lossy()))
    })?;
    let stdout = child.stdout.take().map(|stdout| thread::spawn(|| io::read_to_string(stdout)));
    let stderr = child.stderr.take();
    let told = Told::default();
    let hears = told.clone();
    thread::spawn(move || {
        for line in stderr.into_iter().flat_map(|stderr| BufReader::new(stderr).split(b'\n')) {
            // A line that cannot be read is the pipe's end; one that is no JSON is kept as it is.
            let Ok(line) = line else { break };
            let message = hears.hear(number, &String::from_utf8_lossy(&line));
            if message.is_some_and(|message| sender.send(message).is_err()) {
                return;
            }
        }
        // The receiver is gone when the driver is ending itself.
        let _ = sender.send(Message::Silent(number));
    });
    Ok(Spawned { child, told, stdout })
}

/// What a child that has ended has printed.
pub fn printed(name: &str, stdout: Reader) -> Result<String> {
    let read = stdout.join().unwrap_or_else(|_| Err(io::Error::other("its reader ended early")));
    read.map_err(|cause| Error::failed(format!("could not read what `{name}` printed: {cause}")))
}

impl Told {
    fn words(&self) -> MutexGuard<'_, Words> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn hear(&self, number: usize, line: &str) -> Option<Message> {
        let Ok(Value::Object(mut object)) = serde_json::from_str::<Value>(line) else {
            self.words().remember(line.to_string());
            return None;
        };
        if let Some(event) = object.remove("progress") {
            // One of another form shows nothing; what comes of the step does not hang on it.
            return serde_json::from_value(event).ok().map(|event| Message::Progress(number, event));
        }
        if let Some(error) = object.remove("error") {
            self.words().error = Some(error);
            return None;
        }
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or("").to_string();
        let level = text("level").parse().unwrap_or(log::Level::Info);
        self.words().remember(text("message"));
        Some(Message::Log { level, stage: text("stage"), text: text("message") })
    }

    /// The error of a child that ended with `status`; none if it ended well. `command` is its program with its stages.
    pub fn error(&self, command: &str, status: ExitStatus) -> Option<Error> {
        if status.success() {
            return None;
        }
        let kind = status.code().map_or(Kind::Failed, Kind::from_exit_code);
        if let Some(error) = self.words().error.take().and_then(|parts| Error::from_json(kind, parts)) {
            return Some(error);
        }
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(signal)) => match Signal::try_from(signal) {
                Ok(signal) => format!("was killed by {signal}"),
                Err(_) => format!("was killed by signal {signal}"),
            },
            (None, None) => "ended oddly".to_string(),
        };
        let error = self.with_last_lines(Error::failed(format!("`{command}` {how}, without a word of its own")));
        Some(match status.signal() {
            Some(number) if number == Signal::SIGKILL as i32 => {
                error.hint("If nobody killed it, the kernel did, for want of memory: `dmesg` tells. Then run again.")
            }
            _ => error,
        })
    }

    /// `error` with the last lines that the child logged.
    pub fn with_last_lines(&self, error: Error) -> Error {
        let words = self.words();
        let first = LAST_LINES.min(words.last.len());
        let lines = words.last.iter().enumerate();
        lines.fold(error, |error, (i, line)| match (i, first) {
            (0, 1) => error.detail(format!("Its last line: {line}")),
            (0, _) => error.detail(format!("Its last lines: {line}")),
            (_, _) => error.detail(line),
        })
    }
}

impl Words {
    fn remember(&mut self, line: String) {
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_childs_lines_are_told_apart() {
        let told = Told::default();
        let log = r#"{"time":"…","level":"warn","stage":"a","message":"m"}"#;
        assert!(matches!(
            told.hear(0, log),
            Some(Message::Log { level: log::Level::Warn, stage, text }) if stage == "a" && text == "m"
        ));
        let event = r#"{"progress":{"stage":"a","step":"fetch","unit":"pages","done":1,"total":2,"note":null,"finished":false}}"#;
        assert!(matches!(told.hear(0, event), Some(Message::Progress(0, event)) if event.done == 1));
        assert!(told.hear(0, "thread main panicked").is_none());
        assert!(told.hear(0, r#"{"error":{"message":"m","at":null,"detail":[],"hint":null}}"#).is_none());
        assert_eq!(told.words().last, ["m", "thread main panicked"]);
        let error = told.error("mirror42-load", ExitStatus::from_raw(4 << 8)).unwrap();
        assert_eq!((error.kind(), error.message()), (Kind::Guard, "m"));
    }

    #[test]
    fn a_child_that_dies_without_a_word_is_told_of_with_its_last_lines() {
        let told = Told::default();
        assert_eq!(
            told.error("mirror42-extract a b", ExitStatus::from_raw(101 << 8)).unwrap().to_string(),
            "`mirror42-extract a b` ended with exit code 101, without a word of its own"
        );
        for i in 0..7 {
            told.hear(0, &format!("line {i}"));
        }
        assert_eq!(
            told.error("mirror42-load", ExitStatus::from_raw(9)).unwrap().to_string(),
            "`mirror42-load` was killed by SIGKILL, without a word of its own\n  detail: Its last lines: line 2\n  \
             detail: line 3\n  detail: line 4\n  detail: line 5\n  detail: line 6\n  \
             hint: If nobody killed it, the kernel did, for want of memory: `dmesg` tells. Then run again."
        );
    }
}
