//! A new pipeline folder from the addresses of an API: what is written works as it is, or nothing is written.

use std::fs;

use serde_json::{Value, json};

use crate::simulator::{CLIENT_SECRET, Reply, Request, Server, Simulator};
use crate::space::{Outcome, Space, rows};

/// An empty folder, with an empty database and no limits of our own.
fn space() -> Space {
    Space::with_database().with("MIRROR42_LIMITS", "none")
}

/// Makes the pipeline; what was printed, without the address of the server.
fn init(space: &Space, address: &str, arguments: &[&str]) -> String {
    let outcome = space.run("mirror42", &[&["init"], arguments].concat());
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{}", outcome.stdout);
    outcome.stdout.replace(address, "HOST")
}

fn refused(space: &Space, arguments: &[&str], code: i32) -> String {
    let before = fs::read_dir(space.path()).unwrap().count();
    let outcome = space.run("mirror42", &[&["init"], arguments].concat());
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(code), ""), "{}", outcome.stderr);
    assert_eq!(fs::read_dir(space.path()).unwrap().count(), before, "something was written");
    outcome.stderr.strip_prefix("mirror42: error: ").unwrap_or_else(|| panic!("{}", outcome.stderr)).to_owned()
}

/// Runs the new pipeline twice; the second night changes nothing.
fn run_twice(space: &Space) {
    for night in [&["run", "-q"][..], &["run", "-q", "--force"]] {
        let outcome = space.run("mirror42", night);
        assert_eq!(outcome, Outcome { code: Some(0), stdout: String::new(), stderr: String::new() });
    }
    let changes = "select inserted + updated + deleted from mirror42.run_tables where run_id = (select max(id) from mirror42.runs)";
    assert!(space.query(changes).iter().all(|changes| changes == "0"), "{:?}", space.query(changes));
}

fn read(space: &Space, file: &str) -> String {
    fs::read_to_string(space.path().join(file)).unwrap()
}

fn param<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    path.split_once('?')?.1.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

#[test]
fn the_api_of_42_is_mirrored_from_two_addresses() {
    let simulator = Simulator::start("");
    let space = space().with("FT_CLIENT_ID", "sim-uid").with("FT_CLIENT_SECRET", CLIENT_SECRET);
    let urls = ["/v2/campus", "/v2/coalitions?page=3&per_page=7"].map(|path| format!("{}{path}", simulator.url));
    let auth = ["--auth", "oauth2", "--client-id-env", "FT_CLIENT_ID", "--client-secret-env", "FT_CLIENT_SECRET"];
    let printed = init(&space, &simulator.url, &[&[urls[0].as_str(), urls[1].as_str()], &auth[..]].concat());
    let style =
        "pages by their number (`page`, from 1), total in `X-Total`: the address of the next page has its number";
    assert_eq!(
        printed,
        format!(
            "HOST/v2/campus: 64 records, 20 columns, key `id`; {style}.\n\
             HOST/v2/coalitions: 100 records, 8 columns, key `id`; {style}.\n\
             Wrote pipeline.toml, ./schema.sql and ./.gitignore: yours to edit.\n\
             - For cron, put FT_CLIENT_ID and FT_CLIENT_SECRET into ./.env (mode 0600).\n\
             Next: mirror42 run\n"
        )
    );
    let pipeline = read(&space, "pipeline.toml");
    let name = space.path().file_name().unwrap().to_str().unwrap();
    let expected = format!(
        "# Proposed by `mirror42 init` from what the API answered: yours to edit. What it guessed says so.\n\
         # docs/pipeline.md of mirror42 has every key.\n\n\
         [pipeline]\nname = \"{name}\"\n\n\
         [api]\n\
         base_url = \"{}\"\n\
         auth     = {{ kind = \"oauth2\", token_path = \"/oauth/token\", client_id_env = \"FT_CLIENT_ID\", \
         client_secret_env = \"FT_CLIENT_SECRET\" }}\n\
         limits   = {{ per_second = 2 }} # a guess: what does the API allow?\n\n\
         [api.page] # the address of the next page has its number\n\
         style      = \"page-number\"\nparam      = \"page\"\nfirst_page = 1\nsize       = 100\n\
         size_param = \"per_page\"\ntotal      = \"X-Total\"\nrecords    = \".[]\"\n\n\
         [[stage]]\nname  = \"01_campus\"\nfetch = \"/v2/campus\"\njq    = '''\n    \
         {{id, name, time_zone, language, language_id: .language.id, users_count, vogsphere_id, country}}\n  \
         + {{address, zip, city, website, facebook, twitter, active, public}}\n  \
         + {{email_extension, default_hidden_phone, endpoint, endpoint_id: .endpoint.id}}\n'''\n\
         key   = [\"id\"]\ntable = \"campus\"\n\n\
         [[stage]]\nname  = \"02_coalitions\"\nfetch = \"/v2/coalitions\"\njq    = '''\n    \
         {{id, name, slug, image_url, cover_url, color, score, user_id}}\n'''\n\
         key   = [\"id\"]\ntable = \"coalitions\"\n",
        simulator.url
    );
    assert_eq!(pipeline, expected);
    run_twice(&space);
    assert_eq!(space.query("select count(*), count(distinct language_id) > 1 from campus"), ["64|t"]);
    assert_eq!(space.query("select count(*), sum(score) > 0 from coalitions"), ["350|t"]);
    assert_eq!(read(&space, ".gitignore"), include_str!("../../.gitignore").replace("/target/\n", ""));
}

