//! The engine's clock: tokio's, so that it stands still when a test pauses time.

use castanet_core::{Moment, seams::means::Clock};

/// A clock that starts now.
pub(crate) fn start() -> Clock {
    let origin = tokio::time::Instant::now();
    Clock::new(move || Moment(u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX)))
}
