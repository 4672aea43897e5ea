//! mirror42: a Postgres database that is an exact, read-only mirror of a paged REST API.

pub mod api;
pub mod cli;
pub mod error;
pub mod export;
pub mod extract;
pub mod fetch;
pub mod files;
pub mod limiter;
pub mod log;
pub mod paths;
pub mod pipeline;
pub mod progress;
pub mod receipt;
pub mod simulate;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
