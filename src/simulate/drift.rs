//! An index that shifts while it is being read: one record comes or goes, for good.

use crate::simulate::data::World;
use crate::simulate::days::join;
use crate::simulate::generate::{self, rng_for};
use crate::simulate::render::List;

/// Adds a record on the first page of `list`, so that every later one moves down by one.
pub fn insert(world: &mut World, list: List) {
    let mut rng = rng_for(world.seed, "drift", world.last_session_id as u32);
    let rng = &mut rng;
    match list {
        List::Campuses => {
            let id = lowest_free(world.campuses.iter().map(|campus| campus.id));
            let at = world.campuses.partition_point(|campus| campus.id < id);
            world.campuses.insert(at, generate::campus(rng, id, id as usize));
        }
        List::Projects => {
            let kept: Vec<i64> = world.campuses.iter().filter(|c| c.is_kept()).map(|campus| campus.id).collect();
            let id = lowest_free(world.projects.iter().map(|project| project.id));
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
            let id = lowest_free(world.achievements.iter().map(|achievement| achievement.id));
            let at = world.achievements.partition_point(|achievement| achievement.id < id);
            world.achievements.insert(at, generate::achievement(rng, id));
        }
        List::CampusAchievements(campus) => {
            let ids = &mut world.campuses[campus].achievements;
            let new =
                world.achievements.iter().map(|achievement| achievement.id).find(|id| ids.binary_search(id).is_err());
            if let Some(id) = new {
                join(ids, id);
            }
        }
        List::Coalitions => {
            // This index begins with the newest.
            let id = world.coalitions.last().map_or(0, |coalition| coalition.id) + 1;
            world.coalitions.push(generate::coalition(rng, id));
        }
        List::Nobody => {}
    }
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

fn lowest_free(ids: impl Iterator<Item = i64>) -> i64 {
    let mut free = 1;
    for id in ids {
        if id != free {
            break;
        }
        free += 1;
    }
    free
}
