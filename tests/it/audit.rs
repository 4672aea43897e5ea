//! What was deleted and changed, as `audit` tells it.

use crate::load::{load, project};
use crate::space::Space;

/// Three nights: rows come; rows change, go, and go with their parent; a number of 19 digits changes.
fn three_nights() -> (Space, Vec<String>) {
    let space = project();
    let night = |id: &str| {
        let outcome = space.run("mirror42-load", &["-q", "--run-id", id, "--allow-delete", "campus_projects=2"]);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    };
    night("night-1");
    space.export(
        "05_projects",
        &[
            r#"{"id":1,"name":"Libft","difficulty":200}"#,
            r#"{"id":2,"name":"a\tb\\c\n\"d\" \u00e9\ud83d\ude00","difficulty":null}"#,
        ],
    );
    space.export(
        "06_campus_projects",
        &[
            r#"{"campus_id":1,"project_id":1}"#,
            r#"{"campus_id":1,"project_id":2}"#,
            r#"{"campus_id":10,"project_id":2}"#,
        ],
    );
    space.export(
        "07_project_sessions",
        &[
            r#"{"id":7,"project_id":1,"campus_id":9007199254740993,"objectives":["a\\b"],"begin_at":"2028-07-19T00:00:00.000+08:00"}"#,
        ],
    );
    night("night-2");
    space.export("05_projects", &[r#"{"id":1,"name":"Libft","difficulty":200}"#]);
    space.export("06_campus_projects", &[r#"{"campus_id":1,"project_id":1}"#]);
    night("night-3");
    let times = space.query(
        "select to_char(min(at) at time zone 'utc', 'YYYY-MM-DD') from (
             select run_id, deleted_at as at from mirror42.deletions union all select run_id, changed_at from mirror42.changes
         ) e group by run_id order by run_id",
    );
    (space, times)
}

/// The printed text without the time of day, which no test knows.
fn audited(space: &Space, args: &[&str]) -> String {
    let outcome = space.run("mirror42", &[&["audit"], args].concat());
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{args:?}");
    let line = |line: &str| match line.strip_prefix("Run ").and_then(|rest| rest.split_once('T')) {
        Some((run_and_day, _)) => format!("Run {run_and_day}"),
        None => line.to_string(),
    };
    outcome.stdout.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_was_deleted_and_changed_is_told_the_last_run_first() {
    let (space, days) = three_nights();
    let told = audited(&space, &[]);
    let expected = format!(
        r#"Run night-3, {}
  deleted campus_projects {{"campus_id": 1, "project_id": 2}}, with its row of projects
    {{"campus_id": 1, "project_id": 2, "ingested_at": "…"}}
  deleted campus_projects {{"campus_id": 10, "project_id": 2}}, with its row of projects
    {{"campus_id": 10, "project_id": 2, "ingested_at": "…"}}
  deleted projects {{"id": 2}}
    "#,
        days[1]
    );
    let plain = without_times(&told);
    assert!(plain.starts_with(&expected), "{plain}");
    assert!(plain.contains("  changed projects {\"id\": 1}\n    difficulty: 100 -> 200"), "{plain}");
    assert!(plain.contains("    campus_id: 99 -> 9007199254740993"), "{plain}");
    assert!(plain.contains("  deleted project_sessions {\"id\": 8}, with its row of projects\n"), "{plain}");
}

/// With `…` for the value of `ingested_at`.
fn without_times(text: &str) -> String {
    let mut parts = text.split("\"ingested_at\": \"");
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        out.push_str("\"ingested_at\": \"…");
        out.push_str(&part[part.find('"').unwrap_or(0)..]);
    }
    out
}

#[test]
fn what_is_asked_for_is_found_and_nothing_else() {
    let (space, _) = three_nights();
    let heads = |args: &[&str]| -> Vec<String> {
        let told = audited(&space, args);
        told.lines().filter(|line| !line.starts_with("    ")).map(str::to_string).collect()
    };
    let of = |args: &[&str]| heads(args).into_iter().filter(|line| line.starts_with("  ")).collect::<Vec<_>>();
    assert_eq!(
        of(&["projects"]),
        ["  deleted projects {\"id\": 2}", "  changed projects {\"id\": 1}", "  deleted projects {\"id\": 3}"]
    );
    assert_eq!(of(&["projects", "--key", "3"]), ["  deleted projects {\"id\": 3}"]);
    assert_eq!(
        of(&["campus_projects", "--key", "campus_id=10", "--key", "project_id=2"]),
        ["  deleted campus_projects {\"campus_id\": 10, \"project_id\": 2}, with its row of projects"]
    );
    assert_eq!(of(&["campus_projects", "--key", "10"]).len(), 2);
    assert_eq!(of(&["--run", "night-3"]).len(), 3);
    assert_eq!(of(&["--since", "1h"]), of(&[]));
    for nothing in [&["--key", "campus_id=2"][..], &["--run", "night-1"], &["--since", "2999-01-01"]] {
        assert_eq!(heads(nothing), ["Nothing of that kind was deleted or changed."], "{nothing:?}");
    }
    let limited = heads(&["projects", "--limit", "1"]);
    assert_eq!(limited[1..], ["  deleted projects {\"id\": 2}", "", "There are more: `--limit 0` shows all."]);
    assert_eq!(of(&["projects", "--limit", "3"]), of(&["projects", "--limit", "0"]));
}

#[test]
fn programs_get_whole_rows_with_every_digit() {
    let (space, _) = three_nights();
    let outcome = space.run("mirror42", &["audit", "--json", "project_sessions"]);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!((outcome.code, lines.len()), (Some(0), 2), "{}", outcome.stderr);
    assert!(lines[1].contains(r#""table":"project_sessions","key":{"id": 8},"deleted":{"#), "{}", lines[1]);
    assert!(lines[1].ends_with(r#","cascaded_from":"projects"}"#), "{}", lines[1]);
    assert!(lines[0].ends_with(r#""old":{"campus_id": 99},"new":{"campus_id": 9007199254740993}}"#), "{}", lines[0]);
}

#[test]
fn a_mirror_that_was_never_loaded_and_a_table_that_never_was_are_told() {
    let space = project();
    let outcome = space.run("mirror42", &["audit"]);
    assert_eq!(
        (outcome.code, outcome.stderr.as_str()),
        (
            Some(5),
            "mirror42: error: the mirror was never loaded\n  hint: Run `mirror42 run`, or `mirror42 demo` to see what it does.\n"
        )
    );
    load(&space);
    let outcome = space.run("mirror42", &["audit", "project"]);
    assert_eq!(
        (outcome.code, outcome.stderr.as_str()),
        (Some(2), "mirror42: error: no load has ever touched a table `project`\n  hint: Did you mean `projects`?\n")
    );
}
