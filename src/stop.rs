//! SIGINT, SIGTERM and SIGHUP: a process that is asked to end says what is kept, and ends at once.
//!
//! Nothing has to be cleaned up, since a file is there whole or not at all and a load is one transaction; so the process
//! ends wherever it is, with exit code 75: run again, and it goes on. What must not be cut in two stands behind a
//! [`Shield`]. Who has children to end first, the driver and `exec`, listens in the place of that ([`listen`]), and
//! has two seconds; so does the guard of a program's group. A second signal kills at once.
//!
//! A signal that is ignored when the process begins, as SIGHUP is under `nohup`, stays ignored.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use nix::sys::signal::{SigHandler, Signal, signal};
use signal_hook::consts::SIGCHLD;
use signal_hook::iterator::{Handle, Signals};

use crate::error::Error;
use crate::log::report_failure;

/// After so long a process that listens ends all the same: two seconds were promised.
const PATIENCE: Duration = Duration::from_millis(1900);

/// What a listener is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// By this signal the process is asked to end.
    Asked(&'static str),
    /// One of its children has ended.
    ChildEnded,
}

type Listener = Box<dyn Fn(Event) + Send>;

static LISTENER: Mutex<Option<Listener>> = Mutex::new(None);
static IS_ASKED: AtomicBool = AtomicBool::new(false);
static HANDLE: Mutex<Option<Handle>> = Mutex::new(None);
static KEPT: Mutex<&str> = Mutex::new("");
/// Held while the process may not end.
static SHIELD: Mutex<()> = Mutex::new(());

/// Begins to wait for signals, on a thread of its own; `program` stands before what is printed.
pub fn init(program: &'static str) {
    let asked = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().filter(|signal| !is_ignored(*signal));
    // Without it every signal does what it does to any process, which is safe as well.
    let Ok(mut signals) = Signals::new(asked.map(|signal| signal as i32)) else { return };
    *lock(&HANDLE) = Some(signals.handle());
    std::thread::spawn(move || {
        let mut was_asked = false;
        for number in signals.forever() {
            if number == SIGCHLD {
                tell(Event::ChildEnded);
                continue;
            }
            if was_asked {
                // It does to the process what it would do to any.
                let _ = signal_hook::low_level::emulate_default_handler(number);
            }
            was_asked = true;
            IS_ASKED.store(true, Ordering::Relaxed);
            let name = Signal::try_from(number).map_or("a signal", Signal::as_str);
            let patience = if tell(Event::Asked(name)) { PATIENCE } else { Duration::ZERO };
            // This thread goes on to wait for the second one.
            std::thread::spawn(move || end(program, name, patience));
        }
    });
}

fn end(program: &str, signal: &str, patience: Duration) {
    std::thread::sleep(patience);
    let _shield = lock(&SHIELD);
    let error = error(signal);
    report_failure(program, &error);
    std::process::exit(error.kind().exit_code().into());
}

/// The failure of a process that was asked to end by this signal.
pub fn error(signal: &str) -> Error {
    let error = Error::later(format!("stopped by {signal}"));
    let kept = *lock(&KEPT);
    let error = if kept.is_empty() { error } else { error.detail(kept) };
    error.hint("Run it again: it goes on from there.")
}

/// What is to be told of the state of things if the process is asked to end from here on: a sentence.
pub fn keeps(sentence: &'static str) {
    *lock(&KEPT) = sentence;
}

/// Under it the process does not end when it is asked to; only a second signal kills it.
#[must_use]
pub struct Shield(MutexGuard<'static, ()>);

impl Shield {
    pub fn raise() -> Shield {
        Shield(lock(&SHIELD))
    }

    /// The process is let go on to its end, which is near.
    pub fn keep(self) {
        std::mem::forget(self.0);
    }
}

/// From here on the listener is told of signals, and of children that end, and sees to the end of the process.
pub fn listen(listener: impl Fn(Event) + Send + 'static) {
    *lock(&LISTENER) = Some(Box::new(listener));
    if let Some(handle) = &*lock(&HANDLE) {
        // Its own signal is free to be had; without it the end of children is noticed later.
        let _ = handle.add_signal(SIGCHLD);
    }
}

/// Nobody listens any more: the process ends at once when it is asked to.
pub fn unlisten() {
    *lock(&LISTENER) = None;
}

/// Whether the process was asked to end.
pub fn is_asked() -> bool {
    IS_ASKED.load(Ordering::Relaxed)
}

/// Whether somebody listens.
fn tell(event: Event) -> bool {
    let listener = lock(&LISTENER);
    listener.as_ref().inspect(|listener| listener(event)).is_some()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn is_ignored(which: Signal) -> bool {
    // SAFETY: the handlers that are set here are the system's own, before any thread of ours is there.
    #[allow(unsafe_code)]
    unsafe {
        let is_ignored = matches!(signal(which, SigHandler::SigDfl), Ok(SigHandler::SigIgn));
        if is_ignored {
            let _ = signal(which, SigHandler::SigIgn);
        }
        is_ignored
    }
}
