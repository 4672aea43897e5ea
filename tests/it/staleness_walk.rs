//! Touching, editing and deleting files, and parts of pipeline.toml, in any order: a run does again exactly what had to be,
//! as an independent model foretells, and the end is what a clean build makes.
//!
//! A few walks are taken on every test run; `make chaos` takes many.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use fastrand::Rng;

use crate::simulator::{Reply, Server};
use crate::space::Space;

const STAGES: [&str; 5] = ["a", "b", "c", "d", "e"];
const FETCHED: [&str; 3] = ["a", "b", "d"];
const TABLES: [&str; 3] = ["a", "c", "e"];
const SCHEMA: &str = "create table a (id int primary key, n int, v int, t text);
create table c (id int primary key, n int, v int, t text);
create table e (id int primary key, n int, v int, t text);
";

/// What a run of the mirror can be told to do otherwise. The numbers choose among ways of writing it.
#[derive(Clone, Default)]
struct Settings {
    /// By stage: 0 and 1 make the same records, 2 others.
    filters: BTreeMap<&'static str, u8>,
    /// By stage: the same order, by another key.
    keys: BTreeMap<&'static str, bool>,
    /// By fetching stage: the same records, from another place of the same answer.
    places: BTreeMap<&'static str, bool>,
    /// By fetching stage: another address for the same answer.
    paths: BTreeMap<&'static str, bool>,
    /// Stage `c` has a variable more, which its filter does not use.
    second_variable: bool,
    /// Fetched anew by every run.
    impatient: BTreeSet<&'static str>,
    schema: u8,
    checks: bool,
}

impl Settings {
    fn filter(&self, stage: &str) -> u8 {
        self.filters.get(stage).copied().unwrap_or(0)
    }

    fn set<T: Default + Copy>(of: &BTreeMap<&'static str, T>, stage: &str) -> T {
        of.get(stage).copied().unwrap_or_default()
    }

    fn pipeline(&self, address: &str) -> String {
        let mut text = format!(
            "[pipeline]\nname = \"walk\"\nmax_delete = \"100%\"\n[api]\nbase_url = \"http://{address}\"\npage = {{ style = \"none\" }}\n"
        );
        for stage in STAGES {
            let (source, variables) = match stage {
                "a" => ("fetch = \"/aPATH\"", ""),
                "b" => ("fetch = \"/b/{id}PATH\"\neach = \"a\"", ""),
                "c" if self.second_variable => ("from = \"b\"", "x = \"a\", y = \"d\""),
                "c" => ("from = \"b\"", "x = \"a\""),
                "d" => ("fetch = \"/dPATH\"", ""),
                _ => ("from = \"d\"", "x = \"c\""),
            };
            let source = source.replace("PATH", if Settings::set(&self.paths, stage) { "?x=1" } else { "" });
            // What is read of another export shows all of it.
            let seen = if variables.is_empty() { "null" } else { "($x | tostring)" };
            let value = if self.filter(stage) == 2 { 2 } else { 1 };
            let idle = if self.filter(stage) == 1 { " | ." } else { "" };
            let key = if Settings::set(&self.keys, stage) { "\"id\", \"n\"" } else { "\"id\"" };
            let place = if Settings::set(&self.places, stage) { "y" } else { "x" };
            let page = format!("page = {{ style = \"none\", records = \".{place}[]\" }}\n");
            let page = if FETCHED.contains(&stage) { page } else { String::new() };
            let age = if self.impatient.contains(stage) { "max_age = \"0s\"\n" } else { "" };
            let table = if TABLES.contains(&stage) { format!("table = \"{stage}\"\n") } else { String::new() };
            text += &format!(
                "[[stage]]\nname = \"{stage}\"\n{source}\n{page}{age}with = {{ {variables} }}\njq = '{{id, n, v: {value}, t: {seen}}}{idle}'\n\
                 key = [{key}]\n{table}"
            );
        }
        if self.checks {
            text += "[[check]]\nname = \"none\"\nsql = \"select 1 where false\"\n";
        }
        text
    }

