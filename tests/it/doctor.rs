//! The doctor: a line a check, whatever there is, and remedies that are some.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::simulator::{CLIENT_SECRET, Reply, Server, Simulator};
use crate::space::{Outcome, Space};

const HINT: &str = "                      hint: ";

/// A pipeline of one stage, for the simulator.
fn coalitions(url: &str) -> String {
    format!(
        r#"[pipeline]
name = "t"

[api]
base_url = "{url}"
auth     = {{ kind = "oauth2", token_path = "/oauth/token", client_id_env = "ID", client_secret_env = "SECRET" }}
limits   = {{ per_hour = 1200 }}

[[stage]]
name  = "coalitions"
fetch = "/v2/coalitions"
jq    = '{{id, name}}'
key   = ["id"]
table = "coalitions"
"#
    )
}

const SCHEMA: &str =
    "create table coalitions (id bigint primary key, name text, ingested_at timestamptz not null default now());";

/// The record of a run that did not end.
const KILLED: &str = r#"{ "version": 1, "id": "20260101T000000Z-1", "pipeline": "t", "mirror42": "0.1.0", "targets": [],
    "started_at": "2026-01-01T00:00:00.000Z", "ended_at": null, "duration_ms": 0, "exit_code": null, "error": null, "steps": [],
    "current_steps": 0, "requests": 0, "quota": null, "tables": [], "rows": 0, "changed": 0, "deleted": 0, "orphans": 0,
    "checks": null }"#;

/// A pipeline that asks for nothing.
fn open(url: &str) -> String {
    let start = "[pipeline]\nname = \"t\"\n[api]\nbase_url = \"";
    format!("{start}{url}\"\n[[stage]]\nname = \"a\"\nfetch = \"/a\"\nkey = [\"id\"]\ntable = \"a\"\n")
}

fn private(space: &Space, file: &str, mode: u32) {
    fs::set_permissions(space.path().join(file), fs::Permissions::from_mode(mode)).unwrap();
}

/// With a program `crontab` that knows of the folder; what this machine's own knows is not our business.
fn scheduled(space: Space) -> Space {
    let folder = fs::canonicalize(space.path()).unwrap();
    let line = format!("#!/bin/sh\necho '0 1 * * * cd {} && mirror42 run -q'\n", folder.display());
    let space = space.file("bin/crontab", &line);
    private(&space, "bin/crontab", 0o755);
    let path = format!("{}:{}", space.path().join("bin").display(), std::env::var("PATH").unwrap());
    space.with("PATH", &path)
}

/// What was printed, without what is different each time.
fn told(space: &Space, code: i32, arguments: &[&str]) -> (Vec<String>, String) {
    let Outcome { code: exit, stdout, stderr } = space.run("mirror42", &[&["doctor"], arguments].concat());
    assert_eq!(exit, Some(code), "{stdout}{stderr}");
    let folder = fs::canonicalize(space.path()).unwrap().display().to_string();
    let plain = |line: &str| {
        let line = line.replace(&folder, "FOLDER").replace(&space.path().display().to_string(), "FOLDER");
        let after = |word: &str| line.find(word).map(|at| format!("{}{word}…", &line[..at]));
        match line.get(9..22).map(str::trim) {
            Some("disk") => after("; a run may need ").unwrap_or(line).replace(|c: char| c.is_ascii_digit(), ""),
            Some("api") if line.contains(" answered in ") => after(" answered in ").unwrap(),
            Some("token") => after("is good for ").unwrap_or(line),
            Some("clock") => after("; the machine's hours").unwrap_or(line),
            Some("database") => after("Postgres ").unwrap_or(line),
            Some("mirror") if line.contains("it is ") => after("it is ").unwrap(),
            Some("last run") if line.contains(" ago") => {
                line[..line.find(" ago").unwrap()].replace(|c: char| c.is_ascii_digit(), "N")
            }
            _ => line,
        }
    };
    (stdout.lines().map(plain).collect(), stderr)
}

