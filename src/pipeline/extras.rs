//! What is sent with every request for a page, beside what mirror42 sends itself: `api.headers` and `api.query`.

use super::toml_view::Value;
use super::{Auth, Page};
use crate::error::{Error, Result};

// Sent by mirror42 or by HTTP itself; another value would break the request or the reading of its answer.
const OWN_HEADERS: [&str; 21] = [
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "proxy-authorization",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// The name of the header that authorizes a request. `Authorization` may be it, with a scheme that has no kind here.
pub fn auth_header(value: &Value) -> Result<String> {
    let name = value.name()?;
    if !is_token(&name) {
        return Err(value.wrong("the name of a header: letters, digits and `-`"));
    }
    let own = OWN_HEADERS.iter().any(|own| *own != "authorization" && own.eq_ignore_ascii_case(&name));
    if own { Err(sends_itself(value, "api.auth", "header", &name)) } else { Ok(name) }
}

/// The names and values of `api.headers`.
pub fn headers(value: Value, auth: &Auth) -> Result<Vec<(String, String)>> {
    let mut headers: Vec<(String, String)> = Vec::new();
    for (name, value) in value.pairs()? {
        let text = value.string()?;
        if !is_token(&name) {
            return Err(value.error(format!("`api.headers` names {name:?}, expected letters, digits and `-`")));
        }
        if OWN_HEADERS.iter().any(|own| own.eq_ignore_ascii_case(&name)) {
            return Err(sends_itself(&value, "api.headers", "header", &name));
        }
        if auth.header().is_some_and(|own| own.eq_ignore_ascii_case(&name)) {
            return Err(value.error(format!("`api.headers` names the header `{name}`, which `api.auth` sends")));
        }
        if headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(&name)) {
            return Err(
                value.error(format!("`api.headers` names the header `{name}` twice: their case counts nothing"))
            );
        }
        let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && text.trim() == text;
        if !plain {
            return Err(value.wrong("a text of ASCII without line breaks, and without blanks around it"));
        }
        headers.push((name, text));
    }
    Ok(headers)
}

/// The names and values of `api.query`, none of them a parameter of `page`.
pub fn query(value: Value, page: &Page) -> Result<Vec<(String, String)>> {
    let mut query = Vec::new();
    for (name, value) in value.pairs()? {
        let text = value.string()?;
        if name.is_empty() {
            return Err(value.error("`api.query` has a parameter without a name".to_string()));
        }
        if page.parameters().any(|own| own == name) {
            return Err(sends_itself(&value, "api.query", "parameter", &name));
        }
        query.push((name, text));
    }
    Ok(query)
}

/// A stage that is paged another way than the API may clash with `api.query` by itself.
pub fn check_page(value: &Value, page: &Page, query: &[(String, String)]) -> Result<()> {
    match query.iter().find(|(name, _)| page.parameters().any(|own| own == name)) {
        Some((name, _)) => {
            Err(value.error(format!("this stage is paged by the parameter `{name}`, which `api.query` sets for all")))
        }
        None => Ok(()),
    }
}

fn sends_itself(value: &Value, table: &str, what: &str, name: &str) -> Error {
    value.error(format!("`{table}` names the {what} `{name}`, which mirror42 sends itself"))
}

/// A token of RFC 9110, section 5.6.2.
fn is_token(name: &str) -> bool {
    let in_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(in_token)
}
