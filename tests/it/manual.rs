//! What the programs tell of themselves: help with examples, versions, completions, man pages; and that the command lines in
//! the documents are ones that the programs take.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command as Process;

use clap::Command;
use mirror42::cli::definitions;
use mirror42::{driver, exec, extract, fetch, load, rotate, simulate, token, validate};

use crate::driver::succeed;
use crate::space::{Outcome, Space};

/// The command lines of all programs, as the programs define them.
fn programs() -> Vec<Command> {
    vec![
        definitions::<driver::Args>("mirror42"),
        definitions::<fetch::Args>("mirror42-fetch"),
        definitions::<exec::Args>("mirror42-exec"),
        definitions::<extract::Args>("mirror42-extract"),
        definitions::<load::Args>("mirror42-load"),
        definitions::<validate::Args>("mirror42-validate"),
        definitions::<token::Args>("mirror42-token"),
        definitions::<rotate::Args>("mirror42-rotate"),
        definitions::<simulate::options::Options>("mirror42-simulate"),
    ]
}

fn names() -> Vec<String> {
    programs().iter().map(|program| program.get_name().to_string()).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_program_is_known_here_and_to_the_driver() {
    let doors = fs::read_dir(root().join("src/bin")).unwrap().map(|door| door.unwrap().path());
    let doors: BTreeSet<String> = doors.map(|path| path.file_stem().unwrap().to_str().unwrap().to_string()).collect();
    assert_eq!(names().into_iter().collect::<BTreeSet<_>>(), doors);
    let completions = Space::new().run("mirror42", &["completions", "fish"]).stdout;
    let completed: BTreeSet<String> =
        completions.lines().map(|line| line.split_whitespace().nth(4).unwrap().to_string()).collect();
    assert_eq!(completed, doors);
}

#[test]
fn the_definitions_are_well_formed() {
    programs().into_iter().for_each(Command::debug_assert);
}

/// A command line without its shell: the words of each `mirror42…` in it, up to a pipe, a redirection or the next command.
fn command_lines(line: &str) -> Vec<Vec<String>> {
    let mut line = line.to_string();
    for (of_the_shell, end) in [("\"$(", " ; "), (")\"", " ; "), ("$(", " ; "), ("<(", " ; "), (";", " ; ")] {
        line = line.replace(of_the_shell, end);
    }
    let words = shlex::split(&line).unwrap_or_else(|| panic!("not a line for a shell: {line}"));
    let redirects = |word: &str| word.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with(['>', '<']);
    let ends = |word: &str| ["|", "||", "&&", ";", "&"].contains(&word) || redirects(word);
    let parts = words.split(|word| ends(word)).filter_map(|part| {
        // What stands before it: variables, the five fields of a crontab.
        let own = part.iter().position(|word| !word.contains('=') && word.contains(|c: char| c.is_alphabetic()))?;
        is_program(&part[own]).then(|| part[own..].iter().map(|word| word.trim_end_matches(')').to_string()).collect())
    });
    parts.collect()
}

fn is_program(word: &str) -> bool {
    Path::new(word).file_name().is_some_and(|name| names().iter().any(|program| *program == name.to_string_lossy()))
}

/// Why the programs do not take this command line, if they do not.
fn refusal(words: &[String]) -> Option<String> {
    let name = Path::new(&words[0]).file_name().unwrap().to_string_lossy().into_owned();
    let program = programs().into_iter().find(|program| program.get_name() == name)?;
    let error = program.try_get_matches_from(words).err()?;
    let wanted = [clap::error::ErrorKind::DisplayHelp, clap::error::ErrorKind::DisplayVersion];
    (!wanted.contains(&error.kind())).then(|| error.to_string())
}

fn check_examples(command: &Command, path: &str, wrong: &mut Vec<String>) {
    let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let lines: Vec<&str> = help.lines().filter_map(|line| line.trim().strip_prefix("$ ")).collect();
    let about_this = |line: &&str| command_lines(line).iter().any(|words| words.join(" ").starts_with(path));
    if !lines.iter().any(about_this) {
        wrong.push(format!("{path}: its --help teaches by no example"));
    }
    for words in lines.iter().flat_map(|line| command_lines(line)) {
        wrong.extend(refusal(&words).map(|error| format!("{}: {error}", words.join(" "))));
    }
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        check_examples(verb, &format!("{path} {}", verb.get_name()), wrong);
    }
}

