//! Series against an index that moves while it is read.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use super::page::{Got, Page, Same};
use super::plan::Plan;
use super::series::{Ask, Series, State, Target};
use crate::files::sha256_of;
use crate::pipeline::{self, Pipeline};
use crate::receipt::{self, Proof};

fn paging(page: &str) -> pipeline::Page {
    let text = format!("[pipeline]\nname = 't'\n[api]\nbase_url = 'http://h'\npage = {page}");
    Pipeline::parse(Path::new("p.toml"), &text).unwrap().api.page
}

/// An index of ids, and a clock that goes on with every answer.
struct Index {
    ids: Vec<u64>,
    size: usize,
    began: Instant,
    answers: u64,
}

impl Index {
    fn new(count: u64, size: usize) -> Index {
        Index { ids: (1..=count).collect(), size, began: Instant::now(), answers: 0 }
    }

    fn series<'a>(&self, page: &'a pipeline::Page) -> Series<'a> {
        Series::new(Plan { key: None, path: "/x".into() }, page, false, self.began)
    }

    /// The answer to a request at this moment.
    fn answer(&mut self, number: u32) -> Got {
        let from = ((number as usize - 1) * self.size).min(self.ids.len());
        let ids = self.ids[from..(from + self.size).min(self.ids.len())].to_vec();
        self.page(ids, self.ids.len() as u64)
    }

    fn page(&mut self, ids: Vec<u64>, total: u64) -> Got {
        self.answers += 1;
        let body = format!("{ids:?}").into_bytes();
        Got::Page(Page {
            receipt: receipt::Page {
                records: ids.len() as u64,
                size_bytes: body.len() as u64,
                sha256: sha256_of(&body),
                etag: Some(sha256_of(&body)),
                asked_at: String::new(),
                took_ms: 1,
            },
            body,
            ids: Some(ids),
            total: Some(total),
            granted: Some(self.size as u64),
            next: None,
            asked: self.now(),
        })
    }

    fn now(&self) -> Instant {
        self.began + Duration::from_millis(self.answers)
    }
}

/// What the pages of a whole series hold, in order, and how many requests it took.
fn ids_of(series: &Series, whole: &receipt::Series) -> Vec<u64> {
    (1..=whole.pages.len() as u32).flat_map(|number| series.reading(number).unwrap().ids.clone().unwrap()).collect()
}

/// Reads a series to its end, one request after the other; `then` changes the index after so many answers.
fn read(index: &mut Index, mut then: impl FnMut(u64, &mut Vec<u64>)) -> (Result<Vec<u64>, String>, u64, Vec<u32>) {
    let page = paging(&format!("{{ size = {} }}", index.size));
    let mut series = index.series(&page);
    let (mut requests, mut again) = (0, Vec::new());
    loop {
        let Some(ask) = series.ask() else { panic!("nothing to ask for") };
        let got = index.answer(ask.number);
        requests += 1;
        series.take(ask.number, &got);
        then(requests, &mut index.ids);
        let state = series.state();
        again.extend(series.news().into_iter().flat_map(|(_, pages)| pages));
        match state {
            State::Open => {}
            State::Waiting => panic!("nothing is under way"),
            State::Whole(whole) => {
                assert_eq!(whole.lacks(), None);
                return (Ok(ids_of(&series, &whole)), requests, again);
            }
            State::Broken(why) | State::Hopeless(why) => return (Err(why), requests, again),
        }
    }
}

#[test]
fn a_calm_index_is_read_once() {
    for (count, requests) in [(0, 2), (1, 1), (100, 1), (101, 2), (5000, 50)] {
        let mut index = Index::new(count, 100);
        let (ids, took, again) = read(&mut index, |_, _| {});
        assert_eq!((ids.unwrap(), took, again.len()), (index.ids, requests, 0), "{count} records");
    }
}

