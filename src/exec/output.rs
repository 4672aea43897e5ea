//! What a program has written, as pages: every record's bytes as they are, a few megabytes a page, so that the filters work on
//! them in parallel and in bounded memory.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::de::{Deserializer as _, Error as _, SeqAccess, Visitor};
use serde_json::Deserializer;
use serde_json::value::RawValue;

use crate::error::{Error, Result, excerpt};
use crate::files::{self, AtomicFile};
use crate::paths::page_file;
use crate::pipeline::{Pipeline, Stage};
use crate::progress::Task;
use crate::receipt::OutputPage;

// Two of them make a batch of the extract, so that two threads share its work.
const PAGE_BYTES: u64 = 4 << 20;
const BUFFER_BYTES: usize = 1 << 18;
/// Of a line in a message.
const SHOWN_CHARS: usize = 100;
const FORMS: &str = "Write a JSON array, or one record a line, to the file that `MIRROR42_OUTPUT` names.";

/// Makes pages of the records in `output`, in the folder of pages under way.
pub fn keep(pipeline: &Pipeline, stage: &Stage, output: &Path, task: &Task) -> Result<Vec<OutputPage>> {
    let folder = pipeline.paths.pages_under_way(&stage.name);
    // What a killed process has left.
    files::remove_dir(&folder)?;
    let mut pages = Pages { folder, task, page: None, done: Vec::new() };
    let read = read(pipeline, stage, output, &mut pages).and_then(|()| pages.end());
    if read.is_err() {
        files::remove_dir(&pages.folder)?;
    }
    read.map(|()| pages.done)
}

fn read(pipeline: &Pipeline, stage: &Stage, output: &Path, pages: &mut Pages) -> Result<()> {
    let open = || File::open(output).map(|file| BufReader::with_capacity(BUFFER_BYTES, file));
    let open = || open().map_err(|cause| Error::io("read", output, &cause));
    let first = first_byte(open()?).map_err(|cause| Error::io("read", output, &cause))?;
    let Some(first) = first else {
        return Err(Error::failed(format!("the program of stage `{}` wrote nothing", stage.name))
            .at(pipeline.place(stage.line))
            .detail("All exports are as they were.")
            .hint(format!("{FORMS} No records are `[]`.")));
    };
    let mut failure = None;
    let mut take = |record: &RawValue| {
        let kept = pages.record(record);
        kept.map_err(|error| failure = Some(error)).is_ok()
    };
    let read = match first {
        b'[' => array(open()?, &mut take),
        _ => records(open()?, &mut take),
    };
    match (failure, read) {
        (Some(failure), _) => Err(failure),
        (None, read) => read.map_err(|cause| no_json(stage, output, &cause)),
    }
}

fn first_byte(reader: impl BufRead) -> std::io::Result<Option<u8>> {
    reader.bytes().find(|byte| !byte.as_ref().is_ok_and(u8::is_ascii_whitespace)).transpose()
}

/// The elements of one array.
fn array(reader: impl Read, take: &mut dyn FnMut(&RawValue) -> bool) -> serde_json::Result<()> {
    struct Elements<'a>(&'a mut dyn FnMut(&RawValue) -> bool);

    impl<'de> Visitor<'de> for Elements<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an array of records")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
            while let Some(record) = elements.next_element::<Box<RawValue>>()? {
                if !(self.0)(&record) {
                    return Err(A::Error::custom("it could not be kept"));
                }
            }
            Ok(())
        }
    }

    let mut json = Deserializer::from_reader(reader);
    json.deserialize_seq(Elements(take))?;
    json.end()
}

/// One value after the other.
fn records(reader: impl Read, take: &mut dyn FnMut(&RawValue) -> bool) -> serde_json::Result<()> {
    for record in Deserializer::from_reader(reader).into_iter::<Box<RawValue>>() {
        if !take(&record?) {
            break;
        }
    }
    Ok(())
}

/// The error that names the line: by then the file is read to its first mistake only.
fn no_json(stage: &Stage, output: &Path, cause: &serde_json::Error) -> Error {
    if cause.is_io() {
        return Error::failed(format!("could not read `{}`: {cause}", output.display()));
    }
    let text = cause.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    let line = File::open(output).ok().and_then(|file| {
        let line = BufReader::new(file).split(b'\n').nth(cause.line().checked_sub(1)?)?.ok()?;
        Some(excerpt(&String::from_utf8_lossy(&line), SHOWN_CHARS))
    });
    let error = Error::failed(format!("the output of stage `{}` is not JSON: {what}", stage.name)).at(format!(
        "the file of `MIRROR42_OUTPUT`, line {}, column {}",
        cause.line(),
        cause.column()
    ));
    let error = match line {
        Some(line) => error.detail(format!("The line is `{line}`.")),
        None => error,
    };
    error.detail("All exports are as they were.").hint(FORMS)
}

/// The pages that are being made.
struct Pages<'a> {
    folder: PathBuf,
    task: &'a Task,
    /// The one under way, with its records and its bytes.
    page: Option<(AtomicFile, u64, u64)>,
    done: Vec<OutputPage>,
}

