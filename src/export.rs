//! The format of `all.json`: a JSON array, UTF-8, one record a line, ordered by the stage's key.
//!
//! ```text
//! [
//! {"id":1,"name":"Paris"},
//! {"id":9,"name":"Lyon"}
//! ]
//! ```
//!
//! Any JSON tool reads it, `diff` and `grep` work on it by record, and a reader needs no more memory
//! than its longest record.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result, excerpt};
use crate::files::{AtomicFile, Written, hex};

/// Writes an export whole or not at all.
pub struct Writer {
    file: AtomicFile,
    records: u64,
}

impl Writer {
    pub fn create(target: &Path) -> Result<Writer> {
        let mut file = AtomicFile::create(target)?;
        file.write(b"[\n")?;
        Ok(Writer { file, records: 0 })
    }

    /// One record: a JSON object without a line break.
    pub fn record(&mut self, json: &[u8]) -> Result<()> {
        debug_assert!(!json.contains(&b'\n'));
        let separator: &[u8] = if self.records > 0 { b",\n" } else { b"" };
        self.file.write(separator)?;
        self.file.write(json)?;
        self.records += 1;
        Ok(())
    }

    /// Written so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    pub fn commit(mut self) -> Result<Written> {
        self.file.write(if self.records > 0 { b"\n]\n" } else { b"]\n" })?;
        self.file.commit()
    }
}

/// Reads an export record by record, and hashes it on the way.
pub struct Reader {
    lines: BufReader<File>,
    path: PathBuf,
    /// As messages name the file.
    shown: String,
    hasher: Sha256,
    line: Vec<u8>,
    /// Of the line in `line`, counted from 1.
    number: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before `[`.
    Start,
    /// After `[`.
    Opened,
    /// After a record with a comma: another must follow.
    Comma,
    /// After a record without a comma: `]` must follow.
    Last,
    /// After `]`.
    Closed,
}

impl Reader {
    /// Opens the export; `shown` is its name in messages.
    pub fn open(path: &Path, shown: &str) -> Result<Reader> {
        let file = File::open(path).map_err(|cause| Error::io("read", path, &cause))?;
        Ok(Reader {
            lines: BufReader::with_capacity(1 << 18, file),
            path: path.to_path_buf(),
            shown: shown.to_string(),
            hasher: Sha256::new(),
            line: Vec::new(),
            number: 0,
            state: State::Start,
        })
    }

    /// The next record with the number of its line; none at the end of the array.
    pub fn read(&mut self) -> Result<Option<(u64, &[u8])>> {
        loop {
            self.line.clear();
            let n = read_line(&mut self.lines, &mut self.line);
            if n.map_err(|cause| Error::io("read", &self.path, &cause))? == 0 {
                return if self.state == State::Closed { Ok(None) } else { Err(self.wrong("the end of the file")) };
            }
            self.hasher.update(&self.line);
            self.number += 1;
            let text = self.line.trim_ascii();
            let (record, after) = match text.strip_suffix(b",") {
                Some(record) => (record, State::Comma),
                None => (text, State::Last),
            };
            self.state = match (self.state, text) {
                (State::Start, b"[") => State::Opened,
                (State::Opened | State::Last, b"]") => State::Closed,
                (State::Opened | State::Comma, _) if record.first() == Some(&b'{') => {
                    self.state = after;
                    // The two ends of `record` within the line, since the line is borrowed anew.
                    let start = self.line.len() - self.line.trim_ascii_start().len();
                    let end = start + record.len();
                    return Ok(Some((self.number, &self.line[start..end])));
                }
                _ => return Err(self.wrong(&format!("`{}`", excerpt(&String::from_utf8_lossy(text), 60)))),
            };
        }
    }

    /// The SHA-256 of all that was read, which is the whole file once [`Reader::read`] has returned none.
    pub fn sha256(self) -> String {
        hex(&self.hasher.finalize())
    }

    fn wrong(&self, found: &str) -> Error {
        let expected = match self.state {
            State::Start => "`[`",
            State::Opened => "a record or `]`",
            State::Comma => "a record",
            State::Last => "`]`, since the record before has no comma",
            State::Closed => "nothing after `]`",
        };
        Error::failed(format!("`{}` is not an export: found {found}, expected {expected}", self.shown))
            .at(format!("{}:{}", self.shown, self.number.max(1)))
            .hint("An export is a JSON array with one record a line, as `mirror42-extract` writes it.")
    }
}

/// As `BufRead::read_until`, with a search that is several times as fast.
fn read_line(lines: &mut BufReader<File>, line: &mut Vec<u8>) -> std::io::Result<usize> {
    loop {
        let bytes = match lines.fill_buf() {
            Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => continue,
            bytes => bytes?,
        };
        let end = memchr::memchr(b'\n', bytes).map(|at| at + 1);
        let length = end.unwrap_or(bytes.len());
        line.extend_from_slice(&bytes[..length]);
        lines.consume(length);
        if end.is_some() || length == 0 {
            return Ok(line.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(u64, String)>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all.json");
        std::fs::write(&path, text).unwrap();
        let mut reader = Reader::open(&path, "exports/x/all.json")?;
        let mut records = Vec::new();
        while let Some((line, record)) = reader.read()? {
            records.push((line, String::from_utf8(record.to_vec()).unwrap()));
        }
        assert_eq!(reader.sha256(), crate::files::sha256_of(text.as_bytes()));
        Ok(records)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all.json");
        for records in [vec![], vec!["{\"id\":1}"], vec!["{\"id\":1}", "{\"id\":2}"]] {
            let mut writer = Writer::create(&path).unwrap();
            records.iter().for_each(|record| writer.record(record.as_bytes()).unwrap());
            let written = writer.commit().unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(written.sha256, crate::files::sha256_of(text.as_bytes()));
            assert_eq!(read(&text).unwrap().into_iter().map(|(_, r)| r).collect::<Vec<_>>(), records);
            assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap().is_array());
        }
    }

    #[test]
    fn records_tell_their_lines() {
        assert_eq!(read("[\n{\"a\":1},\n{}\n]\n").unwrap(), [(2, "{\"a\":1}".into()), (3, "{}".into())]);
    }

    #[test]
    fn a_file_that_was_cut_or_edited_is_refused_with_its_line() {
        let error = |text| read(text).unwrap_err().to_string();
        assert!(
            error("").starts_with("`exports/x/all.json` is not an export: found the end of the file, expected `[`")
        );
        assert!(error("[\n{},\n").contains("found the end of the file, expected a record\n  at: exports/x/all.json:2"));
        assert!(error("[\n{}\n{}\n]\n").contains("found `{}`, expected `]`, since the record before has no comma"));
        assert!(error("[\n]\n[").contains("found `[`, expected nothing after `]`\n  at: exports/x/all.json:3"));
        assert!(error("[\n{},\n]\n").contains("found `]`, expected a record\n"));
    }
}
