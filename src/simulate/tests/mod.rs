//! Tests that take more than one file of this room.

mod promises;
mod wire;
