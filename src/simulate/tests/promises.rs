//! The promises about the data: exact counts on day 0, small changes after it.

use std::collections::BTreeSet;

use crate::simulate::data::{Campus, World};
use crate::simulate::{days, generate, oracle};

fn count(world: &World, table: &str) -> usize {
    oracle::rows(world, table).map_or(0, |rows| rows.len())
}

#[test]
fn day_0_has_exactly_the_counts_of_the_first_night() {
    for (seed, scale) in [(42, 1), (7, 1), (42, 2)] {
        let world = generate::world(seed, scale);
        let listed_links: usize = world.projects.iter().map(|project| project.campuses.len()).sum();
        let listed_sessions: usize = world.projects.iter().map(|project| project.sessions.len()).sum();
        assert_eq!(world.campuses.len(), 64 * scale);
        assert_eq!(world.projects.len(), 533 * scale);
        assert_eq!(listed_links, 24_195 * scale);
        assert_eq!(listed_sessions, 7_287 * scale);
        let rows = oracle::TABLES.map(|table| count(&world, table));
        assert_eq!(rows[0], 1);
        assert_eq!(rows[1..], [54, 1042, 5495, 519, 20_937, 7256, 350].map(|rows| rows * scale));
    }
}

#[test]
fn achievements_take_82_requests_at_100_a_page() {
    let world = generate::world(42, 1);
    let sizes: Vec<usize> = world.campuses.iter().filter(|c| c.is_kept()).map(|c| c.achievements.len()).collect();
    assert!(sizes.iter().all(|size| (56..=164).contains(size)), "{sizes:?}");
    assert_eq!(sizes.iter().map(|size| size.div_ceil(100)).sum::<usize>(), 82);
    let kept: BTreeSet<_> = world.campuses.iter().filter(|c| c.is_kept()).flat_map(|c| &c.achievements).collect();
    let dropped: BTreeSet<_> = world.campuses.iter().filter(|c| !c.is_kept()).flat_map(|c| &c.achievements).collect();
    assert!(dropped.difference(&kept).count() > 30, "some achievements are won on dropped campuses only");
}

#[test]
fn dropped_campuses_fall_short_in_every_way() {
    let world = generate::world(42, 1);
    let has = |test: &dyn Fn(&Campus) -> bool| world.campuses.iter().any(test);
    for users in [0, 1, 2] {
        assert!(has(&|campus| campus.active && campus.public && campus.users_count == users));
    }
    assert!(has(&|campus| !campus.active && campus.users_count >= 3));
    assert!(has(&|campus| !campus.public && campus.users_count >= 3));
    assert!(has(&|campus| campus.is_kept() && campus.users_count == 3));
}

#[test]
fn the_hard_cases_are_all_there() {
    let world = generate::world(42, 1);
    let sessions: Vec<_> = world
        .projects
        .iter()
        .filter(|project| world.is_kept_project(project))
        .flat_map(|project| &project.sessions)
        .collect();
    assert!(sessions.iter().any(|session| session.campus_id.is_none()));
    assert!(sessions.iter().any(|session| session.campus_id.is_some_and(|id| !world.is_kept_campus(id))));
    assert!(sessions.iter().any(|session| session.begin_at.is_some_and(|at| at.offset_hours == 8)));
    assert!(world.projects.iter().any(|project| project.slug.is_none()));
    assert!(world.projects.iter().any(|project| project.campuses.is_empty()));
    assert!(world.projects.iter().any(|project| {
        project.parent.as_ref().is_some_and(|parent| world.projects.iter().all(|other| other.id != parent.id))
    }));
    let analysts: Vec<i64> = world.coalitions.iter().filter(|c| c.slug == "analysts").map(|c| c.id).collect();
    assert_eq!(analysts, [10, 11]);
    assert!(world.coalitions.iter().any(|coalition| coalition.score == 9_007_199_254_740_993));
    let ids: BTreeSet<i64> = sessions.iter().map(|session| session.id).collect();
    assert_eq!(ids.len(), sessions.len(), "no session id is given twice");
}

#[test]
fn the_same_seed_gives_the_same_tables_and_another_seed_others() {
    let rows = |seed| oracle::rows(&days::world(seed, 1, 2), "project_sessions");
    assert_eq!(rows(42), rows(42));
    assert_ne!(rows(42), rows(43));
}

#[test]
fn every_day_changes_every_table_a_little() {
    let mut before = generate::world(42, 1);
    for day in 1..=4 {
        let mut after = before.clone();
        days::next_day(&mut after);
        for table in oracle::TABLES {
            let keys = |world: &World| -> BTreeSet<Vec<u8>> {
                let rows = oracle::rows(world, table).unwrap_or_default();
                rows.into_iter().map(|row| key(table, &row)).collect()
            };
            let (old, new) = (keys(&before), keys(&after));
            let (gone, come) = (old.difference(&new).count(), new.difference(&old).count());
            if table != "cursus" {
                assert!(gone > 0 && come > 0, "day {day}: {table} lost {gone} and won {come}");
            }
            assert!(gone * 100 <= old.len() * 9, "day {day}: {table} lost {gone} of {}", old.len());
        }
        before = after;
    }
}

#[test]
fn each_day_has_the_events_that_tests_rely_on() {
    let before = generate::world(42, 1);
    let after = days::world(42, 1, 1);
    let changed = |test: &dyn Fn(&Campus, &Campus) -> bool| {
        before.campuses.iter().any(|old| after.campus(old.id).is_some_and(|new| test(old, new)))
    };
    assert!(changed(&|old, new| old.is_kept() && !new.active), "a campus closes");
    assert!(changed(&|old, new| old.is_kept() && new.active && new.users_count < 3), "a campus empties");
    assert!(changed(&|old, new| old.users_count < 3 && new.is_kept()), "a campus fills");
    let lost = before.projects.iter().filter(|old| before.is_kept_project(old)).any(|old| {
        after.projects.iter().any(|new| new.id == old.id && !after.is_kept_project(new) && !new.sessions.is_empty())
    });
    assert!(lost, "a project with sessions loses its last kept campus");
    let home = |world: &World, id| {
        world.projects.iter().flat_map(|project| &project.sessions).find(|s| s.id == id).map(|s| s.project_id)
    };
    let moved = before
        .projects
        .iter()
        .flat_map(|project| &project.sessions)
        .any(|session| home(&after, session.id).is_some_and(|project_id| project_id != session.project_id));
    assert!(moved, "a session moves to another project");
}

/// The key of a row: its id, or all of a pair.
fn key(table: &str, row: &[u8]) -> Vec<u8> {
    if table.starts_with("campus_") {
        return row.to_vec();
    }
    row.split(|&byte| byte == b',').next().unwrap_or_default().to_vec()
}
