//! The server as a client meets it: bytes on a socket.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;

use crate::simulate::api::{Call, Simulator};
use crate::simulate::faults::Faults;
use crate::simulate::generate;
use crate::simulate::options::{Options, Verb};
use crate::simulate::server;

/// A running server, with a token in hand.
struct Client {
    address: SocketAddr,
    token: String,
    patience: Duration,
}

/// What came back; `end` is how the connection ended, if not well.
struct Reply {
    head: String,
    body: Vec<u8>,
    end: Option<ErrorKind>,
}

impl Reply {
    fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn ids(&self) -> Vec<i64> {
        let records: Vec<serde_json::Value> = serde_json::from_slice(&self.body).expect("a JSON array");
        records.iter().map(|record| record["id"].as_i64().expect("an id")).collect()
    }
}

impl Client {
    fn new(flags: &str, faults: &str) -> Client {
        let words = ["mirror42-simulate", "serve"].into_iter().chain(flags.split_whitespace());
        let Verb::Serve(options) = Options::parse_from(words).verb else { panic!("not serve") };
        let faults = Faults::parse(faults, "faults.toml", 42).expect("faults");
        let simulator = Arc::new(Simulator::new(&options, generate::world(42, 1), faults));
        let listener = server::listen(0).expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || server::run(listener, simulator));
        let mut client = Client { address, token: String::new(), patience: Duration::from_secs(30) };
        let form = "grant_type=client_credentials&client_id=sim-uid&client_secret=sim-secret";
        let text = client.send("POST", "/oauth/token", "User-Agent: test\r\n", form).text();
        client.token = text.split('"').nth(3).expect("a token").to_owned();
        client
    }

    fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        let mut stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(self.patience)).expect("a timeout");
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: sim\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("a request sent");
        let mut bytes = Vec::new();
        let end = stream.read_to_end(&mut bytes).err().map(|cause| cause.kind());
        let at = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(bytes.len());
        let body = bytes.get(at + 4..).unwrap_or_default().to_vec();
        Reply { head: String::from_utf8_lossy(&bytes[..at]).into_owned(), body, end }
    }

    fn get(&self, path: &str) -> Reply {
        self.get_with(path, "")
    }

    fn get_with(&self, path: &str, headers: &str) -> Reply {
        let headers = format!("User-Agent: test\r\nAuthorization: Bearer {}\r\n{headers}", self.token);
        self.send("GET", path, &headers, "")
    }

    /// The first bytes of a body that has no end.
    fn drip(&self, path: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(self.patience)).expect("a timeout");
        let token = &self.token;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: sim\r\nUser-Agent: test\r\nAuthorization: Bearer {token}\r\n\r\n")
            .expect("a request sent");
        let mut bytes = Vec::new();
        let body = |bytes: &[u8]| bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
        while body(&bytes).is_none_or(|from| bytes.len() < from + 30) {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("another byte");
            bytes.extend(byte);
        }
        bytes.split_off(body(&bytes).expect("a body"))
    }

    fn stats(&self) -> serde_json::Value {
        let reply = self.send("GET", "/_simulator/stats", "", "");
        serde_json::from_slice(&reply.body).expect("stats")
    }
}

fn fault(kind: &str) -> String {
    format!("[[fault]]\nkind = \"{kind}\"\n")
}

#[test]
fn an_index_is_paged_announced_and_revalidated() {
    let client = Client::new("--limits none", "");
    let page = client.get("/v2/campus?page[size]=10&page[number]=2&filter[active]=true");
    assert_eq!(page.status(), "200");
    assert_eq!(page.ids().len(), 10);
    assert_eq!(
        (page.header("X-Page"), page.header("X-Per-Page"), page.header("X-Total")),
        (Some("2"), Some("10"), Some("61"))
    );
    let link = page.header("Link").expect("a Link header");
    assert!(link.contains("<http://sim/v2/campus?filter[active]=true&page=3&per_page=10>; rel=\"next\""), "{link}");
    assert_eq!(page.header("X-Hourly-RateLimit-Limit"), None);
    assert_eq!(client.get("/v2/campus?page=9").text(), "[]");

    let etag = page.header("ETag").expect("an ETag").to_owned();
    assert!(etag.starts_with("W/\""));
    let again = "/v2/campus?page[size]=10&page[number]=2&filter[active]=true";
    let same = client.get_with(again, &format!("If-None-Match: {etag}\r\n"));
    assert_eq!((same.status(), same.body.len()), ("304", 0));
    assert_eq!(client.stats()["not_modified"], 1);
}

