//! Several requests under way at a time, over all series of a stage.

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::drift::MOST_READS;
use super::journal::{Journal, Left, PageLine};
use super::page::{self, Got};
use super::plan::Plan;
use super::series::{Ask, Series, State};
use crate::api::{Client, Request};
use crate::error::{Error, Result};
use crate::files;
use crate::paths::page_file;
use crate::pipeline::Fetch;
use crate::progress::Task;
use crate::receipt;

/// How often a series is begun anew before it is given up.
const SERIES_TRIES: u32 = 5;
// A fast server is asked by few threads, since each takes memory; a slow one by as many as may be. Four keep two cores
// busy, and one is added whenever no request could be begun for so long.
const FIRST_THREADS: usize = 4;
const PATIENCE: Duration = Duration::from_millis(100);

/// What all threads need to know.
pub struct Pool<'a> {
    pub client: &'a Client,
    pub stage: &'a str,
    pub fetch: &'a Fetch,
    /// Where the pages go.
    pub folder: &'a Path,
    pub journal: &'a Journal,
    pub task: &'a Task,
}

impl Pool<'_> {
    /// Reads all series, `in_flight` requests at a time, but for those that are `left` by a killed fetch; they come back
    /// in the order of the plans. `had_records` has the keys of the series that had records at the last good fetch.
    pub fn fetch_all(
        &self,
        plans: Vec<Plan>,
        mut left: Left,
        had_records: &BTreeSet<Option<String>>,
        in_flight: usize,
    ) -> Result<Vec<receipt::Series>, Failure> {
        let began = Instant::now();
        let pages = left.pages();
        let mut board = Board::default();
        let early = |error| Failure { error, pages };
        for plan in plans {
            let key = plan.key.clone();
            let mut series = Series::new(plan, &self.fetch.page, had_records.contains(&key), began);
            let whole = left.whole.remove(&key);
            if let Some(pages) = left.begun.remove(&key)
                && !series.resume(pages)
            {
                self.journal.restart(key.as_deref()).map_err(early)?;
                series.restart();
            }
            board.add(series, whole);
        }
        self.task.set_total(board.pages());
        let work = Work { pool: self, board: Mutex::new(board), changed: Condvar::new() };
        std::thread::scope(|scope| {
            let mut threads = in_flight.min(FIRST_THREADS);
            for _ in 0..threads {
                scope.spawn(|| work.work());
            }
            while threads < in_flight && work.wait_for_need() {
                scope.spawn(|| work.work());
                threads += 1;
            }
        });
        let board = work.board.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        match board.failure {
            Some(error) => Err(Failure { error, pages: board.series.iter().map(Entry::kept).sum() }),
            None => Ok(board.series.into_iter().filter_map(|entry| entry.whole).collect()),
        }
    }
}

/// A fetch that has failed, and how many pages the next one need not ask for.
pub struct Failure {
    error: Error,
    pages: u64,
}

impl Failure {
    /// The error, with the sentences that say what there is now.
    pub fn with_what_is_kept(self, has_older_pages: bool) -> Error {
        let error = match (has_older_pages, self.pages) {
            (true, _) => self.error.detail("The pages of the last good fetch are kept."),
            (false, 0) => self.error.detail("No page is kept."),
            (false, _) => self.error,
        };
        match self.pages {
            0 => error,
            1 => error.detail("The next fetch goes on with the one page that has come."),
            pages => error.detail(format!("The next fetch goes on with the {pages} pages that have come.")),
        }
    }
}

/// The threads' common state.
struct Work<'a> {
    pool: &'a Pool<'a>,
    board: Mutex<Board<'a>>,
    /// There may be something to ask for, or nothing any more.
    changed: Condvar,
}

#[derive(Default)]
struct Board<'a> {
    series: Vec<Entry<'a>>,
    /// Series that have pages to ask for, in order.
    open: VecDeque<usize>,
    /// Series that are not whole.
    unfinished: usize,
    /// Pages that have come, those that were in vain too.
    come: u64,
    /// Pages that are known to be still to come.
    to_come: u64,
    /// The first failure: it ends the fetch.
    failure: Option<Error>,
    /// Threads that wait for something to ask for.
    idle: usize,
    /// Requests that were begun.
    begun: u64,
}

struct Entry<'a> {
    series: Series<'a>,
    /// It stands in [`Board::open`].
    open: bool,
    tries: u32,
    whole: Option<receipt::Series>,
}

/// One request.
struct Job {
    series: usize,
    key: Option<String>,
    url: String,
    ask: Ask,
}

impl<'a> Work<'a> {
    fn work(&self) {
        while let Some(job) = self.next() {
            // A panic that ended this thread would leave the others waiting for its page.
            let fetched = catch_unwind(AssertUnwindSafe(|| self.fetch_page(&job))).unwrap_or_else(|_| {
                Err(Error::failed(format!("a bug of mirror42 stopped the fetch of `{}`", job.url)))
            });
            if let Err(error) = fetched {
                self.board().failure.get_or_insert(error);
                self.changed.notify_all();
                self.pool.client.stop();
            }
        }
    }

