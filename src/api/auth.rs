//! Who we are to the API: what each request for a page carries to be let in.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ureq::Agent;

use super::credential::{Credential, fits_header};
use super::retry::Retry;
use super::token::OAuth2;
use crate::cli::Context;
use crate::error::{Error, Result};
use crate::pipeline::{Auth, Secret};

/// How requests are authorized.
pub enum Authorization {
    None,
    /// The same for every request.
    Fixed(Credential),
    OAuth2(Box<OAuth2>),
}

impl Authorization {
    pub fn new(context: &Context, agent: Agent) -> Result<Authorization> {
        let Context { pipeline, secrets } = context;
        Ok(match &pipeline.api.auth {
            Auth::None => Authorization::None,
            Auth::Bearer { token_env } => {
                let token = secrets.need(token_env, "the API's token")?;
                check(&token, token_env, "the API's token")?;
                Authorization::Fixed(Credential::bearer(token.reveal()))
            }
            Auth::Basic { user_env, password_env } => {
                let user = secrets.need(user_env, "the API's user")?;
                let password = secrets.need(password_env, "the API's password")?;
                if user.reveal().contains(':') {
                    return Err(Error::usage("the API's user has a `:`, which ends it in an `Authorization` header")
                        .hint(format!("Mend the environment variable `{user_env}`, or `.env`.")));
                }
                let pair = BASE64.encode(format!("{}:{}", user.reveal(), password.reveal()));
                Secret::new(&pair).hide();
                Authorization::Fixed(Credential::new("Authorization", format!("Basic {pair}")))
            }
            Auth::Header { name, value_env } => {
                let what = format!("the value of `{name}`");
                let value = secrets.need(value_env, &what)?;
                check(&value, value_env, &what)?;
                Authorization::Fixed(Credential::new(name, value.reveal()))
            }
            Auth::OAuth2(settings) => Authorization::OAuth2(Box::new(OAuth2::new(context, agent, settings)?)),
        })
    }

    /// What the next attempt carries; a token is asked for if need be.
    pub fn credential(&self, asker: &Retry, waiting: &dyn Fn(&str)) -> Result<Option<Credential>> {
        match self {
            Authorization::None => Ok(None),
            Authorization::Fixed(credential) => Ok(Some(credential.clone())),
            Authorization::OAuth2(oauth2) => oauth2.credential(asker, waiting).map(Some),
        }
    }

    /// The API refused this credential: the next attempt, of any thread and process, uses another. Whether there can be
    /// another.
    pub fn refused(&self, credential: &Credential) -> Result<bool> {
        match self {
            Authorization::None | Authorization::Fixed(_) => Ok(false),
            Authorization::OAuth2(oauth2) => oauth2.refused(credential).map(|()| true),
        }
    }

    /// The OAuth2 token's keeper, if requests are authorized by one.
    pub fn oauth2(&self) -> Option<&OAuth2> {
        match self {
            Authorization::None | Authorization::Fixed(_) => None,
            Authorization::OAuth2(oauth2) => Some(oauth2),
        }
    }
}

fn check(secret: &Secret, variable: &str, what: &str) -> Result<()> {
    if fits_header(secret.reveal()) {
        return Ok(());
    }
    Err(Error::usage(format!("{what} has a character that cannot stand in a header"))
        .hint(format!("Mend the environment variable `{variable}`, or `.env`: ASCII, without blanks around it.")))
}
