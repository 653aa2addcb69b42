//! The storage actor of a torrent: puts blocks together into runs, and hands runs, reads and checks to the disk threads.
//!
//! Owns the torrent's [`Storage`] and what waits to be written. Tells the piece manager of whole pieces, the torrent of
//! checks and of a disk that refuses. Ends on `CloseStorage`, after the last write.

use std::{sync::Arc, time::Duration};

use actix::prelude::*;
use castanet_core::{
    Bitfield, Geometry,
    seams::storage::{Storage as StorageSeam, StorageError},
};
use castanet_protocol::assembly::{Assembly, Order};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    budget::{Budget, Permit, UNIT},
    disk::{Answer, DiskPool, Job, Run, WriteJob},
    lifecycle::{Child, ChildStopped, ExitReason},
    mail::tell,
    messages::{
        peer::RangeRead,
        pieces::PieceHashed,
        storage::{
            CheckPieces, CloseStorage, DiskSnapshot, Flush, GetDisk, JobWritten, ReadRange, ReportTo, StretchChecked,
            WriteBlocks,
        },
        torrent::{PiecesChecked, StorageFailed},
    },
};

/// How long a block may wait for its run to grow.
const PATIENCE: Duration = Duration::from_millis(500);
/// A disk that takes so long for one write is what the download waits for.
const SLOW_WRITE: Duration = Duration::from_secs(2);
/// Bytes that one check job hashes: long enough that a message a job costs nothing, short enough for a smooth bar.
const STRETCH: u64 = 4 << 20;

/// Whom the storage actor tells.
#[derive(Debug, Clone)]
pub struct StorageLinks {
    /// Takes digests of a check.
    pub checked: Recipient<PiecesChecked>,
    /// Takes the disk's refusals.
    pub failed: Recipient<StorageFailed>,
    /// The parent.
    pub parent: Recipient<ChildStopped>,
}

/// The actor.
#[derive(Debug)]
pub struct Storage {
    geometry: Geometry,
    storage: Arc<dyn StorageSeam>,
    disk: Arc<DiskPool>,
    budget: Budget,
    links: StorageLinks,
    hashed: Option<Recipient<PieceHashed>>,
    assembly: Assembly<Permit>,
    writes_under_way: usize,
    /// The bytes of these writes.
    bytes_under_way: u64,
    /// When the disk last came to an end with a write, or was given the first.
    last_written: Instant,
    /// What a check has still to submit, and how many stretches are under way.
    check: Option<(Bitfield, u32)>,
    checks_under_way: usize,
    idle: Vec<oneshot::Sender<()>>,
    failed: bool,
    closing: bool,
    exit: Option<ExitReason>,
}

impl Storage {
    /// A storage actor over opened files.
    pub fn new(
        geometry: Geometry,
        storage: Arc<dyn StorageSeam>,
        disk: Arc<DiskPool>,
        budget: Budget,
        links: StorageLinks,
    ) -> Self {
        Self {
            geometry,
            storage,
            disk,
            budget,
            links,
            hashed: None,
            assembly: Assembly::new(geometry),
            writes_under_way: 0,
            bytes_under_way: 0,
            last_written: Instant::now(),
            check: None,
            checks_under_way: 0,
            idle: Vec::new(),
            failed: false,
            closing: false,
            exit: None,
        }
    }

    fn submit_writes(&mut self, flush: bool, ctx: &mut Context<Self>) {
        while let Some(order) = self.assembly.next(flush) {
            if self.writes_under_way == 0 {
                self.last_written = Instant::now();
            }
            let (me, piece, bytes) = (ctx.address().recipient(), order.piece, order.bytes());
            self.writes_under_way += 1;
            self.bytes_under_way += bytes;
            let answer = Answer::new(move |result| tell(&me, JobWritten { piece, bytes, result }));
            self.disk.submit(Job::Write(self.job(order), answer));
        }
    }

    fn job(&self, order: Order<Permit>) -> WriteJob {
        let runs = order.runs.into_iter();
        WriteJob {
            storage: self.storage.clone(),
            piece: order.piece,
            offset: self.geometry.offset_of(order.piece),
            runs: runs.map(|run| Run { begin: run.begin, blocks: run.blocks, permits: run.permits }).collect(),
            hash: order.hash,
            hash_to: order.hash_to,
        }
    }

    fn fail(&mut self, error: &StorageError, reading: bool) {
        // One report is enough: the torrent stops at the first, and later jobs fail for the same reason.
        if reading || !self.failed {
            tell(&self.links.failed, StorageFailed { error: error.to_string(), reading });
        }
        self.failed |= !reading;
    }

    fn submit_checks(&mut self, ctx: &mut Context<Self>) {
        let per_job = (STRETCH / u64::from(self.geometry.piece_length())).max(1) as u32;
        while self.checks_under_way < 2 * self.disk.width()
            && let Some((pieces, next)) = &mut self.check
        {
            let Some(first) = (*next..pieces.len()).find(|n| pieces.has(castanet_core::PieceIndex(*n))) else {
                self.check = None;
                return;
            };
            let wanted = (first..pieces.len()).take_while(|n| pieces.has(castanet_core::PieceIndex(*n)));
            let after = first + wanted.take(per_job as usize).count() as u32;
            *next = after;
            self.checks_under_way += 1;
            let (me, count) = (ctx.address().recipient(), (after - first) as usize);
            self.disk.submit(Job::Check {
                storage: self.storage.clone(),
                geometry: self.geometry,
                pieces: first..after,
                done: Answer::new(move |digests| {
                    // What could not be checked counts as unread: it is fetched again.
                    let digests = digests.unwrap_or_else(|_| vec![None; count]);
                    tell(&me, StretchChecked { first, digests });
                }),
            });
        }
    }

