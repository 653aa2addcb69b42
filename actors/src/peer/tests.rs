//! Tests of the connection to one peer: how it ends, and whose memory it uses.

mod early;

use std::sync::Arc;

use bytes::Bytes;
use castanet_core::{Bitfield, BlockRef, Geometry, PieceIndex};
use castanet_protocol::{
    peer::{FIRST_CREDIT, PeerTiming},
    wire::Message as Wire,
};
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::{
    budget::UNIT,
    mail::probe::probe,
    testing::{Remote, address, clock, connection, drain, hear, settle},
};

const KEY: PeerKey = PeerKey(7);
const PIECES: u32 = 400_000;

struct Heard {
    has: UnboundedReceiver<PeerHas>,
    said: UnboundedReceiver<PeerSaid>,
    joined: UnboundedReceiver<PeerJoined>,
    received: UnboundedReceiver<BlocksReceived>,
    lost: UnboundedReceiver<BlocksLost>,
    left: UnboundedReceiver<PeerLeft>,
    stopped: UnboundedReceiver<ChildStopped>,
    report: UnboundedReceiver<PeerReport>,
    changed: UnboundedReceiver<PeerChanged>,
}

/// A peer with room for 16 blocks in memory and `room` bytes in each direction of its connection.
fn peer(room: usize) -> (Addr<Peer>, Remote, Heard, Budget) {
    start(room, |_, _| {})
}

/// The same, after a change to its configuration and links.
fn start(room: usize, change: impl FnOnce(&mut PeerConfig, &mut PeerLinks)) -> (Addr<Peer>, Remote, Heard, Budget) {
    let (connection, remote) = connection(address(2), room);
    let ((joined, joined_heard), (received, received_heard)) = (probe(), probe());
    let ((left, left_heard), (parent, stopped)) = (probe(), probe());
    let ((report, report_heard), (changed, changed_heard)) = (probe(), probe());
    let ((lost, lost_heard), (has, has_heard), (said, said_heard)) = (probe(), probe(), probe());
    let work = PieceLinks { joined, has, suggested: probe().0, left, want: probe().0, received, lost, read: probe().0 };
    let mut links = PeerLinks { pieces: Some(work), changed, said, report, parent };
    let geometry = geometry();
    let mut config = PeerConfig {
        geometry: Some(geometry),
        metadata_size: None,
        have: Bitfield::new(geometry.pieces()),
        fast: true,
        extended: false,
        remote: address(2).ip(),
        info_hash: [3; 20],
        listen_port: 0,
        dht_port: None,
        extensions: Vec::new(),
        timing: PeerTiming::default(),
        gifts: true,
        first_credit: FIRST_CREDIT,
    };
    change(&mut config, &mut links);
    let budget = Budget::new(16 * UNIT);
    let shared = PeerShared { clock: clock(), budget: budget.clone(), buffers: BufferPool::new(128 << 10, 4) };
    let addr = Peer::new(KEY, connection, BytesMut::new(), config, links, shared, PeerLimits::default()).start();
    let heard = Heard {
        has: has_heard,
        said: said_heard,
        joined: joined_heard,
        received: received_heard,
        lost: lost_heard,
        left: left_heard,
        stopped,
        report: report_heard,
        changed: changed_heard,
    };
    (addr, remote, heard, budget)
}

fn geometry() -> Geometry {
    Geometry::new(u64::from(PIECES) << 18, 256 << 10).unwrap()
}

fn block(index: u32) -> BlockRef {
    BlockRef { piece: PieceIndex(0), begin: index * BLOCK_LENGTH, length: BLOCK_LENGTH }
}

fn frame(index: u32) -> Vec<u8> {
    let mut frame = BytesMut::new();
    Wire::Piece { block: block(index), data: vec![9; UNIT].into() }.encode(&mut frame);
    frame.to_vec()
}

