//! The stage binaries as child processes: the only place that starts them.
//!
//! A child tells what it does on its standard error, one JSON object a line (`--log-format json`):
//! log lines, progress, and at the end its error in parts. It dies with the driver.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;

use serde_json::Value;

use crate::error::{Error, Kind, Result};
use crate::process::die_with_parent;
use crate::progress;

/// What a child tells; `usize` is the child's number.
pub enum Message {
    Progress(usize, progress::Event),
    /// A log line: level, stage, text.
    Log {
        level: log::Level,
        stage: String,
        text: String,
    },
    /// It has closed its standard error, so it is ending.
    Ended(usize, Told),
}

/// What a child said of its end.
#[derive(Default)]
pub struct Told {
    /// The parts of its error.
    error: Option<Value>,
    /// Lines that were no JSON: a panic, the dynamic linker.
    stray: Vec<String>,
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

/// Starts `command`, whose messages go to `sender` under `number`.
pub fn spawn(mut command: Command, number: usize, stdout: Stdio, sender: Sender<Message>) -> Result<Child> {
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
    die_with_parent(&mut command);
    let mut child = command.spawn().map_err(|cause| {
        Error::failed(format!("could not start `{}`: {cause}", command.get_program().to_string_lossy()))
    })?;
    let stderr = child.stderr.take();
    std::thread::spawn(move || {
        let mut told = Told::default();
        for line in stderr.into_iter().flat_map(|stderr| BufReader::new(stderr).lines()) {
            // A line that cannot be read is the pipe's end; one that is no JSON is kept as it is.
            let Ok(line) = line else { break };
            let message = understand(number, &line, &mut told);
            if message.is_some_and(|message| sender.send(message).is_err()) {
                return;
            }
        }
        // The receiver is gone when the driver is ending itself.
        let _ = sender.send(Message::Ended(number, told));
    });
    Ok(child)
}

fn understand(number: usize, line: &str, told: &mut Told) -> Option<Message> {
    let Ok(Value::Object(mut object)) = serde_json::from_str::<Value>(line) else {
        told.stray.push(line.to_string());
        return None;
    };
    if let Some(event) = object.remove("progress") {
        return serde_json::from_value(event).ok().map(|event| Message::Progress(number, event));
    }
    if let Some(error) = object.remove("error") {
        told.error = Some(error);
        return None;
    }
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or("").to_string();
    let level = text("level").parse().unwrap_or(log::Level::Info);
    Some(Message::Log { level, stage: text("stage"), text: text("message") })
}

impl Told {
    /// The error of a child that ended with `status`; none if it ended well.
    pub fn error(self, program: &str, status: ExitStatus) -> Option<Error> {
        if status.success() {
            return None;
        }
        let kind = status.code().map_or(Kind::Failed, Kind::from_exit_code);
        if let Some(error) = self.error.and_then(|parts| Error::from_json(kind, parts)) {
            return Some(error);
        }
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => "ended oddly".to_string(),
        };
        let error = Error::failed(format!("`{program}` {how}, without a word of its own"));
        Some(
            self.stray
                .iter()
                .rev()
                .take(5)
                .rev()
                .fold(error, |error, line| error.detail(format!("It printed: {line}"))),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_childs_lines_are_told_apart() {
        let mut told = Told::default();
        let log = r#"{"time":"…","level":"warn","stage":"a","message":"m"}"#;
        assert!(matches!(
            understand(0, log, &mut told),
            Some(Message::Log { level: log::Level::Warn, stage, text }) if stage == "a" && text == "m"
        ));
        let event = r#"{"progress":{"stage":"a","step":"fetch","unit":"pages","done":1,"total":2,"note":null,"finished":false}}"#;
        assert!(matches!(understand(0, event, &mut told), Some(Message::Progress(0, event)) if event.done == 1));
        assert!(understand(0, "thread main panicked", &mut told).is_none());
        assert!(understand(0, r#"{"error":{"message":"m","at":null,"detail":[],"hint":null}}"#, &mut told).is_none());
        assert_eq!(told.stray, ["thread main panicked"]);
        let error = told.error("mirror42-load", ExitStatus::from_raw(4 << 8)).unwrap();
        assert_eq!((error.kind(), error.message()), (Kind::Guard, "m"));
    }

    #[test]
    fn a_child_that_dies_without_a_word_is_told_of() {
        let told = Told { error: None, stray: vec!["boom".into()] };
        let error = told.error("mirror42-load", ExitStatus::from_raw(9)).unwrap();
        assert_eq!(
            error.to_string(),
            "`mirror42-load` was killed by signal 9, without a word of its own\n  detail: It printed: boom"
        );
    }
}
