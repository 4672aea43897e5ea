//! The page: key facts on top, then the sections in the order in which a person asks.

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::charts::{self, Point};
use super::{Data, Shown, graph, timeline};
use crate::driver::record::Record;
use crate::driver::staleness::span;
use crate::driver::summary::number;
use crate::error::Error;
use crate::pg::ledger;
use crate::receipt::age_s;

/// Nothing is fetched and nothing runs: the browser is told to see to it.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";
/// Loads in the table of the last ones.
const LAST_LOADS: usize = 14;

pub fn page(data: &Data) -> Markup {
    let title = format!("{}: mirror report", data.pipeline.name);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href="data:,";
                title { (title) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                header {
                    h1 { (data.pipeline.name) }
                    p { "As of " time datetime=(data.now.to_string()) { (moment(data.now)) } }
                }
                main {
                    (facts(data))
                    (troubles(data))
                    (stages(data))
                    (last_run(data))
                    (tables(data))
                    (loads(data))
                    (requests(data))
                }
                footer { "Written by mirror42 " (env!("CARGO_PKG_VERSION")) ". Times are UTC." }
            }
        }
    }
}

fn facts(data: &Data) -> Markup {
    let tables = data.tables();
    let rows: i64 = tables.iter().map(|entry| entry.counts.rows()).sum();
    let (mood, state, state_note) = state(data);
    html! {
        section.facts aria-label="Key facts" {
            (fact("Mirror", mood, &state, &state_note))
            @if data.loads.is_ok() { (fact("Rows", "", &count(rows), &format!("in {} tables", tables.len()))) }
            @else { (fact("Rows", "", "unknown", "no database")) }
            @if let Some(run) = data.runs.first() {
                (fact("Last run", ending(run).0, ending(run).1, &format!("{}, {}", ago(data, &run.started_at), took(run.duration_ms))))
            } @else { (fact("Last run", "", "none", "that left a record")) }
            @if let Some(load) = data.loads().last() { (changes(load)) }
            @if let Some(quota) = data.runs.first().and_then(|run| run.quota.as_ref()) {
                (fact("Requests left", "", &number(quota.left.into()), &format!("of {} an hour, after the last run", number(quota.per_hour.into()))))
            }
        }
    }
}

fn fact(name: &str, mood: &str, value: &str, note: &str) -> Markup {
    html! { div.fact { h2 { (name) } p class=(format!("value {mood}").trim_end()) { (value) } p.note { (note) } } }
}

/// Of the mirror: its mood, a word, and how old it is.
fn state(data: &Data) -> (&'static str, String, String) {
    let limit = data.pipeline.stale_after.as_secs();
    match (&data.loads, data.age_s()) {
        (Err(_), _) => ("warn", "Unknown".to_string(), "the database does not answer".to_string()),
        (Ok(loads), None) if loads.is_empty() => ("warn", "Never loaded".to_string(), "run `mirror42 run`".to_string()),
        (Ok(_), None) => ("warn", "Age unknown".to_string(), "it was loaded without receipts".to_string()),
        (Ok(_), Some(age)) if age >= limit => {
            ("bad", "Stale".to_string(), format!("{} old, stale after {}", span(age), span(limit)))
        }
        (Ok(_), Some(age)) => {
            ("good", "Up to date".to_string(), format!("{} old, stale after {}", span(age), span(limit)))
        }
    }
}

fn changes(load: &ledger::Run) -> Markup {
    let sum = |of: fn(&ledger::Counts) -> i64| load.tables.iter().map(|entry| of(&entry.counts)).sum::<i64>();
    let note = format!(
        "in the last load: {} new, {} updated, {} deleted",
        count(sum(|counts| counts.inserted)),
        count(sum(|counts| counts.updated)),
        count(sum(|counts| counts.deleted))
    );
    fact("Changed", "", &count(sum(ledger::Counts::changed)), &note)
}

/// How a run ended: its mood and a word.
fn ending(run: &Record) -> (&'static str, &'static str) {
    match run.exit_code {
        Some(0) => ("good", "Done"),
        Some(75) => ("warn", "To be resumed"),
        Some(_) => ("bad", "Failed"),
        None => ("warn", "Not ended"),
    }
}

