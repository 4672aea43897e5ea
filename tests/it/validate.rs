//! Validating: every kind of damage is found, by name, and nothing is changed.

use crate::space::Space;

const PIPELINE: &str = r#"[pipeline]
name = "small"

[api]
base_url = "http://127.0.0.1:1"

[[stage]]
name = "02_campus"
fetch = "/v2/campus"
key = ["id"]
table = "campuses"

[[check]]
name = "no campus is called Atlantis"
sql = "select id, name from campuses where name = 'Atlantis'"
"#;

fn project() -> Space {
    let space =
        Space::with_database().file("pipeline.toml", PIPELINE).file("schema.sql", include_str!("../../schema.sql"));
    space.export("02_campus", &[r#"{"id":1,"name":"Paris"}"#, r#"{"id":9,"name":"Lyon"}"#]);
    space
}

fn validate(space: &Space) -> (Option<i32>, String, String) {
    let outcome = space.run("mirror42-validate", &[]);
    let last = outcome.stderr.lines().last().unwrap_or_default().to_string();
    (outcome.code, outcome.stdout, last)
}

#[test]
fn a_sound_mirror_passes() {
    let space = project();
    assert_eq!(space.run("mirror42-load", &["-q"]).code, Some(0));
    let (code, stdout, _) = validate(&space);
    assert_eq!(
        (code, stdout.as_str()),
        (
            Some(0),
            "ok      all 1 tables exist\n\
             ok      campuses has a primary key without nulls\n\
             ok      campuses has the 2 rows of its export\n\
             ok      the data is younger than 24 h\n\
             ok      no campus is called Atlantis\n"
        )
    );
}

#[test]
fn every_damage_is_found_and_counted() {
    let space = project();
    assert_eq!(space.run("mirror42-load", &["-q"]).code, Some(0));
    space
        .client()
        .batch_execute(
            "insert into campuses (id, name) values (12, 'Atlantis');
             update mirror42.runs set fetched_at = '2020-01-01T00:00:00Z'",
        )
        .unwrap();
    let (code, stdout, last) = validate(&space);
    assert_eq!(code, Some(5));
    assert!(stdout.contains("FAILED  campuses has the 2 rows of its export: it has 3\n"), "{stdout}");
    assert!(
        stdout.contains("FAILED  the data is younger than 24 h: campuses was fetched at 2020-01-01T00:00:00Z, "),
        "{stdout}"
    );
    assert!(stdout.contains("FAILED  no campus is called Atlantis: id 12, name Atlantis\n"), "{stdout}");
    assert_eq!(last, "  detail: no campus is called Atlantis: id 12, name Atlantis", "the error names them all");
}

#[test]
fn an_orphan_behind_a_constraint_that_was_switched_off_is_found() {
    let space = Space::with_database().file("schema.sql", include_str!("../../schema.sql"));
    let links = "[[stage]]\nname = \"06_links\"\nfrom = \"02_campus\"\nkey = [\"campus_id\", \"project_id\"]\ntable = \"campus_projects\"\n";
    space.write("pipeline.toml", &format!("{PIPELINE}\n{links}"));
    space
        .client()
        .batch_execute(&format!(
            "{};
             set session_replication_role = replica;
             insert into campus_projects (campus_id, project_id) values (1, 2);
             insert into campuses (id, name) values (1, 'Paris')",
            include_str!("../../schema.sql")
        ))
        .unwrap();
    let (code, stdout, _) = validate(&space);
    assert_eq!(code, Some(5));
    assert!(
        stdout.contains(
            "FAILED  no orphan in public.campus_projects by `campus_projects_project_id_fkey`: project_id 2\n"
        ),
        "{stdout}"
    );
    assert!(
        stdout.contains("ok      no orphan in public.campus_projects by `campus_projects_campus_id_fkey`\n"),
        "{stdout}"
    );
}

#[test]
fn an_empty_database_is_told_so() {
    let (code, stdout, last) = validate(&project());
    assert_eq!((code, stdout.as_str()), (Some(5), "FAILED  all 1 tables exist: missing are campuses\n"));
    assert_eq!(last, "  detail: all 1 tables exist: missing are campuses");
}
