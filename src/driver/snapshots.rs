//! The exports of past nights, compressed, each content once: `data/snapshots/objects` by the hash of what is in them, and a
//! manifest a load that names its objects.
//!
//! A manifest is written when its objects are there, and objects go when no manifest names them any more: whatever is
//! killed, a manifest that is there can be loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::files::{self, AtomicFile, Layout};
use crate::log as logs;
use crate::paths::Paths;
use crate::pipeline::Pipeline;
use crate::receipt::{ExtractReceipt, FetchReceipt, Receipt, RunReceipt};

/// Read, compressed and written at a time.
const CHUNK_BYTES: usize = 1 << 18;

/// The exports of one load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub run_id: String,
    pub pipeline: String,
    /// RFC 3339, as all times here.
    pub loaded_at: String,
    /// By stage; those that have a table.
    pub exports: BTreeMap<String, Kept>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub table: String,
    /// Of `all.json`, not of the compressed object.
    pub sha256: String,
    pub records: u64,
    pub size_bytes: u64,
    /// The start of the fetch behind it; none: not known.
    pub fetched_at: Option<String>,
}

impl Snapshot {
    /// How old the data is: the oldest start of a fetch.
    pub fn fetched_at(&self) -> Option<&str> {
        self.exports.values().map(|kept| kept.fetched_at.as_deref()).min().flatten()
    }

    pub fn records(&self) -> u64 {
        self.exports.values().map(|kept| kept.records).sum()
    }

    pub fn size_bytes(&self) -> u64 {
        self.exports.values().map(|kept| kept.size_bytes).sum()
    }
}

/// Keeps the exports that the load `run_id` has loaded, and lets go of those that are too old.
pub fn keep(pipeline: &Pipeline, run_id: &str) -> Result<()> {
    if pipeline.keep_exports == 0 {
        return Ok(());
    }
    let paths = &pipeline.paths;
    let mut exports = BTreeMap::new();
    for (stage, table) in pipeline.loaded() {
        let extract = Receipt::read(paths, &stage.name)?.and_then(|receipt| receipt.extract);
        let extract = extract.ok_or_else(|| Error::failed(format!("stage `{}` has no receipt", stage.name)))?;
        store(paths, &stage.name, &extract.sha256)?;
        let kept = Kept {
            table: table.to_string(),
            sha256: extract.sha256,
            records: extract.records_out,
            size_bytes: extract.size_bytes,
            fetched_at: Receipt::data_of(pipeline, stage)?,
        };
        exports.insert(stage.name.clone(), kept);
    }
    let snapshot =
        Snapshot { run_id: run_id.to_string(), pipeline: pipeline.name.clone(), loaded_at: logs::now(), exports };
    files::write_json(&manifest(paths, run_id), &snapshot, Layout::Indented)?;
    forget(paths, pipeline.keep_exports as usize)
}

/// All snapshots that are kept, the oldest first.
pub fn all(paths: &Paths) -> Result<Vec<Snapshot>> {
    let mut snapshots: Vec<Snapshot> = Vec::new();
    for path in entries(&paths.snapshots())? {
        if path.extension().is_some_and(|extension| extension == "json") {
            let bytes = files::read(&path)?;
            let snapshot = serde_json::from_slice(&bytes).map_err(|cause| {
                Error::failed("a snapshot's manifest cannot be read").at(paths.shown(&path)).detail(cause.to_string())
            })?;
            snapshots.push(snapshot);
        }
    }
    snapshots.sort_by(|a, b| a.loaded_at.cmp(&b.loaded_at).then_with(|| a.run_id.cmp(&b.run_id)));
    Ok(snapshots)
}

