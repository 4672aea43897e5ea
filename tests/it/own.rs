//! Stages with a program of the user's own: run when they have to be, trusted when they end well, gone with their parent.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use mirror42::receipt::Receipt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::driver::succeed;
use crate::fetch::{done, failed, files, message, names};
use crate::simulator::{Reply, Server, Simulator};
use crate::space::{Space, wait_until};

const SCRIPT: &str = include_str!("../../examples/own-stage/scripts/speakers.sh");
const SCHEMA: &str = include_str!("../../examples/own-stage/schema.sql");

/// An API of three campuses, of whose last so many people are.
fn api(users: &Arc<AtomicU64>) -> Server {
    let users = Arc::clone(users);
    Server::start("127.0.0.1:0", move |_| {
        let campus = |id: u64, name: &str, language: &str, users: u64| {
            let language = json!({"id": language.len(), "name": language});
            json!({"id": id, "name": name, "language": language, "users_count": users})
        };
        let last = campus(9, "Quebec", "Fran\u{e7}ais", users.load(Ordering::Relaxed));
        let all = [campus(1, "Paris", "Fran\u{e7}ais", 100), campus(7, "Lon\"don", "English", 30), last];
        Reply::json(Value::from(all.to_vec()).to_string()).with("X-Total", 3)
    })
}

/// The example's pipeline on another API, without its `auth`, and with `more` in its last stage.
fn pipeline(url: &str, more: &str) -> String {
    let example = include_str!("../../examples/own-stage/pipeline.toml");
    let lines = example.lines().filter(|line| !line.starts_with("auth"));
    let text = lines.collect::<Vec<_>>().join("\n").replace("http://127.0.0.1:4242", url);
    format!("{text}\n{more}\n")
}

fn script(space: &Space, path: &str, text: &str) {
    space.write(path, text);
    fs::set_permissions(space.path().join(path), fs::Permissions::from_mode(0o755)).unwrap();
}

/// The example in a folder, with `more` in its last stage, and the server that it asks.
fn example(more: &str) -> (Space, Server, Arc<AtomicU64>) {
    let users = Arc::new(AtomicU64::new(5));
    let server = api(&users);
    let url = format!("http://{}", server.address);
    let space = Space::new().file("pipeline.toml", &pipeline(&url, more)).file("schema.sql", SCHEMA);
    script(&space, "scripts/speakers.sh", SCRIPT);
    (space, server, users)
}

/// One stage, which runs this script.
fn alone(text: &str, more: &str) -> Space {
    let space = Space::new().file(
        "pipeline.toml",
        &format!(
            "[pipeline]\nname = \"t\"\n[api]\nbase_url = \"http://127.0.0.1:1\"\n\
             [[stage]]\nname = \"own\"\nrun = [\"./own.sh\"]\nkey = [\"id\"]\n{more}"
        ),
    );
    script(&space, "own.sh", &format!("#!/bin/sh\nset -eu\n{text}\n"));
    space
}

fn all_json(space: &Space, stage: &str) -> String {
    fs::read_to_string(space.paths().all_json(stage)).unwrap()
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

/// What `plan` says of the pages and of the export of a stage.
fn plan(space: &Space, stage: &str) -> [String; 2] {
    let outcome = space.run("mirror42", &["plan"]);
    succeed(&outcome);
    let line = outcome.stdout.lines().find(|line| line.trim_start().starts_with(stage)).unwrap();
    let cells: Vec<&str> = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    [cells[1].to_owned(), cells[2].to_owned()]
}

const SPEAKERS: &str = "[\n{\"language_id\":7,\"language\":\"English\",\"campuses\":1,\"users\":30},\n\
                        {\"language_id\":9,\"language\":\"Français\",\"campuses\":2,\"users\":105}\n]\n";

#[test]
fn a_join_of_two_exports_is_loaded_and_a_second_run_has_nothing_to_do() {
    let (space, server, users) = example("");
    let space = space.and_database();
    let outcome = space.run("mirror42", &["run"]);
    succeed(&outcome);
    assert_eq!(all_json(&space, "03_speakers"), SPEAKERS);
    let rows = || space.query("select language_id, language, campuses, users from speakers order by 1");
    assert_eq!(rows(), ["7|English|1|30", "9|Français|2|105"]);
    // What it said is in its log and among the driver's lines.
    assert!(outcome.stderr.contains(" 03_speakers: counted 2 languages\n"), "{}", outcome.stderr);
    let log = fs::read_to_string(space.paths().log("03_speakers")).unwrap();
    assert!(log.contains(" INFO  03_speakers: counted 2 languages\n"), "{log}");
    assert!(log.contains(" INFO  03_speakers: `scripts/speakers.sh` wrote 2 records, 0.0 MB, 0."), "{log}");
    let line = outcome.stdout.lines().find(|line| line.contains("03_speakers")).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>()[..4], ["03_speakers", "0.0", "2", "2"], "{line}");
    assert!(line.trim_end().ends_with(" never run"), "{line}");

    let made = || ["all.json", "stage.json", "pages"].map(|name| inode(&space.paths().stage("03_speakers").join(name)));
    let (before, asked) = (made(), server.requests());
    let outcome = space.run("mirror42", &["run"]);
    succeed(&outcome);
    assert_eq!((made(), server.requests()), (before, asked));
    let idle = "nothing to do: 3 stages are current, and the database is as run ";
    assert!(outcome.stdout.starts_with(idle), "{}", outcome.stdout);
    let status = space.run("mirror42", &["status"]);
    succeed(&status);
    let line = status.stdout.lines().find(|line| line.contains("03_speakers")).unwrap();
    assert!(line.contains(" s ago ") && line.trim_end().ends_with(" 2   current"), "{line}");

    // The API has other records: the program runs again, after what it reads; the table follows.
    users.store(6, Ordering::Relaxed);
    succeed(&space.run("mirror42", &["run", "--force", "01_campus"]));
    assert_eq!(plan(&space, "03_speakers"), ["01_campus has other records", "waits for its program"]);
    succeed(&space.run("mirror42", &["run", "-q"]));
    assert_eq!(rows(), ["7|English|1|30", "9|Français|2|106"]);
}

