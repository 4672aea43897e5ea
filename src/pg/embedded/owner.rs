//! As whom the server runs: as us, but Postgres refuses root.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::{Gid, Uid, User, geteuid};

use crate::error::{Error, Result};

/// The user that the cluster's files belong to and that its programs run as.
#[derive(Clone, Debug)]
pub struct Owner {
    pub uid: Uid,
    pub gid: Gid,
    pub name: String,
}

impl Owner {
    /// For a new cluster below `root`: ourselves; as root, the owner of the project, else `postgres`, else `nobody`.
    pub fn for_new(root: &Path) -> Result<Owner> {
        if !geteuid().is_root() {
            return Owner::of_uid(geteuid());
        }
        let folder = fs::metadata(root).map_err(|cause| Error::io("look at", root, &cause))?;
        if folder.uid() != 0 {
            return Owner::of_uid(Uid::from_raw(folder.uid()));
        }
        for name in ["postgres", "nobody"] {
            if let Ok(Some(user)) = User::from_name(name) {
                return Ok(Owner { uid: user.uid, gid: user.gid, name: user.name });
            }
        }
        Err(Error::failed("Postgres does not run as root, and there is no user `postgres` or `nobody` to run it as")
            .hint("Run mirror42 as another user, or set `DATABASE_URL`."))
    }

    /// Of a cluster that stands.
    pub fn of_cluster(data: &Path) -> Result<Owner> {
        let metadata = fs::metadata(data).map_err(|cause| Error::io("look at", data, &cause))?;
        let owner = Owner::of_uid(Uid::from_raw(metadata.uid()))?;
        if owner.uid.is_root() {
            return Err(Error::failed(format!(
                "the cluster `{}` belongs to root, and Postgres refuses root",
                data.display()
            ))
            .hint("Give it to another user: `chown -R postgres` and the folder."));
        }
        if owner.uid != geteuid() && !geteuid().is_root() {
            return Err(Error::failed(format!("the cluster `{}` belongs to `{}`", data.display(), owner.name))
                .hint(format!("Run mirror42 as `{}`, or set `DATABASE_URL`.", owner.name)));
        }
        Ok(owner)
    }

    fn of_uid(uid: Uid) -> Result<Owner> {
        match User::from_uid(uid) {
            Ok(Some(user)) => Ok(Owner { uid, gid: user.gid, name: user.name }),
            Ok(None) => {
                Err(Error::failed(format!("the user id {uid} has no name on this machine, and `initdb` wants one"))
                    .hint("Add the user to /etc/passwd, or set `DATABASE_URL`."))
            }
            Err(errno) => Err(Error::failed(format!("could not look up the user id {uid}: {errno}"))),
        }
    }

    /// The program, to run as this user in `folder`, with nothing of our environment but the paths: it holds
    /// secrets, the server lives on, and `PG*` variables would lead it elsewhere.
    pub fn command(&self, program: &Path, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").current_dir(folder);
        for name in ["PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if self.uid != geteuid() {
            // std also drops root's supplementary groups.
            command.uid(self.uid.as_raw()).gid(self.gid.as_raw());
        }
        command
    }

    /// Gives a file or folder to this user.
    pub fn take(&self, path: &Path) -> Result<()> {
        if self.uid == geteuid() {
            return Ok(());
        }
        std::os::unix::fs::chown(path, Some(self.uid.as_raw()), Some(self.gid.as_raw()))
            .map_err(|cause| Error::io(&format!("give to `{}`", self.name), path, &cause))
    }
}
