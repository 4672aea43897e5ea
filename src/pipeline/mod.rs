//! What `pipeline.toml` means: plain data, checked, with the lines it stands on.
//!
//! [`Pipeline::load`] reads the file ([`parse`]) and checks what one key alone cannot tell
//! ([`order`]: names that refer to each other, cycles). Nothing about columns is here:
//! `schema.sql` is the one place for those.

mod auth;
mod body_path;
mod cron_time;
mod definition;
mod extras;
mod order;
mod own;
mod parse;
mod secrets;
mod toml_view;
mod upkeep;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::paths::Paths;

pub use crate::secret::Secret;
pub use auth::{Auth, Grant, OAuth2};
pub use body_path::BodyPath;
pub use cron_time::{CronTime, all as all_values, has as has_value};
pub use definition::first_difference;
pub use own::{Raw, Run};
pub use secrets::Secrets;
pub use toml_view::parse_duration;
pub use upkeep::{Cron, Hooks, Logs, parse_size};

/// The schema of the ledger, where the file names none.
pub const DEFAULT_LEDGER: &str = "mirror42";

/// A whole pipeline file.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// The file as the user named it, for messages.
    pub file: PathBuf,
    pub paths: Paths,
    pub name: String,
    /// The file that can rebuild an empty database, relative to the root.
    pub schema: PathBuf,
    /// The schema of the ledger of loads: a plain name ([`schema_name`]).
    pub ledger: String,
    /// How old fetched pages may be and still count as current.
    pub max_age: Duration,
    /// How old the mirror may be before `status` and `validate` complain.
    pub stale_after: Duration,
    /// What a table may lose in one load.
    pub max_delete: MaxDelete,
    /// How many nights' exports are kept after their load.
    pub keep_exports: u32,
    /// What is done with characters that no column can hold.
    pub nul: Nul,
    /// The longest that a load waits for a lock; zero: as long as it takes.
    pub lock_timeout: Duration,
    /// The longest that one statement of a load takes; zero: as long as it takes.
    pub statement_timeout: Duration,
    pub hooks: Hooks,
    pub cron: Cron,
    pub logs: Logs,
    pub api: Api,
    /// In the order of the file.
    pub stages: Vec<Stage>,
    /// Their places in `stages`, by their names.
    index: HashMap<String, usize>,
    pub checks: Vec<Check>,
}

/// How the API is reached.
#[derive(Clone, Debug)]
pub struct Api {
    /// Without a slash at the end.
    pub base_url: String,
    pub auth: Auth,
    /// Names and values that are sent with every request for a page.
    pub headers: Vec<(String, String)>,
    /// Parameters of every request for a page whose own path does not name them.
    pub query: Vec<(String, String)>,
    pub limits: Limits,
    pub page: Page,
    /// For the first byte of an answer.
    pub timeout: Duration,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests in any second; none: as many as the server allows.
    pub per_second: Option<u32>,
    /// Requests in any hour; none: as many as the server allows.
    pub per_hour: Option<u32>,
    /// Requests that one fetch has under way at a time.
    pub in_flight: usize,
    /// The longest that a request waits for its turn; not of the file, but of the command line (`--max-wait`).
    pub max_wait: Duration,
    /// How often a request is sent before it is given up; none: as often as an answer of the kind deserves. Of the
    /// command line too (`--tries`).
    pub tries: Option<u32>,
}

/// How an index is read, page by page.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    pub style: PageStyle,
    /// Records asked for in one request.
    pub size: u32,
    /// The parameter that asks for so many; none: it is not asked for.
    pub size_param: Option<String>,
    /// Where the records stand in the body of an answer.
    pub records: BodyPath,
    pub total: Total,
    /// The member that tells a raw record from all others of its series.
    pub id: String,
}

/// How the next page is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum PageStyle {
    /// By its number: `page=2`. The first has the number `first`.
    PageNumber { param: String, first: u32 },
    /// By the number of records before it: `offset=100`.
    Offset { param: String },
    /// By the address in the `Link` header, relation `next` (RFC 8288).
    LinkHeader,
    /// By what stands at `next` in the body: a cursor to send in `param`, or an address.
    Cursor { param: String, next: BodyPath },
    /// One request is the whole answer.
    None,
}

/// Where an answer says how many records there are in all pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Total {
    Header(String),
    Body(BodyPath),
    /// Nowhere: that a series is whole is then proven as well as it can be.
    Unknown,
}

