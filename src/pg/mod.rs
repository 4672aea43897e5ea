//! What load, validate and the driver share of Postgres: connecting, the embedded server, the catalog,
//! and the ledger of loads.
//!
//! `postgres::Error` never reaches a reader as it is: its text hides the cause ("db error"). It crosses
//! the one bridge, [`failure`].

mod address;
pub mod audit;
pub mod catalog;
pub mod checks;
pub mod embedded;
pub mod health;
pub mod ledger;
pub mod scratch;
pub mod script;
pub mod shape;
mod tls;

use std::time::Duration;

use postgres::config::{Host, SslMode};
use postgres::error::{DbError, SqlState};
use postgres::{Client, NoTls, SimpleQueryMessage};

use crate::error::{Error, Result, excerpt, lower_first};
use crate::files;
use crate::paths::Paths;
use crate::pipeline::Secret;

use address::{Address, Mode};

// Long enough for a server that is busy, short enough to be told the same minute.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A session on the database at `url`; without one, on the embedded server, started if need be.
/// `step` (`load`, `validate` …) is how the session is called in `pg_stat_activity`.
pub fn connect(paths: &Paths, url: Option<&Secret>, step: &str) -> Result<Client> {
    let mut client = match url {
        Some(url) => {
            let mut address = Address::of(url)?;
            address.config.application_name(&format!("mirror42-{step}"));
            open(&address)?
        }
        None => embedded::connect(paths, step)?,
    };
    client
        .batch_execute(include_str!("../sql/session.sql"))
        .map_err(|error| failure("could not prepare the session", &error))?;
    Ok(client)
}

/// As [`connect`], but makes no embedded server: none if there is none yet.
pub fn connect_if_there(paths: &Paths, url: Option<&Secret>, step: &str) -> Result<Option<Client>> {
    if url.is_none() && matches!(embedded::status(paths)?, embedded::Status::Absent) {
        return Ok(None);
    }
    connect(paths, url, step).map(Some)
}

/// The variables by which libpq's programs find the database that `url` means. A command line can be
/// read by every user of the machine, the environment cannot.
pub fn libpq_environment(url: &Secret) -> Result<Vec<(&'static str, String)>> {
    Ok(Address::of(url)?.libpq_environment())
}

/// Connects, or says to whom it could not.
fn open(address: &Address) -> Result<Client> {
    let connected = match tls::connector(&address.tls)? {
        Some(connector) => address.config.connect(connector),
        None => address.config.connect(NoTls),
    };
    connected.or_else(|error| without_tls(address, &error).ok_or_else(|| not_open(address, &error)))
}

/// With `prefer`, libpq tries once more, without TLS, where a server cannot do it well or wants none of this client.
fn without_tls(address: &Address, error: &postgres::Error) -> Option<Client> {
    let refused = error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
    if address.tls.mode != Mode::Prefer || !(refused || tls::handshake_error(error).is_some()) {
        return None;
    }
    // What is told is why it failed with TLS.
    address.config.clone().ssl_mode(SslMode::Disable).connect(NoTls).ok()
}

fn not_open(address: &Address, error: &postgres::Error) -> Error {
    let doing = format!("could not connect to {}", address.described());
    if let Some(failed) = tls::failure(&doing, error, address) {
        return failed;
    }
    let failed = failure(&doing, error);
    let is_socket = matches!(address.config.get_hosts(), [Host::Unix(_)]);
    match error.code() {
        // A line `hostssl` in pg_hba.conf looks like a missing user.
        Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) if address.tls.mode == Mode::Disable && !is_socket => {
            failed.hint("If the server wants TLS, take `sslmode=disable` out of `DATABASE_URL`; else check the user.")
        }
        Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => {
            failed.hint("Check the user in `DATABASE_URL`, and what the server's pg_hba.conf asks of it.")
        }
        Some(&SqlState::INVALID_PASSWORD) => failed.hint("Check user and password in `DATABASE_URL`."),
        Some(_) => failed,
        None => failed.hint("Check that the server runs and that `DATABASE_URL` names it."),
    }
}

