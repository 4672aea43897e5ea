//! What the terminal shows of tasks under way: a line for each, and one for the whole run below them.
//!
//! ```text
//! 03_achievements        fetch    ████████▌          41/82 pages   130 kB/s   21 s left
//! 05_projects            fetch    waiting for the rate limit until 2026-11-24T02:14:05Z
//! 4 of 15 steps, 47 pages fetched, 00:00:21
//! ```
//! A line is as wide as the terminal, never wider: the bar gives way first, then the figures.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::Event;

const TICK: Duration = Duration::from_millis(250);
/// Sooner than this nothing is said of the time that is left: it would jump.
const FIRST_GUESS: Duration = Duration::from_secs(1);
const COUNTED: &str = "{prefix} {wide_bar:.cyan/dim} {msg}";
const WAITING: &str = "{prefix} {wide_msg:.yellow}";

pub struct Bars {
    all: MultiProgress,
    /// The line of the whole run, which stays the last.
    total: OnceLock<ProgressBar>,
    /// Fetched since the beginning, by all tasks.
    pages: Arc<AtomicU64>,
}

/// The line of one task; it goes with this value.
pub struct Bar {
    bar: ProgressBar,
    started: Instant,
    /// Of these pages, how many were counted in.
    pages: Arc<AtomicU64>,
    counted: AtomicU64,
}

/// The line of the whole run; it goes with this value.
pub struct TotalLine(ProgressBar);

impl Bars {
    pub fn new() -> Bars {
        Bars { all: MultiProgress::new(), total: OnceLock::new(), pages: Arc::default() }
    }

    /// Runs `write`, whose lines stand above the bars.
    pub fn suspend(&self, write: impl FnOnce()) {
        self.all.suspend(write);
    }

    pub fn add(&self, event: &Event) -> Bar {
        let bar = ProgressBar::no_length().with_prefix(format!("{:22} {:7}", event.stage, event.step));
        let bar = match self.total.get() {
            Some(total) => self.all.insert_before(total, bar),
            None => self.all.add(bar),
        };
        bar.set_style(style(COUNTED));
        bar.enable_steady_tick(TICK);
        Bar { bar, started: Instant::now(), pages: self.pages.clone(), counted: AtomicU64::new(0) }
    }

    /// Pages that were fetched, by all tasks so far.
    pub fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    pub fn total(&self) -> TotalLine {
        let line = self.total.get_or_init(|| self.all.add(ProgressBar::no_length()));
        line.set_style(style("{msg}, {elapsed_precise}"));
        line.enable_steady_tick(TICK);
        TotalLine(line.clone())
    }
}

impl Bar {
    pub fn show(&self, event: &Event) {
        if event.step == "fetch" {
            let before = self.counted.swap(event.done, Ordering::Relaxed);
            self.pages.fetch_add(event.done.saturating_sub(before), Ordering::Relaxed);
        }
        if let Some(total) = event.total {
            self.bar.set_length(total);
        }
        self.bar.set_position(event.done);
        match &event.note {
            Some(note) => {
                self.bar.set_style(style(WAITING));
                self.bar.set_message(note.clone());
            }
            None => {
                self.bar.set_style(style(COUNTED));
                self.bar.set_message(figures(event, self.started.elapsed()));
            }
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl TotalLine {
    pub fn show(&self, done: usize, all: usize, pages: u64) {
        self.0.set_message(format!("{done} of {all} steps, {pages} pages fetched"));
    }
}

impl Drop for TotalLine {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A template that cannot be read would be a mistake of ours: the bar is then the plain one.
fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("━╸ ")
}

/// How many of how many, how fast, and how long it will take, each in a column of its own.
fn figures(event: &Event, took: Duration) -> String {
    let count = match event.total {
        Some(total) => format!("{}/{total} {}", event.done, event.unit),
        None => format!("{} {}", event.done, event.unit),
    };
    let seconds = took.as_secs_f64();
    let speed = match event.size_bytes {
        0 => String::new(),
        bytes => rate(bytes as f64 / seconds.max(1e-3)),
    };
    let left = event.total.filter(|total| event.done > 0 && *total > event.done && took >= FIRST_GUESS);
    let left = left.map_or(String::new(), |total| {
        clock((seconds * (total - event.done) as f64 / event.done as f64).ceil() as u64) + " left"
    });
    format!("{count:>15} {speed:>10} {left:>11}")
}

fn rate(bytes_per_s: f64) -> String {
    if bytes_per_s < 1e6 { format!("{:.0} kB/s", bytes_per_s / 1e3) } else { format!("{:.1} MB/s", bytes_per_s / 1e6) }
}

/// A length of time in its largest unit: nothing that is guessed is known better.
fn clock(seconds: u64) -> String {
    match seconds {
        0..100 => format!("{seconds} s"),
        100..6000 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h", seconds.div_ceil(3600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(done: u64, total: Option<u64>, size_bytes: u64) -> Event {
        let [stage, step, unit] = ["s", "fetch", "pages"].map(String::from);
        Event { stage, step, unit, done, total, size_bytes, note: None, finished: false }
    }

    #[test]
    fn the_figures_tell_what_is_known() {
        let told = |done, total, bytes, seconds| figures(&event(done, total, bytes), Duration::from_secs_f64(seconds));
        assert_eq!(told(0, None, 0, 0.0), "        0 pages                       ");
        assert_eq!(told(41, Some(82), 2_600_000, 20.0), "    41/82 pages   130 kB/s   20 s left");
        assert_eq!(told(1, Some(82), 0, 0.5), "     1/82 pages                       ");
        assert_eq!(told(1, Some(1200), 0, 1.0), "   1/1200 pages            20 min left");
        assert_eq!(told(82, Some(82), 0, 5.0), "    82/82 pages                       ");
        assert_eq!([99, 100, 5999, 6000].map(clock), ["99 s", "2 min", "100 min", "2 h"]);
    }

    #[test]
    fn every_template_is_one() {
        for template in [COUNTED, WAITING, "{msg}, {elapsed_precise}"] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
