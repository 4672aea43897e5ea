//! The verb `graph`: the pipeline as steps, each a command with the files that it reads and writes, told in five forms.
//!
//! Two are for eyes ([`draw`]: Graphviz, Mermaid), one for programs (JSON), and two run the pipeline without the driver
//! ([`make`], [`snakemake`]). Extracts of one source that read the same go to one process, as in a run: whatever else
//! they need, none of them can need another, so that the steps stay free of cycles.

mod draw;
mod make;
mod snakemake;

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::pipeline::{Pipeline, Run, Stage};
use crate::{cli, paths};

/// Of the JSON form: docs/formats.md.
const VERSION: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For Graphviz: `dot -Tsvg`
    Dot,
    /// For Markdown, as GitHub shows it in a code block of the language `mermaid`
    Mermaid,
    /// For programs
    Json,
    /// A Makefile that runs the pipeline: `make -f FILE`
    Make,
    /// A Snakefile that runs it, on a cluster too: `snakemake -s FILE`
    Snakemake,
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Fetch,
    /// A program of the pipeline's own.
    Exec,
    Extract,
    Load,
    Validate,
}

/// One process of the pipeline.
#[derive(Debug, Serialize)]
pub struct Step<'a> {
    #[serde(rename = "step")]
    kind: Kind,
    #[serde(serialize_with = "names")]
    stages: Vec<&'a Stage>,
    command: Vec<String>,
    inputs: Vec<Input<'a>>,
    outputs: Vec<Output<'a>>,
}

/// A file that a step reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Input<'a> {
    path: String,
    /// Whose file it is; none: yours.
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<&'a str>,
    #[serde(rename = "as")]
    role: Role<'a>,
}

/// What it is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Role<'a> {
    /// The raw records.
    Pages,
    /// A series of pages, or `$each`, for every record.
    Each,
    /// `$variable` of the filters, or `MIRROR42_INPUT_VARIABLE` of a program.
    With(&'a str),
    /// The rows of this table.
    Table(&'a str),
    /// The definitions of the tables.
    Schema,
    /// An input of a program, or its own.
    File,
}

/// A file, or folder, that a step writes.
#[derive(Clone, Debug, Serialize)]
struct Output<'a> {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<&'a str>,
    /// The hash of what made it, as the receipt has it: a change makes it stale.
    #[serde(skip_serializing_if = "Option::is_none")]
    definition: Option<String>,
    /// After so long it is stale.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_age_s: Option<u64>,
}

/// The whole, as JSON.
#[derive(Serialize)]
struct Graph<'a> {
    version: u32,
    name: &'a str,
    api: &'a str,
    steps: Vec<Step<'a>>,
}

/// Prints the pipeline in this form.
pub fn print(pipeline: &Pipeline, format: Format) -> Result<()> {
    let steps = steps(pipeline)?;
    let text = match format {
        Format::Dot => draw::dot(pipeline, &steps),
        Format::Mermaid => draw::mermaid(pipeline, &steps),
        Format::Json => {
            let graph = Graph { version: VERSION, name: &pipeline.name, api: &pipeline.api.base_url, steps };
            serde_json::to_string_pretty(&graph)
                .map_err(|cause| Error::failed(format!("could not write the graph as JSON: {cause}")))?
        }
        Format::Make => make::file(pipeline, &steps)?,
        Format::Snakemake => snakemake::file(pipeline, &steps)?,
    };
    cli::print(format_args!("{}", text.trim_end()));
    Ok(())
}

/// The steps, each kind in the order of the file: fetches and programs, extracts, load, validate.
fn steps(pipeline: &Pipeline) -> Result<Vec<Step<'_>>> {
    let mut steps = Vec::new();
    for stage in &pipeline.stages {
        match stage.run() {
            Some(run) => steps.push(exec(pipeline, stage, run)?),
            None => steps.extend(stage.fetch().map(|_| fetch(pipeline, stage))),
        }
    }
    let mut extracts: Vec<Step> = Vec::new();
    for stage in &pipeline.stages {
        let inputs = inputs_of_extract(pipeline, stage)?;
        let output = exported(pipeline, stage);
        match extracts.iter_mut().find(|step| read_the_same(&step.inputs, &inputs)) {
            Some(step) => {
                step.command.push(stage.name.clone());
                step.stages.push(stage);
                step.outputs.push(output);
                step.inputs.extend(inputs.into_iter().filter(|input| !step.inputs.contains(input)).collect::<Vec<_>>());
            }
            None => extracts.push(Step {
                kind: Kind::Extract,
                stages: vec![stage],
                command: command(pipeline, "mirror42-extract", &[stage]),
                inputs,
                outputs: vec![output],
            }),
        }
    }
    steps.append(&mut extracts);
    let mut loaded: Vec<Input> =
        pipeline.loaded().map(|(stage, table)| export_of(pipeline, stage, Role::Table(table))).collect();
    let schema = pipeline.schema.display().to_string();
    if pipeline.paths.root().join(&pipeline.schema).exists() {
        loaded.push(Input { path: schema, stage: None, role: Role::Schema });
    }
    for (kind, program, inputs) in
        [(Kind::Load, "mirror42-load", loaded), (Kind::Validate, "mirror42-validate", Vec::new())]
    {
        let command = command(pipeline, program, &[]);
        steps.push(Step { kind, stages: Vec::new(), command, inputs, outputs: Vec::new() });
    }
    Ok(steps)
}

