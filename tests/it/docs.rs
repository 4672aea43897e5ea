//! What the documents say is what the code does, as far as a machine can tell.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use mirror42::pipeline::Pipeline;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The rows of the tables in `text`, as their cells.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Key "));
    lines.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
}

/// The keys that the parser takes, by the function that takes them; those of the whole file under `file`.
fn keys_of_parser() -> BTreeMap<String, BTreeSet<String>> {
    let mut keys: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut function = String::new();
    for line in (read("src/pipeline/parse.rs") + &read("src/pipeline/upkeep.rs")).lines() {
        let declared = line.strip_prefix("fn ").or(line.strip_prefix("pub fn "));
        if let Some(name) = declared.and_then(|rest| rest.split('(').next()) {
            function = name.to_string();
        }
        for call in [".take(\"", ".need(\""] {
            for (at, _) in line.match_indices(call) {
                let key = line[at + call.len()..].split('"').next().unwrap();
                let owner = match function.as_str() {
                    "pipeline" if line[..at].ends_with("root") => "file",
                    "source" => "stage",
                    name => name,
                };
                keys.entry(owner.to_string()).or_default().insert(key.to_string());
            }
        }
    }
    keys
}

/// The sections of docs/pipeline.md by their name without ornaments, with the keys that their tables describe.
fn keys_of_document() -> BTreeMap<String, BTreeSet<String>> {
    let text = read("docs/pipeline.md");
    let mut keys = BTreeMap::new();
    for section in text.split("\n## ").flat_map(|part| part.split("\n### ")).skip(1) {
        let title: String = section.lines().next().unwrap().chars().filter(|c| !"`[]".contains(*c)).collect();
        let table = section.split_once("| Key |").map_or("", |(_, table)| table);
        let described: BTreeSet<String> = rows(table).map(|cells| cells[0].trim_matches('`').to_string()).collect();
        if !described.is_empty() {
            keys.insert(title, described);
        }
    }
    keys
}

#[test]
fn every_key_of_the_pipeline_file_is_described_and_no_other() {
    let mut parser = keys_of_parser();
    let document = keys_of_document();
    let tables: BTreeSet<String> = ["api", "check", "cron", "logs", "pipeline", "stage"].map(String::from).into();
    assert_eq!(parser.remove("file"), Some(tables));
    assert_eq!(document, parser);
}

#[test]
fn every_example_of_a_pipeline_file_is_one() {
    let text = read("docs/pipeline.md");
    let examples: Vec<&str> =
        text.split("```toml\n").skip(1).map(|example| example.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 5);
    for example in examples {
        let mut whole = example.to_string();
        for (table, text) in [("[pipeline]", "name = \"t\""), ("[api]", "base_url = \"http://127.0.0.1\"")] {
            if !whole.contains(table) {
                whole = format!("{whole}\n{table}\n{text}\n");
            }
        }
        if let Err(error) = Pipeline::parse(Path::new("pipeline.toml"), &whole) {
            panic!("{error}\n{whole}");
        }
    }
}

#[test]
fn the_defaults_are_those_that_are_told() {
    let text = "[pipeline]\nname = \"t\"\n[api]\nbase_url = \"http://127.0.0.1\"\n\
                [[stage]]\nname = \"s\"\nfetch = \"/s\"\nkey = [\"id\"]\n";
    let Pipeline {
        schema,
        max_age,
        stale_after,
        max_delete,
        lock_timeout,
        statement_timeout,
        keep_exports,
        cron,
        logs,
        api,
        stages,
        ..
    } = Pipeline::parse(Path::new("pipeline.toml"), text).unwrap();
    let hours = |duration: std::time::Duration| format!("\"{}h\"", duration.as_secs() / 3600);
    let document = read("docs/pipeline.md");
    let told: BTreeMap<&str, &str> = document
        .split_once("\n## ")
        .map_or("", |(_, text)| text)
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter_map(|(key, rest)| Some((key, rest.split(" | ").nth(1)?.trim_matches('`'))))
        .filter(|(_, default)| !default.starts_with("that of") && !default.starts_with("as "))
        .collect();
    assert_eq!(told["schema"], format!("\"{}\"", schema.display()));
    assert_eq!(told["max_age"], hours(max_age));
    assert_eq!(told["stale_after"], hours(stale_after));
    assert_eq!(told["max_delete"], format!("\"{}%\"", max_delete.share * 100.0));
    assert_eq!(told["keep_exports"], keep_exports.to_string());
    assert_eq!(told["lock_timeout"], format!("\"{}s\"", lock_timeout.as_secs()));
    assert_eq!(told["statement_timeout"], format!("\"{}min\"", statement_timeout.as_secs() / 60));
    assert_eq!(told["rotate"], format!("\"{}\"", cron.rotate.as_str()));
    let days = |duration: std::time::Duration| format!("\"{}d\"", duration.as_secs() / 86_400);
    assert_eq!(told["compress_after"], days(logs.compress_after));
    assert_eq!(told["compress_size"], format!("\"{}MB\"", logs.compress_size_bytes / 1_000_000));
    assert_eq!(told["keep"], days(logs.keep));
    assert_eq!(told["timeout"], format!("\"{}s\"", api.timeout.as_secs()));
    assert_eq!(told["in_flight"], api.limits.in_flight.to_string());
    assert_eq!(told["size"], api.page.size.to_string());
    assert_eq!(told["jq"], format!("'{}'", stages[0].jq.text));
}

#[test]
fn the_table_of_answers_is_the_one_in_the_code() {
    let code = read("src/api/outcome.rs");
    let table = |text: &str, prefix: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
        let lines = lines.skip_while(|line| !line.starts_with("| What came |"));
        lines.take_while(|line| line.starts_with('|')).map(str::to_string).collect()
    };
    let ours = table(&code, "//! ");
    assert!(ours.len() > 10);
    assert_eq!(table(&read("docs/answers.md"), ""), ours);
}

#[test]
fn every_binary_and_every_exit_code_is_in_the_readme() {
    let readme = read("README.md");
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(readme.contains(&format!("| `{name}")), "README.md does not list {name}");
    }
    for code in (0..=5).chain([75]) {
        assert!(readme.contains(&format!("| {code} |")), "README.md does not explain exit code {code}");
    }
}

#[test]
fn links_lead_somewhere() {
    for document in
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "docs/answers.md", "docs/faults.md", "docs/formats.md"]
            .into_iter()
            .chain(["docs/new-api.md", "docs/operations.md", "docs/pipeline.md", "docs/scaling.md"])
            .chain(["docs/simulator.md", "docs/why.md"])
    {
        let text = read(document);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let path = link.split('#').next().unwrap();
            let local = !link.contains("://") && !path.is_empty();
            assert!(!local || folder.parent().unwrap().join(path).exists(), "{document}: {link}");
        }
    }
}

#[test]
fn every_reason_that_plan_gives_to_programs_is_described() {
    let source = read("src/driver/verdict.rs");
    let (_, code) = source.split_once("pub fn code(").unwrap();
    let codes: Vec<&str> = code.lines().filter_map(|line| line.split_once("=> \"")?.1.strip_suffix("\",")).collect();
    assert!(codes.len() > 25, "{codes:?}");
    let document = read("docs/formats.md");
    let missing: Vec<_> = codes.into_iter().filter(|code| !document.contains(&format!("`{code}`"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
