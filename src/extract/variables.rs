//! Exports as variables of filters: `$campus`, its records as an array, and `$campus_by_key`, the
//! same records as members of an object, named by their key (`$campus_by_key["12"]`; several key
//! members are joined by a comma). Looking something up in the object costs the same however many
//! records there are; `any($campus[]; …)` walks them all at each step.

use std::collections::HashMap;

use jaq_json::{Map, Val};

use super::json;
use crate::error::{Error, Result};
use crate::export;
use crate::pipeline::{Pipeline, Stage};

/// An export, read whole.
#[derive(Clone)]
pub struct Export {
    pub stage: String,
    pub sha256: String,
    records: Val,
    by_key: Val,
}

/// The exports that the filters of one pass read, each read once.
#[derive(Default)]
pub struct Exports(HashMap<String, Export>);

impl Exports {
    pub fn get(&mut self, pipeline: &Pipeline, stage: &Stage) -> Result<Export> {
        if let Some(export) = self.0.get(&stage.name) {
            return Ok(export.clone());
        }
        let export = Export::read(pipeline, stage)?;
        self.0.insert(stage.name.clone(), export.clone());
        Ok(export)
    }
}

/// The names of a stage's variables, in the order of their values.
pub fn names(stage: &Stage, source_has_each: bool) -> Vec<String> {
    let each = source_has_each.then(|| "$each".to_string());
    let with = stage.with.iter().flat_map(|(name, _)| [format!("${name}"), format!("${name}_by_key")]);
    each.into_iter().chain(with).collect()
}

impl Export {
    fn read(pipeline: &Pipeline, stage: &Stage) -> Result<Export> {
        let path = pipeline.paths.all_json(&stage.name);
        let shown = pipeline.paths.shown(&path);
        if !path.exists() {
            return Err(Error::failed(format!("`{shown}` is not there"))
                .hint(format!("Run `mirror42-extract {}`, or `mirror42 run`.", stage.name)));
        }
        let mut reader = export::Reader::open(&path, &shown)?;
        let mut records = Vec::new();
        let mut by_key = Map::default();
        while let Some((line, text)) = reader.read()? {
            let wrong = |what: String| {
                Error::failed(format!("`{shown}` is not an export: {what}")).at(format!("{shown}:{line}"))
            };
            let record = jaq_json::read::parse_single(text).map_err(|cause| wrong(cause.to_string()))?;
            let key = key_text(&record, &stage.key).map_err(wrong)?;
            by_key.insert(Val::from(key), record.clone());
            records.push(record);
        }
        Ok(Export {
            stage: stage.name.clone(),
            sha256: reader.sha256(),
            records: Val::Arr(records.into()),
            by_key: Val::obj(by_key),
        })
    }

    pub fn values(&self) -> [Val; 2] {
        [self.records.clone(), self.by_key.clone()]
    }

    /// The records in the order of the file.
    pub fn records(&self) -> &[Val] {
        match &self.records {
            Val::Arr(records) => records,
            _ => &[],
        }
    }
}

fn key_text(record: &Val, key: &[String]) -> Result<String, String> {
    let Val::Obj(members) = record else { return Err(format!("{record} is not an object")) };
    let mut text = String::new();
    for (i, name) in key.iter().enumerate() {
        let member =
            members.get(&Val::from(name.clone())).ok_or_else(|| format!("the key member `{name}` is missing"))?;
        if i > 0 {
            text.push(',');
        }
        match member {
            Val::TStr(bytes) => text.push_str(&String::from_utf8_lossy(bytes)),
            other => {
                let mut bytes = Vec::new();
                json::write(&mut bytes, other)?;
                text.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
    }
    Ok(text)
}
