//! What is current and what is not: told by `plan`, done by `run`, and taken from elsewhere by `replay`.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::simulator::{Reply, Server};
use crate::space::{Outcome, Space};

const PIPELINE: &str = r#"
[pipeline]
name = "things"
max_delete = "100%"

[api]
base_url = "http://ADDRESS"
page = { style = "none" }

[[stage]]
name = "1_owners"
fetch = "/owners"
jq = '{id, name}'
key = ["id"]
table = "owners"

[[stage]]
name = "2_things"
fetch = "/owners/{id}/things"
each = "1_owners"
jq = '{id, owner_id: $each.id, name}'
key = ["id"]
table = "things"

[[stage]]
name = "3_names"
from = "2_things"
with = { owner = "1_owners" }
jq = '{id, text: "\(.name) of \($owner | length)"}'
key = ["id"]
table = "names"
"#;
const SCHEMA: &str = "create table owners (id int primary key, name text not null);
create table things (id int primary key, owner_id int not null references owners on delete cascade, name text);
create table names (id int primary key, text text);
";

/// Three stages, their server, and a database.
fn space() -> (Server, Space) {
    let server = Server::start("127.0.0.1:0", |path| {
        Reply::json(match path {
            "/owners" => r#"[{"id":1,"name":"Ada"},{"id":2,"name":"Bob"}]"#.to_string(),
            _ => {
                let owner = path.split('/').nth(2).unwrap();
                format!("[{{\"id\":{owner}1,\"name\":\"box\"}},{{\"id\":{owner}2,\"name\":\"bag\"}}]")
            }
        })
    });
    let pipeline = PIPELINE.replace("ADDRESS", &server.address);
    let space = Space::new().file("pipeline.toml", &pipeline).file("schema.sql", SCHEMA).and_database();
    (server, space)
}

fn succeed(space: &Space, args: &[&str]) -> String {
    let outcome = space.run("mirror42", args);
    assert_eq!(outcome.code, Some(0), "{args:?}: {}\n{}", outcome.stdout, outcome.stderr);
    outcome.stdout
}

fn edit(space: &Space, file: &str, from: &str, to: &str) {
    let path = space.path().join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} has no {from}: {text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

/// What `plan --json` says of every step that is not current: `2_things.extract: the filter changed`.
fn stale(space: &Space, args: &[&str]) -> Vec<String> {
    let plan: Value = serde_json::from_str(&succeed(space, &[&["plan", "--json"], args].concat())).unwrap();
    let mut told = Vec::new();
    let mut tell = |name: String, verdict: &Value| {
        if !verdict.is_null() && verdict["state"] != "current" {
            told.push(format!("{name}: {}", verdict["text"].as_str().unwrap()));
        }
    };
    for stage in plan["stages"].as_array().unwrap() {
        let name = stage["stage"].as_str().unwrap();
        tell(format!("{name}.fetch"), &stage["fetch"]);
        tell(format!("{name}.extract"), &stage["extract"]);
    }
    tell("load".into(), &plan["load"]);
    tell("validate".into(), &plan["validate"]);
    let all_kept = |text: &String| text.contains(": kept: ");
    assert_eq!(plan["current"], told.iter().all(all_kept), "{plan}");
    told
}

fn loads(space: &Space) -> String {
    space.query("select count(*) from mirror42.runs").remove(0)
}

fn failed(outcome: &Outcome, code: i32, stderr: &str) {
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(code), stderr));
}

