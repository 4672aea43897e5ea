//! A person's tokens: had by a login, replaced at every refresh, and never lost.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use serde_json::Value;

use crate::fetch::{assert_mirrors, done, failed, files, message, names};
use crate::simulator::{CLIENT_SECRET, Reply, Server, Simulator};
use crate::space::{Outcome, Space, wait_until};

/// The project's pipeline, with a person's tokens.
fn pipeline(more: &str) -> String {
    let application = "client_secret_env = \"FT_CLIENT_SECRET\"";
    let person = format!("{application}, grant = \"refresh_token\"{more}");
    let text = include_str!("../../pipeline.toml").replacen(application, &person, 1);
    assert!(text.contains("refresh_token"));
    text
}

/// Logs in, giving `answer` for the address that is to be opened; tells what the login printed after that address.
fn login(space: &Space, answer: impl FnOnce(&str) -> String) -> Outcome {
    let mut command = space.command("mirror42-token", &["login", "-v"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut stdout = BufReader::new(process.stdout.take().unwrap());
    let mut lines = stdout.by_ref().lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("Open this address in a browser, and allow the access:"));
    assert_eq!(lines.next().as_deref(), Some(""));
    let address = lines.next().unwrap();
    assert_eq!(lines.next().as_deref(), Some(""));
    let prompt = "Then give the code that you see, or the whole address that the browser ends at:";
    assert_eq!(lines.next().as_deref(), Some(prompt));
    writeln!(process.stdin.take().unwrap(), "{}", answer(&address)).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    let output = process.wait_with_output().unwrap();
    Outcome { code: output.status.code(), stdout: rest, stderr: String::from_utf8(output.stderr).unwrap() }
}

/// The page that a browser shows at `address`, and where it is sent.
fn open(address: &str) -> (String, String) {
    let request = ureq::get(address).config().max_redirects(0).max_redirects_will_error(false).build();
    let mut response = request.call().unwrap();
    let location = response.headers().get("location").map_or("", |value| value.to_str().unwrap()).to_owned();
    (response.body_mut().read_to_string().unwrap().trim().to_owned(), location)
}

/// A space in which a person has logged in.
fn logged_in(simulator: &Simulator) -> Space {
    let space = simulator.space(&pipeline(""));
    assert_eq!(space.run("mirror42-token", &["login", "--code", "sim-code"]).code, Some(0));
    space
}

fn text(space: &Space) -> String {
    fs::read_to_string(space.paths().token()).unwrap()
}

/// The only token that is kept.
fn kept(space: &Space) -> Value {
    let mut content: Value = serde_json::from_str(&text(space)).unwrap();
    let tokens = content["tokens"].as_array_mut().unwrap();
    assert_eq!(tokens.len(), 1, "{tokens:?}");
    tokens.remove(0)
}

/// Changes a member of the only token that is kept.
fn change(space: &Space, member: &str, value: impl Into<Value>) {
    let mut token = kept(space);
    assert!(token.get(member).is_some());
    token[member] = value.into();
    space.write(".mirror42/token.json", &serde_json::json!({ "tokens": [token] }).to_string());
}

#[test]
fn a_person_logs_in_once_and_is_not_asked_again() {
    let simulator = Simulator::start("");
    let space = simulator.space(&pipeline(", scope = \"public projects\""));
    assert_eq!(
        failed(&space, "mirror42-fetch", &["02_campus"], 1),
        "there is no refresh token for this API and this client id\n  detail: No page is kept.\n  hint: Run `mirror42-token login`.\n"
    );
    assert_eq!(
        failed(&space, "mirror42-token", &["info"], 1),
        "there is no token for this API and this client id\n  hint: Run `mirror42-token login` to get one.\n"
    );
    assert_eq!(simulator.stats()["requests_in_all"], 0);
    let mut told = Vec::new();
    let outcome = login(&space, |address| {
        let (before_state, state) = address.split_once("&state=").unwrap();
        assert_eq!(
            before_state,
            format!(
                "{}/oauth/authorize?client_id=sim-uid&redirect_uri=urn%3Aietf%3Awg%3Aoauth%3A2.0%3Aoob\
                 &response_type=code&scope=public%20projects",
                simulator.url
            )
        );
        assert_eq!(state.len(), 32);
        let (code, _) = open(address);
        told.extend([code.clone(), state.to_owned()]);
        code
    });
    let good = "the token is good for 7200 s (2h); grant: refresh_token, with a refresh token\n".to_owned();
    assert_eq!(outcome, Outcome { code: Some(0), stdout: good, stderr: String::new() });
    assert_eq!(fs::metadata(space.paths().token()).unwrap().permissions().mode() & 0o777, 0o600);
    done(&space, "mirror42-fetch", &["02_campus"]);
    let mut refresh_tokens = Vec::new();
    for _ in 0..3 {
        let token = kept(&space);
        for member in ["access_token", "refresh_token"] {
            let text = token[member].as_str().unwrap().to_owned();
            assert!(!refresh_tokens.contains(&text), "{member} is another each time");
            refresh_tokens.push(text);
        }
        done(&space, "mirror42-token", &["refresh"]);
        done(&space, "mirror42-token", &["ensure"]);
    }
    assert_eq!(simulator.stats()["tokens_issued"], 4, "none but by a login and three refreshes");
    let info = space.run("mirror42-token", &["info", "--json"]);
    let info: Value = serde_json::from_str(&info.stdout).unwrap();
    assert_eq!((&info["grant"], &info["has_refresh_token"]), (&"refresh_token".into(), &true.into()), "{info}");
    let mut written = files(space.path());
    written.remove(".mirror42/token.json");
    for secret in told.iter().chain(&refresh_tokens).map(String::as_str).chain([CLIENT_SECRET]) {
        let holds = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(secret);
        assert_eq!(written.iter().find(|(_, bytes)| holds(bytes)).map(|(name, _)| name), None);
    }
}

#[test]
fn the_address_that_the_browser_ends_at_is_taken_whole_if_it_answers_this_login() {
    let simulator = Simulator::start("");
    let space = simulator.space(&pipeline(", redirect_uri = \"http://localhost:1/done\""));
    let outcome = login(&space, |address| open(address).1);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
    let before = text(&space);
    let refused = |answer: &dyn Fn(&str) -> String| {
        let Outcome { code, stdout, stderr } = login(&space, answer);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        message(&stderr)
    };
    let again = "  hint: Run `mirror42-token login` again.\n";
    let other = |address: &str| open(&address.replace("&state=", "&state=0")).1;
    assert_eq!(
        refused(&other),
        format!(
            "the address answers another login: its `state` is not the one that was sent\n  \
             detail: The code in it was not used.\n{again}"
        )
    );
    let denied = "http://localhost:1/done?error=access_denied&error_description=The+owner+denied+the+request.";
    assert_eq!(
        refused(&|_| denied.to_owned()),
        format!("the API gave no code: access_denied\n  detail: The owner denied the request.\n{again}")
    );
    assert_eq!(refused(&|_| String::new()), format!("no code was given\n{again}"));
    assert_eq!(simulator.stats()["requests"]["token"], 1);
    assert_eq!(text(&space), before);
}

#[test]
fn a_code_works_once() {
    let simulator = Simulator::start("");
    let space = simulator.space(&pipeline(""));
    let mut code = String::new();
    let outcome = login(&space, |address| {
        code = open(address).0;
        code.clone()
    });
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let before = text(&space);
    let told = failed(&space, "mirror42-token", &["login", "--code", &code], 1);
    let start = format!(
        "could not exchange the code at `{}/oauth/token`: it answered 400 application/json: invalid_grant: ",
        simulator.url
    );
    let end = "\n  detail: It was sent once: a code works once.\n  detail: The tokens that were kept are as they were.\n  \
               hint: Run `mirror42-token login` again, for a new code.\n";
    assert!(told.starts_with(&start) && told.ends_with(end), "{told}");
    assert_eq!(text(&space), before);
    assert_eq!(simulator.stats()["requests"]["token"], 2);
    // Not sent again either when nobody knows whether it was used.
    simulator.faults(&["kind = 'reset'; path = '/oauth/token'"]);
    let told = failed(&space, "mirror42-token", &["login", "--code", "sim-code"], 1);
    let start = format!("could not exchange the code at `{}/oauth/token`: the connection broke: ", simulator.url);
    assert!(told.starts_with(&start) && told.ends_with(end), "{told}");
    assert_eq!(simulator.stats()["requests"]["token"], 3);
}

#[test]
fn a_login_that_cannot_be_is_a_usage_error() {
    let space = Space::new().with("FT_CLIENT_ID", "a").with("FT_CLIENT_SECRET", "b");
    space.write("pipeline.toml", include_str!("../../pipeline.toml"));
    assert_eq!(
        failed(&space, "mirror42-token", &["login"], 2),
        "`api.auth` has the grant \"client_credentials\", which needs no login\n  at: pipeline.toml\n  \
         hint: Run `mirror42-token ensure`.\n"
    );
    space.write("pipeline.toml", &pipeline(""));
    for address in ["http://localhost/?code=a&state=b", "code=a"] {
        assert_eq!(
            failed(&space, "mirror42-token", &["login", "--code", address], 2),
            "`--code` is an address, expected the code in it\n  \
             hint: Without `--code`, the whole address is read from the standard input, and checked.\n"
        );
    }
}

#[test]
fn a_refresh_token_that_is_refused_asks_for_a_login() {
    let simulator = Simulator::start("");
    let space = logged_in(&simulator);
    change(&space, "refresh_token", "another-one-that-is-spent");
    let before = text(&space);
    let told = failed(&space, "mirror42-token", &["refresh"], 1);
    let start = format!(
        "could not get a token from `{}/oauth/token`: it answered 400 application/json: invalid_grant: ",
        simulator.url
    );
    let end = "\n  detail: The answer is final.\n  detail: The tokens that were kept are as they were.\n  \
               hint: Run `mirror42-token login`: the refresh token works no more.\n";
    assert!(told.starts_with(&start) && told.ends_with(end), "{told}");
    assert_eq!(text(&space), before);
    let space = space.with("FT_CLIENT_SECRET", "not-the-right-one");
    let told = failed(&space, "mirror42-token", &["refresh"], 1);
    assert!(told.ends_with("  hint: Check the client id and the client secret.\n"), "{told}");
}

#[test]
fn a_refresh_without_an_answer_keeps_the_tokens() {
    let simulator = Simulator::start("");
    let space = logged_in(&simulator);
    let before = text(&space);
    simulator
        .faults(&["kind = 'reset'; path = '/oauth/token'", "kind = 'truncated'; path = '/oauth/token'; after = 1"]);
    let mut refresh = space.spawn("mirror42-token", &["refresh"]);
    wait_until("the reset is told", || {
        let log = fs::read_to_string(space.paths().log("token")).unwrap_or_default();
        log.contains("the connection broke") && log.contains("trying again")
    });
    assert_eq!(text(&space), before);
    // Killed while it waits: what it had made of the file goes with the next one.
    refresh.kill().unwrap();
    refresh.wait().unwrap();
    simulator.faults(&[]);
    assert!(names(&space.paths().state()).iter().any(|name| name.starts_with(".tmp-token.json-")));
    space.write(".mirror42/.tmp-other", "another writer's, with another lock");
    done(&space, "mirror42-token", &["refresh"]);
    let left: Vec<String> =
        names(&space.paths().state()).into_iter().filter(|name| name.starts_with(".tmp-")).collect();
    assert_eq!(left, [".tmp-other"]);
    assert_ne!(text(&space), before);
}

#[test]
fn killed_while_the_server_answers_it_works_the_next_time() {
    let simulator = Simulator::start("");
    let space = logged_in(&simulator);
    for verb in ["refresh", "refresh"] {
        let before = text(&space);
        simulator.hold("/oauth/token");
        let mut refresh = space.spawn("mirror42-token", &[verb]);
        wait_until("the answer is held", || simulator.stats()["held"] == 1);
        refresh.kill().unwrap();
        refresh.wait().unwrap();
        wait_until("the server sees that nobody listens", || simulator.stats()["held"] == 0);
        simulator.release();
        assert_eq!(text(&space), before);
        done(&space, "mirror42-token", &["refresh"]);
        assert_ne!(text(&space), before);
    }
}

#[test]
fn killed_after_it_wrote_the_answer_it_goes_on_from_there() {
    let simulator = Simulator::start("");
    let space = logged_in(&simulator);
    let before = text(&space);
    done(&space, "mirror42-token", &["refresh"]);
    // As it stands between the write and the rename.
    space.write(".mirror42/.tmp-token.json-1", &format!("{}    ", text(&space)));
    space.write(".mirror42/token.json", &before);
    done(&space, "mirror42-token", &["refresh"]);
    let left: Vec<String> =
        names(&space.paths().state()).into_iter().filter(|name| name.starts_with(".tmp-")).collect();
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn requests_under_way_share_one_refresh_when_their_token_expires() {
    let simulator = Simulator::start("--latency 50ms");
    let space = logged_in(&simulator);
    done(&space, "mirror42-fetch", &["02_campus"]);
    done(&space, "mirror42-extract", &["02_campus"]);
    simulator.reset_stats();
    simulator.faults(&["kind = 'token-expired'; after = 20"]);
    done(&space, "mirror42-fetch", &["03_achievements"]);
    let stats = simulator.stats();
    assert_eq!((&stats["requests"]["token"], &stats["tokens_issued"]), (&1.into(), &2.into()), "{stats}");
    assert!(stats["unauthorized"].as_u64().unwrap() <= 8, "no more than were under way: {stats}");
    done(&space, "mirror42-extract", &["03_achievements", "04_campus_achievements"]);
    assert_mirrors(&space, &simulator, "03_achievements");
}

#[test]
fn two_processes_never_refresh_at_once() {
    let simulator = Simulator::start("");
    let space = logged_in(&simulator);
    let refreshes: Vec<_> = (0..6).map(|_| space.spawn("mirror42-token", &["refresh"])).collect();
    for refresh in refreshes {
        let output = refresh.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(simulator.stats()["tokens_issued"], 7);
    done(&space, "mirror42-token", &["refresh"]);
}

#[test]
fn a_login_is_not_lost_to_another_api_grant_or_secret() {
    let simulator = Simulator::start("");
    let space = logged_in(&simulator);
    let login = kept(&space);
    let other = Simulator::start("");
    let elsewhere = ["--api-url", &other.url];
    assert_eq!(
        failed(&space, "mirror42-token", &[&elsewhere[..], &["ensure"]].concat(), 1),
        "there is no refresh token for this API and this client id\n  hint: Run `mirror42-token login`.\n"
    );
    space.write("pipeline.toml", include_str!("../../pipeline.toml"));
    done(&space, "mirror42-token", &["ensure"]);
    done(&space, "mirror42-token", &[&elsewhere[..], &["ensure"]].concat());
    let content: Value = serde_json::from_str(&text(&space)).unwrap();
    assert_eq!((content["tokens"].as_array().unwrap().len(), &content["tokens"][0]), (3, &login));
    space.write("pipeline.toml", &pipeline(""));
    done(&space, "mirror42-token", &["refresh"]);

    // A secret that was made anew is the same application's.
    let space = logged_in(&simulator);
    change(&space, "secret_sha256", "that of the old secret");
    let before = kept(&space);
    assert_eq!(
        space.run("mirror42-token", &["info"]).stdout,
        "the token is spent; grant: refresh_token, with a refresh token\n"
    );
    done(&space, "mirror42-token", &["ensure"]);
    assert_ne!(kept(&space)["refresh_token"], before["refresh_token"]);
}

#[test]
fn a_token_file_that_is_not_understood_is_not_written_over() {
    let simulator = Simulator::start("");
    let space = logged_in(&simulator).file(".mirror42/token.json", "{\"tokens\":[{\"refresh_token\":\"hush");
    assert_eq!(
        failed(&space, "mirror42-token", &["ensure"], 1),
        "cannot understand `./.mirror42/token.json`\n  \
         detail: It is not written over, since it may hold a refresh token.\n  hint: Delete it. Where `api.auth` has \
         `grant = \"refresh_token\"`, run `mirror42-token login` then.\n"
    );
    assert!(text(&space).ends_with("hush"));
}

#[test]
fn a_full_disk_is_noticed_before_the_refresh_token_is_spent() {
    let simulator = Simulator::start("");
    let space = logged_in(&simulator);
    let before = text(&space);
    // A file of more than 32 or 64 KiB cannot be written, as on a disk without room.
    let program = space.command("mirror42-token", &[]).get_program().to_string_lossy().into_owned();
    let script = format!("trap '' XFSZ; ulimit -f 64; exec '{program}' refresh -q");
    let mut command = std::process::Command::new("sh");
    let environment = space.command("mirror42-token", &[]);
    command.args(["-c", &script]).current_dir(space.path());
    command.envs(environment.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().unwrap();
    assert_eq!(
        (output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()),
        (Some(1), "mirror42-token: error: could not write `./.mirror42/token.json`: file too large (os error 27)\n")
    );
    assert_eq!((simulator.stats()["requests"]["token"].as_u64(), text(&space)), (Some(1), before));
    done(&space, "mirror42-token", &["refresh"]);
}

#[test]
fn the_end_of_the_secret_is_told_once_a_day() {
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * 10);
    let simulator = Simulator::start(&format!("--secret-valid-until {}", end.as_second()));
    let space = logged_in(&simulator);
    let refreshed = || space.run("mirror42-token", &["refresh", "-q"]).stderr;
    assert_eq!(refreshed(), "", "the login has told it");
    let now_s = jiff::Timestamp::now().as_second();
    for (ago_s, tells) in [(23 * 3600, false), (24 * 3600, true)] {
        change(&space, "secret_told_at_s", now_s - ago_s);
        let warning = format!(
            " token: warning: the application's secret stops working at {end:.0}: make a new one in the API's settings\n"
        );
        let stderr = refreshed();
        assert_eq!(stderr.ends_with(&warning), tells, "{stderr}");
        assert_eq!(stderr.is_empty(), !tells, "{stderr}");
    }
    assert_eq!(refreshed(), "");
}

#[test]
fn without_a_refresh_token_the_token_is_used_to_its_end() {
    let server = Server::hearing("127.0.0.1:0", |request| match request.path.as_str() {
        "/oauth/token" => Reply::json(r#"{"access_token":"0nly-this","expires_in":1000}"#),
        _ => Reply::json("[{\"id\":1}]").with("X-Total", 1),
    });
    let space =
        Simulator::start("").space(&pipeline("")).with("MIRROR42_API_URL", &format!("http://{}", server.address));
    let outcome = space.run("mirror42-token", &["login", "--code", "a-code"]);
    assert_eq!(
        (outcome.code, outcome.stdout.as_str()),
        (Some(0), "the token is good for 1000 s (16m 40s); grant: refresh_token, without a refresh token\n")
    );
    let warning = " token: warning: the API gave no refresh token: log in again when this token is spent\n";
    assert!(outcome.stderr.ends_with(warning), "{}", outcome.stderr);
    change(&space, "asked_at_s", 0);
    done(&space, "mirror42-token", &["ensure"]);
    assert_eq!(server.requests(), 1);
    change(&space, "expires_at_s", 0);
    assert_eq!(
        failed(&space, "mirror42-token", &["ensure"], 1),
        "there is no refresh token for this API and this client id\n  hint: Run `mirror42-token login`.\n"
    );
}

#[test]
fn a_server_that_keeps_the_refresh_token_may_leave_it_out() {
    let server = Server::hearing("127.0.0.1:0", |request| match request.body.contains("grant_type=refresh_token") {
        true if !request.body.contains("refresh_token=st4ys") => Reply { status: 400, ..Reply::json("{}") },
        true => Reply::json(r#"{"access_token":"sec0nd-one","expires_in":"7200","refresh_token":""}"#),
        false => Reply::json(r#"{"access_token":"f1rst-one","expires_in":7200,"refresh_token":"st4ys-the-same"}"#),
    });
    let space =
        Simulator::start("").space(&pipeline("")).with("MIRROR42_API_URL", &format!("http://{}", server.address));
    assert_eq!(space.run("mirror42-token", &["login", "--code", "a-code"]).code, Some(0));
    for _ in 0..2 {
        done(&space, "mirror42-token", &["refresh"]);
        let token = kept(&space);
        assert_eq!((&token["access_token"], &token["refresh_token"]), (&"sec0nd-one".into(), &"st4ys-the-same".into()));
    }
}

#[test]
fn a_server_that_repeats_a_request_for_a_token_is_not_repeated() {
    const CODE: &str = "c0de/of+a-person";
    const REFRESH_TOKEN: &str = "r3fresh/token+of-a-person";
    let server = Server::hearing("127.0.0.1:0", |request| match request.body.as_str() {
        body if body.contains("first-c0de") => Reply::json(format!(
            r#"{{"access_token":"acc3ss-token-of-a-person","expires_in":7200,"refresh_token":"{REFRESH_TOKEN}"}}"#
        )),
        // A form as it came, and as a server reads it.
        body => {
            let code = if body.contains("code=") { CODE } else { "" };
            let said = format!("{body} {code} {REFRESH_TOKEN} {CLIENT_SECRET}");
            let reply = Reply::json(serde_json::json!({ "error": "invalid_grant", "message": said }).to_string());
            Reply { status: 400, ..reply }
        }
    });
    let space =
        Simulator::start("").space(&pipeline("")).with("MIRROR42_API_URL", &format!("http://{}", server.address));
    let first = login(&space, |_| "first-c0de-of-a-person".to_owned());
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let mut outcomes = vec![login(&space, |_| CODE.to_owned()), first];
    outcomes.push(space.run("mirror42-token", &["refresh", "-v"]));
    let mut text: String = outcomes.iter().map(|outcome| format!("{}{}", outcome.stdout, outcome.stderr)).collect();
    assert_eq!(text.matches("code=(secret)").count(), 1, "{text}");
    assert_eq!(text.matches("refresh_token=(secret)").count(), 1, "{text}");
    let mut written = files(space.path());
    written.remove(".mirror42/token.json");
    written.values().for_each(|bytes| text.push_str(&String::from_utf8_lossy(bytes)));
    for piece in ["c0de", "r3fresh", "acc3ss", "s3cret", "0f-the-application"] {
        assert!(!text.contains(piece), "{piece}: {text}");
    }
}
