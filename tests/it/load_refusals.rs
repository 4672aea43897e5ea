//! Loading: what is refused, with the words that say why and the database as it was.

use crate::load::{PIPELINE, load, project, refused};
use crate::load_ways::space_of;

#[test]
fn the_guard_stops_a_load_that_would_delete_too_much() {
    let space = project();
    load(&space);
    space.export("05_projects", &[r#"{"id":1,"name":"changed","difficulty":100}"#]);
    assert_eq!(
        refused(&space, &[], 4),
        "mirror42-load: error: the load would delete 2 of the 3 rows of `projects`\n  \
         at: exports/05_projects/all.json\n  \
         detail: Why they would go: 2 gone from the API.\n  \
         detail: The first of them: id 2; id 3.\n  \
         detail: Allowed are 1 (50%).\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: If they are gone for good, allow it once with `--allow-delete projects=2`; else fetch again.\n"
    );
}

#[test]
fn the_guard_tells_rows_that_are_gone_from_orphans() {
    let space = project();
    load(&space);
    // Of project 1, which stays, 7 goes to one that never was.
    space.export(
        "07_project_sessions",
        &[r#"{"id":7,"project_id":77,"campus_id":99,"objectives":["a\\b"],"begin_at":null}"#],
    );
    assert_eq!(
        refused(&space, &[], 4),
        "mirror42-load: error: the load would delete 2 of the 2 rows of `project_sessions`\n  \
         at: exports/07_project_sessions/all.json\n  \
         detail: Why they would go: 1 gone from the API, 1 dropped as orphans.\n  \
         detail: The first of them: id 7; id 8.\n  \
         detail: A load never empties a table by itself.\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: If they are gone for good, allow it once with `--allow-delete project_sessions=2`; else fetch again.\n"
    );
}

#[test]
fn an_allowance_is_a_ceiling_for_one_load() {
    let space = project();
    load(&space);
    space.export("05_projects", &[r#"{"id":1,"name":"Libft","difficulty":100}"#]);
    space.export("06_campus_projects", &[r#"{"campus_id":1,"project_id":1}"#, r#"{"campus_id":9,"project_id":1}"#]);
    let stderr = refused(&space, &["--allow-delete", "projects=1"], 4);
    assert!(stderr.contains("  detail: Allowed by `--allow-delete` are 1.\n"), "{stderr}");
    assert!(stderr.contains("`--allow-delete projects=2`"), "{stderr}");
    // The allowance is of one table.
    assert_eq!(
        refused(&space, &["--allow-delete", "campuses=9"], 4).lines().next().unwrap(),
        stderr.lines().next().unwrap()
    );
    let outcome = space.run("mirror42-load", &["-q", "--allow-delete", "projects=2"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    for (text, message) in [
        ("projects", "`--allow-delete` is \"projects\", expected a table and a number, such as `projects=120`"),
        ("project=1", "`--allow-delete` names `project`, which no stage fills"),
    ] {
        let outcome = space.run("mirror42-load", &["-q", "--allow-delete", text]);
        assert_eq!(outcome.code, Some(2));
        assert_eq!(outcome.stderr.lines().next().unwrap(), format!("mirror42-load: error: {message}"));
    }
}

#[test]
fn the_guard_counts_rows_where_the_pipeline_says_so() {
    let space = project();
    load(&space);
    space.write("pipeline.toml", &PIPELINE.replace("\"50%\"", "{ share = \"90%\", rows = 1 }"));
    space.export("05_projects", &[r#"{"id":1,"name":"Libft","difficulty":100}"#]);
    let stderr = refused(&space, &[], 4);
    assert!(stderr.contains("  detail: Allowed are 1 ({ share = \"90%\", rows = 1 }).\n"), "{stderr}");
    space.write("pipeline.toml", &PIPELINE.replace("\"50%\"", "2"));
    load(&space);
}

#[test]
fn no_load_empties_a_table() {
    let space = project();
    load(&space);
    space.write("pipeline.toml", &PIPELINE.replace("50%", "100%"));
    space.export("07_project_sessions", &[]);
    let stderr = refused(&space, &[], 4);
    assert!(stderr.contains("the load would delete 2 of the 2 rows of `project_sessions`\n"), "{stderr}");
    assert!(stderr.contains("detail: A load never empties a table by itself.\n"), "{stderr}");
}

#[test]
fn a_value_that_does_not_fit_is_named_with_its_place() {
    let space = project();
    load(&space);
    space.export(
        "05_projects",
        &[r#"{"id":1,"name":"Libft","difficulty":100}"#, r#"{"id":1332,"name":"x","difficulty":"n/a"}"#],
    );
    assert_eq!(
        refused(&space, &[], 1),
        "mirror42-load: error: value \"n/a\" of `difficulty` does not fit integer\n  \
         at: exports/05_projects/all.json, record 2 (id 1332), line 3, column `projects.difficulty`\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: Convert it in the jq filter of stage `05_projects` (pipeline.toml:17).\n"
    );
    space.export("05_projects", &[r#"{"id":1,"name":"Libft","difficulty":2.0}"#]);
    assert_eq!(
        refused(&space, &[], 1),
        "mirror42-load: error: value 2.0 of `difficulty` does not fit integer\n  \
         at: exports/05_projects/all.json, record 1 (id 1), line 2, column `projects.difficulty`\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: Round it (in jq a quotient such as 4/2 is 2.0; `| round` makes it whole) in the jq filter of stage \
         `05_projects` (pipeline.toml:17).\n"
    );
    space.export("05_projects", &[r#"{"id":9223372036854775808,"name":"Libft","difficulty":2}"#]);
    assert_eq!(
        refused(&space, &[], 1),
        "mirror42-load: error: value 9223372036854775808 of `id` does not fit bigint\n  \
         at: exports/05_projects/all.json, record 1 (id 9223372036854775808), line 2, column `projects.id`\n  \
         detail: Postgres says: value \"9223372036854775808\" is out of range for type bigint.\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: Convert it in the jq filter of stage `05_projects` (pipeline.toml:17).\n"
    );
    space.export("05_projects", &[r#"{"id":1,"name":5,"difficulty":2}"#]);
    assert_eq!(
        refused(&space, &[], 1),
        "mirror42-load: error: value 5 of `name` does not fit text\n  \
         at: exports/05_projects/all.json, record 1 (id 1), line 2, column `projects.name`\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: Convert it with `tostring` in the jq filter of stage `05_projects` (pipeline.toml:17).\n"
    );
    space.export("05_projects", &[r#"{"id":1,"name":"a\u0000b","difficulty":2}"#]);
    assert_eq!(
        refused(&space, &[], 1),
        "mirror42-load: error: value \"a\\u0000b\" of `name` holds \\u0000, a character that Postgres cannot store\n  \
         at: exports/05_projects/all.json, record 1 (id 1), line 2, column `projects.name`\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: Remove the character, for example with `gsub`, in the jq filter of stage `05_projects` (pipeline.toml:17).\n"
    );
}

#[test]
fn an_element_of_an_array_that_does_not_fit_is_named_with_its_place() {
    let space = space_of(
        &[("t", "\"id\"")],
        "create domain part as jsonb;
         create table t (id int primary key, marks int[], tags text[], flags boolean[], parts part[], days date[])",
    );
    let export = |marks: &str, tags: &str, flags: &str, parts: &str, days: &str| {
        space.export(
            "t",
            &[
                r#"{"id":1,"marks":[],"tags":[],"flags":[],"parts":[],"days":[]}"#,
                &format!("{{\"id\":42,\"marks\":{marks},\"tags\":{tags},\"flags\":{flags},\"parts\":{parts},\"days\":{days}}}"),
            ],
        );
    };
    export(
        "[1,null,-2]",
        r#"["a,\"b\"","",null]"#,
        "[true,false]",
        r#"[1.50,"x",{"a":[1]},null,true]"#,
        r#"["2025-02-28"]"#,
    );
    load(&space);
    assert_eq!(
        space.query("select marks, tags, flags, parts, days from t where id = 42"),
        [r#"{1,NULL,-2}|{"a,\"b\"","",NULL}|{t,f}|{1.50,"\"x\"","{\"a\": [1]}",NULL,true}|{2025-02-28}"#]
    );
    let wrong = |column: &str, message: &str, hint: &str| {
        let outcome = space.run("mirror42-load", &["-q"]);
        assert_eq!(
            outcome.stderr,
            format!(
                "mirror42-load: error: {message}\n  \
                 at: exports/t/all.json, record 2 (id 42), line 3, column `t.{column}`\n  \
                 {}detail: Nothing was loaded; the database is as it was.\n  \
                 hint: {hint} in the jq filter of stage `t` (pipeline.toml:7).\n",
                if message.contains("element") {
                    ""
                } else {
                    "detail: Postgres says: invalid input syntax for type integer: \"x\".\n  "
                }
            )
        );
    };
    export("[1]", r#"["a",5]"#, "[]", "[]", "[]");
    wrong(
        "tags",
        "value [\"a\",5] of `tags` does not fit text[]: its element 2, 5, is no text",
        "Convert it with `tostring`",
    );
    export("[1]", r#"[["a"],[{"b":1}]]"#, "[]", "[]", "[]");
    wrong(
        "tags",
        "value [[\"a\"],[{\"b\":1}]] of `tags` does not fit text[]: its element 2.1, {\"b\":1}, is no text",
        "Pick a value out of it, or convert it with `tojson`,",
    );
    export("[1,true]", "[]", "[]", "[]", "[]");
    wrong(
        "marks",
        "value [1,true] of `marks` does not fit integer[]: its element 2, true, is no integer",
        "Convert it",
    );
    export("[]", "[]", "[false,1]", "[]", "[]");
    wrong("flags", "value [false,1] of `flags` does not fit boolean[]: its element 2, 1, is no boolean", "Convert it");
    export("[1,\"x\"]", "[]", "[]", "[]", "[]");
    wrong("marks", "value [1,\"x\"] of `marks` does not fit integer[]", "Convert it");
}

#[test]
fn two_records_of_one_key_are_refused() {
    let space = project();
    space.export("02_campus", &[r#"{"id":1,"name":"Paris"}"#, r#"{"id":1,"name":"Lyon"}"#]);
    assert_eq!(
        refused(&space, &[], 1),
        "mirror42-load: error: two records of one key are not equal: id 1\n  \
         at: exports/02_campus/all.json, lines 2 and 3\n  \
         detail: Line 2: {\"id\":1,\"name\":\"Paris\"}\n  \
         detail: Line 3: {\"id\":1,\"name\":\"Lyon\"}\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: The key of stage `02_campus` (pipeline.toml:8) must be the primary key of `campuses`: id.\n"
    );
}

#[test]
fn a_check_that_finds_a_row_stops_the_load() {
    let space = project();
    let check = "\n[[check]]\nname = \"no easy project\"\nsql = \"select id, name from projects where difficulty < 200 -- all\"\n";
    space.write("pipeline.toml", &format!("{PIPELINE}{check}"));
    assert_eq!(
        refused(&space, &[], 5),
        "mirror42-load: error: check `no easy project` failed\n  \
         at: pipeline.toml:33\n  \
         detail: Rows that it must not find: id 1, name Libft.\n  \
         detail: Nothing was loaded; the database is as it was.\n"
    );
}

#[test]
fn an_edited_export_is_refused_unless_it_is_trusted() {
    let space = project();
    space.write("exports/02_campus/all.json", "[\n{\"id\":1,\"name\":\"by hand\"}\n]\n");
    assert_eq!(
        refused(&space, &[], 1),
        "mirror42-load: error: `exports/02_campus/all.json` is not what stage `02_campus` wrote\n  \
         detail: Its hash is not the one in `stage.json` beside it: it was edited, or replaced.\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: Run `mirror42 run 02_campus`, or load the file as it is with `--trust-exports`.\n"
    );
    assert_eq!(space.run("mirror42-load", &["-q", "--trust-exports"]).code, Some(0));
    assert_eq!(space.query("select name from campuses"), ["by hand"]);
    std::fs::remove_file(space.path().join("exports/05_projects/stage.json")).unwrap();
    assert_eq!(
        refused(&space, &[], 1),
        "mirror42-load: error: stage `05_projects` has an export without a receipt\n  \
         at: exports/05_projects/all.json\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: Run `mirror42 run 05_projects`, or load the file as it is with `--trust-exports`.\n"
    );
    std::fs::remove_file(space.path().join("exports/05_projects/all.json")).unwrap();
    assert!(refused(&space, &[], 1).contains("error: stage `05_projects` has no export\n"));
}

#[test]
fn tables_that_are_tied_are_loaded_together() {
    let space = project();
    load(&space);
    assert_eq!(
        refused(&space, &["07_project_sessions"], 2),
        "mirror42-load: error: cannot load `project_sessions` without `projects`: foreign key \
         `project_sessions_project_id_fkey` ties them\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: Name stage `05_projects` too, or no stage at all: then all tables are loaded together.\n"
    );
}

#[test]
fn a_database_with_some_of_the_tables_is_refused() {
    let space = project();
    space.client().batch_execute("create table projects (id bigint primary key)").unwrap();
    let outcome = space.run("mirror42-load", &["-q"]);
    assert_eq!(
        (outcome.code, outcome.stderr.as_str()),
        (
            Some(1),
            "mirror42-load: error: the database lacks tables that the stages fill: `campuses`, `campus_projects`, \
             `project_sessions`\n  \
             detail: Nothing was loaded; the database is as it was.\n  \
             hint: Create them as in `schema.sql`, or drop the others: a database without any gets them all.\n"
        )
    );
}

#[test]
fn a_load_is_in_the_ledger_once() {
    let space = project();
    assert_eq!(space.run("mirror42-load", &["-q", "--run-id", "x"]).code, Some(0));
    assert!(
        refused(&space, &["--run-id", "x"], 2)
            .starts_with("mirror42-load: error: a load called `x` is in the ledger already\n")
    );
}

#[test]
fn a_database_that_cannot_be_reached_is_named_without_its_password() {
    let space = project();
    let outcome = space.run("mirror42-load", &["-q", "--database-url", "postgresql://me:hush@127.0.0.1:1/mirror"]);
    assert_eq!(outcome.code, Some(1));
    assert_eq!(
        outcome.stderr,
        "mirror42-load: error: could not connect to database `mirror` on `127.0.0.1:1` as `me`: connection refused \
         (os error 111)\n  hint: Check that the server runs and that `DATABASE_URL` names it.\n"
    );
}

#[test]
fn an_export_of_pages_that_are_not_whole_is_not_loaded() {
    let space = project();
    load(&space);
    let path = space.paths().receipt("05_projects");
    let mut receipt: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let page = serde_json::json!({ "records": 3, "size_bytes": 9, "sha256": "", "asked_at": "", "took_ms": 1 });
    receipt["fetch"]["series"] =
        serde_json::json!([{ "proof": "total", "total": 5, "page_size": 100, "pages": [page] }]);
    std::fs::write(&path, receipt.to_string()).unwrap();
    assert_eq!(
        refused(&space, &[], 1),
        "mirror42-load: error: stage `05_projects` was made from pages of `05_projects` that are not whole: of its series, its \
         total is 5, and 3 records came\n  \
         at: exports/05_projects/all.json\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: Run `mirror42-fetch 05_projects`, or `mirror42 run`.\n"
    );
    assert_eq!(space.run("mirror42-load", &["-q", "--trust-exports"]).code, Some(0));
}
