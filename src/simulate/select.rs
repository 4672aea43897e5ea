//! Which records an index shows, and in which order: filters, ranges and sorting.

use std::borrow::Cow;

use crate::simulate::data::World;
use crate::simulate::json;
use crate::simulate::query::Query;
use crate::simulate::render::{List, Rendered};

/// A field of a record, as filters and sorting see it. Null comes before everything else.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Value<'a> {
    Null,
    Flag(bool),
    Number(i64),
    Text(Cow<'a, str>),
}

/// A request that the API refuses with 400: the error's name and its message.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub error: &'static str,
    pub message: String,
}

/// The places of the records that match `query`, in its order.
pub fn select(rendered: &Rendered, list: List, query: &Query) -> Result<Vec<usize>, Refusal> {
    let world = &rendered.world;
    let mut places = rendered.places(list);
    if list == List::Coalitions {
        places.reverse(); // the newest first
    }
    for (field, values) in query.fields("filter") {
        known("Filter Error", "filter", filters(list), field)?;
        let wanted: Vec<&str> = values.split(',').collect();
        places.retain(|&at| matches(&value(world, list, at, field), &wanted));
    }
    for (field, bounds) in query.fields("range") {
        known("Range Error", "range", sorts(list), field)?;
        let Some((low, high)) = bounds.split_once(',') else {
            let message = format!("The range of {field} needs two bounds, separated by a comma");
            return Err(Refusal { error: "Range Error", message });
        };
        places.retain(|&at| is_within(&value(world, list, at, field), low, high));
    }
    if let Some(sort) = query.get("sort").filter(|sort| !sort.is_empty()) {
        // Stable sorts from the last key to the first; ties end in the order of ids.
        places.sort_unstable();
        for key in sort.split(',').rev() {
            let (field, falls) = key.strip_prefix('-').map_or((key, false), |field| (field, true));
            known("Sort Error", "sort", sorts(list), field)?;
            places.sort_by(|&a, &b| {
                let order = value(world, list, a, field).cmp(&value(world, list, b, field));
                if falls { order.reverse() } else { order }
            });
        }
    }
    Ok(places)
}

fn known(error: &'static str, verb: &str, fields: &[&str], field: &str) -> Result<(), Refusal> {
    if fields.contains(&field) {
        return Ok(());
    }
    let message =
        format!("Attributes {field} doesn't exists. You can only {verb} on: {}", json::text(fields).replace(',', ", "));
    Err(Refusal { error, message })
}

fn filters(list: List) -> &'static [&'static str] {
    match list {
        List::Campuses => &[
            "id",
            "name",
            "time_zone",
            "language_id",
            "users_count",
            "vogsphere_id",
            "country",
            "zip",
            "city",
            "website",
            "active",
            "public",
            "email_extension",
            "default_hidden_phone",
        ],
        List::Projects => {
            &["id", "name", "slug", "difficulty", "parent_id", "exam", "git_id", "created_at", "updated_at"]
        }
        List::Achievements | List::CampusAchievements(_) => {
            &["id", "name", "tier", "kind", "visible", "nbr_of_success", "parent_id", "title"]
        }
        List::Coalitions => &["id", "name", "slug", "color", "score", "user_id"],
        List::Nobody => &[
            "id",
            "kind",
            "active",
            "user_id",
            "cursus_id",
            "campus_id",
            "project_id",
            "achievement_id",
            "coalition_id",
            "created_at",
            "updated_at",
        ],
    }
}

/// Not every field that filters also sorts.
fn sorts(list: List) -> &'static [&'static str] {
    match list {
        List::Campuses => &["id", "name", "users_count", "country", "city"],
        List::Projects => &["id", "name", "slug", "difficulty", "created_at", "updated_at"],
        List::Achievements | List::CampusAchievements(_) => &["id", "name", "tier", "kind", "nbr_of_success"],
        List::Coalitions => &["id", "name", "slug", "score"],
        List::Nobody => &["id", "created_at", "updated_at"],
    }
}

fn value<'a>(world: &'a World, list: List, at: usize, field: &str) -> Value<'a> {
    match list {
        List::Campuses => campus(world, at, field),
        List::Projects => project(world, at, field),
        List::Achievements | List::CampusAchievements(_) => achievement(world, at, field),
        List::Coalitions => coalition(world, at, field),
        List::Nobody => Value::Null,
    }
}

fn campus<'a>(world: &'a World, at: usize, field: &str) -> Value<'a> {
    let campus = &world.campuses[at];
    match field {
        "id" => Value::Number(campus.id),
        "name" => text(&campus.name),
        "time_zone" => text(&campus.time_zone),
        "language_id" => number(campus.language.map(|language| language.id)),
        "users_count" => Value::Number(campus.users_count),
        "vogsphere_id" => number(campus.vogsphere_id),
        "country" => text(&campus.country),
        "zip" => text(&campus.zip),
        "city" => text(&campus.city),
        "website" => some_text(campus.website.as_deref()),
        "active" => Value::Flag(campus.active),
        "public" => Value::Flag(campus.public),
        "email_extension" => some_text(campus.email_extension.as_deref()),
        "default_hidden_phone" => Value::Flag(campus.default_hidden_phone),
        _ => Value::Null,
    }
}

