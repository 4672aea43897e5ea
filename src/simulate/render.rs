//! The world as the API writes it: every record rendered once, pages put together on demand.
//!
//! A project carries every campus object, so its rendering is kept in two halves around the shared
//! campuses: 8 MB instead of 26 at scale 1, and a page is a concatenation.

use std::collections::BTreeMap;

use crate::simulate::data::{
    Achievement, Campus, Coalition, Cursus, Endpoint, Language, Moment, Parent, Project, Scale, Session, Upload, World,
};
use crate::simulate::json::{Json, Object, Raw};

/// One of the API's indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    Campuses,
    Projects,
    Achievements,
    /// The achievements of one campus, named by its place in [`World::campuses`].
    CampusAchievements(usize),
    Coalitions,
    /// The tables of the next phase: indexes without a record.
    Nobody,
}

/// A world and its renderings.
pub struct Rendered {
    pub world: World,
    cursus: Vec<u8>,
    campuses: Vec<Vec<u8>>,
    projects: Vec<Halves>,
    achievements: Vec<Vec<u8>>,
    coalitions: Vec<Vec<u8>>,
}

/// A project up to its campuses, their places, and the rest of it.
struct Halves {
    head: Vec<u8>,
    campuses: Vec<usize>,
    tail: Vec<u8>,
}

impl Rendered {
    pub fn new(world: World) -> Rendered {
        let places: BTreeMap<i64, usize> = world.campuses.iter().enumerate().map(|(at, c)| (c.id, at)).collect();
        let cursus = bytes(&world.cursus);
        let projects = world.projects.iter().map(|project| halves(project, &cursus, &places)).collect();
        Rendered {
            campuses: world.campuses.iter().map(bytes).collect(),
            achievements: achievements(&world),
            coalitions: world.coalitions.iter().map(bytes).collect(),
            projects,
            cursus,
            world,
        }
    }

    pub fn cursus(&self) -> &[u8] {
        &self.cursus
    }

    pub fn campus(&self, at: usize) -> &[u8] {
        &self.campuses[at]
    }

    /// The places of a list's records in the vector they live in, ordered by id.
    pub fn places(&self, list: List) -> Vec<usize> {
        match list {
            List::Campuses => (0..self.campuses.len()).collect(),
            List::Projects => (0..self.projects.len()).collect(),
            List::Achievements => (0..self.achievements.len()).collect(),
            List::Coalitions => (0..self.coalitions.len()).collect(),
            List::Nobody => Vec::new(),
            List::CampusAchievements(campus) => {
                let all = &self.world.achievements;
                let ids = &self.world.campuses[campus].achievements;
                ids.iter().filter_map(|id| all.binary_search_by_key(id, |one| one.id).ok()).collect()
            }
        }
    }

    /// A page: the records at `places`, as a JSON array.
    pub fn page(&self, list: List, places: &[usize]) -> Vec<u8> {
        let size: usize = places.iter().map(|&at| self.size_bytes(list, at) + 1).sum();
        let mut out = Vec::with_capacity(size + 2);
        out.push(b'[');
        for (n, &at) in places.iter().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            self.record(list, at, &mut out);
        }
        out.push(b']');
        out
    }

    fn record(&self, list: List, at: usize, out: &mut Vec<u8>) {
        match list {
            List::Campuses => out.extend_from_slice(&self.campuses[at]),
            List::Achievements | List::CampusAchievements(_) => out.extend_from_slice(&self.achievements[at]),
            List::Coalitions => out.extend_from_slice(&self.coalitions[at]),
            List::Nobody => {}
            List::Projects => {
                let project = &self.projects[at];
                out.extend_from_slice(&project.head);
                for (n, &campus) in project.campuses.iter().enumerate() {
                    if n > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(&self.campuses[campus]);
                }
                out.extend_from_slice(&project.tail);
            }
        }
    }

    fn size_bytes(&self, list: List, at: usize) -> usize {
        match list {
            List::Campuses => self.campuses[at].len(),
            List::Achievements | List::CampusAchievements(_) => self.achievements[at].len(),
            List::Coalitions => self.coalitions[at].len(),
            List::Nobody => 0,
            List::Projects => {
                let project = &self.projects[at];
                let campuses: usize = project.campuses.iter().map(|&campus| self.campuses[campus].len() + 1).sum();
                project.head.len() + campuses + project.tail.len()
            }
        }
    }
}

