//! The 42 API on loopback: synthetic data, real manners.
//!
//! The API cannot be reached from where mirror42 is tested, and would not misbehave to order. So
//! this room imitates it, as unfriendly as it is: [`generate`] makes a world from a seed, [`days`]
//! changes it, [`render`] writes it as the API does, and [`server`] serves it, with the limits,
//! tokens, filters and failures of the real one. [`oracle`] says what the mirror must then hold.
//! [`exports`] makes tables of any size for load tests, without the API. docs/simulator.md is the manual.

pub mod answer;
pub mod api;
pub mod control;
pub mod data;
pub mod days;
pub mod distort;
pub mod drift;
pub mod exports;
pub mod faults;
pub mod generate;
pub mod hold;
pub mod json;
pub mod limits;
pub mod oauth;
pub mod options;
pub mod oracle;
pub mod query;
pub mod render;
pub mod select;
pub mod server;
pub mod stats;
#[cfg(test)]
mod tests;
pub mod tokens;
pub mod words;

use crate::error::Result;
use crate::simulate::options::{Options, Verb};

/// Runs `mirror42-simulate`.
pub fn run(options: Options) -> Result<()> {
    match &options.verb {
        Verb::Serve(options) => server::serve(options),
        Verb::Tables(options) => {
            let which = options.which;
            oracle::write_tables(&days::world(which.seed, usize::from(which.scale), which.day), &options.out)
        }
        Verb::Exports(options) => exports::write(options),
    }
}
