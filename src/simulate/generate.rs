//! Day 0: the world of one seed, with exactly the counts of the mirror's first night.
//!
//! Every count is drawn first and adjusted until the sum is right, and only then filled with
//! records, so that no seed and no scale misses one. Nothing here iterates over a hash map.

use std::collections::BTreeSet;

use fastrand::Rng;

use crate::simulate::data::{
    Achievement, Amount, Campus, Coalition, Cursus, Endpoint, Moment, Newer, Parent, Project, Scale, Session, Upload,
    World,
};
use crate::simulate::words::{
    ACHIEVEMENT_KINDS, CITIES, FEATS, GOALS, LANGUAGES, NASTY, SENTENCES, SUBJECTS, TEAM_BEHAVIOURS, TIERS, TITLES,
    TRIBES, UPLOADS,
};

/// The counts at scale 1; a scale multiplies all but the two that describe one campus's list.
pub const CAMPUSES: usize = 64;
pub const KEPT_CAMPUSES: usize = 54;
pub const PROJECTS: usize = 533;
pub const KEPT_PROJECTS: usize = 519;
pub const LINKS: usize = 24_195;
pub const KEPT_LINKS: usize = 20_937;
pub const SESSIONS: usize = 7_287;
pub const KEPT_SESSIONS: usize = 7_256;
pub const KEPT_ACHIEVEMENTS: usize = 1_042;
pub const KEPT_CAMPUS_ACHIEVEMENTS: usize = 5_495;
/// Kept campuses whose achievements need a second page of 100.
pub const LONG_LISTS: usize = 28;
pub const COALITIONS: usize = 350;
/// Achievements that only dropped campuses have.
const OTHER_ACHIEVEMENTS: usize = 41;

/// 2017-01-01 and 2025-12-01: when records of day 0 were made.
const FIRST_MS: i64 = 1_483_228_800_000;
const LAST_MS: i64 = 1_764_547_200_000;
pub const DAY_MS: i64 = 86_400_000;

/// A generator for one part of the data, so that a change in one part leaves the others alone.
pub fn rng_for(seed: u64, part: &str, day: u32) -> Rng {
    let mut state = seed ^ (u64::from(day) << 32) ^ 0x9e37_79b9_7f4a_7c15;
    for byte in part.bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    Rng::with_seed(state)
}

/// The world of day 0.
pub fn world(seed: u64, scale: usize) -> World {
    let mut world = World {
        seed,
        scale,
        day: 0,
        cursus: Cursus {
            id: 21,
            created_at: Moment::utc(1_564_389_917_896),
            name: "42cursus".to_owned(),
            slug: "42cursus".to_owned(),
            kind: "main".to_owned(),
        },
        campuses: campuses(&mut rng_for(seed, "campuses", 0), scale),
        projects: Vec::new(),
        achievements: Vec::new(),
        coalitions: coalitions(&mut rng_for(seed, "coalitions", 0), scale),
        last_session_id: 0,
    };
    world.achievements = achievements(&mut rng_for(seed, "achievements", 0), scale);
    award(&mut rng_for(seed, "awards", 0), &mut world);
    world.projects = projects(&mut rng_for(seed, "projects", 0), &world);
    fill_sessions(&mut rng_for(seed, "sessions", 0), &mut world);
    world
}

/// How a campus falls short of the mirror's rule; `None` is one that is kept.
fn shortfall(at: usize) -> Option<(bool, bool, i64)> {
    match at % CAMPUSES {
        7 => Some((true, true, 0)),
        15 => Some((true, true, 1)),
        21 => Some((true, true, 2)),
        30 => Some((false, true, 1204)),
        33 => Some((true, true, 0)),
        39 => Some((true, false, 57)),
        45 => Some((false, false, 3)),
        51 => Some((true, true, 2)),
        57 => Some((false, true, 0)),
        63 => Some((true, false, 2)),
        _ => None,
    }
}

fn campuses(rng: &mut Rng, scale: usize) -> Vec<Campus> {
    (0..CAMPUSES * scale)
        .map(|at| {
            // Ids leave gaps, as ids do.
            let mut campus = campus(rng, 1 + at as i64 + at as i64 / 7, at);
            if let Some((active, public, users_count)) = shortfall(at) {
                (campus.active, campus.public, campus.users_count) = (active, public, users_count);
            } else if at % CAMPUSES == 3 {
                campus.users_count = 3;
            }
            campus
        })
        .collect()
}

