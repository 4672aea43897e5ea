//! JSON text as the server prints it back from a `jsonb`: its canonical form, by which two values are the same or not.
//!
//! Members are ordered by the length of their names, then by their bytes; of two of one name the last stays. Numbers
//! are in plain notation with the digits they were given (src/backend/utils/adt/jsonb.c and jsonb_util.c,
//! `lengthCompareJsonbStringValue`; json.c, `escape_json`).

use std::borrow::Cow;

use super::number::Decimal;
use super::strings::{Policy, Unstorable, unescaped};

/// Deeper than any answer, and far from the end of a thread's stack.
const MOST_DEPTH: usize = 256;

/// Why there is no canonical form.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    Unstorable(Unstorable),
    /// Only the server can tell.
    Doubt,
}

impl From<Unstorable> for Failure {
    fn from(unstorable: Unstorable) -> Failure {
        Failure::Unstorable(unstorable)
    }
}

/// Appends the canonical form of `json`, which is valid JSON.
pub fn write(json: &[u8], policy: &Policy, out: &mut Vec<u8>) -> Result<(), Failure> {
    let mut reader = Reader { json, at: 0, policy };
    reader.value(out, 0)
}

struct Reader<'a> {
    json: &'a [u8],
    at: usize,
    policy: &'a Policy,
}

impl<'a> Reader<'a> {
    /// The next byte that is no white space.
    fn peek(&mut self) -> u8 {
        while let Some(byte) = self.json.get(self.at) {
            if !byte.is_ascii_whitespace() {
                return *byte;
            }
            self.at += 1;
        }
        0
    }

    /// Goes over the next byte if it is this one.
    fn skip(&mut self, byte: u8) -> bool {
        let there = self.peek() == byte;
        self.at += usize::from(there);
        there
    }

    fn value(&mut self, out: &mut Vec<u8>, depth: usize) -> Result<(), Failure> {
        if depth > MOST_DEPTH {
            return Err(Failure::Doubt);
        }
        match self.peek() {
            b'"' => write_string(&self.string()?, out),
            b'{' => self.object(out, depth)?,
            b'[' => self.array(out, depth)?,
            b't' | b'f' | b'n' => {
                let word = self.until(|byte| !byte.is_ascii_lowercase());
                out.extend_from_slice(word);
            }
            _ => {
                let text = self.until(|byte| matches!(byte, b',' | b']' | b'}') || byte.is_ascii_whitespace());
                match text {
                    // Most numbers are plain already.
                    [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => out.extend_from_slice(text),
                    _ => Decimal::parse(text).ok_or(Failure::Doubt)?.write_plain(out),
                }
            }
        }
        Ok(())
    }

    /// What stands before the first byte of this kind.
    fn until(&mut self, ends: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = &self.json[self.at..];
        let length = rest.iter().position(|byte| ends(*byte)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn string(&mut self) -> Result<Cow<'a, [u8]>, Failure> {
        let start = self.at + 1;
        let mut end = start;
        loop {
            let rest = self.json.get(end..).unwrap_or_default();
            match memchr::memchr2(b'"', b'\\', rest) {
                Some(at) if rest[at] == b'"' => {
                    end += at;
                    break;
                }
                Some(at) => end += at + 2,
                None => return Err(Failure::Doubt),
            }
        }
        self.at = end + 1;
        Ok(unescaped(&self.json[start..end], self.policy)?)
    }

    fn array(&mut self, out: &mut Vec<u8>, depth: usize) -> Result<(), Failure> {
        self.at += 1;
        out.push(b'[');
        let mut first = true;
        while !self.skip(b']') {
            if !first {
                self.skip(b',');
                out.extend_from_slice(b", ");
            }
            first = false;
            self.value(out, depth + 1)?;
        }
        out.push(b']');
        Ok(())
    }

    fn object(&mut self, out: &mut Vec<u8>, depth: usize) -> Result<(), Failure> {
        self.at += 1;
        let mut values = Vec::new();
        let mut members: Vec<(Cow<[u8]>, std::ops::Range<usize>)> = Vec::new();
        while !self.skip(b'}') {
            self.skip(b',');
            self.peek();
            let name = self.string()?;
            self.skip(b':');
            let start = values.len();
            self.value(&mut values, depth + 1)?;
            members.push((name, start..values.len()));
        }
        // Stable, so that of two of one name the later comes second.
        members.sort_by(|(a, _), (b, _)| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
        out.push(b'{');
        let mut first = true;
        for (i, (name, value)) in members.iter().enumerate() {
            if members.get(i + 1).is_some_and(|(next, _)| next == name) {
                continue;
            }
            if !first {
                out.extend_from_slice(b", ");
            }
            first = false;
            write_string(name, out);
            out.extend_from_slice(b": ");
            out.extend_from_slice(&values[value.clone()]);
        }
        out.push(b'}');
        Ok(())
    }
}

fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut plain = 0;
    for (i, byte) in text.iter().enumerate() {
        if *byte >= b' ' && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text[plain..i]);
        plain = i + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            8 => out.extend_from_slice(b"\\b"),
            12 => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => out.extend_from_slice(format!("\\u{control:04x}").as_bytes()),
        }
    }
    out.extend_from_slice(&text[plain..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Nul;

    fn canonical(json: &str) -> String {
        let mut out = Vec::new();
        write(json.as_bytes(), &Policy::new(Nul::Error), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn members_are_ordered_by_length_then_bytes_and_the_last_of_a_name_stays() {
        assert_eq!(
            canonical(r#" { "b" : 1.0 ,"aa":[ ],"a":{}, "b":2, "é":null } "#),
            r#"{"a": {}, "b": 2, "aa": [], "é": null}"#
        );
        assert_eq!(canonical(r#"[1 ,[2,3], "x" , true]"#), r#"[1, [2, 3], "x", true]"#);
        assert_eq!(canonical(r#""x""#), r#""x""#);
        assert_eq!(canonical("-1.50e1"), "-15.0");
    }

    #[test]
    fn strings_are_escaped_as_the_server_does() {
        assert_eq!(
            canonical(r#""\/\u00e9\u0001\u001f\b\f\n\r\t\"\\\u007f""#),
            "\"/é\\u0001\\u001f\\b\\f\\n\\r\\t\\\"\\\\\u{7f}\""
        );
        assert_eq!(canonical(r#"{"a\"}":"]\\"}"#), r#"{"a\"}": "]\\"}"#);
    }

    #[test]
    fn what_the_server_must_judge_is_in_doubt() {
        let write = |json: &str| write(json.as_bytes(), &Policy::new(Nul::Error), &mut Vec::new());
        assert_eq!(write("[1e5000]"), Err(Failure::Doubt));
        assert_eq!(write(&("[".repeat(400) + &"]".repeat(400))), Err(Failure::Doubt));
        assert_eq!(write(r#"["\u0000"]"#), Err(Failure::Unstorable(Unstorable::Nul)));
    }
}
