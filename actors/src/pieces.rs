//! The piece manager of a torrent: which blocks are asked of whom, and which pieces are good.
//!
//! A shell around the [`Picker`]. Owns the expected digests. Hands fresh blocks to the storage, answers peers that want
//! work, tells the torrent of completed and rejected pieces. Ends on `ClosePieces`.

use std::{collections::BTreeMap, sync::Arc};

use actix::prelude::*;
use castanet_core::{Bitfield, Geometry, Metainfo, PeerKey, PieceIndex};
use castanet_protocol::picker::{Picker, Priority, Received};

use crate::{
    lifecycle::{Child, ChildStopped, ExitReason},
    mail::tell,
    messages::{
        peer::{Cancel, Request, SetInterest, Suggest},
        pieces::{
            BlocksLost, BlocksReceived, ClosePieces, GetPieces, GetSurvey, PeerHas, PeerJoined, PeerLeft,
            PeerSuggested, PieceHashed, PiecesSnapshot, PiecesSurvey, WantWork,
        },
        storage::WriteBlocks,
        torrent::{BytesWasted, PieceCompleted, PieceRejected},
    },
};

/// Whom the piece manager tells.
#[derive(Debug, Clone)]
pub struct PiecesLinks {
    /// Storage: write these blocks.
    pub write: Recipient<WriteBlocks>,
    /// Torrent: a piece is good.
    pub completed: Recipient<PieceCompleted>,
    /// Torrent: a piece is bad.
    pub rejected: Recipient<PieceRejected>,
    /// Torrent: bytes came for nothing.
    pub wasted: Recipient<BytesWasted>,
    /// The parent.
    pub parent: Recipient<ChildStopped>,
}

struct Connected {
    request: Recipient<Request>,
    cancel: Recipient<Cancel>,
    interest: Recipient<SetInterest>,
    suggest: Recipient<Suggest>,
    is_interesting: bool,
    /// What it wanted when there was nothing for it.
    hungry: Option<WantWork>,
}

/// The actor.
pub struct Pieces {
    metainfo: Arc<Metainfo>,
    picker: Picker,
    peers: BTreeMap<PeerKey, Connected>,
    links: PiecesLinks,
    /// Has a piece been bad? Then it matters who gave the good ones.
    is_suspicious: bool,
    exit: Option<ExitReason>,
}

impl Pieces {
    /// A piece manager that has these pieces.
    pub fn new(
        metainfo: Arc<Metainfo>,
        geometry: Geometry,
        have: Bitfield,
        sequential: bool,
        seed: u64,
        links: PiecesLinks,
    ) -> Self {
        let mut picker = Picker::new(geometry, have, seed);
        picker.set_sequential(sequential);
        Self { metainfo, picker, peers: BTreeMap::new(), links, is_suspicious: false, exit: None }
    }

    /// Changes priorities before the actor starts.
    pub fn prioritise(&mut self, pieces: std::ops::Range<u32>, priority: Priority) {
        self.picker.set_priority(pieces, priority);
    }

    /// Wanted bytes that are missing.
    pub fn left(&self) -> u64 {
        self.picker.left_bytes()
    }

    fn feed(&mut self, want: WantWork) {
        let mut blocks = Vec::with_capacity(want.room);
        match &want.only {
            None => self.picker.pick(want.peer, want.room, Some(want.rate).filter(|rate| *rate > 0), &mut blocks),
            Some(pieces) => self.picker.pick_from(want.peer, pieces, want.room, &mut blocks),
        }
        let Some(peer) = self.peers.get_mut(&want.peer) else { return };
        peer.hungry = blocks.is_empty().then_some(want);
        if !blocks.is_empty() {
            tell(&peer.request, Request(blocks));
        }
    }

    /// Work has become free: whoever went away empty-handed is asked again.
    fn feed_the_hungry(&mut self) {
        let hungry: Vec<_> = self.peers.values_mut().filter_map(|peer| peer.hungry.take()).collect();
        for want in hungry {
            self.feed(want);
        }
    }

    fn update_interest(&mut self, key: PeerKey) {
        let now = self.picker.is_interesting(key);
        if let Some(peer) = self.peers.get_mut(&key)
            && std::mem::replace(&mut peer.is_interesting, now) != now
        {
            tell(&peer.interest, SetInterest(now));
        }
    }

    /// As a seed: spreads what nobody else has.
    fn suggest(&mut self, key: PeerKey) {
        let mut pieces = Vec::new();
        self.picker.suggest(key, &mut pieces);
        if let (false, Some(peer)) = (pieces.is_empty(), self.peers.get(&key)) {
            tell(&peer.suggest, Suggest(pieces));
        }
    }

    fn contributors(&self, piece: PieceIndex) -> Vec<PeerKey> {
        self.picker.contributors(piece).into_iter().map(|(peer, _)| peer).collect()
    }

