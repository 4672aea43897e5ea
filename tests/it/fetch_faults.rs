//! Fetching: whatever an API may answer ends with whole pages, or with a message and the pages of before.

use std::fs;
use std::net::TcpListener;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::fetch::{assert_mirrors, done, failed, files, message, one_stage};
use crate::simulator::{Reply, Server, Simulator};
use crate::space::{Space, wait_until};

const PASSING: [&str; 43] = [
    "kind = 'server-error'; status = 500; page = 1",
    "kind = 'server-error'; status = 502; page = 2",
    "kind = 'server-error'; status = 503; page = 3",
    "kind = 'server-error'; status = 504; page = 4",
    "kind = 'server-error'; status = 503; retry_after = 1",
    "kind = 'server-error'; status = 502; retry_after = 1",
    "kind = 'json-error'; status = 408; page = 2",
    "kind = 'json-error'; status = 425; page = 2",
    "kind = 'redirect'; location = '/users/sign_in'; page = 2",
    "kind = 'not-modified'; page = 2",
    "kind = 'rate-limited'; page = 2",
    "kind = 'rate-limited'; retry_after = 1; page = 2",
    "kind = 'bot-403'; page = 2",
    "kind = 'bot-200'; page = 2",
    "kind = 'html-404'; page = 2",
    "kind = 'reset'; page = 2",
    "kind = 'truncated'; page = 2",
    "kind = 'long-length'; page = 2",
    "kind = 'short-length'; page = 2",
    "kind = 'corrupt-gzip'; page = 2",
    "kind = 'not-gzip'; page = 2",
    "kind = 'drip'; page = 2",
    "kind = 'hang'; page = 3",
    "kind = 'garbage'; page = 2",
    "kind = 'invalid-utf8'; page = 2",
    "kind = 'object'; page = 2",
    "kind = 'empty-list'; page = 1",
    "kind = 'empty-list'; page = 4",
    "kind = 'empty-list'; total = 0; page = 1",
    "kind = 'empty-list'; total = 0; page = 3",
    "kind = 'wrong-total'; page = 1",
    "kind = 'wrong-total'; page = 3",
    "kind = 'missing-total'; page = 2",
    "kind = 'drift-insert'; page = 2",
    "kind = 'drift-remove'; page = 2",
    "kind = 'drift-insert'; page = 4",
    "kind = 'drift-remove'; page = 4",
    "kind = 'drift-swap'; page = 1",
    "kind = 'wrong-total'; times = 3",
    "kind = 'token-expired'; page = 1",
    "kind = 'token-expired'; page = 3",
    "kind = 'chunked'; times = 0",
    "kind = 'slow'; ms = 100; times = 0",
];

#[test]
fn a_fault_that_passes_leaves_no_trace() {
    // Several at once, since they wait most of the time.
    std::thread::scope(|scope| PASSING.chunks(7).for_each(|faults| drop(scope.spawn(|| pass(faults)))));
}

fn pass(faults: &[&str]) {
    let simulator = Simulator::start("");
    let space = simulator.space(&include_str!("../../pipeline.toml").replace("30s", "500ms"));
    for fault in faults {
        simulator.faults(&[fault]);
        simulator.reset_stats();
        done(&space, "mirror42-fetch", &["-q", "08_coalitions"]);
        done(&space, "mirror42-extract", &["-q", "08_coalitions"]);
        assert_mirrors(&space, &simulator, "08_coalitions");
        let played = &simulator.stats()["faults_played"];
        assert!(played.as_object().unwrap().values().all(|times| times.as_u64() > Some(0)), "{fault}: {played}");
        assert_eq!(played.as_object().unwrap().len(), 1, "{fault}");
    }
}

/// The faults that the request for a token meets, and is judged by the same table.
const PASSING_FOR_TOKENS: [&str; 10] = [
    "kind = 'rate-limited'; retry_after = 1",
    "kind = 'server-error'; status = 502",
    "kind = 'bot-403'",
    "kind = 'bot-200'",
    "kind = 'redirect'; location = '/users/sign_in'",
    "kind = 'drip'",
    "kind = 'reset'",
    "kind = 'truncated'",
    "kind = 'not-gzip'",
    "kind = 'garbage'",
];