impl Page {
    /// The parameters that ask for a page.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        let style = match &self.style {
            PageStyle::PageNumber { param, .. } | PageStyle::Offset { param } | PageStyle::Cursor { param, .. } => {
                Some(param)
            }
            PageStyle::LinkHeader | PageStyle::None => None,
        };
        style.into_iter().chain(&self.size_param).map(String::as_str)
    }
}

impl PageStyle {
    /// As pipeline.toml names it.
    pub fn name(&self) -> &'static str {
        match self {
            PageStyle::PageNumber { .. } => "page-number",
            PageStyle::Offset { .. } => "offset",
            PageStyle::LinkHeader => "link-header",
            PageStyle::Cursor { .. } => "cursor",
            PageStyle::None => "none",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Stage {
    /// The folder under `exports/`.
    pub name: String,
    /// The line of the file on which the stage begins.
    pub line: usize,
    pub source: Source,
    pub jq: Filter,
    /// Exports bound to variables of the filter: (variable without `$`, stage). Those of a program are in [`Run`].
    pub with: Vec<(String, String)>,
    /// The members that tell a record from all others, in the order in which the export is sorted.
    pub key: Vec<String>,
    pub duplicates: Duplicates,
    /// The filter gets one array of all records rather than one record at a time.
    pub slurp: bool,
    /// The table that the export is loaded into; none: it only feeds other stages.
    pub table: Option<String>,
    /// Overrides [`Pipeline::max_delete`] for this table.
    pub max_delete: Option<MaxDelete>,
    /// Overrides [`Pipeline::nul`] for this table.
    pub nul: Option<Nul>,
    /// The longest that one step of the stage may take; none: as long as it takes.
    pub timeout: Option<Duration>,
}

/// How many rows a table may lose in one load: no more than each of the two allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaxDelete {
    /// Of the rows that it has, 0 to 1.
    pub share: f64,
    pub rows: Option<u64>,
}

impl MaxDelete {
    /// Of a table of so many rows.
    pub fn of(&self, rows: u64) -> u64 {
        let share = (self.share * rows as f64).floor() as u64;
        self.rows.map_or(share, |most| share.min(most))
    }
}

/// As it is written in the pipeline file.
impl std::fmt::Display for MaxDelete {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        // What is left of 7 % after the way through a binary fraction is no digit of the user's.
        let percent = (self.share * 1e8).round() / 1e6;
        match self.rows {
            None => write!(f, "{percent}%"),
            Some(rows) if self.share >= 1.0 => write!(f, "{rows}"),
            Some(rows) => write!(f, "{{ share = \"{percent}%\", rows = {rows} }}"),
        }
    }
}

/// What is done with a character of JSON that no column of Postgres can hold: NUL, and half of a surrogate pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nul {
    /// The load is refused.
    Error,
    /// It is left out.
    Strip,
    /// U+FFFD, the replacement character, stands in its place.
    Replace,
}

#[derive(Clone, Debug)]
pub enum Source {
    Fetch(Box<Fetch>),
    /// The raw records that another stage has.
    From(String),
    /// A program writes them.
    Run(Box<Run>),
}

#[derive(Clone, Debug)]
pub struct Fetch {
    /// Path and query, with `{member}` for members of the `each` record.
    pub path: String,
    /// One series of pages per record of this stage's export.
    pub each: Option<String>,
    pub page: Page,
    pub max_age: Duration,
}

#[derive(Clone, Debug)]
pub struct Filter {
    pub text: String,
    /// The line of `pipeline.toml` on which the text begins.
    pub line: usize,
}

/// What happens when two records of one export have the same key and are not equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duplicates {
    Error,
    First,
    Last,
}

/// Passes when the query returns no row.
#[derive(Clone, Debug)]
pub struct Check {
    pub name: String,
    pub sql: String,
    pub line: usize,
}

impl Pipeline {
    /// Reads and checks `file`.
    pub fn load(file: &Path) -> Result<Pipeline> {
        let text = std::fs::read_to_string(file).map_err(|cause| {
            let error =
                Error::usage(format!("cannot read the pipeline file `{}`", file.display())).detail(cause.to_string());
            match cause.kind() {
                std::io::ErrorKind::NotFound => error.hint("Name the file with `--pipeline FILE`."),
                _ => error,
            }
        })?;
        Pipeline::parse(file, &text)
    }

