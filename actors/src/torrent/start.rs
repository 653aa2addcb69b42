//! Opening: claim the files, believe what resume data vouch for, hash the rest, begin.

use std::sync::Arc;

use actix::prelude::*;
use castanet_core::{
    Bitfield, Geometry, Metainfo, PieceIndex,
    seams::{
        discovery::{Me, Milestone, Progress, SwarmInfo},
        resume::{ResumeRecord, vouched},
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
        session::{Source, TorrentSpec},
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
    pub(super) fn open(&mut self, metainfo: Arc<Metainfo>, ctx: &mut Context<Self>) {
        let (layout, geometry) =
            (metainfo.info.layout(&self.spec.folder, self.spec.allocation), metainfo.info.geometry());
        self.phase = Phase::Opening;
        self.know(metainfo);
        self.geometry = Some(geometry);
        self.have = Bitfield::new(geometry.pieces());
        self.left = geometry.length();
        let key = self.resume_key();
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
        ctx.spawn(opened.into_actor(self).map(move |found, torrent, ctx| match found {
            _ if torrent.stopping => {}
            Ok(Ok((found, layout))) => torrent.opened(found, &layout, geometry, ctx),
            Ok(Err(error)) => torrent.fail(error, ctx),
            Err(_) => torrent.fail("an internal error ended a disk thread; nothing is lost".into(), ctx),
        }));
    }

    fn opened(&mut self, found: Found, layout: &Layout, geometry: Geometry, ctx: &mut Context<Self>) {
        let Found { opened, record, stamps } = found;
        if let Some(record) = record.as_ref().filter(|_| !self.spec.recheck) {
            self.have = vouched(record, &stamps, layout, &geometry);
        }
        if let Some(record) = &record {
            self.totals.downloaded_before = record.downloaded;
            self.totals.uploaded_before = record.uploaded;
        }
        let me = ctx.address();
        let links =
            StorageLinks { checked: me.clone().recipient(), failed: me.clone().recipient(), parent: me.recipient() };
        let (disk, budget) = (self.shared.disk.clone(), self.shared.budget.clone());
        let storage = Storage::new(geometry, opened.storage.clone(), disk, budget, links).start();
        self.opened = Some(opened);
        let doubtful = self.doubtful(layout, &stamps, geometry);
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
    fn doubtful(&self, layout: &Layout, stamps: &[FileStamp], geometry: Geometry) -> Bitfield {
        let mut doubtful = Bitfield::full(geometry.pieces());
        self.have.iter().for_each(|piece| {
            doubtful.clear(piece);
        });
        let mut start = 0;
        for (file, stamp) in layout.files.iter().zip(stamps) {
            let end = start + file.length;
            if !file.pad {
                // What lies beyond the end of a file on disk was never written.
                let there = stamp.length.unwrap_or(0).min(file.length);
                for piece in geometry.pieces_of(start + there..end) {
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
        let (Some(metainfo), Some(geometry)) = (self.metainfo.clone(), self.geometry) else { return };
        let (have, all) = (self.have.count(), geometry.pieces());
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
        let wanted = match (self.spec.choose.0)(&metainfo) {
            Ok(wanted) => priorities(&metainfo, geometry, &wanted),
            Err(error) => return self.fail(error, ctx),
        };
        let (have, sequential) = (self.have.clone(), self.spec.sequential);
        let mut pieces = Pieces::new(metainfo, geometry, have, sequential, self.pieces_seed, links);
        for (piece, priority) in wanted {
            pieces.prioritise(piece..piece + 1, priority);
        }
        self.left = pieces.left();
        let pieces = pieces.start();
        tell(&storage.recipient(), ReportTo(pieces.clone().recipient()));
        self.pieces = Some(pieces);
        self.pace.begin(self.now());
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
            self.reach(Milestone::Complete, self.now());
            self.happened(Happening::Complete);
        }
        self.save(ctx);
        let met_early = std::mem::take(&mut self.met_early);
        if self.is_running() {
            self.meet(ctx);
            self.adopt_all();
        } else if met_early {
            ctx.spawn(self.part());
        }
        self.publish();
    }

    /// Opens the door and sets the plugins to work.
    pub(super) fn meet(&mut self, ctx: &mut Context<Self>) {
        self.pace.arrived(self.now());
        self.open_door(ctx);
        self.update_progress();
        self.brief_plugins(ctx);
        let urls = self.metainfo.as_ref().map(|metainfo| metainfo.web_seeds.clone()).unwrap_or_default();
        self.add_web_seeds(&urls, ctx);
    }

    /// It is known what the torrent is.
    pub(super) fn know(&mut self, metainfo: Arc<Metainfo>) {
        self.info.private = metainfo.info.private;
        self.info.nodes = metainfo.nodes.iter().map(|(host, port)| host_and_port(host, *port)).collect();
        self.metainfo = Some(metainfo);
    }

    pub(super) fn watch_order(&self, ctx: &mut Context<Self>) -> Watch {
        let me = ctx.address();
        Watch {
            torrent: self.id,
            info: self.info.clone(),
            me: Me { peer_id: self.me, port: self.shared.port(), key: self.key },
            progress: self.progress.subscribe(),
            found: me.clone().recipient(),
            said: me.clone().recipient(),
            told: me.recipient(),
        }
    }

    pub(super) fn update_progress(&mut self) {
        let progress = Progress {
            uploaded: self.totals.uploaded,
            downloaded: self.totals.downloaded,
            left: self.metainfo.as_ref().filter(|_| !self.spec.discover_only).map(|_| self.left),
            wanted: if self.is_running() { self.swarm.wanted() } else { 0 },
        };
        self.progress.send_if_modified(|old| std::mem::replace(old, progress.clone()) != progress);
    }
}

/// What plugins may know of a torrent before it is opened.
pub(super) fn first_info(spec: &TorrentSpec) -> SwarmInfo {
    let (mut trackers, link) = match &spec.source {
        Source::File(metainfo) => (metainfo.trackers.clone(), None),
        Source::Link(link) => (link.trackers.iter().map(|url| vec![url.clone()]).collect(), Some(link.clone())),
    };
    if !spec.trackers.is_empty() {
        trackers.push(spec.trackers.clone());
    }
    let (trackers, peers) = (trackers.into(), spec.peers.clone().into());
    SwarmInfo { trackers, peers, link, ..SwarmInfo::new(spec.source.info_hashes()) }
}

/// Pieces that are not wanted as usual: a piece is wanted as much as the most wanted file it touches.
fn priorities(metainfo: &Metainfo, geometry: Geometry, wanted: &[Priority]) -> Vec<(u32, Priority)> {
    if wanted.iter().all(|priority| *priority == Priority::Normal) {
        return Vec::new();
    }
    let mut of_piece: Vec<Option<Priority>> = vec![None; geometry.pieces() as usize];
    for (at, file) in metainfo.info.files.iter().enumerate() {
        let wanted = wanted.get(at).copied().unwrap_or(Priority::Normal);
        let wanted = if file.pad { Priority::Skip } else { wanted };
        for piece in geometry.pieces_of(file.offset..file.offset + file.length) {
            let slot = &mut of_piece[piece as usize];
            *slot = (*slot).max(Some(wanted));
        }
    }
    let unusual = |(piece, wanted): (usize, Option<Priority>)| Some((piece as u32, wanted?));
    of_piece.into_iter().enumerate().filter_map(unusual).filter(|(_, p)| *p != Priority::Normal).collect()
}

/// HOST:PORT as people write it.
fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

impl Handler<PiecesChecked> for Torrent {
    type Result = ();
    fn handle(&mut self, PiecesChecked { first, digests }: PiecesChecked, ctx: &mut Self::Context) {
        let Some(checking) = &mut self.checking else { return };
        checking.left = checking.left.saturating_sub(digests.len() as u32);
        let is_over = checking.left == 0;
        let Some(metainfo) = self.metainfo.clone() else { return };
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
