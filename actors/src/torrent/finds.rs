//! What plugins say: peers, trackers, milestones, conditions; and what connected peers say to plugins and hear of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use actix::prelude::*;
use bytes::Bytes;
use castanet_core::{
    PeerKey, PluginName,
    seams::discovery::{DiscoveryError, Found, Heard, Milestone, Neighbour, News, SwarmSize},
};
use castanet_protocol::extension::Extension;

use super::Torrent;
use crate::{
    mail::tell,
    messages::{
        discovery::{Hear, NeighbourHeard, NeighbourTold, PeersFound, PluginSaid},
        peer::SayExtended,
        torrent::{Happening, PluginStarted},
    },
};

/// Peers of one find that are looked at; a flood costs its source the rest.
const MOST_FOUND: usize = 10_000;
/// Instances of a plugin of which is remembered whether they answer.
const MOST_INSTANCES: usize = 64;
/// Trackers of a torrent, those that plugins found included.
const MOST_TRACKERS: usize = 200;

/// How a plugin fares for this torrent.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Its own words.
    pub(super) condition: Option<String>,
    /// Instances that have answered.
    pub(super) answered: BTreeSet<Arc<str>>,
    /// Instances that failed last time, and why.
    pub(super) failing: BTreeMap<Arc<str>, String>,
    /// The swarm's size, by instance.
    pub(super) sizes: BTreeMap<Arc<str>, SwarmSize>,
}

impl Standing {
    fn answers(&mut self, instance: &Arc<str>) {
        self.failing.remove(instance);
        if self.answered.len() < MOST_INSTANCES {
            self.answered.insert(instance.clone());
        }
    }
    fn fails(&mut self, instance: &Arc<str>, reason: String) {
        self.answered.remove(instance);
        if self.failing.len() < MOST_INSTANCES || self.failing.contains_key(instance) {
            self.failing.insert(instance.clone(), reason);
        }
    }
}

impl Torrent {
    fn standing(&mut self, plugin: &PluginName) -> &mut Standing {
        self.standings.entry(plugin.clone()).or_default()
    }

    /// Learns of more trackers; those that are known already are passed over.
    pub(super) fn add_trackers(&mut self, urls: Vec<String>, ctx: &mut Context<Self>) {
        let known = self.trackers.iter().flatten().count();
        let mut new: Vec<String> = Vec::new();
        for url in urls {
            let is_known = self.trackers.iter().flatten().chain(&new).any(|other| *other == url);
            if !is_known && known + new.len() < MOST_TRACKERS {
                new.push(url);
            }
        }
        if !new.is_empty() {
            self.trackers.extend(new.into_iter().map(|url| vec![url]));
            self.brief_plugins(ctx);
        }
    }

    /// Tells the plugins what the torrent is, while it meets peers.
    pub(super) fn brief_plugins(&mut self, ctx: &mut Context<Self>) {
        if self.is_running() {
            for plugin in &self.plugins {
                tell(&plugin.watch, self.watch_order(ctx));
            }
        }
    }

    fn failed(&mut self, plugin: PluginName, error: &DiscoveryError) {
        let text = error.to_string();
        if let DiscoveryError::Refused { instance, message: reason }
        | DiscoveryError::Malformed { instance, what: reason }
        | DiscoveryError::Unreachable { instance, reason } = error
        {
            self.standing(&plugin).fails(instance, reason.clone());
        } else {
            self.standing(&plugin).fails(&plugin.0.clone(), text.clone());
        }
        self.happened(Happening::Notice(format!("{plugin}: {text}")));
    }
}

impl Handler<PeersFound> for Torrent {
    type Result = ();
    fn handle(&mut self, PeersFound { plugin, peers }: PeersFound, ctx: &mut Self::Context) {
        let now = self.now();
        let instances: BTreeSet<_> = peers.iter().take(MOST_FOUND).map(|peer| peer.instance.clone()).collect();
        instances.iter().for_each(|instance| self.standing(&plugin).answers(instance));
        for peer in peers.into_iter().take(MOST_FOUND) {
            let (addr, instance) = (peer.addr, peer.instance.clone());
            if self.swarm.found(&plugin, vec![peer], now) > 0 {
                self.reach(Milestone::FirstPeer, now);
                self.happened(Happening::PeerFound { addr, plugin: plugin.clone(), instance });
            }
        }
        self.dial(ctx);
    }
}

