//! One failure, one message: what went wrong, where, what state the world is in, what to do.
//!
//! The form is Postgres's own: a primary line (lower case, no period), then `at`, `detail` and
//! `hint`. An [`Error`] is made where the failure is understood and printed once, by
//! [`crate::cli::run_main`]. There is no blanket conversion from foreign errors: each crosses a
//! bridge that adds the path, the page, the record or the row.

use std::fmt;
use std::process::ExitCode;

use serde::Deserialize;

use crate::secret::redact;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the exit code of the process says; cron and the driver read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A stage failed: exit code 1.
    #[default]
    Failed,
    /// The command line or `pipeline.toml` is wrong: exit code 2.
    Usage,
    /// Another run holds the lock: exit code 3.
    Locked,
    /// The deletion guard stopped the load: exit code 4.
    Guard,
    /// Validation failed: exit code 5.
    Invalid,
    /// The API's limits allow no more for now, or a signal stopped it; the run can be resumed: exit code 75, `EX_TEMPFAIL`
    /// of sysexits.h.
    Later,
    /// Another session of the database was in the way, and the same may well pass once more: exit code 1.
    Conflict,
    /// A value that must be unique is that of another row: exit code 1.
    Taken,
}

impl Kind {
    pub const fn exit_code(self) -> u8 {
        match self {
            Kind::Failed | Kind::Conflict | Kind::Taken => 1,
            Kind::Usage => 2,
            Kind::Locked => 3,
            Kind::Guard => 4,
            Kind::Invalid => 5,
            Kind::Later => 75,
        }
    }

    /// The kind of a child process that ended with this code; every unknown code is a failure.
    pub const fn from_exit_code(code: i32) -> Kind {
        match code {
            2 => Kind::Usage,
            3 => Kind::Locked,
            4 => Kind::Guard,
            5 => Kind::Invalid,
            75 => Kind::Later,
            _ => Kind::Failed,
        }
    }
}

/// A failure that a person will read.
#[derive(Debug)]
pub struct Error(Box<Report>);

// Boxed: an error is the rare case, and `Result<T>` stays one word larger than `T`.
#[derive(Debug, Deserialize)]
struct Report {
    #[serde(skip)]
    kind: Kind,
    message: String,
    at: Option<String>,
    detail: Vec<String>,
    hint: Option<String>,
}

impl Error {
    fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error(Box::new(Report { kind, message: safe(message), at: None, detail: Vec::new(), hint: None }))
    }

    /// A stage failed (exit code 1). `message` is the primary line: lower case, no period.
    pub fn failed(message: impl Into<String>) -> Error {
        Error::new(Kind::Failed, message)
    }

    /// The command line or the pipeline file is wrong (exit code 2).
    pub fn usage(message: impl Into<String>) -> Error {
        Error::new(Kind::Usage, message)
    }

    /// Another run holds the lock (exit code 3).
    pub fn locked(message: impl Into<String>) -> Error {
        Error::new(Kind::Locked, message)
    }

    /// The deletion guard stopped the load (exit code 4).
    pub fn guard(message: impl Into<String>) -> Error {
        Error::new(Kind::Guard, message)
    }

    /// Validation failed (exit code 5).
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(Kind::Invalid, message)
    }

    /// The API's limits allow no more for now, or a signal stopped it (exit code 75): the run can be resumed.
    pub fn later(message: impl Into<String>) -> Error {
        Error::new(Kind::Later, message)
    }

    /// Another session of the database was in the way (exit code 1).
    pub fn conflict(message: impl Into<String>) -> Error {
        Error::new(Kind::Conflict, message)
    }

    /// A value that must be unique is that of another row (exit code 1).
    pub fn taken(message: impl Into<String>) -> Error {
        Error::new(Kind::Taken, message)
    }

    /// Any kind, where it is that of something else.
    pub fn of_kind(kind: Kind, message: impl Into<String>) -> Error {
        Error::new(kind, message)
    }

    /// The error of a child process, which told its parts in JSON ([`Error::to_json`]) and its kind
    /// by its exit code.
    pub fn from_json(kind: Kind, parts: serde_json::Value) -> Option<Error> {
        let report: Report = serde_json::from_value(parts).ok()?;
        Some(Error(Box::new(Report { kind, ..report })))
    }

    /// All parts but the kind, which is the exit code.
    pub fn to_json(&self) -> serde_json::Value {
        let Report { kind: _, message, at, detail, hint } = &*self.0;
        serde_json::json!({ "message": message, "at": at, "detail": detail, "hint": hint })
    }

    /// The bridge for `std::io`: `doing` says what was tried ("write", "create"), `path` to what.
    pub fn io(doing: &str, path: &std::path::Path, cause: &std::io::Error) -> Error {
        Error::failed(format!("could not {doing} `{}`: {}", path.display(), lower_first(&cause.to_string())))
    }

    /// Where: a file with its line, a URL, a record, a column.
    pub fn at(mut self, place: impl Into<String>) -> Error {
        self.0.at = Some(safe(place));
        self
    }

    /// One more sentence of detail: what was found, what state things are in. May be called again.
    pub fn detail(mut self, sentence: impl Into<String>) -> Error {
        self.0.detail.push(safe(sentence));
        self
    }

    /// What to do about it: an action, or nothing.
    pub fn hint(mut self, action: impl Into<String>) -> Error {
        self.0.hint = Some(safe(action));
        self
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn details(&self) -> &[String] {
        &self.0.detail
    }

    /// Where it happened, if that is known.
    pub fn place(&self) -> Option<&str> {
        self.0.at.as_deref()
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.0.kind.exit_code())
    }
}

