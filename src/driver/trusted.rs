//! Exports that are taken as they are (`--trust-exports`): looked at as closely as our own, and given a receipt that says
//! whose work they are.

use std::collections::{BTreeMap, HashMap};

use serde_json::value::RawValue;

use super::verdict::Reason;
use crate::error::{Error, Result, excerpt};
use crate::export::Reader;
use crate::files::Lock;
use crate::log as logs;
use crate::pipeline::{Pipeline, Stage};
use crate::receipt::{AS_IT_WAS, BY_HAND, ExtractReceipt, Receipt};

/// A member of a key; in the order of exports: truths, integers by size, strings by code point.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Member {
    Truth(bool),
    Integer(i128),
    Text(String),
}

/// Takes the export of `stage` as it is: from now on its receipt is of this file. `reason` says why it would be made anew.
pub fn take(pipeline: &Pipeline, stage: &Stage, reason: &Reason) -> Result<()> {
    let paths = &pipeline.paths;
    let _lock = Lock::of_stage(paths, &stage.name)?;
    let (sha256, records) = read(pipeline, stage)?;
    let path = paths.all_json(&stage.name);
    let metadata = std::fs::metadata(&path).map_err(|cause| Error::io("read", &path, &cause))?;
    let mut receipt = Receipt::read_or_new(paths, &stage.name)?;
    receipt.extract = Some(ExtractReceipt {
        definition: if matches!(reason, Reason::OutputEdited) { BY_HAND } else { AS_IT_WAS }.to_string(),
        // Whatever it was made from, it is what counts.
        inputs: BTreeMap::new(),
        finished_at: logs::now(),
        duration_ms: 0,
        records_in: records,
        records_out: records,
        duplicates: 0,
        size_bytes: metadata.len(),
        sha256,
    });
    log::warn!(target: &stage.name, "{reason}: its {records} records are taken as they are");
    receipt.write(paths)
}

/// Reads an export to its end: its hash and the number of its records. What is no export of the stage is told by its line.
fn read(pipeline: &Pipeline, stage: &Stage) -> Result<(String, u64)> {
    let path = pipeline.paths.all_json(&stage.name);
    let shown = pipeline.paths.shown(&path);
    let mut reader = Reader::open(&path, &shown)?;
    let mut last: Option<Vec<Member>> = None;
    let mut records = 0;
    while let Some((line, record)) = reader.read()? {
        let wrong = |what: String| {
            Error::failed(format!("`{shown}` cannot be taken as the export of stage `{}`: {what}", stage.name))
                .at(format!("{shown}:{line}"))
                .hint("Mend the line, or run without `--trust-exports`: the stage is then made from its pages.")
        };
        let key = key_of(record, &stage.key).map_err(wrong)?;
        if let Some(last) = last.filter(|last| *last >= key) {
            let what = if last == key { "has the key of the record before it" } else { "is not in its place" };
            let (here, before) = (shown_key(&stage.key, &key), shown_key(&stage.key, &last));
            return Err(wrong(format!("the record {what}: {here} after {before}")));
        }
        last = Some(key);
        records += 1;
    }
    Ok((reader.sha256(), records))
}

fn key_of(record: &[u8], names: &[String]) -> Result<Vec<Member>, String> {
    let members: HashMap<String, &RawValue> =
        serde_json::from_slice(record).map_err(|cause| format!("the record is no JSON object: {cause}"))?;
    let member = |name: &String| {
        let raw = members.get(name).ok_or_else(|| format!("the record has no key member `{name}`"))?.get();
        let parsed = match raw.as_bytes().first() {
            Some(b'"') => serde_json::from_str(raw).ok().map(Member::Text),
            Some(b't' | b'f') => Some(Member::Truth(raw == "true")),
            _ => raw.parse().ok().map(Member::Integer),
        };
        parsed.ok_or_else(|| {
            format!("the key member `{name}` is {}, expected an integer, a string or a boolean", excerpt(raw, 40))
        })
    };
    names.iter().map(member).collect()
}

fn shown_key(names: &[String], key: &[Member]) -> String {
    let member = |(name, member): (&String, &Member)| match member {
        Member::Truth(truth) => format!("{name} {truth}"),
        Member::Integer(number) => format!("{name} {number}"),
        Member::Text(text) => format!("{name} {:?}", excerpt(text, 40)),
    };
    names.iter().zip(key).map(member).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read_text(text: &str) -> Result<(String, u64)> {
        let folder = tempfile::tempdir().unwrap();
        let pipeline = "[pipeline]\nname = \"t\"\n[api]\nbase_url = \"http://localhost\"\n\
                        [[stage]]\nname = \"s\"\nfetch = \"/s\"\nkey = [\"a\", \"b\"]\n";
        let pipeline = Pipeline::parse(&folder.path().join("pipeline.toml"), pipeline)?;
        let path = pipeline.paths.all_json("s");
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(""))).unwrap();
        std::fs::write(path, text).unwrap();
        read(&pipeline, &pipeline.stages[0])
    }

    #[test]
    fn an_export_in_the_order_of_its_key_is_one() {
        let text = "[\n{\"a\":false,\"b\":1},\n{\"a\":-3,\"b\":1},\n{\"a\":7,\"b\":1},\n {\"b\":\"x\",\"a\":7},\n\
                    {\"a\":12345678901234567890,\"b\":0},\n{\"a\":\"\\u0041\",\"b\":0}\n]\n";
        let (sha256, records) = read_text(text).unwrap();
        assert_eq!((sha256, records), (crate::files::sha256_of(text.as_bytes()), 6));
        assert_eq!(read_text("[\n]\n").unwrap().1, 0);
    }

    #[test]
    fn what_is_no_export_is_told_by_its_line() {
        let error = |records: &str| read_text(&format!("[\n{records}\n]\n")).unwrap_err().to_string();
        let says = |records: &str, what: &str, line: u32| {
            let hint = "Mend the line, or run without `--trust-exports`: the stage is then made from its pages.";
            let expected = format!(
                "`exports/s/all.json` cannot be taken as the export of stage `s`: {what}\n  \
                 at: exports/s/all.json:{line}\n  hint: {hint}"
            );
            assert_eq!(error(records), expected);
        };
        says("{\"a\":1}", "the record has no key member `b`", 2);
        says("{\"a\":1,\"b\":2},\n{\"a\":1,\"b\":1}", "the record is not in its place: a 1, b 1 after a 1, b 2", 3);
        let twice = "{\"a\":\"x\",\"b\":2},\n{\"a\":\"x\",\"b\":2}";
        says(twice, "the record has the key of the record before it: a \"x\", b 2 after a \"x\", b 2", 3);
        says("{\"a\":1.5,\"b\":2}", "the key member `a` is 1.5, expected an integer, a string or a boolean", 2);
        says("{\"a\":null,\"b\":2}", "the key member `a` is null, expected an integer, a string or a boolean", 2);
        says("{\"a\":1,}", "the record is no JSON object: trailing comma at line 1 column 8", 2);
        assert!(error("7").starts_with("`exports/s/all.json` is not an export: found `7`"), "{}", error("7"));
    }
}
