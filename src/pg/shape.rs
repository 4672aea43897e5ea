//! The tables as they are beside the tables as `schema.sql` makes them, column by column and key by key.
//!
//! The file is run in a schema of its own, in a transaction that is rolled back: the server's catalog tells what it
//! means, and nobody has to read SQL here.

use std::collections::BTreeMap;

use postgres::{Client, Transaction};

use super::{failure, quoted, script};
use crate::error::{Error, Result};
use crate::pipeline::Pipeline;

/// Whether the database has what `schema.sql` makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compared {
    /// It has none of the tables that the stages fill: the first load makes so many.
    Empty { tables: usize },
    /// So many tables, and what is different.
    Tables { tables: usize, differences: Vec<Difference> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// As a sentence, without its period.
    pub what: String,
    /// The statement that makes the database as the file says.
    pub mend: Option<String>,
    /// A load cannot do without it.
    pub needed: bool,
}

/// A table, as far as it is compared.
#[derive(Clone, Debug, Default)]
struct Shape {
    columns: Vec<Column>,
    constraints: Vec<Constraint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    name: String,
    quoted: String,
    type_name: String,
    not_null: bool,
    default: Option<String>,
    /// How it comes to its value; empty: it is given.
    made: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Constraint {
    kind: String,
    quoted: String,
    definition: String,
}

/// Compares; nothing of it stays in the database.
pub fn compare(client: &mut Client, pipeline: &Pipeline) -> Result<Compared> {
    let file = pipeline.schema.display();
    let failed = |error: postgres::Error| failure(&format!("could not compare with `{file}`"), &error);
    let scratch = format!("mirror42_doctor_{}", std::process::id());
    let mut tx = client.transaction().map_err(failed)?;
    let path: String = tx.query_one("show search_path", &[]).map_err(failed)?.get(0);
    tx.batch_execute(&format!("set local lock_timeout = '2s'; create schema {scratch}")).map_err(failed)?;
    look_along(&mut tx, &format!("{scratch}, {path}")).map_err(failed)?;
    script::run_schema(&mut tx, pipeline)?;
    let query =
        "select relname::text, oid from pg_class where relnamespace = $1::text::regnamespace and relkind in ('r', 'p')";
    let made = tx.query(query, &[&scratch]).map_err(failed)?;
    let made: BTreeMap<String, u32> = made.iter().map(|row| (row.get(0), row.get(1))).collect();
    let expected = shapes(&mut tx, &made).map_err(failed)?;
    look_along(&mut tx, &path).map_err(failed)?;
    let mut there = BTreeMap::new();
    for name in made.keys() {
        let row = tx.query_one("select to_regclass($1::text)::oid", &[&quoted(name)]).map_err(failed)?;
        there.extend(row.get::<_, Option<u32>>(0).map(|oid| (name.clone(), oid)));
    }
    let found = shapes(&mut tx, &there).map_err(failed)?;
    tx.rollback().map_err(failed)?;
    check_filled(pipeline, &expected)?;
    let filled = |name: &str| pipeline.loaded().any(|(_, table)| table == name);
    if !found.keys().any(|name| filled(name)) {
        return Ok(Compared::Empty { tables: expected.len() });
    }
    let mut differences = Vec::new();
    for (name, expected) in &expected {
        match found.get(name) {
            Some(found) => between(name, expected, found, &mut differences),
            None => differences.push(Difference {
                what: format!("table `{name}` is missing"),
                mend: None,
                needed: filled(name),
            }),
        }
    }
    Ok(Compared::Tables { tables: expected.len(), differences })
}

/// That the file makes every table that a stage fills, as far as it says no other schema.
fn check_filled(pipeline: &Pipeline, made: &BTreeMap<String, Shape>) -> Result<()> {
    let missing = pipeline.loaded().find(|(_, table)| !table.contains('.') && !made.contains_key(*table));
    let Some((stage, table)) = missing else { return Ok(()) };
    Err(Error::failed(format!(
        "`{}` does not make table `{table}`, which stage `{}` fills",
        pipeline.schema.display(),
        stage.name
    ))
    .at(pipeline.place(stage.line))
    .hint("Write the table into the file, or take `table` out of the stage."))
}

fn look_along(tx: &mut Transaction, path: &str) -> Result<(), postgres::Error> {
    tx.execute("select set_config('search_path', $1, true)", &[&path]).map(drop)
}

fn shapes(tx: &mut Transaction, tables: &BTreeMap<String, u32>) -> Result<BTreeMap<String, Shape>, postgres::Error> {
    let oids: Vec<u32> = tables.values().copied().collect();
    let mut shapes: BTreeMap<u32, Shape> = oids.iter().map(|oid| (*oid, Shape::default())).collect();
    for row in tx.query(include_str!("../sql/shape_columns.sql"), &[&oids])? {
        let column = Column {
            name: row.get(1),
            quoted: row.get(2),
            type_name: row.get(3),
            not_null: row.get(4),
            default: row.get(5),
            made: row.get(6),
        };
        shapes.entry(row.get(0)).or_default().columns.push(column);
    }
    for row in tx.query(include_str!("../sql/shape_constraints.sql"), &[&oids])? {
        let constraint = Constraint { kind: row.get(1), quoted: row.get(2), definition: row.get(3) };
        shapes.entry(row.get(0)).or_default().constraints.push(constraint);
    }
    let named = tables.iter().filter_map(|(name, oid)| Some((name.clone(), shapes.remove(oid)?)));
    Ok(named.collect())
}

/// What a table is otherwise than it should be.
fn between(table: &str, expected: &Shape, found: &Shape, differences: &mut Vec<Difference>) {
    let alter = format!("alter table {}", quoted_if_need_be(table));
    let mut add = |what: String, mend: Option<String>, needed: bool| {
        differences.push(Difference { what, mend: mend.map(|mend| format!("{alter} {mend}")), needed });
    };
    for column in &expected.columns {
        let name = format!("`{table}.{}`", column.name);
        match found.columns.iter().find(|other| other.name == column.name) {
            None => {
                let mend = column.made.is_empty().then(|| format!("add column {}", column.definition()));
                add(format!("column {name} is missing"), mend, true);
            }
            Some(other) => {
                if let Some((what, mend)) = column.otherwise(other) {
                    add(format!("column {name} {what}"), mend, column.type_name != other.type_name);
                }
            }
        }
    }
    for column in &found.columns {
        if !expected.columns.iter().any(|other| other.name == column.name) {
            let mend = format!("drop column {}", column.quoted);
            add(format!("column `{table}.{}` is not in the file", column.name), Some(mend), false);
        }
    }
    constraints(table, &alter, expected, found, differences);
}

fn constraints(table: &str, alter: &str, expected: &Shape, found: &Shape, differences: &mut Vec<Difference>) {
    let has = |shape: &Shape, one: &Constraint| {
        shape.constraints.iter().any(|other| (&other.kind, &other.definition) == (&one.kind, &one.definition))
    };
    let mut add = |what: String, mend: String, needed: bool| {
        differences.push(Difference { what, mend: Some(mend), needed });
    };
    for constraint in expected.constraints.iter().filter(|one| !has(found, one)) {
        let Constraint { kind, definition, .. } = constraint;
        let unchecked = format!("{definition} NOT VALID");
        let what = constraint.described();
        if let Some(other) = found.constraints.iter().find(|other| other.definition == unchecked) {
            let what = format!("the {what} of table `{table}` was never checked for the rows that are there");
            add(what, format!("{alter} validate constraint {}", other.quoted), false);
        } else if kind == "i" {
            let (unique, method) = match definition.strip_prefix("unique ") {
                Some(method) => ("unique ", method),
                None => ("", definition.as_str()),
            };
            let mend = format!("create {unique}index on {} using {method}", quoted_if_need_be(table));
            add(format!("table `{table}` lacks the {what}"), mend, false);
        } else {
            add(format!("table `{table}` lacks the {what}"), format!("{alter} add {definition}"), kind == "p");
        }
    }
    // An index more does no harm, and may be somebody's own.
    for constraint in found.constraints.iter().filter(|one| one.kind != "i" && !has(expected, one)) {
        let plain = constraint.definition.trim_end_matches(" NOT VALID");
        if expected.constraints.iter().any(|other| other.definition == plain) {
            continue;
        }
        let mend = format!("{alter} drop constraint {}", constraint.quoted);
        add(format!("table `{table}` has a {} that is not in the file", constraint.described()), mend, false);
    }
}

impl Constraint {
    fn described(&self) -> String {
        let kind = match self.kind.as_str() {
            "p" => "primary key",
            "u" => "unique constraint",
            "f" => "foreign key",
            "c" => "check",
            "x" => "exclusion",
            _ => "index",
        };
        format!("{kind} `{}`", self.definition)
    }
}

impl Column {
    /// As `add column` takes it.
    fn definition(&self) -> String {
        let default = self.default.as_ref().map(|default| format!(" default {default}")).unwrap_or_default();
        let not_null = if self.not_null { " not null" } else { "" };
        format!("{} {}{not_null}{default}", self.quoted, self.type_name)
    }

