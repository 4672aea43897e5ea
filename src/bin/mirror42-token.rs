//! Reads `pipeline.toml`, `.env`, `.mirror42/token.json` and, for a login, a code from the standard input, and asks the
//! API for a token; writes `.mirror42/token.json`. Exit codes: 0, 1 no token could be had, 2 usage or no OAuth2,
//! 75 run again later: the API allows no more for now.

use std::process::ExitCode;

fn main() -> ExitCode {
    mirror42::cli::run_main("mirror42-token", mirror42::token::run)
}
