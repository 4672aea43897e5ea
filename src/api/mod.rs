//! One request to the API, until it has an answer that can be used or a reason to give up.
//!
//! The only room that knows of HTTP. Each attempt takes a slot of the shared [`crate::limiter`],
//! gets its authorization ([`auth`], [`token`]), counts from when it leaves ([`departure`]) and is judged by one table
//! ([`outcome`]); [`Client::get`]
//! repeats it as the verdict says.

mod auth;
mod client;
mod departure;
mod link;
pub mod login;
mod outcome;
mod query;
pub mod token;
mod token_file;

pub use client::{Answer, Client, Counts, Request};
pub use outcome::Verdict;
