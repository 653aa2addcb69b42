//! Connections: who may stay, who is unchoked, and what they report.

use std::net::{IpAddr, SocketAddr};

use actix::prelude::*;
use castanet_core::{Bitfield, Moment, PeerKey, addr::is_local, seams::discovery::Milestone};
use castanet_protocol::{
    extension::Extension,
    metadata::Given,
    peer::{PeerConfig, PeerTiming, first_credit},
    swarm::{CloseKind, DialFailure, Feedback, Opened, Verdict},
    unchoke::PeerView,
};

use super::Torrent;
use crate::{
    lifecycle::ExitReason,
    mail::tell,
    messages::{
        discovery::PeersFared,
        peer::{Adopt, Disconnect, PieceLinks, SetChoke},
        torrent::{Happening, NetworkChanged, PeerArrived, PeerChange, PeerChanged, PeerReport, Phase},
    },
    peer::{Peer, PeerLimits, PeerLinks},
    throttle::PeerThrottle,
};

/// An open connection as its torrent sees it.
pub(super) struct Connected {
    pub(super) remote: SocketAddr,
    /// The transport.
    pub(super) via: &'static str,
    pub(super) peer: Addr<Peer>,
    pub(super) view: PeerView,
    pub(super) chokes_us: bool,
    pub(super) is_seed: bool,
    /// It connected to us.
    pub(super) inbound: bool,
    /// Where it accepts connections, if that is known.
    pub(super) listens: Option<SocketAddr>,
    /// It has said what it understands (BEP 10).
    is_introduced: bool,
    /// The extensions that it understands.
    pub(super) extensions: Vec<Extension>,
    /// It offers metadata (BEP 9).
    pub(super) gives_metadata: bool,
    /// How much metadata it was given.
    pub(super) metadata_given: Given,
    downloaded: u64,
    uploaded: u64,
    /// Why we closed it, if we did.
    closing: Option<CloseKind>,
}

impl Torrent {
    fn arrive(&mut self, arrival: PeerArrived, ctx: &mut Context<Self>) {
        let PeerArrived { mut connection, handshake, early, inbound } = arrival;
        let (now, remote, via) = (self.now(), connection.remote, connection.via);
        if !self.is_running() {
            if !inbound {
                self.swarm.dial_failed(remote, DialFailure::Other, now);
            }
            return;
        }
        let key = PeerKey(self.next_peer);
        self.next_peer += 1;
        if let Verdict::Refuse(reason) = self.swarm.connected(Opened { addr: remote, key, inbound }, now) {
            tracing::debug!(peer = %remote, %reason, "connection not wanted");
            return self.feed_back();
        }
        match self.swarm.handshaken(key, handshake.peer_id) {
            Verdict::Accept => {}
            Verdict::Replace(others) => {
                for other in others {
                    self.disconnect(other, CloseKind::Clean, "there is another connection to the same peer");
                }
            }
            Verdict::Refuse(reason) => {
                tracing::debug!(peer = %remote, %reason, "connection not wanted");
                self.swarm.closed(key, CloseKind::Clean, now);
                return self.feed_back();
            }
        }
        connection.io = match connection.io.rehome() {
            Ok(io) => io,
            Err(error) => {
                self.swarm.closed(key, CloseKind::Lost, now);
                return tracing::warn!(peer = %remote, %error, "connection cannot change threads");
            }
        };
        let limits = self.limits_of(remote.ip());
        let work = self.work_links();
        let has_extensions = handshake.reserved.extended();
        // Without files open nothing can move, whatever is known of the torrent.
        let config = PeerConfig {
            geometry: self.geometry.filter(|_| work.is_some()),
            have: work.as_ref().map_or_else(|| Bitfield::new(0), |_| self.have.clone()),
            metadata_size: self.metainfo.as_ref().map(|metainfo| metainfo.info_bytes.len() as u32),
            fast: handshake.reserved.fast(),
            extended: handshake.reserved.extended(),
            remote: remote.ip(),
            info_hash: self.info_hash,
            listen_port: self.shared.port_for(remote.ip()),
            dht_port: self.dht_port().filter(|_| handshake.reserved.dht()),
            timing: PeerTiming::default(),
            gifts: self.shared.config.upload_slots != Some(0),
            first_credit: first_credit(limits.down.as_ref().and_then(PeerThrottle::limit)),
            extensions: self.extensions(),
        };
        let me = ctx.address();
        let links = PeerLinks {
            pieces: work,
            changed: me.clone().recipient(),
            said: me.clone().recipient(),
            report: me.clone().recipient(),
            parent: me.recipient(),
        };
        let peer = Peer::new(key, connection, early, config, links, self.peer_shared.clone(), limits).start();
        let view = PeerView {
            key,
            interested: false,
            choked: true,
            down_rate: 0,
            up_rate: 0,
            connected: now,
            changed: now,
            snubbed: false,
        };
        let connected = Connected {
            remote,
            via,
            peer,
            view,
            chokes_us: true,
            is_seed: false,
            inbound,
            listens: (!inbound).then_some(remote),
            is_introduced: false,
            extensions: Vec::new(),
            gives_metadata: false,
            metadata_given: Given::default(),
            downloaded: 0,
            uploaded: 0,
            closing: None,
        };
        self.peers.insert(key, connected);
        self.reach(Milestone::FirstHandshake, now);
        self.happened(Happening::PeerConnected { addr: remote, inbound });
        if !has_extensions {
            self.neighbour_joined(key);
            self.could_relay(key);
        }
        self.feed_back();
    }