/// A campus that the mirror keeps, without achievements yet.
pub fn campus(rng: &mut Rng, id: i64, at: usize) -> Campus {
    let (city, country, time_zone, language) = CITIES[at % CITIES.len()];
    let round = at / CITIES.len();
    let name = if round == 0 { city.to_owned() } else { format!("{city} {}", round + 1) };
    let site = format!("42-{id}.example");
    let created_at = moment(rng);
    Campus {
        id,
        time_zone: time_zone.to_owned(),
        language: (at % 29 != 11).then(|| &LANGUAGES[language]),
        users_count: rng.i64(4..23_000),
        vogsphere_id: rng.bool().then(|| rng.i64(1..90)),
        country: country.to_owned(),
        address: if rng.u8(..4) == 0 { nasty(rng) } else { format!("{}, rue Bessières & Söhne", rng.u16(1..400)) },
        zip: format!("{:05}", rng.u32(..100_000)),
        city: city.to_owned(),
        website: seldom_null(rng, format!("https://www.{site}/")),
        facebook: seldom_null(rng, format!("https://facebook.com/{}", id * 42)),
        twitter: seldom_null(rng, format!("https://twitter.com/42_{id}")),
        active: true,
        public: true,
        email_extension: seldom_null(rng, format!("student.{site}")),
        default_hidden_phone: rng.bool(),
        endpoint: rng.bool().then(|| Endpoint {
            id: id + 30,
            url: format!("https://endpoint.{site}"),
            description: format!("{name}'s new ldapkdc endpoint"),
            created_at,
            updated_at: Moment::utc(created_at.unix_ms + rng.i64(0..DAY_MS * 90)),
        }),
        name,
        achievements: Vec::new(),
    }
}

fn achievements(rng: &mut Rng, scale: usize) -> Vec<Achievement> {
    let count = (KEPT_ACHIEVEMENTS + OTHER_ACHIEVEMENTS) * scale;
    (0..count).map(|at| achievement(rng, 1 + 2 * at as i64 + at as i64 / 5)).collect()
}

pub fn achievement(rng: &mut Rng, id: i64) -> Achievement {
    let name = match rng.u8(..12) {
        0 => nasty(rng),
        _ => format!("{} {}", pick(rng, &FEATS), id % 90 + 1),
    };
    Achievement {
        id,
        name,
        description: if rng.u8(..9) == 0 { String::new() } else { prose(rng, 1) },
        tier: pick(rng, &TIERS),
        kind: pick(rng, &ACHIEVEMENT_KINDS),
        visible: rng.u8(..10) > 0,
        image: (rng.u8(..20) > 0).then(|| format!("/uploads/achievement/image/{id}/SCO{:03}.svg", rng.u16(..400))),
        nbr_of_success: (rng.u8(..5) > 0).then(|| rng.i64(0..4000)),
        parent_id: (id > 40 && rng.u8(..7) == 0).then(|| rng.i64(1..id)),
        title: (rng.u8(..15) == 0).then(|| pick(rng, &TITLES).to_owned()),
    }
}

/// Gives each campus its achievements: exact sizes, and every achievement won somewhere.
fn award(rng: &mut Rng, world: &mut World) {
    let mut ids: Vec<i64> = world.achievements.iter().map(|achievement| achievement.id).collect();
    rng.shuffle(&mut ids);
    let others = ids.split_off(KEPT_ACHIEVEMENTS * world.scale);
    let (kept, dropped): (Vec<usize>, Vec<usize>) =
        (0..world.campuses.len()).partition(|&at| world.campuses[at].is_kept());

    // The long lists first, then the short ones; the shuffle decides which campus has which.
    let long = LONG_LISTS * world.scale;
    let long_sum = (KEPT_CAMPUS_ACHIEVEMENTS * world.scale) * 63 / 100;
    let short_sum = KEPT_CAMPUS_ACHIEVEMENTS * world.scale - long_sum;
    let mut sizes = parts(rng, &vec![(101, 164); long], long_sum);
    sizes.extend(parts(rng, &vec![(56, 100); kept.len() - long], short_sum));
    rng.shuffle(&mut sizes);

    let mut sets: Vec<BTreeSet<i64>> = vec![BTreeSet::new(); kept.len()];
    let mut turn = 0;
    for &id in &ids {
        while sets[turn % kept.len()].len() >= sizes[turn % kept.len()] {
            turn += 1;
        }
        sets[turn % kept.len()].insert(id);
        turn += 1;
    }
    for ((set, &size), &at) in sets.iter_mut().zip(&sizes).zip(&kept) {
        while set.len() < size {
            set.insert(common(rng, &ids));
        }
        world.campuses[at].achievements = set.iter().copied().collect();
    }
    for (n, &at) in dropped.iter().enumerate() {
        let mut set: BTreeSet<i64> = others.iter().copied().skip(n).step_by(dropped.len()).collect();
        for _ in 0..rng.usize(0..130) {
            set.insert(common(rng, &ids));
        }
        world.campuses[at].achievements = set.into_iter().collect();
    }
}

