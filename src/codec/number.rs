//! Decimal numbers as `numeric` and `jsonb` keep them: every digit, and how many stand after the point.

/// More shift than this is left to the server: its limits lie beyond, and such numbers are rare.
const MOST_SHIFT: i32 = 1000;
/// More digits than this are left to the server.
const MOST_DIGITS: usize = 4000;

/// A number of JSON, its exponent worked in.
#[derive(Debug, PartialEq, Eq)]
pub struct Decimal {
    negative: bool,
    /// ASCII, without zeros in front of the first that counts before the point.
    digits: Vec<u8>,
    /// How many of the digits stand after the point.
    scale: usize,
}

impl Decimal {
    /// Reads `-12.50e3`. None: no number, or one whose size only the server should judge.
    pub fn parse(text: &[u8]) -> Option<Decimal> {
        let (negative, text) = match text.strip_prefix(b"-") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
            Some(at) => (&text[..at], std::str::from_utf8(&text[at + 1..]).ok()?.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = match mantissa.iter().position(|byte| *byte == b'.') {
            Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
            None => (mantissa, &[][..]),
        };
        let plain = |digits: &[u8]| digits.iter().all(u8::is_ascii_digit);
        if whole.is_empty() || !plain(whole) || !plain(fraction) {
            return None;
        }
        if exponent.abs() > MOST_SHIFT || whole.len() + fraction.len() > MOST_DIGITS {
            return None;
        }
        let mut digits = [whole, fraction].concat();
        let mut scale = fraction.len() as i32 - exponent;
        if scale < 0 {
            digits.resize(digits.len() + scale.unsigned_abs() as usize, b'0');
            scale = 0;
        }
        Some(Decimal { negative, digits, scale: scale as usize }.trimmed())
    }

    /// With one digit before the point at least, and no more zeros in front than that.
    fn trimmed(mut self) -> Decimal {
        if self.digits.len() <= self.scale {
            let missing = self.scale + 1 - self.digits.len();
            self.digits.splice(0..0, std::iter::repeat_n(b'0', missing));
        }
        let before_point = self.digits.len() - self.scale;
        let zeros = self.digits[..before_point - 1].iter().take_while(|digit| **digit == b'0').count();
        self.digits.drain(..zeros);
        // Zero has no sign.
        self.negative &= self.digits.iter().any(|digit| *digit != b'0');
        self
    }

    /// As `numeric(…, scale)` keeps it: filled up with zeros, or rounded half away from zero.
    pub fn with_scale(mut self, scale: usize) -> Decimal {
        if self.scale <= scale {
            self.digits.resize(self.digits.len() + scale - self.scale, b'0');
        } else {
            let kept = self.digits.len() - (self.scale - scale);
            let up = self.digits[kept] >= b'5';
            self.digits.truncate(kept);
            if up {
                self.add_one_in_the_last_place();
            }
        }
        self.scale = scale;
        self.trimmed()
    }

    fn add_one_in_the_last_place(&mut self) {
        for digit in self.digits.iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                return;
            }
            *digit = b'0';
        }
        self.digits.insert(0, b'1');
    }

    /// In plain notation, as the server prints a `numeric`.
    pub fn write_plain(&self, out: &mut Vec<u8>) {
        if self.negative {
            out.push(b'-');
        }
        let (whole, fraction) = self.digits.split_at(self.digits.len() - self.scale);
        out.extend_from_slice(whole);
        if !fraction.is_empty() {
            out.push(b'.');
            out.extend_from_slice(fraction);
        }
    }

    /// In the binary form of `numeric`: groups of four digits from the point to both sides, without groups of
    /// zeros at the ends (src/backend/utils/adt/numeric.c, `numeric_send`).
    pub fn write_binary(&self, out: &mut Vec<u8>) {
        let (whole, fraction) = self.digits.split_at(self.digits.len() - self.scale);
        let mut groups: Vec<u16> = Vec::with_capacity(self.digits.len() / 4 + 2);
        let first = whole.len() % 4;
        let (head, rest) = whole.split_at(first);
        if !head.is_empty() {
            groups.push(group(head));
        }
        groups.extend(rest.chunks(4).map(group));
        let mut weight = groups.len() as i16 - 1;
        // The last group of a fraction is filled up with zeros behind.
        groups.extend(fraction.chunks(4).map(|chunk| group(chunk) * 10u16.pow(4 - chunk.len() as u32)));
        while groups.last() == Some(&0) {
            groups.pop();
        }
        let zeros = groups.iter().take_while(|group| **group == 0).count();
        groups.drain(..zeros);
        weight = if groups.is_empty() { 0 } else { weight - zeros as i16 };
        out.extend_from_slice(&(groups.len() as u16).to_be_bytes());
        out.extend_from_slice(&weight.to_be_bytes());
        out.extend_from_slice(&(if self.negative { 0x4000u16 } else { 0 }).to_be_bytes());
        out.extend_from_slice(&(self.scale as u16).to_be_bytes());
        groups.iter().for_each(|group| out.extend_from_slice(&group.to_be_bytes()));
    }
}

