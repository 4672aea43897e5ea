//! Extracting: the same bytes for the same pages, and a place for everything that is wrong.

use std::fs;
use std::time::Instant;

use crate::fetch::{done, failed, files, names, one_stage};
use crate::simulator::{Reply, Server, Simulator};
use crate::space::Space;

/// A pipeline of one stage whose pages hold these records.
fn fetched(records: &str, more: &str) -> Space {
    let total = serde_json::from_str::<Vec<serde_json::Value>>(records).map_or(1, |records| records.len());
    let body = records.to_owned();
    let server = Server::start("127.0.0.1:0", move |_| Reply::json(body.clone()).with("X-Total", total));
    let space = one_stage(&format!("http://{}", server.address), more);
    done(&space, "mirror42-fetch", &["things"]);
    space
}

fn all_json(space: &Space, stage: &str) -> String {
    fs::read_to_string(space.paths().all_json(stage)).unwrap()
}

#[test]
fn exports_are_the_same_bytes_however_often_and_by_how_many_threads_they_are_made() {
    let simulator = Simulator::start("");
    let space = simulator.project();
    done(&space, "mirror42-fetch", &["02_campus", "08_coalitions"]);
    done(&space, "mirror42-extract", &["02_campus"]);
    done(&space, "mirror42-fetch", &["03_achievements"]);
    let stages = ["02_campus", "03_achievements", "04_campus_achievements", "08_coalitions"];
    let made = || stages.map(|stage| fs::read(space.paths().all_json(stage)).unwrap());
    done(&space, "mirror42-extract", &stages);
    let first = made();
    for threads in ["1", "2", "7"] {
        stages.iter().for_each(|stage| fs::remove_file(space.paths().all_json(stage)).unwrap());
        let output = space.command("mirror42-extract", &stages).env("RAYON_NUM_THREADS", threads).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(made() == first, "{threads} threads");
    }
    for stage in &stages[1..] {
        fs::remove_file(space.paths().all_json(stage)).unwrap();
        done(&space, "mirror42-extract", &[stage]);
        assert!(made() == first, "{stage} alone");
    }
    for stage in stages {
        let records: Vec<serde_json::Value> = serde_json::from_str(&all_json(&space, stage)).unwrap();
        let key = |record: &serde_json::Value| {
            let member = |name: &str| record[name].as_i64();
            (member("id"), member("campus_id"), member("achievement_id"))
        };
        assert!(records.windows(2).all(|pair| key(&pair[0]) < key(&pair[1])), "{stage}");
        assert_eq!(all_json(&space, stage).lines().count(), records.len() + 2, "{stage}");
    }
}

#[test]
fn an_extract_that_is_killed_at_any_moment_is_made_good_by_the_next() {
    let simulator = Simulator::start("");
    let space = simulator.project();
    done(&space, "mirror42-fetch", &["02_campus"]);
    done(&space, "mirror42-extract", &["02_campus"]);
    done(&space, "mirror42-fetch", &["03_achievements"]);
    let stages = ["03_achievements", "04_campus_achievements"];
    let began = Instant::now();
    done(&space, "mirror42-extract", &stages);
    let took = began.elapsed();
    let made = || stages.map(|stage| fs::read(space.paths().all_json(stage)).unwrap());
    let (first, pages) = (made(), files(&space.paths().pages("03_achievements")));
    let mut random = fastrand::Rng::new();
    for i in 0..12 {
        if i % 3 == 0 {
            stages.iter().for_each(|stage| fs::remove_file(space.paths().all_json(stage)).unwrap());
        }
        let mut extract = space.spawn("mirror42-extract", &stages);
        std::thread::sleep(took.mul_f64(random.f64()));
        extract.kill().unwrap();
        extract.wait().unwrap();
        if i % 3 != 0 {
            assert!(made() == first, "an export is there whole at any moment");
        }
        done(&space, "mirror42-extract", &stages);
        assert!(made() == first);
        assert_eq!(names(&space.paths().stage(stages[0])), ["all.json", "pages", "stage.json"]);
        assert_eq!(names(&space.paths().stage(stages[1])), ["all.json", "stage.json"]);
    }
    assert!(files(&space.paths().pages("03_achievements")) == pages);
}

