//! The pipeline and the schema that the exports are of.

use crate::error::{Error, Result};
use crate::files;
use crate::paths::Paths;

/// In the first line of the files that may be written again.
const MARK: &str = "Made by `mirror42-simulate exports`";

/// The stages with their tables.
const STAGES: [(&str, &str); 3] =
    [("01_campuses", "campuses"), ("02_projects", "projects"), ("03_sessions", "sessions")];

/// Writes pipeline.toml and schema.sql where they are not as they should be. Those that somebody else made are never
/// replaced.
pub fn write(paths: &Paths, schema: Option<&str>, foreign_keys: bool) -> Result<()> {
    let texts = [("pipeline.toml", pipeline(schema)), ("schema.sql", tables(schema, foreign_keys))];
    let mut changed = Vec::new();
    for (name, text) in &texts {
        let path = paths.root().join(name);
        match files::read_if_there(&path)? {
            Some(there) if there == text.as_bytes() => {}
            Some(there) if !is_ours(&there) => {
                return Err(Error::usage("this folder holds a pipeline that is not synthetic")
                    .at(path.display().to_string())
                    .detail("Synthetic exports would take the place of its own.")
                    .hint("Name another folder."));
            }
            _ => changed.push((path, text)),
        }
    }
    changed.iter().try_for_each(|(path, text)| files::write(path, text.as_bytes()).map(drop))
}

fn is_ours(text: &[u8]) -> bool {
    let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(first).contains(MARK)
}

fn pipeline(schema: Option<&str>) -> String {
    let prefix = schema.map(|schema| format!("{schema}.")).unwrap_or_default();
    let mut text = format!(
        "# {MARK}: there is nothing to fetch, only to load.\n\n\
         [pipeline]\nname = \"synthetic\"\n\n[api]\nbase_url = \"http://127.0.0.1:1\"\n"
    );
    for (stage, table) in STAGES {
        text.push_str(&format!(
            "\n[[stage]]\nname  = \"{stage}\"\nfetch = \"/{table}\"\nkey   = [\"id\"]\ntable = \"{prefix}{table}\"\n"
        ));
    }
    text
}

fn tables(schema: Option<&str>, foreign_keys: bool) -> String {
    // A word such as `user` is a schema too, in quotes.
    let prefix = schema.map(|schema| format!("\"{schema}\".")).unwrap_or_default();
    let create = schema.map(|schema| format!("\ncreate schema if not exists \"{schema}\";\n")).unwrap_or_default();
    let references =
        if foreign_keys { format!(" references {prefix}projects on delete cascade") } else { String::new() };
    let index = if foreign_keys {
        format!("create index sessions_project_id on {prefix}sessions (project_id);\n")
    } else {
        String::new()
    };
    format!(
        "-- {MARK}: tables like those of the mirror.
{create}
create table {prefix}campuses (
    id          bigint primary key,
    name        text not null,
    time_zone   text,
    address     text,
    website     text,
    users_count integer,
    active      boolean,
    ingested_at timestamptz not null default now()
);

create table {prefix}projects (
    id             bigint primary key,
    name           text not null,
    slug           text,
    difficulty     integer,
    exam           boolean,
    recommendation text,
    created_at     timestamptz,
    updated_at     timestamptz,
    ingested_at    timestamptz not null default now()
);

create table {prefix}sessions (
    id               bigint primary key,
    project_id       bigint not null{references},
    campus_id        bigint,
    begin_at         timestamptz,
    difficulty       integer,
    max_people       integer,
    exam             boolean,
    is_subscriptable boolean,
    description      text,
    objectives       jsonb,
    scale            jsonb,
    updated_at       timestamptz,
    ingested_at      timestamptz not null default now()
);
{index}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_written_again_only_where_they_differ() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::new(folder.path());
        let inodes = || {
            use std::os::unix::fs::MetadataExt;
            ["pipeline.toml", "schema.sql"].map(|name| std::fs::metadata(folder.path().join(name)).unwrap().ino())
        };
        write(&paths, None, false).unwrap();
        let first = inodes();
        write(&paths, None, false).unwrap();
        assert_eq!(inodes(), first);
        write(&paths, None, true).unwrap();
        let second = inodes();
        assert!(second[0] == first[0] && second[1] != first[1]);
    }

    #[test]
    fn a_folder_of_another_pipeline_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("schema.sql"), "create table mine ();\n").unwrap();
        let error = write(&Paths::new(folder.path()), None, false).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Usage);
        assert!(!folder.path().join("pipeline.toml").exists());
    }

    #[test]
    fn the_pipeline_is_one() {
        for schema in [None, Some("bench")] {
            let pipeline = crate::pipeline::Pipeline::parse(std::path::Path::new("pipeline.toml"), &pipeline(schema));
            let tables: Vec<String> = pipeline.unwrap().loaded().map(|(_, table)| table.to_string()).collect();
            assert_eq!(tables[2], schema.map_or("sessions".to_string(), |schema| format!("{schema}.sessions")));
        }
    }
}
