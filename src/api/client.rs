//! The HTTP client: one request, repeated until its verdict is final.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ureq::http::Response;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, DefaultConnector};
use ureq::{Agent, Proxy};

use super::answer::{Answer, header};
use super::auth::Authorization;
use super::departure::{self, Gate};
use super::login::Login;
use super::outcome::{TRIES, Verdict, judge_fault};
use super::retry::{Counts, Retry, Stop};
use super::token::{Info, Wish};
use super::{link, query};
use crate::cli::Context;
use crate::error::{Result, excerpt};
use crate::limiter::{Limiter, ServerLimits, Slot};

// The server answers 403 to a request without one.
const USER_AGENT: &str = concat!("mirror42/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
// A whole body may take so many times as long as its first byte: 5 MB at 40 kB a second.
const WHOLE_BODY: u32 = 4;
// A request that came to the server later than others do is counted there from then.
const NOTABLY_LATE: Duration = Duration::from_millis(4);

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
        let next = link::resolve(url, link).ok_or_else(|| Verdict::Fail {
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
        Answer::of(response, etag)
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
