//! The worked experiment's plugin (docs/EXPERIMENT.md), compiled and run where its files lie.
#![allow(missing_docs, clippy::unwrap_used)]

// What the files call the plugin's crate.
extern crate self as memory;

#[path = "../../examples/plugins/memory/src/lib.rs"]
mod plugin;
#[allow(dead_code)]
#[path = "../../examples/plugins/memory/src/main.rs"]
mod program;
#[path = "../../examples/plugins/memory/tests/works.rs"]
mod works;

pub use plugin::{MOST_PEERS, MOST_TORRENTS, NAME, build};