impl Pages<'_> {
    fn record(&mut self, record: &RawValue) -> Result<()> {
        let (file, records, size_bytes) = match &mut self.page {
            Some(page) => page,
            None => self.page.insert((self.begin()?, 0, 0)),
        };
        file.write(if *records > 0 { b",\n" } else { b"[\n" })?;
        file.write(record.get().as_bytes())?;
        *records += 1;
        *size_bytes += record.get().len() as u64;
        self.task.add(1);
        if *size_bytes >= PAGE_BYTES { self.close() } else { Ok(()) }
    }

    fn begin(&self) -> Result<AtomicFile> {
        AtomicFile::create(&page_file(&self.folder, None, self.done.len() as u32 + 1))
    }

    fn close(&mut self) -> Result<()> {
        let Some((mut file, records, _)) = self.page.take() else { return Ok(()) };
        file.write(b"\n]\n")?;
        let written = file.commit()?;
        self.done.push(OutputPage { records, size_bytes: written.size_bytes, sha256: written.sha256 });
        Ok(())
    }

    /// The last page is closed; without records there is one that says so.
    fn end(&mut self) -> Result<()> {
        if self.page.is_none() && self.done.is_empty() {
            let mut file = self.begin()?;
            file.write(b"[")?;
            self.page = Some((file, 0, 0));
        }
        self.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pages that come of `output`, or the error.
    fn kept(output: &str) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let text = "[pipeline]\nname = \"t\"\n[api]\nbase_url = \"http://localhost\"\n\
                    [[stage]]\nname = \"a\"\nrun = [\"x\"]\nkey = [\"id\"]\n";
        let pipeline = Pipeline::parse(&folder.path().join("pipeline.toml"), text).unwrap();
        let file = folder.path().join("output");
        std::fs::write(&file, output).unwrap();
        let task = Task::start("a", "run", "records", None);
        let pages = keep(&pipeline, &pipeline.stages[0], &file, &task);
        let under_way = pipeline.paths.pages_under_way("a");
        let pages = pages.map_err(|error| {
            assert!(!under_way.exists());
            error.to_string().replace(&folder.path().display().to_string(), "")
        })?;
        let texts = (1..).zip(&pages).map(|(number, page)| {
            let path = page_file(&under_way, None, number);
            let text = std::fs::read_to_string(&path).unwrap();
            let records: Vec<Box<RawValue>> = serde_json::from_str(&text).unwrap();
            assert_eq!((records.len() as u64, text.len() as u64), (page.records, page.size_bytes));
            assert_eq!(files::sha256(&path).unwrap().unwrap(), page.sha256);
            text
        });
        Ok(texts.collect())
    }

    #[test]
    fn an_array_and_lines_of_records_are_the_same_and_bytes_are_kept() {
        let page = "[\n{\"id\":1, \"n\":1.10},\n{\"id\":2}\n]\n";
        assert_eq!(kept("[{\"id\":1, \"n\":1.10}, {\"id\":2}]").unwrap(), [page]);
        assert_eq!(kept("{\"id\":1, \"n\":1.10}\n{\"id\":2}\n").unwrap(), [page]);
        assert_eq!(kept("\n [\n{\"id\":1, \"n\":1.10}\n,{\"id\":2}\n]\n\n").unwrap(), [page]);
        assert_eq!(kept(" [ ] ").unwrap(), ["[\n]\n"]);
    }

    #[test]
    fn a_long_output_is_several_pages() {
        let long = format!("{{\"id\":1,\"text\":\"{}\"}}\n", "x".repeat(3 << 20));
        let pages = kept(&long.repeat(5)).unwrap();
        assert_eq!(pages.iter().map(|page| page.matches("\"id\"").count()).collect::<Vec<_>>(), [2, 2, 1]);
    }

    #[test]
    fn what_is_not_json_is_told_with_its_line() {
        let case = |output: &str, what: &str, place: &str, line: &str| {
            assert_eq!(
                kept(output).unwrap_err(),
                format!(
                    "the output of stage `a` is not JSON: {what}\n  at: the file of `MIRROR42_OUTPUT`, {place}\n  \
                     detail: The line is `{line}`.\n  detail: All exports are as they were.\n  \
                     hint: Write a JSON array, or one record a line, to the file that `MIRROR42_OUTPUT` names."
                )
            );
        };
        case("{\"id\":1}\nid 2\n", "expected value", "line 2, column 1", "id 2");
        case("[{\"id\":1},\n{\"id\":2},\n]", "trailing comma", "line 3, column 1", "]");
        case("[{\"id\":1}]\n[]", "trailing characters", "line 2, column 1", "[]");
        case("{\"id\":1}\n{\"id\":", "EOF while parsing a value", "line 2, column 6", "{\"id\":");
        case("[\n{\"id\":1}", "EOF while parsing a list", "line 2, column 8", "{\"id\":1}");
    }

    #[test]
    fn nothing_is_not_no_records() {
        for output in ["", " \n"] {
            assert_eq!(
                kept(output).unwrap_err(),
                "the program of stage `a` wrote nothing\n  at: /pipeline.toml:5\n  detail: All exports are as they were.\n  \
                 hint: Write a JSON array, or one record a line, to the file that `MIRROR42_OUTPUT` names. No records are `[]`."
            );
        }
    }
}