    fn board(&self) -> MutexGuard<'_, Board<'a>> {
        self.board.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits until one thread more would be of use: all have been under way for a while, and there is more to ask for.
    /// False when there is nothing left to be done.
    fn wait_for_need(&self) -> bool {
        let mut board = self.board();
        let mut begun = board.begun;
        loop {
            let waited = self.changed.wait_timeout_while(board, PATIENCE, |board| !board.is_over());
            board = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
            if board.is_over() {
                return false;
            }
            if board.idle == 0 && board.begun == begun && !board.open.is_empty() {
                return true;
            }
            begun = board.begun;
        }
    }

    /// The next request; none when all series are whole, or one has failed.
    fn next(&self) -> Option<Job> {
        let mut board = self.board();
        loop {
            if board.is_over() {
                return None;
            }
            if let Some((series, ask)) = board.ask() {
                board.begun += 1;
                let url = ask.url(self.pool.client);
                return Some(Job { series, key: board.series[series].series.plan.key.clone(), url, ask });
            }
            board.idle += 1;
            board = self.changed.wait(board).unwrap_or_else(|poisoned| poisoned.into_inner());
            board.idle -= 1;
        }
    }

    fn fetch_page(&self, job: &Job) -> Result<()> {
        let Pool { client, stage, fetch, folder, task, .. } = *self.pool;
        client.pause(job.ask.pause);
        let waiting = |note: &str| task.note(note);
        let request = Request { stage, url: &job.url, etag: job.ask.etag.as_deref(), waiting: &waiting };
        let got = page::get(client, &request, &fetch.page)?;
        if let Got::Page(page) = &got {
            files::write(&page_file(folder, job.key.as_deref(), job.ask.number), &page.body)?;
        }
        task.add_sized(1, if let Got::Page(page) = &got { page.body.len() as u64 } else { 0 });
        let pages = self.take(job, &got)?;
        task.set_total(pages);
        self.changed.notify_all();
        Ok(())
    }

    /// Gives an answer to its series, notes it, and decides what is next; how many pages there are in all.
    fn take(&self, job: &Job, got: &Got) -> Result<u64> {
        let journal = self.pool.journal;
        let mut board = self.board();
        let board = &mut *board;
        let entry = &mut board.series[job.series];
        let key = job.key.as_deref();
        board.to_come -= entry.series.left();
        board.come += 1;
        if entry.series.take(job.ask.number, got) {
            log::info!(target: self.pool.stage, "`{}` has changed since a fetch of it was killed; reading it anew", job.url);
            journal.restart(key)?;
        }
        if let Some(reading) = entry.series.reading(job.ask.number) {
            journal.page(PageLine {
                key: job.key.clone(),
                number: job.ask.number,
                total: reading.total,
                granted: reading.granted,
                next: entry.series.link_after(job.ask.number).cloned(),
                receipt: reading.receipt.clone(),
            })?;
        }
        let open = self.settle(entry)?;
        board.to_come += entry.series.left();
        board.unfinished -= usize::from(entry.whole.is_some());
        if open {
            board.open(job.series);
        }
        Ok(board.pages())
    }

    /// Decides what is next for a series that took in a page: whether there is something to ask for.
    fn settle(&self, entry: &mut Entry) -> Result<bool> {
        let Pool { stage, journal, client, folder, .. } = *self.pool;
        let state = entry.series.state();
        let key = entry.series.plan.key.clone();
        let url = client.url(&entry.series.plan.path);
        if let Some((why, pages)) = entry.series.news() {
            journal.moved(key.as_deref())?;
            let pages = pages.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
            log::info!(target: stage, "`{url}` moved while it was read: {why}; reading again page {pages}");
        }
        let hopeless = |why: &str, detail: String| {
            Err(Error::failed(format!("could not read `{url}` whole: {why}")).detail(detail))
        };
        match state {
            State::Waiting => Ok(false),
            State::Open => Ok(true),
            State::Whole(whole) => {
                journal.whole(&whole)?;
                for number in whole.pages.len() as u32..entry.series.highest() {
                    files::remove(&page_file(folder, key.as_deref(), number + 1))?;
                }
                entry.whole = Some(whole);
                Ok(false)
            }
            State::Hopeless(why) => {
                hopeless(&why, format!("A page of it was read {MOST_READS} times, and the whole did not add up once."))
            }
            State::Broken(why) if entry.tries == SERIES_TRIES => {
                hopeless(&why, format!("It was read {SERIES_TRIES} times, and was not whole once."))
            }
            State::Broken(why) => {
                entry.tries += 1;
                log::info!(target: stage, "`{url}` is not whole: {why}; reading it again ({} of {SERIES_TRIES})", entry.tries);
                journal.restart(key.as_deref())?;
                entry.series.restart();
                Ok(true)
            }
        }
    }
}

impl Entry<'_> {
    /// How many of its pages the next fetch can go on with.
    fn kept(&self) -> u64 {
        self.whole.as_ref().map_or_else(|| self.series.kept(), |whole| whole.pages.len() as u64)
    }
}

impl<'a> Board<'a> {
    fn add(&mut self, series: Series<'a>, whole: Option<receipt::Series>) {
        match &whole {
            Some(_) => {}
            None => {
                self.unfinished += 1;
                self.to_come += series.left();
                self.open.push_back(self.series.len());
            }
        }
        self.series.push(Entry { series, open: whole.is_none(), tries: 1, whole });
    }

    fn is_over(&self) -> bool {
        self.unfinished == 0 || self.failure.is_some()
    }

    /// Pages in all, as far as is known.
    fn pages(&self) -> u64 {
        self.come + self.to_come
    }

    fn ask(&mut self) -> Option<(usize, Ask)> {
        while let Some(index) = self.open.front().copied() {
            if let Some(ask) = self.series[index].series.ask() {
                return Some((index, ask));
            }
            self.open.pop_front();
            self.series[index].open = false;
        }
        None
    }

    /// What is begun goes first: a fetch that is killed leaves few series that are not whole, each of which costs a request.
    fn open(&mut self, index: usize) {
        if !std::mem::replace(&mut self.series[index].open, true) {
            self.open.push_front(index);
        }
    }
}
