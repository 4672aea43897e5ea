//! What came back, once it has come whole and can be used.

use std::io::Read;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use ureq::ResponseExt;
use ureq::http::{HeaderMap, Response};

use super::departure::{self, Left};
use super::link;
use super::outcome::{Head, Verdict, describe, is_html, judge, judge_fault};
use crate::secret::redact;

// A page of 100 projects weighs 5 MB; nothing the API has comes near this.
const BODY_LIMIT_BYTES: u64 = 64 << 20;
// Of an answer that is no data only the beginning is told.
const TOLD_BYTES: u64 = 64 << 10;

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
    /// Of a response to this thread's last request, with status 200, or 304 where that was asked for with an `ETag`, once its
    /// body has come; else its verdict.
    pub fn of(mut response: Response<ureq::Body>, etag: Option<&str>) -> Result<Answer, Verdict> {
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
        self.headers.get_all("link").iter().find_map(|value| link::next(value.to_str().ok()?))
    }

    /// `X-Per-Page`: the page size that was granted.
    pub fn per_page(&self) -> Option<u32> {
        self.header("x-per-page").and_then(|text| text.parse().ok())
    }
}

/// The header of this name, if it is text.
pub fn header<'a>(response: &'a Response<ureq::Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}
