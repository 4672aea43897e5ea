//! The embedded server: made, started, used again, started again however it died.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use mirror42::paths::Paths;
use mirror42::pg::embedded::{self, Server, Status};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::space::{Space, rows, wait_until, watch};

fn value(paths: &Paths, sql: &str) -> String {
    rows(&mut embedded::connect(paths, "test").unwrap(), sql).concat()
}

fn running(paths: &Paths) -> Server {
    match embedded::status(paths).unwrap() {
        Status::Running(server) => server,
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_is_started_once_used_again_and_stopped() {
    let space = Space::new();
    let paths = space.paths();
    assert!(matches!(embedded::status(&paths).unwrap(), Status::Absent));
    assert!(!embedded::stop(&paths).unwrap());
    watch(space.path());
    // Four at once: one makes and starts it, the others find it.
    let pids: Vec<i32> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| embedded::start(&paths).unwrap().pid)).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    assert_eq!(value(&paths, "select current_database() || ' ' || current_user"), "mirror42 mirror42");
    assert_eq!(value(&paths, "show listen_addresses"), "");
    let url = running(&paths).url();
    let psql = Command::new(embedded::psql().unwrap()).args(["-XAtc", "show search_path", &url]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&psql.stdout), "public\n");
    assert!(embedded::stop(&paths).unwrap());
    assert!(matches!(embedded::status(&paths).unwrap(), Status::Stopped));
    assert_eq!(value(&paths, "select 1"), "1");
    assert!(embedded::stop(&paths).unwrap());
}

#[test]
fn a_killed_server_starts_again_with_all_that_was_committed() {
    let space = Space::new();
    let paths = space.paths();
    watch(space.path());
    let mut client = embedded::connect(&paths, "test").unwrap();
    client.batch_execute("create table kept (a int); insert into kept values (7)").unwrap();
    let first = running(&paths).pid;
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    assert_eq!(value(&paths, "select a from kept"), "7");
    let second = running(&paths).pid;
    assert_ne!(first, second);
    // Killed again, and the number in its pid file now belongs to somebody else of the same user.
    kill(Pid::from_raw(second), Signal::SIGKILL).unwrap();
    wait_until("it is dead", || !std::path::Path::new(&format!("/proc/{second}/cwd")).exists());
    let file = paths.postgres().join("postmaster.pid");
    let text = fs::read_to_string(&file).unwrap();
    let stranger = std::process::id();
    fs::write(&file, text.replacen(&second.to_string(), &stranger.to_string(), 1)).unwrap();
    assert!(matches!(embedded::status(&paths).unwrap(), Status::Stopped));
    assert_eq!(value(&paths, "select a from kept"), "7");
    embedded::stop(&paths).unwrap();
}

#[test]
fn what_a_killed_initdb_left_is_made_anew() {
    let space = Space::new().file("data/postgres.new/PG_VERSION", "15\n").file("data/postgres.new/base/half", "");
    let paths = space.paths();
    watch(space.path());
    assert_eq!(value(&paths, "select 1"), "1");
    assert!(!space.path().join("data/postgres.new").exists());
    embedded::stop(&paths).unwrap();
}

#[test]
fn a_folder_that_is_no_cluster_is_left_alone() {
    let space = Space::new().file("data/postgres/diary.txt", "dear diary");
    let error = embedded::start(&space.paths()).unwrap_err().to_string();
    assert!(error.contains("holds something other than a Postgres cluster"), "{error}");
    assert!(space.path().join("data/postgres/diary.txt").exists());
}

#[test]
fn a_path_too_long_or_odd_for_a_socket_gets_a_private_folder() {
    let space = Space::new();
    let root = space.path().join("it's a \"long\" $HOME".repeat(5));
    fs::create_dir(&root).unwrap();
    let paths = Paths::new(&root);
    watch(&root);
    assert_eq!(value(&paths, "select 1"), "1");
    let socket = running(&paths).socket;
    assert!(socket.starts_with("/tmp/"), "{}", socket.display());
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o700);
    embedded::stop(&paths).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    let error = embedded::start(&paths).unwrap_err().to_string();
    assert!(error.contains("is not a private folder of"), "{error}");
    fs::remove_dir_all(&socket).unwrap();
}

#[test]
fn a_copied_project_does_not_reach_into_the_original() {
    let (original, copy) = (Space::new(), Space::new());
    watch(original.path());
    watch(copy.path());
    value(&original.paths(), "create table original ()");
    let from = original.path().join("data");
    assert!(Command::new("cp").arg("-a").arg(from).arg(copy.path()).status().unwrap().success());
    let theirs = running(&original.paths()).pid;
    assert!(matches!(embedded::status(&copy.paths()).unwrap(), Status::Stopped));
    assert_eq!(value(&copy.paths(), "select 1"), "1");
    assert_ne!(running(&copy.paths()).pid, theirs);
    embedded::stop(&copy.paths()).unwrap();
    assert_eq!(running(&original.paths()).pid, theirs);
    embedded::stop(&original.paths()).unwrap();
}

#[test]
fn root_in_a_private_folder_gets_a_cluster_elsewhere() {
    if !nix::unistd::geteuid().is_root() {
        return; // anybody else reaches their own folders
    }
    let space = Space::new();
    fs::set_permissions(space.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let paths = space.paths();
    watch(space.path());
    assert_eq!(value(&paths, "select 1"), "1");
    let target = fs::read_link(paths.postgres()).unwrap();
    assert!(target.starts_with("/var/lib/mirror42"), "{}", target.display());
    kill(Pid::from_raw(running(&paths).pid), Signal::SIGKILL).unwrap();
    assert_eq!(value(&paths, "select 1"), "1");
    embedded::stop(&paths).unwrap();
    fs::remove_dir_all(target).unwrap();
}

#[test]
fn the_server_does_not_hold_what_its_starter_was_given() {
    let space =
        Space::new().file("pipeline.toml", "[pipeline]\nname = \"x\"\n[api]\nbase_url = \"http://127.0.0.1:1\"\n");
    watch(space.path());
    // As cron's `flock lock mirror42 …` does: a descriptor handed down must be free when the starter has ended,
    // and a reader of its output must see the end of it.
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_mirror42")).with_file_name("mirror42-validate");
    let script = format!("exec 9>lock; flock 9; exec {} 2>&1", binary.display());
    let began = std::time::Instant::now();
    let output =
        Command::new("sh").args(["-c", &script]).current_dir(space.path()).env_remove("DATABASE_URL").output().unwrap();
    assert!(began.elapsed().as_secs() < 60);
    let server = running(&space.paths());
    let free = Command::new("flock").args(["-n", "lock", "true"]).current_dir(space.path()).status().unwrap();
    assert!(free.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let environment = fs::read(format!("/proc/{}/environ", server.pid)).unwrap_or_default();
    assert!(!String::from_utf8_lossy(&environment).contains("HOME="), "the server has our environment");
    embedded::stop(&space.paths()).unwrap();
}
