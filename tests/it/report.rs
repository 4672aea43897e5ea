//! The verb `report`: one page that needs nothing else. What it shows is read from the page as a browser has it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::driver::{TABLES, project, succeed};
use crate::record::small;
use crate::simulator::Simulator;
use crate::space::{Space, wait_until};

/// What the verb writes for this space.
fn page(space: &Space) -> String {
    let outcome = space.run("mirror42", &["report", "-q", "--output", "-"]);
    succeed(&outcome);
    outcome.stdout
}

/// What stands in a page that could ask for something, or do something.
fn needs(page: &str) -> Vec<&str> {
    let forbidden =
        ["<script", "javascript:", "http:", "https:", "src=", "url(", "@import", "onload=", "<iframe", "<link rel=\"s"];
    forbidden.into_iter().filter(|text| page.contains(text)).collect()
}

#[test]
fn the_page_has_what_there_is_and_needs_nothing_else() {
    let simulator = Simulator::start("");
    let space = project(&simulator);
    for day in [0, 1] {
        simulator.day(day);
        succeed(&space.run("mirror42", &["run", "-q", "--force"]));
    }
    let outcome = space.run("mirror42", &["report"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), "wrote report.html\n"), "{}", outcome.stderr);
    let page = fs::read_to_string(space.path().join("report.html")).unwrap();
    assert_eq!(needs(&page), [""; 0]);
    assert!(page.contains("content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:;"));
    assert!(page.contains("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"));

    let Some(dom) = Browser::find().map(|browser| browser.dom(&space.path().join("report.html"))) else { return };
    let rows = space.query(&TABLES.map(|table| format!("select count(*) from {table}")).join(" union all "));
    let rows: Vec<u64> = rows.iter().map(|count| count.parse().unwrap()).collect();
    let with_commas = |n: u64| if n < 1000 { n.to_string() } else { format!("{},{:03}", n / 1000, n % 1000) };
    assert!(dom.contains(&format!("<p class=\"value\">{}</p>", with_commas(rows.iter().sum()))), "{rows:?}");
    for (table, rows) in TABLES.iter().zip(&rows) {
        let count = with_commas(*rows);
        let unit = if *rows == 1 { "row" } else { "rows" };
        let caption = format!("<figcaption><strong>{table}</strong><span>{count} {unit}</span></figcaption>");
        assert!(dom.contains(&caption), "{caption}");
        assert!(dom.contains(&format!("aria-label=\"Rows of {table}: 2 points from ")), "{table}");
    }
    let deleted = space.query(
        "select sum(deleted) from mirror42.run_tables t join mirror42.runs r on r.id = t.run_id
         where r.started_at = (select max(started_at) from mirror42.runs)",
    );
    assert!(dom.contains(&format!("{} deleted</p>", with_commas(deleted[0].parse().unwrap()))), "{deleted:?}");
    assert!(dom.contains("<p class=\"value good\">Up to date</p>") && dom.contains("<p class=\"value good\">Done</p>"));
    assert!(dom.contains("Stages and what they read: 8 of 8 are current"));
    assert_eq!(dom.matches("class=\"step ").count(), 5 + 8 + 2, "fetches, extracts, the load, the validation");
}

#[test]
fn a_page_without_runs_loads_or_database_says_so() {
    let simulator = Simulator::start("");
    let space = small(&simulator);
    let fresh = page(&space);
    for text in [
        "<p class=\"value warn\">Never loaded</p><p class=\"note\">run `mirror42 run`</p>",
        "<p class=\"value\">none</p><p class=\"note\">that left a record</p>",
        "No run has left a record in logs/runs yet.",
        "Nothing was loaded yet.",
        "never fetched whole",
        "no records yet",
    ] {
        assert!(fresh.contains(text), "{text}\n{fresh}");
    }
    succeed(&space.run("mirror42", &["run", "-q"]));
    let one = page(&space);
    assert!(one.contains("aria-label=\"Rows of coalitions: 1 points from "), "{one}");

    let nowhere = "postgresql://nobody@127.0.0.1:1/none";
    let outcome = space.run("mirror42", &["report", "-q", "--output", "-", "--database-url", nowhere]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("warning: the report lacks what the database has: could not"),
        "{}",
        outcome.stderr
    );
    for text in [
        "<h2>The database could not be read</h2>",
        "<p class=\"note\">What it knows of rows, deletions and orphans is missing below.</p>",
        "<p class=\"value warn\">Unknown</p><p class=\"note\">the database does not answer</p>",
        "The database could not be read.</p>",
        "2 requests",
    ] {
        let text = text.replace("2 requests", "5 requests to the API.");
        assert!(outcome.stdout.contains(&text), "{text}\n{}", outcome.stdout);
    }
}

