//! Peer exchange with connected peers: `ut_pex` (BEP 11).
//!
//! Whom to tell of whom, and how much to believe, is decided by `castanet_protocol::pex`; this file carries it over the
//! gossip of the swarm. While nobody is wanted the others are still told, and what they say is kept for later: they say
//! it only once. Never for private torrents (BEP 27).

use std::{collections::VecDeque, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use castanet_core::{
    PluginName,
    seams::{
        discovery::{
            Discovery, DiscoveryError, Found, FoundStream, Gossip, Heard, Milestone, PeerCandidate, Progress, Say,
            Settings, Swarm, SwarmInfo,
        },
        means::{Clock, Means},
    },
};
use castanet_protocol::{
    extension::Extension,
    pex::{Flags, Pex},
};
use tokio::{sync::watch, time::sleep};

use crate::driven::{Finds, driven};

/// The name under which it is registered.
pub const NAME: &str = "pex";
/// The most peers that are kept while nobody is wanted; the newest are the likeliest to be there still.
const MOST_KEPT: usize = 200;

/// Makes the plugin. It has no settings.
pub fn build(means: &Means, settings: &Settings) -> Result<Arc<dyn Discovery>, DiscoveryError> {
    crate::refuse_settings(NAME, settings)?;
    Ok(Arc::new(PeerExchange { clock: means.clock.clone() }))
}

#[derive(Debug)]
struct PeerExchange {
    clock: Clock,
}

#[async_trait]
impl Discovery for PeerExchange {
    fn name(&self) -> PluginName {
        NAME.into()
    }
    fn serves(&self, swarm: &SwarmInfo) -> bool {
        !swarm.private
    }
    async fn discover(&self, swarm: Swarm) -> Result<FoundStream, DiscoveryError> {
        let clock = self.clock.clone();
        Ok(driven(async move |finds| {
            let Swarm { info, progress, gossip, .. } = swarm;
            // Without a line to the neighbours there is nothing to do, nor is there for who must not ask.
            if let Some(gossip) = gossip.filter(|_| !info.private) {
                let (pex, kept, speakers, first) = (Pex::new(), VecDeque::new(), 0, true);
                Work { clock, pex, progress, finds, kept, speakers, first }.run(gossip).await;
            }
        }))
    }
    fn extension(&self) -> Option<&'static str> {
        Some(Extension::Pex.name())
    }
}

/// The work for one torrent.
struct Work {
    clock: Clock,
    pex: Pex,
    progress: watch::Receiver<Progress>,
    finds: Finds,
    /// What was heard while nobody was wanted.
    kept: VecDeque<PeerCandidate>,
    /// How many neighbours were said to speak it.
    speakers: usize,
    /// Nobody has named a peer yet.
    first: bool,
}

impl Work {
    async fn run(mut self, Gossip { mut heard, say }: Gossip) {
        let mut changes = true;
        loop {
            let now = self.clock.now();
            while let Some((remote, message)) = self.pex.poll(now) {
                // What the host does not take in time it would lose anyway.
                if say.send(Say { remote, payload: message.encode().into() }).await.is_err() {
                    return;
                }
            }
            self.report().await;
            let pause = self.pex.deadline().since(self.clock.now());
            tokio::select! {
                biased;
                heard = heard.recv() => match heard {
                    Some(heard) => self.hear(heard),
                    None => return,
                },
                change = self.progress.changed(), if changes => changes = change.is_ok(),
                () = sleep(pause) => {}
            }
        }
    }

    fn hear(&mut self, heard: Heard) {
        let now = self.clock.now();
        match heard {
            Heard::Joined(neighbour) => self.pex.joined(neighbour, now),
            Heard::Left { remote } => self.pex.left(remote, now),
            Heard::Said { remote, payload } => match self.pex.heard(remote, &payload, now) {
                Ok(message) => self.keep(remote, message.added.iter().map(|contact| (contact.addr, contact.flags))),
                Err(why) => tracing::debug!(%remote, %why, "peer exchange ignored"),
            },
            _ => {}
        }
    }

    /// Remembers peers until [`Work::report`]. A seed needs no seeds.
    fn keep(&mut self, from: SocketAddr, contacts: impl Iterator<Item = (SocketAddr, Flags)>) {
        let complete = self.progress.borrow().left == Some(0);
        let instance: Arc<str> = from.to_string().into();
        for (addr, _) in contacts.filter(|(_, flags)| !(complete && flags.has(Flags::SEED))) {
            self.kept.retain(|kept| kept.addr != addr);
            self.kept.push_back(PeerCandidate { addr, peer_id: None, instance: instance.clone() });
        }
        self.kept.drain(..self.kept.len().saturating_sub(MOST_KEPT));
    }

    /// Passes on what is new: peers while they are wanted, and how many neighbours there are.
    async fn report(&mut self) {
        let speakers = self.pex.speakers();
        let condition = (speakers != self.speakers).then(|| Found::Condition(condition(speakers)));
        self.speakers = speakers;
        let wanted = !self.kept.is_empty() && self.progress.borrow_and_update().wanted > 0;
        let peers = wanted.then(|| Found::Peers(self.kept.drain(..).collect()));
        let milestone = (wanted && self.first).then_some(Found::Reached(Milestone::LookedUp));
        self.first &= !wanted;
        for found in [condition, milestone, peers].into_iter().flatten() {
            // The reader owns this future: if it is gone, so are we.
            let _ = self.finds.send(Ok(found)).await;
        }
    }
}

fn condition(speakers: usize) -> String {
    match speakers {
        0 => "no neighbour speaks it".to_owned(),
        1 => "1 neighbour speaks it".to_owned(),
        more => format!("{more} neighbours speak it"),
    }
}

#[cfg(test)]
mod tests;