fn bytes(value: &impl Json) -> Vec<u8> {
    let mut out = Vec::new();
    value.write(&mut out);
    out.shrink_to_fit();
    out
}

impl Json for Cursus {
    fn write(&self, out: &mut Vec<u8>) {
        Object::new(out)
            .field("id", self.id)
            .field("created_at", self.created_at)
            .field("name", &self.name)
            .field("slug", &self.slug)
            .field("kind", &self.kind)
            .end();
    }
}

impl Json for Language {
    fn write(&self, out: &mut Vec<u8>) {
        Object::new(out)
            .field("id", self.id)
            .field("name", self.name)
            .field("identifier", self.identifier)
            .field("created_at", Moment::utc(1_511_358_059_468))
            .field("updated_at", Moment::utc(1_763_100_000_139 + self.id * 1_000_003))
            .end();
    }
}

impl Json for Endpoint {
    fn write(&self, out: &mut Vec<u8>) {
        Object::new(out)
            .field("id", self.id)
            .field("url", &self.url)
            .field("description", &self.description)
            .field("created_at", self.created_at)
            .field("updated_at", self.updated_at)
            .end();
    }
}

impl Json for Campus {
    fn write(&self, out: &mut Vec<u8>) {
        Object::new(out)
            .field("id", self.id)
            .field("name", &self.name)
            .field("time_zone", &self.time_zone)
            .field("language", self.language)
            .field("users_count", self.users_count)
            .field("vogsphere_id", self.vogsphere_id)
            .field("country", &self.country)
            .field("address", &self.address)
            .field("zip", &self.zip)
            .field("city", &self.city)
            .field("website", &self.website)
            .field("facebook", &self.facebook)
            .field("twitter", &self.twitter)
            .field("active", self.active)
            .field("public", self.public)
            .field("email_extension", &self.email_extension)
            .field("default_hidden_phone", self.default_hidden_phone)
            .field("endpoint", self.endpoint.as_ref())
            .end();
    }
}

impl Json for Parent {
    fn write(&self, out: &mut Vec<u8>) {
        let url = format!("https://projects.intra.42.fr/{}/mine", self.slug);
        Object::new(out)
            .field("id", self.id)
            .field("name", &self.name)
            .field("slug", &self.slug)
            .field("url", url)
            .end();
    }
}

fn halves(project: &Project, cursus: &[u8], places: &BTreeMap<i64, usize>) -> Halves {
    let mut head = Vec::new();
    Object::new(&mut head)
        .field("id", project.id)
        .field("name", &project.name)
        .field("slug", &project.slug)
        .field("difficulty", project.difficulty)
        .field("parent", project.parent.as_ref())
        .field("children", Raw(b"[]"))
        .field("attachments", Raw(b"[]"))
        .field("created_at", project.created_at)
        .field("updated_at", project.updated_at)
        .field("exam", project.exam)
        .field("git_id", project.git_id)
        .field("repository", &project.repository)
        .field("recommendation", &project.recommendation)
        .field("cursus", &[Raw(cursus)][..])
        .field("campus", Raw(b"["));
    head.shrink_to_fit();
    let mut tail = b"],\"videos\":[],\"project_sessions\":".to_vec();
    project.sessions.write(&mut tail);
    tail.push(b'}');
    tail.shrink_to_fit();
    let campuses = project.campuses.iter().filter_map(|id| places.get(id).copied()).collect();
    Halves { head, campuses, tail }
}

impl Json for Scale {
    fn write(&self, out: &mut Vec<u8>) {
        let number = format!("{}{}", self.correction_halves / 2, [".0", ".5"][(self.correction_halves % 2) as usize]);
        Object::new(out)
            .field("id", self.id)
            .field("correction_number", Raw(number.trim_end_matches(".0").as_bytes()))
            .field("is_primary", self.is_primary)
            .end();
    }
}

impl Json for Upload {
    fn write(&self, out: &mut Vec<u8>) {
        Object::new(out).field("id", self.id).field("name", &self.name).end();
    }
}

