//! A JSON writer as small as the job: it writes what a Rails server writes, byte for byte.
//!
//! serde would do, but records are rendered once, in the API's key order, with Rails's escapes
//! (`&`, `<` and `>` arrive as `\u0026` and so on), which is one of the things a client must survive.

/// What can be written as a JSON value.
pub trait Json {
    fn write(&self, out: &mut Vec<u8>);
}

impl Json for bool {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if *self { b"true" } else { b"false" });
    }
}

impl Json for i64 {
    fn write(&self, out: &mut Vec<u8>) {
        let mut digits = [0_u8; 20];
        let mut at = digits.len();
        let mut rest = self.unsigned_abs();
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if *self < 0 {
            out.push(b'-');
        }
        out.extend_from_slice(&digits[at..]);
    }
}

impl Json for str {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'"');
        let bytes = self.as_bytes();
        let mut from = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            if byte >= 0x20 && !matches!(byte, b'"' | b'\\' | b'&' | b'<' | b'>') {
                continue;
            }
            out.extend_from_slice(&bytes[from..at]);
            from = at + 1;
            match byte {
                b'"' => out.extend_from_slice(b"\\\""),
                b'\\' => out.extend_from_slice(b"\\\\"),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                _ => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            }
        }
        out.extend_from_slice(&bytes[from..]);
        out.push(b'"');
    }
}

impl Json for String {
    fn write(&self, out: &mut Vec<u8>) {
        self.as_str().write(out);
    }
}

impl<T: Json + ?Sized> Json for &T {
    fn write(&self, out: &mut Vec<u8>) {
        (**self).write(out);
    }
}

impl<T: Json> Json for Option<T> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Some(value) => value.write(out),
            None => out.extend_from_slice(b"null"),
        }
    }
}

impl<T: Json> Json for [T] {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        for (n, value) in self.iter().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            value.write(out);
        }
        out.push(b']');
    }
}

impl<T: Json> Json for Vec<T> {
    fn write(&self, out: &mut Vec<u8>) {
        self.as_slice().write(out);
    }
}

/// Text that is JSON already.
pub struct Raw<'a>(pub &'a [u8]);

impl Json for Raw<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0);
    }
}

/// An object being written: one [`Object::field`] after another, then [`Object::end`].
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    next: u8,
}

impl<'a> Object<'a> {
    pub fn new(out: &'a mut Vec<u8>) -> Object<'a> {
        Object { out, next: b'{' }
    }

    /// Writes `key` (plain ASCII, written as it is) and its value.
    pub fn field(mut self, key: &str, value: impl Json) -> Object<'a> {
        self.out.push(self.next);
        self.next = b',';
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        value.write(self.out);
        self
    }

    pub fn end(self) {
        if self.next == b'{' {
            self.out.push(b'{');
        }
        self.out.push(b'}');
    }
}

/// A value as text, for small answers.
pub fn text(value: &(impl Json + ?Sized)) -> String {
    let mut out = Vec::new();
    value.write(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_rails_does_and_read_back_the_same() {
        let nasty = "a\"b\\c\n\t\r\u{1}<&>żółw\u{202e}🦀\\N\\.";
        let written = text(nasty);
        assert!(written.contains("\\u003c\\u0026\\u003e"), "{written}");
        assert_eq!(serde_json::from_str::<String>(&written).ok().as_deref(), Some(nasty));
    }

    #[test]
    fn the_whole_range_of_bigint_is_written() {
        assert_eq!(text(&i64::MIN), i64::MIN.to_string());
        assert_eq!(text(&9_007_199_254_740_993_i64), "9007199254740993");
        assert_eq!(text(&0_i64), "0");
    }

    #[test]
    fn an_object_without_fields_is_still_an_object() {
        let mut out = Vec::new();
        Object::new(&mut out).end();
        Object::new(&mut out).field("a", 1_i64).field("b", None::<bool>).end();
        assert_eq!(out, b"{}{\"a\":1,\"b\":null}");
    }
}