#[test]
fn a_run_without_work_says_so_in_a_line_and_neither_loads_nor_validates() {
    let (server, space) = space();
    succeed(&space, &["run", "-q"]);
    let requests = server.requests();
    let id = space.query("select id from mirror42.runs").remove(0);
    let said = succeed(&space, &["run"]);
    let head = format!("nothing to do: 3 stages are current, and the database is as run {id} loaded it, its data ");
    assert!(said.starts_with(&head) && said.lines().count() == 1, "{said}");
    assert_eq!(succeed(&space, &["run", "1_owners"]), "nothing to do: 1 stage is current\n");
    assert_eq!((server.requests(), loads(&space)), (requests, "1".to_string()));
    assert!(!fs::read_to_string(space.path().join("logs/validate.log")).unwrap().is_empty());
    let lines = fs::read_to_string(space.path().join("logs/validate.log")).unwrap().lines().count();
    succeed(&space, &["run", "-q"]);
    assert_eq!(fs::read_to_string(space.path().join("logs/validate.log")).unwrap().lines().count(), lines);
    // Named, they are done whatever the ledger says.
    succeed(&space, &["run", "-q", "load"]);
    assert_eq!(loads(&space), "2");
    assert_eq!(stale(&space, &[]), ["validate: the last load was not validated"]);
    let said = succeed(&space, &["run", "validate"]);
    assert!(said.starts_with("all checks passed; "), "{said}");
    assert_eq!(stale(&space, &[]), [""; 0]);
}

#[test]
fn each_change_is_told_in_words_and_what_follows_stays_current_if_nothing_else_comes_of_it() {
    let (server, space) = space();
    succeed(&space, &["run", "-q"]);
    assert_eq!(stale(&space, &[]), [""; 0]);
    let requests = server.requests();
    // The same records by another filter: what reads them stays current, and so does the load.
    let before = fs::metadata(space.paths().receipt("3_names")).unwrap();
    edit(&space, "pipeline.toml", "jq = '{id, name}'", "jq = '{id: .id, name: .name}'");
    let waits = ["2_things.fetch: waits for 1_owners", "2_things.extract: waits for its pages"];
    let told = stale(&space, &[]);
    assert_eq!(told[..3], [["1_owners.extract: the filter changed"], [waits[0]], [waits[1]]].concat());
    assert_eq!(
        told[3..],
        ["3_names.extract: waits for 2_things", "load: waits for 1_owners", "validate: waits for load"]
    );
    let said = succeed(&space, &["run"]);
    assert!(said.contains("the filter changed"), "{said}");
    let id = space.query("select id from mirror42.runs").remove(0);
    assert!(said.contains(&format!("\n\nthe database is as run {id} loaded it, its data ")), "{said}");
    assert_eq!((server.requests(), loads(&space)), (requests, "1".to_string()));
    assert_eq!(fs::metadata(space.paths().receipt("3_names")).unwrap().modified().unwrap(), before.modified().unwrap());

    let change = |from: &str, to: &str, words: &str| {
        edit(&space, "pipeline.toml", from, to);
        let told = stale(&space, &[]);
        assert!(told.first().is_some_and(|told| told.starts_with(words)), "{words}: {told:?}");
        edit(&space, "pipeline.toml", to, from);
        assert_eq!(stale(&space, &[]), [""; 0]);
    };
    let things = "jq = '{id, owner_id: $each.id, name}'\nkey = [\"id\"]";
    change(
        things,
        "jq = '{id, owner_id: $each.id, name}'\nkey = [\"id\", \"name\"]",
        "2_things.extract: the key changed",
    );
    change(
        "jq = '{id, owner_id",
        "duplicates = \"first\"\njq = '{id, owner_id",
        "2_things.extract: `duplicates` changed",
    );
    change("{ owner = ", "{ person = \"1_owners\", owner = ", "3_names.extract: `with` changed");
    change("\"/owners\"", "\"/owners?\"", "1_owners.fetch: `fetch` changed");
    change("name = \"things\"\n", "name = \"things\"\nmax_age = \"0s\"\n", "1_owners.fetch: last fetched ");
    change("name = \"things\"\n", "name = \"things\"\nnul = \"strip\"\n", "load: `nul` changed");
    change("page = ", "headers = { x = \"y\" }\npage = ", "1_owners.fetch: `headers` changed");
    let check = "[[check]]\nname = \"c\"\nsql = \"select 1 where false\"\n\n[[stage]]\nname = \"3_names\"";
    change("[[stage]]\nname = \"3_names\"", check, "load: the checks changed");

    // A receipt of another data format.
    let receipt = fs::read_to_string(space.paths().receipt("3_names")).unwrap();
    edit(&space, "exports/3_names/stage.json", "\"definition\": \"format:1 ", "\"definition\": \"format:0 ");
    assert_eq!(stale(&space, &[])[0], "3_names.extract: made by another version of mirror42's data format");
    space.write("exports/3_names/stage.json", &receipt);
    space.write("schema.sql", &format!("{SCHEMA}-- other\n"));
    assert_eq!(stale(&space, &[]), ["load: the schema file changed", "validate: waits for load"]);
}

