//! Bars on a terminal, events for a parent that asked for JSON, nothing elsewhere.
//!
//! A [`Task`] is one stage's step under way. All that reaches the standard error while tasks run
//! goes through [`print`], so that lines and bars do not tear each other.

mod bars;

use std::io::IsTerminal;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::style;
use bars::{Bar, Bars};

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
    bars: Bars,
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
    /// Of what is done, where bytes are what is waited for.
    #[serde(default)]
    pub size_bytes: u64,
    /// Why it waits, where it does.
    pub note: Option<String>,
    /// The last event of its task.
    pub finished: bool,
}

/// Chooses how progress is shown; the first call decides.
pub fn init(mode: Mode) {
    SHOW.get_or_init(|| Show { mode, bars: Bars::new() });
}

/// The mode for a person at a terminal, and for a pipe or a file.
pub fn mode_of_stderr() -> Mode {
    // A terminal that cannot move its cursor gets lines.
    let moves = std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    if std::io::stderr().is_terminal() && moves { Mode::Bars } else { Mode::Silent }
}

/// How this process shows progress: [`Mode::Events`] means that a program reads the standard error.
pub fn mode() -> Mode {
    show().mode
}

fn show() -> &'static Show {
    SHOW.get_or_init(|| Show { mode: Mode::Silent, bars: Bars::new() })
}

/// Prints a line on the standard error, above the bars if there are any.
pub fn print(line: &str) {
    let write = || style::print_to_stderr(line);
    match show().mode {
        Mode::Bars => show().bars.suspend(write),
        Mode::Events | Mode::Silent => write(),
    }
}

/// One stage's step under way.
pub struct Task {
    bar: Option<Bar>,
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
            size_bytes: 0,
            note: None,
            finished: false,
        };
        let bar = (show().mode == Mode::Bars).then(|| show().bars.add(&event));
        let task = Task { bar, event: Mutex::new((event, Instant::now())) };
        task.update(true, |_| {});
        task
    }

    pub fn add(&self, n: u64) {
        self.add_sized(n, 0);
    }

    /// As [`Task::add`], of things that have a size.
    pub fn add_sized(&self, n: u64, size_bytes: u64) {
        self.update(false, |event| {
            event.done += n;
            event.size_bytes += size_bytes;
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
    }

    fn update(&self, at_once: bool, change: impl FnOnce(&mut Event)) {
        let mut guard = self.event.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (event, last) = &mut *guard;
        change(event);
        if let Some(bar) = &self.bar {
            bar.show(event);
        } else if show().mode == Mode::Events && (at_once || last.elapsed() >= EVERY) {
            *last = Instant::now();
            print(&serde_json::json!({ "progress": event }).to_string());
        }
    }
}

/// The last line on a terminal: how far the whole run is.
pub struct Total {
    line: Option<bars::TotalLine>,
    /// Steps that were done before it began.
    given: usize,
}

impl Total {
    /// So many steps of all are done from the beginning.
    pub fn start((given, _): (usize, usize)) -> Total {
        Total { line: (show().mode == Mode::Bars).then(|| show().bars.total()), given }
    }

    /// So many steps of all are done.
    pub fn show(&self, (done, all): (usize, usize)) {
        if let Some(line) = &self.line {
            line.show(done.saturating_sub(self.given), all.saturating_sub(self.given), show().bars.pages());
        }
    }
}
