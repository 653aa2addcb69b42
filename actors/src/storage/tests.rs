//! Tests of the way from blocks to the disk and back.

use castanet_core::{BlockRef, Metainfo, PieceIndex, seams::hasher::SoftwareHasher, seams::storage::StorageFactory};
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::{
    budget::UNIT,
    mail::probe::probe,
    messages::storage::Block,
    testing::{Disk, Mood, drain, hear, settle, torrent},
};

const PIECE: u32 = 64 << 10;

struct Rig {
    storage: Addr<Storage>,
    disk: Disk,
    budget: Budget,
    data: Vec<u8>,
    metainfo: Arc<Metainfo>,
    hashed: UnboundedReceiver<PieceHashed>,
    checked: UnboundedReceiver<PiecesChecked>,
    failed: UnboundedReceiver<StorageFailed>,
    stopped: UnboundedReceiver<ChildStopped>,
}

/// The storage of a torrent of `pieces` pieces over a disk with so many threads (none: the calling one).
async fn rig(pieces: u64, threads: usize) -> Rig {
    let (metainfo, data) = torrent(pieces * u64::from(PIECE), PIECE);
    let disk = Disk::default();
    let files = disk.open(&metainfo.info.layout("/d".as_ref(), Default::default())).unwrap();
    let pool = Arc::new(DiskPool::new(threads, Arc::new(SoftwareHasher)).unwrap());
    let budget = Budget::new(64 * UNIT);
    let ((report, hashed), (checked, checked_heard)) = (probe(), probe());
    let ((failed, failed_heard), (parent, stopped)) = (probe(), probe());
    let links = StorageLinks { checked, failed, parent };
    let storage = Storage::new(metainfo.info.geometry(), files, pool, budget.clone(), links).start();
    storage.send(ReportTo(report)).await.unwrap();
    Rig { storage, disk, budget, data, metainfo, hashed, checked: checked_heard, failed: failed_heard, stopped }
}

impl Rig {
    /// The blocks `at` of a piece, each with its permit.
    async fn blocks(&self, piece: u32, at: std::ops::Range<u32>) -> WriteBlocks {
        let mut blocks = Vec::new();
        for n in at {
            let block = self.metainfo.info.geometry().block(PieceIndex(piece), n);
            let begin = (piece * PIECE + block.begin) as usize;
            let data = bytes::Bytes::copy_from_slice(&self.data[begin..begin + block.length as usize]);
            let mut permit = Permit::default();
            self.budget.top_up(&mut permit, 1).await;
            blocks.push(Block { block, data, permit });
        }
        WriteBlocks(blocks)
    }
    fn written(&self) -> Option<Vec<u8>> {
        self.disk.memory.contents("/d/file".as_ref())
    }
    async fn write(&self, piece: u32, at: std::ops::Range<u32>) {
        self.storage.send(self.blocks(piece, at).await).await.unwrap();
    }
}

#[actix::test]
async fn blocks_in_any_order_become_pieces_on_disk() {
    tokio::time::pause();
    let mut rig = rig(2, 0).await;
    for at in [3..4, 0..1, 2..3] {
        rig.write(0, at).await;
    }
    rig.write(1, 0..4).await;
    assert_eq!(hear(&mut rig.hashed).await.piece, PieceIndex(1));
    rig.write(0, 1..2).await;
    let hashed = hear(&mut rig.hashed).await;
    let digests = rig.metainfo.info.pieces.as_ref().unwrap();
    assert_eq!((hashed.piece, Some(hashed.digest)), (PieceIndex(0), digests.digest(PieceIndex(0))));
    assert_eq!(rig.written().unwrap(), rig.data);
    settle().await;
    assert_eq!(rig.budget.in_use(), 0);
}

#[actix::test]
async fn a_block_that_waits_too_long_for_its_run_is_written() {
    tokio::time::pause();
    let rig = rig(1, 0).await;
    rig.write(0, 1..2).await;
    assert_eq!(rig.budget.in_use(), 1);
    tokio::time::sleep(2 * PATIENCE).await;
    assert_eq!(rig.budget.in_use(), 0);
    assert_eq!(rig.written().unwrap().len(), 2 * UNIT);
}

#[actix::test]
async fn a_disk_that_refuses_is_reported_once_and_memory_comes_back() {
    tokio::time::pause();
    let mut rig = rig(4, 0).await;
    rig.disk.set(Mood::Refusing);
    for piece in 0..4 {
        rig.write(piece, 0..4).await;
    }
    let failed = hear(&mut rig.failed).await;
    assert!(!failed.reading && failed.error.contains("the disk is full"), "{}", failed.error);
    settle().await;
    assert!(drain(&mut rig.failed).is_empty() && drain(&mut rig.hashed).is_empty());
    assert_eq!(rig.budget.in_use(), 0);
    assert!(rig.storage.send(Flush { drain: true }).await.unwrap().is_err(), "the caller must not believe in it");
}

#[actix::test]
async fn a_disk_job_that_panics_is_a_failed_write_and_holds_nothing_up() {
    let mut rig = rig(2, 1).await;
    rig.disk.set(Mood::Panicking);
    rig.write(0, 0..4).await;
    assert!(!rig.failed.recv().await.unwrap().reading);
    rig.disk.set(Mood::Well);
    assert!(rig.storage.send(Flush { drain: true }).await.unwrap().is_ok(), "the disk thread lives on");
    assert_eq!(rig.budget.in_use(), 0);
    rig.storage.send(CloseStorage).await.unwrap();
    assert_eq!(rig.stopped.recv().await.unwrap().reason, ExitReason::Asked);
}

