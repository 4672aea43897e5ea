//! The cluster's files: made whole or not at all, started, stopped.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Output;

use nix::libc;

use super::binaries::Binaries;
use super::owner::Owner;
use super::{NAME, Server, not_run, output_text, postmaster};
use crate::error::{Error, Result};
use crate::files;
use crate::paths::Paths;

/// Where root puts a cluster that its owner could not reach in the project's folder.
const ELSEWHERE: &str = "/var/lib/mirror42";

/// A socket's path has 108 bytes, the last of them zero; Postgres adds the name to the folder.
const SOCKET_PATH_MAX: usize = 107;
const SOCKET_NAME: &str = "/.s.PGSQL.5432";

/// Beyond this the log of earlier starts is put aside: nothing else bounds it.
const LOG_MAX_BYTES: u64 = 4 << 20;

/// What our servers have beside initdb's defaults. Nothing listens on the network; a lost last night can be
/// loaded again from the exports, but what is committed is durable all the same.
const SETTINGS: &str = "
# mirror42
listen_addresses = ''
unix_socket_permissions = 0700
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %a '
log_checkpoints = off
# No replicas: a table filled in the transaction that created it needs no WAL.
wal_level = minimal
max_wal_senders = 0
";

/// A cluster that stands.
pub struct Cluster {
    /// With symbolic links resolved.
    pub data: PathBuf,
    pub owner: Owner,
    /// The version of Postgres that made it.
    pub major: u32,
}

impl Cluster {
    /// The cluster of this project, if it has been made.
    pub fn open(paths: &Paths) -> Result<Option<Cluster>> {
        let Ok(data) = fs::canonicalize(paths.postgres()) else { return Ok(None) };
        let file = data.join("PG_VERSION");
        let version = match files::read_if_there(&file) {
            Ok(Some(version)) => version,
            Ok(None) if is_empty(&data) => return Ok(None),
            Ok(None) => {
                return Err(Error::failed(format!(
                    "`{}` holds something other than a Postgres cluster",
                    data.display()
                ))
                .hint("Move it away: mirror42 makes its cluster there."));
            }
            // Mostly because it is another user's, which is the better message.
            Err(error) => return Err(Owner::of_cluster(&data).err().unwrap_or(error)),
        };
        let owner = Owner::of_cluster(&data)?;
        let major = String::from_utf8_lossy(&version).trim().parse();
        let major =
            major.map_err(|_| Error::failed("the cluster does not tell its version").at(file.display().to_string()))?;
        Ok(Some(Cluster { data, owner, major }))
    }

    /// Makes the cluster. Until it is whole it stands under another name; the caller holds the cluster's lock.
    pub fn make(paths: &Paths, binaries: &Binaries) -> Result<Cluster> {
        let place = paths.postgres();
        files::create_dir(&paths.data())?;
        let owner = Owner::for_new(paths.root())?;
        let under_way = under_way(paths);
        remove_leftovers(&under_way)?;
        let data = prepare_folder(&under_way, &owner, binaries)?;
        log::info!("making a Postgres {} cluster in `{}`, owned by `{}`", binaries.major, data.display(), owner.name);
        initdb(&data, &owner, binaries)?;
        if place.is_symlink() {
            files::remove(&place)?; // to a folder that is gone, or Cluster::open had found it
        } else if place.exists() {
            files::remove_dir(&place)?; // empty, or Cluster::open had refused it
        }
        files::replace_dir(&under_way, &place)?;
        match Cluster::open(paths)? {
            Some(cluster) => Ok(cluster),
            None => Err(Error::failed(format!("the cluster `{}` vanished", place.display()))),
        }
    }

    /// Removes the cluster, which does not run, and what a killed `initdb` or removal has left. It goes under the name of
    /// one that is not whole first: cut short, what is left of it is no cluster for anybody. The caller holds its lock.
    pub fn remove(paths: &Paths) -> Result<()> {
        let under_way = under_way(paths);
        remove_leftovers(&under_way)?;
        if let Some(cluster) = Cluster::open(paths)? {
            files::rename(&paths.postgres(), &under_way)?;
            if under_way.is_symlink() {
                files::remove_dir(&cluster.data)?;
            }
        }
        remove_leftovers(&under_way)
    }

    pub fn running(&self) -> Result<Option<Server>> {
        postmaster::server_in(&self.data)
    }

