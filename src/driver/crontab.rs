//! The verb `crontab`: the lines that make a mirror every night, and their way into the crontab of this user.
//!
//! They stand between two comments that name the pipeline. Nothing outside of such a block is touched, and a block that
//! is not whole is left as it is.

use clap::Subcommand;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use nix::unistd::{User, geteuid};

use super::foreign::{self, Ended};
use super::nightly::{self, Place};
use crate::cli::{self, Common, Context};
use crate::error::{Error, Result};
use crate::manual;

const BEGIN: &str = "# mirror42 begin ";
const END: &str = "# mirror42 end ";

#[derive(Subcommand, Clone, Copy, Debug)]
pub enum Verb {
    /// Put the lines into the crontab of this user, or in the place of those that are there
    #[command(after_long_help = manual::examples(&[("After a change of the times", "mirror42 crontab install")]))]
    Install,
    /// Take them out again
    #[command(after_long_help = manual::examples(&[("Before the folder goes", "mirror42 crontab uninstall")]))]
    Uninstall,
}

/// Without a verb: prints the lines.
pub fn run(context: &Context, common: &Common, verb: Option<Verb>) -> Result<()> {
    let place = Place::of(context)?;
    let Some(verb) = verb else {
        cli::print(format_args!("{}", block(context, &place)?.trim_end()));
        return Ok(());
    };
    let user = user_name();
    let old = read(&user)?;
    let new = match verb {
        Verb::Install => put(&old, &place.file, &block(context, &place)?),
        Verb::Uninstall => put(&old, &place.file, ""),
    };
    let new = new.map_err(|error| error.detail("Nothing was changed."))?;
    let name = &context.pipeline.name;
    let told = match (verb, new == old) {
        (Verb::Install, true) => format!("the crontab of `{user}` has the lines of `{name}` already"),
        (Verb::Install, false) => format!("the crontab of `{user}` has the lines of `{name}` now"),
        (Verb::Uninstall, true) => format!("the crontab of `{user}` has no lines of `{name}`"),
        (Verb::Uninstall, false) => format!("the crontab of `{user}` has no lines of `{name}` any more"),
    };
    if new != old {
        write(&user, &new)?;
    }
    if !common.quiet {
        cli::print(format_args!("{told}"));
    }
    Ok(())
}

/// The lines of this pipeline, with the comments around them.
fn block(context: &Context, place: &Place) -> Result<String> {
    let mut lines = vec![format!("{BEGIN}{}", place.file)];
    lines.push(format!(
        "# The mirror `{}`. To change the times: [cron] of pipeline.toml, then `mirror42 crontab install`.",
        context.pipeline.name.replace(char::is_control, " ")
    ));
    if let Some(zone) = zone(&TimeZone::system(), Timestamp::now()) {
        lines.push(format!("# Cron goes by the clock of this machine, which is {zone}, not UTC: so do these times."));
    }
    for job in nightly::jobs(&context.pipeline, place)? {
        let words: Vec<String> = job.command.iter().map(|word| quoted(word)).collect();
        let command = format!("cd {} && {}", quoted(&place.folder), words.join(" "));
        // For cron a percent sign ends the command, whatever quotes it stands in.
        lines.push(format!("{} {}", job.time.as_str(), command.replace('%', "\\%")));
    }
    lines.push(format!("{END}{}\n", place.file));
    Ok(lines.join("\n"))
}

/// How the machine's zone is called, unless it is UTC.
fn zone(zone: &TimeZone, now: Timestamp) -> Option<String> {
    let utc = ["UTC", "Etc/UTC", "Etc/UCT", "UCT", "Zulu", "Etc/Zulu", "Universal", "Etc/Universal", "Etc/Unknown"];
    match zone.iana_name() {
        Some(name) if utc.contains(&name) => None,
        Some(name) => Some(name.to_string()),
        None => Some(zone.to_offset(now)).filter(|offset| !offset.is_zero()).map(|offset| format!("UTC{offset}")),
    }
}

/// The word as a shell takes it. No backslash: cron has its own mind about those.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:=@,".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_string(),
        false => format!("'{}'", word.replace('\'', "'\"'\"'")),
    }
}

/// `crontab` with the block of `file` replaced by `block`, or with that at its end.
fn put(crontab: &str, file: &str, block: &str) -> Result<String> {
    let mut before = String::new();
    let mut after = None::<String>;
    let mut inside = None::<(usize, &str)>;
    for (i, line) in crontab.split_inclusive('\n').enumerate() {
        let number = i + 1;
        let text = line.trim_end();
        let begins = text.strip_prefix(BEGIN);
        let ends = text.strip_prefix(END);
        match (inside, begins, ends) {
            (Some((began, of)), Some(_), _) => return Err(damaged(began, of, "has no end")),
            (Some((began, of)), _, Some(other)) if other != of => return Err(damaged(began, of, "has no end")),
            (None, _, Some(of)) => return Err(damaged(number, of, "has no beginning")),
            (None, Some(of), _) if of == file && after.is_some() => {
                return Err(damaged(number, of, "is there a second time"));
            }
            (None, Some(of), _) => inside = Some((number, of)),
            _ => {}
        }
        let ours = inside.is_some_and(|(_, of)| of == file);
        if ends.is_some() {
            inside = None;
        }
        match (&mut after, ours) {
            (_, true) if ends.is_some() => after = Some(String::new()),
            (_, true) => {}
            (Some(after), false) => after.push_str(line),
            (None, false) => before.push_str(line),
        }
    }
    if let Some((began, of)) = inside {
        return Err(damaged(began, of, "has no end"));
    }
    if after.is_none() && !block.is_empty() && !before.is_empty() && !before.ends_with('\n') {
        before.push('\n');
    }
    Ok(before + block + &after.unwrap_or_default())
}

