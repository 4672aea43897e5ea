//! Loading: the client killed, the server killed, the connection cut, the disk full: at any moment, the tables are those
//! of the old night or of the new one, and the next load ends exact.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use mirror42::pg::embedded;
use postgres::{Client, NoTls};

use crate::load::{PIPELINE, SCHEMA, load};
use crate::space::{Space, rows, watch};

const TABLES: [&str; 4] = ["campuses", "projects", "campus_projects", "project_sessions"];

/// Two nights that differ in every table: rows that go, come, change, and move from a parent that goes.
fn night(space: &Space, night: u64) {
    let mut random = Rng::with_seed(night);
    let export = |stage: &str, records: Vec<String>| {
        space.export(stage, &records.iter().map(String::as_str).collect::<Vec<_>>());
    };
    let campuses: Vec<u64> = (1..40).filter(|id| id % 13 != night).collect();
    let projects: Vec<u64> = (1..400).filter(|id| id % 17 != night).collect();
    export(
        "02_campus",
        campuses.iter().map(|id| format!("{{\"id\":{id},\"name\":\"Campus {}\"}}", id % (7 + night))).collect(),
    );
    export(
        "05_projects",
        projects
            .iter()
            .map(|id| format!("{{\"id\":{id},\"name\":\"P{id}\",\"difficulty\":{}}}", id * (1 + night % 2)))
            .collect(),
    );
    let links =
        campuses.iter().flat_map(|c| projects.iter().filter(move |p| (*p + c) % 9 <= night).map(move |p| (c, p)));
    export("06_campus_projects", links.map(|(c, p)| format!("{{\"campus_id\":{c},\"project_id\":{p}}}")).collect());
    let sessions = (1..2000u64).filter(|id| id % 19 != night).map(|id| {
        let project = projects[random.usize(..projects.len())];
        let text = "x".repeat(random.usize(..300));
        format!("{{\"id\":{id},\"project_id\":{project},\"objectives\":[\"{text}\"],\"solo\":null}}")
    });
    export("07_project_sessions", sessions.collect());
}

/// Everything that a reader sees.
fn seen(client: &mut Client) -> Vec<String> {
    let tables = TABLES.iter().flat_map(|table| {
        let key = if *table == "campus_projects" { "campus_id, project_id" } else { "id" };
        rows(client, &format!("select to_jsonb(t) - 'ingested_at' from {table} t order by {key}"))
    });
    tables.collect()
}

/// With all that cannot be seen: places, transactions, the ledger.
fn state(client: &mut Client) -> Vec<String> {
    let tables = TABLES.iter().copied().chain(["mirror42.runs", "mirror42.run_tables", "mirror42.deletions"]);
    tables
        .flat_map(|table| rows(client, &format!("select '{table}', ctid, xmin, t.* from {table} t order by ctid")))
        .collect()
}

/// What a load that was disturbed has left: the old night untouched, or the new one.
fn check(client: &mut Client, old: &[String], old_state: &[String], new: &[String], what: &str) -> bool {
    let now = seen(client);
    if now == old {
        assert!(state(client) == old_state, "{what}: rows of the old night were written");
        return false;
    }
    assert!(now == new, "{what}: neither the old night nor the new one");
    true
}

struct Nights {
    seen: [Vec<String>; 2],
}

impl Nights {
    /// Loads both nights, undisturbed, the first at last.
    fn of(space: &Space, mut client: impl FnMut() -> Client) -> Nights {
        let seen = [1, 2, 1].map(|number| {
            night(space, number);
            load(space);
            seen(&mut client())
        });
        let [_, second, first] = seen;
        assert_ne!(first, second);
        Nights { seen: [first, second] }
    }
}

/// Where a proxy cuts a connection: after so many bytes of one direction.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Never,
    ToServer(u64),
    ToClient(u64),
}

/// Between the loader and the server, for one connection.
struct Proxy {
    folder: tempfile::TempDir,
    passed: Arc<[AtomicU64; 2]>,
}

