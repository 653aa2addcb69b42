//! The host of one discovery plugin: every tracker, DHT, PEX or LSD actor is an instance of this.
//!
//! Owns the plugin and, for every torrent watched, the stream it answers with. Tells torrents what is found. A plugin that
//! cannot start for a torrent is asked again with a growing pause; one that panics takes this actor along, of which
//! the session learns by `ChildStopped` and makes a new one. Ends on `CloseDiscovery`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use actix::prelude::*;
use castanet_core::{
    PluginName, TorrentId,
    seams::discovery::{Discovery as Plugin, DiscoveryError, Found, FoundStream, Swarm, SwarmEvent},
};
use futures_util::StreamExt;
use tokio::sync::mpsc;

use crate::{
    lifecycle::{Child, ChildStopped, ExitReason},
    mail::tell,
    messages::discovery::{
        CloseDiscovery, Leave, PeersFared, PeersFound, PluginNoted, TorrentCompleted, Unwatch, Watch,
    },
};

/// Events that may wait for a plugin that does not read them; beyond it the newest are lost.
const MOST_EVENTS: usize = 256;
/// The first pause before a plugin that could not start is asked again; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

struct Watched {
    watch: Watch,
    events: mpsc::Sender<SwarmEvent>,
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

/// Runs one torrent's stream until it ends, starting it again after failures.
async fn work(plugin: Arc<dyn Plugin>, watch: Watch, mut events: mpsc::Receiver<SwarmEvent>) {
    let name = plugin.name();
    let mut pause = FIRST_PAUSE;
    loop {
        let (sender, receiver) = mpsc::channel(MOST_EVENTS);
        let swarm = Swarm {
            info: watch.info.clone(),
            me: watch.me.clone(),
            progress: watch.progress.clone(),
            events: receiver,
            gossip: None,
        };
        match plugin.discover(swarm).await {
            Ok(stream) => {
                let forward = async {
                    while let Some(event) = events.recv().await {
                        let _ = sender.try_send(event);
                    }
                };
                let listening = listen(&name, &watch, stream);
                tokio::select! { biased; () = listening => {}, () = forward => return }
                // A stream that ends by itself has nothing more to say; events are drained until the torrent goes.
                while events.recv().await.is_some() {}
                return;
            }
            Err(error) => note(&name, &watch, error.to_string(), true),
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

async fn listen(name: &PluginName, watch: &Watch, mut stream: FoundStream) {
    while let Some(item) = stream.next().await {
        match item {
            Ok(Found::Peers(peers)) => tell(&watch.found, PeersFound { plugin: name.clone(), peers }),
            Ok(Found::Notice(text)) => note(name, watch, text, false),
            Ok(Found::ExternalAddress(ip)) => {
                let text = format!("others see us as {ip}");
                let external = Some(ip);
                tell(&watch.noted, PluginNoted { plugin: name.clone(), text, failed: false, external });
            }
            Ok(_) => {}
            Err(error) => note(name, watch, DiscoveryError::to_string(&error), true),
        }
    }
}

fn note(name: &PluginName, watch: &Watch, text: String, failed: bool) {
    tell(&watch.noted, PluginNoted { plugin: name.clone(), text, failed, external: None });
}

impl Actor for Discovery {
    type Context = Context<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        let reason = self.exit.take().unwrap_or(ExitReason::Unexplained);
        tell(&self.parent, ChildStopped { child: Child::Discovery(self.name.clone()), reason });
    }
}

impl Handler<Watch> for Discovery {
    type Result = ();
    fn handle(&mut self, watch: Watch, ctx: &mut Self::Context) {
        if !self.plugin.serves(&watch.info) {
            return;
        }
        self.forget(watch.torrent, ctx);
        let (events, receiver) = mpsc::channel(MOST_EVENTS);
        let work = ctx.spawn(work(self.plugin.clone(), watch.clone(), receiver).into_actor(self));
        self.watched.insert(watch.torrent, Watched { watch, events, work });
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

impl Handler<CloseDiscovery> for Discovery {
    type Result = ();
    fn handle(&mut self, _: CloseDiscovery, ctx: &mut Self::Context) {
        self.exit = Some(ExitReason::Asked);
        ctx.stop();
    }
}

#[cfg(test)]
mod tests;
