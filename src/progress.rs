//! Bars on a terminal, events for a parent that asked for JSON, nothing elsewhere.
//!
//! A [`Task`] is one stage's step under way. All that reaches the standard error while tasks run
//! goes through [`print`], so that lines and bars do not tear each other.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

/// How this process shows progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Bars,
    Events,
    Silent,
}

static SHOW: OnceLock<Show> = OnceLock::new();

struct Show {
    mode: Mode,
    bars: MultiProgress,
}

/// One state of a task, as a child tells it to the driver.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Event {
    pub stage: String,
    /// What is done to it: `fetch`, `extract`, `load`.
    pub step: String,
    pub unit: String,
    pub done: u64,
    pub total: Option<u64>,
    /// Why it waits, where it does.
    pub note: Option<String>,
    /// The last event of its task.
    pub finished: bool,
}

/// Chooses how progress is shown; the first call decides.
pub fn init(mode: Mode) {
    SHOW.get_or_init(|| Show { mode, bars: MultiProgress::new() });
}

/// The mode for a person at a terminal, and for a pipe or a file.
pub fn mode_of_stderr() -> Mode {
    if std::io::stderr().is_terminal() { Mode::Bars } else { Mode::Silent }
}

/// How this process shows progress: [`Mode::Events`] means that a program reads the standard error.
pub fn mode() -> Mode {
    show().mode
}

fn show() -> &'static Show {
    SHOW.get_or_init(|| Show { mode: Mode::Silent, bars: MultiProgress::new() })
}

/// Prints a line on the standard error, above the bars if there are any.
pub fn print(line: &str) {
    let write = || {
        // Nobody is left to tell when the standard error is gone.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    };
    match show().mode {
        Mode::Bars => show().bars.suspend(write),
        Mode::Events | Mode::Silent => write(),
    }
}

/// One stage's step under way.
pub struct Task {
    bar: Option<ProgressBar>,
    event: Mutex<(Event, Instant)>,
}

// Often enough to look alive, seldom enough to cost nothing.
const EVERY: Duration = Duration::from_millis(100);

impl Task {
    /// Begins a task that counts `unit` ("pages", "records", "rows"); the total may come later.
    pub fn start(stage: &str, step: &str, unit: &str, total: Option<u64>) -> Task {
        let event = Event {
            stage: stage.to_string(),
            step: step.to_string(),
            unit: unit.to_string(),
            done: 0,
            total,
            note: None,
            finished: false,
        };
        let task = Task { bar: bar(&event), event: Mutex::new((event, Instant::now())) };
        task.update(true, |_| {});
        task
    }

    pub fn add(&self, n: u64) {
        self.update(false, |event| {
            event.done += n;
            event.note = None;
        });
    }

    pub fn set_total(&self, total: u64) {
        self.update(false, |event| event.total = Some(total));
    }

    /// Says why the task waits, until it goes on.
    pub fn note(&self, note: &str) {
        self.update(true, |event| event.note = Some(note.to_string()));
    }

    /// Shows a state that another process told of this task.
    pub fn show(&self, state: &Event) {
        self.update(true, |event| event.clone_from(state));
    }

    pub fn finish(self) {
        self.update(true, |event| event.finished = true);
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn update(&self, at_once: bool, change: impl FnOnce(&mut Event)) {
        let mut guard = self.event.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (event, last) = &mut *guard;
        change(event);
        if let Some(bar) = &self.bar {
            bar.set_position(event.done);
            if let Some(total) = event.total {
                bar.set_length(total);
            }
            bar.set_message(event.note.clone().unwrap_or_default());
        } else if show().mode == Mode::Events && (at_once || last.elapsed() >= EVERY) {
            *last = Instant::now();
            print(&serde_json::json!({ "progress": event }).to_string());
        }
    }
}

fn bar(event: &Event) -> Option<ProgressBar> {
    if show().mode != Mode::Bars {
        return None;
    }
    let bar = ProgressBar::new(event.total.unwrap_or(0)).with_prefix(format!("{:22} {:8}", event.stage, event.step));
    let template = format!("{{prefix}} {{bar:30}} {{human_pos}}/{{human_len}} {} {{elapsed}} {{msg}}", event.unit);
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
    }
    let bar = show().bars.add(bar);
    bar.enable_steady_tick(Duration::from_millis(250));
    Some(bar)
}