/// What is wrong, in the words that were printed.
fn troubles(data: &Data) -> Markup {
    let failed = data.runs.first().and_then(|run| Some((run, run.error.as_ref()?)));
    html! {
        @if let Some((run, error)) = failed {
            section.trouble role="alert" {
                h2 { "The last run failed" @if let Some(code) = run.exit_code { " with exit code " (code) } }
                (parts(error))
            }
        }
        @if let Err(error) = &data.loads {
            section.trouble role="alert" {
                h2 { "The database could not be read" }
                (parts(&Error::to_json(error)))
                p.note { "What it knows of rows, deletions and orphans is missing below." }
            }
        }
    }
}

fn parts(error: &serde_json::Value) -> Markup {
    let text = |name: &str| error.get(name).and_then(serde_json::Value::as_str);
    let details = error.get("detail").and_then(serde_json::Value::as_array);
    html! {
        p { (text("message").unwrap_or("it left no message")) }
        @if let Some(place) = text("at") { p.note { "at: " (place) } }
        @for detail in details.into_iter().flatten().filter_map(serde_json::Value::as_str) { p.note { (detail) } }
        @if let Some(hint) = text("hint") { p.note { (hint) } }
    }
}

fn stages(data: &Data) -> Markup {
    html! {
        section {
            h2 { "Stages" }
            div.scroll tabindex="0" role="region" aria-label="Graph of the stages" { (graph::graph(&data.stages)) }
            details open[data.stages.len() <= 12] {
                summary { "All " (data.stages.len()) " stages" }
                div.scroll tabindex="0" role="region" aria-label="Table of the stages" {
                    table {
                        caption { "Stages, what they hold, and whether they are current" }
                        thead { tr {
                            th scope="col" { "Stage" } th scope="col" { "Table" } th.number scope="col" { "Records" }
                            th.number scope="col" { "Requests" } th.number scope="col" { "MB" }
                            th scope="col" { "Fetched" } th scope="col" { "State" }
                        } }
                        tbody { @for shown in &data.stages { (stage(shown)) } }
                    }
                }
            }
        }
    }
}

fn stage(shown: &Shown) -> Markup {
    let (fetch, extract) = (shown.receipt.fetch.as_ref(), shown.receipt.extract.as_ref());
    html! {
        tr id={ "stage-" (shown.stage.name) } {
            th scope="row" { (shown.stage.name) }
            td { (shown.stage.table.as_deref().unwrap_or("")) }
            td.number { @if let Some(extract) = extract { (number(extract.records_out)) } }
            td.number { @if let Some(fetch) = fetch { (number(fetch.requests)) } }
            td.number { @if let Some(extract) = extract { (format!("{:.1}", extract.size_bytes as f64 / 1e6)) } }
            td { @if let Some(fetch) = fetch { (span(age_s(&fetch.started_at))) " ago" } }
            td { span class=(if shown.is_current { "good" } else { "warn" }) { (shown.state) } }
        }
    }
}

/// The last run that did something.
fn last_run(data: &Data) -> Markup {
    let run = data.runs.iter().find(|run| !run.steps.is_empty());
    html! {
        section {
            h2 { "Last run" }
            @if let Some(run) = run {
                p.lead {
                    (ending(run).1) ", began " (ago(data, &run.started_at)) " and took " (took(run.duration_ms)) ". "
                    (plural(run.steps.len() as i64, "step")) " ran, " (number(run.current_steps)) " had nothing to do, "
                    (plural(run.requests as i64, "request")) " to the API."
                    @if data.runs.first().is_some_and(|last| last.id != run.id) { " Later runs had nothing to do." }
                }
                (timeline::timeline(run))
            } @else { p.lead { "No run has left a record in logs/runs yet." } }
        }
    }
}

fn tables(data: &Data) -> Markup {
    let entries = data.tables();
    html! {
        section {
            h2 { "Rows of each table, load after load" }
            @if entries.is_empty() { p.lead { (nothing(data)) } }
            div.multiples {
                @for entry in entries {
                    figure {
                        figcaption { strong { (entry.table) } span { (plural(entry.counts.rows(), "row")) } }
                        (charts::line(&format!("Rows of {}", entry.table), &rows_of(data, &entry.table)))
                    }
                }
            }
        }
    }
}

