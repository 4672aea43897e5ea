//! `/oauth/authorize`, `/oauth/token` and `/oauth/token/info`: from a request's many forms to an answer.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::simulate::answer::Answer;
use crate::simulate::json::{Object, Raw};
use crate::simulate::query::Query;
use crate::simulate::tokens::{Token, TokenRequest};

/// Reads a token request: Basic or body credentials, a JSON or a form body, or the query string.
pub fn read_request(authorization: Option<&str>, content_type: &str, raw_query: &str, body: &[u8]) -> TokenRequest {
    let fields = Fields::read(content_type, raw_query, body);
    let mut request = TokenRequest {
        client_id: fields.get("client_id"),
        client_secret: fields.get("client_secret"),
        grant_type: fields.get("grant_type"),
        code: fields.get("code"),
        redirect_uri: fields.get("redirect_uri"),
        refresh_token: fields.get("refresh_token"),
    };
    if let Some((id, secret)) = authorization.and_then(basic_credentials) {
        (request.client_id, request.client_secret) = (id, secret);
    }
    request
}

enum Fields {
    Json(BTreeMap<String, serde_json::Value>),
    Form(Query),
}

impl Fields {
    fn read(content_type: &str, raw_query: &str, body: &[u8]) -> Fields {
        if content_type.to_ascii_lowercase().starts_with("application/json") {
            // A body that is not an object has no fields, and is refused for the lack of them.
            return Fields::Json(serde_json::from_slice(body).unwrap_or_default());
        }
        let form = String::from_utf8_lossy(body);
        Fields::Form(Query::parse(&format!("{raw_query}&{}", form.trim())))
    }

    fn get(&self, name: &str) -> String {
        let value = match self {
            Fields::Json(map) => map.get(name).and_then(|value| value.as_str()),
            Fields::Form(query) => query.get(name),
        };
        value.unwrap_or_default().to_owned()
    }
}

fn basic_credentials(authorization: &str) -> Option<(String, String)> {
    let (scheme, encoded) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    Some((id.to_owned(), secret.to_owned()))
}

/// The answer that carries a token. `secret_valid_until` goes out as a number if it is one.
pub fn granted(token: &Token, secret_valid_until: Option<&str>) -> Answer {
    let mut body = Vec::new();
    let mut object = Object::new(&mut body)
        .field("access_token", &token.access)
        .field("token_type", "bearer")
        .field("expires_in", token.left_s as i64);
    if let Some(refresh) = &token.refresh {
        object = object.field("refresh_token", refresh);
    }
    object = object.field("scope", token.scope).field("created_at", token.created_at_s as i64);
    match secret_valid_until {
        Some(when) if when.parse::<i64>().is_ok() => object.field("secret_valid_until", Raw(when.as_bytes())),
        when => object.field("secret_valid_until", when),
    }
    .end();
    Answer::json(200, body).with("cache-control", "no-store").with("pragma", "no-cache")
}

/// The redirect that tells a browser the code; or a page that shows it, where nobody listens for a browser.
pub fn consented(code: &str, query: &Query) -> Answer {
    let redirect_uri = query.get("redirect_uri").unwrap_or_default();
    if redirect_uri.starts_with("urn:") {
        return Answer::new(200, "text/plain", format!("{code}\n").into_bytes());
    }
    let state = utf8_percent_encode(query.get("state").unwrap_or_default(), NON_ALPHANUMERIC).to_string();
    Answer::html(302).with("location", format!("{redirect_uri}?code={code}&state={state}"))
}

pub fn refused((status, error, description): (u16, &str, &str)) -> Answer {
    let mut body = Vec::new();
    Object::new(&mut body).field("error", error).field("error_description", description).end();
    Answer::json(status, body).with("cache-control", "no-store")
}

pub fn info(token: &Token, client_id: &str) -> Answer {
    let mut application = Vec::new();
    Object::new(&mut application).field("uid", client_id).end();
    // A token with a refresh token belongs to a user.
    let owner = token.refresh.as_ref().map(|_| 42_i64);
    let mut body = Vec::new();
    Object::new(&mut body)
        .field("resource_owner_id", owner)
        .field("scopes", &[token.scope][..])
        .field("expires_in_seconds", token.left_s as i64)
        .field("application", Raw(&application))
        .field("created_at", token.created_at_s as i64)
        .end();
    Answer::json(200, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(request: &TokenRequest) -> (&str, &str, &str) {
        (&request.client_id, &request.client_secret, &request.grant_type)
    }

    #[test]
    fn credentials_come_in_a_header_a_form_or_json() {
        let form = "application/x-www-form-urlencoded";
        let basic = read_request(Some("Basic c2ltLXVpZDpzaW0tc2VjcmV0"), form, "", b"grant_type=client_credentials");
        assert_eq!(ids(&basic), ("sim-uid", "sim-secret", "client_credentials"));
        let body = b"grant_type=client_credentials&client_id=sim-uid&client_secret=a%2Bb+c";
        assert_eq!(ids(&read_request(None, form, "", body)), ("sim-uid", "a+b c", "client_credentials"));
        let body = br#"{"grant_type":"client_credentials","client_id":"sim-uid","client_secret":"x"}"#;
        let json = read_request(None, "application/json; charset=utf-8", "", body);
        assert_eq!(ids(&json), ("sim-uid", "x", "client_credentials"));
    }

    #[test]
    fn nonsense_has_no_credentials() {
        assert_eq!(ids(&read_request(Some("Basic ???"), "application/json", "", b"[1]")), ("", "", ""));
    }
}
