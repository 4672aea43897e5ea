//! Reads `logs/`; puts `NAME.log.DATE.gz` in the place of old and of large logs, and removes what was compressed
//! long ago. Exit codes: 0, 1 failed, 2 usage, 3 another rotation is under way.

use std::process::ExitCode;

fn main() -> ExitCode {
    mirror42::cli::run_main("mirror42-rotate", mirror42::rotate::run)
}
