//! How fast bytes flow and how fast they may: [`Meter`] measures a rate, [`TokenBucket`] enforces one, [`Turns`] enforces
//! the limits of a session, its torrents and their connections together, and [`eta`] divides.
//!
//! Integers only, and time is an argument: two runs with the same moments give the same numbers.

mod bucket;
mod meter;
mod queue;
mod turns;

use std::time::Duration;

pub use self::{
    bucket::{BURST, TokenBucket},
    meter::{Meter, WINDOW},
    turns::{GroupKey, LEAST_GRANT, MemberKey, Turns},
};

const NANOS: u64 = 1_000_000_000;

/// How long `left` bytes take at `rate` bytes a second; `None` if they never end.
pub fn eta(left: u64, rate: u64) -> Option<Duration> {
    match (left, rate) {
        (0, _) => Some(Duration::ZERO),
        (_, 0) => None,
        _ => Some(at_rate(left, rate)),
    }
}

/// The time that `bytes` take at `rate` > 0, rounded up to a nanosecond.
fn at_rate(bytes: u64, rate: u64) -> Duration {
    let nanos = (u128::from(bytes) * u128::from(NANOS)).div_ceil(u128::from(rate));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use castanet_core::Moment;

    use super::*;

    pub(super) const KIB: u64 = 1024;

    pub(super) fn ms(n: u64) -> Moment {
        Moment(n * 1_000_000)
    }

    #[test]
    fn eta_is_a_division() {
        assert_eq!(eta(0, 0), Some(Duration::ZERO));
        assert_eq!(eta(1, 0), None);
        assert_eq!(eta(10 * KIB, KIB), Some(Duration::from_secs(10)));
    }
}
