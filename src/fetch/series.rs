//! One series of pages, and the certificate that it is whole.
//!
//! The index is live: a record that appears or goes between two requests shifts the others, so that
//! one can be seen twice or not at all. A series is therefore accepted only when every page told the
//! same total, every page but the last was full, there are as many records as the total, and no id
//! came twice. Otherwise it is read anew.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::plan::Plan;
use crate::api::{Answer, Verdict};
use crate::error::excerpt;
use crate::files::sha256_of;
use crate::pipeline::{self, PageStyle, Records};
use crate::receipt;

// A longer index than this many pages does not exist; a total that says so is a fault.
const MOST_PAGES: u64 = 1_000_000;

/// A page whose answer is what it should be.
pub struct Page {
    pub body: Vec<u8>,
    receipt: receipt::Page,
    total: Option<u64>,
    /// The size that the server granted.
    size: u64,
    /// Hashes of the records' ids. Two ids of one hash (1 in 10⁷ for a million records) would only
    /// make a series be read again.
    ids: Vec<u64>,
}

/// A series under way.
pub struct Series {
    pub plan: Plan,
    page: pipeline::Page,
    /// Pages taken in, by number from 1.
    pages: Vec<Option<Taken>>,
    /// The number of the page to ask for next.
    next: u32,
    /// Requests under way.
    outstanding: u32,
    /// What the first page to arrive told.
    told: Option<(Option<u64>, u64)>,
    /// Why it cannot be whole any more.
    broken: Option<String>,
}

struct Taken {
    receipt: receipt::Page,
    ids: Vec<u64>,
}

/// What is to be done about a series once nothing of it is under way.
pub enum State {
    /// There are pages to ask for.
    Open,
    /// All pages are asked for, not all have come.
    Waiting,
    Whole(receipt::Series),
    Broken(String),
}

impl Page {
    /// The page in an answer, or the verdict on what is not one.
    pub fn read(answer: Answer, expected: &pipeline::Page) -> Result<Page, Verdict> {
        let paged = expected.style == PageStyle::PageNumber;
        if paged && answer.total.is_none() {
            return Err(Verdict::again("it answered without `X-Total`, so nothing tells whether the list is whole"));
        }
        let text = std::str::from_utf8(&answer.body)
            .map_err(|cause| Verdict::again(format!("it answered text that is not UTF-8 ({cause})")))?;
        let records: Vec<Record> = match expected.records {
            Records::Elements => {
                serde_json::from_str(text).map_err(|cause| not_json(&cause, "an array of records", text))?
            }
            Records::Whole => vec![serde_json::from_str(text).map_err(|cause| not_json(&cause, "a record", text))?],
        };
        let ids = records.iter().filter_map(|record| record.0).map(|id| hash(id.get())).collect();
        Ok(Page {
            receipt: receipt::Page {
                records: records.len() as u64,
                size_bytes: answer.body.len() as u64,
                sha256: sha256_of(&answer.body),
            },
            total: answer.total.filter(|_| paged),
            // A server that grants nothing is one that does not say.
            size: u64::from(answer.per_page.filter(|n| *n > 0).unwrap_or(expected.size)),
            ids,
            body: answer.body,
        })
    }
}

/// A record as far as paging looks at it: an object, and its member `id` if it has one.
struct Record<'a>(Option<&'a RawValue>);

