//! What changes from one day to the next: a little of everything, in every table.
//!
//! Day N is day 0 with N days applied, each drawn from the seed and its own number, so that a run
//! against day 3 sees what a run on three successive days would have seen. A day deletes one to
//! two rows in a hundred by itself; closing campuses take some links along.

use fastrand::Rng;

use crate::simulate::data::{Amount, Campus, Moment, Project, World};
use crate::simulate::generate::{self, rng_for};

/// 2025-12-01: day 0. Records changed on day N are dated N days later.
const DAY_0_MS: i64 = 1_764_547_200_000;

/// The world of `day`.
pub fn world(seed: u64, scale: usize, day: u32) -> World {
    let mut world = generate::world(seed, scale);
    while world.day < day {
        next_day(&mut world);
    }
    world
}

/// Turns `world` into the world of the day after.
pub fn next_day(world: &mut World) {
    world.day += 1;
    let (seed, day) = (world.seed, world.day);
    if day % 2 == 0 {
        world.cursus.name = format!("42cursus (day {day})");
    }
    let rng = |part| rng_for(seed, part, day);
    let opened = campus_day(&mut rng("campuses"), world);
    project_day(&mut rng("projects"), world, &opened);
    link_day(&mut rng("links"), world);
    session_day(&mut rng("sessions"), world);
    achievement_day(&mut rng("achievements"), world, &opened);
    award_day(&mut rng("awards"), world);
    coalition_day(&mut rng("coalitions"), world);
}

/// Closes, empties, fills, removes and opens a campus (each `scale` times); gives the opened ones.
fn campus_day(rng: &mut Rng, world: &mut World) -> Vec<i64> {
    let ids = |test: fn(&Campus) -> bool| -> Vec<i64> {
        world.campuses.iter().filter(|campus| test(campus)).map(|campus| campus.id).collect()
    };
    let scale = world.scale;
    let leaving = generate::sample(rng, &ids(Campus::is_kept), 2 * scale);
    let filling = generate::sample(rng, &ids(|campus| campus.active && campus.public && !campus.is_kept()), scale);
    let removed = generate::sample(rng, &ids(|campus| !campus.active || !campus.public), scale);

    for campus in &mut world.campuses {
        if let Some(turn) = leaving.iter().position(|&id| id == campus.id) {
            match turn % 2 {
                0 => campus.active = false,
                _ => campus.users_count = 2,
            }
        } else if filling.contains(&campus.id) {
            campus.users_count = 3;
        } else if campus.is_kept() && rng.u8(..12) == 0 {
            campus.users_count = (campus.users_count + rng.i64(-20..60)).max(3);
            campus.website = Some(format!("https://day-{}.42-{}.example/", world.day, campus.id));
        }
    }
    world.campuses.retain(|campus| !removed.contains(&campus.id));
    for project in &mut world.projects {
        project.campuses.retain(|id| !removed.contains(id));
    }
    (0..scale)
        .map(|_| {
            let id = world.campuses.last().map_or(0, |campus| campus.id) + 2;
            world.campuses.push(generate::campus(rng, id, id as usize));
            id
        })
        .collect()
}

/// Removes, changes and adds projects; one loses its last kept campus, one gains its first.
fn project_day(rng: &mut Rng, world: &mut World, opened: &[i64]) {
    let scale = world.scale;
    let kept_campuses: Vec<i64> = world.campuses.iter().filter(|c| c.is_kept()).map(|c| c.id).collect();
    let all_campuses: Vec<i64> = world.campuses.iter().map(|campus| campus.id).collect();
    let (kept, dropped): (Vec<i64>, Vec<i64>) = split(world);

    let picked = generate::sample(rng, &kept, 6 * scale);
    let (removed, losing) = picked.split_at(5 * scale);
    let gaining = generate::sample(rng, &dropped, scale);
    world.projects.retain(|project| !removed.contains(&project.id));
    let updated_at = today(world.day);
    for project in &mut world.projects {
        if losing.contains(&project.id) {
            project.campuses.retain(|id| !kept_campuses.contains(id));
        } else if gaining.contains(&project.id) {
            project.campuses.extend(generate::sample(rng, &kept_campuses, 1));
        } else if rng.u8(..50) == 0 {
            change_project(rng, project, updated_at);
        }
        if !losing.contains(&project.id) && rng.u8(..4) > 0 {
            project.campuses.extend_from_slice(opened);
        }
    }
    for _ in 0..5 * scale {
        let id = world.projects.last().map_or(0, |project| project.id) + 3;
        let mut project = generate::project(rng, id, &world.projects);
        let count = rng.usize(1..=kept_campuses.len().min(50));
        project.campuses = generate::sample(rng, &kept_campuses, count);
        for _ in 0..rng.usize(3..12) {
            world.last_session_id += 2;
            project.sessions.push(generate::session(rng, world.last_session_id, id, &all_campuses));
        }
        world.projects.push(project);
    }
}

fn change_project(rng: &mut Rng, project: &mut Project, updated_at: Moment) {
    project.updated_at = updated_at;
    match rng.u8(..5) {
        0 => project.name = generate::nasty(rng),
        1 => project.slug = project.slug.is_none().then(|| format!("42cursus-project-{}", project.id)),
        2 => project.parent = None,
        3 => project.difficulty = project.difficulty.map_or(Some(0), |_| None),
        _ => project.recommendation = Some(generate::nasty(rng)),
    }
}

