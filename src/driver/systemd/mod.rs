//! The verb `systemd`: the same as `crontab` by units and timers, whose times are UTC on every machine.
//!
//! A unit that begins with our mark and the name of the pipeline file is ours; no other is touched.

mod calendar;
mod units;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use nix::unistd::{Uid, User, geteuid};

use super::foreign;
use super::nightly::{self, Place};
use crate::cli::{self, Common, Context};
use crate::error::{Error, Result};
use crate::files;
use crate::manual;
use units::{Manager, Unit};

const SYSTEM_UNITS: &str = "/etc/systemd/system";

#[derive(Args, Clone, Copy, Debug)]
pub struct SystemdArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Units of this user, under ~/.config/systemd/user; the default, but for root
    #[arg(long, global = true, conflicts_with = "system")]
    user: bool,
    /// Units of the machine, under /etc/systemd/system, that run as the owner of the folder; the default for root
    #[arg(long, global = true)]
    system: bool,
}

#[derive(Subcommand, Clone, Copy, Debug)]
pub enum Verb {
    /// Write the units, and start their timers
    #[command(after_long_help = manual::examples(&[
        ("After a change of the times", "mirror42 systemd install"),
        ("As root, for the owner of the folder", "mirror42 systemd install --system"),
    ]))]
    Install,
    /// Stop the timers, and remove the units
    #[command(after_long_help = manual::examples(&[("Before the folder goes", "mirror42 systemd uninstall")]))]
    Uninstall,
}

/// Without a verb: prints the units.
pub fn run(context: &Context, common: &Common, args: SystemdArgs) -> Result<()> {
    let place = Place::of(context)?;
    let of_system = args.system || (geteuid().is_root() && !args.user);
    let manager = if of_system { Manager::System { user: owner(&place)? } } else { Manager::User };
    let name = &context.pipeline.name;
    let mut wanted: Vec<Unit> = Vec::new();
    for job in nightly::jobs(&context.pipeline, &place)? {
        wanted.extend(units::of_job(name, &place, &job, &manager));
    }
    let Some(verb) = args.verb else {
        let units: Vec<String> = wanted.iter().map(|unit| format!("# {}\n{}", unit.name, unit.text)).collect();
        cli::print(format_args!("{}", units.join("\n").trim_end()));
        return Ok(());
    };
    let installed = Installed { folder: folder(&manager)?, manager };
    let told = match verb {
        Verb::Install => installed.install(&place, &wanted)?,
        Verb::Uninstall => installed.uninstall(&place)?,
    };
    if !common.quiet {
        cli::print(format_args!("{told}"));
        if verb_lingers(verb, &installed.manager) {
            cli::print(format_args!(
                "They run while you are logged in; `loginctl enable-linger` lets them run always."
            ));
        }
    }
    Ok(())
}

fn verb_lingers(verb: Verb, manager: &Manager) -> bool {
    matches!((verb, manager), (Verb::Install, Manager::User))
}

/// The user who owns the folder of the pipeline, unless that is root.
fn owner(place: &Place) -> Result<Option<String>> {
    let folder = Path::new(&place.folder);
    let metadata = fs::metadata(folder).map_err(|cause| Error::io("look at", folder, &cause))?;
    match User::from_uid(Uid::from_raw(metadata.uid())) {
        _ if metadata.uid() == 0 => Ok(None),
        Ok(Some(user)) => Ok(Some(user.name)),
        _ => Err(Error::failed(format!("the owner of the folder, user id {}, has no name", metadata.uid()))
            .at(place.folder.clone())
            .hint("Give the folder to the user who is to run the mirror.")),
    }
}

fn folder(manager: &Manager) -> Result<PathBuf> {
    if matches!(manager, Manager::System { .. }) {
        return Ok(PathBuf::from(SYSTEM_UNITS));
    }
    let of = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = of("XDG_CONFIG_HOME").or_else(|| Some(of("HOME")?.join(".config")));
    let config = config.ok_or_else(|| {
        Error::usage("cannot find the folder of this user's units").hint("Set `HOME`, or run as root with `--system`.")
    })?;
    Ok(config.join("systemd/user"))
}

/// The units that are there.
struct Installed {
    folder: PathBuf,
    manager: Manager,
}

