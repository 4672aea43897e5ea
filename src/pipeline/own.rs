//! Stages with a program of the user's own (`run`): what it is started as, and the files whose bytes decide whether
//! it has to run again.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::toml_view::Value;
use super::{BodyPath, Fetch, Pipeline, Source, Stage, hash_of};
use crate::error::{Error, Result, lower_first};
use crate::paths::Paths;

/// A program that writes the raw records of its stage.
#[derive(Clone, Debug)]
pub struct Run {
    /// With a slash: relative to the pipeline's folder. Without: found on `PATH`.
    pub program: String,
    pub arguments: Vec<String>,
    /// Exports that it reads: (variable, stage).
    pub with: Vec<(String, String)>,
    /// Other files that it reads, as names or patterns relative to the pipeline's folder.
    pub inputs: Vec<String>,
    /// Secrets that it is handed: names of variables.
    pub env: Vec<String>,
    /// How long what it has read besides is good; none: it reads nothing besides.
    pub max_age: Option<Duration>,
}

/// The raw records of a stage: where they stand in its pages, and what they were made for.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a> {
    /// One series of pages per record of this stage's export.
    pub each: &'a Option<String>,
    /// Where the records stand in a page; none: a page is an array of them.
    records: Option<&'a BodyPath>,
}

static NO_EACH: Option<String> = None;

impl Raw<'_> {
    pub fn records(&self) -> BodyPath {
        self.records.cloned().unwrap_or_else(BodyPath::each_element)
    }
}

impl<'a> From<&'a Fetch> for Raw<'a> {
    fn from(fetch: &'a Fetch) -> Raw<'a> {
        Raw { each: &fetch.each, records: Some(&fetch.page.records) }
    }
}

impl Source {
    /// The raw records that a stage with this source has of its own; none if it reads another's.
    pub(super) fn raw(&self) -> Option<Raw<'_>> {
        match self {
            Source::Fetch(fetch) => Some(Raw::from(&**fetch)),
            Source::Run(_) => Some(Raw { each: &NO_EACH, records: None }),
            Source::From(_) => None,
        }
    }
}

impl Stage {
    pub fn run(&self) -> Option<&Run> {
        match &self.source {
            Source::Run(run) => Some(run),
            Source::Fetch(_) | Source::From(_) => None,
        }
    }
}

impl Pipeline {
    /// The stages whose age is that of the data of `stage`: those that fetch, and those whose program reads what grows
    /// old. None of them where all comes from files.
    pub fn aging<'a>(&'a self, stage: &'a Stage) -> Result<Vec<&'a Stage>> {
        let (source, _) = self.source_of(stage)?;
        let Some(run) = source.run() else { return Ok(vec![source]) };
        let mut aging: Vec<&Stage> = Vec::from_iter(run.max_age.map(|_| source));
        for (_, name) in &run.with {
            aging.extend(self.aging(self.known_stage(name)?)?);
        }
        Ok(aging)
    }
}

impl Run {
    /// From the value of `run` and those of the keys beside it.
    pub(super) fn parse(
        run: Value,
        with: Vec<(String, String)>,
        [inputs, env, max_age]: [Option<Value>; 3],
    ) -> Result<Run> {
        let seen: Vec<String> = with.iter().map(|(variable, _)| Run::input_variable(variable)).collect();
        if let Some(twice) = seen.iter().enumerate().find_map(|(i, name)| seen[..i].contains(name).then_some(name)) {
            return Err(run.error(format!("`stage.with` has two variables that the program would see as `{twice}`")));
        }
        let empty = run.wrong("a program and its arguments, such as [\"scripts/join.sh\"]");
        let mut command = run.strings(Value::string)?.into_iter();
        let program = command.next().filter(|program| !program.is_empty()).ok_or(empty)?;
        Ok(Run {
            program,
            arguments: command.collect(),
            with,
            inputs: inputs.map_or(Ok(Vec::new()), |value| value.strings(input))?,
            env: env.map_or(Ok(Vec::new()), Value::names)?,
            max_age: max_age.map(|value| value.duration()).transpose()?,
        })
    }

