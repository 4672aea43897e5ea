//! The text of the records, straight into a buffer: ten million of them are a matter of seconds.

use fastrand::Rng;

use super::nights::Row;
use crate::simulate::data::Moment;
use crate::simulate::generate::{self, DAY_MS, rng_for};
use crate::simulate::json::{Json, Object};
use crate::simulate::words::{GOALS, NASTY, SENTENCES};

const CAMPUSES: usize = 54;
const PROJECTS: usize = 519;

/// The records of the small tables, which stay as they are, and what those of the big one are made of:
/// texts that are escaped already, once and not for every record.
pub struct Words {
    pub campuses: Vec<Vec<u8>>,
    pub projects: Vec<Vec<u8>>,
    campus_ids: Vec<i64>,
    project_ids: Vec<i64>,
    nasty: Vec<Vec<u8>>,
    sentences: Vec<Vec<u8>>,
    goals: Vec<Vec<u8>>,
}

impl Words {
    pub fn new(seed: u64) -> Words {
        let rng = &mut rng_for(seed, "small tables", 0);
        let campus_ids: Vec<i64> = (0..CAMPUSES as i64).map(|at| 1 + at + at / 7).collect();
        let project_ids: Vec<i64> = (0..PROJECTS as i64).map(|at| 1 + 4 * at + rng.i64(0..3)).collect();
        Words {
            campuses: (0..).zip(&campus_ids).map(|(at, id)| campus(rng, *id, at)).collect(),
            projects: project_ids.iter().map(|id| project(rng, *id)).collect(),
            campus_ids,
            project_ids,
            nasty: NASTY.map(escaped).into(),
            sentences: SENTENCES.map(escaped).into(),
            goals: GOALS.map(escaped).into(),
        }
    }

    /// Writes the record of a session.
    pub fn session(&self, row: &Row, out: &mut Vec<u8>) {
        let rng = &mut Rng::with_seed(row.content);
        let change = Change::of(rng, row.changed_on);
        let updated_at = generate::moment(rng).unix_ms + change.updated_at * DAY_MS;
        let difficulty = (rng.u8(..8) > 0).then(|| rng.i64(0..500) * 100);
        let changed_difficulty = (change.difficulty > 0).then(|| difficulty.unwrap_or(0) + change.difficulty);
        Object::new(out)
            .field("id", row.id)
            .field("project_id", self.project_ids[rng.usize(..PROJECTS)])
            .field("campus_id", (rng.u8(..6) > 0).then(|| self.campus_ids[rng.usize(..CAMPUSES)]))
            .field("begin_at", rng.bool().then(|| generate::zoned(rng)))
            .field("difficulty", changed_difficulty.or(difficulty))
            .field("max_people", (rng.u8(..3) == 0).then(|| rng.i64(1..6)))
            .field("exam", (rng.u8(..6) > 0).then(|| rng.bool()))
            .field("is_subscriptable", rng.bool())
            .field("description", self.description(rng, change.description))
            .field("objectives", self.objectives(rng, change.objectives))
            .field("scale", (rng.u8(..3) == 0).then(|| Scale { id: rng.i64(1..90_000), is_primary: rng.bool() }))
            .field("updated_at", Moment::utc(updated_at))
            .end();
    }

    fn description(&self, rng: &mut Rng, changed_on: i64) -> Text<'_> {
        let (first, second): (Option<&[u8]>, Option<&[u8]>) = match rng.u8(..16) {
            0..5 => (None, None),
            5 | 6 => (Some(b""), None),
            7..10 => (Some(pick(rng, &self.nasty)), None),
            10 => (Some(pick(rng, &self.nasty)), Some(pick(rng, &self.sentences))),
            11 | 12 => (Some(pick(rng, &self.sentences)), None),
            _ => (Some(pick(rng, &self.goals)), None),
        };
        Text { first, second, changed_on }
    }

    fn objectives(&self, rng: &mut Rng, changed_on: i64) -> Objectives<'_> {
        let goals = [pick(rng, &self.goals), pick(rng, &self.goals)];
        Objectives { goals, count: rng.usize(..=2), changed_on }
    }
}

fn campus(rng: &mut Rng, id: i64, at: usize) -> Vec<u8> {
    let campus = generate::campus(rng, id, at);
    let mut out = Vec::new();
    Object::new(&mut out)
        .field("id", id)
        .field("name", &campus.name)
        .field("time_zone", &campus.time_zone)
        .field("address", &campus.address)
        .field("website", &campus.website)
        .field("users_count", campus.users_count)
        .field("active", campus.active)
        .end();
    out
}

fn project(rng: &mut Rng, id: i64) -> Vec<u8> {
    let project = generate::project(rng, id, &[]);
    let mut out = Vec::new();
    Object::new(&mut out)
        .field("id", id)
        .field("name", &project.name)
        .field("slug", &project.slug)
        .field("difficulty", project.difficulty)
        .field("exam", project.exam)
        .field("recommendation", &project.recommendation)
        .field("created_at", project.created_at)
        .field("updated_at", project.updated_at)
        .end();
    out
}