/// After an edit: what `plan` says of the pages and of the export, and which of the two are made anew by the run after it.
fn edited(space: &Space, says: [&str; 2], edit: impl Fn()) {
    let at = |name: &str| inode(&space.paths().stage("03_speakers").join(name));
    // Pages are put in place by an exchange of two folders, whose inodes come back: a file within has another each time.
    let made = || [at("pages/0001.json"), at("all.json")];
    // Held under another name, so that its inode is not given to a new file.
    let kept = space.path().join("kept");
    fs::hard_link(space.paths().all_json("03_speakers"), &kept).unwrap();
    let before = made();
    edit();
    assert_eq!(plan(space, "03_speakers"), says);
    let outcome = space.run("mirror42", &["run", "-q", "03_speakers"]);
    let edited = outcome.stderr.contains("warning: all.json was edited by hand, and is made again");
    assert_eq!((outcome.code, outcome.stderr.lines().count()), (Some(0), usize::from(edited)), "{}", outcome.stderr);
    assert_eq!(all_json(space, "03_speakers"), SPEAKERS, "{says:?}");
    let anew: Vec<bool> = before.iter().zip(made()).map(|(before, after)| *before != after).collect();
    let stale = |says: &str| says != "current" && says != "waits for its program";
    assert_eq!(anew[0], stale(says[0]), "the pages of {says:?}");
    // What the program has written again is the same: the export is made anew only for a reason of its own.
    assert_eq!(anew[1], stale(says[1]), "the export of {says:?}");
    assert_eq!(plan(space, "03_speakers"), ["current", "current"], "after {says:?}");
    fs::remove_file(kept).unwrap();
}

fn done_quietly(space: &Space, args: &[&str]) {
    let outcome = space.run("mirror42", args);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{args:?}");
}

