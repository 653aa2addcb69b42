//! Connections: whom to dial, who may stay, who is unchoked, who is told what.

use std::{net::SocketAddr, sync::Arc};

use actix::prelude::*;
use castanet_core::{Moment, PeerKey, seams::transport::DialOptions};
use castanet_protocol::{
    peer::{PeerConfig, PeerTiming},
    swarm::{CloseKind, Opened, Verdict},
    unchoke::PeerView,
};

use super::{GATHER, Torrent};
use crate::{
    lifecycle::ExitReason,
    mail::tell,
    messages::{
        discovery::{PeersFared, PeersFound, PluginNoted},
        peer::{Announce, Disconnect, SetChoke},
        torrent::{
            DialFailed, Happening, PeerArrived, PeerChange, PeerChanged, PeerReport, Phase, PieceCompleted,
            PieceRejected,
        },
    },
    peer::{Peer, PeerLinks},
    shake,
};

/// An open connection as its torrent sees it.
pub(super) struct Connected {
    pub(super) remote: SocketAddr,
    peer: Addr<Peer>,
    view: PeerView,
    pub(super) chokes_us: bool,
    pub(super) is_seed: bool,
    downloaded: u64,
    uploaded: u64,
    /// Why we closed it, if we did.
    closing: Option<CloseKind>,
}

impl Torrent {
    /// Dials whomever the swarm proposes, until it has had enough.
    pub(super) fn dial(&mut self, ctx: &mut Context<Self>) {
        while self.is_running()
            && let Some(dial) = self.swarm.next_dial(self.now())
        {
            let (transports, info_hash, me) = (self.shared.transports.clone(), self.info_hash, self.me);
            let (arrived, failed) = (ctx.address().recipient(), ctx.address().recipient());
            while self.dials.try_join_next().is_some() {}
            self.dials.spawn_local(async move {
                let addr = dial.addr;
                let mut reason = "no transport can reach it".to_string();
                for transport in transports.iter() {
                    let options = DialOptions { swarm: Some(info_hash), ..DialOptions::default() };
                    let attempt = async {
                        let mut connection = transport.dial(addr, options).await.map_err(|error| error.to_string())?;
                        let (handshake, early) = shake::outbound(&mut connection, info_hash, me).await?;
                        Ok::<_, String>(PeerArrived { connection, handshake, early, inbound: false })
                    };
                    match attempt.await {
                        Ok(peer) => return tell(&arrived, peer),
                        Err(error) => reason = error,
                    }
                }
                tell(&failed, DialFailed { addr, reason });
            });
        }
        self.feed_back();
    }

