//! Opening: claim the files, believe what resume data vouch for, hash the rest, begin.

use std::sync::Arc;

use actix::prelude::*;
use castanet_core::{
    Bitfield, PieceIndex,
    seams::{
        discovery::{Me, Progress, SwarmInfo},
        resume::{ResumeKey, ResumeRecord, vouched},
        storage::{FileStamp, Layout},
    },
};
use castanet_protocol::picker::Priority;
use tokio::sync::oneshot;

use super::{Opened, Torrent};
use crate::{
    disk::Job,
    mail::tell,
    messages::{
        discovery::Watch,
        storage::{CheckPieces, ReportTo},
        torrent::{Happening, Phase, PiecesChecked},
    },
    pieces::{Pieces, PiecesLinks},
    storage::{Storage, StorageLinks},
};

/// A check under way.
#[derive(Debug)]
pub(super) struct Checking {
    /// Pieces not answered yet.
    left: u32,
    /// Pieces to check in all.
    pub(super) total: u32,
}

impl Checking {
    /// Pieces checked so far.
    pub(super) fn done(&self) -> u32 {
        self.total - self.left
    }
}

/// What the disk thread found.
struct Found {
    opened: Opened,
    record: Option<ResumeRecord>,
    stamps: Vec<FileStamp>,
}

impl Torrent {
    /// Claims and opens the files on a disk thread, then goes on to the check.
    pub(super) fn open(&mut self, ctx: &mut Context<Self>) {
        let layout = self.spec.metainfo.info.layout(&self.spec.folder, self.spec.allocation);
        let key = ResumeKey { info_hashes: self.spec.metainfo.info_hashes, root: layout.root.clone() };
        let (resume, factory) = (self.shared.resume.clone(), self.shared.storage.clone());
        let (done, opened) = oneshot::channel();
        let is_check = self.spec.check_only || self.spec.seed_only;
        let job = move || {
            let open = || -> Result<Found, String> {
                let lock = resume.lock(&key).map_err(|error| error.to_string())?;
                let record = resume.load(&key).map_err(|error| error.to_string())?;
                let storage = factory.open(&layout).map_err(|error| error.to_string())?;
                // Before anything is created or reserved, or the files would not be those that were recorded.
                let stamps = storage.stamps().map_err(|error| error.to_string())?;
                if !is_check {
                    storage.prepare().map_err(|error| error.to_string())?;
                }
                Ok(Found { opened: Opened { key, storage, _lock: lock }, record, stamps })
            };
            let _ = done.send(open().map(|found| (found, layout)));
        };
        self.shared.disk.submit(Job::Other(Box::new(job)));
        ctx.spawn(opened.into_actor(self).map(|found, torrent, ctx| match found {
            _ if torrent.stopping => {}
            Ok(Ok((found, layout))) => torrent.opened(found, &layout, ctx),
            Ok(Err(error)) => torrent.fail(error, ctx),
            Err(_) => torrent.fail("an internal error ended a disk thread; nothing is lost".into(), ctx),
        }));
    }

    fn opened(&mut self, found: Found, layout: &Layout, ctx: &mut Context<Self>) {
        let Found { opened, record, stamps } = found;
        if let Some(record) = record.as_ref().filter(|_| !self.spec.recheck) {
            self.have = vouched(record, &stamps, layout, &self.geometry);
        }
        if let Some(record) = &record {
            self.totals.downloaded_before = record.downloaded;
            self.totals.uploaded_before = record.uploaded;
        }
        let me = ctx.address();
        let links =
            StorageLinks { checked: me.clone().recipient(), failed: me.clone().recipient(), parent: me.recipient() };
        let (disk, budget) = (self.shared.disk.clone(), self.shared.budget.clone());
        let storage = Storage::new(self.geometry, opened.storage.clone(), disk, budget, links).start();
        self.opened = Some(opened);
        let doubtful = self.doubtful(layout, &stamps);
        if doubtful.is_none() {
            self.storage = Some(storage);
            return self.begin(ctx);
        }
        self.phase = Phase::Checking;
        self.checking = Some(Checking { left: doubtful.count(), total: doubtful.count() });
        self.saved.is_dirty = true;
        tell(&storage.clone().recipient(), CheckPieces { pieces: doubtful });
        self.storage = Some(storage);
    }

    /// The pieces that nobody vouches for and whose files are all there, at least in part.
    fn doubtful(&self, layout: &Layout, stamps: &[FileStamp]) -> Bitfield {
        let mut doubtful = Bitfield::full(self.geometry.pieces());
        self.have.iter().for_each(|piece| {
            doubtful.clear(piece);
        });
        let mut start = 0;
        for (file, stamp) in layout.files.iter().zip(stamps) {
            let end = start + file.length;
            if !file.pad {
                // What lies beyond the end of a file on disk was never written.
                let there = stamp.length.unwrap_or(0).min(file.length);
                for piece in self.geometry.pieces_of(start + there..end) {
                    doubtful.clear(PieceIndex(piece));
                }
            }
            start = end;
        }
        doubtful
    }

