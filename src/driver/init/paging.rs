//! How an index is paged, told by its answers.

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::Value;

use super::names::{step, toml};
use crate::driver::sample::{Sample, with_parameter};

/// Parameters of many APIs. Those of a page's number, …
const PAGE: [&str; 7] = ["page", "p", "_page", "page_number", "pageNumber", "page[number]", "pageno"];
/// … of the number of records before it, …
const OFFSET: [&str; 5] = ["offset", "skip", "start", "_start", "page[offset]"];
/// … and of the number of records that it has.
const SIZE: [&str; 12] = [
    "per_page",
    "page_size",
    "pageSize",
    "limit",
    "size",
    "perPage",
    "_limit",
    "_per_page",
    "page[size]",
    "pagesize",
    "count",
    "max",
];
const CURSOR: [&str; 8] =
    ["cursor", "after", "page_token", "pageToken", "next_token", "starting_after", "_next", "page[cursor]"];
const TOTAL_HEADERS: [&str; 6] =
    ["X-Total", "X-Total-Count", "Total-Count", "X-WP-Total", "X-Pagination-Total-Count", "X-Count"];
const TOTALS: [&str; 9] = [
    "total",
    "total_count",
    "totalCount",
    "count",
    "total_results",
    "totalResults",
    "total_items",
    "totalItems",
    "totalElements",
];
const NEXTS: [&str; 9] = [
    "next",
    "next_url",
    "next_page_url",
    "next_page",
    "next_cursor",
    "nextCursor",
    "next_page_token",
    "nextPageToken",
    "next_token",
];

/// How many records are asked for where the API lets us say.
pub const SIZE_WANTED: u64 = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Style {
    PageNumber { param: String, first: u64 },
    Offset { param: String },
    LinkHeader,
    Cursor { param: String, next: String },
    None,
}

/// What `page` of the pipeline file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paging {
    pub style: Style,
    /// The parameter that asks for so many records; none: there is none, as far as is known.
    pub size_param: Option<String>,
    pub size: u64,
    /// A header or a place in the body.
    pub total: Option<String>,
    pub records: String,
    /// The member that tells raw records apart; none if no single one does.
    pub id: Option<String>,
    /// By what it was told, in words.
    pub why: String,
}

/// A path and its parameters, without those that ask for a page.
pub fn without_page(path: &str) -> String {
    let Some((path, query)) = path.split_once('?') else { return path.to_string() };
    let kept: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty() && !asks_for_a_page(pair)).collect();
    if kept.is_empty() { path.to_string() } else { format!("{path}?{}", kept.join("&")) }
}

fn asks_for_a_page(pair: &str) -> bool {
    let name = decoded(pair.split('=').next().unwrap_or(""));
    [&PAGE[..], &OFFSET, &SIZE, &CURSOR].iter().any(|names| names.contains(&name.as_str()))
}

/// What the first answer tells; none if it tells nothing of other pages. `records` is their place, `count` their number.
pub fn told(sample: &Sample, records: &str, count: u64) -> Option<Paging> {
    let body = sample.body();
    let next = if records == "." { None } else { next_in(&body) };
    let named_next = sample.next_link.clone().or_else(|| match &next {
        Some((_, Value::String(text))) if is_address(text) => Some(text.clone()),
        _ => None,
    });
    let total = total(sample, &body, count, named_next.is_some());
    let query = named_next.as_deref().map(parameters).unwrap_or_default();
    let size_param = size_param(sample, &body, &query);
    let paging = |style: Style, why: &str| {
        Some(Paging {
            style,
            size_param: size_param.clone(),
            size: SIZE_WANTED,
            total: total.clone(),
            records: records.to_string(),
            id: None,
            why: why.to_string(),
        })
    };
    if records == "." {
        return None;
    }
    let of = |names: &[&str]| query.iter().find(|(name, _)| names.contains(&name.as_str()));
    let number = |pair: Option<&(String, String)>| Some((pair?.0.clone(), pair?.1.parse::<u64>().ok()?));
    // With a total, pages can be asked for side by side, and their sum is proof.
    if total.is_some() {
        if let Some((param, second)) = number(of(&PAGE)).filter(|(_, second)| (1..=2).contains(second)) {
            return paging(
                Style::PageNumber { param, first: second - 1 },
                "the address of the next page has its number",
            );
        }
        if let Some((param, _)) = number(of(&OFFSET)) {
            return paging(Style::Offset { param }, "the address of the next page has an offset");
        }
    }
    if sample.next_link.is_some() {
        return paging(Style::LinkHeader, "the `Link` header names the next page");
    }
    if let Some((place, value)) = &next {
        let param = of(&CURSOR).map(|(name, _)| name.clone()).unwrap_or_else(|| cursor_param(place, value));
        let why = match value {
            Value::Null | Value::Bool(false) => format!("`{place}` of the body is there, and names no further page"),
            _ => format!("`{place}` of the body names the next page"),
        };
        return paging(Style::Cursor { param, next: place.clone() }, &why);
    }
    if let Some(param) = OFFSET.iter().find(|name| body.get(**name).is_some_and(Value::is_u64)) {
        return paging(Style::Offset { param: param.to_string() }, &format!("`.{param}` of the body is the offset"));
    }
    let page = ["page", "current_page", "currentPage"].iter().find_map(|name| Some((name, body.get(*name)?.as_u64()?)));
    if let Some((name, first)) = page.filter(|(_, first)| *first <= 1) {
        let why = format!("`.{name}` of the body is the page's number");
        return paging(Style::PageNumber { param: "page".to_string(), first }, &why);
    }
    if sample.headers.contains_key("x-page") || sample.headers.contains_key("x-per-page") || total.is_some() {
        let why = "the answer tells a total or a page";
        return paging(Style::PageNumber { param: "page".to_string(), first: 1 }, why);
    }
    None
}