impl Proxy {
    fn start(server: &Path, cut: Cut) -> Proxy {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
        let server = server.join(".s.PGSQL.5432");
        let passed: Arc<[AtomicU64; 2]> = Arc::default();
        let counts = passed.clone();
        thread::spawn(move || {
            let (client, _) = listener.accept().unwrap();
            let server = UnixStream::connect(server).unwrap();
            let most = match cut {
                Cut::Never => [u64::MAX; 2],
                Cut::ToServer(bytes) => [bytes, u64::MAX],
                Cut::ToClient(bytes) => [u64::MAX, bytes],
            };
            let sides = [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
            for (i, (from, to)) in sides.into_iter().enumerate() {
                let counts = counts.clone();
                thread::spawn(move || pump(from, to, most[i], &counts[i]));
            }
        });
        Proxy { folder, passed }
    }

    fn passed(&self) -> [u64; 2] {
        [0, 1].map(|i| self.passed[i].load(Ordering::Relaxed))
    }
}

fn pump(mut from: UnixStream, mut to: UnixStream, most: u64, passed: &AtomicU64) {
    let mut left = most;
    let mut bytes = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut bytes) {
        let n = n.min(usize::try_from(left).unwrap_or(usize::MAX));
        if to.write_all(&bytes[..n]).is_err() {
            break;
        }
        passed.fetch_add(n as u64, Ordering::Relaxed);
        left -= n as u64;
        if left == 0 {
            break;
        }
    }
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// Cuts connections of loads at random places, and at those around the commit.
fn cut_connections(cuts: usize) {
    let space = Space::with_database().file("pipeline.toml", PIPELINE).file("schema.sql", SCHEMA);
    let nights = Nights::of(&space, || space.client());
    let address = space.url();
    let host = address.split("host=").nth(1).and_then(|rest| rest.split(['&', ' ']).next()).unwrap_or_default();
    let server = PathBuf::from(host.replace("%2F", "/"));
    if !server.is_absolute() {
        eprintln!("skipped: the proxy speaks to a server on a socket only");
        return;
    }
    let through = |proxy: &Proxy| address.replace(host, &proxy.folder.path().to_str().unwrap().replace('/', "%2F"));
    let run = |cut| {
        let proxy = Proxy::start(&server, cut);
        let outcome = space.run("mirror42-load", &["-q", "--database-url", &through(&proxy)]);
        (outcome, proxy.passed())
    };
    night(&space, 2);
    let (outcome, whole) = run(Cut::Never);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let mut random = Rng::with_seed(5);
    let (mut at, mut committed) = (1, 0);
    for i in 0..cuts {
        let cut = match i % 4 {
            // The last of what goes either way is the commit and its answer.
            0 => Cut::ToServer(whole[0].saturating_sub(random.u64(..40))),
            1 => Cut::ToClient(whole[1].saturating_sub(random.u64(..40))),
            2 => Cut::ToServer(random.u64(1..whole[0])),
            _ => Cut::ToClient(random.u64(1..whole[1])),
        };
        let mut client = space.client();
        let old_state = state(&mut client);
        let to = 1 - at;
        night(&space, to as u64 + 1);
        let (outcome, _) = run(cut);
        // The server looks after a while whether its client is there.
        let gone =
            "select 1 from pg_stat_activity where application_name = 'mirror42-load' and datname = current_database()";
        crate::space::wait_until("the loader's session has ended", || rows(&mut client, gone).is_empty());
        let is_new = check(&mut client, &nights.seen[at], &old_state, &nights.seen[to], &format!("{cut:?}"));
        if outcome.code == Some(0) {
            assert!(is_new, "{cut:?}: it said that it was done");
        } else {
            assert_eq!(outcome.code, Some(1), "{cut:?}: {}", outcome.stderr);
            let sure = outcome.stderr.contains("Nothing was loaded");
            assert!(!(sure && is_new), "{cut:?}: {}", outcome.stderr);
            committed += usize::from(is_new);
        }
        load(&space);
        assert!(seen(&mut client) == nights.seen[to], "{cut:?}: the next load is not exact");
        at = to;
    }
    println!(
        "{cuts} connections cut: every load was whole or nothing; {committed} were done though the answer was lost"
    );
}

#[test]
fn a_connection_that_is_cut_anywhere_leaves_one_night() {
    cut_connections(12);
}

/// A session on the embedded server, which may be recovering.
fn patiently(space: &Space) -> Client {
    let server = embedded::started(&space.paths()).unwrap();
    let address = format!("host={} user=mirror42 dbname=mirror42", server.socket.display());
    let began = Instant::now();
    loop {
        match Client::connect(&address, NoTls) {
            Ok(client) => return client,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(30), "{error}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A session on the server once it has none of a loader. A server that has lost a process ends the sessions of all when it
/// notices, one that has just begun too.
fn when_settled(connect: impl Fn() -> Client) -> Client {
    let loaders = "select from pg_stat_activity where application_name = 'mirror42-load'";
    let mut settled = None;
    crate::space::wait_until("the loader's session has ended", || {
        let mut client = connect();
        let none = client.query(loaders, &[]).is_ok_and(|rows| rows.is_empty());
        settled = none.then_some(client);
        none
    });
    settled.unwrap()
}

/// Kills the loader, the server's process for it, or the whole server, at random moments of loads.
fn kill_at_random(kills: usize) {
    let space = Space::new().file("pipeline.toml", PIPELINE).file("schema.sql", SCHEMA);
    watch(space.path());
    let connect = || patiently(&space);
    night(&space, 1);
    load(&space);
    let nights = Nights::of(&space, connect);
    night(&space, 2);
    let began = Instant::now();
    load(&space);
    let took = began.elapsed();
    let mut random = Rng::with_seed(11);
    let (mut at, mut new) = (1, 0);
    for kill in 0..kills {
        let to = 1 - at;
        night(&space, to as u64 + 1);
        let old_state = state(&mut connect());
        let server = embedded::started(&space.paths()).unwrap().pid;
        let mut watcher = connect();
        let mut loader = space.command("mirror42-load", &["-q"]).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(took.mul_f64(random.f64() * 1.1));
        let victim = match kill % 3 {
            0 => "the loader",
            1 => "its server process",
            _ => "the server",
        };
        match kill % 3 {
            0 => loader.kill().unwrap(),
            1 => {
                let of_loader = "select pid from pg_stat_activity where application_name = 'mirror42-load'";
                if let Some(pid) = rows(&mut watcher, of_loader).first() {
                    kill_process(pid.parse().unwrap());
                }
            }
            _ => kill_process(server),
        }
        loader.wait().unwrap();
        drop(watcher);
        let mut client = when_settled(connect);
        new += usize::from(check(
            &mut client,
            &nights.seen[at],
            &old_state,
            &nights.seen[to],
            &format!("kill {kill} of {victim}"),
        ));
        load(&space);
        assert!(seen(&mut connect()) == nights.seen[to], "kill {kill} of {victim}: the next load is not exact");
        at = to;
    }
    println!("{kills} kills of a load of {took:?}: every one left one night whole, {new} of them the new one");
}

fn kill_process(pid: i32) {
    // One that has ended meanwhile is as good.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

#[test]
fn a_kill_of_anybody_leaves_one_night() {
    kill_at_random(6);
}

/// A file system of memory with little room, for as long as this is held.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where this user may not mount.
    fn mount(folder: &Path) -> Option<SmallDisk> {
        fs::create_dir_all(folder).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=700m,mode=755", "tmpfs"]).arg(folder).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success()).then(|| SmallDisk(folder.to_path_buf()))
    }

    /// Leaves so many bytes free, until the file that is returned is removed.
    fn fill(&self, free: u64) -> PathBuf {
        let path = self.0.join("ballast");
        let mut file = fs::File::create(&path).unwrap();
        let block = vec![0; 1 << 16];
        while file.write_all(&block).is_ok() {}
        let size = file.metadata().unwrap().len();
        file.set_len(size.saturating_sub(free)).unwrap();
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Loads while the server's disk has no room, or little.
fn fill_the_disk(times: usize) {
    let space = Space::new().file("pipeline.toml", PIPELINE).file("schema.sql", SCHEMA);
    let Some(disk) = SmallDisk::mount(&space.path().join("data")) else {
        eprintln!("skipped: this user may not mount a small disk");
        return;
    };
    watch(space.path());
    let connect = || patiently(&space);
    let nights = Nights::of(&space, connect);
    let mut random = Rng::with_seed(3);
    let (mut at, mut failed) = (0, 0);
    for i in 0..times {
        let to = 1 - at;
        night(&space, to as u64 + 1);
        let old_state = state(&mut connect());
        let free = random.u64(..3 << 20) / (1 + i as u64 % 3);
        let ballast = disk.fill(free);
        let outcome = space.run("mirror42-load", &["-q"]);
        fs::remove_file(ballast).unwrap();
        let what = format!("{free} bytes free");
        let is_new = check(&mut connect(), &nights.seen[at], &old_state, &nights.seen[to], &what);
        if outcome.code != Some(0) {
            failed += 1;
            assert_eq!(outcome.code, Some(1), "{what}: {}", outcome.stderr);
            assert!(!is_new || !outcome.stderr.contains("Nothing was loaded"), "{what}: {}", outcome.stderr);
        }
        load(&space);
        assert!(seen(&mut connect()) == nights.seen[to], "{what}: the next load is not exact");
        at = to;
    }
    assert!(failed > 0, "the disk was never full");
    println!("{times} loads with a full disk: {failed} failed, every one left one night whole");
    assert_eq!(space.run("mirror42", &["-q", "db", "stop"]).code, Some(0));
}

#[test]
fn a_full_disk_leaves_one_night() {
    fill_the_disk(3);
}

#[test]
#[ignore = "a campaign of minutes: make chaos"]
fn campaign_of_200_kills_and_200_cuts() {
    kill_at_random(200);
    cut_connections(200);
}

#[test]
#[ignore = "a campaign of minutes: make chaos"]
fn campaign_of_100_full_disks() {
    fill_the_disk(100);
}