fn project<'a>(world: &'a World, at: usize, field: &str) -> Value<'a> {
    let project = &world.projects[at];
    match field {
        "id" => Value::Number(project.id),
        "name" => text(&project.name),
        "slug" => some_text(project.slug.as_deref()),
        "difficulty" => number(project.difficulty),
        "parent_id" => number(project.parent.as_ref().map(|parent| parent.id)),
        "exam" => Value::Flag(project.exam),
        "git_id" => number(project.git_id),
        "created_at" => Value::Text(project.created_at.text().into()),
        "updated_at" => Value::Text(project.updated_at.text().into()),
        _ => Value::Null,
    }
}

fn achievement<'a>(world: &'a World, at: usize, field: &str) -> Value<'a> {
    let achievement = &world.achievements[at];
    match field {
        "id" => Value::Number(achievement.id),
        "name" => text(&achievement.name),
        "tier" => text(achievement.tier),
        "kind" => text(achievement.kind),
        "visible" => Value::Flag(achievement.visible),
        "nbr_of_success" => number(achievement.nbr_of_success),
        "parent_id" => number(achievement.parent_id),
        "title" => some_text(achievement.title.as_deref()),
        _ => Value::Null,
    }
}

fn coalition<'a>(world: &'a World, at: usize, field: &str) -> Value<'a> {
    let coalition = &world.coalitions[at];
    match field {
        "id" => Value::Number(coalition.id),
        "name" => text(&coalition.name),
        "slug" => text(&coalition.slug),
        "color" => text(&coalition.color),
        "score" => Value::Number(coalition.score),
        "user_id" => number(coalition.user_id),
        _ => Value::Null,
    }
}

fn text(text: &str) -> Value<'_> {
    Value::Text(Cow::Borrowed(text))
}

fn some_text(value: Option<&str>) -> Value<'_> {
    value.map_or(Value::Null, text)
}

fn number(value: Option<i64>) -> Value<'static> {
    value.map_or(Value::Null, Value::Number)
}

fn matches(value: &Value<'_>, wanted: &[&str]) -> bool {
    wanted.iter().any(|&wanted| match value {
        Value::Null => wanted.is_empty(),
        Value::Flag(flag) => *flag == matches!(wanted, "true" | "t" | "1"),
        Value::Number(number) => wanted.parse() == Ok(*number),
        Value::Text(text) => text == wanted,
    })
}

fn is_within(value: &Value<'_>, low: &str, high: &str) -> bool {
    match value {
        Value::Number(number) => {
            low.parse().is_ok_and(|low: i64| low <= *number) && high.parse().is_ok_and(|high: i64| *number <= high)
        }
        // Times all have the same form, so that they compare as text.
        Value::Text(text) => low <= text.as_ref() && text.as_ref() <= high,
        Value::Null | Value::Flag(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::generate;

    fn ids(list: List, raw: &str) -> Result<Vec<i64>, Refusal> {
        let rendered = Rendered::new(generate::world(42, 1));
        let places = select(&rendered, list, &Query::parse(raw))?;
        Ok(places
            .into_iter()
            .map(|at| match value(&rendered.world, list, at, "id") {
                Value::Number(id) => id,
                _ => 0,
            })
            .collect())
    }

    #[test]
    fn the_servers_filter_leaves_campuses_with_few_users_in() {
        let campuses = ids(List::Campuses, "filter[active]=true&filter%5Bpublic%5D=true").unwrap_or_default();
        assert_eq!(campuses.len(), 54 + 5);
    }

    #[test]
    fn unknown_fields_are_refused_in_the_apis_words() {
        let refusal = ids(List::Coalitions, "filter[x]=1").err();
        let message = r#"Attributes x doesn't exists. You can only filter on: ["id", "name", "slug", "color", "score", "user_id"]"#;
        assert_eq!(refusal, Some(Refusal { error: "Filter Error", message: message.to_owned() }));
        assert_eq!(ids(List::Campuses, "sort=-zip").err().map(|refusal| refusal.error), Some("Sort Error"));
    }

    #[test]
    fn sorting_and_ranges_work_together() {
        let sorted = ids(List::Coalitions, "sort=-score,id&range[id]=9,12").unwrap_or_default();
        assert_eq!(sorted.len(), 3, "{sorted:?}");
        assert_eq!(ids(List::Coalitions, "sort=-id").ok(), ids(List::Coalitions, "").ok());
        assert_eq!(ids(List::Coalitions, "filter[id]=10,11&sort=id").ok(), Some(vec![10, 11]));
    }
}
