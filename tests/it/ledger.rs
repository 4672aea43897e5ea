//! The ledger's place: schema `mirror42`, or the one that the pipeline names.

use crate::load::{load, project, state};
use crate::space::Space;

/// Writes a synthetic pipeline into `other/`, with tables and a ledger of its own, and loads it.
fn load_other(space: &Space, night: &str) {
    let args = ["exports", "other", "--rows", "200", "--schema", "other", "--ledger", "user", "--night", night];
    assert_eq!(space.run("mirror42-simulate", &args).code, Some(0));
    let loaded = space.run("mirror42-load", &["-q", "--pipeline", "other/pipeline.toml"]);
    assert_eq!((loaded.code, loaded.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_ledger_in_the_schema_of_the_users_name_hides_no_table_and_takes_none() {
    let pipeline = "[pipeline]\nname = 't'\n[api]\nbase_url = 'http://127.0.0.1:1'\n\
                    [[stage]]\nname = 'a'\nfetch = '/a'\njq = '.'\nkey = ['id']\ntable = 'changes'\n";
    let schema = "create table changes (id int primary key)";
    let space = Space::with_database().file("pipeline.toml", pipeline).file("schema.sql", schema);
    // As in any database, whose default is `"$user", public`.
    let user = space.query("select current_user").remove(0);
    space
        .client()
        .batch_execute("do $$ begin execute format('alter database %I reset search_path', current_database()); end $$")
        .unwrap();
    space.write("pipeline.toml", &pipeline.replace("name = 't'\n", &format!("name = 't'\nledger = '{user}'\n")));
    let tables = "select relnamespace = 'public'::regnamespace from pg_class where relname = 'changes' order by 1";
    let records = ["{\"id\":1}", "{\"id\":2}"];
    for night in [&records[..1], &records] {
        space.export("a", night);
        load(&space);
        assert_eq!(space.query(tables), ["f", "t"]);
    }
    assert_eq!(space.query("select count(*) from public.changes"), ["2"]);
    // Nor do tables that are made anew come to stand beside the ledger's.
    space.client().batch_execute("drop table public.changes").unwrap();
    load(&space);
    assert_eq!(space.query(tables), ["f", "t"]);
}

#[test]
fn a_schema_on_the_search_path_may_be_made_by_the_schema_file() {
    let pipeline = "[pipeline]\nname = 't'\n[api]\nbase_url = 'http://127.0.0.1:1'\n\
                    [[stage]]\nname = 'a'\nfetch = '/a'\njq = '.'\nkey = ['id']\ntable = 'a'\n";
    let schema = "create schema app; create table a (id int primary key)";
    let space = Space::with_database().file("pipeline.toml", pipeline).file("schema.sql", schema);
    let path =
        "do $$ begin execute format('alter database %I set search_path = app, public', current_database()); end $$";
    space.client().batch_execute(path).unwrap();
    space.export("a", &["{\"id\":1}"]);
    load(&space);
    load(&space);
    assert_eq!(space.query("select id from app.a"), ["1"]);
}

#[test]
fn two_pipelines_with_ledgers_of_their_own_share_a_database() {
    let space = project();
    load(&space);
    let before = state(&space);
    // Nor does one loader keep the other out.
    let mut session = space.client();
    let lock = mirror42::pg::lock_key("load mirror42");
    session.execute("select pg_advisory_lock($1)", &[&lock]).unwrap();
    load_other(&space, "0");
    load_other(&space, "1");
    assert_eq!(state(&space), before);
    assert_eq!(
        space.query(
            "select r.pipeline, r.status, r.finished_at is not null, t.table_name, t.inserted, t.updated, t.deleted
               from \"user\".runs r join \"user\".run_tables t on t.run_id = r.id
              where stage = '03_sessions' order by r.started_at"
        ),
        ["synthetic|loaded|t|other.sessions|200|0|0", "synthetic|loaded|t|other.sessions|1|2|1"]
    );
    assert_eq!(
        space.query("select (select count(*) from \"user\".deletions), (select count(*) from \"user\".changes)"),
        ["1|2"]
    );
    let validated = space.run("mirror42-validate", &["--pipeline", "other/pipeline.toml"]);
    assert_eq!(validated.code, Some(0), "{}", validated.stderr);
    let status = space.run("mirror42", &["status", "--pipeline", "other/pipeline.toml"]);
    assert!(status.stdout.contains("other.sessions"), "{}", status.stdout);
    let dry = space.run("mirror42-load", &["-q", "--dry-run", "--pipeline", "other/pipeline.toml"]);
    assert_eq!(dry.code, Some(0), "{}", dry.stderr);
}

#[test]
fn a_ledger_that_is_no_plain_name_is_refused_with_its_line() {
    for (name, found) in [("\"a.b\"", "\"a.b\""), ("\"Ledger\"", "\"Ledger\""), ("\"pg_ledger\"", "\"pg_ledger\"")] {
        let text = format!("[pipeline]\nname = \"t\"\nledger = {name}\n[api]\nbase_url = \"http://127.0.0.1:1\"\n");
        let outcome = Space::new().file("pipeline.toml", &text).run("mirror42-load", &[]);
        assert_eq!(outcome.code, Some(2));
        assert_eq!(
            outcome.stderr,
            format!(
                "mirror42-load: error: `pipeline.ledger` is {found}, expected a plain name of a schema, such as \"mirror42\": \
                 lower-case letters, digits and underscores\n  at: pipeline.toml:3:10\n"
            )
        );
    }
}
