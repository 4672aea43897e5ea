//! The text of a new pipeline's files.

use super::names::{in_jq, in_sql, toml};
use super::records::Kind;
use super::{Access, Index};
use crate::error::printable;

pub const GITIGNORE: &str = "/.mirror42/\n/.env\n/exports/*\n/logs/*\n/data/*\n\
                             !/exports/.gitkeep\n!/logs/.gitkeep\n!/data/.gitkeep\n/report.html\n";

/// An object of many members is built in time that grows with the square of their number.
const MEMBERS_OF_AN_OBJECT: usize = 8;

/// The pipeline file.
pub fn pipeline(name: &str, access: &Access, indexes: &[Index]) -> String {
    let mut out = String::from(
        "# Proposed by `mirror42 init` from what the API answered: yours to edit. What it guessed says so.\n\
         # docs/pipeline.md of mirror42 has every key.\n\n[pipeline]\n",
    );
    out.push_str(&format!("name = {}\n\n{}{}", toml(name), access.toml(), limits(indexes)));
    let shared = indexes.first().filter(|first| indexes.iter().all(|index| index.paging == first.paging));
    if let Some(first) = shared {
        out.push_str(&format!("\n[api.page] # {}\n{}", printable(&first.paging.why), first.paging.toml()));
    }
    for index in indexes {
        out.push_str(&stage(index));
        if shared.is_none() {
            out.push_str(&format!("\n[stage.page] # {}\n{}", printable(&index.paging.why), index.paging.toml()));
        }
    }
    out
}

fn limits(indexes: &[Index]) -> String {
    let (second, hour) = indexes.first().map_or((None, None), |index| index.limits);
    let hour = hour.map(|hour| format!(", per_hour = {hour}")).unwrap_or_default();
    match second {
        Some(second) => format!("limits   = {{ per_second = {second}{hour} }} # as the API says\n"),
        None => format!("limits   = {{ per_second = 2{hour} }} # a guess: what does the API allow?\n"),
    }
}

fn stage(index: &Index) -> String {
    let groups: Vec<String> = index
        .columns
        .chunks(MEMBERS_OF_AN_OBJECT)
        .map(|columns| {
            let members: Vec<String> = columns.iter().map(|column| in_jq(&column.name, &column.path)).collect();
            format!("{{{}}}", members.join(", "))
        })
        .collect();
    let key: Vec<String> = index.key_names().into_iter().map(toml).collect();
    let guess = match index.key_names().as_slice() {
        ["id"] => String::new(),
        _ => format!(" # a guess: it tells the {} records apart that were seen", index.seen),
    };
    format!(
        "\n[[stage]]\nname  = {}\nfetch = {}\njq    = '''\n    {}\n'''\nkey   = [{}]{guess}\ntable = {}\n",
        toml(&index.stage),
        toml(&index.path),
        groups.join("\n  + "),
        key.join(", "),
        toml(&index.table)
    )
}

/// The tables.
pub fn schema(indexes: &[Index]) -> String {
    let mut out = String::from(
        "-- Proposed by `mirror42 init` from what the API answered: yours to edit, as long as no database has it. The types\n\
         -- hold what was seen; only keys are `not null`. The first load runs this file.\n\
         -- `ingested_at` is when the row last changed here. It is the loader's; exports do not have it.\n",
    );
    for index in indexes {
        out.push_str(&table(index));
    }
    out
}

fn table(index: &Index) -> String {
    let names: Vec<String> = index.columns.iter().map(|column| in_sql(&column.name)).collect();
    let width = names.iter().map(String::len).chain(["ingested_at".len()]).max().unwrap_or(0);
    let single = index.key.len() == 1;
    let mut out = format!("\ncreate table {} (\n", in_sql(&index.table));
    for (place, (column, name)) in index.columns.iter().zip(&names).enumerate() {
        let constraint = match (index.key.contains(&place), single) {
            (true, true) => " primary key",
            (true, false) => " not null",
            (false, _) => "",
        };
        let note = if column.kind == Kind::Null { " -- null in every record that was seen" } else { "" };
        out.push_str(&format!("    {name:width$} {}{constraint},{note}\n", column.kind.sql()));
    }
    out.push_str(&format!("    {:width$} timestamptz not null default now()", "ingested_at"));
    if !single {
        let key: Vec<&str> = index.key.iter().map(|place| names[*place].as_str()).collect();
        out.push_str(&format!(",\n    primary key ({})", key.join(", ")));
    }
    out.push_str("\n);\n");
    out
}
