//! Programs of ours that are run for what they print.

use std::process::Command;

use super::child::{self, Stdout};
use super::children::{Children, Ended, News, Start};
use super::options::Options;
use crate::cli::Context;
use crate::error::{Error, Result};
use crate::log as logs;
use crate::stop;

/// Runs a program to its end: what it printed.
pub fn output(context: &Context, options: &Options, program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = command(context, options, program)?;
    command.args(arguments);
    output_of(command, program)
}

/// As [`output`], of a command that is ready.
pub fn output_of(command: Command, program: &str) -> Result<String> {
    let mut children = Children::new();
    children.start(Start { tag: (), command, name: program.to_string(), stdout: Stdout::Kept, limit: None })?;
    let mut stopped_by = None;
    while let Some(news) = children.next() {
        match news {
            News::Log { level, stage, text } => logs::relay(level, &stage, &text),
            News::Progress(..) => {}
            News::Stopped(signal) => stopped_by = Some(signal),
            News::Ended(Ended { result, .. }) => {
                return match (result, stopped_by) {
                    (Err(error), Some(signal)) => {
                        let details = error.details().iter();
                        Err(details.fold(stop::error(signal), |error, sentence| error.detail(sentence)))
                    }
                    (result, _) => result,
                };
            }
        }
    }
    Err(Error::failed(format!("`{program}` was lost sight of")))
}

/// A program of ours on this pipeline, its arguments still to come.
pub fn command(context: &Context, options: &Options, program: &str) -> Result<Command> {
    let mut command = Command::new(child::program(program)?);
    command.arg("--pipeline").arg(&context.pipeline.file).args(["--log-format", "json"]);
    if options.verbose {
        command.arg("--verbose");
    }
    command.envs(options.environment.iter().map(|(name, value)| (name, value)));
    Ok(command)
}
