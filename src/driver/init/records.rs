//! Where the records stand in an answer, what columns they would have, and which member tells them apart.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::names::{Names, snake, step};
use crate::pipeline::BodyPath;

/// Members that hold the records of a page in many APIs, the likeliest first.
const WRAPPERS: [&str; 11] =
    ["results", "data", "items", "records", "rows", "entries", "values", "objects", "content", "hits", "list"];
/// Members that show that an object is a page rather than a record.
const SIGNS_OF_A_PAGE: [&str; 14] = [
    "next",
    "next_url",
    "next_page",
    "next_cursor",
    "nextCursor",
    "nextPageToken",
    "next_page_token",
    "total",
    "count",
    "total_count",
    "totalCount",
    "page",
    "offset",
    "skip",
];
/// Members that tell records apart in many APIs, the likeliest first.
const KEYS: [&str; 9] = ["id", "uuid", "guid", "key", "code", "slug", "number", "login", "name"];

/// A raw record: its members in their order.
pub struct Record(pub Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Record, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Record;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut members: M) -> Result<Record, M::Error> {
                let mut record = Vec::new();
                while let Some(member) = members.next_entry()? {
                    record.push(member);
                }
                Ok(Record(record))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// The paths where the records of a body can be, the likeliest first; `index` is what the index is called.
pub fn places(body: &Value, index: &str) -> Result<Vec<String>, String> {
    let object = match body {
        Value::Array(elements) if elements.is_empty() => return Err("the answer has no records".to_string()),
        Value::Array(elements) if elements.iter().all(Value::is_object) => return Ok(vec![".[]".to_string()]),
        Value::Array(_) => return Err("the elements of the answer are not objects".to_string()),
        Value::Object(object) => object,
        _ => return Err("the answer is neither an array nor an object".to_string()),
    };
    let is_page = SIGNS_OF_A_PAGE.iter().any(|sign| object.contains_key(*sign)) && !object.contains_key("id");
    let named = |name: &str| WRAPPERS.contains(&name) || snake(name) == index;
    let mut lists: Vec<(String, &str, &Value)> = Vec::new();
    for (name, value) in object {
        lists.push((step(name), name, value));
        if let Value::Object(inner) = value {
            lists.extend(
                inner.iter().map(|(within, value)| (format!("{}{}", step(name), step(within)), &**within, value)),
            );
        }
    }
    lists.retain(|(_, name, value)| {
        let Value::Array(elements) = value else { return false };
        elements.iter().all(Value::is_object) && (named(name) || (is_page && !elements.is_empty()))
    });
    // The likeliest name first, and what stands further out.
    lists.sort_by_key(|(path, name, _)| {
        let place = WRAPPERS.iter().position(|wrapper| wrapper == name).unwrap_or(WRAPPERS.len());
        (snake(name) != index, place, path.len())
    });
    match lists.first() {
        Some((_, _, Value::Array(elements))) if elements.is_empty() => Err("the answer has no records".to_string()),
        Some(_) => {
            let lists =
                lists.iter().filter(|(.., value)| value.as_array().is_some_and(|elements| !elements.is_empty()));
            Ok(lists.map(|(path, ..)| format!("{path}[]")).collect())
        }
        None => Ok(vec![".".to_string()]),
    }
}

/// The records at `place` of a body's text.
pub fn records(body: &str, place: &str) -> Result<Vec<Record>, String> {
    let path = BodyPath::parse(place).ok_or_else(|| format!("`{place}` is no path to records"))?;
    let texts = path.records(body).map_err(|cause| cause.to_string())?;
    texts.into_iter().map(|text| serde_json::from_str(text.get()).map_err(|cause| cause.to_string())).collect()
}

/// What a column's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Null,
    Boolean,
    Integer,
    Number,
    Date,
    Timestamp,
    LocalTimestamp,
    Uuid,
    Text,
    Json,
}

/// A member of the records, as a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// In the raw record, by jq.
    pub path: String,
    /// The member that it is; none: it stands within one.
    pub member: Option<String>,
    pub kind: Kind,
}

impl Kind {
    fn of(value: &Value) -> Kind {
        match value {
            Value::Null => Kind::Null,
            Value::Bool(_) => Kind::Boolean,
            Value::Number(number) if number.is_i64() => Kind::Integer,
            Value::Number(_) => Kind::Number,
            Value::String(text) => Kind::of_text(text),
            Value::Array(_) | Value::Object(_) => Kind::Json,
        }
    }

