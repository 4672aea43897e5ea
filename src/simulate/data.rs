//! The synthetic world behind the API: plain structs, every list ordered by id.
//!
//! What the API shows of them is in [`super::render`], what the mirror must hold in
//! [`super::oracle`], and how they change from day to day in [`super::days`].

use crate::simulate::json::Json;

/// Everything the API can show on one day.
#[derive(Clone, Debug)]
pub struct World {
    pub seed: u64,
    pub scale: usize,
    pub day: u32,
    pub cursus: Cursus,
    pub campuses: Vec<Campus>,
    pub projects: Vec<Project>,
    pub achievements: Vec<Achievement>,
    pub coalitions: Vec<Coalition>,
    /// The highest session id ever given, so that no id is given twice.
    pub last_session_id: i64,
}

impl World {
    pub fn campus(&self, id: i64) -> Option<&Campus> {
        self.campuses.binary_search_by_key(&id, |campus| campus.id).ok().map(|at| &self.campuses[at])
    }

    pub fn is_kept_campus(&self, id: i64) -> bool {
        self.campus(id).is_some_and(Campus::is_kept)
    }

    /// The mirror keeps a project that is offered on at least one kept campus.
    pub fn is_kept_project(&self, project: &Project) -> bool {
        project.campuses.iter().any(|&id| self.is_kept_campus(id))
    }
}

#[derive(Clone, Debug)]
pub struct Cursus {
    pub id: i64,
    pub created_at: Moment,
    pub name: String,
    pub slug: String,
    pub kind: String,
}

#[derive(Clone, Debug)]
pub struct Campus {
    pub id: i64,
    pub name: String,
    pub time_zone: String,
    pub language: Option<&'static Language>,
    pub users_count: i64,
    pub vogsphere_id: Option<i64>,
    pub country: String,
    pub address: String,
    pub zip: String,
    pub city: String,
    pub website: Option<String>,
    pub facebook: Option<String>,
    pub twitter: Option<String>,
    pub active: bool,
    pub public: bool,
    pub email_extension: Option<String>,
    pub default_hidden_phone: bool,
    pub endpoint: Option<Endpoint>,
    /// Ids of the achievements that can be won here, ascending.
    pub achievements: Vec<i64>,
}

impl Campus {
    /// The rule of the mirror: active, public, three users or more.
    pub fn is_kept(&self) -> bool {
        self.active && self.public && self.users_count >= 3
    }
}

#[derive(Debug)]
pub struct Language {
    pub id: i64,
    pub name: &'static str,
    pub identifier: &'static str,
}

#[derive(Clone, Debug)]
pub struct Endpoint {
    pub id: i64,
    pub url: String,
    pub description: String,
    pub created_at: Moment,
    pub updated_at: Moment,
}

#[derive(Clone, Debug)]
pub struct Project {
    pub id: i64,
    pub name: String,
    pub slug: Option<String>,
    pub difficulty: Option<i64>,
    pub parent: Option<Parent>,
    pub exam: bool,
    pub git_id: Option<i64>,
    pub repository: Option<String>,
    pub recommendation: Option<String>,
    pub created_at: Moment,
    pub updated_at: Moment,
    /// Ids of the campuses that offer it, in the API's own (arbitrary) order.
    pub campuses: Vec<i64>,
    pub sessions: Vec<Session>,
}

/// The project that a project belongs to; it may be one that the API never lists.
#[derive(Clone, Debug)]
pub struct Parent {
    pub id: i64,
    pub name: String,
    pub slug: String,
}

#[derive(Clone, Debug)]
pub struct Session {
    pub id: i64,
    pub solo: bool,
    pub begin_at: Option<Moment>,
    pub end_at: Option<Moment>,
    pub estimate_time: Amount,
    pub difficulty: Option<i64>,
    pub objectives: Vec<String>,
    pub description: Option<String>,
    pub duration_days: Option<i64>,
    pub terminating_after: Amount,
    pub project_id: i64,
    pub campus_id: Option<i64>,
    pub cursus_id: Option<i64>,
    pub created_at: Moment,
    pub updated_at: Moment,
    pub max_people: Option<i64>,
    pub is_subscriptable: bool,
    pub scales: Vec<Scale>,
    pub uploads: Vec<Upload>,
    pub team_behaviour: String,
    pub commit: Option<String>,
    /// Newer answers carry these keys, older ones lack them.
    pub newer: Option<Newer>,
}

