//! One request to the API, until it has an answer that can be used or a reason to give up.
//!
//! The only room that knows of HTTP. Each attempt takes a slot of the shared [`crate::limiter`],
//! gets its authorization ([`auth`], [`token`]), counts from when it leaves ([`departure`]) and is judged by one table
//! ([`outcome`]); [`retry`] repeats it as the verdict says, for pages ([`Client::get`]) and tokens alike.

mod answer;
mod auth;
mod client;
mod credential;
mod departure;
mod link;
pub mod login;
mod outcome;
mod query;
mod retry;
pub mod token;
mod token_file;

pub use answer::Answer;
pub use client::{Client, Request};
pub use outcome::Verdict;
pub use retry::Counts;
