//! Every way to page, and an index that moves while it is read.

use std::fs;
use std::sync::Mutex;

use serde_json::Value;

use crate::fetch::{done, failed, one_stage};
use crate::simulator::{Reply, Server, Simulator};
use crate::space::Space;

fn ids(space: &Space, stage: &str) -> Vec<u64> {
    let text = fs::read_to_string(space.paths().all_json(stage)).unwrap();
    let records: Vec<Value> = serde_json::from_str(&text).unwrap();
    records.iter().map(|record| record["id"].as_u64().unwrap()).collect()
}

fn receipt(space: &Space, stage: &str) -> Value {
    serde_json::from_slice(&fs::read(space.paths().receipt(stage)).unwrap()).unwrap()
}

fn param(path: &str, name: &str) -> Option<u64> {
    let query = path.split_once('?')?.1;
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    value.parse().ok()
}

fn records(ids: impl Iterator<Item = u64>) -> String {
    let records: Vec<String> = ids.map(|id| format!("{{\"id\":{id}}}")).collect();
    format!("[{}]", records.join(","))
}

/// Fetches and extracts `things`, an index of 250 records in pages of 100, from a server that pages as it likes; gives the
/// proof, and how many requests it took.
fn proof(page: &str, answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> (String, u64) {
    let server = Server::start("127.0.0.1:0", answer);
    let space = one_stage(&format!("http://{}", server.address), &format!("page = {page}"));
    done(&space, "mirror42-fetch", &[]);
    done(&space, "mirror42-extract", &[]);
    assert_eq!(ids(&space, "things"), (1..=250).collect::<Vec<_>>());
    let series = &receipt(&space, "things")["fetch"]["series"][0];
    assert_eq!(series["distinct_ids"], 250);
    (series["proof"].as_str().unwrap().to_owned(), server.requests())
}

#[test]
fn every_way_to_page_gives_the_same_records_and_says_what_proves_it() {
    fn slice(from: u64) -> String {
        records(from + 1..(from + 101).min(251))
    }
    let told = |page, answer: fn(&str) -> Reply| {
        let (proof, requests) = proof(page, answer);
        format!("{proof} {requests}")
    };
    let by_offset = |path: &str| Reply::json(slice(param(path, "offset").unwrap())).with("X-Total", 250);
    assert_eq!(told("{ style = 'offset' }", by_offset), "total 3");
    let by_number = |path: &str| Reply::json(slice(param(path, "p").unwrap() * 100)).with("X-Total-Count", 250);
    assert_eq!(
        told("{ param = 'p', first_page = 0, size_param = '_limit', total = 'X-Total-Count' }", by_number),
        "total 3"
    );
    let wrapped = |path: &str| {
        let page = param(path, "page").unwrap();
        Reply::json(format!("{{\"meta\":{{\"count\":250}},\"data\":{}}}", slice((page - 1) * 100)))
    };
    assert_eq!(told("{ records = '.data[]', total = '.meta.count' }", wrapped), "total 3");
    // Only its second page tells that the server gives fewer than were asked for.
    let silent = |path: &str| Reply::json(records(param(path, "offset").map_or(1..1, |o| o + 1..(o + 31).min(251))));
    assert_eq!(told("{ style = 'offset', total = 'none' }", silent), "short-page 9");
    let linked = |path: &str| {
        let page = param(path, "page").unwrap_or(1);
        let reply = Reply::json(slice((page - 1) * 100));
        match page {
            3 => reply.with("Link", "</things?page=1>; rel=\"first\""),
            _ => reply.with("Link", format!("</things?page={}>; rel=\"next\"", page + 1)),
        }
    };
    assert_eq!(told("{ style = 'link-header' }", linked), "no-next-page 3");
    let cursor = |path: &str| {
        let from = param(path, "after").unwrap_or(0);
        let next = if from == 200 { "null".to_owned() } else { format!("\"{}\"", from + 100) };
        Reply::json(format!("{{\"next\":{next},\"data\":{},\"count\":250}}", slice(from)))
    };
    let page = "{ style = 'cursor', param = 'after', next = '.next', records = '.data[]' }";
    assert_eq!(told(page, cursor), "no-next-page 3");
    let page = "{ style = 'cursor', param = 'after', next = '.next', records = '.data[]', total = '.count' }";
    assert_eq!(told(page, cursor), "total 3");
    assert_eq!(told("{ style = 'none' }", |_| Reply::json(records(1..251))), "single-answer 1");
}

#[test]
fn a_next_page_elsewhere_or_in_a_circle_is_refused() {
    let message = |link: &'static str| {
        let server = Server::start("127.0.0.1:0", move |_| {
            Reply::json(records(1..2)).with("Link", format!("<{link}>; rel=next"))
        });
        let space = one_stage(&format!("http://{}", server.address), "page = { style = 'link-header' }");
        failed(&space, "mirror42-fetch", &[], 1).replace(&server.address, "HOST")
    };
    assert_eq!(
        message("http://evil.example/things"),
        "could not fetch `http://HOST/things?per_page=100`: it names `http://evil.example/things` as the next page, where the \
         token must not go\n  detail: The answer is final.\n  detail: No page is kept.\n"
    );
    let circle = message("/things?page=2");
    let start = "could not read `http://HOST/things` whole: page 2 names a next page that was read already\n  detail: It was \
                 read 5 times, and was not whole once.\n";
    assert!(circle.starts_with(start), "{circle}");
}

