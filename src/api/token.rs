//! The OAuth2 token, shared by all threads and processes through one file ([`token_file`](super::token_file)).
//!
//! For client credentials the server hands the same token back while it lives, with the seconds it has
//! left, so asking again does not always buy time: a token that is short of an hour is asked for again
//! at most every ten minutes, and used for as long as it has.
//!
//! A refresh token replaces itself at every refresh. What the server answered is in the file before
//! anything uses it; between the answer and the file lies one write, and nothing else.

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use ureq::Agent;

use super::answer::Answer;
use super::credential::{Credential, fits_header};
use super::login::Login;
use super::outcome::{Verdict, judge_fault};
use super::retry::{Counts, Retry, Stop};
use super::token_file::{Locked, Owner, Token, TokenFile};
use crate::cli::Context;
use crate::error::{Error, Result};
use crate::files;
use crate::pipeline::{self, Grant, Secret};

// "Refresh when less than an hour is left": a run takes minutes, so that it never outlives its token.
const ENOUGH_S: u64 = 3600;
const ASK_AGAIN_AFTER_S: u64 = 600;
// Less than this may be over before the request arrives.
const SPENT_S: u64 = 30;
const DAY_S: u64 = 24 * 3600;
const WARN_SECRET_S: u64 = 30 * DAY_S;

/// Gets tokens, and keeps them.
pub struct OAuth2 {
    agent: Agent,
    file: TokenFile,
    owner: Owner,
    client_secret: Secret,
    secret_sha256: String,
    /// Where a person consents; none for client credentials.
    login: Option<Login>,
    current: Mutex<Option<Token>>,
}

/// What somebody wants of the token who does not want to send it.
pub enum Wish {
    /// One that will do for a run.
    Ensure,
    /// Ask the server, whatever there is.
    Refresh,
    /// Exchange the code of a login.
    Exchange(Secret),
    /// Look at what there is.
    Look,
}

/// What a token is asked for with.
enum Ask {
    ClientCredentials,
    RefreshToken(String),
    Code(Secret),
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    /// A number; some servers give it as text, and RFC 6749 (section 5.1) lets them leave it out.
    #[serde(default)]
    expires_in: serde_json::Value,
    refresh_token: Option<String>,
    secret_valid_until: Option<serde_json::Value>,
}

/// What can be told of a token without telling it.
pub struct Info {
    pub seconds_left: u64,
    pub secret_valid_until: Option<String>,
    /// As pipeline.toml names it.
    pub grant: String,
    pub has_refresh_token: bool,
}

impl OAuth2 {
    pub fn new(context: &Context, agent: Agent, settings: &pipeline::OAuth2) -> Result<OAuth2> {
        let Context { pipeline, secrets } = context;
        let pipeline::OAuth2 { token_path, client_id_env, client_secret_env, grant } = settings;
        let base_url = &pipeline.api.base_url;
        let client_id = secrets.need(client_id_env, "the API's client id")?.reveal().to_string();
        let client_secret = secrets.need(client_secret_env, "the API's client secret")?;
        let login = match grant {
            Grant::ClientCredentials => None,
            Grant::RefreshToken { authorize_path, redirect_uri, scope } => Some(Login {
                url: format!("{base_url}{authorize_path}"),
                client_id: client_id.clone(),
                redirect_uri: redirect_uri.clone(),
                scope: scope.clone(),
            }),
        };
        Ok(OAuth2 {
            agent,
            file: TokenFile::new(&pipeline.paths),
            owner: Owner { url: format!("{base_url}{token_path}"), client_id, grant: grant.name().to_string() },
            secret_sha256: files::sha256_of(client_secret.reveal().as_bytes()),
            client_secret,
            login,
            current: Mutex::new(None),
        })
    }

