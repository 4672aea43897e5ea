//! Text that is not told: its holder cannot print it, and what is printed is searched for it.
//!
//! A server may echo what it was sent: in the message of a refusal, in the address of a redirect. So
//! every message of an error and every line of a log goes through [`redact`], which knows the secrets
//! of this process.

use std::borrow::Cow;
use std::fmt;
use std::sync::{PoisonError, RwLock};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

// A shorter one would be found by chance, in words that tell nothing of it.
const SHORTEST_CHARS: usize = 6;
const INSTEAD: &str = "(secret)";
// What is never escaped in an address (RFC 3986, section 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What [`redact`] looks for, the longest first: a short one may be a part of a long one.
static KNOWN: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// Text that must not be printed: it has no `Display`, and its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// From now on no message of this process shows it, whoever wrote the text that holds it.
    pub fn hide(&self) {
        if self.0.chars().count() < SHORTEST_CHARS {
            return;
        }
        let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
        for form in forms(&self.0) {
            if !known.contains(&form) {
                known.push(form);
            }
        }
        known.sort_by_key(|form| std::cmp::Reverse(form.len()));
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The text as it is, and as JSON, an address and a form would hold it.
fn forms(text: &str) -> [String; 5] {
    let json = serde_json::Value::from(text).to_string();
    let json = json[1..json.len() - 1].to_string();
    let address = utf8_percent_encode(text, UNRESERVED).to_string();
    [text.to_string(), json.replace('/', "\\/"), json, address.replace("%20", "+"), address]
}

/// The text with `(secret)` in the place of every secret that is hidden.
pub fn redact(text: &str) -> Cow<'_, str> {
    let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
    known.iter().fold(Cow::Borrowed(text), |text, form| {
        if text.contains(form.as_str()) { Cow::Owned(text.replace(form.as_str(), INSTEAD)) } else { text }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, excerpt};

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Secret::new("hush")), "Secret(…)");
    }

    #[test]
    fn what_is_hidden_is_found_in_every_form() {
        Secret::new("r3d/act \"ed\"").hide();
        for text in
            ["r3d/act \"ed\"", r#"r3d/act \"ed\""#, r#"r3d\/act \"ed\""#, "r3d%2Fact%20%22ed%22", "r3d%2Fact+%22ed%22"]
        {
            assert_eq!(redact(&format!("a {text}, b {text}")), "a (secret), b (secret)", "{text}");
        }
    }

    #[test]
    fn of_two_secrets_the_longer_is_looked_for_first() {
        Secret::new("in-the-other").hide();
        Secret::new("one-in-the-other").hide();
        assert_eq!(redact("one-in-the-other, in-the-other"), "(secret), (secret)");
    }

    #[test]
    fn a_short_one_is_not_looked_for() {
        Secret::new("every").hide();
        assert_eq!(redact("every day"), "every day");
    }

    #[test]
    fn no_part_of_a_message_shows_one_and_no_cut_leaves_half_of_it() {
        Secret::new("half-of-a-secret").hide();
        let error = Error::failed("half-of-a-secret").at("half-of-a-secret").detail("half-of-a-secret");
        let error = error.hint("half-of-a-secret");
        let told = format!("{error} {}", error.to_json());
        assert!(!told.contains("half"), "{told}");
        assert_eq!(excerpt("it said half-of-a-secret", 12), "it said (sec…");
    }
}