fn damaged(line: usize, of: &str, how: &str) -> Error {
    Error::failed(format!("the block of mirror42 for `{of}` {how}"))
        .at(format!("crontab, line {line}"))
        .hint("Run `crontab -e`, and remove what is left of the block.")
}

/// The crontab as it is; nothing if there is none.
fn read(user: &str) -> Result<String> {
    let ended = crontab(&["-l"], b"")?;
    // The words of Debian's and Red Hat's cron, and those of busybox.
    let none = ["no crontab for", "No such file or directory"];
    if !ended.success {
        return match none.iter().any(|words| ended.stderr.contains(words)) {
            true => Ok(String::new()),
            false => Err(refused(user, "read", &ended)),
        };
    }
    String::from_utf8(ended.stdout).map_err(|_| {
        Error::failed(format!("cannot change the crontab of `{user}`: it is no UTF-8"))
            .detail("Nothing was changed.")
            .hint("`mirror42 crontab` prints the lines, to be put there by hand.")
    })
}

fn write(user: &str, text: &str) -> Result<()> {
    let ended = match text.is_empty() {
        true => crontab(&["-r"], b"")?,
        false => crontab(&["-"], text.as_bytes())?,
    };
    if ended.success { Ok(()) } else { Err(refused(user, "write", &ended)) }
}

fn refused(user: &str, doing: &str, ended: &Ended) -> Error {
    Error::failed(format!("`crontab` could not {doing} the crontab of `{user}`: {}", ended.complaint()))
}

fn crontab(arguments: &[&str], input: &[u8]) -> Result<Ended> {
    foreign::run("crontab", arguments, input)?.ok_or_else(|| {
        Error::failed("there is no program `crontab`").detail("Nothing was changed.").hint(
            "Install the package `cron` (Debian, Ubuntu) or `cronie` (Fedora, Arch), or let systemd do it: \
             `mirror42 systemd install`.",
        )
    })
}

fn user_name() -> String {
    match User::from_uid(geteuid()) {
        Ok(Some(user)) => user.name,
        _ => geteuid().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: &str = "# mirror42 begin /a/p\nnew\n# mirror42 end /a/p\n";

    #[test]
    fn words_are_quoted_where_a_shell_would_see_more_in_them() {
        assert_eq!(quoted("/usr/local/bin/mirror42-token"), "/usr/local/bin/mirror42-token");
        assert_eq!(quoted("/srv/my mirror"), "'/srv/my mirror'");
        assert_eq!(quoted("it's $HOME"), "'it'\"'\"'s $HOME'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn the_block_is_put_at_the_end_or_where_it_was() {
        for (old, new) in [
            ("", BLOCK.to_string()),
            ("1 * * * * x\n", format!("1 * * * * x\n{BLOCK}")),
            ("1 * * * * x", format!("1 * * * * x\n{BLOCK}")),
            ("x\n# mirror42 begin /a/p\nold\n# mirror42 end /a/p\ny", format!("x\n{BLOCK}y")),
            (
                "# mirror42 begin /a\nold\n# mirror42 end /a\n",
                format!("# mirror42 begin /a\nold\n# mirror42 end /a\n{BLOCK}"),
            ),
        ] {
            let put_once = put(old, "/a/p", BLOCK).unwrap();
            assert_eq!(put_once, new);
            assert_eq!(put(&put_once, "/a/p", BLOCK).unwrap(), new, "a second time changes nothing");
        }
        assert_eq!(put("x\n# mirror42 begin /a/p\nold\n# mirror42 end /a/p\ny", "/a/p", "").unwrap(), "x\ny");
        assert_eq!(put("x", "/a/p", "").unwrap(), "x");
    }

    #[test]
    fn a_block_that_is_not_whole_is_refused_with_its_line() {
        for (old, expected) in [
            ("x\n# mirror42 begin /a/p\nold\n", "`/a/p` has no end\n  at: crontab, line 2"),
            ("# mirror42 begin /b\n# mirror42 end /a/p\n", "`/b` has no end\n  at: crontab, line 1"),
            (
                "# mirror42 begin /b\n# mirror42 begin /a/p\n# mirror42 end /a/p\n",
                "`/b` has no end\n  at: crontab, line 1",
            ),
            ("x\n\n# mirror42 end /b\n", "`/b` has no beginning\n  at: crontab, line 3"),
            (&format!("{BLOCK}{BLOCK}"), "`/a/p` is there a second time\n  at: crontab, line 4"),
        ] {
            let error = put(old, "/a/p", BLOCK).unwrap_err().to_string();
            let hint = "Run `crontab -e`, and remove what is left of the block.";
            assert_eq!(error, format!("the block of mirror42 for {expected}\n  hint: {hint}"));
        }
    }

    #[test]
    fn a_zone_is_told_unless_it_is_utc() {
        let now: Timestamp = "2026-01-15T00:00:00Z".parse().unwrap();
        assert_eq!(zone(&TimeZone::UTC, now), None);
        let paris = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        assert_eq!(zone(&paris, now), Some("UTC+01".to_string()));
        assert_eq!(zone(&TimeZone::posix("GMT0").unwrap(), now), None);
    }
}
