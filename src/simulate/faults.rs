//! Misbehaviour on demand: which fault plays on which request.
//!
//! The file format is documented in docs/simulator.md. Every fault counts every request that its
//! `path` and `page` match, whether or not another fault plays on it; of those that are due, the
//! first in the file plays.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Error, Result};

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    RateLimited,
    ServerError,
    Bot403,
    Bot200,
    Html404,
    JsonError,
    Redirect,
    TokenExpired,
    Slow,
    Hang,
    Reset,
    Truncated,
    LongLength,
    ShortLength,
    Drip,
    Oversized,
    GzipBomb,
    CorruptGzip,
    NotGzip,
    NotModified,
    Garbage,
    InvalidUtf8,
    EmptyList,
    Object,
    Nul,
    Surrogate,
    BigId,
    DriftInsert,
    DriftRemove,
    DriftSwap,
    WrongTotal,
    MissingTotal,
    Chunked,
}

/// Every kind with its name and the keys that only it takes.
const KINDS: [(Kind, &str, &[&str]); 33] = [
    (Kind::RateLimited, "rate-limited", &["retry_after"]),
    (Kind::ServerError, "server-error", &["status", "retry_after"]),
    (Kind::Bot403, "bot-403", &[]),
    (Kind::Bot200, "bot-200", &[]),
    (Kind::Html404, "html-404", &[]),
    (Kind::JsonError, "json-error", &["status"]),
    (Kind::Redirect, "redirect", &["location"]),
    (Kind::TokenExpired, "token-expired", &[]),
    (Kind::Slow, "slow", &["ms"]),
    (Kind::Hang, "hang", &[]),
    (Kind::Reset, "reset", &[]),
    (Kind::Truncated, "truncated", &[]),
    (Kind::LongLength, "long-length", &[]),
    (Kind::ShortLength, "short-length", &[]),
    (Kind::Drip, "drip", &["ms"]),
    (Kind::Oversized, "oversized", &["mib"]),
    (Kind::GzipBomb, "gzip-bomb", &["mib"]),
    (Kind::CorruptGzip, "corrupt-gzip", &[]),
    (Kind::NotGzip, "not-gzip", &[]),
    (Kind::NotModified, "not-modified", &[]),
    (Kind::Garbage, "garbage", &[]),
    (Kind::InvalidUtf8, "invalid-utf8", &[]),
    (Kind::EmptyList, "empty-list", &["total"]),
    (Kind::Object, "object", &[]),
    (Kind::Nul, "nul", &[]),
    (Kind::Surrogate, "surrogate", &[]),
    (Kind::BigId, "big-id", &[]),
    (Kind::DriftInsert, "drift-insert", &[]),
    (Kind::DriftRemove, "drift-remove", &[]),
    (Kind::DriftSwap, "drift-swap", &[]),
    (Kind::WrongTotal, "wrong-total", &[]),
    (Kind::MissingTotal, "missing-total", &[]),
    (Kind::Chunked, "chunked", &[]),
];

const COMMON_KEYS: [&str; 6] = ["kind", "path", "page", "after", "times", "rate"];

impl Kind {
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(kind, ..)| *kind == self).map_or("", |(_, name, _)| name)
    }
}

/// Paths that begin like this one; all of `/v2/` without one, exactly this one with a final `$`.
#[derive(Clone, Debug, PartialEq)]
pub struct PathRule(String);

impl PathRule {
    pub fn new(text: &str) -> PathRule {
        PathRule(text.to_owned())
    }

    pub fn matches(&self, path: &str) -> bool {
        match self.0.strip_suffix('$') {
            Some(exact) => path == exact,
            None => path.starts_with(&self.0),
        }
    }
}

/// One `[[fault]]` of a faults file.
#[derive(Clone, Debug)]
pub struct Fault {
    pub kind: Kind,
    pub status: Option<u16>,
    pub retry_after_s: Option<u64>,
    /// How much later an answer comes; for a drip, each byte of it.
    pub delay_ms: u64,
    pub location: String,
    /// The size of a body that is too large.
    pub size_mib: u32,
    /// What `X-Total` says beside an empty list; none for the total of the index.
    pub total: Option<u64>,
    path: PathRule,
    page: Option<usize>,
    after: u64,
    /// 0 is always.
    times: u64,
    rate: Option<f64>,
    seen: u64,
    played: u64,
}

/// The faults of a file, and how far each has played.
#[derive(Debug, Default)]
pub struct Faults {
    seed: u64,
    list: Vec<Fault>,
}

