//! The units of systemd that make a mirror every night: for each job a service and a timer.

use super::calendar;
use crate::driver::nightly::{Job, Place};

/// Whose service manager runs the units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manager {
    /// The machine's, which runs the jobs as this user; none: as root.
    System { user: Option<String> },
    /// That of the user.
    User,
}

/// A unit file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    pub name: String,
    pub text: String,
}

// Longer names of files there are none.
const MOST_OF_NAME: usize = 100;

/// What both managers can grant. Nothing that the embedded server could not live with: it compiles at run time (no
/// `MemoryDenyWriteExecute`), has its socket under /tmp where its folder's path is long (no `PrivateTmp`), and as root
/// changes its user (no `CapabilityBoundingSet`).
const HARDENED: &str = "\
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
";
/// What only the machine's manager can.
const HARDENED_MORE: &str = "\
ProtectSystem=full
ProtectClock=yes
ProtectHostname=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
";

/// The first line of each unit, by which they are found again.
pub fn mark(file: &str) -> String {
    format!("# mirror42 {file}\n")
}

/// How the units of a pipeline begin.
pub fn prefix(pipeline: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '_' };
    let name: String = pipeline.chars().map(plain).take(MOST_OF_NAME).collect();
    format!("mirror42-{name}-")
}

/// The service and the timer of a job.
pub fn of_job(pipeline: &str, place: &Place, job: &Job, manager: &Manager) -> [Unit; 2] {
    let name = format!("{}{}", prefix(pipeline), job.name);
    let description = format!("mirror42 {}: {}", pipeline.replace(char::is_control, " ").replace('%', "%%"), job.name);
    [
        Unit { name: format!("{name}.service"), text: service(&description, place, job, manager) },
        Unit { name: format!("{name}.timer"), text: timer(&description, place, job) },
    ]
}

fn service(description: &str, place: &Place, job: &Job, manager: &Manager) -> String {
    let mut text = mark(&place.file);
    text.push_str(&format!("[Unit]\nDescription={description}\n"));
    if matches!(manager, Manager::System { .. }) {
        text.push_str("Wants=network-online.target\nAfter=network-online.target\n");
    }
    let words: Vec<String> = job.command.iter().map(|word| quoted(word)).collect();
    text.push_str("\n[Service]\nType=oneshot\n");
    if let Manager::System { user: Some(user) } = manager {
        text.push_str(&format!("User={user}\n"));
    }
    text.push_str(&format!("WorkingDirectory={}\n", place.folder.replace('%', "%%")));
    text.push_str(&format!("ExecStart={}\n", words.join(" ")));
    // The embedded server that a run starts is to stay when the run ends.
    text.push_str("KillMode=process\n");
    text.push_str(HARDENED);
    if matches!(manager, Manager::System { .. }) {
        text.push_str(HARDENED_MORE);
    }
    text
}

fn timer(description: &str, place: &Place, job: &Job) -> String {
    let mut text = mark(&place.file);
    text.push_str(&format!("[Unit]\nDescription={description}\n\n[Timer]\n"));
    for expression in calendar::of(job.time) {
        text.push_str(&format!("OnCalendar={expression}\n"));
    }
    // A time that the machine slept through is made up for.
    text.push_str("Persistent=true\nAccuracySec=1s\n\n[Install]\nWantedBy=timers.target\n");
    text
}

/// A word of `ExecStart=`. Backslashes there are none.
fn quoted(word: &str) -> String {
    let word = word.replace('%', "%%").replace('$', "$$");
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:=@,%$".contains(c);
    if word.chars().all(plain) { word } else { format!("\"{}\"", word.replace('"', "\\\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_command_are_quoted_as_systemd_reads_them() {
        assert_eq!(quoted("/usr/bin/mirror42"), "/usr/bin/mirror42");
        assert_eq!(quoted("/srv/100 % \"of\" $HOME/it's"), "\"/srv/100 %% \\\"of\\\" $$HOME/it's\"");
    }

    #[test]
    fn units_are_called_by_their_pipeline() {
        assert_eq!(prefix("42-stable"), "mirror42-42-stable-");
        assert_eq!(prefix("my mirror/é"), "mirror42-my_mirror__-");
        assert_eq!(prefix(&"x".repeat(300)).len(), 110);
    }
}
