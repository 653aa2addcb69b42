//! From an info-hash to the torrent: what it is is remembered, asked of peers (BEP 9) or found where its link points.
//!
//! Peers are met before the files are opened, and stay connected when they are.

use std::sync::Arc;

use actix::prelude::*;
use bytes::Bytes;
use castanet_core::{Metainfo, PeerKey, seams::discovery::Milestone};
use castanet_protocol::{
    extension::Extension,
    metadata::{self, Metadata, MetadataOutput},
    swarm::CloseKind,
};
use tokio::sync::oneshot;

use super::{ONLY_V2, Torrent};
use crate::{
    disk::Job,
    mail::tell,
    messages::{
        peer::SayExtended,
        session::Source,
        torrent::{Happening, PeerSaid, Phase},
    },
};

/// Fetches the metadata.
pub(super) type Fetching = Metadata;

impl Torrent {
    /// Is it known to be private (BEP 27)?
    pub(super) fn is_private(&self) -> bool {
        self.info.private
    }

    /// The raw info dictionary, if it did not come from a .torrent file of the user's.
    pub(super) fn fetched_info(&self) -> Option<Bytes> {
        let is_link = matches!(self.spec.source, Source::Link(_));
        self.metainfo.as_ref().filter(|_| is_link).map(|metainfo| metainfo.info_bytes.clone())
    }

    /// Looks whether an earlier run knew the torrent; otherwise peers are asked.
    pub(super) fn recall(&mut self, ctx: &mut Context<Self>) {
        let (resume, key) = (self.shared.resume.clone(), self.resume_key());
        let hashes = key.info_hashes;
        let (done, recalled) = oneshot::channel();
        self.shared.disk.submit(Job::Other(Box::new(move || {
            let info = resume.load(&key).ok().flatten().and_then(|record| record.info);
            let metainfo = info.and_then(|info| Metainfo::from_info(info).ok());
            let _ = done.send(metainfo.filter(|metainfo| hashes.v1 == metainfo.info_hashes.v1));
        })));
        ctx.spawn(recalled.into_actor(self).map(|recalled, torrent, ctx| match recalled {
            _ if torrent.stopping => {}
            Ok(Some(metainfo)) => {
                let metainfo = Arc::new(metainfo);
                torrent.reach(Milestone::Metadata, torrent.now());
                torrent.happened(Happening::Metadata(metainfo.clone()));
                torrent.open(metainfo, ctx);
            }
            _ => torrent.ask_peers(ctx),
        }));
    }

    fn ask_peers(&mut self, ctx: &mut Context<Self>) {
        let seed = self.pieces_seed;
        self.fetching = Some(Metadata::new(self.spec.source.info_hashes(), seed));
        self.phase = if self.begin_paused { Phase::Paused } else { Phase::Metadata };
        if self.is_running() {
            self.meet(ctx);
        }
        self.publish();
    }

    /// Only finds peers and shakes hands with them.
    pub(super) fn look_only(&mut self, metainfo: Option<Arc<Metainfo>>, ctx: &mut Context<Self>) {
        match metainfo {
            Some(metainfo) => {
                self.know(metainfo);
                self.phase = Phase::Metadata;
                self.meet(ctx);
                self.publish();
            }
            None => self.ask_peers(ctx),
        }
    }

    /// A peer said what it can do: is it worth asking?
    pub(super) fn could_give_metadata(&mut self, peer: PeerKey, size: Option<u32>, ctx: &mut Context<Self>) {
        let now = self.now();
        if let Some(fetching) = &mut self.fetching {
            fetching.peer_ready(peer, size, now);
            self.ask_for_metadata(ctx);
        }
    }

