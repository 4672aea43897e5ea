//! From a record's JSON to a line of COPY's text format, with no tree in between.
//!
//! A value goes as it is written: every digit of a number, every byte of a `json` column. What JSON and
//! Postgres both allow is left to Postgres to judge. What would pass there and mean something else (a number
//! that becomes text, 1 that becomes true) is refused here, and so is what no column can hold: NUL, and half
//! of a surrogate pair.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::excerpt;
use crate::pg::catalog::{Column, Kind, Table};

/// The loader's own column: when the row last changed here.
pub const INGESTED_AT: &str = "ingested_at";

/// Long enough to find a value by, short enough for a line.
const SHOWN_CHARS: usize = 60;

/// Why a record cannot be loaded, without its place, which the caller knows.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    pub message: String,
    pub column: Option<String>,
    pub remedy: Remedy,
}

/// What the reader can do about it, in the jq filter of the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    None,
    Convert,
    ToString,
    ToJson,
    Round,
    Remove,
}

impl Wrong {
    fn whole(message: String) -> Wrong {
        Wrong { message, column: None, remedy: Remedy::None }
    }
}

/// The columns of one export: the keys of its first record, which every other record must have too.
pub struct Encoder<'a> {
    columns: Vec<&'a Column>,
}

impl<'a> Encoder<'a> {
    /// The columns that `first` fills.
    pub fn new(table: &'a Table, first: &[u8]) -> Result<Encoder<'a>, Wrong> {
        let members = members(first)?;
        let mut columns = Vec::with_capacity(members.len());
        for (key, _) in &members {
            columns.push(column_of(table, key)?);
        }
        let encoder = Encoder { columns };
        let lacks = |column: &&Column| {
            let needed = table.primary_key.contains(&column.name) || (column.not_null && !column.has_default);
            needed && !column.generated && !encoder.columns.contains(column)
        };
        match table.columns.iter().find(lacks) {
            Some(column) => Err(Wrong {
                message: format!(
                    "the record has no `{}`, which a row of `{}` cannot do without",
                    column.name, table.name
                ),
                column: Some(column.name.clone()),
                remedy: Remedy::None,
            }),
            None => Ok(encoder),
        }
    }

    /// All columns that an export could fill, for one that has no record to tell them.
    pub fn of_all_columns(table: &'a Table) -> Encoder<'a> {
        let ours = |column: &&Column| !column.generated && column.name != INGESTED_AT;
        Encoder { columns: table.columns.iter().filter(ours).collect() }
    }

    pub fn columns(&self) -> Vec<String> {
        self.columns.iter().map(|column| column.name.clone()).collect()
    }

    /// Appends the record to `out` as one line.
    pub fn encode(&self, record: &[u8], out: &mut Vec<u8>) -> Result<(), Wrong> {
        let mut values = vec![None; self.columns.len()];
        let mut deserializer = serde_json::Deserializer::from_slice(record);
        let seed = Slots { columns: &self.columns, values: &mut values };
        let parsed = seed.deserialize(&mut deserializer).and_then(|()| deserializer.end());
        parsed.map_err(|error| Wrong::whole(format!("the record is wrong: {}", without_line(&error))))?;
        for (i, (column, value)) in self.columns.iter().zip(values).enumerate() {
            let Some(value) = value else {
                return Err(Wrong {
                    message: format!("the record has no `{}`, which the first record has", column.name),
                    column: Some(column.name.clone()),
                    remedy: Remedy::None,
                });
            };
            if i > 0 {
                out.push(b'\t');
            }
            encode_value(value.get(), column, out)?;
        }
        out.push(b'\n');
        Ok(())
    }
}

/// The column that `key` names, if a value may go there.
fn column_of<'a>(table: &'a Table, key: &str) -> Result<&'a Column, Wrong> {
    let wrong = |message| Err(Wrong { message, column: Some(key.to_string()), remedy: Remedy::None });
    match table.column(key) {
        _ if key == INGESTED_AT => wrong(format!("the record has `{key}`, a column that only the loader fills")),
        None => {
            let names = table.columns.iter().map(|column| column.name.as_str());
            let near = crate::pipeline::nearest(key, names).map(|near| format!(" (did you mean `{near}`?)"));
            wrong(format!("table `{}` has no column `{key}`{}", table.name, near.unwrap_or_default()))
        }
        Some(column) if column.generated => {
            wrong(format!("the record has `{key}`, a column that the database computes"))
        }
        Some(column) => Ok(column),
    }
}