#[test]
fn a_token_is_had_in_spite_of_what_passes() {
    let simulator = Simulator::start("");
    let space = simulator.space(&include_str!("../../pipeline.toml").replace("30s", "500ms"));
    for fault in PASSING_FOR_TOKENS {
        simulator.faults(&[&format!("{fault}; path = '/oauth/token'")]);
        simulator.reset_stats();
        let _ = fs::remove_file(space.paths().token());
        done(&space, "mirror42-fetch", &["-q", "01_cursus"]);
        assert_eq!(simulator.stats()["requests"]["token"], 2, "{fault}");
    }
    simulator.faults(&["kind = 'redirect'; path = '/oauth/token'"]);
    fs::remove_file(space.paths().token()).unwrap();
    assert_eq!(
        failed(&space, "mirror42-fetch", &["01_cursus"], 1),
        format!(
            "could not get a token from `{}/oauth/token`: it redirects to https://signin.intra.42.fr/users/sign_in (302), \
             where the token must not go\n  detail: The answer is final.\n  detail: The pages of the last good fetch are \
             kept.\n",
            simulator.url
        )
    );
}

#[test]
fn a_limit_that_ends_at_a_date_is_waited_for_until_then() {
    let refused = AtomicBool::new(false);
    let server = Server::start("127.0.0.1:0", move |_| match refused.swap(true, Ordering::Relaxed) {
        false => {
            let until = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3));
            Reply { status: 429, headers: vec![("Retry-After", until)], body: "Spam".into() }
        }
        true => Reply::json("[{\"id\":1}]").with("X-Total", 1),
    });
    let space = one_stage(&format!("http://{}", server.address), "");
    let began = Instant::now();
    let log = done(&space, "mirror42-fetch", &[]);
    let took = began.elapsed();
    // The date has no parts of a second.
    assert!((Duration::from_millis(1900)..Duration::from_secs(10)).contains(&took), "{took:?}");
    assert!(log.contains(": it answered 429: Spam; trying again in "), "{log}");
}

/// A fault that does not pass, and the words that end the fetch: the cause (its beginning, before a `…`), and the detail.
struct Lasting {
    path: &'static str,
    fault: &'static str,
    cause: &'static str,
    detail: &'static str,
}

const FINAL: &str = "The answer is final.";
const TRIED: &str = "It was tried 7 times.";

const OF_A_SERIES: &str = "A page of it was read 6 times, and the whole did not add up once.";

