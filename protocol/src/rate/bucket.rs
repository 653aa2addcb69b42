//! Lets bytes through at a limited rate.

use std::time::Duration;

use castanet_core::Moment;

use super::at_rate;

/// Lets bytes through at a limited rate.
///
/// Who comes while the bucket is not in debt may take a whole chunk, however large, and the bucket goes into debt for
/// it: large frames pass at small rates, and the average still holds. A quarter of a second's bytes are saved up while
/// nobody takes, unless [`TokenBucket::saving`] says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBucket {
    /// Bytes a second; `None` lets everything through.
    rate: Option<u64>,
    /// How long it saves up.
    burst: Duration,
    /// When all that can be saved up will be. Later than `burst` from now: debt.
    full: Moment,
}

/// How long a bucket saves up unless it is told otherwise.
pub const BURST: Duration = Duration::from_millis(250);

impl TokenBucket {
    /// A bucket of so many bytes a second without savings; `None` is no limit, 0 counts as 1.
    pub fn new(rate: Option<u64>, now: Moment) -> Self {
        Self { full: now + BURST, ..Self::full(rate, now) }
    }

    /// The same with all the savings that there can be.
    pub fn full(rate: Option<u64>, now: Moment) -> Self {
        Self { rate: rate.map(|rate| rate.max(1)), burst: BURST, full: now }
    }

    /// An empty bucket that saves up for so long.
    pub fn saving(burst: Duration, rate: Option<u64>, now: Moment) -> Self {
        Self { burst, full: now + burst, ..Self::full(rate, now) }
    }

    /// The limit in bytes a second.
    pub fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// Changes the limit. What was taken before was within the limit of then: it is not owed at the new one.
    pub fn set_rate(&mut self, rate: Option<u64>, now: Moment) {
        *self = Self::saving(self.burst, rate, now);
    }

    /// From when on it is not in debt.
    pub fn ready(&self) -> Moment {
        if self.rate.is_some() { self.full - self.burst } else { Moment::ZERO }
    }

    /// Takes `bytes`, or says when to ask again. Those who must ask again have taken nothing.
    pub fn take(&mut self, bytes: u64, now: Moment) -> Result<(), Moment> {
        if self.ready() > now {
            return Err(self.ready());
        }
        self.charge(bytes, now);
        Ok(())
    }

    /// The same, and goes no deeper into debt by it than what flows in so much time: what cannot be held up must not hold
    /// up the rest for ever.
    pub fn charge_within(&mut self, most: Duration, bytes: u64, now: Moment) {
        let before = self.full;
        self.charge(bytes, now);
        self.full = self.full.min((now + self.burst + most).max(before));
    }

    /// Takes `bytes` in any case, as when they have arrived already.
    pub fn charge(&mut self, bytes: u64, now: Moment) {
        if let Some(rate) = self.rate {
            self.full = self.full.max(now) + at_rate(bytes, rate);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{KIB, ms};
    use super::*;

    #[test]
    fn what_does_not_wait_goes_into_debt_for_so_long_at_most() {
        let mut bucket = TokenBucket::new(Some(KIB), ms(0));
        (0..100).for_each(|_| bucket.charge_within(Duration::from_secs(1), 10 * KIB, ms(0)));
        assert_eq!(bucket.ready(), ms(1000));
        bucket.charge(10 * KIB, ms(0));
        bucket.charge_within(Duration::from_secs(1), KIB, ms(0));
        assert_eq!(bucket.ready(), ms(11_000), "what was owed before is owed");
    }

    #[test]
    fn a_large_frame_passes_a_small_bucket_and_is_paid_for() {
        let mut bucket = TokenBucket::new(Some(64 * KIB), ms(0));
        assert_eq!(bucket.take(128 * KIB, ms(0)), Ok(()));
        assert_eq!(bucket.take(1, ms(1999)), Err(ms(2000)));
        assert_eq!(bucket.take(1, ms(2000)), Ok(()));
    }

    #[test]
    fn savings_are_a_quarter_of_a_second() {
        let mut bucket = TokenBucket::new(Some(1000), ms(0));
        for _ in 0..25 {
            assert_eq!(bucket.take(10, ms(60_000)), Ok(()));
        }
        assert_eq!(bucket.take(10, ms(60_000)), Ok(()), "the savings are spent to zero; one chunk on credit");
        assert_eq!(bucket.take(10, ms(60_000)), Err(ms(60_010)));
    }

    #[test]
    fn a_change_of_rate_forgives_and_no_limit_lets_everything_through() {
        let mut bucket = TokenBucket::saving(Duration::from_millis(100), Some(1000), ms(0));
        bucket.charge(10_000, ms(0));
        bucket.set_rate(Some(500), ms(500));
        assert_eq!(bucket.take(100, ms(500)), Ok(()));
        assert_eq!(bucket.take(1, ms(500)), Err(ms(700)));
        bucket.set_rate(None, ms(500));
        assert_eq!(bucket.take(u64::MAX, ms(500)), Ok(()));
        bucket.set_rate(Some(0), ms(500));
        assert_eq!(bucket.rate(), Some(1));
    }

    proptest! {
        #[test]
        fn no_pattern_of_taking_beats_the_rate(takes in proptest::collection::vec((0u64..400, 1u64..20_000), 1..200)) {
            let rate = 10_000;
            let mut bucket = TokenBucket::new(Some(rate), ms(0));
            let (mut now, mut taken) = (0, 0);
            for (wait, bytes) in takes {
                now += wait;
                if bucket.take(bytes, ms(now)).is_ok() {
                    taken += bytes;
                }
            }
            prop_assert!(taken <= rate * now / 1000 + rate / 4 + 20_000, "{taken} bytes in {now} ms");
        }
    }
}
