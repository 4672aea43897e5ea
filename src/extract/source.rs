//! The raw records that filters read: pages that were fetched whole, or that a program has written, checked against
//! their receipt.

use std::path::PathBuf;

use serde_json::value::RawValue;

use super::Place;
use super::variables::Export;
use crate::error::{Error, Result, excerpt};
use crate::files;
use crate::paths::page_file;
use crate::pipeline::{BodyPath, Pipeline, Stage};
use crate::receipt::Receipt;

// Neither the engine's reader nor the drop of a value has a limit of its own: deeper input would
// overflow the stack and end the process without a word. Real records are 4 deep.
const DEPTH_LIMIT: usize = 500;

/// The pages of one stage, in the order of their series.
pub struct Source {
    pub name: String,
    pub pages: Vec<Page>,
    /// One hash of all pages, for the receipt.
    pub hash: String,
    records: BodyPath,
    /// How pages come to be: by which binary, and in a word.
    made: (&'static str, &'static str),
}

pub struct Page {
    path: PathBuf,
    shown: String,
    sha256: String,
    pub size_bytes: u64,
    /// Index of the series, for `$each` and `slurp`.
    pub series: usize,
}

impl Source {
    /// The pages of `stage`, if the receipt says that they are whole.
    pub fn open(pipeline: &Pipeline, stage: &Stage, records: BodyPath) -> Result<Source> {
        let paths = &pipeline.paths;
        let mut pages = Vec::new();
        if stage.run().is_some() {
            let receipt = Receipt::of_run(paths, &stage.name)?;
            for (number, page) in (1..).zip(&receipt.pages) {
                let path = page_file(&paths.pages(&stage.name), None, number);
                let (sha256, size_bytes) = (page.sha256.clone(), page.size_bytes);
                pages.push(Page { shown: paths.shown(&path), path, sha256, size_bytes, series: 0 });
            }
            let (name, hash) = (stage.name.clone(), receipt.pages_hash());
            return Ok(Source { name, pages, hash, records, made: ("mirror42-exec", "written") });
        }
        let receipt = Receipt::sealed_fetch(paths, &stage.name)?;
        for (index, series) in receipt.series.iter().enumerate() {
            for (number, page) in (1..).zip(&series.pages) {
                let path = page_file(&paths.pages(&stage.name), series.key.as_deref(), number);
                pages.push(Page {
                    shown: paths.shown(&path),
                    path,
                    sha256: page.sha256.clone(),
                    size_bytes: page.size_bytes,
                    series: index,
                });
            }
        }
        let (name, hash) = (stage.name.clone(), receipt.pages_hash());
        Ok(Source { name, pages, hash, records, made: ("mirror42-fetch", "fetched") })
    }

    /// The export that the pages were fetched for must be the one that is there now.
    pub fn check_each(&self, pipeline: &Pipeline, each: &Export) -> Result<()> {
        let receipt = Receipt::read(&pipeline.paths, &self.name)?.and_then(|receipt| receipt.fetch);
        if receipt.is_some_and(|fetch| fetch.inputs.get(&each.stage) == Some(&each.sha256)) {
            return Ok(());
        }
        Err(Error::failed(format!(
            "the pages of stage `{}` were fetched for another export of `{}`",
            self.name, each.stage
        ))
        .at(pipeline.paths.shown(&pipeline.paths.all_json(&each.stage)))
        .hint(format!("Run `mirror42-fetch {}`, or `mirror42 run`.", self.name)))
    }

    /// The text of a page, as it was fetched.
    pub fn text(&self, page: &Page) -> Result<String> {
        let (binary, made) = self.made;
        let changed = |what: &str| {
            Error::failed(format!("page `{}` {what}", page.shown))
                .hint(format!("Run `{binary} {}`, or `mirror42 run`.", self.name))
        };
        let bytes = files::read_if_there(&page.path)?.ok_or_else(|| changed("is not there"))?;
        if files::sha256_of(&bytes) != page.sha256 {
            return Err(changed(&format!("is not what was {made}: its hash is not the one in the receipt")));
        }
        String::from_utf8(bytes).map_err(|_| changed("is not UTF-8"))
    }

    /// The records of a page's text.
    pub fn split<'a>(&self, page: &Page, text: &'a str) -> Result<Vec<&'a RawValue>> {
        let records = self.records.records(text);
        let records: Vec<&RawValue> =
            records.map_err(|cause| Error::failed(format!("page `{}` is not JSON records: {cause}", page.shown)))?;
        if let Some(i) = records.iter().position(|record| depth(record.get()) > DEPTH_LIMIT) {
            return Err(Error::failed(format!("a record is more than {DEPTH_LIMIT} levels deep")).at(format!(
                "{}, record {}",
                page.shown,
                i + 1
            )));
        }
        Ok(records)
    }

    /// A record's place, with its id if it has one, as messages name it.
    pub fn place(&self, place: Place) -> String {
        let page = &self.pages[place.page as usize];
        let number = place.record as usize;
        let id = self.text(page).ok().and_then(|text| {
            let records = self.split(page, &text).ok()?;
            let members: std::collections::HashMap<&str, &RawValue> =
                serde_json::from_str(records.get(number)?.get()).ok()?;
            Some(format!(" (id {})", excerpt(members.get("id")?.get(), 40)))
        });
        format!("{}, record {}{}", page.shown, number + 1, id.unwrap_or_default())
    }
}

/// What is wrong with the first string of valid JSON that names half a character: of a pair of
/// surrogates (`\ud83d\ude00` is one emoji) the one without the other. JSON's grammar allows it, no
/// text can hold it.
pub fn half_character(json: &str) -> Option<String> {
    let bytes = json.as_bytes();
    let mut member = "";
    let mut at = 0;
    while let Some(start) = json[at..].find('"').map(|offset| at + offset + 1) {
        let mut end = start;
        while bytes[end] != b'"' {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        let text = &json[start..end];
        at = end + 1;
        if serde_json::from_str::<String>(&json[start - 1..at]).is_err() {
            let text = excerpt(text, 60);
            return Some(format!("the string \"{text}\" of `{}` holds half a character", excerpt(member, 60)));
        }
        if json[at..].trim_start().starts_with(':') {
            member = text;
        }
    }
    None
}

/// How deep arrays and objects are nested in valid JSON.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => loop {
                match bytes.next() {
                    Some(b'\\') => drop(bytes.next()),
                    Some(b'"') | None => break,
                    Some(_) => {}
                }
            },
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::{depth, half_character};

    #[test]
    fn half_a_character_is_found_with_its_member() {
        assert_eq!(half_character(r#"{"a":"\\ud800","b":["\ud83d\ude00\"",1]}"#), None);
        let text = r#"{"a":"\"", "b" : ["x", {"c": "y\ude00"}]}"#;
        assert_eq!(half_character(text).unwrap(), r#"the string "y\ude00" of `c` holds half a character"#);
    }

    #[test]
    fn depth_counts_brackets_but_not_those_in_strings() {
        assert_eq!(depth("1"), 0);
        assert_eq!(depth(r#"{"a":[1,{"b":2}],"c":"[[[[\"[["}"#), 3);
        assert_eq!(depth(r#"["\\",[]]"#), 2);
    }
}
