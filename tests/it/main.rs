//! Real binaries, real files, a real Postgres. One binary, so that all of it links once.

mod auth;
mod chaos;
mod database_tls;
mod docs;
mod driver;
mod embedded;
mod examples;
mod extract;
mod fetch;
mod fetch_connections;
mod fetch_faults;
mod limiter;
mod load;
mod load_crash;
mod load_refusals;
mod load_values;
mod login;
mod paging;
mod pgbouncer;
mod resume;
mod rotate;
mod simulator;
mod space;
mod tidy;
mod token;
mod validate;
