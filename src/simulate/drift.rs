//! An index that shifts while it is being read: one record comes or goes, for good.

use fastrand::Rng;

use crate::simulate::data::World;
use crate::simulate::days::join;
use crate::simulate::generate::{self, rng_for};
use crate::simulate::render::List;

/// Where in an index a record appears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the first page, so that all later records move down by one.
    First,
    /// At the end.
    Last,
}

/// Adds a record to `list`.
pub fn insert(world: &mut World, list: List, place: Place) {
    let mut rng = rng_for(world.seed, "drift", world.last_session_id as u32);
    let rng = &mut rng;
    match list {
        List::Campuses => {
            let id = free_id(world.campuses.iter().map(|campus| campus.id), place == Place::First);
            let at = world.campuses.partition_point(|campus| campus.id < id);
            world.campuses.insert(at, generate::campus(rng, id, id as usize));
        }
        List::Projects => {
            let kept: Vec<i64> = world.campuses.iter().filter(|c| c.is_kept()).map(|campus| campus.id).collect();
            let id = free_id(world.projects.iter().map(|project| project.id), place == Place::First);
            let mut project = generate::project(rng, id, &[]);
            project.campuses = generate::sample(rng, &kept, 3);
            for _ in 0..2 {
                world.last_session_id += 1;
                project.sessions.push(generate::session(rng, world.last_session_id, id, &kept));
            }
            let at = world.projects.partition_point(|project| project.id < id);
            world.projects.insert(at, project);
        }
        List::Achievements => {
            new_achievement(world, rng, place);
        }
        List::CampusAchievements(campus) => {
            let ids = &world.campuses[campus].achievements;
            let known = world.achievements.iter().map(|achievement| achievement.id);
            let id = match place {
                Place::First => known.into_iter().find(|id| ids.binary_search(id).is_err()),
                Place::Last => Some(new_achievement(world, rng, place)),
            };
            if let Some(id) = id {
                join(&mut world.campuses[campus].achievements, id);
            }
        }
        List::Coalitions => {
            // This index begins with the newest.
            let id = free_id(world.coalitions.iter().map(|coalition| coalition.id), place == Place::Last);
            let at = world.coalitions.partition_point(|coalition| coalition.id < id);
            world.coalitions.insert(at, generate::coalition(rng, id));
        }
        List::Nobody => {}
    }
}

fn new_achievement(world: &mut World, rng: &mut Rng, place: Place) -> i64 {
    let id = free_id(world.achievements.iter().map(|achievement| achievement.id), place == Place::First);
    let at = world.achievements.partition_point(|achievement| achievement.id < id);
    world.achievements.insert(at, generate::achievement(rng, id));
    id
}

/// Removes the first record of `list`, so that every later one moves up by one.
pub fn remove(world: &mut World, list: List) {
    match list {
        List::Campuses if !world.campuses.is_empty() => {
            let gone = world.campuses.remove(0);
            for project in &mut world.projects {
                project.campuses.retain(|&id| id != gone.id);
            }
        }
        List::Projects if !world.projects.is_empty() => {
            world.projects.remove(0);
        }
        List::Achievements if !world.achievements.is_empty() => {
            let gone = world.achievements.remove(0);
            for campus in &mut world.campuses {
                campus.achievements.retain(|&id| id != gone.id);
            }
        }
        List::CampusAchievements(campus) if !world.campuses[campus].achievements.is_empty() => {
            world.campuses[campus].achievements.remove(0);
        }
        List::Coalitions => {
            world.coalitions.pop();
        }
        _ => {}
    }
}

/// An id that none of these, which ascend, is: the lowest there is, or one above them all.
fn free_id(ids: impl Iterator<Item = i64>, lowest: bool) -> i64 {
    let mut free = 1;
    for id in ids {
        if lowest && id != free {
            break;
        }
        free = id + 1;
    }
    free
}
