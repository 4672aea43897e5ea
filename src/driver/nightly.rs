//! What runs by itself, as `crontab` and `systemd` write it: the commands, and where they are to run.

use std::path::Path;

use super::child;
use crate::cli::Context;
use crate::error::{Error, Result};
use crate::pipeline::{CronTime, Pipeline};

/// The pipeline, by names that mean the same in every folder.
pub struct Place {
    /// The pipeline file, without symbolic links.
    pub file: String,
    /// The folder that it is in.
    pub folder: String,
}

/// One thing that runs at its times.
pub struct Job<'a> {
    /// `token`, `run` or `rotate`.
    pub name: &'static str,
    pub time: &'a CronTime,
    /// The program by its whole path, and its arguments.
    pub command: Vec<String>,
}

impl Place {
    pub fn of(context: &Context) -> Result<Place> {
        let file = &context.pipeline.file;
        let whole = file.canonicalize().map_err(|cause| Error::io("find", file, &cause))?;
        let folder = whole.parent().unwrap_or(Path::new("/"));
        Ok(Place { folder: text(folder)?, file: text(&whole)? })
    }
}

/// All that a mirror needs, in the order of the hour. Each is to run in the folder of the pipeline.
pub fn jobs<'a>(pipeline: &'a Pipeline, place: &Place) -> Result<Vec<Job<'a>>> {
    let cron = &pipeline.cron;
    let token = cron.token.as_ref().map(|time| ("token", time, "mirror42-token", Some("ensure")));
    let others = [("run", &cron.run, "mirror42", Some("run")), ("rotate", &cron.rotate, "mirror42-rotate", None)];
    let file = place.file.rsplit('/').next().unwrap_or(&place.file);
    let jobs = token.into_iter().chain(others).map(|(name, time, program, verb)| {
        let mut command = vec![text(&child::program(program)?)?];
        command.extend(verb.map(str::to_string));
        command.push("-q".to_string());
        if file != "pipeline.toml" {
            command.extend(["--pipeline".to_string(), file.to_string()]);
        }
        Ok(Job { name, time, command })
    });
    jobs.collect()
}

/// Neither cron nor systemd has a way to write every name: these characters are different to each version of theirs.
fn text(path: &Path) -> Result<String> {
    let plain = path.to_str().filter(|text| !text.contains('\\') && !text.contains(char::is_control));
    plain.map(str::to_string).ok_or_else(|| {
        Error::usage(format!("cannot have `{}` run by itself", path.display()))
            .detail("Its path holds a backslash, a control character or bytes that are no UTF-8.")
            .hint("Give it another name.")
    })
}
