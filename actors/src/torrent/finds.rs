//! What plugins say: peers, trackers, milestones, conditions; and what connected peers say to plugins and hear of them.

use std::{collections::BTreeSet, net::SocketAddr};

use actix::prelude::*;
use bytes::Bytes;
use castanet_core::{
    PeerKey,
    seams::discovery::{Found, Heard, Milestone, Neighbour, News},
};
use castanet_protocol::extension::Extension;

use super::{Torrent, holepunch::UTP};
use crate::{
    mail::tell,
    messages::{
        discovery::{Hear, NeighbourHeard, NeighbourTold, PeersFound, PluginSaid},
        peer::SayExtended,
        torrent::{Happening, PluginStarted},
    },
    metered::Meter,
};

/// Peers of one find that are looked at; a flood costs its source the rest.
const MOST_FOUND: usize = 10_000;
/// Trackers of a torrent, those that plugins found included.
const MOST_TRACKERS: usize = 200;

impl Torrent {
    /// Learns of more trackers; those that are known already are passed over.
    pub(super) fn add_trackers(&mut self, urls: Vec<String>, ctx: &mut Context<Self>) {
        let mut tiers = self.info.trackers.to_vec();
        let mut known = tiers.iter().flatten().count();
        for url in urls {
            if known < MOST_TRACKERS && !tiers.iter().flatten().any(|other| *other == url) {
                tiers.push(vec![url]);
                known += 1;
            }
        }
        if tiers.len() > self.info.trackers.len() {
            self.info.trackers = tiers.into();
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

    /// The plugins that may serve the torrent.
    pub(super) fn serving(&self) -> impl Iterator<Item = &PluginStarted> {
        self.plugins.iter().filter(|started| started.seam.serves(&self.info))
    }
}

impl Handler<PeersFound> for Torrent {
    type Result = ();
    fn handle(&mut self, PeersFound { plugin, peers }: PeersFound, ctx: &mut Self::Context) {
        let now = self.now();
        let instances: BTreeSet<_> = peers.iter().take(MOST_FOUND).map(|peer| peer.instance.clone()).collect();
        instances.iter().for_each(|instance| self.standings.answered(&plugin, instance));
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
            Ok(Found::WebSeeds(urls)) => self.add_web_seeds(&urls, ctx),
            Ok(Found::Condition(text)) => self.standings.says(&plugin, text),
            Ok(Found::SwarmSize { instance, size }) => self.standings.counted(&plugin, instance, size),
            Ok(Found::TorrentFile(file)) => self.torrent_file(&file, ctx),
            Ok(Found::Reached(milestone)) => self.reach(milestone, self.now()),
            Ok(_) => {}
            Err(error) => {
                self.standings.failed(&plugin, &error);
                self.happened(Happening::Notice(format!("{plugin}: {error}")));
            }
        }
    }
}

impl Handler<NeighbourTold> for Torrent {
    type Result = ();
    fn handle(&mut self, NeighbourTold { extension, say }: NeighbourTold, _: &mut Self::Context) {
        if let Some(extension) = Extension::ALL.into_iter().find(|known| known.name() == extension) {
            let spoken = self.plugins.iter().find(|started| started.seam.extension() == Some(extension.name()));
            if let Some(started) = spoken {
                self.say_extended(say.remote, extension, say.payload, &started.meter);
            }
        }
    }
}

/// What plugins with an extension of their own hear of connected peers (BEP 10, 11).
impl Torrent {
    /// The extensions that are offered to a peer.
    pub(super) fn extensions(&self) -> Vec<Extension> {
        let spoken: Vec<&str> = self.serving().filter_map(|started| started.seam.extension()).collect();
        let is_offered = |extension: &Extension| match extension {
            Extension::Metadata => true,
            Extension::Holepunch => self.punches_holes(),
            of_plugins => spoken.contains(&of_plugins.name()),
        };
        Extension::ALL.into_iter().filter(is_offered).collect()
    }

    /// The DHT port that peers are told (BEP 5); `None` as long as there is none, and for private torrents.
    pub(super) fn dht_port(&self) -> Option<u16> {
        self.serving().find_map(|started| started.seam.dht_port())
    }

    /// A peer says where its DHT node listens.
    pub(super) fn dht_node(&self, node: SocketAddr) {
        for started in self.serving().filter(|started| started.seam.dht_port().is_some()) {
            tell(&started.hear, Hear(News::DhtNode(node)));
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
            utp: connected.via == UTP,
            // What the connection is wrapped in is not known here, and says little of what the peer would prefer.
            encrypts: false,
            holepunch: connected.extensions.contains(&Extension::Holepunch),
        };
        tell(&started.neighbour, NeighbourHeard { torrent: self.id, heard: Heard::Joined(neighbour) });
    }

    /// Says something by an extension to the peer at the other end of a connection, at somebody's cost.
    pub(super) fn say_extended(&self, remote: SocketAddr, extension: Extension, payload: Bytes, cost: &Meter) {
        if let Some(connected) = self.peers.values().find(|connected| connected.remote == remote) {
            cost.message_sent(payload.len());
            tell(&connected.peer.clone().recipient(), SayExtended { extension, payload });
        }
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
            started.meter.message_received(payload.len());
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
        self.serving().any(|started| sources.iter().any(|source| source.plugin == started.plugin))
    }
}
