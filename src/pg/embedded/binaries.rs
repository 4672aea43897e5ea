//! Finding the server's programs on this machine.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};

const OLDEST: u32 = 14;

/// A folder that holds `initdb`, `pg_ctl` and `postgres` of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    pub folder: PathBuf,
    pub major: u32,
}

impl Binaries {
    /// The programs of the version `major`, which made a cluster; without one, the first that are new enough.
    pub fn find(major: Option<u32>) -> Result<Binaries> {
        let mut found: Vec<Binaries> = Vec::new();
        for folder in candidates() {
            let Some(binaries) = Binaries::at(&folder) else { continue };
            let fits = major.map_or(binaries.major >= OLDEST, |major| binaries.major == major);
            if fits {
                return Ok(binaries);
            }
            found.push(binaries);
        }
        Err(missing(major, &found))
    }

    fn at(folder: &Path) -> Option<Binaries> {
        // A link from /usr/local/bin to one program is not a folder of them all: follow it.
        let postgres = fs::canonicalize(folder.join("postgres")).ok()?;
        let folder = postgres.parent()?.to_path_buf();
        if !folder.join("initdb").exists() || !folder.join("pg_ctl").exists() {
            return None;
        }
        let output = Command::new(&postgres).arg("--version").output().ok()?;
        let major = major_of(&String::from_utf8_lossy(&output.stdout))?;
        Some(Binaries { folder, major })
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// `postgres (PostgreSQL) 15.18 (Debian …)`, `16beta1`
fn major_of(version: &str) -> Option<u32> {
    let number = version.split_once(") ")?.1;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn candidates() -> impl Iterator<Item = PathBuf> {
    let path: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    // Lazily: pg_config is a process.
    path.into_iter()
        .chain(std::iter::once_with(from_pg_config).flatten())
        .chain(std::iter::once_with(well_known).flatten())
}

fn from_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(folder.trim()))
}

/// Debian, Red Hat, Homebrew on both kinds of Mac, Postgres.app; the newest version of each first.
fn well_known() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for (parent, prefix) in [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
        ("/Applications/Postgres.app/Contents/Versions", ""),
    ] {
        let Ok(entries) = fs::read_dir(parent) else { continue };
        let mut versions: Vec<(u32, PathBuf)> = entries
            .filter_map(|entry| entry.ok())
            .filter_map(|entry| Some((version_of(&entry.file_name(), prefix)?, entry.path().join("bin"))))
            .collect();
        versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
        folders.extend(versions.into_iter().map(|(_, folder)| folder));
    }
    folders.extend(["/opt/homebrew/bin", "/usr/local/pgsql/bin"].map(PathBuf::from));
    folders
}

fn version_of(name: &OsStr, prefix: &str) -> Option<u32> {
    name.to_str()?.strip_prefix(prefix)?.parse().ok()
}

fn missing(major: Option<u32>, found: &[Binaries]) -> Error {
    let error = match major {
        Some(major) => Error::failed(format!(
            "the embedded cluster was made by Postgres {major}, whose programs are not on this machine"
        )),
        None => Error::failed(format!("no Postgres server of version {OLDEST} or later is on this machine")),
    };
    let error = found.iter().fold(error, |error, other| {
        error.detail(format!("Found Postgres {} in `{}`.", other.major, other.folder.display()))
    });
    match major {
        Some(major) => error.hint(format!(
            "Install `postgresql-{major}`, or remove `data/postgres`: the next run makes a new one from the exports."
        )),
        None => error.hint(
            "Install one (`apt-get install postgresql`, `dnf install postgresql-server`, `brew install postgresql@17`), \
             or set `DATABASE_URL`.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_the_program_says() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major_of("something else"), None);
    }

    #[test]
    fn folders_are_told_by_their_version() {
        assert_eq!(version_of(OsStr::new("pgsql-16"), "pgsql-"), Some(16));
        assert_eq!(version_of(OsStr::new("share"), "pgsql-"), None);
    }

    #[test]
    fn a_missing_server_names_the_package() {
        assert_eq!(
            missing(None, &[Binaries { folder: "/opt/pg".into(), major: 12 }]).to_string(),
            "no Postgres server of version 14 or later is on this machine\n  \
             detail: Found Postgres 12 in `/opt/pg`.\n  \
             hint: Install one (`apt-get install postgresql`, `dnf install postgresql-server`, \
             `brew install postgresql@17`), or set `DATABASE_URL`."
        );
        assert!(missing(Some(15), &[]).to_string().contains("Install `postgresql-15`, or remove `data/postgres`"));
    }
}