    fn settle(&mut self, ctx: &mut Context<Self>) {
        if self.writes_under_way == 0 {
            for waiting in self.idle.drain(..) {
                let _ = waiting.send(());
            }
            if self.closing {
                self.exit = Some(ExitReason::Asked);
                ctx.stop();
            }
        }
    }
}

impl Actor for Storage {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // The only timer: blocks whose run stopped growing, and relief when other torrents use up the budget.
        ctx.run_interval(PATIENCE, |storage, ctx| {
            if storage.assembly.waiting_bytes() > 0 {
                storage.submit_writes(true, ctx);
            }
        });
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        let reason = self.exit.take().unwrap_or(ExitReason::Unexplained);
        tell(&self.links.parent, ChildStopped { child: Child::Storage, reason });
    }
}

impl Handler<ReportTo> for Storage {
    type Result = ();
    fn handle(&mut self, ReportTo(pieces): ReportTo, _: &mut Self::Context) {
        self.hashed = Some(pieces);
    }
}

impl Handler<WriteBlocks> for Storage {
    type Result = ();
    fn handle(&mut self, WriteBlocks(blocks): WriteBlocks, ctx: &mut Self::Context) {
        for block in blocks {
            self.assembly.add(block.block, block.data, block.permit);
        }
        self.submit_writes(self.budget.is_tight(), ctx);
    }
}

impl Handler<JobWritten> for Storage {
    type Result = ();
    fn handle(&mut self, JobWritten { piece, bytes, result }: JobWritten, ctx: &mut Self::Context) {
        self.writes_under_way -= 1;
        self.bytes_under_way -= bytes;
        self.last_written = Instant::now();
        match result {
            Ok(hash) => {
                if let (Some(digest), Some(hashed)) = (self.assembly.done(piece, hash), &self.hashed) {
                    tell(hashed, PieceHashed { piece, digest });
                }
                self.submit_writes(self.budget.is_tight() || !self.idle.is_empty() || self.closing, ctx);
            }
            Err(error) => {
                self.assembly.forget(piece);
                self.fail(&error, false);
            }
        }
        self.settle(ctx);
    }
}

impl Handler<ReadRange> for Storage {
    type Result = ();
    fn handle(&mut self, ReadRange { range, reply }: ReadRange, _: &mut Self::Context) {
        let failed = self.links.failed.clone();
        self.disk.submit(Job::Read {
            storage: self.storage.clone(),
            offset: self.geometry.offset_of_block(range),
            length: range.length as usize,
            done: Answer::new(move |result| {
                if let Err(error) = &result {
                    tell(&failed, StorageFailed { error: error.to_string(), reading: true });
                }
                tell(&reply, RangeRead { range, data: result.ok() });
            }),
        });
    }
}

impl Handler<CheckPieces> for Storage {
    type Result = ();
    fn handle(&mut self, CheckPieces { pieces }: CheckPieces, ctx: &mut Self::Context) {
        self.check = Some((pieces, 0));
        self.submit_checks(ctx);
    }
}

impl Handler<StretchChecked> for Storage {
    type Result = ();
    fn handle(&mut self, StretchChecked { first, digests }: StretchChecked, ctx: &mut Self::Context) {
        self.checks_under_way -= 1;
        tell(&self.links.checked, PiecesChecked { first, digests });
        self.submit_checks(ctx);
    }
}

impl Handler<Flush> for Storage {
    type Result = ResponseFuture<Result<Vec<castanet_core::seams::storage::FileStamp>, String>>;
    fn handle(&mut self, Flush { drain }: Flush, ctx: &mut Self::Context) -> Self::Result {
        let (quiet, written) = oneshot::channel();
        if drain {
            self.submit_writes(true, ctx);
            self.idle.push(quiet);
            self.settle(ctx);
        } else {
            let _ = quiet.send(());
        }
        let (storage, disk) = (self.storage.clone(), self.disk.clone());
        Box::pin(async move {
            let _ = written.await;
            let (done, flushed) = oneshot::channel();
            disk.submit(Job::Other(Box::new(move || {
                let _ = done.send(storage.flush().and_then(|()| storage.stamps()).map_err(|error| error.to_string()));
            })));
            flushed.await.unwrap_or_else(|_| Err("a disk thread was lost".into()))
        })
    }
}

impl Handler<GetDisk> for Storage {
    type Result = DiskSnapshot;
    fn handle(&mut self, _: GetDisk, _: &mut Self::Context) -> DiskSnapshot {
        let hangs = self.writes_under_way > 0 && self.last_written.elapsed() >= SLOW_WRITE;
        // Of the memory for what arrives, most is taken by what the disk has not got to.
        let lags = self.budget.is_tight() && self.bytes_under_way * 2 >= (self.budget.in_use() * UNIT) as u64;
        DiskSnapshot { is_busy: hangs || lags }
    }
}

impl Handler<CloseStorage> for Storage {
    type Result = ();
    fn handle(&mut self, _: CloseStorage, ctx: &mut Self::Context) {
        self.check = None;
        self.closing = true;
        self.submit_writes(true, ctx);
        self.settle(ctx);
    }
}

#[cfg(test)]
mod tests;
