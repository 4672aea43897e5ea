//! The verbs that leave the mirror alone, and need neither its secrets nor a log: what the pipeline looks like, and what the
//! programs are called with.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Subcommand;

use super::{child, graph};
use crate::cli::{self, ApiArgs, Common};
use crate::error::{Error, Result};
use crate::files;
use crate::manual::{self, Shell};
use crate::pipeline::Pipeline;

/// All there are, in the order of the README.
const PROGRAMS: [&str; 9] = [
    "mirror42",
    "mirror42-fetch",
    "mirror42-exec",
    "mirror42-extract",
    "mirror42-load",
    "mirror42-validate",
    "mirror42-token",
    "mirror42-rotate",
    "mirror42-simulate",
];

#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Show the pipeline as a graph: every process with what it reads and writes
    ///
    /// Or write it as a Makefile or a Snakefile, which run it without this program.
    #[command(after_long_help = manual::examples(&[
        ("As a picture", "mirror42 graph | dot -Tsvg > pipeline.svg"),
        ("For a page of Markdown, in a code block of the language mermaid", "mirror42 graph --format mermaid"),
        ("What each process reads", "mirror42 graph --format json | jq -r '.steps[] | .command[0], .inputs[].path'"),
        ("The pipeline by GNU make, four processes at a time",
            "mirror42 graph --format make > mirror42.mk && make -f mirror42.mk -j4"),
    ]))]
    Graph {
        /// The language
        #[arg(long, value_enum, value_name = "FORMAT", default_value = "dot")]
        format: graph::Format,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Print what a shell needs to complete the command lines of these programs, names of stages among them
    #[command(after_long_help = manual::examples(&[
        ("In this shell", "source <(mirror42 completions bash)"),
        ("In every fish", "mirror42 completions fish > ~/.config/fish/conf.d/mirror42.fish"),
        ("Of one program, for a folder of $fpath", "mirror42 completions zsh mirror42-load > _mirror42-load"),
    ]))]
    Completions {
        #[arg(value_enum, value_name = "SHELL")]
        shell: Shell,
        /// Of these programs only
        #[arg(value_name = "PROGRAM", value_parser = PROGRAMS)]
        programs: Vec<String>,
    },
    /// Write the man pages of all programs and verbs into a folder
    #[command(after_long_help = manual::examples(&[
        ("Where man looks for them", "mirror42 man ~/.local/share/man/man1"),
    ]))]
    Man {
        /// Made if it is missing
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
}

pub fn run(verb: &Verb, common: &Common) -> Result<()> {
    match verb {
        Verb::Graph { format, api } => {
            let mut pipeline = Pipeline::load(&common.pipeline)?;
            // The address is a part of what a fetch asks for.
            api.apply(&mut pipeline)?;
            graph::print(&pipeline, *format)
        }
        Verb::Completions { shell, programs } => completions(*shell, programs),
        Verb::Man { folder } => man(folder),
    }
}

fn completions(shell: Shell, programs: &[String]) -> Result<()> {
    let named = |program: &&str| programs.is_empty() || programs.iter().any(|name| name == program);
    for program in PROGRAMS.iter().filter(|program| named(program)) {
        cli::print(format_args!("{}", manual::registration(shell, program)?.trim_end()));
    }
    Ok(())
}

/// Each program knows its own command line.
fn man(folder: &Path) -> Result<()> {
    files::create_dir(folder)?;
    for name in PROGRAMS {
        let output = Command::new(child::program(name)?).arg(manual::MAN_FLAG).arg(folder).output();
        let output = output.map_err(|cause| Error::failed(format!("could not start `{name}`: {cause}")))?;
        if !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr).trim().to_string();
            return Err(Error::failed(format!("`{name}` could not write its man pages")).detail(told));
        }
    }
    Ok(())
}