/// 250 books, as an API that counts, and names the address of the next page.
fn results(request: &Request, host: &str) -> Reply {
    let path = &request.path;
    if request.header("authorization") != Some("Bearer t0ken") {
        return Reply { status: 401, ..Reply::json("{\"error\":\"who are you?\"}") };
    }
    let page = param(path, "page").map_or(1, |page| page.parse::<usize>().unwrap());
    let size = param(path, "page_size").map_or(20, |size| size.parse::<usize>().unwrap().min(60));
    let books: Vec<Value> = ((page - 1) * size..(page * size).min(250))
        .map(|n| {
            json!({ "isbn": format!("b{n:03}"), "title": "T", "price": n as f64 / 2.0, "inPrint": n % 2 == 0,
                    "publishedAt": "2024-05-01T00:00:00Z", "author": { "id": n % 7, "name": "A" }, "tags": ["x"], "note": null })
        })
        .collect();
    let more = page * size < 250;
    let next = more.then(|| format!("http://{host}/api/books?page={}&page_size={size}", page + 1));
    Reply::json(json!({ "count": 250, "next": next, "previous": null, "results": books }).to_string())
}

#[test]
fn an_api_of_results_and_next_is_mirrored_with_a_token() {
    let host = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let known = std::sync::Arc::clone(&host);
    let server = Server::hearing("127.0.0.1:0", move |request| results(request, known.get().unwrap()));
    host.set(server.address.clone()).unwrap();
    let url = format!("http://{}/api/books", server.address);
    let space = space().file("library/.env", "TOKEN=t0ken\n");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(space.path().join("library/.env"), private).unwrap();
    let printed = init(&space, &server.address, &[&url, "library", "--auth", "bearer", "--token-env", "TOKEN"]);
    assert_eq!(
        printed,
        "http://HOST/api/books: 60 records, 9 columns, key `isbn`; pages by their number (`page`, from 1), total in \
         `.count`: the address of the next page has its number.\n\
         Wrote library/pipeline.toml, library/schema.sql and library/.gitignore: yours to edit.\n\
         - `books`: null in every record, so jsonb until you know: note.\n\
         - `books`: is the key right? It was guessed from 60 records.\n\
         Next: cd library && mirror42 run\n"
    );
    assert_eq!(
        read(&space, "library/schema.sql").split_once("\n\n").unwrap().1,
        "create table books (\n    \
         author       jsonb,\n    \
         author_id    bigint,\n    \
         in_print     boolean,\n    \
         isbn         text primary key,\n    \
         note         jsonb, -- null in every record that was seen\n    \
         price        numeric,\n    \
         published_at timestamptz,\n    \
         tags         jsonb,\n    \
         title        text,\n    \
         ingested_at  timestamptz not null default now()\n);\n"
    );
    let pipeline = read(&space, "library/pipeline.toml");
    assert!(pipeline.contains("\nkey   = [\"isbn\"] # a guess: it tells the 60 records apart that were seen\n"));
    assert!(pipeline.contains(
        "size_param = \"page_size\"\ntotal      = \".count\"\nrecords    = \".results[]\"\nid         = \"isbn\"\n"
    ));
    let file = ["--pipeline", "library/pipeline.toml"];
    for args in [&["run", "-q"][..], &["run", "-q", "--force"]] {
        assert_eq!(space.run("mirror42", &[args, &file].concat()).code, Some(0));
    }
    assert_eq!(space.query("select count(*), sum(price), count(distinct author_id) from books"), ["250|15562.5|7"]);
    let changed = "select inserted, updated, deleted from mirror42.run_tables order by run_id desc limit 1";
    assert_eq!(space.query(changed), ["0|0|0"]);
}

