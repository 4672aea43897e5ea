//! Answers: status, headers, body, and the manner in which the body goes over the wire.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::{Response, StatusCode};
use tokio::time::Sleep;

use crate::simulate::json::{Json, Object};

/// An answer before it is sent.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    pub manner: Manner,
}

/// How a body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Whole,
    /// Without a `Content-Length`.
    Chunked,
    /// With the full `Content-Length`, half of the bytes, and then the end of the connection.
    Truncated,
    /// Never.
    Hang,
    /// Not at all: the connection is reset.
    Reset,
}

const JSON: &str = "application/json; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

impl Answer {
    pub fn new(status: u16, content_type: &str, body: Vec<u8>) -> Answer {
        let headers = vec![("content-type", content_type.to_owned())];
        Answer { status, headers, body, manner: Manner::Whole }
    }

    pub fn json(status: u16, body: Vec<u8>) -> Answer {
        Answer::new(status, JSON, body)
    }

    /// The API's usual form of a refusal.
    pub fn refusal(status: u16, error: &str, message: &str) -> Answer {
        let mut body = Vec::new();
        Object::new(&mut body).field("error", error).field("message", message).end();
        Answer::json(status, body)
    }

    /// An object of one field.
    pub fn fact(name: &str, value: impl Json) -> Answer {
        let mut body = Vec::new();
        Object::new(&mut body).field(name, value).end();
        Answer::json(200, body)
    }

    pub fn rate_limited(retry_after_s: Option<u64>) -> Answer {
        let body = b"429 Too Many Requests (Spam Rate Limit Exceeded)".to_vec();
        let answer = Answer::new(429, "text/plain", body);
        match retry_after_s {
            Some(seconds) => answer.with("retry-after", seconds),
            None => answer,
        }
    }

    /// An error page of the server or of what stands before it.
    pub fn html(status: u16) -> Answer {
        let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        let title = format!("{status} {}", reason.unwrap_or("Error"));
        let body = format!(
            "<!DOCTYPE html>\n<html>\n<head><title>{title}</title></head>\n<body>\n<center><h1>{title}</h1></center>\n\
             <hr><center>nginx</center>\n</body>\n</html>\n"
        );
        Answer::new(status, HTML, body.into_bytes())
    }

    /// The page of the bot filter.
    pub fn bot(status: u16) -> Answer {
        let body = "<!DOCTYPE html><html lang=\"en-US\"><head><title>Just a moment...</title>\
                    <meta http-equiv=\"refresh\" content=\"390\"></head><body><noscript>Enable JavaScript and cookies \
                    to continue</noscript></body></html>";
        Answer::new(status, "text/html; charset=UTF-8", body.as_bytes().to_vec()).with("server", "cloudflare")
    }

    pub fn with(mut self, name: &'static str, value: impl ToString) -> Answer {
        self.headers.push((name, value.to_string()));
        self
    }

    pub fn without(mut self, name: &str) -> Answer {
        self.headers.retain(|(other, _)| *other != name);
        self
    }

    /// Compresses the body, fast rather than small: the wire is a loopback.
    pub fn gzip(mut self) -> Answer {
        self.headers.push(("vary", "Accept-Encoding".to_owned()));
        let mut encoder = GzEncoder::new(Vec::with_capacity(self.body.len() / 4), Compression::fast());
        // Writing into memory does not fail; if it did, the plain body would do.
        if let Ok(body) = encoder.write_all(&self.body).and_then(|()| encoder.finish()) {
            self.body = body;
            self.headers.push(("content-encoding", "gzip".to_owned()));
        }
        self
    }

    /// Puts the answer into hyper's form.
    pub fn into_response(self) -> Response<Payload> {
        let mut builder = Response::builder().status(self.status);
        for (name, value) in &self.headers {
            builder = builder.header(*name, value);
        }
        // 304 carries the headers of the answer it stands for, and no length.
        let length = self.body.len() as u64;
        if self.manner == Manner::Truncated {
            builder = builder.header("content-length", length);
        }
        let mut rest = Bytes::from(self.body);
        if self.manner == Manner::Truncated {
            rest.truncate(rest.len() / 2);
        }
        let payload = Payload { rest, length, manner: self.manner, pause: None };
        // A header that is not one can only come from the command line; better said than dropped.
        builder.body(payload).unwrap_or_else(|cause| {
            let rest = Bytes::from(format!("mirror42-simulate could not write a header: {cause}"));
            let length = rest.len() as u64;
            let mut response = Response::new(Payload { rest, length, manner: Manner::Whole, pause: None });
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        })
    }
}

/// A body on its way out.
pub struct Payload {
    rest: Bytes,
    length: u64,
    manner: Manner,
    pause: Option<Pin<Box<Sleep>>>,
}

/// How long a truncated body waits before it breaks off, so that its first half is surely sent.
const PAUSE: Duration = Duration::from_millis(20);
const CHUNK: usize = 64 * 1024;

impl Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let size = match self.manner {
            Manner::Chunked => CHUNK.min(self.rest.len()),
            _ => self.rest.len(),
        };
        if size > 0 {
            let data = self.rest.split_to(size);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if self.manner != Manner::Truncated {
            return Poll::Ready(None);
        }
        let pause = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(PAUSE)));
        match pause.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => Poll::Ready(Some(Err(io::Error::other("a truncated answer, as ordered")))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.manner == Manner::Whole
    }

    fn size_hint(&self) -> SizeHint {
        match self.manner {
            Manner::Chunked => SizeHint::default(),
            _ => SizeHint::with_exact(self.length),
        }
    }
}

/// A weak ETag: any change of the body changes it.
pub fn etag(body: &[u8]) -> String {
    let mut state = body.len() as u64;
    let (words, rest) = body.as_chunks::<8>();
    for word in words {
        state = (state ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        state ^= state >> 29;
    }
    for &byte in rest {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("W/\"{:016x}{:016x}\"", state, state.wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(31))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_weak_and_notices_every_byte() {
        let one = etag(b"[{\"id\":1,\"name\":\"a\"}]");
        assert!(one.starts_with("W/\"") && one.ends_with('"'), "{one}");
        assert_ne!(one, etag(b"[{\"id\":1,\"name\":\"b\"}]"));
        assert_ne!(one, etag(b"[{\"id\":2,\"name\":\"a\"}]"));
    }
}