fn starting<'a>(lines: &'a [String], check: &str) -> Vec<&'a str> {
    let of_check = |line: &&str| line.get(9..22).is_some_and(|name| name.trim() == check);
    lines.iter().map(String::as_str).filter(of_check).collect()
}

#[test]
fn a_mirror_that_is_well_has_nothing_but_ok() {
    let simulator = Simulator::start("--secret-valid-until 2099-01-01");
    let space = scheduled(Space::with_database())
        .file("pipeline.toml", &coalitions(&simulator.url))
        .file("schema.sql", SCHEMA)
        .file(".env", &format!("ID=sim-uid\nSECRET={CLIENT_SECRET}\n"));
    private(&space, ".env", 0o600);
    let before = |lines: Vec<String>| lines.join("\n").replace(&simulator.url, "HOST").replace("1,198", "1,199");
    let (lines, stderr) = told(&space, 0, &[]);
    assert_eq!(stderr, "");
    let expected = |mirror: &str, folders: &str, schema: &str, quota: &str, last: &str| {
        format!(
            "ok       pipeline     `pipeline.toml`: 1 stage, 1 table, 0 checks\n\
             ok       filters      all of them compile\n\
             ok       credentials  `ID` and `SECRET` in `.env`\n\
             ok       token        the token is good for …\n\
             ok       api          `HOST/v2/coalitions?per_page=1` answered in …\n\
             ok       quota        {quota}\n\
             ok       database     Postgres …\n\
             ok       rights       `mirror42` may do all that a load does\n\
             ok       schema       {schema}\n\
             ok       folders      {folders}\n\
             ok       disk         . GB free; a run may need …\n\
             ok       clock        as that of the API and of the database, to a minute; the machine's hours…\n\
             ok       cron         the crontab runs this folder\n\
             {mirror}\n\
             ok       last run     {last}"
        )
    };
    assert_eq!(
        before(lines),
        expected(
            &format!("warning  mirror       it was never loaded\n{HINT}Run `mirror42 run`."),
            "can be written; not there yet, made when needed: `exports`, `logs`, `data`, `.mirror42`",
            "no tables yet: the first load makes the 1 table of `schema.sql`",
            "1,199 of 1,200 requests left this hour; no run tells how many it needs",
            "there was none yet"
        )
    );
    let run = space.run("mirror42", &["run", "-q"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    let (lines, _) = told(&space, 0, &[]);
    let text = before(lines);
    let (start, end) = text.split_once("quota        ").unwrap();
    let (quota, end) = end.split_once('\n').unwrap();
    assert!(quota.ends_with(" of 1,200 requests left this hour; the last fetches took 4"), "{quota}");
    assert_eq!(
        format!("{start}quota        QUOTA\n{end}"),
        expected(
            "ok       mirror       it is …",
            "all are there and can be written",
            "1 table as in `schema.sql`",
            "QUOTA",
            "it ended well N s"
        )
    );
    let json = space.run("mirror42", &["doctor", "--json"]);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&json["state"], json["checks"].as_array().unwrap().len()), (&"ok".into(), 15));
    assert_eq!(
        json["checks"][1],
        serde_json::json!({ "check": "filters", "state": "ok", "found": "all of them compile", "hint": null })
    );
    let quiet = space.run("mirror42", &["doctor", "-q"]);
    assert_eq!(quiet, Outcome { code: Some(0), stdout: String::new(), stderr: String::new() });
}

