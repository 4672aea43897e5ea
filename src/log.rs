//! One line a fact, UTC, to `logs/<stage>.log` and to the standard error.
//!
//! The crate `log` is the interface (`log::info!(target: stage, …)`): the target of a line is the
//! stage it is about, and decides its file. Lines of our own modules without a target go to the log
//! of the step that runs (`load`, `run`, …). With `--log-format json` the standard error carries one
//! JSON object a line; the driver reads its children that way.

use std::path::PathBuf;
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::error::{Error, Result, printable};
use crate::paths::Paths;
use crate::secret::redact;
use crate::style::{self, Mood};
use crate::{files, progress};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Lines for people.
    Text,
    /// One JSON object a line, on the standard error.
    Json,
}

struct Logger {
    format: Format,
    console: LevelFilter,
    folder: PathBuf,
    step: &'static str,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Starts logging for the step `step`; `console` is the least level that the standard error shows.
/// Files get everything from `info` up. A second call changes nothing.
pub fn init(paths: &Paths, step: &'static str, format: Format, console: LevelFilter) -> Result<()> {
    files::create_dir(&paths.logs())?;
    let logger = LOGGER.get_or_init(|| Logger { format, console, folder: paths.logs(), step });
    // Fails only when a logger is set already, which is this one.
    let _ = log::set_logger(logger);
    log::set_max_level(console.max(LevelFilter::Info));
    Ok(())
}

/// The time now as logs and receipts write it: UTC, RFC 3339, milliseconds.
pub fn now() -> String {
    timestamp(jiff::Timestamp::now())
}

pub fn timestamp(at: jiff::Timestamp) -> String {
    format!("{at:.3}")
}

/// Prints a line that another process has logged: it has written its own file.
pub fn relay(level: Level, stage: &str, message: &str) {
    if let Some(logger) = LOGGER.get() {
        logger.print(level, stage, message);
    }
}

/// Logs a fact of which there may be hundreds in a run. A parent that reads JSON is told only if it asked for all.
pub fn detail(stage: &str, message: &str) {
    if progress::mode() != progress::Mode::Events {
        log::info!(target: stage, "{message}");
        return;
    }
    log::debug!(target: stage, "{message}");
    if let Some(logger) = LOGGER.get() {
        logger.write(Level::Info, stage, &printable(&redact(message)));
    }
}

/// Prints the failure of the program `name` on the standard error, once, and writes it into the log of the step.
pub fn report_failure(name: &str, error: &Error) {
    if let Some(logger) = LOGGER.get() {
        logger.write(Level::Error, logger.step, &error.to_string().replace('\n', " "));
    }
    match progress::mode() {
        progress::Mode::Events => progress::print(&serde_json::json!({ "error": error.to_json() }).to_string()),
        progress::Mode::Bars | progress::Mode::Silent => {
            progress::print(&format!("{name}: {} {error}", style::paint(Mood::Bad, "error:")));
        }
    }
}

/// Writes a line into the log of the step; the standard error has it with `--verbose` only.
pub fn note(message: &str) {
    if let Some(logger) = LOGGER.get() {
        let message = printable(&redact(message)).to_string();
        logger.print(Level::Debug, logger.step, &message);
        logger.write(Level::Info, logger.step, &message);
    }
}

impl Logger {
    fn write(&self, level: Level, stage: &str, message: &str) {
        let line = format!("{} {level:5} {stage}: {message}\n", now());
        // A full disk must not stop a run for the sake of its log.
        let _ = files::append_line(&self.folder.join(format!("{stage}.log")), line.as_bytes());
    }

    /// Shows a line on the standard error, if its level is high enough.
    fn print(&self, level: Level, stage: &str, message: &str) {
        if level <= self.console {
            progress::print(&match self.format {
                Format::Text => console_line(level, stage, message),
                Format::Json => json_line(&now(), level, stage, message),
            });
        }
    }

    /// The stage a line is about: its target, unless that is a module of this or another crate.
    fn stage<'a>(&self, target: &'a str) -> &'a str
    where
        'static: 'a,
    {
        if target.contains("::") || target == "mirror42" { self.step } else { target }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        // Other crates' chatter (rustls, ureq) is theirs; they hold request heads too, and so tokens.
        let target = metadata.target();
        let ours = !target.contains("::") || target.starts_with("mirror42::");
        ours && !["ureq", "rustls", "ureq_proto", "mio", "hyper"].contains(&target)
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let stage = self.stage(record.target());
        let message = printable(&redact(&record.args().to_string()));
        self.print(record.level(), stage, &message);
        if record.level() <= Level::Info {
            self.write(record.level(), stage, &message);
        }
    }

    fn flush(&self) {}
}

fn console_line(level: Level, stage: &str, message: &str) -> String {
    let now = jiff::Timestamp::now();
    // A person who watches knows the day, and a line has 80 columns.
    let time = match progress::mode() {
        progress::Mode::Bars => now.strftime("%H:%M:%S").to_string(),
        progress::Mode::Events | progress::Mode::Silent => format!("{now:.0}"),
    };
    match level {
        Level::Error => format!("{time} {stage}: {} {message}", style::paint(Mood::Bad, "error:")),
        Level::Warn => format!("{time} {stage}: {} {message}", style::paint(Mood::Warning, "warning:")),
        Level::Info | Level::Debug | Level::Trace => format!("{time} {stage}: {message}"),
    }
}

fn json_line(time: &str, level: Level, stage: &str, message: &str) -> String {
    serde_json::json!({ "time": time, "level": level.as_str().to_lowercase(), "stage": stage, "message": message })
        .to_string()
}
