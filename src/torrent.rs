//! A torrent as the embedding program describes it, and the handle it gets back.

use std::{path::PathBuf, sync::Arc};

use castanet_actors::messages::session::{TorrentAdded, TorrentSpec};
use castanet_core::{Metainfo, TorrentId, seams::storage::Allocation};
use castanet_protocol::picker::Priority;
use tokio::sync::{broadcast, watch};

use crate::{Phase, TorrentEvent, TorrentState};

/// A torrent to be added to an engine.
#[derive(Debug, Clone)]
pub struct Torrent(pub(crate) TorrentSpec);

impl Torrent {
    /// Downloads into `folder`, or serves from it: there the torrent's file, or its folder of files, lies or will lie.
    pub fn new(metainfo: impl Into<Arc<Metainfo>>, folder: impl Into<PathBuf>) -> Self {
        Self(TorrentSpec {
            metainfo: metainfo.into(),
            folder: folder.into(),
            allocation: Allocation::Sparse,
            sequential: false,
            priorities: Vec::new(),
            peers: Vec::new(),
            trackers: Vec::new(),
            recheck: false,
            check_only: false,
            seed_only: false,
        })
    }
    /// Whether disk space is reserved beforehand.
    pub fn allocation(mut self, allocation: Allocation) -> Self {
        self.0.allocation = allocation;
        self
    }
    /// Fetch the pieces in order instead of rarest first.
    pub fn sequential(mut self, yes: bool) -> Self {
        self.0.sequential = yes;
        self
    }
    /// How much each file is wanted, in the torrent's order; files beyond the end are wanted normally.
    pub fn priorities(mut self, priorities: Vec<Priority>) -> Self {
        self.0.priorities = priorities;
        self
    }
    /// Peers to dial at once, as HOST:PORT.
    pub fn peers(mut self, peers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.0.peers.extend(peers.into_iter().map(Into::into));
        self
    }
    /// Trackers besides the torrent's own.
    pub fn trackers(mut self, trackers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.0.trackers.extend(trackers.into_iter().map(Into::into));
        self
    }
    /// Hash everything, whatever the resume data say.
    pub fn recheck(mut self, yes: bool) -> Self {
        self.0.recheck = yes;
        self
    }
    /// Only hash what is there, connect to nobody and create nothing: ends in [`Phase::Paused`] with
    /// [`TorrentState::bitfield`] set.
    pub fn check_only(mut self, yes: bool) -> Self {
        self.0.check_only = yes;
        self
    }
    /// Never download and create nothing: if a piece is missing or bad after the check, ends in [`Phase::Failed`] with
    /// [`TorrentState::bitfield`] set.
    pub fn seed_only(mut self, yes: bool) -> Self {
        self.0.seed_only = yes;
        self
    }
}

/// A torrent in an engine. Dropping the handle does not stop the torrent.
#[derive(Debug)]
pub struct TorrentHandle {
    id: TorrentId,
    events: broadcast::Receiver<TorrentEvent>,
    state: watch::Receiver<TorrentState>,
}

impl TorrentHandle {
    pub(crate) fn new(added: TorrentAdded) -> Self {
        Self { id: added.torrent, events: added.events, state: added.state }
    }
    /// The torrent's name in its engine.
    pub fn id(&self) -> TorrentId {
        self.id
    }
    /// The state now.
    pub fn state(&self) -> TorrentState {
        self.state.borrow().clone()
    }
    /// The next state, a few times a second; `None` when the torrent has ended.
    pub async fn next_state(&mut self) -> Option<TorrentState> {
        self.state.changed().await.ok()?;
        Some(self.state.borrow_and_update().clone())
    }
    /// What happens next; `None` when the torrent has ended. Who lags more than a few thousand events behind misses
    /// some: observers never slow the engine.
    pub async fn next_event(&mut self) -> Option<TorrentEvent> {
        loop {
            match self.events.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
    /// A second stream of events, from now on.
    pub fn events(&self) -> broadcast::Receiver<TorrentEvent> {
        self.events.resubscribe()
    }
    /// Waits until every wanted piece is on disk.
    ///
    /// # Errors
    /// With the reason, if the torrent fails or ends before.
    pub async fn completed(&mut self) -> Result<(), String> {
        loop {
            match self.state().phase {
                Phase::Seeding => return Ok(()),
                Phase::Failed(reason) => return Err(reason),
                _ => {}
            }
            if self.next_state().await.is_none() {
                return Err("the torrent was stopped".into());
            }
        }
    }
}
