//! How much may be under way: a window that grows while the queues along the way are short and yields when they fill
//! (LEDBAT, RFC 6817).
//!
//! The other side tells how long our packets took by two clocks that agree on nothing; the least it told in the last
//! minutes is the way without queues, and what is above it is queueing. At the target of 100 ms the window stands still, so
//! a flow that only loss holds back takes the link.

use std::{collections::VecDeque, time::Duration};

use castanet_core::Moment;

/// How much queueing is aimed at, in microseconds.
const TARGET: f64 = 100_000.0;
/// The most a window grows in a round trip, in bytes.
const GAIN: f64 = 3000.0;
/// Minutes whose least delay is remembered.
const BASE_MINUTES: usize = 10;
/// Latest delays of which the least counts: one that was held up on its way says nothing.
const LATEST: usize = 4;
/// The largest window, in bytes.
const LARGEST: f64 = (16 << 20) as f64;
/// The smallest, in packets.
const SMALLEST: f64 = 2.0;
/// That of a new connection, in packets (RFC 6928 allows ten).
const FIRST: f64 = 4.0;
/// The share of the target at which the quick beginning ends.
const ENOUGH: f64 = 0.5;

/// The window of a connection.
#[derive(Debug, Clone)]
pub(super) struct Ledbat {
    window: f64,
    /// Bytes in a full packet.
    packet: f64,
    /// Below it the window doubles every round trip, while nothing queues.
    threshold: f64,
    /// The least delay of each minute, the latest last.
    base: VecDeque<u32>,
    minute: Moment,
    latest: VecDeque<u32>,
}

/// Is `a` less than `b` on a clock that runs in a circle?
fn before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) > u32::MAX / 2
}

fn least(delays: impl Iterator<Item = u32>) -> Option<u32> {
    delays.reduce(|least, delay| if before(delay, least) { delay } else { least })
}

impl Ledbat {
    pub(super) fn new(packet: usize, now: Moment) -> Self {
        let packet = packet as f64;
        Self {
            window: FIRST * packet,
            packet,
            threshold: LARGEST,
            base: VecDeque::new(),
            minute: now,
            latest: VecDeque::new(),
        }
    }

    /// Bytes that may be under way.
    pub(super) fn window(&self) -> usize {
        self.window as usize
    }

    /// Does the window double every round trip?
    pub(super) fn is_doubling(&self) -> bool {
        self.window < self.threshold
    }

    /// Full packets have another size now.
    pub(super) fn set_packet(&mut self, packet: usize) {
        self.packet = packet as f64;
    }

    /// Notes how long a packet took, in microseconds by the two clocks.
    pub(super) fn delayed(&mut self, delay: u32, now: Moment) {
        if self.base.is_empty() || now.since(self.minute) >= Duration::from_secs(60) {
            self.minute = now;
            self.base.push_back(delay);
            if self.base.len() > BASE_MINUTES {
                self.base.pop_front();
            }
        }
        if let Some(base) = self.base.back_mut().filter(|base| before(delay, **base)) {
            *base = delay;
        }
        self.latest.push_back(delay);
        if self.latest.len() > LATEST {
            self.latest.pop_front();
        }
    }

    /// Queueing along the way, in microseconds.
    fn queueing(&self) -> f64 {
        match (least(self.base.iter().copied()), least(self.latest.iter().copied())) {
            (Some(base), Some(now)) if !before(now, base) => f64::from(now.wrapping_sub(base)),
            _ => 0.0,
        }
    }

    /// So many bytes have arrived. `was_full`: the window was what held us back.
    pub(super) fn acked(&mut self, bytes: usize, was_full: bool) {
        let (bytes, queueing) = (bytes as f64, self.queueing());
        if self.window < self.threshold && queueing > ENOUGH * TARGET {
            self.threshold = self.window;
        }
        let change = if self.is_doubling() {
            bytes
        } else {
            let off_target = ((TARGET - queueing) / TARGET).max(-1.0);
            GAIN * off_target * bytes / self.window
        };
        if was_full || change < 0.0 {
            self.set(self.window + change);
        }
    }

    /// Something was lost: half of it, once in a round trip.
    pub(super) fn lost(&mut self) {
        self.set(self.window / 2.0);
        self.threshold = self.window;
    }

    /// Nothing arrives any more: begin anew, quickly up to half of what it was.
    pub(super) fn timed_out(&mut self) {
        self.threshold = (self.window / 2.0).max(SMALLEST * self.packet);
        self.set(0.0);
    }

    fn set(&mut self, window: f64) {
        self.window = window.clamp(SMALLEST * self.packet, LARGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledbat() -> Ledbat {
        Ledbat::new(1000, Moment::ZERO)
    }

    /// Round trips with so much queueing.
    fn run(ledbat: &mut Ledbat, trips: usize, queueing: u32, since: u64) {
        for trip in 0..trips {
            ledbat.delayed(u32::MAX - 5_000, Moment::from_secs(since));
            for _ in 0..4 {
                ledbat.delayed((u32::MAX - 5_000).wrapping_add(queueing), Moment::from_secs(since + trip as u64 / 10));
            }
            ledbat.acked(ledbat.window(), true);
        }
    }

    #[test]
    fn it_doubles_then_grows_then_stands_then_yields() {
        let mut ledbat = ledbat();
        run(&mut ledbat, 4, 0, 0);
        assert_eq!(ledbat.window(), 64_000, "four packets, doubled four times; clocks that wrap do not matter");
        run(&mut ledbat, 1, 60_000, 0);
        let slower = ledbat.window();
        assert!(slower - 64_000 <= 1_300, "{slower}");
        run(&mut ledbat, 10, 100_000, 0);
        assert_eq!(ledbat.window(), slower, "at the target");
        run(&mut ledbat, 1000, 400_000, 0);
        assert_eq!(ledbat.window(), 2_000, "the floor");
    }

    #[test]
    fn loss_halves_and_silence_begins_anew() {
        let mut ledbat = ledbat();
        run(&mut ledbat, 5, 0, 0);
        ledbat.lost();
        assert_eq!(ledbat.window(), 64_000);
        run(&mut ledbat, 1, 0, 0);
        assert_eq!(ledbat.window(), 67_000, "no doubling after a loss");
        ledbat.timed_out();
        assert_eq!(ledbat.window(), 2_000);
        run(&mut ledbat, 3, 0, 0);
        assert_eq!(ledbat.window(), 16_000);
    }

    #[test]
    fn who_sends_little_does_not_grow_and_old_ways_are_forgotten() {
        let mut ledbat = ledbat();
        for _ in 0..1000 {
            ledbat.acked(1000, false);
        }
        assert_eq!(ledbat.window(), 4_000);
        // The way has become 200 ms longer. After some minutes that is no queueing.
        ledbat.delayed(0, Moment::ZERO);
        for minute in 1..=BASE_MINUTES as u64 {
            ledbat.delayed(200_000, Moment::from_secs(60 * minute));
        }
        assert_eq!(ledbat.queueing(), 0.0);
    }
}
