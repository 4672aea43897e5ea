//! What load, validate and the driver share of Postgres: connecting, the embedded server, the catalog,
//! and the ledger of loads (schema `mirror42`).
//!
//! `postgres::Error` never reaches a reader as it is: its text hides the cause ("db error"). It crosses
//! the one bridge, [`failure`].

pub mod catalog;
pub mod checks;
pub mod embedded;
pub mod ledger;

use std::path::Path;
use std::time::Duration;

use nix::unistd::{User, geteuid};
use postgres::config::{Host, SslMode};
use postgres::error::SqlState;
use postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::error::{Error, Result, excerpt, lower_first};
use crate::paths::Paths;
use crate::pipeline::Secret;

// Long enough for a server that is busy, short enough to be told the same minute.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A session on the database at `url`; without one, on the embedded server, started if need be.
/// `step` (`load`, `validate` …) is how the session is called in `pg_stat_activity`.
pub fn connect(paths: &Paths, url: Option<&Secret>, step: &str) -> Result<Client> {
    let mut client = match url {
        Some(url) => {
            let mut config = config_of(url)?;
            open(config.application_name(&format!("mirror42-{step}")))?
        }
        None => embedded::connect(paths, step)?,
    };
    client
        .batch_execute(include_str!("../sql/session.sql"))
        .map_err(|error| failure("could not prepare the session", &error))?;
    Ok(client)
}

/// The settings that `url` means, a URL or `key=value` pairs, with libpq's defaults where it is silent.
fn config_of(url: &Secret) -> Result<Config> {
    let mut config: Config = url.reveal().parse().map_err(|error: postgres::Error| {
        // The parser names the option it stumbled on, never its value.
        Error::usage(format!("cannot understand the address of the database: {}", cause_text(&error)))
            .hint("Write `postgresql://user@host/database`, or `host=… dbname=… user=…`.")
    })?;
    if config.get_ssl_mode() == SslMode::Require {
        return Err(Error::usage("cannot connect with `sslmode=require`: this version speaks no TLS")
            .hint("Use a Unix socket or a tunnel with `sslmode=disable`."));
    }
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        let folder = ["/var/run/postgresql", "/tmp"].iter().map(Path::new).find(|folder| folder.is_dir());
        match folder {
            Some(folder) => config.host_path(folder),
            None => config.host("localhost"),
        };
    }
    if config.get_user().is_none()
        && let Ok(Some(user)) = User::from_uid(geteuid())
    {
        config.user(&user.name);
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    Ok(config)
}

/// The variables by which libpq's programs find the database that `url` means. A command line can be
/// read by every user of the machine, the environment cannot.
pub fn libpq_environment(url: &Secret) -> Result<Vec<(&'static str, String)>> {
    let config = config_of(url)?;
    let text = |text: Option<&str>| text.map(str::to_string);
    let host = config.get_hosts().first().map(|host| match host {
        Host::Tcp(host) => host.clone(),
        Host::Unix(folder) => folder.display().to_string(),
    });
    let variables = [
        ("PGHOST", host),
        ("PGHOSTADDR", config.get_hostaddrs().first().map(ToString::to_string)),
        ("PGPORT", config.get_ports().first().map(ToString::to_string)),
        ("PGUSER", text(config.get_user())),
        ("PGPASSWORD", config.get_password().map(|password| String::from_utf8_lossy(password).into_owned())),
        ("PGDATABASE", text(config.get_dbname())),
        ("PGOPTIONS", text(config.get_options())),
    ];
    Ok(variables.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
}

/// Connects, or says to whom it could not.
fn open(config: &Config) -> Result<Client> {
    config.connect(NoTls).map_err(|error| {
        let failed = failure(&format!("could not connect to {}", described(config)), &error);
        match error.code() {
            Some(&SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => {
                failed.hint("Check user and password in `DATABASE_URL`.")
            }
            Some(_) => failed,
            None => failed.hint("Check that the server runs and that `DATABASE_URL` names it."),
        }
    })
}

/// The database as messages name it: everything but the password.
fn described(config: &Config) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        Some(Host::Unix(folder)) => folder.display().to_string(),
        None => config.get_hostaddrs().first().map(ToString::to_string).unwrap_or_default(),
    };
    let port = config.get_ports().first().map(|port| format!(":{port}")).unwrap_or_default();
    let user = config.get_user().unwrap_or("?");
    format!("database `{}` on `{host}{port}` as `{user}`", config.get_dbname().unwrap_or(user))
}

/// The bridge for `postgres::Error`: `doing` is the first half of the primary line ("could not …").
pub fn failure(doing: &str, error: &postgres::Error) -> Error {
    let Some(db) = error.as_db_error() else {
        return Error::failed(format!("{doing}: {}", cause_text(error)));
    };
    let message = format!("{doing}: {}", db.message());
    let mut failed = match *db.code() {
        SqlState::T_R_DEADLOCK_DETECTED | SqlState::T_R_SERIALIZATION_FAILURE => Error::conflict(message),
        _ => Error::failed(message),
    };
    if let Some(detail) = db.detail() {
        failed = failed.detail(detail);
    }
    if let Some(place) = db.where_() {
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

    #[test]
    fn the_address_is_told_without_its_password() {
        let config = config_of(&Secret::new("postgresql://me:hush@db.example:5433/mirror")).unwrap();
        assert_eq!(described(&config), "database `mirror` on `db.example:5433` as `me`");
        let config = config_of(&Secret::new("host=/run/pg dbname=m user=u password=hush")).unwrap();
        assert_eq!(described(&config), "database `m` on `/run/pg` as `u`");
    }

    #[test]
    fn an_address_that_cannot_be_understood_is_told_without_its_password() {
        let error = config_of(&Secret::new("postgresql://me:hush@h/d?sslrootcert=x")).unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot understand the address of the database: unknown option `sslrootcert`\n  \
             hint: Write `postgresql://user@host/database`, or `host=… dbname=… user=…`."
        );
    }

    #[test]
    fn tls_is_refused_clearly() {
        let error = config_of(&Secret::new("host=h sslmode=require")).unwrap_err();
        assert_eq!(error.message(), "cannot connect with `sslmode=require`: this version speaks no TLS");
    }
}