    /// What decides of each step, as far as the file tells. Told apart by value alone.
    fn fetch_definition(&self, stage: &str) -> String {
        // The series of `b` are named by the key of `a`.
        let key = stage == "b" && Settings::set(&self.keys, "a");
        format!("{} {key}", Settings::set(&self.paths, stage))
    }

    fn extract_definition(&self, stage: &str) -> String {
        let variable = stage == "c" && self.second_variable;
        // The pages of `b`, which `c` reads too, go by the key of `a`, and a filter can see it as `$each`.
        let series = ["b", "c"].contains(&stage) && Settings::set(&self.keys, "a");
        // Of one answer it is the filter alone that looks for the records in it.
        let source = match stage {
            "c" => "b",
            "e" => "d",
            own => own,
        };
        let place = Settings::set(&self.places, source);
        format!("{} {} {variable} {series} {place}", self.filter(stage), Settings::set(&self.keys, stage))
    }

    fn load_definition(&self) -> String {
        let keys = TABLES.map(|stage| Settings::set(&self.keys, stage));
        format!("{} {} {keys:?}", self.schema, self.checks)
    }
}

/// What was, and what a run will make of it. Contents of files are told apart by names, not by hashes.
#[derive(Clone, Default)]
struct Model {
    /// By fetching stage: the definition, and the export that `each` named.
    fetched: BTreeMap<&'static str, (String, Option<String>)>,
    /// Fetching stages whose pages are not what they were.
    spoilt: BTreeSet<&'static str>,
    /// By stage: the definition and what was read, and the content that came of it.
    extracted: BTreeMap<&'static str, (String, String)>,
    /// What each export holds now; absent: there is none.
    exports: BTreeMap<&'static str, String>,
    /// The definition and the contents of the last load; none after the tables were spoilt.
    loaded: Option<(String, Vec<String>)>,
}

/// What a run has done, or will do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Done {
    fetched: BTreeSet<&'static str>,
    extracted: BTreeSet<&'static str>,
    loaded: bool,
}

impl Model {
    /// A run under these settings, and what it does; whether the load is due for its data's age alone is not foretold.
    fn run(&mut self, settings: &Settings) -> Done {
        let mut done = Done::default();
        for stage in STAGES {
            if FETCHED.contains(&stage) {
                let each = (stage == "b").then(|| self.exports["a"].clone());
                let now = (settings.fetch_definition(stage), each);
                let spoilt = self.spoilt.remove(stage);
                if self.fetched.get(stage) != Some(&now) || spoilt || settings.impatient.contains(stage) {
                    self.fetched.insert(stage, now);
                    done.fetched.insert(stage);
                }
            }
            let read: Vec<&str> = match stage {
                "b" => vec!["a"],
                "c" if settings.second_variable => vec!["a", "d"],
                "c" => vec!["a"],
                "e" => vec!["c"],
                _ => vec![],
            };
            // The answers never change, so that pages are the same whenever they were asked for. `d` comes after `c` in
            // the file, and before it in time.
            let inputs = read.iter().map(|name| self.export_to_be(name, settings, &mut done)).collect::<Vec<_>>();
            self.extract(stage, settings, &inputs, &mut done);
        }
        let contents = TABLES.map(|stage| self.exports[stage].clone()).to_vec();
        let now = Some((settings.load_definition(), contents));
        done.loaded = self.loaded != now;
        self.loaded = now;
        done
    }

    fn export_to_be(&mut self, name: &str, settings: &Settings, done: &mut Done) -> String {
        let stage = STAGES.into_iter().find(|stage| *stage == name).unwrap();
        if stage == "d" {
            self.extract(stage, settings, &[], done);
        }
        self.exports[stage].clone()
    }

