//! How requests are authorized, what else they carry, and that nobody is told.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mirror42::pipeline::Pipeline;

use crate::fetch::{done, failed, files};
use crate::simulator::{Reply, Request, Server};
use crate::space::{Space, wait_until};

const USER: &str = "someone";
const PASSWORD: &str = "p4ss/word \"of\" it";
// Those two as RFC 7617 joins them.
const BASIC: &str = "c29tZW9uZTpwNHNzL3dvcmQgIm9mIiBpdA==";
const TOKEN: &str = "t0ken-of-the-api.a/b+c==";
const KEY: &str = "k3y of the api";
const CLIENT_SECRET: &str = "s3cret+of/the&application";
const ACCESS_TOKEN: &str = "acc3ss-token-of-the-application";
const REFRESH_TOKEN: &str = "r3fresh-token-of-a-person";

/// The kinds that hold a secret: `api.auth`, the header that is sent, and what nobody may be told.
const KINDS: [(&str, &str, &str, &[&str]); 5] = [
    ("kind = 'bearer', token_env = 'TOKEN'", "Authorization", "Bearer t0ken-of-the-api.a/b+c==", &[TOKEN]),
    (
        "kind = 'basic', user_env = 'USER', password_env = 'PASSWORD'",
        "Authorization",
        "Basic c29tZW9uZTpwNHNzL3dvcmQgIm9mIiBpdA==",
        &[PASSWORD, BASIC],
    ),
    ("kind = 'header', name = 'X-Api-Key', value_env = 'KEY'", "X-Api-Key", KEY, &[KEY]),
    (
        "kind = 'oauth2', token_path = '/token', client_id_env = 'ID', client_secret_env = 'CLIENT_SECRET'",
        "Authorization",
        "Bearer acc3ss-token-of-the-application",
        &[CLIENT_SECRET, ACCESS_TOKEN, REFRESH_TOKEN],
    ),
    (
        "kind = 'oauth2', token_path = '/token', client_id_env = 'ID', client_secret_env = 'CLIENT_SECRET', \
         grant = 'refresh_token'",
        "Authorization",
        "Bearer acc3ss-token-of-the-application",
        &[CLIENT_SECRET, ACCESS_TOKEN, REFRESH_TOKEN],
    ),
];

/// A project with the secrets of all kinds, and stages of one request each.
fn project(address: &str, auth: &str, api: &str, paths: &[&str]) -> Space {
    let mut pipeline = format!(
        "[pipeline]\nname = 't'\n[api]\nbase_url = 'http://{address}'\nauth = {{ {auth} }}\npage = {{ style = 'none' }}\n{api}\n"
    );
    for path in paths {
        let name = path.trim_start_matches('/').split('?').next().unwrap();
        let page = if name == "linked" { "page = { style = 'link-header', size_param = '' }\n" } else { "" };
        pipeline.push_str(&format!("[[stage]]\nname = '{name}'\nfetch = '{path}'\nkey = ['id']\n{page}"));
    }
    [("TOKEN", TOKEN), ("USER", USER), ("PASSWORD", PASSWORD), ("KEY", KEY)]
        .into_iter()
        .chain([("ID", "client-id"), ("CLIENT_SECRET", CLIENT_SECRET)])
        .fold(Space::new().file("pipeline.toml", &pipeline), |space, (name, value)| space.with(name, value))
}

fn tokens() -> Reply {
    Reply::json(format!(
        r#"{{"access_token":"{ACCESS_TOKEN}","refresh_token":"{REFRESH_TOKEN}","token_type":"bearer","expires_in":7200}}"#
    ))
}

fn log_in_if_need_be(space: &Space, auth: &str) {
    if auth.contains("refresh_token") {
        assert_eq!(space.run("mirror42-token", &["login", "--code", "c0de-of-a-person"]).code, Some(0));
    }
}

#[test]
fn each_kind_sends_its_header_with_every_request_for_a_page() {
    for (auth, header, value, _) in KINDS {
        let server = Server::hearing("127.0.0.1:0", move |request| match request.path.as_str() {
            "/token" => tokens(),
            _ if request.header(header) == Some(value) => Reply::json("[{\"id\":1}]"),
            _ => Reply { status: 418, headers: Vec::new(), body: String::new() },
        });
        let space = project(&server.address, auth, "", &["/things"]);
        log_in_if_need_be(&space, auth);
        done(&space, "mirror42-fetch", &[]);
    }
}

