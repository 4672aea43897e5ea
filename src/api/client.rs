//! The HTTP client: one request, repeated until its verdict is final.

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use ureq::http::Response;
use ureq::{Agent, Proxy, ResponseExt};

use super::outcome::{
    Head, LONGEST_PUT_OFF, PUT_OFFS, TRIES, Verdict, describe, is_hopeless, is_html, judge, judge_fault,
};
use super::token::{Authorization, Info, Wish};
use crate::cli::Context;
use crate::error::{Error, Result};
use crate::limiter::{Limiter, ServerLimits};

// The server answers 403 to a request without one.
const USER_AGENT: &str = concat!("mirror42/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
// A page of 100 projects weighs 5 MB; nothing the API has comes near this.
const BODY_LIMIT_BYTES: u64 = 64 << 20;
// Of an answer that is no data only the beginning is told.
const TOLD_BYTES: u64 = 64 << 10;
// A whole body may take so many times as long as its first byte: 5 MB at 40 kB a second.
const WHOLE_BODY: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(32);
// With several requests under way, each waits some seconds for its slot: that is no news.
const NOTEWORTHY: Duration = Duration::from_secs(60);

/// An answer with status 200.
#[derive(Debug)]
pub struct Answer {
    /// `X-Total`: records in all pages.
    pub total: Option<u64>,
    /// `X-Per-Page`: the page size that was granted.
    pub per_page: Option<u32>,
    pub body: Vec<u8>,
}

/// What this process asked of the API.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests sent, with those sent again.
    pub requests: AtomicU64,
    /// Attempts that gave nothing to use.
    pub retries: AtomicU64,
    /// Those of them that were not put off.
    pub bad_answers: AtomicU64,
}

/// The API as all threads of a process share it.
pub struct Client {
    agent: Agent,
    base_url: String,
    limiter: Limiter,
    authorization: Authorization,
    pub counts: Counts,
}

impl Client {
    pub fn open(context: &Context) -> Result<Client> {
        let api = &context.pipeline.api;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(USER_AGENT)
            .accept("application/json")
            .max_idle_connections_per_host(api.limits.in_flight)
            .max_idle_connections(api.limits.in_flight)
            .timeout_resolve(Some(CONNECT_TIMEOUT.min(api.timeout)))
            .timeout_connect(Some(CONNECT_TIMEOUT.min(api.timeout)))
            .timeout_send_request(Some(api.timeout))
            .timeout_send_body(Some(api.timeout))
            .timeout_recv_response(Some(api.timeout))
            .timeout_per_read(Some(api.timeout))
            .timeout_recv_body(Some(api.timeout * WHOLE_BODY))
            .proxy(if is_loopback(&api.base_url) { None } else { Proxy::try_from_env() })
            .build();
        let agent: Agent = config.into();
        Ok(Client {
            agent: agent.clone(),
            base_url: api.base_url.clone(),
            limiter: Limiter::new(&context.pipeline.paths, api),
            authorization: Authorization::new(context, agent)?,
            counts: Counts::default(),
        })
    }

    /// Ends all waiting in this process, since nothing more is to be asked for: a fetch that has failed
    /// does not wait an hour for the slots that its other threads hold.
    pub fn stop(&self) {
        self.limiter.stop();
    }

