//! A [`Space`] is a project's folder for one test, with a database of its own if it wants one.
//!
//! All databases are in one embedded cluster, started by the library's own hands when the first test asks for one, or
//! on the server that `MIRROR42_TEST_DATABASE_URL` names.
//! Tests end in many ways (a panic, ^C, SIGKILL) and none of them may leave a server behind, so a shell that waits
//! for the end of its standard input, which is held by this process, stops the server and removes its folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use mirror42::export;
use mirror42::paths::Paths;
use mirror42::pg::embedded;
use mirror42::receipt::{ExtractReceipt, FetchReceipt, Receipt};
use postgres::{Client, NoTls};
use tempfile::TempDir;

pub struct Space {
    folder: TempDir,
    database: Option<Database>,
    environment: Vec<(String, String)>,
}

/// What a binary did.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Space {
    /// An empty folder.
    pub fn new() -> Space {
        Space { folder: open_folder(), database: None, environment: Vec::new() }
    }

    /// With a database, which the binaries find in `DATABASE_URL`.
    pub fn with_database() -> Space {
        Space::new().and_database()
    }

    pub fn and_database(self) -> Space {
        Space { database: Some(Database::create()), ..self }
    }

    /// With a variable in the environment of its binaries.
    pub fn with(mut self, name: &str, value: &str) -> Space {
        self.environment.push((name.to_string(), value.to_string()));
        self
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn paths(&self) -> Paths {
        Paths::new(self.path())
    }

    /// Writes a file; its folders are made.
    pub fn file(self, path: &str, text: &str) -> Space {
        self.write(path, text);
        self
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Writes the export of a stage with these records, and its receipt, as extract would.
    pub fn export(&self, stage: &str, records: &[&str]) {
        let paths = self.paths();
        let mut writer = export::Writer::create(&paths.all_json(stage)).unwrap();
        records.iter().for_each(|record| writer.record(record.as_bytes()).unwrap());
        let written = writer.commit().unwrap();
        let now = mirror42::log::now();
        let mut receipt = Receipt::read_or_new(&paths, stage).unwrap();
        receipt.fetch = Some(FetchReceipt {
            definition: String::new(),
            inputs: Default::default(),
            started_at: now.clone(),
            finished_at: now.clone(),
            duration_ms: 0,
            requests: 0,
            retries: 0,
            resumed_pages: 0,
            records: records.len() as u64,
            size_bytes: 0,
            series: Vec::new(),
        });
        receipt.extract = Some(ExtractReceipt {
            definition: String::new(),
            inputs: Default::default(),
            finished_at: now,
            duration_ms: 0,
            records_in: records.len() as u64,
            records_out: records.len() as u64,
            duplicates: 0,
            size_bytes: written.size_bytes,
            sha256: written.sha256,
        });
        receipt.write(&paths).unwrap();
    }

    /// The binary, in this folder, with an environment of its own.
    pub fn command(&self, binary: &str, args: &[&str]) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_mirror42")).with_file_name(binary));
        command.args(args).current_dir(self.path()).env_clear().stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(database) = &self.database {
            command.env("DATABASE_URL", &database.url);
        }
        command
    }

    pub fn run(&self, binary: &str, args: &[&str]) -> Outcome {
        let output = self.command(binary, args).output().unwrap();
        Outcome {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Starts the binary and lets it run.
    pub fn spawn(&self, binary: &str, args: &[&str]) -> Child {
        self.command(binary, args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The address of the database of this space.
    pub fn url(&self) -> &str {
        &self.database.as_ref().expect("a space with a database").url
    }

    /// A session on the database of this space.
    pub fn client(&self) -> Client {
        Client::connect(self.url(), NoTls).unwrap()
    }

    /// The rows of a query as text, one line each, columns separated by `|`.
    pub fn query(&self, sql: &str) -> Vec<String> {
        rows(&mut self.client(), sql)
    }
}

pub fn rows(client: &mut Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).unwrap();
    let rows = messages.iter().filter_map(|message| match message {
        postgres::SimpleQueryMessage::Row(row) => {
            let values: Vec<&str> = (0..row.len()).map(|i| row.get(i).unwrap_or("∅")).collect();
            Some(values.join("|"))
        }
        _ => None,
    });
    rows.collect()
}

/// Waits until `done`, and fails the test if it never is.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A temporary folder that other users can enter: as root the server runs as one of them.
pub fn open_folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("mirror42-test-").tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// A database for one test.
struct Database {
    name: String,
    url: String,
}

impl Database {
    fn create() -> Database {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let server = server();
        let name = format!("{}_{}", server.run, NEXT.fetch_add(1, Ordering::Relaxed));
        let mut admin = Client::connect(&server.url, NoTls).unwrap();
        admin.batch_execute(&format!("create database {name}")).unwrap();
        // As the embedded server's own database has it.
        admin.batch_execute(&format!("alter database {name} set search_path = public")).unwrap();
        Database { url: address_of(&server.url, &name), name }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // A cluster of ours goes with all that is in it.
        if server().session.is_some()
            && let Ok(mut admin) = Client::connect(&server().url, NoTls)
        {
            // What this leaves, the next run drops.
            let _ = admin.batch_execute(&format!("drop database {} with (force)", self.name));
        }
    }
}

/// The server of this test run.
struct Server {
    /// Of a database that is there.
    url: String,
    /// How the databases of this run begin.
    run: String,
    /// On a server that is not ours, what tells other runs that this one is not over.
    session: Option<Mutex<Client>>,
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| match std::env::var("MIRROR42_TEST_DATABASE_URL") {
        Ok(url) => Server::lent(url),
        Err(_) => Server::embedded(),
    })
}

impl Server {
    fn embedded() -> Server {
        let folder = open_folder().keep();
        watch(&folder);
        let server = embedded::start(&Paths::new(&folder)).unwrap();
        let url = address_of(&server.url(), "postgres");
        let mut client = Client::connect(&url, NoTls).unwrap();
        // Nothing here outlives the run.
        client.batch_execute("alter system set fsync = off").unwrap();
        // Nor is anything in it large enough to be vacuumed; with a database a test its worker is never done.
        client.batch_execute("alter system set autovacuum = off").unwrap();
        client.batch_execute("select pg_reload_conf()").unwrap();
        Server { url, run: "t".to_string(), session: None }
    }

    /// Somebody's server: nothing is changed there but databases of ours, each of which goes with its test.
    fn lent(url: String) -> Server {
        let started_s = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let run = format!("mirror42_test_{started_s}_{}", std::process::id());
        let mut session = Client::connect(&url, NoTls).expect("MIRROR42_TEST_DATABASE_URL");
        session.batch_execute(&format!("set application_name = '{run}'")).unwrap();
        let left_by_killed_runs = r"select datname from pg_database
             where datname ~ '^mirror42_test_\d+_\d+_\d+$' and not exists (
                 select from pg_stat_activity where application_name = regexp_replace(datname, '_\d+$', ''))";
        for name in rows(&mut session, left_by_killed_runs) {
            // Another run that begins now may be quicker.
            let _ = session.batch_execute(&format!("drop database if exists {name} with (force)"));
        }
        Server { url, run, session: Some(Mutex::new(session)) }
    }
}

/// The address of another database on the server of `url`.
fn address_of(url: &str, database: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return format!("{url} dbname={database}") };
    let (place, words) = rest.split_once('?').unwrap_or((rest, ""));
    let host = place.split('/').next().unwrap();
    format!("{scheme}://{host}/{database}?{words}")
}

/// Stops the embedded server below `folder`, and removes the folder, when this process has ended.
pub fn watch(folder: &Path) {
    let script = r#"read -r _
        cluster=$(readlink -f "$1/data/postgres")
        pid=$(head -n 1 "$cluster/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid"
        while [ -e "$cluster/postmaster.pid" ] && kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
        case $cluster in /var/lib/mirror42/*) rm -rf "$cluster" ;; esac
        rm -rf "$1""#;
    static WATCHERS: Mutex<Vec<Child>> = Mutex::new(Vec::new());
    let watcher = Command::new("sh")
        .args(["-c", script, "watch"])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    // A static is never dropped: it is the end of the process that closes the standard input.
    WATCHERS.lock().unwrap().push(watcher);
}
