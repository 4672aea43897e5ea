//! Colours, by the usual rules: none where `NO_COLOR` is set, the terminal is dumb or nobody looks (a pipe, a file),
//! unless `CLICOLOR_FORCE` wants them. Text is painted where it is made; what must not be seen is taken out where it is printed.

use std::fmt::{self, Display};
use std::io::Write;

use anstyle::{AnsiColor, Style};

/// What a colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Good,
    Warning,
    Bad,
}

/// `text` in the colour of this mood.
pub fn paint(mood: Mood, text: impl Display) -> String {
    let color = match mood {
        Mood::Good => AnsiColor::Green,
        Mood::Warning => AnsiColor::Yellow,
        Mood::Bad => AnsiColor::Red,
    };
    let style = Style::new().fg_color(Some(color.into())).bold();
    format!("{style}{text}{style:#}")
}

/// `text` without what was painted.
pub fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

/// Prints a line on the standard output. That nobody reads it any more (`| head`) is no failure.
pub fn print_to_stdout(line: fmt::Arguments) {
    let _ = writeln!(anstream::stdout().lock(), "{line}");
}

/// Prints a line on the standard error. Nobody is left to tell when that is gone.
pub fn print_to_stderr(line: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mood_is_a_colour_that_ends() {
        let painted = [Mood::Good, Mood::Warning, Mood::Bad].map(|mood| paint(mood, "word"));
        let codes = ["32", "33", "31"].map(|code| format!("\u{1b}[1m\u{1b}[{code}mword\u{1b}[0m"));
        assert_eq!(painted, codes);
        assert_eq!(painted.map(|painted| plain(&painted)), ["word"; 3]);
    }
}