    /// Where a connection to this address waits under rate limits.
    fn limits_of(&self, ip: IpAddr) -> PeerLimits {
        if self.shared.config.exempt_lan && (is_local(ip) || self.shared.means.datagrams.is_neighbour(ip)) {
            return PeerLimits::default();
        }
        PeerLimits { down: Some(self.down_limit.connection()), up: Some(self.up_limit.connection()) }
    }

    /// Whom peers work with, when pieces can move.
    pub(super) fn work_links(&self) -> Option<PieceLinks> {
        let (pieces, storage) = (self.pieces.as_ref()?, self.storage.as_ref()?);
        Some(PieceLinks {
            joined: pieces.clone().recipient(),
            has: pieces.clone().recipient(),
            suggested: pieces.clone().recipient(),
            left: pieces.clone().recipient(),
            want: pieces.clone().recipient(),
            received: pieces.clone().recipient(),
            lost: pieces.clone().recipient(),
            read: storage.clone().recipient(),
        })
    }

    /// Lets those who were met before the files were open move pieces.
    pub(super) fn adopt_all(&self) {
        let (Some(metainfo), Some(geometry)) = (&self.metainfo, self.geometry) else { return };
        for connected in self.peers.values() {
            if let Some(links) = self.work_links() {
                let (have, metadata_size) = (self.have.clone(), metainfo.info_bytes.len() as u32);
                tell(&connected.peer.clone().recipient(), Adopt { geometry, have, metadata_size, links });
            }
        }
    }

    /// Closes a connection; the books are done when it has ended.
    pub(super) fn disconnect(&mut self, key: PeerKey, kind: CloseKind, reason: &str) {
        if let Some(connected) = self.peers.get_mut(&key) {
            connected.closing.get_or_insert(kind);
            tell(&connected.peer.clone().recipient(), Disconnect(ExitReason::Failed(reason.into())));
        }
    }

    /// Closes all connections; when the answers are there, nothing more comes from them.
    pub(super) fn part_from_all(&mut self, reason: &ExitReason) -> Vec<actix::dev::Request<Peer, Disconnect>> {
        let part = |connected: &mut Connected| {
            connected.closing.get_or_insert(CloseKind::Clean);
            connected.peer.send(Disconnect(reason.clone()))
        };
        self.peers.values_mut().map(part).collect()
    }

    pub(super) fn disconnect_all(&mut self, reason: &ExitReason) {
        self.close_web_seeds();
        for connected in self.peers.values_mut() {
            connected.closing.get_or_insert(CloseKind::Clean);
            tell(&connected.peer.clone().recipient(), Disconnect(reason.clone()));
        }
    }

    pub(super) fn peer_gone(&mut self, key: PeerKey, reason: &ExitReason, ctx: &mut Context<Self>) {
        let Some(connected) = self.peers.remove(&key) else { return };
        let kind = connected.closing.unwrap_or(match reason {
            ExitReason::Asked => CloseKind::Clean,
            ExitReason::Violation(_) => CloseKind::Violation,
            ExitReason::Failed(_) | ExitReason::Unexplained => CloseKind::Lost,
        });
        let now = self.now();
        self.swarm.closed(key, kind, now);
        if let Some(fetching) = &mut self.fetching {
            fetching.peer_gone(key);
        }
        // Two who dial each other over uTP may have two connections between the same addresses, for a moment.
        if !self.peers.values().any(|other| other.remote == connected.remote) {
            self.neighbour_left(connected.remote);
            self.holepunch.left(connected.remote);
        }
        self.happened(Happening::PeerLost { addr: connected.remote, reason: reason.to_string() });
        if connected.view.interested && !connected.view.choked {
            self.fill_slots();
        }
        self.dial(ctx);
    }

    /// A round of the choker, when it is due.
    pub(super) fn choke(&mut self, now: Moment) {
        if now < self.choker.deadline() || self.peers.is_empty() {
            return;
        }
        let views: Vec<PeerView> = self.peers.values().map(|connected| connected.view).collect();
        for change in self.choker.round(&views, self.phase == Phase::Seeding, now) {
            self.set_choke(change.key, change.choke);
        }
    }

