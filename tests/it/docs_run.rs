//! Every command in the documents does what a reader would have it do: it runs here, line by line, as it stands there.

use std::ffi::OsString;
use std::process::Command;

use mirror42::pg::embedded;

use crate::cron::{bin, with_crontab};
use crate::driver::succeed;
use crate::manual::{Documented, documented};
use crate::simulator::{Reply, Server, Simulator};
use crate::space::Space;

/// A line that is not run as it stands, or not here.
enum Otherwise {
    /// With other words in the place of some.
    With(&'static [(&'static str, &'static str)]),
    /// This test runs it.
    By(&'static str),
    /// It needs what no test has.
    Not(&'static str),
}

use Otherwise::{By, Not, With};

/// By the beginning of the line.
const OTHERWISE: [(&str, Otherwise); 21] = [
    ("git clone <this repository>", Not("where it is to be had from is not known here")),
    ("make demo", By("the_demo_does_all_of_it_on_this_machine_and_can_be_forgotten")),
    ("sudo make install", By("make_install_puts_programs_man_pages_and_completions_in_their_places")),
    ("target/release/mirror42 demo --next-day", By("the_demo_does_all_of_it_on_this_machine_and_can_be_forgotten")),
    ("target/release/mirror42 demo --remove", By("the_demo_does_all_of_it_on_this_machine_and_can_be_forgotten")),
    ("target/release/mirror42 audit", With(&[("target/release/", "")])),
    ("mirror42 init https://api.example.org", With(&[("https://api.example.org", "$BOOKS")])),
    ("mirror42 init https://api.intra.42.fr", With(&[("https://api.intra.42.fr", "$MIRROR42_API_URL")])),
    ("*/5 * * * * cd /srv/mirror42", With(&[("/var/lib/node_exporter/", "")])),
    ("scp -r", With(&[("scp -r", "mkdir -p elsewhere/mirror; cp -r"), ("elsewhere:", "elsewhere/")])),
    ("ssh elsewhere", With(&[("ssh elsewhere", "cd elsewhere; bash -c")])),
    ("mirror42 report --output - |", With(&[("ssh www", "bash -c"), ("/srv/www/", "")])),
    ("mirror42-token login", By("a_person_logs_in_once_and_is_not_asked_again")),
    ("createuser mirror", Not("it would make a role on the server of all tests")),
    ("mirror42 loadtest                 ", With(&[("loadtest", "loadtest --rows 3000 --runs 1")])),
    ("mirror42 loadtest --rows 1000000", With(&[("1000000", "3000")])),
    ("mirror42 loadtest --json |", With(&[("loadtest", "loadtest --rows 3000 --runs 1")])),
    ("snakemake --cores 4", By("snakemake_runs_the_whole_pipeline_and_then_only_what_changed")),
    ("snakemake --executor", Not("a cluster")),
    ("cargo test --test it -- --ignored", Not("a campaign of many minutes")),
    ("MIRROR42_TEST_DATABASE_URL=", Not("it is all tests, on another server")),
];

/// What bash is given for a line; none if it is not run here.
fn script(found: &Documented) -> Option<String> {
    let mut line = found.line.clone();
    match OTHERWISE.iter().find(|(start, _)| line.starts_with(start)) {
        Some((_, With(words))) => words.iter().for_each(|(from, to)| line = line.replace(from, to)),
        Some((_, By(_) | Not(_))) => return None,
        None => {}
    }
    if found.language == "cron" && !line.starts_with('#') {
        line = line.splitn(6, ' ').nth(5).unwrap().trim().replace("cd /srv/mirror42 && /usr/local/bin/", "");
    }
    Some(line)
}

/// A mirror that was loaded, where our binaries and those of Postgres are on the path.
fn mirror(simulator: &Simulator, books: &Server) -> (Space, OsString) {
    let space = simulator.project().file("schema.sql", include_str!("../../schema.sql")).and_database();
    let space = with_crontab(space);
    succeed(&space.run("mirror42", &["run", "-q"]));
    let path = std::env::var_os("PATH").unwrap();
    let folders = [space.path().join("bin"), bin().to_owned(), embedded::psql().unwrap().parent().unwrap().to_owned()];
    let path = std::env::join_paths(folders.into_iter().chain(std::env::split_paths(&path))).unwrap();
    (space.with("BOOKS", &format!("http://{}", books.address)), path)
}

#[test]
fn every_command_in_the_documents_runs() {
    let has_jq = Command::new("jq").arg("--version").output().is_ok();
    if !has_jq {
        eprintln!("skipped: `jq` is not on PATH, so the lines with it are not run");
    }
    let simulator = Simulator::start("");
    let books = Server::start("127.0.0.1:0", |_| {
        Reply::json("[{\"id\":1,\"title\":\"Emma\"},{\"id\":2,\"title\":\"Ulysses\"}]").with("X-Total", 2)
    });
    let (space, path) = mirror(&simulator, &books);
    let mut wrong = Vec::new();
    let mut ran = 0;
    for found in documented().iter().filter(|found| !found.language.is_empty()) {
        let Some(line) = script(found).filter(|line| has_jq || !line.contains("jq ")) else { continue };
        let mut bash = Command::new("bash");
        let of_space = space.command("mirror42", &[]);
        let environment = of_space.get_envs().filter_map(|(name, value)| Some((name, value?)));
        bash.env_clear().envs(environment).env("PATH", &path).env("HOME", space.path()).current_dir(space.path());
        bash.args(["-euo", "pipefail", "-c", &line]).stdin(std::process::Stdio::null());
        let output = bash.output().unwrap();
        if !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            wrong.push(format!("{}: {line}: {}\n{told}", found.place, output.status));
        }
        ran += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(ran >= 35, "{ran} lines are all that was found");
    for file in ["report.html", "mirror.html", "mirror42.prom", "ledger.sql", "library/pipeline.toml", "Snakefile"] {
        assert!(space.path().join(file).exists(), "{file} is not there");
    }
}

#[test]
fn what_is_not_run_as_it_stands_stands_in_the_documents_and_has_its_test() {
    let lines = documented();
    let sources: Vec<String> = walkdir::WalkDir::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests"))
        .into_iter()
        .filter_map(|entry| std::fs::read_to_string(entry.unwrap().path()).ok())
        .collect();
    for (start, otherwise) in &OTHERWISE {
        assert!(lines.iter().any(|found| found.line.starts_with(start)), "no document says `{start}`");
        match otherwise {
            With(words) => assert!(
                words.iter().all(|(from, _)| lines
                    .iter()
                    .any(|found| found.line.starts_with(start) && found.line.contains(from))),
                "{start}"
            ),
            By(test) => assert!(sources.iter().any(|text| text.contains(&format!("fn {test}()"))), "{test}"),
            Not(why) => assert!(!why.is_empty(), "{start}"),
        }
    }
}
