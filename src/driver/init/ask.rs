//! Answers of the API, through `mirror42-fetch --sample`: its limits, its authorization, its judgement of what came.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::Access;
use crate::driver::sample::Sample;
use crate::driver::{child, output};
use crate::error::{Error, Result};
use crate::files;
use crate::pipeline::Secrets;

/// Twice: once is an accident, and who waits is a person.
const TRIES: &str = "2";

/// A pipeline in a folder of its own that is gone in the end: nothing is left where the new one would be, if it comes
/// to nothing.
pub struct Draft {
    folder: TempDir,
    environment: Vec<(String, String)>,
}

impl Draft {
    /// One that asks as `access` says, with the secrets of the environment or of the new folder's `.env`.
    pub fn new(access: &Access, secrets: &Secrets) -> Result<Draft> {
        let folder = tempfile::tempdir();
        let folder = folder.map_err(|cause| Error::io("create a folder in", &std::env::temp_dir(), &cause))?;
        let mut environment = Vec::new();
        for (variable, what) in access.variables() {
            environment.push((variable.to_string(), secrets.need(variable, what)?.reveal().to_string()));
        }
        let draft = Draft { folder, environment };
        draft.write(&format!("[pipeline]\nname = \"draft\"\n\n{}", access.toml()))?;
        Ok(draft)
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("pipeline.toml")
    }

    pub fn write(&self, pipeline: &str) -> Result<()> {
        files::write(&self.file(), pipeline.as_bytes()).map(drop)
    }

    /// The answer to this path.
    pub fn sample(&self, path: &str) -> Result<Sample> {
        let printed = self.run("mirror42-fetch", &["--sample", path])?;
        Sample::read(&printed)
    }

    /// Whether the filters of the pipeline compile.
    pub fn check_filters(&self) -> Result<()> {
        self.run("mirror42-extract", &["--check"]).map(drop)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(child::program(program)?);
        command.arg("--pipeline").arg(self.file()).args(["--log-format", "json"]).args(arguments);
        // It would take the place of the address that was given.
        command.env_remove("MIRROR42_API_URL").env("MIRROR42_TRIES", TRIES);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        output::output_of(command, program)
    }
}

/// The secrets that `.env` of the new folder holds, if there is one already.
pub fn secrets(root: &Path) -> Result<Secrets> {
    Secrets::load(&root.join(".env"))
}
