//! Several requests under way at a time, over all series of a stage.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard};

use super::plan::Plan;
use super::series::{Page, Series, State};
use crate::api::Client;
use crate::error::{Error, Result};
use crate::files;
use crate::paths::page_file;
use crate::pipeline::Fetch;
use crate::progress::Task;
use crate::receipt;

/// How often a series is read before it is given up. An index that moves at every reading of it
/// moves faster than it can be read.
const SERIES_TRIES: u32 = 5;

/// Reads all series into `folder`, `in_flight` requests at a time; they come back in the order of the plans.
pub fn fetch_all(
    client: &Client,
    stage: &str,
    fetch: &Fetch,
    plans: Vec<Plan>,
    folder: &Path,
    in_flight: usize,
    task: &Task,
) -> Result<Vec<receipt::Series>> {
    let series = plans.into_iter().map(|plan| Entry {
        series: Series::new(plan, fetch.page),
        open: true,
        seen_empty: false,
        tries: 1,
        whole: None,
    });
    let series: Vec<_> = series.collect();
    let (open, left, pages) = ((0..series.len()).collect(), series.len(), series.len() as u64);
    let board = Board { series, open, left, pages, failure: None };
    let pool = Pool { client, stage, fetch, folder, task, board: Mutex::new(board), changed: Condvar::new() };
    std::thread::scope(|scope| {
        for _ in 0..in_flight {
            scope.spawn(|| pool.work());
        }
    });
    let board = pool.board.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    match board.failure {
        Some(error) => Err(error),
        None => Ok(board.series.into_iter().filter_map(|entry| entry.whole).collect()),
    }
}

struct Pool<'a> {
    client: &'a Client,
    stage: &'a str,
    fetch: &'a Fetch,
    folder: &'a Path,
    task: &'a Task,
    board: Mutex<Board>,
    changed: Condvar,
}

/// What the threads share.
struct Board {
    series: Vec<Entry>,
    /// Series that have pages to ask for, in order.
    open: VecDeque<usize>,
    /// Series that are not whole.
    left: usize,
    /// Pages to read in all, as far as it is known; those that were read in vain count too.
    pages: u64,
    /// The first failure: it ends the fetch.
    failure: Option<Error>,
}

struct Entry {
    series: Series,
    /// It stands in [`Board::open`].
    open: bool,
    tries: u32,
    /// It was read whole once, and without a record.
    seen_empty: bool,
    whole: Option<receipt::Series>,
}

/// One request.
struct Job {
    series: usize,
    key: Option<String>,
    number: u32,
    path: String,
}

impl Pool<'_> {
    fn work(&self) {
        while let Some(job) = self.next() {
            // A panic that ended this thread would leave the others waiting for its page.
            let fetched = catch_unwind(AssertUnwindSafe(|| self.fetch_page(&job))).unwrap_or_else(|_| {
                Err(Error::failed(format!("a bug of mirror42 stopped the fetch of `{}`", self.client.url(&job.path))))
            });
            if let Err(error) = fetched {
                self.board().failure.get_or_insert(error);
                self.changed.notify_all();
                self.client.stop();
            }
        }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The next request; none when all series are whole, or one has failed.
    fn next(&self) -> Option<Job> {
        let mut board = self.board();
        loop {
            if board.left == 0 || board.failure.is_some() {
                return None;
            }
            if let Some(job) = board.job() {
                return Some(job);
            }
            board = self.changed.wait(board).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    fn fetch_page(&self, job: &Job) -> Result<()> {
        let waiting = |note: &str| self.task.note(note);
        let read = |answer| Page::read(answer, &self.fetch.page);
        let page = self.client.get(self.stage, &job.path, &waiting, read)?;
        files::write(&page_file(self.folder, job.key.as_deref(), job.number), &page.body)?;
        self.task.add(1);
        let mut board = self.board();
        let series = &mut board.series[job.series].series;
        let before = series.count().unwrap_or(1);
        series.take(job.number, page);
        let after = series.count().unwrap_or(1);
        board.pages = (board.pages - before).saturating_add(after);
        self.settle(&mut board, job.series)?;
        let pages = board.pages;
        drop(board);
        self.task.set_total(pages);
        self.changed.notify_all();
        Ok(())
    }

    /// Decides what is next for a series that took in a page.
    fn settle(&self, board: &mut Board, index: usize) -> Result<()> {
        let entry = &mut board.series[index];
        match entry.series.state() {
            State::Waiting => {}
            State::Open => board.open(index),
            // An empty list is also what a server in trouble gives, and it would delete all that was there.
            State::Whole(whole) if whole.total == Some(0) && !entry.seen_empty => {
                entry.seen_empty = true;
                entry.series.restart();
                board.pages += 1;
                board.open(index);
            }
            State::Whole(whole) => {
                entry.whole = Some(whole);
                board.left -= 1;
            }
            State::Broken(why) => {
                let url = self.client.url(&entry.series.plan.path);
                if entry.tries == SERIES_TRIES {
                    return Err(Error::failed(format!("could not read `{url}` whole: {why}"))
                        .detail(format!("It was read {SERIES_TRIES} times, and was not whole once.")));
                }
                entry.tries += 1;
                log::warn!(target: self.stage, "`{url}` is not whole: {why}; reading it again ({} of {SERIES_TRIES})", entry.tries);
                let (expected, in_vain) = (entry.series.count().unwrap_or(1), entry.series.taken());
                self.forget_pages(&mut entry.series)?;
                board.pages = (board.pages - expected).saturating_add(in_vain + 1);
                board.open(index);
            }
        }
        Ok(())
    }

    /// Removes the pages of a series that is read anew: it may have fewer then.
    fn forget_pages(&self, series: &mut Series) -> Result<()> {
        let key = series.plan.key.as_deref();
        for number in 1..=series.asked() {
            files::remove(&page_file(self.folder, key, number))?;
        }
        series.restart();
        Ok(())
    }
}

impl Board {
    fn job(&mut self) -> Option<Job> {
        while let Some(index) = self.open.front().copied() {
            let series = &mut self.series[index].series;
            if let Some((number, path)) = series.ask() {
                return Some(Job { series: index, key: series.plan.key.clone(), number, path });
            }
            self.open.pop_front();
            self.series[index].open = false;
        }
        None
    }

    fn open(&mut self, index: usize) {
        if !std::mem::replace(&mut self.series[index].open, true) {
            self.open.push_back(index);
        }
    }
}
