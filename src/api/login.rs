//! A person's consent: the address where it is given, and the code that comes of it (RFC 6749, section 4.1).

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::query::{joined, value_of};
use crate::error::{Error, Result, excerpt};
use crate::files::hex;
use crate::secret::Secret;

/// Where a person consents.
pub struct Login {
    /// The authorization endpoint.
    pub url: String,
    pub client_id: String,
    pub redirect_uri: String,
    pub scope: String,
}

impl Login {
    /// The address to open in a browser. Who answers must know `state`.
    pub fn address(&self, state: &str) -> String {
        let parameters = joined(&[
            ("client_id", &self.client_id),
            ("redirect_uri", &self.redirect_uri),
            ("response_type", "code"),
            ("scope", &self.scope),
            ("state", state),
        ]);
        format!("{}{}{parameters}", self.url, if self.url.contains('?') { '&' } else { '?' })
    }
}

/// A `state` that nobody guesses.
pub fn state() -> Result<String> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|cause| Error::io("read", path, &cause))?;
    Ok(hex(&bytes))
}

/// The code in what a person gives back: the code itself, or the whole address that the browser was sent to, which must
/// hold `state`.
pub fn code(text: &str, state: &str) -> Result<Secret> {
    let text = text.trim();
    let again = "Run `mirror42-token login` again.";
    if text.is_empty() {
        return Err(Error::failed("no code was given").hint(again));
    }
    if !is_address(text) {
        return Ok(Secret::new(text));
    }
    let query = text.split_once('?').map_or("", |(_, query)| query.split('#').next().unwrap_or(""));
    if let Some(error) = value_of(query, "error").map(|error| excerpt(&error, 80)) {
        let described = value_of(query, "error_description").map(|text| excerpt(&text, 200));
        let error = Error::failed(format!("the API gave no code: {error}"));
        return Err(described.into_iter().fold(error, Error::detail).hint(again));
    }
    let code = value_of(query, "code").filter(|code| !code.is_empty());
    let Some(code) = code.map(Secret::new) else {
        return Err(Error::failed("the address has no `code`").hint("Paste the address that the browser ends at."));
    };
    match value_of(query, "state") {
        Some(told) if told == state => Ok(code),
        Some(_) => Err(Error::failed("the address answers another login: its `state` is not the one that was sent")
            .detail("The code in it was not used.")
            .hint(again)),
        None => Err(Error::failed("the address has no `state`, so nothing tells that it answers this login")
            .detail("The code in it was not used.")
            .hint("If the page is the API's own, give the code alone.")),
    }
}

/// A code is letters, digits and some signs; an address has a query or a scheme.
pub fn is_address(text: &str) -> bool {
    text.contains("://") || text.contains('?') || text.contains("code=") || text.contains("error=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_to_open_names_all_that_the_api_must_know() {
        let login = Login {
            url: "https://api.example/oauth/authorize".into(),
            client_id: "id".into(),
            redirect_uri: "urn:ietf:wg:oauth:2.0:oob".into(),
            scope: "public projects".into(),
        };
        assert_eq!(
            login.address("s"),
            "https://api.example/oauth/authorize?client_id=id&redirect_uri=urn%3Aietf%3Awg%3Aoauth%3A2.0%3Aoob\
             &response_type=code&scope=public%20projects&state=s"
        );
        let login = Login { url: "https://api.example/authorize?tenant=1".into(), ..login };
        assert!(login.address("s").starts_with("https://api.example/authorize?tenant=1&client_id=id&"));
    }

    #[test]
    fn a_code_comes_alone_or_in_an_address_of_this_login() {
        for text in
            [" c0d/e+ \n", "http://localhost:1/cb?code=c0d%2Fe%2B&state=s#_", "https://h/cb?state=s&code=c0d/e%2B"]
        {
            assert_eq!(code(text, "s").unwrap().reveal(), "c0d/e+", "{text}");
        }
    }

    #[test]
    fn what_is_no_answer_to_this_login_is_refused() {
        let told = |text: &str| code(text, "s").unwrap_err().to_string();
        let again = "\n  hint: Run `mirror42-token login` again.";
        assert_eq!(told(" \n"), format!("no code was given{again}"));
        assert_eq!(
            told("http://h/cb?error=access_denied&error_description=The+owner+denied+it.&state=s"),
            format!("the API gave no code: access_denied\n  detail: The owner denied it.{again}")
        );
        assert_eq!(
            told("http://h/cb?state=s"),
            "the address has no `code`\n  hint: Paste the address that the browser ends at."
        );
        assert_eq!(
            told("http://h/cb?code=c0d3&state=t"),
            format!(
                "the address answers another login: its `state` is not the one that was sent\n  \
                 detail: The code in it was not used.{again}"
            )
        );
        assert_eq!(
            told("http://h/cb?code=c0d3"),
            "the address has no `state`, so nothing tells that it answers this login\n  \
             detail: The code in it was not used.\n  hint: If the page is the API's own, give the code alone."
        );
    }
}
