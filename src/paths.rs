//! Every path the project reads or writes, in one struct. All are below the folder of `pipeline.toml`.

use std::path::{Path, PathBuf};

/// The pipeline file where none is named.
pub const PIPELINE: &str = "pipeline.toml";
/// Name of the records of a stage, within its folder.
pub const ALL_JSON: &str = "all.json";

#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
    /// In place of `exports/`.
    exports: Option<PathBuf>,
}

impl Paths {
    /// `root` is the folder of the pipeline file.
    pub fn new(root: impl Into<PathBuf>) -> Paths {
        Paths { root: root.into(), exports: None }
    }

    /// The same, but for the exports, which are in another folder.
    pub fn with_exports(&self, folder: impl Into<PathBuf>) -> Paths {
        Paths { root: self.root.clone(), exports: Some(folder.into()) }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `exports/`: one folder a stage.
    pub fn exports(&self) -> PathBuf {
        self.exports.clone().unwrap_or_else(|| self.root.join("exports"))
    }

    pub fn stage(&self, stage: &str) -> PathBuf {
        self.exports().join(stage)
    }

    /// The records of a stage: a JSON array, one record a line.
    pub fn all_json(&self, stage: &str) -> PathBuf {
        self.stage(stage).join(ALL_JSON)
    }

    /// What made the files beside it: see [`crate::receipt`].
    pub fn receipt(&self, stage: &str) -> PathBuf {
        self.stage(stage).join("stage.json")
    }

    /// The answers of the API, as received; only whole series of pages stand here. Or what a program wrote.
    pub fn pages(&self, stage: &str) -> PathBuf {
        self.stage(stage).join("pages")
    }

    /// Where pages gather until all of them are there.
    pub fn pages_under_way(&self, stage: &str) -> PathBuf {
        self.stage(stage).join("pages.new")
    }

    /// State that is no artifact: token, locks, the limiter's clock.
    pub fn state(&self) -> PathBuf {
        self.root.join(".mirror42")
    }

    pub fn run_lock(&self) -> PathBuf {
        self.state().join("run.lock")
    }

    /// Held by the process that writes into the folder of a stage.
    pub fn stage_lock(&self, stage: &str) -> PathBuf {
        self.state().join("locks").join(stage)
    }

    /// Held by the load test that is under way.
    pub fn loadtest_lock(&self) -> PathBuf {
        self.state().join("loadtest.lock")
    }

    /// The stages that the next run is to fetch whatever their receipts say, one a line.
    pub fn forced(&self) -> PathBuf {
        self.state().join("forced")
    }

    /// What files hash to, while they are what they were.
    pub fn hashes(&self) -> PathBuf {
        self.state().join("hashes")
    }

    /// Says that the mirror in this folder is the demo's, and of which day.
    pub fn demo(&self) -> PathBuf {
        self.state().join("demo")
    }

    pub fn token(&self) -> PathBuf {
        self.state().join("token.json")
    }

    /// The clock of the rate limiter for one API, told by its host and port.
    pub fn limiter(&self, host: &str) -> PathBuf {
        let plain = host.replace(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '-'), "_");
        self.state().join(format!("limiter-{plain}.json"))
    }

    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The log of one stage, or of `load`, `validate`, `token` and the driver (`run`).
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// The records of past runs.
    pub fn runs(&self) -> PathBuf {
        self.logs().join("runs")
    }

    /// What a run did.
    pub fn run_record(&self, id: &str) -> PathBuf {
        self.runs().join(format!("{id}.json"))
    }

    /// What the verb `report` writes.
    pub fn report(&self) -> PathBuf {
        self.root.join("report.html")
    }

    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// The exports of past nights: see [`crate::driver`].
    pub fn snapshots(&self) -> PathBuf {
        self.data().join("snapshots")
    }

    /// The private cluster of the embedded server.
    pub fn postgres(&self) -> PathBuf {
        self.data().join("postgres")
    }

    /// Held while the cluster is made, started or stopped.
    pub fn postgres_lock(&self) -> PathBuf {
        self.state().join("postgres.lock")
    }

    pub fn dotenv(&self) -> PathBuf {
        self.root.join(".env")
    }

    /// `path` as messages name it: relative to the root where it is below it.
    pub fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }
}

/// The file of one page within a folder of pages: `KEY/0001.json`, or `0001.json` for a fetch that is made once.
pub fn page_file(pages: &Path, key: Option<&str>, number: u32) -> PathBuf {
    let file = format!("{number:04}.json");
    match key {
        Some(key) => pages.join(key).join(file),
        None => pages.join(file),
    }
}