const LASTING: [Lasting; 30] = [
    Lasting {
        path: "/v2/coalitions",
        fault: "kind = 'token-expired'",
        cause: "it answered 401 application/json: Not authorized: The access token expired",
        detail: TRIED,
    },
    Lasting {
        path: "/v2/users",
        fault: "kind = 'server-error'; status = 502",
        cause: "it answered 502 text/html: 502 Bad Gateway",
        detail: TRIED,
    },
    Lasting {
        path: "/v2/cursus_users",
        fault: "kind = 'bot-403'",
        cause: "it answered 403 text/html: Just a moment...",
        detail: TRIED,
    },
    Lasting {
        path: "/v2/projects_users",
        fault: "kind = 'bot-200'",
        cause: "it answered 200 text/html: Just a moment...",
        detail: TRIED,
    },
    Lasting {
        path: "/v2/achievements_users",
        fault: "kind = 'html-404'",
        cause: "it answered 404 text/html: 404 Not Found",
        detail: TRIED,
    },
    Lasting {
        path: "/v2/coalitions_users",
        fault: "kind = 'reset'",
        cause: "the connection broke: Connection reset by peer (os error 104)",
        detail: TRIED,
    },
    Lasting { path: "/v2/cursus/21/users", fault: "kind = 'hang'", cause: "no answer in time", detail: TRIED },
    Lasting {
        path: "/v2/cursus/21/cursus_users",
        fault: "kind = 'garbage'",
        cause: "it answered what is not an array of records (expected value at line 1 column 17): [{\"id\":1,\"name\":\\u{1} %%% upstream glitch %%%\\n\\u{0}",
        detail: TRIED,
    },
    Lasting {
        path: "/v2/campus/{0}/users",
        fault: "kind = 'object'",
        cause: "it answered what is not an array of records (invalid type: map, expected an array at line 1 column 0): {\"data\":[]}",
        detail: TRIED,
    },
    Lasting {
        path: "/v2/campus/{0}/projects_users",
        fault: "kind = 'missing-total'",
        cause: "it answered without `X-Total`, so nothing tells whether the list is whole",
        detail: TRIED,
    },
    Lasting {
        path: "/v2/campus/{0}/achievements",
        fault: "kind = 'truncated'",
        cause: "its body is not whole: Peer disconnected",
        detail: TRIED,
    },
    Lasting {
        path: "/v2/campus/{1}/achievements",
        fault: "kind = 'invalid-utf8'",
        cause: "it answered text that is not UTF-8 (invalid utf-8 sequence of 1 bytes from index 18)",
        detail: TRIED,
    },
    Lasting {
        path: "/v2/campus/{2}/achievements",
        fault: "kind = 'rate-limited'; retry_after = 0",
        cause: "it answered 429 text/plain: 429 Too Many Requests (Spam Rate Limit Exceeded)",
        detail: "It was put off 20 times.",
    },
    Lasting {
        path: "/v2/campus/{3}/achievements",
        fault: "kind = 'json-error'; status = 400",
        cause: "it answered 400 application/json: Bad Request: The simulator was told to refuse this",
        detail: FINAL,
    },
    Lasting {
        path: "/v2/campus/{4}/achievements",
        fault: "kind = 'json-error'; status = 403",
        cause: "it answered 403 application/json: Bad Request: The simulator was told to refuse this",
        detail: FINAL,
    },
    Lasting {
        path: "/v2/campus/{5}/achievements",
        fault: "kind = 'json-error'; status = 404",
        cause: "it answered 404 application/json: Bad Request: The simulator was told to refuse this",
        detail: FINAL,
    },
    Lasting {
        path: "/v2/campus/{7}/achievements",
        fault: "kind = 'long-length'",
        cause: "its body is not whole: Peer disconnected",
        detail: TRIED,
    },
    Lasting {
        path: "/v2/campus/{8}/achievements",
        fault: "kind = 'short-length'",
        cause: "its body is not whole: incomplete deflate stream",
        detail: TRIED,
    },
    Lasting {
        path: "/v2/campus/{9}/achievements",
        fault: "kind = 'drip'",
        cause: "its answer did not end in time",
        detail: TRIED,
    },
    Lasting {
        path: "/v2/campus/{10}/achievements",
        fault: "kind = 'oversized'; mib = 65",
        cause: "its body is larger than 64 MiB",
        detail: FINAL,
    },
    Lasting {
        path: "/v2/campus/{11}/achievements",
        fault: "kind = 'gzip-bomb'; mib = 2000",
        cause: "its body is larger than 64 MiB",
        detail: FINAL,
    },
    Lasting {
        path: "/v2/campus/{12}/achievements",
        fault: "kind = 'corrupt-gzip'",
        cause: "its body is not the gzip it should be: corrupt deflate stream",
        detail: TRIED,
    },
    Lasting {
        path: "/v2/campus/{13}/achievements",
        fault: "kind = 'not-gzip'",
        cause: "its body is not the gzip it should be: invalid gzip header",
        detail: TRIED,
    },
    Lasting {
        path: "/v2/campus/{14}/achievements",
        fault: "kind = 'not-modified'",
        cause: "it answered 304 with an empty body",
        detail: TRIED,
    },
    Lasting {
        path: "/v2/campus/{15}/achievements",
        fault: "kind = 'redirect'",
        cause: "it redirects to https://signin.intra.42.fr/users/sign_in (302), where the token must not go",
        detail: FINAL,
    },
    Lasting {
        path: "/v2/campus/{16}/achievements",
        fault: "kind = 'redirect'; location = '/users/sign_in'",
        cause: "it redirects to /users/sign_in (302) and answers nothing itself",
        detail: TRIED,
    },
    Lasting {
        path: "/v2/campus/{17}/achievements",
        fault: "kind = 'server-error'; status = 503; retry_after = 0",
        cause: "it answered 503 text/html: 503 Service Unavailable",
        detail: "It was put off 20 times.",
    },
    Lasting {
        path: "/v2/campus/{19}/achievements",
        fault: "kind = 'json-error'; status = 408",
        cause: "it answered 408 application/json: Bad Request: The simulator was told to refuse this",
        detail: TRIED,
    },
    Lasting {
        path: "/v2/coalitions",
        fault: "kind = 'wrong-total'; page = 2",
        // Which of its pages is read first the second time is chance.
        cause: "the total was 35…",
        detail: OF_A_SERIES,
    },
    Lasting {
        path: "/v2/achievements",
        fault: "kind = 'empty-list'; page = 1",
        cause: "page 1 of 11 has 0 records, not 100",
        detail: OF_A_SERIES,
    },
];

