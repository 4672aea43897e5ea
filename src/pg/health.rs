//! What can be told of a database before anything is loaded into it: its server, and what a role may do there.

use postgres::Client;

use super::catalog::quoted_path;
use super::{failure, quoted};
use crate::error::Result;
use crate::pipeline::Pipeline;

/// A server, as a session sees it.
#[derive(Clone, Debug)]
pub struct Health {
    /// As in `15.14`.
    pub version: String,
    pub major: u32,
    /// As in `TLSv1.3`; none: the session is not encrypted.
    pub tls: Option<String>,
    pub way: Way,
    pub role: String,
    pub database: String,
    /// A replica: nothing can be written.
    pub only_reads: bool,
    pub clock: jiff::Timestamp,
}

/// How far away a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Socket,
    Loopback,
    Network,
}

/// A right that a load needs and the role lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// As in "may not …".
    pub what: String,
    /// The statement that gives it.
    pub mend: String,
}

pub fn look(client: &mut Client) -> Result<Health> {
    let row = client.query_one(include_str!("../sql/health.sql"), &[]);
    let row = row.map_err(|error| failure("could not ask the server about itself", &error))?;
    let version: String = row.get(0);
    let number: i32 = row.get(1);
    Ok(Health {
        // Distributions add words of their own.
        version: version.split(' ').next().unwrap_or_default().to_string(),
        major: number.unsigned_abs() / 10_000,
        tls: row.get(2),
        way: match row.get(3) {
            "socket" => Way::Socket,
            "loopback" => Way::Loopback,
            _ => Way::Network,
        },
        role: row.get(4),
        database: row.get(5),
        only_reads: row.get(6),
        clock: jiff::Timestamp::from_microsecond(row.get(7)).unwrap_or(jiff::Timestamp::UNIX_EPOCH),
    })
}

/// What the role of the session lacks for a load of this pipeline.
pub fn lacking(client: &mut Client, health: &Health, pipeline: &Pipeline) -> Result<Vec<Lacking>> {
    let tables: Vec<String> = pipeline.loaded().map(|(_, table)| quoted_path(table)).collect();
    let row = client.query_one(include_str!("../sql/rights.sql"), &[&pipeline.ledger, &tables]);
    let row = row.map_err(|error| failure("could not ask the server for rights", &error))?;
    let (database, role) = (quoted(&health.database), quoted(&health.role));
    let (temporary, ledger, has_ledger, create): (bool, bool, bool, bool) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    let (schema, foreign): (String, Vec<String>) = (row.get(4), row.get(5));
    let mut lacking = Vec::new();
    let mut add = |what: String, mend: String| lacking.push(Lacking { what, mend });
    if !temporary {
        add("make temporary tables".to_string(), format!("grant temporary on database {database} to {role}"));
    }
    match (ledger, has_ledger) {
        (true, _) => {}
        (false, true) => add(
            format!("make tables in the ledger's schema `{}`", pipeline.ledger),
            format!("grant create, usage on schema {} to {role}", quoted(&pipeline.ledger)),
        ),
        (false, false) => add(
            format!("make the ledger's schema `{}`", pipeline.ledger),
            format!("grant create on database {database} to {role}"),
        ),
    }
    if !create {
        let schema = if schema.is_empty() { "public" } else { schema.as_str() };
        add(
            format!("make tables in schema `{schema}`"),
            format!("grant create on schema {} to {role}", quoted(schema)),
        );
    }
    for table in foreign {
        add(format!("change table {table}, which is somebody else's"), format!("alter table {table} owner to {role}"));
    }
    Ok(lacking)
}