    /// Files are open and checked: meets the peers, or ends here if only a check was wanted.
    fn begin(&mut self, ctx: &mut Context<Self>) {
        self.checking = None;
        let (have, all) = (self.have.count(), self.geometry.pieces());
        if self.spec.seed_only && have < all {
            return self.fail(format!("{} of {all} pieces are missing or bad", all - have), ctx);
        }
        let (Some(storage), me) = (self.storage.clone(), ctx.address()) else { return };
        let links = PiecesLinks {
            write: storage.clone().recipient(),
            completed: me.clone().recipient(),
            rejected: me.clone().recipient(),
            wasted: me.clone().recipient(),
            parent: me.recipient(),
        };
        let metainfo = self.spec.metainfo.clone();
        let mut pieces =
            Pieces::new(metainfo, self.geometry, self.have.clone(), self.spec.sequential, self.pieces_seed, links);
        for (piece, priority) in self.priorities() {
            pieces.prioritise(piece..piece + 1, priority);
        }
        self.left = pieces.left();
        let pieces = pieces.start();
        tell(&storage.recipient(), ReportTo(pieces.clone().recipient()));
        self.pieces = Some(pieces);
        self.phase = if self.left == 0 { Phase::Seeding } else { Phase::Downloading };
        if self.spec.check_only || self.begin_paused {
            self.phase = Phase::Paused;
        }
        if self.have.is_full() {
            // Nobody is connected yet whom that could make useless.
            let _ = self.swarm.set_seeding(true, self.now());
        }
        self.happened(Happening::Started { have: self.have.count() });
        if self.left == 0 {
            self.happened(Happening::Complete);
        }
        self.save(ctx);
        if self.is_running() {
            self.meet(ctx);
        }
        self.publish();
    }

    /// Opens the door and sets the plugins to work.
    pub(super) fn meet(&mut self, ctx: &mut Context<Self>) {
        self.quiet_since = self.now();
        self.open_door(ctx);
        self.update_progress();
        for plugin in &self.plugins {
            tell(&plugin.watch, self.watch_order(ctx));
        }
    }

    /// Pieces that are not wanted as usual: a piece is wanted as much as the most wanted file it touches.
    fn priorities(&self) -> Vec<(u32, Priority)> {
        if self.spec.priorities.iter().all(|priority| *priority == Priority::Normal) {
            return Vec::new();
        }
        let mut of_piece: Vec<Option<Priority>> = vec![None; self.geometry.pieces() as usize];
        for (at, file) in self.spec.metainfo.info.files.iter().enumerate() {
            let wanted = self.spec.priorities.get(at).copied().unwrap_or(Priority::Normal);
            let wanted = if file.pad { Priority::Skip } else { wanted };
            for piece in self.geometry.pieces_of(file.offset..file.offset + file.length) {
                let slot = &mut of_piece[piece as usize];
                *slot = (*slot).max(Some(wanted));
            }
        }
        let unusual = |(piece, wanted): (usize, Option<Priority>)| Some((piece as u32, wanted?));
        of_piece.into_iter().enumerate().filter_map(unusual).filter(|(_, p)| *p != Priority::Normal).collect()
    }

    pub(super) fn watch_order(&self, ctx: &mut Context<Self>) -> Watch {
        let metainfo = &self.spec.metainfo;
        let mut trackers = metainfo.trackers.clone();
        if !self.spec.trackers.is_empty() {
            trackers.push(self.spec.trackers.clone());
        }
        let me = ctx.address();
        Watch {
            torrent: self.id,
            info: SwarmInfo {
                info_hashes: metainfo.info_hashes,
                private: metainfo.info.private,
                trackers: trackers.into(),
                peers: self.spec.peers.clone().into(),
                nodes: Arc::default(),
                link: None,
            },
            me: Me { peer_id: self.me, port: self.shared.port(), key: self.key },
            progress: self.progress.subscribe(),
            found: me.clone().recipient(),
            noted: me.recipient(),
        }
    }

    pub(super) fn update_progress(&mut self) {
        let progress = Progress {
            uploaded: self.totals.uploaded,
            downloaded: self.totals.downloaded,
            left: Some(self.left),
            wanted: if self.is_running() { self.swarm.wanted() } else { 0 },
        };
        self.progress.send_if_modified(|old| std::mem::replace(old, progress.clone()) != progress);
    }
}

impl Handler<PiecesChecked> for Torrent {
    type Result = ();
    fn handle(&mut self, PiecesChecked { first, digests }: PiecesChecked, ctx: &mut Self::Context) {
        let Some(checking) = &mut self.checking else { return };
        checking.left = checking.left.saturating_sub(digests.len() as u32);
        let is_over = checking.left == 0;
        let metainfo = Arc::clone(&self.spec.metainfo);
        for (piece, digest) in (first..).map(PieceIndex).zip(digests) {
            let expected = metainfo.info.pieces.as_ref().and_then(|pieces| pieces.digest(piece));
            if digest.is_some() && digest == expected {
                self.have.set(piece);
            }
        }
        if is_over {
            self.begin(ctx);
        }
    }
}
