//! What becomes of an attempt: the one table of answers and faults.
//!
//! | What came | What is done |
//! |---|---|
//! | 200 with JSON that the caller can use | used |
//! | 200 with HTML (a bot filter's page) | again |
//! | 200 with what is not the expected JSON: not JSON, not UTF-8, an object for a list, no `X-Total` | again |
//! | 200 with a page that does not fit the others: too few records, another total, a record that came before | the pages that can have moved are read again |
//! | 200 with an empty list and an `X-Total` of 0 | asked for again, once, or three times where there were records; then used |
//! | 304 and other 2xx | again: not asked for |
//! | 3xx to another host | fail: following it would give the token to another place |
//! | 3xx to the same host | again: a login or a maintenance page |
//! | 401 | another token, then again; fail where there is no other |
//! | 403, 404 or another 4xx with HTML (bot filter, a proxy's page); 408; 425 | again |
//! | 4xx with JSON, with text, or with nothing | fail with the server's own message |
//! | 429; 5xx with `Retry-After` | put off until then, for all processes; later (exit code 75) if that is longer than `--max-wait` |
//! | 5xx | again |
//! | connection refused, reset, closed early; a host that is not found | again |
//! | no connection, no first byte, no whole body in time | again |
//! | a body that is shorter or longer than it says, or not the gzip it says | again |
//! | a body above the size limit, as it is when unpacked | fail |
//! | no TLS, a certificate that is not trusted, a wrong address | fail |
//!
//! "Again" is at most [`TRIES`] times with growing, jittered waits, and only while [`is_hopeless`] is not true of the
//! process; "put off" at most [`PUT_OFFS`] times.

use std::io::ErrorKind;
use std::time::{Duration, SystemTime};

use super::departure::Held;
use crate::error::{Error, excerpt};

/// How often one request is sent before it is given up. With the waits between, half a minute; a minute at most.
pub const TRIES: u32 = 7;

/// How often one request is put off by the server's limits before it is given up.
pub const PUT_OFFS: u32 = 20;

// The limits count a second and an hour. Without `Retry-After` it is by far more likely the second.
const SHORTEST_PUT_OFF: Duration = Duration::from_secs(1);
/// Whether a process was given so many bad answers to its requests that none of them is an accident any more. Without
/// this a server that fails every other time would be asked for hours: each page passes after some tries. One that
/// fails every twentieth time is never near it (about 500 of 10,000, where 2,600 are allowed).
pub fn is_hopeless(bad_answers: u64, requests: u64) -> bool {
    bad_answers > 100 + requests / 4
}

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
    /// Who was asked: scheme, host and port, as in `https://api.intra.42.fr`.
    pub origin: &'a str,
}

/// Judges an answer other than 200; `body` is its beginning.
pub fn judge(head: &Head, body: &[u8], now: SystemTime) -> Verdict {
    let why = describe(head, body);
    let wait = head.retry_after.and_then(|text| retry_after(text, now));
    match head.status {
        401 => Verdict::Unauthorized { why },
        429 => put_off(why, wait.unwrap_or_default()),
        500..=599 if wait.is_some() => put_off(why, wait.unwrap_or_default()),
        300..=399 if head.status != 304 => {
            let to = head.location.map_or(String::new(), |to| format!(" to {}", excerpt(to, 200)));
            match head.location.is_some_and(|to| leaves(to, head.origin)) {
                true => {
                    Verdict::Fail { why: format!("it redirects{to} ({}), where the token must not go", head.status) }
                }
                false => Verdict::again(format!("it redirects{to} ({}) and answers nothing itself", head.status)),
            }
        }
        408 | 425 => Verdict::Again { why },
        400..=499 if !is_html(head.content_type, body) => Verdict::Fail { why },
        _ => Verdict::Again { why },
    }
}