#[test]
fn whatever_is_edited_is_told_and_what_had_to_is_made_again() {
    let (space, server, _) = example("inputs = [\"data/*.csv\"]");
    space.write("data/a.csv", "a");
    done_quietly(&space, &["run", "-q", "03_speakers"]);
    let text = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    let waits = "waits for its program";
    edited(&space, ["the program changed", waits], || {
        script(&space, "scripts/speakers.sh", &format!("{SCRIPT}# edited\n"));
    });
    edited(&space, ["data/a.csv changed", waits], || space.write("data/a.csv", "b"));
    edited(&space, ["data/b.csv is new", waits], || space.write("data/b.csv", "b"));
    edited(&space, ["data/b.csv is gone", waits], || fs::remove_file(space.path().join("data/b.csv")).unwrap());
    edited(&space, ["what it runs changed", waits], || {
        space.write("pipeline.toml", &text.replace("[\"scripts/speakers.sh\"]", "[\"./scripts/speakers.sh\", \"x\"]"));
    });
    edited(&space, ["exports/03_speakers/pages/0001.json is not what its receipt says", waits], || {
        space.write("exports/03_speakers/pages/0001.json", "[]");
    });
    edited(&space, ["current", "all.json was edited by hand"], || {
        fs::remove_file(space.paths().all_json("03_speakers")).unwrap();
        space.write("exports/03_speakers/all.json", "[\n]\n");
    });
    let text = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    edited(&space, ["current", "the filter changed"], || {
        space.write("pipeline.toml", &format!("{text}jq = '. + {{}}'\n"));
    });
    // Nothing changed: a file that was touched, or another pattern for the same files.
    edited(&space, ["current", "current"], || space.write("data/a.csv", "b"));
    edited(&space, ["current", "current"], || {
        let text = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
        space.write("pipeline.toml", &text.replace("data/*.csv", "data/a.csv"));
    });
    let text = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    edited(&space, ["waits for 01_campus", waits], || {
        space.write("pipeline.toml", &text.replace("users_count}", "users_count, x: 1}"));
    });
    space.write("pipeline.toml", &text);
    done(&space, "mirror42-extract", &["01_campus"]);
    edited(&space, ["01_campus has other records", waits], || {});
    // What is read of nothing else than files never grows old; what names an age does.
    space.write("pipeline.toml", &format!("{text}max_age = \"0s\"\n"));
    let [old, after] = plan(&space, "03_speakers");
    assert!(old.starts_with("last run ") && old.ends_with(" s ago, max_age 0 s") && after == waits, "{old}, {after}");
    assert_eq!(server.requests(), 1, "nothing was asked of the API but the first time");
}

#[test]
fn a_program_that_fails_or_writes_anything_else_leaves_all_as_it_was() {
    let space = alone("echo '{\"id\":1}' >\"$MIRROR42_OUTPUT\"", "");
    done(&space, "mirror42-exec", &[]);
    done(&space, "mirror42-extract", &[]);
    assert_eq!(all_json(&space, "own"), "[\n{\"id\":1}\n]\n");
    let before = files(&space.paths().exports());
    let forms = "Write a JSON array, or one record a line, to the file that `MIRROR42_OUTPUT` names.";
    let as_they_were = "  detail: All exports are as they were.\n";
    let cases = [
        (
            "echo '{\"id\":2}' >\"$MIRROR42_OUTPUT\"; seq 7; printf 'un\\033done' >&2; exit 3",
            "the program of stage `own` ended with exit code 3\n  at: pipeline.toml:5\n  detail: It said: 4\n  \
             detail: It said: 5\n  detail: It said: 6\n  detail: It said: 7\n  detail: It said: un\\u{1b}done\n"
                .to_owned(),
        ),
        (
            "kill -9 $$",
            "the program of stage `own` was killed by signal 9\n  at: pipeline.toml:5\n  detail: It said nothing.\n".to_owned(),
        ),
        (
            "printf '{\"id\":2}\\n{\"id\":\\n' >\"$MIRROR42_OUTPUT\"",
            "the output of stage `own` is not JSON: EOF while parsing a value\n  \
             at: the file of `MIRROR42_OUTPUT`, line 3, column 0\n"
                .to_owned(),
        ),
        (
            "echo 'id,name' >\"$MIRROR42_OUTPUT\"",
            "the output of stage `own` is not JSON: expected value\n  at: the file of `MIRROR42_OUTPUT`, line 1, column 1\n  \
             detail: The line is `id,name`.\n"
                .to_owned(),
        ),
        (
            "echo '{\"id\":2}'",
            "the program of stage `own` wrote nothing\n  at: pipeline.toml:5\n".to_owned(),
        ),
    ];
    for (text, message) in cases {
        script(&space, "own.sh", &format!("#!/bin/sh\n{text}\n"));
        let hint = match message.contains("wrote nothing") {
            true => format!("  hint: {forms} No records are `[]`.\n"),
            false if message.contains("not JSON") => format!("  hint: {forms}\n"),
            false => String::new(),
        };
        assert_eq!(failed(&space, "mirror42-exec", &[], 1), format!("{message}{as_they_were}{hint}"));
        assert!(files(&space.paths().exports()) == before, "{text}");
    }
    // What is JSON and no record is the extract's to tell, with its place; the next run asks the program again.
    script(&space, "own.sh", "#!/bin/sh\necho '{\"id\":1} {\"id\":null}' >\"$MIRROR42_OUTPUT\"\n");
    let outcome = space.run("mirror42", &["run", "-q", "own"]);
    assert_eq!(outcome.code, Some(1));
    assert_eq!(
        message(&outcome.stderr),
        "the jq filter of stage `own` failed: it yielded a record whose key member `id` is null, expected an integer, a \
         string or a boolean\n  at: exports/own/pages/0001.json, record 2 (id null)\n  \
         detail: `exports/own/all.json` is as it was.\n  hint: The filter stands at pipeline.toml:5.\n"
    );
    assert_eq!(all_json(&space, "own"), "[\n{\"id\":1}\n]\n");
    assert_eq!(plan(&space, "own")[0], "forced");
}