fn rows_of(data: &Data, table: &str) -> Vec<Point> {
    let point = |load: &ledger::Run| {
        let entry = load.tables.iter().find(|entry| entry.table == table)?;
        Some(Point { at: load.started_at, value: entry.counts.rows(), title: String::new() })
    };
    data.loads().iter().filter_map(point).collect()
}

fn loads(data: &Data) -> Markup {
    let of = |count_of: fn(&ledger::Counts) -> i64, what: &str| -> Vec<Point> {
        let point = |load: &ledger::Run| {
            let value = load.tables.iter().map(|entry| count_of(&entry.counts)).sum();
            Point { at: load.started_at, value, title: format!("{}: {} {what}", moment(load.started_at), count(value)) }
        };
        data.loads().iter().map(point).collect()
    };
    html! {
        section {
            h2 { "Deletions and orphans" }
            @if data.loads().is_empty() { p.lead { (nothing(data)) } }
            @else {
                div.multiples.wide {
                    figure {
                        figcaption { strong { "Deleted" } span { "rows that the API no longer has" } }
                        (charts::bars("Rows deleted by each load", "deleted", &of(|counts| counts.deleted, "rows deleted")))
                    }
                    figure {
                        figcaption { strong { "Orphans" } span { "records that refer to nothing, dropped" } }
                        (charts::bars("Orphans dropped by each load", "orphans", &of(|counts| counts.orphans, "orphans dropped")))
                    }
                }
                (last_loads(data.loads()))
            }
        }
    }
}

fn last_loads(loads: &[ledger::Run]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Table of the last loads" {
            table {
                caption { "The last " (loads.len().min(LAST_LOADS)) " loads of " (plural(loads.len() as i64, "load")) ", the newest first" }
                thead { tr {
                    th scope="col" { "Began" }
                    @for name in ["Rows", "New", "Updated", "Deleted", "Orphans"] { th.number scope="col" { (name) } }
                    th scope="col" { "Run" }
                } }
                tbody { @for load in loads.iter().rev().take(LAST_LOADS) {
                    @let sum = |of: fn(&ledger::Counts) -> i64| count(load.tables.iter().map(|entry| of(&entry.counts)).sum());
                    tr {
                        th scope="row" { (moment(load.started_at)) }
                        td.number { (sum(ledger::Counts::rows)) }
                        td.number { (sum(|counts| counts.inserted)) }
                        td.number { (sum(|counts| counts.updated)) }
                        td.number { (sum(|counts| counts.deleted)) }
                        td.number { (sum(|counts| counts.orphans)) }
                        td { code { (load.id) } }
                    }
                } }
            }
        }
    }
}

fn requests(data: &Data) -> Markup {
    let point = |run: &Record| {
        let at: Timestamp = run.started_at.parse().ok()?;
        let value = i64::try_from(run.requests).ok()?;
        Some(Point { at, value, title: format!("{}: {}", moment(at), plural(value, "request")) })
    };
    let points: Vec<Point> = data.runs.iter().rev().filter_map(point).collect();
    html! {
        section {
            h2 { "Requests to the API" }
            @if points.is_empty() { p.lead { "No run has left a record in logs/runs yet." } }
            @else {
                div.multiples.wide { figure {
                    figcaption { strong { "Requests" } span { "of each run" } }
                    (charts::bars("Requests of each run", "requests", &points))
                } }
            }
        }
    }
}

/// Why there is no load to show.
fn nothing(data: &Data) -> &'static str {
    if data.loads.is_ok() { "Nothing was loaded yet." } else { "The database could not be read." }
}

fn moment(at: Timestamp) -> String {
    at.strftime("%-d %b %Y, %H:%M").to_string()
}

fn ago(data: &Data, time: &str) -> String {
    let since = time.parse::<Timestamp>().ok().and_then(|at| u64::try_from(data.now.as_second() - at.as_second()).ok());
    since.map_or("at a time unknown".to_string(), |seconds| format!("{} ago", span(seconds)))
}

fn took(ms: u64) -> String {
    if ms < 120_000 { format!("{:.1} s", ms as f64 / 1e3) } else { span(ms / 1000) }
}

fn count(n: i64) -> String {
    number(n.unsigned_abs())
}

fn plural(n: i64, what: &str) -> String {
    format!("{} {what}{}", count(n), if n == 1 { "" } else { "s" })
}