/// Whether a `Location` is at another scheme, host or port.
fn leaves(location: &str, origin: &str) -> bool {
    let location = location.trim().to_ascii_lowercase();
    let origin = origin.to_ascii_lowercase();
    let names_place = location.find(['/', '?', '#']).map_or(location.as_str(), |at| &location[..at]).contains(':');
    let place = match location.strip_prefix("//") {
        Some(rest) => format!("{}://{rest}", origin.split("://").next().unwrap_or("")),
        None if names_place => location,
        None => return false,
    };
    let rest = place.strip_prefix(&origin);
    !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']))
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
            Verdict::Fail { why: format!("no safe connection can be made: {}", told(error)) }
        }
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl => {
            Verdict::Fail { why: format!("the address cannot be used: {}", told(error)) }
        }
        ureq::Error::Timeout(what) => Verdict::again(match what {
            ureq::Timeout::Resolve => "its host was not found in time",
            ureq::Timeout::Connect => "no connection in time",
            ureq::Timeout::RecvBody => "its answer did not end in time",
            _ => "no answer in time",
        }),
        ureq::Error::HostNotFound => Verdict::again("its host is not found"),
        ureq::Error::Decompress(_, cause) if cause.kind() == ErrorKind::UnexpectedEof => {
            Verdict::again(format!("its body is not whole: {cause}"))
        }
        ureq::Error::Other(cause) if cause.is::<Held>() => Verdict::Held,
        ureq::Error::Other(cause) => match cause.downcast_ref::<Error>() {
            Some(ours) => Verdict::Fail { why: ours.message().to_string() },
            None => Verdict::again(format!("the connection broke: {cause}")),
        },
        ureq::Error::Decompress(_, cause) => Verdict::again(format!("its body is not the gzip it should be: {cause}")),
        // rustls reports through io, in words only: a certificate that is bad, or an answer that is no TLS at all.
        ureq::Error::Io(cause) if is_unsafe(&cause.to_string()) => {
            Verdict::Fail { why: format!("no safe connection can be made: {}", told(cause)) }
        }
        ureq::Error::Io(cause) if cause.to_string().starts_with("failed to lookup address") => {
            Verdict::again(format!("its host is not found: {cause}"))
        }
        ureq::Error::Io(cause) if cause.kind() == ErrorKind::ConnectionRefused => {
            Verdict::again(format!("no server is there: {cause}"))
        }
        ureq::Error::Io(cause) => Verdict::again(format!("the connection broke: {}", told(cause))),
        other => Verdict::again(format!("the connection broke: {}", told(other))),
    }
}

/// A cause may repeat what the server sent.
fn told(cause: &impl ToString) -> String {
    excerpt(&cause.to_string(), 200)
}

fn is_unsafe(cause: &str) -> bool {
    cause.contains("certificate") || cause.contains("InvalidContentType")
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

/// The message of a JSON error of the API (`error`, `message`), the title of a page, else the text's beginning.
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
    let text = match parts.is_empty() {
        true => String::from_utf8_lossy(body).trim().to_string(),
        false => parts.join(": "),
    };
    let text = title(&text).unwrap_or(&text);
    (!text.is_empty()).then(|| excerpt(text, 200))
}

