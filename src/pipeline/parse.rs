//! From the text of `pipeline.toml` to a [`Pipeline`]. Every key is read here and nowhere else.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::toml_view::{Text, Value, View, breaks, or};
use super::{
    Api, Auth, BodyPath, Check, Duplicates, Fetch, Filter, Grant, Limits, MaxDelete, Nul, OAuth2, Page, PageStyle,
    Pipeline, Run, Source, Stage, Total, extras, upkeep,
};
use crate::error::Result;
use crate::paths::Paths;

// A nightly run begins 24 h after the last: what it fetched then is stale, what a run fetched that
// failed an hour ago is not.
const MAX_AGE: Duration = Duration::from_secs(20 * 3600);
const STALE_AFTER: Duration = Duration::from_secs(24 * 3600);
const MAX_DELETE: MaxDelete = MaxDelete { share: 0.2, rows: None };
const KEEP_EXPORTS: u32 = 30;
// A reader of an hour must not hold up the night; who waits longer than this for a lock waits for somebody who forgot it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
// Ten million rows take a quarter of this on a small machine.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30 * 60);
// The slowest page logged from the real server took 21 s.
const TIMEOUT: Duration = Duration::from_secs(30);
// Shows the code to the person who logs in, since nothing of ours listens for a browser (the API of 42 knows it so).
const REDIRECT_URI: &str = "urn:ietf:wg:oauth:2.0:oob";
const AUTHORIZE_PATH: &str = "/oauth/authorize";
const SCOPE: &str = "public";
const IN_FLIGHT: u32 = 40;
const MOST_IN_FLIGHT: u32 = 256;
const PAGE_SIZE: u32 = 100;
// The window of the hourly limit and a margin: whatever of it is used up, an hour later it is not.
const MAX_WAIT: Duration = Duration::from_secs(65 * 60);

pub fn pipeline(file: &Path, text: &str) -> Result<Pipeline> {
    let breaks = breaks(text);
    let mut root = Text::new(file, text, &breaks).parse()?;
    let mut head = root.need("pipeline")?.table()?;
    let api = api(root.need("api")?.table()?)?;
    let max_age = or(head.take("max_age"), Value::duration, MAX_AGE)?;
    let stages = match root.take("stage") {
        Some(value) => value.tables()?.into_iter().map(|view| stage(view, &api, max_age)).collect::<Result<_>>()?,
        None => Vec::new(),
    };
    let checks = match root.take("check") {
        Some(value) => value.tables()?.into_iter().map(check).collect::<Result<_>>()?,
        None => Vec::new(),
    };
    let cron = upkeep::cron(root.take("cron").map(Value::table).transpose()?, &api.auth)?;
    let logs = upkeep::logs(root.take("logs").map(Value::table).transpose()?)?;
    root.finish()?;
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let pipeline = Pipeline {
        file: file.to_path_buf(),
        paths: Paths::new(folder),
        name: head.need("name")?.name()?,
        schema: PathBuf::from(or(head.take("schema"), Value::name, "schema.sql".to_string())?),
        ledger: or(head.take("ledger"), ledger, super::DEFAULT_LEDGER.to_string())?,
        max_age,
        stale_after: or(head.take("stale_after"), Value::duration, STALE_AFTER)?,
        max_delete: head.take("max_delete").map_or(Ok(MAX_DELETE), max_delete)?,
        keep_exports: or(head.take("keep_exports"), |value| value.whole_number(0..=u32::MAX), KEEP_EXPORTS)?,
        nul: head.take("nul").map_or(Ok(Nul::Error), nul)?,
        lock_timeout: or(head.take("lock_timeout"), Value::duration, LOCK_TIMEOUT)?,
        statement_timeout: or(head.take("statement_timeout"), Value::duration, STATEMENT_TIMEOUT)?,
        hooks: upkeep::Hooks {
            on_success: head.take("on_success").map(upkeep::command).transpose()?,
            on_failure: head.take("on_failure").map(upkeep::command).transpose()?,
        },
        cron,
        logs,
        api,
        stages,
        index: HashMap::new(),
        checks,
    };
    head.finish()?;
    Ok(pipeline)
}