#[actix::test]
async fn a_draining_flush_waits_for_what_is_held_and_under_way() {
    let rig = rig(2, 2).await;
    rig.disk.set(Mood::Hanging);
    rig.write(0, 0..4).await;
    rig.write(1, 2..3).await;
    let flush = rig.storage.send(Flush { drain: true });
    tokio::pin!(flush);
    let early = tokio::time::timeout(Duration::from_millis(20), &mut flush).await;
    assert!(early.is_err(), "answered while writes hang");
    rig.disk.set(Mood::Well);
    let stamps = flush.await.unwrap().unwrap();
    let length = u64::from(PIECE) + 3 * UNIT as u64;
    assert_eq!(stamps[0].length, Some(length), "the lone block is written too");
    assert_eq!(rig.budget.in_use(), 0);
}

#[actix::test]
async fn a_disk_that_everything_waits_for_is_called_busy() {
    let rig = rig(16, 1).await;
    let is_busy = async || rig.storage.send(GetDisk).await.unwrap().is_busy;
    rig.write(0, 0..3).await;
    assert!(!is_busy().await, "blocks that wait for their run are no fault of the disk's");
    rig.disk.set(Mood::Hanging);
    rig.write(0, 3..4).await;
    assert!(!is_busy().await, "there is memory for more");
    for piece in 1..12 {
        rig.write(piece, 0..4).await;
    }
    assert!(is_busy().await, "the memory is full of what the disk has not written");
    rig.disk.set(Mood::Well);
    rig.storage.send(Flush { drain: true }).await.unwrap().unwrap();
    assert!(!is_busy().await);
}

#[actix::test]
async fn closing_waits_for_the_last_write_and_later_blocks_free_their_memory() {
    let mut rig = rig(2, 1).await;
    rig.disk.set(Mood::Hanging);
    rig.write(0, 0..2).await;
    rig.storage.send(CloseStorage).await.unwrap();
    assert!(rig.storage.connected());
    let late = rig.blocks(1, 0..4).await;
    rig.disk.set(Mood::Well);
    assert_eq!(rig.stopped.recv().await.unwrap(), ChildStopped { child: Child::Storage, reason: ExitReason::Asked });
    assert_eq!(rig.written().unwrap()[..], rig.data[..2 * UNIT]);
    tell(&rig.storage.clone().recipient(), late);
    assert_eq!(rig.budget.in_use(), 0);
}

#[actix::test]
async fn a_check_covers_every_piece_it_is_asked_for_exactly_once() {
    tokio::time::pause();
    let mut rig = rig(300, 0).await;
    let mut bytes = rig.data.clone();
    bytes[5 * PIECE as usize] ^= 1;
    bytes.truncate(290 * PIECE as usize + 1);
    rig.disk.memory.replace("/d/file".as_ref(), &bytes);
    let mut random = fastrand::Rng::with_seed(7);
    let mut pieces = Bitfield::new(300);
    (0..300).filter(|n| *n == 5 || random.u8(..) > 40).for_each(|n| {
        pieces.set(PieceIndex(n));
    });
    rig.storage.send(CheckPieces { pieces: pieces.clone() }).await.unwrap();
    settle().await;
    let digests = rig.metainfo.info.pieces.clone().unwrap();
    let mut covered = Bitfield::new(300);
    for PiecesChecked { first, digests: found } in drain(&mut rig.checked) {
        for (piece, digest) in (first..).map(PieceIndex).zip(found) {
            assert!(covered.set(piece), "{piece} came twice");
            let is_good = piece.0 != 5 && piece.0 < 290;
            assert_eq!(digest.is_some() && digest == digests.digest(piece), is_good, "{piece}");
        }
    }
    assert_eq!(covered, pieces);
}

#[actix::test]
async fn ranges_are_read_and_what_cannot_be_is_said() {
    tokio::time::pause();
    let mut rig = rig(2, 0).await;
    let (reply, mut read) = probe();
    rig.disk.memory.replace("/d/file".as_ref(), &rig.data[..PIECE as usize]);
    let range = BlockRef { piece: PieceIndex(0), begin: 16, length: 100 };
    rig.storage.send(ReadRange { range, reply: reply.clone() }).await.unwrap();
    assert_eq!(hear(&mut read).await.data.unwrap()[..], rig.data[16..116]);
    let range = BlockRef { piece: PieceIndex(1), ..range };
    rig.storage.send(ReadRange { range, reply }).await.unwrap();
    let answer = hear(&mut read).await;
    assert!(answer.data.is_none() && answer.range == range);
    assert!(hear(&mut rig.failed).await.reading);
}

#[derive(Message)]
#[rtype(result = "()")]
struct Crash;

impl Handler<Crash> for Storage {
    type Result = ();
    fn handle(&mut self, _: Crash, _: &mut Context<Self>) {
        panic!("as the test wants it");
    }
}

#[actix::test]
async fn a_panic_is_told_and_frees_what_is_held() {
    tokio::time::pause();
    let mut rig = rig(1, 0).await;
    rig.write(0, 1..3).await;
    assert_eq!(rig.budget.in_use(), 2);
    assert!(rig.storage.send(Crash).await.is_err());
    assert_eq!(hear(&mut rig.stopped).await.reason, ExitReason::Unexplained);
    assert_eq!(rig.budget.in_use(), 0);
}
