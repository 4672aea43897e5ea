//! What files hash to, remembered in `.mirror42/hashes`, so that a file that nobody has touched is not read again.
//!
//! A file's hash is that of the last time while its size, its times (of content and of inode), its inode and its device
//! are what they were then. The inode's time cannot be set by hand, so that an edit which puts the old time of content
//! back is seen all the same. Like git, this does not trust a file that had changed a moment before it was hashed: within
//! one tick of the file system's clock it may change twice. A file of another format, torn or edited, remembers nothing.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::files;
use crate::paths::Paths;

const HEADER: &str = "mirror42 hashes 1";
// The coarsest clock of a file system in use has two seconds.
const SETTLED: Duration = Duration::from_secs(2);

/// What tells one state of a file from the next: size, device, inode, and two times in seconds and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp([i64; 7]);

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp([
            metadata.size() as i64,
            metadata.dev() as i64,
            metadata.ino() as i64,
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        ])
    }

    /// Whether the file had been left alone for long enough at `now`.
    fn is_settled(&self, now: SystemTime) -> bool {
        let [_, _, _, modified, _, changed, _] = self.0;
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64);
        // Whole seconds: one more is the rest of those that are not looked at.
        modified.max(changed) + (SETTLED.as_secs() as i64) < now
    }
}

/// The hashes of files by their paths, below the root of the project.
pub struct Hashes {
    file: PathBuf,
    root: PathBuf,
    known: BTreeMap<String, (Stamp, String)>,
    /// Something was learnt that is not in the file.
    learnt: bool,
}

impl Hashes {
    /// What the last process has remembered.
    pub fn open(paths: &Paths) -> Hashes {
        let file = paths.hashes();
        // What cannot be read, or is no UTF-8, only costs time; the next save puts another in its place, or says why not.
        let known = fs::read_to_string(&file).ok().and_then(|text| parse(&text)).unwrap_or_default();
        Hashes { file, root: paths.root().to_path_buf(), known, learnt: false }
    }

    /// SHA-256 of a file in hex; none if it is not there.
    pub fn of(&mut self, path: &Path) -> Result<Option<String>> {
        let failed = |cause: io::Error| Error::io("read", path, &cause);
        let before = match fs::metadata(path) {
            Err(cause) if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            metadata => Stamp::of(&metadata.map_err(failed)?),
        };
        let name = path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy();
        if let Some((stamp, sha256)) = self.known.get(&*name)
            && *stamp == before
        {
            return Ok(Some(sha256.clone()));
        }
        let now = SystemTime::now();
        let Some(sha256) = files::sha256(path)? else { return Ok(None) };
        let is_same = Stamp::of(&fs::metadata(path).map_err(failed)?) == before;
        // A name with a line break would tear its line.
        if is_same && before.is_settled(now) && !name.contains('\n') {
            self.known.insert(name.into_owned(), (before, sha256.clone()));
            self.learnt = true;
        }
        Ok(Some(sha256))
    }

    /// Remembers what was learnt, and forgets files that are not there any more.
    pub fn save(&mut self) -> Result<()> {
        if !self.learnt {
            return Ok(());
        }
        self.known.retain(|name, _| self.root.join(name).exists());
        let mut body = String::new();
        for (name, (Stamp(stamp), sha256)) in &self.known {
            let stamp = stamp.map(|number| number.to_string()).join(" ");
            body.push_str(&format!("{sha256} {stamp} {name}\n"));
        }
        let text = format!("{HEADER} {}\n{body}", files::sha256_of(body.as_bytes()));
        files::write(&self.file, text.as_bytes())?;
        self.learnt = false;
        Ok(())
    }
}

/// The lines of the file; none if it is not whole, or of another format.
fn parse(text: &str) -> Option<BTreeMap<String, (Stamp, String)>> {
    let (head, body) = text.split_once('\n')?;
    let sha256 = head.strip_prefix(HEADER)?.strip_prefix(' ')?;
    if sha256 != files::sha256_of(body.as_bytes()) {
        return None;
    }
    body.lines().map(line).collect()
}

