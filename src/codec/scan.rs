//! Where the values of a record stand, found fast: for a record as extract writes it, its members in the order of the
//! columns and without white space.
//!
//! What is accepted is valid JSON, checked to the last byte. Anything else is none, and not judged: the parser, which is
//! twice as slow, takes it or says what is wrong with it.

use memchr::memchr2;

/// Deeper values are left to the parser.
const MOST_DEPTH: usize = 100;

/// Appends, for each of `keys` (with quotes and colon: `"id":`), where its value begins and ends.
pub fn spans(record: &str, keys: &[String], spans: &mut Vec<(usize, usize)>) -> Option<()> {
    let bytes = record.as_bytes();
    // Within strings there may be none of these; between tokens they are white space.
    if bytes.iter().any(|byte| *byte < b' ') {
        return None;
    }
    let mut at = 0;
    for key in keys {
        let mark = if at == 0 { b'{' } else { b',' };
        at = expect(bytes, at, mark)?;
        at += bytes.get(at..)?.starts_with(key.as_bytes()).then_some(key.len())?;
        let end = value(bytes, at, 0)?;
        spans.push((at, end));
        at = end;
    }
    (expect(bytes, at, b'}')? == bytes.len()).then_some(())
}

fn expect(bytes: &[u8], at: usize, byte: u8) -> Option<usize> {
    (*bytes.get(at)? == byte).then_some(at + 1)
}

/// The end of the value that begins at `at`.
fn value(bytes: &[u8], at: usize, depth: usize) -> Option<usize> {
    let word = |word: &[u8]| bytes[at..].starts_with(word).then_some(at + word.len());
    match *bytes.get(at)? {
        b'"' => string(bytes, at + 1),
        b'n' => word(b"null"),
        b't' => word(b"true"),
        b'f' => word(b"false"),
        b'{' | b'[' if depth == MOST_DEPTH => None,
        b'{' => list(bytes, at + 1, b'}', |at| {
            let key = expect(bytes, at, b'"')?;
            value(bytes, expect(bytes, string(bytes, key)?, b':')?, depth + 1)
        }),
        b'[' => list(bytes, at + 1, b']', |at| value(bytes, at, depth + 1)),
        _ => number(bytes, at),
    }
}

/// Elements and commas, up to the byte that ends them.
fn list(bytes: &[u8], mut at: usize, end: u8, element: impl Fn(usize) -> Option<usize>) -> Option<usize> {
    if *bytes.get(at)? == end {
        return Some(at + 1);
    }
    loop {
        at = element(at)?;
        match *bytes.get(at)? {
            b',' => at += 1,
            byte if byte == end => return Some(at + 1),
            _ => return None,
        }
    }
}

/// What follows the opening quotes, up to and with the closing ones.
fn string(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += match *bytes.get(at + 1)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
            b'u' => bytes.get(at + 2..at + 6)?.iter().all(u8::is_ascii_hexdigit).then_some(6)?,
            _ => return None,
        };
    }
}

fn number(bytes: &[u8], mut at: usize) -> Option<usize> {
    let digits = |at: usize| {
        let length = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        (length > 0).then_some(at + length)
    };
    at += usize::from(bytes[at] == b'-');
    at = match *bytes.get(at)? {
        b'0' => at + 1,
        _ => digits(at)?,
    };
    if bytes.get(at) == Some(&b'.') {
        at = digits(at + 1)?;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        at = digits(at)?;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(record: &str) -> Option<Vec<&str>> {
        let keys = ["\"a\":".to_string(), "\"b\":".to_string()];
        let mut found = Vec::new();
        spans(record, &keys, &mut found)?;
        Some(found.into_iter().map(|(start, end)| &record[start..end]).collect())
    }

    #[test]
    fn values_are_found_whatever_is_in_them() {
        assert_eq!(values(r#"{"a":-1.5e+3,"b":"x\"\\\u00e9,}"}"#).unwrap(), ["-1.5e+3", r#""x\"\\\u00e9,}""#]);
        assert_eq!(values(r#"{"a":{"a":[1,{}],"b":"]"},"b":[]}"#).unwrap(), [r#"{"a":[1,{}],"b":"]"}"#, "[]"]);
        assert_eq!(values(r#"{"a":null,"b":true}"#).unwrap(), ["null", "true"]);
    }

    #[test]
    fn what_is_odd_or_wrong_is_not_accepted() {
        for record in [
            r#"{"b":1,"a":2}"#,
            r#"{"a":1}"#,
            r#"{"a":1,"b":2,"c":3}"#,
            r#"{"a": 1,"b":2}"#,
            r#"{"a":01,"b":2}"#,
            r#"{"a":1.,"b":2}"#,
            r#"{"a":-,"b":2}"#,
            r#"{"a":1e,"b":2}"#,
            r#"{"a":nul,"b":2}"#,
            r#"{"a":"\x","b":2}"#,
            r#"{"a":"\u00g0","b":2}"#,
            r#"{"a":[1,],"b":2}"#,
            r#"{"a":{"x"},"b":2}"#,
            r#"{"a":"x,"b":2}"#,
            r#"{"a":1,"b":2"#,
            r#"{"a":1,"b":2} "#,
            "{\"a\":\"\t\",\"b\":2}",
            "",
        ] {
            assert_eq!(values(record), None, "{record}");
        }
        let deep = format!(r#"{{"a":{}{},"b":1}}"#, "[".repeat(200), "]".repeat(200));
        assert_eq!(values(&deep), None);
    }

    #[test]
    fn what_is_accepted_is_what_the_parser_accepts() {
        let mut random = fastrand::Rng::with_seed(7);
        let alphabet = br#"{}[]",:\u0ae1.-+tnf "#;
        let seeds = [r#"{"a":{"x":[1,2.5e-3,"\u00e9"]},"b":[null,true]}"#, r#"{"a":"x\n","b":-0.5E+10}"#];
        let mut accepted = 0;
        for _ in 0..200_000 {
            let mut record = seeds[random.usize(..2)].as_bytes().to_vec();
            for _ in 0..random.usize(..3) {
                let at = random.usize(..record.len());
                let byte = alphabet[random.usize(..alphabet.len())];
                match random.u8(..3) {
                    0 => record[at] = byte,
                    1 => record.insert(at, byte),
                    _ => drop(record.remove(at)),
                }
            }
            let record = String::from_utf8_lossy(&record).into_owned();
            if let Some(found) = values(&record) {
                accepted += 1;
                let parsed: std::collections::BTreeMap<String, &serde_json::value::RawValue> =
                    serde_json::from_str(&record).unwrap_or_else(|error| panic!("{record}: {error}"));
                assert_eq!([parsed["a"].get(), parsed["b"].get()], found[..], "{record}");
            }
        }
        assert!(accepted > 10_000);
    }
}
