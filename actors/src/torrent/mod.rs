//! A torrent: its life from opening files to the last good-bye.
//!
//! Owns the swarm (peers known), the choker, and its children: storage, piece manager, one actor per connection. Tells its
//! observers what happens, plugins what became of their peers. A piece manager or storage that dies fails the
//! torrent; a peer that dies is forgotten. Ends on `Stop`, when everything is saved and said.
//!
//! `start` opens and checks, `metadata` learns from peers what the torrent is, `finds` hears the plugins, `peers` dials, accepts and chokes, `holepunch` reaches
//! who is behind a NAT, `save` saves and stops, `observe` reports,
//! `web_seeds` has those who are no peers.

mod dials;
mod finds;
mod holepunch;
mod metadata;
mod observe;
mod peers;
mod pieces;
mod save;
mod start;
mod web_seeds;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use actix::prelude::*;
use castanet_core::{
    Bitfield, Geometry, Metainfo, Moment, PeerId, PieceIndex, PluginName, TorrentId,
    seams::{
        discovery::{Milestone, Progress, SwarmInfo},
        resume::{ResumeKey, ResumeLock},
        storage::Storage as StorageSeam,
    },
};
use castanet_protocol::{
    diagnosis::{Diagnosis, Pace, Standings},
    holepunch::Holepunch,
    rate::Meter,
    swarm::{Swarm, SwarmConfig},
    timeline::Timeline,
    unchoke::{Choker, ChokerConfig},
};
use tokio::{
    sync::{broadcast, watch},
    task::JoinSet,
};

use crate::{
    lifecycle::{Child, ChildStopped, ExitReason},
    mail::tell,
    messages::{
        discovery::{Leave, Unwatch},
        pieces::ClosePieces,
        session::{SetLimits, SetPeerLimits, Source, TorrentSpec},
        storage::CloseStorage,
        torrent::{BytesWasted, Happening, Phase, PluginStarted, StorageFailed, TorrentEvent, TorrentSnapshot},
    },
    metered,
    peer::PeerShared,
    pieces::Pieces,
    shared::{Door, Shared},
    storage::Storage,
    throttle::TorrentThrottle,
};
use peers::Connected;

/// What is said of a torrent that has no v1 pieces.
pub(crate) const ONLY_V2: &str = "this is a BitTorrent v2-only torrent, which Castanet cannot download yet";
/// How often the torrent looks after itself and its observers are told.
const TICK: Duration = Duration::from_millis(250);
/// How long completed pieces are gathered before peers are told.
const GATHER: Duration = Duration::from_millis(20);

/// The actor.
pub struct Torrent {
    id: TorrentId,
    spec: TorrentSpec,
    shared: Shared,
    me: PeerId,
    /// Tells trackers that it is still us after a change of address (BEP 7).
    key: u32,
    pieces_seed: u64,
    info_hash: [u8; 20],
    /// What the torrent is, once that is known.
    metainfo: Option<Arc<Metainfo>>,
    /// Its shape; that of nothing before.
    geometry: Option<Geometry>,
    /// Asks peers what it is.
    fetching: Option<metadata::Fetching>,
    parent: Recipient<ChildStopped>,
    plugins: Vec<PluginStarted>,
    /// How each of them fares.
    standings: Standings,
    /// What they may know of the torrent.
    info: SwarmInfo,
    events: broadcast::Sender<TorrentEvent>,
    state: watch::Sender<TorrentSnapshot>,
    progress: watch::Sender<Progress>,

    phase: Phase,
    /// Peers are met although no pieces can move yet, since there were some before the files were opened.
    met_early: bool,
    opened: Option<Opened>,
    have: Bitfield,
    left: u64,
    checking: Option<start::Checking>,
    storage: Option<Addr<Storage>>,
    pieces: Option<Addr<Pieces>>,

    swarm: Swarm,
    choker: Choker,
    peers: BTreeMap<castanet_core::PeerKey, Connected>,
    holepunch: Holepunch,
    /// What introductions cost.
    punching: metered::Meter,
    web_seeds: web_seeds::WebSeeds,
    peer_shared: PeerShared,
    down_limit: TorrentThrottle,
    up_limit: TorrentThrottle,
    next_peer: u64,
    fresh: Vec<PieceIndex>,
    /// Dials under way; they end with the torrent.
    dials: JoinSet<()>,

    down: Meter,
    up: Meter,
    totals: Totals,
    timeline: Timeline,
    pace: Pace,
    /// Why nothing arrives, or little.
    why: Option<Arc<Diagnosis>>,
    /// When that is looked into again.
    look_again: Moment,
    reports: observe::Reports,
    /// Who connects is told that there is a DHT node.
    tells_dht: bool,
    saved: save::Saved,
    stopping: bool,
    /// Paused before it had begun: it begins so.
    begin_paused: bool,
    exit: Option<ExitReason>,
}

