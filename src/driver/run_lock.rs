//! One run at a time in a folder. The lock's file names who holds it; a run that ends well empties it, so that the next
//! one sees whether it has to clean up after a killed one.

use std::path::PathBuf;

use crate::cli::Context;
use crate::error::{Error, Kind, Result};
use crate::files::{self, Lock};
use crate::log as logs;

/// The right to run. Dropped without [`RunLock::release`], it leaves its owner's name for the next run.
pub struct RunLock {
    lock: Lock,
    path: PathBuf,
}

impl RunLock {
    /// Takes the lock, and removes what runs that did not end well have left; another run under way is an error.
    pub fn take(context: &Context, verb: &str) -> Result<RunLock> {
        let path = context.pipeline.paths.run_lock();
        let owner = format!("`mirror42 {verb}`, process {}, since {}", std::process::id(), logs::now());
        let last_owner = files::read_if_there(&path)?.unwrap_or_default();
        let Some(lock) = Lock::try_with_owner(&path, &owner)? else {
            return Err(Error::locked("another run is under way")
                .at(path.display().to_string())
                .detail(files::holder(&path)));
        };
        if !last_owner.is_empty() {
            sweep(context)?;
        }
        Ok(RunLock { lock, path })
    }

    /// The run has ended well, and leaves nothing.
    pub fn release(self) -> Result<()> {
        self.lock.release().map_err(|cause| Error::io("empty", &self.path, &cause))
    }
}

/// Removes temporary files of killed processes. Stages clean up before they write, but one that is current by now may not
/// write for long.
fn sweep(context: &Context) -> Result<()> {
    let paths = &context.pipeline.paths;
    for file in [paths.forced(), paths.hashes()] {
        files::recover(&file, |_| false)?;
    }
    for stage in context.pipeline.stages.iter().filter(|stage| paths.stage(&stage.name).is_dir()) {
        match Lock::of_stage(paths, &stage.name) {
            // Who works on it has swept it.
            Err(error) if error.kind() == Kind::Locked => {}
            swept => drop(swept?),
        }
    }
    Ok(())
}
