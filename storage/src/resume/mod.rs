//! Resume records: in files that a crash at any moment leaves whole, and in memory for tests.

mod files;
mod memory;
mod record;

pub use files::{FileResumeStore, LARGEST_RECORD};
pub use memory::MemoryResumeStore;
