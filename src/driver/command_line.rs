//! The command line of a child, in a form that can be pasted into a shell.

use std::ffi::OsStr;
use std::process::Command;

/// Of the variables that a child is given, those whose values hide nothing.
const PLAIN: &str = "MIRROR42_";

/// `cd FOLDER && NAME=value PROGRAM ARGUMENTS`. What may be secret, which goes by the environment only, is named in a
/// comment at the end.
pub fn of(command: &Command) -> String {
    let mut line = String::new();
    if let Ok(folder) = std::env::current_dir() {
        line = format!("cd {} && ", quoted(folder.as_os_str()));
    }
    let mut hidden = Vec::new();
    for (name, value) in command.get_envs().filter_map(|(name, value)| Some((name, value?))) {
        let name = name.to_string_lossy();
        match name.starts_with(PLAIN) {
            true => line.push_str(&format!("{name}={} ", quoted(value))),
            false => hidden.push(name),
        }
    }
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    line.push_str(&words.map(quoted).collect::<Vec<_>>().join(" "));
    match hidden.is_empty() {
        true => line,
        false => format!("{line}  # needs {} in the environment", hidden.join(", ")),
    }
}

/// A word as a shell takes it for one, with nothing in it that means more.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.into_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_the_line_for_the_same_words() {
        let words = ["plain", "", "two words", "it's", "$HOME `id` \"x\" *", "# no comment", "~", "a=b;c"];
        let mut command = Command::new("printf");
        command.arg("%s\n").args(words).env("MIRROR42_API_URL", "http://[::1]:1/?a&b").env("DATABASE_URL", "s3cret");
        let line = of(&command);
        let folder = std::env::current_dir().unwrap();
        let begin = format!("cd {} && MIRROR42_API_URL='http://[::1]:1/?a&b' printf ", quoted(folder.as_os_str()));
        assert!(line.starts_with(&begin), "{line}");
        assert!(line.ends_with("  # needs DATABASE_URL in the environment") && !line.contains("s3cret"), "{line}");
        let output = Command::new("sh").args(["-c", &line]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), words.join("\n") + "\n");
    }
}
