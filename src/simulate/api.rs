//! The life of a call: who asks, whether it may, how long it takes, what goes wrong, the answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::HeaderMap;
use tokio::sync::Notify;

use crate::simulate::answer::{self, Answer, Manner};
use crate::simulate::data::World;
use crate::simulate::distort::distort;
use crate::simulate::drift::{self, Place};
use crate::simulate::faults::{Fault, Faults, Kind};
use crate::simulate::generate::rng_for;
use crate::simulate::hold::Hold;
use crate::simulate::limits::{Left, Limiter, Verdict};
use crate::simulate::oauth;
use crate::simulate::options::{Latency, Serve, Which};
use crate::simulate::query::{self, Query};
use crate::simulate::render::{List, Rendered};
use crate::simulate::select::{Refusal, select};
use crate::simulate::stats::Stats;
use crate::simulate::tokens::Tokens;

/// The server's whole state. Every lock is held for a moment only, never across a wait.
pub struct Simulator {
    pub which: Which,
    pub rendered: Mutex<Arc<Rendered>>,
    pub faults: Mutex<Faults>,
    pub stats: Mutex<Stats>,
    pub tokens: Mutex<Tokens>,
    pub holds: Mutex<Vec<Hold>>,
    pub released: Notify,
    limiter: Mutex<Limiter>,
    latency: Latency,
    secret_valid_until: Option<String>,
    started: Instant,
}

/// A request, read.
pub struct Call {
    pub method: hyper::Method,
    /// Decoded, without the query string.
    pub path: String,
    pub raw_query: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Call {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn query(&self) -> Query {
        Query::parse(&self.raw_query)
    }

    fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header("authorization")?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    }
}

/// What a path under `/v2/` leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Cursus,
    Campus(usize),
    List(List),
    Nothing,
}

