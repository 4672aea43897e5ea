//! Who we are to the API: the OAuth2 token, shared by all threads and processes through one file.
//!
//! The server hands the same token back while it lives, with the seconds it has left, so asking
//! again does not always buy time: a token that is short of an hour is asked for again at most every
//! ten minutes, and used for as long as it has.

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use ureq::Agent;

use super::client::{Counts, Retry, Stop, answer};
use super::outcome::Verdict;
use crate::cli::Context;
use crate::error::{Error, Result};
use crate::files;
use crate::paths::Paths;
use crate::pipeline::{Auth, Secret};

// "Refresh when less than an hour is left": a run takes minutes, so that it never outlives its token.
const ENOUGH_S: u64 = 3600;
const ASK_AGAIN_AFTER_S: u64 = 600;
// Less than this may be over before the request arrives.
const SPENT_S: u64 = 30;
const WARN_SECRET_S: u64 = 30 * 24 * 3600;

/// How requests are authorized.
pub enum Authorization {
    None,
    Fixed(Secret),
    OAuth2(Box<OAuth2>),
}

/// The client credentials grant, and the token it gave.
pub struct OAuth2 {
    agent: Agent,
    url: String,
    client_id: Secret,
    client_secret: Secret,
    paths: Paths,
    current: Mutex<Option<Token>>,
}

/// `.mirror42/token.json`, mode 0600.
#[derive(Clone, Serialize, Deserialize)]
struct Token {
    access_token: String,
    /// Unix time, seconds, by our own clock: the server's may differ.
    expires_at_s: u64,
    /// When the server was last asked for it.
    asked_at_s: u64,
    /// Which API and application it is for.
    url: String,
    client_id: String,
    secret_sha256: String,
    secret_valid_until: Option<serde_json::Value>,
    /// The API refused it, whatever its age.
    #[serde(default)]
    refused: bool,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    /// A number; some servers give it as text, and RFC 6749 (section 5.1) lets them leave it out.
    #[serde(default)]
    expires_in: serde_json::Value,
    #[serde(default)]
    secret_valid_until: Option<serde_json::Value>,
}

/// What somebody wants of the token who does not want to send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// One that will do for a run.
    Ensure,
    /// Ask the server, whatever there is.
    Refresh,
    /// Look at what there is.
    Look,
}

/// What can be told of a token without telling it.
pub struct Info {
    pub seconds_left: u64,
    pub secret_valid_until: Option<String>,
}

impl Authorization {
    pub fn new(context: &Context, agent: Agent) -> Result<Authorization> {
        let Context { pipeline, secrets } = context;
        Ok(match &pipeline.api.auth {
            Auth::None => Authorization::None,
            Auth::Bearer { token_env } => Authorization::Fixed(secrets.need(token_env, "the API's token")?),
            Auth::OAuth2 { token_path, client_id_env, client_secret_env } => Authorization::OAuth2(Box::new(OAuth2 {
                agent,
                url: format!("{}{token_path}", pipeline.api.base_url),
                client_id: secrets.need(client_id_env, "the API's client id")?,
                client_secret: secrets.need(client_secret_env, "the API's client secret")?,
                paths: pipeline.paths.clone(),
                current: Mutex::new(None),
            })),
        })
    }

    /// The token for the next attempt, asked for if need be.
    pub fn bearer(&self, asker: &Retry, waiting: &dyn Fn(&str)) -> Result<Option<Secret>> {
        match self {
            Authorization::None => Ok(None),
            Authorization::Fixed(token) => Ok(Some(token.clone())),
            Authorization::OAuth2(oauth2) => {
                oauth2.ensure(asker, waiting).map(|token| Some(Secret::new(token.access_token)))
            }
        }
    }

    /// Whether another token can be had when the API refuses this one.
    pub fn renews(&self) -> bool {
        matches!(self, Authorization::OAuth2(_))
    }

    /// The OAuth2 token, if requests are authorized by one.
    pub fn token(&self, wish: Wish, asker: &Retry, waiting: &dyn Fn(&str)) -> Result<Option<Info>> {
        match (self, wish) {
            (Authorization::None | Authorization::Fixed(_), _) => Ok(None),
            (Authorization::OAuth2(oauth2), Wish::Ensure) => oauth2.ensured(asker, waiting).map(Some),
            (Authorization::OAuth2(oauth2), Wish::Refresh) => oauth2.refresh(asker, waiting).map(Some),
            (Authorization::OAuth2(oauth2), Wish::Look) => oauth2.info(),
        }
    }

