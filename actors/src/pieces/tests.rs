//! Tests of the piece manager: what is asked of whom, and what becomes of it.

use castanet_core::{BlockRef, Sha1Digest};
use castanet_protocol::peer::Haves;
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::{
    budget::{Budget, Permit, UNIT},
    mail::probe::probe,
    messages::storage::Block,
    testing::{drain, hear, settle, torrent},
};

const PIECE: u32 = 32 << 10;

struct Rig {
    pieces: Addr<Pieces>,
    budget: Budget,
    write: UnboundedReceiver<WriteBlocks>,
    completed: UnboundedReceiver<PieceCompleted>,
    rejected: UnboundedReceiver<PieceRejected>,
    wasted: UnboundedReceiver<BytesWasted>,
    stopped: UnboundedReceiver<ChildStopped>,
}

struct Remote {
    key: PeerKey,
    request: UnboundedReceiver<Request>,
    cancel: UnboundedReceiver<Cancel>,
    interest: UnboundedReceiver<SetInterest>,
}

fn rig(pieces: u32) -> Rig {
    let (metainfo, _) = torrent(u64::from(pieces * PIECE), PIECE);
    let geometry = metainfo.info.geometry();
    let ((write, write_heard), (completed, completed_heard)) = (probe(), probe());
    let ((rejected, rejected_heard), (wasted, wasted_heard)) = (probe(), probe());
    let (parent, stopped) = probe();
    let links = PiecesLinks { write, completed, rejected, wasted, parent };
    let pieces = Pieces::new(metainfo, geometry, Bitfield::new(pieces), true, 1, links).start();
    let budget = Budget::new(64 * UNIT);
    Rig {
        pieces,
        budget,
        write: write_heard,
        completed: completed_heard,
        rejected: rejected_heard,
        wasted: wasted_heard,
        stopped,
    }
}

impl Rig {
    /// A peer that has everything.
    async fn seed(&self, key: u64) -> Remote {
        let key = PeerKey(key);
        let ((request, request_heard), (cancel, cancel_heard)) = (probe(), probe());
        let (interest, interest_heard) = probe();
        self.pieces.send(PeerJoined { peer: key, request, cancel, interest, suggest: probe().0 }).await.unwrap();
        self.pieces.send(PeerHas { peer: key, haves: Haves::All }).await.unwrap();
        Remote { key, request: request_heard, cancel: cancel_heard, interest: interest_heard }
    }
    async fn want(&self, remote: &Remote, room: usize) {
        self.pieces.send(WantWork { peer: remote.key, room, rate: 0, only: None }).await.unwrap();
    }
    async fn give(&self, remote: &Remote, blocks: &[BlockRef]) {
        let mut all = Vec::new();
        for block in blocks {
            let mut permit = Permit::default();
            self.budget.top_up(&mut permit, 1).await;
            all.push(Block { block: *block, data: vec![0; block.length as usize].into(), permit });
        }
        self.pieces.send(BlocksReceived { peer: remote.key, blocks: all }).await.unwrap();
    }
    async fn hashed(&self, piece: u32, is_good: bool) {
        let (metainfo, _) = torrent(u64::from(3 * PIECE), PIECE);
        let good = metainfo.info.pieces.as_ref().unwrap().digest(PieceIndex(piece)).unwrap();
        let digest = if is_good { good } else { Sha1Digest([0; 20]) };
        self.pieces.send(PieceHashed { piece: PieceIndex(piece), digest }).await.unwrap();
    }
}

#[actix::test]
async fn a_good_piece_completes_and_interest_ends_with_the_last() {
    tokio::time::pause();
    let mut rig = rig(3);
    let mut seed = rig.seed(1).await;
    assert!(hear(&mut seed.interest).await.0);
    rig.want(&seed, 6).await;
    let blocks = hear(&mut seed.request).await.0;
    assert_eq!(blocks.len(), 6);
    rig.give(&seed, &blocks).await;
    assert_eq!(hear(&mut rig.write).await.0.len(), 6);
    settle().await;
    assert_eq!(rig.budget.in_use(), 0);
    for piece in 0..3 {
        assert!(drain(&mut seed.interest).is_empty());
        rig.hashed(piece, true).await;
        let completed = hear(&mut rig.completed).await;
        assert_eq!((completed.piece, completed.left), (PieceIndex(piece), u64::from((2 - piece) * PIECE)));
        assert!(completed.contributors.is_empty(), "nobody is under suspicion");
        settle().await;
    }
    assert!(!hear(&mut seed.interest).await.0);
    let snapshot = rig.pieces.send(GetPieces).await.unwrap();
    assert!(snapshot.have.is_full() && snapshot.left == 0);
}

