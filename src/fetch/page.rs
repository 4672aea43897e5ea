//! One answer as a page of a series: its records counted, their ids noted, what it says of the others.

use std::borrow::Cow;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::api::{Answer, Client, Request, Verdict};
use crate::error::{Result, excerpt};
use crate::files::sha256_of;
use crate::pipeline::{self, PageStyle, Total};
use crate::receipt;

/// What an answer to the request for a page is.
pub enum Got {
    Page(Page),
    /// What is here already, still.
    Same(Same),
}

/// A page whose answer is what it should be.
pub struct Page {
    pub body: Vec<u8>,
    pub receipt: receipt::Page,
    /// Hashes of the records' ids, in their order; none if one has no id. Two ids of one hash (1 in 10⁷ for a
    /// million records) would only make pages be read again.
    pub ids: Option<Vec<u64>>,
    /// Records in all pages, by the server's word.
    pub total: Option<u64>,
    /// The page size that the server says it has granted.
    pub granted: Option<u64>,
    pub next: Option<Next>,
    pub asked: Instant,
}

/// A page that was asked for with its `ETag` and has not changed.
pub struct Same {
    pub total: Option<u64>,
    pub asked_at: String,
    pub took_ms: u64,
    pub asked: Instant,
}

/// How the page after this one is asked for, as the answer says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    Link(String),
    Cursor(String),
}

/// Gets the page at this address, which is asked for again until the answer is one.
pub fn get(client: &Client, request: &Request, expected: &pipeline::Page) -> Result<Got> {
    client.get(request, |answer| {
        let mut got = Got::read(answer, expected)?;
        if let Got::Page(page) = &mut got
            && let Some(Next::Link(link)) = &mut page.next
        {
            *link = client.follow(request.url, link)?;
        }
        Ok(got)
    })
}

impl Got {
    /// What `answer` is, or the verdict on what cannot be used.
    pub fn read(answer: Answer, expected: &pipeline::Page) -> Result<Got, Verdict> {
        let asked_at = format!("{:.3}", answer.asked_at);
        let (took_ms, asked) = (answer.took.as_millis() as u64, answer.asked);
        let total_header = match &expected.total {
            Total::Header(name) => answer.header(name).and_then(|text| text.trim().parse().ok()),
            Total::Body(_) | Total::Unknown => None,
        };
        if answer.not_modified {
            return Ok(Got::Same(Same { total: total_header, asked_at, took_ms, asked }));
        }
        let text = std::str::from_utf8(&answer.body)
            .map_err(|cause| Verdict::again(format!("it answered text that is not UTF-8 ({cause})")))?;
        let (records, ids) = look_over(text, expected)?;
        let total = match &expected.total {
            Total::Header(_) => total_header,
            Total::Body(path) => number_at(text, path)?,
            Total::Unknown => None,
        };
        if total.is_none() && expected.total != Total::Unknown {
            let place = match &expected.total {
                Total::Body(path) => format!("a number at `{path}`"),
                Total::Header(name) => format!("`{name}`"),
                Total::Unknown => String::new(),
            };
            let why = format!("it answered without {place}, so nothing tells whether the list is whole");
            return Err(Verdict::again(why));
        }
        Ok(Got::Page(Page {
            receipt: receipt::Page {
                records,
                size_bytes: answer.body.len() as u64,
                sha256: sha256_of(&answer.body),
                etag: answer.etag().map(str::to_string),
                asked_at,
                took_ms,
            },
            ids,
            total,
            granted: answer.per_page().filter(|n| *n > 0).map(u64::from),
            next: next(&answer, text, &expected.style)?,
            asked,
            body: answer.body,
        }))
    }
}

/// The ids of the records of a page that was saved as it came.
pub fn ids_of(body: &[u8], expected: &pipeline::Page) -> Option<Vec<u64>> {
    look_over(std::str::from_utf8(body).ok()?, expected).ok()?.1
}

/// How many records stand in the body, and their ids.
fn look_over(text: &str, expected: &pipeline::Page) -> Result<(u64, Option<Vec<u64>>), Verdict> {
    let mut tally = Tally { member: &expected.id, records: 0, ids: Some(Vec::new()) };
    let (what, read) = match expected.records.is_elements() {
        true => ("an array of records", expected.records.needed(text).and_then(|array| tally.elements(array.get()))),
        false => ("a record", expected.records.needed(text).and_then(|record| tally.record(record.get()))),
    };
    read.map_err(|cause| Verdict::again(format!("it answered what is not {what} ({cause}): {}", excerpt(text, 80))))?;
    Ok((tally.records, tally.ids))
}

fn number_at(text: &str, path: &pipeline::BodyPath) -> Result<Option<u64>, Verdict> {
    let found = path.find(text).map_err(|cause| Verdict::again(format!("it answered what is not JSON ({cause})")))?;
    Ok(found.and_then(|value| value.get().parse().ok()))
}

/// What the answer says of the page after it.
fn next(answer: &Answer, text: &str, style: &PageStyle) -> Result<Option<Next>, Verdict> {
    match style {
        PageStyle::PageNumber { .. } | PageStyle::Offset { .. } | PageStyle::None => Ok(None),
        PageStyle::LinkHeader => Ok(answer.next_link().map(|link| Next::Link(link.to_string()))),
        PageStyle::Cursor { next, .. } => {
            let found = next.find(text).map_err(|cause| Verdict::again(format!("it answered no JSON ({cause})")))?;
            cursor(found.map_or("null", RawValue::get)).map_err(|found| {
                let found = excerpt(found, 40);
                Verdict::again(format!("what stands at `{next}` is {found}, neither a cursor nor an address"))
            })
        }
    }
}

