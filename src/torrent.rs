//! A torrent as the embedding program describes it, and the handle it gets back.

use std::{path::PathBuf, sync::Arc};

use actix::WeakRecipient;
use castanet_actors::messages::session::{Choose, SetLimits, SetPeerLimits, Source, TorrentAdded, TorrentSpec};
use castanet_actors::shared::Limits;
use castanet_core::{Metainfo, PluginName, TorrentId, magnet::Magnet, seams::storage::Allocation};
use castanet_protocol::picker::Priority;
use tokio::sync::{broadcast, watch};

use crate::{Phase, TorrentEvent, TorrentState};

/// A torrent to be added to an engine.
#[derive(Debug, Clone)]
pub struct Torrent(pub(crate) TorrentSpec);

impl Torrent {
    /// Downloads into `folder`, or serves from it: there the torrent's file, or its folder of files, lies or will lie.
    pub fn new(metainfo: impl Into<Arc<Metainfo>>, folder: impl Into<PathBuf>) -> Self {
        Self::from_source(Source::File(metainfo.into()), folder.into())
    }
    /// Downloads what a magnet link names into `folder`. What the torrent is comes from peers (BEP 9); the link's
    /// selection of files (BEP 53) holds unless [`Torrent::choose`] or [`Torrent::priorities`] says otherwise.
    pub fn from_magnet(link: impl Into<Arc<Magnet>>, folder: impl Into<PathBuf>) -> Self {
        let link = link.into();
        let torrent = Self::from_source(Source::Link(link.clone()), folder.into());
        if link.files.is_empty() {
            return torrent;
        }
        torrent.choose(move |metainfo| Ok(selected(&link, metainfo)))
    }
    fn from_source(source: Source, folder: PathBuf) -> Self {
        Self(TorrentSpec {
            source,
            folder,
            allocation: Allocation::Sparse,
            sequential: false,
            choose: Choose::everything(),
            peers: Vec::new(),
            trackers: Vec::new(),
            allow: None,
            limits: Limits::default(),
            recheck: false,
            check_only: false,
            seed_only: false,
            discover_only: false,
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
    pub fn priorities(self, priorities: Vec<Priority>) -> Self {
        self.choose(move |_| Ok(priorities.clone()))
    }
    /// Decides how much each file is wanted, once the files are known. An error fails the torrent with its words.
    pub fn choose(
        mut self,
        choose: impl Fn(&Metainfo) -> Result<Vec<Priority>, String> + Send + Sync + 'static,
    ) -> Self {
        self.0.choose = Choose(Arc::new(choose));
        self
    }
    /// Only these discovery plugins may serve it. It holds from the first moment, before the metadata have shown
    /// whether the torrent is private (BEP 27). The trackers that a magnet link names are asked by the tracker plugins.
    /// Peers are reached by way of others (BEP 55) only if `holepunch` is among them.
    pub fn allow_plugins(mut self, plugins: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.0.allow = Some(plugins.into_iter().map(|name| PluginName::from(name.as_ref())).collect());
        self
    }
    /// Only find peers and shake hands with them: no file is opened and no piece moves.
    pub fn discover_only(mut self, yes: bool) -> Self {
        self.0.discover_only = yes;
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
    /// Rate limits of this torrent; the engine's hold besides.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.0.limits = limits;
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

/// How much a link wants each file of its torrent (BEP 53); empty if it wants all.
pub fn selected(link: &Magnet, metainfo: &Metainfo) -> Vec<Priority> {
    if link.files.is_empty() {
        return Vec::new();
    }
    let is_selected = |at: u32| link.files.iter().any(|range| range.contains(&at));
    let wanted = |at| if is_selected(at) { Priority::Normal } else { Priority::Skip };
    (0..metainfo.info.files.len() as u32).map(wanted).collect()
}

/// A torrent in an engine. Dropping the handle does not stop the torrent.
#[derive(Debug)]
pub struct TorrentHandle {
    id: TorrentId,
    events: broadcast::Receiver<TorrentEvent>,
    state: watch::Receiver<TorrentState>,
    set_limits: WeakRecipient<SetLimits>,
    set_peer_limits: WeakRecipient<SetPeerLimits>,
}

impl TorrentHandle {
    pub(crate) fn new(added: TorrentAdded) -> Self {
        let TorrentAdded { torrent: id, events, state, set_limits, set_peer_limits } = added;
        Self { id, events, state, set_limits, set_peer_limits }
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
    /// The events that were not read yet, those since the torrent was added among them, as a stream apart.
    /// [`Self::next_event`] goes on with what happens from now on.
    pub fn take_events(&mut self) -> broadcast::Receiver<TorrentEvent> {
        let later = self.events.resubscribe();
        std::mem::replace(&mut self.events, later)
    }
    /// A second stream of events, from now on.
    pub fn events(&self) -> broadcast::Receiver<TorrentEvent> {
        self.events.resubscribe()
    }
    /// Changes the torrent's limits, bytes per second; the engine's hold besides. They hold at once.
    pub async fn set_limits(&self, down: Option<u64>, up: Option<u64>) {
        if let Some(torrent) = self.set_limits.upgrade() {
            let _ = torrent.send(SetLimits { down, up }).await;
        }
    }
    /// Changes the limits of each of the torrent's connections, bytes per second; where the engine has lower ones, those hold.
    pub async fn set_peer_limits(&self, down: Option<u64>, up: Option<u64>) {
        if let Some(torrent) = self.set_peer_limits.upgrade() {
            let _ = torrent.send(SetPeerLimits { down, up }).await;
        }
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