fn fetch<'a>(pipeline: &'a Pipeline, stage: &'a Stage) -> Step<'a> {
    let fetch = stage.fetch();
    let each = fetch.and_then(|fetch| pipeline.stage(fetch.each.as_deref()?));
    let pages = Output {
        path: pages(pipeline, stage),
        stage: Some(&stage.name),
        definition: fetch.map(|fetch| pipeline.fetch_definition(fetch)),
        max_age_s: fetch.map(|fetch| fetch.max_age.as_secs()),
    };
    Step {
        kind: Kind::Fetch,
        stages: vec![stage],
        command: command(pipeline, "mirror42-fetch", &[stage]),
        inputs: each.map(|each| export_of(pipeline, each, Role::Each)).into_iter().collect(),
        outputs: vec![pages],
    }
}

fn exec<'a>(pipeline: &'a Pipeline, stage: &'a Stage, run: &'a Run) -> Result<Step<'a>> {
    let mut inputs = Vec::new();
    for (variable, name) in &run.with {
        inputs.push(export_of(pipeline, pipeline.known_stage(name)?, Role::With(variable)));
    }
    let own = (run.program.contains('/') && !run.program.starts_with('/')).then(|| run.program.clone());
    for path in own.into_iter().chain(run.input_files(pipeline, stage)?.into_keys()) {
        inputs.push(Input { path, stage: None, role: Role::File });
    }
    let pages = Output {
        path: pages(pipeline, stage),
        stage: Some(&stage.name),
        definition: Some(run.definition()),
        max_age_s: run.max_age.map(|max_age| max_age.as_secs()),
    };
    let command = command(pipeline, "mirror42-exec", &[stage]);
    Ok(Step { kind: Kind::Exec, stages: vec![stage], command, inputs, outputs: vec![pages] })
}

fn inputs_of_extract<'a>(pipeline: &'a Pipeline, stage: &'a Stage) -> Result<Vec<Input<'a>>> {
    let (source, raw) = pipeline.source_of(stage)?;
    let mut inputs = vec![Input { path: pages(pipeline, source), stage: Some(&source.name), role: Role::Pages }];
    if let Some(each) = raw.each {
        inputs.push(export_of(pipeline, pipeline.known_stage(each)?, Role::Each));
    }
    for (variable, name) in &stage.with {
        inputs.push(export_of(pipeline, pipeline.known_stage(name)?, Role::With(variable)));
    }
    Ok(inputs)
}

/// The same files, whatever as.
fn read_the_same(some: &[Input], others: &[Input]) -> bool {
    let within =
        |some: &[Input], others: &[Input]| some.iter().all(|input| others.iter().any(|other| other.path == input.path));
    within(some, others) && within(others, some)
}

fn pages(pipeline: &Pipeline, stage: &Stage) -> String {
    pipeline.paths.shown(&pipeline.paths.pages(&stage.name))
}

fn all_json(pipeline: &Pipeline, stage: &Stage) -> String {
    pipeline.paths.shown(&pipeline.paths.all_json(&stage.name))
}

fn export_of<'a>(pipeline: &Pipeline, stage: &'a Stage, role: Role<'a>) -> Input<'a> {
    Input { path: all_json(pipeline, stage), stage: Some(&stage.name), role }
}

fn exported<'a>(pipeline: &Pipeline, stage: &'a Stage) -> Output<'a> {
    Output {
        path: all_json(pipeline, stage),
        stage: Some(&stage.name),
        // A stage whose source has no records was refused with the pipeline file.
        definition: pipeline.extract_definition(stage).ok(),
        max_age_s: None,
    }
}

/// What a person types in the folder of the pipeline file.
fn command(pipeline: &Pipeline, program: &str, stages: &[&Stage]) -> Vec<String> {
    let flags = flags(pipeline);
    let names = stages.iter().map(|stage| stage.name.clone());
    [program.to_string()].into_iter().chain(flags).chain(names).collect()
}

/// That name the pipeline, where it is not the one that needs no naming.
fn flags(pipeline: &Pipeline) -> Vec<String> {
    match file_name(pipeline) {
        file if file == paths::PIPELINE => Vec::new(),
        file => vec!["--pipeline".to_string(), file],
    }
}

/// The name of the pipeline file, in its folder.
fn file_name(pipeline: &Pipeline) -> String {
    pipeline.file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Step<'_> {
    /// Its paths must need no quotes: neither make nor a shell agrees with the other on how to write them.
    fn check_paths(&self, pipeline: &Pipeline, what: &str) -> Result<()> {
        let mut words = self.command.iter().chain(self.inputs.iter().map(|input| &input.path));
        let plain = |word: &&String| word.chars().all(|c| c.is_ascii_alphanumeric() || "_-./+,".contains(c));
        match words.find(|word| !plain(word)) {
            None => Ok(()),
            Some(word) => Err(Error::usage(format!("cannot write {word:?} into a {what}"))
                .at(pipeline.file.display().to_string())
                .hint("Give the file a name of letters, digits, `_`, `-`, `+`, `,` and `.`.")),
        }
    }
}

impl fmt::Display for Role<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Pages | Role::Schema | Role::File => Ok(()),
            Role::Each => f.write_str("each record"),
            Role::With(variable) => write!(f, "${variable}"),
            Role::Table(table) => f.write_str(table),
        }
    }
}

fn names<S: serde::Serializer>(stages: &[&Stage], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(stages.iter().map(|stage| &stage.name))
}