    /// The API refused this token: the next attempt, of any thread and process, uses another.
    pub fn refused(&self, token: &Secret) -> Result<()> {
        match self {
            Authorization::OAuth2(oauth2) => oauth2.refused(token),
            Authorization::None | Authorization::Fixed(_) => Ok(()),
        }
    }
}

impl OAuth2 {
    /// A token that will do: ours, the one another process left in the file, or a new one.
    fn ensure(&self, asker: &Retry, waiting: &dyn Fn(&str)) -> Result<Token> {
        // Held while asking: the other threads need the same answer.
        let mut current = self.current.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(token) = current.as_ref().filter(|token| token.will_do(now_s())) {
            return Ok(token.clone());
        }
        let _lock = self.lock()?;
        let kept = self.kept()?;
        let token = match kept {
            Some(token) if token.will_do(now_s()) => token,
            _ => self.ask(asker, waiting)?,
        };
        *current = Some(token.clone());
        Ok(token)
    }

    /// Asks whatever the age of the token we have.
    fn refresh(&self, asker: &Retry, waiting: &dyn Fn(&str)) -> Result<Info> {
        let _lock = self.lock()?;
        self.ask(asker, waiting).map(|token| token.info(now_s()))
    }

    fn ensured(&self, asker: &Retry, waiting: &dyn Fn(&str)) -> Result<Info> {
        self.ensure(asker, waiting).map(|token| token.info(now_s()))
    }

    /// The token in the file, if there is one for this API.
    fn info(&self) -> Result<Option<Info>> {
        Ok(self.kept()?.map(|token| token.info(now_s())))
    }

    fn refused(&self, token: &Secret) -> Result<()> {
        let mut current = self.current.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let _lock = self.lock()?;
        *current = None;
        match self.kept()? {
            Some(kept) if kept.access_token == token.reveal() => self.keep(&Token { refused: true, ..kept }),
            _ => Ok(()),
        }
    }

    fn ask(&self, asker: &Retry, waiting: &dyn Fn(&str)) -> Result<Token> {
        let what = format!("get a token from `{}`", self.url);
        // Counted apart: the requests of a stage are those for its pages.
        let counts = Counts::default();
        let retry = Retry { limiter: asker.limiter, counts: &counts, stage: asker.stage, what };
        let granted = retry.run(waiting, || self.ask_once().map_err(Stop::Verdict)).map_err(|error| {
            let credentials = error.message().contains("it answered 401");
            if credentials { error.hint("Check the client id and the client secret.") } else { error }
        })?;
        let now = now_s();
        let token = Token {
            access_token: granted.access_token,
            expires_at_s: now.saturating_add(lifetime_s(&granted.expires_in)),
            asked_at_s: now,
            url: self.url.clone(),
            client_id: self.client_id.reveal().to_string(),
            secret_sha256: files::sha256_of(self.client_secret.reveal().as_bytes()),
            secret_valid_until: granted.secret_valid_until.filter(|value| !value.is_null()),
            refused: false,
        };
        token.warn_of_secret(now);
        self.keep(&token)?;
        Ok(token)
    }

    fn ask_once(&self) -> Result<Granted, Verdict> {
        let body = serde_json::json!({
            "grant_type": "client_credentials",
            "client_id": self.client_id.reveal(),
            "client_secret": self.client_secret.reveal(),
        });
        let request = self.agent.post(&self.url).header("Content-Type", "application/json");
        let response = request.send(body.to_string()).map_err(|error| super::outcome::judge_fault(&error))?;
        let body = match answer(response, None) {
            Ok(answer) => answer.body,
            // Here 401 means that the credentials are wrong, which no other token mends.
            Err(Verdict::Unauthorized { why }) => return Err(Verdict::Fail { why }),
            Err(verdict) => return Err(verdict),
        };
        // The parser's message could repeat the token.
        serde_json::from_slice(&body).map_err(|_| Verdict::again("it answered 200 without an access token"))
    }

    fn lock(&self) -> Result<files::Lock> {
        files::Lock::wait(&self.paths.token().with_extension("lock"))
    }