fn ledger(value: &Value) -> Result<String> {
    let plain = "a plain name of a schema, such as \"mirror42\": lower-case letters, digits and underscores";
    super::schema_name(&value.string()?).map_err(|_| value.wrong(plain))
}

fn api(mut view: View) -> Result<Api> {
    let base_url = view.need("base_url")?;
    let auth = match view.take("auth") {
        Some(value) => auth(value.table()?)?,
        None => Auth::None,
    };
    let page = match view.take("page") {
        Some(value) => page(value.table()?, default_page()?)?,
        None => default_page()?,
    };
    let api = Api {
        base_url: super::base_url(&base_url.name()?)
            .map_err(|what| base_url.error(format!("`api.base_url` {what}")))?,
        headers: view.take("headers").map_or(Ok(Vec::new()), |value| extras::headers(value, &auth))?,
        query: view.take("query").map_or(Ok(Vec::new()), |value| extras::query(value, &page))?,
        auth,
        limits: match view.take("limits") {
            Some(value) => limits(value.table()?)?,
            None => Limits {
                per_second: None,
                per_hour: None,
                in_flight: IN_FLIGHT as usize,
                max_wait: MAX_WAIT,
                tries: None,
            },
        },
        page,
        timeout: or(view.take("timeout"), Value::duration, TIMEOUT)?,
    };
    view.finish()?;
    Ok(api)
}

fn auth(mut view: View) -> Result<Auth> {
    #[derive(Clone, Copy)]
    enum Kind {
        None,
        Bearer,
        Basic,
        Header,
        OAuth2,
    }
    #[derive(Clone, Copy)]
    enum Asked {
        ForTheApplication,
        ForAPerson,
    }
    let grants = [("client_credentials", Asked::ForTheApplication), ("refresh_token", Asked::ForAPerson)];
    let kinds = [
        ("oauth2", Kind::OAuth2),
        ("bearer", Kind::Bearer),
        ("basic", Kind::Basic),
        ("header", Kind::Header),
        ("none", Kind::None),
    ];
    let auth = match view.need("kind")?.choice(&kinds)? {
        Kind::None => Auth::None,
        Kind::Bearer => Auth::Bearer { token_env: view.need("token_env")?.name()? },
        Kind::Basic => {
            Auth::Basic { user_env: view.need("user_env")?.name()?, password_env: view.need("password_env")?.name()? }
        }
        Kind::Header => {
            Auth::Header { name: extras::auth_header(&view.need("name")?)?, value_env: view.need("value_env")?.name()? }
        }
        Kind::OAuth2 => Auth::OAuth2(OAuth2 {
            token_path: path(&view.need("token_path")?)?,
            client_id_env: view.need("client_id_env")?.name()?,
            client_secret_env: view.need("client_secret_env")?.name()?,
            grant: match or(view.take("grant"), |value| value.choice(&grants), Asked::ForTheApplication)? {
                Asked::ForTheApplication => Grant::ClientCredentials,
                Asked::ForAPerson => Grant::RefreshToken {
                    authorize_path: or(view.take("authorize_path"), path, AUTHORIZE_PATH.to_string())?,
                    redirect_uri: or(view.take("redirect_uri"), Value::name, REDIRECT_URI.to_string())?,
                    scope: or(view.take("scope"), Value::name, SCOPE.to_string())?,
                },
            },
        }),
    };
    view.finish()?;
    Ok(auth)
}

/// A path of the API, which stands after its base URL.
fn path(value: &Value) -> Result<String> {
    let text = value.string()?;
    if text.starts_with('/') { Ok(text) } else { Err(value.wrong("a path that begins with `/`")) }
}

