//! The command line of `run`: from names and flags to what is to be brought up to date.

use std::collections::BTreeSet;

use clap::Args;

use super::forced;
use super::schedule::{Fetching, Reach, Targets};
use super::{LOAD, VALIDATE};
use crate::cli::{Context, GuardArgs};
use crate::error::{Error, Result};
use crate::manual;
use crate::pipeline::{Pipeline, nearest};

#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Stages, `load` or `validate`
    #[arg(value_name = "STAGE", add = manual::stages(&[LOAD, VALIDATE]))]
    targets: Vec<String>,
    /// Do these stages again whatever their receipts say; without a name, the named targets, or all
    #[arg(long, value_name = "STAGE,STAGE", num_args = 0..=1, require_equals = true, value_delimiter = ',')]
    force: Option<Vec<String>>,
    /// Do this stage again, and all that depends on it; all else as needed, then load
    #[arg(long, value_name = "STAGE", conflicts_with_all = ["targets", "force", "only"], add = manual::stages(&[]))]
    from: Option<String>,
    /// The named targets, and nothing that they need: what is there has to do
    #[arg(long, requires = "targets")]
    only: bool,
    /// After a failure, go on with all that does not need what failed; then fail, without a load
    #[arg(short, long)]
    pub keep_going: bool,
    /// Do the load, print what it does, and roll it back; nothing is validated
    #[arg(long)]
    pub dry_run: bool,
    /// Ask nothing of the API: the pages that are here have to do, whatever their age
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    pub guard: GuardArgs,
    /// Processes at a time
    #[arg(short, long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: u16,
}

/// All of it, done again.
pub fn all_anew(context: &Context) -> Result<Targets> {
    let stages: Vec<String> = context.pipeline.stages.iter().map(|stage| stage.name.clone()).collect();
    Ok(Targets { forced: stages.clone(), stages, load: true, validate: true, again: true, ..Targets::default() })
}

impl RunArgs {
    /// What is to be done. Of a dry run the load is not among it: it is a command of its own, after all else.
    pub fn targets(&self, context: &Context) -> Result<Targets> {
        let pipeline = &context.pipeline;
        let all = || pipeline.stages.iter().map(|stage| stage.name.clone()).collect::<Vec<_>>();
        let named = |step: &str| self.targets.iter().any(|name| name == step);
        let has_load = self.targets.is_empty() || named(LOAD);
        let named_stages = self.targets.iter().filter(|name| ![LOAD, VALIDATE].contains(&name.as_str()));
        let named_stages = named_stages.cloned().collect::<Vec<_>>();
        named_stages.iter().try_for_each(|name| known(pipeline, name))?;
        // `load` stands for all stages; alone, for itself.
        let stages = if has_load && !self.only { all() } else { named_stages.clone() };
        let mut targets = Targets {
            load: has_load,
            validate: self.targets.is_empty() || named(VALIDATE),
            reach: if self.only { Reach::Only } else { Reach::WithNeeds },
            again: self.force.is_some() || self.from.is_some() || named(LOAD) || named(VALIDATE),
            fetching: if self.offline { Fetching::Offline } else { Fetching::AsNeeded },
            owed: forced::owed(context)?,
            stages,
            ..Targets::default()
        };
        // Those that are to be fetched are left for a run that does; programs are started.
        if self.offline {
            targets.owed.retain(|owed| pipeline.stage(&owed.stage).is_some_and(|stage| stage.run().is_some()));
        }
        targets.forced.extend(match &self.force {
            None => Vec::new(),
            Some(names) if !names.is_empty() => self.forced(pipeline, names, &targets)?,
            Some(_) if named_stages.is_empty() => targets.stages.clone(),
            Some(_) => named_stages,
        });
        if let Some(from) = &self.from {
            known(pipeline, from)?;
            targets.forced.extend(with_dependents(pipeline, from).into_iter().map(str::to_string));
        }
        if self.only {
            targets.stages.iter().try_for_each(|name| has_what_it_needs(context, name, &targets.stages))?;
        }
        self.guard.allowed(pipeline)?;
        let of_load = [("--dry-run", self.dry_run), ("--allow-delete", !self.guard.allow_delete.is_empty())];
        if let Some((flag, _)) = of_load.into_iter().find(|(_, is_given)| *is_given && !has_load) {
            return Err(Error::usage(format!("`{flag}` is of a load, and none of the targets is one"))
                .hint("Name `load` too, or no target at all."));
        }
        if self.dry_run {
            (targets.load, targets.validate) = (false, false);
        }
        Ok(targets)
    }