    fn of_text(text: &str) -> Kind {
        let digits = |range: std::ops::Range<usize>| {
            text.get(range).is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if text.len() == 36 && [8, 13, 18, 23].iter().all(|at| text.as_bytes()[*at] == b'-') {
            return if hex(&text.replace('-', "")) { Kind::Uuid } else { Kind::Text };
        }
        // Other ways to write a time are texts that look like one by chance.
        if !digits(0..4) || !digits(5..7) || !digits(8..10) || text.contains('[') {
            return Kind::Text;
        }
        match text.len() {
            10 if text.parse::<jiff::civil::Date>().is_ok() => Kind::Date,
            11.. if text.parse::<jiff::Timestamp>().is_ok() => Kind::Timestamp,
            11.. if text.parse::<jiff::civil::DateTime>().is_ok() => Kind::LocalTimestamp,
            _ => Kind::Text,
        }
    }

    /// What holds values of both kinds.
    fn and(self, other: Kind) -> Kind {
        use Kind::*;
        let is_text = |kind| matches!(kind, Date | Timestamp | LocalTimestamp | Uuid | Text);
        match (self, other) {
            (one, two) if one == two => one,
            (Null, kind) | (kind, Null) => kind,
            (Integer, Number) | (Number, Integer) => Number,
            (one, two) if is_text(one) && is_text(two) => Text,
            _ => Json,
        }
    }

    pub fn sql(self) -> &'static str {
        match self {
            Kind::Boolean => "boolean",
            Kind::Integer => "bigint",
            Kind::Number => "numeric",
            Kind::Date => "date",
            Kind::Timestamp => "timestamptz",
            Kind::LocalTimestamp => "timestamp",
            Kind::Uuid => "uuid",
            Kind::Text => "text",
            // Whatever it will be once it is something: jsonb takes it.
            Kind::Json | Kind::Null => "jsonb",
        }
    }

    fn may_be_key(self) -> bool {
        matches!(self, Kind::Integer | Kind::Uuid | Kind::Text | Kind::Date)
    }
}

/// A column for every member, in the order in which they are seen; an object with an `id` has one for that too.
pub fn columns(records: &[Record]) -> Vec<Column> {
    let mut members: Vec<&str> = Vec::new();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (member, _) in records.iter().flat_map(|record| &record.0) {
        if seen.insert(member) {
            members.push(member);
        }
    }
    let mut names = Names::new();
    // Those that need no other name have it before those that do.
    let mut named: Vec<Option<String>> =
        members.iter().map(|member| (snake(member) == **member).then(|| names.column(member))).collect();
    let mut columns = Vec::new();
    for (member, name) in members.iter().zip(&mut named) {
        let name = name.take().unwrap_or_else(|| names.column(member));
        let kind = kind_of(records, |record| record.get(member));
        let within = kind_of(records, |record| record.get(member).and_then(|value| value.get("id")));
        let is_object = |record: &Record| record.get(member).is_none_or(|value| value.is_object() || value.is_null());
        let reference = format!("{member}_id");
        let path = step(member);
        columns.push(Column { name, path: path.clone(), member: Some(member.to_string()), kind });
        if kind == Kind::Json && within.may_be_key() && records.iter().all(is_object) && !seen.contains(&*reference) {
            columns.push(Column {
                name: names.column(&reference),
                path: format!("{path}.id"),
                member: None,
                kind: within,
            });
        }
    }
    columns
}

fn kind_of<'a>(records: &'a [Record], value: impl Fn(&'a Record) -> Option<&'a Value>) -> Kind {
    records.iter().map(|record| value(record).map_or(Kind::Null, Kind::of)).fold(Kind::Null, Kind::and)
}

impl Record {
    pub fn get(&self, member: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| name == member).map(|(_, value)| value)
    }

    /// The value of a column, unless it is null.
    fn at(&self, column: &Column) -> Option<&Value> {
        self.get(column.member.as_deref()?).filter(|value| !value.is_null())
    }
}

