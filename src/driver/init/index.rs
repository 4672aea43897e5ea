//! One index of the API: what a stage and a table for it would be, by two or three answers.

use serde_json::Value;

use super::ask::Draft;
use super::names::snake;
use super::paging::{self, Paging, SIZE_WANTED};
use super::records::{self, Column, Record};
use crate::driver::sample::{Sample, with_parameter};
use crate::error::{Error, Kind, Result};

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
    /// What could not be found out, or was assumed.
    pub notes: Vec<String>,
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
        let places = records::places(&first.body(), &name).map_err(unfit)?;
        let place = places.first().cloned().unwrap_or_default();
        let mut seen = records::records(first.text(), &place).map_err(unfit)?;
        let mut notes = Vec::new();
        if let [taken, other, ..] = &places[..] {
            notes.push(format!("its records are taken from `{taken}`; `{other}` has objects too"));
        }
        let mut asker = Asker { draft, path: &path, place: &place, first: &first, notes };
        let mut paging = match paging::told(&first, &place, seen.len() as u64) {
            Some(paging) => asker.verified(paging, seen.len() as u64)?,
            None if place == "." => paging::tried(&place, false),
            None => paging::tried(&place, asker.understands_pages()?),
        };
        if paging.is_paged() {
            asker.ask_for_more(&mut paging, &mut seen)?;
        }
        let notes = asker.notes;
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
            notes,
            limits: (first.number("x-secondly-ratelimit-limit"), first.number("x-hourly-ratelimit-limit")),
        })
    }

    pub fn key_names(&self) -> Vec<&str> {
        self.key.iter().map(|place| self.columns[*place].name.as_str()).collect()
    }

    /// The columns of which nothing is known.
    pub fn always_null(&self) -> Vec<&str> {
        let null = self.columns.iter().filter(|column| column.kind == records::Kind::Null);
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

/// Asks what the first answer leaves open; what cannot be found out, or is not as it seemed, is noted.
struct Asker<'a> {
    draft: &'a Draft,
    path: &'a str,
    /// Of the records in an answer.
    place: &'a str,
    first: &'a Sample,
    notes: Vec<String>,
}

impl Asker<'_> {
    /// The answer to this path, or why there is none: that the server refuses it is an answer too. Only who is to ask no more
    /// ends with it.
    fn ask(&self, path: &str) -> Result<Result<Sample, String>> {
        match self.draft.sample(path) {
            Ok(sample) => Ok(Ok(sample)),
            Err(error) if error.kind() == Kind::Later => Err(error),
            Err(error) => Ok(Err(error.message().to_string())),
        }
    }

    fn values(&self, sample: &Sample) -> Result<Vec<Value>, String> {
        let records = records::records(sample.text(), self.place)?;
        Ok(records.into_iter().map(|Record(members)| Value::Object(members.into_iter().collect())).collect())
    }

    /// The paging that the first answer tells of, seen to lead to other records where there are more.
    fn verified(&mut self, paging: Paging, count: u64) -> Result<Paging> {
        let Some(second) = paging.second(self.first, self.path, count) else { return Ok(paging) };
        let found = self.ask(&second)?.and_then(|second| self.values(&second));
        self.notes.extend(match found {
            Err(why) => Some(format!("its second page, `{second}`, could not be looked at: {why}; check its paging")),
            Ok(found) if found.is_empty() && paging.total_of(self.first).is_some() => {
                Some(format!("its second page, `{second}`, is empty; check its paging"))
            }
            Ok(found) if !found.is_empty() && self.values(self.first).is_ok_and(|first| first == found) => {
                Some(format!("its second page, `{second}`, has the records of the first; check its paging"))
            }
            Ok(_) => None,
        });
        Ok(paging)
    }

    /// Whether `page=2` gives other records.
    fn understands_pages(&mut self) -> Result<bool> {
        match self.ask(&with_parameter(self.path, "page", 2))?.and_then(|second| self.values(&second)) {
            Ok(second) => Ok(self.values(self.first).is_ok_and(|first| first != second)),
            Err(why) => {
                self.notes.push(format!("whether there are more pages could not be found out: {why}"));
                Ok(false)
            }
        }
    }

    /// Asks for a page of the size that a fetch will ask for, and keeps what is known of the parameter for it.
    fn ask_for_more(&mut self, paging: &mut Paging, seen: &mut Vec<Record>) -> Result<()> {
        let told = paging.size_param.take();
        let param = told.clone().unwrap_or_else(|| paging.usual_size_param().to_string());
        let answer = self.ask(&with_parameter(self.path, &param, SIZE_WANTED))?;
        match answer.and_then(|sample| records::records(sample.text(), &paging.records)) {
            Ok(more) if more.len() > seen.len() => {
                paging.size_param = Some(param);
                *seen = more;
            }
            // Either way it does no harm; but of a parameter that nothing tells of, it is better to ask nothing.
            Ok(_) => paging.size_param = told,
            Err(why) => {
                self.notes.push(format!("`{param}={SIZE_WANTED}` gives no page of records: {why}"));
                // A server that gives no page so large gives the one that it gave unasked.
                if told.is_some() {
                    paging.size_param = told;
                    paging.size = seen.len() as u64;
                }
            }
        }
        Ok(())
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
