//! The HTTP client: one request, repeated until its verdict is final.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use ureq::http::Response;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, DefaultConnector};
use ureq::{Agent, Proxy};

use super::departure::{self, Gate};
use super::outcome::{Head, PUT_OFFS, TRIES, Verdict, describe, is_html, judge, judge_fault};
use super::token::{Authorization, Info, Wish};
use crate::cli::Context;
use crate::error::{Error, Result};
use crate::limiter::{Limiter, ServerLimits, Slot};

// The server answers 403 to a request without one.
const USER_AGENT: &str = concat!("mirror42/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
// A page of 100 projects weighs 5 MB; nothing the API has comes near this.
const BODY_LIMIT_BYTES: u64 = 256 << 20;
// A whole body may take so many times as long as its first byte.
const WHOLE_BODY: u32 = 10;
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(20);
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
}

/// The API as all threads of a process share it.
pub struct Client {
    agent: Agent,
    base_url: String,
    limiter: Arc<Limiter>,
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
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(api.timeout))
            .timeout_per_read(Some(api.timeout))
            .timeout_recv_body(Some(api.timeout * WHOLE_BODY))
            .proxy(if is_loopback(&api.base_url) { None } else { Proxy::try_from_env() })
            .build();
        let limiter = Arc::new(Limiter::new(&context.pipeline.paths, api));
        let gate = Gate { limiter: Arc::clone(&limiter), proxied: config.proxy().is_some() };
        let agent = Agent::with_parts(config, DefaultConnector::new().chain(gate), DefaultResolver::default());
        Ok(Client {
            agent: agent.clone(),
            base_url: api.base_url.clone(),
            limiter,
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
        if let Some(slot) = departure::sent() {
            self.heard(slot, server, &response).map_err(|error| Verdict::Fail { why: error.message().to_string() })?;
        }
        answer(response)
    }

    fn heard(&self, slot: Slot, server: ServerLimits, response: &Response<ureq::Body>) -> Result<()> {
        // An answer that is none of the API's own says nothing of its limits.
        if server != ServerLimits::default() || response.status() == 200 {
            self.limiter.observe(slot, server)?;
        }
        let of_the_second = header(response, "retry-after").is_none_or(|text| ["0", "1"].contains(&text.trim()));
        if response.status() == 429 && of_the_second && server.hourly_remaining != Some(0) {
            self.limiter.widen(slot)?;
        }
        Ok(())
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
    let body = response.body_mut().with_config().limit(BODY_LIMIT_BYTES).read_to_vec();
    let body = body.map_err(|error| judge_fault(&error))?;
    let head = Head {
        status: response.status().as_u16(),
        content_type: header(&response, "content-type").unwrap_or(""),
        retry_after: header(&response, "retry-after"),
        location: header(&response, "location"),
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
    /// Runs `attempt` until it succeeds, cannot succeed, has been tried [`TRIES`] times, or has been
    /// put off [`PUT_OFFS`] times.
    pub fn run<T>(&self, waiting: &dyn Fn(&str), attempt: impl Fn() -> Result<T, Stop>) -> Result<T> {
        let (mut tries, mut put_offs) = (0, 0);
        loop {
            let outer = departure::arm(Some(self.wait_for_slot(waiting)?));
            self.counts.requests.fetch_add(1, Ordering::Relaxed);
            let outcome = attempt();
            departure::arm(outer);
            let verdict = match outcome {
                Ok(value) => return Ok(value),
                Err(Stop::Error(error)) => return Err(error),
                Err(Stop::Verdict(verdict)) => verdict,
            };
            let wait = match &verdict {
                Verdict::Held => {
                    self.counts.requests.fetch_sub(1, Ordering::Relaxed);
                    continue;
                }
                Verdict::Fail { why } => return Err(self.failure(why, "The answer is final.")),
                // A limit of the server's is no fault of the request, and is waited for more patiently.
                Verdict::Wait { wait, .. } => {
                    put_offs += 1;
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

    fn sleep(&self, wait: Duration) -> Result<()> {
        if self.limiter.sleep(wait) { Ok(()) } else { Err(self.stopped()) }
    }

    fn wait_for_slot(&self, waiting: &dyn Fn(&str)) -> Result<Slot> {
        let slot = self.limiter.wait_for_slot(|wait, until| {
            if wait >= NOTEWORTHY {
                let note = format!("waiting for the rate limit until {until:.0}");
                log::info!(target: self.stage, "{note}");
                waiting(&note);
            }
        })?;
        slot.ok_or_else(|| self.stopped())
    }

    fn stopped(&self) -> Error {
        Error::failed(format!("could not {}: another request failed first", self.what))
    }

    fn failure(&self, why: &str, tries: &str) -> Error {
        Error::failed(format!("could not {}: {why}", self.what)).detail(tries)
    }
}

/// 0.5, 1, 2, 4 … s, each shortened by up to half at random so that threads do not march in step.
fn backoff(tries: u32) -> Duration {
    let full = FIRST_WAIT.saturating_mul(1 << (tries - 1).min(16)).min(LONGEST_WAIT);
    full.mul_f64(fastrand::f64().mul_add(0.5, 0.5))
}