    /// The stages that `--force` names, which must be stages of this run.
    fn forced(&self, pipeline: &Pipeline, names: &[String], targets: &Targets) -> Result<Vec<String>> {
        for name in names {
            known(pipeline, name)?;
            let is_touched = match self.only {
                true => targets.stages.contains(name),
                false => {
                    let dependents = with_dependents(pipeline, name);
                    targets.stages.iter().any(|target| dependents.contains(target.as_str()))
                }
            };
            if !is_touched {
                return Err(Error::usage(format!("`--force` names `{name}`, which this run does not touch"))
                    .hint("Name it among the targets too."));
            }
        }
        Ok(names.to_vec())
    }
}

/// Whether there is a stage of this name; the steps after the stages are among the nearest.
fn known(pipeline: &Pipeline, name: &str) -> Result<()> {
    pipeline.known_stage(name).map(drop).map_err(|error| {
        let steps = [LOAD, VALIDATE].into_iter();
        let names = pipeline.stages.iter().map(|stage| stage.name.as_str()).chain(steps);
        match nearest(name, names) {
            Some(near) => error.hint(format!("Did you mean `{near}`?")),
            None => error,
        }
    })
}

/// A stage with all that depends on it.
fn with_dependents<'a>(pipeline: &'a Pipeline, name: &'a str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::from([name]);
    let mut before = 0;
    while before < found.len() {
        before = found.len();
        for stage in &pipeline.stages {
            if stage.needs().any(|name| found.contains(name)) {
                found.insert(&stage.name);
            }
        }
    }
    found
}

/// That what a stage of `--only` reads is there, or is made by this run.
fn has_what_it_needs(context: &Context, name: &str, made: &[String]) -> Result<()> {
    let (pipeline, paths) = (&context.pipeline, &context.pipeline.paths);
    let stage = pipeline.known_stage(name)?;
    let (source, _) = pipeline.source_of(stage)?;
    for needed in stage.needs().filter(|needed| !made.iter().any(|name| name == needed)) {
        let is_source = source.name == needed && source.name != stage.name;
        let (path, what) = match is_source {
            true => (paths.pages(needed), "the pages"),
            false => (paths.all_json(needed), "the export"),
        };
        if !path.try_exists().map_err(|cause| Error::io("look for", &path, &cause))? {
            return Err(Error::failed(format!("{what} of `{needed}`, which stage `{name}` needs, cannot be found"))
                .at(paths.shown(&path))
                .hint(format!("Run `mirror42 run {name}` without `--only`, which makes them.")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_depends_on_a_stage_is_found_through_others() {
        let text = "[pipeline]\nname = 'x'\n[api]\nbase_url = 'http://127.0.0.1:1'\n
                    [[stage]]\nname = 'a'\nfetch = '/a'\nkey = ['id']\n
                    [[stage]]\nname = 'd'\nfrom = 'c'\nkey = ['id']\n
                    [[stage]]\nname = 'c'\nfetch = '/c/{id}'\neach = 'a'\nkey = ['id']\n
                    [[stage]]\nname = 'b'\nfetch = '/b'\nwith = { d = 'd' }\nkey = ['id']\n";
        let pipeline = Pipeline::parse("pipeline.toml".as_ref(), text).unwrap();
        assert_eq!(with_dependents(&pipeline, "a"), BTreeSet::from(["a", "b", "c", "d"]));
        assert_eq!(with_dependents(&pipeline, "b"), BTreeSet::from(["b"]));
    }
}
