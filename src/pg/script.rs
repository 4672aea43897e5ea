//! `schema.sql`, run as a part of the transaction that is under way.

use postgres::Transaction;
use postgres::error::{DbError, ErrorPosition};

use super::{failure, refusal};
use crate::error::{Error, Result};
use crate::files;
use crate::pipeline::Pipeline;

/// Where plpgsql's `execute` refuses a command (src/pl/plpgsql/src/pl_exec.c): unlike the message it is the same in all
/// languages.
const REFUSED_IN: &str = "exec_stmt_dynexecute";

/// Runs the pipeline's `schema.sql`. The transaction is the caller's after it too: sent as it is, a `commit` in the file would
/// end that, and leave tables that stay when the rest fails. `execute` takes many commands, but none of those.
pub fn run_schema(tx: &mut Transaction, pipeline: &Pipeline) -> Result<()> {
    let file = pipeline.schema.display();
    let sql = String::from_utf8(files::read(&pipeline.paths.root().join(&pipeline.schema))?)
        .map_err(|_| Error::failed(format!("`{file}` is not UTF-8")))?;
    let failed = |error: postgres::Error| match error.as_db_error() {
        Some(db) if db.routine() == Some(REFUSED_IN) => {
            let line = transaction_control(&sql);
            Error::failed(format!("`{file}` has a command that a load cannot run: {}", db.message()))
                .at(line.map_or(file.to_string(), |line| format!("{file}:{line}")))
                .hint("A load runs it in its own transaction: `begin`, `commit`, `rollback` and `copy … from stdin` cannot be in it.")
        }
        Some(db) => {
            // The last line is about our own `do`.
            let within = db.where_().and_then(|lines| lines.rsplit_once('\n')).map(|(lines, _)| lines);
            let failed = refusal(&format!("could not run `{file}`"), db, within);
            match line_of(db, &sql) {
                Some(line) => failed.at(format!("{file}:{line}")),
                None => failed,
            }
        }
        None => failure(&format!("could not run `{file}`"), &error),
    };
    // A setting, since `do` takes no parameters.
    tx.execute("select set_config('mirror42.schema', $1, true)", &[&sql]).map_err(failed)?;
    tx.batch_execute("do $do$ begin execute current_setting('mirror42.schema'); end $do$").map_err(failed)
}

/// The line of the script that an error is about, if it tells.
fn line_of(error: &DbError, sql: &str) -> Option<usize> {
    match error.position()? {
        ErrorPosition::Internal { position, query } if query == sql => {
            Some(sql.chars().take(*position as usize).filter(|c| *c == '\n').count() + 1)
        }
        _ => None,
    }
}

/// The first line that is, by all appearances, what was refused: the server does not tell. In the body of a function, `begin` has
/// no semicolon behind it.
fn transaction_control(sql: &str) -> Option<usize> {
    let is_control = |line: &str| {
        let words = line.trim().to_ascii_lowercase();
        let Some(words) = words.strip_suffix(';') else { return false };
        let mut words = words.split_whitespace();
        let starts = words.next().is_some_and(|word| ["begin", "start", "commit", "rollback", "abort"].contains(&word));
        starts && words.all(|word| ["work", "transaction"].contains(&word))
    };
    sql.lines().position(is_control).map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::transaction_control;

    #[test]
    fn the_line_that_ends_a_transaction_is_found() {
        assert_eq!(transaction_control("create table a ();\n  COMMIT ;\n"), Some(2));
        assert_eq!(transaction_control("-- it\nstart transaction;\ncommit;"), Some(2));
        assert_eq!(transaction_control("do $$\nbegin\n  null;\nend;\n$$;\ncreate table commit ();"), None);
    }
}
