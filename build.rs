//! Tells the crate which commit it is built from, as `MIRROR42_VERSION`: `0.1.0 (842450e 2026-11-25)`, with `-dirty` after the
//! commit when what is built is not what was committed. Without git, or outside of its own repository (a tarball), the
//! version alone.
//!
//! The crate is built anew for it when HEAD moves, and never otherwise: git notes every move of HEAD in its reflog.

use std::path::Path;
use std::process::Command;

/// What a binary is made of: nothing else can make one dirty.
const MADE_OF: [&str; 4] = ["src", "build.rs", "Cargo.toml", "Cargo.lock"];

fn main() {
    let version = env!("CARGO_PKG_VERSION");
    let version = match commit() {
        Some(commit) => format!("{version} ({commit})"),
        None => version.to_string(),
    };
    println!("cargo::rustc-env=MIRROR42_VERSION={version}");
    MADE_OF.iter().for_each(|path| println!("cargo::rerun-if-changed={path}"));
    let places = ["HEAD", "logs/HEAD"].into_iter().filter_map(|name| git(&["rev-parse", "--git-path", name]));
    // A path that is not there would count as changed every time.
    places.filter(|path| Path::new(path).exists()).for_each(|path| println!("cargo::rerun-if-changed={path}"));
}

/// The commit, shortened, and its day (UTC); none if git does not say, or speaks of another repository around this one.
fn commit() -> Option<String> {
    let here = git(&["rev-parse", "--show-prefix"])?.is_empty();
    let head =
        here.then(|| git(&["show", "-s", "--abbrev=7", "--date=format-local:%Y-%m-%d", "--format=%h %cd"]))??;
    let (commit, day) = head.split_once(' ')?;
    let changed = git(&[&["status", "--porcelain", "--"], &MADE_OF[..]].concat())?;
    Some(format!("{commit}{} {day}", if changed.is_empty() { "" } else { "-dirty" }))
}

/// What git prints, in the package's folder; none if there is no git, or it fails.
fn git(arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    // A hook of git's that builds has these set for another repository.
    command
        .args(arguments)
        .env("TZ", "UTC0")
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE");
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_string())
}