    /// How `found` differs from this one, and what mends it, after `alter table …`.
    fn otherwise(&self, found: &Column) -> Option<(String, Option<String>)> {
        let alter = |what: String| Some(format!("alter column {} {what}", self.quoted));
        if self.made != found.made || (!self.made.is_empty() && self.default != found.default) {
            return Some(("is computed otherwise than in the file".to_string(), None));
        }
        if self.type_name != found.type_name {
            let what = format!("is {}, and {} in the file", found.type_name, self.type_name);
            return Some((what, alter(format!("type {0} using {1}::{0}", self.type_name, self.quoted))));
        }
        if self.not_null != found.not_null {
            return Some(match self.not_null {
                true => ("may be null, and not in the file".to_string(), alter("set not null".to_string())),
                false => ("may not be null, but in the file it may".to_string(), alter("drop not null".to_string())),
            });
        }
        match (&self.default, &found.default) {
            (one, other) if one == other => None,
            (Some(default), _) => {
                Some((format!("has not the default {default} of the file"), alter(format!("set default {default}"))))
            }
            (None, _) => Some(("has a default, and none in the file".to_string(), alter("drop default".to_string()))),
        }
    }
}

/// A plain name stays readable; one that is a word of SQL is told in quotes too rarely to matter.
fn quoted_if_need_be(name: &str) -> String {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if plain && !name.starts_with(|c: char| c.is_ascii_digit()) { name.to_string() } else { quoted(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, type_name: &str) -> Column {
        let text = |text: &str| text.to_string();
        Column {
            name: text(name),
            quoted: text(name),
            type_name: text(type_name),
            not_null: false,
            default: None,
            made: String::new(),
        }
    }

    fn constraint(kind: &str, definition: &str) -> Constraint {
        Constraint { kind: kind.into(), quoted: "c".into(), definition: definition.into() }
    }

    fn told(expected: Shape, found: Shape) -> Vec<String> {
        let mut differences = Vec::new();
        between("t", &expected, &found, &mut differences);
        let line = |one: &Difference| {
            format!("{}{}: {}", if one.needed { "! " } else { "" }, one.what, one.mend.as_deref().unwrap_or("-"))
        };
        differences.iter().map(line).collect()
    }

    #[test]
    fn each_difference_of_a_column_is_told_with_what_mends_it() {
        let with = |change: fn(&mut Column)| {
            let mut column = column("a", "text");
            change(&mut column);
            Shape { columns: vec![column], constraints: vec![] }
        };
        let plain = || with(|_| {});
        assert_eq!(told(plain(), plain()), [""; 0]);
        assert_eq!(told(plain(), Shape::default()), ["! column `t.a` is missing: alter table t add column a text"]);
        assert_eq!(told(Shape::default(), plain()), ["column `t.a` is not in the file: alter table t drop column a"]);
        assert_eq!(
            told(plain(), with(|c| c.type_name = "integer".into())),
            ["! column `t.a` is integer, and text in the file: alter table t alter column a type text using a::text"]
        );
        assert_eq!(
            told(plain(), with(|c| c.not_null = true)),
            ["column `t.a` may not be null, but in the file it may: alter table t alter column a drop not null"]
        );
        assert_eq!(
            told(with(|c| c.not_null = true), plain()),
            ["column `t.a` may be null, and not in the file: alter table t alter column a set not null"]
        );
        assert_eq!(
            told(with(|c| c.default = Some("now()".into())), plain()),
            ["column `t.a` has not the default now() of the file: alter table t alter column a set default now()"]
        );
        assert_eq!(
            told(plain(), with(|c| c.default = Some("now()".into()))),
            ["column `t.a` has a default, and none in the file: alter table t alter column a drop default"]
        );
        assert_eq!(
            told(with(|c| c.made = "s".into()), plain()),
            ["column `t.a` is computed otherwise than in the file: -"]
        );
    }

    #[test]
    fn each_difference_of_a_constraint_is_told_with_what_mends_it() {
        let with = |constraints: &[Constraint]| Shape { columns: vec![], constraints: constraints.to_vec() };
        let primary = constraint("p", "PRIMARY KEY (id)");
        assert_eq!(told(with(std::slice::from_ref(&primary)), with(std::slice::from_ref(&primary))), [""; 0]);
        assert_eq!(
            told(with(&[primary]), with(&[])),
            ["! table `t` lacks the primary key `PRIMARY KEY (id)`: alter table t add PRIMARY KEY (id)"]
        );
        let foreign = constraint("f", "FOREIGN KEY (a) REFERENCES b(id)");
        let unchecked = constraint("f", "FOREIGN KEY (a) REFERENCES b(id) NOT VALID");
        assert_eq!(
            told(with(std::slice::from_ref(&foreign)), with(&[unchecked])),
            [
                "the foreign key `FOREIGN KEY (a) REFERENCES b(id)` of table `t` was never checked for the rows that are \
              there: alter table t validate constraint c"
            ]
        );
        assert_eq!(
            told(with(&[]), with(&[foreign])),
            ["table `t` has a foreign key `FOREIGN KEY (a) REFERENCES b(id)` that is not in the file: \
              alter table t drop constraint c"]
        );
        assert_eq!(
            told(with(&[constraint("i", "unique btree (a)")]), with(&[constraint("i", "btree (b)")])),
            ["table `t` lacks the index `unique btree (a)`: create unique index on t using btree (a)"]
        );
    }
}
