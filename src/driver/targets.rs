//! What a run is to bring up to date, and by what means.

use super::owed::Owed;

/// Whether a run may ask the API, and start programs of the user's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fetching {
    #[default]
    AsNeeded,
    /// The pages that are here have to do, whatever their age. Programs are started.
    Offline,
    /// Nor are programs.
    Never,
}

/// Whether what a target needs is brought up to date with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    #[default]
    WithNeeds,
    /// What is there has to do.
    Only,
}

/// What counts of an export that is not what its receipt says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// The receipt: it is made anew.
    #[default]
    Receipts,
    /// The export, as it is.
    Exports,
}

/// What a run is to bring up to date.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    pub stages: Vec<String>,
    pub reach: Reach,
    /// Make these again whatever their receipts say.
    pub forced: Vec<String>,
    /// And these, since earlier runs have left them to be fetched.
    pub owed: Vec<Owed>,
    pub load: bool,
    pub validate: bool,
    /// Load and validate whatever the ledger says.
    pub again: bool,
    pub fetching: Fetching,
    pub trust: Trust,
}