#[test]
fn every_program_and_every_verb_teaches_by_examples_that_it_takes() {
    let mut wrong = Vec::new();
    programs().iter().for_each(|program| check_examples(program, program.get_name(), &mut wrong));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_example_stands_at_the_end_of_the_long_help_only() {
    let space = Space::new();
    let outcome = space.run("mirror42-extract", &["--help"]);
    succeed(&outcome);
    let end = "Examples:\n  All stages, each after those whose exports it reads:\n    $ mirror42-extract\n  \
               Three of one source, whose pages are parsed once:\n    \
               $ mirror42-extract 05_projects 06_campus_projects 07_project_sessions\n  \
               Is the filter that I have just edited good?\n    $ mirror42-extract --check 02_campus\n";
    assert!(outcome.stdout.ends_with(end), "{}", outcome.stdout);
    assert!(!space.run("mirror42-extract", &["-h"]).stdout.contains("Examples"));
}

/// `[--port 0] [--limits 2/1200|none]` with all that may be there, and the first of what may stand there.
fn synopsis(line: &str) -> String {
    line.replace(['[', ']'], " ")
        .replace("NAME", "name")
        .split(' ')
        .map(|word| word.split('|').next().unwrap())
        .collect::<Vec<_>>()
        .join(" ")
}

/// A line of a code block that a shell, or cron, would be given.
pub struct Documented {
    /// `README.md:12`.
    pub place: String,
    /// That of the block: `sh`, `console` or `cron`; empty for a synopsis.
    pub language: String,
    pub line: String,
}

/// All of them, document by document.
pub fn documented() -> Vec<Documented> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let documents: BTreeSet<_> = docs.filter(|path| path.extension().is_some_and(|ending| ending == "md")).collect();
    let mut lines: Vec<Documented> = Vec::new();
    for document in documents.into_iter().chain([root().join("README.md"), root().join("ARCHITECTURE.md")]) {
        let text = fs::read_to_string(&document).unwrap();
        let name = document.file_name().unwrap().display().to_string();
        let mut language: Option<&str> = None;
        for (number, line) in (1..).zip(text.lines()) {
            let found = |line: &str| Documented {
                place: format!("{name}:{number}"),
                language: language.unwrap_or_default().to_string(),
                line: line.to_string(),
            };
            match (line.trim().strip_prefix("```"), language) {
                (Some(begun), None) => language = Some(begun),
                (Some(_), Some(_)) => language = None,
                // All flags of a verb, of which some go on on the next line.
                (None, Some("")) if line.starts_with("mirror42") => lines.push(found(&synopsis(line))),
                (None, Some("")) => {
                    let begun = lines.last_mut().filter(|begun| begun.place.starts_with(&name));
                    begun.into_iter().for_each(|begun| begun.line.push_str(&synopsis(line)));
                }
                (None, Some(_)) if line.starts_with("$ ") => lines.push(found(&line[2..])),
                (None, Some("sh" | "cron")) => lines.push(found(line.trim())),
                (None, _) => {}
            }
        }
    }
    lines
}