#[test]
fn just_the_pages_that_a_change_has_moved_are_read_again() {
    // After 30 of 50 pages, a record comes or goes on page 27, 30, 31, 1, or at the end.
    let changed = |change: fn(&mut Vec<u64>)| {
        let mut index = Index::new(5000, 100);
        let (ids, requests, again) = read(&mut index, |requests, ids| {
            if requests == 30 {
                change(ids);
            }
        });
        assert_eq!(ids.unwrap(), index.ids);
        (requests - 50, again)
    };
    assert_eq!(changed(|ids| ids.insert(2650, 9999)), (6, vec![30, 29, 28, 27, 1]), "and page 51");
    assert_eq!(
        changed(|ids| {
            ids.remove(2650);
        }),
        (5, vec![30, 29, 28, 27, 1])
    );
    assert_eq!(changed(|ids| ids.insert(2999, 9999)), (3, vec![30, 1]), "and page 51");
    assert_eq!(
        changed(|ids| {
            ids.remove(2999);
        }),
        (2, vec![30, 1])
    );
    assert_eq!(
        changed(|ids| {
            ids.remove(2900);
        }),
        (3, vec![30, 29, 1]),
        "the first of a page"
    );
    assert_eq!(
        changed(|ids| {
            ids.remove(3050);
        }),
        (2, vec![30, 1]),
        "it had not come to that page"
    );
    assert_eq!(changed(|ids| ids.push(9999)), (3, vec![30, 1]), "and page 51");
    assert_eq!(
        changed(|ids| {
            ids.remove(0);
        }),
        (30, (1..=30).rev().collect())
    );
    // The totals are the same, but a record is seen twice.
    let swapped = changed(|ids| {
        ids.insert(2650, 9999);
        ids.pop();
    });
    assert_eq!(swapped, (5, vec![30, 29, 28, 27, 1]));
}

#[test]
fn a_last_page_that_goes_is_no_page_of_the_series() {
    let mut index = Index::new(301, 100);
    let (ids, requests, _) = read(&mut index, |requests, ids| {
        if requests == 3 {
            ids.remove(150);
        }
    });
    assert_eq!((ids.unwrap(), requests), (index.ids, 7), "4, then 3, 2 and 1");
}

