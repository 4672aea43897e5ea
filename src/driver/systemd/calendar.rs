//! A time of cron as systemd writes it: `OnCalendar=` expressions, in UTC, that elapse at the same minutes.

use crate::pipeline::{CronTime, all_values, has_value};

const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

/// One expression, or two where either of two fields of days will do: systemd takes both, and both would have to fit
/// within one expression.
pub fn of(time: &CronTime) -> Vec<String> {
    let every_day = all_values(1, 31);
    let every_weekday = all_values(0, 6);
    match time.either_day {
        true => vec![expression(time, time.days, every_weekday), expression(time, every_day, time.weekdays)],
        false => vec![expression(time, time.days, time.weekdays)],
    }
}

fn expression(time: &CronTime, days: u64, weekdays: u64) -> String {
    let weekdays = match weekdays == all_values(0, 6) {
        true => String::new(),
        // The week begins on Monday there.
        false => {
            let named = (1..=7).filter(|day| has_value(weekdays, day % 7)).map(|day| WEEKDAYS[day as usize % 7]);
            named.collect::<Vec<_>>().join(",") + " "
        }
    };
    format!(
        "{weekdays}*-{}-{} {}:{}:00 UTC",
        list(time.months, 1, 12),
        list(days, 1, 31),
        list(time.hours, 0, 23),
        list(time.minutes, 0, 59)
    )
}

/// `*`, or the values, with `..` between the ends of three or more in a row.
fn list(values: u64, first: u32, last: u32) -> String {
    if values == all_values(first, last) {
        return "*".to_string();
    }
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for value in (first..=last).filter(|value| has_value(values, *value)) {
        match runs.last_mut() {
            Some((_, end)) if *end + 1 == value => *end = value,
            _ => runs.push((value, value)),
        }
    }
    let written = runs.into_iter().map(|(begin, end)| match end - begin {
        0 => format!("{begin:02}"),
        1 => format!("{begin:02},{end:02}"),
        _ => format!("{begin:02}..{end:02}"),
    });
    written.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_systemd_reads_them() {
        for (cron, expected) in [
            ("5 * * * *", vec!["*-*-* *:05:00 UTC"]),
            ("0 1 * * *", vec!["*-*-* 01:00:00 UTC"]),
            ("*/15 0-5,22,23 * * *", vec!["*-*-* 00..05,22,23:00,15,30,45:00 UTC"]),
            ("0 1 * jan,mar-may 0,5", vec!["Fri,Sun *-01,03..05-* 01:00:00 UTC"]),
            ("0 1 1,15 * mon", vec!["*-*-01,15 01:00:00 UTC", "Mon *-*-* 01:00:00 UTC"]),
            ("0 1 */10 * mon", vec!["Mon *-*-01,11,21,31 01:00:00 UTC"]),
            ("0 1 * * *", vec!["*-*-* 01:00:00 UTC"]),
        ] {
            assert_eq!(of(&CronTime::parse(cron).unwrap()), expected, "{cron}");
        }
    }
}