#[test]
fn a_program_or_a_file_that_is_not_there_is_told_before_anything_runs() {
    let space = alone("echo '[]' >\"$MIRROR42_OUTPUT\"", "");
    let text = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    let with = |run: &str, more: &str| {
        space.write("pipeline.toml", &text.replace("[\"./own.sh\"]", run).replace("key =", &format!("{more}\nkey =")));
    };
    let both = |code: i32, message: &str| {
        assert_eq!(failed(&space, "mirror42", &["run", "own"], code), message);
        let first = message.lines().next().unwrap();
        assert_eq!(plan(&space, "own")[0], first);
        assert_eq!(failed(&space, "mirror42-exec", &["own"], code), message);
    };
    with("[\"./other.sh\"]", "");
    both(1, "the program `./other.sh` of stage `own` is not there\n  at: pipeline.toml:5\n");
    with("[\"./own.sh\"]", "inputs = [\"x.csv\"]");
    both(1, "`x.csv`, an input of stage `own`, is not there\n  at: pipeline.toml:5\n");
    with("[\"./own.sh\"]", "inputs = [\"*.csv\"]");
    both(1, "no file is `*.csv`, which stage `own` has among its `inputs`\n  at: pipeline.toml:5\n");

    let exec = |message: &str| assert_eq!(failed(&space, "mirror42-exec", &["own"], 1), message);
    with("[\"no-such-program\"]", "");
    let path = std::env::var("PATH").unwrap();
    exec(&format!(
        "the program `no-such-program` of stage `own` is not on PATH\n  at: pipeline.toml:5\n  detail: PATH is `{path}`.\n"
    ));
    fs::set_permissions(space.path().join("own.sh"), fs::Permissions::from_mode(0o644)).unwrap();
    with("[\"./own.sh\"]", "");
    exec(
        "could not start the program `./own.sh` of stage `own`: permission denied (os error 13)\n  at: pipeline.toml:5\n  \
         hint: Run `chmod +x ./own.sh`.\n",
    );
    with("[\"./own.sh\"]", "env = [\"OTHER_KEY\"]");
    assert_eq!(
        failed(&space, "mirror42-exec", &["own"], 2),
        "`OTHER_KEY`, which `env` of stage `own` names, is not set\n  hint: Put it into the environment variable \
         `OTHER_KEY`, or into a file `.env` beside the pipeline (mode 0600).\n"
    );
    assert_eq!(names(&space.paths().stage("own")), [""; 0]);
}

#[test]
fn a_stage_is_of_one_kind_and_each_binary_says_which_it_is_for() {
    let (space, _server, _) = example("");
    assert_eq!(
        failed(&space, "mirror42-fetch", &["03_speakers"], 2),
        "stage `03_speakers` fetches nothing: it has `run`\n  at: pipeline.toml:23\n"
    );
    assert_eq!(
        failed(&space, "mirror42-exec", &["01_campus"], 2),
        "stage `01_campus` has no program: it has no `run`\n  at: pipeline.toml:9\n"
    );
    assert_eq!(
        failed(&space, "mirror42-exec", &["03_speakers"], 1),
        "`exports/01_campus/all.json`, which the program of stage `03_speakers` reads, is not there\n  \
         at: pipeline.toml:23\n  hint: Run `mirror42 run 03_speakers`.\n"
    );
    assert_eq!(
        failed(&space, "mirror42-extract", &["03_speakers"], 1),
        "the program of stage `03_speakers` has not run\n  at: exports/03_speakers/stage.json\n  \
         hint: Run `mirror42-exec 03_speakers`, or `mirror42 run`.\n"
    );
    // A stage that changes its kind is made anew.
    done_quietly(&space, &["run", "-q", "03_speakers"]);
    let text = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    let fetching = "fetch = \"/speakers\"\njq = '{language_id: .id}'";
    space.write("pipeline.toml", &text.replace("run   = [\"scripts/speakers.sh\"]", fetching));
    assert_eq!(plan(&space, "03_speakers"), ["never fetched whole", "the filter changed"]);
    done_quietly(&space, &["run", "-q", "03_speakers"]);
    assert_eq!(plan(&space, "03_speakers"), ["current", "current"]);
    space.write("pipeline.toml", &text);
    assert_eq!(plan(&space, "03_speakers"), ["never run", "the filter changed"]);
    done_quietly(&space, &["run", "-q", "03_speakers"]);
    assert_eq!(all_json(&space, "03_speakers"), SPEAKERS);
}

