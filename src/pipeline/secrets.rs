//! Secrets come from the environment, or from a `.env` beside the pipeline that only its owner can read.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::secret::Secret;

/// The variables of `.env`, under those of the environment.
#[derive(Debug, Default)]
pub struct Secrets {
    dotenv: HashMap<String, Secret>,
}

impl Secrets {
    /// Reads `dotenv` if it is there. A file that others can read is refused: it holds passwords.
    pub fn load(dotenv: &Path) -> Result<Secrets> {
        let mode = match std::fs::metadata(dotenv) {
            Ok(metadata) => metadata.permissions().mode(),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Secrets::default()),
            Err(cause) => return Err(Error::io("read", dotenv, &cause)),
        };
        if mode & 0o077 != 0 {
            return Err(Error::usage(format!(
                "`{}` holds secrets and others can read it (mode {:04o})",
                dotenv.display(),
                mode & 0o7777
            ))
            .hint(format!("Run `chmod 600 {}`.", dotenv.display())));
        }
        let wrong = |error: &dotenvy::Error| {
            let error = match error {
                dotenvy::Error::Io(cause) => return Error::io("read", dotenv, cause),
                // The parser's own message repeats the line, and the line holds the secret.
                dotenvy::Error::LineParse(_, column) => format!("a line is not `NAME=value` (at its byte {column})"),
                _ => "it is not lines of `NAME=value`".to_string(),
            };
            Error::usage(format!("cannot understand `{}`: {error}", dotenv.display()))
        };
        let mut variables = HashMap::new();
        for item in dotenvy::from_path_iter(dotenv).map_err(|error| wrong(&error))? {
            let (name, value) = item.map_err(|error| wrong(&error))?;
            variables.insert(name, Secret::new(value));
        }
        Ok(Secrets { dotenv: variables })
    }

    /// The value of the variable, unless it is absent or empty.
    pub fn get(&self, name: &str) -> Option<Secret> {
        let environment = std::env::var(name).ok().map(Secret::new);
        environment.or_else(|| self.dotenv.get(name).cloned()).filter(|secret| !secret.reveal().is_empty())
    }

    /// The variables of `.env`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.dotenv.keys().map(String::as_str)
    }

    /// Whether `.env` has the variable: cron sees no other.
    pub fn in_file(&self, name: &str) -> bool {
        self.dotenv.get(name).is_some_and(|secret| !secret.reveal().is_empty())
    }

    /// The value of the variable, or a usage error that says where to put it.
    pub fn need(&self, name: &str, what: &str) -> Result<Secret> {
        self.get(name).ok_or_else(|| {
            Error::usage(format!("{what} is not set")).hint(format!(
                "Put it into the environment variable `{name}`, or into a file `.env` beside the pipeline (mode 0600)."
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dotenv(text: &str, mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(".env");
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        (folder, file)
    }

    #[test]
    fn a_private_file_is_read() {
        let (_folder, file) = dotenv("M42_TEST_A=one\nM42_TEST_EMPTY=\n", 0o600);
        let secrets = Secrets::load(&file).unwrap();
        assert_eq!(secrets.get("M42_TEST_A").unwrap().reveal(), "one");
        assert!(secrets.get("M42_TEST_EMPTY").is_none());
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let (_folder, file) = dotenv("A=1", 0o644);
        let error = Secrets::load(&file).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Usage);
        assert!(error.message().ends_with("holds secrets and others can read it (mode 0644)"), "{error}");
    }

    #[test]
    fn a_broken_line_is_told_without_its_text() {
        let (_folder, file) = dotenv("SECRET='hush hush\n", 0o600);
        let error = Secrets::load(&file).unwrap_err().to_string();
        assert!(!error.contains("hush"), "{error}");
    }
}
