//! A fetch that is killed is gone on with: what has come is not asked for again, and the end is the same.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fetch::{assert_mirrors, done, failed, files, mirror};
use crate::simulator::Simulator;
use crate::space::{Space, wait_until};

fn requests(simulator: &Simulator, name: &str) -> u64 {
    simulator.stats()["requests"][name].as_u64().unwrap_or(0)
}

/// Runs a fetch and kills it once `come` holds.
fn killed(space: &Space, stage: &str, come: impl Fn() -> bool) {
    let mut fetch = space.spawn("mirror42-fetch", &[stage]);
    wait_until("the fetch is where it is to be killed", come);
    fetch.kill().unwrap();
    fetch.wait().unwrap();
}

fn journal(space: &Space, stage: &str) -> String {
    fs::read_to_string(space.paths().pages_under_way(stage).join("journal.jsonl")).unwrap_or_default()
}

#[test]
fn pages_that_have_come_are_not_asked_for_again() {
    let simulator = Simulator::start("");
    let space = simulator.project();
    done(&space, "mirror42-fetch", &["02_campus"]);
    done(&space, "mirror42-extract", &["02_campus"]);
    simulator.hold("/v2/cursus/21/projects&page=4");
    killed(&space, "05_projects", || journal(&space, "05_projects").lines().count() == 1 + 5);
    simulator.release();
    simulator.reset_stats();
    let log = done(&space, "mirror42-fetch", &["05_projects"]);
    assert!(log.contains("05_projects: going on with 5 pages of the fetch of "), "{log}");
    assert_eq!(requests(&simulator, "projects"), 1 + 1, "the first again, by its ETag, and the one that is missing");
    assert_eq!(simulator.stats()["not_modified"], 1);
    let receipt: Value = serde_json::from_slice(&fs::read(space.paths().receipt("05_projects")).unwrap()).unwrap();
    assert_eq!((&receipt["fetch"]["resumed_pages"], &receipt["fetch"]["records"]), (&5.into(), &533.into()));

    // Series that are whole are not asked for at all.
    killed(&space, "03_achievements", || journal(&space, "03_achievements").lines().count() > 70);
    let kept = journal(&space, "03_achievements").lines().filter(|line| line.contains("\"page\":")).count() as u64;
    simulator.reset_stats();
    done(&space, "mirror42-fetch", &["03_achievements"]);
    let asked = requests(&simulator, "campus_achievements");
    assert!(asked <= 82 - kept + 40, "{asked} requests for the {} that were missing", 82 - kept);
    done(&space, "mirror42-extract", &["03_achievements"]);
    done(&space, "mirror42-extract", &["05_projects", "07_project_sessions"]);
    assert_mirrors(&space, &simulator, "03_achievements");
    assert_mirrors(&space, &simulator, "07_project_sessions");
}

#[test]
fn pages_of_another_day_or_another_request_are_not_gone_on_with() {
    let simulator = Simulator::start("");
    let space = simulator.project();
    let stop = |page: &str, lines: usize| {
        simulator.hold(&format!("/v2/coalitions&page={page}"));
        killed(&space, "08_coalitions", || journal(&space, "08_coalitions").lines().count() == lines);
        simulator.release();
        simulator.reset_stats();
    };
    stop("4", 4);
    simulator.day(1);
    let log = done(&space, "mirror42-fetch", &["08_coalitions"]);
    assert!(log.contains("has changed since a fetch of it was killed; reading it anew"), "{log}");
    assert_eq!(requests(&simulator, "coalitions"), 4);
    done(&space, "mirror42-extract", &["08_coalitions"]);
    assert_mirrors(&space, &simulator, "08_coalitions");

    stop("4", 4);
    let pipeline = fs::read_to_string(space.path().join("pipeline.toml")).unwrap();
    space.write("pipeline.toml", &pipeline.replace("/v2/coalitions", "/v2/coalitions?sort=id"));
    done(&space, "mirror42-fetch", &["08_coalitions"]);
    assert_eq!(requests(&simulator, "coalitions"), 4, "all of the other request");

    space.write("pipeline.toml", &pipeline);
    stop("4", 4);
    let page = space.paths().pages_under_way("08_coalitions").join("0002.json");
    fs::write(&page, fs::read_to_string(&page).unwrap().replace("name", "nom")).unwrap();
    done(&space, "mirror42-fetch", &["08_coalitions"]);
    assert_eq!(requests(&simulator, "coalitions"), 1 + 2, "the second page is not what came");
    done(&space, "mirror42-extract", &["08_coalitions"]);
    assert_mirrors(&space, &simulator, "08_coalitions");
}

#[test]
fn a_fetch_that_fails_says_what_the_next_goes_on_with() {
    let simulator = Simulator::start("");
    let space = simulator.project();
    simulator.faults(&["kind = 'json-error'; page = 4; after = 0"]);
    simulator.hold("/v2/coalitions&page=4");
    let fetch = space.spawn("mirror42-fetch", &["08_coalitions", "-q"]);
    wait_until("the others have come", || journal(&space, "08_coalitions").lines().count() == 4);
    simulator.release();
    let output = fetch.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.ends_with("\n  detail: The next fetch goes on with the 3 pages that have come.\n"), "{text}");
    simulator.reset_stats();
    done(&space, "mirror42-fetch", &["08_coalitions"]);
    assert_eq!(requests(&simulator, "coalitions"), 2);
}

