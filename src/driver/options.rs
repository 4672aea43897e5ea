//! How a run and its children are to go about it.

use crate::cli::{ApiArgs, Common, GuardArgs};
use crate::pg::ledger;
use crate::pipeline::Secret;

/// How the children are to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The verb that runs.
    pub verb: &'static str,
    /// Children at a time.
    pub jobs: usize,
    /// A job that fails keeps only those that need it from being done.
    pub keep_going: bool,
    /// The load is rolled back in the end.
    pub dry_run: bool,
    /// Variables for the children's environment; secrets go this way, never by their command lines.
    pub environment: Vec<(&'static str, String)>,
    pub verbose: bool,
    /// How the ledger calls the load.
    pub run_id: String,
    /// The database, for what the driver itself asks it; none stands for the embedded server.
    pub database: Option<Secret>,
    /// What the loader is told, beside its run.
    pub load_arguments: Vec<String>,
}

impl Options {
    /// Those of a verb that says nothing else; its run has a name of its own.
    pub fn new(verb: &'static str, common: &Common) -> Options {
        Options {
            verb,
            jobs: 8,
            keep_going: false,
            dry_run: false,
            environment: Vec::new(),
            verbose: common.verbose,
            run_id: ledger::new_run_id(),
            database: None,
            load_arguments: Vec::new(),
        }
    }
}

/// What the loader is told of the rows that may go this once; the log has it too.
pub fn allowing(guard: &GuardArgs) -> Vec<String> {
    guard.allow_delete.iter().for_each(|allowed| log::info!("this load may delete rows: {allowed}"));
    let arguments = guard.allow_delete.iter().flat_map(|allowed| ["--allow-delete", allowed]);
    arguments.map(String::from).collect()
}

/// What the children are told by their environment.
pub fn environment(api: &ApiArgs, database_url: Option<&Secret>) -> Vec<(&'static str, String)> {
    let variables = [
        ("MIRROR42_API_URL", api.api_url.clone()),
        ("MIRROR42_LIMITS", api.limits.clone()),
        ("MIRROR42_MAX_WAIT", api.max_wait.clone()),
        ("MIRROR42_TRIES", api.tries.map(|tries| tries.to_string())),
        ("DATABASE_URL", database_url.map(|url| url.reveal().to_string())),
    ];
    variables.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}
