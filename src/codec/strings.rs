//! Strings of JSON, and what no column of Postgres can hold: NUL, and half of a surrogate pair.

use std::borrow::Cow;
use std::cell::Cell;

use memchr::memchr;

use crate::pipeline::Nul;

/// A character of JSON that Postgres cannot store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unstorable {
    Nul,
    HalfPair,
}

impl Unstorable {
    pub fn sentence(self) -> &'static str {
        match self {
            Unstorable::Nul => "holds \\u0000, a character that Postgres cannot store",
            Unstorable::HalfPair => "holds half of a surrogate pair, which is no character",
        }
    }
}

/// What is done with what cannot be stored, and how often it was.
#[derive(Debug)]
pub struct Policy {
    nul: Nul,
    mended: Cell<u64>,
}

impl Policy {
    pub fn new(nul: Nul) -> Policy {
        Policy { nul, mended: Cell::new(0) }
    }

    /// How many characters were left out or replaced.
    pub fn mended(&self) -> u64 {
        self.mended.get()
    }

    /// What stands in the place of such a character, or that it is refused.
    fn mend(&self, unstorable: Unstorable) -> Result<&'static str, Unstorable> {
        let instead = match self.nul {
            Nul::Error => return Err(unstorable),
            Nul::Strip => "",
            Nul::Replace => "\u{fffd}",
        };
        self.mended.set(self.mended.get() + 1);
        Ok(instead)
    }
}

/// The characters that a string stands for; `text` is what is between its quotes.
pub fn unescaped<'a>(text: &'a [u8], policy: &Policy) -> Result<Cow<'a, [u8]>, Unstorable> {
    let Some(first) = memchr(b'\\', text) else { return Ok(Cow::Borrowed(text)) };
    let mut out = Vec::with_capacity(text.len());
    let (mut rest, mut next) = (text, Some(first));
    while let Some(at) = next {
        out.extend_from_slice(&rest[..at]);
        let (escape, length) = escape(&rest[at..]);
        match escape {
            Ok(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(unstorable) => out.extend_from_slice(policy.mend(unstorable)?.as_bytes()),
        }
        rest = &rest[at + length..];
        next = memchr(b'\\', rest);
    }
    out.extend_from_slice(rest);
    Ok(Cow::Owned(out))
}

/// JSON text as it stands, on one line, its strings without what cannot be stored.
pub fn cleaned<'a>(text: &'a [u8], policy: &Policy) -> Result<Cow<'a, [u8]>, Unstorable> {
    let odd = |byte: &u8| matches!(byte, b'\\' | b'\t' | b'\r' | b'\n');
    if !text.iter().any(odd) {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.iter().position(odd) {
        out.extend_from_slice(&rest[..at]);
        if rest[at] != b'\\' {
            // White space between tokens: within strings JSON has none of these.
            out.push(b' ');
            rest = &rest[at + 1..];
            continue;
        }
        let (escape, length) = escape(&rest[at..]);
        match escape {
            Ok(_) => out.extend_from_slice(&rest[at..at + length]),
            Err(unstorable) => out.extend_from_slice(policy.mend(unstorable)?.as_bytes()),
        }
        rest = &rest[at + length..];
    }
    out.extend_from_slice(rest);
    Ok(Cow::Owned(out))
}

/// The character of the escape that `text` begins with, and the bytes that it took.
fn escape(text: &[u8]) -> (Result<char, Unstorable>, usize) {
    let c = match text.get(1) {
        Some(b'u') => return unicode_escape(text),
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(plain) => char::from(*plain),
        // The parser has seen to it that a backslash is not the last.
        None => return (Ok('\\'), 1),
    };
    (Ok(c), 2)
}

/// `\uXXXX`, or a pair of them.
fn unicode_escape(text: &[u8]) -> (Result<char, Unstorable>, usize) {
    let unit = |from: usize| {
        let digits = text.get(from..from + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        digits.and_then(|digits| u16::from_str_radix(digits, 16).ok())
    };
    let first = unit(2).unwrap_or(0xd800);
    if first == 0 {
        return (Err(Unstorable::Nul), 6);
    }
    if let Some(c) = char::from_u32(first.into()) {
        return (Ok(c), 6);
    }
    let second = if text.get(6..8) == Some(b"\\u") { unit(8) } else { None };
    match char::decode_utf16([first, second.unwrap_or(0)]).next() {
        Some(Ok(c)) => (Ok(c), 12),
        _ => (Err(Unstorable::HalfPair), text.len().min(6)),
    }
}
