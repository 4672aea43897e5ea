//! What decides a result, as one line: parts by their names, each as a hash, so that a receipt tells not only that its
//! definition was another, but in what.
//!
//! ```text
//! format:1 filter:8f434346648f6b96df89dda901c5176b with:… key:… duplicates:… slurp:… records:…
//! ```

use std::collections::BTreeMap;

use super::{BodyPath, Fetch, Page, PageStyle, Pipeline, Stage};
use crate::error::Result;
use crate::files;

/// The version of what the stage binaries write; a change makes every stage stale.
const DATA_FORMAT: u32 = 1;
/// Of a hash, in hex: 128 bits.
const HASH_CHARS: usize = 32;

impl Pipeline {
    /// All that decides what a fetch of `stage` asks for: a change makes its pages stale.
    pub fn fetch_definition(&self, fetch: &Fetch) -> String {
        // Their order in the file says nothing.
        let sorted = |pairs: &[(String, String)]| {
            let pairs: BTreeMap<&str, &str> = pairs.iter().map(|(name, value)| (&**name, &**value)).collect();
            format!("{pairs:?}")
        };
        // The key of the export names the series.
        let each = fetch.each.as_deref().and_then(|each| self.stage(each)).map(|each| (&each.name, &each.key));
        // Where the records are decides how many pages there are, and what proves them whole; but not of one answer, which
        // only the filter reads.
        let page = match fetch.page.style {
            PageStyle::None => Page { records: BodyPath::each_element(), ..fetch.page.clone() },
            _ => fetch.page.clone(),
        };
        line(&[
            ("address", &self.api.base_url),
            ("auth", &self.api.auth.definition()),
            ("fetch", &fetch.path),
            ("each", &format!("{each:?}")),
            ("page", &format!("{page:?}")),
            ("headers", &sorted(&self.api.headers)),
            ("query", &sorted(&self.api.query)),
        ])
    }

    /// All that decides what the filter of `stage` makes of its inputs: a change makes `all.json` stale.
    pub fn extract_definition(&self, stage: &Stage) -> Result<String> {
        let (_, raw) = self.source_of(stage)?;
        Ok(line(&[
            ("filter", &stage.jq.text),
            ("with", &format!("{:?}", stage.with)),
            ("key", &format!("{:?}", stage.key)),
            ("duplicates", &format!("{:?}", stage.duplicates)),
            ("slurp", &stage.slurp.to_string()),
            ("records", &format!("{:?}", raw.records())),
        ]))
    }

    /// All that decides what a load makes of the exports, but for the database itself.
    pub fn load_definition(&self) -> Result<String> {
        let schema = files::read_if_there(&self.paths.root().join(&self.schema))?.unwrap_or_default();
        let loaded = self.loaded().map(|(stage, table)| (&stage.name, table, &stage.key));
        let nul = self.loaded().map(|(stage, _)| stage.nul.unwrap_or(self.nul));
        let checks = self.checks.iter().map(|check| (&check.name, &check.sql));
        Ok(line(&[
            ("schema", &files::sha256_of(&schema)),
            ("tables", &format!("{:?}", loaded.collect::<Vec<_>>())),
            ("nul", &format!("{:?}", nul.collect::<Vec<_>>())),
            ("checks", &format!("{:?}", checks.collect::<Vec<_>>())),
        ]))
    }
}

/// The definition of these parts.
pub(super) fn line(parts: &[(&str, &str)]) -> String {
    let mut line = format!("format:{DATA_FORMAT}");
    for (name, text) in parts {
        line.push_str(&format!(" {name}:{}", &files::sha256_of(text.as_bytes())[..HASH_CHARS]));
    }
    line
}