#[derive(Clone, Debug)]
pub struct Newer {
    pub exam: Option<bool>,
    pub marked: bool,
    pub max_project_submissions: Option<i64>,
}

#[derive(Clone, Debug)]
pub struct Scale {
    pub id: i64,
    /// In halves, so that some are decimals: columns of type jsonb may hold them.
    pub correction_halves: i64,
    pub is_primary: bool,
}

#[derive(Clone, Debug)]
pub struct Upload {
    pub id: i64,
    pub name: String,
}

#[derive(Clone, Debug)]
pub struct Achievement {
    pub id: i64,
    pub name: String,
    pub description: String,
    pub tier: &'static str,
    pub kind: &'static str,
    pub visible: bool,
    pub image: Option<String>,
    pub nbr_of_success: Option<i64>,
    pub parent_id: Option<i64>,
    pub title: Option<String>,
}

impl Achievement {
    pub fn users_url(&self) -> String {
        format!("https://api.intra.42.fr/v2/achievements/{}/users", self.id)
    }
}

#[derive(Clone, Debug)]
pub struct Coalition {
    pub id: i64,
    pub name: String,
    pub slug: String,
    pub image_url: Option<String>,
    pub cover_url: Option<String>,
    pub color: String,
    pub score: i64,
    pub user_id: Option<i64>,
}

/// What the API gives sometimes as text ("7 days"), sometimes as a number of seconds.
#[derive(Clone, Debug)]
pub enum Amount {
    Nothing,
    Text(String),
    Number(i64),
}

impl Json for Amount {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Amount::Nothing => out.extend_from_slice(b"null"),
            Amount::Text(text) => text.write(out),
            Amount::Number(number) => number.write(out),
        }
    }
}

/// A point in time as the API writes it: milliseconds, in UTC or with an offset of whole hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub unix_ms: i64,
    pub offset_hours: i8,
}

impl Moment {
    pub const fn utc(unix_ms: i64) -> Moment {
        Moment { unix_ms, offset_hours: 0 }
    }

    /// ISO 8601 with milliseconds, such as `2017-11-22T13:41:00.750Z`.
    pub fn text(self) -> String {
        let mut out = Vec::with_capacity(29);
        self.push(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Digit by digit, without `format!`: exports of ten million rows have fifteen million moments.
    fn push(self, out: &mut Vec<u8>) {
        let local_ms = self.unix_ms + i64::from(self.offset_hours) * 3_600_000;
        let (days, ms) = (local_ms.div_euclid(86_400_000), local_ms.rem_euclid(86_400_000));
        let (year, month, day) = civil(days);
        let (seconds, ms) = (ms / 1000, ms % 1000);
        push_digits(out, year, 4);
        let rest =
            [(b'-', month), (b'-', day), (b'T', seconds / 3600), (b':', seconds / 60 % 60), (b':', seconds % 60)];
        for (separator, number) in rest {
            out.push(separator);
            push_digits(out, number, 2);
        }
        out.push(b'.');
        push_digits(out, ms, 3);
        if self.offset_hours == 0 {
            return out.push(b'Z');
        }
        out.push(if self.offset_hours > 0 { b'+' } else { b'-' });
        push_digits(out, i64::from(self.offset_hours).abs(), 2);
        out.extend_from_slice(b":00");
    }
}

/// `number` in so many digits.
fn push_digits(out: &mut Vec<u8>, mut number: i64, digits: usize) {
    let start = out.len();
    out.resize(start + digits, b'0');
    for digit in out[start..].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

impl Json for Moment {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'"');
        self.push(out);
        out.push(b'"');
    }
}

/// Year, month and day of a day counted from 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_the_api_writes_them() {
        assert_eq!(Moment::utc(1_511_358_060_750).text(), "2017-11-22T13:41:00.750Z");
        assert_eq!(Moment { unix_ms: 1_847_548_800_000, offset_hours: 8 }.text(), "2028-07-19T00:00:00.000+08:00");
        assert_eq!(Moment { unix_ms: 951_868_800_000, offset_hours: -5 }.text(), "2000-02-29T19:00:00.000-05:00");
        assert_eq!(Moment::utc(-1).text(), "1969-12-31T23:59:59.999Z");
    }
}