    pub fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }

    /// What a request carries to be let in, by a token that will do: ours, the one another process left in the file, or
    /// a new one.
    pub fn credential(&self, asker: &Retry, waiting: &dyn Fn(&str)) -> Result<Credential> {
        self.ensure(asker, waiting).map(|token| token.credential())
    }

    /// What can be told of the token, once the wish is fulfilled; none if there is no token.
    pub fn fulfil(&self, wish: Wish, asker: &Retry, waiting: &dyn Fn(&str)) -> Result<Option<Info>> {
        let token = match wish {
            Wish::Ensure => Some(self.ensure(asker, waiting)?),
            Wish::Refresh => Some(self.refresh(asker, waiting)?),
            Wish::Exchange(code) => Some(self.exchange(code, asker, waiting)?),
            Wish::Look => self.known(self.file.get(&self.owner)?),
        };
        Ok(token.map(|token| token.info(now_s())))
    }

    /// The API refused this credential: no thread and no process uses it again.
    pub fn refused(&self, credential: &Credential) -> Result<()> {
        let mut current = self.current.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let file = self.file.lock()?;
        *current = None;
        match file.get(&self.owner)? {
            Some(kept) if kept.credential() == *credential => {
                file.put(file.reserve(&self.owner, now_s())?, &Token { refused: true, ..kept })
            }
            _ => Ok(()),
        }
    }

    fn ensure(&self, asker: &Retry, waiting: &dyn Fn(&str)) -> Result<Token> {
        // Held while asking: the other threads need the same answer.
        let mut current = self.current.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(token) = current.as_ref().filter(|token| token.will_do(now_s())) {
            return Ok(token.clone());
        }
        let file = self.file.lock()?;
        let token = match self.known(file.get(&self.owner)?) {
            Some(token) if token.will_do(now_s()) => token,
            // Nothing can be asked for until somebody logs in.
            Some(token) if self.login.is_some() && token.refresh_token.is_none() && token.lives(now_s()) => token,
            kept => self.renew(&file, kept, asker, waiting)?,
        };
        *current = Some(token.clone());
        Ok(token)
    }

    /// Asks whatever the age of the token we have.
    fn refresh(&self, asker: &Retry, waiting: &dyn Fn(&str)) -> Result<Token> {
        let file = self.file.lock()?;
        let kept = self.known(file.get(&self.owner)?);
        self.renew(&file, kept, asker, waiting)
    }

    /// Exchanges the code that a person was given for tokens.
    fn exchange(&self, code: Secret, asker: &Retry, waiting: &dyn Fn(&str)) -> Result<Token> {
        code.hide();
        let file = self.file.lock()?;
        // The refresh token of whoever logged in before is not this person's.
        let kept = self.known(file.get(&self.owner)?).map(|token| Token { refresh_token: None, ..token });
        self.ask(&file, &Ask::Code(code), kept, asker, waiting)
    }

    /// What the file has for us. A token that was got by another secret says nothing of whether this one is right; the
    /// refresh token with it goes on, since it is the application's.
    fn known(&self, kept: Option<Token>) -> Option<Token> {
        let kept = kept?;
        match (kept.secret_sha256 == self.secret_sha256, &kept.refresh_token) {
            (true, _) => Some(kept),
            (false, Some(_)) => Some(Token { refused: true, ..kept }),
            (false, None) => None,
        }
    }

    fn renew(&self, file: &Locked, kept: Option<Token>, asker: &Retry, waiting: &dyn Fn(&str)) -> Result<Token> {
        let refresh_token = kept.as_ref().and_then(|token| token.refresh_token.clone());
        let ask = match (&self.login, refresh_token) {
            (None, _) => Ask::ClientCredentials,
            (Some(_), Some(refresh_token)) => Ask::RefreshToken(refresh_token),
            (Some(_), None) => {
                return Err(Error::failed("there is no refresh token for this API and this client id")
                    .hint("Run `mirror42-token login`."));
            }
        };
        self.ask(file, &ask, kept, asker, waiting)
    }

    /// Asks, and has the answer in the file before anybody can use it.
    fn ask(
        &self,
        file: &Locked,
        ask: &Ask,
        kept: Option<Token>,
        asker: &Retry,
        waiting: &dyn Fn(&str),
    ) -> Result<Token> {
        let what = match ask {
            Ask::ClientCredentials | Ask::RefreshToken(_) => format!("get a token from `{}`", self.owner.url),
            Ask::Code(_) => format!("exchange the code at `{}`", self.owner.url),
        };
        // Counted apart: the requests of a stage are those for its pages.
        let counts = Counts::default();
        let retry = Retry { limiter: asker.limiter, counts: &counts, tries: asker.tries, stage: asker.stage, what };
        let place = file.reserve(&self.owner, now_s())?;
        let granted = retry
            .run(waiting, || self.ask_once(ask, &retry.what))
            .map_err(|error| explained(error, ask, kept.as_ref()))?;
        let now = now_s();
        let refresh_token = granted.refresh_token.filter(|token| !token.is_empty());
        let mut token = Token {
            owner: self.owner.clone(),
            access_token: granted.access_token,
            // RFC 6749, section 6: without a new one the old one goes on.
            refresh_token: refresh_token.or_else(|| kept.as_ref()?.refresh_token.clone()),
            expires_at_s: now.saturating_add(lifetime_s(&granted.expires_in)),
            asked_at_s: now,
            secret_sha256: self.secret_sha256.clone(),
            secret_valid_until: granted.secret_valid_until.filter(|value| !value.is_null()),
            secret_told_at_s: kept.as_ref().and_then(|token| token.secret_told_at_s),
            refused: false,
        };
        let warning = token.warning(now);
        if warning.is_some() {
            token.secret_told_at_s = Some(now);
        }
        file.put(place, &token)?;
        if let Some(end) = warning {
            log::warn!("the application's secret stops working at {end:.0}: make a new one in the API's settings");
        }
        if self.login.is_some() && token.refresh_token.is_none() {
            log::warn!("the API gave no refresh token: log in again when this token is spent");
        }
        Ok(token)
    }

    fn ask_once(&self, ask: &Ask, what: &str) -> Result<Granted, Stop> {
        let (client_id, client_secret) = (self.owner.client_id.as_str(), self.client_secret.reveal());
        let mut form = vec![("client_id", client_id), ("client_secret", client_secret)];
        form.extend(match ask {
            Ask::ClientCredentials => vec![("grant_type", "client_credentials")],
            Ask::RefreshToken(token) => vec![("grant_type", "refresh_token"), ("refresh_token", token)],
            Ask::Code(code) => vec![("grant_type", "authorization_code"), ("code", code.reveal())],
        });
        if let (Ask::Code(_), Some(login)) = (ask, &self.login) {
            form.push(("redirect_uri", &login.redirect_uri));
        }
        let response = self.agent.post(&self.owner.url).send_form(form);
        let granted = response
            .map_err(|error| judge_fault(&error))
            .and_then(|response| Answer::of(response, None))
            .and_then(|answer| {
                let granted = serde_json::from_slice::<Granted>(&answer.body).ok();
                // The parser's message could repeat the token.
                granted
                    .filter(|granted| !granted.access_token.is_empty() && fits_header(&granted.access_token))
                    .ok_or_else(|| Verdict::again("it answered 200 without an access token"))
            });
        granted.inspect(Granted::hide).map_err(|verdict| match (ask, verdict) {
            (Ask::Code(_), Verdict::Again { why } | Verdict::Fail { why } | Verdict::Unauthorized { why }) => {
                Stop::Error(
                    Error::failed(format!("could not {what}: {why}")).detail("It was sent once: a code works once."),
                )
            }
            // Here 401 means that the credentials are wrong, which no other token mends.
            (_, Verdict::Unauthorized { why }) => Stop::Verdict(Verdict::Fail { why }),
            (_, verdict) => Stop::Verdict(verdict),
        })
    }
}