fn limits(mut view: View) -> Result<Limits> {
    let limits = Limits {
        per_second: view.take("per_second").map(|value| value.count()).transpose()?,
        per_hour: view.take("per_hour").map(|value| value.count()).transpose()?,
        in_flight: or(view.take("in_flight"), in_flight, IN_FLIGHT)? as usize,
        max_wait: MAX_WAIT,
        tries: None,
    };
    view.finish()?;
    Ok(limits)
}

/// Each request that is under way has a thread and a page in memory.
fn in_flight(value: &Value) -> Result<u32> {
    value.whole_number(1..=MOST_IN_FLIGHT)
}

/// How the 42 API pages, and many others.
fn default_page() -> Result<Page> {
    Ok(Page {
        style: PageStyle::PageNumber { param: "page".to_string(), first: 1 },
        size: PAGE_SIZE,
        size_param: Some("per_page".to_string()),
        records: BodyPath::each_element(),
        total: Total::Header("X-Total".to_string()),
        id: "id".to_string(),
    })
}

/// What the table does not say is as in `default`, the API's page for a stage, ours for the API; but what belongs to a
/// style is not taken over to another.
fn page(mut view: View, default: Page) -> Result<Page> {
    let styles = ["page-number", "offset", "link-header", "cursor", "none"].map(|name| (name, name));
    let style = or(view.take("style"), |value| value.choice(&styles), default.style.name())?;
    let default = if style == default.style.name() { default } else { page_of_style(style, default) };
    let paged = ["page-number", "offset", "link-header", "cursor"];
    let param = only_beside(style, &["page-number", "offset", "cursor"], view.take("param"))?;
    let first = only_beside(style, &["page-number"], view.take("first_page"))?;
    let next = only_beside(style, &["cursor"], view.take("next"))?;
    let total = only_beside(style, &paged, view.take("total"))?;
    let size_param = only_beside(style, &paged, view.take("size_param"))?;
    let name = |value: Option<Value>, default: String| or(value, Value::name, default);
    let page = Page {
        style: match default.style {
            PageStyle::PageNumber { param: old, first: was } => {
                PageStyle::PageNumber { param: name(param, old)?, first: or(first, first_page, was)? }
            }
            PageStyle::Offset { param: old } => PageStyle::Offset { param: name(param, old)? },
            PageStyle::Cursor { param: old, next: was } => PageStyle::Cursor {
                param: name(param, old)?,
                next: match next {
                    Some(value) => place(&value)?,
                    None if was == BodyPath::whole() => view.need("next").map(|_| was)?,
                    None => was,
                },
            },
            style => style,
        },
        size: or(view.take("size"), Value::count, default.size)?,
        size_param: match size_param {
            Some(value) => Some(value.string()?).filter(|name| !name.is_empty()),
            None => default.size_param,
        },
        records: or(view.take("records"), records, default.records)?,
        total: or(total, total_place, default.total)?,
        id: or(view.take("id"), Value::name, default.id)?,
    };
    if page.style != PageStyle::None && !page.records.is_elements() {
        let records = &page.records;
        return Err(view
            .error(format!("`records = \"{records}\"` needs `style = \"none\"`: a page of one record is not a page")));
    }
    view.finish()?;
    Ok(page)
}

/// A key that has a meaning for these styles only.
fn only_beside<'a>(style: &str, styles: &[&str], value: Option<Value<'a>>) -> Result<Option<Value<'a>>> {
    match value {
        Some(value) if !styles.contains(&style) => {
            Err(value.wrong(&format!("no such key beside `style = \"{style}\"`")))
        }
        value => Ok(value),
    }
}

