//! From the text of a record to the engine's value, without making again what was made before.
//!
//! The API repeats whole objects: each of 533 projects carries the full record of each of its 45
//! campuses, the same bytes every time. An object within an array whose bytes were seen before is the
//! value that was made then, shared; whether they are the same is decided by comparing all of them.
//!
//! Numbers keep their text where a machine integer cannot hold them. The input is valid JSON, checked
//! by `serde_json` when the page was split into records: what is not cannot come here.

use std::collections::HashMap;

use jaq_json::{Map, Num, Val, read};

use crate::error::excerpt;

// A smaller object is made as fast as it is looked up; a larger one is hardly ever the same twice.
const REMEMBERED_BYTES: std::ops::Range<usize> = 100..8192;
// Of text; the values come to about ten times that.
const MEMORY_BYTES: usize = 2 << 20;
// Objects of one name that were looked up in vain so often are not looked up any more.
const PATIENCE: u32 = 500;

/// A reader and what it remembers; each thread has its own.
#[derive(Default)]
pub struct Reader {
    seen: HashMap<Box<str>, Val>,
    seen_bytes: usize,
    /// For each name of an array: how many of its objects were new, less those that were not.
    novelty: HashMap<Box<str>, u32>,
}

/// A place in the text.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl Reader {
    /// The value of a valid JSON text. An error is text for a message: a string that no Unicode text
    /// can be (a lone surrogate).
    pub fn read(&mut self, json: &str) -> Result<Val, String> {
        self.value(&mut Cursor { text: json, at: 0 }, "")
    }

    /// The next value; `name` is the nearest member that it is within.
    fn value(&mut self, cursor: &mut Cursor, name: &str) -> Result<Val, String> {
        match cursor.next_byte() {
            Some(b'{') => self.object(cursor),
            Some(b'[') => self.array(cursor, name),
            Some(b'"') => unquoted(cursor.string()),
            Some(b't') => Ok(cursor.word("true", Val::Bool(true))),
            Some(b'f') => Ok(cursor.word("false", Val::Bool(false))),
            Some(b'n') => Ok(cursor.word("null", Val::Null)),
            _ => number(cursor.number()),
        }
    }

    fn object(&mut self, cursor: &mut Cursor) -> Result<Val, String> {
        let mut members = Map::default();
        cursor.at += 1;
        while cursor.next_byte() == Some(b'"') {
            let quoted = cursor.string();
            cursor.past(b':');
            let value = self.value(cursor, &quoted[1..quoted.len() - 1])?;
            members.insert(unquoted(quoted)?, value);
            cursor.past(b',');
        }
        cursor.past(b'}');
        Ok(Val::obj(members))
    }

    fn array(&mut self, cursor: &mut Cursor, name: &str) -> Result<Val, String> {
        let mut items = Vec::new();
        cursor.at += 1;
        while let Some(byte) = cursor.next_byte().filter(|byte| *byte != b']') {
            items.push(if byte == b'{' { self.element(cursor, name)? } else { self.value(cursor, name)? });
            cursor.past(b',');
        }
        cursor.past(b']');
        Ok(Val::Arr(items.into()))
    }

    /// An object within the array of this name: remembered, or made and remembered.
    fn element(&mut self, cursor: &mut Cursor, name: &str) -> Result<Val, String> {
        let novelty = match self.novelty.get_mut(name) {
            Some(novelty) => novelty,
            None => self.novelty.entry(name.into()).or_default(),
        };
        if *novelty > PATIENCE {
            return self.object(cursor);
        }
        let start = cursor.at;
        cursor.skip_object();
        let text = &cursor.text[start..cursor.at];
        if let Some(value) = self.seen.get(text) {
            *novelty = novelty.saturating_sub(1);
            return Ok(value.clone());
        }
        *novelty += 1;
        cursor.at = start;
        let value = self.object(cursor)?;
        if REMEMBERED_BYTES.contains(&text.len()) && self.seen_bytes + text.len() <= MEMORY_BYTES {
            self.seen_bytes += text.len();
            self.seen.insert(text.into(), value.clone());
        }
        Ok(value)
    }
}

impl<'a> Cursor<'a> {
    /// The next byte that is not white space.
    fn next_byte(&mut self) -> Option<u8> {
        loop {
            match self.text.as_bytes().get(self.at) {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                byte => return byte.copied(),
            }
        }
    }

    /// Steps over this byte, if it is the next.
    fn past(&mut self, byte: u8) {
        if self.next_byte() == Some(byte) {
            self.at += 1;
        }
    }

