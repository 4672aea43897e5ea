//! mirror42: a Postgres database that is an exact, read-only mirror of a paged REST API.
pub mod error;
pub mod simulate;
