//! The address of a database: a URL or `key=value` pairs, as libpq reads them.
//!
//! The `postgres` crate reads all of it but the words of TLS: of `sslmode` it knows half the values, of
//! certificates nothing. So those are taken out first, and mean here what they mean to libpq; where libpq would
//! let a mistake pass that costs the protection, the address is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};
use percent_encoding::percent_decode_str;
use postgres::Config;
use postgres::config::{ChannelBinding, Host, SslMode};

use super::CONNECT_TIMEOUT;
use crate::error::{Error, Result, lower_first};
use crate::pipeline::Secret;

/// Where a database is, and how it is spoken to.
pub struct Address {
    pub config: Config,
    pub tls: Tls,
}

/// What the words of TLS ask for.
#[derive(Debug, PartialEq, Eq)]
pub struct Tls {
    pub mode: Mode,
    /// Who may have signed the server's certificate; always there where `mode` verifies.
    pub roots: Option<Roots>,
    /// Files of the certificate that we show, and of its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// `sslmode`, from nothing to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    Disable,
    /// TLS if the server offers it.
    Prefer,
    /// TLS with whoever answers.
    Require,
    /// TLS with a server whose certificate has a trusted signature.
    VerifyCa,
    /// And which has the name that was asked for.
    VerifyFull,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// What this system trusts.
    System,
    /// The certificates in this file, relative to the working directory, as everywhere with such addresses.
    File(PathBuf),
}

const MODES: [(&str, Mode); 5] = [
    ("disable", Mode::Disable),
    ("prefer", Mode::Prefer),
    ("require", Mode::Require),
    ("verify-ca", Mode::VerifyCa),
    ("verify-full", Mode::VerifyFull),
];

impl Mode {
    fn name(self) -> &'static str {
        MODES.iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }
}

