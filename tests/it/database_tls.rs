//! TLS to a Postgres that listens on TCP: what is asked for is had, or refused in words that say what to do.
//!
//! One server for most tests, whose databases differ in how they may be entered: `by_tls` and `in_the_open` one
//! way only, `either` both ways, `certified` with a certificate of the client's. A check in the pipeline passes
//! where the session is encrypted.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use mirror42::paths::Paths;
use mirror42::pg::embedded;
use postgres::{Client, NoTls};

use crate::space::{Outcome, Space, open_folder, watch};

const PIPELINE: &str = r#"[pipeline]
name = "small"

[api]
base_url = "http://127.0.0.1:1"

[[stage]]
name = "things"
fetch = "/things"
key = ["id"]
table = "things"

[[check]]
name = "the session is encrypted"
sql = "select 'it is not' as tls where not (select ssl from pg_stat_ssl where pid = pg_backend_pid())"
"#;

/// The check, for a session that is not.
const IN_THE_OPEN: &str = "the session is in the open";

const DATABASES: [&str; 4] = ["by_tls", "in_the_open", "either", "certified"];

const ACCESS: &str = "
local all all trust
hostssl   by_tls,either all 127.0.0.1/32 trust
hostnossl in_the_open,either all 127.0.0.1/32 trust
hostssl   certified all 127.0.0.1/32 trust clientcert=verify-ca
";

const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";

struct Server {
    /// Also the folder of the certificates.
    folder: PathBuf,
    port: u16,
}

impl Server {
    /// Makes certificates and starts a server that has this one of them; none without the program openssl.
    fn start([certificate, key]: &[&str; 2]) -> Option<Server> {
        let folder = open_folder().keep();
        watch(&folder);
        if !makes_certificates(&folder) {
            eprintln!("skipped: there is no openssl to make a certificate with");
            return None;
        }
        let paths = Paths::new(&folder);
        let server = embedded::start(&paths).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut admin =
            Client::connect(&format!("host={} user=mirror42 dbname=postgres", server.socket.display()), NoTls).unwrap();
        for database in DATABASES {
            admin.batch_execute(&format!("create database {database}")).unwrap();
        }
        let settings =
            [("listen_addresses", "127.0.0.1"), ("port", &port.to_string()), ("ssl", "on"), ("ssl_ca_file", "ca.pem")];
        for (name, value) in settings {
            admin.batch_execute(&format!("alter system set {name} = '{value}'")).unwrap();
        }
        for (from, to) in [(*certificate, "server.crt"), (*key, "server.key"), ("ca.pem", "ca.pem")] {
            give(&folder.join(from), &server.data.join(to));
        }
        fs::write(server.data.join("pg_hba.conf"), ACCESS).unwrap();
        embedded::stop(&paths).unwrap();
        embedded::start(&paths).unwrap();
        Some(Server { folder, port })
    }