/// `page` in another style, with what that has by default.
fn page_of_style(style: &str, page: Page) -> Page {
    let by_total = Total::Header("X-Total".to_string());
    let (style, size_param, total) = match style {
        "page-number" => (PageStyle::PageNumber { param: "page".to_string(), first: 1 }, Some("per_page"), by_total),
        "offset" => (PageStyle::Offset { param: "offset".to_string() }, Some("limit"), by_total),
        "link-header" => (PageStyle::LinkHeader, Some("per_page"), Total::Unknown),
        // The place of the cursor has no default: what follows replaces this one, or complains.
        "cursor" => {
            (PageStyle::Cursor { param: "cursor".to_string(), next: BodyPath::whole() }, Some("limit"), Total::Unknown)
        }
        _ => (PageStyle::None, None, Total::Unknown),
    };
    Page { style, size_param: size_param.map(str::to_string), total, ..page }
}

fn first_page(value: &Value) -> Result<u32> {
    value.whole_number(0..=1)
}

/// A place in the body of an answer that holds one value.
fn place(value: &Value) -> Result<BodyPath> {
    let path = BodyPath::parse(&value.string()?).filter(|path| !path.is_elements());
    path.ok_or_else(|| value.wrong("a path to one place, such as \".meta.next\""))
}

fn records(value: &Value) -> Result<BodyPath> {
    let path = BodyPath::parse(&value.string()?);
    path.ok_or_else(|| value.wrong("a path to one place, such as \".data[]\", \".[]\" or \".\""))
}

/// A header, a place in the body, or `none`.
fn total_place(value: &Value) -> Result<Total> {
    let text = value.string()?;
    match text.as_str() {
        "none" => Ok(Total::Unknown),
        path if path.starts_with('.') => place(value).map(Total::Body),
        name if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => {
            Ok(Total::Header(text))
        }
        _ => Err(value.wrong("a header such as \"X-Total\", a place in the body such as \".count\", or \"none\"")),
    }
}

fn stage(mut view: View, api: &Api, max_age: Duration) -> Result<Stage> {
    let line = view.line();
    let name = view.need("name")?;
    let mut with = view.take("with").map_or(Ok(Vec::new()), with)?;
    let stage = Stage {
        name: folder_name(&name)?,
        line,
        source: source(&mut view, api, max_age, &mut with)?,
        jq: match view.take("jq") {
            Some(value) => Filter { text: value.string()?, line: value.text_line() },
            None => Filter { text: ".".to_string(), line },
        },
        with,
        key: {
            let key = view.need("key")?;
            let wrong = key.wrong("at least one name");
            let names = key.names()?;
            if names.is_empty() {
                return Err(wrong);
            }
            names
        },
        duplicates: {
            let words = [("error", Duplicates::Error), ("first", Duplicates::First), ("last", Duplicates::Last)];
            or(view.take("duplicates"), |value| value.choice(&words), Duplicates::Error)?
        },
        slurp: or(view.take("slurp"), Value::boolean, false)?,
        table: view.take("table").map(|value| value.name()).transpose()?,
        max_delete: view.take("max_delete").map(max_delete).transpose()?,
        nul: view.take("nul").map(nul).transpose()?,
        timeout: view.take("timeout").map(some_time).transpose()?,
    };
    view.finish()?;
    Ok(stage)
}

/// In no time nothing can be done.
fn some_time(value: Value) -> Result<Duration> {
    let time = value.duration()?;
    if time.is_zero() { Err(value.wrong("a duration longer than nothing")) } else { Ok(time) }
}

/// `"20%"`, `120`, or both: `{ share = "20%", rows = 120 }`.
fn max_delete(value: Value) -> Result<MaxDelete> {
    if value.is_integer() {
        return Ok(MaxDelete { share: 1.0, rows: Some(value.whole_number(0..=u32::MAX)?.into()) });
    }
    if !value.is_table() {
        return Ok(MaxDelete { share: value.share()?, rows: None });
    }
    let mut view = value.table()?;
    let limits = MaxDelete {
        share: or(view.take("share"), Value::share, 1.0)?,
        rows: view.take("rows").map(|value| value.whole_number(0..=u32::MAX)).transpose()?.map(u64::from),
    };
    view.finish()?;
    Ok(limits)
}

