//! Which pages are to be read again because the index moved while it was read.
//!
//! The index is live: a record that comes or goes shifts all that follow, and of those that move over the edge of a page
//! one can be seen twice or not at all. Every change of the total tells of one, and so does a record that is on two
//! pages. Each such moment is a *cut*: pages read before and after it are of different *spells*.
//!
//! Between two neighbouring pages of one spell nothing is lost. Between two of different spells something may be, unless
//! they *join*: a page that was read again begins with the same record as before, so that nothing moved over its
//! beginning since its neighbour of the earlier spell was read; its end likewise. Where two neighbours do not join, the
//! one that was read earlier is read again. From there this works its way down to the page that the change was on: just the
//! pages that have moved are read again, and one more where the change was between two pages. What
//! records keep is their order; nothing else is assumed, however many come and go.

use std::collections::BTreeSet;

use crate::receipt;

/// A page that moves whenever it is read cannot be read.
pub const MOST_READS: u32 = 6;

/// One page as it was read last.
#[derive(Clone, Debug)]
pub struct Reading {
    pub receipt: receipt::Page,
    /// Hashes of the ids of its records; none if one has no id.
    pub ids: Option<Vec<u64>>,
    pub total: Option<u64>,
    /// The page size that the server says it has granted.
    pub granted: Option<u64>,
    /// When it was asked for, by the clock of the series.
    pub asked: u64,
    /// How often it was read.
    reads: u32,
    /// The reading of the next page (its `asked`) that begins where this one ends.
    joins: Option<u64>,
}

/// The pages of a series, by number from 1, as they were read last.
#[derive(Debug, Default)]
pub struct Readings {
    pages: Vec<Option<Reading>>,
    /// Moments at which the index moved: what was asked for since is of a later spell than what was before.
    cuts: BTreeSet<u64>,
}

impl Reading {
    pub fn new(
        receipt: receipt::Page,
        ids: Option<Vec<u64>>,
        total: Option<u64>,
        granted: Option<u64>,
        asked: u64,
    ) -> Reading {
        Reading { receipt, ids, total, granted, asked, reads: 1, joins: None }
    }

    /// Whether both begin (or both end) with the same record.
    fn shares(&self, other: &Reading, edge: fn(&[u64]) -> Option<&u64>) -> bool {
        match (&self.ids, &other.ids) {
            (Some(a), Some(b)) if !a.is_empty() && !b.is_empty() => edge(a) == edge(b),
            _ => self.receipt.sha256 == other.receipt.sha256,
        }
    }
}