#[test]
fn with_nothing_there_every_check_has_its_line() {
    let (lines, stderr) = told(&Space::new(), 1, &[]);
    assert_eq!(stderr, "mirror42: error: one of 14 checks failed\n");
    let database = starting(&lines, "database");
    assert_eq!(database, ["ok       database     none yet: the first run makes one in data/postgres, by Postgres …"]);
    let after = "not checked, for the reasons above";
    let others: Vec<&str> = lines.iter().map(String::as_str).filter(|line| !line.contains(" disk ")).collect();
    assert_eq!(
        others.join("\n"),
        format!(
            "failure  pipeline     cannot read the pipeline file `pipeline.toml`; No such file or directory (os error 2)\n\
             {HINT}Name the file with `--pipeline FILE`.\n\
             warning  filters      {after}\n\
             warning  credentials  {after}\n\
             warning  token        {after}\n\
             warning  api          {after}\n\
             warning  quota        {after}\n\
             {}\n\
             warning  schema       {after}\n\
             ok       folders      can be written; not there yet, made when needed: `exports`, `logs`, `data`, `.mirror42`\n\
             {}\n\
             warning  cron         nothing runs `FOLDER` every night\n\
             {HINT}Run `mirror42 crontab install`, or `mirror42 systemd install`.\n\
             warning  mirror       {after}\n\
             ok       last run     there was none yet",
            database[0],
            starting(&lines, "clock")[0],
        )
    );
}

#[test]
fn what_is_wrong_is_told_with_its_remedy() {
    // Nobody listens there any more.
    let gone = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (api, database) = (gone(), gone());
    let space = scheduled(Space::new())
        .file("pipeline.toml", &open(&format!("http://127.0.0.1:{api}")).replace("key =", "jq = '{'\nkey ="))
        .file("exports", "no folder")
        .file(".mirror42/token.json", "{}")
        .file("logs/runs/20260101T000000Z-1.json", KILLED)
        .with("DATABASE_URL", &format!("postgresql://x@127.0.0.1:{database}/y"));
    private(&space, ".mirror42/token.json", 0o644);
    let (lines, stderr) = told(&space, 1, &[]);
    let one = |check: &str| starting(&lines, check).concat();
    assert_eq!(
        one("filters"),
        "failure  filters      the jq filter of stage `a` is wrong: expected closing brace, found its end (at \
         pipeline.toml:8, line 1 of the filter, column 2)"
    );
    assert!(one("api").starts_with(&format!(
        "failure  api          could not fetch `http://127.0.0.1:{api}/a?per_page=1`: no server is there"
    )));
    assert!(one("api").ends_with("; It was tried once"), "{lines:#?}");
    assert!(one("database").starts_with("failure  database     could not connect to database `y` on `127.0.0.1:"));
    assert_eq!(one("credentials"), "ok       credentials  the API asks for none");
    assert_eq!(one("schema"), "warning  schema       not checked, for the reasons above");
    assert_eq!(
        starting(&lines, "folders"),
        [
            "failure  folders      `exports` is no folder",
            "failure  folders      others can read `.mirror42/token.json` (mode 0644)"
        ]
    );
    assert!(lines.contains(&format!("{HINT}Move it away: a run makes the folder.")));
    assert!(lines.contains(&format!("{HINT}Run `chmod 600 ./.mirror42/token.json`.")));
    assert!(one("last run").starts_with("warning  last run     it began "), "{lines:#?}");
    assert_eq!(stderr, "mirror42: error: 5 of 15 checks failed\n");

    let space = space_with_env("ID=x\n", 0o644);
    let (lines, _) = told(&space, 1, &[]);
    assert_eq!(
        lines[2..4],
        [
            "failure  credentials  `./.env` holds secrets and others can read it (mode 0644)".to_string(),
            format!("{HINT}Run `chmod 600 ./.env`.")
        ]
    );
    let hint = format!("{HINT}Put it into a file `.env` beside the pipeline (mode 0600), as `NAME=value`.");
    let space = space_with_env("ID=x\n", 0o600);
    let (lines, _) = told(&space, 1, &[]);
    assert_eq!(lines[2..4], ["failure  credentials  `SECRET` not set".to_string(), hint.clone()]);
    let space = space.with("SECRET", "y");
    let (lines, _) = told(&space, 1, &[]);
    let elsewhere = "warning  credentials  `SECRET` set in the environment only, which cron does not have";
    assert_eq!(lines[2..4], [elsewhere.to_string(), hint]);
}

