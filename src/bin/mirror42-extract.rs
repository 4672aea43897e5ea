//! Reads `pipeline.toml`, `exports/SOURCE/pages/` and the exports that `with` and `each` name;
//! writes `exports/STAGE/all.json` and the `extract` part of `stage.json`. Exit codes: 0, 1 failed,
//! 2 usage or a filter that does not compile, 3 another process is working on the stage.

use std::process::ExitCode;

fn main() -> ExitCode {
    mirror42::cli::run_main("mirror42-extract", mirror42::extract::run)
}
