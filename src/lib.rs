//! mirror42: a Postgres database that is an exact, read-only mirror of a paged REST API.

pub mod api;
pub mod cli;
pub mod driver;
pub mod error;
pub mod export;
pub mod extract;
pub mod fetch;
pub mod files;
pub mod limiter;
pub mod load;
pub mod log;
pub mod paths;
pub mod pg;
pub mod pipeline;
pub mod progress;
pub mod receipt;
pub mod rotate;
pub mod simulate;
pub mod token;
pub mod validate;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
