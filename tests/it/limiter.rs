//! The limits of the API, kept by all processes together; and what becomes of a run that they stop.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fetch::{done, failed, files, message, one_stage, succeeds};
use crate::simulator::{Reply, Server, Simulator};
use crate::space::Space;

/// Stages that read the coalitions with so many records a page.
fn lists(sizes: &[(&str, u32)]) -> String {
    let api = include_str!("../../pipeline.toml").split("[[stage]]").next().unwrap();
    let stage = |(name, size): &(&str, u32)| {
        format!(
            "[[stage]]\nname = \"{name}\"\nfetch = \"/v2/coalitions\"\nkey = [\"id\"]\npage = {{ size = {size} }}\n"
        )
    };
    // Twice as many requests under way as 0.2 s and 40 a second need.
    api.replace("in_flight = 8", "in_flight = 20") + &sizes.iter().map(stage).collect::<String>()
}

/// The moment of a message, and the message without it.
fn without_moment(text: &str) -> (jiff::Timestamp, String) {
    let (before, rest) = text.split_once(" until ").unwrap_or_else(|| panic!("no moment in {text}"));
    let (moment, after) = rest.split_once('\n').unwrap();
    (moment.parse().unwrap(), format!("{before} until …\n{after}"))
}

fn host(url: &str) -> &str {
    url.strip_prefix("http://").unwrap()
}

fn state_file(simulator: &Simulator) -> String {
    format!(".mirror42/limiter-{}.json", host(&simulator.url).replace(':', "_"))
}

fn state(space: &Space, file: &str) -> Value {
    serde_json::from_slice(&fs::read(space.path().join(file)).unwrap()).unwrap()
}

/// Two processes fetch as many pages as they may.
fn keep_the_limits(limits: &str, window: &str) {
    let simulator = Simulator::start(&format!("--limits {limits} --window {window} --latency 100ms-200ms"));
    // The server says its limits itself, so `none` of our own must do as well.
    let space = simulator.space(&lists(&[("a", 5), ("b", 4)]));
    done(&space, "mirror42-token", &["ensure"]);
    // Tests share the machine with others, who delay requests on their way: the limiter knows it as a path that does.
    let file = state_file(&simulator);
    let mut state = state(&space, &file);
    state["margin_ms"] = 70.into();
    space.write(&file, &state.to_string());
    let began = Instant::now();
    let fetches = ["a", "b"].map(|stage| space.spawn("mirror42-fetch", &[stage]));
    fetches.into_iter().for_each(succeeds);
    let took = began.elapsed();
    let stats = simulator.stats();
    assert_eq!(stats["rate_limited"], 0, "{limits} {window}: {stats}");
    let requests = stats["requests"]["coalitions"].as_u64().unwrap();
    assert_eq!(requests, 70 + 88);
    let per_second: f64 = limits.split('/').next().unwrap().parse().unwrap();
    let allowed = Duration::from_secs_f64(requests as f64 / per_second);
    assert!(took < allowed.div_f64(0.9) + Duration::from_millis(500), "{took:?} for {requests} at {limits} {window}");
}

#[test]
fn a_sliding_window_is_kept_by_two_processes_at_once() {
    keep_the_limits("20/1200", "sliding");
}

#[test]
fn a_fixed_window_is_kept_by_two_processes_at_once() {
    keep_the_limits("40/1200", "fixed");
}

#[test]
fn an_hour_that_is_used_up_stops_a_fetch_that_goes_on_later() {
    let simulator = Simulator::start("--limits 100/10");
    let space = simulator.space(&lists(&[("a", 100)]));
    let fetch = |args: &[&str]| space.run("mirror42-fetch", &[&["-q"], args].concat());
    for _ in 0..2 {
        assert_eq!(fetch(&[]).code, Some(0));
    }
    let kept = || {
        let mut files = files(&space.paths().exports());
        files.retain(|name, _| !name.contains("pages.new"));
        files
    };
    let before = kept();
    // Two nights of four pages and one token: one request is left.
    for asked in [9, 9] {
        let outcome = fetch(&["--max-wait", "1s"]);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(75), ""), "{}", outcome.stderr);
        let (until, text) = without_moment(&message(&outcome.stderr));
        let expected = format!(
            "the hourly quota of `{}` is used up until …\n  detail: The pages of the last good fetch are kept.\n  \
             detail: The next fetch goes on with the one page that has come.\n  hint: Run again after that, or raise `--max-wait`, which is 1s.\n",
            host(&simulator.url)
        );
        assert_eq!(text, expected);
        let wait = until.as_second() - jiff::Timestamp::now().as_second();
        assert!((3500..3620).contains(&wait), "{wait} s");
        assert!(kept() == before);
        assert_eq!(
            (&simulator.stats()["requests_in_all"], &simulator.stats()["rate_limited"]),
            (&(asked + 1).into(), &0.into())
        );
    }
    let outcome = space.run("mirror42-token", &["refresh", "-q", "--max-wait", "1m"]);
    assert_eq!(outcome.code, Some(75));
    let (_, text) = without_moment(&outcome.stderr);
    let expected = format!(
        "mirror42-token: error: the hourly quota of `{}` is used up until …\n  \
         hint: Run again after that, or raise `--max-wait`, which is 1m.\n",
        host(&simulator.url)
    );
    assert_eq!(text, expected);
    // The hour is over, as far as anybody here knows.
    let simulator = Simulator::start("--limits 100/1200");
    let space = space.with("MIRROR42_API_URL", &simulator.url);
    done(&space, "mirror42-fetch", &["--max-wait", "1s"]);
}

