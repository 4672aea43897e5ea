//! mirror42: a Postgres database that is an exact, read-only mirror of a paged REST API.
//!
//! The life of a record, from a page of the API to a row:
//!
//! 1. `pipeline.toml` ([`pipeline`]) names a stage. The [`driver`] finds that what it wrote last is no longer current,
//!    and runs `mirror42-fetch`.
//! 2. [`fetch`] plans the stage's series of pages. For each request [`limiter`] gives out a slot that all processes
//!    share, and [`api`] gets an answer that can be used, or says why there is none.
//! 3. A series that is proven whole is put in its place under `exports/` ([`paths`], [`files`]), and the receipt beside it
//!    ([`receipt`]) tells every page's hash.
//! 4. [`extract`] sends each raw record through the stage's jq filter. What comes out stands in `all.json`, one record a
//!    line, in the order of its key ([`export`]). Raw records that a program of the user's writes come the same way, by
//!    [`exec`].
//! 5. [`load`] encodes each record as the row that it is to be ([`codec`]), drops what refers to nothing, compares it with the table
//!    ([`diff`]) and writes what differs: all tables in one transaction, by way of [`pg`].
//! 6. The row stands. [`validate`] looks at the whole: keys, counts, age, and the pipeline's own checks.
//!
//! Beside the way: [`token`] and [`rotate`] look after the token and the logs, [`simulate`] is the API on loopback. Under all
//! of it are [`cli`], [`manual`], [`error`], [`log`], [`process`], [`progress`], [`secret`], [`stop`] and [`style`]. ARCHITECTURE.md has
//! the floors of the house and what always holds.

pub mod api;
pub mod cli;
pub mod codec;
pub mod diff;
pub mod driver;
pub mod error;
pub mod exec;
pub mod export;
pub mod extract;
pub mod fetch;
pub mod files;
pub mod limiter;
pub mod load;
pub mod log;
pub mod manual;
pub mod paths;
pub mod pg;
pub mod pipeline;
pub mod process;
pub mod progress;
pub mod receipt;
pub mod rotate;
pub mod secret;
pub mod simulate;
pub mod stop;
pub mod style;
pub mod token;
pub mod validate;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
