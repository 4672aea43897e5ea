//! An answer of the API as `mirror42-fetch --sample` prints it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{Error, Result};

#[derive(Deserialize)]
pub struct Sample {
    pub url: String,
    /// When it was asked for: UTC, RFC 3339.
    pub asked_at: String,
    pub took_ms: u64,
    /// By name, in lower case.
    pub headers: BTreeMap<String, String>,
    pub next_link: Option<String>,
    body: Box<RawValue>,
}

impl Sample {
    pub fn read(printed: &str) -> Result<Sample> {
        serde_json::from_str(printed)
            .map_err(|cause| Error::failed(format!("`mirror42-fetch --sample` printed no answer: {cause}")))
    }

    pub fn text(&self) -> &str {
        self.body.get()
    }

    pub fn body(&self) -> Value {
        // It was read as JSON already.
        serde_json::from_str(self.text()).unwrap_or(Value::Null)
    }

    /// The header of this name, if it is a number.
    pub fn number(&self, header: &str) -> Option<u64> {
        self.headers.get(header)?.trim().parse().ok()
    }
}

/// The path with one more parameter.
pub fn with_parameter(path: &str, name: &str, value: impl std::fmt::Display) -> String {
    let mark = if path.contains('?') { '&' } else { '?' };
    format!("{path}{mark}{name}={value}")
}