#[test]
fn an_answer_with_a_wrong_total_or_too_few_records_costs_a_few_requests_only() {
    let page = paging("{ size = 100 }");
    for fault in 0..3 {
        let mut index = Index::new(1000, 100);
        let mut series = index.series(&page);
        let mut requests = 0;
        let whole = loop {
            let ask = series.ask().unwrap();
            requests += 1;
            let got = match (requests, fault) {
                (4, 0) => index.page((301..=400).collect(), 999),
                (4, 1) => index.page(vec![], 1000),
                (1, 2) => index.page((1..=100).collect(), 1),
                _ => index.answer(ask.number),
            };
            series.take(ask.number, &got);
            match series.state() {
                State::Open => {}
                State::Whole(whole) => break whole,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(ids_of(&series, &whole), index.ids, "fault {fault}");
        assert!(requests <= 14, "{requests} requests");
    }
}

#[test]
fn what_never_adds_up_is_given_up() {
    let why = |answer: fn(&mut Index, u32) -> Got| {
        let page = paging("{ size = 2 }");
        let mut index = Index::new(3, 2);
        let mut series = index.series(&page);
        for _ in 0..100 {
            let ask = series.ask().unwrap();
            let got = answer(&mut index, ask.number);
            series.take(ask.number, &got);
            match series.state() {
                State::Open => {}
                State::Hopeless(why) => return why,
                other => panic!("{other:?}"),
            }
        }
        panic!("it comes to no end")
    };
    assert_eq!(why(|index, _| index.page(vec![1, 2], 4)), "a record of page 1 came again on page 2");
    assert_eq!(why(|index, _| index.page(vec![1, 1], 2)), "a record came twice on page 1");
    assert_eq!(why(|index, number| index.page(vec![u64::from(number)], 4)), "page 1 of 2 has 1 records, not 2");
    assert_eq!(why(|index, _| index.page(vec![1, 2], u64::MAX)), format!("the total is {}", u64::MAX));
    let moving = why(|index, number| {
        let first = u64::from(number) * 10 + index.answers * 100;
        let total = 3 + index.answers % 2;
        index.page(if number == 2 && total == 3 { vec![first] } else { vec![first, first + 1] }, total)
    });
    assert!(moving.starts_with("the total was "), "{moving}");
}

/// Any number of changes, several requests under way, answers that overtake each other: no record that was there all the
/// time is missing, none is there twice, and the numbers add up.
#[test]
fn nothing_is_lost_however_the_index_moves() {
    let mut extra = 0;
    for seed in 0..2000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let size = random.usize(1..8);
        let mut index = Index::new(random.u64(0..120), size);
        let page = paging(&format!("{{ size = {size} }}"));
        let mut series = index.series(&page);
        let (mut steady, mut ever): (Vec<u64>, Vec<u64>) = (index.ids.clone(), index.ids.clone());
        let mut changes = random.u32(0..4);
        let mut under_way: VecDeque<(Ask, Got)> = VecDeque::new();
        let in_flight = random.usize(1..6);
        let mut requests = 0;
        let whole = loop {
            while under_way.len() < in_flight {
                let Some(ask) = series.ask() else { break };
                assert!(under_way.iter().all(|(other, _)| other.number != ask.number), "asked for twice at a time");
                let got = index.answer(ask.number);
                under_way.push_back((ask, got));
                requests += 1;
                if changes > 0 && random.u8(0..10) == 0 {
                    changes -= 1;
                    if random.bool() || index.ids.is_empty() {
                        let new = 1000 + requests;
                        index.ids.insert(random.usize(0..=index.ids.len()), new);
                        ever.push(new);
                    } else {
                        let gone = index.ids.remove(random.usize(0..index.ids.len()));
                        steady.retain(|id| *id != gone);
                    }
                }
            }
            let arrived = random.usize(0..under_way.len());
            let (ask, got) = under_way.remove(arrived).unwrap();
            series.take(ask.number, &got);
            match series.state() {
                State::Open | State::Waiting => {}
                State::Whole(whole) => break whole,
                State::Broken(why) | State::Hopeless(why) => panic!("seed {seed}: {why}"),
            }
        };
        let ids = ids_of(&series, &whole);
        assert!(steady.iter().all(|id| ids.contains(id)), "seed {seed}: lost {steady:?} {ids:?}");
        assert!(ids.iter().all(|id| ever.contains(id)), "seed {seed}");
        assert_eq!((whole.lacks(), whole.proof), (None, Proof::Total), "seed {seed}");
        extra += requests - whole.pages.len() as u64;
    }
    assert!(extra > 0, "no index has moved");
}

#[test]
fn a_series_without_a_total_is_read_until_a_page_is_not_full() {
    let page = paging("{ size = 100, total = 'none' }");
    for (given, granted, requests) in [(250, Some(100), 3), (200, Some(100), 3), (30, Some(100), 1), (30, None, 2)] {
        let mut index = Index::new(given, 100);
        let mut series = index.series(&page);
        let mut asked = 0;
        let whole = loop {
            let ask = series.ask().unwrap();
            asked += 1;
            let Got::Page(page) = index.answer(ask.number) else { panic!() };
            series.take(ask.number, &Got::Page(Page { total: None, granted, ..page }));
            match series.state() {
                State::Open | State::Waiting => {}
                State::Whole(whole) => break whole,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((whole.proof, whole.total), (Proof::ShortPage, None));
        assert_eq!((ids_of(&series, &whole), asked), (index.ids, requests), "{given} {granted:?}");
    }
}

#[test]
fn paths_ask_for_pages_in_every_style() {
    let target = |page: &str, number| {
        let page = paging(page);
        let mut index = Index::new(10, 3);
        let mut series = index.series(&page);
        for _ in 1..number {
            let ask = series.ask().unwrap();
            let got = index.answer(ask.number);
            series.take(ask.number, &got);
        }
        match series.ask().unwrap().target {
            Target::Path(path) | Target::Url(path) => path,
        }
    };
    assert_eq!(target("{ size = 3 }", 2), "/x?page=2&per_page=3");
    assert_eq!(target("{ size = 3, param = 'p', first_page = 0, size_param = '' }", 2), "/x?p=1");
    assert_eq!(target("{ size = 3, style = 'offset' }", 3), "/x?offset=6&limit=3");
    assert_eq!(target("{ size = 3, style = 'link-header' }", 1), "/x?per_page=3");
    assert_eq!(target("{ size = 3, style = 'cursor', next = '.n' }", 1), "/x?limit=3");
    assert_eq!(target("{ style = 'none' }", 1), "/x");
}

#[test]
fn an_empty_list_where_there_were_records_is_not_believed_at_once() {
    let page = paging("{}");
    for (had_records, reads) in [(false, 2), (true, 4)] {
        let mut index = Index::new(0, 100);
        let plan = Plan { key: None, path: "/x".into() };
        let mut series = Series::new(plan, &page, had_records, index.began);
        let mut pauses = Vec::new();
        loop {
            let ask = series.ask().unwrap();
            pauses.push(ask.pause.as_millis());
            let got = index.answer(ask.number);
            series.take(ask.number, &got);
            if let State::Whole(_) = series.state() {
                break;
            }
        }
        assert_eq!(pauses.len(), reads);
        assert_eq!(pauses, if had_records { vec![0, 500, 1000, 2000] } else { vec![0, 0] });
    }
}

#[test]
fn pages_of_a_killed_fetch_are_kept_while_the_first_is_the_same() {
    let page = paging("{ size = 100 }");
    let resumed = |index: &mut Index| {
        let mut killed = index.series(&page);
        let mut pages = BTreeMap::new();
        for _ in 0..3 {
            let ask = killed.ask().unwrap();
            let got = index.answer(ask.number);
            killed.take(ask.number, &got);
            let mut reading = killed.reading(ask.number).unwrap().clone();
            reading.asked = 0;
            pages.insert(ask.number, (reading, None));
        }
        let mut series = index.series(&page);
        assert!(series.resume(pages));
        series
    };
    let finish = |index: &mut Index, series: &mut Series| {
        let mut asked = Vec::new();
        loop {
            let ask = series.ask().unwrap();
            asked.push(ask.number);
            let got = index.answer(ask.number);
            series.take(ask.number, &got);
            if let State::Whole(whole) = series.state() {
                assert_eq!(ids_of(series, &whole), index.ids);
                return asked;
            }
        }
    };
    let mut index = Index::new(500, 100);
    let mut series = resumed(&mut index);
    let ask = series.ask().unwrap();
    assert!(ask.etag.is_some() && ask.number == 1 && series.ask().is_none());
    index.answers += 1;
    let same = Same { total: Some(500), asked_at: String::new(), took_ms: 1, asked: index.now() };
    assert!(!series.take(1, &Got::Same(same)));
    assert_eq!(finish(&mut index, &mut series), [4, 5]);

    // The first page is another: so are all.
    let mut series = resumed(&mut index);
    index.ids[0] = 9999;
    let ask = series.ask().unwrap();
    let got = index.answer(ask.number);
    assert!(series.take(1, &got));
    assert_eq!(finish(&mut index, &mut series), [2, 3, 4, 5]);

    // The first page is the same, and the total is not: what has moved is read again.
    let mut series = resumed(&mut index);
    index.ids.remove(250);
    series.ask().unwrap();
    index.answers += 1;
    let same = Same { total: Some(499), asked_at: String::new(), took_ms: 1, asked: index.now() };
    series.take(1, &Got::Same(same));
    assert_eq!(finish(&mut index, &mut series), [4, 5, 3]);
}