impl Installed {
    /// Writes what differs and removes what is ours and no longer wanted; returns what was done, in words.
    fn install(&self, place: &Place, wanted: &[Unit]) -> Result<String> {
        for unit in wanted {
            self.check_free(unit, place)?;
        }
        let is_wanted = |name: &String| wanted.iter().any(|unit| unit.name == *name);
        let gone: Vec<String> = self.ours(place)?.into_iter().filter(|name| !is_wanted(name)).collect();
        let stopped = self.remove(&gone)?;
        let mut written = 0;
        for unit in wanted {
            let path = self.folder.join(&unit.name);
            if files::read_if_there(&path)?.as_deref() != Some(unit.text.as_bytes()) {
                files::write(&path, unit.text.as_bytes())?;
                written += 1;
            }
        }
        let timers: Vec<&str> = timers(wanted.iter().map(|unit| unit.name.as_str()));
        let shown = self.folder.display();
        let commands = [&["daemon-reload"][..], &[&["enable", "--now"][..], &timers].concat()];
        let started = stopped.and_then(|()| self.systemctl(&commands));
        started.map_err(|error| error.detail(format!("The units are in {shown}.")))?;
        Ok(match (written, gone.len()) {
            (0, 0) => format!("the units are in {shown} already, and their timers run"),
            (_, 0) => format!("wrote {written} units into {shown}; their timers run"),
            (_, n) => format!("wrote {written} units into {shown} and removed {n} others; the timers run"),
        })
    }

    fn uninstall(&self, place: &Place) -> Result<String> {
        let ours = self.ours(place)?;
        let shown = self.folder.display();
        if ours.is_empty() {
            return Ok(format!("there are no units of this pipeline in {shown}"));
        }
        let stopped = self.remove(&ours)?.and_then(|()| self.systemctl(&[&["daemon-reload"]]));
        stopped.map_err(|error| error.detail(format!("The units are no more in {shown}.")))?;
        Ok(format!("stopped the timers and removed {} units from {shown}", ours.len()))
    }

    /// Stops the timers among these units of ours, and removes the files; returns whether systemd did its part.
    fn remove(&self, names: &[String]) -> Result<Result<()>> {
        let timers = timers(names.iter().map(String::as_str));
        let stopped = match timers.is_empty() {
            true => Ok(()),
            false => self.systemctl(&[&[&["disable", "--now"][..], &timers].concat()]),
        };
        names.iter().try_for_each(|name| files::remove(&self.folder.join(name)))?;
        Ok(stopped)
    }

    /// A unit of this name that is there must be of this pipeline.
    fn check_free(&self, unit: &Unit, place: &Place) -> Result<()> {
        let path = self.folder.join(&unit.name);
        let Some(bytes) = files::read_if_there(&path)? else { return Ok(()) };
        if bytes.starts_with(units::mark(&place.file).as_bytes()) {
            return Ok(());
        }
        let first = String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().to_string();
        let whose = first.strip_prefix("# mirror42 ").map_or("somebody else's".to_string(), |of| format!("of `{of}`"));
        Err(Error::failed(format!("the unit `{}` is there, and is {whose}", unit.name))
            .at(path.display().to_string())
            .detail("Nothing was changed.")
            .hint("Give one of the two pipelines another `name` (pipeline.toml)."))
    }

    /// The names of the units of this pipeline, whatever it was called when they were written.
    fn ours(&self, place: &Place) -> Result<Vec<String>> {
        let failed = |cause: std::io::Error| Error::io("list", &self.folder, &cause);
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(cause) => return Err(failed(cause)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            let is_unit = name.ends_with(".service") || name.ends_with(".timer");
            if name.starts_with("mirror42-")
                && is_unit
                && files::read(&self.folder.join(&name))?.starts_with(units::mark(&place.file).as_bytes())
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Gives systemd these commands, or says which the user has to give.
    fn systemctl(&self, commands: &[&[&str]]) -> Result<()> {
        let of_user: &[&str] = if self.manager == Manager::User { &["--user"] } else { &[] };
        for (i, command) in commands.iter().enumerate() {
            let ended = foreign::run("systemctl", &[of_user, command].concat(), b"")?;
            let why = match ended {
                Some(ended) if ended.success => continue,
                Some(ended) => format!("`systemctl {}` failed: {}", command[0], ended.complaint()),
                None => "there is no program `systemctl`".to_string(),
            };
            let left = commands[i..].iter().map(|command| format!("`{}`", shown(of_user, command)));
            return Err(Error::failed(why)
                .hint(format!("Where systemd runs, give it {}.", left.collect::<Vec<_>>().join(" and "))));
        }
        Ok(())
    }
}

fn shown(of_user: &[&str], command: &[&str]) -> String {
    [&["systemctl"], of_user, command].concat().join(" ")
}

fn timers<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    names.filter(|name| name.ends_with(".timer")).collect()
}