    /// Gives free slots to interested peers without waiting for the next round.
    fn fill_slots(&mut self) {
        let views = || self.peers.values().map(|connected| connected.view);
        let mut unchoked = views().filter(|view| view.interested && !view.choked).count();
        let waiting: Vec<PeerView> = views().filter(|view| view.interested && view.choked).collect();
        for view in waiting {
            if self.choker.interested(&view, unchoked) {
                self.set_choke(view.key, false);
                unchoked += 1;
            }
        }
    }

    fn set_choke(&mut self, key: PeerKey, choke: bool) {
        let now = self.now();
        if let Some(connected) = self.peers.get_mut(&key) {
            connected.view.choked = choke;
            connected.view.changed = now;
            tell(&connected.peer.clone().recipient(), SetChoke(choke));
        }
    }

    /// Tells plugins what became of their peers, and of all peers those who overhear it.
    pub(super) fn feed_back(&mut self) {
        while let Some(Feedback { plugins, outcome }) = self.swarm.poll_feedback() {
            for started in self.plugins.iter().filter(|it| plugins.contains(&it.plugin) || it.seam.overhears()) {
                tell(&started.fared, PeersFared { torrent: self.id, outcomes: vec![outcome.clone()] });
            }
        }
    }
}

impl Handler<PeerArrived> for Torrent {
    type Result = ();
    fn handle(&mut self, arrival: PeerArrived, ctx: &mut Self::Context) {
        self.arrive(arrival, ctx);
    }
}

impl Handler<PeerChanged> for Torrent {
    type Result = ();
    fn handle(&mut self, PeerChanged { peer, change }: PeerChanged, ctx: &mut Self::Context) {
        let now = self.now();
        let Some(connected) = self.peers.get_mut(&peer) else { return };
        match change {
            PeerChange::Interested(yes) => {
                connected.view.interested = yes;
                self.fill_slots();
            }
            PeerChange::ChokesUs(yes) => connected.chokes_us = yes,
            PeerChange::Snubbed(yes) => connected.view.snubbed = yes,
            PeerChange::Introduced { port, extensions, metadata_size, .. } => {
                if let Some(port) = port {
                    let mut listens = connected.remote;
                    listens.set_port(port);
                    connected.listens.get_or_insert(listens);
                    self.swarm.listens(peer, port, now);
                }
                connected.gives_metadata = extensions.contains(&Extension::Metadata) && metadata_size.is_some();
                let is_new = std::mem::replace(&mut connected.is_introduced, true);
                let could_give = connected.gives_metadata.then_some(metadata_size).flatten();
                connected.extensions = extensions;
                if !is_new {
                    self.neighbour_joined(peer);
                    self.could_relay(peer);
                }
                self.could_give_metadata(peer, could_give, ctx);
            }
            PeerChange::DhtPort(port) => {
                let node = SocketAddr::new(connected.remote.ip(), port);
                self.dht_node(node);
            }
            PeerChange::IsSeed => {
                connected.is_seed = true;
                if let Verdict::Refuse(reason) = self.swarm.is_seed(peer) {
                    self.disconnect(peer, CloseKind::BothSeeds, &reason.to_string());
                }
            }
        }
    }
}

impl Handler<NetworkChanged> for Torrent {
    type Result = ();
    fn handle(&mut self, NetworkChanged { are_lost, notice }: NetworkChanged, ctx: &mut Self::Context) {
        if let Some(notice) = notice {
            self.happened(Happening::Notice(notice.to_string()));
        }
        if are_lost {
            let keys: Vec<_> = self.peers.keys().copied().collect();
            keys.into_iter().for_each(|key| self.disconnect(key, CloseKind::NetworkGone, "the network is gone"));
            self.close_web_seeds();
        }
        self.swarm.network_changed(self.now());
        if self.shared.away().is_none() {
            self.start_web_seeds(ctx);
        }
        self.dial(ctx);
    }
}

impl Handler<PeerReport> for Torrent {
    type Result = ();
    fn handle(&mut self, report: PeerReport, _: &mut Self::Context) {
        let now = self.now();
        let Some(connected) = self.peers.get_mut(&report.peer) else { return };
        let down = report.downloaded - connected.downloaded;
        let up = report.uploaded - connected.uploaded;
        connected.downloaded = report.downloaded;
        connected.uploaded = report.uploaded;
        connected.view.down_rate = report.down_rate;
        connected.view.up_rate = report.up_rate;
        self.totals.downloaded += down;
        self.totals.uploaded += up;
        self.down.add(down, now);
        self.up.add(up, now);
        if down > 0 {
            self.pace.arrived(now);
            self.swarm.gave(report.peer, down, now);
        }
        if up > 0 {
            self.swarm.took(report.peer, now);
        }
    }
}
