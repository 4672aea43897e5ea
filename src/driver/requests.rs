//! How many requests the stale stages need, and how long that takes under the limits: the numbers of `plan`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::options::Options;
use super::output;
use super::schedule::Decided;
use super::summary::number;
use super::verdict::span;
use crate::cli::Context;
use crate::error::{Error, Result};
use crate::limiter::{Forecast, Limiter};
use crate::pipeline::{Fetch, PageStyle, Pipeline, Stage};
use crate::receipt::Receipt;

// After this long a person looks at the clock rather than at the screen.
const LONG: Duration = Duration::from_secs(600);
/// Until the last answer is there, and something was made of it.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// Requests, as far as they can be told before they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    Known(u64),
    AtLeast(u64),
    Unknown,
}

impl Count {
    /// So many at least.
    pub fn known(&self) -> u64 {
        match self {
            Count::Known(n) | Count::AtLeast(n) => *n,
            Count::Unknown => 0,
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Count::Known(n) => f.write_str(&number(*n)),
            Count::AtLeast(n) => write!(f, "at least {}", number(*n)),
            Count::Unknown => f.write_str("unknown"),
        }
    }
}

/// A line of `mirror42-fetch --probe`.
#[derive(Deserialize)]
struct Probed {
    stage: String,
    requests: Option<u64>,
    at_least: bool,
}

/// The requests of each stage that is to be fetched. With `probe` the API is asked where no receipt tells.
pub fn of_stages<'a>(
    context: &Context,
    forecast: &[(&'a Stage, Decided)],
    probe: Option<&Options>,
) -> Result<BTreeMap<&'a str, Count>> {
    let stale = forecast.iter().filter(|(_, decided)| decided.fetch.as_ref().is_some_and(|fetch| !fetch.is_current()));
    let mut counts = BTreeMap::new();
    for (stage, _) in stale {
        if let Some(fetch) = stage.fetch() {
            // Of a receipt that cannot be read, the verdict tells.
            let count = of_stage(&context.pipeline, stage, fetch).unwrap_or(Count::Unknown);
            counts.insert(stage.name.as_str(), count);
        }
    }
    let guessed: Vec<&str> =
        counts.iter().filter(|(_, n)| !matches!(n, Count::Known(_))).map(|(name, _)| *name).collect();
    if let Some(options) = probe.filter(|_| !guessed.is_empty()) {
        let arguments: Vec<&str> = ["--probe"].into_iter().chain(guessed).collect();
        for line in output::output(context, options, "mirror42-fetch", &arguments)?.lines() {
            let probed: Probed = serde_json::from_str(line)
                .map_err(|cause| Error::failed(format!("`mirror42-fetch --probe` printed {line:?}: {cause}")))?;
            if let Some(count) = counts.get_mut(probed.stage.as_str()) {
                *count = match (probed.requests, probed.at_least) {
                    (None, _) => Count::Unknown,
                    (Some(n), true) => Count::AtLeast(n),
                    (Some(n), false) => Count::Known(n),
                };
            }
        }
    }
    Ok(counts)
}

/// As many as the last time, or as can be told of the first.
fn of_stage(pipeline: &Pipeline, stage: &Stage, fetch: &Fetch) -> Result<Count> {
    if let Some(receipt) = Receipt::read(&pipeline.paths, &stage.name)?.and_then(|receipt| receipt.fetch) {
        // An empty list is read twice before it is believed.
        let again = receipt.series.iter().filter(|series| series.records() == 0).count();
        return Ok(Count::Known((receipt.pages().count() + again) as u64));
    }
    let series = match &fetch.each {
        None => 1,
        Some(each) => match Receipt::read(&pipeline.paths, each)?.and_then(|receipt| receipt.extract) {
            Some(extract) if pipeline.paths.all_json(each).exists() => extract.records_out,
            _ => return Ok(Count::Unknown),
        },
    };
    Ok(if fetch.page.style == PageStyle::None { Count::Known(series) } else { Count::AtLeast(series) })
}

/// All requests of a run, and what the limits make of them if they began now.
pub struct Outlook {
    pub total: Count,
    pub forecast: Forecast,
}

impl Outlook {
    pub fn of(context: &Context, counts: &BTreeMap<&str, Count>) -> Result<Outlook> {
        let requests = counts.values().map(Count::known).sum();
        let exact = counts.values().all(|count| matches!(count, Count::Known(_)));
        let total = if exact { Count::Known(requests) } else { Count::AtLeast(requests) };
        let forecast = Limiter::new(&context.pipeline.paths, &context.pipeline.api).forecast(requests)?;
        Ok(Outlook { total, forecast })
    }

    /// Until the last answer is there.
    pub fn took(&self) -> Duration {
        if self.total.known() == 0 { Duration::ZERO } else { self.forecast.took + LAST_ANSWER }
    }

    /// The line of `plan`.
    pub fn sentence(&self) -> String {
        sentence(self.total, self.total.known(), &self.forecast, jiff::Timestamp::now())
    }
}

fn sentence(total: Count, requests: u64, forecast: &Forecast, now: jiff::Timestamp) -> String {
    let Forecast { took, per_second, per_hour, left } = *forecast;
    let mut text = format!("{total} request{}", if requests == 1 { "" } else { "s" });
    let hourly = left.is_none_or(|left| requests > left.into());
    let limits = [
        per_second.map(|limit| format!("{} a second", number(limit.into()))),
        per_hour.filter(|_| hourly).map(|limit| format!("{} an hour", number(limit.into()))),
    ];
    let limits: Vec<String> = limits.into_iter().flatten().collect();
    if requests > 0 && !limits.is_empty() {
        let took = took + LAST_ANSWER;
        text.push_str(&format!(", about {} at {}", span(took.as_millis().div_ceil(1000) as u64), limits.join(" and ")));
        if took >= LONG {
            text.push_str(&format!(", until {:.0} if it began now", now + took));
        }
    }
    if let (Some(left), Some(limit)) = (left, per_hour) {
        text.push_str(&format!("; {} of {} left this hour", number(left.into()), number(limit.into())));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outlook_names_what_is_known() {
        let forecast = |seconds, left| Forecast {
            took: Duration::from_secs(seconds),
            per_second: Some(2),
            per_hour: Some(1200),
            left,
        };
        let told = |total, forecast| {
            let requests = match total {
                Count::Known(n) | Count::AtLeast(n) => n,
                Count::Unknown => 0,
            };
            sentence(total, requests, &forecast, "2026-11-24T02:00:00Z".parse().unwrap())
        };
        assert_eq!(
            told(Count::Known(94), forecast(47, Some(1106))),
            "94 requests, about 48 s at 2 a second; 1,106 of 1,200 left this hour"
        );
        assert_eq!(
            told(Count::AtLeast(5000), forecast(14_519, Some(1200))),
            "at least 5,000 requests, about 4 h 2 min at 2 a second and 1,200 an hour, until 2026-11-24T06:02:00Z if it began \
             now; 1,200 of 1,200 left this hour"
        );
        assert_eq!(told(Count::Known(0), forecast(0, Some(7))), "0 requests; 7 of 1,200 left this hour");
        let none = Forecast { took: Duration::ZERO, per_second: None, per_hour: None, left: None };
        assert_eq!(told(Count::Known(1), none), "1 request");
    }
}
