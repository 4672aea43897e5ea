//! House rules, as far as a machine can tell them: which room may know of what, and how long a file may be.
//!
//! ARCHITECTURE.md says why. A rule that stands in the way is changed here, in the commit that needs it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The rooms: what a binary opens. They meet in files, in Postgres and in exit codes, never in each other's code.
const ROOMS: [&str; 9] = ["driver", "exec", "extract", "fetch", "load", "rotate", "simulate", "token", "validate"];

/// What rooms share, and by whom it may be used.
const SHARED: [(&str, &[&str]); 4] = [
    ("api", &["fetch", "token"]),
    ("codec", &["diff", "load", "validate"]),
    ("diff", &["load", "validate"]),
    ("pg", &["codec", "diff", "driver", "load", "validate"]),
];

/// The crates that are named in few places, so that swapping one touches one place.
const CRATES: [(&str, &[&str]); 36] = [
    ("anstream", &["style"]),
    ("anstyle", &["style"]),
    ("base64", &["api", "simulate"]),
    ("clap_complete", &["manual"]),
    ("clap_mangen", &["manual"]),
    ("comfy_table", &["driver"]),
    ("dotenvy", &["pipeline"]),
    ("fastrand", &["api", "limiter", "simulate"]),
    ("flate2", &["driver", "rotate", "simulate"]),
    ("glob", &["pipeline"]),
    ("http_body_util", &["simulate"]),
    ("httpdate", &["api"]),
    ("hyper", &["simulate"]),
    ("hyper_util", &["simulate"]),
    ("indicatif", &["progress"]),
    ("jaq_core", &["extract"]),
    ("jaq_json", &["extract"]),
    ("jaq_std", &["extract"]),
    ("maud", &["driver"]),
    ("memchr", &["codec", "export"]),
    ("mimalloc", &["lib"]),
    ("nix", &["driver", "exec", "files", "limiter", "pg", "process", "stop"]),
    ("percent_encoding", &["api", "driver", "fetch", "pg", "secret", "simulate"]),
    ("postgres", &["diff", "load", "pg", "validate"]),
    ("rayon", &["extract"]),
    ("rustls", &["pg"]),
    ("rustls_native_certs", &["pg"]),
    ("sha2", &["diff", "driver", "export", "files", "pipeline"]),
    ("signal_hook", &["stop"]),
    ("strsim", &["pipeline", "simulate"]),
    ("terminal_size", &["driver"]),
    ("tokio", &["simulate"]),
    ("tokio_postgres_rustls", &["pg"]),
    ("toml", &["pipeline", "simulate"]),
    ("ureq", &["api"]),
    ("walkdir", &["driver", "rotate"]),
];

/// The crates that are the language of the house, or of its tests.
const EVERYWHERE: [&str; 6] = ["clap", "jiff", "log", "serde", "serde_json", "tempfile"];

/// Side effects, and who may have them.
const EFFECTS: [(&str, &[&str]); 4] = [
    ("fs::rename(", &["files", "pg"]),
    ("thread::sleep(", &["files", "pg", "stop"]),
    ("Command::new(", &["driver", "exec", "pg"]),
    ("process::exit(", &["simulate", "stop"]),
];

const MOST_LINES: usize = 500;
const MOST_LINES_OF_A_DOOR: usize = 15;

/// A source file, without comments and tests.
struct Source {
    /// Below `src/`.
    path: String,
    /// The first part of the path: a room, or a file of the ground floor.
    place: String,
    lines: usize,
    code: String,
}

