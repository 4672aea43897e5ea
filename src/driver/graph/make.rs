//! The pipeline for GNU make: the files are the targets, a stage binary each recipe.
//!
//! The targets are chosen by when the binaries write them: a fetch puts its folder of pages in place last of all, and an
//! extract touches nothing there; `stage.json` is written by both, so that its time says nothing. What its content says is
//! read when make begins: a step whose definition is not in its receipt is made again. So a folder that `mirror42 run` has
//! brought up to date has nothing but the load left to do for make.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::{Kind, Output, Step, file_name, flags};
use crate::error::Result;
use crate::pipeline::Pipeline;

/// What does not depend on the pipeline.
const HEAD: &str = include_str!("head.mk");

const LOADED: &str = ".mirror42/make/loaded";
const VALIDATED: &str = ".mirror42/make/validated";

pub fn file(pipeline: &Pipeline, steps: &[Step]) -> Result<String> {
    steps.iter().try_for_each(|step| step.check_paths(pipeline, "Makefile"))?;
    let file = file_name(pipeline);
    let paths = |kinds: &'static [Kind]| {
        let written = steps.iter().filter(move |step| kinds.contains(&step.kind)).flat_map(|step| &step.outputs);
        written.fold(String::new(), |paths, output| paths + " \\\n    " + &output.path)
    };
    let mut text = HEAD.replace("PIPELINE", &file).replace("FLAGS", &flags(pipeline).join(" "));
    text = text
        .replace("mirror42  ", "mirror42 ")
        .replace(" PAGES", &paths(&[Kind::Fetch, Kind::Exec]))
        .replace(" EXPORTS", &paths(&[Kind::Extract]));
    let ages: BTreeSet<u64> = steps.iter().flat_map(|step| &step.outputs).filter_map(max_age_min).collect();
    for age in ages {
        let _ = writeln!(text, "$(foreach path,$(call older-than,{age}),$(eval old-{age}/$(path) := yes))");
    }
    steps.iter().for_each(|step| rule(&mut text, step, &file));
    Ok(text)
}

/// In whole minutes, which any `find` knows.
fn max_age_min(output: &Output) -> Option<u64> {
    output.max_age_s.map(|seconds| seconds / 60)
}

fn rule(text: &mut String, step: &Step, file: &str) {
    let (targets, colon) = match (step.kind, step.outputs.as_slice()) {
        (Kind::Load, _) => (LOADED.to_string(), ":"),
        (Kind::Validate, _) => (VALIDATED.to_string(), ":"),
        (Kind::Fetch | Kind::Exec | Kind::Extract, outputs) => {
            let paths: Vec<&str> = outputs.iter().map(|output| output.path.as_str()).collect();
            // One process writes all of them.
            (paths.join(" "), if paths.len() > 1 { " &:" } else { ":" })
        }
    };
    let _ = write!(text, "\n{targets}{colon}");
    let mut inputs: Vec<&str> = step.inputs.iter().map(|input| input.path.as_str()).collect();
    inputs.dedup();
    match step.kind {
        Kind::Load => inputs.push(file),
        Kind::Validate => inputs.push(LOADED),
        Kind::Fetch | Kind::Exec | Kind::Extract => {}
    }
    inputs.iter().for_each(|input| *text += &format!(" {input}"));
    for output in &step.outputs {
        if let (Some(stage), Some(definition)) = (output.stage, &output.definition) {
            // The name of a variable of make has neither spaces nor colons.
            let definition = definition.replace([' ', ':'], "+");
            let _ = write!(text, " \\\n    $(call unless-made,{stage}/{definition})");
        }
        if let Some(age) = max_age_min(output) {
            let _ = write!(text, " $(call if-old,{age}/{})", output.path);
        }
    }
    let _ = writeln!(text, "\n\t{}", step.command.join(" "));
    if matches!(step.kind, Kind::Load | Kind::Validate) {
        *text += "\t@mkdir -p $(@D) && touch $@\n";
    }
}
