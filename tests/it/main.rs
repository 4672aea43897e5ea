//! Real binaries, real files, a real Postgres. One binary, so that all of it links once.

mod embedded;
mod load;
mod space;
mod validate;
