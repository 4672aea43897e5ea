//! Loading: values arrive as they were written, whatever they are and wherever they go.

use crate::load::load;
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