    fn extract(&mut self, stage: &'static str, settings: &Settings, inputs: &[String], done: &mut Done) {
        let definition = format!("{} of {inputs:?}", settings.extract_definition(stage));
        // The second variable is not used, so what it holds does not show.
        let shown: Vec<&String> = if stage == "b" { Vec::new() } else { inputs.iter().take(1).collect() };
        let content = format!("{stage} {} {shown:?}", settings.filter(stage) == 2);
        let is_current = self.extracted.get(stage) == Some(&(definition.clone(), content.clone()))
            && self.exports.get(stage) == Some(&content);
        if !is_current {
            self.extracted.insert(stage, (definition, content.clone()));
            self.exports.insert(stage, content);
            done.extracted.insert(stage);
        }
    }
}

/// One walk: a space, its server, and what the model knows of it.
struct Walk {
    space: Space,
    server: Server,
    /// The first letters of the paths that were asked for.
    asked: Arc<Mutex<BTreeSet<char>>>,
    settings: Settings,
    model: Model,
    rng: Rng,
    /// What was done to it, for the message of a failure.
    history: Vec<String>,
    serial: u32,
}

impl Walk {
    fn begin(seed: u64) -> Walk {
        let asked = Arc::new(Mutex::new(BTreeSet::new()));
        let noted = Arc::clone(&asked);
        let server = Server::start("127.0.0.1:0", move |path| {
            noted.lock().unwrap().insert(path.chars().nth(1).unwrap());
            let first = path.strip_prefix("/b/").map_or(0, |rest| rest[..1].parse::<u32>().unwrap() * 10);
            let records = format!("[{{\"id\":{},\"n\":1}},{{\"id\":{},\"n\":2}}]", first + 1, first + 2);
            Reply::json(format!("{{\"x\":{records},\"y\":{records}}}"))
        });
        let settings = Settings::default();
        let space = Space::with_database()
            .file("pipeline.toml", &settings.pipeline(&server.address))
            .file("schema.sql", &format!("{SCHEMA}-- 0\n"));
        let (model, rng) = (Model::default(), Rng::with_seed(seed));
        Walk { space, server, asked, settings, model, rng, history: vec![format!("seed {seed}")], serial: 0 }
    }

    /// One change, of the files or of the pipeline.
    fn step(&mut self) {
        let stage = STAGES[self.rng.usize(..STAGES.len())];
        let fetching = FETCHED[self.rng.usize(..FETCHED.len())];
        let what = self.rng.u8(..17);
        self.history.push(format!("{what} {stage} {fetching}"));
        match what {
            0 | 1 => drop(self.settings.filters.insert(stage, self.rng.u8(..3))),
            2 => drop(self.settings.keys.insert(stage, self.rng.bool())),
            3 => drop(self.settings.paths.insert(fetching, self.rng.bool())),
            4 => self.settings.second_variable = self.rng.bool(),
            5 if self.rng.bool() => drop(self.settings.impatient.insert(fetching)),
            5 => drop(self.settings.impatient.remove(fetching)),
            6 => self.settings.schema = self.rng.u8(..3),
            7 => self.settings.checks = self.rng.bool(),
            8 => self.of_export(stage, |path| fs::remove_file(path), None),
            9 => {
                self.serial += 1;
                let content = format!("edit {}", self.serial);
                let blanks = "\n".repeat(self.serial as usize);
                self.of_export(stage, |path| fs::write(path, fs::read_to_string(path)? + &blanks), Some(content));
            }
            10 => self.touch(stage),
            11 => self.of_receipt(stage),
            12 => self.of_page(fetching, |path| fs::remove_file(path)),
            13 => self.of_page(fetching, |path| fs::write(path, "[]")),
            14 => self.of_tables(),
            15 => drop(self.settings.places.insert(fetching, self.rng.bool())),
            _ => drop(fs::write(self.space.path().join(".mirror42/hashes"), "mirror42 hashes 1 torn")),
        }
        self.space.write("pipeline.toml", &self.settings.pipeline(&self.server.address));
        self.space.write("schema.sql", &format!("{SCHEMA}-- {}\n", self.settings.schema));
    }