/// What opening brought.
struct Opened {
    key: ResumeKey,
    storage: Arc<dyn StorageSeam>,
    /// Held until the torrent ends: nobody else works on the same files.
    _lock: Box<dyn ResumeLock>,
}

/// Bytes moved.
#[derive(Debug, Default)]
struct Totals {
    downloaded: u64,
    uploaded: u64,
    wasted: u64,
    /// Of earlier runs.
    downloaded_before: u64,
    uploaded_before: u64,
}

impl Torrent {
    /// A torrent that starts by itself. The session has made sure that the metainfo has v1 pieces.
    pub fn new(
        id: TorrentId,
        spec: TorrentSpec,
        shared: Shared,
        plugins: Vec<PluginStarted>,
        parent: Recipient<ChildStopped>,
        events: broadcast::Sender<TorrentEvent>,
        state: watch::Sender<TorrentSnapshot>,
    ) -> Self {
        let now = shared.clock.now();
        // Engines with neighbouring seeds must not meet the same torrent under the same peer id.
        let mut random = fastrand::Rng::with_seed(shared.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ id.0);
        let me = PeerId::generate(|| random.u8(..));
        let config = SwarmConfig { most_connections: shared.config.most_connections, ..SwarmConfig::default() };
        let swarm = Swarm::new(config, &shared.listening(), me, random.u64(..));
        let mut plugins = plugins;
        plugins.retain(|plugin| is_allowed(&spec, &plugin.plugin));
        let peer_shared =
            PeerShared { clock: shared.clock.clone(), budget: shared.budget.clone(), buffers: shared.buffers.clone() };
        let limits = spec.limits;
        Self {
            id,
            me,
            key: random.u32(..),
            pieces_seed: random.u64(..),
            info_hash: spec.source.info_hashes().wire(),
            metainfo: None,
            geometry: None,
            fetching: None,
            parent,
            plugins,
            standings: Standings::default(),
            info: start::first_info(&spec),
            events,
            state,
            progress: watch::Sender::new(Progress::default()),
            phase: Phase::Opening,
            met_early: false,
            opened: None,
            have: Bitfield::new(0),
            left: 0,
            checking: None,
            storage: None,
            pieces: None,
            swarm,
            choker: Choker::new(ChokerConfig::up_to(shared.config.upload_slots), random.u64(..)),
            peers: BTreeMap::new(),
            holepunch: Holepunch::default(),
            punching: metered::Meter::default(),
            web_seeds: web_seeds::WebSeeds::default(),
            peer_shared,
            down_limit: shared.down.torrent(limits.down, limits.down_per_peer),
            up_limit: shared.up.torrent(limits.up, limits.up_per_peer),
            next_peer: 1,
            fresh: Vec::new(),
            dials: JoinSet::new(),
            down: Meter::new(now),
            up: Meter::new(now),
            totals: Totals::default(),
            timeline: Timeline::new(now),
            pace: Pace::new(now),
            why: None,
            look_again: now,
            reports: observe::Reports::default(),
            tells_dht: false,
            saved: save::Saved::default(),
            stopping: false,
            begin_paused: false,
            exit: None,
            spec,
            shared,
        }
    }

    fn now(&self) -> Moment {
        self.shared.clock.now()
    }

    /// Are peers met?
    fn is_running(&self) -> bool {
        match self.phase {
            Phase::Metadata | Phase::Downloading | Phase::Seeding => true,
            Phase::Opening | Phase::Checking => self.met_early && !self.stopping,
            Phase::Paused | Phase::Failed(_) => false,
        }
    }

    /// A station was reached.
    fn reach(&mut self, milestone: Milestone, at: Moment) {
        if self.timeline.reach(milestone, at) {
            self.happened(Happening::Reached(milestone));
        }
    }

    fn happened(&self, what: Happening) {
        let _ = self.events.send(TorrentEvent { at: self.now(), torrent: self.id, what });
    }

    /// Gives up, keeping what is on disk and what is known of it.
    fn fail(&mut self, error: String, ctx: &mut Context<Self>) {
        if matches!(self.phase, Phase::Failed(_)) {
            return;
        }
        tracing::warn!(torrent = %self.id, error, "torrent failed");
        self.disconnect_all(&ExitReason::Failed(error.clone()));
        self.close_door();
        self.phase = Phase::Failed(error.clone());
        self.update_progress();
        for plugin in &self.plugins {
            tell(&plugin.leave, Leave { torrent: self.id, within: save::GOOD_BYE });
        }
        self.save(ctx);
        self.publish();
        self.happened(Happening::Failed(error));
    }