/// The text without what must not be told.
fn safe(text: impl Into<String>) -> String {
    redact(&text.into()).into_owned()
}

/// The whole message, without the program's name: what stands after `error: `.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { message, at, detail, hint, .. } = &*self.0;
        write!(f, "{}", printable(message))?;
        if let Some(place) = at {
            write!(f, "\n  at: {}", printable(place))?;
        }
        for sentence in detail {
            write!(f, "\n  detail: {}", printable(sentence))?;
        }
        if let Some(action) = hint {
            write!(f, "\n  hint: {}", printable(action))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Escapes control characters, so that text from outside cannot drive a terminal or forge a line.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // U+202A..U+202E and U+2066..U+2069 reorder the text around them.
        if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// The first `max` characters of `text`, printable, with `…` where something was cut.
pub fn excerpt(text: &str, max: usize) -> String {
    // Before the cut: half of a secret would not be found after it.
    let text = &*redact(text);
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", printable(&text[..end])),
        None => printable(text),
    }
}

/// Messages of other libraries begin with a capital; ours do not, since they stand in mid-line.
pub fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_stand_in_order_each_on_its_line() {
        let error = Error::failed("value \"n/a\" of `difficulty` does not fit integer")
            .at("exports/05_projects/all.json, record 204")
            .detail("Nothing was loaded.")
            .detail("The database is as it was.")
            .hint("Convert it.");
        assert_eq!(
            error.to_string(),
            "value \"n/a\" of `difficulty` does not fit integer\n  at: exports/05_projects/all.json, record 204\n  \
             detail: Nothing was loaded.\n  detail: The database is as it was.\n  hint: Convert it."
        );
    }

    #[test]
    fn text_from_outside_cannot_drive_the_terminal() {
        assert_eq!(Error::failed("a\x1b[31mb\nc\u{202e}").to_string(), "a\\u{1b}[31mb\\nc\\u{202e}");
    }

    #[test]
    fn an_excerpt_says_that_it_was_cut() {
        assert_eq!(excerpt("żółw", 3), "żół…");
        assert_eq!(excerpt("żółw", 4), "żółw");
    }

    #[test]
    fn an_error_crosses_from_child_to_parent_whole() {
        let error = Error::guard("too much").at("here").detail("one").detail("two").hint("act");
        let twin = Error::from_json(Kind::Guard, error.to_json()).unwrap();
        assert_eq!((twin.to_string(), twin.kind()), (error.to_string(), error.kind()));
    }

    #[test]
    fn every_kind_is_told_by_its_exit_code() {
        for kind in [Kind::Failed, Kind::Usage, Kind::Locked, Kind::Guard, Kind::Invalid, Kind::Later] {
            assert_eq!(Kind::from_exit_code(kind.exit_code().into()), kind);
        }
    }

    #[test]
    fn io_errors_carry_their_path() {
        let cause = std::io::Error::other("Disk on fire");
        let error = Error::io("write", std::path::Path::new("a/b"), &cause);
        assert_eq!(error.to_string(), "could not write `a/b`: disk on fire");
    }
}