#[test]
fn the_limits_are_announced_and_enforced_in_plain_text() {
    let client = Client::new("--limits 100/3 --window sliding", "");
    assert_eq!(client.get("/v2/cursus/21").header("X-Hourly-RateLimit-Remaining"), Some("2"));
    client.get("/v2/cursus/21");
    client.get("/v2/cursus/21");
    let refused = client.get("/v2/cursus/21");
    assert_eq!(refused.status(), "429");
    assert_eq!(refused.text(), "429 Too Many Requests (Spam Rate Limit Exceeded)");
    let wait: u64 = refused.header("Retry-After").and_then(|wait| wait.parse().ok()).expect("Retry-After");
    assert!((3590..=3600).contains(&wait), "{wait}");
    assert_eq!(client.stats()["rate_limited"], 1);
}

#[test]
fn strangers_are_turned_away() {
    let client = Client::new("", "");
    let agent = "User-Agent: test\r\n";
    assert_eq!(client.send("GET", "/v2/campus", "", "").status(), "403");
    let nobody = client.send("GET", "/v2/campus", agent, "");
    assert_eq!(
        (nobody.status(), nobody.text().as_str()),
        ("401", "{\"error\":\"Not authorized\",\"message\":\"The access token is invalid\"}")
    );
    let wrong = client.send("POST", "/oauth/token", agent, "grant_type=client_credentials&client_id=a");
    assert_eq!(wrong.status(), "401");
    assert!(wrong.text().starts_with("{\"error\":\"invalid_client\""), "{}", wrong.text());
    assert!(client.get("/v2/nothing").text().starts_with("<!DOCTYPE html>"));
}

#[test]
fn a_reset_is_a_reset_and_a_truncated_body_breaks_off() {
    let client = Client::new("--limits none", &(fault("reset") + &fault("truncated")));
    let reset = client.get("/v2/campus");
    assert_eq!((reset.end, reset.head.as_str()), (Some(ErrorKind::ConnectionReset), ""));
    let cut = client.get("/v2/campus");
    let length: usize = cut.header("Content-Length").and_then(|length| length.parse().ok()).expect("a length");
    assert_eq!((cut.status(), cut.body.len()), ("200", length / 2));
    assert_eq!(client.get("/v2/campus").ids().len(), 30);
}

#[test]
fn a_length_that_is_wrong_is_wrong_by_what_is_sent() {
    let client = Client::new("--limits none", &(fault("long-length") + &fault("short-length")));
    let [long, short, right] = [(); 3].map(|()| client.get("/v2/campus"));
    let length = |reply: &Reply| reply.header("Content-Length").and_then(|text| text.parse::<usize>().ok());
    assert_eq!(length(&right), Some(right.body.len()));
    assert_eq!((length(&long), long.end), (Some(right.body.len() + 100), None), "it ends without a reset");
    assert_eq!(length(&short), Some(right.body.len() / 2));
    assert!(long.body == right.body && short.body == right.body);
}

#[test]
fn a_drip_never_ends_and_a_body_can_be_as_large_as_you_like() {
    let client = Client::new(
        "--limits none",
        "[[fault]]\nkind = 'drip'\nms = 20\n[[fault]]\nkind = 'oversized'\nmib = 3\n\
         [[fault]]\nkind = 'gzip-bomb'\nmib = 200\n",
    );
    let drip = client.drip("/v2/users");
    assert!(drip.starts_with(b"1\r\n[\r\n1\r\n]\r\n1\r\n \r\n1\r\n "), "{}", String::from_utf8_lossy(&drip));
    let size = client.get("/v2/users").body.len();
    assert!((3 << 20..(3 << 20) + 1000).contains(&size), "{size}");
    let bomb = client.get("/v2/users");
    assert_eq!(bomb.header("Content-Encoding"), Some("gzip"));
    assert!((1000..4 << 20).contains(&bomb.body.len()), "{} bytes for 200 MiB", bomb.body.len());
}

