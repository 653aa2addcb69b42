//! When packets leave: spread over a round trip.
//!
//! One burst a round trip would be answered by one acknowledgement, all of which is lost with it, and fills queues for
//! nothing.

use std::time::Duration;

use castanet_core::Moment;

/// A round trip that takes less is not spread over: that is no more than a timer's tick or two.
const LEAST_TRIP: Duration = Duration::from_millis(5);
/// Timers are so late at most: what should have left in this time leaves at once.
const BURST: Duration = Duration::from_millis(2);
/// How much faster than the window is used up packets leave, so that the window stays what limits ...
const SPEED: f64 = 1.25;
/// ... and while it doubles every round trip.
const SPEED_DOUBLING: f64 = 2.0;

/// Says when the next packet may leave.
#[derive(Debug)]
pub(super) struct Pacer {
    next: Moment,
}

impl Pacer {
    /// One may leave at once.
    pub(super) fn new(now: Moment) -> Self {
        Self { next: now }
    }

    /// When the next may leave.
    pub(super) fn next(&self) -> Moment {
        self.next
    }

    /// A packet leaves, of a window of so many bytes that lasts for a round trip.
    pub(super) fn left(&mut self, bytes: usize, window: usize, is_doubling: bool, trip: Option<Duration>, now: Moment) {
        let Some(trip) = trip.filter(|trip| *trip >= LEAST_TRIP) else { return };
        let speed = if is_doubling { SPEED_DOUBLING } else { SPEED };
        let share = bytes as f64 / (speed * window as f64);
        self.next = self.next.max(now - BURST) + trip.mul_f64(share.min(1.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Moment {
        Moment::ZERO + Duration::from_millis(milliseconds)
    }

    /// How many packets of a window of twenty leave within a round trip of 100 ms, by a timer that ticks so often.
    fn leave(is_doubling: bool, tick: u64) -> Vec<u64> {
        let mut pacer = Pacer::new(ms(1000));
        let mut left = Vec::new();
        for now in (1000..1100).step_by(tick as usize) {
            while pacer.next() <= ms(now) {
                pacer.left(1000, 20_000, is_doubling, Some(Duration::from_millis(100)), ms(now));
                left.push(now);
            }
        }
        left
    }

    #[test]
    fn a_window_is_spread_over_most_of_a_round_trip() {
        let left = leave(false, 1);
        assert!((25..=27).contains(&left.len()), "{left:?}");
        assert!(left.windows(2).all(|two| two[1] - two[0] <= 5), "{left:?}");
        assert!((40..=42).contains(&leave(true, 1).len()));
    }

    #[test]
    fn a_late_timer_is_made_up_for_and_a_rest_is_not() {
        assert!(leave(false, 2).len() >= 25);
        let mut pacer = Pacer::new(ms(0));
        pacer.left(1000, 20_000, false, Some(Duration::from_millis(100)), ms(5000));
        assert_eq!(pacer.next(), ms(5002));
    }

    #[test]
    fn a_short_way_is_not_paced() {
        let mut pacer = Pacer::new(ms(7));
        pacer.left(1000, 1000, false, Some(Duration::from_millis(4)), ms(7));
        pacer.left(1000, 1000, false, None, ms(7));
        assert_eq!(pacer.next(), ms(7));
    }
}