/// An id, the first ones more often than the last: a few achievements are won everywhere.
fn common(rng: &mut Rng, ids: &[i64]) -> i64 {
    let range = if rng.bool() { ids.len().div_ceil(6) } else { ids.len() };
    ids[rng.usize(..range)]
}

fn projects(rng: &mut Rng, world: &World) -> Vec<Project> {
    let (count, scale) = (PROJECTS * world.scale, world.scale);
    let kept: Vec<i64> = world.campuses.iter().filter(|campus| campus.is_kept()).map(|campus| campus.id).collect();
    let dropped: Vec<i64> = world.campuses.iter().filter(|campus| !campus.is_kept()).map(|campus| campus.id).collect();
    let is_dropped = |at: usize| at % PROJECTS % 38 == 37; // 14 of 533

    let kept_bounds: Vec<(usize, usize)> =
        (0..count).map(|at| if is_dropped(at) { (0, 0) } else { (1, KEPT_CAMPUSES) }).collect();
    // One project is offered nowhere at all.
    let dropped_bounds: Vec<(usize, usize)> =
        (0..count).map(|at| if at % PROJECTS == 37 { (0, 0) } else { (0, CAMPUSES - KEPT_CAMPUSES) }).collect();
    let kept_counts = parts(rng, &kept_bounds, KEPT_LINKS * scale);
    let dropped_counts = parts(rng, &dropped_bounds, (LINKS - KEPT_LINKS) * scale);

    let mut projects: Vec<Project> = Vec::with_capacity(count);
    for at in 0..count {
        let id = 1 + 4 * at as i64 + rng.i64(0..3);
        let mut project = project(rng, id, &projects);
        project.campuses = sample(rng, &kept, kept_counts[at]);
        project.campuses.extend(sample(rng, &dropped, dropped_counts[at]));
        rng.shuffle(&mut project.campuses);
        projects.push(project);
    }
    projects
}

/// A project without campuses and sessions yet; its parent is one of `earlier`, or never listed.
pub fn project(rng: &mut Rng, id: i64, earlier: &[Project]) -> Project {
    let name = if rng.u8(..14) == 0 { nasty(rng) } else { format!("{} {:02}", pick(rng, &SUBJECTS), id % 100) };
    let parent = match (rng.u8(..6), earlier) {
        (0, [_, ..]) => {
            let parent = &earlier[rng.usize(..earlier.len())];
            Some(Parent {
                id: parent.id,
                name: parent.name.clone(),
                slug: parent.slug.clone().unwrap_or_else(|| format!("project-{}", parent.id)),
            })
        }
        (1, _) => {
            let id = 1_000_000 + rng.i64(0..400);
            Some(Parent { id, name: format!("Retired {id}"), slug: format!("retired-{id}") })
        }
        _ => None,
    };
    let created_at = moment(rng);
    Project {
        id,
        slug: (rng.u8(..16) > 0).then(|| format!("42cursus-project-{id}")),
        name,
        difficulty: (rng.u8(..5) > 0).then(|| rng.i64(0..400) * 105),
        parent,
        exam: rng.u8(..12) == 0,
        git_id: rng.bool().then(|| rng.i64(100..90_000)),
        repository: rng.bool().then(|| format!("vogsphere/pedago/{id}.git")),
        recommendation: match rng.u8(..6) {
            0 => Some(String::new()),
            1 => Some(nasty(rng)),
            2 => Some(prose(rng, 1)),
            _ => None,
        },
        created_at,
        updated_at: Moment::utc(created_at.unix_ms + rng.i64(0..DAY_MS * 300)),
        campuses: Vec::new(),
        sessions: Vec::new(),
    }
}