    fn kept(&self) -> Result<Option<Token>> {
        let bytes = files::read_if_there(&self.paths.token())?;
        let token = bytes.and_then(|bytes| serde_json::from_slice::<Token>(&bytes).ok());
        // By the secret too: a token that was got by another says nothing of whether this one is right.
        Ok(token.filter(|token| {
            token.url == self.url
                && token.client_id == self.client_id.reveal()
                && token.secret_sha256 == files::sha256_of(self.client_secret.reveal().as_bytes())
        }))
    }

    fn keep(&self, token: &Token) -> Result<()> {
        let path = self.paths.token();
        let json = serde_json::to_vec(token)
            .map_err(|cause| Error::failed(format!("cannot write `{}`: {cause}", path.display())))?;
        files::write_private(&path, &json).map(drop)
    }
}

impl Token {
    fn will_do(&self, now: u64) -> bool {
        let left = self.expires_at_s.saturating_sub(now);
        let just_asked = now.saturating_sub(self.asked_at_s) < ASK_AGAIN_AFTER_S;
        !self.refused && (left >= ENOUGH_S || (left > SPENT_S && just_asked))
    }

    fn info(&self, now: u64) -> Info {
        Info {
            seconds_left: if self.refused { 0 } else { self.expires_at_s.saturating_sub(now) },
            secret_valid_until: self.secret_end().map(|end| format!("{end:.0}")),
        }
    }

    /// `secret_valid_until`: a Unix time or a date; its form is not documented.
    fn secret_end(&self) -> Option<jiff::Timestamp> {
        match self.secret_valid_until.as_ref()? {
            serde_json::Value::Number(seconds) => jiff::Timestamp::from_second(seconds.as_i64()?).ok(),
            serde_json::Value::String(text) => {
                let date = || text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
                text.parse().ok().or_else(|| Some(date()?.timestamp()))
            }
            _ => None,
        }
    }

    fn warn_of_secret(&self, now: u64) {
        if let Some(end) = self.secret_end()
            && end.as_second() < (now + WARN_SECRET_S) as i64
        {
            log::warn!("the application's secret stops working at {end:.0}: make a new one in the API's settings");
        }
    }
}

/// Seconds that a token lives; as long as the API's own do where the answer does not say: one that is over is refused,
/// and then another is asked for.
fn lifetime_s(expires_in: &serde_json::Value) -> u64 {
    let text = expires_in.as_str().map(|text| text.trim().parse::<f64>().ok());
    let seconds = text.unwrap_or_else(|| expires_in.as_f64()).filter(|seconds| *seconds >= 0.0);
    seconds.map_or(2 * ENOUGH_S, |seconds| seconds as u64)
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(left: u64, asked_ago: u64) -> Token {
        Token {
            access_token: "t".into(),
            expires_at_s: 1_000_000 + left,
            asked_at_s: 1_000_000 - asked_ago,
            url: String::new(),
            client_id: String::new(),
            secret_sha256: String::new(),
            secret_valid_until: None,
            refused: false,
        }
    }

    #[test]
    fn a_token_short_of_an_hour_is_asked_for_again_but_not_in_a_loop() {
        assert!(token(3600, 9999).will_do(1_000_000));
        assert!(!token(3599, 9999).will_do(1_000_000));
        assert!(token(3599, 5).will_do(1_000_000), "the server has just handed it back");
        assert!(!token(10, 5).will_do(1_000_000), "it will be over before the request arrives");
        assert!(!Token { refused: true, ..token(7000, 5) }.will_do(1_000_000));
    }

    #[test]
    fn a_lifetime_is_read_in_any_form() {
        let forms = [serde_json::json!(7168), serde_json::json!(7168.9), serde_json::json!(" 7168 ")];
        assert_eq!(forms.map(|form| lifetime_s(&form)), [7168; 3]);
        assert_eq!([serde_json::json!(null), serde_json::json!("soon")].map(|form| lifetime_s(&form)), [7200; 2]);
    }

    #[test]
    fn the_end_of_the_secret_is_read_in_any_form() {
        for value in
            [serde_json::json!(86400), serde_json::json!("1970-01-02"), serde_json::json!("1970-01-02T00:00:00Z")]
        {
            let token = Token { secret_valid_until: Some(value), ..token(1, 1) };
            assert_eq!(token.info(0).secret_valid_until.as_deref(), Some("1970-01-02T00:00:00Z"));
        }
    }
}
