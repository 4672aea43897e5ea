//! What keeps a mirror going night after night: when cron runs what (`[cron]`), how long logs stay (`[logs]`), and who
//! is told how a run ended (`on_success`, `on_failure`).

use std::time::Duration;

use super::Auth;
use super::cron_time::CronTime;
use super::toml_view::{Value, View, or};
use crate::error::{Error, Result};

const TOKEN: &str = "5 * * * *";
const RUN: &str = "0 1 * * *";
const ROTATE: &str = "0 2 * * *";
const COMPRESS_AFTER: Duration = Duration::from_secs(24 * 3600);
const COMPRESS_SIZE_BYTES: u64 = 50_000_000;
const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);

/// When what runs by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    /// `mirror42-token ensure`; none: the API has no token to look after.
    pub token: Option<CronTime>,
    /// `mirror42 run`.
    pub run: CronTime,
    /// `mirror42-rotate`.
    pub rotate: CronTime,
}

/// What becomes of the files under `logs/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logs {
    /// A log whose first line is older is compressed.
    pub compress_after: Duration,
    /// A larger log is compressed, whatever its age.
    pub compress_size_bytes: u64,
    /// What is older is removed.
    pub keep: Duration,
}

/// Programs with their arguments that are told how a run ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    pub on_success: Option<Vec<String>>,
    pub on_failure: Option<Vec<String>>,
}

/// The table `[cron]`, or what holds without one.
pub fn cron(mut view: Option<View>, auth: &Auth) -> Result<Cron> {
    let token = view.as_mut().and_then(|view| view.take("token"));
    let run = view.as_mut().and_then(|view| view.take("run"));
    let rotate = view.as_mut().and_then(|view| view.take("rotate"));
    let cron = Cron {
        token: match (auth, token) {
            (Auth::OAuth2(_), token) => Some(time(token, TOKEN)?),
            (_, Some(token)) => {
                return Err(token.wrong("no such key, since `api.auth` has no token that could be renewed"));
            }
            (_, None) => None,
        },
        run: time(run, RUN)?,
        rotate: time(rotate, ROTATE)?,
    };
    view.map_or(Ok(()), View::finish)?;
    Ok(cron)
}

fn time(value: Option<Value>, default: &str) -> Result<CronTime> {
    let text = value.as_ref().map_or(Ok(default.to_string()), Value::string)?;
    CronTime::parse(&text).map_err(|expected| match &value {
        Some(value) => value.wrong(&expected),
        None => Error::usage(expected),
    })
}

/// The table `[logs]`, or what holds without one.
pub fn logs(mut view: Option<View>) -> Result<Logs> {
    let compress_after = view.as_mut().and_then(|view| view.take("compress_after"));
    let compress_size = view.as_mut().and_then(|view| view.take("compress_size"));
    let keep = view.as_mut().and_then(|view| view.take("keep"));
    let logs = Logs {
        compress_after: or(compress_after, Value::duration, COMPRESS_AFTER)?,
        compress_size_bytes: or(compress_size, size_bytes, COMPRESS_SIZE_BYTES)?,
        keep: or(keep, Value::duration, KEEP)?,
    };
    view.map_or(Ok(()), View::finish)?;
    Ok(logs)
}

fn size_bytes(value: &Value) -> Result<u64> {
    parse_size(&value.string()?).ok_or_else(|| value.wrong("a size such as \"50MB\" or \"64MiB\""))
}

/// Bytes: `50MB`, `64MiB`, `1000`.
pub fn parse_size(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 9] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("kB", 1_000),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
        ("", 1),
    ];
    let (number, bytes) = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)))?;
    number.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(bytes))
}