/// The bridge for `postgres::Error`: `doing` is the first half of the primary line ("could not …").
pub fn failure(doing: &str, error: &postgres::Error) -> Error {
    match error.as_db_error() {
        Some(db) => refusal(doing, db, db.where_()),
        None => Error::failed(format!("{doing}: {}", cause_text(error))),
    }
}

/// What the server has refused to do, and within what.
fn refusal(doing: &str, db: &DbError, within: Option<&str>) -> Error {
    let message = format!("{doing}: {}", db.message());
    let mut failed = match *db.code() {
        SqlState::T_R_DEADLOCK_DETECTED | SqlState::T_R_SERIALIZATION_FAILURE => Error::conflict(message),
        SqlState::UNIQUE_VIOLATION | SqlState::EXCLUSION_VIOLATION => Error::taken(message),
        _ => Error::failed(message),
    };
    if let Some(detail) = db.detail() {
        failed = failed.detail(detail);
    }
    if let Some(place) = within {
        failed = failed.detail(format!("Within: {}.", excerpt(place, 300)));
    }
    failed = failed.detail(format!("Postgres calls this {}.", db.code().code()));
    match (db.hint(), db.code()) {
        (Some(hint), _) => failed.hint(hint),
        (None, &SqlState::LOCK_NOT_AVAILABLE) => {
            failed.hint("Another session holds the table: `select * from pg_locks where not granted` shows who waits.")
        }
        (None, _) => failed,
    }
}

/// What stands behind the error: its own text says only in which phase it happened.
fn cause_text(error: &postgres::Error) -> String {
    if error.is_closed() {
        return "the server closed the connection".to_string();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    lower_first(&cause.to_string())
}

/// The advisory lock of that name, as every process of ours calls it.
pub fn lock_key(name: &str) -> i64 {
    let hash = files::sha256_of(format!("mirror42 {name}").as_bytes());
    // 60 bits always are a number.
    i64::from_str_radix(&hash[..15], 16).unwrap_or_default()
}

/// `name` as SQL takes it literally.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Names as SQL takes them, each with `prefix` before it, separated by commas.
pub fn quoted_list(prefix: &str, names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("{prefix}{}", quoted(name))).collect();
    names.join(", ")
}

/// `left.a = right.x and left.b = right.y`
pub fn join_condition(left: &str, left_columns: &[String], right: &str, right_columns: &[String]) -> String {
    let pairs = left_columns.iter().zip(right_columns);
    let pairs: Vec<String> = pairs.map(|(l, r)| format!("{left}.{} = {right}.{}", quoted(l), quoted(r))).collect();
    pairs.join(" and ")
}

/// The rows of a query as people read them, `id 7, name x`: at most `max`, and whether there are more.
pub fn sample(
    client: &mut impl postgres::GenericClient,
    query: &str,
    max: usize,
) -> Result<(Vec<String>, bool), postgres::Error> {
    // A line of its own for the bracket: the query may end in a comment.
    let query = query.trim_end().trim_end_matches(';');
    let messages = client.simple_query(&format!("select * from (\n{query}\n) as sample limit {}", max + 1))?;
    let mut rows: Vec<String> = messages.iter().filter_map(shown_row).collect();
    let more = rows.len() > max;
    rows.truncate(max);
    Ok((rows, more))
}

fn shown_row(message: &SimpleQueryMessage) -> Option<String> {
    let SimpleQueryMessage::Row(row) = message else { return None };
    let members = row.columns().iter().enumerate().map(|(i, column)| {
        let value = row.get(i).map_or_else(|| "null".to_string(), |text| excerpt(text, 60));
        format!("{} {value}", column.name())
    });
    Some(members.collect::<Vec<_>>().join(", "))
}

/// `a; b; …` of a [`sample`].
pub fn shown_sample((rows, more): &(Vec<String>, bool)) -> String {
    let rest = if *more { "; …" } else { "" };
    format!("{}{rest}", rows.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_whatever_is_in_them() {
        assert_eq!(quoted_list("t.", &["id".into(), "a\"b".into()]), "t.\"id\", t.\"a\"\"b\"");
    }
}