    /// The environment variable that names the export bound to `variable`.
    pub fn input_variable(variable: &str) -> String {
        format!("MIRROR42_INPUT_{}", variable.to_ascii_uppercase())
    }

    /// The hash of all that decides what is started: a change makes what it wrote stale.
    pub fn definition(&self) -> String {
        let mut parts = vec!["run", &self.program];
        parts.extend(self.arguments.iter().map(String::as_str));
        // Their order in the file says nothing.
        let with: BTreeMap<&str, &str> = self.with.iter().map(|(name, stage)| (&**name, &**stage)).collect();
        parts.extend(with.into_iter().flat_map(|(name, stage)| ["with", name, stage]));
        let mut env: Vec<&str> = self.env.iter().map(String::as_str).collect();
        env.sort_unstable();
        parts.extend(env.into_iter().flat_map(|name| ["env", name]));
        hash_of(&parts)
    }

    /// What is started: a path for a program that is named by one, else the name, to be found on `PATH`.
    pub fn command(&self, paths: &Paths) -> Result<PathBuf> {
        if !self.program.contains('/') {
            return Ok(PathBuf::from(&self.program));
        }
        Ok(root(paths)?.join(&self.program).components().collect())
    }

    /// The SHA-256 of the files whose bytes decide: those among the `inputs`, by name, and the program's, where it is the
    /// pipeline's own. `sha256` takes that of a file.
    pub fn hashes(
        &self,
        pipeline: &Pipeline,
        stage: &Stage,
        sha256: impl Fn(&Path) -> Result<Option<String>>,
    ) -> Result<(BTreeMap<String, String>, Option<String>)> {
        let mut inputs = BTreeMap::new();
        for (name, path) in self.input_files(pipeline, stage)? {
            inputs.extend(sha256(&path)?.map(|sha256| (name, sha256)));
        }
        let program = match self.own_program(pipeline, stage)? {
            Some(file) => sha256(&file)?,
            None => None,
        };
        Ok((inputs, program))
    }

    /// The program's file, where it is the pipeline's own: below its folder. It must be there.
    fn own_program(&self, pipeline: &Pipeline, stage: &Stage) -> Result<Option<PathBuf>> {
        let file = self.command(&pipeline.paths)?;
        if !self.program.contains('/') || !is_below(&file, &root(&pipeline.paths)?) {
            return Ok(None);
        }
        if !file.is_file() {
            let message = format!("the program `{}` of stage `{}` is not there", self.program, stage.name);
            return Err(Error::failed(message).at(pipeline.place(stage.line)));
        }
        Ok(Some(file))
    }

    /// The files that `inputs` names, by their names relative to the pipeline's folder. A name or a pattern of nothing
    /// is an error: it would be a silent change of what is read.
    pub fn input_files(&self, pipeline: &Pipeline, stage: &Stage) -> Result<BTreeMap<String, PathBuf>> {
        let files = self.find_inputs(&pipeline.paths, &stage.name);
        files.map_err(|error| error.at(pipeline.place(stage.line)))
    }

    fn find_inputs(&self, paths: &Paths, stage: &str) -> Result<BTreeMap<String, PathBuf>> {
        let root = root(paths)?;
        let mut files = BTreeMap::new();
        for name in &self.inputs {
            let found = if is_pattern(name) { matching(&root, name)? } else { vec![root.join(name)] };
            if found.is_empty() {
                return Err(Error::failed(format!(
                    "no file is `{name}`, which stage `{stage}` has among its `inputs`"
                )));
            }
            for path in found {
                let shown = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
                if path.is_dir() {
                    return Err(Error::failed(format!("`{shown}`, an input of stage `{stage}`, is a folder"))
                        .hint(format!("Name its files: `{}/**/*`.", shown.trim_end_matches('/'))));
                }
                if !path.exists() {
                    return Err(Error::failed(format!("`{shown}`, an input of stage `{stage}`, is not there")));
                }
                if [paths.exports(), paths.state(), paths.logs()].iter().any(|own| is_of(&path, own)) {
                    return Err(Error::usage(format!(
                        "`{shown}`, an input of stage `{stage}`, is a file that mirror42 writes"
                    ))
                    .hint("Name exports in `with`."));
                }
                files.insert(shown, path);
            }
        }
        Ok(files)
    }
}