async fn request(remote: &mut Remote, addr: &Addr<Peer>, blocks: u32) {
    remote.send(Wire::HaveAll).await;
    remote.send(Wire::Unchoke).await;
    settle().await;
    addr.send(SetInterest(true)).await.unwrap();
    addr.send(Request((0..blocks).map(block).collect())).await.unwrap();
    for _ in 0..blocks {
        remote.until(|message| matches!(message, Wire::Request(_)).then_some(())).await.unwrap();
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Crash;

impl Handler<Crash> for Peer {
    type Result = ();
    fn handle(&mut self, _: Crash, _: &mut Context<Self>) {
        panic!("as the test wants it");
    }
}

#[actix::test]
async fn the_parent_learns_of_an_end_and_of_a_panic() {
    tokio::time::pause();
    let (addr, _remote, mut heard, _) = peer(1 << 20);
    hear(&mut heard.joined).await;
    addr.send(Disconnect(ExitReason::Asked)).await.unwrap();
    assert_eq!(hear(&mut heard.stopped).await, ChildStopped { child: Child::Peer(KEY), reason: ExitReason::Asked });
    assert_eq!(hear(&mut heard.left).await.0, KEY);

    let (addr, mut remote, mut heard, budget) = peer(1 << 20);
    assert!(addr.send(Crash).await.is_err());
    let unexplained = ChildStopped { child: Child::Peer(KEY), reason: ExitReason::Unexplained };
    assert_eq!(hear(&mut heard.stopped).await, unexplained);
    assert_eq!(hear(&mut heard.left).await.0, KEY, "its requests must be asked of others");
    assert!(remote.until(|_| None::<()>).await.is_none(), "the connection is closed too");
    assert_eq!(budget.in_use(), 0);
}

#[actix::test]
async fn the_end_of_the_stream_and_a_violation_end_it_with_a_reason() {
    tokio::time::pause();
    let (_addr, remote, mut heard, _) = peer(1 << 20);
    drop(remote);
    assert!(matches!(hear(&mut heard.stopped).await.reason, ExitReason::Failed(_)));
    let (_addr, mut remote, mut heard, _) = peer(1 << 20);
    remote.send(Wire::Have(PieceIndex(1_000_000))).await;
    assert!(matches!(hear(&mut heard.stopped).await.reason, ExitReason::Violation(_)));
}

#[actix::test]
async fn a_peer_that_reads_nothing_is_closed() {
    tokio::time::pause();
    let (addr, mut remote, mut heard, _) = peer(64);
    for first in (0..PIECES).step_by(1_000) {
        let pieces: Arc<[_]> = (first..first + 1_000).map(PieceIndex).collect();
        if addr.send(Announce(pieces)).await.is_err() {
            break;
        }
        // It says that it is alive, without ever reading.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut remote.io, &[0; 4]).await;
    }
    let reason = hear(&mut heard.stopped).await.reason;
    assert!(matches!(&reason, ExitReason::Failed(text) if text.contains("read")), "{reason:?}");
}

#[actix::test]
async fn reading_waits_for_memory_and_goes_on() {
    tokio::time::pause();
    let (addr, mut remote, mut heard, budget) = peer(1 << 20);
    request(&mut remote, &addr, 2).await;
    let mut hog = Permit::default();
    budget.top_up(&mut hog, 16).await;
    assert_eq!(budget.in_use(), 16, "whoever waits for nothing but bytes holds nothing");
    tokio::io::AsyncWriteExt::write_all(&mut remote.io, &[frame(0), frame(1)].concat()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(drain(&mut heard.received).is_empty(), "a block came in without memory for it");
    drop(hog);
    let mut blocks = hear(&mut heard.received).await.blocks;
    if blocks.len() < 2 {
        blocks.extend(hear(&mut heard.received).await.blocks);
    }
    assert_eq!(blocks.iter().map(|b| (b.block, b.permit.units())).collect::<Vec<_>>(), [(block(0), 1), (block(1), 1)]);
    settle().await;
    assert_eq!(budget.in_use(), 2, "nothing is under way: only the blocks take memory");
    drop(blocks);
    assert_eq!(budget.in_use(), 0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(drain(&mut heard.report).last().unwrap().downloaded, 2 * UNIT as u64);
}

#[actix::test]
async fn a_peer_that_ends_in_the_middle_gives_its_memory_back() {
    tokio::time::pause();
    for remote_ends in [false, true] {
        let (addr, mut remote, mut heard, budget) = peer(1 << 20);
        request(&mut remote, &addr, 4).await;
        let bytes = [frame(0), frame(1)[..9_000].to_vec()].concat();
        tokio::io::AsyncWriteExt::write_all(&mut remote.io, &bytes).await.unwrap();
        let first = hear(&mut heard.received).await;
        settle().await;
        assert!(budget.in_use() > 1, "it holds memory for what is under way");
        if remote_ends {
            drop(remote);
        } else {
            addr.send(Disconnect(ExitReason::Asked)).await.unwrap();
        }
        hear(&mut heard.stopped).await;
        settle().await;
        assert_eq!(budget.in_use(), 1, "only the first block is left");
        drop(first);
        assert_eq!(budget.in_use(), 0);
    }
}

#[actix::test]
async fn a_peer_that_falls_silent_holds_no_memory_and_is_snubbed() {
    tokio::time::pause();
    let (addr, mut remote, mut heard, budget) = peer(1 << 20);
    request(&mut remote, &addr, 4).await;
    tokio::io::AsyncWriteExt::write_all(&mut remote.io, &frame(0)[..9_000]).await.unwrap();
    settle().await;
    assert!(budget.in_use() > 0);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(budget.in_use(), 0, "others may use what this one does not");
    // It comes back, and so does its block.
    tokio::io::AsyncWriteExt::write_all(&mut remote.io, &frame(0)[9_000..]).await.unwrap();
    assert_eq!(hear(&mut heard.received).await.blocks[0].permit.units(), 1);
    tokio::time::sleep(Duration::from_secs(100)).await;
    let snubbed = |changed: &PeerChanged| changed.change == PeerChange::Snubbed(true);
    assert!(drain(&mut heard.changed).iter().any(snubbed));
    assert!(!drain(&mut heard.lost).is_empty(), "what it does not send is asked of others");
    assert_eq!(budget.in_use(), 0);
}
