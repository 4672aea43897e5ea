//! Time since the machine was started: nobody sets it, and it goes on while the machine sleeps.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

#[cfg(target_os = "linux")]
const SINCE_BOOT: ClockId = ClockId::CLOCK_BOOTTIME;
#[cfg(not(target_os = "linux"))]
const SINCE_BOOT: ClockId = ClockId::CLOCK_MONOTONIC;

/// One moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Which start of the machine the time counts from; empty where the kernel does not say.
    pub boot_id: &'static str,
    /// Milliseconds since that start.
    pub ms: i64,
    /// Unix time in milliseconds, as far as the wall clock is right.
    pub wall_ms: i64,
}

impl Now {
    pub fn read() -> Now {
        static BOOT_ID: OnceLock<String> = OnceLock::new();
        let boot_id = BOOT_ID.get_or_init(|| {
            let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
            text.unwrap_or_default().trim().to_string()
        });
        Now { boot_id, ms: boot_ms(), wall_ms: wall_ms() }
    }
}

/// Milliseconds since the machine was started.
pub fn boot_ms() -> i64 {
    // Every kernel has this clock; on one that had not, the wall clock would still do.
    clock_gettime(SINCE_BOOT).map_or_else(|_| wall_ms(), |time| time.tv_sec() * 1000 + time.tv_nsec() / 1_000_000)
}

fn wall_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
