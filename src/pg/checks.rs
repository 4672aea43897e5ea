//! Checks: queries that must return no row. The loader stops at the first that fails, validate tells of all.

use postgres::GenericClient;

use super::catalog::ForeignKey;
use super::{failure, sample, shown_sample};
use crate::error::{Error, Result};
use crate::pipeline::{self, Pipeline};

/// First offenders shown.
const SHOWN: usize = 5;

#[derive(Clone, Debug)]
pub struct Check {
    pub name: String,
    /// Where it is written, if it is the user's.
    pub place: Option<String>,
    sql: String,
}

/// Rows that a check must not find, as people read them.
#[derive(Clone, Debug)]
pub struct Offenders(String);

impl Check {
    pub fn of_pipeline(pipeline: &Pipeline, check: &pipeline::Check) -> Check {
        Check { name: check.name.clone(), place: Some(pipeline.place(check.line)), sql: check.sql.clone() }
    }

    /// Every row of the child has its parent.
    pub fn no_orphan(key: &ForeignKey) -> Check {
        let columns = super::quoted_list("c.", &key.child_columns);
        Check {
            name: format!("no orphan in {} by `{}`", key.child_quoted, key.name),
            place: None,
            sql: format!("select {columns} {}", key.orphans_sql(&key.child_quoted, &key.parent_quoted)),
        }
    }

    /// No row has a null in these columns.
    pub fn no_null(name: String, table: &str, columns: &[String]) -> Check {
        let nulls: Vec<String> = columns.iter().map(|column| format!("{} is null", super::quoted(column))).collect();
        let shown = super::quoted_list("", columns);
        Check { name, place: None, sql: format!("select {shown} from {table} where {}", nulls.join(" or ")) }
    }
}

/// Runs the check: none if it passes.
pub fn run(client: &mut impl GenericClient, check: &Check) -> Result<Option<Offenders>> {
    let found = sample(client, &check.sql, SHOWN).map_err(|error| {
        let failed = failure(&format!("could not run the check `{}`", check.name), &error);
        match &check.place {
            Some(place) => failed.at(place),
            None => failed,
        }
    })?;
    Ok((!found.0.is_empty()).then(|| Offenders(shown_sample(&found))))
}

impl Offenders {
    pub fn shown(&self) -> &str {
        &self.0
    }

    pub fn error(&self, check: &Check) -> Error {
        let error = Error::invalid(format!("check `{}` failed", check.name))
            .detail(format!("Rows that it must not find: {}.", self.0));
        match &check.place {
            Some(place) => error.at(place),
            None => error,
        }
    }
}
