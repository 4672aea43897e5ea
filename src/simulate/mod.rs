//! The 42 API on loopback: synthetic data, real manners.
pub mod data;
pub mod days;
pub mod generate;
pub mod json;
pub mod oracle;
pub mod render;
pub mod words;

#[cfg(test)]
mod tests;
