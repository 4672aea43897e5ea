//! One series of pages: what to ask for next, and the certificate that it is whole.
//!
//! How far ahead it can ask follows from how the API pages. Where a total is told, all pages are asked for at once, and
//! pages that the index has moved meanwhile are read again ([`super::drift`]). Where none is, the next is asked for when
//! the last was full, or named one.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use percent_encoding::utf8_percent_encode;

use super::drift::{MOST_READS, Reading, Readings};
use super::journal::Pages;
use super::page::{Got, Next, Same};
use super::plan::{PLAIN, Plan};
use crate::api::Client;
use crate::pipeline::{self, PageStyle, Total};
use crate::receipt::{self, Proof};

// A longer index than this many pages does not exist; a total that says so is a fault.
const MOST_PAGES: u64 = 1_000_000;
// An empty list is also what a server in trouble gives, and it would delete all that was there: it is read again, and more
// often, and after a while, where there were records before.
const EMPTY_READS: u32 = 2;
const EMPTY_READS_AFTER_RECORDS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// A series under way.
pub struct Series<'a> {
    pub plan: Plan,
    page: &'a pipeline::Page,
    course: Course,
    readings: Readings,
    /// The number of the page that was never asked for.
    next: u32,
    /// Pages to ask for again.
    again: VecDeque<u32>,
    /// Requests under way.
    outstanding: u32,
    /// A killed fetch has left pages, and whether they are still good is being asked. Until then nothing else is.
    rechecking: bool,
    /// The number of the last page that was ever asked for.
    highest: u32,
    /// For a chain: how each further page is asked for.
    links: BTreeMap<u32, Next>,
    /// There were records the last time.
    had_records: bool,
    empty_reads: u32,
    total_reads: u32,
    /// Pages that were asked for again since the index moved, for the log.
    moved: Vec<u32>,
    has_moved: bool,
    broken: Option<String>,
    /// Moments are counted from here.
    began: Instant,
}

/// How the pages of a series follow from one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// Numbered, with a total.
    Counted,
    /// Numbered, until one is not full.
    Uncounted,
    /// Each names the next.
    Chain,
    /// There is one.
    Single,
}

/// A request to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub number: u32,
    pub target: Target,
    /// Of the page that is here already.
    pub etag: Option<String>,
    /// To be waited before.
    pub pause: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Path and query.
    Path(String),
    /// A full address.
    Url(String),
}

impl Ask {
    /// The full address, at this API.
    pub fn url(&self, client: &Client) -> String {
        match &self.target {
            Target::Path(path) => client.url(path),
            Target::Url(url) => url.clone(),
        }
    }
}

/// What is to be done about a series.
#[derive(Debug)]
pub enum State {
    /// There are pages to ask for.
    Open,
    /// What was asked for has not all come.
    Waiting,
    Whole(receipt::Series),
    /// It is to be read anew from its beginning.
    Broken(String),
    /// Nor would that help.
    Hopeless(String),
}

