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

#[test]
fn a_deep_validation_finds_what_hands_have_changed_and_changes_nothing() {
    let space = crate::load::project();
    crate::load::load(&space);
    let deep = |space: &Space| space.run("mirror42-validate", &["--deep", "-q"]);
    let sound = deep(&space);
    assert_eq!(sound.code, Some(0), "{}", sound.stderr);
    assert!(
        sound.stdout.contains("ok      campus_projects equals its export, row by row (4 rows)\n"),
        "{}",
        sound.stdout
    );
    space
        .client()
        .batch_execute(
            "update projects set name = 'by hand', difficulty = 7 where id = 1;
             update projects set name = 'too' where id = 2;
             delete from campus_projects where campus_id = 9;
             insert into campus_projects values (9, 3), (10, 1);
             update project_sessions set objectives = '[\"a\\\\b\", 1]' where id = 7",
        )
        .unwrap();
    let before = crate::load::state(&space);
    let outcome = deep(&space);
    assert_eq!(outcome.code, Some(5));
    let found: Vec<&str> = outcome.stdout.lines().filter(|line| line.contains("equals its export")).collect();
    assert_eq!(
        found,
        [
            "ok      campuses equals its export, row by row (3 rows)",
            "FAILED  projects equals its export, row by row (3 rows): rows that differ: 2 (id 1; id 2), by name in 2, difficulty in 1",
            "FAILED  campus_projects equals its export, row by row (5 rows): \
             records without a row: 1 (campus_id 9, project_id 1); rows without a record: 2 (campus_id 9, project_id 3; campus_id 10, project_id 1)",
            "FAILED  project_sessions equals its export, row by row (2 rows): rows that differ: 1 (id 7), by objectives in 1",
        ]
    );
    assert_eq!(crate::load::state(&space), before);
    crate::load::load(&space);
    assert_eq!(deep(&space).code, Some(0));
}

#[test]
fn a_deep_validation_looks_at_types_that_only_the_server_knows() {
    let pipeline = PIPELINE.replace("key = [\"id\"]\ntable = \"campuses\"", "key = [\"id\"]\ntable = \"odd\"");
    let pipeline = pipeline.split("[[check]]").next().unwrap();
    let space = Space::with_database()
        .file("pipeline.toml", pipeline)
        .file("schema.sql", "create table odd (id bigint primary key, net inet, marks int[])");
    space.export(
        "02_campus",
        &[
            r#"{"id":1,"net":"10.0.0.1","marks":[1,null,2]}"#,
            r#"{"id":2,"net":null,"marks":[]}"#,
            r#"{"id":3,"net":"::1","marks":null}"#,
        ],
    );
    crate::load::load(&space);
    assert_eq!(space.query("select * from odd order by id"), ["1|10.0.0.1|{1,NULL,2}", "2|∅|{}", "3|::1|∅"]);
    let outcome = space.run("mirror42-validate", &["--deep", "-q"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stdout);
    space
        .client()
        .batch_execute(
            "update odd set net = '10.0.0.2' where id = 1; delete from odd where id = 2; insert into odd values (4)",
        )
        .unwrap();
    let outcome = space.run("mirror42-validate", &["--deep", "-q"]);
    assert_eq!(outcome.code, Some(5));
    let last = outcome.stdout.lines().last().unwrap();
    assert_eq!(
        last,
        "FAILED  odd equals its export, row by row (3 rows): records without a row: 1 (id 2); rows without a record: 1 (id 4); \
         rows that differ: 1 (id 1), by net in 1"
    );
}

#[test]
fn a_deep_validation_goes_past_a_table_without_a_key() {
    let space = crate::load::project();
    crate::load::load(&space);
    space
        .client()
        .batch_execute(
            "alter table campus_projects drop constraint campus_projects_pkey; delete from projects where id = 3",
        )
        .unwrap();
    let outcome = space.run("mirror42-validate", &["--deep", "-q"]);
    assert_eq!(outcome.code, Some(5), "{}", outcome.stderr);
    let found: Vec<&str> = outcome.stdout.lines().filter(|line| line.contains(" equals its export")).collect();
    assert_eq!(
        found,
        [
            "FAILED  campus_projects equals its export, row by row: it has no primary key, by which a row is found beside its record",
            "ok      campuses equals its export, row by row (3 rows)",
            "FAILED  projects equals its export, row by row (2 rows): records without a row: 1 (id 3)",
            "FAILED  project_sessions equals its export, row by row (1 rows): records without a row: 1 (id 8)",
        ]
    );
}
