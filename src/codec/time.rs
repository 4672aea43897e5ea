//! Times of ISO 8601 as the server keeps them: days and microseconds since the start of the year 2000.
//!
//! Read here is what APIs write: `2025-02-28T01:02:03.004Z`, with an offset or none, with a space for the `T`, or the date
//! alone. Any other form gives none, and is left to the server.

const DAY_US: i64 = 86_400_000_000;
/// The start of the year 2000, counted from 1970.
const YEAR_2000_US: i64 = 946_684_800_000_000;

/// A moment in UTC. As for the server (the session's zone is UTC), a time without a zone is one of UTC.
pub fn timestamptz(text: &[u8]) -> Option<i64> {
    let (local, rest) = date_and_time(text)?;
    Some(local - offset_s(rest)? * 1_000_000)
}

/// A time of no zone; a zone that is given is read over, as the server does.
pub fn timestamp(text: &[u8]) -> Option<i64> {
    let (local, rest) = date_and_time(text)?;
    offset_s(rest).map(|_| local)
}

/// Days since 2000-01-01.
pub fn date(text: &[u8]) -> Option<i32> {
    let (days, rest) = date_part(text)?;
    rest.is_empty().then_some(days)
}

/// Microseconds since midnight.
pub fn time(text: &[u8]) -> Option<i64> {
    let (us, rest) = time_part(text)?;
    rest.is_empty().then_some(us)
}

/// A moment as messages show it.
pub fn shown(us: i64) -> String {
    let time = us.checked_add(YEAR_2000_US).and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
    time.map_or_else(|| format!("{us} microseconds after 2000"), |time| time.to_string())
}

fn date_and_time(text: &[u8]) -> Option<(i64, &[u8])> {
    let (days, rest) = date_part(text)?;
    let midnight = i64::from(days) * DAY_US;
    match rest.split_first() {
        None => Some((midnight, rest)),
        Some((b'T' | b' ', time)) => time_part(time).map(|(us, rest)| (midnight + us, rest)),
        Some(_) => None,
    }
}

fn date_part(text: &[u8]) -> Option<(i32, &[u8])> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, rest @ ..] = text else { return None };
    let year = two(*y1, *y2)? * 100 + two(*y3, *y4)?;
    let (month, day) = (two(*m1, *m2)?, two(*d1, *d2)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    (year >= 1 && (1..=longest).contains(&day)).then(|| (days_since_2000(year, month, day), rest))
}

/// Years begin in March, so that the day that some lack is their last.
fn days_since_2000(year: i32, month: i32, day: i32) -> i32 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let before_year = year * 365 + year / 4 - year / 100 + year / 400;
    let before_month = (month * 153 + 2) / 5;
    // 730,425 is what the same sum gives for 2000-01-01.
    before_year + before_month + day - 1 - 730_425
}

fn time_part(text: &[u8]) -> Option<(i64, &[u8])> {
    let [h1, h2, b':', m1, m2, rest @ ..] = text else { return None };
    let (hour, minute) = (two(*h1, *h2)?, two(*m1, *m2)?);
    let (second, rest) = match rest {
        [b':', s1, s2, rest @ ..] => (two(*s1, *s2)?, rest),
        // `01:02.5` are minutes and seconds for the server.
        [b'.', ..] => return None,
        _ => (0, rest),
    };
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (fraction_us, rest) = match rest {
        [b'.', rest @ ..] => fraction(rest)?,
        _ => (0, rest),
    };
    let seconds = i64::from((hour * 60 + minute) * 60 + second);
    Some((seconds * 1_000_000 + fraction_us, rest))
}

/// Microseconds. More digits than six are for the server to round.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(length);
    let (kept, more) = digits.split_at(length.min(6));
    if length == 0 || more.iter().any(|digit| *digit != b'0') {
        return None;
    }
    let us = kept.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    Some((us * 10_i64.pow(6 - kept.len() as u32), rest))
}

/// Seconds east of UTC, of all that follows the time.
fn offset_s(text: &[u8]) -> Option<i64> {
    let (sign, hours, minutes) = match text {
        [] | [b'Z'] | [b' ', b'U', b'T', b'C'] => return Some(0),
        [sign, h1, h2] => (sign, two(*h1, *h2)?, 0),
        [sign, h1, h2, b':', m1, m2] | [sign, h1, h2, m1, m2] => (sign, two(*h1, *h2)?, two(*m1, *m2)?),
        _ => return None,
    };
    let seconds = i64::from(hours * 60 + minutes) * 60;
    match sign {
        // The server takes no more than 15:59:59.
        _ if hours > 15 || minutes > 59 => None,
        b'+' => Some(seconds),
        b'-' => Some(-seconds),
        _ => None,
    }
}

fn two(tens: u8, ones: u8) -> Option<i32> {
    (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| i32::from(tens - b'0') * 10 + i32::from(ones - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As another library understands it.
    fn expected(text: &str) -> i64 {
        let time: jiff::Timestamp = text.parse().unwrap();
        let start: jiff::Timestamp = "2000-01-01T00:00:00Z".parse().unwrap();
        time.as_microsecond() - start.as_microsecond()
    }

    #[test]
    fn times_are_counted_from_the_year_2000() {
        for text in [
            "2017-11-22T13:41:00.750Z",
            "2028-07-19T00:00:00.000+08:00",
            "2000-01-01T00:00:00Z",
            "1999-12-31T23:59:59.999999Z",
            "2024-02-29T12:00:00-03:30",
            "1900-03-01T00:00:00Z",
            "0001-01-01T00:00:00Z",
            "9999-12-30T21:59:59Z",
        ] {
            assert_eq!(timestamptz(text.as_bytes()), Some(expected(text)), "{text}");
        }
        assert_eq!(timestamptz(b"2025-02-28 01:02:03 UTC"), Some(expected("2025-02-28T01:02:03Z")));
        assert_eq!(timestamptz(b"2025-02-28T01:02+0100"), Some(expected("2025-02-28T01:02:00+01:00")));
        assert_eq!(timestamptz(b"2025-02-28"), Some(expected("2025-02-28T00:00:00Z")));
        assert_eq!(timestamp(b"2025-02-28T01:02:03+08:00"), Some(expected("2025-02-28T01:02:03Z")));
        assert_eq!(date(b"1999-12-31"), Some(-1));
        assert_eq!(time(b"00:00:01.5"), Some(1_500_000));
    }

    #[test]
    fn what_is_not_sure_is_left_to_the_server() {
        for text in [
            "",
            "now",
            "2025-02-29T00:00:00Z",
            "2025-13-01T00:00:00Z",
            "2025-01-01T24:00:00Z",
            "2025-01-01T00:00:60Z",
            "2025-01-01T00:00:00.0000001Z",
            "2025-01-01T00:00:00.Z",
            "2025-01-01T00:00:00z",
            "2025-01-01T00:00:00+16:00",
            "2025-1-1",
            "2025-01-01 BC",
            "0000-01-01",
        ] {
            assert_eq!(timestamptz(text.as_bytes()), None, "{text}");
        }
        assert_eq!(date(b"2025-01-01T00:00:00Z"), None);
        assert_eq!(time(b"01:02.5"), None);
        assert_eq!(timestamptz(b"2025-01-01T01:02.5Z"), None);
        assert_eq!(timestamptz(b"2025-01-01T00:00:00.1234560Z"), Some(expected("2025-01-01T00:00:00.123456Z")));
    }
}