    /// The folder of the socket: the cluster's own, or a private one where that path is too long for a socket
    /// or has characters that would need quoting in a setting, a shell or a URL.
    pub fn socket(&self) -> Result<PathBuf> {
        if fits_socket(&self.data) {
            return Ok(self.data.clone());
        }
        let hash = files::sha256_of(self.data.as_os_str().as_encoded_bytes());
        // Not $TMPDIR: a cron job and a terminal must find the same one.
        let folder = Path::new("/tmp").join(format!("mirror42-{}-{}", self.owner.uid, &hash[..16]));
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => self.owner.take(&folder)?,
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {}
            Err(cause) => return Err(Error::io("create the folder", &folder, &cause)),
        }
        let metadata = fs::symlink_metadata(&folder).map_err(|cause| Error::io("look at", &folder, &cause))?;
        if !metadata.is_dir() || metadata.uid() != self.owner.uid.as_raw() || metadata.mode() & 0o077 != 0 {
            return Err(Error::failed(format!(
                "`{}` is not a private folder of `{}`",
                folder.display(),
                self.owner.name
            ))
            .detail("The server's socket belongs there, since the path of the cluster is no path for a socket.")
            .hint("Remove it."));
        }
        Ok(folder)
    }

    /// Starts the server and waits until it takes connections. It runs in a session of its own, so the ^C of a
    /// terminal and the end of this process do not reach it.
    pub fn start(&self, binaries: &Binaries) -> Result<Server> {
        let log = log_of(&self.data);
        if fs::metadata(&log).is_ok_and(|metadata| metadata.len() > LOG_MAX_BYTES) {
            let _ = fs::rename(&log, log.with_extension("log.1")); // it is only a log
        }
        let logged_bytes = fs::metadata(&log).map_or(0, |metadata| metadata.len());
        keep_inherited_files_to_ourselves();
        let socket = self.socket()?;
        // A path with a space or a quote would go through a shell: the working folder names the cluster then.
        let data = if is_plain(&self.data) { self.data.as_path() } else { Path::new(".") };
        let program = binaries.program("pg_ctl");
        let output = self
            .owner
            .command(&program, &self.data)
            .args(["start", "--wait", "--timeout=120", "--silent", "--log=server.log", "--pgdata"])
            .arg(data)
            .args(["--options", &format!("-c unix_socket_directories={}", socket.display())])
            .output()
            .map_err(|cause| not_run(&program, &cause))?;
        match (output.status.success(), self.running()?) {
            (true, Some(server)) => {
                log::info!("started Postgres {} (pid {}) on `{}`", self.major, server.pid, self.data.display());
                Ok(server)
            }
            _ => Err(self.start_failed(&output, logged_bytes)),
        }
    }

    fn start_failed(&self, output: &Output, logged_bytes: u64) -> Error {
        let log = log_of(&self.data);
        let text = fs::read(&log).unwrap_or_default();
        let new = String::from_utf8_lossy(text.get(logged_bytes as usize..).unwrap_or_default()).into_owned();
        let error = Error::failed("could not start the embedded Postgres server").at(log.display().to_string());
        let error = tail(&new).iter().fold(error, |error, line| error.detail(format!("Its log says: {line}")));
        let said = output_text(output);
        let error = if new.is_empty() { error.detail(format!("pg_ctl says: {said}")) } else { error };
        if new.contains("No space left on device") {
            return error.hint("Make room on the disk, then run again.");
        }
        error
    }

    pub fn stop(&self, binaries: &Binaries) -> Result<()> {
        let program = binaries.program("pg_ctl");
        let data = if is_plain(&self.data) { self.data.as_path() } else { Path::new(".") };
        let output = self
            .owner
            .command(&program, &self.data)
            .args(["stop", "--mode=fast", "--wait", "--timeout=120", "--silent", "--pgdata"])
            .arg(data)
            .output()
            .map_err(|cause| not_run(&program, &cause))?;
        if output.status.success() || self.running()?.is_none() {
            return Ok(());
        }
        Err(Error::failed("could not stop the embedded Postgres server").detail(output_text(&output)))
    }
}

pub fn log_of(data: &Path) -> PathBuf {
    data.join("server.log")
}

/// The lines of a server's log that tell why it did not start: the last few that are not mere hints.
fn tail(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(5)..].iter().map(|line| line.trim().to_string()).collect()
}

/// Where a cluster stands that is not whole.
fn under_way(paths: &Paths) -> PathBuf {
    paths.data().join("postgres.new")
}

/// What a killed `initdb` or removal left: a folder, or a link to one elsewhere.
fn remove_leftovers(under_way: &Path) -> Result<()> {
    if under_way.is_symlink() {
        if let Ok(target) = fs::read_link(under_way)
            && target.starts_with(ELSEWHERE)
        {
            files::remove_dir(&target)?;
        }
        return files::remove(under_way);
    }
    files::remove_dir(under_way)
}