/// The longer campaign is `make chaos`.
#[test]
fn a_fetch_that_is_killed_again_and_again_ends_as_an_undisturbed_one() {
    let simulator = Simulator::start("--latency 5ms-60ms");
    let undisturbed = simulator.project();
    mirror(&undisturbed);
    let space = simulator.project();
    done(&space, "mirror42-fetch", &["02_campus"]);
    done(&space, "mirror42-extract", &["02_campus"]);
    let mut random = fastrand::Rng::new();
    simulator.reset_stats();
    let mut kills = 0;
    for stage in ["03_achievements", "05_projects", "08_coalitions"] {
        let began = Instant::now();
        loop {
            let mut fetch = space.spawn("mirror42-fetch", &[stage]);
            std::thread::sleep(Duration::from_millis(random.u64(10..250 + 20 * kills)));
            if fetch.try_wait().unwrap().is_some_and(|status| status.success()) {
                break;
            }
            fetch.kill().unwrap();
            fetch.wait().unwrap();
            kills += 1;
            assert!(began.elapsed() < Duration::from_secs(60), "it does not get on");
        }
    }
    let sent = ["campus_achievements", "projects", "coalitions"].map(|name| requests(&simulator, name));
    let again = sent.iter().sum::<u64>() - 82 - 6 - 4;
    assert!(again <= 40 * kills, "{again} requests again after {kills} kills");
    done(&space, "mirror42-fetch", &["01_cursus"]);
    done(&space, "mirror42-extract", &[]);
    for (stage, _) in crate::fetch::TABLES {
        let bytes = |space: &Space| fs::read(space.paths().all_json(stage)).unwrap();
        assert!(bytes(&space) == bytes(&undisturbed), "{stage}");
    }
    for stage in ["03_achievements", "05_projects", "08_coalitions"] {
        let pages = |space: &Space| files(&space.paths().pages(stage));
        assert!(pages(&space) == pages(&undisturbed), "{stage}");
        assert!(!space.paths().pages_under_way(stage).exists(), "{stage}");
    }
    // The receipt beside the pages, which the very last step removes, does not stand for another fetch.
    let receipt: Value = serde_json::from_slice(&fs::read(space.paths().receipt("08_coalitions")).unwrap()).unwrap();
    let sealed = space.paths().pages("08_coalitions").join("sealed.json");
    fs::write(&sealed, receipt["fetch"].to_string()).unwrap();
    simulator.reset_stats();
    done(&space, "mirror42-fetch", &["08_coalitions"]);
    assert_eq!((requests(&simulator, "coalitions"), sealed.exists()), (4, false));
    // Killed with the receipt beside the new pages, and the journal not removed yet: it does not go with them.
    let (stage, pages) = (space.paths().receipt("08_coalitions"), space.paths().pages("08_coalitions"));
    let under_way = space.paths().pages_under_way("08_coalitions");
    fs::rename(&pages, &under_way).unwrap();
    fs::write(under_way.join("sealed.json"), receipt["fetch"].to_string()).unwrap();
    fs::write(under_way.join("journal.jsonl"), "").unwrap();
    fs::remove_file(&stage).unwrap();
    simulator.reset_stats();
    done(&space, "mirror42-fetch", &["08_coalitions"]);
    assert_eq!(requests(&simulator, "coalitions"), 0);
    assert!(stage.exists() && files(&pages).len() == 4 && !under_way.exists());
    // What is sealed is sealed: nothing is left to go on with.
    simulator.faults(&["kind = 'json-error'; times = 0"]);
    failed(&space, "mirror42-fetch", &["08_coalitions"], 1);
}

/// One kill at a random moment of each of 200 fetches: how many requests are sent again.
#[test]
#[ignore = "a campaign of minutes: make chaos"]
fn campaign_of_200_kills() {
    const STAGES: [&str; 3] = ["03_achievements", "05_projects", "08_coalitions"];
    let simulator = Simulator::start("--latency 20ms-200ms");
    let space = simulator.project();
    done(&space, "mirror42-fetch", &["02_campus"]);
    done(&space, "mirror42-extract", &["02_campus"]);
    let sent = || simulator.stats()["requests_in_all"].as_u64().unwrap();
    let (began, before) = (Instant::now(), sent());
    done(&space, "mirror42-fetch", &STAGES);
    let (took, calm) = (began.elapsed(), sent() - before);
    let pages = |space: &Space| STAGES.map(|stage| files(&space.paths().pages(stage)));
    let undisturbed = pages(&space);
    let mut random = fastrand::Rng::with_seed(42);
    let mut again = Vec::new();
    for kill in 0..200 {
        STAGES.iter().for_each(|stage| fs::remove_dir_all(space.paths().stage(stage)).unwrap());
        let before = sent();
        let mut fetch = space.spawn("mirror42-fetch", &STAGES);
        std::thread::sleep(took.mul_f64(random.f64()));
        fetch.kill().unwrap();
        fetch.wait().unwrap();
        // A stage that was whole before the kill is current: the driver does not fetch it again.
        let left: Vec<&str> = STAGES.into_iter().filter(|stage| !space.paths().receipt(stage).exists()).collect();
        if !left.is_empty() {
            done(&space, "mirror42-fetch", &left);
        }
        // A stage that was killed in its very last step has its receipt, and beside the pages what the next fetch removes.
        let found = pages(&space).map(|mut files| {
            files.remove("sealed.json");
            files
        });
        let names = || found.iter().map(|files| files.keys().cloned().collect::<Vec<_>>()).collect::<Vec<_>>();
        assert!(found == undisturbed, "kill {kill}: {:?}", names());
        again.push(sent() - before - calm);
    }
    let mean = again.iter().sum::<u64>() as f64 / again.len() as f64;
    println!(
        "200 kills of a fetch of {calm} requests: sent again {mean:.1} on average, {} at most",
        again.iter().max().unwrap()
    );
    assert!(mean <= 40.0);
}