#[test]
fn numbers_and_text_come_through_as_they_were_written() {
    let records = r#"[{"id":10,"a":1.10},{"id":9,"a":"\u0000 \"\\ \u00e9\ud83d\ude00"},{"id":9223372036854775808,"a":12345678901234567890.5}]"#;
    let space = fetched(records, "");
    done(&space, "mirror42-extract", &[]);
    assert_eq!(
        all_json(&space, "things"),
        "[\n{\"id\":9,\"a\":\"\\u0000 \\\"\\\\ é😀\"},\n{\"id\":10,\"a\":1.10},\n\
         {\"id\":9223372036854775808,\"a\":12345678901234567890.5}\n]\n"
    );
}

#[test]
fn a_lone_surrogate_is_named_with_its_place() {
    let simulator = Simulator::start("");
    let space = simulator.project();
    simulator.faults(&["kind = 'surrogate'; page = 2; times = 0"]);
    done(&space, "mirror42-fetch", &["08_coalitions"]);
    let text = failed(&space, "mirror42-extract", &["08_coalitions"], 1);
    let (start, end) = text.split_once("\\ud800").unwrap();
    assert_eq!(start, "a record cannot be read: the string \"");
    let (_, end) = end.split_once('"').unwrap();
    let place = "exports/08_coalitions/pages/0002.json, record 1 (id 275)";
    let rest = format!(" of `name` holds half a character\n  at: {place}\n  detail: All exports are as they were.\n");
    assert_eq!(end, rest);
}

#[test]
fn zeros_and_great_ids_of_the_api_are_kept() {
    let simulator = Simulator::start("");
    let space = simulator.project();
    simulator.faults(&["kind = 'nul'; page = 2; times = 0", "kind = 'big-id'; page = 3; times = 0"]);
    done(&space, "mirror42-fetch", &["08_coalitions"]);
    done(&space, "mirror42-extract", &["08_coalitions"]);
    let text = all_json(&space, "08_coalitions");
    assert_eq!(text.matches("\"name\":\"a\\u0000b").count(), 1);
    assert!(text.lines().rev().nth(1).unwrap().starts_with("{\"id\":9223372036854775808,"), "the last by size");
}

#[test]
fn a_filter_that_does_not_compile_is_told_with_its_place() {
    let space = Space::new().file(
        "pipeline.toml",
        &include_str!("../../pipeline.toml").replace("_by_key[tostring]))", "_by_key[tostrin]))"),
    );
    let text = "the jq filter of stage `05_projects` is wrong: filter `tostrin` is not defined\n  \
                at: pipeline.toml:70, line 1 of the filter, column 41\n";
    assert_eq!(failed(&space, "mirror42-extract", &["--check"], 2), text);
}