/// With what became of the tokens that were there, and what a person can do.
fn explained(error: Error, ask: &Ask, kept: Option<&Token>) -> Error {
    let refused = error.message().contains("invalid_grant");
    let credentials = error.message().contains("it answered 401");
    let error = match (ask, kept) {
        (Ask::ClientCredentials, _) | (_, None) => error,
        (Ask::RefreshToken(_) | Ask::Code(_), Some(_)) => error.detail("The tokens that were kept are as they were."),
    };
    match ask {
        Ask::RefreshToken(_) if refused => error.hint("Run `mirror42-token login`: the refresh token works no more."),
        _ if credentials && !refused => error.hint("Check the client id and the client secret."),
        Ask::Code(_) => error.hint("Run `mirror42-token login` again, for a new code."),
        Ask::ClientCredentials | Ask::RefreshToken(_) => error,
    }
}

impl Granted {
    fn hide(&self) {
        [Some(&self.access_token), self.refresh_token.as_ref()]
            .into_iter()
            .flatten()
            .for_each(|text| Secret::new(text).hide());
    }
}

impl Token {
    fn will_do(&self, now: u64) -> bool {
        let just_asked = now.saturating_sub(self.asked_at_s) < ASK_AGAIN_AFTER_S;
        self.lives(now) && (self.expires_at_s.saturating_sub(now) >= ENOUGH_S || just_asked)
    }

    /// Whether it can be used at all.
    fn lives(&self, now: u64) -> bool {
        !self.refused && self.expires_at_s.saturating_sub(now) > SPENT_S
    }

    fn info(&self, now: u64) -> Info {
        Info {
            seconds_left: if self.refused { 0 } else { self.expires_at_s.saturating_sub(now) },
            secret_valid_until: self.secret_end().map(|end| format!("{end:.0}")),
            grant: self.owner.grant.clone(),
            has_refresh_token: self.refresh_token.is_some(),
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

    /// When the application's secret ends, if that is near and nobody was told of it today.
    fn warning(&self, now: u64) -> Option<jiff::Timestamp> {
        let told = self.secret_told_at_s.is_some_and(|told| now.saturating_sub(told) < DAY_S);
        self.secret_end().filter(|end| !told && end.as_second() < (now + WARN_SECRET_S) as i64)
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
            owner: Owner { url: String::new(), client_id: String::new(), grant: String::new() },
            access_token: "t".into(),
            refresh_token: None,
            expires_at_s: 1_000_000 + left,
            asked_at_s: 1_000_000 - asked_ago,
            secret_sha256: String::new(),
            secret_valid_until: None,
            secret_told_at_s: None,
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

    #[test]
    fn the_end_of_the_secret_is_told_once_a_day_and_not_before_it_is_near() {
        let ending = |days: u64, told_ago: Option<u64>| {
            let secret_valid_until = Some(serde_json::json!(1_000_000 + days * DAY_S));
            let secret_told_at_s = told_ago.map(|ago| 1_000_000 - ago);
            Token { secret_valid_until, secret_told_at_s, ..token(1, 1) }.warning(1_000_000).is_some()
        };
        assert!(ending(29, None) && !ending(31, None));
        assert!(!ending(29, Some(DAY_S - 1)) && ending(29, Some(DAY_S)));
    }
}