/// As it stands between the quotes of a JSON string, with no more escapes than jq would write.
fn escaped(text: &str) -> Vec<u8> {
    let quoted = serde_json::Value::from(text).to_string();
    quoted.as_bytes()[1..quoted.len() - 1].to_vec()
}

fn pick<'a>(rng: &mut Rng, from: &'a [Vec<u8>]) -> &'a [u8] {
    &from[rng.usize(..from.len())]
}

/// The night of the last change in the columns that it changed, 0 in the others. Those of a row are always the same
/// one or two, so that no change takes an earlier one back.
#[derive(Default)]
struct Change {
    updated_at: i64,
    difficulty: i64,
    description: i64,
    objectives: i64,
}

impl Change {
    fn of(rng: &mut Rng, night: u64) -> Change {
        let night = night as i64;
        match rng.u8(..4) {
            0 => Change { updated_at: night, ..Change::default() },
            1 => Change { difficulty: night, ..Change::default() },
            2 => Change { updated_at: night, description: night, ..Change::default() },
            _ => Change { updated_at: night, objectives: night, ..Change::default() },
        }
    }
}

/// A text of up to two parts, which are escaped already; null without any.
struct Text<'a> {
    first: Option<&'a [u8]>,
    second: Option<&'a [u8]>,
    changed_on: i64,
}

impl Json for Text<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        if self.first.is_none() && self.changed_on == 0 {
            return out.extend_from_slice(b"null");
        }
        out.push(b'"');
        out.extend_from_slice(self.first.unwrap_or_default());
        if let Some(second) = self.second {
            out.push(b' ');
            out.extend_from_slice(second);
        }
        if self.changed_on > 0 {
            out.extend_from_slice(b" (night ");
            self.changed_on.write(out);
            out.push(b')');
        }
        out.push(b'"');
    }
}

/// An array of texts, of which a change adds a number.
struct Objectives<'a> {
    goals: [&'a [u8]; 2],
    count: usize,
    changed_on: i64,
}

impl Json for Objectives<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        for goal in &self.goals[..self.count] {
            Text { first: Some(goal), second: None, changed_on: 0 }.write(out);
            out.push(b',');
        }
        match (self.changed_on, self.count) {
            (0, 0) => {}
            (0, _) => out.truncate(out.len() - 1),
            (night, _) => night.write(out),
        }
        out.push(b']');
    }
}

struct Scale {
    id: i64,
    is_primary: bool,
}

impl Json for Scale {
    fn write(&self, out: &mut Vec<u8>) {
        Object::new(out).field("id", self.id).field("is_primary", self.is_primary).end();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value};

    use super::*;

    fn session(words: &Words, content: u64, changed_on: u64) -> Map<String, Value> {
        let mut out = Vec::new();
        words.session(&Row { id: 5, content, changed_on }, &mut out);
        assert!(!out.contains(&b'\n'));
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn every_record_is_a_line_of_json_with_the_same_members() {
        let words = Words::new(42);
        let names: Vec<String> = session(&words, 0, 0).keys().cloned().collect();
        for content in 0..5000 {
            assert!(session(&words, content, content % 3).keys().eq(&names));
        }
        assert_eq!((words.campuses.len(), words.projects.len()), (CAMPUSES, PROJECTS));
        for record in words.campuses.iter().chain(&words.projects) {
            assert!(serde_json::from_slice::<Map<String, Value>>(record).is_ok());
        }
    }

    #[test]
    fn a_record_is_as_long_as_one_of_the_mirror() {
        let (words, mut out) = (Words::new(42), Vec::new());
        (0..10_000).for_each(|n| words.session(&Row { id: 3_000_000 + n, content: n as u64, changed_on: 0 }, &mut out));
        let average = out.len() / 10_000;
        assert!((278..287).contains(&average), "{average} bytes");
    }

    #[test]
    fn every_change_shows_in_one_or_two_columns() {
        let words = Words::new(42);
        for content in 0..2000 {
            let nights = [0, 1, 4, 9].map(|night| session(&words, content, night));
            for (n, before) in nights.iter().enumerate() {
                for after in &nights[n + 1..] {
                    let differ = before.iter().filter(|(name, value)| after[name.as_str()] != **value).count();
                    assert!((1..=2).contains(&differ), "{before:?}\n{after:?}");
                }
            }
        }
    }

    #[test]
    fn every_kind_of_value_occurs() {
        let words = Words::new(42);
        let records: Vec<Map<String, Value>> = (0..2000).map(|content| session(&words, content, 0)).collect();
        let texts: Vec<String> = records.iter().map(|record| Value::Object(record.clone()).to_string()).collect();
        for part in ["\\\"", "\\\\N", "\\n", "🦀", "عربية", "+08:00\"", "-05:00\"", "Z\"", "[]", "\"\"", "{\"id\":"]
        {
            assert!(texts.iter().any(|text| text.contains(part)), "{part}");
        }
        for name in ["campus_id", "begin_at", "difficulty", "max_people", "exam", "description", "scale"] {
            assert!(records.iter().any(|record| record[name].is_null()), "{name}");
        }
    }
}
