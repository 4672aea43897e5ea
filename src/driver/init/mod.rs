//! The verb `init`: a new pipeline folder for another API, proposed from what it answers.
//!
//! Nothing is asked twice that one answer tells, and nothing is written unless all of it can be: a first answer shows
//! where the records are and how they are paged, a second page whether that leads to others, and one of the size that a fetch
//! will ask for shows more of them ([`index`]). What cannot be found out is told. What it writes is meant to be edited, but works as it is.

mod ask;
mod index;
mod names;
mod paging;
mod records;
mod write;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::cli::{self, Common};
use crate::error::{Error, Result, printable};
use crate::files;
use crate::pipeline::{self, Pipeline};
use ask::Draft;
use index::Index;
use names::toml;

#[derive(Args, Clone, Debug)]
pub struct InitArgs {
    /// Addresses of the API, one a stage, all of one server; then the folder to make [default: this one]
    #[arg(value_name = "URL... [FOLDER]", required = true, num_args = 1..)]
    arguments: Vec<String>,
    /// How requests are authorized
    #[arg(long, value_enum, value_name = "KIND", default_value = "none")]
    auth: Kind,
    /// With `--auth bearer`: the variable that holds the token [default: API_TOKEN]
    #[arg(long, value_name = "VARIABLE")]
    token_env: Option<String>,
    /// With `--auth oauth2`: the variable that holds the client id [default: CLIENT_ID]
    #[arg(long, value_name = "VARIABLE")]
    client_id_env: Option<String>,
    /// With `--auth oauth2`: the variable that holds the client secret [default: CLIENT_SECRET]
    #[arg(long, value_name = "VARIABLE")]
    client_secret_env: Option<String>,
    /// With `--auth oauth2`: where tokens are asked for [default: /oauth/token]
    #[arg(long, value_name = "PATH")]
    token_path: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// No authorization
    None,
    /// A fixed token
    Bearer,
    /// A token that is asked for with a client id and secret
    Oauth2,
}

/// Where the API is, and how requests are authorized.
struct Access {
    base_url: String,
    auth: Auth,
}

enum Auth {
    None,
    Bearer { token_env: String },
    OAuth2 { token_path: String, client_id_env: String, client_secret_env: String },
}

/// Asks the API, and writes the files of a new folder.
pub fn run(common: &Common, args: &InitArgs) -> Result<()> {
    let (urls, folder) = addresses(&args.arguments)?;
    // `--pipeline` names the file within the folder.
    let file = folder.join(&common.pipeline);
    let root = match file.parent() {
        Some(root) if root != Path::new("") => root.to_path_buf(),
        _ => PathBuf::from("."),
    };
    refuse_existing(&[file.clone(), root.join("schema.sql"), root.join(".gitignore")])?;
    let (base_url, paths) = of_one_server(&urls)?;
    let access = Access { base_url, auth: args.auth()? };
    let secrets = ask::secrets(&root)?;
    let draft = Draft::new(&access, &secrets)?;
    let mut indexes: Vec<Index> = Vec::new();
    for (number, path) in (1..).zip(&paths) {
        let tables: Vec<String> = indexes.iter().map(|index| index.table.clone()).collect();
        indexes.push(Index::look(&draft, path, number, &tables)?);
    }
    let pipeline = write::pipeline(&name_of(&root), &access, &indexes);
    // What is wrong with it is told before anything is written.
    Pipeline::parse(&file, &pipeline)?;
    draft.write(&pipeline)?;
    draft.check_filters()?;
    write_all(&file, &root, &pipeline, &indexes)?;
    if !common.quiet {
        indexes.iter().for_each(|index| cli::print(format_args!("{}", described(index))));
        tell(&file, &root, &access, &indexes);
    }
    Ok(())
}

/// The addresses, and the folder that stands behind them.
fn addresses(arguments: &[String]) -> Result<(Vec<&str>, PathBuf)> {
    let is_address = |text: &str| text.starts_with("http://") || text.starts_with("https://");
    let (folder, urls) = match arguments.split_last() {
        Some((last, rest)) if !is_address(last) && !rest.is_empty() => (PathBuf::from(last), rest),
        _ => (PathBuf::new(), arguments),
    };
    match urls.iter().find(|url| !is_address(url)) {
        Some(other) => {
            Err(Error::usage(format!("{other:?} is no address: expected one that begins with `https://` or `http://`"))
                .hint("Write `mirror42 init https://api.example.org/things FOLDER`."))
        }
        None => Ok((urls.iter().map(String::as_str).collect(), folder)),
    }
}

/// The server of all addresses, and their paths.
fn of_one_server(urls: &[&str]) -> Result<(String, Vec<String>)> {
    let mut server: Option<String> = None;
    let mut paths = Vec::new();
    for url in urls {
        let url = url.split('#').next().unwrap_or("");
        let host = url.find("://").map_or(0, |at| at + 3);
        let end = url[host..].find(['/', '?']).map_or(url.len(), |end| host + end);
        let base = pipeline::base_url(&url[..end]).map_err(|what| Error::usage(format!("the address {what}")))?;
        let path = &url[end..];
        paths.push(if path.starts_with('/') { path.to_string() } else { format!("/{path}") });
        match &server {
            Some(other) if *other != base => {
                return Err(Error::usage(format!("`{base}` is another server than `{other}`"))
                    .hint("A pipeline is of one API: make another folder for the other one."));
            }
            _ => server = Some(base),
        }
    }
    Ok((server.unwrap_or_default(), paths))
}

