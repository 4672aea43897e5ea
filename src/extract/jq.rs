//! The jq engine: jaq, driven so that a filter can neither end the process nor see the environment.

use std::panic::{AssertUnwindSafe, catch_unwind};

use jaq_core::load::{self, Arena, File, Loader};
use jaq_core::native::{bome, run, v};
use jaq_core::{Compiler, Ctx, Vars, data};
use jaq_json::Val;

use crate::error::{Error, Result, excerpt};
use crate::pipeline::{Pipeline, Stage};

type Data = data::JustLut<Val>;

// Far more than any filter needs; the parser's recursion grows with the text.
const FILTER_LIMIT_BYTES: usize = 1 << 20;

/// A compiled filter. Its variables are bound anew at each run.
pub struct Filter(jaq_core::Filter<Data>);

impl Filter {
    /// Compiles the filter of a stage with these variables (with their `$`).
    pub fn compile(pipeline: &Pipeline, stage: &Stage, variables: &[String]) -> Result<Filter> {
        let text = stage.jq.text.as_str();
        let failed = |what: String, part: &str| {
            let (line, column) = position(text, part);
            Error::usage(format!("the jq filter of stage `{}` is wrong: {what}", stage.name))
                .at(format!("{}, line {line} of the filter, column {column}", pipeline.place(stage.jq.line + line - 1)))
        };
        if text.len() > FILTER_LIMIT_BYTES {
            return Err(failed("it is larger than 1 MiB".into(), text));
        }
        let defs = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
        let arena = Arena::default();
        let modules = Loader::new(defs).load(&arena, File { code: text, path: () }).map_err(|errors| {
            let error = errors.into_iter().next().map(|(_, error)| error);
            match error {
                Some(load::Error::Lex(errors)) => match errors.into_iter().next() {
                    Some((expected, found)) => failed(expectation(expected.as_str(), found), found),
                    None => failed("it cannot be read".into(), text),
                },
                Some(load::Error::Parse(errors)) => match errors.into_iter().next() {
                    Some((expected, found)) => failed(expectation(expected.as_str(), found), found),
                    None => failed("it cannot be understood".into(), text),
                },
                Some(load::Error::Io(errors)) => match errors.into_iter().next() {
                    Some((path, cause)) => failed(format!("`{path}` cannot be included: {cause}"), path),
                    None => failed("it cannot be read".into(), text),
                },
                None => failed("it cannot be read".into(), text),
            }
        })?;
        let names = variables.iter().map(String::as_str);
        let compiler = Compiler::default().with_funs(natives()).with_global_vars(names);
        let filter = compiler.compile(modules).map_err(|errors| {
            let undefined = errors.into_iter().flat_map(|(_, errors)| errors).next();
            match undefined {
                Some((name, kind)) => failed(format!("{} `{name}` is not defined", kind.as_str()), name),
                None => failed("it cannot be compiled".into(), text),
            }
        })?;
        Ok(Filter(filter))
    }

    /// Runs the filter on one value and hands each output on; the error is text for a message.
    pub fn run(
        &self,
        variables: &[Val],
        input: Val,
        mut output: impl FnMut(Val) -> Result<(), String>,
    ) -> Result<(), String> {
        let ctx = Ctx::<Data>::new(&self.0.lut, Vars::new(variables.iter().cloned()));
        let mut run = || {
            for result in self.0.id.run((ctx.clone(), input.clone())) {
                let value = result.map_err(|exception| match exception.get_err() {
                    // As `catch` sees it: the text of `error("…")` without quotes.
                    Ok(error) => match error.into_val() {
                        Val::TStr(text) => excerpt(&String::from_utf8_lossy(&text), 300),
                        other => excerpt(&other.to_string(), 300),
                    },
                    Err(_) => "it tried to stop the program".to_string(),
                })?;
                output(value)?;
            }
            Ok(())
        };
        // The engine has panicked on odd numbers; one record must not take the night with it unnamed.
        catch_unwind(AssertUnwindSafe(&mut run)).unwrap_or_else(|_| Err("the jq engine panicked".to_string()))
    }
}