/// The last snapshot up to `as_of`: a day (to its end, UTC), a time, or the id of a run.
pub fn as_of(paths: &Paths, as_of: &str) -> Result<Snapshot> {
    let snapshots = all(paths)?;
    if let Some(snapshot) = snapshots.iter().find(|snapshot| snapshot.run_id == as_of) {
        return Ok(snapshot.clone());
    }
    let limit = moment(as_of).ok_or_else(|| {
        Error::usage(format!("`--as-of` is {as_of:?}, expected a day, a time or a run, such as `2026-11-23`"))
            .hint("`mirror42 replay --list` tells which there are.")
    })?;
    let before = |snapshot: &&Snapshot| snapshot.loaded_at.parse::<Timestamp>().is_ok_and(|time| time <= limit);
    if let Some(snapshot) = snapshots.iter().rev().find(before) {
        return Ok(snapshot.clone());
    }
    let error = Error::failed(format!("no snapshot was kept up to {as_of}"));
    Err(match (snapshots.first(), snapshots.last()) {
        (Some(oldest), Some(newest)) => error.detail(format!(
            "There are {}, the oldest of {}, the newest of {}.",
            snapshots.len(),
            oldest.loaded_at,
            newest.loaded_at
        )),
        _ => error.detail("There are none: `mirror42 run` keeps one with each load, if `keep_exports` is not 0."),
    })
}

fn moment(text: &str) -> Option<Timestamp> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    let next = text.parse::<Date>().ok()?.tomorrow().ok()?;
    let midnight = next.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    midnight.checked_sub(jiff::SignedDuration::from_nanos(1)).ok()
}

/// Writes the exports of `snapshot` below `folder`, each with a receipt, as the loader wants them.
pub fn restore(pipeline: &Pipeline, snapshot: &Snapshot, folder: &Path) -> Result<()> {
    let place = pipeline.file.display().to_string();
    let lacks = |stage: &str, what: &str| {
        let error = Error::failed(format!("the snapshot of run {} {what} stage `{stage}`", snapshot.run_id));
        error.at(&place).hint("A snapshot is loaded by the pipeline file that it was made with.")
    };
    for (stage, table) in pipeline.loaded() {
        match snapshot.exports.get(&stage.name) {
            Some(kept) if kept.table == table => {}
            Some(_) => return Err(lacks(&stage.name, "has another table for")),
            None => return Err(lacks(&stage.name, "has no export of")),
        }
    }
    let target = pipeline.paths.with_exports(folder);
    for (name, kept) in &snapshot.exports {
        pipeline.stage(name).ok_or_else(|| lacks(name, "has an export of"))?;
        fetch_back(&pipeline.paths, &target.all_json(name), kept)?;
        let mut receipt = Receipt::read_or_new(&target, name)?;
        receipt.extract = Some(ExtractReceipt {
            definition: String::new(),
            inputs: BTreeMap::new(),
            finished_at: snapshot.loaded_at.clone(),
            duration_ms: 0,
            records_in: kept.records,
            records_out: kept.records,
            duplicates: 0,
            size_bytes: kept.size_bytes,
            sha256: kept.sha256.clone(),
        });
        receipt.write(&target)?;
    }
    restore_ages(pipeline, snapshot, &target)
}

/// The receipts of what the exports were made from, as far as they tell how old it is.
fn restore_ages(pipeline: &Pipeline, snapshot: &Snapshot, target: &Paths) -> Result<()> {
    let mut exports = Vec::new();
    for (name, kept) in &snapshot.exports {
        exports.push((pipeline.aging(pipeline.known_stage(name)?)?, kept));
    }
    // What was made from several fetches is as old as the oldest of them: the others are told by what follows.
    exports.sort_by_key(|(aging, _)| std::cmp::Reverse(aging.len()));
    for (aging, kept) in exports {
        let Some(at) = &kept.fetched_at else { continue };
        for stage in aging {
            let mut receipt = Receipt::read_or_new(target, &stage.name)?;
            match stage.run() {
                Some(_) => receipt.run = Some(RunReceipt { started_at: at.clone(), ..RunReceipt::default() }),
                None => receipt.fetch = Some(fetched(at, kept.records)),
            }
            receipt.write(target)?;
        }
    }
    Ok(())
}

/// What is known of a fetch of long ago: when it was.
fn fetched(at: &str, records: u64) -> FetchReceipt {
    FetchReceipt {
        definition: String::new(),
        inputs: BTreeMap::new(),
        started_at: at.to_string(),
        finished_at: at.to_string(),
        duration_ms: 0,
        requests: 0,
        retries: 0,
        resumed_pages: 0,
        records,
        size_bytes: 0,
        series: Vec::new(),
    }
}