/// An index of 5,000 records in pages of 100, in which something happens before the 31st request.
fn moving(change: fn(&mut Vec<u64>)) -> (Vec<u64>, u64, String) {
    let index = Mutex::new((0, (1..=5000).collect::<Vec<u64>>()));
    let server = Server::start("127.0.0.1:0", move |path| {
        let mut index = index.lock().unwrap();
        index.0 += 1;
        if index.0 == 31 {
            change(&mut index.1);
        }
        let from = (param(path, "page").unwrap() as usize - 1) * 100;
        let ids = &index.1[from.min(index.1.len())..(from + 100).min(index.1.len())];
        Reply::json(records(ids.iter().copied())).with("X-Total", index.1.len()).with("X-Per-Page", 100)
    });
    let space = one_stage(&format!("http://{}", server.address), "");
    let text = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    space.write("pipeline.toml", &text.replace("timeout", "limits = { in_flight = 1 }\ntimeout"));
    let log = done(&space, "mirror42-fetch", &[]).replace(&server.address, "HOST");
    done(&space, "mirror42-extract", &[]);
    (ids(&space, "things"), server.requests(), log)
}

#[test]
fn an_index_that_moves_is_mended_by_reading_again_what_has_moved() {
    let line = |why: &str, pages: &str| {
        format!("`http://HOST/things` moved while it was read: {why}; reading again page {pages}\n")
    };
    let said = |log: &str| -> String {
        let lines = log.lines().filter(|line| line.contains(" moved while "));
        lines.map(|line| format!("{}\n", line.split_once(" things: ").unwrap().1)).collect()
    };
    let (ids, requests, log) = moving(|ids| {
        ids.remove(2650);
    });
    assert_eq!((ids.len(), requests), (4999, 50 + 5));
    let why = "the total was 5000, and 4999 on page 31";
    assert!(said(&log).starts_with(&line(why, "30")), "{log}");
    assert_eq!(said(&log).lines().count(), 5, "{log}");

    let (ids, requests, _) = moving(|ids| ids.push(6000));
    assert_eq!((ids.len(), ids[5000], requests), (5001, 6000, 51 + 2));

    let (ids, requests, log) = moving(|ids| {
        ids.insert(2950, 6000);
        ids.pop();
    });
    assert_eq!((ids.len(), ids[4999], requests), (5000, 6000, 50 + 2), "{log}");
    assert!(said(&log).starts_with(&line("a record of page 30 came again on page 31", "30")), "{log}");
}

#[test]
fn a_source_whose_evidence_does_not_add_up_is_refused() {
    let simulator = Simulator::start("");
    let space = simulator.project();
    done(&space, "mirror42-fetch", &["08_coalitions"]);
    let sealed = receipt(&space, "08_coalitions");
    let path = space.paths().receipt("08_coalitions");
    let refused = |change: fn(&mut Value), what: &str| {
        let mut broken = sealed.clone();
        change(&mut broken["fetch"]["series"][0]);
        fs::write(&path, broken.to_string()).unwrap();
        let message = format!(
            "the pages of stage `08_coalitions` are not whole: of its series, {what}\n  at: exports/08_coalitions/stage.json\n  \
             hint: Run `mirror42-fetch 08_coalitions`, or `mirror42 run`.\n"
        );
        assert_eq!(failed(&space, "mirror42-extract", &["08_coalitions"], 1), message);
    };
    refused(
        |series| {
            series["pages"].as_array_mut().unwrap().remove(1);
        },
        "it has 250 records with 350 different ids",
    );
    refused(
        |series| {
            series["pages"].as_array_mut().unwrap().pop();
            series["distinct_ids"] = 300.into();
        },
        "its total is 350, and 300 records came",
    );
    refused(|series| series["pages"][2]["records"] = 99.into(), "it has 349 records with 350 different ids");
}

#[test]
fn a_pipeline_file_that_pages_as_nothing_does_is_refused() {
    let message = |page: &str| {
        let space = one_stage("http://127.0.0.1:1", &format!("page = {page}"));
        let text = failed(&space, "mirror42-fetch", &[], 2);
        text.lines().next().unwrap().to_owned()
    };
    for (page, text) in [
        ("{ style = 'cursor' }", "`[stage.page]` lacks the key `next`"),
        (
            "{ style = 'offset', next = '.n' }",
            "`stage.page.next` is \".n\", expected no such key beside `style = \"offset\"`",
        ),
        ("{ first_page = 2 }", "`stage.page.first_page` is 2, expected a whole number from 0 to 1"),
        (
            "{ records = '.a|.b' }",
            "`stage.page.records` is \".a|.b\", expected a path to one place, such as \".data[]\", \".[]\" or \".\"",
        ),
        ("{ records = '.data' }", "`records = \".data\"` needs `style = \"none\"`: a page of one record is not a page"),
        (
            "{ total = 'how many' }",
            "`stage.page.total` is \"how many\", expected a header such as \"X-Total\", a place in the body such as \
             \".count\", or \"none\"",
        ),
        (
            "{ style = 'cursor', next = '.a[]' }",
            "`stage.page.next` is \".a[]\", expected a path to one place, such as \".meta.next\"",
        ),
    ] {
        assert_eq!(message(page), text);
    }
}