    fn is_good(&self, piece: PieceIndex, digest: castanet_core::Sha1Digest) -> bool {
        self.metainfo.info.pieces.as_ref().is_some_and(|pieces| pieces.digest(piece) == Some(digest))
    }
}

impl Actor for Pieces {
    type Context = Context<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        let reason = self.exit.take().unwrap_or(ExitReason::Unexplained);
        tell(&self.links.parent, ChildStopped { child: Child::Pieces, reason });
    }
}

impl Handler<PeerJoined> for Pieces {
    type Result = ();
    fn handle(&mut self, joined: PeerJoined, _: &mut Self::Context) {
        let PeerJoined { peer, request, cancel, interest, suggest } = joined;
        self.picker.peer_joined(peer);
        self.peers.insert(peer, Connected { request, cancel, interest, suggest, is_interesting: false, hungry: None });
    }
}

impl Handler<PeerHas> for Pieces {
    type Result = ();
    fn handle(&mut self, PeerHas { peer, haves }: PeerHas, _: &mut Self::Context) {
        self.picker.peer_has(peer, &haves);
        self.update_interest(peer);
        self.suggest(peer);
        if let Some(want) = self.peers.get_mut(&peer).and_then(|peer| peer.hungry.take()) {
            self.feed(want);
        }
    }
}

impl Handler<PeerSuggested> for Pieces {
    type Result = ();
    fn handle(&mut self, PeerSuggested { peer, piece }: PeerSuggested, _: &mut Self::Context) {
        self.picker.suggested(peer, piece);
    }
}

impl Handler<PeerLeft> for Pieces {
    type Result = ();
    fn handle(&mut self, PeerLeft(peer): PeerLeft, _: &mut Self::Context) {
        self.peers.remove(&peer);
        self.picker.peer_left(peer);
        self.feed_the_hungry();
    }
}

impl Handler<WantWork> for Pieces {
    type Result = ();
    fn handle(&mut self, want: WantWork, _: &mut Self::Context) {
        self.feed(want);
    }
}

impl Handler<BlocksReceived> for Pieces {
    type Result = ();
    fn handle(&mut self, BlocksReceived { peer, mut blocks }: BlocksReceived, _: &mut Self::Context) {
        let (mut cancels, mut wasted) = (Vec::new(), 0);
        blocks.retain(|block| match self.picker.received(peer, block.block, &mut cancels) {
            Received::Fresh { .. } => true,
            Received::Duplicate | Received::Unexpected => {
                wasted += u64::from(block.block.length);
                false
            }
        });
        for (other, block) in cancels {
            if let Some(other) = self.peers.get(&other) {
                tell(&other.cancel, Cancel(vec![block]));
            }
        }
        if wasted > 0 {
            tell(&self.links.wasted, BytesWasted(wasted));
        }
        if !blocks.is_empty() {
            tell(&self.links.write, WriteBlocks(blocks));
        }
    }
}

impl Handler<BlocksLost> for Pieces {
    type Result = ();
    fn handle(&mut self, BlocksLost { peer, blocks }: BlocksLost, _: &mut Self::Context) {
        self.picker.lost(peer, &blocks);
        self.feed_the_hungry();
    }
}

impl Handler<PieceHashed> for Pieces {
    type Result = ();
    fn handle(&mut self, PieceHashed { piece, digest }: PieceHashed, _: &mut Self::Context) {
        if self.is_good(piece, digest) {
            let contributors = if self.is_suspicious { self.contributors(piece) } else { Vec::new() };
            for bored in self.picker.piece_passed(piece) {
                self.update_interest(bored);
            }
            tell(&self.links.completed, PieceCompleted { piece, left: self.picker.left_bytes(), contributors });
        } else {
            self.is_suspicious = true;
            let contributors = self.contributors(piece);
            let _ = self.picker.piece_failed(piece);
            tell(&self.links.rejected, PieceRejected { piece, contributors });
            self.feed_the_hungry();
        }
    }
}

impl Handler<GetPieces> for Pieces {
    type Result = PiecesSnapshot;
    fn handle(&mut self, _: GetPieces, _: &mut Self::Context) -> PiecesSnapshot {
        PiecesSnapshot { have: self.picker.have().clone(), left: self.picker.left_bytes() }
    }
}

impl Handler<GetSurvey> for Pieces {
    type Result = PiecesSurvey;
    fn handle(&mut self, _: GetSurvey, _: &mut Self::Context) -> PiecesSurvey {
        PiecesSurvey(self.picker.survey())
    }
}

impl Handler<ClosePieces> for Pieces {
    type Result = ();
    fn handle(&mut self, _: ClosePieces, ctx: &mut Self::Context) {
        self.exit = Some(ExitReason::Asked);
        ctx.stop();
    }
}

#[cfg(test)]
mod tests;
