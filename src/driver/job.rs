//! What the driver starts processes for.

/// What one child process is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    Fetch(String),
    /// The program of a stage.
    Exec(String),
    /// Stages of one source.
    Extract(Vec<String>),
    Load,
    Validate,
}

impl Job {
    pub fn stages(&self) -> &[String] {
        match self {
            Job::Fetch(name) | Job::Exec(name) => std::slice::from_ref(name),
            Job::Extract(names) => names,
            Job::Load | Job::Validate => &[],
        }
    }
}
