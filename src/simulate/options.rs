//! The command line of `mirror42-simulate`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::manual;
use crate::simulate::exports::Exports;

/// The 42 API on loopback: synthetic data, real manners
#[derive(Debug, Parser)]
#[command(name = "mirror42-simulate")]
#[command(after_long_help = manual::examples(&[
    ("An API without limits on a port of your choice", "mirror42-simulate serve --port 4242 --limits none"),
    ("A million rows for a load test", "mirror42-simulate exports big --rows 1000000"),
]))]
pub struct Options {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Serve the API on 127.0.0.1; prints `listening on URL` on stdout when ready
    #[command(after_long_help = manual::examples(&[
        ("As the API of 42 is", "mirror42-simulate serve --port 4242 --latency realistic"),
        ("As it is three days later, ten times as large, and misbehaving", "mirror42-simulate serve --day 3 --scale 10 --faults faults.toml"),
    ]))]
    Serve(Serve),
    /// Write what the mirrored tables must hold, one JSON object a line
    #[command(after_long_help = manual::examples(&[
        ("After three days of changes", "mirror42-simulate tables --out expected --day 3"),
    ]))]
    Tables(Tables),
    /// Write synthetic exports of any size, with their pipeline and schema, for `mirror42-load`
    #[command(after_long_help = manual::examples(&[
        ("A first night", "mirror42-simulate exports big --rows 1000000"),
        ("The next, in which 2 % change", "mirror42-simulate exports big --rows 1000000 --night 1 --changed 2%"),
    ]))]
    Exports(Exports),
}

/// Which world: the same values always give the same data.
#[derive(Args, Clone, Copy, Debug)]
pub struct Which {
    /// Seed of the synthetic data
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Multiplies campuses, projects, links, sessions, achievements and coalitions
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub scale: u16,
    /// Days of change to apply to day 0
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub day: u32,
}

#[derive(Args, Debug)]
pub struct Serve {
    /// Port on 127.0.0.1; 0 takes any free one
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    #[command(flatten)]
    pub which: Which,
    /// How long an answer takes: none, realistic, logged, 700ms, or 200ms-1200ms
    #[arg(long, default_value = "none")]
    pub latency: Latency,
    /// Requests allowed per second and per hour, such as 2/1200; none lifts both
    #[arg(long, default_value = "2/1200")]
    pub limits: Limits,
    /// How the limits count
    #[arg(long, value_enum, default_value_t = Window::Fixed)]
    pub window: Window,
    /// Misbehaviour to play (TOML, see docs/simulator.md)
    #[arg(long, value_name = "FILE")]
    pub faults: Option<PathBuf>,
    /// The application's UID
    #[arg(long, default_value = "sim-uid", value_name = "UID")]
    pub client_id: String,
    /// The application's secret
    #[arg(long, default_value = "sim-secret", value_name = "SECRET")]
    pub client_secret: String,
    /// How long a token lives
    #[arg(long, default_value_t = 7200, value_name = "SECONDS")]
    pub token_lifetime: u64,
    /// `secret_valid_until` of token answers: a number or text; null when absent
    #[arg(long, value_name = "WHEN")]
    pub secret_valid_until: Option<String>,
    /// Exit when stdin reaches its end, so that the server dies with its parent
    #[arg(long)]
    pub until_stdin_closes: bool,
}

#[derive(Args, Debug)]
pub struct Tables {
    /// Folder to write `<table>.json` into; created if missing
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    #[command(flatten)]
    pub which: Which,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    None,
    /// 0.2 to 1.2 s, and longer for projects and coalitions.
    Realistic,
    /// 0.2 to 1.2 s, and 6 to 21 s for one page of projects and one of coalitions.
    Logged,
    Between {
        least_ms: u64,
        most_ms: u64,
    },
}

impl FromStr for Latency {
    type Err = String;

    fn from_str(text: &str) -> Result<Latency, String> {
        match text {
            "none" => return Ok(Latency::None),
            "realistic" => return Ok(Latency::Realistic),
            "logged" => return Ok(Latency::Logged),
            _ => {}
        }
        let (least, most) = text.split_once('-').unwrap_or((text, text));
        match (millis(least), millis(most)) {
            (Some(least_ms), Some(most_ms)) if least_ms <= most_ms => Ok(Latency::Between { least_ms, most_ms }),
            _ => {
                Err("expected none, realistic, logged, a time such as 700ms, or a range such as 200ms-1200ms"
                    .to_owned())
            }
        }
    }
}

/// `700ms` or `2s`.
fn millis(text: &str) -> Option<u64> {
    match text.strip_suffix("ms") {
        Some(number) => number.parse().ok(),
        None => text.strip_suffix('s')?.parse::<u64>().ok()?.checked_mul(1000),
    }
}

/// Requests allowed in a second and in an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limits {
    None,
    Per { second: u32, hour: u32 },
}

impl FromStr for Limits {
    type Err = String;

    fn from_str(text: &str) -> Result<Limits, String> {
        if text == "none" {
            return Ok(Limits::None);
        }
        let numbers = text.split_once('/').map(|(second, hour)| (second.parse(), hour.parse()));
        match numbers {
            Some((Ok(second), Ok(hour))) if second > 0 && hour > 0 => Ok(Limits::Per { second, hour }),
            _ => Err("expected PER_SECOND/PER_HOUR such as 2/1200, or none".to_owned()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Window {
    /// Counts start anew with every second and every hour of the server's clock
    Fixed,
    /// The last 1,000 ms and the last 3,600 s count at any moment
    Sliding,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_and_limits_are_read_or_refused() {
        assert_eq!("200ms-1200ms".parse(), Ok(Latency::Between { least_ms: 200, most_ms: 1200 }));
        assert_eq!("logged".parse(), Ok(Latency::Logged));
        assert_eq!("2s".parse(), Ok(Latency::Between { least_ms: 2000, most_ms: 2000 }));
        assert!("1200ms-200ms".parse::<Latency>().is_err());
        assert!("fast".parse::<Latency>().is_err());
        assert_eq!("8/5000".parse(), Ok(Limits::Per { second: 8, hour: 5000 }));
        assert!("0/5".parse::<Limits>().is_err());
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Options::command().debug_assert();
    }
}
