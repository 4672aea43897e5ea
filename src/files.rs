//! Files that appear whole, locks that end with their holder, hashes.
//!
//! A file appears whole or not at all: it is written beside its place under a name that no reader
//! looks for, flushed to the disk, and renamed. A killed process leaves at most such a temporary
//! file, which the next writer of the same folder removes ([`sweep`]).

mod held;

pub use held::{held_by, holder};

use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::error::{Error, Result};
use crate::paths::Paths;

const TEMPORARY: &str = ".tmp-";
// A process that was killed a moment ago holds its locks until the kernel has taken it apart.
const STAGE_PATIENCE: Duration = Duration::from_secs(2);

/// A file under way. Dropped without [`AtomicFile::commit`], it leaves nothing.
pub struct AtomicFile {
    target: PathBuf,
    writer: BufWriter<NamedTempFile>,
    hasher: Sha256,
    size_bytes: u64,
}

/// What a committed file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub sha256: String,
    pub size_bytes: u64,
}

impl AtomicFile {
    /// Begins a file that will stand at `target`; its folder is made if it is missing.
    pub fn create(target: &Path) -> Result<AtomicFile> {
        Ok(AtomicFile {
            target: target.to_path_buf(),
            writer: BufWriter::with_capacity(1 << 16, temporary(target)?),
            hasher: Sha256::new(),
            size_bytes: 0,
        })
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.size_bytes += bytes.len() as u64;
        self.writer.write_all(bytes).map_err(|cause| Error::io("write", &self.target, &cause))
    }

    /// Makes the bytes durable and puts the file in its place with this mode (before the umask's say).
    pub fn commit_with_mode(self, mode: u32) -> Result<Written> {
        use std::os::unix::fs::PermissionsExt;
        let file = self.writer.into_inner();
        let file = file.map_err(|error| Error::io("write", &self.target, &error.into_error()))?;
        let mode = fs::Permissions::from_mode(mode);
        let moded = file.as_file().set_permissions(mode);
        moded.map_err(|cause| Error::io("set the mode of", &self.target, &cause))?;
        put_in_place(file, &self.target)?;
        Ok(Written { sha256: hex(&self.hasher.finalize()), size_bytes: self.size_bytes })
    }

    /// As [`AtomicFile::commit_with_mode`], readable by all.
    pub fn commit(self) -> Result<Written> {
        self.commit_with_mode(0o644)
    }
}

/// Writes a value as JSON, as [`write`] does, without having all of its text in memory.
pub fn write_json(target: &Path, value: &impl serde::Serialize, layout: Layout) -> Result<Written> {
    let mut file = AtomicFile::create(target)?;
    let mut text = Text { file: &mut file, failure: None };
    let wrote = match layout {
        Layout::OneLine => serde_json::to_writer(&mut text, value),
        Layout::Indented => serde_json::to_writer_pretty(&mut text, value),
    };
    if let Some(failure) = text.failure {
        return Err(failure);
    }
    wrote.map_err(|cause| Error::failed(format!("cannot write `{}`: {cause}", target.display())))?;
    file.write(b"\n")?;
    file.commit()
}

/// How JSON is written.
#[derive(Clone, Copy, Debug)]
pub enum Layout {
    OneLine,
    Indented,
}

/// A file as the serializer writes to it, with the error of the file that it cannot carry.
struct Text<'f> {
    file: &'f mut AtomicFile,
    failure: Option<Error>,
}

