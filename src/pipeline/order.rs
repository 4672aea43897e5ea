//! What one key alone cannot tell: that names are distinct and refer to stages, that nothing depends on itself; and
//! the order that follows from it.

use std::collections::{HashMap, HashSet};

use super::{Pipeline, Stage};
use crate::error::Result;

impl Pipeline {
    pub(super) fn check(&self) -> Result<()> {
        let mut names = HashSet::new();
        let mut tables: HashMap<&str, &str> = HashMap::new();
        for stage in &self.stages {
            if !names.insert(&stage.name) {
                return Err(self.error_at(stage.line, format!("two stages are called `{}`", stage.name)));
            }
            if let Some(table) = &stage.table
                && let Some(other) = tables.insert(table, &stage.name)
            {
                return Err(self
                    .error_at(stage.line, format!("stages `{other}` and `{}` both fill table `{table}`", stage.name)));
            }
            for name in stage.needs() {
                self.known_stage(name).map_err(|error| error.at(self.place(stage.line)))?;
            }
            self.source_of(stage)?;
        }
        self.in_order().map(drop)
    }

    /// All stages, each after those that it needs; else as in the file.
    pub fn in_order(&self) -> Result<Vec<&Stage>> {
        let mut walk = Walk { pipeline: self, path: Vec::new(), seen: HashSet::new(), order: Vec::new() };
        self.stages.iter().try_for_each(|stage| walk.visit(stage))?;
        Ok(walk.order)
    }

    /// The names of these stages and of all that they need.
    pub fn with_needs(&self, names: &[String]) -> Result<HashSet<&str>> {
        let mut walk = Walk { pipeline: self, path: Vec::new(), seen: HashSet::new(), order: Vec::new() };
        names.iter().try_for_each(|name| walk.visit(self.known_stage(name)?))?;
        Ok(walk.seen)
    }
}

/// From a stage to what it needs, each stage once.
struct Walk<'a> {
    pipeline: &'a Pipeline,
    /// The stages that brought it here.
    path: Vec<&'a str>,
    seen: HashSet<&'a str>,
    order: Vec<&'a Stage>,
}

impl<'a> Walk<'a> {
    fn visit(&mut self, stage: &'a Stage) -> Result<()> {
        if !self.seen.insert(&stage.name) {
            // One that is done is not on the path any more; the path is short where it is looked through.
            return match self.path.iter().position(|name| *name == stage.name) {
                None => Ok(()),
                Some(start) => {
                    let cycle = [&self.path[start..], &[&stage.name]].concat().join("` → `");
                    let message = format!("stage `{}` needs itself: `{cycle}`", stage.name);
                    Err(self.pipeline.error_at(stage.line, message))
                }
            };
        }
        self.path.push(&stage.name);
        for name in stage.needs() {
            self.visit(self.pipeline.known_stage(name)?)?;
        }
        self.path.pop();
        self.order.push(stage);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::path::Path;

    use super::*;

    /// A pipeline of these stages, each with what it needs.
    fn parsed(stages: &[(&str, &[&str])]) -> Result<Pipeline> {
        let mut text = "[pipeline]\nname = \"t\"\n[api]\nbase_url = \"http://localhost\"\n".to_string();
        for (name, needs) in stages {
            let with: Vec<String> = needs.iter().enumerate().map(|(i, need)| format!("v{i} = \"{need}\"")).collect();
            let with = with.join(", ");
            write!(text, "[[stage]]\nname = \"{name}\"\nfetch = \"/{name}\"\nkey = [\"id\"]\nwith = {{ {with} }}\n")
                .unwrap();
        }
        Pipeline::parse(Path::new("pipeline.toml"), &text)
    }

    #[test]
    fn a_stage_comes_after_what_it_needs_and_else_as_in_the_file() {
        let pipeline = parsed(&[("a", &["c"]), ("b", &[]), ("c", &["d"]), ("d", &[])]).unwrap();
        let order: Vec<&str> = pipeline.in_order().unwrap().iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(order, ["d", "c", "a", "b"]);
        let mut needed: Vec<&str> = pipeline.with_needs(&["c".to_string()]).unwrap().into_iter().collect();
        needed.sort();
        assert_eq!(needed, ["c", "d"]);
    }

    #[test]
    fn a_circle_is_told_with_its_stages() {
        let error = parsed(&[("z", &["a"]), ("a", &["b"]), ("b", &["c"]), ("c", &["a"])]).unwrap_err().to_string();
        assert_eq!(error, "stage `a` needs itself: `a` → `b` → `c` → `a`\n  at: pipeline.toml:10");
        let error = parsed(&[("a", &["a"])]).unwrap_err().to_string();
        assert_eq!(error, "stage `a` needs itself: `a` → `a`\n  at: pipeline.toml:5");
    }

    #[test]
    fn many_ways_to_one_stage_are_walked_once() {
        // Each of two stages needs both of the row before: 2^60 ways from the last to the first.
        let names: Vec<[String; 2]> = (0..60).map(|i| [format!("a{i}"), format!("b{i}")]).collect();
        let needs: Vec<Vec<&str>> = (0..60)
            .map(|i| if i == 0 { Vec::new() } else { names[i - 1].iter().map(String::as_str).collect() })
            .collect();
        let stages: Vec<(&str, &[&str])> = names
            .iter()
            .zip(&needs)
            .flat_map(|(pair, needs)| pair.iter().map(|name| (name.as_str(), &needs[..])))
            .collect();
        assert_eq!(parsed(&stages).unwrap().in_order().unwrap().len(), 120);
    }
}
