//! Connections that fail before there is an answer, and servers that fail too often.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::fetch::{failed, one_stage};
use crate::fetch_faults::ended;
use crate::simulator::{Reply, Server, Simulator};
use crate::space::{Space, wait_until};

/// A page of one record.
fn one_record() -> Reply {
    Reply::json("[{\"id\":1}]").with("X-Total", 1)
}

fn refuses_to_connect(space: &Space, url: &str, cause: &str) {
    let began = Instant::now();
    assert_eq!(
        failed(space, "mirror42-fetch", &[], 1),
        format!(
            "could not fetch `{url}/things?page=1&per_page=100`: no safe connection can be made: {cause}\n  detail: The \
             answer is final.\n  detail: No page is kept.\n"
        )
    );
    assert!(began.elapsed() < Duration::from_secs(5), "it is not tried again");
}

#[test]
fn a_server_without_tls_is_not_spoken_to_by_https() {
    let simulator = Simulator::start("");
    let url = simulator.url.replace("http:", "https:");
    let cause = "received corrupt message of type InvalidContentType";
    refuses_to_connect(&one_stage(&url, ""), &url, cause);
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_not_trusted() {
    let space = Space::new();
    let openssl = |args: &str| {
        let mut command = Command::new("openssl");
        command.args(args.split(' ')).current_dir(space.path()).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let made = openssl(
        "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out certificate.pem -days 2 -subj /CN=127.0.0.1 -addext \
         subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE",
    );
    if !{ made }.status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: there is no openssl to make a certificate with");
        return;
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let serve = format!("s_server -accept 127.0.0.1:{port} -key key.pem -cert certificate.pem -www -quiet");
    let mut server = openssl(&serve).spawn().unwrap();
    wait_until("the server listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let url = format!("https://127.0.0.1:{port}");
    refuses_to_connect(&one_stage(&url, ""), &url, "invalid peer certificate: UnknownIssuer");
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn a_server_that_comes_back_is_asked_again() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let space = one_stage(&format!("http://{address}"), "");
    let process = space.spawn("mirror42-fetch", &[]);
    let log = space.path().join("logs/things.log");
    wait_until("it was tried in vain", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains(": no server is there: "))
    });
    let server = Server::start(&address, |_| one_record());
    ended(process, 0);
    assert_eq!(server.requests(), 1);
}

#[test]
fn an_answer_that_fails_has_its_status_all_the_same() {
    // The body of the refusal breaks off; nothing of it is needed.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        let head = "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n";
        stream.write_all(format!("{head}{{\"error\":\"Not").as_bytes()).unwrap();
    });
    assert_eq!(
        failed(&one_stage(&url, ""), "mirror42-fetch", &[], 1),
        format!(
            "could not fetch `{url}/things?page=1&per_page=100`: it answered 404 application/json: {{\"error\":\"Not\n  \
             detail: The answer is final.\n  detail: No page is kept.\n"
        )
    );
    server.join().unwrap();
}

#[test]
fn a_server_that_fails_too_often_is_given_up() {
    // Every request is answered well at its third try, so that none of them uses up its own tries.
    let tries: Vec<AtomicU64> = (0..200).map(|_| AtomicU64::new(0)).collect();
    let server = Server::start("127.0.0.1:0", move |path| {
        let id: usize = path.split('/').nth(2).unwrap().parse().unwrap();
        match tries[id].fetch_add(1, Ordering::Relaxed) {
            0 | 1 => Reply { status: 502, headers: Vec::new(), body: String::new() },
            _ => one_record(),
        }
    });
    let url = format!("http://{}", server.address);
    let parts = "[[stage]]\nname = \"parts\"\nfetch = \"/things/{id}/parts\"\neach = \"things\"\nkey = [\"id\"]\n";
    let space = one_stage(&url, parts);
    let text = std::fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    space.write("pipeline.toml", &text.replace("timeout", "limits = { in_flight = 100 }\ntimeout"));
    let records: Vec<String> = (0..200).map(|id| format!("{{\"id\":{id}}}")).collect();
    space.export("things", &records.iter().map(String::as_str).collect::<Vec<_>>());
    let text = failed(&space, "mirror42-fetch", &["parts"], 1);
    let (before, rest) = text.split_once("the server gave ").unwrap_or_else(|| panic!("{text}"));
    assert!(before.starts_with(&format!("could not fetch `{url}/things/")), "{text}");
    let (counts, rest) = rest.split_once("; the last: ").unwrap();
    let (bad, requests) = counts.trim_end_matches(" requests").split_once(" bad answers to ").unwrap();
    let (bad, requests): (u64, u64) = (bad.parse().unwrap(), requests.parse().unwrap());
    assert_eq!(bad, 100 + requests / 4 + 1, "{text}");
    let start = "it answered 502 with an empty body\n  detail: So many are no accident.\n  detail: The next fetch goes on with the ";
    assert!(rest.starts_with(start), "{rest}");
    assert!(server.requests() < 250, "{}", server.requests());
}
