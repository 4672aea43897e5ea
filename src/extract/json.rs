//! From a filter's output to a line of `all.json` and its place in the order.
//!
//! The engine can make values that JSON cannot hold (NaN, byte strings, keys that are no strings);
//! its own writer prints them all the same. Here they are errors.

use std::io::Write;

use jaq_json::{Num, Val};

/// Appends `value` as JSON without white space; the error is text for a message.
pub fn write(out: &mut Vec<u8>, value: &Val) -> Result<(), String> {
    match value {
        Val::Null => out.extend_from_slice(b"null"),
        Val::Bool(true) => out.extend_from_slice(b"true"),
        Val::Bool(false) => out.extend_from_slice(b"false"),
        Val::Num(Num::Float(x)) if !x.is_finite() => return Err(format!("{x} is not a JSON number")),
        // jaq reads `+5.43` as it stands, and a page that was checked cannot hold it; a filter can.
        Val::Num(Num::Dec(text)) if text.starts_with('+') => return Err(format!("{text} is not a JSON number")),
        Val::Num(number) => write_display(out, number),
        Val::TStr(bytes) => write_string(out, bytes)?,
        Val::BStr(_) => return Err("a byte string is not JSON".to_string()),
        Val::Arr(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(out, item)?;
            }
            out.push(b']');
        }
        Val::Obj(members) => {
            out.push(b'{');
            for (i, (name, member)) in members.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                let Val::TStr(name) = name else {
                    return Err(format!("{name} is the name of a member, expected a string"));
                };
                write_string(out, name)?;
                out.push(b':');
                write(out, member)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn write_display(out: &mut Vec<u8>, value: &impl std::fmt::Display) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "{value}");
}

fn write_string(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|cause| format!("a string is not UTF-8 ({cause})"))?;
    serde_json::to_writer(out, text).map_err(|cause| cause.to_string())
}

/// Appends a key member so that the order of the bytes is the order of the values: false, true,
/// integers by size, strings by code point. No key is the beginning of another.
pub fn write_key(out: &mut Vec<u8>, value: &Val) -> Result<(), String> {
    match value {
        Val::Bool(truth) => out.extend_from_slice(&[1, u8::from(*truth)]),
        Val::Num(Num::Int(n)) => write_integer_key(out, *n as i64),
        Val::Num(Num::BigInt(n)) => write_long_key(out, &n.to_string()),
        Val::TStr(text) => {
            out.push(5);
            for byte in text.iter() {
                // 0 ends the text; a 0 within it is told from the end by what follows.
                out.push(*byte);
                if *byte == 0 {
                    out.push(1);
                }
            }
            out.extend_from_slice(&[0, 0]);
        }
        Val::Null => return Err("null".to_string()),
        Val::Num(number) => return Err(number.to_string()),
        Val::BStr(_) => return Err("a byte string".to_string()),
        Val::Arr(_) => return Err("an array".to_string()),
        Val::Obj(_) => return Err("an object".to_string()),
    }
    Ok(())
}

fn write_integer_key(out: &mut Vec<u8>, n: i64) {
    out.push(3);
    out.extend_from_slice(&((n as u64) ^ (1 << 63)).to_be_bytes());
}

/// Integers beyond 64 bits: by sign, then by the number of digits, then by the digits.
fn write_long_key(out: &mut Vec<u8>, text: &str) {
    match text.strip_prefix('-') {
        None => {
            out.push(4);
            out.extend_from_slice(&(text.len() as u32).to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        Some(digits) => {
            out.push(2);
            out.extend_from_slice(&(!(digits.len() as u32)).to_be_bytes());
            out.extend(digits.bytes().map(|digit| !digit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn val(json: &str) -> Val {
        jaq_json::read::parse_single(json.as_bytes()).unwrap()
    }

    fn written(json: &str) -> String {
        let mut out = Vec::new();
        write(&mut out, &val(json)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_keep_every_digit_and_text_every_character() {
        let json =
            r#"{"a":[9007199254740993,1.10,1e400,-0.0,123456789012345678901234567890],"b":"\"\\\n\u0001é🐘","c":[]}"#;
        assert_eq!(written(json), json);
    }

    #[test]
    fn what_json_cannot_hold_is_refused() {
        let refused = |value: Val| write(&mut Vec::new(), &value).unwrap_err();
        assert_eq!(refused(Val::Num(Num::Float(f64::NAN))), "NaN is not a JSON number");
        assert_eq!(refused(val("+5.43")), "+5.43 is not a JSON number");
        assert_eq!(refused(Val::byte_str(vec![1])), "a byte string is not JSON");
        assert_eq!(refused(val("{1:2}")), "1 is the name of a member, expected a string");
        assert!(refused(Val::utf8_str(vec![0xff])).starts_with("a string is not UTF-8"));
    }

    #[test]
    fn the_order_of_keys_is_the_order_of_values() {
        let ordered = [
            "false",
            "true",
            "-123456789012345678901234567890",
            "-99999999999999999999",
            "-9223372036854775808",
            "-1",
            "0",
            "2",
            "10",
            "9223372036854775807",
            "9223372036854775808",
            "99999999999999999999",
            r#""""#,
            r#""\u0000""#,
            r#""a""#,
            r#""a\u0000""#,
            r#""a\u0000b""#,
            r#""ab""#,
            r#""b""#,
            r#""é""#,
        ];
        let keys: Vec<Vec<u8>> = ordered
            .iter()
            .map(|json| {
                let mut key = Vec::new();
                write_key(&mut key, &val(json)).unwrap();
                key
            })
            .collect();
        for (i, pair) in keys.windows(2).enumerate() {
            assert!(pair[0] < pair[1], "{} before {}", ordered[i], ordered[i + 1]);
            assert!(!pair[1].starts_with(&pair[0]));
        }
        assert_eq!(write_key(&mut Vec::new(), &val("1.5")).unwrap_err(), "1.5");
        assert_eq!(write_key(&mut Vec::new(), &Val::Null).unwrap_err(), "null");
    }
}