impl Write for Text<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).map(|()| bytes.len()).map_err(|failure| {
            self.failure = Some(failure);
            io::Error::other("the file cannot be written")
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a small file whole or not at all.
pub fn write(target: &Path, bytes: &[u8]) -> Result<Written> {
    let mut file = AtomicFile::create(target)?;
    file.write(bytes)?;
    file.commit()
}

/// A file for bytes that must not be lost once they are there: it is made before they are, with room for them on the
/// disk. Once written they survive the death of the process, even before they are in their place ([`recover`]).
/// Readable by its owner only. Dropped without [`ReservedFile::commit`], it leaves nothing.
pub struct ReservedFile {
    target: PathBuf,
    file: NamedTempFile,
}

impl ReservedFile {
    /// Begins a file of at most `room_bytes` that will stand at `target`. Until it is written it holds blanks.
    pub fn create(target: &Path, room_bytes: usize) -> Result<ReservedFile> {
        let file = temporary(target)?;
        // By the file itself: the errors of the temporary one tell its name.
        let mut inner = file.as_file();
        let reserved = inner.write_all(&vec![b' '; room_bytes]).and_then(|()| inner.sync_all());
        let reserved = reserved.and_then(|()| inner.rewind());
        reserved.map_err(|cause| Error::io("write", target, &cause))?;
        Ok(ReservedFile { target: target.to_path_buf(), file })
    }

    /// Makes the bytes durable and puts the file in its place.
    pub fn commit(self, bytes: &[u8]) -> Result<()> {
        let mut inner = self.file.as_file();
        let written = inner.write_all(bytes).and_then(|()| inner.set_len(bytes.len() as u64));
        written.map_err(|cause| Error::io("write", &self.target, &cause))?;
        put_in_place(self.file, &self.target)
    }
}

/// A file beside `target`, readable by its owner only.
pub fn temporary(target: &Path) -> Result<NamedTempFile> {
    let folder = target.parent().unwrap_or(Path::new("."));
    create_dir(folder)?;
    let file = tempfile::Builder::new().prefix(&temporary_prefix(target)).tempfile_in(folder);
    file.map_err(|cause| Error::io("create a file in", folder, &cause))
}

/// How the temporary files of `target` begin: the writers of two files in one folder may have two locks.
fn temporary_prefix(target: &Path) -> String {
    format!("{TEMPORARY}{}-", target.file_name().unwrap_or_default().to_string_lossy())
}

fn put_in_place(file: NamedTempFile, target: &Path) -> Result<()> {
    file.as_file().sync_all().map_err(|cause| Error::io("flush", target, &cause))?;
    file.persist(target).map_err(|error| Error::io("rename to", target, &error.error))?;
    sync_dir(target.parent().unwrap_or(Path::new(".")))
}

/// Appends a line to a log in one write, so that lines of several processes do not mix. While it writes it
/// shares a lock on the file: who sets the file aside ([`Lock::wait`] on its new name) waits for it, and a
/// writer that finds the file under another name by then begins the new one.
pub fn append_line(path: &Path, line: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    loop {
        let mut file = File::options().create(true).append(true).open(path)?;
        file.lock_shared()?;
        let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let opened = inode(file.metadata()?);
        if fs::metadata(path).is_ok_and(|metadata| inode(metadata) == opened) {
            return file.write_all(line);
        }
    }
}

pub fn create_dir(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|cause| Error::io("create the folder", folder, &cause))
}

/// The bytes of a file, or none if it is not there.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(Error::io("read", path, &cause)),
    }
}

pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|cause| Error::io("read", path, &cause))
}

/// SHA-256 of a file in hex, as `sha256sum` prints it; none if the file is not there.
pub fn sha256(path: &Path) -> Result<Option<String>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(Error::io("read", path, &cause)),
    };
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = file.read(&mut buffer).map_err(|cause| Error::io("read", path, &cause))?;
        if n == 0 {
            return Ok(Some(hex(&hasher.finalize())));
        }
        hasher.update(&buffer[..n]);
    }
}

/// SHA-256 of bytes in hex.
pub fn sha256_of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, byte| {
        let _ = write!(out, "{byte:02x}"); // writing to a String cannot fail
        out
    })
}

/// Removes a folder and all in it; that it is not there is well.
pub fn remove_dir(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(Error::io("remove the folder", folder, &cause)),
    }
}

/// Removes a file; that it is not there is well.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(Error::io("remove", path, &cause)),
    }
}