impl Faults {
    /// Reads a faults file; `name` stands in messages.
    pub fn parse(text: &str, name: &str, seed: u64) -> Result<Faults> {
        let place = Place { text, name };
        let table = DeTable::parse(text).map_err(|cause| {
            let start = cause.span().map_or(0, |span| span.start);
            Error::usage(format!("the faults file is not TOML: {}", cause.message())).at(place.at(start))
        })?;
        let mut list = Vec::new();
        for (key, value) in table.get_ref() {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("fault", DeValue::Array(faults)) => {
                    for fault in faults.iter() {
                        list.push(read_fault(fault, place)?);
                    }
                }
                ("fault", _) => return Err(Error::usage("faults are written as [[fault]]").at(place.of(value))),
                (other, _) => return Err(unknown("key", other, &["fault"]).at(place.at(key.span().start))),
            }
        }
        Ok(Faults { seed, list })
    }

    /// Counts a request, and gives the fault that plays on it.
    pub fn next(&mut self, path: &str, page: usize) -> Option<Fault> {
        let mut due = None;
        for (n, fault) in self.list.iter_mut().enumerate() {
            if !fault.path.matches(path) || fault.page.is_some_and(|wanted| wanted != page) {
                continue;
            }
            fault.seen += 1;
            let is_due = fault.seen > fault.after
                && (fault.times == 0 || fault.played < fault.times)
                && fault.rate.is_none_or(|rate| share(self.seed, n as u64, fault.seen) < rate);
            if is_due && due.is_none() {
                fault.played += 1;
                due = Some(fault.clone());
            }
        }
        due
    }
}

/// A number from 0 to 1 that depends on nothing but these.
fn share(seed: u64, fault: u64, seen: u64) -> f64 {
    fastrand::Rng::with_seed(seed ^ (fault << 48) ^ seen.wrapping_mul(0x9e37_79b9_7f4a_7c15)).f64()
}

/// Where something stands in the file.
#[derive(Clone, Copy)]
struct Place<'a> {
    text: &'a str,
    name: &'a str,
}

impl Place<'_> {
    fn at(self, offset: usize) -> String {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        format!("{}:{}", self.name, 1 + before.iter().filter(|&&byte| byte == b'\n').count())
    }

    fn of<T>(self, value: &Spanned<T>) -> String {
        self.at(value.span().start)
    }
}

fn read_fault(value: &Spanned<DeValue<'_>>, place: Place<'_>) -> Result<Fault> {
    let Some(table) = value.get_ref().as_table() else {
        return Err(Error::usage("a fault is a table").at(place.of(value)));
    };
    let Some(kind_value) = table.get("kind") else {
        return Err(Error::usage("a fault has no `kind`").at(place.of(value)));
    };
    let kind_name = kind_value.get_ref().as_str().unwrap_or_default();
    let Some(&(kind, _, own_keys)) = KINDS.iter().find(|(_, name, _)| *name == kind_name) else {
        let names: Vec<&str> = KINDS.iter().map(|(_, name, _)| *name).collect();
        return Err(unknown("fault kind", kind_name, &names).at(place.of(kind_value)));
    };
    for key in table.keys() {
        let name = key.get_ref().as_ref();
        if !COMMON_KEYS.contains(&name) && !own_keys.contains(&name) {
            let keys: Vec<&str> = COMMON_KEYS.iter().chain(own_keys).copied().collect();
            return Err(unknown("key", name, &keys)
                .at(place.at(key.span().start))
                .detail(format!("The kind of this fault is `{kind_name}`.")));
        }
    }
    let fields = Fields { table, place };
    let rate = fields.rate()?;
    Ok(Fault {
        kind,
        status: fields.status(kind)?,
        retry_after_s: fields.number("retry_after")?,
        delay_ms: fields.number("ms")?.unwrap_or(if kind == Kind::Drip { 100 } else { 3000 }),
        location: fields.text("location")?.unwrap_or("https://signin.intra.42.fr/users/sign_in").to_owned(),
        size_mib: fields.number("mib")?.unwrap_or(1024).try_into().unwrap_or(u32::MAX),
        total: fields.number("total")?,
        path: PathRule::new(fields.text("path")?.unwrap_or("/v2/")),
        page: fields.number("page")?.map(|page| page as usize),
        after: fields.number("after")?.unwrap_or(0),
        times: fields.number("times")?.unwrap_or(if rate.is_some() { 0 } else { 1 }),
        rate,
        seen: 0,
        played: 0,
    })
}

/// The values of one fault, read by name.
struct Fields<'a> {
    table: &'a DeTable<'a>,
    place: Place<'a>,
}

impl<'a> Fields<'a> {
    fn text(&self, key: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.table.get(key) else {
            return Ok(None);
        };
        match value.get_ref().as_str() {
            Some(text) => Ok(Some(text)),
            None => Err(Error::usage(format!("`{key}` is not a string")).at(self.place.of(value))),
        }
    }

    fn number(&self, key: &str) -> Result<Option<u64>> {
        let Some(value) = self.table.get(key) else {
            return Ok(None);
        };
        let number = value.get_ref().as_integer().and_then(|n| u64::from_str_radix(n.as_str(), n.radix()).ok());
        match number {
            Some(number) => Ok(Some(number)),
            None => Err(Error::usage(format!("`{key}` is not a whole number from 0")).at(self.place.of(value))),
        }
    }

