//! The API's token, looked after apart from any fetch: cron renews it, a person looks at it.
//!
//! Nothing needs this: every fetch sees to its token itself. It is for finding out whether the credentials are
//! good without spending requests on pages, and for hearing in time that the application's secret ends.

use std::fmt;

use clap::{Parser, Subcommand};
use serde::Serialize;

use crate::api::Client;
use crate::api::token::{Info, Wish};
use crate::cli::{self, ApiArgs, Common};
use crate::error::{Error, Result};
use crate::pipeline::{Auth, Pipeline};

/// Looks after the OAuth2 token of the API
///
/// The token itself is never printed; it is in .mirror42/token.json, readable by its owner only. Exit codes:
/// 0 done, 1 no token could be had, 2 usage or an API that is not authorized by OAuth2, 75 the API allows no more for now,
/// run again later.
#[derive(Parser, Debug)]
#[command(name = "mirror42-token", version)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand, Clone, Copy, Debug)]
enum Verb {
    /// Ask for a token if the one at hand has less than an hour left
    Ensure,
    /// Ask for a token now
    Refresh,
    /// Show how long the token at hand is good; asks nobody
    Info {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// What `info` tells.
#[derive(Serialize)]
struct Told {
    seconds_left: u64,
    /// UTC, RFC 3339; none: the API does not say, or the secret does not end.
    secret_valid_until: Option<String>,
}

pub fn run(args: Args) -> Result<()> {
    let mut context = args.common.open("token")?;
    args.api.apply(&mut context.pipeline)?;
    check_kind(&context.pipeline)?;
    let client = Client::open(&context)?;
    let wish = match args.verb {
        Verb::Ensure => Wish::Ensure,
        Verb::Refresh => Wish::Refresh,
        Verb::Info { .. } => Wish::Look,
    };
    let Some(Info { seconds_left, secret_valid_until }) = client.token(wish, "token", &|_| {})? else {
        return Err(Error::failed("there is no token for this API and this client id")
            .hint("Run `mirror42-token ensure` to get one."));
    };
    let told = Told { seconds_left, secret_valid_until };
    match args.verb {
        Verb::Ensure | Verb::Refresh => log::info!(target: "token", "{told}"),
        Verb::Info { json: false } => cli::print(format_args!("{told}")),
        Verb::Info { json: true } => cli::print(format_args!("{}", serde_json::json!(told))),
    }
    Ok(())
}

fn check_kind(pipeline: &Pipeline) -> Result<()> {
    let kind = match &pipeline.api.auth {
        Auth::OAuth2 { .. } => return Ok(()),
        Auth::Bearer { .. } => "bearer",
        Auth::None => "none",
    };
    Err(Error::usage(format!("`api.auth` is of kind \"{kind}\", which has no token to look after"))
        .at(pipeline.file.display().to_string())
        .detail("Only \"oauth2\" asks the API for tokens."))
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seconds_left {
            0 => write!(f, "the token is spent")?,
            left => {
                let left = i64::try_from(left).unwrap_or(i64::MAX);
                write!(f, "the token is good for {left} s ({:#})", jiff::SignedDuration::from_secs(left))?;
            }
        }
        match &self.secret_valid_until {
            Some(end) => write!(f, "; the application's secret stops working at {end}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_a_sentence() {
        let told = |seconds_left, end: Option<&str>| {
            Told { seconds_left, secret_valid_until: end.map(str::to_string) }.to_string()
        };
        assert_eq!(told(7168, None), "the token is good for 7168 s (1h 59m 28s)");
        assert_eq!(
            told(0, Some("2027-01-01T00:00:00Z")),
            "the token is spent; the application's secret stops working at 2027-01-01T00:00:00Z"
        );
    }
}