#[test]
fn a_program_sees_its_files_and_no_secret_that_it_has_not_asked_for() {
    let text = "pwd -P; echo \"$MIRROR42_STAGE $MIRROR42_PIPELINE $MIRROR42_INPUT_FIRST_ONE\"\n\
                echo \"key ${OTHER_KEY-}, ${LONG_SECRET-none}, ${DATABASE_URL-none}, ${FT_CLIENT_ID-none}, \
                ${FT_CLIENT_SECRET-none}, ${PLAIN-none}\"\n\
                cat; echo '{\"id\":1}' >\"$MIRROR42_OUTPUT\"";
    let more = "inputs = [\"own.sh\"]\nenv = [\"OTHER_KEY\"]\nwith = { first_one = \"first\" }\n\
                [[stage]]\nname = \"first\"\nrun = [\"sh\", \"-c\", \"echo '[]' >$MIRROR42_OUTPUT\"]\nkey = [\"id\"]\n";
    let space = alone(text, more).with("PLAIN", "plain").with("LONG_SECRET", "of-the-environment");
    let space = space.with("DATABASE_URL", "postgresql://x:y@localhost/z");
    let space = space.with("FT_CLIENT_ID", "a-client").with("FT_CLIENT_SECRET", "a-secret");
    let auth = "auth = { kind = \"oauth2\", token_path = \"/t\", client_id_env = \"FT_CLIENT_ID\", \
                client_secret_env = \"FT_CLIENT_SECRET\" }\n[[stage]]\nname = \"own\"";
    let pipeline = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    space.write("pipeline.toml", &pipeline.replace("[[stage]]\nname = \"own\"", auth));
    space.write(".env", "OTHER_KEY=hush-hush\nLONG_SECRET=of-the-file\n");
    fs::set_permissions(space.path().join(".env"), fs::Permissions::from_mode(0o600)).unwrap();
    let outcome = space.run("mirror42", &["run", "own"]);
    succeed(&outcome);
    let said: Vec<&str> = outcome.stderr.lines().filter_map(|line| line.split_once(" own: ")).map(|(_, l)| l).collect();
    let root = space.path().canonicalize().unwrap().display().to_string();
    let path = |name: &str| std::path::absolute(space.path().join(name)).unwrap().display().to_string();
    assert_eq!(
        said[..3],
        [
            root,
            format!("own {} {}", path("pipeline.toml"), path("exports/first/all.json")),
            "key (secret), none, none, none, none, plain".to_owned(),
        ]
    );
    let log = fs::read_to_string(space.paths().log("own")).unwrap();
    assert!(log.contains("key (secret), none") && !log.contains("hush"), "{log}");
}

#[test]
fn a_script_among_the_arguments_that_is_not_among_the_inputs_is_warned_of() {
    let space = alone("", "");
    let text = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    script(&space, "own.sh", "echo '[]' >\"$MIRROR42_OUTPUT\"");
    space.write("pipeline.toml", &text.replace("[\"./own.sh\"]", "[\"sh\", \"./own.sh\", \"x\"]"));
    let warned = |space: &Space| {
        let outcome = space.run("mirror42-exec", &["-q"]);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        outcome.stderr.split_once(' ').map(|(_, text)| text.to_owned())
    };
    assert_eq!(
        warned(&space).unwrap(),
        "own: warning: the program is given `./own.sh`, which is not among the stage's `inputs`: no change of it makes the \
         stage stale\n"
    );
    space.write("pipeline.toml", &text.replace("[\"./own.sh\"]", "[\"sh\", \"./own.sh\"]\ninputs = [\"own.sh\"]"));
    assert_eq!(warned(&space), None);
}

/// Whether the process is there, and not just its last traces.
fn lives(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}/cwd")).exists()
}