/// A program and its arguments.
pub fn command(value: Value) -> Result<Vec<String>> {
    let wrong = value.wrong("a program and its arguments, such as [\"/usr/bin/logger\", \"-t\", \"mirror42\"]");
    match value.names() {
        Ok(words) if !words.is_empty() => Ok(words),
        _ => Err(wrong),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::pipeline::Pipeline;

    const OAUTH2: &str =
        "auth = { kind = \"oauth2\", token_path = \"/t\", client_id_env = \"I\", client_secret_env = \"S\" }";

    fn pipeline(auth: &str, rest: &str) -> Result<Pipeline> {
        let text = format!("[api]\nbase_url = \"http://127.0.0.1\"\n{auth}\n[pipeline]\nname = \"t\"\n{rest}\n");
        Pipeline::parse(Path::new("pipeline.toml"), &text)
    }

    fn refused(auth: &str, rest: &str) -> String {
        pipeline(auth, rest).unwrap_err().to_string()
    }

    #[test]
    fn times_of_cron_are_read_or_have_their_defaults() {
        let cron = pipeline(OAUTH2, "[cron]\nrun = \"30  3 * * mon-fri\"").unwrap().cron;
        let texts = [cron.token.as_ref().unwrap(), &cron.run, &cron.rotate].map(CronTime::as_str);
        assert_eq!(texts, ["5 * * * *", "30 3 * * mon-fri", "0 2 * * *"]);
        assert_eq!(pipeline("", "").unwrap().cron.token, None, "there is no token to look after");
    }

    #[test]
    fn a_wrong_table_of_cron_is_told_with_its_place() {
        assert_eq!(
            refused(OAUTH2, "[cron]\nrotate = \"0 25 * * *\""),
            "`cron.rotate` is \"0 25 * * *\", expected an hour from 0 to 23, not `25`\n  at: pipeline.toml:7:10"
        );
        assert_eq!(refused(OAUTH2, "[cron]\nrun = 5"), "`cron.run` is 5, expected a string\n  at: pipeline.toml:7:7");
        assert_eq!(
            refused("", "[cron]\ntoken = \"5 * * * *\""),
            "`cron.token` is \"5 * * * *\", expected no such key, since `api.auth` has no token that could be renewed\n  \
             at: pipeline.toml:7:9"
        );
        assert_eq!(
            refused("", "[cron]\nrotates = \"5 * * * *\""),
            "unknown key `rotates` in `[cron]`\n  at: pipeline.toml:7:1\n  hint: Did you mean `rotate`?"
        );
    }

    #[test]
    fn what_becomes_of_logs_is_read_or_refused() {
        let logs = pipeline("", "[logs]\ncompress_after = \"36h\"\ncompress_size = \"64MiB\"\nkeep = \"1y\"");
        assert_eq!(
            logs.unwrap_err().message(),
            "`logs.keep` is \"1y\", expected a duration such as \"30s\" or \"20h\""
        );
        let logs =
            pipeline("", "[logs]\ncompress_after = \"36h\"\ncompress_size = \"64MiB\"\nkeep = \"7d\"").unwrap().logs;
        assert_eq!(logs.compress_after.as_secs(), 36 * 3600);
        assert_eq!((logs.compress_size_bytes, logs.keep.as_secs()), (64 << 20, 7 * 86_400));
        assert_eq!(
            refused("", "[logs]\ncompress_size = \"big\""),
            "`logs.compress_size` is \"big\", expected a size such as \"50MB\" or \"64MiB\"\n  at: pipeline.toml:7:17"
        );
    }

    #[test]
    fn sizes_are_read_or_refused() {
        let sizes = ["50MB", "64 MiB", "1kB", "7B", "7"].map(parse_size);
        assert_eq!(sizes, [50_000_000, 64 << 20, 1000, 7, 7].map(Some));
        assert!(["", "MB", "-1MB", "1.5GB", "99999999999GB"].iter().all(|text| parse_size(text).is_none()));
    }

    #[test]
    fn hooks_are_programs_with_arguments() {
        let hooks = pipeline("", "on_failure = [\"mail\", \"-s\", \"mirror\", \"me\"]").unwrap().hooks;
        assert_eq!(hooks.on_failure.unwrap(), ["mail", "-s", "mirror", "me"]);
        assert_eq!(hooks.on_success, None);
        for (text, found) in [("[]", "an array"), ("\"mail\"", "\"mail\"")] {
            let error = refused("", &format!("on_success = {text}"));
            let expected = "a program and its arguments, such as [\"/usr/bin/logger\", \"-t\", \"mirror42\"]";
            assert_eq!(
                error,
                format!("`pipeline.on_success` is {found}, expected {expected}\n  at: pipeline.toml:6:14")
            );
        }
    }
}