impl Address {
    /// What `url` means, with libpq's defaults where it is silent.
    pub fn of(url: &Secret) -> Result<Address> {
        let (rest, words) = without_words(url.reveal());
        let mut config: Config = rest.parse().map_err(|error: postgres::Error| {
            // The parser names the option it stumbled on, never its value.
            let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Error::usage(format!("cannot understand the address of the database: {}", lower_first(&cause)))
                .hint("Write `postgresql://user@host/database`, or `host=… dbname=… user=…`.")
        })?;
        let mut tls = Tls::of(&words)?;
        set_defaults(&mut config);
        if config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_))) {
            tls.mode = Mode::Disable; // a socket has no TLS, whatever is asked for: libpq's rule
        }
        config.ssl_mode(match tls.mode {
            Mode::Disable => SslMode::Disable,
            Mode::Prefer => SslMode::Prefer,
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
        });
        Ok(Address { config, tls })
    }

    /// The database as messages name it: everything but the password.
    pub fn described(&self) -> String {
        let config = &self.config;
        let port = config.get_ports().first().map(|port| format!(":{port}")).unwrap_or_default();
        let user = config.get_user().unwrap_or("?");
        let database = config.get_dbname().unwrap_or(user);
        format!("database `{database}` on `{}{port}` as `{user}`", self.host())
    }

    /// The first, where there are several.
    pub fn host(&self) -> String {
        match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            Some(Host::Unix(folder)) => folder.display().to_string(),
            None => String::new(),
        }
    }

    /// The variables by which libpq's programs find this database.
    pub fn libpq_environment(&self) -> Vec<(&'static str, String)> {
        let Address { config, tls } = self;
        let text = |text: Option<&str>| text.map(str::to_string);
        let file = |path: &Path| path.display().to_string();
        let roots = tls.roots.as_ref().map(|roots| match roots {
            Roots::System => "system".to_string(),
            Roots::File(path) => file(path),
        });
        let binding = match config.get_channel_binding() {
            ChannelBinding::Disable => Some("disable"),
            ChannelBinding::Require => Some("require"),
            _ => None,
        };
        let variables = [
            ("PGHOST", Some(self.host())),
            ("PGHOSTADDR", config.get_hostaddrs().first().map(ToString::to_string)),
            ("PGPORT", config.get_ports().first().map(ToString::to_string)),
            ("PGUSER", text(config.get_user())),
            ("PGPASSWORD", config.get_password().map(|password| String::from_utf8_lossy(password).into_owned())),
            ("PGDATABASE", text(config.get_dbname())),
            ("PGOPTIONS", text(config.get_options())),
            ("PGSSLMODE", text(Some(tls.mode.name()))),
            ("PGSSLROOTCERT", roots),
            ("PGSSLCERT", tls.identity.as_ref().map(|(certificate, _)| file(certificate))),
            ("PGSSLKEY", tls.identity.as_ref().map(|(_, key)| file(key))),
            ("PGCHANNELBINDING", text(binding)),
        ];
        variables.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

fn set_defaults(config: &mut Config) {
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        let folder = ["/var/run/postgresql", "/tmp"].iter().map(Path::new).find(|folder| folder.is_dir());
        match folder {
            Some(folder) => config.host_path(folder),
            None => config.host("localhost"),
        };
    }
    if config.get_hosts().is_empty() {
        // A certificate may be for an address; the crate wants a name for every handshake.
        let addresses: Vec<String> = config.get_hostaddrs().iter().map(ToString::to_string).collect();
        for address in addresses {
            config.host(&address);
        }
    }
    if config.get_user().is_none()
        && let Ok(Some(user)) = User::from_uid(geteuid())
    {
        config.user(&user.name);
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
}

impl Tls {
    fn of(words: &Words) -> Result<Tls> {
        let path = |word| words.get(word).map(PathBuf::from);
        let roots = match words.get("sslrootcert") {
            Some(value) if value == "system" => Some(Roots::System),
            Some(value) => Some(Roots::File(value.into())),
            None => None,
        };
        let mode = match words.get("sslmode") {
            Some(value) => Some(mode_of(value)?),
            None => None,
        };
        let (mode, roots) = verification(mode, roots)?;
        let identity = match (path("sslcert"), path("sslkey")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (certificate, _) => {
                let (there, missing) =
                    if certificate.is_some() { ("sslcert", "sslkey") } else { ("sslkey", "sslcert") };
                return Err(Error::usage(format!("the address of the database has `{there}` but no `{missing}`"))
                    .hint("Give both files, or none."));
            }
        };
        Ok(Tls { mode, roots, identity })
    }
}

fn mode_of(value: &str) -> Result<Mode> {
    let known = MODES.iter().find(|(name, _)| *name == value);
    known.map(|(_, mode)| *mode).ok_or_else(|| {
        // Not the value: in an address that is quoted wrongly, it may be anything.
        Error::usage("cannot understand the address of the database: invalid value for option `sslmode`")
            .hint("Write `disable`, `prefer`, `require`, `verify-ca` or `verify-full`.")
    })
}

/// How strictly, and by whose signatures.
fn verification(mode: Option<Mode>, roots: Option<Roots>) -> Result<(Mode, Option<Roots>)> {
    use Mode::*;
    match (mode, roots) {
        (Some(VerifyCa), None) => Err(Error::usage("`sslmode=verify-ca` needs `sslrootcert=FILE`")
            .hint("Name the file of the certificate that signs the server's, or write `sslmode=verify-full`.")),
        (Some(VerifyFull), None) | (None, Some(Roots::System)) => Ok((VerifyFull, Some(Roots::System))),
        // Everybody can have a certificate that the system trusts: it is the name that tells.
        (Some(mode @ (Prefer | Require | VerifyCa)), Some(Roots::System)) => Err(Error::usage(format!(
            "`sslrootcert=system` does not go with `sslmode={}`, which does not look at the name of the server",
            mode.name()
        ))
        .hint("Write `sslmode=verify-full`.")),
        (None | Some(Prefer), Some(Roots::File(_))) => Err(Error::usage(
            "`sslrootcert` without an `sslmode` that verifies: a server without TLS would be accepted",
        )
        .hint("Add `sslmode=verify-full`, or `sslmode=verify-ca` where the certificate has another name.")),
        (Some(Require), roots @ Some(_)) => Ok((VerifyCa, roots)), // libpq's habit
        (mode, roots) => Ok((mode.unwrap_or(Prefer), roots)),
    }
}

/// The words of TLS that an address has, with their values. Of one that is said twice the last counts.
type Words = BTreeMap<&'static str, String>;

const WORDS: [&str; 4] = ["sslmode", "sslrootcert", "sslcert", "sslkey"];

/// Takes the words of TLS out of an address. What cannot be understood stays, for the parser to refuse.
fn without_words(address: &str) -> (String, Words) {
    let is_url = ["postgresql://", "postgres://"].iter().any(|scheme| address.starts_with(scheme));
    if is_url { without_words_of_url(address) } else { without_words_of_pairs(address) }
}

/// Notes the word; false: it is none of ours. An empty value is none.
fn note(words: &mut Words, name: &str, value: &str) -> bool {
    let Some(word) = WORDS.into_iter().find(|word| *word == name) else { return false };
    match value {
        "" => words.remove(word),
        value => words.insert(word, value.to_string()),
    };
    true
}

fn without_words_of_url(url: &str) -> (String, Words) {
    let mut words = Words::new();
    // After the `@`: a password may hold a `?` that nobody has escaped.
    let host = url.find('@').unwrap_or(0);
    let Some(query) = url[host..].find('?').map(|at| host + at) else { return (url.to_string(), words) };
    let mut is_word = |pair: &str| {
        let decoded = |text| percent_decode_str(text).decode_utf8().ok();
        let Some((name, value)) = pair.split_once('=') else { return false };
        let (Some(name), Some(value)) = (decoded(name), decoded(value)) else { return false };
        note(&mut words, &name, &value)
    };
    let kept: Vec<&str> = url[query + 1..].split('&').filter(|pair| !is_word(pair)).collect();
    let mark = if kept.is_empty() { "" } else { "?" };
    (format!("{}{mark}{}", &url[..query], kept.join("&")), words)
}

fn without_words_of_pairs(text: &str) -> (String, Words) {
    let (mut kept, mut words) = (String::new(), Words::new());
    let mut rest = text;
    while let Some((name, value, after)) = first_pair(rest) {
        if !note(&mut words, name, &value) {
            kept.push_str(&rest[..rest.len() - after.len()]);
        }
        rest = after;
    }
    kept.push_str(rest);
    (kept, words)
}

/// The name and the value of the first pair, and what follows it. A value may be in single quotes, and a backslash
/// takes the next character as it is.
fn first_pair(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = text.split_once('=')?;
    let (name, rest) = (name.trim(), rest.trim_start());
    let is_quoted = rest.starts_with('\'');
    let mut value = String::new();
    let mut chars = rest.char_indices().skip(usize::from(is_quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' if is_quoted => return Some((name, value, &rest[at + 1..])),
            c if c.is_whitespace() && !is_quoted => return Some((name, value, &rest[at..])),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (!is_quoted).then_some((name, value, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Address {
        Address::of(&Secret::new(url)).unwrap()
    }

    fn refused(url: &str) -> String {
        Address::of(&Secret::new(url)).err().unwrap().to_string()
    }

    #[test]
    fn the_address_is_told_without_its_password() {
        let address = of("postgresql://me:hush@db.example:5433/mirror?sslmode=require");
        assert_eq!(address.described(), "database `mirror` on `db.example:5433` as `me`");
        let address = of("host=/run/pg dbname=m user=u password=hush");
        assert_eq!(address.described(), "database `m` on `/run/pg` as `u`");
    }

    #[test]
    fn an_address_that_cannot_be_understood_is_told_without_its_password() {
        assert_eq!(
            refused("postgresql://me:hush@h/d?sslmode=require&sslcrl=x"),
            "cannot understand the address of the database: unknown option `sslcrl`\n  \
             hint: Write `postgresql://user@host/database`, or `host=… dbname=… user=…`."
        );
        assert_eq!(
            refused("host=h password='hush sslmode=require"),
            "cannot understand the address of the database: unterminated quoted connection parameter value\n  \
             hint: Write `postgresql://user@host/database`, or `host=… dbname=… user=…`."
        );
        assert_eq!(
            refused("host=h sslmode=hush"),
            "cannot understand the address of the database: invalid value for option `sslmode`\n  \
             hint: Write `disable`, `prefer`, `require`, `verify-ca` or `verify-full`."
        );
    }

    #[test]
    fn the_words_of_tls_are_taken_out_of_both_forms() {
        for (address, rest) in [
            ("postgresql://u:a?b@h/d?sslmode=require&sslrootcert=%2Fa%20b", "postgresql://u:a?b@h/d"),
            ("postgres://h/d?connect_timeout=3&sslmode=require&sslrootcert=/a b", "postgres://h/d?connect_timeout=3"),
            ("postgres://h?ssl%6Dode=require&x&sslrootcert=/a%20b", "postgres://h?x"),
            (r"host=h sslmode = require user='a b\'' sslrootcert='/a b'", r"host=h user='a b\''"),
            (r"sslmode=disable  host='x y' sslrootcert=/a\ b sslmode=require", "  host='x y'"),
        ] {
            let (kept, words) = without_words(address);
            assert_eq!(kept, rest);
            let expected: [(&str, String); 2] = [("sslmode", "require".into()), ("sslrootcert", "/a b".into())];
            assert_eq!(words, expected.into());
        }
        for untouched in ["postgresql://h/d", "host=h user='sslmode=require'", "host=h sslmode", "sslmode='require"] {
            assert_eq!(without_words(untouched), (untouched.to_string(), Words::new()));
        }
        assert_eq!(
            without_words("host=h sslrootcert='' sslmode=prefer sslmode="),
            ("host=h".to_string(), Words::new())
        );
    }

    #[test]
    fn what_is_given_decides_what_is_verified() {
        let tls = |words: &str| of(&format!("host=h {words}")).tls;
        let file = || Some(Roots::File("ca.pem".into()));
        let expect = |words: &str, mode, roots| assert_eq!(tls(words), Tls { mode, roots, identity: None }, "{words}");
        expect("", Mode::Prefer, None);
        expect("sslmode=disable sslrootcert=ca.pem", Mode::Disable, file());
        expect("sslmode=require", Mode::Require, None);
        expect("sslmode=require sslrootcert=ca.pem", Mode::VerifyCa, file());
        expect("sslmode=verify-ca sslrootcert=ca.pem", Mode::VerifyCa, file());
        expect("sslmode=verify-full sslrootcert=ca.pem", Mode::VerifyFull, file());
        expect("sslmode=verify-full", Mode::VerifyFull, Some(Roots::System));
        expect("sslrootcert=system", Mode::VerifyFull, Some(Roots::System));
        expect("host=/run/pg sslmode=verify-full", Mode::VerifyFull, Some(Roots::System));
        assert_eq!(of("host=/run/pg sslmode=require").tls.mode, Mode::Disable);
    }

    #[test]
    fn what_protects_less_than_it_seems_is_refused() {
        assert_eq!(
            refused("host=h sslmode=verify-ca"),
            "`sslmode=verify-ca` needs `sslrootcert=FILE`\n  \
             hint: Name the file of the certificate that signs the server's, or write `sslmode=verify-full`."
        );
        assert_eq!(
            refused("host=h sslmode=require sslrootcert=system"),
            "`sslrootcert=system` does not go with `sslmode=require`, which does not look at the name of the server\n  \
             hint: Write `sslmode=verify-full`."
        );
        assert_eq!(
            refused("host=h sslrootcert=ca.pem"),
            "`sslrootcert` without an `sslmode` that verifies: a server without TLS would be accepted\n  \
             hint: Add `sslmode=verify-full`, or `sslmode=verify-ca` where the certificate has another name."
        );
        assert_eq!(
            refused("host=h sslcert=me.pem"),
            "the address of the database has `sslcert` but no `sslkey`\n  hint: Give both files, or none."
        );
    }

    #[test]
    fn psql_is_told_all_of_it() {
        let address = of("postgresql://me:hush@db.example:5433/mirror?sslmode=verify-full&sslrootcert=ca.pem\
                          &sslcert=me.pem&sslkey=me.key&channel_binding=require&hostaddr=10.0.0.7&options=-c%20jit=off");
        let told: Vec<String> =
            address.libpq_environment().iter().map(|(name, value)| format!("{name}={value}")).collect();
        let expected = "PGHOST=db.example|PGHOSTADDR=10.0.0.7|PGPORT=5433|PGUSER=me|PGPASSWORD=hush|PGDATABASE=mirror|\
                        PGOPTIONS=-c jit=off|PGSSLMODE=verify-full|PGSSLROOTCERT=ca.pem|PGSSLCERT=me.pem|\
                        PGSSLKEY=me.key|PGCHANNELBINDING=require";
        assert_eq!(told.join("|"), expected);
        let system = of("host=h dbname=d user=u sslmode=verify-full").libpq_environment();
        assert_eq!(system[3..], [("PGSSLMODE", "verify-full".to_string()), ("PGSSLROOTCERT", "system".to_string())]);
    }

    #[test]
    fn an_address_without_a_name_has_one_for_the_certificate() {
        assert_eq!(of("hostaddr=10.0.0.7 user=u").host(), "10.0.0.7");
    }
}