/// The first part in which `old` differs from `new`, by its name; `format` where `old` is none that we know.
pub fn first_difference<'a>(old: &str, new: &'a str) -> &'a str {
    fn parts(line: &str) -> impl Iterator<Item = (&str, &str)> {
        line.split(' ').filter_map(|part| part.split_once(':'))
    }
    let of_old: BTreeMap<&str, &str> = parts(old).collect();
    let known = parts(new).all(|(name, _)| of_old.contains_key(name));
    let differs = |(name, value): &(&str, &str)| of_old.get(name) != Some(value);
    let found = parts(new).filter(|_| known).find(differs);
    found.map_or("format", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const TEXT: &str = "[pipeline]\nname = \"t\"\n[api]\nbase_url = \"http://localhost\"\n\
        [[stage]]\nname = \"a\"\nfetch = \"/a\"\njq = \".\"\nkey = [\"id\"]\ntable = \"a\"\n\
        [[stage]]\nname = \"z\"\nfetch = \"/z\"\nkey = [\"z\"]\n";

    fn parsed(text: &str) -> Pipeline {
        Pipeline::parse(Path::new("no-such-folder/pipeline.toml"), text).unwrap()
    }

    fn of_extract(text: &str) -> String {
        let pipeline = parsed(text);
        pipeline.extract_definition(&pipeline.stages[0]).unwrap()
    }

    fn of_fetch(text: &str) -> String {
        let pipeline = parsed(text);
        pipeline.fetch_definition(pipeline.stages[0].fetch().unwrap())
    }

    #[test]
    fn what_changed_is_told_by_its_name() {
        let told = |of: fn(&str) -> String, from: &str, to: &str| {
            let (old, new) = (of(TEXT), of(&TEXT.replace(from, to)));
            assert_ne!(old, new, "{to}");
            first_difference(&old, &new).to_string()
        };
        assert_eq!(told(of_extract, "jq = \".\"", "jq = \".x\""), "filter");
        assert_eq!(told(of_extract, "[\"id\"]", "[\"id\", \"b\"]"), "key");
        assert_eq!(told(of_extract, "jq =", "with = { x = \"z\" }\njq ="), "with");
        assert_eq!(told(of_extract, "jq =", "duplicates = \"last\"\njq ="), "duplicates");
        assert_eq!(told(of_extract, "jq =", "slurp = true\njq ="), "slurp");
        let elsewhere = "page = { records = \".data[]\" }\njq =";
        assert_eq!(told(of_extract, "jq =", elsewhere), "records");
        assert_eq!(told(of_fetch, "jq =", elsewhere), "page");
        // Of one answer it is the same pages, wherever the records are in them.
        let one = TEXT.replace("jq =", "page = { style = \"none\" }\njq =");
        assert_eq!(of_fetch(&one), of_fetch(&one.replace("\"none\"", "\"none\", records = \".\"")));
        assert_eq!(told(of_fetch, "/a\"", "/b\""), "fetch");
        assert_eq!(told(of_fetch, "localhost\"", "localhost/v2\""), "address");
        assert_eq!(told(of_fetch, "jq =", "page = { size = 7 }\njq ="), "page");
        assert_eq!(told(of_fetch, "localhost\"", "localhost\"\nquery = { a = \"b\" }"), "query");
        let of_load = |text: &str| parsed(text).load_definition().unwrap();
        assert_eq!(told(of_load, "table = \"a\"", "table = \"b\""), "tables");
        assert_eq!(told(of_load, "table = \"a\"", "table = \"a\"\nnul = \"strip\""), "nul");
        let check = "[[check]]\nname = \"c\"\nsql = \"select 1 where false\"\n[[stage]]";
        assert_eq!(told(of_load, "[[stage]]", check), "checks");
        assert_eq!(of_extract(TEXT), of_extract(&TEXT.replace("/a\"", "/b\"")));
    }

    #[test]
    fn a_definition_of_another_version_is_of_another_format() {
        let new = of_extract(TEXT);
        for old in ["", "8f434346648f6b96", "filter:1", &new.replace("format:1", "format:0")] {
            assert_eq!(first_difference(old, &new), "format", "{old}");
        }
    }
}
