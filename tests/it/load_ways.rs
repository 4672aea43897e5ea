//! Loading: by the diff, directly into an empty table, or the plain way, the tables end the same.

use crate::load::{counts, load, project, refused, state};
use crate::space::Space;

/// A space with the stages `NAME`, each into the table of its name by the key `KEY`, and this schema.
pub fn space_of(stages: &[(&str, &str)], schema: &str) -> Space {
    let stages: Vec<String> = stages
        .iter()
        .map(|(name, key)| {
            format!("[[stage]]\nname = \"{name}\"\nfetch = \"/{name}\"\nkey = [{key}]\ntable = \"{name}\"\nmax_delete = \"90%\"\n")
        })
        .collect();
    let pipeline =
        format!("[pipeline]\nname = \"ways\"\n\n[api]\nbase_url = \"http://127.0.0.1:1\"\n\n{}", stages.join("\n"));
    Space::with_database().file("pipeline.toml", &pipeline).file("schema.sql", schema)
}

/// Loads, and says by which stages the plain way was gone.
fn plain_ways(space: &Space, args: &[&str]) -> Vec<String> {
    let outcome = space.run("mirror42-load", &[&["-v"], args].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let ways = outcome.stderr.lines().filter_map(|line| line.split_once(": goes the plain way: "));
    ways.map(|(stage, why)| format!("{}: {why}", stage.rsplit(' ').next().unwrap())).collect()
}

#[test]
fn an_export_in_another_order_than_its_keys_goes_the_plain_way_to_the_same_end() {
    let space = project();
    load(&space);
    space.write(
        "exports/02_campus/all.json",
        "[\n{\"id\":10,\"name\":\"Lyon\"},\n{\"name\":\"Paris\", \"id\":1},\n{\"id\":11,\"name\":\"Nice\"}\n]\n",
    );
    assert_eq!(plain_ways(&space, &["--trust-exports"]), ["02_campus: line 3 is not in the order of the key"]);
    assert_eq!(counts(&space)[0], "campuses|3|1|0|2|1|0");
    assert_eq!(counts(&space)[2], "campus_projects|4|0|0|3|1|1");
    assert_eq!(space.query("select id, name from campuses order by id"), ["1|Paris", "10|Lyon", "11|Nice"]);
    assert_eq!(
        space.query("select key, cascaded_from from mirror42.deletions order by id"),
        ["{\"campus_id\": 9, \"project_id\": 1}|campuses", "{\"id\": 9}|∅"]
    );
}

#[test]
fn equal_records_collapse_and_are_counted_by_either_way() {
    let space = project();
    let twice = "[\n{\"id\":1,\"name\":\"Paris\"},\n{\"id\":1,\"name\":\"Paris\"},\n{\"id\":9,\"name\":\"x\"},\n{\"id\":10,\"name\":\"y\"}\n]\n";
    space.write("exports/02_campus/all.json", twice);
    let duplicates =
        "select staged, inserted, unchanged, duplicates from mirror42.run_tables where table_name = 'campuses'
                       order by (select started_at from mirror42.runs where id = run_id) desc limit 1";
    assert_eq!(plain_ways(&space, &["--trust-exports"]), Vec::<String>::new());
    assert_eq!(space.query(duplicates), ["4|3|0|1"]);
    // In no order, so that the server finds them.
    let apart = "[\n{\"id\":1,\"name\":\"Paris\"},\n{\"id\":9,\"name\":\"x\"},\n{\"id\":10,\"name\":\"y\"},\n{\"id\":1,\"name\":\"Paris\"}\n]\n";
    space.write("exports/02_campus/all.json", apart);
    assert_eq!(plain_ways(&space, &["--trust-exports"]), ["02_campus: line 5 is not in the order of the key"]);
    assert_eq!(space.query(duplicates), ["4|0|3|1"]);
    space.write(
        "exports/02_campus/all.json",
        &apart.replace("y\"},\n{\"id\":1,\"name\":\"Paris", "y\"},\n{\"id\":1,\"name\":\"Nice"),
    );
    assert_eq!(
        refused(&space, &["--trust-exports"], 1),
        "mirror42-load: error: two records of one key are not equal: id 1\n  \
         at: exports/02_campus/all.json, lines 2 and 5\n  \
         detail: Line 2: {\"id\":1,\"name\":\"Paris\"}\n  \
         detail: Line 5: {\"id\":1,\"name\":\"Nice\"}\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: The key of stage `02_campus` (pipeline.toml:8) must be the primary key of `campuses`: id.\n"
    );
}

#[test]
fn orphans_go_with_all_that_hangs_on_them() {
    let space = space_of(
        &[("a", "\"id\""), ("b", "\"id\""), ("c", "\"id\"")],
        "create table a (id int primary key);
         create table b (id bigint primary key, a_id bigint references a on delete cascade);
         create table c (id smallint primary key, b_id int references b on delete cascade)",
    );
    space.export("a", &[r#"{"id":1}"#]);
    space.export("b", &[r#"{"id":1,"a_id":1}"#, r#"{"id":2,"a_id":7}"#, r#"{"id":3,"a_id":null}"#]);
    space.export(
        "c",
        &[r#"{"id":1,"b_id":1}"#, r#"{"id":2,"b_id":2}"#, r#"{"id":3,"b_id":3}"#, r#"{"id":4,"b_id":-1}"#],
    );
    load(&space);
    assert_eq!(counts(&space), ["a|1|1|0|0|0|0", "b|3|2|0|0|0|1", "c|4|2|0|0|0|2"]);
    assert_eq!(space.query("select id, b_id from c order by id"), ["1|1", "3|3"]);
    load(&space);
    assert_eq!(counts(&space), ["a|1|0|0|1|0|0", "b|3|0|0|2|0|1", "c|4|0|0|2|0|2"]);
}

#[test]
fn a_table_that_refers_to_itself_loses_the_branches_that_have_no_root() {
    let space = space_of(&[("t", "\"id\"")], "create table t (id int primary key, parent int references t)");
    space.export(
        "t",
        &[
            r#"{"id":1,"parent":null}"#,
            r#"{"id":2,"parent":1}"#,
            r#"{"id":3,"parent":9}"#,
            r#"{"id":4,"parent":5}"#,
            r#"{"id":5,"parent":3}"#,
            r#"{"id":6,"parent":6}"#,
        ],
    );
    load(&space);
    assert_eq!(space.query("select id from t order by id"), ["1", "2", "6"]);
    assert_eq!(counts(&space), ["t|6|3|0|0|0|3"]);
    space.export("t", &[r#"{"id":1,"parent":null}"#, r#"{"id":2,"parent":7}"#, r#"{"id":7,"parent":1}"#]);
    load(&space);
    assert_eq!(space.query("select id, parent from t order by id"), ["1|∅", "2|7", "7|1"]);
}

#[test]
fn orphans_are_found_by_tables_that_are_not_loaded() {
    let space = space_of(
        &[("t", "\"id\"")],
        "create table outside (code text primary key); insert into outside values ('x'), ('y');
         create table t (id int primary key, code text references outside)",
    );
    space.export("t", &[r#"{"id":1,"code":"x"}"#, r#"{"id":2,"code":"z"}"#, r#"{"id":3,"code":null}"#]);
    load(&space);
    assert_eq!(space.query("select id, code from t order by id"), ["1|x", "3|∅"]);
    assert_eq!(counts(&space), ["t|3|2|0|0|0|1"]);
}

#[test]
fn an_empty_table_waits_for_the_rows_that_it_refers_to() {
    let space = project();
    let links = std::fs::read(space.path().join("exports/06_campus_projects/all.json")).unwrap();
    space.export("06_campus_projects", &[]);
    load(&space);
    space.write("exports/06_campus_projects/all.json", std::str::from_utf8(&links).unwrap());
    space.write(
        "exports/02_campus/all.json",
        "[\n{\"id\":1,\"name\":\"Paris\"},\n{\"id\":9,\"name\":\"Łódź\"},\n{\"id\":10,\"name\":\"Lyon\"},\n{\"id\":11,\"name\":\"new\"}\n]\n",
    );
    let with_new = String::from_utf8(links).unwrap().replace("\n]", ",\n{\"campus_id\":11,\"project_id\":1}\n]");
    space.write("exports/06_campus_projects/all.json", &with_new);
    assert_eq!(plain_ways(&space, &["--trust-exports"]), Vec::<String>::new());
    assert_eq!(counts(&space)[2], "campus_projects|5|5|0|0|0|0");
    assert_eq!(space.query("select count(*) from campus_projects"), ["5"]);
}

#[test]
fn keys_of_text_and_of_several_columns_are_compared_in_the_order_of_their_bytes() {
    let space = space_of(&[("t", "\"b\", \"a\"")], "create table t (a text, n int, b text, primary key (a, b))");
    // As extract sorts them: by the stage's key, by code point.
    let record = |b: &str, a: &str, n: u32| format!("{{\"a\":\"{a}\",\"n\":{n},\"b\":\"{b}\"}}");
    let first =
        [record("A", "z", 1), record("B", "a", 2), record("a", "a", 3), record("a", "b", 4), record("é", "a", 5)];
    space.export("t", &first.each_ref().map(String::as_str));
    load(&space);
    let second = [record("A", "z", 1), record("a", "a", 30), record("a", "c", 6), record("é", "a", 5)];
    space.export("t", &second.each_ref().map(String::as_str));
    assert_eq!(plain_ways(&space, &[]), Vec::<String>::new());
    assert_eq!(counts(&space), ["t|4|1|1|2|2|0"]);
    assert_eq!(
        space.query("select b, a, n from t order by b collate \"C\", a collate \"C\""),
        ["A|z|1", "a|a|30", "a|c|6", "é|a|5"]
    );
}

#[test]
fn a_dry_run_tells_what_a_load_would_do_and_changes_nothing() {
    let space = project();
    load(&space);
    space.export(
        "05_projects",
        &[
            r#"{"id":1,"name":"renamed","difficulty":100}"#,
            r#"{"id":2,"name":"a\tb\\c\n\"d\" \u00e9\ud83d\ude00","difficulty":5}"#,
            r#"{"id":4,"name":"new","difficulty":0}"#,
        ],
    );
    let before = state(&space);
    let outcome = space.run("mirror42-load", &["-q", "--dry-run"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert_eq!(state(&space), before);
    assert_eq!(
        outcome.stdout,
        "campuses: 3 rows; 0 inserted, 0 updated, 0 deleted, 3 unchanged\n\
         projects: 3 rows; 1 inserted, 2 updated, 1 deleted, 0 unchanged\n  \
           1 differ in name\n  \
           1 differ in difficulty\n  \
           ~ {\"id\": 1}  {\"name\": \"Libft\"} -> {\"name\": \"renamed\"}\n  \
           ~ {\"id\": 2}  {\"difficulty\": null} -> {\"difficulty\": 5}\n  \
           - {\"id\": 3}\n\
         campus_projects: 4 rows; 0 inserted, 0 updated, 1 deleted, 3 unchanged\n  \
           - {\"campus_id\": 10, \"project_id\": 3}  with its projects\n  \
           dropped 1 records whose project_id is not in public.projects (`campus_projects_project_id_fkey`): campus_id 10, project_id 3\n\
         project_sessions: 2 rows; 0 inserted, 0 updated, 1 deleted, 1 unchanged\n  \
           - {\"id\": 8}  with its projects\n  \
           dropped 1 records whose project_id is not in public.projects (`project_sessions_project_id_fkey`): id 8, project_id 3\n\
         The guard and all checks passed. Nothing was changed: this was a dry run.\n"
    );
    load(&space);
    assert_eq!(counts(&space)[1], "projects|3|1|2|0|1|0");
}

#[test]
fn what_changed_is_in_the_ledger_with_both_its_values() {
    let space = project();
    load(&space);
    space.export(
        "07_project_sessions",
        &[
            r#"{"id":7,"project_id":1,"campus_id":99,"objectives":["a\\b",{"n":1.50}],"begin_at":"2028-07-19T00:00:00.000+08:00"}"#,
            r#"{"id":8,"project_id":3,"campus_id":1,"objectives":"one","begin_at":null}"#,
        ],
    );
    assert_eq!(space.run("mirror42-load", &["-q", "--run-id", "n2"]).code, Some(0));
    assert_eq!(
        space.query("select run_id, table_name, key, old, new from mirror42.changes order by key"),
        [
            "n2|project_sessions|{\"id\": 7}|{\"objectives\": [\"a\\\\b\"]}|{\"objectives\": [\"a\\\\b\", {\"n\": 1.50}]}",
            "n2|project_sessions|{\"id\": 8}|{\"campus_id\": null}|{\"campus_id\": 1}",
        ]
    );
}

#[test]
fn characters_that_cannot_be_stored_are_mended_where_the_pipeline_says_so() {
    let space = project();
    let pipeline = std::fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    space.write("pipeline.toml", &pipeline.replace("max_delete = \"50%\"", "max_delete = \"50%\"\nnul = \"replace\""));
    space.export("05_projects", &[r#"{"id":1,"name":"a\u0000b\ud800","difficulty":1}"#]);
    space.export("06_campus_projects", &[]);
    space.export("07_project_sessions", &[r#"{"id":7,"project_id":1,"objectives":{"k\u0000":["\udfff"]}}"#]);
    let outcome = space.run("mirror42-load", &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains(
            " 05_projects: warning: 2 characters that Postgres cannot store were left out or replaced, as `nul` says\n"
        ),
        "{}",
        outcome.stderr
    );
    assert_eq!(space.query("select name from projects"), ["a\u{fffd}b\u{fffd}"]);
    assert_eq!(space.query("select objectives from project_sessions"), ["{\"k\u{fffd}\": [\"\u{fffd}\"]}"]);
    assert_eq!(
        space.query("select table_name, mended from mirror42.run_tables where mended > 0 order by 1"),
        ["project_sessions|2", "projects|2"]
    );
    assert_eq!(space.run("mirror42-validate", &["-q", "--deep"]).code, Some(0));
}

#[test]
fn a_ledger_of_an_older_version_is_taken_on() {
    let space = project();
    load(&space);
    space
        .client()
        .batch_execute(
            "drop table mirror42.changes; alter table mirror42.run_tables drop column duplicates, drop column mended, drop column state;
             alter table mirror42.runs drop column definition, drop column valid",
        )
        .unwrap();
    load(&space);
    assert_eq!(space.query("select count(*), sum(duplicates), sum(mended) from mirror42.run_tables"), ["8|0|0"]);
    assert_eq!(space.query("select count(*) from mirror42.changes"), ["0"]);
}

#[test]
fn a_value_that_only_the_table_refuses_is_named_when_it_changed() {
    let space = space_of(
        &[("t", "\"id\"")],
        "create domain short as varchar(5) check (value <> 'never'); create table t (id int primary key, s short)",
    );
    space.export("t", &[r#"{"id":1,"s":"a"}"#, r#"{"id":2,"s":"b"}"#]);
    load(&space);
    let expect = |record: &str, what: &str| {
        space.export("t", &[r#"{"id":1,"s":"a"}"#, record]);
        let outcome = space.run("mirror42-load", &["-q"]);
        assert_eq!(outcome.code, Some(1));
        assert!(outcome.stderr.starts_with(&format!("mirror42-load: error: {what}")), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("at: exports/t/all.json, record 2 (id "), "{}", outcome.stderr);
    };
    expect(r#"{"id":2,"s":"much too long"}"#, "value \"much too long\" of `s` does not fit short\n");
    expect(r#"{"id":3,"s":"much too long"}"#, "value \"much too long\" of `s` does not fit short\n");
    expect(r#"{"id":2,"s":"never"}"#, "value \"never\" of `s` does not fit short\n");
    assert_eq!(space.query("select id, s from t order by id"), ["1|a", "2|b"]);
}

#[test]
fn a_row_that_moves_from_a_parent_that_goes_is_not_swept_away_with_it() {
    let space = project();
    load(&space);
    space.export(
        "05_projects",
        &[r#"{"id":1,"name":"Libft","difficulty":100}"#, r#"{"id":4,"name":"new","difficulty":null}"#],
    );
    space.export("06_campus_projects", &[r#"{"campus_id":1,"project_id":1}"#, r#"{"campus_id":9,"project_id":1}"#]);
    // 8 was of project 3, which goes.
    space.export(
        "07_project_sessions",
        &[
            r#"{"id":7,"project_id":4,"campus_id":99,"objectives":["a\\b"],"begin_at":"2028-07-19T00:00:00.000+08:00"}"#,
            r#"{"id":8,"project_id":1,"campus_id":null,"objectives":"one","begin_at":null}"#,
        ],
    );
    let outcome = space.run("mirror42-load", &["-q", "--allow-delete", "projects=2"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert_eq!(space.query("select id, project_id from project_sessions order by id"), ["7|4", "8|1"]);
    assert_eq!(counts(&space)[3], "project_sessions|2|0|2|0|0|0");
    assert_eq!(space.query("select count(*) from mirror42.deletions where table_name = 'project_sessions'"), ["0"]);
    assert_eq!(space.run("mirror42-validate", &["-q", "--deep"]).code, Some(0));
}

#[test]
fn a_unique_value_goes_from_row_to_row() {
    let space = space_of(
        &[("a", "\"id\""), ("b", "\"id\"")],
        "create table a (id int primary key, slug text unique);
         create table b (id int primary key, a_id int references a on delete cascade, mark text unique)",
    );
    space.export("a", &[r#"{"id":1,"slug":"x"}"#, r#"{"id":2,"slug":"y"}"#, r#"{"id":3,"slug":"z"}"#]);
    space.export("b", &[r#"{"id":1,"a_id":1,"mark":"m"}"#, r#"{"id":2,"a_id":2,"mark":"n"}"#]);
    load(&space);
    // 4 takes the slug of 1, which goes; 5 that which 3 gives up. b 1 moves away from a 1.
    space.export(
        "a",
        &[r#"{"id":2,"slug":"y"}"#, r#"{"id":3,"slug":"w"}"#, r#"{"id":4,"slug":"x"}"#, r#"{"id":5,"slug":"z"}"#],
    );
    space.export("b", &[r#"{"id":1,"a_id":4,"mark":"m"}"#, r#"{"id":2,"a_id":2,"mark":"n"}"#]);
    load(&space);
    assert_eq!(space.query("select id, slug from a order by id"), ["2|y", "3|w", "4|x", "5|z"]);
    assert_eq!(space.query("select id, a_id, mark from b order by id"), ["1|4|m", "2|2|n"]);
    assert_eq!(counts(&space)[0], "a|4|2|1|1|1|0");
    assert_eq!(space.run("mirror42-validate", &["-q", "--deep"]).code, Some(0));
    // Two records of one slug are an error whichever way.
    space.export(
        "a",
        &[r#"{"id":2,"slug":"y"}"#, r#"{"id":3,"slug":"w"}"#, r#"{"id":4,"slug":"x"}"#, r#"{"id":5,"slug":"y"}"#],
    );
    let outcome = space.run("mirror42-load", &["-q"]);
    assert_eq!(outcome.code, Some(1));
    assert_eq!(
        outcome.stderr,
        "mirror42-load: error: could not update `a`: duplicate key value violates unique constraint \"a_slug_key\"\n  \
         detail: Key (slug)=(y) already exists.\n  \
         detail: Postgres calls this 23505.\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: If two rows of the table exchange a value, the server must check it at the end: declare the constraint \
         `deferrable initially deferred` (docs/pipeline.md). If two records of the export have one, mend the filter.\n"
    );
}

#[test]
fn rows_that_no_stage_fills_are_noted_when_they_go_with_their_parent() {
    let space = project();
    load(&space);
    space
        .client()
        .batch_execute(
            "create schema other;
             create table other.notes (project_id bigint references projects on delete cascade, n int primary key);
             create table other.lines (id int primary key, note int references other.notes on delete cascade);
             insert into other.notes values (1, 1), (3, 2), (3, 3);
             insert into other.lines values (1, 1), (2, 3)",
        )
        .unwrap();
    space.export(
        "05_projects",
        &[r#"{"id":1,"name":"Libft","difficulty":100}"#, r#"{"id":2,"name":"x","difficulty":null}"#],
    );
    let outcome = space.run("mirror42-load", &["-q", "--run-id", "n2"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains(
            "05_projects: warning: 2 rows of `other.notes`, which no stage fills, go with their row of `projects` \
             (`notes_project_id_fkey`): {\"n\": 2}, {\"n\": 3}\n"
        ),
        "{}",
        outcome.stderr
    );
    assert_eq!(
        space.query(
            "select table_name, key, row, cascaded_from from mirror42.deletions where table_name like 'other.%' order by id"
        ),
        [
            "other.notes|{\"n\": 2}|{\"n\": 2, \"project_id\": 3}|projects",
            "other.notes|{\"n\": 3}|{\"n\": 3, \"project_id\": 3}|projects",
            "other.lines|{\"id\": 2}|{\"id\": 2, \"note\": 3}|other.notes",
        ]
    );
    assert_eq!(space.query("select n from other.notes"), ["1"]);
}
