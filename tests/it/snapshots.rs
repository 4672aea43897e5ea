//! Nights that are kept: any of them can be loaded again, and nothing but what is needed is kept.

use std::fs;
use std::path::PathBuf;

use crate::simulator::Simulator;
use crate::space::Space;

const TABLES: [&str; 8] = [
    "cursus",
    "campuses",
    "achievements",
    "campus_achievements",
    "projects",
    "campus_projects",
    "project_sessions",
    "coalitions",
];

fn tables(space: &Space) -> Vec<Vec<String>> {
    TABLES.map(|table| space.query(&format!("select to_jsonb(t) - 'ingested_at' from {table} t order by 1"))).to_vec()
}

fn objects(space: &Space) -> Vec<PathBuf> {
    let mut objects: Vec<PathBuf> = Vec::new();
    for folder in fs::read_dir(space.path().join("data/snapshots/objects")).into_iter().flatten() {
        objects.extend(fs::read_dir(folder.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()));
    }
    objects.sort();
    objects
}

fn runs(space: &Space) -> Vec<String> {
    space.query("select id from mirror42.runs order by started_at")
}

#[test]
fn any_night_that_is_kept_can_be_loaded_again() {
    let first = Simulator::start("--day 0");
    let space = first.project().file("schema.sql", include_str!("../../schema.sql")).and_database();
    let mut nights = Vec::new();
    let mut kept = Vec::new();
    for day in 0..3 {
        let simulator = Simulator::start(&format!("--day {day}"));
        let outcome = space.run("mirror42", &["run", "-q", "--force", "--api-url", &simulator.url]);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        nights.push(tables(&space));
        kept.push(objects(&space).len());
    }
    assert!(nights[0] != nights[1] && nights[1] != nights[2]);
    // The cursus is the same every night, and kept once.
    assert_eq!(kept[0], 8);
    assert!(kept[2] < 24, "{kept:?}");
    let ids = runs(&space);
    let listed = space.run("mirror42", &["replay", "--list"]);
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    assert!(ids.iter().all(|id| listed.stdout.contains(id.as_str())), "{}", listed.stdout);
    let exports = fs::read(space.path().join("exports/05_projects/all.json")).unwrap();

    let outcome = space.run("mirror42", &["replay", "-q", "--as-of", &ids[0], "--dry-run"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stdout.ends_with("Nothing was changed: this was a dry run.\n"), "{}", outcome.stdout);
    assert!(tables(&space) == nights[2]);

    // Without credentials, and without an API.
    let ages = "select distinct fetched_at = (select fetched_at from mirror42.runs order by started_at limit 1) from mirror42.runs
                 where id = (select id from mirror42.runs order by started_at desc limit 1)";
    for (night, id) in [(0, ids[0].as_str()), (1, ids[1].as_str())] {
        let mut command = space.command("mirror42", &["replay", "-q", "--as-of", id]);
        let output = command.env_remove("FT_CLIENT_ID").env_remove("FT_CLIENT_SECRET").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(tables(&space) == nights[night], "night {night}");
        assert_eq!(space.query(ages), [if night == 0 { "t" } else { "f" }]);
    }
    // The exports of the present are as they were, and a run brings the database back to them.
    assert!(fs::read(space.path().join("exports/05_projects/all.json")).unwrap() == exports);
    let simulator = Simulator::start("--day 2");
    let outcome = space.run("mirror42", &["run", "-q", "--api-url", &simulator.url]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(tables(&space) == nights[2]);
    let left: Vec<PathBuf> = fs::read_dir(space.path().join(".mirror42")).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(!left.iter().any(|path| path.to_string_lossy().contains("replay-")), "{left:?}");
}

/// A project of one stage, loaded by the driver, that needs no API.
fn small(keep: u32) -> Space {
    let pipeline = format!(
        "[pipeline]\nname = \"small\"\nkeep_exports = {keep}\nmax_delete = \"60%\"\n\n[api]\nbase_url = \"http://127.0.0.1:1\"\n\n\
         [[stage]]\nname = \"things\"\nfetch = \"/things\"\nkey = [\"id\"]\ntable = \"things\"\n"
    );
    Space::with_database()
        .file("pipeline.toml", &pipeline)
        .file("schema.sql", "create table things (id int primary key, name text)")
}

/// Loads these names by `mirror42`, as a replay of its own exports would: through a snapshot that is made by hand.
fn keep_night(space: &Space, run: &str, loaded_at: &str, records: &[&str]) {
    space.export("things", records);
    let all = fs::read(space.path().join("exports/things/all.json")).unwrap();
    let sha256 = mirror42::files::sha256_of(&all);
    let folder = space.path().join("data/snapshots");
    let object = folder.join("objects").join(&sha256[..2]).join(format!("{sha256}.json.gz"));
    fs::create_dir_all(object.parent().unwrap()).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &all).unwrap();
    fs::write(object, encoder.finish().unwrap()).unwrap();
    let manifest = serde_json::json!({
        "run_id": run, "pipeline": "small", "loaded_at": loaded_at,
        "exports": { "things": { "table": "things", "sha256": sha256, "records": records.len(), "size_bytes": all.len(), "fetched_at": loaded_at } }
    });
    space.write(&format!("data/snapshots/{run}.json"), &manifest.to_string());
}

#[test]
fn a_night_is_named_by_its_day_its_time_or_its_run() {
    let space = small(30);
    keep_night(&space, "a", "2026-11-20T01:00:00Z", &[r#"{"id":1,"name":"a"}"#]);
    keep_night(&space, "b", "2026-11-21T01:00:00Z", &[r#"{"id":1,"name":"b"}"#]);
    keep_night(&space, "c", "2026-11-21T23:00:00Z", &[r#"{"id":1,"name":"c"}"#]);
    for (when, name) in
        [("2026-11-20", "a"), ("2026-11-21", "c"), ("2026-11-21T12:00:00Z", "b"), ("b", "b"), ("2027-01-01", "c")]
    {
        let outcome = space.run("mirror42", &["replay", "-q", "--as-of", when]);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        assert_eq!(space.query("select name from things"), [name], "{when}");
    }
    let outcome = space.run("mirror42", &["replay", "--as-of", "2026-11-19"]);
    assert_eq!(
        (outcome.code, outcome.stderr.as_str()),
        (
            Some(1),
            "mirror42: error: no snapshot was kept up to 2026-11-19\n  \
             detail: There are 3, the oldest of 2026-11-20T01:00:00Z, the newest of 2026-11-21T23:00:00Z.\n"
        )
    );
    let outcome = space.run("mirror42", &["replay", "--as-of", "last week"]);
    assert_eq!(
        (outcome.code, outcome.stderr.as_str()),
        (
            Some(2),
            "mirror42: error: `--as-of` is \"last week\", expected a day, a time or a run, such as `2026-11-23`\n  \
             hint: `mirror42 replay --list` tells which there are.\n"
        )
    );
}

#[test]
fn a_damaged_night_is_refused_and_the_guard_holds() {
    let space = small(30);
    keep_night(&space, "a", "2026-11-20T01:00:00Z", &[r#"{"id":1,"name":"a"}"#]);
    let four = [r#"{"id":1,"name":"b"}"#, r#"{"id":2,"name":"b"}"#, r#"{"id":3,"name":"b"}"#, r#"{"id":4,"name":"b"}"#];
    keep_night(&space, "b", "2026-11-21T01:00:00Z", &four);
    assert_eq!(space.run("mirror42", &["replay", "-q", "--as-of", "b"]).code, Some(0));
    let outcome = space.run("mirror42", &["replay", "-q", "--as-of", "a"]);
    assert_eq!(outcome.code, Some(4), "{}", outcome.stderr);
    assert_eq!(space.query("select count(*) from things"), ["4"]);
    let outcome = space.run("mirror42", &["replay", "-q", "--as-of", "a", "--allow-delete", "things=3"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert_eq!(space.query("select name from things"), ["a"]);

    let object = objects(&space).into_iter().find(|path| {
        let manifest = fs::read_to_string(space.path().join("data/snapshots/b.json")).unwrap();
        manifest.contains(path.file_name().unwrap().to_str().unwrap().split('.').next().unwrap())
    });
    let object = object.unwrap();
    let shown = object.strip_prefix(space.path()).unwrap().display().to_string();
    fs::copy(objects(&space).into_iter().find(|path| *path != object).unwrap(), &object).unwrap();
    let outcome = space.run("mirror42", &["replay", "-q", "--as-of", "b"]);
    assert_eq!(
        (outcome.code, outcome.stderr.as_str()),
        (
            Some(1),
            format!(
                "mirror42: error: an export that was kept is damaged\n  at: {shown}\n  \
                 detail: Its content has another hash than its name.\n  \
                 detail: Nothing was loaded; the database is as it was.\n"
            )
            .as_str()
        )
    );
    assert_eq!(space.query("select name from things"), ["a"]);
}

#[test]
fn nights_beyond_the_number_that_is_kept_go_with_what_only_they_had() {
    let simulator = Simulator::start("");
    let space = simulator.project().file("schema.sql", include_str!("../../schema.sql")).and_database();
    let pipeline = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    space.write("pipeline.toml", &pipeline.replacen("[pipeline]\n", "[pipeline]\nkeep_exports = 2\n", 1));
    // What a writer that was killed has left.
    space.write("data/snapshots/objects/ab/.tmp-left", "x");
    for day in 0..3 {
        let simulator = Simulator::start(&format!("--day {day}"));
        let outcome = space.run("mirror42", &["run", "-q", "--force", "--api-url", &simulator.url]);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    }
    let ids = runs(&space);
    let manifests: Vec<bool> =
        ids.iter().map(|id| space.path().join(format!("data/snapshots/{id}.json")).exists()).collect();
    assert_eq!(manifests, [false, true, true]);
    let text: String = ids[1..]
        .iter()
        .map(|id| fs::read_to_string(space.path().join(format!("data/snapshots/{id}.json"))).unwrap())
        .collect();
    for object in objects(&space) {
        let sha256 = object.file_name().unwrap().to_str().unwrap().split('.').next().unwrap().to_string();
        assert!(!sha256.is_empty() && text.contains(&sha256), "{}", object.display());
    }
}
