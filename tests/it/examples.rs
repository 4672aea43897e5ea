//! The pipelines under examples/, each against the server that it is for. A server that is not on this machine is not
//! installed: the test says so and passes.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use mirror42::pipeline::Pipeline;

use crate::simulator::Simulator;
use crate::space::{Space, wait_until};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// A copy of the example's folder, with an empty database, that asks `url`.
fn space(name: &str, url: &str) -> Space {
    let space = Space::new().and_database().with("MIRROR42_API_URL", url);
    for entry in fs::read_dir(example(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, space.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    space
}

fn run(space: &Space, force: &[&str]) {
    let outcome = space.run("mirror42", &[&["run"], force].concat());
    assert_eq!(outcome.code, Some(0), "{}\n{}", outcome.stdout, outcome.stderr);
}

/// A server of somebody else's, which ends with this value.
struct Foreign(Child);

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `program`, found on `PATH`, on a free port of this machine; none, and a line that says so, if it is not there.
fn foreign(program: &str, arguments: impl Fn(&str) -> Vec<String>, folder: &Path) -> Option<(Foreign, String)> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let Some(program) = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
    else {
        // The harness hides what the print macros write.
        let _ = writeln!(std::io::stderr(), "skipped: `{program}` is not on PATH");
        return None;
    };
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new(program);
    command.args(arguments(&address.port().to_string())).current_dir(folder);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let server = Foreign(child);
    wait_until("the server listens", || TcpStream::connect(address).is_ok());
    Some((server, format!("http://{address}")))
}

fn proofs(space: &Space, stage: &str) -> String {
    let text = fs::read_to_string(space.paths().receipt(stage)).unwrap();
    let receipt: serde_json::Value = serde_json::from_str(&text).unwrap();
    let series = receipt["fetch"]["series"].as_array().unwrap();
    let pages: usize = series.iter().map(|series| series["pages"].as_array().unwrap().len()).sum();
    format!("{} series, {pages} pages, {}", series.len(), series[0]["proof"].as_str().unwrap())
}

#[test]
fn every_example_is_a_pipeline_and_is_in_the_list() {
    let list = fs::read_to_string(example("README.md")).unwrap();
    for entry in fs::read_dir(example("")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            Pipeline::load(&path.join("pipeline.toml")).unwrap_or_else(|error| panic!("{error}"));
            assert!(path.join("README.md").exists() && list.contains(&format!("]({name})")), "{name}");
        }
    }
}

#[test]
fn a_datasette_is_mirrored() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(example("datasette").join("library.sql"), folder.path().join("library.sql")).unwrap();
    let arguments = |port: &str| ["serve", "-h", "127.0.0.1", "-p", port, "library.db"].map(String::from).to_vec();
    let sqlite = |sql: &str| {
        let script = format!("import sqlite3; sqlite3.connect('library.db').executescript({sql})");
        let status = Command::new("python3").args(["-c", &script]).current_dir(folder.path()).status();
        status.is_ok_and(|status| status.success())
    };
    if !sqlite("open('library.sql').read()") {
        let _ = writeln!(std::io::stderr(), "skipped: `python3` is not on PATH");
        return;
    }
    let Some((_server, url)) = foreign("datasette", arguments, folder.path()) else { return };
    let space = space("datasette", &url);
    run(&space, &[]);
    assert_eq!(space.query("select count(*)::text || ' ' || sum(price) from books"), ["250 7843.75"]);
    assert_eq!(space.query("select count(*)::text from authors"), ["30"]);
    assert_eq!(proofs(&space, "02_books"), "1 series, 3 pages, total");
    assert!(sqlite("'delete from books where id = 7; update books set title = \\'Other\\' where id = 8'"));
    run(&space, &["--force"]);
    assert_eq!(space.query("select title from books where id in (7, 8)"), ["Other"]);
}

#[test]
fn a_json_server_is_mirrored() {
    let folder = example("json-server");
    let arguments = |port: &str| ["--host", "127.0.0.1", "--port", port, "db.json"].map(String::from).to_vec();
    let Some((_server, url)) = foreign("json-server", arguments, &folder) else { return };
    let space = space("json-server", &url);
    run(&space, &[]);
    assert_eq!(space.query("select count(*)::text from posts"), ["50"]);
    assert_eq!(space.query("select count(*)::text || ' ' || count(distinct post_id) from comments"), ["90 40"]);
    assert_eq!(proofs(&space, "01_posts"), "1 series, 3 pages, total");
    assert_eq!(proofs(&space, "02_comments"), "50 series, 50 pages, total");
}

#[test]
fn the_simulator_is_mirrored_by_its_links() {
    let simulator = Simulator::start("");
    let space = space("simulator", &simulator.url)
        .with("FT_CLIENT_ID", "sim-uid")
        .with("FT_CLIENT_SECRET", crate::simulator::CLIENT_SECRET);
    run(&space, &[]);
    assert_eq!(space.query("select count(*)::text from coalitions"), ["350"]);
    assert_eq!(proofs(&space, "02_coalitions"), "1 series, 7 pages, total");
}