/// The pipeline's folder, since patterns and programs must not depend on who asks from where.
fn root(paths: &Paths) -> Result<PathBuf> {
    std::path::absolute(paths.root()).map_err(|cause| Error::io("find", paths.root(), &cause))
}

fn is_below(file: &Path, folder: &Path) -> bool {
    file.starts_with(folder) && !file.components().any(|part| part == Component::ParentDir)
}

fn is_of(file: &Path, folder: &Path) -> bool {
    std::path::absolute(folder).is_ok_and(|folder| file.starts_with(folder))
}

fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

fn input(value: &Value) -> Result<String> {
    let name = value.name()?;
    match glob::Pattern::new(&name) {
        Err(error) if is_pattern(&name) => {
            Err(value.error(format!("`stage.inputs` has the pattern {name:?}: {}", lower_first(error.msg))))
        }
        _ => Ok(name),
    }
}

/// The files that match, as a shell would find them: `*` finds nothing that is hidden.
fn matching(root: &Path, pattern: &str) -> Result<Vec<PathBuf>> {
    let options =
        glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
    let whole = format!("{}/{pattern}", glob::Pattern::escape(&root.display().to_string()));
    let found = glob::glob_with(&whole, options)
        .map_err(|error| Error::usage(format!("the pattern `{pattern}` cannot be read: {error}")))?;
    let mut files = Vec::new();
    for path in found {
        let path = path.map_err(|error| Error::io("read", error.path(), error.error()))?;
        if !path.is_dir() {
            files.push(path);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline(folder: &Path, stage: &str) -> Result<Pipeline> {
        let text = format!(
            "[pipeline]\nname = \"t\"\n[api]\nbase_url = \"http://localhost\"\n[[stage]]\nname = \"a\"\n\
             fetch = \"/a\"\nkey = [\"id\"]\n[[stage]]\nname = \"b\"\nkey = [\"id\"]\n{stage}\n"
        );
        Pipeline::parse(&folder.join("pipeline.toml"), &text)
    }

    fn files(inputs: &str) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        for name in ["x.sh", "data/b.csv", "data/a.csv", "data/.hidden.csv", "data/deep/c.csv", "exports/a/all.json"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        let pipeline = pipeline(folder.path(), &format!("run = [\"./x.sh\"]\ninputs = {inputs}")).unwrap();
        let run = pipeline.stages[1].run().unwrap();
        assert!(run.own_program(&pipeline, &pipeline.stages[1]).unwrap().unwrap().ends_with("x.sh"));
        let files = run.find_inputs(&pipeline.paths, "b").map_err(|error| error.to_string())?;
        assert!(files.values().all(|path| path.is_absolute() && path.is_file()));
        Ok(files.into_keys().collect())
    }

    #[test]
    fn inputs_are_files_and_patterns_of_files() {
        assert_eq!(files("[\"x.sh\", \"data/*.csv\"]").unwrap(), ["data/a.csv", "data/b.csv", "x.sh"]);
        assert_eq!(files("[\"data/**/*.csv\"]").unwrap(), ["data/a.csv", "data/b.csv", "data/deep/c.csv"]);
        assert_eq!(files("[\"data/*\"]").unwrap(), ["data/a.csv", "data/b.csv"]);
    }

    #[test]
    fn inputs_that_are_nothing_or_the_runs_own_are_told() {
        assert_eq!(files("[\"y.sh\"]").unwrap_err(), "`y.sh`, an input of stage `b`, is not there");
        assert_eq!(files("[\"*.txt\"]").unwrap_err(), "no file is `*.txt`, which stage `b` has among its `inputs`");
        assert_eq!(
            files("[\"data\"]").unwrap_err(),
            "`data`, an input of stage `b`, is a folder\n  hint: Name its files: `data/**/*`."
        );
        assert_eq!(
            files("[\"**/*.json\"]").unwrap_err(),
            "`exports/a/all.json`, an input of stage `b`, is a file that mirror42 writes\n  hint: Name exports in `with`."
        );
    }

    #[test]
    fn a_program_is_the_pipelines_own_below_its_folder_only() {
        let folder = tempfile::tempdir().unwrap();
        for (program, own) in [("sh", false), ("/bin/sh", false), ("../x.sh", false)] {
            let pipeline = pipeline(folder.path(), &format!("run = [{program:?}]")).unwrap();
            let found = pipeline.stages[1].run().unwrap().own_program(&pipeline, &pipeline.stages[1]).unwrap();
            assert_eq!(found.is_some(), own, "{program}");
        }
        let pipeline = pipeline(folder.path(), "run = [\"bin/x\"]").unwrap();
        let error = pipeline.stages[1].run().unwrap().own_program(&pipeline, &pipeline.stages[1]).unwrap_err();
        assert_eq!(error.message(), "the program `bin/x` of stage `b` is not there");
    }

    #[test]
    fn what_is_started_decides_and_the_order_of_tables_does_not() {
        let definition = |stage: &str| pipeline(Path::new("/t"), stage).unwrap().stages[1].run().unwrap().definition();
        let first = definition("run = [\"x\"]\nwith = { p = \"a\", q = \"a\" }\nenv = [\"A\", \"B\"]");
        assert_eq!(definition("run = [\"x\"]\nwith = { q = \"a\", p = \"a\" }\nenv = [\"B\", \"A\"]"), first);
        for other in ["run = [\"x\", \"\"]", "run = [\"y\"]", "run = [\"x\"]\nwith = { p = \"a\" }"] {
            assert_ne!(definition(other), first, "{other}");
        }
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let cases = [
            (
                "run = []",
                "`stage.run` is an array, expected a program and its arguments, such as [\"scripts/join.sh\"]\n  \
                 at: /t/pipeline.toml:12:7",
            ),
            ("run = \"x.sh\"", "`stage.run` is \"x.sh\", expected an array of strings\n  at: /t/pipeline.toml:12:7"),
            (
                "run = [\"x\"]\nfetch = \"/b\"",
                "`stage.run` is an array, expected either `run` or `fetch`, not both\n  at: /t/pipeline.toml:12:7",
            ),
            (
                "run = [\"x\"]\nfrom = \"a\"",
                "`stage.run` is an array, expected either `run` or `from`, not both\n  at: /t/pipeline.toml:12:7",
            ),
            (
                "run = [\"x\"]\neach = \"a\"",
                "`stage.each` is \"a\", expected no such key beside `run`: it belongs to a stage that fetches\n  \
                 at: /t/pipeline.toml:13:8",
            ),
            (
                "run = [\"x\"]\npage = { size = 1 }",
                "`stage.page` is a table, expected no such key beside `run`: it belongs to a stage that fetches\n  \
                 at: /t/pipeline.toml:13:8",
            ),
            (
                "from = \"a\"\ninputs = [\"x\"]",
                "`stage.inputs` is an array, expected no such key without `run`: it belongs to a program\n  \
                 at: /t/pipeline.toml:13:10",
            ),
            (
                "fetch = \"/a\"\nenv = [\"x\"]",
                "`stage.env` is an array, expected no such key without `run`: it belongs to a program\n  \
                 at: /t/pipeline.toml:13:7",
            ),
            (
                "run = [\"x\"]\ninputs = [\"a/**b\"]",
                "`stage.inputs` has the pattern \"a/**b\": recursive wildcards must form a single path component\n  \
                 at: /t/pipeline.toml:13:11",
            ),
            (
                "run = [\"x\"]\nwith = { a = \"a\", A = \"a\" }",
                "`stage.with` has two variables that the program would see as `MIRROR42_INPUT_A`\n  \
                 at: /t/pipeline.toml:12:7",
            ),
            ("run = [\"x\"]\nwith = { b = \"b\" }", "stage `b` needs itself: `b` → `b`\n  at: /t/pipeline.toml:9"),
            (
                "",
                "a stage needs `fetch`, a path of the API, `from`, a stage whose raw records it reads, or `run`, a program\n  \
                 at: /t/pipeline.toml:9:1",
            ),
        ];
        for (stage, message) in cases {
            assert_eq!(pipeline(Path::new("/t"), stage).unwrap_err().to_string(), message, "{stage}");
        }
    }
}