fn sources() -> Vec<Source> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let entries = walkdir::WalkDir::new(&src).sort_by_file_name().into_iter().map(Result::unwrap);
    let files = entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "rs"));
    let sources: Vec<Source> = files
        .map(|entry| {
            let path = entry.path().strip_prefix(&src).unwrap().to_str().unwrap().to_string();
            source(path, &fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    assert!(sources.len() > 40, "the sources are somewhere else");
    sources
}

fn source(path: String, text: &str) -> Source {
    let place = path.split('/').next().unwrap().trim_end_matches(".rs").to_string();
    // By our habit the tests of a file are its last part, or files of their own.
    let is_test = path.contains("/tests/") || path.ends_with("tests.rs");
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = if is_test { String::new() } else { code.collect::<Vec<_>>().join("\n") };
    Source { place, lines: text.lines().count(), code, path }
}

/// The modules that are named after `crate::`, in `use` or in mid-code.
fn modules(code: &str) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c == '$' || c == '_' || c.is_alphanumeric()) {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            modules.insert(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = true;
        for (i, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                c if start && !c.is_whitespace() => {
                    modules.insert(word(&list[i..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    modules
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Whether `name` stands at the head of a path: `ureq::Agent`, but not `crate::ureq::Agent`.
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(&format!("{name}::")).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':'))
    })
}

/// Why the modules that `source` names are not all its business.
fn wrong_imports(source: &Source) -> Vec<String> {
    let (place, path) = (source.place.as_str(), &source.path);
    if ["bin", "lib"].contains(&place) {
        return Vec::new();
    }
    let is_shared = |name: &str| SHARED.iter().find(|(shared, _)| *shared == name);
    let mut wrong = Vec::new();
    for module in modules(&source.code).iter().filter(|module| module.as_str() != place) {
        match is_shared(module) {
            Some((_, users)) if users.contains(&place) => {}
            Some((_, users)) => wrong.push(format!("{path}: `{module}` is for {users:?}")),
            None if !ROOMS.contains(&module.as_str()) => {}
            None if ROOMS.contains(&place) => wrong.push(format!("{path}: rooms do not know each other: `{module}`")),
            None => wrong.push(format!("{path}: nothing below the rooms knows of one: `{module}`")),
        }
    }
    wrong
}

#[test]
fn rooms_do_not_know_each_other() {
    let wrong: Vec<String> = sources().iter().flat_map(wrong_imports).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let places: BTreeSet<String> = sources().into_iter().map(|source| source.place).collect();
    let known: Vec<&str> = ROOMS.into_iter().chain(SHARED.iter().map(|(name, _)| *name)).collect();
    assert!(known.iter().all(|name| places.contains(*name)), "{known:?} of {places:?}");
}

#[test]
fn every_crate_is_named_in_its_place_only() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (name, places) in CRATES {
            if names_crate(&source.code, name) && !places.contains(&source.place.as_str()) {
                wrong.push(format!("{}: `{name}` is for {places:?}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_dependency_has_its_place() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let (_, dependencies) = manifest.split_once("[dependencies]\n").unwrap();
    let lines = dependencies.lines().take_while(|line| !line.is_empty());
    let names: Vec<String> = lines.map(|line| line.split(' ').next().unwrap().replace('-', "_")).collect();
    assert!(names.len() > 20, "{names:?}");
    let known = |name: &str| CRATES.iter().any(|(known, _)| *known == name) || EVERYWHERE.contains(&name);
    let unknown: Vec<&String> = names.iter().filter(|name| !known(name)).collect();
    assert!(unknown.is_empty(), "say in tests/it/tidy.rs where these may be named: {unknown:?}");
}

#[test]
fn every_side_effect_has_its_place() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (call, places) in EFFECTS {
            if source.code.contains(call) && !places.contains(&source.place.as_str()) {
                wrong.push(format!("{}: `{call}…)` is for {places:?}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_fit_into_a_head() {
    let limit = |place: &str| if place == "bin" { MOST_LINES_OF_A_DOOR } else { MOST_LINES };
    let sources = sources().into_iter().filter(|source| source.lines > limit(&source.place));
    let long: Vec<String> = sources.map(|source| format!("{}: {} lines", source.path, source.lines)).collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn nothing_is_left_to_do_and_nothing_panics_by_design() {
    let mut wrong = Vec::new();
    for source in sources() {
        for text in ["todo!(", "unimplemented!(", "dbg!(", ".unwrap()", ".expect("] {
            if source.code.contains(text) {
                wrong.push(format!("{}: `{text}`", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_rules_see_what_breaks_them() {
    let of = |path: &str, text: &str| source(path.to_string(), text);
    let imports = |path: &str, text: &str| wrong_imports(&of(path, text)).len();
    assert_eq!(imports("load/mod.rs", "use crate::fetch::Args;"), 1);
    assert_eq!(imports("load/mod.rs", "use crate::{error::{Error, Result}, log as logs, fetch};"), 1);
    assert_eq!(imports("load/mod.rs", "let x = crate::api::Client::open();"), 1);
    assert_eq!(imports("files.rs", "use crate::pg;"), 1);
    assert_eq!(imports("pg/mod.rs", "use crate::load::Args;"), 1);
    assert_eq!(imports("load/mod.rs", "// use crate::fetch;\nuse crate::load::job;\nuse crate::{pg, files};"), 0);
    assert_eq!(imports("load/mod.rs", "\n#[cfg(test)]\nmod tests {\n use crate::fetch;\n}"), 0);
    assert!(names_crate("use ureq::Agent;", "ureq") && names_crate("let a: postgres::Error;", "postgres"));
    assert!(!names_crate("use crate::toml::View; mypostgres::x", "toml"));
    assert!(!names_crate("tokio_postgres::x", "postgres"));
}