/// Gives a file another name, which no other file has.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|cause| Error::io("rename", from, &cause))
}

/// Removes the temporary files that killed writers left in `folder`. The caller holds the lock that
/// keeps other writers out.
pub fn sweep(folder: &Path) -> Result<()> {
    temporaries(folder, TEMPORARY)?.iter().try_for_each(|path| remove(path))
}

/// As [`sweep`], the folders below it too.
pub fn sweep_tree(folder: &Path) -> Result<()> {
    sweep(folder)?;
    let entries = fs::read_dir(folder).map_err(|cause| Error::io("list", folder, &cause))?;
    for entry in entries {
        let entry = entry.map_err(|cause| Error::io("list", folder, &cause))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sweep_tree(&entry.path())?;
        }
    }
    Ok(())
}

/// Puts in its place what a killed writer had written for `target` if `is_whole` (there may be blanks after it), and
/// removes what it had only begun. The caller holds the lock that keeps other writers of this file out.
pub fn recover(target: &Path, is_whole: impl Fn(&[u8]) -> bool) -> Result<()> {
    let folder = target.parent().unwrap_or(Path::new("."));
    for path in temporaries(folder, &temporary_prefix(target))? {
        if is_whole(&read(&path)?) {
            let flushed = File::open(&path).and_then(|file| file.sync_all());
            flushed.map_err(|cause| Error::io("flush", &path, &cause))?;
            rename(&path, target)?;
            sync_dir(folder)?;
        } else {
            remove(&path)?;
        }
    }
    Ok(())
}

/// The temporary files in `folder` whose names begin so.
fn temporaries(folder: &Path, prefix: &str) -> Result<Vec<PathBuf>> {
    let failed = |cause: io::Error| Error::io("list", folder, &cause);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(failed(cause)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

/// Puts the folder `new` in the place of `old`, which is removed. Either the one or the other stands
/// at `old` at any moment, but for a file system that cannot exchange two names at once.
pub fn replace_dir(new: &Path, old: &Path) -> Result<()> {
    let failed = |cause: io::Error| Error::io("replace the folder", old, &cause);
    if old.exists() {
        exchange(new, old).map_err(failed)?;
        remove_dir(new)?;
    } else {
        fs::rename(new, old).map_err(failed)?;
    }
    sync_dir(old.parent().unwrap_or(Path::new(".")))
}

#[cfg(target_os = "linux")]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    match renameat2(AT_FDCWD, a, AT_FDCWD, b, RenameFlags::RENAME_EXCHANGE) {
        Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOSYS) => exchange_by_steps(a, b),
        result => result.map_err(io::Error::from),
    }
}

#[cfg(not(target_os = "linux"))]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    exchange_by_steps(a, b)
}

/// Killed between the steps, this leaves nothing at `b`: the stage is then stale, and is made again.
fn exchange_by_steps(a: &Path, b: &Path) -> io::Result<()> {
    fs::remove_dir_all(b)?;
    fs::rename(a, b)?;
    fs::create_dir(a)
}

/// Makes a rename within `folder` durable.
fn sync_dir(folder: &Path) -> Result<()> {
    let folder = if folder == Path::new("") { Path::new(".") } else { folder };
    let opened = File::open(folder).and_then(|dir| dir.sync_all());
    opened.map_err(|cause| Error::io("flush the folder", folder, &cause))
}

