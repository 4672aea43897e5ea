//! The scratch schema of a load test: it has a database's tables and ledger to itself, and is dropped whatever
//! becomes of its owner.
//!
//! While the owner lives, a session of its own holds the advisory lock of the schema's name. So anybody who can reach
//! the database can tell a schema in use from one that was left: a pid says nothing from another machine.

use std::hash::{BuildHasher, Hasher, RandomState};

use postgres::error::SqlState;
use postgres::{Client, Transaction};

use super::{failure, lock_key, quoted};
use crate::error::{Error, Result};

/// How the names of all scratch schemas begin.
pub const PREFIX: &str = "mirror42_loadtest_";

const COMMENT: &str = "Scratch of a mirror42 load test. It may be dropped when none is under way.";

/// A schema, for as long as this is held; [`remove`] drops it.
pub struct Scratch {
    session: Client,
    name: String,
}

/// A name that no other load test has: its process, and something random.
pub fn new_name() -> String {
    let random = RandomState::new().build_hasher().finish() as u32;
    format!("{PREFIX}{}_{random:08x}", std::process::id())
}

/// Whether [`new_name`] may have made it.
pub fn is_name(name: &str) -> bool {
    let parts = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_'));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let hex = |text: &str| text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    parts.is_some_and(|(pid, random)| digits(pid) && hex(random))
}

impl Scratch {
    /// Makes the schema; the session holds its lock.
    pub fn create(mut session: Client, name: &str) -> Result<Scratch> {
        let locked = session.execute("select pg_advisory_lock($1)", &[&lock(name)]);
        locked.map_err(|error| failure(&format!("could not lock the scratch schema `{name}`"), &error))?;
        let mut scratch = Scratch { session, name: name.to_string() };
        scratch.fill()?;
        Ok(scratch)
    }

    /// Puts an empty schema in the place of this one.
    pub fn renew(&mut self) -> Result<()> {
        remove(&mut self.session, &self.name)?;
        self.fill()
    }

    fn fill(&mut self) -> Result<()> {
        let name = quoted(&self.name);
        let statements = format!("create schema {name}; comment on schema {name} is '{COMMENT}'");
        self.session.batch_execute(&statements).map_err(|error| {
            let failed = failure(&format!("could not create the scratch schema `{}`", self.name), &error);
            match error.code() {
                Some(&SqlState::INSUFFICIENT_PRIVILEGE) => failed.hint(
                    "Allow it with `grant create on database … to …`, or name another database with `--database-url`.",
                ),
                _ => failed,
            }
        })
    }

    /// The server's, such as `15.14`.
    pub fn server_version(&mut self) -> Result<String> {
        let row = self.session.query_one("show server_version", &[]);
        let row = row.map_err(|error| failure("could not ask the server for its version", &error))?;
        // Distributions add words of their own.
        let version: String = row.get(0);
        Ok(version.split(' ').next().unwrap_or_default().to_string())
    }
}

/// Drops a schema, when its owner is gone or is the one who asks; that it is not there is well.
pub fn remove(client: &mut Client, name: &str) -> Result<()> {
    let failed = |error: postgres::Error| could_not_drop(name, &error);
    let mut tx = client.transaction().map_err(failed)?;
    tx.execute("select pg_advisory_xact_lock($1)", &[&lock(name)]).map_err(failed)?;
    drop_schema(&mut tx, name)?;
    tx.commit().map_err(failed)
}

/// Drops the schemas whose owners are gone. What cannot be dropped is logged.
pub fn sweep(client: &mut Client) -> Result<()> {
    let left = client.query(include_str!("../sql/scratch_schemas.sql"), &[]);
    let left = left.map_err(|error| failure("could not look for what earlier load tests left", &error))?;
    for row in left {
        let name: String = row.get(0);
        match remove_if_left(client, &name) {
            Ok(true) => log::info!("dropped schema `{name}`, which a killed load test had left"),
            Ok(false) => log::info!("left schema `{name}` alone: its load test is under way"),
            Err(error) => log::warn!("{}; a killed load test had left it", error.message()),
        }
    }
    Ok(())
}

fn remove_if_left(client: &mut Client, name: &str) -> Result<bool> {
    let failed = |error: postgres::Error| could_not_drop(name, &error);
    let mut tx = client.transaction().map_err(failed)?;
    let row = tx.query_one("select pg_try_advisory_xact_lock($1)", &[&lock(name)]).map_err(failed)?;
    if !row.get::<_, bool>(0) {
        return Ok(false);
    }
    drop_schema(&mut tx, name)?;
    tx.commit().map_err(failed)?;
    Ok(true)
}

fn drop_schema(tx: &mut Transaction, name: &str) -> Result<()> {
    let dropped = tx.batch_execute(&format!("drop schema if exists {} cascade", quoted(name)));
    dropped.map_err(|error| could_not_drop(name, &error))
}

fn could_not_drop(name: &str, error: &postgres::Error) -> Error {
    failure(&format!("could not drop the scratch schema `{name}`"), error)
}

fn lock(name: &str) -> i64 {
    lock_key(&format!("scratch {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_others() {
        let (one, other) = (new_name(), new_name());
        assert!(is_name(&one) && is_name(&other) && one != other);
        for name in
            ["public", "mirror42", "mirror42_loadtest_", "mirror42_loadtest_1_abc", "mirror42_loadtest__12345678"]
        {
            assert!(!is_name(name), "{name}");
        }
    }
}