    fn rate(&self) -> Result<Option<f64>> {
        let Some(value) = self.table.get("rate") else {
            return Ok(None);
        };
        let number = match value.get_ref() {
            DeValue::Float(float) => float.as_str().parse().ok(),
            DeValue::Integer(integer) => integer.as_str().parse().ok(),
            _ => None,
        };
        match number.filter(|rate| (0.0..=1.0).contains(rate)) {
            Some(rate) => Ok(Some(rate)),
            None => Err(Error::usage("`rate` is not a number from 0 to 1").at(self.place.of(value))),
        }
    }

    fn status(&self, kind: Kind) -> Result<Option<u16>> {
        let allowed = if kind == Kind::ServerError { 500..=599 } else { 400..=499 };
        match self.number("status")? {
            None => Ok(None),
            Some(status) if allowed.contains(&status) => Ok(Some(status as u16)),
            Some(status) => {
                let message = format!("`status` {status} is not one of {}-{}", allowed.start(), allowed.end());
                let at = self.table.get("status").map_or(0, |value| value.span().start);
                Err(Error::usage(message).at(self.place.at(at)))
            }
        }
    }
}

fn unknown(what: &str, name: &str, known: &[&str]) -> Error {
    let error = Error::usage(format!("unknown {what} `{name}`"));
    let near = known.iter().map(|known| (strsim::jaro_winkler(name, known), known));
    match near.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((likeness, near)) if likeness > 0.8 => error.hint(format!("Did you mean `{near}`?")),
        _ => error.hint(format!("Known are: {}.", known.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Faults {
        Faults::parse(text, "faults.toml", 42).expect("faults that parse")
    }

    fn message(text: &str) -> String {
        Faults::parse(text, "faults.toml", 42).map(|_| ()).expect_err("an error").to_string()
    }

    fn played(faults: &mut Faults, path: &str, pages: &[usize]) -> Vec<Option<Kind>> {
        pages.iter().map(|&page| faults.next(path, page).map(|fault| fault.kind)).collect()
    }

    #[test]
    fn a_fault_plays_once_after_what_it_skips() {
        let mut faults = faults("[[fault]]\nkind = \"reset\"\npath = \"/v2/campus\"\nafter = 2\n");
        assert_eq!(played(&mut faults, "/v2/coalitions", &[1, 1, 1]), [None, None, None]);
        assert_eq!(
            played(&mut faults, "/v2/campus/1/achievements", &[1, 1, 1, 1]),
            [None, None, Some(Kind::Reset), None]
        );
    }

    #[test]
    fn a_dollar_ends_the_path_and_a_page_is_one_page() {
        let mut faults = faults("[[fault]]\nkind = \"hang\"\npath = \"/v2/campus$\"\npage = 2\ntimes = 0\n");
        assert_eq!(played(&mut faults, "/v2/campus/1/achievements", &[2]), [None]);
        assert_eq!(played(&mut faults, "/v2/campus", &[1, 2, 2]), [None, Some(Kind::Hang), Some(Kind::Hang)]);
    }

    #[test]
    fn a_rate_is_a_share_that_the_seed_decides() {
        let text = "[[fault]]\nkind = \"server-error\"\nrate = 0.1\n";
        let (mut one, mut other) = (faults(text), faults(text));
        let pages = vec![1; 1000];
        let first = played(&mut one, "/v2/campus", &pages);
        assert_eq!(first, played(&mut other, "/v2/campus", &pages));
        let count = first.iter().flatten().count();
        assert!((60..140).contains(&count), "{count} of 1000");
    }

    #[test]
    fn the_manual_names_every_kind_and_key() {
        let manual = include_str!("../../docs/simulator.md");
        for (_, name, own_keys) in KINDS {
            for word in [&[name], own_keys].concat() {
                assert!(manual.contains(&format!("`{word}`")), "docs/simulator.md does not name `{word}`");
            }
        }
    }

    #[test]
    fn mistakes_name_file_and_line() {
        assert_eq!(
            message("[[fault]]\nkind = \"rezet\"\n"),
            "unknown fault kind `rezet`\n  at: faults.toml:2\n  hint: Did you mean `reset`?"
        );
        assert_eq!(
            message("[[fault]]\nkind = \"reset\"\nstatus = 500\n"),
            "unknown key `status`\n  at: faults.toml:3\n  detail: The kind of this fault is `reset`.\n  hint: Known \
             are: kind, path, page, after, times, rate."
        );
        assert_eq!(
            message("[[fault]]\nkind = \"server-error\"\nstatus = 404\n"),
            "`status` 404 is not one of 500-599\n  at: faults.toml:3"
        );
        assert_eq!(message("[[fault]]\n\npath = \"/\"\n"), "a fault has no `kind`\n  at: faults.toml:1");
        assert_eq!(
            message("[[fault]]\nkind = \"reset\"\nafter = -1\n"),
            "`after` is not a whole number from 0\n  at: faults.toml:3"
        );
        assert!(message("[[fault]\n").starts_with("the faults file is not TOML: "), "{}", message("[[fault]\n"));
    }
}
