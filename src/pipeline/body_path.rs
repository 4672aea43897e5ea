//! Where something stands in the body of an answer: the paths of jq, as far as they lead to one place.
//!
//! `.`, `.data`, `.data.items`, `."odd name"`, `.["odd name"]`, `.[1]`, and for records a final `[]`: each element.
//! A body is walked without building it: what the path passes by is checked to be JSON, and skipped.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// One place in a body, or with a final `[]` the elements of the array there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyPath {
    text: String,
    steps: Vec<Step>,
    elements: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Member(String),
    Index(usize),
}

impl BodyPath {
    /// The path that `text` writes; none if it is not such a path.
    pub fn parse(text: &str) -> Option<BodyPath> {
        let (path, elements) = match text.strip_suffix("[]") {
            Some(path) => (path, true),
            None => (text, false),
        };
        let mut rest = path.strip_prefix('.')?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, after) = match (steps.is_empty(), rest.strip_prefix('.')) {
                // The dot before the first step is gone already, and stands before a bracket only there.
                (true, _) => step(rest)?,
                (false, Some(rest)) if !rest.starts_with('[') => step(rest)?,
                (false, None) if rest.starts_with('[') => step(rest)?,
                (false, _) => return None,
            };
            steps.push(step);
            rest = after;
        }
        Some(BodyPath { text: text.to_string(), steps, elements })
    }

    /// `.`: the body itself.
    pub fn whole() -> BodyPath {
        BodyPath { text: ".".to_string(), steps: Vec::new(), elements: false }
    }

    /// `.[]`: the body is an array, and means each of its elements.
    pub fn each_element() -> BodyPath {
        BodyPath { text: ".[]".to_string(), steps: Vec::new(), elements: true }
    }

    /// Whether it means each element of an array, rather than one value.
    pub fn is_elements(&self) -> bool {
        self.elements
    }

    /// The text at this place (the array itself, where the path means its elements); none if there is nothing. An error if
    /// the body is not JSON.
    pub fn find<'a>(&self, body: &'a str) -> Result<Option<&'a RawValue>, serde_json::Error> {
        let mut found: Option<&RawValue> = Some(serde_json::from_str(body)?);
        for step in &self.steps {
            let Some(value) = found else { return Ok(None) };
            let mut reader = serde_json::Deserializer::from_str(value.get());
            found = Walk(step).deserialize(&mut reader)?;
        }
        Ok(found)
    }

    /// The text of the records at this place: the elements of the array there, or the one value.
    pub fn records<'a>(&self, body: &'a str) -> Result<Vec<&'a RawValue>, serde_json::Error> {
        match (self.elements, self.steps.is_empty()) {
            (true, true) => serde_json::from_str(body),
            (true, false) => serde_json::from_str(self.needed(body)?.get()),
            (false, _) => Ok(vec![self.needed(body)?]),
        }
    }

    /// As [`BodyPath::find`]; that there is nothing is an error.
    pub fn needed<'a>(&self, body: &'a str) -> Result<&'a RawValue, serde_json::Error> {
        let found = self.find(body)?;
        found.ok_or_else(|| serde_json::Error::custom(format!("there is nothing at `{}`", self.text)))
    }
}

impl fmt::Display for BodyPath {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The first step of `text`, which begins behind its dot, and what is left.
fn step(text: &str) -> Option<(Step, &str)> {
    if let Some(inner) = text.strip_prefix('[') {
        if inner.starts_with('"') {
            let (name, rest) = quoted(inner)?;
            return Some((Step::Member(name), rest.strip_prefix(']')?));
        }
        let (index, rest) = inner.split_once(']')?;
        return Some((Step::Index(index.parse().ok()?), rest));
    }
    if text.starts_with('"') {
        let (name, rest) = quoted(text)?;
        return Some((Step::Member(name), rest));
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts.then(|| (Step::Member(name.to_string()), rest))
}

/// The JSON string at the beginning of `text`, and what is left.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let name = strings.next()?.ok()?;
    Some((name, &text[strings.byte_offset()..]))
}

/// One step into a value. What is neither an object nor an array has nothing within.
struct Walk<'s>(&'s Step);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut members: M) -> Result<Self::Value, M::Error> {
        let mut found = None;
        while let Some(name) = members.next_key::<Cow<str>>()? {
            match self.0 {
                Step::Member(wanted) if *wanted == *name => found = Some(members.next_value()?),
                _ => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut elements: S) -> Result<Self::Value, S::Error> {
        let mut found = None;
        let mut at = 0;
        loop {
            match self.0 {
                Step::Index(wanted) if *wanted == at => match elements.next_element()? {
                    Some(element) => found = Some(element),
                    None => return Ok(found),
                },
                _ => {
                    if elements.next_element::<IgnoredAny>()?.is_none() {
                        return Ok(found);
                    }
                }
            }
            at += 1;
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> BodyPath {
        BodyPath::parse(text).unwrap_or_else(|| panic!("{text} is a path"))
    }

    fn found(text: &str, body: &str) -> Option<String> {
        path(text).find(body).unwrap().map(|value| value.get().to_string())
    }

    #[test]
    fn a_path_leads_to_one_place() {
        let body = r#"{"a":{"b c":[10,{"d":"x"},30]},"n":null,"s":"t"}"#;
        assert_eq!(found(".", body).as_deref(), Some(body));
        assert_eq!(found(".a.\"b c\"[1].d", body).as_deref(), Some("\"x\""));
        assert_eq!(found(".a[\"b c\"][2]", body).as_deref(), Some("30"));
        assert_eq!(found(".[\"n\"]", body).as_deref(), Some("null"));
        for nowhere in [".b", ".a.b", ".s.t", ".n.x", ".a.\"b c\"[3]", ".a.\"b c\".d", ".[0]"] {
            assert_eq!(found(nowhere, body), None, "{nowhere}");
        }
        assert_eq!(found(".[1]", "[1,2]").as_deref(), Some("2"));
        assert_eq!(found(".a", r#"{"a":1,"a":2}"#).as_deref(), Some("2"), "the last counts, as everywhere");
        assert!(path(".a").find("{\"a\":1,}").is_err());
    }

    #[test]
    fn records_are_the_elements_or_the_one_value() {
        let records = |text: &str, body: &'static str| -> Result<Vec<&str>, String> {
            let records = path(text).records(body).map_err(|cause| cause.to_string())?;
            Ok(records.into_iter().map(RawValue::get).collect())
        };
        assert_eq!(records(".[]", "[1, {\"a\":2}]").unwrap(), ["1", "{\"a\":2}"]);
        assert_eq!(records(".data[]", "{\"data\":[1,2]}").unwrap(), ["1", "2"]);
        assert_eq!(records(".[1][]", "[{},[3]]").unwrap(), ["3"]);
        assert_eq!(records(".", "{\"a\":1}").unwrap(), ["{\"a\":1}"]);
        assert_eq!(records(".data", "{\"data\":{\"id\":1}}").unwrap(), ["{\"id\":1}"]);
        assert!(records(".data[]", "{\"data\":{}}").is_err());
        assert_eq!(records(".data[]", "{}").unwrap_err(), "there is nothing at `.data[]`");
    }

    #[test]
    fn what_is_no_path_to_one_place_is_refused() {
        for text in
            ["", "a", "..", ".a.", ".[", ".[]b", ".a b", ".[].a", ".a|.b", ".[-1]", ".[1:2]", ".a?", ".1", ".a.[0]"]
        {
            assert_eq!(BodyPath::parse(text), None, "{text}");
        }
        assert!(path(".a[]").is_elements() && !path(".a").is_elements());
    }
}
