//! The real simulator on loopback, one for a test; and a server of a few lines, for answers that it does not give.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use crate::space::Space;

pub const CLIENT_SECRET: &str = "s3cret-of-the-application";

/// A running `mirror42-simulate serve`; it ends with this value, and with this process.
pub struct Simulator {
    pub url: String,
    process: Child,
    stdin: Option<ChildStdin>,
}

impl Simulator {
    /// Starts one with these flags; without `--limits` among them it has none.
    pub fn start(flags: &str) -> Simulator {
        let limits = if flags.contains("--limits") { "" } else { "--limits none" };
        let mut process = Command::new(Path::new(env!("CARGO_BIN_EXE_mirror42")).with_file_name("mirror42-simulate"))
            .args(["serve", "--until-stdin-closes", "--client-secret", CLIENT_SECRET])
            .args(flags.split_whitespace().chain(limits.split_whitespace()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").expect("its address").to_owned();
        let stdin = process.stdin.take();
        Simulator { url, process, stdin }
    }

    /// A folder with the project's own pipeline, which fetches from here without limits of its own.
    pub fn project(&self) -> Space {
        self.space(include_str!("../../pipeline.toml"))
    }

    /// A folder with this pipeline, which fetches from here without limits of its own.
    pub fn space(&self, pipeline: &str) -> Space {
        Space::new()
            .file("pipeline.toml", pipeline)
            .with("MIRROR42_API_URL", &self.url)
            .with("MIRROR42_LIMITS", "none")
            .with("FT_CLIENT_ID", "sim-uid")
            .with("FT_CLIENT_SECRET", CLIENT_SECRET)
    }

    fn post(&self, path: &str, body: &str) {
        let url = format!("{}/_simulator/{path}", self.url);
        let mut response = ureq::post(&url).config().http_status_as_error(false).build().send(body).unwrap();
        assert_eq!(response.status(), 200, "{}", response.body_mut().read_to_string().unwrap());
    }

    fn get(&self, path: &str) -> String {
        let mut response = ureq::get(format!("{}/_simulator/{path}", self.url)).call().unwrap();
        response.body_mut().with_config().limit(1 << 30).read_to_string().unwrap()
    }

    /// Replaces all faults. Each line is the inside of one, its keys separated by semicolons.
    pub fn faults(&self, faults: &[&str]) {
        let text: String = faults.iter().map(|keys| format!("[[fault]]\n{}\n", keys.replace("; ", "\n"))).collect();
        self.post("faults", &text);
    }

    pub fn day(&self, day: u32) {
        self.post(&format!("day/{day}"), "");
    }

    pub fn hold(&self, path: &str) {
        self.post(&format!("hold?path={path}"), "");
    }

    pub fn release(&self) {
        self.post("release", "");
    }

    pub fn stats(&self) -> Value {
        serde_json::from_str(&self.get("stats")).unwrap()
    }

    pub fn reset_stats(&self) {
        self.post("stats/reset", "");
    }

    /// The rows that a mirror of the world as it is now must have.
    pub fn table(&self, table: &str) -> Vec<Value> {
        self.get(&format!("tables/{table}")).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.process.wait();
    }
}

/// What a [`Server`] answers.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Reply {
    pub fn json(body: impl Into<String>) -> Reply {
        Reply { status: 200, headers: vec![("Content-Type", "application/json".into())], body: body.into() }
    }

    pub fn with(mut self, name: &'static str, value: impl ToString) -> Reply {
        self.headers.push((name, value.to_string()));
        self
    }
}

/// Answers each path (with its query) as a function says, on a thread that lasts as long as the process.
pub struct Server {
    pub address: String,
    requests: Arc<AtomicU64>,
}

/// What a [`Server`] was asked.
pub struct Request {
    /// With its query.
    pub path: String,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

impl Server {
    pub fn start(at: &str, answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Server {
        Server::hearing(at, move |request| answer(&request.path))
    }

    /// Answers by all of a request.
    pub fn hearing(at: &str, answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind(at).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(AtomicU64::new(0));
        let (answer, counter) = (Arc::new(answer), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, counter) = (Arc::clone(&answer), Arc::clone(&counter));
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    let mut stream = stream;
                    stream.set_nodelay(true).unwrap();
                    while let Some(request) = read_request(&mut reader) {
                        counter.fetch_add(1, Ordering::Relaxed);
                        let reply = answer(&request);
                        let mut text =
                            format!("HTTP/1.1 {} Said\r\nContent-Length: {}\r\n", reply.status, reply.body.len());
                        reply.headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
                        text.push_str("\r\n");
                        text.push_str(&reply.body);
                        if stream.write_all(text.as_bytes()).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Server { address, requests }
    }

    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// The next request; none when the client has gone.
fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|n| *n > 0)?;
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        if line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }
    let mut request = Request { path: first.split(' ').nth(1)?.to_owned(), headers, body: String::new() };
    let length = request.header("content-length").map_or(Ok(0), str::parse).ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    request.body = String::from_utf8(body).ok()?;
    Some(request)
}