/// Ids of the kept projects, and of the others.
fn split(world: &World) -> (Vec<i64>, Vec<i64>) {
    let (kept, dropped): (Vec<_>, Vec<_>) = world.projects.iter().partition(|project| world.is_kept_project(project));
    let ids = |projects: Vec<&Project>| projects.iter().map(|project| project.id).collect();
    (ids(kept), ids(dropped))
}

/// One link in 200 goes, as many come.
fn link_day(rng: &mut Rng, world: &mut World) {
    let campuses: Vec<i64> = world.campuses.iter().map(|campus| campus.id).collect();
    for project in &mut world.projects {
        if project.campuses.len() > 2 && rng.u8(..5) == 0 {
            project.campuses.swap_remove(rng.usize(..project.campuses.len()));
        }
        let campus = campuses[rng.usize(..campuses.len())];
        // A project that just lost its last kept campus must not get one back.
        if project.campuses.len() > 12 && rng.u8(..3) == 0 && !project.campuses.contains(&campus) {
            project.campuses.push(campus);
        }
    }
}

/// One session in 100 goes, one comes, two change; a few move to another project.
fn session_day(rng: &mut Rng, world: &mut World) {
    let campuses: Vec<i64> = world.campuses.iter().map(|campus| campus.id).collect();
    let updated_at = today(world.day);
    for project in &mut world.projects {
        project.sessions.retain(|_| rng.u8(..100) > 0);
        for session in &mut project.sessions {
            if rng.u8(..50) == 0 {
                session.updated_at = updated_at;
                match rng.u8(..4) {
                    0 => session.description = Some(generate::nasty(rng)),
                    1 => session.campus_id = None,
                    2 => session.estimate_time = Amount::Number(rng.i64(1..90) * 3600),
                    _ => session.scales.clear(),
                }
            }
        }
        if rng.u8(..7) == 0 {
            world.last_session_id += 1;
            project.sessions.push(generate::session(rng, world.last_session_id, project.id, &campuses));
        }
    }
    let kept: Vec<usize> = (0..world.projects.len())
        .filter(|&at| world.is_kept_project(&world.projects[at]) && !world.projects[at].sessions.is_empty())
        .collect();
    for _ in 0..2 * world.scale {
        let (from, to) = (kept[rng.usize(..kept.len())], kept[rng.usize(..kept.len())]);
        if let Some(mut session) = world.projects[from].sessions.pop() {
            session.project_id = world.projects[to].id;
            session.updated_at = updated_at;
            world.projects[to].sessions.push(session);
        }
    }
}

/// One achievement in 100 goes, one comes, three change.
fn achievement_day(rng: &mut Rng, world: &mut World, opened: &[i64]) {
    let count = 10 * world.scale;
    let ids: Vec<i64> = world.achievements.iter().map(|achievement| achievement.id).collect();
    let removed = generate::sample(rng, &ids, count);
    world.achievements.retain(|achievement| !removed.contains(&achievement.id));
    for achievement in &mut world.achievements {
        if rng.u8(..33) == 0 {
            achievement.nbr_of_success = Some(achievement.nbr_of_success.unwrap_or(0) + 1);
        }
    }
    let left: Vec<i64> = world.achievements.iter().map(|achievement| achievement.id).collect();
    for campus in &mut world.campuses {
        campus.achievements.retain(|id| !removed.contains(id));
        if opened.contains(&campus.id) {
            campus.achievements = generate::sample(rng, &left, 104);
            campus.achievements.sort_unstable();
        }
    }
    for _ in 0..count {
        let id = world.achievements.last().map_or(0, |achievement| achievement.id) + 3;
        world.achievements.push(generate::achievement(rng, id));
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(..world.campuses.len());
            join(&mut world.campuses[at].achievements, id);
        }
    }
}

/// On every third campus an achievement leaves, on every third one joins.
fn award_day(rng: &mut Rng, world: &mut World) {
    let ids: Vec<i64> = world.achievements.iter().map(|achievement| achievement.id).collect();
    for campus in &mut world.campuses {
        if campus.achievements.len() > 3 && rng.u8(..3) == 0 {
            campus.achievements.remove(rng.usize(..campus.achievements.len()));
        }
        if rng.u8(..3) == 0 {
            join(&mut campus.achievements, ids[rng.usize(..ids.len())]);
        }
    }
}

/// Adds an id to an ascending list, once.
pub fn join(ids: &mut Vec<i64>, id: i64) {
    if let Err(at) = ids.binary_search(&id) {
        ids.insert(at, id);
    }
}

/// Coalitions go, come, score, and one takes another name.
fn coalition_day(rng: &mut Rng, world: &mut World) {
    let ids: Vec<i64> = world.coalitions.iter().map(|coalition| coalition.id).collect();
    let picked = generate::sample(rng, &ids, 5 * world.scale);
    let (removed, renamed) = picked.split_at(4 * world.scale);
    world.coalitions.retain(|coalition| !removed.contains(&coalition.id));
    for coalition in &mut world.coalitions {
        if renamed.contains(&coalition.id) {
            coalition.name = format!("{} (day {})", generate::nasty(rng), world.day);
        } else if rng.u8(..40) == 0 {
            coalition.score = coalition.score.saturating_add(rng.i64(1..500));
        }
    }
    for _ in 0..4 * world.scale {
        let id = world.coalitions.last().map_or(0, |coalition| coalition.id) + 2;
        world.coalitions.push(generate::coalition(rng, id));
    }
}

fn today(day: u32) -> Moment {
    Moment::utc(DAY_0_MS + i64::from(day) * 86_400_000 + 7_654_321)
}