#[test]
fn every_command_line_in_the_documents_is_one_that_its_program_takes() {
    let mut checked = 0;
    let mut wrong = Vec::new();
    let of_ours = |line: &str| names().iter().any(|name| line.contains(name.as_str()));
    for Documented { place, line, .. } in documented().iter().filter(|found| of_ours(&found.line)) {
        for words in command_lines(line) {
            checked += 1;
            wrong.extend(refusal(&words).map(|error| format!("{place}: {}: {error}", words.join(" "))));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(checked >= 20, "{checked} command lines are all that was found");
}

#[test]
fn a_command_line_with_a_flag_that_is_not_there_is_found() {
    let refused = |line: &str| command_lines(line).iter().filter_map(|words| refusal(words)).count();
    assert_eq!(refused("0 1 * * *  cd /srv && /usr/local/bin/mirror42 run --quiete"), 1);
    assert_eq!(refused("psql \"$(mirror42 db urls)\""), 1);
    assert_eq!(refused("mirror42 graph --format dot | dot -Tsvg > a.svg && mirror42-load --dry"), 1);
    assert_eq!(refused("mirror42 graph --format dot | dot -Tsvg > a.svg; FOO=1 mirror42-load --dry-run # so"), 0);
}

#[test]
fn every_program_tells_its_version() {
    let space = Space::new();
    for name in names() {
        let outcome = space.run(&name, &["--version"]);
        assert_eq!(
            outcome,
            Outcome { code: Some(0), stdout: format!("{name} {}\n", mirror42::manual::VERSION), stderr: String::new() }
        );
    }
}

/// A folder of git with one commit of 2026-11-25 (UTC), and what build.rs tells of it.
struct Repository {
    space: Space,
}

impl Repository {
    fn new() -> Repository {
        let space = Space::new().file("src/lib.rs", "\n").file("README.md", "\n");
        fs::copy(root().join("build.rs"), space.path().join("build.rs")).unwrap();
        let repository = Repository { space };
        let built = Process::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_string()))
            .args(["--edition", "2024", "build.rs", "-o", "told"])
            .env("CARGO_PKG_VERSION", "1.2.3")
            .current_dir(repository.space.path())
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        repository
    }

    fn git(&self, args: &[&str]) -> String {
        let output = Process::new("git")
            .args(["-c", "user.name=n", "-c", "user.email=e@example", "-c", "init.defaultBranch=main"])
            .args(args)
            .current_dir(self.space.path())
            // Another day there than in UTC.
            .envs([("GIT_AUTHOR_DATE", "2026-11-25T23:30:00Z"), ("GIT_COMMITTER_DATE", "2026-11-26T01:30:00+0200")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    }

    fn commit(&self) -> String {
        self.git(&["add", "src", "README.md", "build.rs"]);
        self.git(&["commit", "-qm", "m"]);
        self.git(&["rev-parse", "--short=7", "HEAD"])
    }

    /// The version, and the files of git whose change makes cargo ask again.
    fn told(&self, folder: &str, path: Option<&str>) -> (String, Vec<String>) {
        let mut command = Process::new(self.space.path().join("told"));
        command.current_dir(self.space.path().join(folder));
        if let Some(path) = path {
            command.env("PATH", path);
        }
        let output = command.output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let version = text.lines().find_map(|line| line.strip_prefix("cargo::rustc-env=MIRROR42_VERSION="));
        let watched = text.lines().filter_map(|line| line.strip_prefix("cargo::rerun-if-changed="));
        let ours = ["src", "build.rs", "Cargo.toml", "Cargo.lock"];
        let (own, of_git): (Vec<&str>, Vec<&str>) = watched.partition(|path| ours.contains(path));
        assert_eq!(own, ours);
        (version.unwrap().to_string(), of_git.into_iter().map(String::from).collect())
    }
}

#[test]
fn the_version_names_the_commit_where_there_is_one() {
    let repository = Repository::new();
    let alone = ("1.2.3".to_string(), Vec::new());
    assert_eq!(repository.told(".", None), alone, "a tarball");
    repository.git(&["init", "-q"]);
    assert_eq!(repository.told(".", None).0, "1.2.3", "no commit yet");
    let commit = repository.commit();
    let committed = format!("1.2.3 ({commit} 2026-11-25)");
    let (version, watched) = repository.told(".", None);
    assert_eq!((version, watched), (committed.clone(), vec![".git/HEAD".to_string(), ".git/logs/HEAD".to_string()]));
    assert_eq!(repository.told("src", None).0, "1.2.3", "a tarball within another repository");
    assert_eq!(repository.told(".", Some("/nowhere")), alone, "no git");

    repository.space.write("README.md", "not in the binary");
    assert_eq!(repository.told(".", None).0, committed);
    repository.space.write("src/lib.rs", "// edited");
    assert_eq!(repository.told(".", None).0, format!("1.2.3 ({commit}-dirty 2026-11-25)"));

    repository.git(&["worktree", "add", "-q", "--detach", "elsewhere"]);
    let (version, watched) = repository.told("elsewhere", None);
    assert_eq!(version, committed);
    assert!(watched.len() == 2 && watched.iter().all(|path| path.contains(".git/worktrees/elsewhere/")), "{watched:?}");
    repository.git(&[
        "clone",
        "-q",
        "--depth",
        "1",
        &format!("file://{}", repository.space.path().display()),
        "shallow",
    ]);
    assert_eq!(repository.told("shallow", None).0, committed);
}

/// What bash offers for the last word of this line.
fn completed_by_bash(space: &Space, words: &[&str]) -> Vec<String> {
    let quoted: Vec<String> = words.iter().map(|word| shlex::try_quote(word).unwrap().into_owned()).collect();
    let last = words.len() - 1;
    let function = words[0].replace('-', "_");
    let script = format!(
        "PATH={}:$PATH; source <(mirror42 completions bash); complete -p {} >/dev/null || exit 1
         COMP_WORDS=({}); COMP_CWORD={last}
         _clap_complete_{function} {} {} ''; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        Path::new(env!("CARGO_BIN_EXE_mirror42")).parent().unwrap().display(),
        words[0],
        quoted.join(" "),
        words[0],
        quoted[last],
    );
    let output = Process::new("bash").args(["-c", &script]).current_dir(space.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| !line.is_empty()).map(String::from).collect()
}

#[test]
fn bash_completes_verbs_flags_and_names_of_stages() {
    let text = include_str!("../../pipeline.toml");
    let space =
        Space::new().file("pipeline.toml", text).file("other.toml", &text.replace("05_projects", "55_projects"));
    let completed = |words: &[&str]| completed_by_bash(&space, words);
    assert_eq!(completed(&["mirror42", "gr"]), ["graph"]);
    assert_eq!(completed(&["mirror42", "graph", "--format", "m"]), ["mermaid", "make"]);
    assert_eq!(completed(&["mirror42", "run", "0"]).len(), 8);
    assert_eq!(completed(&["mirror42", "run", "05"]), ["05_projects"]);
    assert_eq!(completed(&["mirror42", "run", "va"]), ["validate"]);
    assert_eq!(completed(&["mirror42-load", "--dry"]), ["--dry-run"]);
    assert_eq!(completed(&["mirror42-extract", "08"]), ["08_coalitions"]);
    assert_eq!(completed(&["mirror42-fetch", "--pipeline", "other.toml", "5"]), ["55_projects"]);
    assert_eq!(completed(&["mirror42-fetch", "--pipeline=other.toml", "5"]), ["55_projects"]);
    assert_eq!(completed(&["mirror42-fetch", "--pipeline", "none.toml", "0"]), [""; 0]);
    assert!(!space.path().join("logs").exists());
}

#[test]
fn zsh_and_fish_are_served_too() {
    let space = Space::new();
    let fish = space.run("mirror42", &["completions", "fish", "mirror42-load"]);
    let stdout = "complete --keep-order --exclusive --command mirror42-load --arguments \
                  \"(MIRROR42_COMPLETE=fish mirror42-load -- (commandline --current-process --tokenize --cut-at-cursor) \
                  (commandline --current-token))\"\n";
    assert_eq!(fish, Outcome { code: Some(0), stdout: stdout.to_string(), stderr: String::new() });
    let zsh = space.run("mirror42", &["completions", "zsh", "mirror42-load"]).stdout;
    assert!(zsh.starts_with("#compdef mirror42-load\n"), "{zsh}");
    assert!(
        zsh.ends_with("\n[[ ${funcstack[1]} = _mirror42-load ]] && _clap_dynamic_completer_mirror42_load \"$@\"\n:\n")
    );
    let asked =
        space.command("mirror42-load", &["--", "mirror42-load", "--allow"]).env("MIRROR42_COMPLETE", "fish").output();
    let told = String::from_utf8(asked.unwrap().stdout).unwrap();
    assert!(told.starts_with("--allow-delete\tLet this table lose up to so many rows"), "{told}");
    let refused = space.run("mirror42", &["completions", "tcsh"]);
    assert!(refused.stderr.contains("[possible values: bash, zsh, fish]"), "{}", refused.stderr);
    assert_eq!(refused.code, Some(2));
}

fn man_pages(command: &Command, path: &str, pages: &mut BTreeSet<String>) {
    assert!(pages.insert(format!("{path}.1")), "two pages are called {path}");
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        man_pages(verb, &format!("{path}-{}", verb.get_name()), pages);
    }
}

#[test]
fn every_program_and_every_verb_has_a_man_page() {
    let space = Space::new();
    let outcome = space.run("mirror42", &["man", "share/man1"]);
    assert_eq!(outcome, Outcome { code: Some(0), stdout: String::new(), stderr: String::new() });
    let mut expected = BTreeSet::new();
    programs().iter().for_each(|program| man_pages(program, program.get_name(), &mut expected));
    let folder = space.path().join("share/man1");
    let written = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(written.collect::<BTreeSet<_>>(), expected);
    let page = fs::read_to_string(folder.join("mirror42-run.1")).unwrap();
    for part in [
        ".TH mirror42-run 1  \"mirror42 ",
        "mirror42\\-run \\- Bring everything up to date: fetch and extract what is stale, load, validate",
        "\\fB\\-\\-force\\fR",
        ".SH EXAMPLES\n.nf\n  As cron does, every night:\n    $ mirror42 run \\-q\n",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
}

#[test]
fn man_pages_that_cannot_be_written_are_an_error_of_the_program() {
    let space = Space::new().file("taken/mirror42-db-psql.1/file", "");
    let outcome = space.run("mirror42", &["man", "taken"]);
    assert_eq!(outcome.code, Some(1));
    let expected = "mirror42: error: `mirror42` could not write its man pages\n  detail: mirror42: error: could not \
                    rename to `taken/mirror42-db-psql.1`: is a directory (os error 21)\n";
    assert_eq!(outcome.stderr, expected);
}

/// What a program prints where its standard output is a terminal, or `None` where nothing makes one.
fn on_a_terminal(space: &Space, environment: &str) -> Option<String> {
    let line = format!("{environment} {} --help", env!("CARGO_BIN_EXE_mirror42"));
    let mut script = Process::new("script");
    script.args(["-qec", &line, "/dev/null"]).current_dir(space.path()).stdin(std::process::Stdio::null());
    let output = script.env("TERM", "xterm").env_remove("NO_COLOR").output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[test]
fn help_has_colours_on_a_terminal_only_and_not_where_they_are_unwanted() {
    const ESCAPE: char = '\u{1b}';
    let space = Space::new();
    let piped = space.run("mirror42", &["--help"]);
    assert!(piped.stdout.contains("Examples:\n") && !piped.stdout.contains(ESCAPE));
    let Some(shown) = on_a_terminal(&space, "") else {
        return eprintln!("skipped: there is no script(1), which makes a terminal");
    };
    assert!(shown.contains(ESCAPE), "{shown}");
    let plain = on_a_terminal(&space, "NO_COLOR=1").unwrap();
    assert!(plain.contains("Examples:") && !plain.contains(ESCAPE), "{plain}");
}

#[test]
fn make_install_puts_programs_man_pages_and_completions_in_their_places() {
    let space = Space::new();
    let binaries = Path::new(env!("CARGO_BIN_EXE_mirror42")).parent().unwrap();
    let released = space.path().join("release");
    fs::create_dir(&released).unwrap();
    for name in names() {
        // Of a few bytes, since all are copied.
        let program = released.join(&name);
        fs::write(&program, format!("#!/bin/sh\nexec {} \"$@\"\n", binaries.join(&name).display())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let output = Process::new("make")
        .args(["-s", "install", "PREFIX=/usr", &format!("RELEASE={}", released.display())])
        .arg(format!("DESTDIR={}", space.path().join("image").display()))
        .current_dir(root())
        .output()
        .unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
    let image = space.path().join("image/usr");
    for name in names() {
        for file in [
            format!("bin/{name}"),
            format!("share/man/man1/{name}.1"),
            format!("share/bash-completion/completions/{name}"),
            format!("share/zsh/site-functions/_{name}"),
            format!("share/fish/vendor_completions.d/{name}.fish"),
        ] {
            let size = fs::metadata(image.join(&file)).map_or(0, |metadata| metadata.len());
            assert!(size > 0, "{file}");
        }
    }
}