    /// Does what the machine wants done.
    pub(super) fn ask_for_metadata(&mut self, ctx: &mut Context<Self>) {
        let now = self.now();
        let Some(fetching) = &mut self.fetching else { return };
        fetching.timeout(now);
        let mut bad = Vec::new();
        let mut done = None;
        while let Some(output) = fetching.poll() {
            match output {
                MetadataOutput::Say { peer, payload } => {
                    if let Some(connected) = self.peers.get(&peer) {
                        let extension = Extension::Metadata;
                        tell(&connected.peer.clone().recipient(), SayExtended { extension, payload: payload.into() });
                    }
                }
                MetadataOutput::Done(info) => done = Some(info),
                MetadataOutput::Bad { peers } => bad.extend(peers),
                _ => {}
            }
        }
        for peer in bad {
            let _ = self.swarm.bad_piece(peer, true);
            self.disconnect(peer, CloseKind::BadData, "it sent metadata that do not match the info-hash");
        }
        if let Some(info) = done {
            match Metainfo::from_info(info) {
                Ok(metainfo) => self.learn(metainfo, ctx),
                Err(error) => self.fail(format!("the torrent\'s metadata cannot be used: {error}"), ctx),
            }
        }
    }

    /// A whole .torrent file came from elsewhere. It is believed if it is about this torrent.
    pub(super) fn torrent_file(&mut self, file: &[u8], ctx: &mut Context<Self>) {
        if self.fetching.is_none() {
            return;
        }
        let ours = self.spec.source.info_hashes();
        match Metainfo::parse(file) {
            Ok(metainfo) if ours.v1.is_some() && metainfo.info_hashes.v1 == ours.v1 => {
                let trackers = metainfo.trackers.iter().flatten().cloned().collect();
                self.learn(metainfo, ctx);
                self.add_trackers(trackers, ctx);
            }
            Ok(_) => {
                self.happened(Happening::Notice("a .torrent file was fetched, but it is of another torrent".into()))
            }
            Err(error) => {
                self.happened(Happening::Notice(format!("a .torrent file that was fetched is broken: {error}")))
            }
        }
    }

    /// Now it is known what the torrent is.
    fn learn(&mut self, metainfo: Metainfo, ctx: &mut Context<Self>) {
        self.fetching = None;
        let metainfo = Arc::new(metainfo);
        self.reach(Milestone::Metadata, self.now());
        self.happened(Happening::Metadata(metainfo.clone()));
        self.know(metainfo.clone());
        if metainfo.info.private {
            self.open_door(ctx);
            self.brief_plugins(ctx);
            self.part_from_strangers();
        }
        if self.spec.discover_only {
            return;
        }
        if metainfo.info.pieces.is_none() {
            return self.fail(ONLY_V2.into(), ctx);
        }
        if self.phase == Phase::Paused {
            self.begin_paused = true;
        } else {
            self.met_early = true;
        }
        self.open(metainfo, ctx);
    }

    /// The torrent turned out to be private: whoever was not named by those who may serve it goes.
    fn part_from_strangers(&mut self) {
        let strangers: Vec<PeerKey> =
            self.peers.iter().filter(|(_, peer)| !self.may_meet(peer.remote)).map(|(key, _)| *key).collect();
        for key in strangers {
            self.disconnect(key, CloseKind::Clean, "the torrent is private and no tracker named this peer");
        }
    }
}

impl Handler<PeerSaid> for Torrent {
    type Result = ();
    fn handle(&mut self, PeerSaid { peer, extension, payload }: PeerSaid, ctx: &mut Self::Context) {
        match extension {
            Extension::Metadata => self.metadata_said(peer, &payload, ctx),
            Extension::Holepunch => self.holepunch_said(peer, &payload, ctx),
            _ => self.gossip_heard(peer, extension, payload),
        }
    }
}

impl Torrent {
    fn metadata_said(&mut self, peer: PeerKey, payload: &[u8], ctx: &mut Context<Self>) {
        let now = self.now();
        if let Some(fetching) = &mut self.fetching {
            let verdict = fetching.received(peer, payload, now);
            self.pace.arrived(now);
            self.ask_for_metadata(ctx);
            if let Err(error) = verdict {
                self.disconnect(peer, CloseKind::Violation, &error.to_string());
            }
        } else if let Some(info) = self.metainfo.as_ref().map(|metainfo| metainfo.info_bytes.clone())
            && let Some(connected) = self.peers.get_mut(&peer)
            && let Some(payload) = metadata::answer(&info, payload, &mut connected.metadata_given, now)
        {
            let extension = Extension::Metadata;
            tell(&connected.peer.clone().recipient(), SayExtended { extension, payload: payload.into() });
        }
    }
}