    fn of_export(
        &mut self,
        stage: &'static str,
        change: impl Fn(&std::path::Path) -> std::io::Result<()>,
        content: Option<String>,
    ) {
        if self.model.exports.remove(stage).is_some() {
            change(&self.space.paths().all_json(stage)).unwrap();
            self.model.exports.extend(content.map(|content| (stage, content)));
        }
    }

    /// The same bytes with another time, or in another file: nothing has to be done for that.
    fn touch(&mut self, stage: &'static str) {
        let path = self.space.paths().all_json(stage);
        if let Ok(bytes) = fs::read(&path) {
            if self.rng.bool() {
                fs::remove_file(&path).unwrap();
            }
            fs::write(&path, bytes).unwrap();
        }
    }

    fn of_receipt(&mut self, stage: &'static str) {
        if fs::remove_file(self.space.paths().receipt(stage)).is_ok() {
            self.model.extracted.remove(stage);
            self.model.fetched.remove(stage);
        }
    }

    fn of_page(&mut self, stage: &'static str, change: impl Fn(&std::path::Path) -> std::io::Result<()>) {
        if let Some(page) = pages(&self.space, stage).last() {
            change(page).unwrap();
            self.model.spoilt.insert(stage);
        }
    }

    fn of_tables(&mut self) {
        if self.model.loaded.take().is_some() {
            let changes = [
                "truncate c",
                "drop table e; create table e (id int primary key, n int, v int, t text)",
                "drop table a, c, e",
            ];
            self.space.client().batch_execute(changes[self.rng.usize(..changes.len())]).unwrap();
        }
    }

    /// What tells an export that was written anew: extract writes a receipt beside it each time.
    fn receipts(&self) -> BTreeMap<&'static str, Option<String>> {
        let finished = |stage: &str| {
            let receipt = mirror42::receipt::Receipt::read(&self.space.paths(), stage).unwrap()?;
            let inode = fs::metadata(self.space.paths().all_json(stage)).ok()?.ino();
            Some(format!("{} {inode}", receipt.extract?.finished_at))
        };
        STAGES.map(|stage| (stage, finished(stage))).into()
    }

    /// How old the data of the tables is, as the receipts have it.
    fn oldest(&self) -> Option<String> {
        let started = FETCHED.map(|stage| {
            let receipt = mirror42::receipt::Receipt::read(&self.space.paths(), stage).unwrap();
            receipt.and_then(|receipt| receipt.fetch).map(|fetch| fetch.started_at)
        });
        started.into_iter().min().flatten()
    }

    fn loads(&self) -> String {
        let count = "select case when to_regclass('mirror42.runs') is null then 0 else 1 end";
        if self.space.query(count) == ["0"] {
            "0".into()
        } else {
            self.space.query("select count(*) from mirror42.runs").remove(0)
        }
    }

    /// Runs, and compares what was done with what the model says.
    fn run(&mut self) -> Done {
        let (before, loads) = (self.receipts(), self.loads());
        let age = self.oldest_loaded();
        self.asked.lock().unwrap().clear();
        let outcome = self.space.run("mirror42", &["run"]);
        assert_eq!(outcome.code, Some(0), "{:?}\n{}", self.history, outcome.stderr);
        let after = self.receipts();
        let asked = self.asked.lock().unwrap().clone();
        let done = Done {
            fetched: FETCHED.into_iter().filter(|stage| asked.contains(&stage.chars().next().unwrap())).collect(),
            extracted: STAGES.into_iter().filter(|stage| before[stage] != after[stage]).collect(),
            loaded: self.loads() != loads,
        };
        let mut foretold = self.model.run(&self.settings);
        foretold.loaded |= age != self.oldest();
        assert_eq!(done, foretold, "{:?}\n{}", self.history, outcome.stderr);
        done
    }

    /// The age of the data that the last load has noted.
    fn oldest_loaded(&self) -> Option<String> {
        if self.loads() == "0" {
            return None;
        }
        let time = "to_char(fetched_at, 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')";
        let query = format!("select {time} from mirror42.runs order by finished_at desc limit 1");
        self.space.query(&query).pop()
    }

    /// A clean build by the same file has the same files and the same rows.
    fn compare_with_a_clean_build(&self) {
        let clean = Space::with_database()
            .file("pipeline.toml", &self.settings.pipeline(&self.server.address))
            .file("schema.sql", SCHEMA);
        assert_eq!(clean.run("mirror42", &["run", "-q"]).code, Some(0), "{:?}", self.history);
        for stage in STAGES {
            let bytes = |space: &Space| fs::read(space.paths().all_json(stage)).unwrap();
            assert_eq!(bytes(&self.space), bytes(&clean), "{stage}: {:?}", self.history);
        }
        for stage in FETCHED {
            let bytes = |space: &Space| -> Vec<_> {
                let folder = space.paths().pages(stage);
                let named = |page: PathBuf| (page.strip_prefix(&folder).unwrap().to_owned(), fs::read(&page).unwrap());
                pages(space, stage).into_iter().map(named).collect()
            };
            assert_eq!(bytes(&self.space), bytes(&clean), "{stage}: {:?}", self.history);
        }
        for table in TABLES {
            let rows = |space: &Space| space.query(&format!("table {table} order by 1"));
            assert_eq!(rows(&self.space), rows(&clean), "{table}: {:?}", self.history);
        }
    }
}