/// The cursor or the address in this JSON: there is no further page where it is null, false or empty.
fn cursor(json: &str) -> Result<Option<Next>, &str> {
    if matches!(json, "null" | "false" | "\"\"") {
        return Ok(None);
    }
    if json.parse::<u64>().is_ok() {
        return Ok(Some(Next::Cursor(json.to_string())));
    }
    let text: String = serde_json::from_str(json).map_err(|_| json)?;
    // A cursor in base 64 may begin with a slash, but it holds no question mark.
    let is_address = text.contains("://") || (text.starts_with(['/', '?']) && text.contains('?'));
    Ok(Some(if is_address { Next::Link(text) } else { Next::Cursor(text) }))
}

/// Counts records, and notes the ids of those seen so far while all have one.
struct Tally<'m> {
    /// The member that holds the id.
    member: &'m str,
    records: u64,
    ids: Option<Vec<u64>>,
}

impl Tally<'_> {
    fn elements(&mut self, array: &str) -> Result<(), serde_json::Error> {
        let mut reader = serde_json::Deserializer::from_str(array);
        reader.deserialize_seq(Elements(self))?;
        reader.end()
    }

    fn record(&mut self, record: &str) -> Result<(), serde_json::Error> {
        let mut reader = serde_json::Deserializer::from_str(record);
        Record(self).deserialize(&mut reader)?;
        reader.end()
    }

    fn note(&mut self, id: Option<&RawValue>) {
        self.records += 1;
        match (id.map(RawValue::get).filter(|id| *id != "null"), &mut self.ids) {
            (Some(id), Some(ids)) => {
                let mut hasher = DefaultHasher::new();
                id.hash(&mut hasher);
                ids.push(hasher.finish());
            }
            (None, ids) => *ids = None,
            (Some(_), None) => {}
        }
    }
}

struct Elements<'t, 'm>(&'t mut Tally<'m>);

impl<'de> Visitor<'de> for Elements<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut elements: S) -> Result<(), S::Error> {
        while elements.next_element_seed(Record(self.0))?.is_some() {}
        Ok(())
    }
}

/// A record as far as paging looks at it: an object, and its id if it has one.
struct Record<'t, 'm>(&'t mut Tally<'m>);

impl<'de> DeserializeSeed<'de> for Record<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Record<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut members: M) -> Result<(), M::Error> {
        let mut id = None;
        while let Some(name) = members.next_key::<Cow<str>>()? {
            if *name == *self.0.member {
                id = Some(members.next_value()?);
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        self.0.note(id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(page: &str) -> pipeline::Page {
        let text = format!("[pipeline]\nname = 't'\n[api]\nbase_url = 'http://h'\npage = {page}");
        pipeline::Pipeline::parse(std::path::Path::new("p.toml"), &text).unwrap().api.page
    }

    fn counted(page: &str, body: &str) -> Result<(u64, Option<usize>), String> {
        let (records, ids) = look_over(body, &parse(page)).map_err(|verdict| verdict.why().to_string())?;
        Ok((records, ids.map(|ids| ids.len())))
    }

    #[test]
    fn records_are_counted_wherever_they_stand() {
        assert_eq!(counted("{}", "[{\"id\":1},{\"id\":2}]"), Ok((2, Some(2))));
        assert_eq!(counted("{}", "[{\"id\":1},{\"x\":2}]"), Ok((2, None)));
        assert_eq!(counted("{}", "[]"), Ok((0, Some(0))));
        assert_eq!(counted("{ records = '.data[]', id = 'uuid' }", "{\"data\":[{\"uuid\":\"a\"}]}"), Ok((1, Some(1))));
        assert_eq!(counted("{ style = 'none', records = '.' }", "{\"id\":1}"), Ok((1, Some(1))));
    }

    #[test]
    fn what_is_no_page_is_told() {
        let why = |body| counted("{}", body).unwrap_err();
        for body in ["{\"id\":1}", "[{\"id\":1}", "[1]", "[[1]]", "[{}] x", ""] {
            assert!(why(body).starts_with("it answered what is not an array of records ("), "{body}: {}", why(body));
        }
        let why = counted("{ records = '.data[]' }", "{\"error\":1}").unwrap_err();
        assert!(why.contains("there is nothing at `.data[]`"), "{why}");
    }

    #[test]
    fn a_cursor_is_told_from_an_address() {
        let text = |text: &str| Some(Next::Cursor(text.to_string()));
        assert_eq!(cursor("17"), Ok(text("17")));
        assert_eq!(cursor("\"/9j+a==\""), Ok(text("/9j+a==")));
        for end in ["null", "false", "\"\""] {
            assert_eq!(cursor(end), Ok(None));
        }
        for address in ["http://h/x", "/x?page=2", "?page=2"] {
            assert_eq!(cursor(&format!("\"{address}\"")), Ok(Some(Next::Link(address.to_string()))));
        }
        assert_eq!(cursor("{}"), Err("{}"));
    }
}
