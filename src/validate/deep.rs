//! The proof that each table equals its export: the loader's own diff must find nothing. It costs one read of each.

use postgres::Transaction;

use super::Finding;
use crate::diff::job::{self, Export, Job};
use crate::diff::plain::{self, Sql};
use crate::diff::tuple::{self, Key};
use crate::diff::{Differ, Difference, Outcome};
use crate::error::Result;
use crate::pg::{catalog, failure, join_condition, quoted, quoted_list, sample};
use crate::pipeline::Pipeline;

/// Keys of each kind that are shown.
const SHOWN_KEYS: usize = 5;

/// Adds one finding a table.
pub fn compare(
    tx: &mut Transaction,
    pipeline: &Pipeline,
    exports: &[Export],
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let names: Vec<&str> = pipeline.loaded().map(|(_, table)| table).collect();
    let Some(tables) = catalog::tables(tx, &names)?.into_iter().collect::<Option<Vec<_>>>() else {
        return Ok(()); // a check has told of it
    };
    let (tables, without_key): (Vec<_>, Vec<_>) = tables.into_iter().partition(|table| !table.primary_key.is_empty());
    findings.extend(without_key.into_iter().map(|table| Finding {
        name: format!("{} equals its export, row by row", table.name),
        wrong: Some("it has no primary key, by which a row is found beside its record".to_string()),
    }));
    let keys = catalog::foreign_keys(tx, &tables)?;
    let jobs = job::jobs(pipeline, exports, tables, &keys)?;
    let mut differ = Differ::new(tx, &jobs)?;
    for (place, job) in jobs.iter().enumerate() {
        let found = match by_diff(tx, &mut differ, job)? {
            Outcome::Done(found) => found,
            Outcome::Doubt(why) => {
                log::debug!(target: job.stage_name(), "goes the plain way: {why}");
                by_delta(tx, &mut differ, job, &format!("mirror42_deep_{place}"))?
            }
        };
        findings.push(found.finding(job));
    }
    Ok(())
}

/// What the comparison of one table found.
#[derive(Debug, Default)]
struct Found {
    rows: u64,
    /// Records without a row.
    missing: Kind,
    /// Rows without a record.
    extra: Kind,
    different: Kind,
    changed_columns: Vec<(String, u64)>,
}

#[derive(Debug, Default)]
struct Kind {
    rows: u64,
    first: Vec<String>,
}

impl Kind {
    fn text(&self, what: &str) -> Option<String> {
        let more = if self.rows > self.first.len() as u64 { "; …" } else { "" };
        (self.rows > 0).then(|| format!("{what}: {} ({}{more})", self.rows, self.first.join("; ")))
    }
}

impl Found {
    fn finding(&self, job: &Job) -> Finding {
        let columns = self.changed_columns.iter().map(|(column, rows)| format!("{column} in {rows}"));
        let columns = columns.collect::<Vec<_>>().join(", ");
        let differences = [
            self.missing.text("records without a row"),
            self.extra.text("rows without a record"),
            self.different.text("rows that differ").map(|text| format!("{text}, by {columns}")),
        ];
        let wrong = differences.into_iter().flatten().collect::<Vec<_>>().join("; ");
        Finding {
            name: format!("{} equals its export, row by row ({} rows)", job.table.name, self.rows),
            wrong: (!wrong.is_empty()).then_some(wrong),
        }
    }
}

fn by_diff(tx: &mut Transaction, differ: &mut Differ, job: &Job) -> Result<Outcome<Found>> {
    let mut found = Found::default();
    let mut differing: Vec<u64> = Vec::new();
    // The keys of the first of each kind, as rows of the binary form: the server shows them as people read them.
    let (mut missing, mut extra, mut different) = (Vec::new(), Vec::new(), Vec::new());
    let note = |kind: &mut Kind, keys: &mut Vec<Vec<u8>>, key: &Key, row: &[u8]| {
        kind.rows += 1;
        if keys.len() < SHOWN_KEYS {
            let mut bytes = Vec::new();
            key.write(row, &mut bytes);
            keys.push(bytes);
        }
    };
    let outcome = differ.compare(tx, job, |key, difference| {
        match difference {
            Difference::New(row) => note(&mut found.missing, &mut missing, key, row),
            Difference::Gone(row) => note(&mut found.extra, &mut extra, key, row),
            Difference::Changed { old, new } => {
                note(&mut found.different, &mut different, key, new);
                tuple::count_differing(old, new, &mut differing);
            }
        }
        Ok(())
    })?;
    let done = match outcome {
        Outcome::Doubt(why) => return Ok(Outcome::Doubt(why)),
        Outcome::Done(done) => done,
    };
    found.rows = done.taken;
    found.changed_columns = done.plan.columns.into_iter().zip(differing).filter(|(_, rows)| *rows > 0).collect();
    for (kind, keys) in [(&mut found.missing, missing), (&mut found.extra, extra), (&mut found.different, different)] {
        kind.first = keys.iter().map(|key| shown(job, key)).collect();
    }
    Ok(Outcome::Done(found))
}

/// A key as messages show it. A key that can be ordered by its bytes can be read from them.
fn shown(job: &Job, key: &[u8]) -> String {
    let members = job.key().iter().zip(tuple::fields(&key[2..]));
    let members = members.map(|(name, bytes)| {
        let binary = job.table.column(name).and_then(|column| column.binary);
        format!("{name} {}", crate::codec::shown_binary(bytes.unwrap_or_default(), binary))
    });
    members.collect::<Vec<_>>().join(", ")
}

fn by_delta(tx: &mut Transaction, differ: &mut Differ, job: &Job, delta: &str) -> Result<Found> {
    let staged = plain::compare(tx, differ, job, delta)?;
    let sql = Sql::new(job, &staged.columns);
    let (table, key) = (&job.table.quoted, job.table.primary_key.as_slice());
    let reversed = join_condition("d", key, "t", key);
    let mut kind = |rows: u64, query: String| -> Result<Kind> {
        if rows == 0 {
            return Ok(Kind::default());
        }
        let found = sample(tx, &query, SHOWN_KEYS);
        let (first, _) = found.map_err(|error| failure(&format!("could not compare `{}`", job.table.name), &error))?;
        Ok(Kind { rows, first })
    };
    let columns = |row| quoted_list(row, key);
    let order = key.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    let missing = format!(
        "select {} from {delta} d where not exists (select from {table} t where {}) order by {order}",
        columns("d."),
        sql.same_key
    );
    let extra = format!(
        "select {} from {table} t where not exists (select from {delta} d where {reversed}) order by {order}",
        columns("t.")
    );
    let different = format!(
        "select {} from {table} t join {delta} d on {} where {} order by 1",
        columns("t."),
        sql.same_key,
        sql.differs.as_deref().unwrap_or("false")
    );
    Ok(Found {
        rows: staged.before,
        missing: kind(staged.new, missing)?,
        extra: kind(staged.gone, extra)?,
        different: kind(staged.changed, different)?,
        changed_columns: staged.changed_columns,
    })
}