fn fill_sessions(rng: &mut Rng, world: &mut World) {
    let kept: Vec<bool> = world.projects.iter().map(|project| world.is_kept_project(project)).collect();
    let per_kept: Vec<(usize, usize)> = kept.iter().map(|&kept| if kept { (0, 28) } else { (0, 0) }).collect();
    let per_dropped: Vec<(usize, usize)> = kept.iter().map(|&kept| if kept { (0, 0) } else { (0, 8) }).collect();
    let kept_counts = parts(rng, &per_kept, KEPT_SESSIONS * world.scale);
    let dropped_counts = parts(rng, &per_dropped, (SESSIONS - KEPT_SESSIONS) * world.scale);

    let campus_ids: Vec<i64> = world.campuses.iter().map(|campus| campus.id).collect();
    let mut ids: Vec<i64> = (0..(SESSIONS * world.scale) as i64).map(|n| 1 + 3 * n + n % 2).collect();
    world.last_session_id = ids.last().copied().unwrap_or(0);
    rng.shuffle(&mut ids);
    for (at, project) in world.projects.iter_mut().enumerate() {
        for id in ids.split_off(ids.len() - kept_counts[at] - dropped_counts[at]) {
            project.sessions.push(session(rng, id, project.id, &campus_ids));
        }
    }
}

/// A session of `project_id`, for every campus or one of `campus_ids`, kept or not.
pub fn session(rng: &mut Rng, id: i64, project_id: i64, campus_ids: &[i64]) -> Session {
    let created_at = moment(rng);
    Session {
        id,
        solo: rng.bool(),
        begin_at: (rng.u8(..4) == 0).then(|| zoned(rng)),
        end_at: (rng.u8(..4) == 0).then(|| zoned(rng)),
        estimate_time: match rng.u8(..3) {
            0 => Amount::Text(format!("{} days", rng.u8(1..90))),
            1 => Amount::Number(rng.i64(1..90) * 86_400),
            _ => Amount::Nothing,
        },
        difficulty: (rng.u8(..8) > 0).then(|| rng.i64(0..500) * 100),
        objectives: (0..rng.usize(0..4)).map(|_| phrase(rng, &GOALS)).collect(),
        description: match rng.u8(..12) {
            0 => None,
            1 => Some(String::new()),
            2..5 => Some(nasty(rng) + " " + &prose(rng, 12)),
            _ => Some(prose(rng, 14)),
        },
        duration_days: (rng.u8(..4) == 0).then(|| rng.i64(1..200)),
        terminating_after: match rng.u8(..9) {
            0 | 1 => Amount::Text(format!("{} days", rng.u8(1..200))),
            2 => Amount::Number(rng.i64(1..200) * 86_400),
            _ => Amount::Nothing,
        },
        project_id,
        campus_id: (rng.u8(..6) > 0).then(|| campus_ids[rng.usize(..campus_ids.len())]),
        cursus_id: [Some(21), Some(21), Some(1), None][rng.usize(..4)],
        created_at,
        updated_at: Moment::utc(created_at.unix_ms + rng.i64(0..DAY_MS * 300)),
        max_people: (rng.u8(..3) == 0).then(|| rng.i64(1..6)),
        is_subscriptable: rng.bool(),
        scales: scales(rng, id),
        uploads: uploads(rng, id),
        team_behaviour: pick(rng, &TEAM_BEHAVIOURS).to_owned(),
        commit: (rng.u8(..3) == 0).then(|| format!("{:016x}{:016x}{:08x}", rng.u64(..), rng.u64(..), rng.u32(..))),
        newer: rng.bool().then(|| Newer {
            exam: (rng.u8(..3) > 0).then(|| rng.bool()),
            marked: rng.bool(),
            max_project_submissions: rng.bool().then(|| rng.i64(1..10)),
        }),
    }
}

fn scales(rng: &mut Rng, session_id: i64) -> Vec<Scale> {
    (0..rng.i64(0..4))
        .map(|n| Scale {
            id: session_id * 4 + n,
            correction_halves: if rng.u8(..30) == 0 { 5 } else { rng.i64(1..6) * 2 },
            is_primary: n == 0,
        })
        .collect()
}

