//! Loading: values arrive as they were written, whatever they are and wherever they go.

use crate::load::load;
use crate::load_ways::space_of;
use crate::space::Space;

/// A project with one stage, which fills `table`.
fn project(table: &str, key: &str, schema: &str) -> Space {
    let pipeline = format!(
        "[pipeline]\nname = \"values\"\n\n[api]\nbase_url = \"http://127.0.0.1:1\"\n\n\
         [[stage]]\nname = \"things\"\nfetch = \"/things\"\nkey = [\"{key}\"]\ntable = \"{table}\"\n"
    );
    Space::with_database().file("pipeline.toml", &pipeline).file("schema.sql", schema)
}

fn loaded_twice(space: &Space, query: &str) -> Vec<String> {
    load(space);
    let first = space.query(query);
    load(space);
    let second = "select updated, inserted, unchanged > 0 from mirror42.run_tables join mirror42.runs on id = run_id
                  order by started_at desc limit 1";
    assert_eq!(space.query(second), ["0|0|t"]);
    assert_eq!(space.query(query), first);
    first
}

#[test]
fn every_type_takes_its_values_and_a_second_load_sees_no_difference() {
    let space = project(
        "odd.The Things",
        "the id",
        r#"create schema odd;
           create domain odd.short as varchar(5);
           create type odd.mood as enum ('sad', 'ok');
           create table odd."The Things" (
               "the id" uuid primary key, n numeric, n2 numeric(10, 2), f float8, s odd.short, m odd.mood, j json, d date,
               t timestamp, tz timestamptz, b bytea, a int[], yes boolean, big bigint, own text default 'ours',
               twice bigint generated always as (big * 2) stored)"#,
    );
    space.export(
        "things",
        &[
            r#"{"the id":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11","n":123456789012345678901234567890.10,"n2":1.5,"f":1e-7,"s":"ab","m":"ok","j":{"b": 1.0,"a":"\u00e9"},"d":"2025-02-28","t":"2025-02-28T01:02:03.004Z","tz":"2025-02-28T01:02:03.004+08:00","b":"\\x00ff","a":"{1,2}","yes":true,"big":9007199254740993}"#,
            r#"{"the id":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12","n":null,"n2":null,"f":null,"s":null,"m":null,"j":null,"d":null,"t":null,"tz":null,"b":null,"a":null,"yes":null,"big":null}"#,
        ],
    );
    assert_eq!(
        loaded_twice(&space, "select * from odd.\"The Things\" order by 1"),
        [
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11|123456789012345678901234567890.10|1.50|1e-07|ab|ok|{\"b\": 1.0,\"a\":\"\\u00e9\"}|\
             2025-02-28|2025-02-28 01:02:03.004|2025-02-27 17:02:03.004+00|\\x00ff|{1,2}|t|9007199254740993|ours|18014398509481986",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12|∅|∅|∅|∅|∅|∅|∅|∅|∅|∅|∅|∅|∅|ours|∅",
        ]
    );
    space.export(
        "things",
        &[
            r#"{"the id":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11","s":"too long"}"#,
            r#"{"the id":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12","s":null}"#,
        ],
    );
    let outcome = space.run("mirror42-load", &["-q"]);
    assert_eq!(
        outcome.stderr,
        "mirror42-load: error: value \"too long\" of `s` does not fit odd.short\n  \
         at: exports/things/all.json, record 1 (the id \"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\"), line 2, \
         column `odd.The Things.s`\n  \
         detail: Postgres says: value too long for type character varying(5).\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: Convert it in the jq filter of stage `things` (pipeline.toml:7).\n"
    );
}

#[test]
fn a_time_in_an_odd_spelling_is_what_the_server_reads() {
    // A table each, so that one of which only the server is sure leaves the others to the diff.
    let times = [
        "01:02",
        "01:02:03",
        "01:02.5",
        "59:59.999999",
        "01:02:03.5",
        "23:59:59.1234567",
        "24:00:00",
        "1:2:3",
        "010203",
        "T01:02:03",
        "01:02:03 PM",
        "01:02:60",
        "  01:02  ",
        "01:02:03Z",
        "01:02:03+08",
        "allballs",
    ];
    let moments = [
        "2025-02-28T01:02",
        "2025-02-28T01:02.5",
        "2025-02-28 01:02.5Z",
        "2025-02-28T01:02:03.5+08:00",
        "2025-02-28 01:02+0330",
        "2025-02-28",
        "2025-02-28T24:00:00Z",
        "2025-2-8 1:2",
        "20250228T010203",
        "2025-02-28T01:02:03-15:59",
        "epoch",
        "2025-02-28T01:02:03 +08",
        "2025-02-28T01:02:03z",
        "2025-02-28 01:02:03 UTC",
        "0001-01-01T00:00:00+15:00",
        "2025.02.28 01:02:03",
        "2025-02-28T01:02:03.0000005Z",
    ];
    let names: Vec<String> = (0..times.len() + moments.len()).map(|place| format!("t{place:02}")).collect();
    let spellings = || times.iter().map(|text| (text, true)).chain(moments.iter().map(|text| (text, false)));
    let columns = |is_time: bool| if is_time { "a time" } else { "a timestamp, b timestamptz" };
    let schema = names
        .iter()
        .zip(spellings())
        .map(|(name, (_, is_time))| format!("create table {name} (id int primary key, {});\n", columns(is_time)));
    let stages: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "\"id\"")).collect();
    let space = space_of(&stages, &schema.collect::<String>());
    for (name, (text, is_time)) in names.iter().zip(spellings()) {
        let second = if is_time { String::new() } else { format!(",\"b\":\"{text}\"") };
        space.export(name, &[&format!("{{\"id\":1,\"a\":\"{text}\"{second}}}")]);
    }
    load(&space);
    for (name, (text, is_time)) in names.iter().zip(spellings()) {
        let wanted =
            if is_time { format!("'{text}'::time") } else { format!("'{text}'::timestamp, '{text}'::timestamptz") };
        let columns = if is_time { "a" } else { "a, b" };
        let [stored, read] = [format!("select {columns} from {name}"), format!("select {wanted}")]
            .map(|query| space.query(&format!("set timezone = 'UTC'; {query}")));
        assert_eq!(stored, read, "{text}");
    }
}