#[test]
fn headers_and_query_go_with_every_request_for_a_page_and_not_with_that_for_a_token() {
    let seen: Arc<Mutex<Vec<[String; 3]>>> = Arc::default();
    let heard = Arc::clone(&seen);
    let server = Server::hearing("127.0.0.1:0", move |request| {
        let header = |name| request.header(name).unwrap_or("-").to_owned();
        let user_agent = header("User-Agent");
        assert!(user_agent.starts_with("mirror42/") && header("Accept") == "application/json", "{user_agent}");
        heard.lock().unwrap().push([request.path.clone(), header("X-Api-Version"), header("X-Empty")]);
        match request.path.as_str() {
            "/token" => tokens(),
            path if path.starts_with("/linked?locale") => {
                Reply::json("[{\"id\":1}]").with("Link", "</linked?second=1>; rel=\"next\"")
            }
            _ => Reply::json("[{\"id\":2}]"),
        }
    });
    let api = "headers = { 'X-Api-Version' = '2', X-Empty = '' }\nquery = { locale = 'en', 'fields[a]' = 'b c,d&e' }";
    let space = project(&server.address, KINDS[3].0, api, &["/plain", "/own?locale=fr&x=1", "/linked"]);
    done(&space, "mirror42-fetch", &[]);
    let expected = [
        ["/token", "-", "-"],
        ["/plain?locale=en&fields[a]=b%20c,d%26e", "2", ""],
        ["/own?locale=fr&x=1&fields[a]=b%20c,d%26e", "2", ""],
        ["/linked?locale=en&fields[a]=b%20c,d%26e", "2", ""],
        ["/linked?second=1&locale=en&fields[a]=b%20c,d%26e", "2", ""],
    ];
    assert_eq!(*seen.lock().unwrap(), expected.map(|texts| texts.map(str::to_owned)));
}

#[test]
fn what_is_sent_is_a_part_of_what_makes_pages_stale() {
    let definition = |auth: &str, api: &str| {
        let space = project("127.0.0.1:1", auth, api, &["/things"]);
        let pipeline = Pipeline::load(&space.path().join("pipeline.toml")).unwrap();
        pipeline.fetch_definition(pipeline.stages[0].fetch().unwrap())
    };
    let variants = [
        definition("kind = 'none'", ""),
        definition("kind = 'none'", "headers = { A = '1', B = '2' }"),
        definition("kind = 'none'", "headers = { A = '1', B = '3' }"),
        definition("kind = 'none'", "query = { A = '1', B = '2' }"),
    ];
    let all: Vec<String> = variants.into_iter().chain(KINDS.map(|(auth, ..)| definition(auth, ""))).collect();
    let distinct: std::collections::BTreeSet<&String> = all.iter().collect();
    assert_eq!(distinct.len(), all.len());
    assert_eq!(all[1], definition("kind = 'none'", "headers = { B = '2', A = '1' }"), "their order says nothing");
    let renamed = definition("kind = 'bearer', token_env = 'OTHER'", "");
    assert_eq!(renamed, definition(KINDS[0].0, ""), "where a secret is kept says nothing");
}