    fn arrive(&mut self, arrival: PeerArrived, ctx: &mut Context<Self>) {
        let PeerArrived { mut connection, handshake, early, inbound } = arrival;
        let (now, remote) = (self.now(), connection.remote);
        if !self.is_running() {
            if !inbound {
                self.swarm.dial_failed(remote, now);
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
        let config = PeerConfig {
            geometry: self.geometry,
            have: self.have.clone(),
            fast: handshake.reserved.fast(),
            extended: handshake.reserved.extended(),
            remote: remote.ip(),
            info_hash: self.info_hash,
            listen_port: self.shared.port(),
            dht_port: None,
            timing: PeerTiming::default(),
            extensions: Default::default(),
        };
        let (Some(pieces), Some(storage), me) = (&self.pieces, &self.storage, ctx.address()) else { return };
        let links = PeerLinks {
            joined: pieces.clone().recipient(),
            has: pieces.clone().recipient(),
            suggested: pieces.clone().recipient(),
            left: pieces.clone().recipient(),
            want: pieces.clone().recipient(),
            received: pieces.clone().recipient(),
            lost: pieces.clone().recipient(),
            read: storage.clone().recipient(),
            changed: me.clone().recipient(),
            report: me.clone().recipient(),
            parent: me.recipient(),
        };
        let peer = Peer::new(key, connection, early, config, links, self.peer_shared.clone()).start();
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
            peer,
            view,
            chokes_us: true,
            is_seed: false,
            downloaded: 0,
            uploaded: 0,
            closing: None,
        };
        self.peers.insert(key, connected);
        self.happened(Happening::PeerConnected { addr: remote, inbound });
        self.feed_back();
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

    /// Tells the peers what has been completed since the last time.
    fn announce(&mut self) {
        if self.fresh.is_empty() {
            return;
        }
        let pieces: Arc<[_]> = std::mem::take(&mut self.fresh).into();
        for connected in self.peers.values() {
            tell(&connected.peer.clone().recipient(), Announce(pieces.clone()));
        }
    }

    /// Every wanted piece is here.
    fn complete(&mut self, ctx: &mut Context<Self>) {
        self.phase = Phase::Seeding;
        self.announce();
        for plugin in &self.plugins {
            tell(&plugin.completed, crate::messages::discovery::TorrentCompleted(self.id));
        }
        if self.have.is_full() {
            for key in self.swarm.set_seeding(true, self.now()) {
                self.disconnect(key, CloseKind::BothSeeds, "both have all pieces");
            }
        }
        self.update_progress();
        self.save(ctx);
        self.publish();
        self.happened(Happening::Complete);
    }

    /// Tells plugins what became of their peers.
    pub(super) fn feed_back(&mut self) {
        while let Some(feedback) = self.swarm.poll_feedback() {
            if let Some(plugin) = self.plugins.iter().find(|plugin| plugin.plugin == feedback.plugin) {
                tell(&plugin.fared, PeersFared { torrent: self.id, outcomes: vec![feedback.outcome] });
            }
        }
    }
}

impl Handler<PeersFound> for Torrent {
    type Result = ();
    fn handle(&mut self, PeersFound { plugin, peers }: PeersFound, ctx: &mut Self::Context) {
        let now = self.now();
        for peer in peers {
            let (addr, instance) = (peer.addr, peer.instance.clone());
            if self.swarm.found(&plugin, vec![peer], now) > 0 {
                self.happened(Happening::PeerFound { addr, plugin: plugin.clone(), instance });
            }
        }
        self.dial(ctx);
    }
}

impl Handler<PluginNoted> for Torrent {
    type Result = ();
    fn handle(&mut self, noted: PluginNoted, _: &mut Self::Context) {
        if let Some(ip) = noted.external {
            self.swarm.set_external(ip);
        } else {
            self.happened(Happening::Notice(format!("{}: {}", noted.plugin, noted.text)));
        }
    }
}

impl Handler<DialFailed> for Torrent {
    type Result = ();
    fn handle(&mut self, DialFailed { addr, reason }: DialFailed, ctx: &mut Self::Context) {
        self.swarm.dial_failed(addr, self.now());
        self.happened(Happening::PeerLost { addr, reason });
        self.dial(ctx);
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
    fn handle(&mut self, PeerChanged { peer, change }: PeerChanged, _: &mut Self::Context) {
        let now = self.now();
        let Some(connected) = self.peers.get_mut(&peer) else { return };
        match change {
            PeerChange::Interested(yes) => {
                connected.view.interested = yes;
                self.fill_slots();
            }
            PeerChange::ChokesUs(yes) => connected.chokes_us = yes,
            PeerChange::Snubbed(yes) => connected.view.snubbed = yes,
            PeerChange::Introduced { port, .. } => {
                if let Some(port) = port {
                    self.swarm.listens(peer, port, now);
                }
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
            self.quiet_since = now;
            self.swarm.gave(report.peer, down, now);
        }
        if up > 0 {
            self.swarm.took(report.peer, now);
        }
    }
}

impl Handler<PieceCompleted> for Torrent {
    type Result = ();
    fn handle(&mut self, PieceCompleted { piece, left, contributors }: PieceCompleted, ctx: &mut Self::Context) {
        contributors.into_iter().for_each(|key| self.swarm.good_piece(key));
        self.have.set(piece);
        self.left = left;
        self.saved.is_dirty = true;
        self.happened(Happening::Piece(piece));
        self.fresh.push(piece);
        if left == 0 && self.phase == Phase::Downloading {
            self.complete(ctx);
        } else if !self.is_running() {
            // It came with the last writes of a pause: nobody is connected who could be told.
            self.fresh.clear();
            if left == 0 {
                if self.have.is_full() {
                    let _ = self.swarm.set_seeding(true, self.now());
                }
                self.happened(Happening::Complete);
            }
        } else if self.fresh.len() == 1 {
            ctx.run_later(GATHER, |torrent, _| torrent.announce());
        }
    }
}

impl Handler<PieceRejected> for Torrent {
    type Result = ();
    fn handle(&mut self, PieceRejected { piece, contributors }: PieceRejected, _: &mut Self::Context) {
        self.totals.wasted += u64::from(self.geometry.length_of(piece));
        self.happened(Happening::PieceRejected(piece));
        let is_sole = contributors.len() == 1;
        for key in contributors {
            if self.swarm.bad_piece(key, is_sole) {
                self.disconnect(key, CloseKind::BadData, "it sent data that does not match the torrent's hash");
            }
        }
    }
}