    fn word(&mut self, word: &str, value: Val) -> Val {
        self.at += word.len();
        value
    }

    /// Steps over a string and returns it with its quotes.
    fn string(&mut self) -> &'a str {
        let start = self.at;
        self.at += 1;
        self.skip_string();
        &self.text[start..self.at]
    }

    /// From within a string to behind its closing quote.
    fn skip_string(&mut self) {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            self.at += 1;
            match byte {
                b'"' => return,
                b'\\' => self.at += 1,
                _ => {}
            }
        }
    }

    /// From `{` to behind its `}`.
    fn skip_object(&mut self) {
        let bytes = self.text.as_bytes();
        let mut depth = 0u32;
        while let Some(byte) = bytes.get(self.at) {
            self.at += 1;
            match byte {
                b'"' => self.skip_string(),
                b'{' => depth += 1,
                b'}' if depth == 1 => return,
                b'}' => depth -= 1,
                _ => {}
            }
        }
    }

    fn number(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let end = rest.bytes().position(|b| !matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'));
        let number = &rest[..end.unwrap_or(rest.len())];
        self.at += number.len();
        number
    }
}

/// The value of a string that stands in quotes.
fn unquoted(quoted: &str) -> Result<Val, String> {
    let text = &quoted[1..quoted.len() - 1];
    if !text.contains('\\') {
        return Ok(Val::utf8_str(text.as_bytes().to_vec()));
    }
    let text: String = serde_json::from_str(quoted)
        .map_err(|cause| format!("the string {} is not Unicode ({cause})", excerpt(quoted, 100)))?;
    Ok(Val::utf8_str(text.into_bytes()))
}

fn number(text: &str) -> Result<Val, String> {
    let number = match text.parse::<isize>() {
        Ok(n) => Some(Num::Int(n)),
        Err(_) => read::parse_single_num(text.as_bytes()),
    };
    number.map(Val::Num).ok_or_else(|| format!("`{}` is not a number", excerpt(text, 40)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As our reader and as the engine's own reads it.
    fn both(reader: &mut Reader, json: &str) -> (Val, Val) {
        (reader.read(json).unwrap(), read::parse_single(json.as_bytes()).unwrap())
    }

    #[test]
    fn every_value_is_what_the_engines_own_reader_makes_of_it() {
        let texts = [
            "null",
            " true ",
            "false",
            "0",
            "-12",
            "1.50",
            "1E400",
            "-0",
            "123456789012345678901234567890",
            "[]",
            "{}",
            "[[],{}]",
            r#""""#,
            r#""aé\"\\\/\b\n\u00e9\ud83d\ude00""#,
            r#"{"a":{"b":[1,"x",{"c":null}]},"":2,"a\nb":3}"#,
            "{ \"a\" : [ 1 , 2 ] ,\n\t\"b\" : \"}]\" }",
            r#"{"a":1,"a":2}"#,
            r#"[{"a":"{[\"}"},{"b":{"c":{}}}, {"d":1}]"#,
        ];
        let mut reader = Reader::default();
        for text in texts {
            let (ours, theirs) = both(&mut reader, text);
            // Compared as text too: the engine finds 1.50 and 1.5 equal.
            assert_eq!((ours.to_string(), ours), (theirs.to_string(), theirs), "{text}");
        }
    }

    #[test]
    fn repeated_objects_are_shared_and_near_twins_are_not() {
        let long = "x".repeat(200);
        let record = |last: &str| format!(r#"{{"campus":[{{"id":1,"n":"{long}"}},{{"id":1,"n":"{long}{last}"}}]}}"#);
        let mut reader = Reader::default();
        for last in ["", "a", "b", "a", ""] {
            let (ours, theirs) = both(&mut reader, &record(last));
            assert_eq!(ours, theirs);
        }
        assert_eq!(reader.seen.len(), 3);
    }

    #[test]
    fn what_never_repeats_is_not_looked_up_for_ever() {
        let mut reader = Reader::default();
        for i in 0..2 * PATIENCE {
            reader.read(&format!(r#"[{{"id":{i},"text":"{}"}}]"#, "x".repeat(100))).unwrap();
        }
        assert_eq!(reader.seen.len() as u32, PATIENCE + 1);
    }

    #[test]
    fn a_lone_surrogate_is_an_error_that_shows_it() {
        let error = Reader::default().read(r#"{"a":"b\ud800c"}"#).unwrap_err();
        assert!(error.starts_with(r#"the string "b\ud800c" is not Unicode"#), "{error}");
    }
}
