//! The API's token, looked after apart from any fetch: a person logs in and looks at it, cron renews it.
//!
//! But for the login nothing needs this: every fetch sees to its token itself. It is for finding out whether the
//! credentials are good without spending requests on pages, and for hearing in time that the application's secret ends.

use std::fmt;

use clap::{Parser, Subcommand};
use serde::Serialize;

use crate::api::token::{Info, Wish};
use crate::api::{Client, login};
use crate::cli::{self, ApiArgs, Common};
use crate::error::{Error, Result};
use crate::manual;
use crate::pipeline::{Auth, Pipeline};
use crate::secret::Secret;

/// Looks after the OAuth2 token of the API
///
/// The token itself is never printed; it is in .mirror42/token.json, readable by its owner only. Exit codes:
/// 0 done, 1 no token could be had, 2 usage or an API that is not authorized by OAuth2, 75 the API allows no more for now,
/// run again later.
#[derive(Parser, Debug)]
#[command(name = "mirror42-token")]
#[command(after_long_help = manual::examples(&[
    ("Are the credentials good?", "mirror42-token ensure"),
    ("How long is the token at hand?", "mirror42-token info"),
]))]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Get the first token of a person, whose consent a browser asks for
    ///
    /// Prints the address to open, and reads from the standard input the code that comes of it, or the whole address
    /// that the browser ends at. For `grant = "refresh_token"`.
    #[command(after_long_help = manual::examples(&[
        ("Asks for the code", "mirror42-token login"),
        ("With a code that is there already", "mirror42-token login --code 4f1d9c02"),
    ]))]
    Login {
        /// The code, of an address opened before; it shows in the list of processes
        #[arg(long, value_name = "CODE")]
        code: Option<String>,
    },
    /// Ask for a token if the one at hand has less than an hour left
    #[command(after_long_help = manual::examples(&[
        ("As cron does, every hour", "mirror42-token ensure -q"),
    ]))]
    Ensure,
    /// Ask for a token now
    #[command(after_long_help = manual::examples(&[
        ("After the application's secret was renewed", "mirror42-token refresh"),
    ]))]
    Refresh,
    /// Show how long the token at hand is good; asks nobody
    #[command(after_long_help = manual::examples(&[
        ("For people", "mirror42-token info"),
        ("For programs", "mirror42-token info --json | jq .seconds_left"),
    ]))]
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
    grant: String,
    has_refresh_token: bool,
}

pub fn run(args: Args) -> Result<()> {
    let mut context = args.common.open("token")?;
    args.api.apply(&mut context.pipeline)?;
    check_kind(&context.pipeline)?;
    let client = Client::open(&context)?;
    let wish = match &args.verb {
        Verb::Login { code } => Wish::Exchange(consent(&context.pipeline, &client, code.as_deref())?),
        Verb::Ensure => Wish::Ensure,
        Verb::Refresh => Wish::Refresh,
        Verb::Info { .. } => Wish::Look,
    };
    let Some(info) = client.token(wish, "token", &|_| {})? else {
        return Err(Error::failed("there is no token for this API and this client id")
            .hint(format!("Run `mirror42-token {}` to get one.", client.login().map_or("ensure", |_| "login"))));
    };
    let Info { seconds_left, secret_valid_until, grant, has_refresh_token } = info;
    let told = Told { seconds_left, secret_valid_until, grant, has_refresh_token };
    match args.verb {
        Verb::Ensure | Verb::Refresh => log::info!(target: "token", "{told}"),
        Verb::Login { .. } | Verb::Info { json: false } => cli::print(format_args!("{told}")),
        Verb::Info { json: true } => cli::print(format_args!("{}", serde_json::json!(told))),
    }
    Ok(())
}

fn check_kind(pipeline: &Pipeline) -> Result<()> {
    let kind = match &pipeline.api.auth {
        Auth::OAuth2(_) => return Ok(()),
        other => other.kind(),
    };
    Err(Error::usage(format!("`api.auth` is of kind \"{kind}\", which has no token to look after"))
        .at(pipeline.file.display().to_string())
        .detail("Only \"oauth2\" asks the API for tokens."))
}

/// The code that a person's consent gives; `given` is the one that is there already.
fn consent(pipeline: &Pipeline, client: &Client, given: Option<&str>) -> Result<Secret> {
    let Some(login) = client.login() else {
        return Err(Error::usage("`api.auth` has the grant \"client_credentials\", which needs no login")
            .at(pipeline.file.display().to_string())
            .hint("Run `mirror42-token ensure`."));
    };
    let state = login::state()?;
    if let Some(given) = given {
        if login::is_address(given) {
            return Err(Error::usage("`--code` is an address, expected the code in it")
                .hint("Without `--code`, the whole address is read from the standard input, and checked."));
        }
        return login::code(given, &state);
    }
    cli::print(format_args!(
        "Open this address in a browser, and allow the access:\n\n{}\n\n\
         Then give the code that you see, or the whole address that the browser ends at:",
        login.address(&state)
    ));
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .map_err(|cause| Error::failed(format!("could not read the standard input: {cause}")))?;
    login::code(&line, &state)
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
        write!(f, "; grant: {}", self.grant)?;
        if self.grant == "refresh_token" {
            write!(f, ", {} a refresh token", if self.has_refresh_token { "with" } else { "without" })?;
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
        let told = |seconds_left, end: Option<&str>, grant: &str, has_refresh_token| {
            let (secret_valid_until, grant) = (end.map(str::to_string), grant.to_string());
            Told { seconds_left, secret_valid_until, grant, has_refresh_token }.to_string()
        };
        assert_eq!(
            told(7168, None, "client_credentials", false),
            "the token is good for 7168 s (1h 59m 28s); grant: client_credentials"
        );
        assert_eq!(
            told(0, Some("2027-01-01T00:00:00Z"), "refresh_token", true),
            "the token is spent; grant: refresh_token, with a refresh token; \
             the application's secret stops working at 2027-01-01T00:00:00Z"
        );
        assert!(told(0, None, "refresh_token", false).ends_with("; grant: refresh_token, without a refresh token"));
    }
}