#[test]
fn what_cannot_be_sent_is_told_with_its_line_and_column() {
    let own = |table: &str, what: &str, name: &str| {
        format!("`{table}` names the {what} `{name}`, which mirror42 sends itself")
    };
    let mut cases = vec![
        ("headers = { \"X A\" = '1' }".to_string(), "`api.headers` names \"X A\", expected letters, digits and `-`".into(), 21),
        ("headers = { '' = '1' }".into(), "`api.headers` names \"\", expected letters, digits and `-`".into(), 18),
        ("headers = { X = 1 }".into(), "`api.headers.X` is 1, expected a string".into(), 17),
        (
            "headers = { X = \"a\\nb\" }".into(),
            "`api.headers.X` is \"a\\nb\", expected a text of ASCII without line breaks, and without blanks around it"
                .into(),
            17,
        ),
        (
            "headers = { X-a = '1', x-A = '2' }".into(),
            "`api.headers` names the header `x-A` twice: their case counts nothing".into(),
            30,
        ),
        (
            "auth = { kind = 'header', name = 'X-Api-Key', value_env = 'KEY' }\nheaders = { x-api-key = '1' }".into(),
            "`api.headers` names the header `x-api-key`, which `api.auth` sends".into(),
            25,
        ),
        (
            "auth = { kind = 'header', name = 'X Api', value_env = 'KEY' }".into(),
            "`api.auth.name` is \"X Api\", expected the name of a header: letters, digits and `-`".into(),
            34,
        ),
        (
            "auth = { kind = 'header', name = 'Host', value_env = 'KEY' }".into(),
            own("api.auth", "header", "Host"),
            34,
        ),
        ("query = { '' = 'x' }".into(), "`api.query` has a parameter without a name".into(), 16),
        ("query = { x = 1 }".into(), "`api.query.x` is 1, expected a string".into(), 15),
        ("query = { per_page = '1' }".into(), own("api.query", "parameter", "per_page"), 22),
        ("query = { page = '1' }".into(), own("api.query", "parameter", "page"), 18),
        (
            "page = { style = 'offset', param = 'skip' }\nquery = { skip = '1' }".into(),
            own("api.query", "parameter", "skip"),
            18,
        ),
        (
            "auth = { kind = 'oauth2', token_path = 'token' }".into(),
            "`api.auth.token_path` is \"token\", expected a path that begins with `/`".into(),
            40,
        ),
        (
            "auth = { kind = 'oauth2', token_path = '/t', client_id_env = 'A', client_secret_env = 'B', grant = 'code' }"
                .into(),
            "`api.auth.grant` is \"code\", expected \"client_credentials\" or \"refresh_token\"".into(),
            100,
        ),
        (
            "auth = { kind = 'oauth2', token_path = '/t', client_id_env = 'A', client_secret_env = 'B', scope = 'a' }".into(),
            "unknown key `scope` in `[api.auth]`".into(),
            92,
        ),
    ];
    for name in ["authorization", "User-Agent", "ACCEPT", "Host", "Content-Length", "If-None-Match"] {
        cases.push((format!("headers = {{ {name} = '1' }}"), own("api.headers", "header", name), 16 + name.len()));
    }
    for (api, message, column) in cases {
        let text = format!("[pipeline]\nname = 't'\n[api]\nbase_url = 'http://h'\n{api}\n");
        let error = Pipeline::parse(Path::new("pipeline.toml"), &text).unwrap_err().to_string();
        let line = 4 + api.lines().count();
        assert!(error.starts_with(&format!("{message}\n  at: pipeline.toml:{line}:{column}")), "{api}: {error}");
    }
    let text = "[pipeline]\nname = 't'\n[api]\nbase_url = 'http://h'\npage = { style = 'none' }\nquery = { page = '1' }\n\
                [[stage]]\nname = 's'\nfetch = '/s'\nkey = ['id']\npage = { style = 'page-number' }\n";
    assert_eq!(
        Pipeline::parse(Path::new("pipeline.toml"), text).unwrap_err().to_string(),
        "this stage is paged by the parameter `page`, which `api.query` sets for all\n  at: pipeline.toml:9:9"
    );
}

#[test]
fn a_secret_that_cannot_be_sent_is_told_without_it() {
    let cases = [
        (
            KINDS[0].0,
            ("TOKEN", "hush hush\u{e9}"),
            "the API's token has a character that cannot stand in a header\n  \
             hint: Mend the environment variable `TOKEN`, or `.env`: ASCII, without blanks around it.\n",
        ),
        (
            KINDS[2].0,
            ("KEY", "hush\nhush"),
            "the value of `X-Api-Key` has a character that cannot stand in a header\n  \
             hint: Mend the environment variable `KEY`, or `.env`: ASCII, without blanks around it.\n",
        ),
        (
            KINDS[1].0,
            ("USER", "hush:hush"),
            "the API's user has a `:`, which ends it in an `Authorization` header\n  \
             hint: Mend the environment variable `USER`, or `.env`.\n",
        ),
        (
            KINDS[1].0,
            ("PASSWORD", ""),
            "the API's password is not set\n  hint: Put it into the environment variable `PASSWORD`, or into a file \
             `.env` beside the pipeline (mode 0600).\n",
        ),
    ];
    for (auth, (name, value), message) in cases {
        let space = project("127.0.0.1:1", auth, "", &["/things"]).with(name, value);
        assert_eq!(failed(&space, "mirror42-fetch", &[], 2), message);
    }
}

