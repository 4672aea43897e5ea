//! Which rows the big table has on a night, and when each was last changed, without a list of them.
//!
//! The table has twice as many places as rows, shuffled. The rows of a night are those of a window of the shuffled
//! places; each night it moves on by as many as come and go, and turns round for ever. So each place can be asked by
//! itself, in the order of the ids: no memory, no night is worked out from the one before, every count is exact, and
//! what comes, goes or changes lies all over the table.

use fastrand::Rng;

use crate::simulate::generate::rng_for;

/// Of the ids of two neighbouring places.
const ID_STEP: u64 = 3;

/// A table on one night.
#[derive(Clone, Debug)]
pub struct Nights {
    rows: u64,
    /// Rows that change in a night.
    changed: u64,
    /// Rows that go in a night, and that come.
    replaced: u64,
    night: u64,
    seed: u64,
    shuffle: Shuffle,
}

/// A row as it is on a night.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub id: i64,
    /// What the content of the row follows from: a row that comes to the place of one that went is another.
    pub content: u64,
    /// The night of its last change; 0 if there was none.
    pub changed_on: u64,
}

impl Nights {
    /// `changed` and `replaced` together are at most `rows`.
    pub fn new(seed: u64, rows: u64, changed: u64, replaced: u64, night: u32) -> Nights {
        let shuffle = Shuffle::new(&mut rng_for(seed, "places", 0), rows * 2);
        Nights { rows, changed, replaced, night: night.into(), seed, shuffle }
    }

    /// All rows, by id.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        (0..self.shuffle.size).filter_map(|place| self.row(place))
    }

    fn row(&self, place: u64) -> Option<Row> {
        let start = self.night * self.replaced;
        let shuffled = self.shuffle.at(place);
        // Every turn of the window is another tenant of the place.
        let turns = start.saturating_sub(shuffled).div_ceil(self.shuffle.size);
        let tenant = shuffled + turns * self.shuffle.size;
        if tenant >= start + self.rows {
            return None;
        }
        let content = self.seed ^ tenant.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let id = (place * ID_STEP + 1 + content % ID_STEP) as i64;
        Some(Row { id, content, changed_on: self.changed_on(tenant) })
    }

    /// What changes in a night is a window too, of the rows that were there the night before and still are.
    fn changed_on(&self, tenant: u64) -> u64 {
        if self.changed == 0 {
            return 0;
        }
        let came_on = match tenant.checked_sub(self.rows) {
            Some(since) => since / self.replaced + 1,
            None => 0,
        };
        let staying = self.rows - self.replaced;
        let is_changed = |night: &u64| {
            let (at, from) = (tenant - night * self.replaced, night * self.changed % staying);
            (at + staying - from) % staying < self.changed
        };
        (came_on + 1..=self.night).rev().find(is_changed).unwrap_or(0)
    }
}

/// The numbers below `size` in an order that looks random, each worked out from its place.
#[derive(Clone, Debug)]
struct Shuffle {
    size: u64,
    /// All bits of the smallest power of two that is not less than `size`.
    mask: u64,
    half: u32,
    factors: [u64; 3],
}

impl Shuffle {
    fn new(rng: &mut Rng, size: u64) -> Shuffle {
        let bits = size.max(4).next_power_of_two().trailing_zeros();
        Shuffle {
            size,
            mask: (1 << bits) - 1,
            half: bits.div_ceil(2),
            factors: std::array::from_fn(|_| rng.u64(..) | 1),
        }
    }

    fn at(&self, place: u64) -> u64 {
        let mut number = place;
        loop {
            // Each step can be undone within the mask, so no two places meet.
            for factor in self.factors {
                number = number.wrapping_add(factor >> 7).wrapping_mul(factor) & self.mask;
                number ^= number >> self.half;
            }
            // Out of the numbers below `size` the way comes back to them, and to each once.
            if number < self.size {
                return number;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn night(rows: u64, changed: u64, replaced: u64, night: u32) -> BTreeMap<i64, Row> {
        Nights::new(7, rows, changed, replaced, night).rows().map(|row| (row.id, row)).collect()
    }

    #[test]
    fn every_place_is_shuffled_to_another() {
        for size in [1, 2, 3, 4, 5, 64, 1000, 1025] {
            let shuffle = Shuffle::new(&mut Rng::with_seed(size), size);
            assert_eq!((0..size).map(|place| shuffle.at(place)).collect::<BTreeSet<_>>(), (0..size).collect());
        }
    }

    #[test]
    fn ids_ascend_with_gaps() {
        let ids: Vec<i64> = Nights::new(7, 1000, 10, 5, 9).rows().map(|row| row.id).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        assert_eq!(ids.len(), 1000);
        assert!(ids[0] > 0 && ids.windows(2).any(|pair| pair[1] - pair[0] > ID_STEP as i64));
    }

    #[test]
    fn a_night_differs_from_the_one_before_in_exactly_what_was_asked() {
        for (rows, changed, replaced) in
            [(1000, 10, 5), (1000, 500, 500), (1000, 0, 300), (77, 30, 0), (9, 3, 2), (1, 1, 0)]
        {
            for day in 1..40 {
                let (before, after) = (night(rows, changed, replaced, day - 1), night(rows, changed, replaced, day));
                let stayed = |row: &&Row| before.get(&row.id).is_some_and(|old| old.content == row.content);
                let stayed: Vec<&Row> = after.values().filter(stayed).collect();
                let differ = stayed.iter().filter(|row| before[&row.id] != ***row);
                assert_eq!(after.len() as u64, rows);
                assert_eq!(stayed.len() as u64, rows - replaced, "day {day}");
                assert_eq!(differ.clone().count() as u64, changed, "day {day}");
                assert!(differ.into_iter().all(|row| row.changed_on == u64::from(day)));
            }
        }
    }

    #[test]
    fn what_comes_goes_or_changes_lies_all_over_the_table() {
        let (before, after) = (night(10_000, 100, 50, 4), night(10_000, 100, 50, 5));
        let changed: Vec<i64> = after.values().filter(|row| row.changed_on == 5).map(|row| row.id).collect();
        let new = after.keys().filter(|id| !before.contains_key(id)).copied().collect();
        let gone = before.keys().filter(|id| !after.contains_key(id)).copied().collect();
        for ids in [changed, new, gone] {
            let tenths: BTreeSet<i64> = ids.iter().map(|id| id / 6_000).collect();
            assert!(tenths.len() >= 9, "{tenths:?}");
        }
    }
}
