//! Answers: status, headers, body, and the manner in which the body goes over the wire.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
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
    /// With a `Content-Length` larger than the body, all of it, and then the end of the connection.
    LongLength,
    /// With half the `Content-Length`; the other half of the body follows on the wire all the same.
    ShortLength,
    /// A byte every so often; after the last one blanks, without end.
    Drip {
        every_ms: u64,
    },
    /// So many times over.
    Repeated(u32),
    /// Compressed, with some bytes that are not those.
    CorruptGzip,
    /// As it is, but said to be compressed.
    NotGzip,
    /// Never.
    Hang,
    /// Not at all: the connection is reset.
    Reset,
}

/// What a `Content-Length` that is too large says too much.
const TOO_LONG: u64 = 100;
const MIB: usize = 1 << 20;

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

    /// A body of blanks, which JSON may begin with; nobody ever holds more than one MiB of it.
    pub fn oversized(size_mib: u32) -> Answer {
        Answer { manner: Manner::Repeated(size_mib), ..Answer::json(200, vec![b' '; MIB]) }
    }

    /// The same, compressed: a file of gzip may have many members, and each of these is a MiB of blanks.
    pub fn gzip_bomb(size_mib: u32) -> Answer {
        Answer { manner: Manner::Repeated(size_mib), ..Answer::json(200, vec![b' '; MIB]).gzip() }
    }

    /// Puts the body into the coding that its client takes, or into what its manner takes for one.
    pub fn encoded(self, takes_gzip: bool) -> Answer {
        match self.manner {
            _ if self.body.is_empty() => self,
            Manner::Repeated(_) | Manner::Drip { .. } => self,
            Manner::NotGzip => self.with("content-encoding", "gzip"),
            Manner::CorruptGzip => {
                let mut answer = self.gzip();
                // In the middle: neither the header nor the checksum, but what they are about.
                let middle = answer.body.len() / 2;
                answer.body.iter_mut().skip(middle).take(4).for_each(|byte| *byte = !*byte);
                answer
            }
            _ if takes_gzip => self.gzip(),
            _ => self,
        }
    }

    /// Compresses the body, fast rather than small: the wire is a loopback.
    fn gzip(mut self) -> Answer {
        self.headers.push(("vary", "Accept-Encoding".to_owned()));
        let mut encoder = GzEncoder::new(Vec::with_capacity(self.body.len() / 4), Compression::fast());
        // Writing into memory does not fail; if it did, the plain body would do.
        if let Ok(body) = encoder.write_all(&self.body).and_then(|()| encoder.finish()) {
            self.body = body;
            self.headers.push(("content-encoding", "gzip".to_owned()));
        }
        self
    }

    /// Cuts off the half of the body that a `Content-Length` which is too small does not announce.
    pub fn beyond(&mut self) -> Vec<u8> {
        match self.manner {
            Manner::ShortLength => self.body.split_off(self.body.len() / 2),
            _ => Vec::new(),
        }
    }

    /// Puts the answer into hyper's form.
    pub fn into_response(self) -> Response<Payload> {
        let mut builder = Response::builder().status(self.status);
        for (name, value) in &self.headers {
            builder = builder.header(*name, value);
        }
        // 304 carries the headers of the answer it stands for, and no length.
        let mut length = self.body.len() as u64;
        let mut rest = Bytes::from(self.body);
        match self.manner {
            Manner::Truncated => rest.truncate(rest.len() / 2),
            Manner::LongLength => length += TOO_LONG,
            _ => {}
        }
        if matches!(self.manner, Manner::Truncated | Manner::LongLength) {
            builder = builder.header("content-length", length);
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

/// How long a body that is too short waits before it breaks off, so that what there is of it is surely sent.
const PAUSE: Duration = Duration::from_millis(20);
const CHUNK: usize = 64 * 1024;

impl Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let size = match self.manner {
            Manner::Drip { every_ms } => {
                ready!(self.paused(Duration::from_millis(every_ms), context));
                let byte = if self.rest.is_empty() { Bytes::from_static(b" ") } else { self.rest.split_to(1) };
                return Poll::Ready(Some(Ok(Frame::data(byte))));
            }
            Manner::Repeated(0) => 0,
            Manner::Repeated(times) => {
                self.manner = Manner::Repeated(times - 1);
                return Poll::Ready(Some(Ok(Frame::data(self.rest.clone()))));
            }
            Manner::Chunked => CHUNK.min(self.rest.len()),
            _ => self.rest.len(),
        };
        if size > 0 {
            let data = self.rest.split_to(size);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if !matches!(self.manner, Manner::Truncated | Manner::LongLength) {
            return Poll::Ready(None);
        }
        ready!(self.paused(PAUSE, context));
        Poll::Ready(Some(Err(io::Error::other("an answer shorter than it says, as ordered"))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && matches!(self.manner, Manner::Whole | Manner::ShortLength)
    }

    fn size_hint(&self) -> SizeHint {
        match self.manner {
            Manner::Chunked | Manner::Drip { .. } | Manner::Repeated(_) => SizeHint::default(),
            _ => SizeHint::with_exact(self.length),
        }
    }
}

impl Payload {
    /// Waits once for so long.
    fn paused(&mut self, pause: Duration, context: &mut Context<'_>) -> Poll<()> {
        let sleep = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
        ready!(sleep.as_mut().poll(context));
        self.pause = None;
        Poll::Ready(())
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
