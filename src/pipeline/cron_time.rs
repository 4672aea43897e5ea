//! When cron runs a job: the five fields of a line of a crontab, as crontab(5) has them.
//!
//! Only what every cron understands in the same way is taken: no `@daily`, `L`, `W`, `#`, `?` or `~`. That is why this is
//! no crate's syntax.

/// The five fields, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronTime {
    text: String,
    /// Bit n stands for the value n.
    pub minutes: u64,
    pub hours: u64,
    pub days: u64,
    pub months: u64,
    /// Sunday is 0.
    pub weekdays: u64,
    /// Neither field of days begins with `*`: a day that one of them names will do.
    pub either_day: bool,
}

/// What a field may hold.
struct Field {
    /// With its article, as messages name one value.
    name: &'static str,
    first: u32,
    last: u32,
    /// The words for values, from `first` on.
    words: &'static [&'static str],
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Field; 5] = [
    Field { name: "a minute", first: 0, last: 59, words: &[] },
    Field { name: "an hour", first: 0, last: 23, words: &[] },
    Field { name: "a day of the month", first: 1, last: 31, words: &[] },
    Field { name: "a month", first: 1, last: 12, words: &MONTHS },
    Field { name: "a day of the week", first: 0, last: 7, words: &WEEKDAYS },
];
/// Of the months, in a leap year.
const LONGEST: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

impl CronTime {
    /// Reads `5 * * * *`; the error is what was expected in its place.
    pub fn parse(text: &str) -> Result<CronTime, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = words[..] else {
            return Err("five fields: minute, hour, day of the month, month, day of the week".to_string());
        };
        let [minute, hour, day, month, weekday] = &FIELDS;
        let mut time = CronTime {
            text: words.join(" "),
            minutes: minute.read(minutes)?,
            hours: hour.read(hours)?,
            days: day.read(days)?,
            months: month.read(months)?,
            weekdays: weekday.read(weekdays)?,
            either_day: !days.starts_with('*') && !weekdays.starts_with('*'),
        };
        // Sunday has two numbers.
        time.weekdays = (time.weekdays | time.weekdays >> 7) & 0x7f;
        let comes =
            (1..=12).any(|month| has(time.months, month) && time.days & all(1, LONGEST[month as usize - 1]) != 0);
        if !comes && !time.either_day {
            return Err("a day of the month that one of its months has".to_string());
        }
        Ok(time)
    }

    /// As it was written, with one blank between fields.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Whether the value is among those of the field.
pub fn has(values: u64, value: u32) -> bool {
    values >> value & 1 == 1
}

/// All values from the one to the other.
pub fn all(first: u32, last: u32) -> u64 {
    (first..=last).fold(0, |values, value| values | 1 << value)
}

impl Field {
    /// `*`, `5`, `1-5`, `mon`, `*/15`, `10-40/5`, and lists of these.
    fn read(&self, text: &str) -> Result<u64, String> {
        text.split(',').try_fold(0, |values, item| Ok(values | self.item(item)?))
    }

    fn item(&self, item: &str) -> Result<u64, String> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (item, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (self.first, self.last),
            Some((first, last)) => (self.value(first)?, self.value(last)?),
            None if step.is_some() => return Err(format!("a range before a step, such as `*/15`, not `{item}`")),
            None => self.value(range).map(|value| (value, value))?,
        };
        if first > last {
            return Err(format!("a range that ends after it begins, not `{item}`"));
        }
        let step: u32 = match step.map(|step| number(step).filter(|step| *step > 0)) {
            Some(Some(step)) => step,
            Some(None) => return Err(format!("a step of 1 or more, not `{item}`")),
            None => 1,
        };
        let stepped = (first..=last).step_by(step as usize);
        Ok(stepped.fold(0, |values, value| values | 1 << value))
    }

    fn value(&self, text: &str) -> Result<u32, String> {
        let word = self.words.iter().position(|word| word.eq_ignore_ascii_case(text));
        let value = word.map(|place| self.first + place as u32).or_else(|| number(text));
        value.filter(|value| (self.first..=self.last).contains(value)).ok_or_else(|| {
            let words = match self.words {
                [first, .., last] => format!(" or {first} to {last}"),
                _ => String::new(),
            };
            format!("{} from {} to {}{words}, not `{text}`", self.name, self.first, self.last)
        })
    }
}

/// Digits only: a sign is none of crontab's.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(values: &[u32]) -> u64 {
        values.iter().fold(0, |set, value| set | 1 << value)
    }

    #[test]
    fn fields_are_read_as_cron_reads_them() {
        let time = CronTime::parse(" 5,10-12,40-59/10\t*/6  1,15 jan-mar,12 mon-FRI ").unwrap();
        assert_eq!(time.as_str(), "5,10-12,40-59/10 */6 1,15 jan-mar,12 mon-FRI");
        assert_eq!(time.minutes, set(&[5, 10, 11, 12, 40, 50]));
        assert_eq!(time.hours, set(&[0, 6, 12, 18]));
        assert_eq!(time.days, set(&[1, 15]));
        assert_eq!(time.months, set(&[1, 2, 3, 12]));
        assert_eq!(time.weekdays, set(&[1, 2, 3, 4, 5]));
        assert!(time.either_day);
        let sunday = CronTime::parse("0 0 * * 7").unwrap();
        assert_eq!((sunday.weekdays, sunday.either_day), (set(&[0]), false));
        assert_eq!(CronTime::parse("0 0 */2 * 5-7").unwrap().weekdays, set(&[0, 5, 6]));
        assert!(!CronTime::parse("0 0 */2 * 1").unwrap().either_day, "both, since one begins with a star");
        assert!(CronTime::parse("0 0 31 2 1").is_ok(), "on Mondays");
        assert!(CronTime::parse("0 0 29 2 *").is_ok());
    }

    #[test]
    fn what_is_no_time_of_cron_is_refused_in_words() {
        for (text, expected) in [
            ("0 1 * *", "five fields: minute, hour, day of the month, month, day of the week"),
            ("@daily", "five fields: minute, hour, day of the month, month, day of the week"),
            ("0 1 * * * root", "five fields: minute, hour, day of the month, month, day of the week"),
            ("60 1 * * *", "a minute from 0 to 59, not `60`"),
            ("+5 1 * * *", "a minute from 0 to 59, not `+5`"),
            ("99999999999 1 * * *", "a minute from 0 to 59, not `99999999999`"),
            ("0 25 * * *", "an hour from 0 to 23, not `25`"),
            ("0 1, * * *", "an hour from 0 to 23, not ``"),
            ("0 1 0 * *", "a day of the month from 1 to 31, not `0`"),
            ("0 1 L * *", "a day of the month from 1 to 31, not `L`"),
            ("0 1 * 13 *", "a month from 1 to 12 or jan to dec, not `13`"),
            ("0 1 * * 8", "a day of the week from 0 to 7 or sun to sat, not `8`"),
            ("0 1 * * monday", "a day of the week from 0 to 7 or sun to sat, not `monday`"),
            ("0 5-3 * * *", "a range that ends after it begins, not `5-3`"),
            ("0 1 * * fri-sun", "a range that ends after it begins, not `fri-sun`"),
            ("5/10 1 * * *", "a range before a step, such as `*/15`, not `5/10`"),
            ("*/0 1 * * *", "a step of 1 or more, not `*/0`"),
            ("*/ 1 * * *", "a step of 1 or more, not `*/`"),
            ("0 1 31 2,4 *", "a day of the month that one of its months has"),
        ] {
            assert_eq!(CronTime::parse(text), Err(expected.to_string()), "{text}");
        }
    }
}
