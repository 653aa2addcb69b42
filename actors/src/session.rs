//! The session: all torrents, the listeners, and the discovery plugins that serve every torrent.
//!
//! `network` listens and watches the network, `mapping` has routers let peers in.
//!
//! Owns what is shared and supervises: a torrent that dies is reported and forgotten, a plugin that dies is made anew with
//! a growing pause and told to every torrent, so is the port mapper. Ends on `Shutdown`, when every torrent has said good-bye and saved.

mod mapping;
mod network;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use actix::prelude::*;
use castanet_core::{
    InfoHashes, PluginName, TorrentId,
    seams::{
        datagrams::WaysOut,
        discovery::{Build, DiscoveryError, Settings},
    },
};
use futures_util::future::{join, join_all};
use tokio::sync::{broadcast, watch};

pub use self::network::Listening;
use self::{mapping::Mapping, network::Ears};
use crate::{
    discovery::Discovery,
    lifecycle::{Child, ChildStopped, ExitReason},
    mail::tell,
    messages::{
        discovery::CloseDiscovery,
        session::{
            AddError, AddTorrent, GetSession, PauseTorrent, RemoveTorrent, ResumeTorrent, SessionSnapshot, SetLimits,
            SetPeerLimits, Shutdown, Source, TorrentAdded,
        },
        torrent::{Pause, PluginStarted, Resume, Stop},
    },
    metered::Meter,
    placement::Placement,
    shared::Shared,
    torrent::{ONLY_V2, Torrent},
};

/// Connections that may be shaking hands at once; more are closed at once.
const MOST_GREETED: usize = 256;
/// Of these, how many may come from one address (loopback excepted): one silent stranger must not keep others out.
const MOST_OF_A_HOST: usize = 32;
/// How long a removed torrent may take for its good-byes.
const GOOD_BYE: Duration = Duration::from_secs(5);
/// How long a torrent may take to save besides; a disk that hangs must not hold up the end for ever.
const SAVING: Duration = Duration::from_secs(30);
/// How long a plugin may take to save what it knows.
const SAVING_PLUGIN: Duration = Duration::from_secs(2);
/// How often it is looked whether the network is another one.
const LOOK_AROUND: Duration = Duration::from_secs(5);
/// The first pause before a dead plugin is made anew; it doubles with every death up to ten minutes.
const FIRST_PAUSE: Duration = Duration::from_secs(2);

/// A registered plugin: its name, how it is made, with what settings.
#[derive(Debug, Clone)]
pub struct Registered {
    /// The name.
    pub name: PluginName,
    /// Makes it.
    pub build: Build,
    /// Its settings.
    pub settings: Settings,
}

struct Hosted {
    registered: Registered,
    /// What it has spent, over all its lives.
    meter: Arc<Meter>,
    running: Option<(Addr<Discovery>, PluginStarted)>,
    deaths: u32,
}

struct Running {
    hashes: InfoHashes,
    addr: Addr<Torrent>,
    stopping: bool,
}

/// The actor.
pub struct Session {
    shared: Shared,
    placement: Placement,
    /// Opened before the start.
    listening: Listening,
    ears: Ears,
    plugins: Vec<Hosted>,
    torrents: BTreeMap<TorrentId, Running>,
    /// What led into the world when it was last looked.
    ways_out: WaysOut,
    mapping: Mapping,
    next: u64,
    closing: bool,
}

impl Session {
    /// A session over listeners that are open already.
    pub fn new(shared: Shared, placement: Placement, listening: Listening, plugins: Vec<Registered>) -> Self {
        if let Ok(mut addresses) = shared.listening.write() {
            *addresses = listening.addresses();
        }
        let hosted = |registered| Hosted { registered, meter: Arc::default(), running: None, deaths: 0 };
        let plugins = plugins.into_iter().map(hosted).collect();
        let ways_out = shared.means.datagrams.ways_out();
        Self {
            shared,
            placement,
            listening,
            ears: Ears::default(),
            plugins,
            torrents: BTreeMap::new(),
            ways_out,
            mapping: Mapping::default(),
            next: 1,
            closing: false,
        }
    }