    /// The meaning of `text`, which stands in `file`.
    pub fn parse(file: &Path, text: &str) -> Result<Pipeline> {
        let mut pipeline = parse::pipeline(file, text)?;
        // Of two stages of one name, the first: the check tells of the second.
        for (place, stage) in pipeline.stages.iter().enumerate() {
            pipeline.index.entry(stage.name.clone()).or_insert(place);
        }
        pipeline.check()?;
        Ok(pipeline)
    }

    pub fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.get(*self.index.get(name)?)
    }

    /// The stage of this name, or a usage error that names the nearest one.
    pub fn known_stage(&self, name: &str) -> Result<&Stage> {
        self.stage(name).ok_or_else(|| {
            let error = Error::usage(format!("no stage is called `{name}`")).at(self.file.display().to_string());
            match nearest(name, self.stages.iter().map(|stage| stage.name.as_str())) {
                Some(near) => error.hint(format!("Did you mean `{near}`?")),
                None => error,
            }
        })
    }

    /// The stages of these names in the order of the file; all of them when none is named.
    pub fn selected(&self, names: &[String]) -> Result<Vec<&Stage>> {
        for name in names {
            self.known_stage(name)?;
        }
        Ok(self.stages.iter().filter(|stage| names.is_empty() || names.contains(&stage.name)).collect())
    }

    /// The stage whose pages `stage` is filtered from: itself, or the one it names with `from`.
    pub fn source_of<'a>(&'a self, stage: &'a Stage) -> Result<(&'a Stage, Raw<'a>)> {
        let source = match &stage.source {
            Source::From(name) => self.known_stage(name)?,
            Source::Fetch(_) | Source::Run(_) => stage,
        };
        match source.source.raw() {
            Some(raw) => Ok((source, raw)),
            None => Err(self
                .error_at(
                    stage.line,
                    format!("stage `{}` reads from `{}`, which has no raw records", stage.name, source.name),
                )
                .hint("Name the stage that has `fetch` or `run`.")),
        }
    }

    /// The stages with a table, in the order of the file.
    pub fn loaded(&self) -> impl Iterator<Item = (&Stage, &str)> {
        self.stages.iter().filter_map(|stage| Some((stage, stage.table.as_deref()?)))
    }

    /// The place of `line` of the pipeline file, as messages name it.
    pub fn place(&self, line: usize) -> String {
        format!("{}:{line}", self.file.display())
    }

    fn error_at(&self, line: usize, message: String) -> Error {
        Error::usage(message).at(self.place(line))
    }
}

impl Stage {
    pub fn fetch(&self) -> Option<&Fetch> {
        match &self.source {
            Source::Fetch(fetch) => Some(fetch),
            Source::From(_) | Source::Run(_) => None,
        }
    }

    /// The stages that must be there before this one: the source, the `each` export, the `with` exports.
    pub fn needs(&self) -> impl Iterator<Item = &str> {
        let source = match &self.source {
            Source::Fetch(fetch) => fetch.each.as_deref(),
            Source::From(name) => Some(name.as_str()),
            Source::Run(_) => None,
        };
        let with = self.run().map_or(&self.with, |run| &run.with);
        source.into_iter().chain(with.iter().map(|(_, stage)| stage.as_str()))
    }
}

/// An address that paths can be put after, without the slash at its end; or what is wrong with it. It
/// stands in messages and names files, so a password has no place in it.
pub fn base_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = rest.map_or("", |rest| rest.split('/').next().unwrap_or(""));
    if host.contains('@') {
        return Err("holds a user or a password, which would show in messages".to_string());
    }
    if host.is_empty() || text.contains(['?', '#']) {
        return Err(format!("is {text:?}, expected an address that begins with `https://` or `http://`"));
    }
    Ok(text.trim_end_matches('/').to_string())
}

/// A schema's name that needs no quotes to be what it is (but a word of SQL does); or what was expected.
pub fn schema_name(text: &str) -> Result<String, String> {
    let first = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    match first && text.len() <= 63 && text.chars().all(plain) {
        true if text.starts_with("pg_") => Err("names that begin with `pg_` are Postgres's own".to_owned()),
        true => Ok(text.to_owned()),
        false => Err("expected lower-case letters, digits and underscores, of which the first is no digit".to_owned()),
    }
}

/// The candidate that a misspelt `name` most likely meant, if one is near.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // 0.7 takes one or two slips in a word of eight letters, and leaves other words alone.
    candidates
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