fn encode_value(raw: &str, column: &Column, out: &mut Vec<u8>) -> Result<(), Wrong> {
    let wrong = |what: &str, remedy| {
        let message = format!("value {} of `{}` {what}", excerpt(raw, SHOWN_CHARS), column.name);
        Err(Wrong { message, column: Some(column.name.clone()), remedy })
    };
    let unfit = |remedy| wrong(&format!("does not fit {}", column.type_name), remedy);
    match (raw.as_bytes().first(), column.kind) {
        (Some(b'n'), _) if column.not_null => wrong("is refused: the column is `not null`", Remedy::Convert),
        (Some(b'n'), _) => {
            out.extend_from_slice(b"\\N");
            Ok(())
        }
        (_, Kind::Json) => push_json(raw.as_bytes(), out).or_else(|bad| wrong(bad.sentence(), Remedy::Remove)),
        (Some(b'"'), _) => {
            let inner = &raw.as_bytes()[1..raw.len() - 1];
            push_string(inner, out).or_else(|bad| wrong(bad.sentence(), Remedy::Remove))
        }
        (Some(b'{' | b'['), _) => unfit(Remedy::ToJson),
        (_, Kind::Text) => unfit(Remedy::ToString),
        (Some(b't' | b'f'), Kind::Boolean) => {
            out.push(raw.as_bytes()[0]);
            Ok(())
        }
        (Some(b't' | b'f'), _) | (_, Kind::Boolean) => unfit(Remedy::Convert),
        (_, Kind::Other) => {
            out.extend_from_slice(raw.as_bytes());
            Ok(())
        }
    }
}

/// What a string can hold in JSON and no column of Postgres can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unstorable {
    Nul,
    HalfPair,
}

impl Unstorable {
    fn sentence(self) -> &'static str {
        match self {
            Unstorable::Nul => "holds \\u0000, a character that Postgres cannot store",
            Unstorable::HalfPair => "holds half of a surrogate pair, which is no character",
        }
    }
}

/// Unescapes a string (between its quotes) and escapes it for COPY.
fn push_string(mut rest: &[u8], out: &mut Vec<u8>) -> Result<(), Unstorable> {
    // JSON has no raw control characters, so what has no backslash is the same in COPY.
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        out.extend_from_slice(&rest[..at]);
        let kind = rest.get(at + 1).copied().unwrap_or(b'\\');
        rest = rest.get(at + 2..).unwrap_or_default();
        match kind {
            b'u' => {
                let (c, length) = unicode_escape(rest)?;
                rest = &rest[length..];
                push_char(c, out);
            }
            b'b' => out.push(8),
            b'f' => out.push(12),
            // COPY's own names for these three, and a doubled backslash.
            b'n' | b'r' | b't' | b'\\' => out.extend_from_slice(&[b'\\', kind]),
            plain => out.push(plain),
        }
    }
    out.extend_from_slice(rest);
    Ok(())
}

