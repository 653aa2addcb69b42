//! How fast bytes flow and how fast they may: [`Meter`] measures a rate, [`TokenBucket`] enforces one, [`eta`] divides.
//!
//! Integers only, and time is an argument: two runs with the same moments give the same numbers.

use std::time::Duration;

use castanet_core::Moment;

/// Whole seconds over which a [`Meter`] averages: long enough to be steady, short enough to follow a peer that stalls.
pub const WINDOW: usize = 10;

const SLOTS: usize = WINDOW + 1;
const NANOS: u64 = 1_000_000_000;

/// Counts bytes and knows their rate over the last ten seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meter {
    total: u64,
    /// Bytes of one second each; the second `s` lies at `s % SLOTS`.
    slots: [u64; SLOTS],
    /// The second of the latest byte.
    newest: u64,
    /// When the flow began, or began again after a window of silence.
    began: Moment,
}

impl Meter {
    /// A meter that has seen nothing.
    pub fn new(now: Moment) -> Self {
        Self { total: 0, slots: [0; SLOTS], newest: second(now), began: now }
    }

    /// Counts `bytes` that flowed at `now`. Moments must not run backwards; one that does counts as the latest.
    pub fn add(&mut self, bytes: u64, now: Moment) {
        let at = second(now).max(self.newest);
        if at - self.newest >= SLOTS as u64 {
            self.slots = [0; SLOTS];
            self.began = now;
        } else {
            (self.newest + 1..=at).for_each(|passed| self.slots[slot(passed)] = 0);
        }
        self.newest = at;
        self.slots[slot(at)] = self.slots[slot(at)].saturating_add(bytes);
        self.total = self.total.saturating_add(bytes);
    }

    /// Bytes a second over the window, or since the flow began if that is shorter (but over one second at least).
    pub fn rate(&self, now: Moment) -> u64 {
        let at = second(now).max(self.newest);
        let oldest = at.saturating_sub(WINDOW as u64);
        let recent = (oldest.max(self.newest.saturating_sub(WINDOW as u64))..=self.newest)
            .fold(0u64, |sum, second| sum.saturating_add(self.slots[slot(second)]));
        let span = now.since(self.began.max(Moment::from_secs(oldest))).max(Duration::from_secs(1));
        per(recent, span)
    }

    /// All bytes ever counted.
    pub fn total(&self) -> u64 {
        self.total
    }
}

/// Lets bytes through at a limited rate.
///
/// Who comes while the bucket is not in debt may take a whole chunk, however large, and the bucket goes into debt for
/// it: large frames pass at small rates, and the average still holds. A quarter of a second's bytes are saved up while
/// nobody takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBucket {
    /// Bytes a second; `None` lets everything through.
    rate: Option<u64>,
    /// When all that can be saved up will be. Later than [`BURST`] from now: debt.
    full: Moment,
}

/// How long the bucket saves up.
pub const BURST: Duration = Duration::from_millis(250);

impl TokenBucket {
    /// A bucket of so many bytes a second without savings; `None` is no limit, 0 counts as 1.
    pub fn new(rate: Option<u64>, now: Moment) -> Self {
        Self { full: now + BURST, ..Self::full(rate, now) }
    }

    /// The same with all the savings that there can be.
    pub fn full(rate: Option<u64>, now: Moment) -> Self {
        Self { rate: rate.map(|rate| rate.max(1)), full: now }
    }

    /// The limit in bytes a second.
    pub fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// Changes the limit. Bytes owed stay owed, at the new rate.
    pub fn set_rate(&mut self, rate: Option<u64>, now: Moment) {
        let owed =
            self.rate.map_or(0, |old| u128::from(old) * self.full.since(now + BURST).as_nanos() / u128::from(NANOS));
        *self = Self::new(rate, now);
        self.charge(u64::try_from(owed).unwrap_or(u64::MAX), now);
    }

    /// Takes `bytes`, or says when to ask again. Those who must ask again have taken nothing.
    pub fn take(&mut self, bytes: u64, now: Moment) -> Result<(), Moment> {
        if self.rate.is_some() && self.full > now + BURST {
            return Err(self.full - BURST);
        }
        self.charge(bytes, now);
        Ok(())
    }

    /// Takes `bytes` in any case, as when they have arrived already, and says from when on the taker may go on: those
    /// who wait are served in the order in which they came.
    pub fn charge(&mut self, bytes: u64, now: Moment) -> Moment {
        let Some(rate) = self.rate else { return now };
        let turn = (self.full - BURST).max(now);
        self.full = self.full.max(now) + at_rate(bytes, rate);
        turn
    }
}

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

/// Bytes a second.
fn per(bytes: u64, span: Duration) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(NANOS) / span.as_nanos().max(1)).unwrap_or(u64::MAX)
}

fn second(now: Moment) -> u64 {
    now.0 / NANOS
}

fn slot(second: u64) -> usize {
    (second % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: u64 = 1024;

    fn ms(n: u64) -> Moment {
        Moment(n * 1_000_000)
    }

    #[test]
    fn a_steady_flow_is_measured_exactly_and_forgotten_after_the_window() {
        let mut meter = Meter::new(ms(500));
        for tenth in 0..300 {
            meter.add(100 * KIB, ms(500 + 100 * tenth));
        }
        let rate = meter.rate(ms(30_500));
        assert!((1000 * KIB).abs_diff(rate) <= 20 * KIB, "{rate}");
        assert_eq!(meter.total(), 30_000 * KIB);
        let half_gone = meter.rate(ms(35_500));
        assert!(half_gone < rate * 6 / 10 && half_gone > rate * 4 / 10, "{half_gone}");
        assert_eq!(meter.rate(ms(42_000)), 0);
    }

    #[test]
    fn the_first_seconds_are_not_averaged_with_silence() {
        let mut meter = Meter::new(Moment::ZERO);
        meter.add(KIB, ms(0));
        meter.add(KIB, ms(60_000));
        assert_eq!(meter.rate(ms(60_500)), KIB, "one second at least");
        meter.add(KIB, ms(62_000));
        assert_eq!(meter.rate(ms(62_000)), KIB, "two KiB in two seconds");
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
    fn those_who_wait_are_served_in_order() {
        let mut bucket = TokenBucket::new(Some(1000), ms(0));
        let turns: Vec<_> = (0..4).map(|_| bucket.charge(100, ms(0))).collect();
        assert_eq!(turns, [ms(0), ms(100), ms(200), ms(300)]);
    }

    #[test]
    fn debt_survives_a_change_of_rate_and_ends_without_a_limit() {
        let mut bucket = TokenBucket::new(Some(1000), ms(0));
        bucket.charge(1000, ms(0));
        bucket.set_rate(Some(500), ms(500));
        assert_eq!(bucket.take(1, ms(500)), Err(ms(1500)));
        bucket.set_rate(None, ms(500));
        assert_eq!(bucket.take(u64::MAX, ms(500)), Ok(()));
        bucket.set_rate(Some(0), ms(500));
        assert_eq!(bucket.rate(), Some(1));
    }

    #[test]
    fn eta_is_a_division() {
        assert_eq!(eta(0, 0), Some(Duration::ZERO));
        assert_eq!(eta(1, 0), None);
        assert_eq!(eta(10 * KIB, KIB), Some(Duration::from_secs(10)));
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