fn nul(value: Value) -> Result<Nul> {
    value.choice(&[("error", Nul::Error), ("strip", Nul::Strip), ("replace", Nul::Replace)])
}

/// The exports that `with` names are the program's where there is one, else the filter's.
fn source(view: &mut View, api: &Api, max_age: Duration, with: &mut Vec<(String, String)>) -> Result<Source> {
    let fetch = view.take("fetch");
    let from = view.take("from");
    let run = view.take("run");
    let each = view.take("each");
    let page_value = view.take("page");
    let stage_max_age = view.take("max_age");
    let [inputs, env] = [view.take("inputs"), view.take("env")];
    if let Some(run) = run {
        if let Some(other) = fetch.map(|_| "fetch").or(from.map(|_| "from")) {
            return Err(run.wrong(&format!("either `run` or `{other}`, not both")));
        }
        if let Some(value) = each.or(page_value) {
            return Err(value.wrong("no such key beside `run`: it belongs to a stage that fetches"));
        }
        return Ok(Source::Run(Box::new(Run::parse(run, std::mem::take(with), [inputs, env, stage_max_age])?)));
    }
    if let Some(value) = inputs.or(env) {
        return Err(value.wrong("no such key without `run`: it belongs to a program"));
    }
    match (fetch, from) {
        (Some(fetch), None) => {
            let text = path(&fetch)?;
            let each = each.map(|value| value.name()).transpose()?;
            if each.is_none() && text.contains('{') {
                return Err(fetch.wrong("no `{…}` without `each`, the export whose records fill it"));
            }
            let page = match page_value {
                Some(value) => page(value.table()?, api.page.clone())?,
                None => api.page.clone(),
            };
            extras::check_page(&fetch, &page, &api.query)?;
            Ok(Source::Fetch(Box::new(Fetch {
                path: text,
                each,
                page,
                max_age: or(stage_max_age, Value::duration, max_age)?,
            })))
        }
        (None, Some(from)) => match each.or(page_value).or(stage_max_age) {
            Some(value) => Err(value.wrong("no such key beside `from`: it belongs to the stage that fetches")),
            None => Ok(Source::From(from.name()?)),
        },
        (Some(_), Some(from)) => Err(from.wrong("either `fetch` or `from`, not both")),
        (None, None) => Err(view.error(
            "a stage needs `fetch`, a path of the API, `from`, a stage whose raw records it reads, or `run`, a program"
                .into(),
        )),
    }
}

fn check(mut view: View) -> Result<Check> {
    let line = view.line();
    let check = Check { name: view.need("name")?.name()?, sql: view.need("sql")?.name()?, line };
    view.finish()?;
    Ok(check)
}

/// A stage's name is a folder's name: no path, nothing hidden, nothing that a shell would expand.
fn folder_name(value: &Value) -> Result<String> {
    let name = value.name()?;
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    let reserved = ["load", "validate", "run", "token", "rotate", "simulate"];
    if !plain || name.starts_with(['.', '-']) {
        return Err(
            value.wrong("a name of letters, digits, `_`, `-` and `.` that begins with a letter, a digit or `_`")
        );
    }
    if reserved.contains(&name.as_str()) {
        return Err(value.wrong("another name: mirror42 has a step and a log of this one"));
    }
    Ok(name)
}

fn with(value: Value) -> Result<Vec<(String, String)>> {
    let pairs = value.pairs()?.into_iter();
    pairs.map(|(variable, stage)| Ok((variable_name(variable, &stage)?, stage.name()?))).collect()
}

fn variable_name(name: String, value: &Value) -> Result<String> {
    let mut chars = name.chars();
    let starts = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if !starts || !chars.all(|c| c.is_ascii_alphanumeric() || c == '_') || name == "each" || name == "__loc__" {
        return Err(value.wrong("beside a key that can be a jq variable (letters, digits, `_`; not `each`)"));
    }
    Ok(name)
}
