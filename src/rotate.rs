//! Old and large logs become `NAME.log.YYYY-MM-DD[.N].gz`; what was compressed long ago goes.
//!
//! A writer may be at work: it opens the log anew for each line ([`files::append_line`]), so once the log has another
//! name, the next line begins a new one; a lock waits for the line that is being written. What a killed rotation left
//! under its new name the next one compresses.
//! Only plain files of these names below `logs/` are touched; links are not followed.

use std::fs::{File, Metadata};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Parser;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use walkdir::WalkDir;

use crate::cli::Common;
use crate::error::{Error, Result};
use crate::files::{self, AtomicFile, Lock};
use crate::manual;
use crate::paths::Paths;

const DAY: Duration = Duration::from_secs(24 * 3600);
// A line of ours begins with its time, which is 24 bytes long.
const TIME_BYTES: u64 = 40;
const CHUNK_BYTES: usize = 1 << 16;

/// Compresses logs, and removes those compressed long ago
///
/// A log below logs/ that is old or large becomes NAME.log.YYYY-MM-DD.gz, by the day of its last line. It is old by
/// its first line's time, or by its own, whichever is earlier. Exit codes: 0 done or nothing to do, 1 failed,
/// 2 usage, 3 another rotation is under way.
#[derive(Parser, Debug)]
#[command(name = "mirror42-rotate")]
#[command(after_long_help = manual::examples(&[
    ("As cron does, every night", "mirror42-rotate -q"),
    ("Keep a year, and compress what is larger than 10 MB", "mirror42-rotate --keep-days 365 --larger-than 10MB"),
]))]
pub struct Args {
    /// Remove compressed logs whose last line is older than this
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    keep_days: u32,
    /// Compress logs whose first line is older than this
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = duration)]
    older_than: Duration,
    /// Compress logs larger than this, whatever their age
    #[arg(long, value_name = "SIZE", default_value = "50MB", value_parser = size_bytes)]
    larger_than: u64,
    #[command(flatten)]
    common: Common,
}

/// What a file below `logs/` is to us, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Log,
    /// A log under its new name, which was to be compressed.
    Dated,
    Compressed,
    /// Somebody else's.
    Foreign,
}

pub fn run(args: Args) -> Result<()> {
    let context = args.common.open("rotate")?;
    let paths = &context.pipeline.paths;
    let lock = Lock::try_with_owner(&paths.stage_lock("rotate"), &format!("pid {}", std::process::id()))?;
    let _lock = lock.ok_or_else(|| Error::locked("another rotation is under way"))?;
    let found = find(&paths.logs())?;
    let now = SystemTime::now();
    let (mut compressed, mut removed) = (0, 0);

    for (path, _, modified) in found.iter().filter(|(_, kind, _)| *kind == Kind::Compressed) {
        if age(now, *modified) > DAY * args.keep_days {
            files::remove(path)?;
            log::info!(target: "rotate", "removed `{}`", paths.shown(path));
            removed += 1;
        }
    }
    for (path, kind, modified) in &found {
        let dated = match kind {
            Kind::Dated => path.clone(),
            Kind::Log if is_due(path, *modified, now, &args)? => set_aside(path, *modified)?,
            _ => continue,
        };
        compress(&dated, paths)?;
        compressed += 1;
    }
    log::info!(target: "rotate", "compressed {compressed} logs, removed {removed}");
    Ok(())
}

/// The files below `logs`, with what they are and when they were last written; what killed writers left is swept.
fn find(logs: &Path) -> Result<Vec<(PathBuf, Kind, SystemTime)>> {
    let mut found = Vec::new();
    for entry in WalkDir::new(logs).sort_by_file_name() {
        let entry = entry.map_err(|cause| {
            let path = cause.path().unwrap_or(logs).to_path_buf();
            Error::io("list", &path, &cause.into())
        })?;
        // A run that is under way writes into the folder of the records, and sweeps it by itself.
        if entry.file_type().is_dir() && entry.file_name() != "runs" {
            files::sweep(entry.path())?;
        }
        let kind = entry.file_name().to_str().map_or(Kind::Foreign, kind_of);
        if entry.file_type().is_file() && kind != Kind::Foreign {
            let path = entry.into_path();
            let modified = modified(&path, &metadata(&path)?)?;
            found.push((path, kind, modified));
        }
    }
    Ok(found)
}

/// `load.log`, `load.log.2026-11-23`, `load.log.2026-11-23.1.gz`
fn kind_of(name: &str) -> Kind {
    if name.strip_suffix(".log").is_some_and(|stem| !stem.is_empty()) {
        return Kind::Log;
    }
    let (dated, kind) = match name.strip_suffix(".gz") {
        Some(dated) => (dated, Kind::Compressed),
        None => (name, Kind::Dated),
    };
    let Some((stem, suffix)) = dated.rsplit_once(".log.") else { return Kind::Foreign };
    let (day, number) = suffix.split_once('.').unwrap_or((suffix, "1"));
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let is_day = day.len() == "2026-11-23".len() && day.parse::<jiff::civil::Date>().is_ok();
    if stem.is_empty() || !is_number || !is_day { Kind::Foreign } else { kind }
}

fn is_due(log: &Path, modified: SystemTime, now: SystemTime, args: &Args) -> Result<bool> {
    let size_bytes = metadata(log)?.len();
    if size_bytes == 0 {
        return Ok(false);
    }
    // A log that is written to every night is never old by its own time.
    let began = first_line_time(log)?.map_or(modified, |time| modified.min(time));
    Ok(size_bytes > args.larger_than || age(now, began) > args.older_than)
}