/// A mutex cannot be poisoned by anything we would not rather survive.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Simulator {
    pub fn new(options: &Serve, world: World, faults: Faults) -> Simulator {
        let seed = options.which.seed;
        let tokens = Tokens::new(&options.client_id, &options.client_secret, seed, options.token_lifetime);
        Simulator {
            which: options.which,
            rendered: Mutex::new(Arc::new(Rendered::new(world))),
            faults: Mutex::new(faults),
            stats: Mutex::default(),
            tokens: Mutex::new(tokens),
            holds: Mutex::default(),
            released: Notify::new(),
            limiter: Mutex::new(Limiter::new(options.limits, options.window)),
            latency: options.latency,
            secret_valid_until: options.secret_valid_until.clone(),
            started: Instant::now(),
        }
    }

    /// Answers a call of the API; the control endpoints are in [`super::control`].
    pub async fn answer(&self, call: &Call) -> Answer {
        let (name, target) = route(&self.rendered().world, &call.path);
        Stats::count(&mut lock(&self.stats).requests, name);
        if call.header("user-agent").is_none_or(str::is_empty) {
            return Answer::html(403);
        }
        let is_api = call.path.starts_with("/v2/");
        let mut left = None;
        if is_api {
            if let Err(refusal) = self.authorize(call) {
                return refusal;
            }
            match lock(&self.limiter).admit(self.started.elapsed().as_millis() as u64) {
                Verdict::Unlimited => {}
                Verdict::Admitted(counts) => left = Some(counts),
                Verdict::Refused { left, retry_after_s } => {
                    lock(&self.stats).rate_limited += 1;
                    return with_limits(Answer::rate_limited(Some(retry_after_s)), Some(left));
                }
            }
            let latency = self.latency_of(call);
            if !latency.is_zero() {
                tokio::time::sleep(latency).await; // even a sleep of zero takes a millisecond
            }
        }
        let fault = lock(&self.faults).next(&call.path, call.query().page());
        if let Some(fault) = &fault {
            Stats::count(&mut lock(&self.stats).faults_played, fault.kind.name());
            if fault.kind == Kind::Slow {
                tokio::time::sleep(Duration::from_millis(fault.delay_ms)).await;
            }
        }
        self.wait_while_held(call).await;
        if let Some(answer) = fault.as_ref().and_then(|fault| self.failure(fault, call)) {
            return answer;
        }
        let answer = match is_api {
            true => self.resource(call, target, fault.as_ref().map(|fault| fault.kind)),
            false => self.oauth(call),
        };
        let answer = match &fault {
            Some(fault) => distort(answer, fault),
            None => answer,
        };
        if is_api { with_limits(self.revalidate(call, answer), left) } else { answer }
    }

    pub fn rendered(&self) -> Arc<Rendered> {
        Arc::clone(&lock(&self.rendered))
    }

    fn authorize(&self, call: &Call) -> Result<(), Answer> {
        let checked = lock(&self.tokens).check(call.bearer().unwrap_or_default(), now_s());
        checked.map(|_| ()).map_err(|message| self.unauthorized(message))
    }

    fn unauthorized(&self, message: &str) -> Answer {
        lock(&self.stats).unauthorized += 1;
        let challenge = format!("Bearer realm=\"42 API\", error=\"invalid_token\", error_description=\"{message}\"");
        Answer::refusal(401, "Not authorized", message).with("www-authenticate", challenge)
    }

    /// How long this call takes; the same call takes as long again.
    pub fn latency_of(&self, call: &Call) -> Duration {
        let heavy = call.path == "/v2/coalitions" || call.path.ends_with("/projects");
        let (least, most) = match self.latency {
            Latency::None => return Duration::ZERO,
            Latency::Realistic if heavy => (800, 3000),
            Latency::Realistic => (200, 1200),
            Latency::Logged if self.is_the_slow_page(call) => (6000, 21_000),
            Latency::Logged => (200, 1200),
            Latency::Between { least_ms, most_ms } => (least_ms, most_ms),
        };
        let part = format!("{}?{}", call.path, call.raw_query);
        let mut rng = rng_for(self.which.seed, &part, 0);
        Duration::from_millis(rng.u64(least..=most))
    }

    /// Which page it was that the log of the real server shows is not known: here the seed says.
    fn is_the_slow_page(&self, call: &Call) -> bool {
        let pages = match call.path.as_str() {
            "/v2/coalitions" => 4,
            "/v2/cursus/21/projects" => 6,
            _ => return false,
        };
        call.query().page() == rng_for(self.which.seed, &call.path, 0).usize(1..=pages)
    }

    /// The faults that take the place of an answer.
    fn failure(&self, fault: &Fault, call: &Call) -> Option<Answer> {
        let retry_after = |answer: Answer| match fault.retry_after_s {
            Some(seconds) => answer.with("retry-after", seconds),
            None => answer,
        };
        Some(match fault.kind {
            Kind::RateLimited => Answer::rate_limited(fault.retry_after_s),
            Kind::ServerError => retry_after(Answer::html(fault.status.unwrap_or(500))),
            Kind::Bot403 => Answer::bot(403),
            Kind::Bot200 => Answer::bot(200),
            Kind::Html404 => Answer::html(404),
            Kind::JsonError => {
                Answer::refusal(fault.status.unwrap_or(400), "Bad Request", "The simulator was told to refuse this")
            }
            Kind::Redirect => Answer::html(302).with("location", &fault.location),
            Kind::TokenExpired => {
                lock(&self.tokens).revoke(call.bearer().unwrap_or_default());
                self.unauthorized("The access token expired")
            }
            Kind::Oversized => Answer::oversized(fault.size_mib),
            Kind::GzipBomb => Answer::gzip_bomb(fault.size_mib),
            Kind::NotModified => Answer::json(304, Vec::new()).without("content-type"),
            Kind::Hang => Answer { manner: Manner::Hang, ..Answer::html(504) },
            Kind::Reset => Answer { manner: Manner::Reset, ..Answer::html(502) },
            _ => return None,
        })
    }

    fn oauth(&self, call: &Call) -> Answer {
        let mut tokens = lock(&self.tokens);
        match (call.method.as_str(), call.path.as_str()) {
            ("POST", "/oauth/token") => {
                let content_type = call.header("content-type").unwrap_or_default();
                let request =
                    oauth::read_request(call.header("authorization"), content_type, &call.raw_query, &call.body);
                match tokens.grant(&request, now_s()) {
                    Ok(token) => oauth::granted(&token, self.secret_valid_until.as_deref()),
                    Err(refusal) => oauth::refused(refusal),
                }
            }
            ("GET", "/oauth/authorize") => {
                let query = call.query();
                let [client_id, redirect_uri] = ["client_id", "redirect_uri"].map(|name| query.get(name));
                match tokens.consent(client_id.unwrap_or_default(), redirect_uri.unwrap_or_default()) {
                    Ok(code) => oauth::consented(&code, &query),
                    Err(refusal) => oauth::refused(refusal),
                }
            }
            ("GET", "/oauth/token/info") => match tokens.check(call.bearer().unwrap_or_default(), now_s()) {
                Ok(token) => oauth::info(&token, tokens.client_id()),
                Err(message) => self.unauthorized(message),
            },
            _ => Answer::html(404),
        }
    }

    fn resource(&self, call: &Call, target: Target, fault: Option<Kind>) -> Answer {
        if call.method != "GET" {
            return Answer::html(404);
        }
        if let (Some(kind), Target::List(list)) = (fault, target) {
            self.shift(list, kind);
        }
        let rendered = self.rendered();
        match target {
            Target::Cursus => Answer::json(200, rendered.cursus().to_vec()),
            Target::Campus(at) => Answer::json(200, rendered.campus(at).to_vec()),
            Target::Nothing => Answer::html(404),
            Target::List(list) => match page(&rendered, list, call) {
                Ok(answer) => answer,
                Err(Refusal { error, message }) => Answer::refusal(400, error, &message),
            },
        }
    }

    /// Gives a good answer its ETag; 304 if the client has this very body.
    fn revalidate(&self, call: &Call, answer: Answer) -> Answer {
        if answer.status != 200 {
            return answer;
        }
        let etag = answer::etag(&answer.body);
        let strong = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
        let known = call
            .header("if-none-match")
            .is_some_and(|tags| tags.split(',').any(|tag| tag.trim() == "*" || strong(&etag) == strong(tag)));
        let mut answer = answer.with("etag", &etag);
        if known && answer.manner == Manner::Whole {
            lock(&self.stats).not_modified += 1;
            answer.status = 304;
            answer.body = Vec::new();
            return answer.without("content-type");
        }
        answer
    }

    /// Changes the index, if that is what this fault is about.
    fn shift(&self, list: List, kind: Kind) {
        let mut world = self.rendered().world.clone();
        match kind {
            Kind::DriftInsert => drift::insert(&mut world, list, Place::First),
            Kind::DriftRemove => drift::remove(&mut world, list),
            Kind::DriftSwap => {
                drift::remove(&mut world, list);
                drift::insert(&mut world, list, Place::Last);
            }
            _ => return,
        }
        *lock(&self.rendered) = Arc::new(Rendered::new(world));
    }
}

