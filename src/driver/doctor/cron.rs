//! Whether something runs the mirror every night: the user's crontab, the system's, systemd's units.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Finding, Patient};

pub fn check(patient: &Patient) -> Finding {
    let root = patient.paths.root();
    let folder = std::fs::canonicalize(root).unwrap_or_else(|_| root.to_path_buf());
    let (places, unread) = places(&folder);
    let found = places.into_iter().find(|(_, text)| runs(text, &folder));
    match found {
        Some((place, _)) => Finding::ok("cron", format!("{place} runs this folder")),
        None => {
            let unread = unread.iter().map(|what| format!("; could not read {what}")).collect::<String>();
            Finding::warning("cron", format!("nothing runs `{}` every night{unread}", folder.display()))
                .hint("Run `mirror42 crontab install`, or `mirror42 systemd install`.")
        }
    }
}

/// Where a timetable may be, and its text; and what could not be read of them, with the cause.
fn places(folder: &Path) -> (Vec<(String, String)>, Vec<String>) {
    let (mut places, mut unread) = (Vec::new(), Vec::new());
    // That there is no such program, or no table, is no fault.
    let own = Command::new("crontab").arg("-l").stdin(Stdio::null()).stderr(Stdio::null()).output();
    if let Ok(output) = own
        && output.status.success()
    {
        places.push(("the crontab".to_string(), String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let of_user = home.map(|home| home.join(".config/systemd/user"));
    let mut files = vec![PathBuf::from("/etc/crontab")];
    for folder in ["/etc/cron.d", "/etc/systemd/system"].into_iter().map(PathBuf::from).chain(of_user) {
        match std::fs::read_dir(&folder) {
            Ok(entries) => {
                files.extend(entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_file()));
            }
            Err(cause) if cause.kind() == ErrorKind::NotFound => {}
            Err(cause) => unread.push(format!("`{}`: {cause}", folder.display())),
        }
    }
    files.retain(|file| !file.starts_with(folder));
    for file in files {
        match std::fs::read(&file) {
            Ok(bytes) => places.push((format!("`{}`", file.display()), String::from_utf8_lossy(&bytes).into_owned())),
            Err(cause) if cause.kind() == ErrorKind::NotFound => {}
            Err(cause) => unread.push(format!("`{}`: {cause}", file.display())),
        }
    }
    (places, unread)
}

/// Whether a line that is no comment names the folder and a program of ours.
fn runs(text: &str, folder: &Path) -> bool {
    let folder = folder.to_string_lossy();
    // What `crontab install` and `systemd install` wrote says so in its own words: names may be quoted in any way.
    let is_mark = |line: &str| {
        let file = line.strip_prefix("# mirror42 ").map(|rest| rest.strip_prefix("begin ").unwrap_or(rest));
        file.and_then(|file| file.strip_prefix(&*folder)).is_some_and(|rest| rest.starts_with('/'))
    };
    if text.lines().any(is_mark) {
        return true;
    }
    let names_folder = |line: &str| {
        line.match_indices(&*folder).any(|(at, _)| {
            // `/srv/a` is not in `/srv/ab`.
            let after = line[at + folder.len()..].chars().next();
            after.is_none_or(|c| c == '/' || c.is_whitespace() || matches!(c, '\'' | '"' | ';' | '&'))
        })
    };
    let lines = || text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    // A unit has its folder and its program on two lines.
    lines().any(names_folder) && lines().any(|line| line.contains("mirror42"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_runs_another_folder_is_told_from_ours() {
        let ours = |text: &str| runs(text, Path::new("/srv/mirror"));
        assert!(ours("0 1 * * *  cd /srv/mirror && /usr/local/bin/mirror42 run -q"));
        assert!(ours("0 1 * * *  root mirror42 run --pipeline /srv/mirror/pipeline.toml"));
        assert!(ours("[Service]\nWorkingDirectory=/srv/mirror\nExecStart=/usr/bin/mirror42 run\n"));
        assert!(ours("# mirror42 begin /srv/mirror/pipeline.toml\n0 1 * * * cd '/srv/mi'…\n"));
        assert!(ours("# mirror42 /srv/mirror/pipeline.toml\n[Unit]\n"));
        assert!(!ours("# mirror42 begin /srv/mirror2/pipeline.toml\n"));
        assert!(!ours("# 0 1 * * *  cd /srv/mirror && mirror42 run"));
        assert!(!ours("0 1 * * *  cd /srv/mirror2 && mirror42 run"));
        assert!(!ours("0 1 * * *  cd /srv/mirror && make"));
        assert!(!ours(""));
    }
}
