//! What was before: the last load, the last run, and what a run that ended early has left.

use super::{Finding, Patient, State, not_checked};
use crate::driver::staleness::span;
use crate::error::Error;
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
    match end_of_last_run(patient) {
        Err(error) => Finding::of("last run", State::Failure, &error),
        Ok(None) => Finding::ok("last run", "there was none yet"),
        Ok(Some(line)) => of_end(&line, &left(patient)),
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

/// The last line of the log that says how a run ended.
fn end_of_last_run(patient: &Patient) -> Result<Option<String>, Error> {
    let log = files::read_if_there(&patient.paths.log("run"))?.unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let ends = |line: &&str| {
        let words = line.split_once(" run: run ").map(|(_, rest)| rest.split(' ').nth(1));
        matches!(words, Some(Some("done" | "failed:")))
    };
    Ok(log.lines().rev().find(ends).map(str::to_string))
}

/// `line`: `2026-… INFO  run: run ID failed: why`.
fn of_end(line: &str, left: &[String]) -> Finding {
    let time = line.split(' ').next().unwrap_or("");
    let ago = span(age_s(time));
    let end = line.split_once(" run: run ").map_or("", |(_, end)| end);
    let why = end.split_once(" failed: ").map(|(_, why)| why);
    match (why, left.is_empty()) {
        (Some(why), _) => Finding::warning("last run", format!("it failed {ago} ago: {why}"))
            .hint("Run `mirror42 run`: it goes on from there. logs/run.log has more."),
        (None, true) => Finding::ok("last run", format!("it ended well {ago} ago")),
        (None, false) => {
            Finding::warning("last run", format!("it ended well {ago} ago, but a later one left {}", left.join(", ")))
                .hint("Run `mirror42 run`: it goes on from there.")
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
        let line = format!("{} INFO  run: run 20261124T010000Z-7 done in 50.5 s", ago(3600));
        assert_eq!(of_end(&line, &[]).line(), "ok       last run     it ended well 1 h ago");
        assert_eq!(
            of_end(&line, &["pages of `a`".to_string()]).line(),
            "warning  last run     it ended well 1 h ago, but a later one left pages of `a`\n                      hint: \
             Run `mirror42 run`: it goes on from there."
        );
        let line = format!("{} INFO  run: run 20261124T010000Z-7 failed: could not fetch", ago(7200));
        assert_eq!(
            of_end(&line, &[]).line(),
            "warning  last run     it failed 2 h ago: could not fetch\n                      hint: Run `mirror42 run`: it \
             goes on from there. logs/run.log has more."
        );
        let hint = "\n                      hint: It takes very long: look into logs/run.log, and stop it if it hangs.";
        let owner = format!("process 7, since {}", ago(90_000));
        assert_eq!(under_way(&owner).line(), format!("warning  last run     one is under way: {owner}{hint}"));
        let owner = format!("process 7, since {}", ago(60));
        assert_eq!(under_way(&owner).line(), format!("ok       last run     one is under way: {owner}"));
    }
}