/// 45 records of an index in pages of 10, and what leads to the next one.
fn slice(path: &str, from: usize) -> Vec<Value> {
    let odd = path.contains("odd");
    (from..(from + 10).min(45)).map(|n| json!({ "a": n / 9, "b": n % 9, "id": if odd { 7 } else { n } })).collect()
}

fn small_api(path: &str) -> Reply {
    let number = |name: &str| param(path, name).map_or(0, |text| text.parse::<usize>().unwrap());
    let page = number("page").max(1);
    let array = |from: usize| Reply::json(Value::from(slice(path, from)).to_string());
    match path.split('?').next().unwrap() {
        "/linked" | "/odd" => match page {
            5 => array(40),
            page => array((page - 1) * 10).with("Link", format!("<?page={}>; rel=\"next\"", page + 1)),
        },
        "/silent" => array((page - 1) * 10),
        "/skipped" => {
            let skip = number("skip");
            Reply::json(json!({ "skipped": slice(path, skip), "total": 45, "skip": skip, "limit": 10 }).to_string())
        }
        "/cursors" => {
            let from = number("cursor");
            let next = (from + 10 < 45).then(|| (from + 10).to_string());
            Reply::json(json!({ "data": slice(path, from), "meta": { "next_cursor": next } }).to_string())
        }
        "/all" => array(0),
        "/one" => Reply::json("{\"id\":1,\"name\":\"it\"}"),
        "/none" => Reply::json("{\"results\":[]}"),
        "/text" => Reply { headers: Vec::new(), ..Reply::json("hello") },
        _ => Reply { status: 404, ..Reply::json("{\"error\":\"no such thing\"}") },
    }
}

#[test]
fn every_way_to_page_is_seen() {
    let server = Server::start("127.0.0.1:0", small_api);
    let names = ["linked", "odd", "silent", "skipped", "cursors", "all", "one"];
    let urls = names.map(|name| format!("http://{}/{name}", server.address));
    let space = space();
    let printed = init(&space, &server.address, &urls.each_ref().map(String::as_str));
    let told: Vec<&str> = printed.lines().filter_map(|line| line.strip_prefix("http://HOST/")).collect();
    assert_eq!(
        told,
        [
            "linked: 10 records, 3 columns, key `id`; pages by the `Link` header, no total: the `Link` header names the next \
             page.",
            "odd: 10 records, 3 columns, key `a` and `b`; pages by the `Link` header, no total: the `Link` header names the \
             next page.",
            "silent: 10 records, 3 columns, key `id`; pages by their number (`page`, from 1), no total: `page=2` gives other \
             records than the first page.",
            "skipped: 10 records, 3 columns, key `id`; pages by offset (`skip`), total in `.total`: `.skip` of the body is \
             the offset.",
            "cursors: 10 records, 3 columns, key `id`; pages by `.meta.next_cursor`, no total: `.meta.next_cursor` of the \
             body names the next page.",
            "all: 10 records, 3 columns, key `id`; one answer: nothing in the answer tells of other pages.",
            "one: 1 record, 2 columns, key `id`; one answer: nothing in the answer tells of other pages.",
        ]
    );
    run_twice(&space);
    let counts = names.map(|table| space.query(&format!("select count(*) from \"{table}\"")).concat());
    assert_eq!(counts, ["45", "45", "45", "45", "45", "10", "1"]);
}