/// jaq's natives, but for two: `halt` would end the process, and `env` would show the secrets.
fn natives() -> impl Iterator<Item = jaq_core::native::Fun<Data>> {
    const REFUSED: [&str; 2] = ["halt", "env"];
    let all = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
    let refused = [
        run(("halt", v(1), |_| bome(Err(jaq_core::Error::str("`halt` is not available in a pipeline"))))),
        run(("env", v(0), |_| bome(Err(jaq_core::Error::str("`env` is not available in a pipeline"))))),
    ];
    all.filter(|(name, _, _)| !REFUSED.contains(name)).chain(refused)
}

fn expectation(expected: &str, found: &str) -> String {
    let found = found.split_whitespace().next().unwrap_or("");
    if found.is_empty() {
        format!("expected {expected}, found its end")
    } else {
        format!("expected {expected}, found `{}`", excerpt(found, 40))
    }
}

/// Line and column of `part`, a slice of `text`, both counted from 1.
fn position(text: &str, part: &str) -> (usize, usize) {
    let start = (part.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
    // A name from the engine's own prelude is no slice of ours; an end of input is an empty one.
    let before = text.get(..start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(jq: &str) -> Pipeline {
        let text = format!(
            "[pipeline]\nname = \"t\"\n[api]\nbase_url = \"http://localhost\"\n\
             [[stage]]\nname = \"a\"\nfetch = \"/a\"\nkey = [\"id\"]\njq = '''\n{jq}'''"
        );
        Pipeline::parse(std::path::Path::new("pipeline.toml"), &text).unwrap()
    }

    fn run_on(jq: &str, input: &str) -> Result<Vec<String>, String> {
        let pipeline = stage(jq);
        let filter = Filter::compile(&pipeline, &pipeline.stages[0], &["$x".to_string()]).unwrap();
        let mut outputs = Vec::new();
        let input = jaq_json::read::parse_single(input.as_bytes()).unwrap();
        filter.run(&[Val::from(7usize)], input, |value| {
            outputs.push(value.to_string());
            Ok(())
        })?;
        Ok(outputs)
    }

    fn compile_error(jq: &str) -> String {
        let pipeline = stage(jq);
        Filter::compile(&pipeline, &pipeline.stages[0], &[]).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_filter_sees_its_input_and_its_variables() {
        assert_eq!(run_on(".a[] + $x", r#"{"a":[1,2]}"#).unwrap(), ["8", "9"]);
    }

    #[test]
    fn a_filter_cannot_end_the_process_or_see_the_environment() {
        assert_eq!(run_on("halt", "1").unwrap_err(), "`halt` is not available in a pipeline");
        assert_eq!(run_on("halt_error", "1").unwrap_err(), "`halt` is not available in a pipeline");
        assert_eq!(run_on("env", "1").unwrap_err(), "`env` is not available in a pipeline");
    }

    #[test]
    fn a_runtime_error_is_cut_to_a_line() {
        let error = run_on(".a.b", &format!(r#"{{"a":"{}"}}"#, "x".repeat(10_000))).unwrap_err();
        assert!(error.starts_with("cannot index \"xxx") && error.chars().count() <= 301, "{error}");
    }

    #[test]
    fn compile_errors_tell_their_place() {
        let at = |jq| compile_error(jq).replace('\n', " ");
        assert_eq!(
            at(".a |\n  foo"),
            "the jq filter of stage `a` is wrong: filter `foo` is not defined   \
             at: pipeline.toml:11, line 2 of the filter, column 3"
        );
        assert!(at(".a | $y").contains("variable `$y` is not defined"), "{}", at(".a | $y"));
        assert!(at("{a: 1").contains("expected closing brace"), "{}", at("{a: 1"));
        assert!(at("1 +").contains("expected term, found its end"), "{}", at("1 +"));
    }
}
