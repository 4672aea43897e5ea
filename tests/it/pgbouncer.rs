//! Behind pgbouncer, where a session is with a server session that others had before: nothing of theirs is in the way.
//!
//! The pool has one server session, so all of a test are with the same.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use postgres::config::Host;
use postgres::{Client, Config, NoTls};

use crate::load::{counts, project};
use crate::space::{Space, rows, wait_until};

/// A pgbouncer before the database of a space; it ends when this does, or the process.
struct Bouncer {
    process: Child,
    url: String,
}

impl Bouncer {
    /// None where there is no such program, or no server that it could stand before.
    fn start(space: &Space) -> Option<Bouncer> {
        let config: Config = space.url().parse().unwrap();
        let (Some(program), [Host::Unix(socket)]) = (program(), config.get_hosts()) else {
            eprintln!("skipped: there is no pgbouncer, or no server on a socket");
            return None;
        };
        let (user, database) = (config.get_user().unwrap(), config.get_dbname().unwrap());
        let folder = space.path().join("bouncer");
        fs::create_dir(&folder).unwrap();
        // Nobody else enters the folder of the server's socket, and pgbouncer refuses root as Postgres does.
        let owner = fs::metadata(socket).unwrap();
        chown(&folder, Some(owner.uid()), Some(owner.gid())).unwrap();
        let settings = format!(
            "[databases]\n{database} = host={} user={user}\n[pgbouncer]\npool_mode = session\ndefault_pool_size = 1\n\
             auth_type = any\nlisten_port = 6432\nunix_socket_dir = {}\n",
            socket.display(),
            folder.display()
        );
        space.write("bouncer/pgbouncer.ini", &settings);
        let script = r#""$1" -q "$2" & read -r _; kill "$!"; wait"#;
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "bouncer"]).arg(program).arg(folder.join("pgbouncer.ini"));
        if nix::unistd::geteuid().is_root() {
            shell.uid(owner.uid()).gid(owner.gid());
        }
        let process = shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let url = format!("host={} port=6432 user={user} dbname={database}", folder.display());
        wait_until("pgbouncer listens", || Client::connect(&url, NoTls).is_ok());
        Some(Bouncer { process, url })
    }

    fn client(&self) -> Client {
        Client::connect(&self.url, NoTls).unwrap()
    }

    fn server_pid(&self) -> String {
        rows(&mut self.client(), "select pg_backend_pid()").concat()
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Debian has it where only root looks.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join("pgbouncer")).find(|program| program.is_file())
}

#[test]
fn loads_through_it_are_loads() {
    let space = project();
    let Some(bouncer) = Bouncer::start(&space) else { return };
    let run = |binary: &str| {
        let outcome = space.run(binary, &["-q", "--database-url", &bouncer.url]);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
    };
    let pid = bouncer.server_pid();
    // Somebody's temporary table has settled how large the buffers of this server session are.
    bouncer.client().batch_execute("create temporary table mine as select generate_series(1, 10)").unwrap();
    run("mirror42-load");
    assert_eq!(counts(&space)[1], "projects|3|3|0|0|0|0");
    run("mirror42-load");
    assert_eq!(counts(&space)[1], "projects|3|0|0|3|0|0");
    space.export("07_project_sessions", &[r#"{"id":7,"project_id":1,"campus_id":98,"objectives":[],"begin_at":null}"#]);
    run("mirror42-load");
    assert_eq!(counts(&space)[3], "project_sessions|1|0|1|0|1|0");
    run("mirror42-validate");
    assert_eq!(bouncer.server_pid(), pid, "not one server session for all");
    // What our sessions set for themselves is gone from the next one's.
    assert_eq!(rows(&mut bouncer.client(), "select current_setting('jit'), current_setting('lock_timeout')"), ["on|0"]);
}