#[test]
fn what_the_second_page_shows_and_what_was_assumed_is_told() {
    let ids = |from: u64| json!([{ "id": from }, { "id": from + 1 }]);
    let server = Server::start("127.0.0.1:0", move |path| {
        let next = format!("<{}?page=2>; rel=\"next\"", path.split('?').next().unwrap());
        let first = Reply::json(ids(1).to_string()).with("X-Total", 4).with("Link", next);
        match (path.split('?').next().unwrap(), param(path, "page")) {
            ("/stuck", _) | ("/barred", None) => first,
            ("/empty", None) => first,
            ("/empty", _) => Reply::json("[]"),
            ("/both", _) => Reply::json(json!({ "count": 2, "items": ids(1), "both": ids(7) }).to_string()),
            ("/silent", None) => Reply::json(ids(1).to_string()),
            _ => Reply { status: 404, ..Reply::json("{\"error\":\"no such page\"}") },
        }
    });
    let names = ["stuck", "barred", "empty", "both", "silent"];
    let urls = names.map(|name| format!("http://{}/{name}", server.address));
    let printed = init(&space(), &server.address, &urls.each_ref().map(String::as_str));
    let told: Vec<&str> = printed.lines().filter_map(|line| line.strip_prefix("- ")).collect();
    let refused = "it answered 404 application/json: no such page";
    assert_eq!(
        told,
        [
            "`stuck`: its second page, `/stuck?page=2`, has the records of the first; check its paging.",
            &format!(
                "`barred`: its second page, `/barred?page=2`, could not be looked at: could not fetch \
                 `http://HOST/barred?page=2`: {refused}; check its paging."
            ),
            "`empty`: its second page, `/empty?page=2`, is empty; check its paging.",
            "`both`: its records are taken from `.both[]`; `.items[]` has objects too.",
            &format!(
                "`silent`: whether there are more pages could not be found out: could not fetch \
                 `http://HOST/silent?page=2`: {refused}."
            ),
        ]
    );
}

#[test]
fn every_word_of_sql_and_every_odd_name_may_be_a_member() {
    let space = space();
    let mut words = rows(&mut space.client(), "select word from pg_get_keywords() order by word");
    words
        .extend(["it's '''", "a \"b\" \\(1)", "staff?", "größe", "2fa", "xmin", "ingested_at", "ID"].map(String::from));
    let record: serde_json::Map<String, Value> =
        words.iter().map(|word| (word.clone(), word.as_str().into())).collect();
    let body = json!([{ "id": 1 }, Value::Object(record.into_iter().chain([("id".into(), 2.into())]).collect())]);
    let server = Server::start("127.0.0.1:0", move |_| Reply::json(body.to_string()));
    init(&space, &server.address, &[&format!("http://{}/order", server.address)]);
    run_twice(&space);
    let row = space.query("select to_jsonb(o) - 'id' - 'ingested_at' from \"order\" o where id = 2").concat();
    let row: Value = serde_json::from_str(&row).unwrap();
    let mut values: Vec<&str> = row.as_object().unwrap().values().map(|value| value.as_str().unwrap()).collect();
    values.sort_unstable();
    words.sort_unstable();
    assert_eq!(values, words);
}