/// What an HTML page calls itself: all else in it is markup.
fn title(text: &str) -> Option<&str> {
    let (_, title) = text.split_once("<title>").filter(|_| text.starts_with('<'))?;
    let title = title.split("</title>").next().unwrap_or(title).trim();
    (!title.is_empty()).then_some(title)
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

    const HERE: &str = "https://api.intra.42.fr";

    fn head(status: u16, content_type: &str) -> Head<'_> {
        Head { status, content_type, retry_after: None, location: None, origin: HERE }
    }

    fn judged(status: u16, content_type: &str, body: &str) -> Verdict {
        judge(&head(status, content_type), body.as_bytes(), SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn html_in_the_place_of_an_answer_is_tried_again_and_json_is_believed() {
        assert!(matches!(judged(403, "text/html; charset=utf-8", "Just a moment…"), Verdict::Again { .. }));
        assert!(matches!(judged(404, "text/html", "<html>"), Verdict::Again { .. }));
        assert!(matches!(judged(400, "", "<html>"), Verdict::Again { .. }));
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
        assert_eq!(judged(410, "", ""), Verdict::Fail { why: "it answered 410 with an empty body".into() });
        assert!(matches!(judged(408, "text/plain", "too slow"), Verdict::Again { .. }));
    }

    #[test]
    fn a_server_in_trouble_is_tried_again_or_when_it_says() {
        for status in [500, 502, 503, 504, 520] {
            assert!(matches!(judged(status, "text/html", "<h1>"), Verdict::Again { .. }), "{status}");
            let head = Head { retry_after: Some("7"), ..head(status, "text/html") };
            let verdict = judge(&head, b"<h1>", SystemTime::UNIX_EPOCH);
            assert!(matches!(verdict, Verdict::Wait { wait, .. } if wait.as_secs() == 7), "{status}: {verdict:?}");
        }
    }

    #[test]
    fn what_was_not_asked_for_is_tried_again() {
        for status in [201, 204, 206, 304] {
            let why = format!("it answered {status} with an empty body");
            assert_eq!(judged(status, "", ""), Verdict::Again { why });
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let wait = |text| {
            let head = Head { retry_after: text, ..head(429, "text/plain") };
            match judge(&head, b"429 Too Many Requests", SystemTime::UNIX_EPOCH) {
                Verdict::Wait { wait, .. } => wait.as_secs(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(wait(Some("3600")), 3600);
        assert_eq!(wait(Some("99999")), 99999);
        assert_eq!(wait(Some("Thu, 01 Jan 1970 00:01:00 GMT")), 60);
        assert_eq!(wait(Some("soon")), 1);
        assert_eq!(wait(Some("-5")), 1);
        assert_eq!(wait(Some("0")), 1);
        assert_eq!(wait(None), 1);
    }

    #[test]
    fn a_page_is_told_by_its_title() {
        let why = |body| judged(502, "text/html; charset=utf-8", body).why().to_string();
        let page = "<!DOCTYPE html>\n<html><head><title> 502 Bad\u{7}Gateway </title></head><body>nginx</body></html>";
        assert_eq!(why(page), "it answered 502 text/html: 502 Bad\\u{7}Gateway");
        assert_eq!(why("<html><title></title>"), "it answered 502 text/html: <html><title></title>");
        assert_eq!(why("<title>cut"), "it answered 502 text/html: cut");
    }

    #[test]
    fn a_redirect_is_refused_unless_it_stays_where_it_is() {
        let judged = |to| judge(&Head { location: to, ..head(302, "") }, b"", SystemTime::UNIX_EPOCH);
        for away in [
            "https://evil.example/",
            "http://api.intra.42.fr/v2/campus",
            "https://api.intra.42.fr:8443/",
            "https://api.intra.42.fr.evil.example/",
            "https://api.intra.42.fr@evil.example/",
            "//evil.example/v2/campus",
            "javascript:alert(1)",
        ] {
            let why = format!("it redirects to {away} (302), where the token must not go");
            assert_eq!(judged(Some(away)), Verdict::Fail { why });
        }
        for near in ["/users/sign_in", "campus?at=a:b", "https://API.intra.42.fr/v2", "//api.intra.42.fr?x", ""] {
            let why = format!("it redirects to {near} (302) and answers nothing itself");
            assert_eq!(judged(Some(near)), Verdict::Again { why });
        }
        assert_eq!(judged(None), Verdict::again("it redirects (302) and answers nothing itself"));
    }

    #[test]
    fn one_bad_answer_in_twenty_is_borne_and_every_other_one_is_not() {
        assert!((0..10_000).all(|requests| !is_hopeless(requests / 20, requests)));
        assert!(!is_hopeless(100, 100));
        let first = (0..10_000).find(|requests| is_hopeless(requests / 2, *requests));
        assert_eq!(first, Some(402), "201 of 402");
        assert_eq!((0..1000).find(|requests| is_hopeless(*requests, *requests)), Some(134));
    }
}