impl Handler<PluginSaid> for Torrent {
    type Result = ();
    fn handle(&mut self, PluginSaid { plugin, said }: PluginSaid, ctx: &mut Self::Context) {
        match said {
            Ok(Found::Notice(text)) => self.happened(Happening::Notice(format!("{plugin}: {text}"))),
            Ok(Found::ExternalAddress(ip)) => self.swarm.set_external(ip),
            Ok(Found::Trackers(urls)) => self.add_trackers(urls, ctx),
            Ok(Found::Condition(text)) => self.standing(&plugin).condition = Some(text),
            Ok(Found::SwarmSize { instance, size }) => {
                let standing = self.standing(&plugin);
                standing.answers(&instance);
                if standing.sizes.len() < MOST_INSTANCES || standing.sizes.contains_key(&instance) {
                    standing.sizes.insert(instance, size);
                }
            }
            Ok(Found::TorrentFile(file)) => self.torrent_file(&file, ctx),
            Ok(Found::Reached(milestone)) => self.reach(milestone, self.now()),
            Ok(_) => {}
            Err(error) => self.failed(plugin, &error),
        }
    }
}

impl Handler<NeighbourTold> for Torrent {
    type Result = ();
    fn handle(&mut self, NeighbourTold { extension, say }: NeighbourTold, _: &mut Self::Context) {
        let Some(extension) = Extension::ALL.into_iter().find(|known| known.name() == extension) else { return };
        if let Some(connected) = self.peers.values().find(|connected| connected.remote == say.remote) {
            tell(&connected.peer.clone().recipient(), SayExtended { extension, payload: say.payload });
        }
    }
}

/// What plugins with an extension of their own hear of connected peers (BEP 10, 11).
impl Torrent {
    /// The extensions that are offered to a peer.
    pub(super) fn extensions(&self) -> Vec<Extension> {
        let info = self.swarm_info();
        let spoken = |started: &PluginStarted| started.seam.extension().filter(|_| started.seam.serves(&info));
        let spoken: Vec<&str> = self.plugins.iter().filter_map(spoken).collect();
        let is_offered =
            |extension: &Extension| *extension == Extension::Metadata || spoken.contains(&extension.name());
        Extension::ALL.into_iter().filter(is_offered).collect()
    }

    /// The DHT port that peers are told (BEP 5); `None` as long as there is none, and for private torrents.
    pub(super) fn dht_port(&self) -> Option<u16> {
        let with_port = |started: &PluginStarted| Some((started.seam.clone(), started.seam.dht_port()?));
        let (seam, port) = self.plugins.iter().find_map(with_port)?;
        seam.serves(&self.swarm_info()).then_some(port)
    }

    /// A peer says where its DHT node listens.
    pub(super) fn dht_node(&self, node: SocketAddr) {
        let info = self.swarm_info();
        for started in &self.plugins {
            if started.seam.dht_port().is_some() && started.seam.serves(&info) {
                tell(&started.hear, Hear(News::DhtNode(node)));
            }
        }
    }

    /// A connected peer can be talked to, or told of.
    pub(super) fn neighbour_joined(&self, peer: PeerKey) {
        for started in &self.plugins {
            self.introduce(started, peer);
        }
    }

    /// Tells a plugin that is new of everyone who is there.
    pub(super) fn introduce_neighbours(&self, started: &PluginStarted) {
        for peer in self.peers.keys() {
            self.introduce(started, *peer);
        }
    }

    fn introduce(&self, started: &PluginStarted, peer: PeerKey) {
        let (Some(extension), Some(connected)) = (started.seam.extension(), self.peers.get(&peer)) else { return };
        let neighbour = Neighbour {
            remote: connected.remote,
            listens: connected.listens,
            speaks: connected.extensions.iter().any(|spoken| spoken.name() == extension),
            reachable: !connected.inbound,
            seed: connected.is_seed,
            utp: false,
            encrypts: false,
            holepunch: false,
        };
        tell(&started.neighbour, NeighbourHeard { torrent: self.id, heard: Heard::Joined(neighbour) });
    }

    /// A connected peer is gone.
    pub(super) fn neighbour_left(&self, remote: SocketAddr) {
        for started in self.plugins.iter().filter(|started| started.seam.extension().is_some()) {
            tell(&started.neighbour, NeighbourHeard { torrent: self.id, heard: Heard::Left { remote } });
        }
    }

    /// A connected peer speaks a plugin's extension.
    pub(super) fn gossip_heard(&self, peer: PeerKey, extension: Extension, payload: Bytes) {
        let Some(remote) = self.peers.get(&peer).map(|connected| connected.remote) else { return };
        for started in self.plugins.iter().filter(|started| started.seam.extension() == Some(extension.name())) {
            let heard = Heard::Said { remote, payload: payload.clone() };
            tell(&started.neighbour, NeighbourHeard { torrent: self.id, heard });
        }
    }

    /// May this peer be met, now that it may be known that the torrent is private (BEP 27)? Yes if nobody named it (it
    /// came by itself) or someone who may serve the torrent did.
    pub(super) fn may_meet(&self, addr: SocketAddr) -> bool {
        let sources = self.swarm.provenance(addr);
        if !self.is_private() || sources.is_empty() {
            return true;
        }
        let info = self.swarm_info();
        let named = |started: &PluginStarted| sources.iter().any(|source| source.plugin == started.plugin);
        self.plugins.iter().any(|started| named(started) && started.seam.serves(&info))
    }
}