/// The page of an index that a call asks for.
fn page(rendered: &Rendered, list: List, call: &Call) -> Result<Answer, Refusal> {
    let query = call.query();
    let places = select(rendered, list, &query)?;
    let (page, per_page, total) = (query.page(), query.per_page(), places.len());
    let from = (page - 1).saturating_mul(per_page).min(total);
    let body = rendered.page(list, &places[from..(from + per_page).min(total)]);

    let host = call.header("host").unwrap_or("api.intra.42.fr");
    let link = |page: usize, rel: &str| {
        format!("<http://{host}{}?{}>; rel=\"{rel}\"", call.path, query::with_page(&call.raw_query, page, per_page))
    };
    let last = total.div_ceil(per_page).max(1);
    let mut links = Vec::new();
    if page > 1 {
        links.extend([link(1, "first"), link(page - 1, "prev")]);
    }
    if page < last {
        links.extend([link(page + 1, "next"), link(last, "last")]);
    }
    let answer = Answer::json(200, body).with("x-page", page).with("x-per-page", per_page).with("x-total", total);
    Ok(if links.is_empty() { answer } else { answer.with("link", links.join(", ")) })
}

/// What an answer of the API says about limits, the application and itself.
fn with_limits(answer: Answer, left: Option<Left>) -> Answer {
    let answer = answer
        .with("cache-control", "max-age=0, private, must-revalidate")
        .with("x-application-id", 42)
        .with("x-application-name", "mirror42 simulator")
        .with("x-application-roles", "None");
    match left {
        None => answer,
        Some(Left { limit, remaining }) => answer
            .with("x-secondly-ratelimit-limit", limit[0])
            .with("x-secondly-ratelimit-remaining", remaining[0])
            .with("x-hourly-ratelimit-limit", limit[1])
            .with("x-hourly-ratelimit-remaining", remaining[1]),
    }
}

/// The name that a path is counted under, and what it leads to.
fn route(world: &World, path: &str) -> (&'static str, Target) {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let campus_place = |id: &str| {
        let id: i64 = id.parse().ok()?;
        world.campuses.binary_search_by_key(&id, |campus| campus.id).ok()
    };
    let list = Target::List;
    match segments[..] {
        ["oauth", "token"] => ("token", Target::Nothing),
        ["oauth", "token", "info"] => ("token_info", Target::Nothing),
        ["oauth", "authorize"] => ("authorize", Target::Nothing),
        ["v2", "cursus", "21"] => ("cursus", Target::Cursus),
        ["v2", "campus"] => ("campus", list(List::Campuses)),
        ["v2", "cursus", "21", "projects"] => ("projects", list(List::Projects)),
        ["v2", "achievements"] => ("achievements", list(List::Achievements)),
        ["v2", "coalitions"] => ("coalitions", list(List::Coalitions)),
        ["v2", "campus", id] => ("campus", campus_place(id).map_or(Target::Nothing, Target::Campus)),
        ["v2", "campus", id, "achievements"] => {
            ("campus_achievements", campus_place(id).map_or(Target::Nothing, |at| list(List::CampusAchievements(at))))
        }
        ["v2", "campus", id, "users" | "projects_users"] if campus_place(id).is_some() => {
            ("people", list(List::Nobody))
        }
        ["v2", "cursus", "21", "users" | "cursus_users"] => ("people", list(List::Nobody)),
        ["v2", "users" | "cursus_users" | "projects_users" | "achievements_users" | "coalitions_users"] => {
            ("people", list(List::Nobody))
        }
        _ => ("other", Target::Nothing),
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Counts a call as in flight for as long as it lives, even if it hangs or its client goes away.
pub struct InFlight<'a>(&'a Simulator);

impl<'a> InFlight<'a> {
    pub fn new(simulator: &'a Simulator) -> InFlight<'a> {
        let mut stats = lock(&simulator.stats);
        stats.in_flight += 1;
        stats.most_in_flight = stats.most_in_flight.max(stats.in_flight);
        InFlight(simulator)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        lock(&self.0.stats).in_flight -= 1;
    }
}
