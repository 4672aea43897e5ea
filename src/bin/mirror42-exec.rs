//! Reads `pipeline.toml`, the exports that `with` names and the files among `inputs`, and starts the programs that `run`
//! names; writes `exports/STAGE/pages/` and the `run` part of `stage.json`. Exit codes: 0, 1 a program failed or wrote
//! what is no JSON, 2 usage, 3 another process is working on the stage.

use std::process::ExitCode;

fn main() -> ExitCode {
    mirror42::cli::run_main("mirror42-exec", mirror42::exec::run)
}
