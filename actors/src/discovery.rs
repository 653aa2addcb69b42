//! The host of one discovery plugin: every tracker, DHT, PEX or LSD actor is an instance of this.
//!
//! Owns the plugin and, for every torrent watched, the stream it answers with. Tells torrents what is found. A plugin that
//! cannot start for a torrent is asked again with a growing pause; one that panics takes this actor along, of which
//! the session learns by `ChildStopped` and makes a new one. What the plugin does for no torrent in particular runs
//! beside, for as long as this actor lives. Ends on `CloseDiscovery`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use actix::prelude::*;
use castanet_core::{
    PluginName, TorrentId,
    seams::discovery::{
        Discovery as Plugin, Found, FoundStream, Gossip, Heard, News, Say, Swarm, SwarmEvent, SwarmInfo,
    },
};
use futures_util::StreamExt;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    lifecycle::{Child, ChildStopped, ExitReason},
    mail::tell,
    messages::discovery::{
        CloseDiscovery, Hear, Leave, NeighbourHeard, NeighbourTold, PeersFared, PeersFound, PluginSaid,
        TorrentCompleted, Unwatch, Watch,
    },
};

/// Events that may wait for a plugin that does not read them; beyond it the newest are lost.
const MOST_EVENTS: usize = 256;
/// The first pause before a plugin that could not start is asked again; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// What neighbours say that may wait for the plugin, and what they shall be told: beyond it the newest are lost.
const MOST_GOSSIP: usize = 256;

struct Watched {
    watch: Watch,
    events: mpsc::Sender<SwarmEvent>,
    heard: mpsc::Sender<Heard>,
    work: SpawnHandle,
}

/// The actor.
pub struct Discovery {
    plugin: Arc<dyn Plugin>,
    name: PluginName,
    watched: BTreeMap<TorrentId, Watched>,
    parent: Recipient<ChildStopped>,
    exit: Option<ExitReason>,
}

impl Discovery {
    /// A host for this plugin.
    pub fn new(plugin: Arc<dyn Plugin>, parent: Recipient<ChildStopped>) -> Self {
        let name = plugin.name();
        Self { plugin, name, watched: BTreeMap::new(), parent, exit: None }
    }

    fn forget(&mut self, torrent: TorrentId, ctx: &mut Context<Self>) -> Option<Watch> {
        let watched = self.watched.remove(&torrent)?;
        ctx.cancel_future(watched.work);
        Some(watched.watch)
    }

    fn say(&self, torrent: TorrentId, event: SwarmEvent) {
        if let Some(watched) = self.watched.get(&torrent) {
            let _ = watched.events.try_send(event);
        }
    }
}

/// What reaches a plugin about one torrent.
struct Inbox {
    events: mpsc::Receiver<SwarmEvent>,
    heard: mpsc::Receiver<Heard>,
}

impl Inbox {
    /// Passes everything on until the torrent goes. What the plugin does not read in time is lost.
    async fn forward(&mut self, events: mpsc::Sender<SwarmEvent>, heard: mpsc::Sender<Heard>) {
        loop {
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(event) => drop(events.try_send(event)),
                    None => return,
                },
                Some(news) = self.heard.recv() => drop(heard.try_send(news)),
            }
        }
    }
}

