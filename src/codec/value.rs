//! One value of a record in the binary form of its column (src/backend/utils/adt/*.c, the functions `…send`).

use super::jsonb::{self, Failure};
use super::number::{self, Decimal};
use super::strings::{Policy, Unstorable, cleaned, unescaped};
use super::time;
use crate::pg::catalog::Binary;

/// The length of a null.
const NULL: i32 = -1;

pub fn write_null(out: &mut Vec<u8>) {
    out.extend_from_slice(&NULL.to_be_bytes());
}

/// Appends the length and the bytes of a value that is not null. [`Failure::Doubt`]: the value fits the type in no way
/// that is known here; the server may know one, or refuse it.
pub fn write(raw: &[u8], binary: Binary, policy: &Policy, out: &mut Vec<u8>) -> Result<(), Failure> {
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    let string = match raw {
        [b'"', inner @ .., b'"'] => Some(inner),
        _ => None,
    };
    match binary {
        Binary::Json => out.extend_from_slice(&cleaned(raw, policy)?),
        Binary::Jsonb => {
            out.push(1); // the version of the form
            jsonb::write(raw, policy, out)?;
        }
        Binary::Text | Binary::Enum => {
            let inner = string.ok_or(Failure::Doubt)?;
            out.extend_from_slice(&unescaped(inner, policy)?);
        }
        Binary::Bool => out.push(match raw {
            b"true" => 1,
            b"false" => 0,
            _ => return Err(Failure::Doubt),
        }),
        _ => {
            // A number or a date may stand in quotes; one with escapes is odd enough for the server.
            let text = string.unwrap_or(raw);
            if memchr::memchr(b'\\', text).is_some() && binary != Binary::Bytea {
                return Err(unstorable(text, policy).map_or(Failure::Doubt, Failure::Unstorable));
            }
            write_scalar(text, string.is_some(), binary, out).ok_or(Failure::Doubt)?;
        }
    }
    let length = i32::try_from(out.len() - length_at - 4).map_err(|_| Failure::Doubt)?;
    out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// The text of a value, for messages; none of a type by which rows are not ordered.
pub fn shown(bytes: &[u8], binary: Option<Binary>) -> Option<String> {
    let integer = || {
        let sign = if *bytes.first()? >= 0x80 { u64::MAX } else { 0 };
        Some(bytes.iter().fold(sign, |number, byte| number << 8 | u64::from(*byte)) as i64)
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Some(match binary? {
        Binary::Int2 | Binary::Int4 | Binary::Int8 => integer()?.to_string(),
        Binary::Text | Binary::Enum => String::from_utf8_lossy(bytes).into_owned(),
        Binary::Bool => if bytes == [1] { "true" } else { "false" }.to_string(),
        Binary::Timestamptz | Binary::Timestamp => time::shown(integer()?),
        Binary::Date => time::shown(integer()?.checked_mul(86_400_000_000)?).split('T').next()?.to_string(),
        Binary::Time => time::shown(integer()?).split('T').nth(1)?.trim_end_matches('Z').to_string(),
        Binary::Uuid => {
            let digits = hex(bytes);
            let part = |from: usize, to: usize| digits.get(from..to);
            [part(0, 8)?, part(8, 12)?, part(12, 16)?, part(16, 20)?, part(20, 32)?].join("-")
        }
        Binary::Bytea => format!("\\x{}", hex(bytes)),
        _ => return None,
    })
}

fn unstorable(text: &[u8], policy: &Policy) -> Option<Unstorable> {
    unescaped(text, policy).err()
}

fn write_scalar(text: &[u8], quoted: bool, binary: Binary, out: &mut Vec<u8>) -> Option<()> {
    match (binary, quoted) {
        (Binary::Int2, _) => out.extend_from_slice(&i16::try_from(number::integer(text)?).ok()?.to_be_bytes()),
        (Binary::Int4, _) => out.extend_from_slice(&i32::try_from(number::integer(text)?).ok()?.to_be_bytes()),
        (Binary::Int8, _) => out.extend_from_slice(&number::integer(text)?.to_be_bytes()),
        (Binary::Float4, false) => {
            let number = float::<f32>(text)?;
            sure(number.is_finite(), number == 0.0, text)?;
            out.extend_from_slice(&number.to_be_bytes());
        }
        (Binary::Float8, false) => {
            let number = float::<f64>(text)?;
            sure(number.is_finite(), number == 0.0, text)?;
            out.extend_from_slice(&number.to_be_bytes());
        }
        (Binary::Numeric { scale }, _) => {
            let decimal = Decimal::parse(text)?;
            match scale {
                Some(scale) => decimal.with_scale(scale.into()).write_binary(out),
                None => decimal.write_binary(out),
            }
        }
        (Binary::Timestamptz, true) => out.extend_from_slice(&time::timestamptz(text)?.to_be_bytes()),
        (Binary::Timestamp, true) => out.extend_from_slice(&time::timestamp(text)?.to_be_bytes()),
        (Binary::Date, true) => out.extend_from_slice(&time::date(text)?.to_be_bytes()),
        (Binary::Time, true) => out.extend_from_slice(&time::time(text)?.to_be_bytes()),
        (Binary::Uuid, true) => write_uuid(text, out)?,
        (Binary::Bytea, true) => write_hex(text.strip_prefix(b"\\\\x")?, out)?,
        _ => return None,
    }
    Some(())
}

fn float<F: std::str::FromStr>(text: &[u8]) -> Option<F> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Not a number that became infinite, or zero, since it was too large or too small: the server refuses those.
fn sure(finite: bool, zero: bool, text: &[u8]) -> Option<()> {
    let mantissa = text.split(|byte| matches!(byte, b'e' | b'E')).next().unwrap_or_default();
    let is_zero = !mantissa.iter().any(|byte| matches!(byte, b'1'..=b'9'));
    (finite && zero == is_zero).then_some(())
}

/// `a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11`
fn write_uuid(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let dashes = [8, 13, 18, 23];
    if text.len() != 36 || dashes.iter().any(|at| text[*at] != b'-') {
        return None;
    }
    text.split(|byte| *byte == b'-').try_for_each(|digits| write_hex(digits, out))
}

fn write_hex(digits: &[u8], out: &mut Vec<u8>) -> Option<()> {
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    for pair in digits.chunks(2) {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        out.push((digit(pair[0])? * 16 + digit(pair[1])?) as u8);
    }
    Some(())
}
