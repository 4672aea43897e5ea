//! One value of a record in COPY's text form, which the server reads as it reads a literal.

use serde_json::value::RawValue;

use super::strings::{Policy, Unstorable, cleaned, unescaped};
use super::{Remedy, SHOWN_CHARS, Wrong, wrong_string, wrong_value};
use crate::error::excerpt;
use crate::pg::catalog::{Column, Element, Kind};

pub fn write(raw: &str, column: &Column, policy: &Policy, out: &mut Vec<u8>) -> Result<(), Wrong> {
    let unfit = |remedy| Err(wrong_value(raw, column, &format!("does not fit {}", column.type_name), remedy));
    let bad = |unstorable| wrong_string(raw, column, unstorable);
    let bytes = raw.as_bytes();
    match (bytes.first(), column.kind) {
        (Some(b'n'), _) if column.not_null => {
            return Err(wrong_value(raw, column, "is refused: the column is `not null`", Remedy::Convert));
        }
        (Some(b'n'), _) => out.extend_from_slice(b"\\N"),
        (_, Kind::Json) => escape(&cleaned(bytes, policy).map_err(bad)?, out),
        (Some(b'"'), _) => escape(&unescaped(&bytes[1..bytes.len() - 1], policy).map_err(bad)?, out),
        (Some(b'['), Kind::Array(element)) => {
            let mut literal = Vec::new();
            array(raw, element, policy, &mut literal).map_err(|bad| match bad {
                BadElement::Unstorable(unstorable) => wrong_string(raw, column, unstorable),
                BadElement::Unfit { place, text, remedy } => {
                    let of = column.type_name.trim_end_matches("[]");
                    let text = excerpt(&text, SHOWN_CHARS);
                    wrong_value(
                        raw,
                        column,
                        &format!("does not fit {}: its element {place}, {text}, is no {of}", column.type_name),
                        remedy,
                    )
                }
            })?;
            escape(&literal, out);
        }
        (Some(b'{' | b'['), _) => return unfit(Remedy::ToJson),
        (_, Kind::Text) => return unfit(Remedy::ToString),
        (Some(b't' | b'f'), Kind::Boolean) => out.push(bytes[0]),
        (Some(b't' | b'f'), _) | (_, Kind::Boolean | Kind::Array(_)) => return unfit(Remedy::Convert),
        (_, Kind::Other) => out.extend_from_slice(bytes),
    }
    Ok(())
}

/// What COPY takes for its own marks is escaped.
fn escape(text: &[u8], out: &mut Vec<u8>) {
    let mut plain = 0;
    for (i, byte) in text.iter().enumerate() {
        let name = match byte {
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            _ => continue,
        };
        out.extend_from_slice(&text[plain..i]);
        out.extend_from_slice(&[b'\\', name]);
        plain = i + 1;
    }
    out.extend_from_slice(&text[plain..]);
}

/// Why an array cannot be loaded.
enum BadElement {
    Unstorable(Unstorable),
    /// The place counts from 1; within an array of arrays it is `2.1`.
    Unfit {
        place: String,
        text: String,
        remedy: Remedy,
    },
}

impl From<Unstorable> for BadElement {
    fn from(unstorable: Unstorable) -> BadElement {
        BadElement::Unstorable(unstorable)
    }
}

/// A literal of an array: `{1,NULL,"a"}`. What would pass and mean something else is refused, as of a single value.
fn array(raw: &str, kind: Element, policy: &Policy, out: &mut Vec<u8>) -> Result<(), BadElement> {
    // The parser of the record has been here before.
    let elements: Vec<&RawValue> = serde_json::from_str(raw).unwrap_or_default();
    out.push(b'{');
    for (i, element) in elements.iter().map(|element| element.get()).enumerate() {
        if i > 0 {
            out.push(b',');
        }
        let unfit = |remedy| Err(BadElement::Unfit { place: (i + 1).to_string(), text: element.to_string(), remedy });
        match (element.as_bytes(), kind) {
            ([b'[', ..], _) => array(element, kind, policy, out).map_err(|bad| within(i + 1, bad))?,
            ([b'n', ..], _) => out.extend_from_slice(b"NULL"),
            (json, Element::Json) => quote(&cleaned(json, policy)?, out),
            ([b'"', inner @ .., b'"'], _) => quote(&unescaped(inner, policy)?, out),
            ([b'{', ..], _) => return unfit(Remedy::ToJson),
            (_, Element::Text) => return unfit(Remedy::ToString),
            ([b't' | b'f', ..], Element::Other) => return unfit(Remedy::Convert),
            ([b'-' | b'0'..=b'9', ..], Element::Boolean) => return unfit(Remedy::Convert),
            (plain, _) => out.extend_from_slice(plain),
        }
    }
    out.push(b'}');
    Ok(())
}

fn within(outer: usize, bad: BadElement) -> BadElement {
    match bad {
        BadElement::Unfit { place, text, remedy } => {
            BadElement::Unfit { place: format!("{outer}.{place}"), text, remedy }
        }
        unstorable => unstorable,
    }
}

fn quote(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'"');
}
