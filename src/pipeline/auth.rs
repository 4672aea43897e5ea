//! How requests are authorized: what `api.auth` says.

/// The kinds of `api.auth`. None holds a secret: they name the environment variables that do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    None,
    /// `Authorization: Bearer` with the value of an environment variable.
    Bearer {
        token_env: String,
    },
    /// `Authorization: Basic` (RFC 7617).
    Basic {
        user_env: String,
        password_env: String,
    },
    /// A header of the API's own, such as `X-Api-Key`.
    Header {
        name: String,
        value_env: String,
    },
    /// A token that is asked for (RFC 6749).
    OAuth2(OAuth2),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuth2 {
    /// Where tokens are asked for, after the base URL.
    pub token_path: String,
    pub client_id_env: String,
    pub client_secret_env: String,
    pub grant: Grant,
}

/// What an OAuth2 token is given for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// The client id and secret (RFC 6749, section 4.4).
    ClientCredentials,
    /// A person's consent, once; then the refresh token that came with the last token (sections 4.1 and 6).
    RefreshToken {
        /// Where a browser asks for consent, after the base URL.
        authorize_path: String,
        redirect_uri: String,
        scope: String,
    },
}

impl Auth {
    /// As the file names it.
    pub fn kind(&self) -> &'static str {
        match self {
            Auth::None => "none",
            Auth::Bearer { .. } => "bearer",
            Auth::Basic { .. } => "basic",
            Auth::Header { .. } => "header",
            Auth::OAuth2(_) => "oauth2",
        }
    }

    /// The header that a request is authorized by, where it is not `Authorization`.
    pub fn header(&self) -> Option<&str> {
        match self {
            Auth::Header { name, .. } => Some(name),
            _ => None,
        }
    }

    /// The variable whose value nobody may see.
    pub fn secret_variable(&self) -> Option<&str> {
        match self {
            Auth::None => None,
            Auth::Bearer { token_env } => Some(token_env),
            Auth::Basic { password_env, .. } => Some(password_env),
            Auth::Header { value_env, .. } => Some(value_env),
            Auth::OAuth2(OAuth2 { client_secret_env, .. }) => Some(client_secret_env),
        }
    }

    /// All variables that it names.
    pub fn variables(&self) -> Vec<&str> {
        match self {
            Auth::None => Vec::new(),
            Auth::Bearer { token_env } => vec![token_env],
            Auth::Basic { user_env, password_env } => vec![user_env, password_env],
            Auth::Header { value_env, .. } => vec![value_env],
            Auth::OAuth2(OAuth2 { client_id_env, client_secret_env, .. }) => vec![client_id_env, client_secret_env],
        }
    }

    /// What decides which records the API shows: a user's token may see others than the application's.
    pub(super) fn definition(&self) -> String {
        match self {
            Auth::OAuth2(OAuth2 { grant: grant @ Grant::RefreshToken { .. }, .. }) => {
                format!("{} {}", self.kind(), grant.name())
            }
            _ => self.kind().to_string(),
        }
    }
}

impl Grant {
    /// As the file and RFC 6749 name it.
    pub fn name(&self) -> &'static str {
        match self {
            Grant::ClientCredentials => "client_credentials",
            Grant::RefreshToken { .. } => "refresh_token",
        }
    }
}