#[test]
fn every_failure_looks_like_what_it_is() {
    let client = Client::new("--limits none", "");
    let look = |keys: &str| {
        let set = client.send("POST", "/_simulator/faults", "", &format!("[[fault]]\nkind = {keys}\n"));
        assert_eq!(set.status(), "200", "{}", set.text());
        client.get("/v2/coalitions?per_page=2")
    };
    for (keys, header, status, value, body) in [
        ("'rate-limited'", "Retry-After", "429", "-", "429 Too Many Re"),
        ("'rate-limited'\nretry_after = 7", "Retry-After", "429", "7", "429 Too Many Re"),
        ("'server-error'\nstatus = 503\nretry_after = 2", "Retry-After", "503", "2", "<!DOCTYPE html>"),
        ("'bot-403'", "Content-Type", "403", "text/html; charset=UTF-8", "<!DOCTYPE html>"),
        ("'bot-200'", "Content-Type", "200", "text/html; charset=UTF-8", "<!DOCTYPE html>"),
        ("'html-404'", "Content-Type", "404", "text/html; charset=utf-8", "<!DOCTYPE html>"),
        ("'json-error'\nstatus = 422", "X-Total", "422", "-", "{\"error\":\"Bad R"),
        ("'redirect'\nlocation = 'http://a.example/'", "Location", "302", "http://a.example/", "<!DOCTYPE html>"),
        ("'object'", "X-Total", "200", "350", "{\"data\":[{\"id\""),
        ("'big-id'", "X-Total", "200", "350", "[{\"id\":92233720"),
        ("'wrong-total'", "X-Total", "200", "351", "[{\"id\":385,\"nam"),
        ("'missing-total'", "X-Total", "200", "-", "[{\"id\":385,\"nam"),
        ("'empty-list'\ntotal = 0", "X-Total", "200", "0", "[]"),
        ("'not-modified'", "Content-Type", "304", "-", ""),
        ("'not-gzip'", "Content-Encoding", "200", "gzip", "[{\"id\":385,\"nam"),
        ("'slow'\nms = 1", "X-Total", "200", "350", "[{\"id\":385,\"nam"),
    ] {
        let reply = look(keys);
        assert_eq!((reply.status(), reply.header(header).unwrap_or("-")), (status, value), "{keys}");
        assert!(reply.text().starts_with(body), "{keys}: {}", reply.text());
    }
    for keys in ["'garbage'", "'invalid-utf8'", "'surrogate'"] {
        let reply = look(keys);
        assert_eq!(reply.header("Content-Type"), Some("application/json; charset=utf-8"));
        assert!(serde_json::from_slice::<serde_json::Value>(&reply.body).is_err(), "{keys}");
    }
    assert!(look("'nul'").text().contains("a\\u0000b"));
}

#[test]
fn a_hanging_answer_never_comes() {
    let mut client = Client::new("", &fault("hang"));
    client.patience = Duration::from_millis(300);
    let hanging = client.get("/v2/campus");
    assert_eq!(hanging.head, "");
    assert!(matches!(hanging.end, Some(ErrorKind::WouldBlock | ErrorKind::TimedOut)), "{:?}", hanging.end);
}

#[test]
fn a_chunked_answer_has_no_length_and_is_right() {
    let client = Client::new("--limits none", &fault("chunked"));
    let chunked = client.get("/v2/coalitions?per_page=100");
    assert_eq!((chunked.header("Content-Length"), chunked.header("Transfer-Encoding")), (None, Some("chunked")));
    let whole = client.get("/v2/coalitions?per_page=100");
    let first = chunked.text();
    let (size, body) = first.split_once("\r\n").expect("a chunk");
    assert_eq!(usize::from_str_radix(size, 16).ok(), Some(whole.body.len()));
    assert!(body.starts_with(&whole.text()));
}

#[test]
fn an_expired_token_is_really_revoked() {
    let client = Client::new("--limits none", &fault("token-expired"));
    let expired = "{\"error\":\"Not authorized\",\"message\":\"The access token expired\"}";
    assert_eq!(client.get("/v2/campus").text(), expired);
    assert_eq!(client.get("/v2/campus").text(), expired);
    assert_eq!(client.stats()["unauthorized"], 2);
}

#[test]
fn drift_shifts_every_later_page_for_good() {
    let lists = ["/v2/campus$", "/v2/cursus/21/projects", "/v2/campus/1/achievements", "/v2/coalitions"];
    for kind in ["drift-insert", "drift-remove"] {
        let faults = lists.map(|list| format!("[[fault]]\nkind = \"{kind}\"\npath = \"{list}\"\npage = 2\n"));
        let client = Client::new("--limits none", &faults.concat());
        // The campuses last: without its campus, a list of achievements is gone.
        for list in lists.iter().rev().map(|list| list.trim_end_matches('$')) {
            let ids = |page: usize| client.get(&format!("{list}?per_page=20&page={page}")).ids();
            let (first, shifted, later) = (ids(1), ids(2), ids(1));
            assert_ne!(first, later, "{kind} {list}");
            match kind {
                "drift-insert" => assert_eq!(shifted[0], first[19], "{list}: seen twice"),
                _ => assert_eq!(later[..19], first[1..], "{list}: one was never seen"),
            }
        }
    }
}