#[test]
fn a_load_is_done_again_when_the_database_is_not_what_the_last_one_left() {
    let (_server, space) = space();
    assert_eq!(stale(&space, &[])[5..], ["load: waits for 1_owners", "validate: waits for load"]);
    succeed(&space, &["run", "-q"]);
    let told = |what: &str| {
        assert_eq!(stale(&space, &[]), [&format!("load: {what}"), "validate: waits for load"]);
        succeed(&space, &["run", "-q"]);
        assert_eq!(stale(&space, &[]), [""; 0]);
        assert_eq!(space.query("select count(*) from names"), ["4"]);
    };
    let change = |sql: &str, what: &str| {
        space.client().batch_execute(sql).unwrap();
        told(what);
    };
    change("truncate names", "table names was emptied, altered or made anew");
    change("alter table names add column more text", "table names was emptied, altered or made anew");
    change(
        "drop table names; create table names (id int primary key, text text, more text)",
        "table names was emptied, altered or made anew",
    );
    change("update mirror42.runs set fetched_at = fetched_at - interval '1 h'", "the same records were fetched again");
    change("delete from mirror42.runs", "never loaded");
    let last = "(select max(finished_at) from mirror42.runs)";
    change(
        &format!(
            "update mirror42.run_tables set export_sha256 = 'x' from mirror42.runs r where r.id = run_id and table_name = 'things' and finished_at = {last}"
        ),
        "2_things has other records",
    );
    // As an older version has left it, and as a restored backup of one is.
    change("alter table mirror42.run_tables drop column state", "never loaded");
    let id = space.query("select id from mirror42.runs order by finished_at desc").remove(0);
    let other = format!("the last load, {id}, was of other exports");
    change(&format!("update mirror42.runs set pipeline = 'x' where id = '{id}'"), &other);
    // A part of the tables.
    let outcome = space.run("mirror42-load", &["-q", "3_names", "--run-id", "part"]);
    failed(&outcome, 0, "");
    told("the last load, part, was of other exports");

    // A table that is gone is told of, and cannot be loaded into.
    space.client().batch_execute("drop table names").unwrap();
    assert_eq!(stale(&space, &[])[0], "load: table names is not there");
    space.client().batch_execute("drop table things, owners").unwrap();
    succeed(&space, &["run", "-q"]);
    assert_eq!(space.query("select count(*) from names"), ["4"]);

    // Another database.
    let other = Space::with_database();
    assert_eq!(stale(&space, &["--database-url", other.url()])[0], "load: never loaded");
    succeed(&space, &["run", "-q", "--database-url", other.url()]);
    assert_eq!(other.query("select count(*) from names"), ["4"]);
    assert_eq!(stale(&space, &["--database-url", other.url()]), [""; 0]);
    let nowhere = "postgresql://root@127.0.0.1:1/x";
    let told = stale(&space, &["--database-url", nowhere]);
    assert_eq!(
        told[0],
        "load: the database could not be asked: could not connect to database `x` on `127.0.0.1:1` as `root`: connection refused (os error 111)"
    );
}

