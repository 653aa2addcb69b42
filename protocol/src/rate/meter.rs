//! Counts bytes and knows their rate.

use std::time::Duration;

use castanet_core::Moment;

use super::NANOS;

/// Whole seconds over which a [`Meter`] averages: long enough to be steady, short enough to follow a peer that stalls.
pub const WINDOW: usize = 10;

const SLOTS: usize = WINDOW + 1;

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
    use super::super::tests::{KIB, ms};
    use super::*;

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
}