/// An empty folder for a cluster at `place`, that its owner can reach; where it cannot be one, a link to one.
fn prepare_folder(place: &Path, owner: &Owner, binaries: &Binaries) -> Result<PathBuf> {
    let private = |folder: &Path| {
        let made = fs::DirBuilder::new().mode(0o700).create(folder);
        made.map_err(|cause| Error::io("create the folder", folder, &cause))
    };
    let program = binaries.program("initdb");
    let runs_in = |folder: &Path| owner.command(&program, folder).arg("--version").output();
    runs_in(Path::new("/")).map_err(|cause| {
        not_run(&program, &cause).detail(format!("It must run as `{}`, since Postgres refuses root.", owner.name))
    })?;
    private(place)?;
    let taken = owner.take(place);
    let data = fs::canonicalize(place).map_err(|cause| Error::io("look at", place, &cause))?;
    let cause = match (taken, runs_in(&data)) {
        (Ok(()), Ok(_)) => return Ok(data),
        (Err(error), _) => error.message().to_string(),
        (Ok(()), Err(cause)) => cause.to_string(),
    };
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::failed(format!("cannot make a cluster in `{}`: {cause}", data.display())));
    }
    files::remove_dir(place)?;
    files::create_dir(Path::new(ELSEWHERE))?;
    let folder = tempfile::Builder::new().prefix("cluster-").tempdir_in(ELSEWHERE);
    let folder = folder.map_err(|cause| Error::io("create a folder in", Path::new(ELSEWHERE), &cause))?.keep();
    log::warn!(
        "`{}` cannot reach the project's folder ({cause}): the cluster goes to `{}`, and `data/postgres` links to it",
        owner.name,
        folder.display()
    );
    owner.take(&folder)?;
    std::os::unix::fs::symlink(&folder, place).map_err(|cause| Error::io("link", place, &cause))?;
    Ok(folder)
}

fn initdb(data: &Path, owner: &Owner, binaries: &Binaries) -> Result<()> {
    let program = binaries.program("initdb");
    let run = |locale: &str| {
        owner
            .command(&program, data)
            .args(["--encoding=UTF8", "--auth=trust", "--username", NAME, "--no-instructions"])
            .arg(format!("--locale={locale}"))
            .arg("--pgdata")
            .arg(data)
            .output()
            .map_err(|cause| not_run(&program, &cause))
    };
    let mut output = run("C.UTF-8")?;
    if !output.status.success() && output_text(&output).contains("locale") {
        // A system without it (older macOS): sorting is the same, only case mapping is ASCII's.
        output = run("C")?;
    }
    if !output.status.success() {
        return Err(Error::failed("could not make a Postgres cluster")
            .at(data.display().to_string())
            .detail(format!("initdb says: {}", output_text(&output))));
    }
    append(&data.join("postgresql.conf"), SETTINGS)
}

fn append(file: &Path, text: &str) -> Result<()> {
    use io::Write;
    let opened = fs::File::options().append(true).open(file);
    let written = opened.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|cause| Error::io("write", file, &cause))
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

fn fits_socket(folder: &Path) -> bool {
    folder.as_os_str().len() + SOCKET_NAME.len() <= SOCKET_PATH_MAX && is_plain(folder)
}

/// Characters that mean themselves everywhere.
fn is_plain(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.'))
}

/// A lock or pipe that our caller handed down (`flock file mirror42 run`) must not live on in the server. What we
/// open ourselves is never inherited: std sees to that.
fn keep_inherited_files_to_ourselves() {
    let Ok(entries) = fs::read_dir("/dev/fd") else { return };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    for number in numbers.filter(|number| *number > 2).collect::<Vec<_>>() {
        // SAFETY: sets a flag on an open file of this process; a number that was closed meanwhile answers EBADF.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_stands_in_the_cluster_where_the_path_is_short_and_plain() {
        assert!(fits_socket(Path::new("/srv/mirror/data/postgres")));
        assert!(!fits_socket(Path::new("/srv/my mirror/data/postgres")));
        let just = format!("/{}", "a".repeat(SOCKET_PATH_MAX - SOCKET_NAME.len() - 1));
        assert!(fits_socket(Path::new(&just)));
        assert!(!fits_socket(Path::new(&format!("{just}a"))));
    }

    #[test]
    fn the_end_of_the_log_is_told() {
        assert_eq!(tail("1\n2\n3\n\n4\n5\n6\n"), ["2", "3", "4", "5", "6"]);
        assert_eq!(tail(""), Vec::<String>::new());
    }
}