fn numbers(space: &Space, file: &str) -> Vec<i32> {
    let text = fs::read_to_string(space.path().join(file)).unwrap_or_default();
    text.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

#[test]
fn killed_with_its_driver_or_alone_it_leaves_no_process_and_the_former_export() {
    let wait = "sleep 300 & echo \"$$ $!\" >pids; wait";
    let space = alone("echo '{\"id\":1}' >\"$MIRROR42_OUTPUT\"", "");
    done_quietly(&space, &["run", "-q", "own"]);
    for binary in ["mirror42-exec", "mirror42"] {
        script(&space, "own.sh", &format!("#!/bin/sh\necho '{{\"id\":2}}' >\"$MIRROR42_OUTPUT\"\n{wait}\n"));
        let args: &[&str] = if binary == "mirror42" { &["run", "own"] } else { &["own"] };
        for signal in [Signal::SIGKILL, Signal::SIGTERM] {
            let running = space.spawn(binary, args);
            wait_until("it waits", || numbers(&space, "pids").len() == 2);
            let pids = numbers(&space, "pids");
            assert!(pids.iter().all(|pid| lives(*pid)));
            kill(Pid::from_raw(running.id() as i32), signal).unwrap();
            let output = running.wait_with_output().unwrap();
            if signal == Signal::SIGTERM {
                assert_eq!(output.status.code(), Some(75));
                let text = message(&String::from_utf8(output.stderr).unwrap());
                assert!(text.starts_with("stopped by SIGTERM\n"), "{text}");
                assert_eq!(text.contains("  detail: What programs have written is kept; "), binary == "mirror42-exec");
            }
            wait_until("all of it is gone", || !pids.iter().any(|pid| lives(*pid)));
            fs::remove_file(space.path().join("pids")).unwrap();
            assert_eq!(all_json(&space, "own"), "[\n{\"id\":1}\n]\n");
        }
        // Whoever comes next works as if nothing had been, and sweeps what the killed have left.
        script(&space, "own.sh", &format!("#!/bin/sh\necho '{{\"id\":1}}' >\"$MIRROR42_OUTPUT\" # {binary}\n"));
        done_quietly(&space, &["run", "-q", "own"]);
        assert_eq!(names(&space.paths().stage("own")), ["all.json", "pages", "stage.json"]);
    }
}

#[test]
fn one_that_takes_longer_than_it_may_is_ended_with_all_that_it_has_started() {
    let text = "sleep 300 & echo \"$$ $!\" >pids; echo waiting; wait";
    let space = alone(text, "timeout = \"2s\"\n");
    let outcome = space.run("mirror42", &["run", "-q", "own"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert_eq!(
        message(&outcome.stderr),
        "the program of stage `own` took longer than its timeout, 2 s\n  at: pipeline.toml:5\n  \
         detail: It was stopped. Its export is as it was.\n  detail: Its last line: waiting\n  \
         hint: Raise `timeout` of the stage, if it may take longer.\n"
    );
    wait_until("all of it is gone", || !numbers(&space, "pids").iter().any(|pid| lives(*pid)));
    assert!(!space.paths().all_json("own").exists());
}

#[test]
fn one_that_is_told_to_end_may_tidy_up_for_a_second_with_all_that_it_has_started() {
    // It tidies up for a moment when it is told to, as does what it has started; or it hears nothing.
    let tidies = "trap 'sleep 0.3; echo tidy >>told; exit 0' TERM\n";
    let loops = "echo x >>begun; while :; do sleep 0.05; done";
    for (script_text, told) in [
        (format!("({tidies}{loops}) &\n{tidies}{loops}"), 2),
        (format!("trap '' TERM\necho '[]' >\"$MIRROR42_OUTPUT\"\necho x >>begun; {loops}"), 0),
        // Whatever it says meanwhile, as fast as it can.
        (format!("{tidies}echo x >>begun; echo x >>begun; while :; do echo y; done"), 1),
        ("trap '' TERM; echo x >>begun; echo x >>begun; while :; do echo y; done".to_string(), 0),
    ] {
        for binary in ["mirror42-exec", "mirror42"] {
            let space = alone(&script_text, "");
            let args: &[&str] = if binary == "mirror42" { &["run", "own"] } else { &["own"] };
            let lines = |file: &str| fs::read_to_string(space.path().join(file)).unwrap_or_default().lines().count();
            let running = space.spawn(binary, args);
            wait_until("it has begun", || lines("begun") == 2);
            let asked = Instant::now();
            kill(Pid::from_raw(running.id() as i32), Signal::SIGTERM).unwrap();
            let output = running.wait_with_output().unwrap();
            let text = message(&String::from_utf8(output.stderr).unwrap());
            assert_eq!(output.status.code(), Some(75), "{text}");
            assert!(asked.elapsed().as_secs_f64() < 2.0, "{:?}", asked.elapsed());
            assert!(text.starts_with("stopped by SIGTERM\n"), "{text}");
            // The one that was started is not waited for when the program itself has ended.
            assert!((told.min(1)..=told).contains(&lines("told")), "{binary}: {}", lines("told"));
            assert!(!space.paths().all_json("own").exists());
        }
    }
}

#[test]
fn what_a_program_leaves_running_ends_with_it() {
    let text = "sleep 300 & echo $! >pid; echo '[]' >\"$MIRROR42_OUTPUT\"";
    let space = alone(text, "");
    let began = Instant::now();
    done(&space, "mirror42-exec", &[]);
    assert!(began.elapsed().as_secs() < 10, "it was waited for");
    let pid = numbers(&space, "pid")[0];
    wait_until("it is gone", || !lives(pid));
}

#[test]
fn what_has_left_the_group_of_a_program_is_not_heard_for_ever() {
    let text = "setsid sh -c 'while echo y; do :; done' &\necho '[]' >\"$MIRROR42_OUTPUT\"";
    let space = alone(text, "");
    let began = Instant::now();
    done(&space, "mirror42-exec", &[]);
    assert!(began.elapsed().as_secs() < 10, "it was waited for");
}

#[test]
fn others_may_read_it_with_from_and_each() {
    let asked = Server::start("127.0.0.1:0", |path| {
        let id: u64 = path.split('/').nth(2).unwrap().parse().unwrap();
        Reply::json(format!("[{{\"id\":{}}}]", 10 * id)).with("X-Total", 1)
    });
    let more = "jq = '{id}'\n[[stage]]\nname = \"raw\"\nfrom = \"own\"\njq = '{n: .parts[]}'\nkey = [\"n\"]\n\
                [[stage]]\nname = \"parts\"\nfetch = \"/own/{id}/parts\"\neach = \"own\"\njq = '{id, of: $each.id}'\n\
                with = { own = \"own\" }\nkey = [\"id\"]\n";
    let space = alone("echo '[{\"id\":2,\"parts\":[5,6]},{\"id\":1,\"parts\":[4]}]' >\"$MIRROR42_OUTPUT\"", more);
    let text = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    space.write("pipeline.toml", &text.replace("127.0.0.1:1", &asked.address));
    let run = || {
        done_quietly(&space, &["run", "-q", "raw", "parts"]);
        ["own", "raw", "parts"].map(|stage| all_json(&space, stage))
    };
    let first = run();
    assert_eq!(first[0], "[\n{\"id\":1},\n{\"id\":2}\n]\n");
    assert_eq!(first[1], "[\n{\"n\":4},\n{\"n\":5},\n{\"n\":6}\n]\n");
    assert_eq!(first[2], "[\n{\"id\":10,\"of\":1},\n{\"id\":20,\"of\":2}\n]\n");
    script(&space, "own.sh", "#!/bin/sh\necho '{\"id\":2,\"parts\":[5,6]}' >\"$MIRROR42_OUTPUT\"\n");
    assert_eq!(plan(&space, "own"), ["the program changed", "waits for its program"]);
    assert_eq!(plan(&space, "parts"), ["waits for own", "waits for its pages"]);
    assert_eq!(run()[1..], ["[\n{\"n\":5},\n{\"n\":6}\n]\n", "[\n{\"id\":20,\"of\":2}\n]\n"]);
}

#[test]
fn its_table_is_as_old_as_what_the_program_read_and_no_two_nights_are_mixed() {
    let (space, _server, users) = example("");
    let space = space.and_database();
    // The only table, so that the age of a load is its.
    let text = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    space.write("pipeline.toml", &text.replace("table = \"campuses\"", "").replace("table = \"languages\"", ""));
    space.write("schema.sql", &SCHEMA.replace(" references languages on delete cascade", ""));
    done_quietly(&space, &["run", "-q"]);
    let last = "from mirror42.runs order by started_at desc limit 1";
    let age = || space.query(&format!("select to_char(fetched_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI') {last}"));
    // As if it had been fetched a day and a half ago.
    let mut receipt = Receipt::read(&space.paths(), "01_campus").unwrap().unwrap();
    let earlier = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(36);
    receipt.fetch.as_mut().unwrap().started_at = mirror42::log::timestamp(earlier);
    receipt.write(&space.paths()).unwrap();
    done(&space, "mirror42-load", &["-q"]);
    let old = [earlier.strftime("%Y-%m-%d %H:%M").to_string()];
    assert_eq!(age(), old);

    // Another night of what it reads: the loader does not take the old join with it.
    users.store(50, Ordering::Relaxed);
    done(&space, "mirror42-fetch", &["01_campus"]);
    done(&space, "mirror42-extract", &["01_campus", "02_languages"]);
    assert_eq!(
        failed(&space, "mirror42-load", &[], 1),
        "stage `03_speakers` was made from another `01_campus` than is there now\n  at: exports/03_speakers/all.json\n  \
         detail: Nothing was loaded; the database is as it was.\n  \
         hint: Run `mirror42 run`: to load it would mix two nights.\n"
    );
    done_quietly(&space, &["run", "-q"]);
    let rows = || space.query("select users from speakers order by 1");
    assert_eq!(rows(), ["30", "150"]);

    // The first night again, with its age, and back.
    let snapshot = fs::read_dir(space.path().join("data/snapshots")).unwrap().map(|entry| entry.unwrap().path());
    let mut manifests: Vec<_> = snapshot.filter(|path| path.is_file()).collect();
    manifests.sort_by_key(|path| fs::metadata(path).unwrap().modified().unwrap());
    let mut first: Value = serde_json::from_slice(&fs::read(&manifests[0]).unwrap()).unwrap();
    first["exports"]["03_speakers"]["fetched_at"] = mirror42::log::timestamp(earlier).into();
    fs::write(&manifests[0], first.to_string()).unwrap();
    succeed(&space.run("mirror42", &["replay", "-q", "--as-of", first["run_id"].as_str().unwrap()]));
    assert_eq!((rows(), age()), (vec!["30".to_owned(), "105".to_owned()], old.to_vec()));
    done_quietly(&space, &["run", "-q"]);
    assert_eq!(rows(), ["30", "150"]);
}

#[test]
fn what_is_made_of_files_alone_is_as_old_as_its_load() {
    let space = alone("cat data.json >\"$MIRROR42_OUTPUT\"", "inputs = [\"data.json\"]\ntable = \"things\"\n");
    let space = space.and_database().file("schema.sql", "create table things (id bigint primary key);");
    space.write("data.json", "[{\"id\":1}]");
    done_quietly(&space, &["run", "-q"]);
    let mut receipt = Receipt::read(&space.paths(), "own").unwrap().unwrap();
    receipt.run.as_mut().unwrap().started_at = "2020-01-01T00:00:00.000Z".to_owned();
    receipt.write(&space.paths()).unwrap();
    done_quietly(&space, &["run", "-q"]);
    succeed(&space.run("mirror42", &["status"]));
    // What names an age has one.
    let text = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    space.write("pipeline.toml", &format!("{text}max_age = \"100000 days\"\n"));
    done_quietly(&space, &["run", "-q", "own"]);
    done(&space, "mirror42-load", &["-q"]);
    let status = space.run("mirror42", &["status"]);
    assert_eq!(status.code, Some(5), "{}", status.stdout);
    let status: Value = serde_json::from_str(&space.run("mirror42", &["status", "--json"]).stdout).unwrap();
    assert!(status["fetched_at"].as_str().unwrap().starts_with("2020-01-01T00:00:00"), "{status}");
}

#[test]
fn the_example_is_mirrored() {
    let simulator = Simulator::start("");
    let space = Space::new().and_database().with("MIRROR42_API_URL", &simulator.url);
    let space = space.with("FT_CLIENT_ID", "sim-uid").with("FT_CLIENT_SECRET", crate::simulator::CLIENT_SECRET);
    let space = space.file("pipeline.toml", include_str!("../../examples/own-stage/pipeline.toml"));
    let space = space.file("schema.sql", SCHEMA);
    script(&space, "scripts/speakers.sh", SCRIPT);
    done_quietly(&space, &["run", "-q"]);
    let joined =
        "select language_id, l.name, count(*), sum(users_count) from campuses c join languages l on l.id = language_id
                  group by 1, 2 order by 1";
    let rows = space.query(joined);
    assert!(rows.len() > 3, "{rows:?}");
    assert_eq!(space.query("select language_id, language, campuses, users from speakers order by 1"), rows);
}

#[test]
fn a_program_that_is_still_to_run_again_is_run_without_the_api_too() {
    let space = alone("echo '{\"id\":1}' > \"$MIRROR42_OUTPUT\"; echo x >> ran", "");
    let ran = || fs::read_to_string(space.path().join("ran")).unwrap().lines().count();
    let run = |args: &[&str]| succeed(&space.run("mirror42", &[&["run", "-q", "own"], args].concat()));
    run(&[]);
    // As a forced run leaves it that was killed before it came to that.
    space.write(".mirror42/forced", "own\n");
    run(&["--offline"]);
    assert_eq!(ran(), 2);
    assert!(!space.paths().forced().exists());
    run(&["--offline"]);
    assert_eq!(ran(), 2);
    run(&["--offline", "--force"]);
    assert_eq!(ran(), 3);
}
