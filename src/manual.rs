//! What a program tells of itself, out of the definitions of its command line: its version with the commit, examples at the
//! end of its help, man pages, and what a shell may complete.
//!
//! A shell asks the program itself (by a variable of the environment) what can stand next, so names of stages are completed
//! too; what it needs for that is a few lines a program ([`registration`]).

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::builder::{Resettable, StyledStr};
use clap::{Command, ValueEnum};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::error::{Error, Result};
use crate::files;
use crate::pipeline::Pipeline;

/// As `--version` prints it: `0.1.0 (842450e 2026-11-25)`; build.rs asks git.
pub const VERSION: &str = env!("MIRROR42_VERSION");

/// What the driver asks of every program: its man pages, into a folder. No flag of a person's, hence in no help.
pub const MAN_FLAG: &str = "--man";

/// By this a shell asks.
const VARIABLE: &str = "MIRROR42_COMPLETE";

/// A shell that completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Answers a shell that asks what can stand next, and ends the process; does nothing if none asks.
pub fn complete(command: impl Fn() -> Command) {
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// What a shell reads once to complete the command lines of `program`.
pub fn registration(shell: Shell, program: &str) -> Result<String> {
    let mut script = Vec::new();
    let shells = Shells::builtins();
    let name = match shell {
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
    };
    let written = match shells.completer(name) {
        Some(completer) => completer.write_registration(VARIABLE, program, program, program, &mut script),
        None => Err(std::io::Error::other("the shell is not known")),
    };
    written.map_err(|cause| Error::failed(format!("could not write the completions for {name}: {cause}")))?;
    let mut script = String::from_utf8_lossy(&script).trim().to_string();
    if shell == Shell::Zsh {
        // As a file of $fpath it is the body of a function, which the first completion calls.
        let function = program.replace('-', "_");
        script += &format!("\n[[ ${{funcstack[1]}} = _{program} ]] && _clap_dynamic_completer_{function} \"$@\"\n:");
    }
    Ok(script + "\n")
}

/// Completes names of stages of the pipeline that the command line is about, and `others`.
pub fn stages(others: &'static [&'static str]) -> ArgValueCompleter {
    ArgValueCompleter::new(move |current: &OsStr| {
        // Where there is no pipeline that can be read, the program says so when it is run.
        let stages = Pipeline::load(&pipeline_of_the_line()).map_or_else(|_| Vec::new(), |pipeline| pipeline.stages);
        let names = stages.into_iter().map(|stage| stage.name).chain(others.iter().map(|name| (*name).to_string()));
        let begun = current.to_string_lossy();
        names.filter(|name| name.starts_with(&*begun)).map(CompletionCandidate::new).collect()
    })
}

/// The pipeline file that the command line names so far.
fn pipeline_of_the_line() -> PathBuf {
    let words: Vec<_> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let after_flag = words.windows(2).find(|words| words[0] == "--pipeline").map(|words| words[1].as_str());
    let in_flag = || words.iter().find_map(|word| word.strip_prefix("--pipeline="));
    PathBuf::from(after_flag.or_else(in_flag).unwrap_or(crate::paths::PIPELINE))
}

/// The end of a help text: command lines, each after what it does.
pub fn examples(examples: &[(&str, &str)]) -> StyledStr {
    use std::fmt::Write;
    let style = clap::builder::Styles::default();
    let mut text = StyledStr::new();
    // Into memory: it cannot fail.
    let _ = write!(text, "{0}Examples:{0:#}", style.get_header());
    for (what, line) in examples {
        let end = if what.ends_with('?') { "" } else { ":" };
        let _ = write!(text, "\n  {what}{end}\n    {0}$ {line}{0:#}", style.get_literal());
    }
    text
}

/// Writes the man pages of `command`, one for each of its verbs among them, into `folder`.
pub fn write_man_pages(command: Command, folder: &Path) -> Result<()> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    write_man_page(&command, folder)
}

fn write_man_page(command: &Command, folder: &Path) -> Result<()> {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        write_man_page(verb, folder)?;
    }
    // The writer of pages would run the lines of examples together.
    let examples = command.get_after_long_help().map(StyledStr::to_string).unwrap_or_default();
    let plain = command.clone().after_long_help(Resettable::Reset);
    let man = Man::new(plain).source(format!("mirror42 {VERSION}")).manual("mirror42");
    let mut page = Vec::new();
    let rendered = man.render(&mut page).and_then(|()| section(&examples).to_writer(&mut page));
    let path = folder.join(man.get_filename());
    rendered.map_err(|cause| Error::io("write", &path, &cause))?;
    files::write(&path, &page).map(drop)
}

/// The examples as a section of a man page, line by line as they are.
fn section(examples: &str) -> Roff {
    let mut section = Roff::new();
    let Some((_, lines)) = examples.split_once('\n') else { return section };
    section.control("SH", ["EXAMPLES"]).control("nf", []);
    for line in lines.lines() {
        section.text([roman(line)]);
    }
    section.control("fi", []);
    section
}