#[test]
fn a_key_that_is_equal_by_other_bytes_is_a_change_of_its_row() {
    let space = space_of(
        &[("n", "\"id\""), ("f", "\"id\""), ("j", "\"id\""), ("c", "\"id\""), ("i", "\"a\", \"id\"")],
        "create extension citext;
         create collation no_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         create table n (id numeric primary key, v int);
         create table f (id float8 primary key);
         create table j (id jsonb primary key, v int);
         create table c (id citext primary key, v int, n_id numeric references n on delete cascade);
         create table i (a int, id text collate no_case, c_id citext references c on delete cascade, primary key (a, id))",
    );
    let night = |n: &str, f: &str, j: &str, c: &str, i: &str, v: u32| {
        space.export("n", &[&format!("{{\"id\":{n},\"v\":1}}"), &format!("{{\"id\":7,\"v\":{v}}}")]);
        space.export("f", &[&format!("{{\"id\":{f}}}"), r#"{"id":2.5}"#]);
        space.export("j", &[&format!("{{\"id\":{j},\"v\":1}}"), r#"{"id":"x","v":1}"#]);
        space.export("c", &[&format!("{{\"id\":\"{c}\",\"v\":1,\"n_id\":1}}"), r#"{"id":"x","v":1,"n_id":7}"#]);
        space.export(
            "i",
            &[&format!("{{\"a\":1,\"id\":\"{i}\",\"c_id\":\"PARIS\"}}"), r#"{"a":1,"id":"x","c_id":"x"}"#],
        );
        load(&space);
        crate::load::counts(&space)
    };
    let all = || {
        ["n", "f", "j", "c", "i"]
            .map(|table| space.query(&format!("select t::text from {table} t order by id")).join(" "))
    };
    night("1.0", "0", "{\"a\":1.0}", "Paris", "Zoo", 1);
    assert_eq!(
        all(),
        [
            "(1.0,1) (7,1)",
            "(0) (2.5)",
            "(\"\"\"x\"\"\",1) (\"{\"\"a\"\": 1.0}\",1)",
            "(Paris,1,1) (x,1,7)",
            "(1,x,x) (1,Zoo,PARIS)"
        ]
    );
    let counts = night("1.00", "-0", "{\"a\":1.00}", "paris", "ZOO", 1);
    assert_eq!(counts, ["c|2|0|1|1|0|0", "f|2|0|1|1|0|0", "i|2|0|1|1|0|0", "j|2|0|1|1|0|0", "n|2|0|1|1|0|0"]);
    assert_eq!(
        all(),
        [
            "(1.00,1) (7,1)",
            "(-0) (2.5)",
            "(\"\"\"x\"\"\",1) (\"{\"\"a\"\": 1.00}\",1)",
            "(paris,1,1) (x,1,7)",
            "(1,x,x) (1,ZOO,PARIS)"
        ]
    );
    assert_eq!(
        space.query("select table_name, key, old, new from mirror42.changes where table_name in ('n', 'i') order by 1"),
        [
            "i|{\"a\": 1, \"id\": \"Zoo\"}|{\"id\": \"Zoo\"}|{\"id\": \"ZOO\"}",
            "n|{\"id\": 1.0}|{\"id\": 1.0}|{\"id\": 1.00}"
        ]
    );
    let counts = night("1.00", "-0", "{\"a\":1.00}", "paris", "ZOO", 2);
    assert_eq!(counts, ["c|2|0|0|2|0|0", "f|2|0|0|2|0|0", "i|2|0|0|2|0|0", "j|2|0|0|2|0|0", "n|2|0|1|1|0|0"]);
    assert_eq!(space.query("select count(*) from mirror42.deletions"), ["0"]);
    assert_eq!(space.run("mirror42-validate", &["-q", "--deep"]).code, Some(0));
    space.client().batch_execute("update n set id = 1.000 where id = 1").unwrap();
    let outcome = space.run("mirror42-validate", &["-q", "--deep"]);
    assert!(
        outcome
            .stdout
            .contains("n equals its export, row by row (2 rows): rows that differ: 1 (id 1.000), by id in 1\n"),
        "{}",
        outcome.stdout
    );
}

#[test]
fn a_float_that_is_zero_refers_to_zero_whatever_its_sign() {
    let space = space_of(
        &[("p", "\"id\""), ("t", "\"id\"")],
        "create table p (id int primary key, f float8 unique); create table t (id int primary key, f float8 references p (f))",
    );
    space.export("p", &[r#"{"id":1,"f":0}"#]);
    space.export("t", &[r#"{"id":1,"f":-0.0}"#, r#"{"id":2,"f":1}"#]);
    load(&space);
    assert_eq!(space.query("select id, f from t"), ["1|-0"]);
}

#[test]
fn any_text_and_any_json_come_back_as_they_went() {
    let space = project("things", "id", "create table things (id bigint primary key, name text, value jsonb)");
    let mut random = fastrand::Rng::with_seed(42);
    let records: Vec<(String, serde_json::Value)> = (0..300)
        .map(|_| {
            let name = text(&mut random);
            let value =
                serde_json::json!({ text(&mut random): [text(&mut random), random.i64(..), null_or(&mut random)] });
            (name, value)
        })
        .collect();
    let lines: Vec<String> = records
        .iter()
        .enumerate()
        .map(|(i, (name, value))| {
            let line = serde_json::json!({ "id": i, "name": name, "value": value }).to_string();
            // The same in the other spelling of JSON: nothing but ASCII.
            if i % 2 == 0 { line } else { ascii(&line) }
        })
        .collect();
    space.export("things", &lines.iter().map(String::as_str).collect::<Vec<_>>());
    loaded_twice(&space, "select id, name, value from things order by id");
    let rows = space.client().query("select name, value::text from things order by id", &[]).unwrap();
    for (row, (name, value)) in rows.iter().zip(&records) {
        assert_eq!(&row.get::<_, String>(0), name);
        assert_eq!(&serde_json::from_str::<serde_json::Value>(row.get(1)).unwrap(), value);
    }
    assert_eq!(rows.len(), records.len());
}

/// What breaks codecs, more often than chance would have it.
fn text(random: &mut fastrand::Rng) -> String {
    let odd =
        ['\\', '"', '\t', '\n', '\r', '\u{8}', '\u{c}', '\u{7f}', 'N', '.', 'é', '語', '😀', '\u{2028}', '/', 'u', '0'];
    let length = random.usize(0..12);
    let character = |random: &mut fastrand::Rng| match random.u8(0..3) {
        0 => random.char('\u{1}'..),
        _ => odd[random.usize(..odd.len())],
    };
    (0..length).map(|_| character(random)).collect()
}

fn null_or(random: &mut fastrand::Rng) -> serde_json::Value {
    if random.bool() { serde_json::Value::Null } else { serde_json::json!({ "n": random.bool() }) }
}

fn ascii(json: &str) -> String {
    let mut out = String::new();
    for c in json.chars() {
        match c {
            ' '..='~' => out.push(c),
            _ => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    out
}
