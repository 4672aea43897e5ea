//! A private Postgres cluster under `data/postgres`, for those who have no server.
//!
//! It listens on a Unix socket only, in a folder that nobody else can enter, so `trust` is enough. The
//! server outlives the process that started it and is used again by the next one; whoever finds it dead,
//! however it died, starts it ([`postmaster`] tells a live server from a stale or recycled pid). A file
//! lock lets one process at a time make, start or stop it. Postgres refuses root, so [`owner`] chooses a
//! user for it, and [`cluster`] a place that this user can reach.

mod binaries;
mod cluster;
mod owner;
mod postmaster;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use postgres::error::SqlState;
use postgres::{Client, Config, NoTls};

use super::failure;
use crate::error::{Error, Result};
use crate::files::Lock;
use crate::paths::Paths;

use binaries::Binaries;
use cluster::Cluster;

/// The superuser of the cluster, and the database in it.
const NAME: &str = "mirror42";

/// A cluster as small as a mirror is recovered in seconds.
const RECOVERY: Duration = Duration::from_secs(60);

const IN_URL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// A server that runs, by the folder of its socket.
#[derive(Clone, Debug)]
pub struct Server {
    pub pid: i32,
    /// The cluster's files, with symbolic links resolved.
    pub data: PathBuf,
    pub socket: PathBuf,
}

#[derive(Clone, Debug)]
pub enum Status {
    /// There is no cluster yet.
    Absent,
    Stopped,
    Running(Server),
}

impl Server {
    /// For `psql`, `DATABASE_URL` and every libpq client.
    pub fn url(&self) -> String {
        let socket = self.socket.to_string_lossy();
        format!("postgresql:///{NAME}?host={}&user={NAME}", utf8_percent_encode(&socket, IN_URL))
    }

    fn config(&self, database: &str, step: &str) -> Config {
        let mut config = Config::new();
        config.host_path(&self.socket).user(NAME).dbname(database).application_name(&format!("mirror42-{step}"));
        config.connect_timeout(super::CONNECT_TIMEOUT);
        config
    }

    /// As [`Server::open`], after the recovery of a server that another process has started.
    fn open_when_ready(&self, step: &str) -> Result<Client, postgres::Error> {
        let began = Instant::now();
        loop {
            match self.open(step) {
                Err(error) if error.code() == Some(&SqlState::CANNOT_CONNECT_NOW) && began.elapsed() < RECOVERY => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                result => return result,
            }
        }
    }

    /// A session on the database, which is created if it is not there.
    fn open(&self, step: &str) -> Result<Client, postgres::Error> {
        match self.config(NAME, step).connect(NoTls) {
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_DATABASE) => {
                let mut client = self.config("postgres", step).connect(NoTls)?;
                match client.batch_execute(&format!("create database {NAME}")) {
                    // The role is called as the ledger's schema: what a user makes by psql is not to come to stand there.
                    Ok(()) => client.batch_execute(&format!("alter database {NAME} set search_path = public"))?,
                    // Another process was quicker.
                    Err(error) if error.code() == Some(&SqlState::DUPLICATE_DATABASE) => {}
                    Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {}
                    Err(error) => return Err(error),
                }
                self.config(NAME, step).connect(NoTls)
            }
            result => result,
        }
    }
}

/// A session on the embedded server, which is made and started if need be.
pub fn connect(paths: &Paths, step: &str) -> Result<Client> {
    // The way of every night but the first: no lock, no search for binaries. What is wrong, `start` tells better.
    if let Ok(Some(server)) = postmaster::server_in(&paths.postgres())
        && let Ok(mut client) = server.open(step)
        && works_in(&mut client, &server.data)
    {
        return Ok(client);
    }
    let server = start(paths)?;
    server.open_when_ready(step).map_err(|error| {
        failure("could not connect to the embedded server", &error)
            .at(server.socket.display().to_string())
            .detail(format!("Its log is `{}`.", cluster::log_of(&server.data).display()))
    })
}

/// Whether the session is with the server of this cluster: a copied project folder holds the pid file of the original's.
fn works_in(client: &mut Client, data: &Path) -> bool {
    let row = client.query_one("select current_setting('data_directory')", &[]);
    row.is_ok_and(|row| fs::canonicalize(row.get::<_, String>(0)).is_ok_and(|folder| folder == data))
}

/// Starts the server, or finds it running; makes the cluster before the first start.
pub fn start(paths: &Paths) -> Result<Server> {
    let _lock = Lock::wait(&paths.postgres_lock())?;
    let cluster = match Cluster::open(paths)? {
        Some(cluster) => cluster,
        None => Cluster::make(paths, &Binaries::find(None)?)?,
    };
    if let Some(server) = cluster.running()? {
        return Ok(server);
    }
    let binaries = Binaries::find(Some(cluster.major))?;
    postmaster::clear_stale(&cluster.data, &cluster.socket()?)?;
    cluster.start(&binaries)
}

/// Stops the server, after its open transactions were ended. False: it did not run.
pub fn stop(paths: &Paths) -> Result<bool> {
    if !paths.data().exists() {
        return Ok(false);
    }
    let _lock = Lock::wait(&paths.postgres_lock())?;
    let Some(cluster) = Cluster::open(paths)? else { return Ok(false) };
    if cluster.running()?.is_none() {
        return Ok(false);
    }
    cluster.stop(&Binaries::find(Some(cluster.major))?)?;
    Ok(true)
}

/// The server, running, with its database.
pub fn started(paths: &Paths) -> Result<Server> {
    drop(connect(paths, "start")?);
    start(paths)
}

/// Stops the server and removes the cluster with all its data.
pub fn remove(paths: &Paths) -> Result<()> {
    stop(paths)?;
    if !paths.data().exists() {
        return Ok(());
    }
    let _lock = Lock::wait(&paths.postgres_lock())?;
    Cluster::remove(paths)
}

pub fn status(paths: &Paths) -> Result<Status> {
    let Some(cluster) = Cluster::open(paths)? else { return Ok(Status::Absent) };
    Ok(cluster.running()?.map_or(Status::Stopped, Status::Running))
}

/// The program `psql` that belongs to the server binaries.
pub fn psql() -> Result<PathBuf> {
    Ok(Binaries::find(None)?.folder.join("psql"))
}

/// The folder of the server's programs on this machine, and their version.
pub fn programs() -> Result<(PathBuf, u32)> {
    Binaries::find(None).map(|found| (found.folder, found.major))
}

/// The text of a command that failed, for a message.
fn output_text(output: &std::process::Output) -> String {
    let text = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let from = lines.len().saturating_sub(6);
    lines[from..].join(" | ")
}

fn not_run(program: &Path, cause: &std::io::Error) -> Error {
    Error::io("run", program, cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_is_percent_encoded() {
        let server = Server { pid: 1, data: "/a".into(), socket: "/tmp/a b&c".into() };
        assert_eq!(server.url(), "postgresql:///mirror42?host=%2Ftmp%2Fa%20b%26c&user=mirror42");
    }
}