/// Runs one torrent's stream until it ends, starting it again after failures.
async fn work(plugin: Arc<dyn Plugin>, watch: Watch, mut inbox: Inbox) {
    let name = plugin.name();
    let mut pause = FIRST_PAUSE;
    loop {
        let (events, event_queue) = mpsc::channel(MOST_EVENTS);
        let (heard, heard_queue) = mpsc::channel(MOST_GOSSIP);
        let (say, said) = mpsc::channel(MOST_GOSSIP);
        let extension = plugin.extension();
        let swarm = Swarm {
            info: watch.info.clone(),
            me: watch.me.clone(),
            progress: watch.progress.clone(),
            events: event_queue,
            gossip: extension.map(|_| Gossip { heard: heard_queue, say }),
        };
        match plugin.discover(swarm).await {
            Ok(stream) => {
                let passing = pass_on(extension, &watch, said);
                tokio::select! {
                    biased;
                    () = listen(&name, &watch, stream) => {}
                    () = inbox.forward(events, heard) => return,
                    () = passing => {}
                }
                // A stream that ends by itself has nothing more to say; events are drained until the torrent goes.
                while inbox.events.recv().await.is_some() {}
                return;
            }
            Err(error) => tell(&watch.said, PluginSaid { plugin: name.clone(), said: Err(error) }),
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

async fn listen(name: &PluginName, watch: &Watch, mut stream: FoundStream) {
    while let Some(item) = stream.next().await {
        let plugin = name.clone();
        match item {
            Ok(Found::Peers(peers)) => tell(&watch.found, PeersFound { plugin, peers }),
            said => tell(&watch.said, PluginSaid { plugin, said }),
        }
    }
}

/// Passes on what connected peers shall be told. Never ends: a plugin that says nothing more may still find peers.
async fn pass_on(extension: Option<&'static str>, watch: &Watch, mut said: mpsc::Receiver<Say>) {
    if let Some(extension) = extension {
        while let Some(say) = said.recv().await {
            tell(&watch.told, NeighbourTold { extension, say });
        }
    }
    std::future::pending().await
}

/// Trackers that are in `new` and not in `old`.
fn added(old: &SwarmInfo, new: &SwarmInfo) -> Vec<String> {
    let is_new = |url: &&String| !old.trackers.iter().flatten().any(|known| known == *url);
    new.trackers.iter().flatten().filter(is_new).cloned().collect()
}

impl Actor for Discovery {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // A task of its own: what wakes a busy DHT node must not wake every torrent's stream.
        let (mut running, plugin) = (JoinSet::new(), self.plugin.clone());
        running.spawn_local(async move { plugin.run().await });
        let ended = async move { running.join_next().await };
        ctx.spawn(ended.into_actor(self).map(|ended, _, ctx| {
            if ended.is_some_and(|ended| ended.is_err_and(|error| error.is_panic())) {
                ctx.terminate();
            }
        }));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        let reason = self.exit.take().unwrap_or(ExitReason::Unexplained);
        tell(&self.parent, ChildStopped { child: Child::Discovery(self.name.clone()), reason });
    }
}

impl Handler<Watch> for Discovery {
    type Result = ();
    fn handle(&mut self, watch: Watch, ctx: &mut Self::Context) {
        if !self.plugin.serves(&watch.info) {
            self.forget(watch.torrent, ctx);
            return;
        }
        if let Some(watched) = self.watched.get_mut(&watch.torrent) {
            let trackers = added(&watched.watch.info, &watch.info);
            watched.watch = watch;
            if !trackers.is_empty() {
                let _ = watched.events.try_send(SwarmEvent::TrackersAdded(trackers));
            }
            return;
        }
        let (events, event_queue) = mpsc::channel(MOST_EVENTS);
        let (heard, heard_queue) = mpsc::channel(MOST_GOSSIP);
        let inbox = Inbox { events: event_queue, heard: heard_queue };
        let work = ctx.spawn(work(self.plugin.clone(), watch.clone(), inbox).into_actor(self));
        self.watched.insert(watch.torrent, Watched { watch, events, heard, work });
    }
}

impl Handler<Unwatch> for Discovery {
    type Result = ();
    fn handle(&mut self, Unwatch(torrent): Unwatch, ctx: &mut Self::Context) {
        self.forget(torrent, ctx);
    }
}

impl Handler<Leave> for Discovery {
    type Result = ResponseFuture<()>;
    fn handle(&mut self, Leave { torrent, within }: Leave, ctx: &mut Self::Context) -> Self::Result {
        let Some(watch) = self.forget(torrent, ctx) else { return Box::pin(async {}) };
        let plugin = self.plugin.clone();
        Box::pin(async move {
            let last = watch.progress.borrow().clone();
            let leaving = plugin.leave(watch.info, watch.me, last, within);
            if let Ok(Err(error)) = tokio::time::timeout(within, leaving).await {
                tracing::info!(plugin = %plugin.name(), %error, "good-bye not said");
            }
        })
    }
}

impl Handler<TorrentCompleted> for Discovery {
    type Result = ();
    fn handle(&mut self, TorrentCompleted(torrent): TorrentCompleted, _: &mut Self::Context) {
        self.say(torrent, SwarmEvent::Completed);
    }
}

impl Handler<PeersFared> for Discovery {
    type Result = ();
    fn handle(&mut self, PeersFared { torrent, outcomes }: PeersFared, _: &mut Self::Context) {
        for outcome in outcomes {
            self.say(torrent, SwarmEvent::Outcome(outcome));
        }
    }
}

impl Handler<NeighbourHeard> for Discovery {
    type Result = ();
    fn handle(&mut self, NeighbourHeard { torrent, heard }: NeighbourHeard, _: &mut Self::Context) {
        if let Some(watched) = self.watched.get(&torrent) {
            let _ = watched.heard.try_send(heard);
        }
    }
}

impl Handler<Hear> for Discovery {
    type Result = ();
    fn handle(&mut self, Hear(news): Hear, _: &mut Self::Context) {
        self.plugin.hear(&news);
        if news == News::NetworkChanged {
            self.watched.values().for_each(|watched| drop(watched.events.try_send(SwarmEvent::NetworkChanged)));
        }
    }
}

impl Handler<CloseDiscovery> for Discovery {
    type Result = ResponseActFuture<Self, ()>;
    fn handle(&mut self, CloseDiscovery { within }: CloseDiscovery, _: &mut Self::Context) -> Self::Result {
        let plugin = self.plugin.clone();
        let closing = async move {
            let _ = tokio::time::timeout(within, plugin.close(within)).await;
        };
        Box::pin(closing.into_actor(self).map(|(), host, ctx| {
            host.exit = Some(ExitReason::Asked);
            ctx.stop();
        }))
    }
}

#[cfg(test)]
mod tests;
