//! Telling a live server from what a dead one left behind.
//!
//! `postmaster.pid` names a process, but after a crash that number may be anybody's, and Postgres then
//! refuses to start ("lock file already exists") if the process belongs to the same user. A postmaster
//! works in its data folder; that tells.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Server;
use crate::error::{Error, Result};
use crate::files;

const PID_FILE: &str = "postmaster.pid";
const LOCK_FILE: &str = ".s.PGSQL.5432.lock";

/// The server that runs on this cluster, if one does.
pub fn server_in(data: &Path) -> Result<Option<Server>> {
    let Ok(data) = fs::canonicalize(data) else { return Ok(None) };
    let file = data.join(PID_FILE);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(Error::io("read", &file, &cause)),
    };
    let Some((pid, socket)) = parse(&text) else { return Ok(None) };
    Ok(works_in(pid, &data).then_some(Server { pid, data, socket }))
}

/// The first line is the pid, the fifth the folder of the socket. A postmaster that has just begun has not
/// written all of them.
fn parse(text: &str) -> Option<(i32, PathBuf)> {
    let mut lines = text.lines();
    let pid = lines.next()?.trim().parse().ok().filter(|pid| *pid > 0)?;
    let socket = lines.nth(3).filter(|line| !line.is_empty())?;
    Some((pid, PathBuf::from(socket)))
}

/// Whether `pid` lives and is a process of the cluster in `data`.
fn works_in(pid: i32, data: &Path) -> bool {
    match fs::read_link(format!("/proc/{pid}/cwd")) {
        Ok(folder) => folder == data,
        // No such process; where there is no /proc at all (macOS), a signal of nothing tells less, but enough.
        Err(_) if Path::new("/proc/self").exists() => false,
        Err(_) => kill(Pid::from_raw(pid), None).is_ok(),
    }
}

/// Removes what would keep a server from starting on a cluster that no server runs on. The caller holds the
/// lock of the cluster.
pub fn clear_stale(data: &Path, socket: &Path) -> Result<()> {
    wait_for_orphans(data)?;
    for file in [data.join(PID_FILE), socket.join(LOCK_FILE)] {
        if !file.exists() {
            continue;
        }
        let text = fs::read_to_string(&file).map_err(|cause| Error::io("read", &file, &cause))?;
        let pid = text.lines().next().and_then(|line| line.trim().parse().ok()).unwrap_or(0);
        if !works_in(pid, data) {
            files::remove(&file)?;
        }
    }
    Ok(())
}

/// Backends outlive a killed postmaster for a moment, and a new one refuses to start beside them. They end by
/// themselves at the next look; one that is deep in a statement is told to.
fn wait_for_orphans(data: &Path) -> Result<()> {
    let began = Instant::now();
    let (patience, limit) = (Duration::from_secs(3), Duration::from_secs(20));
    loop {
        let orphans = processes_in(data);
        if orphans.is_empty() {
            return Ok(());
        }
        if began.elapsed() > limit {
            return Err(Error::failed(format!("processes of a server that died still hold the cluster: {orphans:?}"))
                .at(data.display().to_string())
                .hint("End them with `kill`, then run again."));
        }
        if began.elapsed() > patience {
            for pid in orphans {
                // It may have ended meanwhile.
                let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn processes_in(data: &Path) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| works_in(*pid, data) && is_postgres(*pid)).collect()
}

/// A shell that somebody left in the folder is none of ours.
fn is_postgres(pid: i32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm"));
    name.is_ok_and(|name| matches!(name.trim(), "postgres" | "postmaster"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_and_socket_are_read_from_the_file() {
        let text = "4242\n/data\n1700000000\n5432\n/tmp/s\n\n  5432001  0\nready   \n";
        assert_eq!(parse(text), Some((4242, PathBuf::from("/tmp/s"))));
        assert_eq!(parse("4242\n/data\n"), None);
        assert_eq!(parse(""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_recycled_pid_is_not_the_server() {
        let folder = tempfile::tempdir().unwrap();
        let data = fs::canonicalize(folder.path()).unwrap();
        let us = std::process::id();
        fs::write(data.join(PID_FILE), format!("{us}\n/data\n1\n5432\n/tmp/s\n")).unwrap();
        assert!(server_in(&data).unwrap().is_none());
        clear_stale(&data, &data).unwrap();
        assert!(!data.join(PID_FILE).exists());
    }
}
