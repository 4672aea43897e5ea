//! What the mirrored tables must hold, worked out from the generator's structs by the mirror's
//! rules, not by the pipeline's filters: the two must agree, and neither knows the other.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::simulate::data::{Achievement, Amount, Campus, Coalition, Cursus, Project, Session, World};
use crate::simulate::json::{Json, Object};

/// The mirrored tables, in the order of the exports.
pub const TABLES: [&str; 8] = [
    "cursus",
    "campuses",
    "achievements",
    "campus_achievements",
    "projects",
    "campus_projects",
    "project_sessions",
    "coalitions",
];

/// Writes `DIR/<table>.json` for every table.
pub fn write_tables(world: &World, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|cause| Error::io("create", folder, &cause))?;
    for table in TABLES {
        let path = folder.join(format!("{table}.json"));
        let rows = rows(world, table).unwrap_or_default();
        fs::write(&path, join_lines(&rows)).map_err(|cause| Error::io("write", &path, &cause))?;
    }
    Ok(())
}

/// The rows of a table, each a JSON object, in the order of its key; `None` for any other name.
pub fn rows(world: &World, table: &str) -> Option<Vec<Vec<u8>>> {
    let kept_campuses = || world.campuses.iter().filter(|campus| campus.is_kept());
    let kept_projects = || world.projects.iter().filter(|project| world.is_kept_project(project));
    let rows = match table {
        "cursus" => vec![cursus(&world.cursus)],
        "campuses" => kept_campuses().map(campus).collect(),
        "achievements" => {
            let ids: BTreeSet<i64> = kept_campuses().flat_map(|campus| campus.achievements.iter().copied()).collect();
            world.achievements.iter().filter(|one| ids.contains(&one.id)).map(achievement).collect()
        }
        "campus_achievements" => {
            let pairs = kept_campuses().flat_map(|campus| campus.achievements.iter().map(|&id| (campus.id, id)));
            pairs.collect::<BTreeSet<_>>().into_iter().map(|(campus, id)| pair(campus, "achievement_id", id)).collect()
        }
        "projects" => kept_projects().map(project).collect(),
        "campus_projects" => {
            let pairs = kept_projects().flat_map(|project| project.campuses.iter().map(|&id| (id, project.id)));
            let kept: BTreeSet<_> = pairs.filter(|&(campus, _)| world.is_kept_campus(campus)).collect();
            kept.into_iter().map(|(campus, id)| pair(campus, "project_id", id)).collect()
        }
        "project_sessions" => {
            let mut sessions: Vec<&Session> = kept_projects().flat_map(|project| &project.sessions).collect();
            sessions.sort_by_key(|session| session.id);
            sessions.into_iter().map(session).collect()
        }
        "coalitions" => world.coalitions.iter().map(coalition).collect(),
        _ => return None,
    };
    Some(rows)
}

/// One row a line.
pub fn join_lines(rows: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(rows.iter().map(|row| row.len() + 1).sum());
    for row in rows {
        out.extend_from_slice(row);
        out.push(b'\n');
    }
    out
}

fn row(fill: impl FnOnce(Object<'_>) -> Object<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    fill(Object::new(&mut out)).end();
    out
}

fn pair(campus_id: i64, other: &str, other_id: i64) -> Vec<u8> {
    row(|o| o.field("campus_id", campus_id).field(other, other_id))
}

fn cursus(cursus: &Cursus) -> Vec<u8> {
    row(|o| {
        o.field("id", cursus.id)
            .field("name", &cursus.name)
            .field("slug", &cursus.slug)
            .field("kind", &cursus.kind)
            .field("created_at", cursus.created_at)
    })
}

fn campus(campus: &Campus) -> Vec<u8> {
    row(|o| {
        o.field("id", campus.id)
            .field("name", &campus.name)
            .field("time_zone", &campus.time_zone)
            .field("language_id", campus.language.map(|language| language.id))
            .field("language_name", campus.language.map(|language| language.name))
            .field("language_identifier", campus.language.map(|language| language.identifier))
            .field("users_count", campus.users_count)
            .field("vogsphere_id", campus.vogsphere_id)
            .field("country", &campus.country)
            .field("address", &campus.address)
            .field("zip", &campus.zip)
            .field("city", &campus.city)
            .field("website", &campus.website)
            .field("facebook", &campus.facebook)
            .field("twitter", &campus.twitter)
            .field("public", campus.public)
            .field("active", campus.active)
            .field("email_extension", &campus.email_extension)
            .field("default_hidden_phone", campus.default_hidden_phone)
    })
}

fn achievement(achievement: &Achievement) -> Vec<u8> {
    row(|o| {
        o.field("id", achievement.id)
            .field("name", &achievement.name)
            .field("description", &achievement.description)
            .field("tier", achievement.tier)
            .field("kind", achievement.kind)
            .field("visible", achievement.visible)
            .field("image", &achievement.image)
            .field("nbr_of_success", achievement.nbr_of_success)
            .field("users_url", achievement.users_url())
            .field("parent_id", achievement.parent_id)
            .field("title", &achievement.title)
    })
}

fn project(project: &Project) -> Vec<u8> {
    row(|o| {
        o.field("id", project.id)
            .field("name", &project.name)
            .field("slug", &project.slug)
            .field("parent_id", project.parent.as_ref().map(|parent| parent.id))
            .field("difficulty", project.difficulty)
            .field("exam", project.exam)
            .field("git_id", project.git_id)
            .field("repository", &project.repository)
            .field("recommendation", &project.recommendation)
            .field("created_at", project.created_at)
            .field("updated_at", project.updated_at)
    })
}

fn session(session: &Session) -> Vec<u8> {
    let newer = session.newer.as_ref();
    row(|o| {
        o.field("id", session.id)
            .field("project_id", session.project_id)
            .field("campus_id", session.campus_id)
            .field("cursus_id", session.cursus_id)
            .field("begin_at", session.begin_at)
            .field("end_at", session.end_at)
            .field("difficulty", session.difficulty)
            .field("estimate_time", as_text(&session.estimate_time))
            .field("exam", newer.and_then(|newer| newer.exam))
            .field("marked", newer.map(|newer| newer.marked))
            .field("max_project_submissions", newer.and_then(|newer| newer.max_project_submissions))
            .field("max_people", session.max_people)
            .field("duration_days", session.duration_days)
            .field("commit", &session.commit)
            .field("description", &session.description)
            .field("is_subscriptable", session.is_subscriptable)
            .field("objectives", &session.objectives)
            .field("scales", &session.scales)
            .field("terminating_after", as_text(&session.terminating_after))
            .field("uploads", &session.uploads)
            .field("solo", session.solo)
            .field("team_behaviour", &session.team_behaviour)
            .field("created_at", session.created_at)
            .field("updated_at", session.updated_at)
    })
}

fn coalition(coalition: &Coalition) -> Vec<u8> {
    let mut out = Vec::new();
    coalition.write(&mut out); // the table has the API's columns, in the API's order
    out
}

/// A text column holds the digits of a number.
fn as_text(amount: &Amount) -> Option<String> {
    match amount {
        Amount::Nothing => None,
        Amount::Text(text) => Some(text.clone()),
        Amount::Number(number) => Some(number.to_string()),
    }
}
