//! What becomes of an attempt: the one table of answers and faults.
//!
//! | What came | What is done |
//! |---|---|
//! | 200 with JSON that the caller can use | used |
//! | 200 with HTML (a bot filter's page), or with what is not the expected JSON | again |
//! | 304 and other 2xx | again: not asked for |
//! | 3xx | fail: following it would give the token to another place |
//! | 401 | another token, then again; fail where there is no other |
//! | 403, 404 with HTML (bot filter, a proxy's page) | again |
//! | 4xx with JSON, or with nothing | fail with the server's own message |
//! | 429, 503 with `Retry-After` | put off until then, for all processes; later (exit code 75) if that is longer than `--max-wait` |
//! | 5xx | again |
//! | connection refused, reset, closed early, timed out, wrong length | again |
//! | a body above the size limit, a wrong address, a failed TLS handshake | fail |
//!
//! "Again" is at most [`TRIES`] times with growing, jittered waits; "put off" at most [`PUT_OFFS`] times.

use std::time::{Duration, SystemTime};

use super::departure::Held;
use crate::error::{Error, excerpt};

/// How often one request is sent before it is given up. With the waits between, about a minute.
pub const TRIES: u32 = 7;

/// How often one request is put off by the server's limits before it is given up.
pub const PUT_OFFS: u32 = 20;

// The limits count a second and an hour. Without `Retry-After` it is by far more likely the second.
const SHORTEST_PUT_OFF: Duration = Duration::from_secs(1);

/// A judged attempt that gave nothing to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it again after a growing wait.
    Again { why: String },
    /// The server wants no requests for so long.
    Wait { why: String, wait: Duration },
    /// It was not sent: the limits have changed since its slot was reserved.
    Held,
    /// The token was refused.
    Unauthorized { why: String },
    /// No repetition will help.
    Fail { why: String },
}

impl Verdict {
    pub fn again(why: impl Into<String>) -> Verdict {
        Verdict::Again { why: why.into() }
    }

    pub fn why(&self) -> &str {
        match self {
            Verdict::Again { why }
            | Verdict::Wait { why, .. }
            | Verdict::Unauthorized { why }
            | Verdict::Fail { why } => why,
            Verdict::Held => "it was held back",
        }
    }
}

/// The parts of an answer that decide.
pub struct Head<'a> {
    pub status: u16,
    pub content_type: &'a str,
    pub retry_after: Option<&'a str>,
    pub location: Option<&'a str>,
}

/// Judges an answer other than 200; `body` is its beginning.
pub fn judge(head: &Head, body: &[u8], now: SystemTime) -> Verdict {
    let why = describe(head, body);
    let wait = head.retry_after.and_then(|text| retry_after(text, now));
    match head.status {
        401 => Verdict::Unauthorized { why },
        429 => put_off(why, wait.unwrap_or_default()),
        503 if wait.is_some() => put_off(why, wait.unwrap_or_default()),
        300..=399 if head.status != 304 => {
            let to = head.location.map_or(String::new(), |to| format!(" to {}", excerpt(to, 200)));
            Verdict::Fail { why: format!("it redirects{to} ({}), where the token must not go", head.status) }
        }
        403 | 404 if is_html(head.content_type, body) => Verdict::Again { why },
        400..=499 => Verdict::Fail { why },
        _ => Verdict::Again { why },
    }
}

fn put_off(why: String, wait: Duration) -> Verdict {
    Verdict::Wait { why, wait: wait.max(SHORTEST_PUT_OFF) }
}

/// Judges a failure before there was an answer, or within its body.
pub fn judge_fault(error: &ureq::Error) -> Verdict {
    match error {
        ureq::Error::BodyExceedsLimit(limit) => {
            Verdict::Fail { why: format!("its body is larger than {} MiB", limit >> 20) }
        }
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Pem(_) => {
            Verdict::Fail { why: format!("no safe connection can be made: {error}") }
        }
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl => {
            Verdict::Fail { why: format!("the address cannot be used: {error}") }
        }
        ureq::Error::Timeout(what) => Verdict::again(format!("no answer in time ({what})")),
        ureq::Error::HostNotFound => Verdict::again("its host is not found"),
        // rustls reports a bad certificate through io.
        ureq::Error::Io(cause) if cause.to_string().contains("certificate") => {
            Verdict::Fail { why: format!("no safe connection can be made: {cause}") }
        }
        ureq::Error::Io(cause) => Verdict::again(format!("the connection broke: {cause}")),
        ureq::Error::Other(cause) if cause.is::<Held>() => Verdict::Held,
        ureq::Error::Other(cause) => match cause.downcast_ref::<Error>() {
            Some(ours) => Verdict::Fail { why: ours.message().to_string() },
            None => Verdict::again(format!("the connection broke: {cause}")),
        },
        other => Verdict::again(format!("the connection broke: {other}")),
    }
}