fn space_with_env(text: &str, mode: u32) -> Space {
    let space = Space::new().file("pipeline.toml", &coalitions("http://127.0.0.1:1")).file(".env", text);
    private(&space, ".env", mode);
    space
}

#[test]
fn tables_that_differ_are_told_and_the_hints_mend_them() {
    let server = Server::start("127.0.0.1:0", |_| Reply::json("[]").with("Date", "Thu, 01 Jan 2026 00:00:00 GMT"));
    let pipeline = include_str!("../../pipeline.toml");
    let space = scheduled(Space::with_database())
        .file("pipeline.toml", pipeline)
        .file("schema.sql", include_str!("../../schema.sql"))
        .with("MIRROR42_API_URL", &format!("http://{}", server.address));
    space.client().batch_execute(include_str!("../../schema.sql")).unwrap();
    let schema = || -> Vec<String> {
        let (lines, _) = told(&space, 1, &[]);
        let at = lines.iter().position(|line| line.contains(" schema ")).unwrap();
        let end = lines.iter().position(|line| line.contains(" folders ")).unwrap();
        lines[at..end].to_vec()
    };
    let same = "ok       schema       12 tables as in `schema.sql`";
    assert_eq!(schema(), [same]);
    space
        .client()
        .batch_execute(
            "drop table coalitions_users;
             alter table users drop column wallet;
             alter table projects alter column difficulty type text, add column extra text;
             alter table campus_projects drop constraint campus_projects_project_id_fkey;
             alter table cursus alter column ingested_at drop default, alter column name drop not null;
             drop index project_users_user_id;
             alter table coalitions add check (id > 0)",
        )
        .unwrap();
    let found = schema();
    let expected = [
        (
            "warning",
            "table `campus_projects` lacks the foreign key `FOREIGN KEY (project_id) REFERENCES projects(id) ON DELETE CASCADE`",
            "alter table campus_projects add FOREIGN KEY (project_id) REFERENCES projects(id) ON DELETE CASCADE",
        ),
        (
            "warning",
            "table `coalitions` has a check `CHECK ((id > 0))` that is not in the file",
            "alter table coalitions drop constraint coalitions_id_check",
        ),
        ("warning", "table `coalitions_users` is missing", ""),
        (
            "warning",
            "column `cursus.name` may be null, and not in the file",
            "alter table cursus alter column name set not null",
        ),
        (
            "warning",
            "column `cursus.ingested_at` has not the default now() of the file",
            "alter table cursus alter column ingested_at set default now()",
        ),
        (
            "warning",
            "table `project_users` lacks the index `btree (user_id)`",
            "create index on project_users using btree (user_id)",
        ),
        (
            "failure",
            "column `projects.difficulty` is text, and integer in the file",
            "alter table projects alter column difficulty type integer using difficulty::integer",
        ),
        ("warning", "column `projects.extra` is not in the file", "alter table projects drop column extra"),
        ("failure", "column `users.wallet` is missing", "alter table users add column wallet integer"),
    ];
    let lines: Vec<String> = expected
        .iter()
        .flat_map(|(state, what, mend)| {
            let hint = match *mend {
                "" => "Make it as in `schema.sql`, or change that.".to_string(),
                mend => format!("`{mend}`, or change `schema.sql`."),
            };
            [format!("{state:8} schema       {what}"), format!("{HINT}{hint}")]
        })
        .collect();
    assert_eq!(found, lines);
    for (_, _, mend) in expected {
        space.client().batch_execute(mend).unwrap();
    }
    assert_eq!(schema().len(), 2, "all but the table");
    assert_eq!(space.query("select count(*) from pg_namespace where nspname ~ 'doctor'"), ["0"]);
    // Other checks, on the way.
    let (lines, _) = told(&space, 1, &[]);
    assert_eq!(
        starting(&lines, "credentials"),
        ["failure  credentials  `FT_CLIENT_ID` and `FT_CLIENT_SECRET` not set"]
    );
    assert_eq!(starting(&lines, "token"), ["warning  token        not checked, for the reasons above"]);

    space.write("pipeline.toml", &open("http://127.0.0.1:1").replace("\"a\"", "\"cursus\""));
    let (lines, _) = told(&space, 0, &[]);
    assert!(
        starting(&lines, "clock")[0].contains("behind that of the API")
            || starting(&lines, "clock")[0].contains("ahead of that of the API"),
        "{lines:#?}"
    );
}

