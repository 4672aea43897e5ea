//! What was before: the last load, the last run, and what a run that ended early has left.

use super::{Finding, Patient, State, not_checked};
use crate::driver::record::Record;
use crate::driver::staleness::span;
use crate::files;
use crate::pg::ledger::RunTable;
use crate::pipeline::Pipeline;
use crate::receipt::age_s;

/// A run of a day is none that goes on.
const LONGEST_RUN_S: u64 = 24 * 3600;

pub fn checks(patient: &Patient, ages: &Option<Vec<RunTable>>) -> Vec<Finding> {
    let mirror = match (&patient.pipeline, ages) {
        (Ok(pipeline), Some(ages)) => mirror(pipeline, ages),
        _ => not_checked("mirror"),
    };
    vec![mirror, last_run(patient)]
}

/// The mirror is as old as its oldest table.
fn mirror(pipeline: &Pipeline, ages: &[RunTable]) -> Finding {
    // None, of a load without receipts, comes first.
    let Some(oldest) = ages.iter().min_by_key(|table| table.fetched_at) else {
        return Finding::warning("mirror", "it was never loaded").hint("Run `mirror42 run`.");
    };
    let Some(fetched_at) = oldest.fetched_at else {
        return Finding::warning("mirror", format!("how old `{}` is is not known", oldest.table))
            .hint("Run `mirror42 run`.");
    };
    let (age, limit) = (age_s(&fetched_at.to_string()), pipeline.stale_after.as_secs());
    let found = format!("it is {} old, stale_after is {}", span(age), span(limit));
    match age < limit {
        true => Finding::ok("mirror", found),
        false => Finding::failure("mirror", found).hint(format!(
            "The last load of `{}` was {}: `logs/` says why no run has succeeded since.",
            oldest.table, oldest.run_id
        )),
    }
}

fn last_run(patient: &Patient) -> Finding {
    let lock = patient.paths.run_lock();
    match files::held_by(&lock) {
        Err(error) => return Finding::of("last run", State::Failure, &error),
        Ok(Some(owner)) => return under_way(&owner),
        Ok(None) => {}
    }
    match Record::newest(&patient.paths).map(|mut records| records.next()) {
        Err(error) => Finding::of("last run", State::Failure, &error),
        Ok(None) => Finding::ok("last run", "there was none yet"),
        Ok(Some(record)) => {
            let error = record.error.as_ref().map(|error| error["message"].as_str().unwrap_or("for reasons unknown"));
            of_end(&record.started_at, record.ended_at.as_deref(), error, &left(patient))
        }
    }
}

/// `owner`: `process 12, since 2026-…`.
fn under_way(owner: &str) -> Finding {
    let found = format!("one is under way: {owner}");
    let since = owner.split_once("since ").map_or("", |(_, since)| since);
    if age_s(since) < LONGEST_RUN_S {
        return Finding::ok("last run", found);
    }
    Finding::warning("last run", found).hint("It takes very long: look into logs/run.log, and stop it if it hangs.")
}

/// When the run began and ended, if it did, and why it failed, if it did.
fn of_end(started_at: &str, ended_at: Option<&str>, error: Option<&str>, left: &[String]) -> Finding {
    let again = "Run `mirror42 run`: it goes on from there.";
    let ago = |time: &str| span(age_s(time));
    match (ended_at, error, left.is_empty()) {
        (None, ..) => {
            Finding::warning("last run", format!("it began {} ago and was killed", ago(started_at))).hint(again)
        }
        (Some(end), Some(why), _) => Finding::warning("last run", format!("it failed {} ago: {why}", ago(end)))
            .hint(format!("{again} logs/run.log has more.")),
        (Some(end), None, true) => Finding::ok("last run", format!("it ended well {} ago", ago(end))),
        (Some(end), None, false) => {
            let what = left.join(", ");
            Finding::warning("last run", format!("it ended well {} ago; something else has left {what}", ago(end)))
                .hint(again)
        }
    }
}

/// What runs that ended early have left to be gone on with.
fn left(patient: &Patient) -> Vec<String> {
    let Ok(pipeline) = &patient.pipeline else { return Vec::new() };
    let names = pipeline.stages.iter().map(|stage| stage.name.as_str());
    let unfinished = names.filter(|name| patient.paths.pages_under_way(name).exists());
    let mut left: Vec<String> = unfinished.map(|name| format!("pages of `{name}`")).collect();
    if patient.paths.forced().exists() {
        left.push("stages to be forced".to_string());
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_run_is_told() {
        let ago = |seconds: i64| {
            let time = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(seconds);
            crate::log::timestamp(time)
        };
        let hint = "\n                      hint: Run `mirror42 run`: it goes on from there.";
        let (start, end) = (ago(7200), ago(3600));
        assert_eq!(of_end(&start, Some(&end), None, &[]).line(), "ok       last run     it ended well 1 h ago");
        assert_eq!(
            of_end(&start, Some(&end), None, &["pages of `a`".to_string()]).line(),
            format!("warning  last run     it ended well 1 h ago; something else has left pages of `a`{hint}")
        );
        assert_eq!(
            of_end(&start, Some(&end), Some("could not fetch"), &[]).line(),
            format!("warning  last run     it failed 1 h ago: could not fetch{hint} logs/run.log has more.")
        );
        assert_eq!(
            of_end(&start, None, None, &[]).line(),
            format!("warning  last run     it began 2 h ago and was killed{hint}")
        );
        let hint = "\n                      hint: It takes very long: look into logs/run.log, and stop it if it hangs.";
        let owner = format!("process 7, since {}", ago(90_000));
        assert_eq!(under_way(&owner).line(), format!("warning  last run     one is under way: {owner}{hint}"));
        let owner = format!("process 7, since {}", ago(60));
        assert_eq!(under_way(&owner).line(), format!("ok       last run     one is under way: {owner}"));
    }
}
