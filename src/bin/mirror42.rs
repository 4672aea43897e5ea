//! The driver. Reads `pipeline.toml` and the receipts under `exports/`; runs the stage binaries
//! beside it. Exit codes: 0 done or nothing to do, 1 a stage failed, 2 usage or pipeline.toml,
//! 3 another run holds the lock, 4 the deletion guard stopped it, 5 validation failed, 75 run again:
//! the API allows no more for now, or a signal stopped it.

use std::process::ExitCode;

fn main() -> ExitCode {
    mirror42::cli::run_main("mirror42", mirror42::driver::run)
}