    /// The full address of a path, as messages name it.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base_url)
    }

    /// Gets `path` (with its query) until `read` can use the answer. `stage` is who asks, for the log;
    /// `waiting` hears why it takes longer.
    pub fn get<T>(
        &self,
        stage: &str,
        path: &str,
        waiting: &dyn Fn(&str),
        read: impl Fn(Answer) -> Result<T, Verdict>,
    ) -> Result<T> {
        let url = self.url(path);
        let retry = Retry { limiter: &self.limiter, counts: &self.counts, stage, what: format!("fetch `{url}`") };
        // Before the first slot is taken: a token may have to be asked for, in a slot of its own.
        self.authorization.bearer(&retry, waiting)?;
        retry.run(waiting, || {
            let bearer = self.authorization.bearer(&retry, waiting).map_err(Stop::Error)?;
            let request = self.agent.get(&url);
            let request = match &bearer {
                Some(token) => request.header("Authorization", format!("Bearer {}", token.reveal())),
                None => request,
            };
            let outcome = self.counted(request.call()).and_then(&read);
            match (outcome, &bearer) {
                (Err(Verdict::Unauthorized { why }), Some(token)) if self.authorization.renews() => {
                    self.authorization.refused(token).map_err(Stop::Error)?;
                    Err(Stop::Verdict(Verdict::Unauthorized { why }))
                }
                // There is no other token to be had.
                (Err(Verdict::Unauthorized { why }), _) => Err(Stop::Verdict(Verdict::Fail { why })),
                (outcome, _) => outcome.map_err(Stop::Verdict),
            }
        })
    }

    /// What can be told of the OAuth2 token, once the wish is fulfilled; none if there is no such token. `stage` and
    /// `waiting` as in [`Client::get`].
    pub fn token(&self, wish: Wish, stage: &str, waiting: &dyn Fn(&str)) -> Result<Option<Info>> {
        let asker = Retry { limiter: &self.limiter, counts: &self.counts, stage, what: String::new() };
        self.authorization.token(wish, &asker, waiting)
    }

    /// The usable answer of an attempt; what the server said of its limits is taken in first.
    fn counted(&self, response: Result<Response<ureq::Body>, ureq::Error>) -> Result<Answer, Verdict> {
        let response = response.map_err(|error| judge_fault(&error))?;
        let number = |name: &str| header(&response, name).and_then(|text| text.parse::<u32>().ok());
        let server = ServerLimits {
            per_second: number("x-secondly-ratelimit-limit").filter(|n| *n > 0),
            per_hour: number("x-hourly-ratelimit-limit").filter(|n| *n > 0),
            hourly_remaining: number("x-hourly-ratelimit-remaining"),
        };
        // An answer that is none of the API's own says nothing of its limits.
        if server != ServerLimits::default() || response.status() == 200 {
            self.limiter.observe(server).map_err(|error| Verdict::Fail { why: error.message().to_string() })?;
        }
        answer(response)
    }
}

/// A server on this machine is not reached through a proxy, whatever the environment says of proxies.
fn is_loopback(url: &str) -> bool {
    let host = url.split("://").nth(1).unwrap_or("");
    ["localhost", "127.", "[::1]"].iter().any(|start| host.starts_with(start))
}

fn header<'a>(response: &'a Response<ureq::Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// The body and the headers that count of a response with status 200; else its verdict.
pub fn answer(mut response: Response<ureq::Body>) -> Result<Answer, Verdict> {
    let mut body = Vec::new();
    if response.status() == 200 {
        // The limit is one of the bytes that come out of the gzip.
        let whole = response.body_mut().with_config().limit(BODY_LIMIT_BYTES).read_to_vec();
        body = whole.map_err(|error| judge_fault(&error))?;
    } else {
        // Its status decides, even if no more of it arrives.
        let _ = response.body_mut().as_reader().take(TOLD_BYTES).read_to_end(&mut body);
    }
    let uri = response.get_uri();
    let head = Head {
        status: response.status().as_u16(),
        content_type: header(&response, "content-type").unwrap_or(""),
        retry_after: header(&response, "retry-after"),
        location: header(&response, "location"),
        origin: &format!("{}://{}", uri.scheme_str().unwrap_or(""), uri.authority().map_or("", |at| at.as_str())),
    };
    if head.status != 200 {
        return Err(judge(&head, &body, SystemTime::now()));
    }
    if is_html(head.content_type, &body) {
        return Err(Verdict::again(describe(&head, &body)));
    }
    let total = header(&response, "x-total").and_then(|text| text.parse().ok());
    let per_page = header(&response, "x-per-page").and_then(|text| text.parse().ok());
    Ok(Answer { total, per_page, body })
}

/// Why an attempt ended without a value.
pub enum Stop {
    Verdict(Verdict),
    Error(Error),
}

/// The loop around attempts: slots, waits, log lines, the last word.
pub struct Retry<'a> {
    pub limiter: &'a Limiter,
    pub counts: &'a Counts,
    /// Whose log the tries go to.
    pub stage: &'a str,
    /// What is tried, for messages: "fetch `https://…`".
    pub what: String,
}

