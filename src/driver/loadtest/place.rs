//! Where a load test works: a scratch schema of the database, a folder under `.mirror42/`, both of one name. Neither
//! outlives it.
//!
//! A guardian sees to that: a process of its own, which waits for the end of its standard input. The driver
//! holds the other end, and the kernel closes it however the driver ends, SIGKILL too. The guardian then removes
//! both. If it is killed as well (a machine that loses power), the next load test removes what was left.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::cli::Context;
use crate::driver::child;
use crate::error::{Error, Result};
use crate::files;
use crate::paths::Paths;
use crate::pg::scratch::{self, Scratch};
use crate::pg::{self, embedded};
use crate::pipeline::Secret;

pub struct Place<'a> {
    context: &'a Context,
    pub url: Secret,
    pub name: String,
    pub folder: PathBuf,
    pub scratch: Scratch,
    guardian: Child,
}

impl<'a> Place<'a> {
    /// Removes what killed load tests have left, and makes a place. The lock of load tests is the caller's.
    pub fn make(context: &'a Context, url: Option<&Secret>) -> Result<Place<'a>> {
        let paths = &context.pipeline.paths;
        sweep_folders(&paths.state())?;
        let mut session = pg::connect(paths, url, "loadtest")?;
        scratch::sweep(&mut session)?;
        let url = match url {
            Some(url) => url.clone(),
            None => Secret::new(embedded::started(paths)?.url()),
        };
        let name = scratch::new_name();
        let guardian = start_guardian(context, &url, &name)?;
        let scratch = Scratch::create(session, &name)?;
        let folder = folder_of(paths, &name);
        files::create_dir(&folder)?;
        Ok(Place { context, url, name, folder, scratch, guardian })
    }

    /// Has all of it removed.
    pub fn remove(self) -> Result<()> {
        let Place { context, url, name, scratch, mut guardian, .. } = self;
        // Its session holds the lock that the guardian waits for.
        drop(scratch);
        drop(guardian.stdin.take());
        match guardian.wait() {
            Ok(status) if status.success() => Ok(()),
            _ => remove(&context.pipeline.paths, &url, &name),
        }
    }
}

fn folder_of(paths: &Paths, name: &str) -> PathBuf {
    paths.state().join(name)
}

/// In a process group of its own: a ^C is for the driver, whose end is the guardian's beginning.
fn start_guardian(context: &Context, url: &Secret, name: &str) -> Result<Child> {
    let mut command = Command::new(child::program("mirror42")?);
    command.args(["loadtest-guardian", name, "--quiet", "--pipeline"]).arg(&context.pipeline.file);
    command.env("DATABASE_URL", url.reveal());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().map_err(|cause| Error::failed(format!("could not start the load test's guardian: {cause}")))
}

/// The guardian's whole life. What it cannot do is in the log of the driver.
pub fn guard(context: &Context, url: Option<&Secret>, name: &str) -> Result<()> {
    if !scratch::is_name(name) {
        return Err(Error::usage(format!("`{name}` is no scratch schema of a load test")));
    }
    let url = url.ok_or_else(|| Error::usage("the guardian of a load test needs `DATABASE_URL`"))?;
    // That it cannot be read any more is its end too.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    remove(&context.pipeline.paths, url, name)
}

fn remove(paths: &Paths, url: &Secret, name: &str) -> Result<()> {
    let connected = pg::connect(paths, Some(url), "loadtest");
    let dropped = connected.and_then(|mut client| scratch::remove(&mut client, name));
    let folder = folder_of(paths, name);
    let removed = files::remove_dir(&folder);
    dropped.and(removed).map_err(|error| {
        error
            .detail(format!(
                "What the load test made may still be there: schema `{name}`, folder `{}`.",
                folder.display()
            ))
            .hint(format!(
                "The next `mirror42 loadtest` removes it; by hand, `drop schema {name} cascade` and `rm -r` do."
            ))
    })
}

/// Removes the folders that killed load tests have left: whoever holds the lock of load tests has the only one.
fn sweep_folders(state: &Path) -> Result<()> {
    let failed = |cause: std::io::Error| Error::io("list", state, &cause);
    for entry in std::fs::read_dir(state).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if scratch::is_name(&entry.file_name().to_string_lossy())
            && let Err(error) = files::remove_dir(&entry.path())
        {
            log::warn!("{}; a killed load test had left it", error.message());
        }
    }
    Ok(())
}
