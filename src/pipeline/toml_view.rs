//! A TOML table as the parser reads it: every key is taken once, what is left over is an error, and
//! every error names file, line and column.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Error, Result};

/// The text of the file, for turning byte offsets into lines and columns.
#[derive(Clone, Copy)]
pub struct Text<'a> {
    file: &'a Path,
    text: &'a str,
    /// The byte offsets of its line breaks: thousands of stages ask for their lines.
    breaks: &'a [usize],
}

/// The byte offsets of the line breaks of a text, for [`Text::new`].
pub fn breaks(text: &str) -> Vec<usize> {
    text.match_indices('\n').map(|(at, _)| at).collect()
}

impl<'a> Text<'a> {
    /// `breaks` are those of `text`.
    pub fn new(file: &'a Path, text: &'a str, breaks: &'a [usize]) -> Text<'a> {
        Text { file, text, breaks }
    }

    /// The document's root table.
    pub fn parse(self) -> Result<View<'a>> {
        let document = DeTable::parse(self.text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            self.error(start, error.message().to_string())
        })?;
        let span = document.span();
        Ok(View { text: self, name: String::new(), start: span.start, table: document.into_inner(), taken: Vec::new() })
    }

    /// Line of a byte offset, counted from 1.
    pub fn line(self, offset: usize) -> usize {
        self.breaks.partition_point(|at| *at < offset) + 1
    }

    fn place(self, offset: usize) -> String {
        let before = &self.text[..offset.min(self.text.len())];
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        format!("{}:{}:{column}", self.file.display(), self.line(offset))
    }

    fn error(self, offset: usize, message: String) -> Error {
        Error::usage(message).at(self.place(offset))
    }
}

/// One table, and which of its keys have been read.
pub struct View<'a> {
    text: Text<'a>,
    /// As messages name it: `api.limits`; empty for the root.
    name: String,
    start: usize,
    table: DeTable<'a>,
    taken: Vec<&'static str>,
}

/// A value with its key and place, so that a wrong type or meaning can be told.
pub struct Value<'a> {
    text: Text<'a>,
    key: String,
    pub start: usize,
    value: DeValue<'a>,
}

impl<'a> View<'a> {
    pub fn line(&self) -> usize {
        self.text.line(self.start)
    }

    pub fn take(&mut self, key: &'static str) -> Option<Value<'a>> {
        self.taken.push(key);
        let value = self.table.remove(key)?;
        let start = value.span().start;
        Some(Value { text: self.text, key: self.key_name(key), start, value: value.into_inner() })
    }

    pub fn need(&mut self, key: &'static str) -> Result<Value<'a>> {
        let place = self.start;
        match self.take(key) {
            Some(value) => Ok(value),
            None => Err(self.text.error(place, format!("{} lacks the key `{key}`", self.whole()))),
        }
    }

    /// Every key has been asked for: what is left is unknown.
    pub fn finish(self) -> Result<()> {
        // The first in the file, not in the alphabet: it is where the reader's eye is.
        let Some((key, _)) = self.table.iter().min_by_key(|(key, _)| key.span().start) else {
            return Ok(());
        };
        let name: &str = key.get_ref();
        let error = self.text.error(key.span().start, format!("unknown key `{name}` in {}", self.whole()));
        Err(match super::nearest(name, self.taken.iter().copied()) {
            Some(near) => error.hint(format!("Did you mean `{near}`?")),
            None => error.detail(format!("Known keys: {}.", self.taken.join(", "))),
        })
    }

    pub fn error(&self, message: String) -> Error {
        self.text.error(self.start, message)
    }

    fn whole(&self) -> String {
        if self.name.is_empty() { "the file".to_string() } else { format!("`[{}]`", self.name) }
    }

    fn key_name(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_string() } else { format!("{}.{key}", self.name) }
    }
}

impl<'a> Value<'a> {
    pub fn error(&self, message: String) -> Error {
        self.text.error(self.start, message)
    }

    /// An error about this value that says what was found and what was expected.
    pub fn wrong(&self, expected: &str) -> Error {
        let found = match &self.value {
            DeValue::String(text) => format!("{:?}", &**text),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Boolean(truth) => truth.to_string(),
            DeValue::Datetime(_) => "a date".to_string(),
            DeValue::Array(_) => "an array".to_string(),
            DeValue::Table(_) => "a table".to_string(),
        };
        self.error(format!("`{}` is {found}, expected {expected}", self.key))
    }

    pub fn line(&self) -> usize {
        self.text.line(self.start)
    }

    pub fn is_integer(&self) -> bool {
        matches!(self.value, DeValue::Integer(_))
    }

    pub fn is_table(&self) -> bool {
        matches!(self.value, DeValue::Table(_))
    }

    /// The line on which a string's own text begins: a multi-line string may begin after its quotes.
    pub fn text_line(&self) -> usize {
        let quoted = self.text.text.get(self.start..).unwrap_or("");
        let opening = ["'''\n", "\"\"\"\n", "'''\r\n", "\"\"\"\r\n"];
        self.line() + usize::from(opening.iter().any(|quotes| quoted.starts_with(quotes)))
    }