impl Retry<'_> {
    /// Runs `attempt` until it succeeds, cannot succeed, has been tried [`TRIES`] times or put off [`PUT_OFFS`] times,
    /// or too many other requests of this process went as badly.
    pub fn run<T>(&self, waiting: &dyn Fn(&str), attempt: impl Fn() -> Result<T, Stop>) -> Result<T> {
        let (mut tries, mut put_offs, mut put_off_for) = (0, 0, Duration::ZERO);
        loop {
            self.wait_for_slot(waiting)?;
            self.counts.requests.fetch_add(1, Ordering::Relaxed);
            let verdict = match attempt() {
                Ok(value) => return Ok(value),
                Err(Stop::Error(error)) => return Err(error),
                Err(Stop::Verdict(verdict)) => verdict,
            };
            let wait = match &verdict {
                Verdict::Fail { why } => return Err(self.failure(why, "The answer is final.")),
                // A limit of the server's is no fault of the request, and is waited for more patiently.
                Verdict::Wait { wait, .. } => {
                    put_offs += 1;
                    put_off_for += *wait;
                    if put_off_for > LONGEST_PUT_OFF {
                        let why = format!("{}; it wants no request for {} s", verdict.why(), put_off_for.as_secs());
                        return Err(self.failure(&why, "The answer is final."));
                    }
                    if put_offs == PUT_OFFS {
                        return Err(self.failure(verdict.why(), &format!("It was put off {PUT_OFFS} times.")));
                    }
                    *wait
                }
                Verdict::Again { .. } | Verdict::Unauthorized { .. } => {
                    tries += 1;
                    if tries == TRIES {
                        return Err(self.failure(verdict.why(), &format!("It was tried {TRIES} times.")));
                    }
                    self.bear(verdict.why())?;
                    backoff(tries)
                }
            };
            self.counts.retries.fetch_add(1, Ordering::Relaxed);
            log::warn!(target: self.stage, "{}: {}; trying again in {:.1} s", self.what, verdict.why(), wait.as_secs_f32());
            if matches!(verdict, Verdict::Wait { .. }) {
                self.limiter.block(wait)?;
            } else {
                self.sleep(wait)?;
            }
        }
    }

    /// Counts a bad answer; fails if there were too many to this process.
    fn bear(&self, why: &str) -> Result<()> {
        let bad_answers = self.counts.bad_answers.fetch_add(1, Ordering::Relaxed) + 1;
        let requests = self.counts.requests.load(Ordering::Relaxed);
        if !is_hopeless(bad_answers, requests) {
            return Ok(());
        }
        let why = format!("the server gave {bad_answers} bad answers to {requests} requests; the last: {why}");
        Err(self.failure(&why, "So many are no accident."))
    }

    fn sleep(&self, wait: Duration) -> Result<()> {
        if self.limiter.sleep(wait) {
            return Ok(());
        }
        Err(Error::failed(format!("could not {}: another request failed first", self.what)))
    }

    /// Reserves a slot and waits for it. The server may have closed the door meanwhile: then anew.
    fn wait_for_slot(&self, waiting: &dyn Fn(&str)) -> Result<()> {
        loop {
            let slot = self.limiter.reserve()?;
            if slot.wait >= NOTEWORTHY {
                let until = jiff::Timestamp::now() + slot.wait;
                let note = format!("waiting for the rate limit until {until:.0}");
                log::info!(target: self.stage, "{note}");
                waiting(&note);
            }
            self.sleep(slot.wait)?;
            if self.limiter.take_up(&slot)? {
                return Ok(());
            }
        }
    }

    fn failure(&self, why: &str, tries: &str) -> Error {
        Error::failed(format!("could not {}: {why}", self.what)).detail(tries)
    }
}

/// Up to 1, 2, 4, 8 … s: any time between none and all of that, at random. Requests that failed together are spread
/// over the whole of it and do not come back together.
fn backoff(tries: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << (tries - 1).min(16)).min(LONGEST_WAIT).mul_f64(fastrand::f64())
}