impl Json for Session {
    fn write(&self, out: &mut Vec<u8>) {
        let mut object = Object::new(out)
            .field("id", self.id)
            .field("solo", self.solo)
            .field("begin_at", self.begin_at)
            .field("end_at", self.end_at)
            .field("estimate_time", &self.estimate_time)
            .field("difficulty", self.difficulty)
            .field("objectives", &self.objectives)
            .field("description", &self.description)
            .field("duration_days", self.duration_days)
            .field("terminating_after", &self.terminating_after)
            .field("project_id", self.project_id)
            .field("campus_id", self.campus_id)
            .field("cursus_id", self.cursus_id)
            .field("created_at", self.created_at)
            .field("updated_at", self.updated_at)
            .field("max_people", self.max_people)
            .field("is_subscriptable", self.is_subscriptable)
            .field("scales", &self.scales)
            .field("uploads", &self.uploads)
            .field("team_behaviour", &self.team_behaviour)
            .field("commit", &self.commit);
        if let Some(newer) = &self.newer {
            object = object
                .field("exam", newer.exam)
                .field("marked", newer.marked)
                .field("max_project_submissions", newer.max_project_submissions);
        }
        object.end();
    }
}

/// All achievements; each names its campuses, and the achievements that it is the parent of.
fn achievements(world: &World) -> Vec<Vec<u8>> {
    let all = &world.achievements;
    let place = |id: i64| all.binary_search_by_key(&id, |achievement| achievement.id).ok();
    let mut campuses: Vec<Vec<&str>> = vec![Vec::new(); all.len()];
    for campus in &world.campuses {
        for at in campus.achievements.iter().filter_map(|&id| place(id)) {
            campuses[at].push(&campus.name);
        }
    }
    let mut children: Vec<Vec<Relative>> = all.iter().map(|_| Vec::new()).collect();
    for child in all {
        if let Some(at) = child.parent_id.and_then(place) {
            children[at].push(Relative { id: child.id, name: &child.name });
        }
    }
    all.iter()
        .enumerate()
        .map(|(at, achievement)| {
            let parent = achievement.parent_id.map(|id| Relative {
                id,
                name: place(id).map_or("An achievement that nobody lists", |at| &all[at].name),
            });
            rendered_achievement(achievement, &children[at], &campuses[at], parent)
        })
        .collect()
}

/// An achievement inside another one.
struct Relative<'a> {
    id: i64,
    name: &'a str,
}

impl Json for Relative<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        Object::new(out).field("id", self.id).field("name", self.name).end();
    }
}

fn rendered_achievement(
    achievement: &Achievement,
    children: &[Relative<'_>],
    campuses: &[&str],
    parent: Option<Relative<'_>>,
) -> Vec<u8> {
    let mut out = Vec::new();
    Object::new(&mut out)
        .field("id", achievement.id)
        .field("name", &achievement.name)
        .field("description", &achievement.description)
        .field("tier", achievement.tier)
        .field("kind", achievement.kind)
        .field("visible", achievement.visible)
        .field("image", &achievement.image)
        .field("nbr_of_success", achievement.nbr_of_success)
        .field("users_url", achievement.users_url())
        .field("achievements", children)
        .field("campus", campuses)
        .field("parent", parent)
        .field("title", &achievement.title)
        .end();
    out.shrink_to_fit();
    out
}

impl Json for Coalition {
    fn write(&self, out: &mut Vec<u8>) {
        Object::new(out)
            .field("id", self.id)
            .field("name", &self.name)
            .field("slug", &self.slug)
            .field("image_url", &self.image_url)
            .field("cover_url", &self.cover_url)
            .field("color", &self.color)
            .field("score", self.score)
            .field("user_id", self.user_id)
            .end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::generate;

    #[test]
    fn every_page_is_json_and_weighs_what_the_real_ones_weigh() {
        let rendered = Rendered::new(generate::world(42, 1));
        let mut all_bytes = rendered.cursus().len();
        let mut page_bytes = 0;
        for list in [List::Campuses, List::Projects, List::Achievements, List::Coalitions] {
            for places in rendered.places(list).chunks(100) {
                let page = rendered.page(list, places);
                let records: Vec<serde_json::Value> = serde_json::from_slice(&page).unwrap_or_default();
                assert_eq!(records.len(), places.len(), "{list:?}");
                if list == List::Projects && places.len() == 100 {
                    page_bytes = page.len();
                }
                all_bytes += if list == List::Achievements { 0 } else { page.len() };
            }
        }
        for (at, campus) in rendered.world.campuses.iter().enumerate() {
            if campus.is_kept() {
                let list = List::CampusAchievements(at);
                all_bytes += rendered.page(list, &rendered.places(list)).len();
            }
        }
        assert!((4_000_000..5_200_000).contains(&page_bytes), "{page_bytes} bytes on a page of 100 projects");
        assert!((25_000_000..27_000_000).contains(&all_bytes), "{all_bytes} bytes in all");
    }
}
