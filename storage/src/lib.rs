//! Floor 3: torrents at rest. Files on disk, memory for tests, and what is remembered between two runs.
//!
//! [`files`] and [`memory`] implement the storage seam, [`resume`] the resume seam, [`notebook`] that of plugins'
//! memory. All of it blocks: the storage actor owns the threads.

pub mod files;
pub mod memory;
pub mod notebook;
pub mod resume;
mod segments;
