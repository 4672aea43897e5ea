//! A stage that is to be fetched whatever its receipt says, as one line of a file.

use std::fmt;

use super::job::Job;
use crate::error::{Error, Result};
use crate::files;
use crate::pipeline::Pipeline;

/// A stage that is to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    pub stage: String,
    /// Only while the definitions of what could not use its records have this hash; none: whatever they are.
    while_same: Option<(String, Failed)>,
}

/// What could not use the records of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failed {
    /// The filters of these stages.
    Extract(Vec<String>),
    /// The load, at the export of this one.
    Load(String),
}

impl Owed {
    /// Whatever has changed by then.
    pub fn whatever(stage: &str) -> Owed {
        Owed { stage: stage.to_string(), while_same: None }
    }

    /// The stage whose records a job could not use, told by the place of its error; none if it failed at anything else.
    pub fn by_failure(pipeline: &Pipeline, job: &Job, error: &Error) -> Result<Option<Owed>> {
        let named = error.place().and_then(|place| place.split_once("exports/")).map(|(_, place)| place);
        let Some(place) = named.filter(|place| place.contains(", record ")) else { return Ok(None) };
        let Some(stage) = place.split('/').next().and_then(|name| pipeline.stage(name)) else { return Ok(None) };
        let failed = match job {
            Job::Extract(stages) => Failed::Extract(stages.clone()),
            _ => Failed::Load(stage.name.clone()),
        };
        let hash = failed.hash(pipeline)?;
        let (source, _) = pipeline.source_of(stage)?;
        Ok(Some(Owed { stage: source.name.clone(), while_same: hash.map(|hash| (hash, failed)) }))
    }

    /// From its line; none if there is no such stage any more.
    pub fn parse(line: &str, pipeline: &Pipeline) -> Option<Owed> {
        let mut words = line.split('\t');
        let stage = words.next().filter(|name| pipeline.stage(name).is_some())?.to_string();
        let while_same = words.next().zip(words.next()).and_then(|(hash, what)| {
            let names: Vec<String> = words.map(str::to_string).collect();
            let failed = match (what, names.first()) {
                ("load", Some(name)) => Failed::Load(name.clone()),
                ("extract", Some(_)) => Failed::Extract(names),
                _ => return None,
            };
            Some((hash.to_string(), failed))
        });
        Some(Owed { stage, while_same })
    }

    /// Whether it still is. Where a definition cannot be read, nothing is known to have changed.
    pub fn is_owed(&self, pipeline: &Pipeline) -> bool {
        match &self.while_same {
            None => true,
            Some((hash, failed)) => failed.hash(pipeline).map_or(true, |now| now.as_ref() == Some(hash)),
        }
    }

    /// Puts it among others, once. What is owed whatever has changed is owed on no condition beside.
    pub fn join(self, others: &mut Vec<Owed>) {
        let says_it = |other: &Owed| other.stage == self.stage && (other.while_same.is_none() || *other == self);
        if others.iter().any(says_it) {
            return;
        }
        if self.while_same.is_none() {
            others.retain(|other| other.stage != self.stage);
        }
        others.push(self);
    }
}

impl fmt::Display for Owed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.stage)?;
        match &self.while_same {
            None => Ok(()),
            Some((hash, Failed::Extract(stages))) => write!(f, "\t{hash}\textract\t{}", stages.join("\t")),
            Some((hash, Failed::Load(stage))) => write!(f, "\t{hash}\tload\t{stage}"),
        }
    }
}

impl Failed {
    /// Of the definitions that decide whether it fails again; none if one of its stages is gone.
    fn hash(&self, pipeline: &Pipeline) -> Result<Option<String>> {
        let (stages, load) = match self {
            Failed::Extract(stages) => (&stages[..], None),
            Failed::Load(stage) => (std::slice::from_ref(stage), Some(pipeline.load_definition()?)),
        };
        let mut text = load.unwrap_or_default();
        for name in stages {
            let Some(stage) = pipeline.stage(name) else { return Ok(None) };
            text.push('\n');
            text.push_str(&pipeline.extract_definition(stage)?);
        }
        Ok(Some(files::sha256_of(text.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[pipeline]\nname = 'x'\n[api]\nbase_url = 'http://127.0.0.1:1'\n
        [[stage]]\nname = 'a'\nfetch = '/a'\njq = '.'\nkey = ['id']\ntable = 'a'\n
        [[stage]]\nname = 'b'\nfrom = 'a'\njq = '.x'\nkey = ['id']\n";

    fn parsed(text: &str) -> Pipeline {
        Pipeline::parse("pipeline.toml".as_ref(), text).unwrap()
    }

    #[test]
    fn a_doubt_ends_with_what_failed() {
        let pipeline = parsed(TEXT);
        let job = Job::Extract(vec!["a".to_string(), "b".to_string()]);
        let error = Error::failed("x").at("exports/a/pages/0001.json, record 3");
        let owed = Owed::by_failure(&pipeline, &job, &error).unwrap().unwrap();
        let again = |text: &str| {
            let owed = Owed::parse(&owed.to_string(), &parsed(text)).unwrap();
            owed.is_owed(&parsed(text))
        };
        assert_eq!(Owed::parse(&owed.to_string(), &pipeline), Some(owed.clone()));
        assert!(again(TEXT) && !again(&TEXT.replace(".x", ".y")) && !again(&TEXT.replace("'b'", "'c'")));
        assert!(Owed::whatever("a").is_owed(&pipeline));
        let mut all = Vec::new();
        [owed.clone(), owed.clone()].into_iter().for_each(|owed| owed.join(&mut all));
        assert_eq!(all, vec![owed.clone()]);
        [Owed::whatever("b"), Owed::whatever("a"), owed].into_iter().for_each(|owed| owed.join(&mut all));
        assert_eq!(all, [Owed::whatever("b"), Owed::whatever("a")]);
        assert_eq!(Owed::parse("gone", &pipeline), None);
        let other = Error::failed("x").at("pipeline.toml:3");
        assert_eq!(Owed::by_failure(&pipeline, &job, &other).unwrap(), None);
        let of_load = Error::failed("x").at("exports/b/all.json, record 3 (id 7), column `b.x`");
        let owed = Owed::by_failure(&pipeline, &Job::Load, &of_load).unwrap().unwrap();
        assert_eq!((owed.stage.as_str(), owed.to_string().ends_with("\tload\tb")), ("a", true));
        assert_eq!(Owed::parse(&owed.to_string(), &pipeline), Some(owed));
    }
}