    /// Lets connections that come in find this torrent.
    fn open_door(&mut self, ctx: &mut Context<Self>) {
        self.tells_dht = self.dht_port().is_some();
        let door = Door { peer_id: self.me, dht: self.tells_dht, arrived: ctx.address().recipient() };
        if let Ok(mut doors) = self.shared.doors.write() {
            doors.insert(self.info_hash, door);
        }
        self.shared.swarms.insert(self.info_hash);
    }

    /// The DHT may get its port when the door is open already.
    fn renew_door(&mut self, ctx: &mut Context<Self>) {
        if !self.tells_dht && !self.is_private() && self.dht_port().is_some() {
            self.open_door(ctx);
        }
    }

    /// Leaves nothing running behind. After a clean stop nothing is; this is for panics.
    fn abandon(&mut self) {
        self.close_door();
        self.disconnect_all(&ExitReason::Asked);
        if let Some(pieces) = self.pieces.take() {
            tell(&pieces.recipient(), ClosePieces);
        }
        if let Some(storage) = self.storage.take() {
            tell(&storage.recipient(), CloseStorage);
        }
        for plugin in &self.plugins {
            tell(&plugin.unwatch, Unwatch(self.id));
        }
    }

    fn close_door(&self) {
        if let Ok(mut doors) = self.shared.doors.write() {
            doors.remove(&self.info_hash);
        }
        self.shared.swarms.remove(&self.info_hash);
    }
}

/// May this plugin serve the torrent at all?
fn is_allowed(spec: &TorrentSpec, plugin: &PluginName) -> bool {
    spec.allow.as_ref().is_none_or(|allowed| allowed.contains(plugin))
}

impl Actor for Torrent {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        match self.spec.source.clone() {
            Source::File(metainfo) if self.spec.discover_only => self.look_only(Some(metainfo), ctx),
            Source::File(metainfo) => self.open(metainfo, ctx),
            Source::Link(_) if self.spec.discover_only => self.look_only(None, ctx),
            Source::Link(_) => self.recall(ctx),
        }
        ctx.run_interval(TICK, |torrent, ctx| torrent.tick(ctx));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.abandon();
        let reason = self.exit.take().unwrap_or(ExitReason::Unexplained);
        tell(&self.parent, ChildStopped { child: Child::Torrent(self.id), reason });
    }
}

impl Handler<PluginStarted> for Torrent {
    type Result = ();
    fn handle(&mut self, started: PluginStarted, ctx: &mut Self::Context) {
        if !is_allowed(&self.spec, &started.plugin) {
            return;
        }
        if self.is_running() {
            tell(&started.watch, self.watch_order(ctx));
            self.introduce_neighbours(&started);
        }
        self.plugins.retain(|plugin| plugin.plugin != started.plugin);
        self.plugins.push(started);
    }
}

impl Handler<SetLimits> for Torrent {
    type Result = ();
    fn handle(&mut self, SetLimits { down, up }: SetLimits, _: &mut Self::Context) {
        self.down_limit.set_limit(down);
        self.up_limit.set_limit(up);
    }
}

impl Handler<SetPeerLimits> for Torrent {
    type Result = ();
    fn handle(&mut self, SetPeerLimits { down, up }: SetPeerLimits, _: &mut Self::Context) {
        self.down_limit.set_each(down);
        self.up_limit.set_each(up);
    }
}

impl Handler<StorageFailed> for Torrent {
    type Result = ();
    fn handle(&mut self, StorageFailed { error, reading }: StorageFailed, ctx: &mut Self::Context) {
        if reading {
            // The one request is refused; the others' pieces are as good as before.
            self.happened(Happening::Notice(error));
        } else {
            self.fail(error, ctx);
        }
    }
}

impl Handler<BytesWasted> for Torrent {
    type Result = ();
    fn handle(&mut self, BytesWasted(bytes): BytesWasted, _: &mut Self::Context) {
        self.totals.wasted += bytes;
    }
}

impl Handler<ChildStopped> for Torrent {
    type Result = ();
    fn handle(&mut self, ChildStopped { child, reason }: ChildStopped, ctx: &mut Self::Context) {
        match child {
            Child::Peer(key) => self.peer_gone(key, &reason, ctx),
            Child::WebSeed(key) => self.web_seed_gone(key),
            Child::Pieces | Child::Storage if reason != ExitReason::Asked => {
                let part = if child == Child::Pieces { "piece manager" } else { "storage" };
                self.fail(format!("an internal error ended the {part}; what is on disk is safe"), ctx);
            }
            _ => {}
        }
    }
}
