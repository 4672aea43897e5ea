//! The HTTP client: one request, repeated until its verdict is final.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use ureq::http::{HeaderMap, Response};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, DefaultConnector};
use ureq::{Agent, Proxy, ResponseExt};

use super::auth::Authorization;
use super::departure::{self, Gate, Left};
use super::login::Login;
use super::outcome::{Head, PUT_OFFS, TRIES, Verdict, describe, is_hopeless, is_html, judge, judge_fault};
use super::query;
use super::token::{Info, Wish};
use crate::cli::Context;
use crate::error::{Error, Result, excerpt};
use crate::limiter::{Limiter, ServerLimits, Slot};
use crate::secret::redact;

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
// A request that came to the server later than others do is counted there from then.
const NOTABLY_LATE: Duration = Duration::from_millis(4);
// With several requests under way, each waits some seconds for its slot: that is no news.
const NOTEWORTHY: Duration = Duration::from_secs(60);

/// A page to get.
pub struct Request<'a> {
    /// Who asks, for the log.
    pub stage: &'a str,
    pub url: &'a str,
    /// The `ETag` of what is here already: if that is what would come, the server may say so instead.
    pub etag: Option<&'a str>,
    /// Hears why it takes longer.
    pub waiting: &'a dyn Fn(&str),
}

