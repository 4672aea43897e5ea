//! Tests of the encoding, beside it.

use super::*;
use crate::pg::catalog::Kind;

fn column(name: &str, type_name: &str, kind: Kind, binary: Binary) -> Column {
    Column {
        name: name.into(),
        type_name: type_name.into(),
        kind,
        binary: Some(binary),
        not_null: false,
        has_default: false,
        generated: false,
    }
}

fn table() -> Table {
    let mut columns = vec![
        column("id", "bigint", Kind::Other, Binary::Int8),
        column("name", "text", Kind::Text, Binary::Text),
        column("exam", "boolean", Kind::Boolean, Binary::Bool),
        column("scales", "jsonb", Kind::Json, Binary::Jsonb),
        column("total", "bigint", Kind::Other, Binary::Int8),
        column(INGESTED_AT, "timestamp with time zone", Kind::Other, Binary::Timestamptz),
    ];
    columns[0].not_null = true;
    columns[4].generated = true;
    Table { oid: 1, name: "things".into(), quoted: "things".into(), columns, primary_key: vec!["id".into()] }
}

fn encode(record: &str) -> Result<String, Wrong> {
    let table = table();
    let encoder = Encoder::new(&table, record.as_bytes(), Nul::Error)?;
    let mut out = Vec::new();
    encoder.line(record.as_bytes(), &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

fn message(record: &str) -> String {
    encode(record).unwrap_err().message
}

#[test]
fn values_go_as_they_are_written() {
    assert_eq!(
        encode(r#"{"id":12345678901234567890.10,"name":"é\"x","exam":true,"scales":[{"a": 1.0}]}"#).unwrap(),
        "12345678901234567890.10\té\"x\tt\t[{\"a\": 1.0}]"
    );
    assert_eq!(encode(r#"{"id":1,"name":null,"exam":false,"scales":null}"#).unwrap(), "1\t\\N\tf\t\\N");
    assert_eq!(encode(r#"{"exam":null,"id":"7"}"#).unwrap(), "\\N\t7");
}

#[test]
fn text_is_unescaped_from_json_and_escaped_for_copy() {
    assert_eq!(
        encode(r#"{"id":1,"name":"a\tb\nc\rd\\e\/f\b\f\u0041\u000a\u005c\ud83d\ude00\\N"}"#).unwrap(),
        "1\ta\\tb\\nc\\rd\\\\e/f\u{8}\u{c}A\\n\\\\😀\\\\N"
    );
}

#[test]
fn json_text_keeps_its_escapes() {
    assert_eq!(
        encode("{\"id\":1,\"scales\":[\"a\\nb\\\\u0000\\u00e9\",\t1]}").unwrap(),
        "1\t[\"a\\\\nb\\\\\\\\u0000\\\\u00e9\", 1]"
    );
}

#[test]
fn a_string_of_json_stays_one() {
    assert_eq!(encode(r#"{"id":1,"scales":"x"}"#).unwrap(), "1\t\"x\"");
}

#[test]
fn nul_and_half_pairs_are_refused_at_every_depth() {
    for member in [r#""name":"a\u0000""#, r#""scales":[{"a":"\u0000"}]"#] {
        assert!(
            message(&format!("{{\"id\":1,{member}}}"))
                .ends_with("holds \\u0000, a character that Postgres cannot store")
        );
    }
    for text in [r"\ud83d", r"\ude00", r"\ud83dx", r"\ud83d", r"\ud83d\ud83d"] {
        for member in [format!("\"name\":\"{text}\""), format!("\"scales\":{{\"{text}\":1}}")] {
            let message = message(&format!("{{\"id\":1,{member}}}"));
            assert!(message.ends_with("holds half of a surrogate pair, which is no character"), "{message}");
        }
    }
}

#[test]
fn what_would_mean_something_else_is_refused() {
    let remedy = |record| encode(record).unwrap_err().remedy;
    assert_eq!(message(r#"{"id":1,"name":5}"#), "value 5 of `name` does not fit text");
    assert_eq!(remedy(r#"{"id":1,"name":true}"#), Remedy::ToString);
    assert_eq!(message(r#"{"id":1,"exam":1}"#), "value 1 of `exam` does not fit boolean");
    assert_eq!(message(r#"{"id":true}"#), "value true of `id` does not fit bigint");
    assert_eq!(message(r#"{"id":1,"name":[1]}"#), "value [1] of `name` does not fit text");
    assert_eq!(remedy(r#"{"id":1,"name":{}}"#), Remedy::ToJson);
    assert_eq!(message(r#"{"id":null}"#), "value null of `id` is refused: the column is `not null`");
}

#[test]
fn keys_must_be_columns_that_take_values() {
    assert_eq!(message(r#"{"id":1,"naem":"x"}"#), "table `things` has no column `naem` (did you mean `name`?)");
    assert_eq!(message(r#"{"id":1,"total":1}"#), "the record has `total`, a column that the database computes");
    assert_eq!(
        message(r#"{"id":1,"ingested_at":1}"#),
        "the record has `ingested_at`, a column that only the loader fills"
    );
    assert_eq!(message(r#"{"name":"x"}"#), "the record has no `id`, which a row of `things` cannot do without");
}

#[test]
fn every_record_has_the_keys_of_the_first_in_any_order() {
    let table = table();
    let encoder = Encoder::new(&table, br#"{"id":1,"name":"x"}"#, Nul::Error).unwrap();
    let encode = |record: &str| {
        let mut out = Vec::new();
        encoder
            .line(record.as_bytes(), &mut out)
            .map(|()| String::from_utf8(out).unwrap())
            .map_err(|wrong| wrong.message)
    };
    assert_eq!(encode(r#"{"name":"y","id":2}"#).unwrap(), "2\ty");
    assert_eq!(encode(r#"{"id":2}"#).unwrap_err(), "the record has no `name`, which the first record has");
    assert_eq!(
        encode(r#"{"id":2,"name":"y","exam":true}"#).unwrap_err(),
        "the record is wrong: it has `exam`, which the first record does not have"
    );
    assert_eq!(encode(r#"{"id":2,"name":"y","id":3}"#).unwrap_err(), "the record is wrong: `id` stands twice");
    assert_eq!(
        encode(r#"{"id":2,"name":"#).unwrap_err(),
        "the record is wrong: EOF while parsing a value at its byte 15"
    );
    assert_eq!(
        encode(r#"{"id":2,"name":""} x"#).unwrap_err(),
        "the record is wrong: trailing characters at its byte 20"
    );
}

#[test]
fn a_record_is_named_by_its_key() {
    let record = br#"{"campus_id":1,"project_id":"x","n":2}"#;
    assert_eq!(shown_key(record, &["campus_id".into(), "project_id".into()]), "campus_id 1, project_id \"x\"");
    assert_eq!(shown_value(record, "n").unwrap(), "2");
}

/// The fields of a record of `id` and one column, as COPY's binary form has them.
fn field(value: &str, type_name: &str, binary: Binary) -> Result<Vec<u8>, Trouble> {
    let mut table = table();
    table.columns.push(column("value", type_name, Kind::Other, binary));
    let record = format!("{{\"id\":1,\"value\":{value}}}");
    let encoder = Encoder::new(&table, record.as_bytes(), Nul::Error).unwrap();
    let mut out = Vec::new();
    encoder.fields(record.as_bytes(), &[1], &mut out)?;
    Ok(out.split_off(4))
}

#[test]
fn a_tuple_is_the_fields_with_their_lengths() {
    let table = table();
    let record = br#"{"id":-2,"name":"\u00e9","exam":null}"#;
    let encoder = Encoder::new(&table, record, Nul::Error).unwrap();
    let mut out = Vec::new();
    encoder.tuple(record, &mut out).unwrap();
    let id = (-2i64).to_be_bytes();
    assert_eq!(out, [&[0, 3, 0, 0, 0, 8][..], &id, &[0, 0, 0, 2, 0xc3, 0xa9], &[0xff; 4]].concat());
}

#[test]
fn what_may_not_fit_is_in_doubt() {
    let doubtful =
        |value: &str, binary| assert_eq!(field(value, "x", binary), Err(Trouble::Doubt), "{value} {binary:?}");
    doubtful("2.0", Binary::Int4);
    doubtful("2147483648", Binary::Int4);
    doubtful("9223372036854775808", Binary::Int8);
    doubtful("true", Binary::Int8);
    doubtful("1e400", Binary::Float8);
    doubtful("1e-400", Binary::Float8);
    doubtful("1e39", Binary::Float4);
    doubtful("\"now\"", Binary::Timestamptz);
    doubtful("5", Binary::Text);
    doubtful("\"A0EEBC999C0B4EF8BB6D6BB9BD380A11\"", Binary::Uuid);
    doubtful("\"abc\"", Binary::Bytea);
    doubtful("\"yes\"", Binary::Bool);
    assert_eq!(field("\"12\"", "integer", Binary::Int4).unwrap(), 12i32.to_be_bytes());
    assert_eq!(field("0e-400", "float", Binary::Float8).unwrap(), 0f64.to_be_bytes());
    assert_eq!(field("\"\\\\x00fF\"", "bytea", Binary::Bytea).unwrap(), [0, 255]);
}

#[test]
fn characters_that_cannot_be_stored_are_left_out_or_replaced_and_counted() {
    let table = table();
    let record = br#"{"id":1,"name":"a\u0000b\ud83d","scales":{"k\u0000":["\udc00"]}}"#;
    for (nul, name, scales) in
        [(Nul::Strip, "ab", r#"{"k": [""]}"#), (Nul::Replace, "a\u{fffd}b\u{fffd}", "{\"k\u{fffd}\": [\"\u{fffd}\"]}")]
    {
        let encoder = Encoder::new(&table, record, nul).unwrap();
        let mut out = Vec::new();
        encoder.fields(record, &[1], &mut out).unwrap();
        assert_eq!(&out[4..], name.as_bytes());
        out.clear();
        encoder.fields(record, &[2], &mut out).unwrap();
        assert_eq!(&out[5..], scales.as_bytes());
        assert_eq!(encoder.mended(), 4);
    }
}
