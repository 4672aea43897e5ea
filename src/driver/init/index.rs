//! One index of the API: what a stage and a table for it would be, by two or three answers.

use serde_json::Value;

use super::ask::Draft;
use super::names::snake;
use super::paging::{self, Paging, SIZE_WANTED};
use super::records::{self, Column, Kind, Record};
use crate::driver::sample::{Sample, with_parameter};
use crate::error::{Error, Result};

pub struct Index {
    pub url: String,
    /// As the stage fetches it.
    pub path: String,
    pub stage: String,
    pub table: String,
    pub paging: Paging,
    pub columns: Vec<Column>,
    /// The columns that tell its records apart, by place.
    pub key: Vec<usize>,
    /// So many records were looked at.
    pub seen: usize,
    /// What the server says of its limits: requests a second, and an hour.
    pub limits: (Option<u64>, Option<u64>),
}

impl Index {
    /// Asks for `path`; `number` is the place of the stage, and `tables` are the names that others have.
    pub fn look(draft: &Draft, path: &str, number: usize, tables: &[String]) -> Result<Index> {
        let path = paging::without_page(path);
        let name = name_of(&path);
        let first = draft.sample(&path)?;
        let unfit = |what: String| {
            Error::failed(format!("cannot make a stage of `{}`: {what}", first.url))
                .hint("Name an address that answers with records: an array of objects, on its own or in an object.")
        };
        let place = records::place(&first.body(), &name).map_err(unfit)?;
        let mut seen = records::records(first.text(), &place).map_err(unfit)?;
        let mut paging = match paging::told(&first, &place, seen.len() as u64) {
            Some(paging) => paging,
            None if place == "." => paging::tried(&place, false),
            None => paging::tried(&place, understands_pages(draft, &path, &place, &first)),
        };
        if paging.is_paged() {
            ask_for_more(draft, &path, &mut paging, &mut seen);
        }
        let columns = records::columns(&seen);
        let key = records::key(&columns, &seen)
            .ok_or_else(|| unfit("no member, and no two of them, tell its records apart".to_string()))?;
        paging.id = match key.as_slice() {
            [one] => columns[*one].member.clone(),
            // It is there, and does not tell records apart: no member is to be looked at.
            _ => seen.iter().any(|record| record.get("id").is_some()).then(|| "-".to_string()),
        };
        Ok(Index {
            url: first.url.clone(),
            path,
            stage: format!("{number:02}_{name}"),
            table: table(&name, tables),
            paging,
            columns,
            key,
            seen: seen.len(),
            limits: (first.number("x-secondly-ratelimit-limit"), first.number("x-hourly-ratelimit-limit")),
        })
    }

    pub fn key_names(&self) -> Vec<&str> {
        self.key.iter().map(|place| self.columns[*place].name.as_str()).collect()
    }

    /// The columns of which nothing is known.
    pub fn always_null(&self) -> Vec<&str> {
        let null = self.columns.iter().filter(|column| column.kind == Kind::Null);
        null.map(|column| column.name.as_str()).collect()
    }
}

/// What an index is called: the last part of its path that is a word.
fn name_of(path: &str) -> String {
    let path = path.split('?').next().unwrap_or("");
    let parts = path.rsplit('/').map(|part| part.split('.').next().unwrap_or(""));
    let word = parts.into_iter().find(|part| part.contains(|c: char| c.is_ascii_alphabetic()));
    word.map_or_else(|| "records".to_string(), snake)
}

fn table(name: &str, tables: &[String]) -> String {
    let numbered = (2..).map(|n| format!("{name}_{n}"));
    let mut names = [name.to_string()].into_iter().chain(numbered);
    names.find(|name| !tables.contains(name)).unwrap_or_else(|| name.to_string())
}

/// Whether `page=2` gives other records. That the server refuses it is an answer too.
fn understands_pages(draft: &Draft, path: &str, place: &str, first: &Sample) -> bool {
    let values = |sample: &Sample| -> Option<Vec<Value>> {
        let records = records::records(sample.text(), place).ok()?;
        Some(records.into_iter().map(|Record(members)| Value::Object(members.into_iter().collect())).collect())
    };
    let second = draft.sample(&with_parameter(path, "page", 2)).ok();
    second.and_then(|second| values(&second)).is_some_and(|second| values(first).is_some_and(|first| first != second))
}

/// Asks for a page of the size that a fetch will ask for, and keeps what is known of the parameter for it.
fn ask_for_more(draft: &Draft, path: &str, paging: &mut Paging, seen: &mut Vec<Record>) {
    let told = paging.size_param.take();
    let param = told.clone().unwrap_or_else(|| paging.usual_size_param().to_string());
    let answer = draft.sample(&with_parameter(path, &param, SIZE_WANTED)).ok();
    let more = answer.and_then(|sample| records::records(sample.text(), &paging.records).ok());
    match more {
        Some(more) if more.len() > seen.len() => {
            paging.size_param = Some(param);
            *seen = more;
        }
        // Either way it does no harm; but of a parameter that nothing tells of, it is better to ask nothing.
        Some(_) => paging.size_param = told,
        // A server that gives no page so large gives the one that it gave unasked.
        None if told.is_some() => {
            paging.size_param = told;
            paging.size = seen.len() as u64;
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_called_by_the_last_word_of_its_path() {
        assert_eq!(name_of("/v2/cursus/21/projects?x=/y"), "projects");
        assert_eq!(name_of("/v2/cursus/21"), "cursus");
        assert_eq!(name_of("/api/OldBooks.json"), "old_books");
        assert_eq!(name_of("/"), "records");
        assert_eq!(table("a", &["a".into(), "a_2".into()]), "a_3");
    }
}