/// An answer with status 200, or 304 where that was asked for.
#[derive(Debug)]
pub struct Answer {
    /// What came is what the request's `ETag` names, and the body is empty.
    pub not_modified: bool,
    pub body: Vec<u8>,
    /// When the request that was answered went out.
    pub asked_at: Timestamp,
    /// The same, by a clock that nobody sets.
    pub asked: Instant,
    /// From then until the body had come.
    pub took: Duration,
    headers: HeaderMap,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// All that are text, by name; of several of one name the last.
    pub fn headers(&self) -> impl Iterator<Item = (String, String)> {
        self.headers.iter().filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_string())))
    }

    /// The server's name for the body, to be kept with it; none if it holds a secret.
    pub fn etag(&self) -> Option<&str> {
        self.header("etag").filter(|etag| redact(etag) == *etag)
    }

    /// The address of the next page, as the `Link` header names it.
    pub fn next_link(&self) -> Option<&str> {
        self.headers.get_all("link").iter().find_map(|value| super::link::next(value.to_str().ok()?))
    }

    /// `X-Per-Page`: the page size that was granted.
    pub fn per_page(&self) -> Option<u32> {
        self.header("x-per-page").and_then(|text| text.parse().ok())
    }
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
    /// `api.headers` and `api.query`.
    headers: Vec<(String, String)>,
    query: Vec<(String, String)>,
    limiter: Arc<Limiter>,
    tries: u32,
    authorization: Authorization,
    /// The least time, in microseconds, that a request and its answer have spent on their way.
    least_way_us: AtomicU64,
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
        let limiter = Arc::new(Limiter::new(&context.pipeline.paths, api));
        let gate = Gate { limiter: Arc::clone(&limiter), proxied: config.proxy().is_some() };
        let agent = Agent::with_parts(config, DefaultConnector::new().chain(gate), DefaultResolver::default());
        Ok(Client {
            agent: agent.clone(),
            base_url: api.base_url.clone(),
            headers: api.headers.clone(),
            query: api.query.clone(),
            limiter,
            tries: api.limits.tries.unwrap_or(TRIES),
            authorization: Authorization::new(context, agent)?,
            least_way_us: AtomicU64::new(u64::MAX),
            counts: Counts::default(),
        })
    }

    /// Ends all waiting in this process, since nothing more is to be asked for: a fetch that has failed
    /// does not wait an hour for the slots that its other threads hold.
    pub fn stop(&self) {
        self.limiter.stop();
    }

    /// Waits before a request that should not come too soon; not once [`Client::stop`] was called.
    pub fn pause(&self, wait: Duration) {
        self.limiter.sleep(wait);
    }

    /// The full address of a path, as it is asked for and as messages name it.
    pub fn url(&self, path: &str) -> String {
        format!("{}{}", self.base_url, query::extended(path, &self.query))
    }

    /// Gets an address until `read` can use the answer.
    pub fn get<T>(&self, request: &Request, read: impl Fn(Answer) -> Result<T, Verdict>) -> Result<T> {
        let Request { stage, url, etag, waiting } = *request;
        let retry = self.retry(stage, format!("fetch `{url}`"));
        // Before the first slot is taken: a token may have to be asked for, in a slot of its own.
        self.authorization.credential(&retry, waiting)?;
        retry.run(waiting, || {
            let credential = self.authorization.credential(&retry, waiting).map_err(Stop::Error)?;
            let mut request = self.agent.get(url);
            for (name, value) in &self.headers {
                request = request.header(name, value);
            }
            if let Some(etag) = etag {
                request = request.header("If-None-Match", etag);
            }
            if let Some(credential) = &credential {
                request = request.header(&credential.name, credential.value.reveal());
            }
            let outcome = self.counted(request.call(), etag).and_then(&read);
            outcome.or_else(|verdict| match (verdict, &credential) {
                (Verdict::Unauthorized { why }, Some(credential)) => {
                    let another = self.authorization.refused(credential).map_err(Stop::Error)?;
                    // Where there is no other to be had, the answer is final.
                    let verdict = if another { Verdict::Unauthorized { why } } else { Verdict::Fail { why } };
                    Err(Stop::Verdict(verdict))
                }
                (Verdict::Unauthorized { why }, None) => Err(Stop::Verdict(Verdict::Fail { why })),
                (verdict, _) => Err(Stop::Verdict(verdict)),
            })
        })
    }

    /// The full address of what an answer to `url` calls the next page. It is on the same server, or it is refused: the
    /// token would go there.
    pub fn follow(&self, url: &str, link: &str) -> Result<String, Verdict> {
        let next = super::link::resolve(url, link).ok_or_else(|| Verdict::Fail {
            why: format!("it names `{}` as the next page, where the token must not go", excerpt(link, 200)),
        })?;
        Ok(query::extended(&next, &self.query))
    }

    /// What can be told of the OAuth2 token, once the wish is fulfilled; none if there is no such token. `stage` and
    /// `waiting` as in [`Client::get`].
    pub fn token(&self, wish: Wish, stage: &str, waiting: &dyn Fn(&str)) -> Result<Option<Info>> {
        let asker = self.retry(stage, String::new());
        self.authorization.oauth2().map_or(Ok(None), |oauth2| oauth2.fulfil(wish, &asker, waiting))
    }

    fn retry<'a>(&'a self, stage: &'a str, what: String) -> Retry<'a> {
        Retry { limiter: &self.limiter, counts: &self.counts, tries: self.tries, stage, what }
    }

    /// Where a person consents, if tokens are given for that.
    pub fn login(&self) -> Option<&Login> {
        self.authorization.oauth2()?.login()
    }

    /// The usable answer of an attempt; what the server said of its limits is taken in first.
    fn counted(
        &self,
        response: Result<Response<ureq::Body>, ureq::Error>,
        etag: Option<&str>,
    ) -> Result<Answer, Verdict> {
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
        answer(response, etag)
    }

    /// By how much the request that is answered may have come later to the server than one that was not held up. What the
    /// server took for itself it tells in `X-Runtime`, in seconds; the rest was spent on the way.
    fn lateness(&self, response: &Response<ureq::Body>) -> Option<Duration> {
        let runtime = header(response, "x-runtime")?.trim().parse().ok()?;
        let runtime = Duration::try_from_secs_f64(runtime).ok()?;
        let way_us = departure::left().since.elapsed().checked_sub(runtime)?.as_micros() as u64;
        let least_us = self.least_way_us.fetch_min(way_us, Ordering::Relaxed).min(way_us);
        Some(Duration::from_micros(way_us - least_us))
    }

    fn heard(&self, slot: Slot, server: ServerLimits, response: &Response<ureq::Body>) -> Result<()> {
        if let Some(late) = self.lateness(response).filter(|late| *late >= NOTABLY_LATE) {
            self.limiter.arrived_late(slot, late)?;
        }
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

/// A response to this thread's last request with status 200, or 304 where that was asked for with an `ETag`, once its body has
/// come; else its verdict.
pub fn answer(mut response: Response<ureq::Body>, etag: Option<&str>) -> Result<Answer, Verdict> {
    let mut body = Vec::new();
    if matches!(response.status().as_u16(), 200 | 304) {
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
    let not_modified = head.status == 304 && etag.is_some();
    if head.status != 200 && !not_modified {
        return Err(judge(&head, &body, SystemTime::now()));
    }
    if !not_modified && is_html(head.content_type, &body) {
        return Err(Verdict::again(describe(&head, &body)));
    }
    let Left { at, since } = departure::left();
    let headers = response.headers().clone();
    Ok(Answer { not_modified, body, asked_at: at, asked: since, took: since.elapsed(), headers })
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
    /// How often it is sent before it is given up.
    pub tries: u32,
    /// Whose log the tries go to.
    pub stage: &'a str,
    /// What is tried, for messages: "fetch `https://…`".
    pub what: String,
}

impl Retry<'_> {
    /// Runs `attempt` until it succeeds, cannot succeed, has been tried as often as it may or put off [`PUT_OFFS`] times,
    /// or too many other requests of this process went as badly.
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
                    if tries == self.tries {
                        let told = if tries == 1 { "once".to_string() } else { format!("{tries} times") };
                        return Err(self.failure(verdict.why(), &format!("It was tried {told}.")));
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

/// Up to 1, 2, 4, 8 … s: any time between none and all of that, at random. Requests that failed together are spread
/// over the whole of it and do not come back together.
fn backoff(tries: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << (tries - 1).min(16)).min(LONGEST_WAIT).mul_f64(fastrand::f64())
}