#[test]
fn a_page_of_four_hundred_nights_and_a_stale_mirror() {
    let simulator = Simulator::start("");
    let space = small(&simulator);
    succeed(&space.run("mirror42", &["run", "-q"]));
    space.client().batch_execute(
        "insert into mirror42.runs (id, pipeline, fetched_at, started_at, finished_at, status)
         select 'old-' || n, 'small', now() - n * interval '1 day', now() - n * interval '1 day', now(), 'loaded'
           from generate_series(3, 420) n;
         insert into mirror42.run_tables (run_id, table_name, stage, export_sha256, staged, inserted, updated, unchanged, deleted, orphans, duration_ms)
         select 'old-' || n, 'coalitions', '02_coalitions', '', 9, 1, 1, 421 - n, n % 7, n % 3, 1 from generate_series(3, 420) n;
         update mirror42.runs set fetched_at = now() - interval '50 hours' where id not like 'old-%'",
    ).unwrap();
    let page = page(&space);
    assert!(page.contains("Rows of coalitions: 400 points from "), "the last 400 loads");
    assert!(page.contains("The last 14 loads of 400 loads, the newest first"));
    let stale = "<p class=\"value bad\">Stale</p><p class=\"note\">2 d 2 h old, stale after 1 d</p>";
    assert!(page.contains(stale), "{page}");
    assert!(page.len() < 400_000, "{} bytes", page.len());
}

#[test]
fn text_from_data_is_text() {
    let simulator = Simulator::start("");
    let hostile = "</title><script>alert(1)</script>\"'&";
    let pipeline = include_str!("../../pipeline.toml").replace("\"42-stable\"", &format!("'''{hostile}'''"));
    let space = simulator.space(&pipeline).file("schema.sql", include_str!("../../schema.sql")).and_database();
    let record = serde_json::json!({
        "version": 1, "id": hostile, "pipeline": hostile, "mirror42": hostile, "targets": [], "started_at": hostile,
        "ended_at": hostile, "duration_ms": 1, "exit_code": 1,
        "error": { "message": hostile, "at": hostile, "detail": [hostile], "hint": hostile },
        "steps": [{ "what": hostile, "stage": hostile, "why": hostile, "started_at": hostile, "ended_at": null, "duration_ms": 1,
                    "exit_code": 1, "requests": 1, "records": 1, "size_bytes": 1 }],
        "current_steps": 0, "requests": 1, "quota": null, "tables": [], "rows": 0, "changed": 0, "deleted": 0, "orphans": 0,
        "checks": null,
    });
    space.write("logs/runs/20261124T010000Z-1.json", &record.to_string());
    space.write("logs/runs/20261124T020000Z-1.json", "{ a file that is no record");
    let page = page(&space);
    assert_eq!(needs(&page), [""; 0]);
    assert!(!page.contains(hostile));
    assert!(page.matches("&lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt;").count() > 10, "{page}");
    assert!(page.contains("The last run failed with exit code 1"));
}

#[test]
fn a_report_that_cannot_be_written_says_where() {
    let simulator = Simulator::start("");
    let space = small(&simulator).file("folder", "a file");
    let outcome = space.run("mirror42", &["report", "--output", "folder/report.html"]);
    assert_eq!(outcome.code, Some(1));
    let expected = "mirror42: error: could not create the folder `folder`: file exists";
    assert!(outcome.stderr.starts_with(expected), "{}", outcome.stderr);
}

/// A headless browser that asks nothing of any network.
struct Browser(PathBuf);

impl Browser {
    /// None, with a message, where the machine has none.
    fn find() -> Option<Browser> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let names = ["chromium", "chromium-browser", "google-chrome"];
        let found = std::env::split_paths(&path)
            .flat_map(|folder| names.map(|name| folder.join(name)))
            .find(|program| program.is_file());
        if found.is_none() {
            println!("skipped: there is no chromium on this machine");
        }
        found.map(Browser)
    }

    /// The page as it is once the browser has it; it had nothing to say of it.
    fn dom(&self, page: &Path) -> String {
        let profile = tempfile::tempdir().unwrap();
        let log = profile.path().join("net.json");
        let flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update \
                     --disable-sync --disable-extensions --disable-dev-shm-usage --no-first-run --enable-logging=stderr --dump-dom";
        let mut browser = Command::new(&self.0)
            .args(flags.split_whitespace())
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("--log-net-log={}", log.display()))
            .arg(format!("file://{}", page.canonicalize().unwrap().display()))
            .stdin(Stdio::null())
            .stdout(fs::File::create(profile.path().join("dom")).unwrap())
            .stderr(fs::File::create(profile.path().join("said")).unwrap())
            .spawn()
            .unwrap();
        wait_until("the browser is done", || browser.try_wait().unwrap().is_some());
        let said = fs::read_to_string(profile.path().join("said")).unwrap();
        assert!(!said.contains("CONSOLE"), "{said}");
        let requests = fs::read_to_string(log).unwrap_or_default();
        for address in ["\"url\":\"http", "\"url\":\"ws"] {
            assert!(!requests.contains(address), "the page asked for something");
        }
        fs::read_to_string(profile.path().join("dom")).unwrap()
    }
}