fn refuse_existing(files: &[PathBuf]) -> Result<()> {
    let there: Vec<String> = files
        .iter()
        .filter(|file| file.symlink_metadata().is_ok())
        .map(|file| format!("`{}`", file.display()))
        .collect();
    if there.is_empty() {
        return Ok(());
    }
    let (verb, them) = if there.len() == 1 { ("is", "it") } else { ("are", "them") };
    Err(Error::usage(format!("{} {verb} there already", there.join(", ")))
        .detail("Nothing was asked and nothing written.")
        .hint(format!("Name another folder, or move {them} away.")))
}

fn name_of(root: &Path) -> String {
    let full = std::fs::canonicalize(root).unwrap_or_else(|_| root.to_path_buf());
    full.file_name().map_or_else(|| "mirror".to_string(), |name| name.to_string_lossy().into_owned())
}

fn write_all(file: &Path, root: &Path, pipeline: &str, indexes: &[Index]) -> Result<()> {
    for folder in ["exports", "logs", "data"] {
        let keep = root.join(folder).join(".gitkeep");
        if !keep.exists() {
            files::write(&keep, b"")?;
        }
    }
    files::write(&root.join(".gitignore"), write::GITIGNORE.as_bytes())?;
    files::write(&root.join("schema.sql"), write::schema(indexes).as_bytes())?;
    files::write(file, pipeline.as_bytes())?;
    Ok(())
}

fn described(index: &Index) -> String {
    let names: Vec<String> = index.key_names().into_iter().map(|name| format!("`{name}`")).collect();
    let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    format!(
        "{}: {}, {}, key {}; {}: {}.",
        index.url,
        plural(index.seen, "record"),
        plural(index.columns.len(), "column"),
        names.join(" and "),
        index.paging.described(),
        index.paging.why
    )
}

/// What was written, what was guessed, and what comes next.
fn tell(file: &Path, root: &Path, access: &Access, indexes: &[Index]) {
    let shown = |path: &Path| path.display().to_string();
    cli::print(format_args!(
        "Wrote {}, {} and {}: yours to edit.",
        shown(file),
        shown(&root.join("schema.sql")),
        shown(&root.join(".gitignore"))
    ));
    for index in indexes {
        let (table, null) = (&index.table, index.always_null());
        index.notes.iter().for_each(|note| cli::print(format_args!("- `{table}`: {}.", printable(note))));
        if !null.is_empty() {
            cli::print(format_args!(
                "- `{table}`: null in every record, so jsonb until you know: {}.",
                null.join(", ")
            ));
        }
        if index.key_names() != ["id"] {
            cli::print(format_args!("- `{table}`: is the key right? It was guessed from {} records.", index.seen));
        }
    }
    let variables: Vec<&str> = access.variables().into_iter().map(|(name, _)| name).collect();
    if !variables.is_empty() && !root.join(".env").exists() {
        let variables = variables.join(" and ");
        cli::print(format_args!("- For cron, put {variables} into {} (mode 0600).", shown(&root.join(".env"))));
    }
    let within = if root == Path::new(".") { String::new() } else { format!("cd {} && ", root.display()) };
    cli::print(format_args!("Next: {within}mirror42 run"));
}

impl InitArgs {
    fn auth(&self) -> Result<Auth> {
        let InitArgs { token_env, client_id_env, client_secret_env, token_path, .. } = self;
        let flags = [
            ("--token-env", Kind::Bearer, token_env),
            ("--client-id-env", Kind::Oauth2, client_id_env),
            ("--client-secret-env", Kind::Oauth2, client_secret_env),
            ("--token-path", Kind::Oauth2, token_path),
        ];
        let stray = flags.into_iter().find(|(_, kind, value)| value.is_some() && *kind != self.auth);
        if let Some((flag, kind, _)) = stray {
            let kind = kind.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string());
            return Err(Error::usage(format!("`{flag}` means nothing without `--auth {kind}`")));
        }
        let or = |value: &Option<String>, default: &str| value.clone().unwrap_or_else(|| default.to_string());
        Ok(match self.auth {
            Kind::None => Auth::None,
            Kind::Bearer => Auth::Bearer { token_env: or(token_env, "API_TOKEN") },
            Kind::Oauth2 => Auth::OAuth2 {
                token_path: or(token_path, "/oauth/token"),
                client_id_env: or(client_id_env, "CLIENT_ID"),
                client_secret_env: or(client_secret_env, "CLIENT_SECRET"),
            },
        })
    }
}

impl Access {
    /// The variables that hold secrets, and what they are.
    fn variables(&self) -> Vec<(&str, &'static str)> {
        match &self.auth {
            Auth::None => Vec::new(),
            Auth::Bearer { token_env } => vec![(token_env, "the API's token")],
            Auth::OAuth2 { client_id_env, client_secret_env, .. } => {
                vec![(client_id_env, "the client id"), (client_secret_env, "the client secret")]
            }
        }
    }

    /// The beginning of the table `api`.
    fn toml(&self) -> String {
        let auth = match &self.auth {
            Auth::None => "{ kind = \"none\" }".to_string(),
            Auth::Bearer { token_env } => format!("{{ kind = \"bearer\", token_env = {} }}", toml(token_env)),
            Auth::OAuth2 { token_path, client_id_env, client_secret_env } => format!(
                "{{ kind = \"oauth2\", token_path = {}, client_id_env = {}, client_secret_env = {} }}",
                toml(token_path),
                toml(client_id_env),
                toml(client_secret_env)
            ),
        };
        format!("[api]\nbase_url = {}\nauth     = {auth}\n", toml(&self.base_url))
    }
}