    fn start_plugin(&mut self, at: usize, ctx: &mut Context<Self>) {
        let Some(hosted) = self.plugins.get_mut(at) else { return };
        let Registered { name, build, settings } = &hosted.registered;
        let means = hosted.meter.over(&self.shared.means);
        // It may panic anywhere, here too, and must not take the session along.
        let built = catch_unwind(AssertUnwindSafe(|| build(&means, settings)));
        let plugin = match built.unwrap_or_else(|_| Err(DiscoveryError::Unusable("an internal error".into()))) {
            Ok(plugin) => plugin,
            Err(error) => {
                tracing::warn!(plugin = %name, %error, "plugin cannot start");
                // One that has never started has wrong settings; one that did may start again.
                return if hosted.deaths > 0 {
                    self.start_plugin_later(at, ctx)
                };
            }
        };
        let addr = Discovery::new(plugin.clone(), ctx.address().recipient()).start();
        let started = PluginStarted {
            plugin: name.clone(),
            seam: plugin,
            meter: hosted.meter.clone(),
            watch: addr.clone().recipient(),
            unwatch: addr.clone().recipient(),
            leave: addr.clone().recipient(),
            completed: addr.clone().recipient(),
            fared: addr.clone().recipient(),
            neighbour: addr.clone().recipient(),
            hear: addr.clone().recipient(),
        };
        for torrent in self.torrents.values() {
            tell(&torrent.addr.clone().recipient(), started.clone());
        }
        hosted.running = Some((addr, started));
    }

    fn start_plugin_later(&mut self, at: usize, ctx: &mut Context<Self>) {
        let Some(hosted) = self.plugins.get_mut(at) else { return };
        let pause = FIRST_PAUSE * 2u32.pow(hosted.deaths.min(8));
        hosted.deaths += 1;
        hosted.running = None;
        ctx.run_later(pause, move |session, ctx| session.start_plugin(at, ctx));
    }

    fn add(&mut self, AddTorrent(spec): AddTorrent, ctx: &mut Context<Self>) -> Result<TorrentAdded, AddError> {
        let hashes = spec.source.info_hashes();
        if self.closing {
            return Err(AddError::ShuttingDown);
        }
        let is_v1 = match &spec.source {
            Source::File(metainfo) => metainfo.info.pieces.is_some(),
            Source::Link(_) => hashes.v1.is_some(),
        };
        if !is_v1 && !spec.discover_only {
            return Err(AddError::Unsupported(ONLY_V2.into()));
        }
        if self.torrents.values().any(|running| running.hashes == hashes) {
            return Err(AddError::Duplicate);
        }
        let torrent = TorrentId(self.next);
        self.next += 1;
        let (events, receiver) = broadcast::channel(self.shared.config.most_events);
        let (state, observed) = watch::channel(Default::default());
        let plugins = self.plugins.iter().filter_map(|hosted| Some(hosted.running.as_ref()?.1.clone())).collect();
        let (shared, parent) = (self.shared.clone(), ctx.address().recipient());
        let addr = self
            .placement
            .start(move |_: &mut Context<Torrent>| Torrent::new(torrent, spec, shared, plugins, parent, events, state));
        let (set_limits, set_peer_limits) = (addr.downgrade().recipient(), addr.downgrade().recipient());
        self.torrents.insert(torrent, Running { hashes, addr, stopping: false });
        Ok(TorrentAdded { torrent, events: receiver, state: observed, set_limits, set_peer_limits })
    }

    fn with<M>(&self, torrent: TorrentId, message: M) -> bool
    where
        M: Message<Result = ()> + Send + 'static,
        Torrent: Handler<M>,
    {
        let found = self.torrents.get(&torrent).filter(|running| !running.stopping);
        if let Some(running) = found {
            tell(&running.addr.clone().recipient(), message);
        }
        found.is_some()
    }
}

impl Actor for Session {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let listening = std::mem::take(&mut self.listening);
        self.listen(listening);
        for at in 0..self.plugins.len() {
            self.start_plugin(at, ctx);
        }
        self.start_mapper(ctx);
        ctx.run_interval(LOOK_AROUND, Self::look_around);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        // After a clean shutdown no torrent is left; this is for panics.
        for running in self.torrents.values() {
            tell(&running.addr.clone().recipient(), Stop { within: GOOD_BYE });
        }
        for (addr, _) in self.plugins.iter().filter_map(|hosted| hosted.running.as_ref()) {
            tell(&addr.clone().recipient(), CloseDiscovery { within: Duration::ZERO });
        }
    }
}

/// Stops a torrent; false if it is dead or does not end in time.
fn stop(torrent: &Addr<Torrent>, within: Duration) -> impl Future<Output = bool> + 'static {
    let stopping = torrent.send(Stop { within });
    async move { matches!(tokio::time::timeout(within + SAVING, stopping).await, Ok(Ok(()))) }
}