/// The columns, by place, whose values tell all these records apart and are always there; none if no one and no two do.
pub fn key(columns: &[Column], records: &[Record]) -> Option<Vec<usize>> {
    let given = |place: &usize| {
        let column = &columns[*place];
        column.kind.may_be_key() && records.iter().all(|record| record.at(column).is_some())
    };
    let tells_apart = |places: &[usize]| {
        let values = |record: &Record| -> Vec<String> {
            places.iter().filter_map(|place| record.at(&columns[*place])).map(Value::to_string).collect()
        };
        let distinct: BTreeSet<Vec<String>> = records.iter().map(values).collect();
        distinct.len() == records.len()
    };
    let mut candidates: Vec<usize> = (0..columns.len()).filter(given).collect();
    candidates.sort_by_key(|place| {
        let Column { name, kind, .. } = &columns[*place];
        let likely = KEYS.iter().position(|key| key == name).unwrap_or(KEYS.len());
        (likely, !name.ends_with("_id"), *kind != Kind::Integer, *place)
    });
    let pairs = candidates.iter().enumerate();
    let pairs = pairs.flat_map(|(i, one)| candidates[i + 1..].iter().map(|other| vec![*one, *other]));
    let singles = candidates.iter().map(|place| vec![*place]);
    singles.chain(pairs).find(|places| tells_apart(places))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<Record> {
        serde_json::from_str(text).unwrap()
    }

    fn told(text: &str) -> Vec<String> {
        columns(&parsed(text)).iter().map(|c| format!("{} {} {}", c.name, c.path, c.kind.sql())).collect()
    }

    #[test]
    fn records_are_found_in_what_is_around_them() {
        let all = |body: &str| places(&serde_json::from_str(body).unwrap(), "books");
        let of = |body: &str| all(body).map(|places| places[0].clone());
        let two = r#"{"page":1,"items":[{"id":1}],"books":[{"id":1}],"none":[]}"#;
        assert_eq!(all(two).unwrap(), [".books[]", ".items[]"]);
        assert_eq!(of(r#"[{"id":1}]"#).unwrap(), ".[]");
        assert_eq!(of(r#"{"count":1,"next":null,"results":[{"id":1}]}"#).unwrap(), ".results[]");
        assert_eq!(of(r#"{"total":9,"volumes":[{"id":1}],"odd":[1]}"#).unwrap(), ".volumes[]");
        assert_eq!(of(r#"{"ok":true,"books":[{"id":1}],"authors":[{"id":1}]}"#).unwrap(), ".books[]");
        assert_eq!(of(r#"{"response":{"items":[{"id":1}]}}"#).unwrap(), ".response.items[]");
        assert_eq!(of(r#"{"_embedded":{"a-b":[{"id":1}]},"page":1}"#).unwrap(), "._embedded.\"a-b\"[]");
        assert_eq!(of(r#"{"id":7,"name":"x","parts":[{"id":1}],"count":2}"#).unwrap(), ".");
        assert_eq!(of("[]").unwrap_err(), "the answer has no records");
        assert_eq!(of(r#"{"results":[]}"#).unwrap_err(), "the answer has no records");
        assert_eq!(of("[1]").unwrap_err(), "the elements of the answer are not objects");
        assert_eq!(of("7").unwrap_err(), "the answer is neither an array nor an object");
    }

    #[test]
    fn a_type_holds_all_values_that_were_seen() {
        let kinds = |values: &str| {
            let values: Vec<Value> = serde_json::from_str(values).unwrap();
            values.iter().map(Kind::of).fold(Kind::Null, Kind::and).sql()
        };
        assert_eq!(kinds("[1, null, 3]"), "bigint");
        assert_eq!(kinds("[1, 2.5]"), "numeric");
        assert_eq!(kinds("[18446744073709551615]"), "numeric");
        assert_eq!(kinds("[true, null]"), "boolean");
        assert_eq!(kinds("[\"2024-02-29\"]"), "date");
        assert_eq!(kinds("[\"2023-02-29\"]"), "text");
        assert_eq!(kinds("[\"2024-01-01T10:00:00.123Z\", \"2024-01-01T10:00:00+02:00\"]"), "timestamptz");
        assert_eq!(kinds("[\"2024-01-01T10:00:00\", \"2024-01-01 10:00:00\"]"), "timestamp");
        assert_eq!(kinds("[\"2024-01-01\", \"2024-01-01T10:00:00Z\"]"), "text");
        assert_eq!(kinds("[\"c0ffee00-0000-4000-8000-000000000000\"]"), "uuid");
        assert_eq!(kinds("[\"\", \"2024-01-01\"]"), "text");
        assert_eq!(kinds("[1, \"1\"]"), "jsonb");
        assert_eq!(kinds("[[], {}]"), "jsonb");
        assert_eq!(kinds("[null]"), "jsonb");
    }

    #[test]
    fn columns_stand_in_the_order_of_the_members() {
        let records = r#"[{"id":1,"createdAt":"2024-01-01T00:00:00Z","active?":true,"owner":{"id":7,"login":"x"}},
                          {"id":2,"created_at":"x","owner":null,"tags":["a"]}]"#;
        assert_eq!(
            told(records),
            [
                "id .id bigint",
                "created_at_2 .createdAt timestamptz",
                "active .\"active?\" boolean",
                "owner .owner jsonb",
                "owner_id .owner.id bigint",
                "created_at .created_at text",
                "tags .tags jsonb",
            ]
        );
        assert_eq!(told(r#"[{"o":{"id":1},"o_id":2}]"#), ["o .o jsonb", "o_id .o_id bigint"]);
        assert_eq!(told(r#"[{"o":{"id":1}},{"o":"x"}]"#), ["o .o jsonb"]);
    }

    #[test]
    fn the_key_is_what_tells_all_records_apart() {
        let of = |text: &str| {
            let records = parsed(text);
            let columns = columns(&records);
            key(&columns, &records)
                .map(|key| key.iter().map(|i| columns[*i].name.clone()).collect::<Vec<_>>().join(","))
        };
        assert_eq!(of(r#"[{"name":"a","id":1},{"name":"b","id":2}]"#).as_deref(), Some("id"));
        assert_eq!(of(r#"[{"name":"a","id":1},{"name":"b","id":1}]"#).as_deref(), Some("name"));
        assert_eq!(of(r#"[{"name":"a","id":1},{"name":"b","id":null}]"#).as_deref(), Some("name"));
        assert_eq!(of(r#"[{"n":1,"book_id":2},{"n":2,"book_id":3}]"#).as_deref(), Some("book_id"));
        assert_eq!(of(r#"[{"a":1,"b":1},{"a":1,"b":2},{"a":2,"b":1}]"#).as_deref(), Some("a,b"));
        assert_eq!(of(r#"[{"a":1},{"a":1}]"#), None);
        assert_eq!(of(r#"[{"a":1.5},{"a":2.5}]"#), None);
    }
}