fn group(digits: &[u8]) -> u16 {
    digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'))
}

/// A whole number without an exponent, if it fits.
pub fn integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    let mut sum: u64 = 0;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        sum = sum * 10 + u64::from(digit);
    }
    match negative {
        false => i64::try_from(sum).ok(),
        true if sum == 1 << 63 => Some(i64::MIN),
        true => i64::try_from(sum).ok().map(|n| -n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        let mut out = Vec::new();
        Decimal::parse(text.as_bytes()).unwrap().write_plain(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn exponents_are_worked_in_and_digits_kept() {
        let cases = [
            ("1.50", "1.50"),
            ("-0", "0"),
            ("-0.0", "0.0"),
            ("1e5", "100000"),
            ("1.5e-3", "0.0015"),
            ("15E-1", "1.5"),
            ("0e-3", "0.000"),
            ("1.25e1", "12.5"),
            ("1.20e+2", "120"),
            ("9007199254740993", "9007199254740993"),
        ];
        for (text, expected) in cases {
            assert_eq!(plain(text), expected, "{text}");
        }
        assert_eq!(Decimal::parse(b"1e1001"), None);
        assert_eq!(Decimal::parse(b"x"), None);
    }

    #[test]
    fn numbers_are_rounded_as_the_server_does() {
        let rounded = |text: &str, scale| {
            let mut out = Vec::new();
            Decimal::parse(text.as_bytes()).unwrap().with_scale(scale).write_plain(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(rounded("1.5", 2), "1.50");
        assert_eq!(rounded("1.005", 2), "1.01");
        assert_eq!(rounded("-9.995", 2), "-10.00");
        assert_eq!(rounded("-0.004", 2), "0.00");
        assert_eq!(rounded("0.5", 0), "1");
    }

    #[test]
    fn numeric_is_groups_of_four_digits() {
        let binary = |text: &str| {
            let mut out = Vec::new();
            Decimal::parse(text.as_bytes()).unwrap().write_binary(&mut out);
            let unit = |pair: &[u8]| i16::from_be_bytes([pair[0], pair[1]]);
            out.chunks(2).map(unit).collect::<Vec<_>>()
        };
        assert_eq!(binary("12345.6"), [3, 1, 0, 1, 1, 2345, 6000]);
        assert_eq!(binary("0.00012"), [2, -1, 0, 5, 1, 2000]);
        assert_eq!(binary("-10000"), [1, 1, 0x4000, 0, 1]);
        assert_eq!(binary("0.00"), [0, 0, 0, 2]);
    }

    #[test]
    fn integers_up_to_the_last() {
        assert_eq!(integer(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(integer(b"9223372036854775807"), Some(i64::MAX));
        assert_eq!(integer(b"9223372036854775808"), None);
        assert_eq!(integer(b"1.0"), None);
        assert_eq!(integer(b""), None);
    }
}