/// One line about an answer: its status, its type, and the server's message or the body's beginning.
pub fn describe(head: &Head, body: &[u8]) -> String {
    // The body of a success may hold a token.
    let body = if (201..300).contains(&head.status) { b"" } else { body };
    let kind = match head.content_type.split(';').next().unwrap_or("").trim() {
        "" => String::new(),
        kind => format!(" {}", excerpt(kind, 40)),
    };
    match message(body) {
        Some(text) => format!("it answered {}{kind}: {text}", head.status),
        None => format!("it answered {}{kind} with an empty body", head.status),
    }
}

/// The message of a JSON error of the API (`error`, `message`), else the text's beginning.
fn message(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Said {
        error: Option<String>,
        message: Option<String>,
        error_description: Option<String>,
    }
    let said = serde_json::from_slice::<Said>(body).ok();
    let said = said.map(|said| [said.error, said.error_description, said.message]);
    let parts: Vec<String> = said.into_iter().flatten().flatten().collect();
    let text = if parts.is_empty() { String::from_utf8_lossy(body).trim().to_string() } else { parts.join(": ") };
    (!text.is_empty()).then(|| excerpt(&text, 200))
}

pub fn is_html(content_type: &str, body: &[u8]) -> bool {
    content_type.trim_start().to_ascii_lowercase().starts_with("text/html") || body.trim_ascii_start().starts_with(b"<")
}

/// `Retry-After` in seconds or as a date (RFC 9110, section 10.2.3).
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let date = httpdate::parse_http_date(text.trim()).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, content_type: &str, body: &str) -> Verdict {
        let head = Head { status, content_type, retry_after: None, location: None };
        judge(&head, body.as_bytes(), SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn html_in_the_place_of_an_answer_is_tried_again_and_json_is_believed() {
        assert!(matches!(judged(403, "text/html; charset=utf-8", "Just a moment…"), Verdict::Again { .. }));
        assert!(matches!(judged(404, "text/html", "<html>"), Verdict::Again { .. }));
        assert_eq!(
            judged(400, "application/json", r#"{"error":"Filter Error","message":"Attributes x doesn't exists."}"#),
            Verdict::Fail {
                why: "it answered 400 application/json: Filter Error: Attributes x doesn't exists.".into()
            }
        );
        assert_eq!(
            judged(404, "application/json", "{}"),
            Verdict::Fail { why: "it answered 404 application/json: {}".into() }
        );
    }

    #[test]
    fn a_server_in_trouble_is_tried_again() {
        for status in [500, 502, 503, 504] {
            assert!(matches!(judged(status, "text/html", "<h1>"), Verdict::Again { .. }), "{status}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let wait = |text| {
            let head = Head { status: 429, content_type: "text/plain", retry_after: text, location: None };
            match judge(&head, b"429 Too Many Requests", SystemTime::UNIX_EPOCH) {
                Verdict::Wait { wait, .. } => wait.as_secs(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(wait(Some("3600")), 3600);
        assert_eq!(wait(Some("99999")), 99999);
        assert_eq!(wait(Some("Thu, 01 Jan 1970 00:01:00 GMT")), 60);
        assert_eq!(wait(Some("soon")), 1);
        assert_eq!(wait(Some("0")), 1);
        assert_eq!(wait(None), 1);
    }

    #[test]
    fn a_redirect_is_refused() {
        let head = Head { status: 302, content_type: "", retry_after: None, location: Some("https://evil.example/") };
        let verdict = judge(&head, b"", SystemTime::UNIX_EPOCH);
        assert!(matches!(&verdict, Verdict::Fail { why } if why.contains("https://evil.example/")), "{verdict:?}");
    }
}
