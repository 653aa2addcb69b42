//! Floor 5: whole engines in one process, for tests, benches and the demo.

pub mod payload;
pub mod tracker;
pub mod universe;