#[test]
fn a_fault_that_lasts_is_named_and_changes_nothing() {
    // Each group with a simulator and a folder of its own, since a 429 stops all, a refused token is refused to all, and
    // patience is lost by those who need it; all at once, since they wait most of the time.
    let group = |case: &Lasting| match case.fault {
        fault if fault.contains("rate-limited") || fault.contains("retry_after") => 1,
        fault if fault.contains("token-expired") => 2,
        fault if fault.contains("hang") || fault.contains("drip") => 3,
        _ => 0,
    };
    std::thread::scope(|scope| {
        for number in 0..=3 {
            let cases: Vec<&Lasting> = LASTING.iter().filter(|case| group(case) == number).collect();
            scope.spawn(move || last(&cases));
        }
        scope.spawn(nobody_is_there);
    });
}

fn last(cases: &[&Lasting]) {
    let simulator = Simulator::start("");
    let api = include_str!("../../pipeline.toml").split("[[stage]]").next().unwrap();
    let is_about_time = cases.iter().any(|case| ["hang", "drip"].iter().any(|kind| case.fault.contains(kind)));
    // Only where time is the matter is it short: 65 MiB on a busy machine take longer.
    let api = if is_about_time { api.replace("30s", "500ms") } else { api.to_owned() };
    let campuses = simulator.table("campuses");
    let paths: Vec<String> = cases
        .iter()
        .map(|case| match case.path.split_once('{') {
            Some((before, rest)) => {
                let (nth, after) = rest.split_once('}').unwrap();
                format!("{before}{}{after}", campuses[nth.parse::<usize>().unwrap()]["id"])
            }
            None => case.path.to_owned(),
        })
        .collect();
    let stage =
        |(i, path): (usize, &String)| format!("[[stage]]\nname = \"s{i}\"\nfetch = \"{path}\"\nkey = [\"id\"]\n");
    let stages: String = paths.iter().enumerate().map(stage).collect();
    let space = simulator.space(&(api + &stages));
    done(&space, "mirror42-fetch", &["-q"]);
    done(&space, "mirror42-extract", &["-q"]);
    let before = files(&space.paths().exports());
    let fault = |(case, path): (&&Lasting, &String)| format!("{}; path = '{path}$'; times = 0", case.fault);
    let faults: Vec<String> = cases.iter().zip(&paths).map(fault).collect();
    simulator.faults(&faults.iter().map(String::as_str).collect::<Vec<_>>());

    let spawn = |i: usize| space.spawn("mirror42-fetch", &[&format!("s{i}")]);
    let processes: Vec<Child> = (0..cases.len()).map(spawn).collect();
    let mut wrong = Vec::new();
    for ((case, path), process) in cases.iter().zip(&paths).zip(processes) {
        let text = message(&ended(process, 1));
        let of_series = case.detail.contains("whole");
        let (what, page) = if of_series { ("read", "` whole") } else { ("fetch", "?page=1&per_page=100`") };
        let start = format!("could not {what} `{}{path}{page}: {}", simulator.url, case.cause);
        let end = format!("\n  detail: {}\n  detail: The pages of the last good fetch are kept.\n", case.detail);
        let is_as_foretold = match start.strip_suffix('…') {
            Some(start) => text.starts_with(start) && text.ends_with(&end) && text.lines().count() == 3,
            None => text == format!("{start}{end}"),
        };
        if !is_as_foretold {
            wrong.push(format!("{}: expected\n{start}{end}found\n{text}", case.fault));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let mut after = files(&space.paths().exports());
    after.retain(|name, _| !name.contains("pages.new"));
    assert!(before == after, "{:?}", after.keys());
}

/// No server, one that takes connections and says nothing, no host: each may come to life, and is waited for.
fn nobody_is_there() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let expected = [
        (format!("http://{closed}"), "no server is there: Connection refused (os error 111)"),
        (format!("https://{}", silent.local_addr().unwrap()), "no connection in time"),
        // What the resolver says more depends on the machine.
        ("http://no-such-host.invalid".to_owned(), "its host is not found: failed to lookup address information: "),
    ];
    let processes = expected.map(|(url, cause)| {
        let space = one_stage(&url, "");
        let process = space.spawn("mirror42-fetch", &[]);
        (space, process, format!("could not fetch `{url}/things?page=1&per_page=100`: {cause}"))
    });
    for (_space, process, start) in processes {
        let text = message(&ended(process, 1));
        let end = "\n  detail: It was tried 7 times.\n  detail: No page is kept.\n";
        assert!(text.starts_with(&start) && text.ends_with(end), "expected\n{start} … {end}found\n{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
    }
}

pub fn ended(process: Child, code: i32) -> String {
    let output = process.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    stderr
}

#[test]
fn a_final_answer_is_asked_for_once_and_a_first_fetch_leaves_no_pages() {
    let simulator = Simulator::start("");
    let space = simulator.project();
    simulator.faults(&["kind = 'json-error'; status = 404; times = 0"]);
    assert_eq!(
        failed(&space, "mirror42-fetch", &["08_coalitions"], 1),
        format!(
            "could not fetch `{}/v2/coalitions?page=1&per_page=100`: it answered 404 application/json: Bad Request: The \
             simulator was told to refuse this\n  detail: The answer is final.\n  detail: No page is kept.\n",
            simulator.url
        )
    );
    assert_eq!(simulator.stats()["requests"]["coalitions"], 1);
    assert!(!space.paths().pages("08_coalitions").exists() && !space.paths().receipt("08_coalitions").exists());
}

#[test]
fn a_redirect_is_refused_and_the_token_is_not_sent_on() {
    let elsewhere = Server::start("127.0.0.1:0", |_| Reply::json("[]").with("X-Total", 0));
    let simulator = Simulator::start("");
    let space = simulator.project();
    simulator.faults(&[&format!("kind = 'redirect'; location = 'http://{}/sign_in'", elsewhere.address)]);
    assert_eq!(
        failed(&space, "mirror42-fetch", &["08_coalitions"], 1),
        format!(
            "could not fetch `{}/v2/coalitions?page=1&per_page=100`: it redirects to http://{}/sign_in (302), where the \
             token must not go\n  detail: The answer is final.\n  detail: No page is kept.\n",
            simulator.url, elsewhere.address
        )
    );
    assert_eq!(elsewhere.requests(), 0);
}

#[test]
fn a_failure_ends_the_waits_of_the_other_requests() {
    // The first page of one series is put off for an hour, while that of the other is refused.
    let server = Server::start("127.0.0.1:0", |path| match path.starts_with("/things/1/") {
        true => {
            // By then the other request is on its way, however busy the machine is.
            std::thread::sleep(Duration::from_millis(500));
            Reply::json("[]")
                .with("X-Hourly-RateLimit-Limit", 1)
                .with("X-Hourly-RateLimit-Remaining", 0)
                .with("X-Total", 0)
        }
        false => {
            std::thread::sleep(Duration::from_millis(1000));
            Reply { status: 404, ..Reply::json("{}") }
        }
    });
    let parts = "[[stage]]\nname = \"parts\"\nfetch = \"/things/{id}/parts\"\neach = \"things\"\nkey = [\"id\"]\n";
    let space = one_stage(&format!("http://{}", server.address), parts);
    space.write(
        "pipeline.toml",
        &fs::read_to_string(space.path().join("pipeline.toml"))
            .unwrap()
            .replace("timeout", "limits = { in_flight = 2 }\ntimeout"),
    );
    space.export("things", &[r#"{"id":1}"#, r#"{"id":2}"#, r#"{"id":3}"#]);
    let began = Instant::now();
    // Whether the page of the first had been noted by then is chance.
    let text = failed(&space, "mirror42-fetch", &["parts"], 1);
    let start = format!(
        "could not fetch `http://{}/things/2/parts?page=1&per_page=100`: it answered 404 application/json: {{}}\n  \
         detail: The answer is final.\n",
        server.address
    );
    assert!(text.starts_with(&start), "{text}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_total_that_cannot_be_is_refused() {
    let server =
        Server::start("127.0.0.1:0", |_| Reply::json("[{\"id\":1}]").with("X-Total", u64::MAX).with("X-Per-Page", 1));
    let parts = "[[stage]]\nname = \"parts\"\nfetch = \"/things/{id}/parts\"\neach = \"things\"\nkey = [\"id\"]\n";
    let space = one_stage(&format!("http://{}", server.address), parts);
    space.export("things", &[r#"{"id":1}"#, r#"{"id":2}"#]);
    let text = failed(&space, "mirror42-fetch", &["parts"], 1);
    let end = "whole: the total is 18446744073709551615\n  detail: A page of it was read 6 times, and the whole did not \
               add up once.\n  detail: No page is kept.\n";
    assert!(text.ends_with(end), "{text}");
}

#[test]
fn a_server_that_gives_smaller_pages_without_a_word_is_found_out() {
    let server = Server::start("127.0.0.1:0", |_| {
        let records: Vec<String> = (0..30).map(|id| format!("{{\"id\":{id}}}")).collect();
        Reply::json(format!("[{}]", records.join(","))).with("X-Total", 60)
    });
    let space = one_stage(&format!("http://{}", server.address), "");
    assert_eq!(
        failed(&space, "mirror42-fetch", &["things"], 1),
        format!(
            "could not read `http://{}/things` whole: a record of page 1 came again on page 2\n  detail: A page of it was \
             read 6 times, and the whole did not add up once.\n  detail: No page is kept.\n",
            server.address
        )
    );
}

#[test]
fn a_fixed_token_that_is_refused_is_not_tried_again() {
    let server =
        Server::start("127.0.0.1:0", |_| Reply { status: 401, ..Reply::json(r#"{"error":"Not authorized"}"#) });
    let space = one_stage("http://127.0.0.1:1", "")
        .with("TOKEN", "fixed")
        .with("MIRROR42_API_URL", &format!("http://{}", server.address));
    let text = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    space.write(
        "pipeline.toml",
        &text.replace("timeout", "auth = { kind = \"bearer\", token_env = \"TOKEN\" }\ntimeout"),
    );
    assert_eq!(
        failed(&space, "mirror42-fetch", &[], 1),
        format!(
            "could not fetch `http://{}/things?page=1&per_page=100`: it answered 401 application/json: Not authorized\n  \
             detail: The answer is final.\n  detail: No page is kept.\n",
            server.address
        )
    );
    assert_eq!(server.requests(), 1);
}

#[test]
fn credentials_that_are_wrong_or_missing_are_told() {
    let simulator = Simulator::start("");
    let space = simulator.project().with("FT_CLIENT_SECRET", "wrong");
    let text = failed(&space, "mirror42-fetch", &["08_coalitions"], 1);
    let start = format!(
        "could not get a token from `{}/oauth/token`: it answered 401 application/json: invalid_client: ",
        simulator.url
    );
    let end = "\n  detail: The answer is final.\n  detail: No page is kept.\n  hint: Check the client id and the client secret.\n";
    assert!(text.starts_with(&start) && text.ends_with(end), "{text}");
    let space = Space::new().file("pipeline.toml", include_str!("../../pipeline.toml"));
    assert_eq!(
        failed(&space, "mirror42-fetch", &["08_coalitions"], 2),
        "the API's client id is not set\n  hint: Put it into the environment variable `FT_CLIENT_ID`, or into a file \
         `.env` beside the pipeline (mode 0600).\n"
    );
}

#[test]
fn stages_and_limits_that_do_not_exist_are_told() {
    let space = Space::new().file("pipeline.toml", include_str!("../../pipeline.toml"));
    assert_eq!(
        failed(&space, "mirror42-fetch", &["08_coalition"], 2),
        "no stage is called `08_coalition`\n  at: pipeline.toml\n  hint: Did you mean `08_coalitions`?\n"
    );
    let space = space.with("FT_CLIENT_ID", "a").with("FT_CLIENT_SECRET", "b");
    assert_eq!(
        failed(&space, "mirror42-fetch", &["06_campus_projects"], 2),
        "stage `06_campus_projects` fetches nothing: it has `from`\n  at: pipeline.toml:79\n"
    );
    assert_eq!(
        failed(&space, "mirror42-fetch", &["03_achievements"], 1),
        "stage `03_achievements` fetches once per record of `exports/02_campus/all.json`, which is not there\n  \
         at: pipeline.toml:43\n  hint: Run `mirror42-fetch 02_campus` and `mirror42-extract 02_campus` first, or \
         `mirror42 run`.\n"
    );
    let wrong = [
        (
            "in_flight = 40",
            "in_flihgt = 8",
            "unknown key `in_flihgt` in `[api.limits]`\n  at: pipeline.toml:15:47\n  hint: Did you mean `in_flight`?\n",
        ),
        (
            "in_flight = 40",
            "in_flight = 257",
            "`api.limits.in_flight` is 257, expected a whole number from 1 to 256\n  at: pipeline.toml:15:59\n",
        ),
        (
            "https://api",
            "https://me:secret@api",
            "`api.base_url` holds a user or a password, which would show in messages\n  at: pipeline.toml:13:12\n",
        ),
        (
            "https://api.intra.42.fr",
            "api.intra.42.fr",
            "`api.base_url` is \"api.intra.42.fr\", expected an address that begins with `https://` or `http://`\n  \
             at: pipeline.toml:13:12\n",
        ),
        (
            "duplicates",
            "duplicate ",
            "unknown key `duplicate` in `[stage]`\n  at: pipeline.toml:55:1\n  hint: Did you mean `duplicates`?\n",
        ),
    ];
    for (good, bad, text) in wrong {
        space.write("pipeline.toml", &include_str!("../../pipeline.toml").replacen(good, bad, 1));
        assert_eq!(failed(&space, "mirror42-fetch", &[], 2), text);
    }
}

#[test]
fn a_request_that_is_under_way_when_its_series_breaks_is_waited_for() {
    let simulator = Simulator::start("");
    let space = simulator.project();
    simulator.faults(&["kind = 'wrong-total'; page = 2", "kind = 'slow'; ms = 400; page = 4"]);
    done(&space, "mirror42-fetch", &["08_coalitions"]);
    done(&space, "mirror42-extract", &["08_coalitions"]);
    assert_mirrors(&space, &simulator, "08_coalitions");
    assert_eq!(files(&space.paths().pages("08_coalitions")).len(), 4);
    wait_until("nothing is under way", || simulator.stats()["in_flight"] == 0);
}
