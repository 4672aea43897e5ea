//! Query strings: the parameters of `api.query` in an address, those of a login, and what a browser was sent back with.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

// What has no meaning of its own within a parameter. Brackets and commas stay readable: `filter[id]=1,2`.
const PLAIN: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'[').remove(b']').remove(b',');

/// The path with those parameters whose names it does not have: what a stage's own path says is nearer to the stage.
pub fn extended(path: &str, parameters: &[(String, String)]) -> String {
    let own = path.split_once('?').map_or("", |(_, query)| query);
    let mut path = path.to_string();
    for (name, value) in parameters {
        if value_of(own, name).is_none() {
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str(&encoded(name, value));
        }
    }
    path
}

/// The parameters as a query string.
pub fn joined(parameters: &[(&str, &str)]) -> String {
    let parts: Vec<String> = parameters.iter().map(|(name, value)| encoded(name, value)).collect();
    parts.join("&")
}

fn encoded(name: &str, value: &str) -> String {
    format!("{}={}", utf8_percent_encode(name, PLAIN), utf8_percent_encode(value, PLAIN))
}

/// The value of the first parameter of this name.
pub fn value_of(query: &str, name: &str) -> Option<String> {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(other, _)| decoded(other) == name).map(|(_, value)| decoded(value))
}

fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_gets_the_parameters_that_it_does_not_have() {
        let parameters =
            [("locale", "en"), ("filter[a]", "x,y"), ("q", "a b&c")].map(|(name, value)| (name.into(), value.into()));
        assert_eq!(extended("/a", &parameters), "/a?locale=en&filter[a]=x,y&q=a%20b%26c");
        assert_eq!(extended("/a?locale=fr&page=1", &parameters), "/a?locale=fr&page=1&filter[a]=x,y&q=a%20b%26c");
        assert_eq!(extended("/a?filter%5Ba%5D=z&q&locale=", &parameters), "/a?filter%5Ba%5D=z&q&locale=");
        assert_eq!(extended("/a?b", &[]), "/a?b");
    }

    #[test]
    fn what_is_written_is_read() {
        let query = joined(&[("state", "a+b c"), ("scope", "public,ä")]);
        assert_eq!(query, "state=a%2Bb%20c&scope=public,%C3%A4");
        assert_eq!(value_of(&query, "state").as_deref(), Some("a+b c"));
        assert_eq!(value_of("code=a+b", "code").as_deref(), Some("a b"));
        assert_eq!(value_of(&query, "code"), None);
    }
}
