//! The memory budget of received blocks that are not yet on disk.
//!
//! A socket from which data is due is read only with a permit in hand (a quiet one may bring 2 KiB without). The permit
//! travels with the block (peer → pieces → storage → disk thread) and is dropped when the write is done, on every path,
//! panics included.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The granularity of permits in bytes: one block.
pub const UNIT: usize = castanet_core::BLOCK_LENGTH as usize;

/// Permission to hold some bytes in memory; dropping it gives them back.
#[derive(Debug, Default)]
pub struct Permit(Option<OwnedSemaphorePermit>);

impl Permit {
    /// How many units it still covers.
    pub fn units(&self) -> usize {
        self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }
    /// Takes off what `bytes` need; less if there is less (bytes that were buffered before the permit ran out).
    pub fn split(&mut self, bytes: usize) -> Self {
        let units = bytes.div_ceil(UNIT).min(self.units());
        Self(self.0.as_mut().and_then(|permit| permit.split(units)))
    }
}

/// The bytes that all torrents of a session may hold between socket and disk.
#[derive(Debug, Clone)]
pub struct Budget {
    units: Arc<Semaphore>,
    total: usize,
}

impl Budget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        let total = (bytes / UNIT).max(16);
        Self { units: Arc::new(Semaphore::new(total)), total }
    }
    /// Waits until `permit` covers at least `units`, or all there are.
    pub async fn top_up(&self, permit: &mut Permit, units: usize) {
        let units = units.min(self.total);
        let short = units.saturating_sub(permit.units());
        if short == 0 {
            return;
        }
        if let Ok(more) = self.units.clone().try_acquire_many_owned(short as u32) {
            match &mut permit.0 {
                Some(mine) => mine.merge(more),
                empty => *empty = Some(more),
            }
            return;
        }
        // Who waits holds nothing: otherwise all could wait for what the others hold.
        *permit = Permit::default();
        // The semaphore is never closed, so this cannot fail.
        permit.0 = self.units.clone().acquire_many_owned(units as u32).await.ok();
    }
    /// Is so little left that held blocks should go to disk now, whatever the run length?
    pub fn is_tight(&self) -> bool {
        self.units.available_permits() < self.total / 2
    }
    /// Units in use, for the leak check of the universe.
    pub fn in_use(&self) -> usize {
        self.total - self.units.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_permit_splits_and_comes_back() {
        let budget = Budget::new(32 * UNIT);
        let mut permit = Permit::default();
        budget.top_up(&mut permit, 20).await;
        assert!(budget.is_tight());
        let block = permit.split(UNIT + 1);
        assert_eq!((block.units(), permit.units()), (2, 18));
        drop(permit);
        assert_eq!(budget.in_use(), 2);
        drop(block);
        assert_eq!(budget.in_use(), 0);
        assert_eq!(Permit::default().split(UNIT).units(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_what_another_waiter_holds() {
        let budget = Budget::new(16 * UNIT);
        let (mut one, mut other) = (Permit::default(), Permit::default());
        budget.top_up(&mut one, 8).await;
        budget.top_up(&mut other, 8).await;
        // Each wants four more than there are: with what they hold kept, neither would ever go on.
        let waiting = async {
            tokio::join!(
                async {
                    budget.top_up(&mut one, 12).await;
                    drop(one);
                },
                async {
                    budget.top_up(&mut other, 12).await;
                    drop(other);
                }
            )
        };
        tokio::time::timeout(std::time::Duration::from_secs(5), waiting).await.unwrap();
        let mut one = Permit::default();
        budget.top_up(&mut one, 1000).await;
        assert_eq!(one.units(), 16, "more than there is cannot be had");
    }
}