#[test]
fn a_record_that_a_filter_fails_on_is_named() {
    let cases = [
        (".id | error(\"no\")", "failed: no", 1),
        ("select(.id == 9) | .id.x", "failed: cannot index 9 with \"x\"", 2),
        (
            "{id: .name}",
            "failed: it yielded a record whose key member `id` is null, expected an integer, a string or a boolean",
            1,
        ),
        ("{name}", "failed: it yielded a record without the key member `id`", 1),
        (".id", "failed: it yielded 7, expected an object", 1),
        ("{id, x: nan}", "failed: it yielded what is no JSON: NaN is not a JSON number", 1),
        ("halt", "failed: `halt` is not available in a pipeline", 1),
    ];
    let space = fetched(r#"[{"id":7},{"id":9}]"#, "jq = '.'");
    done(&space, "mirror42-extract", &[]);
    let pipeline = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    let before = files(&space.paths().exports());
    for (filter, what, record) in cases {
        space.write("pipeline.toml", &pipeline.replace("jq = '.'", &format!("jq = '{filter}'")));
        let id = [7, 9][record - 1];
        assert_eq!(
            failed(&space, "mirror42-extract", &[], 1),
            format!(
                "the jq filter of stage `things` {what}\n  at: exports/things/pages/0001.json, record {record} (id {id})\n  \
                 detail: `exports/things/all.json` is as it was.\n  hint: The filter stands at pipeline.toml:10.\n"
            )
        );
        assert!(files(&space.paths().exports()) == before);
    }
}

#[test]
fn records_of_one_key_that_differ_are_both_shown() {
    let space = fetched(r#"[{"id":7,"n":1},{"id":8,"n":7}]"#, "jq = '{id: 1, n}'");
    assert_eq!(
        failed(&space, "mirror42-extract", &[], 1),
        "two records of stage `things` have the same key (id) and differ\n  \
         at: exports/things/pages/0001.json, record 1 (id 7)\n  \
         detail: The one is {\"id\":1,\"n\":1}.\n  \
         detail: The other, from exports/things/pages/0001.json, record 2 (id 8), is {\"id\":1,\"n\":7}.\n  \
         hint: Choose with `duplicates = \"first\"` or `\"last\"` at pipeline.toml:6.\n"
    );
    assert!(!space.paths().all_json("things").exists());
}

#[test]
fn pages_that_are_missing_or_were_edited_are_refused() {
    let space = fetched(r#"[{"id":7}]"#, "");
    let page = space.path().join("exports/things/pages/0001.json");
    let hint = "  hint: Run `mirror42-fetch things`, or `mirror42 run`.\n";
    fs::write(&page, r#"[{"id":8}]"#).unwrap();
    assert_eq!(
        failed(&space, "mirror42-extract", &[], 1),
        format!(
            "page `exports/things/pages/0001.json` is not what was fetched: its hash is not the one in the receipt\n{hint}"
        )
    );
    fs::remove_file(&page).unwrap();
    assert_eq!(
        failed(&space, "mirror42-extract", &[], 1),
        format!("page `exports/things/pages/0001.json` is not there\n{hint}")
    );
    fs::remove_file(space.paths().receipt("things")).unwrap();
    assert_eq!(
        failed(&space, "mirror42-extract", &[], 1),
        format!("stage `things` has no pages that were fetched whole\n  at: exports/things/stage.json\n{hint}")
    );
}

const JOINED: &str = "[[stage]]\nname = \"joined\"\nfrom = \"things\"\nwith = { all = \"things\" }\n\
                      jq = '{id, of: ($all | length)}'\nkey = [\"id\"]\n";

#[test]
fn an_export_that_a_filter_reads_is_made_before_it() {
    let space = fetched(r#"[{"id":7},{"id":9}]"#, JOINED);
    assert_eq!(
        failed(&space, "mirror42-extract", &["joined"], 1),
        "`exports/things/all.json` is not there\n  hint: Run `mirror42-extract things`, or `mirror42 run`.\n"
    );
    done(&space, "mirror42-extract", &[]);
    assert_eq!(all_json(&space, "joined"), "[\n{\"id\":7,\"of\":2},\n{\"id\":9,\"of\":2}\n]\n");
}

#[test]
fn stages_are_extracted_in_the_order_they_need_whatever_that_of_the_file() {
    let server = Server::start("127.0.0.1:0", |path| match path.contains("parts") {
        true => Reply::json(r#"[{"id":1}]"#).with("X-Total", 1),
        false => Reply::json(r#"[{"id":7}]"#).with("X-Total", 1),
    });
    let space = one_stage(&format!("http://{}", server.address), "");
    let head = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    let (api, things) = head.split_once("[[stage]]").unwrap();
    space.write(
        "pipeline.toml",
        &format!(
            "{api}[[stage]]\nname = \"links\"\nfrom = \"parts\"\njq = '{{id, thing: $each.id}}'\nkey = [\"id\"]\n\
             [[stage]]\nname = \"parts\"\nfetch = \"/things/{{id}}/parts\"\neach = \"things\"\nkey = [\"id\"]\n[[stage]]{things}"
        ),
    );
    done(&space, "mirror42-fetch", &["things"]);
    done(&space, "mirror42-extract", &["things"]);
    done(&space, "mirror42-fetch", &["parts"]);
    fs::remove_file(space.paths().all_json("things")).unwrap();
    done(&space, "mirror42-extract", &[]);
    assert_eq!(all_json(&space, "links"), "[\n{\"id\":1,\"thing\":7}\n]\n");
}

#[test]
fn pages_of_another_each_export_are_refused() {
    let parts = "[[stage]]\nname = \"parts\"\nfetch = \"/things/{id}/parts\"\neach = \"things\"\nkey = [\"id\"]\n";
    let space = fetched(r#"[{"id":7}]"#, parts);
    done(&space, "mirror42-extract", &["things"]);
    done(&space, "mirror42-fetch", &["parts"]);
    space.export("things", &[r#"{"id":8}"#]);
    assert_eq!(
        failed(&space, "mirror42-extract", &["parts"], 1),
        "the pages of stage `parts` were fetched for another export of `things`\n  at: exports/things/all.json\n  \
         hint: Run `mirror42-fetch parts`, or `mirror42 run`.\n"
    );
}
