//! Time as the engine's decisions see it: nanoseconds since the engine started, handed in from outside.

use std::{
    ops::{Add, AddAssign, Sub},
    time::Duration,
};

/// A point in time: nanoseconds since the engine's start. Never read from a clock below `castanet-actors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// The engine's start.
    pub const ZERO: Self = Self(0);
    /// Later than everything: for deadlines that never come.
    pub const NEVER: Self = Self(u64::MAX);

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
    /// A moment so many seconds after the start.
    pub fn from_secs(seconds: u64) -> Self {
        Self::ZERO + Duration::from_secs(seconds)
    }
    /// Seconds since the start, as logs and reports print it.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

impl Add<Duration> for Moment {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}
impl AddAssign<Duration> for Moment {
    fn add_assign(&mut self, by: Duration) {
        *self = *self + by;
    }
}
impl Sub<Duration> for Moment {
    type Output = Self;
    fn sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Moment::NEVER + Duration::from_secs(1), Moment::NEVER);
        assert_eq!(Moment::ZERO - Duration::from_secs(1), Moment::ZERO);
        assert_eq!(Moment::ZERO.since(Moment::from_secs(3)), Duration::ZERO);
        assert_eq!(Moment::from_secs(3).since(Moment::from_secs(1)), Duration::from_secs(2));
    }
}