#[test]
fn after_a_replay_of_a_past_night_the_next_run_loads_again() {
    let (_server, space) = space();
    succeed(&space, &["run", "-q"]);
    let id = space.query("select id from mirror42.runs").remove(0);
    // Of the very exports of the present.
    succeed(&space, &["replay", "-q", "--as-of", &id]);
    let replayed = space.query("select id from mirror42.runs order by finished_at desc").remove(0);
    assert_eq!(stale(&space, &[])[0], format!("load: the last load, {replayed}, was of other exports"));
    succeed(&space, &["run", "-q"]);
    assert_eq!(loads(&space), "3");
    assert_eq!(stale(&space, &[]), [""; 0]);
}

#[test]
fn a_mirror_that_does_not_pass_or_is_old_is_told_of_by_every_run() {
    let (_server, space) = space();
    succeed(&space, &["run", "-q"]);
    // The validation finds what a hand has done; the next run puts it right.
    space.client().batch_execute("delete from names where id = 11").unwrap();
    succeed(&space, &["run", "-q"]);
    let outcome = space.run("mirror42", &["run", "-q", "validate"]);
    let found = "mirror42: error: 1 of 9 checks failed\n  detail: names has the 4 rows of its export: it has 3\n";
    failed(&outcome, 5, found);
    assert_eq!(stale(&space, &[])[0], "load: the validation of the last load failed");
    succeed(&space, &["run", "-q"]);
    assert_eq!(space.query("select count(*) from names"), ["4"]);
    // Pages that may be older than the mirror.
    edit(
        &space,
        "pipeline.toml",
        "name = \"things\"\n",
        "name = \"things\"\nmax_age = \"30d\"\nstale_after = \"1s\"\n",
    );
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let told = stale(&space, &[]);
    assert!(
        told[0].starts_with("validate: the mirror is ") && told[0].ends_with(" s old, stale_after is 1 s"),
        "{told:?}"
    );
    for _ in 0..2 {
        let outcome = space.run("mirror42", &["run", "-q"]);
        assert_eq!(outcome.code, Some(5), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("\n  detail: the data is younger than 1 s: "), "{}", outcome.stderr);
    }
}