/// The pages of a stage, in the order of their names; none where the last was removed.
fn pages(space: &Space, stage: &str) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(space.paths().pages(stage)).sort_by_file_name().into_iter().flatten();
    entries.filter(|entry| entry.file_type().is_file()).map(|entry| entry.into_path()).collect()
}

/// So many runs, each after a few changes, and what they have done in all.
fn walk(seed: u64, runs: u32) -> Vec<Done> {
    let mut walk = Walk::begin(seed);
    let mut done = vec![walk.run()];
    for _ in 0..runs {
        for _ in 0..walk.rng.u32(0..4) {
            walk.step();
        }
        done.push(walk.run());
    }
    // At the end nothing is left to do, but for what is asked for by every run.
    walk.settings.impatient.clear();
    walk.space.write("pipeline.toml", &walk.settings.pipeline(&walk.server.address));
    walk.run();
    assert_eq!(walk.run(), Done::default(), "{:?}", walk.history);
    walk.compare_with_a_clean_build();
    done
}

/// How many of the runs were of each kind that a walk is to see: without work; a load alone; extracts of which nothing new
/// came; fetches of some.
fn kinds(done: &[Done]) -> [usize; 4] {
    let kinds: [fn(&Done) -> bool; 4] = [
        |done| *done == Done::default(),
        |done| done.extracted.is_empty() && done.fetched.is_empty() && done.loaded,
        |done| !done.extracted.is_empty() && !done.loaded,
        |done| !done.fetched.is_empty() && done.fetched.len() < FETCHED.len(),
    ];
    kinds.map(|kind| done.iter().filter(|done| kind(done)).count())
}

#[test]
fn after_any_changes_a_run_does_what_had_to_be_done_and_nothing_else() {
    let kinds = kinds(&walk(3, 16));
    assert!(kinds.iter().all(|runs| *runs > 0), "{kinds:?}");
}

/// `make chaos`: 60 walks of 40 runs. `MIRROR42_SEED` begins elsewhere.
#[test]
#[ignore = "takes a quarter of an hour"]
fn campaign_of_60_walks() {
    let first = std::env::var("MIRROR42_SEED").map_or(1, |seed| seed.parse().expect("MIRROR42_SEED"));
    for seed in first..first + 60 {
        let done = walk(seed, 40);
        let [idle, load, cutoff, some] = kinds(&done);
        println!(
            "walk {seed}: {} runs as foretold, {idle} idle, {load} of a load alone, {cutoff} cut off early, {some} of some fetches",
            done.len()
        );
    }
}
