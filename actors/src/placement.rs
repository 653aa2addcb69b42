//! Which thread an actor lives on. The one place that knows.
//!
//! Session, discovery and observers live on the system arbiter; a torrent with its pieces, storage and peers on one
//! arbiter, torrents spread over as many as asked for; disk work on the threads of [`crate::disk`]. In the simulated
//! universe everything lives on one thread, or paused time would not hold.

use std::cell::Cell;

use actix::prelude::*;

/// Spreads torrents over threads.
#[derive(Debug)]
pub struct Placement {
    arbiters: Vec<Arbiter>,
    next: Cell<usize>,
}

impl Placement {
    /// Everything on the calling thread.
    pub fn here() -> Self {
        Self { arbiters: Vec::new(), next: Cell::new(0) }
    }
    /// Torrents on `threads` threads of their own.
    pub fn threads(threads: usize) -> Self {
        Self { arbiters: (0..threads).map(|_| Arbiter::new()).collect(), next: Cell::new(0) }
    }
    /// Starts an actor on the next thread in turn.
    pub fn start<A>(&self, make: impl FnOnce(&mut Context<A>) -> A + Send + 'static) -> Addr<A>
    where
        A: Actor<Context = Context<A>>,
    {
        if self.arbiters.is_empty() {
            return A::create(make);
        }
        let turn = self.next.get();
        self.next.set(turn + 1);
        A::start_in_arbiter(&self.arbiters[turn % self.arbiters.len()].handle(), make)
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
    }
}