fn first_line_time(log: &Path) -> Result<Option<SystemTime>> {
    let mut start = Vec::new();
    let read = File::open(log).and_then(|file| file.take(TIME_BYTES).read_to_end(&mut start));
    read.map_err(|cause| Error::io("read", log, &cause))?;
    let text = String::from_utf8_lossy(&start);
    let time = text.split_whitespace().next().and_then(|word| word.parse::<Timestamp>().ok());
    Ok(time.map(SystemTime::from))
}

/// Gives the log a name by the day of its last line, so that the next line begins a new log.
fn set_aside(log: &Path, modified: SystemTime) -> Result<PathBuf> {
    let day = Timestamp::try_from(modified).unwrap_or(Timestamp::UNIX_EPOCH).strftime("%Y-%m-%d").to_string();
    let mut dated = with_suffix(log, &day);
    for number in 1.. {
        if !dated.exists() && !with_suffix(&dated, "gz").exists() {
            break;
        }
        dated = with_suffix(log, &format!("{day}.{number}"));
    }
    files::rename(log, &dated)?;
    Ok(dated)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Puts `dated.gz`, with the time and the mode of `dated`, in its place.
fn compress(dated: &Path, paths: &Paths) -> Result<()> {
    let target = with_suffix(dated, "gz");
    let _no_writer = Lock::wait(dated)?;
    let failed = |cause: std::io::Error| Error::io("compress", dated, &cause);
    let mut log = File::open(dated).map_err(failed)?;
    let mut file = AtomicFile::create(&target)?;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut read_bytes = 0;
    loop {
        let n = log.read(&mut chunk).map_err(failed)?;
        if n == 0 {
            break;
        }
        read_bytes += n as u64;
        gzip.write_all(&chunk[..n]).map_err(failed)?;
        file.write(gzip.get_ref())?;
        gzip.get_mut().clear();
    }
    file.write(&gzip.finish().map_err(failed)?)?;
    let of_log = metadata(dated)?;
    let written = file.commit_with_mode(of_log.permissions().mode() & 0o777)?;
    let timed = File::options().write(true).open(&target);
    let timed = timed.and_then(|gz| gz.set_modified(of_log.modified()?));
    timed.map_err(|cause| Error::io("set the time of", &target, &cause))?;
    files::remove(dated)?;
    log::info!(
        target: "rotate",
        "compressed `{}`, {:.1} kB to {:.1} kB",
        paths.shown(&target),
        read_bytes as f64 / 1e3,
        written.size_bytes as f64 / 1e3
    );
    Ok(())
}

fn metadata(path: &Path) -> Result<Metadata> {
    path.symlink_metadata().map_err(|cause| Error::io("look at", path, &cause))
}

fn modified(path: &Path, metadata: &Metadata) -> Result<SystemTime> {
    metadata.modified().map_err(|cause| Error::io("read the time of", path, &cause))
}

/// Nothing is older than nothing: a time that lies ahead is now.
fn age(now: SystemTime, time: SystemTime) -> Duration {
    now.duration_since(time).unwrap_or_default()
}

/// `1d`, `36h`
fn duration(text: &str) -> Result<Duration, String> {
    let span = text.parse::<jiff::Span>().ok();
    let duration = span.and_then(|span| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok());
    let duration = duration.and_then(|duration| Duration::try_from(duration).ok());
    duration.ok_or_else(|| "expected a duration such as 1d or 36h".to_string())
}

/// `50MB`, `64MiB`, `1000`
fn size_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("kB", 1_000),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
        ("", 1),
    ];
    let unit = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
    let (number, bytes) = unit.unwrap_or((text, 1));
    let size = number.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(bytes));
    size.ok_or_else(|| "expected a size such as 50MB or 64MiB".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_are_told_from_others_by_name() {
        for (name, kind) in [
            ("load.log", Kind::Log),
            ("02_campus.log", Kind::Log),
            ("load.log.2026-11-23", Kind::Dated),
            ("load.log.2026-11-23.2", Kind::Dated),
            ("load.log.2026-11-23.gz", Kind::Compressed),
            ("load.log.2026-11-23.12.gz", Kind::Compressed),
            ("load.log.2026-13-23.gz", Kind::Foreign),
            ("load.log.20261123.gz", Kind::Foreign),
            ("load.log.2026-11-23.x.gz", Kind::Foreign),
            ("load.log.gz", Kind::Foreign),
            ("load.log.1.gz", Kind::Foreign),
            ("notes.txt", Kind::Foreign),
            (".log", Kind::Foreign),
            (".gitkeep", Kind::Foreign),
        ] {
            assert_eq!(kind_of(name), kind, "{name}");
        }
    }

    #[test]
    fn sizes_and_durations_are_read_or_refused() {
        assert_eq!(["50MB", "64 MiB", "1kB", "7B", "7"].map(size_bytes), [50_000_000, 64 << 20, 1000, 7, 7].map(Ok));
        assert!(["", "MB", "-1MB", "1.5GB", "99999999999GB"].iter().all(|text| size_bytes(text).is_err()));
        assert_eq!(duration("1d"), Ok(DAY));
        assert_eq!(duration("36h"), Ok(DAY * 3 / 2));
        assert!(["", "soon", "-1d"].iter().all(|text| duration(text).is_err()));
    }
}
