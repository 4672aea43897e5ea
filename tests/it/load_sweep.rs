//! Loading: what goes takes along what must go, notes it, and nothing else.

use crate::load::{counts, load};
use crate::load_ways::space_of;
use crate::space::Space;

fn deletions(space: &Space) -> Vec<String> {
    space.query("select table_name, key, cascaded_from from mirror42.deletions order by id")
}

fn is_exact(space: &Space) {
    let outcome = space.run("mirror42-validate", &["-q", "--deep"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stdout);
    load(space);
    let written = "select sum(inserted + updated + deleted) from mirror42.run_tables
                    where run_id = (select id from mirror42.runs order by started_at desc limit 1)";
    assert_eq!(space.query(written), ["0"], "a second load has nothing to do");
}

/// Refused with this first line, and the tables of the load as they were.
fn refused(space: &Space, tables: &[&str]) -> String {
    let state =
        || tables.iter().flat_map(|table| space.query(&format!("select ctid, xmin, t.* from {table} t order by 1")));
    let before: Vec<String> = state().collect();
    let outcome = space.run("mirror42-load", &["-q"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert_eq!(state().collect::<Vec<_>>(), before);
    outcome.stderr
}

/// Slugs are unique, so that the slug of a row that goes is free only when that has gone; `b` and what hangs on it are on
/// `a`. `own` and `made` are no columns of the exports. Of `plain`, only the server knows a type.
fn three_tables(plain: &str) -> Space {
    let space = space_of(
        &[("a", "\"id\""), ("b", "\"id\""), ("c", "\"id\"")],
        &format!(
            "create table a (id int primary key, slug text unique);
             create table b (id int primary key, own text default 'none', a_id int references a on delete cascade, mark text,
                             made int generated always as (a_id * 2) stored, ingested_at timestamptz not null default now() {plain});
             create table c (id int primary key, b_id int references b on delete cascade, v int,
                             ingested_at timestamptz not null default now());
             create table notes (n int generated always as identity primary key, b_id int references b on delete cascade);
             create table lines (n int references notes on delete cascade, text text);"
        ),
    );
    let net = if plain.is_empty() { "" } else { ",\"net\":\"::1\"" };
    space.export("a", &[r#"{"id":1,"slug":"x"}"#, r#"{"id":2,"slug":"y"}"#]);
    let b = [(1, 1), (2, 2), (3, 1), (5, 1)].map(|(id, a)| format!("{{\"id\":{id},\"a_id\":{a},\"mark\":\"m\"{net}}}"));
    space.export("b", &b.each_ref().map(String::as_str));
    let c = [(1, 1), (2, 2), (3, 3), (4, 1), (5, 5)].map(|(id, b)| format!("{{\"id\":{id},\"b_id\":{b},\"v\":0}}"));
    space.export("c", &c.each_ref().map(String::as_str));
    load(&space);
    space
        .client()
        .batch_execute(
            "update b set own = 'by hand'; insert into notes (b_id) values (1), (3), (5);
             insert into lines values (1, 'stays'), (2, 'goes'), (3, 'stays too')",
        )
        .unwrap();
    // 4 takes the slug of 1, and its rows 1 and 5, but for 3, which goes.
    space.export("a", &[r#"{"id":2,"slug":"y"}"#, r#"{"id":4,"slug":"x"}"#]);
    let b = [(1, 4, "m"), (2, 2, "m"), (5, 2, "n"), (6, 4, "m")]
        .map(|(id, a, mark)| format!("{{\"id\":{id},\"a_id\":{a},\"mark\":\"{mark}\"{net}}}"));
    space.export("b", &b.each_ref().map(String::as_str));
    let c = [(1, 1, 0), (2, 2, 0), (4, 1, 9), (5, 5, 0)]
        .map(|(id, b, v)| format!("{{\"id\":{id},\"b_id\":{b},\"v\":{v}}}"));
    space.export("c", &c.each_ref().map(String::as_str));
    space
}

#[test]
fn what_a_deletion_that_comes_first_sweeps_away_is_put_back_whole() {
    for plain in ["", ", net inet"] {
        let space = three_tables(plain);
        let unchanged = "select id, ingested_at from c where id in (1, 2, 5) order by id";
        let before = space.query(unchanged);
        load(&space);
        assert_eq!(space.query("select id, slug from a order by id"), ["2|y", "4|x"]);
        assert_eq!(
            space.query("select id, a_id, own, mark, made from b order by id"),
            ["1|4|by hand|m|8", "2|2|by hand|m|4", "5|2|by hand|n|4", "6|4|none|m|8"]
        );
        assert_eq!(space.query("select id, b_id, v from c order by id"), ["1|1|0", "2|2|0", "4|1|9", "5|5|0"]);
        assert_eq!(space.query(unchanged), before);
        assert_eq!(space.query("select * from notes order by n"), ["1|1", "3|5"]);
        assert_eq!(space.query("select * from lines order by n"), ["1|stays", "3|stays too"]);
        assert_eq!(counts(&space), ["a|2|1|0|1|1|0", "b|4|1|2|1|1|0", "c|4|0|1|3|1|0"]);
        assert_eq!(
            space.query("select table_name, key, cascaded_from from mirror42.deletions order by table_name"),
            ["a|{\"id\": 1}|∅", "b|{\"id\": 3}|a", "c|{\"id\": 3}|b", "lines|{\"n\": 2}|notes", "notes|{\"n\": 2}|b"]
        );
        assert_eq!(
            space.query("select table_name, key, old, new from mirror42.changes order by table_name, key"),
            [
                "b|{\"id\": 1}|{\"a_id\": 1}|{\"a_id\": 4}",
                "b|{\"id\": 5}|{\"a_id\": 1, \"mark\": \"m\"}|{\"a_id\": 2, \"mark\": \"n\"}",
                "c|{\"id\": 4}|{\"v\": 0}|{\"v\": 9}",
            ]
        );
        assert_eq!(space.query("select count(*) from b where ingested_at = (select max(ingested_at) from b)"), ["3"]);
        is_exact(&space);
    }
}

/// A tree whose rows have names of their own.
fn tree() -> Space {
    space_of(
        &[("t", "\"id\"")],
        "create table t (id int primary key, slug text unique, up int references t on delete cascade)",
    )
}

/// Loads these rows of a tree; they are what the table has then.
fn night(space: &Space, records: &[(u32, &str, &str)]) {
    let json: Vec<String> =
        records.iter().map(|(id, slug, up)| format!("{{\"id\":{id},\"slug\":\"{slug}\",\"up\":{up}}}")).collect();
    space.export("t", &json.iter().map(String::as_str).collect::<Vec<_>>());
    load(space);
    let rows = records.iter().map(|(id, slug, up)| format!("{id}|{slug}|{}", up.replace("null", "∅")));
    assert_eq!(space.query("select id, slug, up from t order by id"), rows.collect::<Vec<_>>());
}

#[test]
fn a_branch_moves_to_a_new_row_that_takes_the_name_of_one_that_goes() {
    let space = tree();
    night(&space, &[(1, "root", "null"), (2, "a", "1"), (3, "b", "2"), (4, "c", "1")]);
    night(&space, &[(2, "a", "7"), (3, "b", "2"), (7, "root", "null")]);
    assert_eq!(counts(&space), ["t|3|1|1|1|2|0"]);
    assert_eq!(deletions(&space).len(), 2);
    is_exact(&space);
    // New rows below rows that are put back, below new ones.
    night(&space, &[(2, "a", "8"), (3, "b", "2"), (8, "root", "null"), (9, "d", "3")]);
    assert_eq!(counts(&space), ["t|4|2|1|1|1|0"]);
    let of_last = "select key, old, new from mirror42.changes order by id desc limit 1";
    assert_eq!(space.query(of_last), ["{\"id\": 2}|{\"up\": 7}|{\"up\": 8}"]);
    is_exact(&space);
}

#[test]
fn a_row_moves_to_a_new_one_that_takes_a_name_whoever_had_it() {
    let space = tree();
    night(&space, &[(1, "a", "null"), (2, "b", "null")]);
    // Of a row that goes, …
    night(&space, &[(1, "a", "3"), (3, "b", "null")]);
    // … and of one that changes.
    night(&space, &[(1, "a", "3"), (3, "c", "null"), (4, "b", "1")]);
    assert_eq!(counts(&space), ["t|3|1|1|1|0|0"]);
    is_exact(&space);
}

#[test]
fn a_load_that_would_have_the_server_take_a_value_from_a_row_that_stays_is_refused() {
    let space = space_of(
        &[("a", "\"id\""), ("b", "\"id\""), ("e", "\"id\"")],
        "create table a (id int primary key, slug text unique);
         create table b (id int primary key, a_id int references a on delete cascade);
         create table e (id int primary key, b_id int constraint kept_by references b on delete set null)",
    );
    space.export("a", &[r#"{"id":1,"slug":"x"}"#, r#"{"id":2,"slug":"y"}"#]);
    space.export("b", &[r#"{"id":1,"a_id":1}"#, r#"{"id":2,"a_id":2}"#]);
    space.export("e", &[r#"{"id":1,"b_id":1}"#, r#"{"id":2,"b_id":2}"#]);
    load(&space);
    space.export("a", &[r#"{"id":2,"slug":"y"}"#, r#"{"id":3,"slug":"x"}"#]);
    space.export("b", &[r#"{"id":1,"a_id":3}"#, r#"{"id":2,"a_id":2}"#]);
    assert_eq!(
        refused(&space, &["a", "b", "e"]),
        "mirror42-load: error: rows of `e` would lose what they refer to by `kept_by`\n  \
         detail: A value that must be unique passes to another row, so that deletions must come first: b_id 1.\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: Declare the constraint that is unique `deferrable initially deferred` (docs/pipeline.md).\n"
    );
    let deferred = "alter table a drop constraint a_slug_key, add constraint a_slug_key unique (slug) deferrable initially deferred";
    space.client().batch_execute(deferred).unwrap();
    load(&space);
    assert_eq!(space.query("select id, b_id from e order by id"), ["1|1", "2|2"]);
    is_exact(&space);
}

#[test]
fn a_key_that_may_wait_lets_deletions_come_first() {
    let space = space_of(
        &[("a", "\"id\""), ("b", "\"id\"")],
        "create table a (id int primary key, slug text unique);
         create table b (id int primary key, a_id int references a deferrable)",
    );
    space.export("a", &[r#"{"id":1,"slug":"x"}"#, r#"{"id":2,"slug":"y"}"#]);
    space.export("b", &[r#"{"id":1,"a_id":1}"#]);
    load(&space);
    space.export("a", &[r#"{"id":2,"slug":"y"}"#, r#"{"id":3,"slug":"x"}"#]);
    space.export("b", &[r#"{"id":1,"a_id":3}"#]);
    load(&space);
    assert_eq!(space.query("select id, a_id from b"), ["1|3"]);
    is_exact(&space);
}

#[test]
fn rows_that_would_go_by_a_column_of_nobodys_export_are_not_lost() {
    let owned = |action: &str| {
        let space = space_of(
            &[("p", "\"id\""), ("t", "\"id\"")],
            &format!(
                "create table p (id int primary key);
                 create table t (id int primary key, owner int constraint owned references p on delete {action})"
            ),
        );
        space.export("p", &[r#"{"id":1}"#, r#"{"id":2}"#]);
        space.export("t", &[r#"{"id":1}"#, r#"{"id":2}"#, r#"{"id":3}"#]);
        load(&space);
        space.client().batch_execute("update t set owner = 2 where id > 1").unwrap();
        space.export("p", &[r#"{"id":1}"#]);
        space
    };
    let space = owned("cascade");
    assert_eq!(
        refused(&space, &["p", "t"]),
        "mirror42-load: error: rows of `t` would be lost that the export has\n  \
         at: exports/t/all.json\n  \
         detail: They refer by `owned` (owner) to rows that go, and only the server can tell: id 2; id 3.\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: Let them refer to other rows, or leave such records out in the jq filter.\n"
    );
    space.client().batch_execute("update t set owner = 1").unwrap();
    load(&space);
    is_exact(&space);
    // Where rows stay, what becomes of such a column is the schema's business.
    let space = owned("set null");
    load(&space);
    assert_eq!(space.query("select id, owner from t order by id"), ["1|∅", "2|∅", "3|∅"]);
    is_exact(&space);
}

#[test]
fn rows_that_would_go_by_way_of_a_table_that_no_stage_fills_are_not_lost_and_are_noted() {
    // `c` stands first, but its rows go before those of `a`, which would take them along unseen.
    let space = space_of(
        &[("c", "\"id\""), ("a", "\"id\"")],
        "create table a (id int primary key);
         create table m (id int primary key, a_id int references a on delete cascade);
         create table c (id int primary key, m_id int references m on delete cascade);
         insert into a values (1), (2); insert into m values (1, 1), (2, 2); delete from c",
    );
    space.export("a", &[r#"{"id":1}"#, r#"{"id":2}"#]);
    space.export("c", &[r#"{"id":1,"m_id":1}"#, r#"{"id":2,"m_id":2}"#]);
    load(&space);
    space.export("a", &[r#"{"id":1}"#]);
    let stderr = refused(&space, &["a", "m", "c"]);
    assert!(stderr.starts_with("mirror42-load: error: rows of `c` would be lost that the export has\n"), "{stderr}");
    assert!(stderr.contains("(m_id) to rows that go, and only the server can tell: id 2.\n"), "{stderr}");
    space.export("c", &[r#"{"id":1,"m_id":1}"#]);
    load(&space);
    assert_eq!(deletions(&space), ["c|{\"id\": 2}|∅", "m|{\"id\": 2}|a", "a|{\"id\": 2}|∅"]);
    is_exact(&space);
}

#[test]
fn orphans_are_found_by_keys_of_several_columns_and_by_other_columns_than_the_primary_key() {
    let space = space_of(
        &[("p", "\"id\""), ("t", "\"id\"")],
        "create table p (id int primary key, a int, b text, code varchar(9) unique, n numeric unique, unique (b, a));
         create table t (id int primary key, a int, b text, code text references p (code) on delete cascade, n numeric references p (n),
                         foreign key (a, b) references p (a, b) on delete cascade)",
    );
    let p =
        |id: u32, a: u32, b: &str| format!("{{\"id\":{id},\"a\":{a},\"b\":\"{b}\",\"code\":\"c{id}\",\"n\":{id}.0}}");
    let t = |id: u32, a: &str, b: &str, code: &str, n: &str| {
        format!("{{\"id\":{id},\"a\":{a},\"b\":\"{b}\",\"code\":\"{code}\",\"n\":{n}}}")
    };
    space.export("p", &[&p(1, 1, "x"), &p(2, 2, "x"), &p(3, 1, "y")]);
    let records = [
        t(1, "1", "x", "c1", "1"),
        t(2, "2", "y", "c1", "1"),
        t(3, "1", "y", "c9", "1"),
        t(4, "null", "nowhere", "c2", "2.00"),
        t(5, "2", "x", "c2", "7"),
        t(6, "1", "y", "c3", "3.000"),
    ];
    space.export("t", &records.each_ref().map(String::as_str));
    load(&space);
    assert_eq!(space.query("select id from t order by id"), ["1", "4", "6"]);
    assert_eq!(counts(&space), ["p|3|3|0|0|0|0", "t|6|3|0|0|0|3"]);
    space.export("p", &[&p(1, 1, "x"), &p(2, 2, "x")]);
    load(&space);
    assert_eq!(space.query("select id from t order by id"), ["1", "4"]);
    assert_eq!(deletions(&space), ["t|{\"id\": 6}|p", "p|{\"id\": 3}|∅"]);
    is_exact(&space);
}

#[test]
fn what_one_key_of_a_table_to_itself_drops_the_others_do_not_find() {
    let space = space_of(
        &[("t", "\"id\"")],
        "create table t (id int primary key, up int references t on delete cascade, twin int references t on delete cascade)",
    );
    let record = |id: u32, up: &str, twin: &str| format!("{{\"id\":{id},\"up\":{up},\"twin\":{twin}}}");
    let first = [
        record(1, "null", "null"),
        record(2, "1", "null"),
        record(3, "2", "1"),
        record(4, "1", "3"),
        record(5, "4", "null"),
        record(6, "null", "2"),
    ];
    space.export("t", &first.each_ref().map(String::as_str));
    load(&space);
    assert_eq!(counts(&space), ["t|6|6|0|0|0|0"]);
    // 2 refers to nothing, so 3 goes by `up`, 4 by `twin`, 5 by `up` again, 6 by `twin`.
    let second = [&first[0], &record(2, "9", "null"), &first[2], &first[3], &first[4], &first[5]];
    space.export("t", &second.map(String::as_str));
    space.write(
        "pipeline.toml",
        &std::fs::read_to_string(space.path().join("pipeline.toml")).unwrap().replace("90%", "100%"),
    );
    load(&space);
    assert_eq!(space.query("select id from t order by id"), ["1"]);
    assert_eq!(counts(&space), ["t|6|0|0|1|5|5"]);
    assert_eq!(deletions(&space).len(), 5);
    is_exact(&space);
}

#[test]
fn orphans_by_keys_that_only_the_server_compares_are_dropped_with_what_hangs_on_them() {
    let space = space_of(
        &[("d", "\"id\""), ("t", "\"id\""), ("p", "\"code\"")],
        "create table p (code char(2) primary key, n numeric unique);
         create table t (id int primary key, code char(2) references p on delete cascade, n int references p (n), up int references t);
         create table d (id int primary key, t_id int references t on delete cascade)",
    );
    space.export("p", &[r#"{"code":"de","n":2}"#, r#"{"code":"fr","n":1.0}"#]);
    let t = [(1, "fr", 1, "null"), (2, "de", 2, "1"), (3, "xx", 1, "null"), (4, "fr", 9, "null"), (5, "fr", 1, "3")]
        .map(|(id, code, n, up)| format!("{{\"id\":{id},\"code\":\"{code}\",\"n\":{n},\"up\":{up}}}"));
    space.export("t", &t.each_ref().map(String::as_str));
    space.export("d", &[r#"{"id":1,"t_id":1}"#, r#"{"id":2,"t_id":3}"#, r#"{"id":3,"t_id":2}"#]);
    let outcome = space.run("mirror42-load", &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    for warning in [
        "t: warning: dropped 1 records whose code is not in public.p (`t_code_fkey`): id 3, code xx\n",
        "t: warning: dropped 1 records whose n is not in public.p (`t_n_fkey`): id 4, n 9\n",
        "t: warning: dropped 1 records whose up is not in public.t (`t_up_fkey`): id 5, up 3\n",
        "d: warning: dropped 1 records whose t_id is not in public.t (`d_t_id_fkey`): id 2, t_id 3\n",
    ] {
        assert!(outcome.stderr.contains(warning), "{}", outcome.stderr);
    }
    assert_eq!(space.query("select id from t order by id"), ["1", "2"]);
    assert_eq!(counts(&space), ["d|3|2|0|0|0|1", "p|2|2|0|0|0|0", "t|5|2|0|0|0|3"]);
    is_exact(&space);
    space.export("p", &[r#"{"code":"fr","n":1}"#]);
    load(&space);
    assert_eq!(space.query("select id from t"), ["1"]);
    assert_eq!(space.query("select id from d"), ["1"]);
    assert_eq!(counts(&space), ["d|3|0|0|1|1|2", "p|1|0|1|0|1|0", "t|5|0|0|1|1|4"]);
    assert_eq!(deletions(&space), ["d|{\"id\": 3}|t", "t|{\"id\": 2}|p", "p|{\"code\": \"de\"}|∅"]);
    is_exact(&space);
}
