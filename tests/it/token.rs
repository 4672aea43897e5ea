//! The token on its own: had, kept, handed back by the server, and never told.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::space::{Outcome, Space};

const SECRET: &str = "s3cr3t-of-the-application";

/// The simulator on loopback; it ends with its standard input, and so with this.
struct Simulator {
    child: Child,
    url: String,
}

impl Simulator {
    fn start(space: &Space, args: &[&str]) -> Simulator {
        let fixed = ["serve", "--limits", "none", "--until-stdin-closes", "--client-secret", SECRET];
        let mut command = space.command("mirror42-simulate", &[&fixed, args].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").unwrap().to_string();
        Simulator { child, url }
    }

    /// How often a token was asked for.
    fn asked(&self) -> u64 {
        let address = self.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET /_simulator/stats HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let stats: Value = serde_json::from_str(body).unwrap();
        stats["requests"]["token"].as_u64().unwrap_or(0)
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// A project for the API at `url`, with these credentials in its `.env`.
fn project(space: &Space, url: &str, secret: &str) {
    let auth =
        r#"{ kind = "oauth2", token_path = "/oauth/token", client_id_env = "ID", client_secret_env = "SECRET" }"#;
    space.write("pipeline.toml", &format!("[pipeline]\nname = \"t\"\n[api]\nbase_url = \"{url}\"\nauth = {auth}\n"));
    space.write(".env", &format!("ID=sim-uid\nSECRET={secret}\n"));
    fs::set_permissions(space.path().join(".env"), fs::Permissions::from_mode(0o600)).unwrap();
}

fn token(space: &Space, args: &[&str]) -> Outcome {
    space.run("mirror42-token", args)
}

/// Every file of the project but the two that may hold secrets, and what was printed.
fn all_text(space: &Space, outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        text.push_str(&outcome.stdout);
        text.push_str(&outcome.stderr);
    }
    for entry in walkdir::WalkDir::new(space.path()) {
        let entry = entry.unwrap();
        let secret = entry.path().ends_with(".env") || entry.path().ends_with(".mirror42/token.json");
        if entry.file_type().is_file() && !secret {
            text.push_str(&String::from_utf8_lossy(&fs::read(entry.path()).unwrap()));
        }
    }
    text
}

#[test]
fn a_token_is_kept_for_its_owner_only_and_never_told() {
    let space = Space::new();
    let simulator = Simulator::start(&space, &["--secret-valid-until", "2099-01-01"]);
    project(&space, &simulator.url, SECRET);
    let ensured = token(&space, &["ensure", "-v"]);
    assert_eq!((ensured.code, ensured.stdout.as_str()), (Some(0), ""), "{}", ensured.stderr);
    assert!(ensured.stderr.contains(" token: the token is good for 7"), "{}", ensured.stderr);
    let quiet = token(&space, &["ensure", "-q"]);
    assert_eq!(quiet, Outcome { code: Some(0), stdout: String::new(), stderr: String::new() });

    let file = space.path().join(".mirror42/token.json");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let kept: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let access_token = kept["tokens"][0]["access_token"].as_str().unwrap();

    let info = token(&space, &["info"]);
    assert!(info.stdout.starts_with("the token is good for 7"), "{}", info.stdout);
    assert!(
        info.stdout
            .ends_with("; grant: client_credentials; the application's secret stops working at 2099-01-01T00:00:00Z\n")
    );
    let json = token(&space, &["info", "--json"]);
    let told: Value = serde_json::from_str(&json.stdout).unwrap();
    assert!((7000..=7200).contains(&told["seconds_left"].as_u64().unwrap()), "{told}");
    assert_eq!(told["secret_valid_until"], "2099-01-01T00:00:00Z");
    assert_eq!((&told["grant"], &told["has_refresh_token"]), (&"client_credentials".into(), &false.into()));

    let text = all_text(&space, &[ensured, info, json, token(&space, &["refresh", "-v"])]);
    assert!(!text.contains(access_token) && !text.contains(SECRET), "{text}");
}

#[test]
fn a_short_token_that_the_server_hands_back_is_not_asked_for_in_a_loop() {
    let space = Space::new();
    let simulator = Simulator::start(&space, &["--token-lifetime", "1000"]);
    project(&space, &simulator.url, SECRET);
    for _ in 0..3 {
        assert_eq!(token(&space, &["ensure"]).code, Some(0));
    }
    assert_eq!(simulator.asked(), 1);
    let kept = || fs::read_to_string(space.path().join(".mirror42/token.json")).unwrap();
    let access_token =
        |text: String| serde_json::from_str::<Value>(&text).unwrap()["tokens"][0]["access_token"].clone();
    let before = access_token(kept());
    assert_eq!(token(&space, &["refresh"]).code, Some(0));
    assert_eq!(simulator.asked(), 2);
    assert_eq!(access_token(kept()), before);
}

#[test]
fn a_wrong_secret_is_told_without_it() {
    let space = Space::new();
    let simulator = Simulator::start(&space, &[]);
    project(&space, &simulator.url, "not-the-right-one");
    let outcome = token(&space, &["ensure"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""));
    let expected = format!(
        "mirror42-token: error: could not get a token from `{}/oauth/token`: it answered 401 application/json: invalid_client",
        simulator.url
    );
    assert!(outcome.stderr.starts_with(&expected), "{}", outcome.stderr);
    assert!(outcome.stderr.ends_with("  hint: Check the client id and the client secret.\n"), "{}", outcome.stderr);
    assert_eq!(simulator.asked(), 1);
    assert!(!space.path().join(".mirror42/token.json").exists());
    assert!(!all_text(&space, &[outcome]).contains("not-the-right-one"));
}

#[test]
fn without_a_token_there_is_nothing_to_tell() {
    let space = Space::new();
    project(&space, "http://127.0.0.1:1", SECRET);
    let outcome = token(&space, &["info"]);
    assert_eq!(
        outcome,
        Outcome {
            code: Some(1),
            stdout: String::new(),
            stderr: "mirror42-token: error: there is no token for this API and this client id\n  \
                     hint: Run `mirror42-token ensure` to get one.\n"
                .to_string()
        }
    );
}

#[test]
fn an_api_without_oauth2_is_a_usage_error() {
    for (auth, kind) in [
        ("", "none"),
        ("auth = { kind = \"bearer\", token_env = \"T\" }\n", "bearer"),
        ("auth = { kind = \"basic\", user_env = \"U\", password_env = \"P\" }\n", "basic"),
        ("auth = { kind = \"header\", name = \"X-Api-Key\", value_env = \"K\" }\n", "header"),
    ] {
        let space = Space::new().file(
            "pipeline.toml",
            &format!("[pipeline]\nname = \"t\"\n[api]\nbase_url = \"http://127.0.0.1:1\"\n{auth}"),
        );
        let outcome = token(&space, &["ensure"]);
        let expected = format!(
            "mirror42-token: error: `api.auth` is of kind \"{kind}\", which has no token to look after\n  \
             at: pipeline.toml\n  detail: Only \"oauth2\" asks the API for tokens.\n"
        );
        assert_eq!(outcome, Outcome { code: Some(2), stdout: String::new(), stderr: expected });
    }
}
