//! Loads exports/*/all.json into Postgres, all tables in one transaction. Exit codes: see `--help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    mirror42::cli::run_main("mirror42-load", mirror42::load::run)
}