#[test]
fn what_cannot_be_a_pipeline_leaves_nothing() {
    let server = Server::start("127.0.0.1:0", small_api);
    let space = space();
    let url = |path: &str| format!("http://{}{path}", server.address);
    let refused = |arguments: &[&str], code| refused(&space, arguments, code).replace(&server.address, "HOST");
    let hint = "  hint: Name an address that answers with records: an array of objects, on its own or in an object.\n";
    assert_eq!(
        refused(&[&url("/none"), "new"], 1),
        format!("cannot make a stage of `http://HOST/none`: the answer has no records\n{hint}")
    );
    assert_eq!(
        refused(&[&url("/gone")], 1),
        "could not fetch `http://HOST/gone`: it answered 404 application/json: no such thing\n  detail: The answer is final.\n"
    );
    assert_eq!(
        refused(&[&url("/text")], 1),
        "could not fetch `http://HOST/text`: it answered what is not JSON (expected value at line 1 column 1: hello)\n  \
         detail: The answer is final.\n"
    );
    assert_eq!(
        refused(&["api.example.org/things"], 2),
        "\"api.example.org/things\" is no address: expected one that begins with `https://` or `http://`\n  \
         hint: Write `mirror42 init https://api.example.org/things FOLDER`.\n"
    );
    assert_eq!(
        refused(&[&url("/all"), "http://other.example/all"], 2),
        "`http://other.example` is another server than `http://HOST`\n  \
         hint: A pipeline is of one API: make another folder for the other one.\n"
    );
    assert_eq!(
        refused(&["http://user:hush@h/x"], 2),
        "the address holds a user or a password, which would show in messages\n"
    );
    assert_eq!(
        refused(&[&url("/all"), "--token-env", "T"], 2),
        "`--token-env` means nothing without `--auth bearer`\n"
    );
    assert_eq!(
        refused(&[&url("/all"), "--auth", "bearer"], 2),
        "the API's token is not set\n  hint: Put it into the environment variable `API_TOKEN`, or into a file `.env` beside \
         the pipeline (mode 0600).\n"
    );
    let space = Space::new().file("old/pipeline.toml", "").file("old/schema.sql", "");
    assert_eq!(
        self::refused(&space, &[&url("/all"), "old"], 2),
        "`old/pipeline.toml`, `old/schema.sql` are there already\n  detail: Nothing was asked and nothing written.\n  \
         hint: Name another folder, or move them away.\n"
    );
    assert_eq!(read(&space, "old/pipeline.toml"), "");
}

#[test]
fn one_answer_can_be_had_as_it_is() {
    let server = Server::start("127.0.0.1:0", |path| match path {
        "/things?a=1" => Reply::json("[{\"id\":1}]").with("X-Total", 1).with("Set-Cookie", "s=1"),
        _ => Reply { status: 503, ..Reply::json("{\"error\":\"not now\"}") },
    });
    let space = Space::new()
        .file("pipeline.toml", &format!("[pipeline]\nname = \"t\"\n[api]\nbase_url = \"http://{}\"\n", server.address));
    let outcome = space.run("mirror42-fetch", &["--sample", "/things?a=1"]);
    let sample: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("{}", outcome.stderr));
    assert_eq!(sample["url"], format!("http://{}/things?a=1", server.address));
    assert_eq!((&sample["body"], &sample["next_link"]), (&json!([{ "id": 1 }]), &Value::Null));
    let headers: Vec<&str> = sample["headers"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(headers, ["content-length", "content-type", "x-total"]);
    let failed = |arguments: &[&str], code| {
        let outcome = space.run("mirror42-fetch", &[arguments, &["-q"]].concat());
        assert_eq!(outcome.code, Some(code), "{}", outcome.stderr);
        outcome.stderr.replace(&server.address, "HOST")
    };
    let before = server.requests();
    assert_eq!(
        failed(&["--sample", "/other", "--tries", "1"], 1),
        "mirror42-fetch: error: could not fetch `http://HOST/other`: it answered 503 application/json: not now\n  \
         detail: It was tried once.\n"
    );
    assert_eq!(server.requests(), before + 1);
    assert_eq!(
        failed(&["--sample", "things"], 2),
        "mirror42-fetch: error: `--sample` is \"things\", expected a path that begins with `/`\n"
    );
}