fn uploads(rng: &mut Rng, session_id: i64) -> Vec<Upload> {
    (0..rng.i64(0..3))
        .map(|n| Upload {
            id: if rng.u16(..400) == 0 { 9_007_199_254_740_993 } else { session_id * 2 + n },
            name: phrase(rng, &UPLOADS),
        })
        .collect()
}

fn coalitions(rng: &mut Rng, scale: usize) -> Vec<Coalition> {
    let mut list: Vec<Coalition> =
        (0..(COALITIONS * scale) as i64).map(|at| coalition(rng, at + 2 + at / 10)).collect();
    for coalition in &mut list {
        match coalition.id {
            10 | 11 => (coalition.name, coalition.slug) = ("Analysts".to_owned(), "analysts".to_owned()),
            20 => coalition.score = 9_007_199_254_740_993,
            21 => coalition.score = i64::MAX,
            30 => coalition.score = -120,
            _ => {}
        }
    }
    list
}

pub fn coalition(rng: &mut Rng, id: i64) -> Coalition {
    let name = if rng.u8(..10) == 0 { nasty(rng) } else { format!("{} {id}", pick(rng, &TRIBES)) };
    Coalition {
        id,
        name,
        slug: format!("coalition-{id}"),
        image_url: (rng.u8(..9) > 0).then(|| format!("https://cdn.intra.42.fr/coalition/image/{id}/logo_{id}.svg")),
        cover_url: (rng.u8(..4) > 0).then(|| format!("https://cdn.intra.42.fr/coalition/cover/{id}/cover__1_.jpg")),
        color: format!("#{:06X}", rng.u32(..0x100_0000)),
        score: rng.i64(0..200_000),
        user_id: (rng.u8(..8) > 0).then(|| rng.i64(20_000..250_000)),
    }
}

/// Whole numbers within their bounds, drawn towards the upper end, that add up to `total`.
fn parts(rng: &mut Rng, bounds: &[(usize, usize)], total: usize) -> Vec<usize> {
    let mut parts: Vec<usize> = bounds.iter().map(|&(low, high)| rng.usize(low..=high)).collect();
    let mut sum: usize = parts.iter().sum();
    let (least, most) = bounds.iter().fold((0, 0), |(least, most), bound| (least + bound.0, most + bound.1));
    assert!((least..=most).contains(&total), "no parts within their bounds add up to {total}");
    while sum != total {
        let at = rng.usize(..parts.len());
        let (low, high) = bounds[at];
        if sum < total && parts[at] < high {
            parts[at] += 1;
            sum += 1;
        } else if sum > total && parts[at] > low {
            parts[at] -= 1;
            sum -= 1;
        }
    }
    parts
}

/// `count` different members of `all`, in no order.
pub fn sample(rng: &mut Rng, all: &[i64], count: usize) -> Vec<i64> {
    rng.choose_multiple(all.iter().copied(), count)
}

pub fn pick(rng: &mut Rng, from: &[&'static str]) -> &'static str {
    from[rng.usize(..from.len())]
}

pub fn nasty(rng: &mut Rng) -> String {
    pick(rng, &NASTY).to_owned()
}

fn phrase(rng: &mut Rng, from: &[&'static str]) -> String {
    if rng.u8(..20) == 0 { nasty(rng) } else { pick(rng, from).to_owned() }
}

/// Up to `most` sentences.
fn prose(rng: &mut Rng, most: usize) -> String {
    let mut text = String::new();
    for n in 0..rng.usize(1..=most) {
        if n > 0 {
            text.push(' ');
        }
        text.push_str(pick(rng, &SENTENCES));
    }
    text
}

fn seldom_null(rng: &mut Rng, text: String) -> Option<String> {
    match rng.u8(..10) {
        0 => None,
        1 | 2 => Some(String::new()),
        _ => Some(text),
    }
}

pub fn moment(rng: &mut Rng) -> Moment {
    Moment::utc(rng.i64(FIRST_MS..LAST_MS))
}

/// A moment that a few times carries an offset, and then often a whole hour.
pub fn zoned(rng: &mut Rng) -> Moment {
    let at = moment(rng);
    match rng.u8(..12) {
        0 => Moment { unix_ms: at.unix_ms / DAY_MS * DAY_MS + DAY_MS * 900, offset_hours: 8 },
        1 => Moment { unix_ms: at.unix_ms, offset_hours: -5 },
        _ => at,
    }
}
