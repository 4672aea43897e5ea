//! Reads `pipeline.toml`, the exports that `each` names, and the API; writes `exports/STAGE/pages/`
//! and the `fetch` part of `stage.json`. Exit codes: 0, 1 failed, 2 usage, 3 another fetch of the
//! stage is under way, 75 run again later: the API allows no more for now.

use std::process::ExitCode;

fn main() -> ExitCode {
    mirror42::cli::run_main("mirror42-fetch", mirror42::fetch::run)
}
