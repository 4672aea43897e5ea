//! The pipeline for Snakemake: a rule a process.
//!
//! What made an output is a parameter of its rule, and Snakemake runs a rule again whose parameters have changed; so it
//! does for an input that has become newer, as the file of `due` does when pages are too old. Outputs are marked `update`:
//! Snakemake would remove them before their rule runs, and with them the pages of the last good fetch.

use std::fmt::Write;

use super::{Kind, Step, file_name, flags};
use crate::error::Result;
use crate::files;
use crate::pipeline::Pipeline;

const HEAD: &str = include_str!("head.smk");

const LOADED: &str = ".mirror42/snakemake/loaded";
const VALIDATED: &str = ".mirror42/snakemake/validated";

/// Of an extract, where there are as many cores.
const THREADS: u32 = 2;

pub fn file(pipeline: &Pipeline, steps: &[Step]) -> Result<String> {
    steps.iter().try_for_each(|step| step.check_paths(pipeline, "Snakefile"))?;
    let digest = files::sha256_of(&files::read(&pipeline.file)?);
    let head = HEAD.replace("PIPELINE", &file_name(pipeline)).replace("DIGEST", &digest);
    let mut text = head.replace("FLAGS", &flags(pipeline).join(" ")).replace("mirror42  ", "mirror42 ");
    let names = rule_names(steps);
    let local = steps.iter().zip(&names).filter(|(step, _)| !matches!(step.kind, Kind::Exec | Kind::Extract));
    let local: Vec<&str> = ["all"].into_iter().chain(local.map(|(_, name)| name.as_str())).collect();
    let _ = write!(text, "\nlocalrules: {}\n\nrule all:\n    input:\n", local.join(", "));
    let exports = steps.iter().filter(|step| step.kind == Kind::Extract).flat_map(|step| &step.outputs);
    for path in exports.map(|output| output.path.as_str()).chain([VALIDATED]) {
        let _ = writeln!(text, "        {path:?},");
    }
    steps.iter().zip(&names).for_each(|(step, name)| rule(&mut text, step, name));
    Ok(text)
}

/// A name of Python's for each step, different from all others.
fn rule_names(steps: &[Step]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for step in steps {
        let name = match (step.kind, step.stages.first()) {
            (Kind::Fetch, Some(stage)) => format!("fetch_{}", stage.name),
            (Kind::Exec, Some(stage)) => format!("exec_{}", stage.name),
            (Kind::Extract, Some(stage)) => format!("extract_{}", stage.name),
            (Kind::Validate, _) => "validate".to_string(),
            _ => "load".to_string(),
        };
        let name = name.replace(['-', '.'], "_");
        let twins = (2..).map(|number| format!("{name}__{number}"));
        let free = [name.clone()].into_iter().chain(twins).find(|name| !names.contains(name));
        names.extend(free);
    }
    names
}

fn rule(text: &mut String, step: &Step, name: &str) {
    let mut inputs: Vec<String> = Vec::new();
    for path in step.inputs.iter().map(|input| format!("{:?}", input.path)) {
        if !inputs.contains(&path) {
            inputs.push(path);
        }
    }
    let mut outputs = Vec::new();
    for output in &step.outputs {
        outputs.push(match step.kind {
            Kind::Extract => format!("update({:?})", output.path),
            _ => format!("update(directory({:?}))", output.path),
        });
        if let (Some(stage), Some(max_age_s)) = (output.stage, output.max_age_s) {
            inputs.push(format!("due({stage:?}, {max_age_s})"));
        }
    }
    let definitions: Vec<&str> = step.outputs.iter().filter_map(|output| output.definition.as_deref()).collect();
    let mut parameters = vec![format!("definition={:?}", definitions.join(" "))];
    let command = step.command.join(" ");
    let how = match step.kind {
        Kind::Fetch => format!("    resources:\n        api=1,\n    shell: \"{command}\"\n"),
        Kind::Exec => format!("    shell: \"{command}\"\n"),
        Kind::Extract => {
            format!("    threads: {THREADS}\n    shell: \"RAYON_NUM_THREADS={{threads}} {command}\"\n")
        }
        Kind::Load | Kind::Validate => {
            parameters.clear();
            outputs.push(format!("touch({:?})", if step.kind == Kind::Load { LOADED } else { VALIDATED }));
            format!("    shell: \"{command}\"\n")
        }
    };
    if step.kind == Kind::Validate {
        inputs.push(format!("{LOADED:?}"));
    }
    let _ = writeln!(text, "\nrule {name}:");
    for (section, lines) in [("input", inputs), ("output", outputs), ("params", parameters)] {
        if !lines.is_empty() {
            *text += &format!("    {section}:\n");
            lines.iter().for_each(|line| *text += &format!("        {line},\n"));
        }
    }
    *text += &how;
}