/// By asking for a second page: what came shows whether the parameter means anything.
pub fn tried(records: &str, understood: bool) -> Paging {
    let (style, why) = match understood {
        true => {
            let style = Style::PageNumber { param: "page".to_string(), first: 1 };
            (style, "`page=2` gives other records than the first page")
        }
        false => (Style::None, "nothing in the answer tells of other pages"),
    };
    Paging {
        style,
        size_param: None,
        size: SIZE_WANTED,
        total: None,
        records: records.to_string(),
        id: None,
        why: why.to_string(),
    }
}

/// The parameter for the page's size: in the next page's address, or by what the answer says of it.
fn size_param(sample: &Sample, body: &Value, query: &[(String, String)]) -> Option<String> {
    let in_query = query.iter().find(|(name, value)| SIZE.contains(&&**name) && value.parse::<u32>().is_ok());
    let in_body = || ["limit", "per_page", "page_size", "pageSize"].into_iter().find(|name| body[*name].is_u64());
    let in_header = || sample.headers.contains_key("x-per-page").then_some("per_page");
    in_query.map(|(name, _)| name.clone()).or_else(|| in_header().or_else(in_body).map(str::to_string))
}

/// A header or a place with a number that can be that of all records.
fn total(sample: &Sample, body: &Value, count: u64, more: bool) -> Option<String> {
    let header = TOTAL_HEADERS.into_iter().find(|name| sample.number(&name.to_ascii_lowercase()).is_some());
    let fits = |total: u64| total > count || (total == count && !more);
    let in_body = || {
        let found = places(body, &TOTALS);
        found.into_iter().find(|(_, value)| value.as_u64().is_some_and(fits)).map(|(place, _)| place)
    };
    header.map(str::to_string).or_else(in_body)
}

/// Where the body names the next page, and what is there.
fn next_in(body: &Value) -> Option<(String, Value)> {
    let found = places(body, &NEXTS).into_iter().find_map(|(place, value)| match value {
        // As HAL has it: `{"href": …}`.
        Value::Object(link) => Some((format!("{place}.href"), link.get("href")?.clone())),
        Value::Array(_) | Value::Bool(true) => None,
        value => Some((place, value.clone())),
    })?;
    Some(found)
}

/// The members of these names in the body or in an object within it, outer ones first.
fn places<'a>(body: &'a Value, names: &[&str]) -> Vec<(String, &'a Value)> {
    let Value::Object(object) = body else { return Vec::new() };
    let within = |prefix: &str, object: &'a serde_json::Map<String, Value>| -> Vec<(String, &'a Value)> {
        names.iter().filter_map(|name| Some((format!("{prefix}{}", step(name)), object.get(*name)?))).collect()
    };
    let mut found = within("", object);
    for (name, value) in object {
        if let Value::Object(inner) = value {
            found.extend(within(&step(name), inner));
        }
    }
    found
}

