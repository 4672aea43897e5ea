//! The 42 API on loopback, over synthetic data, and the tables that a mirror of it must hold.
//!
//! `serve` prints `listening on URL` on stdout and answers until it is killed; `tables` writes
//! `DIR/<table>.json`; `exports` writes synthetic exports into a folder. Exit codes: 0 done, 1 failed (a taken port), 2 usage
//! or faults file.

use std::process::ExitCode;

fn main() -> ExitCode {
    mirror42::cli::run_main("mirror42-simulate", mirror42::simulate::run)
}