#[test]
fn a_run_that_the_limits_stop_loads_nothing_and_the_next_one_goes_on() {
    let simulator = Simulator::start("");
    let space = simulator.project().file("schema.sql", include_str!("../../schema.sql")).and_database();
    let outcome = space.run("mirror42", &["run", "-q", "--limits", "1000/50", "--max-wait", "3s"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(75), ""), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches("error:").count(), 1, "{}", outcome.stderr);
    let (_, text) = without_moment(&outcome.stderr);
    let (pages, _) = text.split_once(" pages that").unwrap();
    // Its number alone: there is one in the program's name, too.
    let text = text.replace(&format!(" {} pages", pages.rsplit(' ').next().unwrap()), " 37 pages");
    let expected = format!(
        "mirror42: error: the hourly quota of `{}` is used up until …\n  detail: The next fetch goes on with the 37 pages that have come.\n  \
         hint: Run again after that, or raise `--max-wait`, which is 3s.\n",
        host(&simulator.url)
    );
    assert_eq!(text, expected);
    assert_eq!(simulator.stats()["requests_in_all"], 50);
    assert_eq!(space.query("select to_regclass('campuses')"), ["∅"]);
    assert_eq!(space.run("mirror42", &["run", "-q"]).code, Some(0));
    assert_eq!(space.query("select count(*) from campuses"), ["54"]);
    // What was there is not asked for again, but for the first page of a series that was not whole.
    let requests = simulator.stats()["requests_in_all"].as_u64().unwrap();
    assert!((95..95 + 12).contains(&requests), "{requests} requests, of 94 pages and a token");
}

#[test]
fn a_server_that_wants_no_requests_for_hours_is_not_waited_for() {
    let simulator = Simulator::start("");
    let space = simulator.space(&lists(&[("a", 100), ("b", 50)]));
    simulator.faults(&["kind = 'rate-limited'; retry_after = 9999"]);
    // The other stage is refused by our own file, without a request.
    for stage in ["a", "b"] {
        let (until, text) = without_moment(&failed(&space, "mirror42-fetch", &[stage], 75));
        let expected = format!(
            "`{}` wants no requests until …\n  detail: No page is kept.\n  \
             hint: Run again after that, or raise `--max-wait`, which is 1h 5m.\n",
            host(&simulator.url)
        );
        assert_eq!(text, expected);
        let wait = until.as_second() - jiff::Timestamp::now().as_second();
        assert!((9990..10_002).contains(&wait), "{wait} s");
        assert_eq!(simulator.stats()["requests"]["coalitions"], 1);
    }
}

#[test]
fn a_server_that_has_nothing_left_is_not_probed() {
    let server = Server::start("127.0.0.1:0", |_| {
        Reply::json("[{\"id\":1}]").with("X-Total", 3).with("X-Per-Page", 1).with("X-Hourly-RateLimit-Remaining", 0)
    });
    let space = one_stage(&format!("http://{}", server.address), "");
    for _ in 0..2 {
        let (until, text) = without_moment(&failed(&space, "mirror42-fetch", &["--max-wait", "50m"], 75));
        assert!(text.starts_with(&format!("the hourly quota of `{}` is used up until …\n", server.address)), "{text}");
        let wait = until.as_second() - jiff::Timestamp::now().as_second();
        assert!((3590..=3603).contains(&wait), "{wait} s");
        assert_eq!(server.requests(), 1);
    }
}