impl Readings {
    pub fn get(&self, number: u32) -> Option<&Reading> {
        self.pages.get(number as usize - 1)?.as_ref()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Reading> {
        self.pages.iter().flatten()
    }

    /// The pages from the first on, as far as there is none missing.
    pub fn contiguous(&self) -> impl Iterator<Item = &Reading> {
        self.pages.iter().map_while(Option::as_ref)
    }

    /// What was asked for last: it knows best how many records there are.
    pub fn latest(&self) -> Option<&Reading> {
        self.iter().max_by_key(|reading| reading.asked)
    }

    /// Drops the pages after the first `count`.
    pub fn truncate(&mut self, count: u32) {
        // What the dropped pages told of the index is not forgotten with them.
        self.note_totals();
        self.pages.truncate(count as usize);
    }

    pub fn take(&mut self, number: u32, mut reading: Reading) {
        let at = number as usize - 1;
        if self.pages.len() <= at {
            self.pages.resize_with(at + 1, || None);
        }
        if let Some(old) = self.pages[at].take() {
            self.note_total_of(&old);
            let spell = self.spell(old.asked);
            if let Some(Some(below)) = at.checked_sub(1).map(|below| &self.pages[below])
                && (self.spell(below.asked) == spell || below.joins == Some(old.asked))
                && old.shares(&reading, <[u64]>::first)
            {
                self.set_joins(at - 1, reading.asked);
            }
            if let Some(Some(above)) = self.pages.get(at + 1)
                && (self.spell(above.asked) == spell || old.joins == Some(above.asked))
                && old.shares(&reading, <[u64]>::last)
            {
                reading.joins = Some(above.asked);
            }
            reading.reads = old.reads + 1;
        }
        self.pages[at] = Some(reading);
    }

    fn set_joins(&mut self, at: usize, asked: u64) {
        if let Some(Some(page)) = self.pages.get_mut(at) {
            page.joins = Some(asked);
        }
    }

    /// The pages among the first `count` that have not come.
    pub fn missing(&self, count: u32) -> Vec<u32> {
        (1..=count).filter(|number| self.get(*number).is_none()).collect()
    }

    /// The pages, all of which are here, that are to be read again; none when each is as long as it should be, and nothing was
    /// lost between any two. `size` is that of a full page. An error says why this comes to no end.
    pub fn suspects(&mut self, count: u32, size: u64, total: u64) -> Result<Vec<u32>, String> {
        let wrong = self.of_wrong_length(count, size, total);
        if !wrong.is_empty() {
            let (number, found) = (wrong[0], self.get(wrong[0]).map_or(0, |page| page.receipt.records));
            return self.patiently(wrong, || {
                if number < count {
                    return format!("page {number} of {count} has {found} records, not {size}");
                }
                let records: u64 = self.iter().map(|reading| reading.receipt.records).sum();
                format!("the total is {total}, and {records} records came")
            });
        }
        self.note_totals();
        if let Some((earlier, later)) = self.twice() {
            let (a, b) = (self.get(earlier), self.get(later));
            if let (Some(a), Some(b)) = (a, b)
                && self.spell(a.asked) == self.spell(b.asked)
            {
                self.cuts.insert(a.asked.max(b.asked));
            }
        }
        let apart = self.apart(count);
        if !apart.is_empty() {
            return self.patiently(apart, || self.how_it_moved());
        }
        if let Some((earlier, later)) = self.twice() {
            return self.patiently(vec![earlier, later], || twice_on(earlier, later));
        }
        // Both ends are to say the same of the whole, at the end.
        let spell = self.cuts.len();
        let mut ends = BTreeSet::from([1, count]);
        ends.retain(|number| self.get(*number).is_some_and(|reading| self.spell(reading.asked) != spell));
        self.patiently(ends.into_iter().collect(), || self.how_it_moved())
    }

    /// These pages, unless one of them was read too often.
    fn patiently(&self, numbers: Vec<u32>, why: impl Fn() -> String) -> Result<Vec<u32>, String> {
        let worn = numbers.iter().any(|number| self.get(*number).is_some_and(|page| page.reads >= MOST_READS));
        if worn { Err(why()) } else { Ok(numbers) }
    }

    /// The spell of a moment: how many cuts lie before it.
    fn spell(&self, asked: u64) -> usize {
        self.cuts.range(..=asked).count()
    }

    /// A change of the total is a cut.
    fn note_totals(&mut self) {
        let mut told: Vec<(u64, Option<u64>)> = self.iter().map(|reading| (reading.asked, reading.total)).collect();
        told.sort_unstable();
        let cuts = told.windows(2).filter(|pair| pair[0].1 != pair[1].1).map(|pair| pair[1].0);
        self.cuts.extend(cuts.collect::<Vec<_>>());
    }

    /// A reading that is about to be replaced tells for the last time.
    fn note_total_of(&mut self, old: &Reading) {
        let later = self.iter().filter(|reading| reading.asked > old.asked).min_by_key(|reading| reading.asked);
        if let Some((asked, total)) = later.map(|later| (later.asked, later.total))
            && total != old.total
        {
            self.cuts.insert(asked);
        }
    }

    fn of_wrong_length(&self, count: u32, size: u64, total: u64) -> Vec<u32> {
        let right = |number: u32| if number < count { size } else { total - size * u64::from(count - 1) };
        let pages = (1..).zip(self.iter());
        pages.filter(|(number, page)| page.receipt.records != right(*number)).map(|(number, _)| number).collect()
    }

    /// The first two pages with a record of the same id; one page twice, if both are on it.
    fn twice(&self) -> Option<(u32, u32)> {
        let mut ids: Vec<u64> = self.iter().filter_map(|reading| reading.ids.as_deref()).flatten().copied().collect();
        ids.sort_unstable();
        let id = ids.windows(2).find(|pair| pair[0] == pair[1])?[0];
        let count = |reading: &Reading| reading.ids.iter().flatten().filter(|other| **other == id).count();
        let mut pages =
            (1..).zip(self.iter()).flat_map(|(number, reading)| std::iter::repeat_n(number, count(reading)));
        Some((pages.next()?, pages.next()?))
    }

    /// How many different ids the records have; none if one has no id.
    pub fn distinct_ids(&self) -> Option<u64> {
        let ids: Option<Vec<&[u64]>> = self.iter().map(|reading| reading.ids.as_deref()).collect();
        // Sorted rather than put into a set, which would take three times the memory.
        let mut ids = ids?.concat();
        ids.sort_unstable();
        ids.dedup();
        Some(ids.len() as u64)
    }

    /// Of any two neighbours that do not join, the one that was read earlier.
    fn apart(&self, count: u32) -> Vec<u32> {
        let mut apart = BTreeSet::new();
        for number in 1..count {
            let (Some(page), Some(next)) = (self.get(number), self.get(number + 1)) else { continue };
            if self.spell(page.asked) != self.spell(next.asked) && page.joins != Some(next.asked) {
                apart.insert(if page.asked < next.asked { number } else { number + 1 });
            }
        }
        apart.into_iter().collect()
    }

    /// In words, for the log and for the last error.
    pub fn how_it_moved(&self) -> String {
        let mut told: Vec<(u64, u32, Option<u64>)> =
            (1..).zip(self.iter()).map(|(number, reading)| (reading.asked, number, reading.total)).collect();
        told.sort_unstable();
        let change = told.windows(2).find(|pair| pair[0].2 != pair[1].2);
        match change.map(|pair| (pair[0].2, pair[1])) {
            Some((Some(was), (_, number, Some(is)))) => format!("the total was {was}, and {is} on page {number}"),
            _ => match self.twice() {
                Some((earlier, later)) => twice_on(earlier, later),
                None => "records moved from page to page".to_string(),
            },
        }
    }
}

fn twice_on(earlier: u32, later: u32) -> String {
    if earlier == later {
        return format!("a record came twice on page {earlier}");
    }
    format!("a record of page {earlier} came again on page {later}")
}
