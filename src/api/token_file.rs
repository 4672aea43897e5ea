//! `.mirror42/token.json`: the tokens of this project, for its owner only, and the lock that all processes share.
//!
//! A refresh token replaces itself, and without it a person has to log in again. So there is a place in
//! the file for each API, application and grant, that another pipeline or a trial against another
//! address does not take; a file that cannot be understood is not written over; the new file is made,
//! with room on the disk, before the server is asked; and it counts from the moment that it is written,
//! even if the process is killed before it is in its place.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::credential::Credential;
use crate::error::{Error, Result};
use crate::files::{Lock, ReservedFile, read_if_there, recover};
use crate::paths::Paths;
use crate::secret::Secret;

// An answer of some hundred bytes takes the place of another; some servers' tokens are of several thousand.
const ROOM_BYTES: usize = 1 << 16;

/// Which token it is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Where it was asked for.
    pub url: String,
    pub client_id: String,
    /// `client_credentials` or `refresh_token`.
    pub grant: String,
}

/// A token, as the server gave it and as we know it since.
#[derive(Clone, Serialize, Deserialize)]
pub struct Token {
    #[serde(flatten)]
    pub owner: Owner,
    pub access_token: String,
    /// Asks for the next one, once.
    pub refresh_token: Option<String>,
    /// Unix time, seconds, by our own clock: the server's may differ.
    pub expires_at_s: u64,
    /// When the server was last asked for it.
    pub asked_at_s: u64,
    /// Of the client secret that it was asked for with.
    pub secret_sha256: String,
    pub secret_valid_until: Option<serde_json::Value>,
    /// When somebody was last told that the secret ends soon; Unix time, seconds.
    pub secret_told_at_s: Option<u64>,
    /// The API refused it, whatever its age.
    pub refused: bool,
}

pub struct TokenFile(PathBuf);

/// The file, while no other process writes it or asks for a token.
pub struct Locked<'a> {
    file: &'a TokenFile,
    #[expect(dead_code, reason = "held for its end")]
    lock: Lock,
}

/// Room for a token beside those of others.
pub struct Place {
    file: ReservedFile,
    others: Vec<Token>,
}

#[derive(Deserialize)]
struct Content {
    // Absent where an earlier version wrote the file, whose tokens can be asked for again.
    #[serde(default)]
    tokens: Vec<Token>,
}

impl TokenFile {
    pub fn new(paths: &Paths) -> TokenFile {
        TokenFile(paths.token())
    }

    /// Waits for the lock. What a killed process was answered counts, if it had come to write it.
    pub fn lock(&self) -> Result<Locked<'_>> {
        let lock = Lock::wait(&self.0.with_extension("lock"))?;
        recover(&self.0, |bytes| serde_json::from_slice::<Content>(bytes).is_ok())?;
        Ok(Locked { file: self, lock })
    }

    pub fn get(&self, owner: &Owner) -> Result<Option<Token>> {
        let token = self.all()?.into_iter().find(|token| token.owner == *owner);
        Ok(token.inspect(Token::hide))
    }

    fn all(&self) -> Result<Vec<Token>> {
        let Some(bytes) = read_if_there(&self.0)? else { return Ok(Vec::new()) };
        let content = serde_json::from_slice::<Content>(&bytes);
        // The parser's message could repeat a token.
        content.map(|content| content.tokens).map_err(|_| {
            Error::failed(format!("cannot understand `{}`", self.0.display()))
                .detail("It is not written over, since it may hold a refresh token.")
                .hint("Delete it. Where `api.auth` has `grant = \"refresh_token\"`, run `mirror42-token login` then.")
        })
    }
}

impl Locked<'_> {
    pub fn get(&self, owner: &Owner) -> Result<Option<Token>> {
        self.file.get(owner)
    }

    /// Makes sure that a token of `owner` can be written, before there is one to lose. Tokens of others that are over, and
    /// that nothing can be made of, go.
    pub fn reserve(&self, owner: &Owner, now_s: u64) -> Result<Place> {
        let useful = |token: &Token| token.refresh_token.is_some() || token.expires_at_s > now_s;
        let mut others = self.file.all()?;
        others.retain(|other| other.owner != *owner && useful(other));
        let length_bytes = json(&others)?.len();
        Ok(Place { file: ReservedFile::create(&self.file.0, length_bytes + ROOM_BYTES)?, others })
    }

    /// Writes the token into its place.
    pub fn put(&self, place: Place, token: &Token) -> Result<()> {
        let Place { file, others: mut tokens } = place;
        tokens.push(token.clone());
        file.commit(&json(&tokens)?)
    }
}

fn json(tokens: &[Token]) -> Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Content<'a> {
        tokens: &'a [Token],
    }
    serde_json::to_vec(&Content { tokens }).map_err(|cause| Error::failed(format!("cannot write the tokens: {cause}")))
}

impl Token {
    /// What a request carries to be let in.
    pub fn credential(&self) -> Credential {
        Credential::bearer(&self.access_token)
    }

    fn hide(&self) {
        for text in [Some(&self.access_token), self.refresh_token.as_ref()].into_iter().flatten() {
            Secret::new(text).hide();
        }
    }
}