// By hand, since a derived reader takes an array for the members of a struct.
impl<'de> Deserialize<'de> for Record<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Record<'de>, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Record<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut members: M) -> Result<Record<'de>, M::Error> {
                let mut id = None;
                while let Some(name) = members.next_key::<Cow<str>>()? {
                    match &*name {
                        "id" => id = members.next_value()?,
                        _ => drop(members.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(Record(id))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

fn not_json(cause: &serde_json::Error, expected: &str, text: &str) -> Verdict {
    Verdict::again(format!("it answered what is not {expected} ({cause}): {}", excerpt(text, 80)))
}

fn hash(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

impl Series {
    pub fn new(plan: Plan, page: pipeline::Page) -> Series {
        Series { plan, page, pages: Vec::new(), next: 1, outstanding: 0, told: None, broken: None }
    }

    /// Forgets all pages, to read them anew.
    pub fn restart(&mut self) {
        *self = Series::new(self.plan.clone(), self.page);
    }

    /// The number and the path of the next page to ask for. Until the first has come nobody knows
    /// whether there is a second.
    pub fn ask(&mut self) -> Option<(u32, String)> {
        let known = u64::from(self.next) <= self.count().unwrap_or(1);
        if !known || self.broken.is_some() {
            return None;
        }
        let number = self.next;
        self.next += 1;
        self.outstanding += 1;
        Some((number, self.path(number)))
    }

    /// How many pages have come.
    pub fn taken(&self) -> u64 {
        self.pages.iter().flatten().count() as u64
    }

    /// The number of the last page that was asked for.
    pub fn asked(&self) -> u32 {
        self.next - 1
    }

    fn path(&self, number: u32) -> String {
        let path = &self.plan.path;
        match self.page.style {
            PageStyle::None => path.clone(),
            PageStyle::PageNumber => {
                let separator = if path.contains('?') { '&' } else { '?' };
                format!("{path}{separator}page={number}&per_page={}", self.page.size)
            }
        }
    }

    /// Pages in all, once the first has told.
    pub fn count(&self) -> Option<u64> {
        let (total, size) = self.told?;
        Some(total.map_or(1, |total| total.div_ceil(size).clamp(1, MOST_PAGES + 1)))
    }

    /// Whether the server says that there is no record.
    pub fn is_empty(&self) -> bool {
        self.told.is_some_and(|(total, _)| total == Some(0))
    }

    /// Takes in a page that has come.
    pub fn take(&mut self, number: u32, page: Page) {
        self.outstanding -= 1;
        let told = (page.total, page.size);
        let first = *self.told.get_or_insert(told);
        if told != first {
            self.broken.get_or_insert(moved(first, told, number));
        }
        if self.count().is_some_and(|count| count > MOST_PAGES) {
            self.broken.get_or_insert(format!("`X-Total` is {}", first.0.unwrap_or(0)));
        }
        if let (Some(_), Some(count)) = (first.0, self.count())
            && u64::from(number) < count
            && page.receipt.records != first.1
        {
            let found = page.receipt.records;
            self.broken.get_or_insert(format!("page {number} of {count} has {found} records, not {}", first.1));
        }
        let index = number as usize - 1;
        if self.pages.len() <= index {
            self.pages.resize_with(index + 1, || None);
        }
        self.pages[index] = Some(Taken { receipt: page.receipt, ids: page.ids });
    }

    pub fn state(&self) -> State {
        let asked_all = self.broken.is_some() || self.count().is_some_and(|count| u64::from(self.next) > count);
        match (asked_all, self.outstanding) {
            (false, _) if self.next == 1 || self.told.is_some() => State::Open,
            (false, _) => State::Waiting,
            (true, 0) => self.certify().map_or_else(State::Broken, State::Whole),
            (true, _) => State::Waiting,
        }
    }

    /// The evidence that the series is whole, or what speaks against it.
    fn certify(&self) -> Result<receipt::Series, String> {
        if let Some(why) = &self.broken {
            return Err(why.clone());
        }
        let (total, _) = self.told.ok_or("no page has come")?;
        let mut ids = HashSet::new();
        let mut pages = Vec::with_capacity(self.pages.len());
        for (number, taken) in (1..).zip(&self.pages) {
            let Taken { receipt, ids: page_ids } =
                taken.as_ref().ok_or_else(|| format!("page {number} has not come"))?;
            if let Some(twice) = page_ids.iter().find(|id| !ids.insert(**id)) {
                let earlier = self.pages.iter().flatten().position(|taken| taken.ids.contains(twice)).unwrap_or(0) + 1;
                return Err(format!("a record of page {earlier} came again on page {number}"));
            }
            pages.push(receipt.clone());
        }
        let records: u64 = pages.iter().map(|page| page.records).sum();
        match total {
            Some(total) if total != records => Err(format!("`X-Total` is {total}, and {records} records came")),
            _ => Ok(receipt::Series { key: self.plan.key.clone(), total, pages }),
        }
    }
}

fn moved(first: (Option<u64>, u64), now: (Option<u64>, u64), number: u32) -> String {
    match (first, now) {
        ((Some(a), _), (Some(b), _)) if a != b => format!("`X-Total` was {a}, and {b} on page {number}"),
        ((_, a), (_, b)) => format!("`X-Per-Page` was {a}, and {b} on page {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGED: pipeline::Page = pipeline::Page { style: PageStyle::PageNumber, size: 2, records: Records::Elements };

    fn answer(ids: &[u32], total: u64) -> Answer {
        let records: Vec<String> = ids.iter().map(|id| format!("{{\"id\":{id}}}")).collect();
        Answer { total: Some(total), per_page: Some(2), body: format!("[{}]", records.join(",")).into_bytes() }
    }

    /// Reads the pages as given, in this order of arrival, and tells the end.
    fn read(pages: &[(&[u32], u64)]) -> Result<usize, String> {
        let mut series = Series::new(Plan { key: None, path: "/x".into() }, PAGED);
        let mut asked = Vec::new();
        for (ids, total) in pages {
            asked.extend(std::iter::from_fn(|| series.ask()));
            if asked.is_empty() {
                return Err("more pages than were asked for".into());
            }
            let (number, path) = asked.remove(0);
            assert_eq!(path, format!("/x?page={number}&per_page=2"));
            series.take(number, Page::read(answer(ids, *total), &PAGED).map_err(|v| v.why().to_string())?);
        }
        match series.state() {
            State::Whole(whole) => Ok(whole.pages.len()),
            State::Broken(why) => Err(why),
            State::Open | State::Waiting => Err("not all pages were read".into()),
        }
    }

    #[test]
    fn a_whole_series_is_accepted_and_asks_for_no_page_too_many() {
        assert_eq!(read(&[(&[], 0)]), Ok(1));
        assert_eq!(read(&[(&[1, 2], 2)]), Ok(1));
        assert_eq!(read(&[(&[1, 2], 5), (&[3, 4], 5), (&[5], 5)]), Ok(3));
    }

    #[test]
    fn a_series_that_lacks_or_repeats_something_is_not() {
        let error = |pages| read(pages).unwrap_err();
        assert_eq!(error(&[(&[1, 2], 3), (&[3], 4)]), "`X-Total` was 3, and 4 on page 2");
        assert_eq!(error(&[(&[1, 2], 3), (&[2], 3)]), "a record of page 1 came again on page 2");
        assert_eq!(error(&[(&[1, 2], 3), (&[], 3)]), "`X-Total` is 3, and 2 records came");
        assert_eq!(error(&[(&[1], 3)]), "page 1 of 2 has 1 records, not 2");
        assert_eq!(error(&[(&[], 1)]), "`X-Total` is 1, and 0 records came");
        assert_eq!(error(&[(&[1, 2], u64::MAX)]), format!("`X-Total` is {}", u64::MAX));
        assert_eq!(error(&[(&[1, 2], 4)]), "not all pages were read");
    }

    #[test]
    fn what_is_no_page_is_asked_for_again() {
        let why = |total, body: &[u8]| {
            let answer = Answer { total, per_page: None, body: body.to_vec() };
            Page::read(answer, &PAGED).map(|_| ()).unwrap_err().why().to_string()
        };
        assert!(why(None, b"[]").contains("X-Total"));
        assert!(why(Some(1), b"{\"id\":1}").contains("not an array of records"));
        assert!(why(Some(1), b"[{\"id\":1}").contains("not an array of records"));
        assert!(why(Some(1), b"[1]").contains("not an array of records"));
        assert!(why(Some(1), b"[[1]]").contains("not an array of records"));
        assert!(why(Some(1), b"[{\"id\":\"\xff\"}]").contains("not UTF-8"));
    }
}
