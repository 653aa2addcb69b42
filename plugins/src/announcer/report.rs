//! What is passed on of what the trackers of one torrent say.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use castanet_core::seams::discovery::{DiscoveryError, Found, Milestone, PeerCandidate, SwarmSize};
use castanet_protocol::tracker::Answer;

use super::target::{Target, instance};
use crate::driven::Finds;

/// Shared by everything that is under way for one torrent. The reader owns all of it: if it is gone, so are we, and
/// nobody minds that nothing arrives.
#[derive(Debug)]
pub(super) struct Reporter {
    finds: Finds,
    resolved: AtomicBool,
    looked_up: AtomicBool,
    /// The last numbers of each tracker.
    sizes: Mutex<BTreeMap<String, SwarmSize>>,
}

impl Reporter {
    pub(super) fn new(finds: Finds) -> Self {
        let (resolved, looked_up) = Default::default();
        Self { finds, resolved, looked_up, sizes: Mutex::default() }
    }

    pub(super) async fn found(&self, found: Found) {
        let _ = self.finds.send(Ok(found)).await;
    }

    pub(super) async fn failed(&self, error: DiscoveryError) {
        let _ = self.finds.send(Err(error)).await;
    }

    /// Reports a milestone the first time.
    pub(super) async fn reached(&self, milestone: Milestone) {
        let flag = if milestone == Milestone::NamesResolved { &self.resolved } else { &self.looked_up };
        if !flag.swap(true, Ordering::Relaxed) {
            self.found(Found::Reached(milestone)).await;
        }
    }

    /// Passes on what is in an answer, but for its numbers.
    pub(super) async fn answered(&self, target: &Target, answer: &mut Answer) {
        self.reached(Milestone::LookedUp).await;
        let candidate = |(addr, peer_id)| PeerCandidate { addr, peer_id, instance: target.instance.clone() };
        let peers: Vec<_> = std::mem::take(&mut answer.peers).into_iter().map(candidate).collect();
        let peers = (!peers.is_empty()).then_some(Found::Peers(peers));
        let external = answer.external.map(Found::ExternalAddress);
        let warning = answer.warning.take().map(|text| Found::Notice(format!("{} says: {text}", target.instance)));
        for found in [peers, external, warning].into_iter().flatten() {
            self.found(found).await;
        }
    }

    /// Passes numbers on if they are others than last time. An announce does not bring the number of completed
    /// downloads; the last one stands.
    pub(super) async fn size(&self, url: &str, mut size: SwarmSize) {
        let changed = {
            let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
            let last = sizes.get(url).copied();
            size.completed = size.completed.or(last.and_then(|last| last.completed));
            sizes.insert(url.to_owned(), size);
            last != Some(size)
        };
        if changed {
            self.found(Found::SwarmSize { instance: instance(url), size }).await;
        }
    }
}
