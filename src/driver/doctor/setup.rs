//! What a person wrote: the pipeline file, its filters, the secrets.

use super::{Finding, Patient, State, not_checked};
use crate::pipeline::Secrets;

pub fn checks(patient: &Patient) -> Vec<Finding> {
    vec![pipeline(patient), filters(patient), credentials(patient)]
}

fn pipeline(patient: &Patient) -> Finding {
    match &patient.pipeline {
        Err(error) => Finding::of("pipeline", State::Failure, error),
        Ok(pipeline) if pipeline.stages.is_empty() => {
            Finding::warning("pipeline", format!("`{}` has no stages", patient.file.display()))
                .hint("Add one: docs/pipeline.md tells how.")
        }
        Ok(pipeline) => {
            let counts = [
                (pipeline.stages.len(), "stage"),
                (pipeline.loaded().count(), "table"),
                (pipeline.checks.len(), "check"),
            ];
            let counts = counts.map(|(n, what)| format!("{n} {what}{}", if n == 1 { "" } else { "s" }));
            Finding::ok("pipeline", format!("`{}`: {}", patient.file.display(), counts.join(", ")))
        }
    }
}

fn filters(patient: &Patient) -> Finding {
    match patient.output("mirror42-extract", &["--check"]) {
        None => not_checked("filters"),
        Some(Ok(_)) => Finding::ok("filters", "all of them compile"),
        Some(Err(error)) => Finding::of("filters", State::Failure, &error),
    }
}

fn credentials(patient: &Patient) -> Finding {
    let secrets = match &patient.secrets {
        Ok(secrets) => secrets,
        Err(error) => return Finding::of("credentials", State::Failure, error),
    };
    let Ok(pipeline) = &patient.pipeline else { return not_checked("credentials") };
    of_variables(&pipeline.api.auth.variables(), secrets)
}

fn of_variables(variables: &[&str], secrets: &Secrets) -> Finding {
    let listed = |wanted: &dyn Fn(&str) -> bool| -> String {
        let names: Vec<String> = variables.iter().filter(|name| wanted(name)).map(|name| format!("`{name}`")).collect();
        names.join(" and ")
    };
    let missing = listed(&|name| secrets.get(name).is_none());
    let elsewhere = listed(&|name| !secrets.in_file(name));
    let all = listed(&|_| true);
    if all.is_empty() {
        Finding::ok("credentials", "the API asks for none")
    } else if !missing.is_empty() {
        Finding::failure("credentials", format!("{missing} not set"))
            .hint("Put it into a file `.env` beside the pipeline (mode 0600), as `NAME=value`.")
    } else if !elsewhere.is_empty() {
        Finding::warning("credentials", format!("{elsewhere} set in the environment only, which cron does not have"))
            .hint("Put it into a file `.env` beside the pipeline (mode 0600), as `NAME=value`.")
    } else {
        Finding::ok("credentials", format!("{all} in `.env`"))
    }
}
