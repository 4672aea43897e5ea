//! The database: reachable, new enough, with the rights that a load needs and the tables of `schema.sql`.

use jiff::{SignedDuration, Timestamp};

use super::{Finding, Patient, State, not_checked};
use crate::error::Error;
use crate::pg::embedded::{self, Status};
use crate::pg::health::{self, Health, Lacking, Way};
use crate::pg::ledger::{self, RunTable};
use crate::pg::shape::{self, Compared, Difference};
use crate::{files, pg};

const OLDEST: u32 = 14;

pub struct Checked {
    pub findings: Vec<Finding>,
    /// By how much this machine's clock is behind that of the server.
    pub skew: Option<SignedDuration>,
    /// The last load of each table; none if nobody could be asked.
    pub ages: Option<Vec<RunTable>>,
}

pub fn checks(patient: &Patient) -> Checked {
    let mut checked = Checked { findings: Vec::new(), skew: None, ages: None };
    if patient.url.is_none() {
        match embedded::status(&patient.paths) {
            Ok(Status::Absent) => {
                checked.findings = vec![of_programs(embedded::programs()), schema_file(patient)];
                checked.ages = Some(Vec::new());
                return checked;
            }
            Ok(Status::Stopped | Status::Running(_)) => {}
            Err(error) => return without(checked, &error),
        }
    }
    let mut client = match pg::connect(&patient.paths, patient.url.as_ref(), "doctor") {
        Ok(client) => client,
        Err(error) => return without(checked, &error),
    };
    let health = match health::look(&mut client) {
        Ok(health) => health,
        Err(error) => return without(checked, &error),
    };
    checked.skew = Some(health.clock.duration_since(Timestamp::now()));
    checked.findings.push(of_health(&health, patient.url.is_none()));
    let Ok(pipeline) = &patient.pipeline else {
        checked.findings.extend(["rights", "schema"].map(not_checked));
        return checked;
    };
    match health::lacking(&mut client, &health, pipeline) {
        Ok(lacking) => checked.findings.extend(of_rights(&health, &lacking)),
        Err(error) => checked.findings.push(Finding::of("rights", State::Failure, &error)),
    }
    match ledger::last_of_each_table(&mut client, pipeline) {
        Ok(ages) => checked.ages = Some(ages),
        Err(error) => checked.findings.push(Finding::of("ledger", State::Failure, &error)),
    }
    let file = pipeline.schema.display().to_string();
    match shape::compare(&mut client, pipeline) {
        Ok(compared) => checked.findings.extend(of_schema(&compared, &file)),
        Err(error) => checked.findings.push(Finding::of("schema", State::Failure, &error)),
    }
    checked
}

fn without(mut checked: Checked, error: &Error) -> Checked {
    checked.findings.push(Finding::of("database", State::Failure, error));
    checked.findings.extend(["rights", "schema"].map(not_checked));
    checked
}

fn of_programs(programs: crate::error::Result<(std::path::PathBuf, u32)>) -> Finding {
    match programs {
        Ok((folder, major)) => Finding::ok(
            "database",
            format!(
                "none yet: the first run makes one in data/postgres, by Postgres {major} of `{}`",
                folder.display()
            ),
        ),
        Err(error) => Finding::of("database", State::Failure, &error),
    }
}

/// Where nothing can be asked of a database yet.
fn schema_file(patient: &Patient) -> Finding {
    let Ok(pipeline) = &patient.pipeline else { return not_checked("schema") };
    let file = pipeline.schema.display();
    match files::read(&pipeline.paths.root().join(&pipeline.schema)) {
        Ok(_) => Finding::ok("schema", format!("the first load runs `{file}`")),
        Err(error) => Finding::of("schema", State::Failure, &error).hint("It makes the tables: write one."),
    }
}

