//! Packets under way: handed over with a moment, given back when they arrive.

use std::collections::BTreeMap;

use castanet_core::Moment;

use super::{Fate, Line, Loss};

/// Bytes of packets under way at a time, counting what keeping each costs; more are lost as if the queue were full.
pub const MOST_UNDER_WAY: usize = 16 << 20;

/// What a packet costs besides its bytes.
const OVERHEAD: usize = 128;

/// A line and the packets that are under way on it.
#[derive(Debug)]
pub struct Transit<T> {
    line: Line,
    /// By arrival, then in the order in which they were sent.
    under_way: BTreeMap<(Moment, u64), (usize, T)>,
    number: u64,
    held: usize,
}

impl<T: Clone> Transit<T> {
    /// Nothing is under way yet.
    pub fn new(line: Line) -> Self {
        Self { line, under_way: BTreeMap::new(), number: 0, held: 0 }
    }

    /// Sends a packet of `size` bytes now, and says what becomes of it.
    pub fn send(&mut self, now: Moment, size: usize, packet: T) -> Fate {
        if self.held + size + OVERHEAD > MOST_UNDER_WAY {
            return Fate::Lost(Loss::QueueFull);
        }
        let fate = self.line.carry(now, size);
        if let Fate::Arrives { at, again } = fate {
            if let Some(again) = again {
                self.put(at, size, packet.clone());
                self.put(again, size, packet);
            } else {
                self.put(at, size, packet);
            }
        }
        fate
    }

    /// When the next one arrives.
    pub fn due(&self) -> Option<Moment> {
        self.under_way.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next one that has arrived by now.
    pub fn receive(&mut self, now: Moment) -> Option<T> {
        let first = self.under_way.first_entry().filter(|first| first.key().0 <= now)?;
        let (size, packet) = first.remove();
        self.held -= size + OVERHEAD;
        Some(packet)
    }

    /// Bytes that are held, with the overhead.
    pub fn held(&self) -> usize {
        self.held
    }

    fn put(&mut self, at: Moment, size: usize, packet: T) {
        self.number += 1;
        self.held += size + OVERHEAD;
        self.under_way.insert((at, self.number), (size, packet));
    }
}