#[test]
fn a_wait_that_is_allowed_is_told_and_waited_out() {
    let simulator = Simulator::start("");
    let space = simulator.space(&lists(&[("a", 100)]));
    simulator.faults(&["kind = 'rate-limited'; retry_after = 3"]);
    let began = Instant::now();
    done(&space, "mirror42-fetch", &["--max-wait", "4s"]);
    assert!(began.elapsed() >= Duration::from_secs(3));
    simulator.faults(&["kind = 'rate-limited'; retry_after = 70"]);
    let mut fetch = space.spawn("mirror42-fetch", &["--log-format", "json"]);
    std::thread::sleep(Duration::from_millis(1500));
    fetch.kill().unwrap();
    let output = fetch.wait_with_output().unwrap();
    let lines: Vec<Value> =
        String::from_utf8(output.stderr).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told =
        |line: &&Value| line["message"].as_str().is_some_and(|m| m.starts_with("waiting for the rate limit until 20"));
    assert_eq!(lines.iter().filter(told).count(), 1, "{lines:?}");
    assert!(lines.iter().any(|line| line["progress"]["note"].as_str().is_some_and(|note| note.starts_with("waiting"))));
}

#[test]
fn a_refusal_by_the_second_is_remembered_as_an_uneven_path() {
    let simulator = Simulator::start("--limits 50/1200");
    let space = simulator.space(&lists(&[("a", 100)]));
    let margin = || state(&space, &state_file(&simulator))["margin_ms"].clone();
    done(&space, "mirror42-fetch", &[]);
    assert_eq!(margin(), 7);
    simulator.faults(&["kind = 'rate-limited'"]);
    done(&space, "mirror42-fetch", &[]);
    assert_eq!(margin(), 14);
    done(&space, "mirror42-fetch", &[]);
    assert_eq!(margin(), 14);
}

#[test]
fn a_proxy_is_reached_without_a_slot() {
    let simulator = Simulator::start("");
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = proxy.local_addr().unwrap();
    let server = host(&simulator.url).to_string();
    std::thread::spawn(move || {
        for client in proxy.incoming().map_while(Result::ok) {
            let mut head = BufReader::new(client.try_clone().unwrap()).lines().map_while(Result::ok);
            assert_eq!(head.next().unwrap(), "CONNECT api.test:80 HTTP/1.1");
            head.find(|line| line.is_empty());
            (&client).write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
            let server = TcpStream::connect(&server).unwrap();
            let pairs =
                [(&client, &server), (&server, &client)].map(|(a, b)| (a.try_clone().unwrap(), b.try_clone().unwrap()));
            for (mut from, mut to) in pairs {
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        }
    });
    let space = simulator
        .space(&lists(&[("a", 100)]))
        .with("MIRROR42_API_URL", "http://api.test")
        .with("http_proxy", &format!("http://{address}"));
    done(&space, "mirror42-fetch", &[]);
    assert_eq!(state(&space, ".mirror42/limiter-api.test.json")["sent"], 5, "four pages and a token");
    assert_eq!(simulator.stats()["requests_in_all"], 5);
}

#[test]
fn a_wait_that_is_no_duration_is_a_usage_error() {
    let space = one_stage("http://127.0.0.1:1", "");
    assert_eq!(
        failed(&space, "mirror42-fetch", &["--max-wait", "soon"], 2),
        "`--max-wait` is \"soon\", expected a duration such as `10m`, `2h` or `0s`\n"
    );
}

#[test]
fn a_limiter_file_that_cannot_be_understood_is_begun_anew() {
    let simulator = Simulator::start("--limits 20/1200");
    let space = simulator.project();
    let file = state_file(&simulator);
    let far = u64::MAX;
    for text in [
        String::new(),
        "{\"blocked_until_ms\":17".to_owned(),
        "\0\0\0\0".to_owned(),
        "[1, 2, 3]".to_owned(),
        format!("{{\"version\":2,\"blocked_until_ms\":{far},\"reserved\":[{far}]}}"),
        // As an older version left it, in the middle of an hour that was used up.
        "{\"written_ms\":1795000000000,\"blocked_until_ms\":9795000000000,\"last_ms\":9795000000000,\"server_per_second\":2,\
         \"server_per_hour\":1200,\"second\":[[1795000000000,2]],\"hour\":[[1795000000000,1200]]}"
            .to_owned(),
    ] {
        space.write(&file, &text);
        let began = Instant::now();
        done(&space, "mirror42-fetch", &["08_coalitions"]);
        assert!(began.elapsed() < Duration::from_secs(3), "{text}");
        let state = state(&space, &file);
        assert_eq!((&state["version"], &state["server_per_hour"]), (&2.into(), &1200.into()), "{text}");
    }
}
