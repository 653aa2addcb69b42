//! What a piece brings that is complete, or was bad: who is told, who answers for it, and the end of the download.

use std::sync::Arc;

use actix::prelude::*;
use castanet_core::seams::discovery::Milestone;
use castanet_protocol::swarm::CloseKind;

use super::{GATHER, Torrent};
use crate::{
    mail::tell,
    messages::{
        discovery::TorrentCompleted,
        peer::Announce,
        torrent::{Happening, Phase, PieceCompleted, PieceRejected},
    },
};

impl Torrent {
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
        self.close_web_seeds();
        self.reach(Milestone::Complete, self.now());
        self.announce();
        for plugin in &self.plugins {
            tell(&plugin.completed, TorrentCompleted(self.id));
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
}

impl Handler<PieceCompleted> for Torrent {
    type Result = ();
    fn handle(&mut self, PieceCompleted { piece, left, contributors }: PieceCompleted, ctx: &mut Self::Context) {
        contributors.into_iter().for_each(|key| self.swarm.good_piece(key));
        self.have.set(piece);
        self.left = left;
        self.saved.is_dirty = true;
        self.reach(Milestone::FirstPiece, self.now());
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
        self.totals.wasted += self.geometry.map_or(0, |geometry| u64::from(geometry.length_of(piece)));
        self.happened(Happening::PieceRejected(piece));
        let is_sole = contributors.len() == 1;
        for key in contributors {
            if !self.bad_web_piece(key, is_sole) && self.swarm.bad_piece(key, is_sole) {
                self.disconnect(key, CloseKind::BadData, "it sent data that does not match the torrent's hash");
            }
        }
    }
}