    fn shared() -> Option<&'static Server> {
        static SERVER: OnceLock<Option<Server>> = OnceLock::new();
        SERVER.get_or_init(|| Server::start(&["server.pem", "server.key"])).as_ref()
    }

    /// Loads one record into a database of it, at this host and with these words in the address.
    fn load(&self, host: &str, database: &str, words: &str) -> Outcome {
        self.load_checked(PIPELINE, host, database, words)
    }

    fn load_checked(&self, pipeline: &str, host: &str, database: &str, words: &str) -> Outcome {
        let words = words.replace('@', &self.folder.display().to_string());
        let url = format!("postgresql://mirror42:hush@{host}:{}/{database}?{words}", self.port);
        let space = Space::new()
            .file("pipeline.toml", pipeline)
            .file("schema.sql", "create table things (id bigint primary key)")
            .with("DATABASE_URL", &url)
            .with("SSL_CERT_FILE", &self.file("ca.pem"));
        space.export("things", &[r#"{"id":1}"#]);
        let outcome = space.run("mirror42-load", &["-q"]);
        assert!(!format!("{outcome:?}").contains("hush"), "{outcome:?}");
        outcome
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// What `load` says when it cannot connect to `localhost`, after the colon.
    fn refused(&self, host: &str, database: &str, words: &str) -> String {
        let outcome = self.load(host, database, words);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{}", outcome.stderr);
        let start = format!(
            "mirror42-load: error: could not connect to database `{database}` on `{host}:{}` as `mirror42`: ",
            self.port
        );
        outcome.stderr.strip_prefix(&start).unwrap_or_else(|| panic!("{}", outcome.stderr)).replace(&self.file(""), "")
    }
}

/// A certificate authority and its server and client, another authority, and a certificate that signs itself.
fn makes_certificates(folder: &Path) -> bool {
    let signed = "-addext basicConstraints=critical,CA:FALSE -CA ca.pem -CAkey ca.key";
    [
        format!("-subj /CN=ours {NEW_KEY} -keyout ca.key -out ca.pem"),
        format!("-subj /CN=ours {NEW_KEY} -keyout other.key -out other.pem"),
        format!(
            "-subj /CN=s -addext subjectAltName=DNS:localhost {signed} {NEW_KEY} -keyout server.key -out server.pem"
        ),
        format!("-subj /CN=localhost {NEW_KEY} -keyout self.key -out self.pem"),
        format!("-subj /CN=mirror42 {signed} {NEW_KEY} -keyout client.key -out client.pem"),
    ]
    .iter()
    .all(|request| {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509"]).args(request.split(' ')).current_dir(folder);
        openssl.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        openssl.status().is_ok_and(|status| status.success())
    })
}

/// Copies a file into the cluster, for its owner only: a server refuses a key that others can read.
fn give(from: &Path, to: &Path) {
    let owner = fs::metadata(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o600)).unwrap();
    chown(to, Some(owner.uid()), Some(owner.gid())).unwrap();
}

fn done(outcome: &Outcome) {
    assert_eq!(*outcome, Outcome { code: Some(0), stdout: String::new(), stderr: String::new() });
}

#[test]
fn tls_is_had_however_much_of_it_is_asked_for() {
    let Some(server) = Server::shared() else { return };
    for words in [
        "sslmode=require",
        "sslmode=require&sslrootcert=@/ca.pem",
        "sslmode=verify-ca&sslrootcert=@/ca.pem",
        "sslmode=verify-full&sslrootcert=@/ca.pem",
        "sslmode=verify-full",
        "sslrootcert=system",
        "sslmode=prefer",
        "",
    ] {
        done(&server.load("localhost", "by_tls", words));
        done(&server.load("localhost", "either", words));
    }
    // The host has another name: who signed it is right, and may be all that is asked for.
    for words in ["", "sslmode=require", "sslmode=verify-ca&sslrootcert=@/ca.pem"] {
        done(&server.load("127.0.0.1", "by_tls", words));
    }
    // A certificate that is trusted itself, whoever signed it.
    done(&server.load("localhost", "by_tls", "sslmode=verify-full&sslrootcert=@/server.pem"));
}

#[test]
fn prefer_does_without_where_the_server_wants_no_tls() {
    let Some(server) = Server::shared() else { return };
    let in_the_open = PIPELINE.replace("where not (", "where (").replace("the session is encrypted", IN_THE_OPEN);
    for (database, words) in [("in_the_open", ""), ("in_the_open", "sslmode=prefer"), ("either", "sslmode=disable")] {
        done(&server.load_checked(&in_the_open, "127.0.0.1", database, words));
    }
    let outcome = server.load("127.0.0.1", "either", "sslmode=disable");
    assert_eq!(outcome.code, Some(5), "the check tells nothing: {}", outcome.stderr);
}

#[test]
fn a_certificate_of_somebody_else_is_refused() {
    let Some(server) = Server::shared() else { return };
    for words in ["sslmode=verify-full", "sslmode=verify-ca", "sslmode=require"] {
        assert_eq!(
            server.refused("localhost", "either", &format!("{words}&sslrootcert=@/other.pem")),
            "the server's certificate is not signed by one in `other.pem`\n  \
             hint: Name the file of the certificate that signs the server's by `sslrootcert`.\n"
        );
    }
}

/// As the Postgres manual makes one: it signs itself, and its host is a common name only.
#[test]
fn a_certificate_that_signs_itself_is_trusted_where_it_is_named() {
    let Some(server) = Server::start(&["self.pem", "self.key"]) else { return };
    done(&server.load("127.0.0.1", "by_tls", "sslmode=verify-ca&sslrootcert=@/self.pem"));
    done(&server.load("127.0.0.1", "by_tls", "sslmode=require"));
    assert_eq!(
        server.refused("localhost", "by_tls", "sslmode=verify-full&sslrootcert=@/ca.pem"),
        "the server's certificate is not signed by one in `ca.pem`\n  \
         hint: Name the file of the certificate that signs the server's by `sslrootcert`.\n"
    );
    assert_eq!(
        server.refused("localhost", "by_tls", "sslmode=verify-full&sslrootcert=@/self.pem"),
        "the server's certificate is not for `localhost`\n  \
         detail: It is for no host: it has no `subjectAltName`, and a common name does not count.\n  \
         hint: Connect by a name that it is for, or look at who signed it only: `sslmode=verify-ca`.\n"
    );
}

#[test]
fn a_certificate_for_another_host_is_refused() {
    let Some(server) = Server::shared() else { return };
    assert_eq!(
        server.refused("127.0.0.1", "either", "sslmode=verify-full&sslrootcert=@/ca.pem"),
        "the server's certificate is not for `127.0.0.1`\n  \
         detail: It is for `localhost`.\n  \
         hint: Connect by a name that it is for, or look at who signed it only: `sslmode=verify-ca`.\n"
    );
}

#[test]
fn a_server_that_wants_tls_says_so_to_whom_disables_it() {
    let Some(server) = Server::shared() else { return };
    assert_eq!(
        server.refused("127.0.0.1", "by_tls", "sslmode=disable"),
        "no pg_hba.conf entry for host \"127.0.0.1\", user \"mirror42\", database \"by_tls\", no encryption\n  \
         detail: Postgres calls this 28000.\n  \
         hint: If the server wants TLS, take `sslmode=disable` out of `DATABASE_URL`; else check the user.\n"
    );
}

#[test]
fn a_server_without_tls_is_refused_to_whom_requires_it() {
    // As a server does that was built without it: the question has 8 bytes, the answer is `N`.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = Server { folder: PathBuf::from("/nowhere"), port };
    let answering = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let mut question = [0; 8];
        stream.read_exact(&mut question).unwrap();
        stream.write_all(b"N").unwrap();
    });
    assert_eq!(
        server.refused("127.0.0.1", "either", "sslmode=require"),
        "the server offers no TLS\n  \
         hint: Set `ssl = on` at the server; on a way that nobody listens to, `sslmode=disable` does without.\n"
    );
    answering.join().unwrap();
}

