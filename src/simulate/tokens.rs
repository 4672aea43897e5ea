//! Tokens as the OAuth server of the API hands them out.
//!
//! The manner that surprises clients: `client_credentials` gives the same still-valid token back,
//! with the seconds it has left.

/// The one application that the simulator knows, and its tokens.
pub struct Tokens {
    client_id: String,
    client_secret: String,
    seed: u64,
    lifetime_s: u64,
    issued: Vec<Token>,
    /// Codes that nobody has used yet, with the `redirect_uri` that they were asked for with.
    codes: Vec<(String, String)>,
    codes_given: u32,
}

/// The authorization code that is always accepted.
pub const CODE: &str = "sim-code";

#[derive(Clone, Debug)]
pub struct Token {
    pub access: String,
    /// Present for a user's token.
    pub refresh: Option<String>,
    pub created_at_s: u64,
    pub left_s: u64,
    pub scope: &'static str,
    revoked: bool,
}

/// Why no token was given: the error's name in OAuth, and its description.
pub type Refusal = (u16, &'static str, &'static str);

/// The fields of a token request, from the `Authorization` header, a form or a JSON body.
#[derive(Debug, Default)]
pub struct TokenRequest {
    pub client_id: String,
    pub client_secret: String,
    pub grant_type: String,
    pub code: String,
    pub redirect_uri: String,
    pub refresh_token: String,
}

const INVALID_CLIENT: Refusal = (
    401,
    "invalid_client",
    "Client authentication failed due to unknown client, no client authentication included, or unsupported \
     authentication method.",
);
const INVALID_GRANT: Refusal = (
    400,
    "invalid_grant",
    "The provided authorization grant is invalid, expired, revoked, does not match the redirection URI used in the \
     authorization request, or was issued to another client.",
);
const UNSUPPORTED: Refusal =
    (400, "unsupported_grant_type", "The authorization grant type is not supported by the authorization server.");

impl Tokens {
    pub fn new(client_id: &str, client_secret: &str, seed: u64, lifetime_s: u64) -> Tokens {
        let (client_id, client_secret) = (client_id.to_owned(), client_secret.to_owned());
        Tokens { client_id, client_secret, seed, lifetime_s, issued: Vec::new(), codes: Vec::new(), codes_given: 0 }
    }

    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    pub fn issued(&self) -> usize {
        self.issued.len()
    }

    /// A code for a person who consents; it works once.
    pub fn consent(&mut self, client_id: &str, redirect_uri: &str) -> Result<String, Refusal> {
        if client_id != self.client_id {
            return Err(INVALID_CLIENT);
        }
        self.codes_given += 1;
        let mut rng = crate::simulate::generate::rng_for(self.seed, "code", self.codes_given);
        let code = format!("{:016x}{:016x}", rng.u64(..), rng.u64(..));
        self.codes.push((code.clone(), redirect_uri.to_owned()));
        Ok(code)
    }

    /// Answers a token request.
    pub fn grant(&mut self, request: &TokenRequest, now_s: u64) -> Result<Token, Refusal> {
        if request.client_id != self.client_id || request.client_secret != self.client_secret {
            return Err(INVALID_CLIENT);
        }
        match request.grant_type.as_str() {
            "client_credentials" => {
                let valid =
                    self.issued.iter().rev().find(|token| token.refresh.is_none() && self.left(token, now_s) > 0);
                match valid.cloned() {
                    Some(token) => Ok(Token { left_s: self.left(&token, now_s), ..token }),
                    None => Ok(self.issue(now_s, None)),
                }
            }
            "authorization_code" => {
                let used =
                    self.codes.iter().position(|(code, _)| *code == request.code).map(|at| self.codes.remove(at));
                if request.code != CODE && used.is_none_or(|(_, redirect_uri)| redirect_uri != request.redirect_uri) {
                    return Err(INVALID_GRANT);
                }
                let refresh = self.secret_text("refresh");
                Ok(self.issue(now_s, Some(refresh)))
            }
            "refresh_token" => {
                let used = self.issued.iter_mut().find(|token| {
                    token.refresh.as_deref() == Some(&request.refresh_token) && !request.refresh_token.is_empty()
                });
                let Some(used) = used else {
                    return Err(INVALID_GRANT);
                };
                // The refresh token is spent, and the access token that came with it with it.
                used.refresh = Some(String::new());
                used.revoked = true;
                let refresh = self.secret_text("refresh");
                Ok(self.issue(now_s, Some(refresh)))
            }
            _ => Err(UNSUPPORTED),
        }
    }

