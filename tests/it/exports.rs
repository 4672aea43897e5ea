//! Synthetic exports: what the loader makes of two nights of them, and what is refused.

use std::fs;

use crate::load::counts;
use crate::space::Space;

/// Writes the exports of a night into the folder of the space, and loads them.
fn night(space: &Space, args: &[&str]) -> String {
    let made = space.run("mirror42-simulate", &[&["exports", ".", "--rows", "2000"], args].concat());
    assert_eq!((made.code, made.stderr.as_str()), (Some(0), ""));
    let loaded = space.run("mirror42-load", &["-q"]);
    assert_eq!((loaded.code, loaded.stdout.as_str(), loaded.stderr.as_str()), (Some(0), "", ""));
    made.stdout
}

/// What stands before the size and the time.
fn told(line: &str) -> &str {
    line.split(", ").next().unwrap()
}

#[test]
fn exports_of_two_nights_are_loaded_and_differ_by_what_was_asked() {
    let space = Space::with_database();
    assert_eq!(told(&night(&space, &[])), "night 0: 2000 sessions");
    assert_eq!(counts(&space), ["campuses|54|54|0|0|0|0", "projects|519|519|0|0|0|0", "sessions|2000|2000|0|0|0|0"]);
    let files = ["pipeline.toml", "schema.sql"].map(|name| fs::metadata(space.path().join(name)).unwrap());
    assert_eq!(told(&night(&space, &["--night", "1"])), "night 1: 2000 sessions (20 changed; 10 new; 10 gone)");
    assert_eq!(counts(&space), ["campuses|54|0|0|54|0|0", "projects|519|0|0|519|0|0", "sessions|2000|10|20|1970|10|0"]);
    assert_eq!(space.query("select count(*) from mirror42.deletions where table_name = 'sessions'"), ["10"]);
    assert_eq!(
        space.query(
            "select count(*), count(distinct project_id) > 400, count(description) between 1000 and 1600, bool_or(description ~ E'[\\\\\"\\n]'),
                    bool_or(scale ->> 'is_primary' = 'true'), max(jsonb_array_length(objectives)) >= 2 from sessions"
        ),
        ["2000|t|t|t|t|t"]
    );
    let again = ["pipeline.toml", "schema.sql"].map(|name| fs::metadata(space.path().join(name)).unwrap());
    for (before, after) in files.iter().zip(&again) {
        assert_eq!(after.modified().unwrap(), before.modified().unwrap());
    }
    // Several nights at once are what they are one after the other.
    night(&space, &["--night", "3"]);
    assert_eq!(counts(&space)[2], "sessions|2000|20|40|1940|20|0");
}

#[test]
fn the_same_night_is_the_same_bytes() {
    let (one, other) = (Space::new(), Space::new());
    for space in [&one, &other] {
        let made = space.run("mirror42-simulate", &["exports", "f", "--rows", "500", "--night", "2", "--seed", "9"]);
        assert_eq!(made.code, Some(0), "{}", made.stderr);
    }
    let all = |space: &Space| fs::read(space.path().join("f/exports/03_sessions/all.json")).unwrap();
    assert_eq!(all(&one), all(&other));
}

#[test]
fn exports_may_have_a_schema_and_foreign_keys() {
    let space = Space::with_database();
    let args = ["--schema", "user", "--foreign-keys", "--changed", "0", "--deleted", "10%"];
    night(&space, &args);
    night(&space, &[&args[..], &["--night", "1"]].concat());
    assert_eq!(counts(&space)[2], "user.sessions|2000|200|0|1800|200|0");
    assert_eq!(
        space.query("select pg_get_constraintdef(oid) from pg_constraint where contype = 'f' and conrelid::regclass::text like '%sessions'"),
        ["FOREIGN KEY (project_id) REFERENCES \"user\".projects(id) ON DELETE CASCADE"]
    );
}

#[test]
fn exports_that_cannot_be_are_refused() {
    let refused = |space: &Space, args: &[&str]| {
        let outcome = space.run("mirror42-simulate", &[&["exports"], args].concat());
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""));
        outcome.stderr
    };
    let space = Space::new();
    assert_eq!(
        refused(&space, &["f", "--rows", "1000", "--changed", "60%", "--deleted", "0.5"]),
        "mirror42-simulate: error: cannot change 600 rows and delete 500 others of 1000\n  \
         hint: Make `--changed` and `--deleted` together at most 100%.\n"
    );
    for (flag, value, why) in [
        ("--rows", "0", "0 is not in 1..=1000000000"),
        ("--changed", "two", "expected a share from 0 to 1, such as 1% or 0.01"),
        ("--deleted", "150%", "expected a share from 0 to 1, such as 1% or 0.01"),
        ("--schema", "A", "expected lower-case letters, digits and underscores, of which the first is no digit"),
        ("--schema", "mirror42", "`mirror42` is the schema of the loader's ledger"),
    ] {
        let stderr = refused(&space, &["f", flag, value]);
        assert!(stderr.starts_with(&format!("error: invalid value '{value}' for '{flag} ")), "{stderr}");
        assert!(stderr.lines().next().unwrap().ends_with(why), "{stderr}");
    }
    assert!(!space.path().join("f").exists());
    let mine = Space::new().file("pipeline.toml", "[pipeline]\nname = \"mine\"\n");
    assert_eq!(
        refused(&mine, &["."]),
        "mirror42-simulate: error: this folder holds a pipeline that is not synthetic\n  at: ./pipeline.toml\n  \
         detail: Synthetic exports would take the place of its own.\n  hint: Name another folder.\n"
    );
}
