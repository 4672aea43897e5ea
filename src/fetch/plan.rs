//! Which series of pages a stage consists of.

use std::collections::{BTreeMap, BTreeSet};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::export;
use crate::pipeline::{Fetch, Pipeline, Stage};

/// One series of pages to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The key of the `each` record, fit to name a folder.
    pub key: Option<String>,
    /// Path and query without the paging.
    pub path: String,
}

// What stays as it is in a folder's name and in a part of a path. Without the dot: a key of `..` is
// no way out.
pub const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// The series of `stage`, in the order of the `each` export; the hash of that export goes to `inputs`.
pub fn series(
    pipeline: &Pipeline,
    stage: &Stage,
    fetch: &Fetch,
    inputs: &mut BTreeMap<String, String>,
) -> Result<Vec<Plan>> {
    let Some(each) = &fetch.each else {
        return Ok(vec![Plan { key: None, path: fetch.path.clone() }]);
    };
    let each = pipeline.known_stage(each)?;
    let path = pipeline.paths.all_json(&each.name);
    let shown = pipeline.paths.shown(&path);
    if !path.exists() {
        return Err(Error::failed(format!(
            "stage `{}` fetches once per record of `{shown}`, which is not there",
            stage.name
        ))
        .at(pipeline.place(stage.line))
        .hint(format!("Run `mirror42-fetch {0}` and `mirror42-extract {0}` first, or `mirror42 run`.", each.name)));
    }
    let mut reader = export::Reader::open(&path, &shown)?;
    let mut plans = Vec::new();
    let mut keys = BTreeSet::new();
    while let Some((line, json)) = reader.read()? {
        let record = serde_json::from_slice::<Map<String, Value>>(json).map_err(|cause| {
            Error::failed(format!("a record of `{shown}` is not JSON: {cause}")).at(format!("{shown}:{line}"))
        })?;
        let plan =
            plan(&record, each, fetch).map_err(|message| Error::failed(message).at(format!("{shown}:{line}")))?;
        if !keys.insert(plan.key.clone()) {
            let key = plan.key.unwrap_or_default();
            return Err(
                Error::failed(format!("two records of `{shown}` have the key {key}")).at(format!("{shown}:{line}"))
            );
        }
        plans.push(plan);
    }
    inputs.insert(each.name.clone(), reader.sha256());
    Ok(plans)
}

fn plan(record: &Map<String, Value>, each: &Stage, fetch: &Fetch) -> Result<Plan, String> {
    let key = each.key.iter().map(|member| text(record, member)).collect::<Result<Vec<_>, _>>()?;
    let mut path = String::new();
    let mut rest = fetch.path.as_str();
    while let Some((before, after)) = rest.split_once('{') {
        let (member, after) =
            after.split_once('}').ok_or_else(|| format!("`{}` has a `{{` without `}}`", fetch.path))?;
        path.push_str(before);
        path.push_str(&text(record, member)?);
        rest = after;
    }
    path.push_str(rest);
    Ok(Plan { key: Some(key.join(",")), path })
}

/// A member of the record as a part of a path: numbers and strings only.
fn text(record: &Map<String, Value>, member: &str) -> Result<String, String> {
    let text = match record.get(member) {
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::String(text)) if !text.is_empty() => text.clone(),
        Some(other) => {
            return Err(format!("member `{member}` is {other}, expected a number or a text to put into a path"));
        }
        None => return Err(format!("the record has no member `{member}`")),
    };
    Ok(utf8_percent_encode(&text, PLAIN).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(record: &str) -> Result<Vec<Plan>> {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"
            [pipeline]
            name = "t"
            [api]
            base_url = "http://localhost"
            [[stage]]
            name = "a"
            fetch = "/a"
            key = ["id"]
            [[stage]]
            name = "b"
            fetch = "/a/{id}/b?n={name}"
            each = "a"
            key = ["id"]"#;
        let pipeline = Pipeline::parse(&folder.path().join("pipeline.toml"), text)?;
        let mut writer = export::Writer::create(&pipeline.paths.all_json("a"))?;
        writer.record(record.as_bytes())?;
        writer.commit()?;
        let stage = pipeline.known_stage("b")?;
        let Some(fetch) = stage.fetch() else { panic!("b fetches") };
        series(&pipeline, stage, fetch, &mut BTreeMap::new())
    }

    #[test]
    fn members_of_the_record_fill_the_path() {
        let plans = planned(r#"{"id":7,"name":"Ä/.."}"#).unwrap();
        assert_eq!(plans, [Plan { key: Some("7".into()), path: "/a/7/b?n=%C3%84%2F%2E%2E".into() }]);
    }

    #[test]
    fn a_key_cannot_leave_the_folder() {
        assert_eq!(planned(r#"{"id":"..","name":"x"}"#).unwrap()[0].key.as_deref(), Some("%2E%2E"));
    }

    #[test]
    fn a_record_that_cannot_fill_it_is_named() {
        let error = planned(r#"{"id":7,"name":null}"#).unwrap_err().to_string();
        assert_eq!(
            error,
            "member `name` is null, expected a number or a text to put into a path\n  at: exports/a/all.json:2"
        );
    }
}