/// A lock on a file, held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// The right to write into the folder of a stage, which is made if need be; another process that
    /// keeps it is an error. What killed writers left in the folder is swept.
    pub fn of_stage(paths: &Paths, stage: &str) -> Result<Lock> {
        let owner = format!("pid {}", std::process::id());
        let began = Instant::now();
        let lock = loop {
            match Lock::try_with_owner(&paths.stage_lock(stage), &owner)? {
                Some(lock) => break lock,
                None if began.elapsed() < STAGE_PATIENCE => std::thread::sleep(STAGE_PATIENCE / 100),
                None => return Err(Error::locked(format!("another process is working on stage `{stage}`"))),
            }
        };
        create_dir(&paths.stage(stage))?;
        sweep(&paths.stage(stage))?;
        Ok(lock)
    }

    /// Waits for the lock.
    pub fn wait(path: &Path) -> Result<Lock> {
        let file = open_lock(path)?;
        file.lock().map_err(|cause| Error::io("lock", path, &cause))?;
        Ok(Lock(file))
    }

    /// The lock, or none if another process holds it; `owner` is then in the file for a message.
    pub fn try_with_owner(path: &Path, owner: &str) -> Result<Option<Lock>> {
        let mut file = open_lock(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(cause)) => return Err(Error::io("lock", path, &cause)),
        }
        let noted = file.set_len(0).and_then(|()| file.write_all(owner.as_bytes()));
        noted.map_err(|cause| Error::io("write", path, &cause))?;
        Ok(Some(Lock(file)))
    }

    /// Ends it, and takes the owner out of the file.
    pub fn release(self) -> io::Result<()> {
        self.0.set_len(0)
    }
}

fn open_lock(path: &Path) -> Result<File> {
    create_dir(path.parent().unwrap_or(Path::new(".")))?;
    let file = File::options().create(true).truncate(false).read(true).write(true).open(path);
    file.map_err(|cause| Error::io("open the lock", path, &cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_dropped_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = AtomicFile::create(&folder.path().join("a")).unwrap();
        file.write(b"half").unwrap();
        drop(file);
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn a_committed_file_tells_its_hash_and_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/a");
        let written = write(&path, b"abc").unwrap();
        assert_eq!(written.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(written.size_bytes, 3);
        assert_eq!(sha256(&path).unwrap().unwrap(), written.sha256);
        assert_eq!(names(path.parent().unwrap()), ["a"]);
    }

    #[test]
    fn what_a_killed_writer_left_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".tmp-123"), "half").unwrap();
        fs::write(folder.path().join("kept"), "").unwrap();
        sweep(folder.path()).unwrap();
        assert_eq!(names(folder.path()), ["kept"]);
    }

    #[test]
    fn a_reserved_file_is_private_and_leaves_nothing_when_it_is_dropped() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let reserved = ReservedFile::create(&path, 100).unwrap();
        assert!(!path.exists());
        reserved.commit(b"short").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(ReservedFile::create(&path, 100).unwrap());
        assert_eq!(names(folder.path()), ["token"]);
    }

    #[test]
    fn what_a_killed_writer_had_written_is_put_in_its_place_and_what_it_had_begun_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(folder.path().join(".tmp-other-1"), "whole").unwrap();
        for (left, stands) in [("whole", "whole"), ("     ", "whole"), ("who", "whole"), ("whole ", "whole ")] {
            fs::write(folder.path().join(".tmp-token-1"), left).unwrap();
            recover(&path, |bytes| bytes.starts_with(b"whole")).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), stands);
        }
        assert_eq!(names(folder.path()), [".tmp-other-1", "token"]);
    }

    #[test]
    fn a_folder_takes_the_place_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let (new, old) = (folder.path().join("new"), folder.path().join("old"));
        for content in ["first", "second"] {
            fs::create_dir(&new).unwrap();
            fs::write(new.join("file"), content).unwrap();
            replace_dir(&new, &old).unwrap();
            assert_eq!(fs::read_to_string(old.join("file")).unwrap(), content);
            assert_eq!(names(folder.path()), ["old"]);
        }
    }

    #[test]
    fn a_lock_is_had_once_and_names_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::try_with_owner(&path, "me").unwrap();
        assert!(first.is_some());
        assert!(Lock::try_with_owner(&path, "you").unwrap().is_none());
        assert_eq!(fs::read_to_string(&path).unwrap(), "me");
        drop(first);
        assert!(Lock::try_with_owner(&path, "you").unwrap().is_some());
    }
}