#[test]
fn a_file_that_is_missing_or_no_pem_is_named() {
    let Some(server) = Server::shared() else { return };
    fs::write(server.folder.join("binary.der"), [0x30, 0x82, 0xff]).unwrap();
    let told = |words: &str| {
        let outcome = server.load("localhost", "either", words);
        assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
        outcome.stderr.replace(&server.file(""), "")
    };
    assert_eq!(
        told("sslmode=verify-full&sslrootcert=@/none.pem"),
        "mirror42-load: error: could not read `none.pem`: no such file or directory (os error 2)\n"
    );
    assert_eq!(
        told("sslmode=verify-full&sslrootcert=@/binary.der"),
        "mirror42-load: error: `binary.der` holds no certificate in PEM\n  \
         hint: Convert it: `openssl x509 -in FILE -out FILE.pem`.\n"
    );
    assert_eq!(
        told("sslmode=require&sslcert=@/client.pem&sslkey=@/client.pem"),
        "mirror42-load: error: `client.pem` holds no private key in PEM\n  \
         hint: Convert it, without a password: `openssl pkey -in FILE -out FILE.pem`.\n"
    );
}

#[test]
fn a_certificate_of_the_clients_is_shown_to_a_server_that_asks() {
    let Some(server) = Server::shared() else { return };
    let words = "sslmode=verify-full&sslrootcert=@/ca.pem";
    done(&server.load("localhost", "certified", &format!("{words}&sslcert=@/client.pem&sslkey=@/client.key")));
    assert_eq!(
        server.refused("localhost", "certified", words),
        "connection requires a valid client certificate\n  \
         detail: Postgres calls this 28000.\n  \
         hint: Check the user in `DATABASE_URL`, and what the server's pg_hba.conf asks of it.\n"
    );
}

#[test]
fn psql_is_given_the_same_words() {
    let Some(server) = Server::shared() else { return };
    let psql = |name: &str| {
        let host = format!("postgresql://mirror42@localhost:{}/by_tls", server.port);
        let url = format!("{host}?sslmode=verify-full&sslrootcert={}", server.file(name));
        let space = Space::new().file("pipeline.toml", PIPELINE).with("DATABASE_URL", &url);
        space.run("mirror42", &["db", "psql", "--", "-XAtc", "select 42"])
    };
    assert_eq!(psql("ca.pem"), Outcome { code: Some(0), stdout: "42\n".to_string(), stderr: String::new() });
    assert_eq!(psql("other.pem").code, Some(2));
}