fn line(line: &str) -> Option<(String, (Stamp, String))> {
    let mut words = line.splitn(9, ' ');
    let sha256 = words.next()?.to_string();
    let mut stamp = [0; 7];
    for number in &mut stamp {
        *number = words.next()?.parse().ok()?;
    }
    Some((words.next()?.to_string(), (Stamp(stamp), sha256)))
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};

    use super::*;

    fn space() -> (tempfile::TempDir, Paths, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (paths, file) = (Paths::new(folder.path()), folder.path().join("a file"));
        (folder, paths, file)
    }

    /// Waits until the file counts as settled.
    fn settle(file: &Path) {
        while !Stamp::of(&fs::metadata(file).unwrap()).is_settled(SystemTime::now()) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The hashes with a lie about the file, by which what is remembered is told from what is read.
    fn lying(paths: &Paths) -> Hashes {
        let mut hashes = Hashes::open(paths);
        hashes.known.values_mut().for_each(|(_, sha256)| *sha256 = "remembered".to_string());
        hashes
    }

    #[test]
    fn a_file_that_was_left_alone_is_read_once_and_every_change_is_seen() {
        let (_folder, paths, file) = space();
        let other = paths.root().join("other");
        fs::write(&file, "one").unwrap();
        settle(&file);
        let mut hashes = Hashes::open(&paths);
        let one = files::sha256_of(b"one");
        assert_eq!(hashes.of(&file).unwrap().unwrap(), one);
        hashes.save().unwrap();
        assert_eq!(lying(&paths).of(&file).unwrap().unwrap(), "remembered");

        // Written anew with its size and its old time of content.
        let time = fs::metadata(&file).unwrap().modified().unwrap();
        fs::write(&file, "two").unwrap();
        File::options().write(true).open(&file).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
        assert_eq!(lying(&paths).of(&file).unwrap().unwrap(), files::sha256_of(b"two"));
        // Replaced by a file of the same size and time.
        fs::write(&other, "one").unwrap();
        File::options().write(true).open(&other).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
        fs::rename(&other, &file).unwrap();
        assert_eq!(lying(&paths).of(&file).unwrap().unwrap(), one);
        fs::remove_file(&file).unwrap();
        assert_eq!(lying(&paths).of(&file).unwrap(), None);
    }

    #[test]
    fn what_has_just_changed_is_not_remembered() {
        let (_folder, paths, file) = space();
        fs::write(&file, "one").unwrap();
        let mut hashes = Hashes::open(&paths);
        hashes.of(&file).unwrap();
        assert!(!hashes.learnt && hashes.known.is_empty());
        hashes.save().unwrap();
        assert!(!paths.hashes().exists());
        let later = SystemTime::now() + Duration::from_secs(4);
        let stamp = Stamp::of(&fs::metadata(&file).unwrap());
        assert!(stamp.is_settled(later) && !stamp.is_settled(UNIX_EPOCH));
    }

    #[test]
    fn a_torn_an_edited_and_a_foreign_file_remember_nothing() {
        let (_folder, paths, file) = space();
        fs::write(&file, "one").unwrap();
        settle(&file);
        let mut hashes = Hashes::open(&paths);
        hashes.of(&file).unwrap();
        hashes.save().unwrap();
        let whole = fs::read(paths.hashes()).unwrap();
        let others = [
            whole[..whole.len() - 1].to_vec(),
            whole[..HEADER.len()].to_vec(),
            Vec::new(),
            vec![0xff; 40],
            String::from_utf8(whole.clone()).unwrap().replace(&files::sha256_of(b"one"), "1").into_bytes(),
            String::from_utf8(whole.clone()).unwrap().replace("hashes 1", "hashes 2").into_bytes(),
        ];
        for other in others {
            assert_ne!(other, whole);
            fs::write(paths.hashes(), &other).unwrap();
            assert!(Hashes::open(&paths).known.is_empty(), "{:?}", String::from_utf8_lossy(&other));
        }
        fs::write(paths.hashes(), &whole).unwrap();
        assert_eq!(Hashes::open(&paths).known.len(), 1);
        // What is gone is forgotten with the next that is learnt.
        let second = paths.root().join("b");
        fs::rename(&file, &second).unwrap();
        settle(&second);
        let mut hashes = Hashes::open(&paths);
        hashes.of(&second).unwrap();
        hashes.save().unwrap();
        assert_eq!(Hashes::open(&paths).known.keys().collect::<Vec<_>>(), ["b"]);
    }
}