    /// The token that `access` names, if it still works; otherwise what the API says about it.
    pub fn check(&self, access: &str, now_s: u64) -> Result<Token, &'static str> {
        match self.issued.iter().find(|token| token.access == access) {
            None => Err("The access token is invalid"),
            Some(token) => match self.left(token, now_s) {
                0 => Err("The access token expired"),
                left_s => Ok(Token { left_s, ..token.clone() }),
            },
        }
    }

    /// Makes a token worthless, as if its time had come early.
    pub fn revoke(&mut self, access: &str) {
        for token in self.issued.iter_mut().filter(|token| token.access == access) {
            token.revoked = true;
        }
    }

    fn issue(&mut self, now_s: u64, refresh: Option<String>) -> Token {
        let access = self.secret_text("access");
        let token =
            Token { access, refresh, created_at_s: now_s, left_s: self.lifetime_s, scope: "public", revoked: false };
        self.issued.push(token.clone());
        token
    }

    fn left(&self, token: &Token, now_s: u64) -> u64 {
        if token.revoked { 0 } else { (token.created_at_s + self.lifetime_s).saturating_sub(now_s) }
    }

    /// 64 hexadecimal digits, told by the seed and the number of tokens so far.
    fn secret_text(&self, part: &str) -> String {
        let mut rng = crate::simulate::generate::rng_for(self.seed, part, self.issued.len() as u32);
        (0..4).map(|_| format!("{:016x}", rng.u64(..))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(grant_type: &str) -> TokenRequest {
        TokenRequest {
            client_id: "id".to_owned(),
            client_secret: "secret".to_owned(),
            grant_type: grant_type.to_owned(),
            ..TokenRequest::default()
        }
    }

    #[test]
    fn the_same_token_comes_back_with_the_seconds_it_has_left() {
        let mut tokens = Tokens::new("id", "secret", 42, 7200);
        let first = tokens.grant(&request("client_credentials"), 1000).expect("a token");
        let second = tokens.grant(&request("client_credentials"), 1600).expect("a token");
        assert_eq!((first.access.as_str(), first.left_s), (second.access.as_str(), 7200));
        assert_eq!((second.created_at_s, second.left_s), (1000, 6600));
        let third = tokens.grant(&request("client_credentials"), 8200).expect("a token");
        assert_ne!(third.access, first.access);
        assert_eq!(tokens.check(&first.access, 8200).expect_err("expired"), "The access token expired");
    }

    #[test]
    fn a_refresh_token_works_once() {
        let mut tokens = Tokens::new("id", "secret", 42, 7200);
        let code = TokenRequest { code: CODE.to_owned(), ..request("authorization_code") };
        let first = tokens.grant(&code, 0).expect("a token");
        let refresh =
            TokenRequest { refresh_token: first.refresh.clone().expect("a refresh token"), ..request("refresh_token") };
        let second = tokens.grant(&refresh, 1).expect("a token");
        assert_ne!(second.refresh, first.refresh);
        assert_eq!(tokens.grant(&refresh, 2).expect_err("spent").1, "invalid_grant");
        assert_eq!(tokens.grant(&request("refresh_token"), 2).expect_err("empty").1, "invalid_grant");
    }

    #[test]
    fn a_code_works_once_and_for_its_redirect_uri() {
        let mut tokens = Tokens::new("id", "secret", 42, 7200);
        assert_eq!(tokens.consent("other", "uri").expect_err("refused").1, "invalid_client");
        let exchange = |code: String, redirect_uri: &str| TokenRequest {
            code,
            redirect_uri: redirect_uri.to_owned(),
            ..request("authorization_code")
        };
        let code = tokens.consent("id", "uri").expect("a code");
        assert!(tokens.grant(&exchange(code.clone(), "uri"), 0).expect("a token").refresh.is_some());
        assert_eq!(tokens.grant(&exchange(code, "uri"), 0).expect_err("used").1, "invalid_grant");
        let code = tokens.consent("id", "uri").expect("a code");
        assert_eq!(tokens.grant(&exchange(code, "elsewhere"), 0).expect_err("refused").1, "invalid_grant");
    }

    #[test]
    fn a_revoked_token_is_not_handed_back() {
        let mut tokens = Tokens::new("id", "secret", 42, 7200);
        let first = tokens.grant(&request("client_credentials"), 0).expect("a token");
        tokens.revoke(&first.access);
        assert!(tokens.check(&first.access, 1).is_err());
        assert_ne!(tokens.grant(&request("client_credentials"), 1).expect("a token").access, first.access);
    }

    #[test]
    fn wrong_credentials_and_grants_are_refused() {
        let mut tokens = Tokens::new("id", "other", 42, 7200);
        assert_eq!(tokens.grant(&request("client_credentials"), 0).expect_err("refused").1, "invalid_client");
        let mut tokens = Tokens::new("id", "secret", 42, 7200);
        assert_eq!(tokens.grant(&request("password"), 0).expect_err("refused").1, "unsupported_grant_type");
        assert_eq!(tokens.grant(&request("authorization_code"), 0).expect_err("refused").1, "invalid_grant");
    }
}