#[actix::test]
async fn a_bad_piece_names_who_gave_it_and_is_asked_for_again() {
    tokio::time::pause();
    let mut rig = rig(3);
    let (mut one, mut other) = (rig.seed(1).await, rig.seed(2).await);
    rig.want(&one, 6).await;
    let blocks = hear(&mut one.request).await.0;
    rig.pieces.send(BlocksLost { peer: one.key, blocks: blocks[1..2].to_vec() }).await.unwrap();
    rig.want(&other, 1).await;
    assert_eq!(hear(&mut other.request).await.0, blocks[1..2], "the only one that is free");
    rig.give(&one, &blocks[..1]).await;
    rig.give(&other, &blocks[1..2]).await;
    drop(drain(&mut rig.write));
    rig.hashed(0, false).await;
    let mut rejected = hear(&mut rig.rejected).await;
    rejected.contributors.sort();
    assert_eq!((rejected.piece, rejected.contributors), (PieceIndex(0), vec![one.key, other.key]));
    rig.want(&one, 2).await;
    let again = hear(&mut one.request).await.0;
    assert_eq!(again.iter().map(|block| block.piece).collect::<Vec<_>>(), [PieceIndex(0); 2]);
    rig.give(&one, &again).await;
    rig.hashed(0, true).await;
    assert_eq!(hear(&mut rig.completed).await.contributors, [one.key], "its suspicion can end");
}

#[actix::test]
async fn what_a_peer_loses_goes_to_the_hungry() {
    tokio::time::pause();
    let rig = rig(1);
    let (mut one, mut other) = (rig.seed(1).await, rig.seed(2).await);
    rig.want(&one, 2).await;
    let blocks = hear(&mut one.request).await.0;
    rig.pieces.send(BlocksLost { peer: one.key, blocks: blocks[..1].to_vec() }).await.unwrap();
    rig.want(&other, 1).await;
    assert_eq!(hear(&mut other.request).await.0, blocks[..1]);
    rig.pieces.send(PeerLeft(one.key)).await.unwrap();
    rig.want(&other, 2).await;
    assert_eq!(hear(&mut other.request).await.0, blocks[1..]);
}

#[actix::test]
async fn blocks_for_nothing_are_counted_and_free_their_memory() {
    tokio::time::pause();
    let mut rig = rig(1);
    let (mut one, mut other) = (rig.seed(1).await, rig.seed(2).await);
    rig.want(&one, 2).await;
    let blocks = hear(&mut one.request).await.0;
    // All blocks are under way: the end game asks for them twice.
    rig.want(&other, 2).await;
    settle().await;
    let twice = drain(&mut other.request);
    rig.give(&one, &blocks).await;
    let kept = drain(&mut rig.write);
    assert_eq!(rig.budget.in_use(), 2);
    if !twice.is_empty() {
        assert!(!drain(&mut other.cancel).is_empty(), "the other is told");
    }
    rig.give(&other, &blocks).await;
    assert_eq!(hear(&mut rig.wasted).await.0, u64::from(PIECE));
    assert_eq!(rig.budget.in_use(), 2, "only the first copies are kept");
    drop(kept);
    assert_eq!(rig.budget.in_use(), 0);
}

#[actix::test]
async fn blocks_for_a_dead_storage_free_their_memory() {
    tokio::time::pause();
    let mut rig = rig(1);
    let mut one = rig.seed(1).await;
    rig.want(&one, 2).await;
    let blocks = hear(&mut one.request).await.0;
    rig.write.close();
    while rig.write.recv().await.is_some() {}
    rig.give(&one, &blocks).await;
    settle().await;
    assert_eq!(rig.budget.in_use(), 0);
    rig.pieces.send(ClosePieces).await.unwrap();
    assert_eq!(hear(&mut rig.stopped).await, ChildStopped { child: Child::Pieces, reason: ExitReason::Asked });
}
