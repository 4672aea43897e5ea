//! One value of a record in COPY's text form, which the server reads as it reads a literal.

use serde_json::value::RawValue;

use super::strings::{Policy, Unstorable, cleaned, unescaped};
use super::{Remedy, Wrong, wrong_string, wrong_value};
use crate::pg::catalog::{Column, Kind};

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
        (Some(b'['), Kind::Array) => {
            let mut literal = Vec::new();
            array(raw, policy, &mut literal).map_err(bad)?;
            escape(&literal, out);
        }
        (Some(b'{' | b'['), _) => return unfit(Remedy::ToJson),
        (_, Kind::Text) => return unfit(Remedy::ToString),
        (Some(b't' | b'f'), Kind::Boolean) => out.push(bytes[0]),
        (Some(b't' | b'f'), _) | (_, Kind::Boolean | Kind::Array) => return unfit(Remedy::Convert),
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

/// A literal of an array: `{1,NULL,"a"}`.
fn array(raw: &str, policy: &Policy, out: &mut Vec<u8>) -> Result<(), Unstorable> {
    // The parser of the record has been here before.
    let elements: Vec<&RawValue> = serde_json::from_str(raw).unwrap_or_default();
    out.push(b'{');
    for (i, element) in elements.iter().map(|element| element.get()).enumerate() {
        if i > 0 {
            out.push(b',');
        }
        match element.as_bytes() {
            [b'[', ..] => array(element, policy, out)?,
            [b'n', ..] => out.extend_from_slice(b"NULL"),
            [b'"', inner @ .., b'"'] => quote(&unescaped(inner, policy)?, out),
            [b'{', ..] => quote(&cleaned(element.as_bytes(), policy)?, out),
            plain => out.extend_from_slice(plain),
        }
    }
    out.push(b'}');
    Ok(())
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
