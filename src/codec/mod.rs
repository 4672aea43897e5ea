//! From a record's JSON to a row of COPY, with no tree in between: in the binary form ([`Encoder::tuple`]), by which rows
//! are compared and sent, and in the text form ([`Encoder::line`]), which every type has.
//!
//! A value goes as it is written: every digit of a number, every byte of a `json` column. The text form leaves it to
//! Postgres what fits a type. What would pass there and mean something else (a number that becomes text, 1 that
//! becomes true) is refused here. What is not surely of a known binary form is [`Trouble::Doubt`]: the text
//! form knows what to do with it, or the server says what is wrong.

mod jsonb;
mod number;
mod scan;
mod strings;
mod text;
mod time;
mod value;

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::excerpt;
use crate::pg::catalog::{Binary, Column, Table};
use crate::pipeline::Nul;

use jsonb::Failure;
use strings::{Policy, Unstorable};

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

/// Why there is no binary form of a record.
#[derive(Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nor is there another.
    Wrong(Wrong),
    /// The text form may do.
    Doubt,
}

impl From<Wrong> for Trouble {
    fn from(wrong: Wrong) -> Trouble {
        Trouble::Wrong(wrong)
    }
}

impl Wrong {
    fn whole(message: String) -> Wrong {
        Wrong { message, column: None, remedy: Remedy::None }
    }
}

/// The columns of one export: the keys of its first record, which every other record must have too.
pub struct Encoder<'a> {
    columns: Vec<&'a Column>,
    /// The columns as a record's keys, with quotes and colon.
    keys: Vec<String>,
    policy: Policy,
    /// Where the values of a record stand; kept for the next.
    spans: Cell<Vec<(usize, usize)>>,
}