fn push_char(c: char, out: &mut Vec<u8>) {
    match c {
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        '\\' => out.extend_from_slice(b"\\\\"),
        c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// JSON text as it is written, escaped for COPY.
fn push_json(mut rest: &[u8], out: &mut Vec<u8>) -> Result<(), Unstorable> {
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\\' | b'\t' | b'\r' | b'\n')) {
        out.extend_from_slice(&rest[..at]);
        if rest[at] != b'\\' {
            // White space between tokens.
            out.push(b' ');
            rest = &rest[at + 1..];
            continue;
        }
        let mut length = 2;
        if rest.get(at + 1) == Some(&b'u') {
            length += unicode_escape(&rest[at + 2..])?.1;
        }
        let escape = &rest[at..rest.len().min(at + length)];
        for byte in escape {
            out.extend_from_slice(if *byte == b'\\' { b"\\\\" } else { std::slice::from_ref(byte) });
        }
        rest = &rest[at + escape.len()..];
    }
    out.extend_from_slice(rest);
    Ok(())
}

/// The character of `XXXX` or `XXXX\uXXXX` at the start of `text`, and how many bytes it took.
fn unicode_escape(text: &[u8]) -> Result<(char, usize), Unstorable> {
    let unit = |from: usize| {
        let digits = text.get(from..from + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        digits.and_then(|digits| u16::from_str_radix(digits, 16).ok())
    };
    let first = unit(0).ok_or(Unstorable::HalfPair)?;
    if first == 0 {
        return Err(Unstorable::Nul);
    }
    if let Some(c) = char::from_u32(first.into()) {
        return Ok((c, 4));
    }
    let second = if text.get(4..6) == Some(b"\\u") { unit(6) } else { None };
    let pair = [first, second.unwrap_or(0)];
    match char::decode_utf16(pair).next() {
        Some(Ok(c)) => Ok((c, 10)),
        _ => Err(Unstorable::HalfPair),
    }
}

/// The value of each column of `columns`, as `id 7, name "x"`: how messages name a record.
pub fn shown_key(record: &[u8], columns: &[String]) -> String {
    let members = members(record).unwrap_or_default();
    let shown = columns.iter().filter_map(|name| {
        let (_, value) = members.iter().find(|(key, _)| key == name)?;
        Some(format!("{name} {}", excerpt(value.get(), SHOWN_CHARS)))
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// The value of one member of a record as messages show it.
pub fn shown_value(record: &[u8], column: &str) -> Option<String> {
    let members = members(record).ok()?;
    let (_, value) = members.iter().find(|(key, _)| key == column)?;
    Some(excerpt(value.get(), SHOWN_CHARS))
}

type Members<'de> = Vec<(Cow<'de, str>, &'de RawValue)>;

/// All members of a record, in their order.
fn members(record: &[u8]) -> Result<Members<'_>, Wrong> {
    struct All;
    impl<'de> Visitor<'de> for All {
        type Value = Members<'de>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members: Members = Vec::new();
            while let Some(key) = map.next_key_seed(Key)? {
                if members.iter().any(|(other, _)| *other == key) {
                    return Err(A::Error::custom(format!("`{key}` stands twice")));
                }
                members.push((key, map.next_value()?));
            }
            Ok(members)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_slice(record);
    let members = deserializer.deserialize_map(All).and_then(|members| deserializer.end().map(|()| members));
    members.map_err(|error| Wrong::whole(format!("the record is wrong: {}", without_line(&error))))
}

/// Puts the members of a record into the places of their columns.
struct Slots<'s, 'a, 'de> {
    columns: &'s [&'a Column],
    values: &'s mut [Option<&'de RawValue>],
}

impl<'de> DeserializeSeed<'de> for Slots<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Slots<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut expected = 0;
        while let Some(key) = map.next_key_seed(Key)? {
            // All records of an export have their keys in one order, mostly.
            let place =
                match self.columns.get(expected) {
                    Some(column) if column.name == key => expected,
                    _ => self.columns.iter().position(|column| column.name == key).ok_or_else(|| {
                        A::Error::custom(format!("it has `{key}`, which the first record does not have"))
                    })?,
                };
            if self.values[place].replace(map.next_value()?).is_some() {
                return Err(A::Error::custom(format!("`{key}` stands twice")));
            }
            expected = place + 1;
        }
        Ok(())
    }
}

/// A key, borrowed unless it has escapes.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_string()))
    }
}

/// The parser's message; its line is always 1, since a record is one, and would mislead.
fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(message) if error.is_data() => message.to_string(),
        Some(message) => format!("{message} at its byte {}", error.column()),
        None => text,
    }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
