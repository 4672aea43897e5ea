//! Programs of others, run to their end: `crontab`, `systemctl`.

use std::ffi::OsStr;
use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

use crate::error::{Error, Result, excerpt};

/// What a program did.
pub struct Ended {
    pub success: bool,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

/// Runs `program` with `input` as its standard input; none if there is no such program.
pub fn run<A: AsRef<OsStr>>(program: &str, arguments: &[A], input: &[u8]) -> Result<Option<Ended>> {
    let failed = |cause: std::io::Error| Error::failed(format!("could not run `{program}`: {cause}"));
    let mut command = Command::new(program);
    // Its messages are read, so they are to be in the one language that is known.
    command.args(arguments).env("LC_ALL", "C");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(failed(cause)),
    };
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends before it has read all says why by its end.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(failed)?;
    Ok(Some(Ended {
        success: output.status.success(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_string(),
    }))
}

impl Ended {
    /// What it said of its failure, for a message.
    pub fn complaint(&self) -> String {
        match self.stderr.is_empty() {
            true => "it gave no reason".to_string(),
            false => format!("it said: {}", excerpt(&self.stderr, 300)),
        }
    }
}
