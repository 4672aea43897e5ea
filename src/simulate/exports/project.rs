//! The pipeline and the schema that the exports are of.

use super::ProjectArgs;
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
pub fn write(paths: &Paths, args: &ProjectArgs) -> Result<()> {
    let texts = [("pipeline.toml", pipeline(args)), ("schema.sql", tables(args))];
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

fn pipeline(args: &ProjectArgs) -> String {
    let prefix = args.schema.as_ref().map(|schema| format!("{schema}.")).unwrap_or_default();
    let ledger = args.ledger.as_ref().map(|ledger| format!("ledger = \"{ledger}\"\n")).unwrap_or_default();
    let mut text = format!(
        "# {MARK}: there is nothing to fetch, only to load.\n\n\
         [pipeline]\nname = \"synthetic\"\n{ledger}\n[api]\nbase_url = \"http://127.0.0.1:1\"\n"
    );
    for (stage, table) in STAGES {
        text.push_str(&format!(
            "\n[[stage]]\nname  = \"{stage}\"\nfetch = \"/{table}\"\nkey   = [\"id\"]\ntable = \"{prefix}{table}\"\n"
        ));
    }
    if args.checks {
        text.push_str(&checks(&in_sql(args)));
    }
    text
}

/// A join and a look at a document of every row. Both always pass.
fn checks(prefix: &str) -> String {
    format!(
        "\n[[check]]\nname = \"every session is of a project\"\n\
         sql  = '''select id from {prefix}sessions s\n\
         \x20        where not exists (select from {prefix}projects p where p.id = s.project_id)'''\n\
         \n[[check]]\nname = \"objectives are lists\"\n\
         sql  = '''select id from {prefix}sessions where jsonb_typeof(objectives) <> 'array' '''\n"
    )
}

/// What stands before the tables' names in SQL. A word such as `user` is a schema too, in quotes.
fn in_sql(args: &ProjectArgs) -> String {
    args.schema.as_ref().map(|schema| format!("\"{schema}\".")).unwrap_or_default()
}

fn tables(args: &ProjectArgs) -> String {
    let prefix = in_sql(args);
    let create = args.schema.as_ref().map(|schema| format!("\ncreate schema if not exists \"{schema}\";\n"));
    let create = create.unwrap_or_default();
    let references =
        if args.foreign_keys { format!(" references {prefix}projects on delete cascade") } else { String::new() };
    let index = if args.foreign_keys {
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
        let plain = ProjectArgs::default();
        write(&paths, &plain).unwrap();
        let first = inodes();
        write(&paths, &plain).unwrap();
        assert_eq!(inodes(), first);
        write(&paths, &ProjectArgs { foreign_keys: true, ..plain }).unwrap();
        let second = inodes();
        assert!(second[0] == first[0] && second[1] != first[1]);
    }

    #[test]
    fn a_folder_of_another_pipeline_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("schema.sql"), "create table mine ();\n").unwrap();
        let error = write(&Paths::new(folder.path()), &ProjectArgs::default()).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Usage);
        assert!(!folder.path().join("pipeline.toml").exists());
    }

    #[test]
    fn the_pipeline_is_one() {
        let of = |args: &ProjectArgs| {
            let pipeline = crate::pipeline::Pipeline::parse(std::path::Path::new("pipeline.toml"), &pipeline(args));
            let pipeline = pipeline.unwrap();
            let tables: Vec<String> = pipeline.loaded().map(|(_, table)| table.to_string()).collect();
            (tables[2].clone(), pipeline.ledger, pipeline.checks.len())
        };
        assert_eq!(of(&ProjectArgs::default()), ("sessions".to_string(), "mirror42".to_string(), 0));
        let (schema, ledger) = (Some("bench".to_string()), Some("book".to_string()));
        let args = ProjectArgs { schema, ledger, checks: true, foreign_keys: true };
        assert_eq!(of(&args), ("bench.sessions".to_string(), "book".to_string(), 2));
    }
}