#[test]
fn a_swap_shifts_the_later_pages_under_the_same_total() {
    let lists = ["/v2/campus$", "/v2/cursus/21/projects", "/v2/campus/1/achievements", "/v2/coalitions"];
    let faults = lists.map(|list| format!("[[fault]]\nkind = \"drift-swap\"\npath = \"{list}\"\npage = 2\n"));
    let client = Client::new("--limits none", &faults.concat());
    for list in lists.iter().rev().map(|list| list.trim_end_matches('$')) {
        let page = |page: usize| client.get(&format!("{list}?per_page=20&page={page}"));
        let (first, shifted, later) = (page(1), page(2), page(1));
        assert_eq!(first.header("X-Total"), later.header("X-Total"), "{list}");
        assert_eq!(later.ids()[..19], first.ids()[1..], "{list}: one was never seen");
        assert_eq!(shifted.ids().len(), 20, "{list}");
        assert!(!first.ids().contains(&shifted.ids()[0]), "{list}: nor was one seen twice");
    }
}

#[test]
fn a_held_answer_waits_for_its_release() {
    let client = Client::new("--limits none", "");
    client.send("POST", "/_simulator/hold?path=/v2/campus&page=2", "", "");
    assert_eq!(client.get("/v2/campus").status(), "200");
    std::thread::scope(|scope| {
        let held = scope.spawn(|| client.get("/v2/campus?page=2").status().to_owned());
        while client.stats()["held"] != 1 {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(client.stats()["in_flight"], 1);
        client.send("POST", "/_simulator/release", "", "");
        assert_eq!(held.join().ok().as_deref(), Some("200"));
    });
    assert_eq!(client.stats()["held"], 0);
}

#[test]
fn the_day_and_the_faults_can_be_changed_while_it_runs() {
    let client = Client::new("--limits none", "");
    let day_0 = client.get("/v2/coalitions").ids();
    assert_eq!(client.send("POST", "/_simulator/day/2", "", "").text(), "{\"day\":2}");
    assert_ne!(client.get("/v2/coalitions").ids(), day_0);
    let refused = client.send("POST", "/_simulator/faults", "", "[[fault]]\nkind = \"empty\"\n");
    assert_eq!(refused.status(), "400");
    assert!(refused.text().contains("unknown fault kind `empty`"), "{}", refused.text());
    client.send("POST", "/_simulator/faults", "", &fault("empty-list"));
    let empty = client.get("/v2/coalitions");
    assert_eq!((empty.text().as_str(), empty.header("X-Total")), ("[]", Some("350")));
    assert_eq!(client.stats()["faults_played"]["empty-list"], 1);
}

#[test]
fn gzip_is_given_to_those_who_take_it() {
    let client = Client::new("--limits none", "");
    let plain = client.get_with("/v2/coalitions", "Accept-Encoding: gzip;q=0\r\n");
    let packed = client.get_with("/v2/coalitions", "Accept-Encoding: br, gzip\r\n");
    assert_eq!((plain.header("Content-Encoding"), packed.header("Content-Encoding")), (None, Some("gzip")));
    assert_eq!(plain.header("ETag"), packed.header("ETag"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed.body.as_slice()).read_to_string(&mut text).expect("gzip");
    assert_eq!(text, plain.text());
    client.send("POST", "/_simulator/faults", "", &fault("corrupt-gzip"));
    let corrupt = client.get_with("/v2/coalitions", "Accept-Encoding: gzip\r\n");
    assert_eq!((corrupt.header("Content-Encoding"), corrupt.body.len()), (Some("gzip"), packed.body.len()));
    assert!(flate2::read::GzDecoder::new(corrupt.body.as_slice()).read_to_string(&mut text).is_err());
}

#[test]
fn one_page_of_each_heavy_index_is_as_slow_as_was_logged() {
    let words = ["mirror42-simulate", "serve", "--latency", "logged"];
    let Verb::Serve(options) = Options::parse_from(words).verb else { panic!("not serve") };
    let simulator = Simulator::new(&options, generate::world(42, 1), Faults::default());
    let latency_ms = |path: &str, page: usize| {
        let headers = hyper::HeaderMap::new();
        let raw_query = format!("page={page}&per_page=100");
        let call = Call { method: hyper::Method::GET, path: path.into(), raw_query, headers, body: Vec::new() };
        simulator.latency_of(&call).as_millis()
    };
    for (path, pages, slow_pages) in
        [("/v2/coalitions", 4, 1), ("/v2/cursus/21/projects", 6, 1), ("/v2/campus/1/achievements", 2, 0)]
    {
        let (slow, quick): (Vec<_>, Vec<_>) = (1..=pages).map(|page| latency_ms(path, page)).partition(|ms| *ms > 1200);
        assert_eq!(slow.len(), slow_pages, "{path}: {slow:?}");
        assert!(slow.iter().all(|ms| (6000..=21_000).contains(ms)), "{path}: {slow:?}");
        assert!(quick.iter().all(|ms| *ms >= 200), "{path}: {quick:?}");
    }
}