impl<'a> Encoder<'a> {
    /// The columns that `first` fills.
    pub fn new(table: &'a Table, first: &[u8], nul: Nul) -> Result<Encoder<'a>, Wrong> {
        let members = members(first)?;
        let mut columns = Vec::with_capacity(members.len());
        for (key, _) in &members {
            columns.push(column_of(table, key)?);
        }
        let encoder = Encoder::of(columns, nul);
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
    pub fn of_all_columns(table: &'a Table, nul: Nul) -> Encoder<'a> {
        let ours = |column: &&Column| !column.generated && column.name != INGESTED_AT;
        Encoder::of(table.columns.iter().filter(ours).collect(), nul)
    }

    fn of(columns: Vec<&'a Column>, nul: Nul) -> Encoder<'a> {
        let keys = columns.iter().map(|column| format!("{}:", serde_json::Value::from(column.name.as_str()))).collect();
        Encoder { columns, keys, policy: Policy::new(nul), spans: Cell::default() }
    }

    pub fn columns(&self) -> &[&'a Column] {
        &self.columns
    }

    /// How many characters that cannot be stored were left out or replaced.
    pub fn mended(&self) -> u64 {
        self.policy.mended()
    }

    /// Appends the record as a row of COPY's binary form: the number of its fields, then each with its length.
    pub fn tuple(&self, record: &[u8], out: &mut Vec<u8>) -> Result<(), Trouble> {
        out.extend_from_slice(&(self.columns.len() as i16).to_be_bytes());
        self.with_values(record, |values| {
            values.enumerate().try_for_each(|(place, value)| self.write_field(place, value, out))
        })
    }

    /// Appends the fields of these columns (by place) in their binary form, nothing before them.
    pub fn fields(&self, record: &[u8], places: &[usize], out: &mut Vec<u8>) -> Result<(), Trouble> {
        self.with_values(record, |values| {
            let values: Vec<&str> = values.collect();
            places.iter().try_for_each(|place| self.write_field(*place, values[*place], out))
        })
    }

    /// Appends the record to `out` as fields of COPY's text form, without the end of the line.
    pub fn line(&self, record: &[u8], out: &mut Vec<u8>) -> Result<(), Wrong> {
        self.with_values(record, |values| {
            for (place, value) in values.enumerate() {
                if place > 0 {
                    out.push(b'\t');
                }
                text::write(value, self.columns[place], &self.policy, out)?;
            }
            Ok(())
        })
    }

    /// Hands the values of a record, in the order of the columns, to `take`.
    fn with_values<'r, E: From<Wrong>>(
        &self,
        record: &'r [u8],
        take: impl FnOnce(&mut dyn Iterator<Item = &'r str>) -> Result<(), E>,
    ) -> Result<(), E> {
        let text = std::str::from_utf8(record).map_err(|_| Wrong::whole("the record is not UTF-8".to_string()))?;
        let mut spans = self.spans.take();
        spans.clear();
        let taken = match scan::spans(text, &self.keys, &mut spans) {
            Some(()) => take(&mut spans.iter().map(|(start, end)| &text[*start..*end])),
            None => self.parsed(text).map_err(E::from).and_then(|values| take(&mut values.into_iter())),
        };
        self.spans.set(spans);
        taken
    }

    /// The values of a record in any order and layout, or what is wrong with it.
    fn parsed<'r>(&self, record: &'r str) -> Result<Vec<&'r str>, Wrong> {
        let mut values = vec![None; self.columns.len()];
        let mut deserializer = serde_json::Deserializer::from_str(record);
        let seed = Slots { columns: &self.columns, values: &mut values };
        let parsed = seed.deserialize(&mut deserializer).and_then(|()| deserializer.end());
        parsed.map_err(|error| Wrong::whole(format!("the record is wrong: {}", without_line(&error))))?;
        let given = self.columns.iter().zip(values).map(|(column, value)| {
            value.map(RawValue::get).ok_or_else(|| Wrong {
                message: format!("the record has no `{}`, which the first record has", column.name),
                column: Some(column.name.clone()),
                remedy: Remedy::None,
            })
        });
        given.collect()
    }

    fn write_field(&self, place: usize, value: &str, out: &mut Vec<u8>) -> Result<(), Trouble> {
        let column = self.columns[place];
        write_binary(value, column, column.binary.ok_or(Trouble::Doubt)?, &self.policy, out)
    }
}

fn write_binary(raw: &str, column: &Column, binary: Binary, policy: &Policy, out: &mut Vec<u8>) -> Result<(), Trouble> {
    if raw == "null" {
        return match column.not_null {
            true => Err(wrong_value(raw, column, "is refused: the column is `not null`", Remedy::Convert).into()),
            false => {
                value::write_null(out);
                Ok(())
            }
        };
    }
    value::write(raw.as_bytes(), binary, policy, out).map_err(|failure| match failure {
        Failure::Unstorable(unstorable) => wrong_string(raw, column, unstorable).into(),
        Failure::Doubt => Trouble::Doubt,
    })
}

fn wrong_value(raw: &str, column: &Column, what: &str, remedy: Remedy) -> Wrong {
    let message = format!("value {} of `{}` {what}", excerpt(raw, SHOWN_CHARS), column.name);
    Wrong { message, column: Some(column.name.clone()), remedy }
}

fn wrong_string(raw: &str, column: &Column, unstorable: Unstorable) -> Wrong {
    wrong_value(raw, column, unstorable.sentence(), Remedy::Remove)
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

/// The value of each column of `columns`, each once, as `id 7, name "x"`: how messages name a record.
pub fn shown_key(record: &[u8], columns: &[String]) -> String {
    let members = members(record).unwrap_or_default();
    let mut seen: Vec<&String> = Vec::new();
    let shown = columns.iter().filter_map(|name| {
        if seen.contains(&name) {
            return None;
        }
        seen.push(name);
        let (_, value) = members.iter().find(|(key, _)| key == name)?;
        Some(format!("{name} {}", excerpt(value.get(), SHOWN_CHARS)))
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// A value of the binary form as messages show it, of the types that rows can be ordered by.
pub fn shown_binary(bytes: &[u8], binary: Option<Binary>) -> String {
    value::shown(bytes, binary).map_or_else(|| "?".to_string(), |text| excerpt(&text, SHOWN_CHARS))
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
mod tests;
