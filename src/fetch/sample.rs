//! One answer of the API as it is: for whoever wants to know what an index looks like, or whether it answers at all.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::api::{Client, Request, Verdict};
use crate::cli;
use crate::error::{Error, Result, excerpt};
use crate::secret::redact;

/// What `--sample` prints.
#[derive(Serialize)]
struct Sample {
    url: String,
    /// When it was asked for: UTC, RFC 3339.
    asked_at: String,
    /// Until its last byte had come.
    took_ms: u64,
    /// Names in lower case. A cookie is left out: it may let somebody in.
    headers: BTreeMap<String, String>,
    /// The address of the next page, as the `Link` header names it.
    next_link: Option<String>,
    body: Box<RawValue>,
}

/// Prints the answer to `path`, on one line. An answer that is not JSON is an error, and is not asked for again.
pub fn print(client: &Client, path: &str) -> Result<()> {
    if !path.starts_with('/') {
        return Err(Error::usage(format!("`--sample` is {path:?}, expected a path that begins with `/`")));
    }
    let url = client.url(path);
    let request = Request { stage: "sample", url: &url, etag: None, waiting: &|_| {} };
    let sample = client.get(&request, |answer| {
        let no_json = |why: String| Verdict::Fail { why: format!("it answered what is not JSON ({why})") };
        let text = std::str::from_utf8(&answer.body).map_err(|cause| no_json(cause.to_string()))?;
        let body = serde_json::from_str(text).map_err(|cause| no_json(format!("{cause}: {}", excerpt(text, 80))))?;
        Ok(Sample {
            url: url.clone(),
            asked_at: format!("{:.3}", answer.asked_at),
            took_ms: answer.took.as_millis() as u64,
            headers: answer.headers().filter(|(name, _)| name != "set-cookie").collect(),
            next_link: answer.next_link().map(str::to_string),
            body,
        })
    })?;
    let line = serde_json::to_string(&sample)
        .map_err(|cause| Error::failed(format!("cannot write the answer as JSON: {cause}")))?;
    cli::print(format_args!("{}", redact(&line)));
    Ok(())
}