/// Compresses the export of a stage into its object, unless it is there.
fn store(paths: &Paths, stage: &str, sha256: &str) -> Result<()> {
    let target = object(paths, sha256);
    if target.exists() {
        return Ok(());
    }
    let path = paths.all_json(stage);
    let mut source = File::open(&path).map_err(|cause| Error::io("read", &path, &cause))?;
    let mut file = AtomicFile::create(&target)?;
    let mut encoder = GzEncoder::new(Vec::with_capacity(CHUNK_BYTES), Compression::fast());
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let failed = |cause: std::io::Error| Error::io("compress", &path, &cause);
    loop {
        let length = source.read(&mut chunk).map_err(|cause| Error::io("read", &path, &cause))?;
        if length == 0 {
            break;
        }
        hasher.update(&chunk[..length]);
        encoder.write_all(&chunk[..length]).map_err(failed)?;
        file.write(encoder.get_ref())?;
        encoder.get_mut().clear();
    }
    file.write(&encoder.finish().map_err(failed)?)?;
    if files::hex(&hasher.finalize()) != sha256 {
        return Err(Error::failed(format!("`{}` is no longer what was loaded", paths.shown(&path))));
    }
    file.commit().map(drop)
}

/// Unpacks an object to `target`, and checks that it is what it was.
fn fetch_back(paths: &Paths, target: &Path, kept: &Kept) -> Result<()> {
    let path = object(paths, &kept.sha256);
    let damaged = |what: String| {
        Error::failed("an export that was kept is damaged")
            .at(paths.shown(&path))
            .detail(what)
            .detail("Nothing was loaded; the database is as it was.")
    };
    let source = File::open(&path).map_err(|cause| damaged(cause.to_string()))?;
    let mut decoder = GzDecoder::new(source);
    let mut file = AtomicFile::create(target)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let length = decoder.read(&mut chunk).map_err(|cause| damaged(cause.to_string()))?;
        if length == 0 {
            break;
        }
        file.write(&chunk[..length])?;
    }
    match file.commit()?.sha256 == kept.sha256 {
        true => Ok(()),
        false => Err(damaged("Its content has another hash than its name.".to_string())),
    }
}

/// Removes all manifests but the newest `keep`, then the objects that none names, and what killed writers left.
fn forget(paths: &Paths, keep: usize) -> Result<()> {
    files::sweep(&paths.snapshots())?;
    let snapshots = all(paths)?;
    let old = snapshots.len().saturating_sub(keep);
    for snapshot in &snapshots[..old] {
        files::remove(&manifest(paths, &snapshot.run_id))?;
    }
    let kept: BTreeSet<PathBuf> = snapshots[old..]
        .iter()
        .flat_map(|snapshot| snapshot.exports.values().map(|kept| object(paths, &kept.sha256)))
        .collect();
    for folder in entries(&paths.snapshots().join("objects"))? {
        for path in entries(&folder)? {
            if !kept.contains(&path) {
                files::remove(&path)?;
            }
        }
    }
    Ok(())
}

fn manifest(paths: &Paths, run_id: &str) -> PathBuf {
    paths.snapshots().join(format!("{run_id}.json"))
}

fn object(paths: &Paths, sha256: &str) -> PathBuf {
    let folder = sha256.get(..2).unwrap_or("xx");
    paths.snapshots().join("objects").join(folder).join(format!("{sha256}.json.gz"))
}

/// What is in a folder; nothing in one that is not there.
pub fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = match fs::read_dir(folder) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(|cause| Error::io("read", folder, &cause))?,
    };
    let paths = read.map(|entry| entry.map(|entry| entry.path()));
    paths.collect::<std::io::Result<_>>().map_err(|cause| Error::io("read", folder, &cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_lasts_until_its_end_and_a_time_is_one() {
        let time = |text: &str| moment(text).map(|time| time.to_string());
        assert_eq!(time("2026-11-23").unwrap(), "2026-11-23T23:59:59.999999999Z");
        assert_eq!(time("2026-11-23T01:00:00+01:00").unwrap(), "2026-11-23T00:00:00Z");
        assert_eq!(time("yesterday"), None);
    }
}