#[test]
fn a_schema_file_that_commits_is_refused_and_leaves_nothing() {
    let server = Server::start("127.0.0.1:0", |_| Reply::json("[{\"id\":1}]"));
    let space = Space::with_database()
        .file("pipeline.toml", &open(&format!("http://{}", server.address)))
        .file("schema.sql", "begin; create table a (id int primary key); commit; create table b (id int);");
    let schema = |found: &str, hint: &str| {
        let (lines, _) = told(&space, 1, &[]);
        let at = lines.iter().position(|line| line.contains(" schema ")).unwrap();
        assert_eq!(lines[at..at + 2], [format!("failure  schema       {found}"), format!("{HINT}{hint}")]);
    };
    schema(
        "`schema.sql` has a command that a load cannot run: EXECUTE of transaction commands is not \
         implemented (at schema.sql)",
        "A load runs it in its own transaction: `begin`, `commit`, `rollback` and `copy … from stdin` cannot be in it.",
    );
    let left = "select count(*) from pg_class where relname in ('a', 'b')";
    assert_eq!(space.query(left), ["0"]);
    space.write("schema.sql", "create table b (id int);");
    schema(
        "`schema.sql` does not make table `a`, which stage `a` fills (at pipeline.toml:5)",
        "Write the table into the file, or take `table` out of the stage.",
    );
    assert_eq!(space.query(left), ["0"]);
}

#[test]
fn rights_that_a_load_lacks_are_told_with_the_statement_that_gives_them() {
    let server = Server::start("127.0.0.1:0", |_| Reply::json("[{\"id\":1}]"));
    let space = Space::with_database()
        .file("pipeline.toml", &open(&format!("http://{}", server.address)))
        .file("schema.sql", "create table a (id int primary key);");
    // A role that every server has, and that may make nothing; the tests' own may take its part.
    let joint = if space.url().contains('?') { '&' } else { '?' };
    let url = format!("{}{joint}options=-c%20role%3Dpg_read_all_data", space.url());
    space.client().batch_execute("create table a (id int primary key); create schema mirror42").unwrap();
    let (lines, _) = told(&space, 1, &["--database-url", &url]);
    assert_eq!(
        starting(&lines, "rights"),
        [
            "failure  rights       `pg_read_all_data` may not make tables in the ledger's schema `mirror42`",
            "failure  rights       `pg_read_all_data` may not change table \"a\", which is somebody else's",
        ]
    );
    assert!(lines.contains(&format!(
        "{HINT}As the owner: `grant create, usage on schema \"mirror42\" to \"pg_read_all_data\"`."
    )));
    assert!(lines.contains(&format!("{HINT}As the owner: `alter table \"a\" owner to \"pg_read_all_data\"`.")));
    let name = space.query("select current_database()").concat();
    assert_eq!(
        starting(&lines, "schema"),
        [format!(
            "failure  schema       could not compare with `schema.sql`: permission denied for database {name}; Postgres calls this 42501"
        )]
    );
    space
        .client()
        .batch_execute("drop table a; drop schema mirror42; revoke create on schema public from public")
        .unwrap();
    let (lines, _) = told(&space, 1, &["--database-url", &url]);
    assert_eq!(
        starting(&lines, "rights"),
        [
            "failure  rights       `pg_read_all_data` may not make the ledger's schema `mirror42`",
            "failure  rights       `pg_read_all_data` may not make tables in schema `public`",
        ]
    );
}