impl<'a> Series<'a> {
    /// `had_records` says whether the last good fetch of it had records; moments are counted from `began`.
    pub fn new(plan: Plan, page: &'a pipeline::Page, had_records: bool, began: Instant) -> Series<'a> {
        let course = match (&page.style, &page.total) {
            (PageStyle::None, _) => Course::Single,
            (PageStyle::LinkHeader | PageStyle::Cursor { .. }, _) => Course::Chain,
            (PageStyle::PageNumber { .. } | PageStyle::Offset { .. }, Total::Unknown) => Course::Uncounted,
            (PageStyle::PageNumber { .. } | PageStyle::Offset { .. }, _) => Course::Counted,
        };
        Series {
            plan,
            page,
            course,
            readings: Readings::default(),
            next: 1,
            again: VecDeque::new(),
            outstanding: 0,
            rechecking: false,
            highest: 0,
            links: BTreeMap::new(),
            had_records,
            empty_reads: 0,
            total_reads: 0,
            moved: Vec::new(),
            has_moved: false,
            broken: None,
            began,
        }
    }

    /// Forgets all pages, to read them anew.
    pub fn restart(&mut self) {
        let highest = self.highest;
        *self = Series::new(self.plan.clone(), self.page, self.had_records, self.began);
        self.highest = highest;
    }

    /// Goes on from pages that a killed fetch has left, the first of which is asked for again: if it is another by now,
    /// the others are too. False if there is no first, or they cannot be of one series.
    pub fn resume(&mut self, pages: Pages) -> bool {
        let told = |reading: &Reading| (reading.total, reading.granted);
        let first = pages.get(&1).map(|(reading, _)| told(reading));
        if first.is_none() || pages.values().any(|(reading, _)| Some(told(reading)) != first) {
            return false;
        }
        for (number, (reading, next)) in pages {
            // Without a total a page is only as good as the one before it.
            if self.course != Course::Counted && number != self.next {
                break;
            }
            self.readings.take(number, reading);
            self.links.extend(next.map(|next| (number + 1, next)));
            self.next = number + 1;
            self.highest = number;
        }
        self.again.push_back(1);
        self.rechecking = true;
        true
    }

    /// The next request, if it is known.
    pub fn ask(&mut self) -> Option<Ask> {
        if self.broken.is_some() {
            return None;
        }
        let number = match self.again.pop_front() {
            Some(number) => number,
            None if self.next_is_known() => {
                self.next += 1;
                self.next - 1
            }
            None => return None,
        };
        self.outstanding += 1;
        self.highest = self.highest.max(number);
        // Only here: a page that is read again since something is wrong with it is wanted whole.
        let etag = self.readings.get(number).filter(|_| self.rechecking).and_then(|page| page.receipt.etag.clone());
        let waits = self.had_records && self.empty_reads > 0;
        let pause = if waits { PAUSE * (1 << (self.empty_reads - 1)) } else { Duration::ZERO };
        Some(Ask { number, target: self.target(number), etag, pause })
    }

    fn next_is_known(&self) -> bool {
        if self.next == 1 {
            return true;
        }
        if self.rechecking {
            return false;
        }
        match self.course {
            Course::Single => false,
            Course::Chain => self.links.contains_key(&self.next),
            Course::Counted => u64::from(self.next) <= self.believable_count(),
            Course::Uncounted => {
                self.outstanding == 0 && self.readings.get(self.next - 1).is_some_and(|last| !self.ends(last))
            }
        }
    }

    /// Whether a page is the last one of a series without a total. The first is not, if it may just be that the server
    /// gives smaller pages than were asked for.
    fn ends(&self, last: &Reading) -> bool {
        let records = last.receipt.records;
        records == 0 || (records < self.size() && (self.next > 2 || last.granted.is_some()))
    }

    fn target(&self, number: u32) -> Target {
        let mut path = self.plan.path.clone();
        let mut add = |param: &str, value: &str| {
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str(param);
            path.push('=');
            path.push_str(value);
        };
        match &self.page.style {
            PageStyle::None => {}
            PageStyle::PageNumber { param, first } => add(param, &(first + number - 1).to_string()),
            PageStyle::Offset { param } => add(param, &(u64::from(number - 1) * self.size()).to_string()),
            PageStyle::LinkHeader | PageStyle::Cursor { .. } => match (self.links.get(&number), &self.page.style) {
                (Some(Next::Link(url)), _) => return Target::Url(url.clone()),
                (Some(Next::Cursor(cursor)), PageStyle::Cursor { param, .. }) => {
                    add(param, &Cow::from(utf8_percent_encode(cursor, PLAIN)));
                }
                _ => {}
            },
        }
        if let Some(param) = &self.page.size_param {
            add(param, &self.page.size.to_string());
        }
        Target::Path(path)
    }

    /// Records on a full page: what the server has granted; what it gave, where it does not say and gives less than asked.
    fn size(&self) -> u64 {
        let asked = u64::from(self.page.size);
        let Some(first) = self.readings.get(1) else { return asked };
        let given = first.receipt.records;
        let is_less = given > 0 && given < asked && first.total.is_none_or(|total| given < total);
        first.granted.unwrap_or(if is_less { given } else { asked })
    }

    /// Pages in all, as far as is known.
    fn count(&self) -> u64 {
        let total = self.readings.latest().and_then(|latest| latest.total);
        total.map_or(1, |total| total.div_ceil(self.size()).max(1))
    }

    /// As [`Series::count`]; none but the first, where the total is absurd.
    fn believable_count(&self) -> u64 {
        Some(self.count()).filter(|count| *count <= MOST_PAGES).unwrap_or(1)
    }

    /// Whether [`Series::left`] is all there is to come, once the first page is here.
    pub fn knows_its_end(&self) -> bool {
        matches!(self.course, Course::Counted | Course::Single)
    }

    /// Requests to be made or under way, as far as is known.
    pub fn left(&self) -> u64 {
        let unasked = match self.course {
            Course::Counted => (self.believable_count() + 1).saturating_sub(u64::from(self.next)),
            _ => u64::from(self.next_is_known()),
        };
        unasked + self.again.len() as u64 + u64::from(self.outstanding)
    }

    /// The number of the last page that was ever asked for, of those that the series does not have in the end too.
    pub fn highest(&self) -> u32 {
        self.highest
    }

    /// Takes in what has come. True if that voids what a killed fetch has left.
    pub fn take(&mut self, number: u32, got: &Got) -> bool {
        self.outstanding -= 1;
        let rechecked = std::mem::take(&mut self.rechecking);
        match got {
            Got::Page(page) => {
                let old = self.readings.get(number).filter(|_| rechecked);
                let is_void = old.is_some_and(|old| old.receipt.sha256 != page.receipt.sha256);
                if is_void {
                    self.forget_all();
                }
                let (receipt, ids) = (page.receipt.clone(), page.ids.clone());
                let reading = Reading::new(receipt, ids, page.total, page.granted, self.moment(page.asked));
                self.readings.take(number, reading);
                self.note_link(number, page.next.as_ref());
                is_void
            }
            Got::Same(same) => {
                self.confirm(number, same);
                false
            }
        }
    }

    /// A page that a killed fetch has left is what the server would give.
    fn confirm(&mut self, number: u32, same: &Same) {
        let Some(old) = self.readings.get(number) else { return };
        let mut reading = old.clone();
        reading.receipt.asked_at = same.asked_at.clone();
        reading.receipt.took_ms = same.took_ms;
        match (same.total, reading.total) {
            (None, Some(_)) => {
                // Nothing changed on this page, but how many there are by now it does not say.
                reading.receipt.etag = None;
                self.again.push_back(number);
                self.rechecking = true;
            }
            (is, was) if is == was => {}
            (is, _) => {
                reading.total = is;
                reading.asked = self.moment(same.asked);
            }
        }
        self.readings.take(number, reading);
    }

    fn moment(&self, asked: Instant) -> u64 {
        asked.saturating_duration_since(self.began).as_nanos() as u64 + 1
    }

    fn note_link(&mut self, number: u32, next: Option<&Next>) {
        match next {
            Some(next) if self.links.iter().any(|(to, known)| known == next && *to != number + 1) => {
                self.broken.get_or_insert(format!("page {number} names a next page that was read already"));
            }
            Some(next) => drop(self.links.insert(number + 1, next.clone())),
            None => drop(self.links.remove(&(number + 1))),
        }
    }

    fn forget_all(&mut self) {
        self.readings = Readings::default();
        self.links.clear();
        self.again.clear();
        self.next = 2;
    }

    /// What is to be done now. Called when something has come.
    pub fn state(&mut self) -> State {
        if self.outstanding > 0 {
            let open = self.broken.is_none() && (!self.again.is_empty() || self.next_is_known());
            return if open { State::Open } else { State::Waiting };
        }
        if let Some(why) = self.broken.take() {
            return State::Broken(why);
        }
        if !self.again.is_empty() || self.next_is_known() {
            return State::Open;
        }
        let judged = match self.course {
            Course::Counted => self.judge_counted(),
            Course::Uncounted | Course::Chain | Course::Single => self.judge_uncounted(),
        };
        judged.unwrap_or_else(|state| state)
    }

    fn judge_counted(&mut self) -> Result<State, State> {
        let total = self.readings.latest().and_then(|latest| latest.total).unwrap_or(0);
        let count = self.count();
        if count > MOST_PAGES {
            self.total_reads += 1;
            if self.total_reads == MOST_READS {
                return Err(State::Hopeless(format!("the total is {total}")));
            }
            self.forget_all();
            self.again.push_back(1);
            self.has_moved = true;
            return Ok(State::Open);
        }
        let count = count as u32;
        self.readings.truncate(count);
        self.next = count + 1;
        let size = self.size();
        if let Some(other) = self.readings.iter().find_map(|page| page.granted.filter(|granted| *granted != size)) {
            return Err(State::Broken(format!("`X-Per-Page` was {size}, and then {other}")));
        }
        let missing = self.readings.missing(count);
        if !missing.is_empty() {
            self.again.extend(missing);
            return Ok(State::Open);
        }
        let again = self.readings.suspects(count, size, total).map_err(State::Hopeless)?;
        if again.is_empty() {
            return self.certified(Proof::Total, Some(total), Some(size));
        }
        self.moved.extend(&again);
        self.has_moved = true;
        self.again.extend(again);
        Ok(State::Open)
    }

    fn judge_uncounted(&mut self) -> Result<State, State> {
        let size = self.size();
        let total = self.readings.latest().and_then(|latest| latest.total);
        let (proof, total, size) = match self.course {
            Course::Single => (Proof::SingleAnswer, None, None),
            Course::Uncounted => (Proof::ShortPage, None, Some(size)),
            _ if total.is_some() => (Proof::Total, total, None),
            _ => (Proof::NoNextPage, None, None),
        };
        self.certified(proof, total, size)
    }

    /// The certificate, if the evidence is complete.
    fn certified(&mut self, proof: Proof, total: Option<u64>, page_size: Option<u64>) -> Result<State, State> {
        let pages: Vec<receipt::Page> = self.readings.contiguous().map(|reading| reading.receipt.clone()).collect();
        let distinct_ids = self.readings.distinct_ids();
        let whole = receipt::Series { key: self.plan.key.clone(), proof, total, page_size, distinct_ids, pages };
        if let Some(why) = whole.lacks() {
            return Err(State::Broken(why));
        }
        if whole.records() == 0 {
            self.empty_reads += 1;
            let enough = if self.had_records { EMPTY_READS_AFTER_RECORDS } else { EMPTY_READS };
            if self.empty_reads < enough {
                self.again.push_back(1);
                return Ok(State::Open);
            }
        }
        Ok(State::Whole(whole))
    }

    /// How many pages another fetch could go on with: of a series whose pages were read again, none.
    pub fn kept(&self) -> u64 {
        if self.has_moved { 0 } else { self.readings.iter().count() as u64 }
    }

    /// How the index moved since this was asked last, and the pages that are read again for it.
    pub fn news(&mut self) -> Option<(String, Vec<u32>)> {
        let moved = std::mem::take(&mut self.moved);
        (!moved.is_empty()).then(|| (self.readings.how_it_moved(), moved))
    }

    /// How the page after `number` is asked for, if that page named it.
    pub fn link_after(&self, number: u32) -> Option<&Next> {
        self.links.get(&(number + 1))
    }

    pub fn reading(&self, number: u32) -> Option<&Reading> {
        self.readings.get(number)
    }
}
