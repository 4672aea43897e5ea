//! `on_success` and `on_failure` of pipeline.toml: a program that is told how a run ended.
//!
//! It gets the summary on its standard input, and is never the run's business: what it does wrong is a warning. It is not
//! started when the run did not begin, since another one holds the lock and has its own end to tell; nor when a signal
//! stopped the run, which then has two seconds to end.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::mpsc::channel;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::error::{Error, Result, excerpt};
use crate::pipeline::Pipeline;
use crate::{process, style};

/// A mail is sent in this time, or not at all.
const PATIENCE: Duration = Duration::from_secs(30);
// Of what the program printed, the end is told.
const TOLD_BYTES: u64 = 2000;

/// Tells the program of pipeline.toml, if there is one, how the run `run_id` ended: its summary, or its error.
pub fn tell(pipeline: &Pipeline, run_id: &str, done: Result<&str, &Error>) {
    let (name, command) = match done {
        Ok(_) => ("on_success", &pipeline.hooks.on_success),
        Err(_) => ("on_failure", &pipeline.hooks.on_failure),
    };
    let Some(command) = command else { return };
    let text = match done {
        Ok(summary) => {
            format!("mirror42: run {run_id} of `{}` is done\n\n{}\n", pipeline.name, style::plain(summary).trim_end())
        }
        Err(error) => format!("mirror42: run {run_id} of `{}` failed\n\nerror: {error}\n", pipeline.name),
    };
    let exit_code = done.map_or_else(|error| error.kind().exit_code(), |_| 0);
    let exit_code = exit_code.to_string();
    let variables = [("MIRROR42_RUN_ID", run_id), ("MIRROR42_EXIT_CODE", exit_code.as_str())];
    match run(pipeline, command, &text, &variables, PATIENCE) {
        Ok(()) => log::info!("`{name}` was told"),
        Err(why) => log::warn!("`{name}` of pipeline.toml, `{}`, {why}", command.join(" ")),
    }
}

/// Runs the command in the folder of the pipeline; the error is what it did wrong.
fn run(
    pipeline: &Pipeline,
    command: &[String],
    text: &str,
    variables: &[(&str, &str)],
    patience: Duration,
) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let file = std::path::absolute(&pipeline.file).map_err(|cause| format!("could not be told its place: {cause}"))?;
    let folder = file.parent().unwrap_or(Path::new("/"));
    // Files rather than pipes: who leaves a process behind, or reads nothing, holds up nobody.
    let printed = tempfile::tempfile().map_err(|cause| format!("could not be given a file: {cause}"))?;
    let given = |file: &File| file.try_clone().map_err(|cause| format!("could not be given a file: {cause}"));
    let mut hook = Command::new(path_of(program, folder));
    hook.args(arguments).current_dir(folder).process_group(0);
    hook.envs(variables.iter().copied()).env("MIRROR42_PIPELINE", &file);
    hook.stdin(summary_file(text).map_err(|cause| format!("could not be given the summary: {cause}"))?);
    hook.stdout(given(&printed)?).stderr(given(&printed)?);
    process::die_with_parent(&mut hook);
    let mut child = hook.spawn().map_err(|cause| format!("could not be started: {cause}"))?;
    let id = child.id();
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(child.wait()));
    let ended = receiver.recv_timeout(patience);
    if ended.is_err() {
        // With all that it has started. That it has just ended by itself is well.
        let _ = killpg(Pid::from_raw(id as i32), Signal::SIGKILL);
    }
    let how = match ended {
        Ok(Ok(status)) if status.success() => return Ok(()),
        Ok(Ok(status)) => how_it_ended(status),
        Ok(Err(cause)) => format!("could not be waited for: {cause}"),
        Err(_) => format!("took longer than {} s and was killed", patience.as_secs()),
    };
    Err(match end_of(printed) {
        Some(end) => format!("{how}; it printed: {end}"),
        None => how,
    })
}

/// A name without a slash is looked for in `PATH`; one with it is below the folder of the pipeline.
fn path_of(program: &str, folder: &Path) -> PathBuf {
    if program.contains('/') { folder.join(program) } else { PathBuf::from(program) }
}

fn summary_file(text: &str) -> std::io::Result<File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

fn how_it_ended(status: ExitStatus) -> String {
    status.code().map_or_else(|| format!("was killed ({status})"), |code| format!("ended with exit code {code}"))
}

/// The end of what was printed, in one line; none if nothing was.
fn end_of(mut printed: File) -> Option<String> {
    let length = printed.metadata().ok()?.len();
    printed.seek(SeekFrom::Start(length.saturating_sub(TOLD_BYTES))).ok()?;
    let mut bytes = Vec::new();
    printed.take(TOLD_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(5)..];
    (!last.is_empty()).then(|| excerpt(&last.join(" | "), 500))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_a_slash_is_found_from_the_folder() {
        let folder = Path::new("/srv/mirror");
        assert_eq!(path_of("mail", folder), Path::new("mail"));
        assert_eq!(path_of("./tell.sh", folder), Path::new("/srv/mirror/./tell.sh"));
        assert_eq!(path_of("/usr/bin/mail", folder), Path::new("/usr/bin/mail"));
    }

    #[test]
    fn the_end_of_what_was_printed_is_one_line() {
        let end = |text: &str| end_of(summary_file(text).unwrap());
        assert_eq!(end(" \n"), None);
        assert_eq!(end("1\n2\n3\n\n4\n5\n6\n"), Some("2 | 3 | 4 | 5 | 6".to_string()));
        let long = "x".repeat(5000);
        assert_eq!(end(&long), Some(format!("{}…", &long[..500])));
    }

    #[test]
    fn one_that_takes_too_long_is_killed_with_all_that_it_has_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pipeline.toml");
        let text = "[pipeline]\nname = \"t\"\n[api]\nbase_url = \"http://127.0.0.1\"\n";
        let pipeline = Pipeline::parse(&file, text).unwrap();
        let script = "sleep 60 & echo $! > pid; echo begun; wait";
        let command = ["sh", "-c", script].map(str::to_string);
        let why = run(&pipeline, &command, "", &[], Duration::from_millis(500)).unwrap_err();
        assert_eq!(why, "took longer than 0 s and was killed; it printed: begun");
        let pid = std::fs::read_to_string(folder.path().join("pid")).unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        let began = std::time::Instant::now();
        // Who adopts it may leave a zombie of it.
        while state().contains("(sleep)") && !state().contains(") Z ") {
            assert!(began.elapsed() < Duration::from_secs(10), "{}", state());
        }
    }

    #[test]
    fn one_that_reads_nothing_of_a_long_summary_is_well() {
        let file = Path::new("pipeline.toml");
        let text = "[pipeline]\nname = \"t\"\n[api]\nbase_url = \"http://127.0.0.1\"\n";
        let pipeline = Pipeline::parse(file, text).unwrap();
        let summary = "x".repeat(1 << 20);
        assert_eq!(run(&pipeline, &["true".to_string()], &summary, &[], PATIENCE), Ok(()));
    }
}
