//! The verb `db`: the embedded server by hand, and `psql` on whichever database the mirror is in.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use clap::Subcommand;

use crate::cli::{self, Context};
use crate::error::{Error, Result};
use crate::manual;
use crate::pg::{self, embedded};
use crate::pipeline::Secret;

#[derive(Subcommand, Clone, Debug)]
pub enum Verb {
    /// Start the embedded server, if it does not run, and print its address
    #[command(after_long_help = manual::examples(&[
        ("By hand; a run does it by itself", "mirror42 db start"),
    ]))]
    Start,
    /// Stop the embedded server
    #[command(after_long_help = manual::examples(&[
        ("Before the machine is shut down, say", "mirror42 db stop"),
    ]))]
    Stop,
    /// Say whether the embedded server runs
    #[command(after_long_help = manual::examples(&[
        ("It says how it is reached, too", "mirror42 db status"),
    ]))]
    Status,
    /// Print the database's address, for other programs (with its password, if it has one)
    #[command(after_long_help = manual::examples(&[
        ("A dump", "pg_dump \"$(mirror42 db url)\" > mirror.sql"),
    ]))]
    Url,
    /// Open psql on the database; arguments after `--` go to psql
    #[command(after_long_help = manual::examples(&[
        ("A session", "mirror42 db psql"),
        ("One query", "mirror42 db psql -- -c 'select count(*) from projects'"),
    ]))]
    Psql {
        #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

pub fn run(context: &Context, url: Option<&Secret>, verb: Verb) -> Result<()> {
    let paths = &context.pipeline.paths;
    match (verb, url) {
        (Verb::Start | Verb::Stop | Verb::Status, Some(_)) => {
            Err(Error::usage("the database is not the embedded one: `DATABASE_URL` or `--database-url` names another")
                .hint("Start and stop it by its own means."))
        }
        (Verb::Start, None) => {
            cli::print(format_args!("{}", embedded::started(paths)?.url()));
            Ok(())
        }
        (Verb::Stop, None) => {
            cli::print(format_args!("{}", if embedded::stop(paths)? { "stopped" } else { "it did not run" }));
            Ok(())
        }
        (Verb::Status, None) => {
            match embedded::status(paths)? {
                embedded::Status::Absent => cli::print(format_args!("absent: the first run makes it")),
                embedded::Status::Stopped => cli::print(format_args!("stopped")),
                embedded::Status::Running(server) => {
                    cli::print(format_args!("running: process {}, {}", server.pid, server.url()))
                }
            }
            Ok(())
        }
        (Verb::Url, Some(url)) => {
            cli::print(format_args!("{}", url.reveal()));
            Ok(())
        }
        (Verb::Url, None) => {
            cli::print(format_args!("{}", embedded::started(paths)?.url()));
            Ok(())
        }
        (Verb::Psql { arguments }, url) => psql(context, url, &arguments),
    }
}

/// Becomes psql. The address goes by the environment: command lines can be read by all.
fn psql(context: &Context, url: Option<&Secret>, arguments: &[String]) -> Result<()> {
    let (program, server) = match url {
        // Any client will do for a server elsewhere.
        Some(url) => (PathBuf::from("psql"), url.clone()),
        None => (embedded::psql()?, Secret::new(embedded::started(&context.pipeline.paths)?.url())),
    };
    let mut command = Command::new(program);
    command.envs(pg::libpq_environment(&server)?).args(arguments);
    let program = command.get_program().to_string_lossy().into_owned();
    Err(Error::failed(format!("could not start `{program}`: {}", command.exec())))
}
