//! Tables and ledger are created where the database has none of them.

use postgres::Transaction;

use crate::error::{Error, Result};
use crate::pg::catalog::{self, Table};
use crate::pg::script;
use crate::pipeline::Pipeline;

/// All tables of the pipeline, as the catalog has them.
pub struct Schema {
    pub tables: Vec<Table>,
    /// This transaction created them: nobody else has seen them.
    pub created: bool,
}

/// The tables; a database that has none of them gets them from `schema.sql`.
pub fn tables(tx: &mut Transaction, pipeline: &Pipeline) -> Result<Schema> {
    let names: Vec<&str> = pipeline.loaded().map(|(_, table)| table).collect();
    let found = catalog::tables(tx, &names)?;
    let schema = pipeline.schema.display();
    if found.iter().any(Option::is_some) {
        let tables = all_there(&names, found, |missing| {
            Error::failed(format!("the database lacks tables that the stages fill: {missing}")).hint(format!(
                "Create them as in `{schema}`, or drop the others: a database without any gets them all."
            ))
        });
        return Ok(Schema { tables: tables?, created: false });
    }
    log::info!("the database has none of the tables: running `{schema}`");
    script::run_schema(tx, pipeline)?;
    let tables = all_there(&names, catalog::tables(tx, &names)?, |missing| {
        Error::failed(format!("`{schema}` does not create the tables that the stages fill: {missing}"))
    });
    Ok(Schema { tables: tables?, created: true })
}

fn all_there(names: &[&str], found: Vec<Option<Table>>, error: impl Fn(String) -> Error) -> Result<Vec<Table>> {
    let missing: Vec<String> =
        names.iter().zip(&found).filter(|(_, table)| table.is_none()).map(|(name, _)| format!("`{name}`")).collect();
    if missing.is_empty() { Ok(found.into_iter().flatten().collect()) } else { Err(error(missing.join(", "))) }
}