    pub fn string(&self) -> Result<String> {
        match &self.value {
            DeValue::String(text) => Ok(text.to_string()),
            _ => Err(self.wrong("a string")),
        }
    }

    /// A string that is not empty.
    pub fn name(&self) -> Result<String> {
        let text = self.string()?;
        if text.is_empty() { Err(self.wrong("a name")) } else { Ok(text) }
    }

    pub fn boolean(&self) -> Result<bool> {
        self.value.as_bool().ok_or_else(|| self.wrong("true or false"))
    }

    /// An integer of at least 1.
    pub fn count(&self) -> Result<u32> {
        self.whole_number(1..=u32::MAX)
    }

    pub fn whole_number(&self, range: RangeInclusive<u32>) -> Result<u32> {
        let number = match &self.value {
            DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        let number = number.filter(|number| range.contains(number));
        number.ok_or_else(|| self.wrong(&format!("a whole number from {} to {}", range.start(), range.end())))
    }

    /// `"30 s"`, `"20h"`, `"1h 30m"`, `"30 days"`.
    pub fn duration(&self) -> Result<Duration> {
        let text = self.string()?;
        parse_duration(&text).ok_or_else(|| self.wrong("a duration such as \"30s\" or \"20h\""))
    }

    /// `"20%"`, as a share from 0 to 1.
    pub fn share(&self) -> Result<f64> {
        let expected = "a percentage such as \"20%\"";
        let text = self.string()?;
        let percent = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
        percent.filter(|p| (0.0..=100.0).contains(p)).map(|p| p / 100.0).ok_or_else(|| self.wrong(expected))
    }

    pub fn names(self) -> Result<Vec<String>> {
        self.strings(Value::name)
    }

    /// The strings of an array, each as `read` takes it.
    pub fn strings(self, read: impl Fn(&Value<'a>) -> Result<String>) -> Result<Vec<String>> {
        let DeValue::Array(array) = self.value else { return Err(self.wrong("an array of strings")) };
        array.into_iter().map(|item| read(&element(self.text, &self.key, item))).collect()
    }

    pub fn table(self) -> Result<View<'a>> {
        match self.value {
            DeValue::Table(table) => {
                Ok(View { text: self.text, name: self.key, start: self.start, table, taken: Vec::new() })
            }
            _ => Err(self.wrong("a table")),
        }
    }

    /// An array of tables (`[[stage]]`).
    pub fn tables(self) -> Result<Vec<View<'a>>> {
        let DeValue::Array(array) = self.value else {
            return Err(self.wrong(&format!("tables that begin with `[[{}]]`", self.key)));
        };
        array.into_iter().map(|item| element(self.text, &self.key, item).table()).collect()
    }

    /// A table whose keys are the user's own, in the order of the file.
    pub fn pairs(self) -> Result<Vec<(String, Value<'a>)>> {
        let DeValue::Table(table) = self.value else { return Err(self.wrong("a table")) };
        let mut pairs: Vec<_> = table.into_iter().collect();
        pairs.sort_by_key(|(key, _)| key.span().start);
        let named = pairs.into_iter().map(|(key, item)| {
            let name = key.into_inner().to_string();
            let value = element(self.text, &format!("{}.{name}", self.key), item);
            (name, value)
        });
        Ok(named.collect())
    }

    /// One of a fixed set of words.
    pub fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T> {
        let text = self.string()?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let error = self.wrong(&words.join(" or "));
        Err(match super::nearest(&text, choices.iter().map(|(word, _)| *word)) {
            Some(near) => error.hint(format!("Did you mean \"{near}\"?")),
            None => error,
        })
    }
}

fn element<'a>(text: Text<'a>, key: &str, item: Spanned<DeValue<'a>>) -> Value<'a> {
    Value { text, key: key.to_string(), start: item.span().start, value: item.into_inner() }
}

/// Jiff's friendly durations in units of fixed length, and days of 24 hours.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let span: jiff::Span = text.parse().ok()?;
    let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(duration).ok()
}

/// What a key says, or its default.
pub fn or<'a, T>(value: Option<Value<'a>>, read: impl FnOnce(&Value<'a>) -> Result<T>, default: T) -> Result<T> {
    value.map_or(Ok(default), |value| read(&value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offset_has_the_line_of_the_breaks_before_it() {
        for text in ["", "a", "\n", "a\nb", "a\n\nb\n", "\r\nä\n"] {
            let breaks = breaks(text);
            let shown = Text::new(Path::new("f"), text, &breaks);
            for offset in (0..text.len() + 2).filter(|offset| *offset > text.len() || text.is_char_boundary(*offset)) {
                let before = &text[..offset.min(text.len())];
                assert_eq!(shown.line(offset), before.matches('\n').count() + 1, "{text:?} {offset}");
            }
        }
    }
}
