//! What a request carries to be let in.

use crate::pipeline::Secret;

/// The header that says who asks.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    pub name: String,
    pub value: Secret,
}

impl Credential {
    pub fn new(name: &str, value: impl Into<String>) -> Credential {
        Credential { name: name.to_string(), value: Secret::new(value) }
    }

    pub fn bearer(token: &str) -> Credential {
        Credential::new("Authorization", format!("Bearer {token}"))
    }
}

/// Whether the text can stand in a header as it is.
pub fn fits_header(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && text.trim() == text
}
