//! The API: a token, one small request, what is left of the limits.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::{Finding, Patient, State, not_checked};
use crate::driver::sample::{Sample, with_parameter};
use crate::driver::summary::number;
use crate::error::{Error, Kind};
use crate::limiter::Limiter;
use crate::pipeline::{Auth, Page, Pipeline};
use crate::receipt::Receipt;

/// So long before its end a secret is to be replaced.
const NOTICE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// What `mirror42-token info --json` prints, as far as it is told here.
#[derive(Deserialize)]
struct Token {
    seconds_left: u64,
    secret_valid_until: Option<String>,
    grant: String,
}

/// The findings, and by how much this machine's clock is behind that of the API, if the API told.
pub fn checks(patient: &Patient) -> (Vec<Finding>, Option<SignedDuration>) {
    let Ok(pipeline) = &patient.pipeline else {
        return (["token", "api", "quota"].map(not_checked).to_vec(), None);
    };
    let has_token = matches!(pipeline.api.auth, Auth::OAuth2(_));
    let mut findings = Vec::new();
    let mut skew = None;
    if has_credentials(patient, pipeline) {
        findings.extend(has_token.then(|| token(patient)));
        let (finding, told) = api(patient, pipeline);
        findings.push(finding);
        skew = told;
    } else {
        findings.extend(has_token.then(|| not_checked("token")));
        findings.push(not_checked("api"));
    }
    findings.push(quota(pipeline));
    (findings, skew)
}

/// Without them nothing can be asked, and that they are missing is told already.
fn has_credentials(patient: &Patient, pipeline: &Pipeline) -> bool {
    let secrets = patient.secrets.as_ref();
    secrets.is_ok_and(|secrets| pipeline.api.auth.variables().iter().all(|name| secrets.get(name).is_some()))
}

fn token(patient: &Patient) -> Finding {
    let Some(ensured) = patient.output("mirror42-token", &["ensure"]) else { return not_checked("token") };
    let info = ensured.and_then(|_| patient.output("mirror42-token", &["info", "--json"]).unwrap_or(Ok(String::new())));
    let token = info.and_then(|printed| {
        serde_json::from_str::<Token>(&printed)
            .map_err(|cause| Error::failed(format!("`mirror42-token info --json` printed no token: {cause}")))
    });
    match token {
        Ok(token) => of_token(&token, Timestamp::now()),
        Err(error) => unreached("token", &error),
    }
}

fn of_token(token: &Token, now: Timestamp) -> Finding {
    let left = SignedDuration::from_secs(i64::try_from(token.seconds_left).unwrap_or(i64::MAX));
    let found = format!("the token is good for {left:#}; grant: {}", token.grant);
    match token.secret_valid_until.as_ref().and_then(|end| end.parse::<Timestamp>().ok()) {
        Some(end) if end.duration_since(now) < NOTICE => {
            let days = end.duration_since(now).as_hours().max(0) / 24;
            Finding::warning(
                "token",
                format!("{found}; the application's secret stops working at {end:.0}, in {days} days"),
            )
            .hint("Make a new secret in the API's settings, and put it into `.env` before that.")
        }
        Some(end) => Finding::ok("token", format!("{found}; the application's secret works until {end:.0}")),
        None => Finding::ok("token", found),
    }
}

/// That the limits allow no more for now is no fault.
fn unreached(check: &'static str, error: &Error) -> Finding {
    let state = if error.kind() == Kind::Later { State::Warning } else { State::Failure };
    Finding::of(check, state, error)
}

/// One request for one record, with all that a fetch sends.
fn api(patient: &Patient, pipeline: &Pipeline) -> (Finding, Option<SignedDuration>) {
    let fetches = || pipeline.stages.iter().filter_map(|stage| stage.fetch());
    let Some(fetch) = fetches().find(|fetch| fetch.each.is_none()) else {
        return (Finding::warning("api", "not asked, since no stage fetches"), None);
    };
    let path = of_one_record(&fetch.path, &fetch.page);
    let Some(printed) = patient.output("mirror42-fetch", &["--sample", &path]) else {
        return (not_checked("api"), None);
    };
    match printed.and_then(|printed| Sample::read(&printed)) {
        Ok(sample) => {
            (Finding::ok("api", format!("`{}` answered in {} ms", sample.url, sample.took_ms)), skew(&sample))
        }
        Err(error) => (unreached("api", &error), None),
    }
}