/// Says all that it was sent, in every way that a message of ours could repeat.
fn echo(request: &Request) -> Reply {
    let sent = ["Authorization", "X-Api-Key"].into_iter().filter_map(|name| request.header(name));
    let sent = format!("{} {}", sent.collect::<Vec<_>>().join(" "), request.body);
    // The secret itself too, where the request holds it in another form.
    let sent = format!("{sent} {PASSWORD} {CLIENT_SECRET} {REFRESH_TOKEN}");
    let quoted = serde_json::Value::from(sent.clone()).to_string();
    match request.path.as_str() {
        "/token" => tokens(),
        "/refused" => {
            std::thread::sleep(Duration::from_millis(300)); // long enough for a look at the command line
            let reply = Reply::json(format!("{{\"error\":\"no\",\"message\":{quoted}}}"));
            Reply { status: 403, ..reply }
        }
        "/unauthorized" => Reply { status: 400, ..Reply::json(quoted) }.with("Content-Type", sent.replace('"', "")),
        "/cut" => Reply { status: 404, headers: Vec::new(), body: format!("{}{sent}", "-".repeat(175)) },
        "/redirected" => {
            let to = format!("https://h/?token={}&{}", sent.replace(' ', "%20").replace('"', "%22"), REFRESH_TOKEN);
            Reply { status: 302, headers: Vec::new(), body: String::new() }.with("Location", to)
        }
        "/page" => Reply::json(format!("[{{\"id\":1,\"said\":{quoted}}}]")).with("ETag", quoted),
        "/linked" => {
            let next = format!("/refused?{}", sent.replace(' ', "%20").replace('"', "%22"));
            Reply::json("[{\"id\":1}]").with("ETag", quoted).with("Link", format!("<{next}>; rel=\"next\""))
        }
        path if path.starts_with("/refused?") => Reply { status: 403, ..Reply::json("{}") },
        _ => Reply::json(quoted),
    }
}

#[test]
fn a_server_that_repeats_secrets_is_not_repeated() {
    for (auth, _, _, secrets) in KINDS {
        let garbled = Arc::new(Mutex::new(Vec::new()));
        let server = Server::hearing("127.0.0.1:0", move |request| {
            // Only once, since it would be asked for seven times.
            let mut garbled = garbled.lock().unwrap();
            if request.path.starts_with("/garbled") && garbled.contains(&request.path) {
                return Reply::json("[{\"id\":1}]");
            }
            garbled.push(request.path.clone());
            echo(request)
        });
        let paths = ["/refused", "/unauthorized", "/cut", "/redirected", "/page", "/garbled", "/linked"];
        let space = project(&server.address, auth, "", &paths);
        log_in_if_need_be(&space, auth);
        let mut written = BTreeMap::new();
        for path in paths {
            let asked = server.requests();
            let fetch = space.spawn("mirror42-fetch", &[&path[1..], "-v"]);
            if path == "/refused" {
                let token = u64::from(auth.contains("oauth2") && !auth.contains("grant"));
                wait_until("the page is asked for", || server.requests() > asked + token);
                let command_line = fs::read(format!("/proc/{}/cmdline", fetch.id())).unwrap();
                assert!(!command_line.is_empty());
                written.insert("command line".to_string(), command_line);
            }
            let output = fetch.wait_with_output().unwrap();
            let good = ["/page", "/garbled"].contains(&path);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.success(), good, "{path}: {said}");
            assert!(path == "/page" || said.contains("(sec"), "{path}: {said}");
            written.insert(path.to_string(), output.stderr);
        }
        written.extend(files(space.path()));
        let page = written.remove("exports/page/pages/0001.json").unwrap();
        assert!(String::from_utf8(page).unwrap().contains(REFRESH_TOKEN), "a page stands as it was received");
        written.remove(".mirror42/token.json");
        for name in ["logs/page.log", "exports/page/stage.json", "exports/linked/pages.new/journal.jsonl"] {
            assert!(written.contains_key(name), "{name} of {:?}", written.keys());
        }
        for (name, bytes) in &written {
            let text = String::from_utf8_lossy(bytes);
            for secret in secrets {
                assert!(!text.contains(secret), "{auth}: {secret} is in {name}: {text}");
            }
            // A piece of one would tell as much: those of the test begin so.
            let pieces = ["s3cret", "acc3ss", "r3fresh"].into_iter().filter(|_| auth.contains("oauth2"));
            for piece in pieces {
                assert!(!text.contains(piece), "{auth}: a piece of {piece} is in {name}: {text}");
            }
        }
    }
}
