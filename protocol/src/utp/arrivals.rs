//! What has arrived: bytes in order for the reader, and packets that wait for those before them.

use std::collections::{BTreeMap, VecDeque};

use super::{connection::LARGEST_V4, packet::Sack};

/// Numbers after the next one that are kept.
const FARTHEST: u64 = 1024;

/// The receiving side of a connection.
#[derive(Debug)]
pub(super) struct Arrivals {
    /// The number of the next packet in order.
    next: u64,
    ready: VecDeque<u8>,
    early: BTreeMap<u64, Vec<u8>>,
    early_bytes: usize,
    /// Bytes that may wait altogether.
    most: usize,
    /// The number of the other side's last packet, once it is known.
    last: Option<u64>,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// There is more to read, or the end.
    InOrder,
    /// It waits for others.
    Early,
    /// It was here before.
    Known,
    /// There is no place for it.
    Dropped,
}

impl Arrivals {
    /// Nothing yet; the first packet will have the number `next`.
    pub(super) fn new(next: u64, most: usize) -> Self {
        Self { next, ready: VecDeque::new(), early: BTreeMap::new(), early_bytes: 0, most, last: None }
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Bytes that may still come.
    pub(super) fn window(&self) -> usize {
        self.most.saturating_sub(self.ready.len() + self.early_bytes)
    }

    /// Has all that the other side will ever send been taken in?
    pub(super) fn is_finished(&self) -> bool {
        self.last.is_some_and(|last| self.next > last)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    pub(super) fn take(&mut self, number: u64, payload: &[u8], is_last: bool) -> Arrival {
        if number < self.next || self.early.contains_key(&number) {
            return Arrival::Known;
        }
        let is_beyond = self.last.is_some_and(|last| number > last || (is_last && number != last));
        // What comes early leaves room for the one that all wait for.
        let kept_free = if number > self.next { LARGEST_V4 } else { 0 };
        if is_beyond || number > self.next + FARTHEST || payload.len() + kept_free > self.window() {
            return Arrival::Dropped;
        }
        if is_last {
            self.last = Some(number);
        }
        if number > self.next {
            self.early_bytes += payload.len();
            self.early.insert(number, payload.to_vec());
            return Arrival::Early;
        }
        self.ready.extend(payload);
        self.next += 1;
        while let Some(payload) = self.early.remove(&self.next) {
            self.early_bytes -= payload.len();
            self.ready.extend(payload);
            self.next += 1;
        }
        Arrival::InOrder
    }

    pub(super) fn read(&mut self, into: &mut [u8]) -> usize {
        let length = into.len().min(self.ready.len());
        let (front, back) = self.ready.as_slices();
        let of_front = length.min(front.len());
        into[..of_front].copy_from_slice(&front[..of_front]);
        into[of_front..length].copy_from_slice(&back[..length - of_front]);
        self.ready.drain(..length);
        length
    }

    /// Forgets what nobody will read.
    pub(super) fn discard(&mut self) {
        self.ready.clear();
    }

    /// Which packets after the next are here.
    pub(super) fn sack(&self) -> Sack {
        let mut sack = Sack::default();
        self.early.keys().for_each(|number| sack.set(number - self.next - 1));
        sack
    }
}