fn of_one_record(path: &str, page: &Page) -> String {
    match &page.size_param {
        Some(param) if !path.contains(param.as_str()) => with_parameter(path, param, 1),
        _ => path.to_string(),
    }
}

/// By how much our clock is behind the server's, which said its time in full seconds somewhere between question and answer.
fn skew(sample: &Sample) -> Option<SignedDuration> {
    let date = jiff::fmt::rfc2822::parse(sample.headers.get("date")?).ok()?.timestamp();
    let middle = sample.asked_at.parse::<Timestamp>().ok()? + Duration::from_millis(sample.took_ms / 2);
    Some(date.duration_since(middle))
}

fn quota(pipeline: &Pipeline) -> Finding {
    let last = requests_of_last_fetches(pipeline);
    match Limiter::new(&pipeline.paths, &pipeline.api).forecast(last) {
        Ok(forecast) => of_quota(forecast.left, forecast.per_hour, last),
        Err(error) => Finding::of("quota", State::Failure, &error),
    }
}

fn of_quota(left: Option<u32>, per_hour: Option<u32>, last: u64) -> Finding {
    let (Some(left), Some(limit)) = (left, per_hour) else {
        return Finding::ok("quota", "no limit of an hour is known");
    };
    let night = match last {
        0 => "no run tells how many it needs".to_string(),
        last => format!("the last fetches took {}", number(last)),
    };
    let found = format!("{} of {} requests left this hour; {night}", number(left.into()), number(limit.into()));
    if u64::from(left) >= last.max(1) {
        return Finding::ok("quota", found);
    }
    Finding::warning("quota", found).hint("A run waits for the next hour: see `mirror42 plan`, or begin it later.")
}

/// An estimate: of a receipt that cannot be read, `plan` and the next run tell.
fn requests_of_last_fetches(pipeline: &Pipeline) -> u64 {
    let receipts = pipeline.stages.iter().filter_map(|stage| Receipt::read(&pipeline.paths, &stage.name).ok()?);
    receipts.filter_map(|receipt| receipt.fetch).map(|fetch| fetch.requests).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_ends_soon_is_a_warning() {
        let now: Timestamp = "2026-11-01T00:00:00Z".parse().unwrap();
        let told = |end: Option<&str>| {
            let end = end.map(str::to_string);
            let token = Token { seconds_left: 7168, secret_valid_until: end, grant: "client_credentials".into() };
            of_token(&token, now).line()
        };
        assert_eq!(told(None), "ok       token        the token is good for 1h 59m 28s; grant: client_credentials");
        assert_eq!(
            told(Some("2027-01-01T00:00:00Z")),
            "ok       token        the token is good for 1h 59m 28s; grant: client_credentials; the application's secret \
             works until 2027-01-01T00:00:00Z"
        );
        assert_eq!(
            told(Some("2026-11-13T12:00:00Z")),
            "warning  token        the token is good for 1h 59m 28s; grant: client_credentials; the application's secret \
             stops working at 2026-11-13T12:00:00Z, in 12 days\n                      hint: Make a new secret in the API's \
             settings, and put it into `.env` before that."
        );
    }

    #[test]
    fn a_quota_that_is_too_small_for_a_run_is_a_warning() {
        assert_eq!(of_quota(None, None, 94).line(), "ok       quota        no limit of an hour is known");
        assert_eq!(
            of_quota(Some(1106), Some(1200), 94).line(),
            "ok       quota        1,106 of 1,200 requests left this hour; the last fetches took 94"
        );
        assert_eq!(
            of_quota(Some(1200), Some(1200), 0).line(),
            "ok       quota        1,200 of 1,200 requests left this hour; no run tells how many it needs"
        );
        assert_eq!(
            of_quota(Some(93), Some(1200), 94).line(),
            "warning  quota        93 of 1,200 requests left this hour; the last fetches took 94\n                      \
             hint: A run waits for the next hour: see `mirror42 plan`, or begin it later."
        );
    }
}
