//! Checks the database against the exports, its own keys and the pipeline's checks. Exit codes: see `--help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    mirror42::cli::run_main("mirror42-validate", mirror42::validate::run)
}