fn of_health(health: &Health, is_embedded: bool) -> Finding {
    let Health { version, role, database, .. } = health;
    let way = match (&health.tls, health.way) {
        (Some(tls), _) => format!("by {tls}"),
        (None, Way::Socket) => "on a socket".to_string(),
        (None, Way::Loopback) => "on this machine".to_string(),
        (None, Way::Network) => "by the network, without TLS".to_string(),
    };
    let whose = if is_embedded { "embedded " } else { "" };
    let found = format!("{whose}Postgres {version}, database `{database}` as `{role}`, {way}");
    if health.major < OLDEST {
        Finding::failure("database", found).hint(format!("mirror42 needs Postgres {OLDEST} or later."))
    } else if health.only_reads {
        Finding::failure("database", format!("{found}; it only reads"))
            .hint("Name the primary server in `DATABASE_URL`: this one is a replica.")
    } else if health.tls.is_none() && health.way == Way::Network {
        Finding::warning("database", found).hint("Add `sslmode=verify-full` to `DATABASE_URL`: docs/operations.md#tls.")
    } else {
        Finding::ok("database", found)
    }
}

fn of_rights(health: &Health, lacking: &[Lacking]) -> Vec<Finding> {
    if lacking.is_empty() {
        return vec![Finding::ok("rights", format!("`{}` may do all that a load does", health.role))];
    }
    let finding = |lacking: &Lacking| {
        Finding::failure("rights", format!("`{}` may not {}", health.role, lacking.what))
            .hint(format!("As the owner: `{}`.", lacking.mend))
    };
    lacking.iter().map(finding).collect()
}

fn of_schema(compared: &Compared, file: &str) -> Vec<Finding> {
    let plural = |n: usize| format!("{n} table{}", if n == 1 { "" } else { "s" });
    let (tables, differences) = match compared {
        Compared::Empty { tables } => {
            let found = format!("no tables yet: the first load makes the {} of `{file}`", plural(*tables));
            return vec![Finding::ok("schema", found)];
        }
        Compared::Tables { tables, differences } => (*tables, differences),
    };
    if differences.is_empty() {
        return vec![Finding::ok("schema", format!("{} as in `{file}`", plural(tables)))];
    }
    let finding = |difference: &Difference| {
        let state = if difference.needed { State::Failure } else { State::Warning };
        let finding = Finding::new("schema", state, difference.what.clone());
        match &difference.mend {
            Some(mend) => finding.hint(format!("`{mend}`, or change `{file}`.")),
            None => finding.hint(format!("Make it as in `{file}`, or change that.")),
        }
    };
    differences.iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_told_with_the_way_to_it() {
        let health = |change: fn(&mut Health)| {
            let mut health = Health {
                version: "15.14".into(),
                major: 15,
                tls: None,
                way: Way::Socket,
                role: "mirror".into(),
                database: "m".into(),
                only_reads: false,
                clock: Timestamp::UNIX_EPOCH,
            };
            change(&mut health);
            of_health(&health, false).line()
        };
        let start = "database     Postgres 15.14, database `m` as `mirror`";
        assert_eq!(health(|_| {}), format!("ok       {start}, on a socket"));
        assert_eq!(health(|h| h.way = Way::Loopback), format!("ok       {start}, on this machine"));
        assert_eq!(
            health(|h| (h.tls, h.way) = (Some("TLSv1.3".into()), Way::Network)),
            format!("ok       {start}, by TLSv1.3")
        );
        let hint = "\n                      hint: ";
        assert_eq!(
            health(|h| h.way = Way::Network),
            format!(
                "warning  {start}, by the network, without TLS{hint}Add `sslmode=verify-full` to `DATABASE_URL`: \
                 docs/operations.md#tls."
            )
        );
        assert_eq!(
            health(|h| h.only_reads = true),
            format!(
                "failure  {start}, on a socket; it only reads{hint}Name the primary server in `DATABASE_URL`: this one is \
                 a replica."
            )
        );
        assert_eq!(
            health(|h| h.major = 13),
            format!("failure  {start}, on a socket{hint}mirror42 needs Postgres 14 or later.")
        );
    }
}