/// The parameter that takes what stands at `place`.
fn cursor_param(place: &str, value: &Value) -> String {
    let name = place.rsplit('.').next().unwrap_or("");
    let param = match name {
        "next_page" if value.is_u64() => "page",
        "next_page_token" => "page_token",
        "nextPageToken" => "pageToken",
        "next_token" => "next_token",
        _ => "cursor",
    };
    param.to_string()
}

fn is_address(text: &str) -> bool {
    text.contains("://") || (text.starts_with(['/', '?']) && text.contains('?'))
}

/// The path of an address of the server that `path` is of; one of parameters alone is that path's.
fn path_of(address: &str, path: &str) -> String {
    let rest =
        address.split_once("://").map_or(address, |(_, rest)| &rest[rest.find(['/', '?']).unwrap_or(rest.len())..]);
    match rest.strip_prefix('?') {
        Some(query) => format!("{}?{query}", path.split('?').next().unwrap_or(path)),
        None => rest.to_string(),
    }
}

/// The parameters of an address.
fn parameters(address: &str) -> Vec<(String, String)> {
    let query = address.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

impl Paging {
    /// The path of the second page; none if there is none, or nothing tells of it. `count` records are on the first.
    pub fn second(&self, first: &Sample, path: &str, count: u64) -> Option<String> {
        if self.total_of(first).is_some_and(|total| total <= count) {
            return None;
        }
        match &self.style {
            Style::PageNumber { param, first } => Some(with_parameter(path, param, first + 1)),
            Style::Offset { param } => Some(with_parameter(path, param, count)),
            Style::LinkHeader => Some(path_of(first.next_link.as_deref()?, path)),
            Style::Cursor { param, .. } => match next_in(&first.body())?.1 {
                Value::String(text) if is_address(&text) => Some(path_of(&text, path)),
                Value::String(text) if !text.is_empty() => {
                    let encoded = utf8_percent_encode(&text, NON_ALPHANUMERIC);
                    Some(with_parameter(path, param, encoded))
                }
                Value::Number(number) => Some(with_parameter(path, param, number)),
                _ => None,
            },
            Style::None => None,
        }
    }

    /// So many records are there in all, as this answer has it.
    pub fn total_of(&self, sample: &Sample) -> Option<u64> {
        let name = self.total.as_ref()?;
        let in_body = || places(&sample.body(), &TOTALS).into_iter().find(|(place, _)| place == name)?.1.as_u64();
        sample.number(&name.to_ascii_lowercase()).or_else(in_body)
    }

    pub fn is_paged(&self) -> bool {
        self.style != Style::None
    }

    /// What this style calls it by default.
    pub fn usual_size_param(&self) -> &'static str {
        match self.style {
            Style::Offset { .. } | Style::Cursor { .. } => "limit",
            Style::PageNumber { .. } | Style::LinkHeader | Style::None => "per_page",
        }
    }

    /// The keys of a table `page`, one a line.
    pub fn toml(&self) -> String {
        let text = |key: &str, value: &str| format!("{key:10} = {}\n", toml(value));
        let mut out = match &self.style {
            Style::PageNumber { param, first } => {
                format!("{}{}{:10} = {first}\n", text("style", "page-number"), text("param", param), "first_page")
            }
            Style::Offset { param } => text("style", "offset") + &text("param", param),
            Style::LinkHeader => text("style", "link-header"),
            Style::Cursor { param, next } => text("style", "cursor") + &text("param", param) + &text("next", next),
            Style::None => text("style", "none"),
        };
        if self.is_paged() {
            if self.size_param.is_some() {
                out.push_str(&format!("{:10} = {}\n", "size", self.size));
            }
            out.push_str(&text("size_param", self.size_param.as_deref().unwrap_or("")));
            out.push_str(&text("total", self.total.as_deref().unwrap_or("none")));
        }
        out.push_str(&text("records", &self.records));
        if let Some(id) = self.id.as_deref().filter(|id| *id != "id") {
            out.push_str(&text("id", id));
        }
        out
    }

    /// As a sentence tells it.
    pub fn described(&self) -> String {
        let style = match &self.style {
            Style::PageNumber { param, first } => format!("pages by their number (`{param}`, from {first})"),
            Style::Offset { param } => format!("pages by offset (`{param}`)"),
            Style::LinkHeader => "pages by the `Link` header".to_string(),
            Style::Cursor { next, .. } => format!("pages by `{next}`"),
            Style::None => "one answer".to_string(),
        };
        match &self.total {
            Some(total) => format!("{style}, total in `{total}`"),
            None if self.is_paged() => format!("{style}, no total"),
            None => style,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paged(headers: &[(&str, &str)], next_link: Option<&str>, body: &str, records: &str, count: u64) -> String {
        let json = serde_json::json!({
            "url": "http://h/books",
            "asked_at": "2026-01-01T00:00:00Z",
            "took_ms": 1,
            "headers": headers.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
            "next_link": next_link,
            "body": serde_json::from_str::<Value>(body).unwrap(),
        });
        let sample: Sample = serde_json::from_str(&json.to_string()).unwrap();
        let Some(paging) = told(&sample, records, count) else { return "nothing".to_string() };
        format!("{}; size {}", paging.described(), paging.size_param.as_deref().unwrap_or("none"))
    }

    #[test]
    fn the_style_is_told_by_headers() {
        let body = r#"[{"id":1},{"id":2}]"#;
        let headers = [("x-total", "59"), ("x-page", "1"), ("x-per-page", "30")];
        let link = Some("http://h/books?page=2&per_page=30");
        assert_eq!(
            paged(&headers, link, body, ".[]", 2),
            "pages by their number (`page`, from 1), total in `X-Total`; size per_page"
        );
        assert_eq!(
            paged(&headers, None, body, ".[]", 2),
            "pages by their number (`page`, from 1), total in `X-Total`; size per_page"
        );
        assert_eq!(paged(&[], link, body, ".[]", 2), "pages by the `Link` header, no total; size per_page");
        assert_eq!(
            paged(&[("x-total-count", "9")], Some("/books?_start=2&_limit=2"), body, ".[]", 2),
            "pages by offset (`_start`), total in `X-Total-Count`; size _limit"
        );
        assert_eq!(paged(&[], None, body, ".[]", 2), "nothing");
    }

    #[test]
    fn the_style_is_told_by_the_body() {
        let of = |body: &str, records: &str| paged(&[], None, body, records, 1);
        assert_eq!(
            of(r#"{"count":9,"next":"http://h/books?page=2","results":[{}]}"#, ".results[]"),
            "pages by their number (`page`, from 1), total in `.count`; size none"
        );
        assert_eq!(
            of(r#"{"count":9,"next":"http://h/books?limit=1&offset=1","results":[{}]}"#, ".results[]"),
            "pages by offset (`offset`), total in `.count`; size limit"
        );
        // As many as on this page, and there are more: no total.
        assert_eq!(
            of(r#"{"count":1,"next":"/books?page=2","results":[{}]}"#, ".results[]"),
            "pages by `.next`, no total; size none"
        );
        assert_eq!(
            of(r#"{"meta":{"next_cursor":"abc","total":7},"data":[{}]}"#, ".data[]"),
            "pages by `.meta.next_cursor`, total in `.meta.total`; size none"
        );
        assert_eq!(
            of(r#"{"_links":{"next":{"href":"/books?after=x"}},"items":[{}]}"#, ".items[]"),
            "pages by `._links.next.href`, no total; size none"
        );
        assert_eq!(of(r#"{"next":null,"items":[{}]}"#, ".items[]"), "pages by `.next`, no total; size none");
        assert_eq!(
            of(r#"{"total":9,"skip":0,"limit":1,"books":[{}]}"#, ".books[]"),
            "pages by offset (`skip`), total in `.total`; size limit"
        );
        assert_eq!(
            of(r#"{"page":0,"total":9,"books":[{}]}"#, ".books[]"),
            "pages by their number (`page`, from 0), total in `.total`; size none"
        );
        assert_eq!(of(r#"{"ok":true,"books":[{}]}"#, ".books[]"), "nothing");
        assert_eq!(of(r#"{"id":1,"next":2}"#, "."), "nothing");
    }

    #[test]
    fn parameters_that_ask_for_a_page_are_not_of_the_path() {
        assert_eq!(without_page("/a?x=1&page=2&per_page=5&page%5Bsize%5D=3"), "/a?x=1");
        assert_eq!(without_page("/a?page=2"), "/a");
        assert_eq!(without_page("/a?"), "/a");
    }

    #[test]
    fn the_second_page_is_where_the_first_says() {
        assert_eq!(path_of("http://h:1/v1/books?page=2", "/books"), "/v1/books?page=2");
        assert_eq!(path_of("/books?after=x", "/books?a=b"), "/books?after=x");
        assert_eq!(path_of("?page=2", "/books?a=b"), "/books?page=2");
        assert_eq!(path_of("http://h?x=y", "/books"), "/books?x=y");
    }
}