#[test]
fn an_export_that_was_edited_is_made_again_or_taken_as_it_is() {
    let (server, space) = space();
    succeed(&space, &["run", "-q"]);
    let made = fs::read(space.paths().all_json("3_names")).unwrap();
    edit(&space, "exports/3_names/all.json", "box", "chest");
    assert_eq!(stale(&space, &[])[0], "3_names.extract: all.json was edited by hand");
    let outcome = space.run("mirror42", &["run", "-q"]);
    assert_eq!(outcome.code, Some(0));
    let warning =
        " 3_names: warning: all.json was edited by hand, and is made again (`--trust-exports` takes it as it is)\n";
    assert!(outcome.stderr.ends_with(warning) && outcome.stderr.lines().count() == 1, "{}", outcome.stderr);
    assert_eq!(fs::read(space.paths().all_json("3_names")).unwrap(), made);

    // Taken: what follows is made from it, and it is loaded.
    edit(&space, "exports/1_owners/all.json", "\n]", ",\n{\"id\":3,\"name\":\"Cyd\"}\n]");
    edit(&space, "exports/3_names/all.json", "box", "chest");
    assert_eq!(stale(&space, &["--trust-exports"])[0], "1_owners.extract: kept: all.json was edited by hand");
    let outcome = space.run("mirror42", &["run", "-q", "--trust-exports"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let warning = "1_owners: warning: all.json was edited by hand: its 3 records are taken as they are\n";
    assert!(outcome.stderr.contains(warning), "{}", outcome.stderr);
    assert_eq!(space.query("select name from owners order by id"), ["Ada", "Bob", "Cyd"]);
    assert_eq!(space.query("select name from things where owner_id = 3 order by id"), ["box", "bag"]);
    // Its own edit of the last stage counts, though that reads the owners too.
    assert_eq!(space.query("select text from names order by id"), ["chest of 2", "bag of 2", "chest of 2", "bag of 2"]);
    let requests = server.requests();
    let again = succeed(&space, &["run", "--trust-exports"]);
    assert!(
        again.contains("kept: all.json was edited by hand") && again.contains("the database is as run "),
        "{again}"
    );
    assert_eq!(server.requests(), requests);
    // Without the flag it is made again.
    assert_eq!(stale(&space, &[])[0], "1_owners.extract: all.json was edited by hand");
    succeed(&space, &["run", "-q"]);
    assert_eq!(fs::read(space.paths().all_json("3_names")).unwrap(), made);
    assert_eq!(space.query("select name from owners order by id"), ["Ada", "Bob"]);
    assert_eq!(stale(&space, &[]), [""; 0]);
}

#[test]
fn an_edited_export_that_is_none_is_not_taken() {
    let (_server, space) = space();
    succeed(&space, &["run", "-q"]);
    let before = space.query("select * from names");
    edit(&space, "exports/3_names/all.json", "\"id\":22", "\"id\":12");
    for verb in ["run", "replay"] {
        failed(
            &space.run("mirror42", &[verb, "-q", "--trust-exports"]),
            1,
            "mirror42: error: `exports/3_names/all.json` cannot be taken as the export of stage `3_names`: the record is not \
             in its place: id 12 after id 21\n  at: exports/3_names/all.json:5\n  \
             hint: Mend the line, or run without `--trust-exports`: the stage is then made from its pages.\n",
        );
    }
    fs::write(space.paths().all_json("3_names"), "[\n{\"id\":1},\n").unwrap();
    failed(
        &space.run("mirror42", &["run", "-q", "--trust-exports"]),
        1,
        "mirror42: error: `exports/3_names/all.json` is not an export: found the end of the file, expected a record\n  \
         at: exports/3_names/all.json:2\n  \
         hint: An export is a JSON array with one record a line, as `mirror42-extract` writes it.\n",
    );
    assert_eq!(space.query("select * from names"), before);
    // A key that the filter lets through and the table does not.
    fs::write(space.paths().all_json("3_names"), "[\n{\"id\":11,\"text\":1}\n]\n").unwrap();
    let outcome = space.run("mirror42", &["run", "-q", "--trust-exports"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("  at: exports/3_names/all.json, record 1 (id 11), line 2, column `names.text`\n"));
    assert_eq!(space.query("select * from names"), before);
}

/// Another folder with the exports of this one, as `cp -r` makes it, and a database of its own.
fn copied(space: &Space) -> Space {
    let copy = Space::with_database();
    for name in ["pipeline.toml", "schema.sql", "exports"] {
        let copied = Command::new("cp").arg("-r").arg(space.path().join(name)).arg(copy.path()).status().unwrap();
        assert!(copied.success());
    }
    copy
}

fn remove_pages(space: &Space, stage: &str) {
    fs::remove_dir_all(space.paths().pages(stage)).unwrap();
}

#[test]
fn a_folder_of_exports_is_a_mirror_on_another_machine() {
    let (server, space) = space();
    succeed(&space, &["run", "-q"]);
    let requests = server.requests();
    let tables =
        |space: &Space| ["owners", "things", "names"].map(|table| space.query(&format!("table {table} order by 1")));

    // Without pages, nothing is extracted.
    let copy = copied(&space);
    ["1_owners", "2_things"].iter().for_each(|stage| remove_pages(&copy, stage));
    let said = succeed(&copy, &["replay", "--dry-run"]);
    assert!(said.starts_with("owners: 0 rows; 2 inserted") && said.ends_with("this was a dry run.\n"), "{said}");
    assert_eq!(copy.query("select to_regclass('owners')"), ["∅"]);
    let said = succeed(&copy, &["replay"]);
    assert!(
        said.contains("\n\n10 rows in 3 tables, 10 changed, 0 orphans dropped, the load's checks passed; "),
        "{said}"
    );
    assert_eq!(tables(&copy), tables(&space));
    let said = succeed(&copy, &["replay"]);
    assert!(said.starts_with("nothing to do: 3 stages are current, and the database is as run "), "{said}");
    // It is as old as it was.
    let age = "select fetched_at from mirror42.runs";
    assert_eq!(copy.query(age), space.query(age));

    // A stage that is stale by its filter is made from the pages that are there.
    let copy = copied(&space);
    remove_pages(&copy, "1_owners");
    edit(&copy, "pipeline.toml", "text: \"\\(.name) of", "text: \"\\(.name) from");
    let said = succeed(&copy, &["replay"]);
    assert!(said.contains("the filter changed"), "{said}");
    assert_eq!(copy.query("select text from names where id = 11"), ["box from 2"]);

    // One without pages cannot be; it can be taken as it is.
    edit(&copy, "pipeline.toml", "jq = '{id, name}'", "jq = '{id, name: \"x\"}'");
    failed(
        &copy.run("mirror42", &["replay", "-q"]),
        1,
        "mirror42: error: stage `1_owners` cannot be made without the API: the filter changed\n  \
         detail: It is made from the pages of `1_owners`: exports/1_owners/pages/0001.json is not there.\n  \
         hint: Run `mirror42 run`, which fetches them; or take the exports as they are, with `--trust-exports`.\n",
    );
    let outcome = copy.run("mirror42", &["replay", "-q", "--trust-exports"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let warning = " 1_owners: warning: the filter changed: its 2 records are taken as they are\n";
    assert!(outcome.stderr.ends_with(warning), "{}", outcome.stderr);
    assert_eq!(copy.query("select name from owners order by id"), ["Ada", "Bob"]);
    assert_eq!(
        stale(&copy, &[])[..2],
        [
            "1_owners.fetch: exports/1_owners/pages/0001.json is not there",
            "1_owners.extract: all.json was taken as it was"
        ]
    );

    // Bare exports, without receipts.
    let copy = copied(&space);
    for stage in ["1_owners", "2_things", "3_names"] {
        fs::remove_file(copy.paths().receipt(stage)).unwrap();
    }
    assert_eq!(
        copy.run("mirror42", &["replay", "-q"]).stderr.lines().next(),
        Some("mirror42: error: stage `1_owners` cannot be made without the API: never extracted")
    );
    succeed(&copy, &["replay", "-q", "--trust-exports"]);
    assert_eq!(tables(&copy), tables(&space));
    assert_eq!(server.requests(), requests);
}

#[test]
fn old_pages_are_told_of_and_kept_where_the_api_is_not_asked() {
    let (server, space) = space();
    succeed(&space, &["run", "-q"]);
    let requests = server.requests();
    edit(&space, "pipeline.toml", "name = \"things\"\n", "name = \"things\"\nmax_age = \"0s\"\n");
    edit(&space, "pipeline.toml", "\\(.name) of", "\\(.name) from");
    // What a forced run has left undone is still to be done.
    space.write(".mirror42/forced", "1_owners\n");
    let said = succeed(&space, &["replay"]);
    assert!(said.contains("kept: last fetched ") && said.contains(" ago, max_age 0 s"), "{said}");
    assert_eq!(space.query("select text from names where id = 11"), ["box from 2"]);
    assert_eq!(server.requests(), requests);
    assert_eq!(fs::read_to_string(space.path().join(".mirror42/forced")).unwrap(), "1_owners\n");
    assert_eq!(stale(&space, &[])[0], "1_owners.fetch: forced");
    // A run that is offline validates, too.
    edit(&space, "pipeline.toml", "\\(.name) from", "\\(.name) by");
    let said = succeed(&space, &["run", "--offline"]);
    assert!(said.contains("kept: last fetched ") && said.contains("all checks passed"), "{said}");
    assert_eq!(space.query("select text from names where id = 11"), ["box by 2"]);
    assert_eq!(server.requests(), requests);
    assert_eq!(fs::read_to_string(space.path().join(".mirror42/forced")).unwrap(), "1_owners\n");
}

#[test]
fn offline_all_is_made_again_from_what_is_here_and_what_is_not_here_is_named() {
    let (server, space) = space();
    let offline = |args: &[&str]| space.run("mirror42", &[&["run", "--offline", "-q"], args].concat());
    let missing = "mirror42: error: stage `1_owners` cannot be made without the API: never extracted\n";
    assert_eq!(offline(&[]).stderr.lines().next().unwrap(), missing.trim_end());
    assert_eq!(offline(&[]).code, Some(1));
    assert_eq!(server.requests(), 0);

    // A program of one's own is no API, and runs.
    let own = "\n[[stage]]\nname = \"own\"\nkey = [\"id\"]\nrun = [\"sh\", \"-c\", \"echo '[{\\\"id\\\":1}]' >$MIRROR42_OUTPUT\"]\n";
    let text = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    succeed(&space, &["run", "-q"]);
    space.write("pipeline.toml", &(text + own));
    let names = || space.query("select * from names order by id");
    let before = names();
    drop(server);
    let made = || {
        ["1_owners", "2_things", "3_names", "own"].map(|stage| {
            fs::metadata(space.paths().all_json(stage)).map_or(0, |file| std::os::unix::fs::MetadataExt::ino(&file))
        })
    };
    let old = made();
    assert_eq!(offline(&[]), Outcome { code: Some(0), stdout: String::new(), stderr: String::new() });
    let new = made();
    assert!(old[..3] == new[..3] && old[3] == 0 && new[3] != 0, "{old:?} {new:?}");
    assert_eq!(offline(&["--force"]), Outcome { code: Some(0), stdout: String::new(), stderr: String::new() });
    assert!(made().iter().zip(new).all(|(now, then)| *now != then));
    assert_eq!(names(), before);

    fs::remove_dir_all(space.paths().pages("2_things")).unwrap();
    let outcome = offline(&["--force"]);
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.stderr.starts_with("mirror42: error: stage `2_things` cannot be made without the API: "),
        "{}",
        outcome.stderr
    );
    assert_eq!(names(), before);
}

#[test]
fn what_files_hash_to_is_remembered_but_decides_nothing_by_itself() {
    let (_server, space) = space();
    succeed(&space, &["run", "-q"]);
    let hashes = space.path().join(".mirror42/hashes");
    std::thread::sleep(std::time::Duration::from_millis(3100));
    succeed(&space, &["run", "-q"]);
    let text = fs::read_to_string(&hashes).unwrap();
    assert!(text.starts_with("mirror42 hashes 1 ") && text.contains(" exports/2_things/pages/1/0001.json\n"), "{text}");
    for spoilt in [&text[..text.len() / 2], "", "mirror42 hashes 1 x\n"] {
        fs::write(&hashes, spoilt).unwrap();
        assert_eq!(stale(&space, &[]), [""; 0]);
    }
    succeed(&space, &["run", "-q"]);
    assert_eq!(fs::read_to_string(&hashes).unwrap(), text);
    // An edit of the same size that puts the time back.
    let export = space.paths().all_json("3_names");
    let times = fs::metadata(&export).unwrap().modified().unwrap();
    edit(&space, "exports/3_names/all.json", "box", "bix");
    let set = |path: &Path| fs::File::options().write(true).open(path).unwrap().set_modified(times);
    set(&export).unwrap();
    assert_eq!(stale(&space, &[])[0], "3_names.extract: all.json was edited by hand");
}

#[test]
fn the_filters_are_compiled_only_where_something_is_to_be_made() {
    let (server, space) = space();
    succeed(&space, &["run", "-q"]);
    let requests = server.requests();
    // A filter that is no filter makes its stage stale, and is told of before anything is asked.
    edit(&space, "pipeline.toml", "jq = '{id, name}'", "jq = '{id, name'");
    let outcome = space.run("mirror42", &["run", "-q", "--force"]);
    assert_eq!(outcome.code, Some(2));
    assert!(
        outcome.stderr.starts_with("mirror42: error: the jq filter of stage `1_owners` is wrong: "),
        "{}",
        outcome.stderr
    );
    assert_eq!(server.requests(), requests);
    // A run that only loads or validates does not look at filters.
    succeed(&space, &["run", "-q", "validate"]);
}

#[test]
fn a_plan_is_told_to_programs_and_to_people() {
    let (_server, space) = space();
    let plan: Value = serde_json::from_str(&succeed(&space, &["plan", "--json"])).unwrap();
    assert_eq!(plan["stages"][0]["fetch"]["reason"], "never-fetched");
    assert_eq!(
        (&plan["requests"], &plan["requests_exact"], &plan["last_load"]),
        (&1.into(), &false.into(), &Value::Null)
    );
    succeed(&space, &["run", "-q"]);
    edit(&space, "pipeline.toml", "\\(.name) of", "\\(.name) from");
    let plan: Value = serde_json::from_str(&succeed(&space, &["plan", "--json"])).unwrap();
    let expected = serde_json::json!({
        "stage": "3_names", "fetch": null, "requests": null, "requests_exact": null,
        "extract": { "state": "stale", "reason": "definition", "text": "the filter changed" },
        "extract_ms": plan["stages"][2]["extract_ms"],
    });
    assert!(expected["extract_ms"].is_u64());
    assert_eq!(plan["stages"][2], expected);
    assert_eq!(plan["load"], serde_json::json!({ "state": "stale", "reason": "waits", "text": "waits for 3_names" }));
    assert!(plan["load_ms"].is_u64() && plan["time"].is_string(), "{plan}");
    let told: Vec<&str> =
        ["pipeline", "last_load", "current", "requests", "requests_exact", "requests_left", "requests_ms"]
            .into_iter()
            .filter(|key| plan.get(key).is_some())
            .collect();
    assert_eq!(told.len(), 7, "{plan}");
    let said = succeed(&space, &["plan"]);
    let lines: Vec<&str> = said.lines().skip(5).collect();
    assert_eq!(
        lines,
        [
            "load: waits for 3_names",
            "validate: waits for load",
            "0 requests",
            "extract and load: about 1 s, as the last time"
        ]
    );
}

#[test]
fn records_that_are_looked_for_elsewhere_in_a_page_are_filtered_again() {
    let server = Server::start("127.0.0.1:0", |_| {
        Reply::json(r#"{"a":[{"id":1,"name":"Ada"}],"b":[{"id":2,"name":"Bob"}],"n":1}"#.to_string())
    });
    let text = "[pipeline]\nname = \"p\"\n[api]\nbase_url = \"http://ADDRESS\"\n\
                [[stage]]\nname = \"one\"\nfetch = \"/one\"\npage = { style = \"none\", records = \".a[]\" }\nkey = [\"id\"]\n\
                [[stage]]\nname = \"two\"\nfrom = \"one\"\njq = \"{id}\"\nkey = [\"id\"]\n\
                [[stage]]\nname = \"many\"\nfetch = \"/many\"\n\
                page = { size_param = \"\", total = \".n\", records = \".a[]\" }\nkey = [\"id\"]\n";
    let space = Space::new().file("pipeline.toml", &text.replace("ADDRESS", &server.address));
    let stages = ["one", "two", "many"];
    let run = || succeed(&space, &[&["run", "-q"], &stages[..]].concat());
    run();
    let requests = server.requests();
    edit(&space, "pipeline.toml", ".a[]", ".b[]");
    let told = stale(&space, &[]);
    let expected = [
        // One answer is the same, wherever the records are in it; what proves a series whole counts them.
        "one.extract: the records are elsewhere in a page",
        "two.extract: the records are elsewhere in a page",
        "many.fetch: `page` changed",
        "many.extract: the records are elsewhere in a page",
    ];
    assert_eq!(told[..4], expected, "{told:?}");
    run();
    assert_eq!(server.requests(), requests + 1);
    for stage in stages {
        let export = fs::read_to_string(space.paths().all_json(stage)).unwrap();
        assert!(export.starts_with("[\n{\"id\":2"), "{stage}: {export}");
    }
    assert_eq!(succeed(&space, &[&["run"], &stages[..]].concat()), "nothing to do: 3 stages are current\n");
}
