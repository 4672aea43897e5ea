//! The verb `doctor`: whether all is there that a night needs, one line a check, each with its remedy.
//!
//! Every check is made whatever the others found, on what there is: before the first run most things are not there
//! yet, and that is well. Nothing is changed, but that a token may be asked for and a stopped database started.

mod api;
mod cron;
mod database;
mod history;
mod machine;
mod setup;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::options::Options;
use super::output;
use crate::cli::{self, ApiArgs, Common, Context};
use crate::error::{Error, Result, printable};
use crate::paths::Paths;
use crate::pipeline::{Pipeline, Secret, Secrets};

#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warning,
    Failure,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    state: State,
    found: String,
    /// What to do about it.
    hint: Option<String>,
}

impl Finding {
    fn new(check: &'static str, state: State, found: impl Into<String>) -> Finding {
        Finding { check, state, found: printable(&found.into()), hint: None }
    }

    fn ok(check: &'static str, found: impl Into<String>) -> Finding {
        Finding::new(check, State::Ok, found)
    }

    fn warning(check: &'static str, found: impl Into<String>) -> Finding {
        Finding::new(check, State::Warning, found)
    }

    fn failure(check: &'static str, found: impl Into<String>) -> Finding {
        Finding::new(check, State::Failure, found)
    }

    fn hint(self, action: impl Into<String>) -> Finding {
        Finding { hint: Some(printable(&action.into())), ..self }
    }

    /// A failure that somebody else has put into words already.
    fn of(check: &'static str, state: State, error: &Error) -> Finding {
        let parts = error.to_json();
        let mut found = error.message().to_string();
        if let Some(place) = error.place() {
            found.push_str(&format!(" (at {place})"));
        }
        for sentence in parts["detail"].as_array().into_iter().flatten().filter_map(|sentence| sentence.as_str()) {
            found.push_str(&format!("; {}", sentence.trim_end_matches('.')));
        }
        Finding { hint: parts["hint"].as_str().map(printable), ..Finding::new(check, state, found) }
    }

    fn line(&self) -> String {
        let state = match self.state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Failure => "failure",
        };
        let hint = self.hint.as_ref().map(|hint| format!("\n{:22}hint: {hint}", "")).unwrap_or_default();
        format!("{state:8} {:12} {}{hint}", self.check, self.found)
    }
}

/// What is looked at.
struct Patient {
    file: PathBuf,
    paths: Paths,
    /// Or why there is none.
    pipeline: Result<Pipeline>,
    secrets: Result<Secrets>,
    url: Option<Secret>,
    options: Options,
}

impl Patient {
    fn new(common: &Common, api: &ApiArgs, database_url: Option<&str>, options: Options) -> Patient {
        let pipeline = Pipeline::load(&common.pipeline).and_then(|mut pipeline| {
            api.apply(&mut pipeline)?;
            Ok(pipeline)
        });
        let root = common.pipeline.parent().filter(|root| root.as_os_str() != "");
        let paths = Paths::new(root.map_or_else(|| PathBuf::from("."), PathBuf::from));
        let secrets = Secrets::load(&paths.dotenv());
        let flag = database_url.filter(|url| !url.is_empty()).map(Secret::new);
        let of_environment = || match &secrets {
            Ok(secrets) => secrets.get("DATABASE_URL"),
            Err(_) => Secrets::default().get("DATABASE_URL"),
        };
        let url = flag.or_else(of_environment);
        let file = common.pipeline.clone();
        let mut options = options;
        // A person waits: what is not well at once is what is to be told.
        for (name, value, given) in
            [("MIRROR42_TRIES", "1", api.tries.is_some()), ("MIRROR42_MAX_WAIT", "5s", api.max_wait.is_some())]
        {
            if !given {
                options.environment.push((name, value.to_string()));
            }
        }
        let patient = Patient { file, paths, pipeline, secrets, url, options };
        if let (Ok(pipeline), Ok(secrets)) = (&patient.pipeline, &patient.secrets)
            && let Some(secret) = pipeline.api.auth.secret_variable().and_then(|name| secrets.get(name))
        {
            secret.hide();
        }
        patient
    }

    /// What a program of ours prints on this pipeline; none if it could not even begin, which other checks tell.
    fn output(&self, program: &str, arguments: &[&str]) -> Option<Result<String>> {
        let (Ok(pipeline), Ok(_)) = (&self.pipeline, &self.secrets) else { return None };
        let context = Context { pipeline: pipeline.clone(), secrets: Secrets::default() };
        Some(output::output(&context, &self.options, program, arguments))
    }
}

/// A check that another one stands in the way of.
fn not_checked(check: &'static str) -> Finding {
    Finding::warning(check, "not checked, for the reasons above")
}

/// Makes all checks, prints what they found, and fails if one of them failed.
pub fn run(
    common: &Common,
    args: &DoctorArgs,
    api: &ApiArgs,
    database_url: Option<&str>,
    options: Options,
) -> Result<()> {
    let patient = Patient::new(common, api, database_url, options);
    // First of all: the programs that other checks start make some of these.
    let folders = machine::folders(&patient);
    let mut findings = setup::checks(&patient);
    let (of_the_api, skew) = api::checks(&patient);
    findings.extend(of_the_api);
    let mut database = database::checks(&patient);
    findings.append(&mut database.findings);
    findings.extend(folders);
    findings.push(machine::disk(&patient));
    findings.push(machine::clock(skew, database.skew));
    findings.push(cron::check(&patient));
    findings.extend(history::checks(&patient, &database.ages));
    let failures = findings.iter().filter(|finding| finding.state == State::Failure).count();
    if args.json {
        let worst = findings.iter().map(|finding| finding.state).max().unwrap_or(State::Ok);
        cli::print(format_args!("{}", serde_json::json!({ "state": worst, "checks": findings })));
    } else {
        let shown = findings.iter().filter(|finding| !common.quiet || finding.state != State::Ok);
        shown.for_each(|finding| cli::print(format_args!("{}", finding.line())));
    }
    match failures {
        0 => Ok(()),
        1 => Err(Error::failed(format!("one of {} checks failed", findings.len()))),
        n => Err(Error::failed(format!("{n} of {} checks failed", findings.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_its_hint_another() {
        assert_eq!(Finding::ok("disk", "9 GB free").line(), "ok       disk         9 GB free");
        let error = Error::failed("no such thing").at("there").detail("It was looked for.").hint("Make one.");
        assert_eq!(
            Finding::of("thing", State::Failure, &error).line(),
            "failure  thing        no such thing (at there); It was looked for\n                      hint: Make one."
        );
    }
}