impl Handler<AddTorrent> for Session {
    type Result = Result<TorrentAdded, AddError>;
    fn handle(&mut self, message: AddTorrent, ctx: &mut Self::Context) -> Self::Result {
        self.add(message, ctx)
    }
}

impl Handler<PauseTorrent> for Session {
    type Result = bool;
    fn handle(&mut self, PauseTorrent(torrent): PauseTorrent, _: &mut Self::Context) -> bool {
        self.with(torrent, Pause)
    }
}

impl Handler<ResumeTorrent> for Session {
    type Result = bool;
    fn handle(&mut self, ResumeTorrent(torrent): ResumeTorrent, _: &mut Self::Context) -> bool {
        self.with(torrent, Resume)
    }
}

impl Handler<RemoveTorrent> for Session {
    type Result = ResponseActFuture<Self, bool>;
    fn handle(&mut self, RemoveTorrent(torrent): RemoveTorrent, _: &mut Self::Context) -> Self::Result {
        let running = self.torrents.get_mut(&torrent).filter(|running| !running.stopping);
        let Some(running) = running else { return Box::pin(async { false }.into_actor(self)) };
        running.stopping = true;
        // It is known until it has ended: a shutdown waits for it, and its files are not opened twice.
        Box::pin(stop(&running.addr, GOOD_BYE).into_actor(self).map(move |ended, session, _| {
            session.torrents.remove(&torrent);
            ended
        }))
    }
}

impl Handler<SetLimits> for Session {
    type Result = ();
    fn handle(&mut self, SetLimits { down, up }: SetLimits, _: &mut Self::Context) {
        self.shared.down.set_limit(down);
        self.shared.up.set_limit(up);
    }
}

impl Handler<SetPeerLimits> for Session {
    type Result = ();
    fn handle(&mut self, SetPeerLimits { down, up }: SetPeerLimits, _: &mut Self::Context) {
        self.shared.down.set_each(down);
        self.shared.up.set_each(up);
    }
}

impl Handler<GetSession> for Session {
    type Result = SessionSnapshot;
    fn handle(&mut self, _: GetSession, _: &mut Self::Context) -> SessionSnapshot {
        SessionSnapshot {
            torrents: self.torrents.keys().copied().collect(),
            listening: self.shared.listening.read().map(|all| all.clone()).unwrap_or_default(),
            plugins: self.plugins.iter().map(|hosted| hosted.registered.name.clone()).collect(),
            port_report: self.shared.port_report.borrow().clone(),
            blocks_in_memory: self.shared.budget.in_use(),
        }
    }
}

impl Handler<Shutdown> for Session {
    type Result = ResponseActFuture<Self, ()>;
    fn handle(&mut self, Shutdown { within }: Shutdown, _: &mut Self::Context) -> Self::Result {
        self.closing = true;
        let stopping = join_all(self.torrents.values().map(|running| stop(&running.addr, within)));
        // The router is told at the same time as the trackers.
        let stopping = join(stopping, self.close_mapper());
        let closed = stopping.into_actor(self).then(|_, session: &mut Self, _| {
            let plugins = session.plugins.iter_mut().filter_map(|hosted| hosted.running.take());
            let closing: Vec<_> =
                plugins.map(|(addr, _)| addr.send(CloseDiscovery { within: SAVING_PLUGIN })).collect();
            join_all(closing).into_actor(session)
        });
        Box::pin(closed.map(|_, _, ctx| ctx.stop()))
    }
}

impl Handler<ChildStopped> for Session {
    type Result = ();
    fn handle(&mut self, ChildStopped { child, reason }: ChildStopped, ctx: &mut Self::Context) {
        match child {
            Child::Discovery(name) if !self.closing && reason != ExitReason::Asked => {
                let Some(at) = self.plugins.iter().position(|hosted| hosted.registered.name == name) else { return };
                tracing::warn!(plugin = %name, ?reason, "plugin died and will be made anew");
                self.start_plugin_later(at, ctx);
            }
            Child::PortMapper if !self.closing && reason != ExitReason::Asked => self.mapper_died(ctx),
            Child::Torrent(torrent) => {
                let was_known = self.torrents.remove(&torrent).is_some();
                if was_known && reason != ExitReason::Asked {
                    tracing::warn!(%torrent, ?reason, "torrent ended");
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
