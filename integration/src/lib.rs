//! Floor 5: whole engines in one process, for tests, benches and the demo.

pub mod counted;
#[cfg(all(feature = "tun", target_os = "linux"))]
pub mod emulator;
pub mod lab;
pub mod payload;
pub mod tracker;
pub mod universe;
