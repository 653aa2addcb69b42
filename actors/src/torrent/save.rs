//! Saving resume data, pausing, and the end.
//!
//! A record names only pieces that were flushed before it was written: first the list, then the flush, then the record.

use std::{sync::Arc, time::Duration};

use actix::prelude::*;
use castanet_core::{
    Bitfield, Moment,
    seams::resume::{ResumeKey, ResumeRecord},
    seams::storage::FileStamp,
};
use futures_util::future::{OptionFuture, join, join_all};
use tokio::sync::{Mutex, oneshot};

use super::Torrent;
use crate::{
    disk::Job,
    lifecycle::ExitReason,
    messages::{
        discovery::Leave,
        pieces::GetPieces,
        storage::Flush,
        torrent::{Pause, Phase, Resume, Stop},
    },
};

/// How long the good-byes of a torrent that is paused or fails may take.
pub(super) const GOOD_BYE: Duration = Duration::from_secs(5);

/// When the resume data were saved last.
#[derive(Debug, Default)]
pub(super) struct Saved {
    /// Something has changed since.
    pub(super) is_dirty: bool,
    under_way: bool,
    at: Moment,
    /// Records are written one at a time, in the order in which they were made.
    turn: Arc<Mutex<()>>,
}

impl Torrent {
    pub(super) fn save_when_due(&mut self, ctx: &mut Context<Self>) {
        if self.saved.is_dirty && self.now().since(self.saved.at) >= self.shared.config.save_every {
            self.save(ctx);
        }
    }

    /// Saves what is complete now, without stopping anything.
    pub(super) fn save(&mut self, ctx: &mut Context<Self>) {
        let Some(storage) = &self.storage else { return };
        if std::mem::replace(&mut self.saved.under_way, true) {
            return;
        }
        self.saved.is_dirty = false;
        self.saved.at = self.now();
        let (have, flushed) = (self.have.clone(), storage.send(Flush { drain: false }));
        let written = flushed.into_actor(self).then(move |stamps, torrent: &mut Self, _| {
            let written = match stamps {
                // The record of the end is newer, and on its way.
                _ if torrent.stopping => None,
                Ok(Ok(stamps)) => Some(torrent.write_record(have, stamps)),
                _ => None,
            };
            torrent.saved.is_dirty |= written.is_none();
            OptionFuture::from(written).into_actor(torrent)
        });
        ctx.spawn(written.map(|_, torrent, _| torrent.saved.under_way = false));
    }

    /// Writes a record on a disk thread.
    fn write_record(&self, pieces: Bitfield, stamps: Vec<FileStamp>) -> impl Future<Output = ()> + use<> {
        let record = ResumeRecord {
            pieces,
            stamps,
            uploaded: self.totals.uploaded_before + self.totals.uploaded,
            downloaded: self.totals.downloaded_before + self.totals.downloaded,
            info: self.fetched_info(),
        };
        let (shared, turn) = (self.shared.clone(), self.saved.turn.clone());
        let key = self.opened.as_ref().map(|opened| opened.key.clone());
        async move {
            let Some(key) = key else { return };
            let _turn = turn.lock().await;
            let (done, written) = oneshot::channel();
            let resume = shared.resume.clone();
            shared.disk.submit(Job::Other(Box::new(move || {
                if let Err(error) = resume.save(&key, &record) {
                    tracing::warn!(%error, "resume data not saved");
                }
                let _ = done.send(());
            })));
            let _ = written.await;
        }
    }

    /// Whose record it is.
    pub(super) fn resume_key(&self) -> ResumeKey {
        ResumeKey { info_hashes: self.spec.source.info_hashes(), root: self.spec.folder.clone() }
    }

    /// Leaves the peers that were met before the files were open: the torrent was paused meanwhile.
    pub(super) fn part(&mut self) -> ResponseActFuture<Self, ()> {
        self.wind_up(GOOD_BYE, &ExitReason::Asked)
    }

    /// Closes all connections, says good-bye, writes what is held and saves.
    fn wind_up(&mut self, within: Duration, reason: &ExitReason) -> ResponseActFuture<Self, ()> {
        self.close_door();
        let partings = join(join_all(self.part_from_all(reason)), join_all(self.part_from_web_seeds()));
        let (storage, pieces) = (self.storage.clone(), self.pieces.clone());
        let saving = async move {
            // The peers have sent their last blocks to the piece manager, it has handed them to the storage, and only
            // then are the files flushed and stamped: a later write would make the record worthless.
            partings.await;
            let pieces = pieces?;
            pieces.send(GetPieces).await.ok()?;
            let stamps = storage?.send(Flush { drain: true }).await.ok()?.ok()?;
            // Asked only now: what was still being written has been counted.
            let have = pieces.send(GetPieces).await.ok()?.have;
            Some((have, stamps))
        };
        let saved = saving.into_actor(self).then(|found, torrent: &mut Self, _| {
            // Taken back meanwhile: these are not the last words, and the running torrent saves by itself.
            torrent.saved.is_dirty |= torrent.is_running();
            let written = found.filter(|_| !torrent.is_running()).map(|(have, stamps)| {
                torrent.have = have.clone();
                torrent.write_record(have, stamps)
            });
            OptionFuture::from(written).into_actor(torrent)
        });
        // Only now, when the connections have reported their last bytes, are the numbers right for a good-bye.
        let leaving = saved.then(move |_, torrent: &mut Self, _| {
            torrent.update_progress();
            let leave = Leave { torrent: torrent.id, within };
            // A pause that was taken back meanwhile is no good-bye.
            let plugins = torrent.plugins.iter().filter(|_| !torrent.is_running());
            let leaves: Vec<_> = plugins.map(|plugin| plugin.leave.send(leave.clone())).collect();
            let leaving = async move {
                let _ = tokio::time::timeout(within, join_all(leaves)).await;
            };
            leaving.into_actor(torrent)
        });
        Box::pin(leaving)
    }
}

impl Handler<Stop> for Torrent {
    type Result = ResponseActFuture<Self, ()>;
    fn handle(&mut self, Stop { within }: Stop, _: &mut Self::Context) -> Self::Result {
        self.stopping = true;
        self.checking = None;
        if !matches!(self.phase, Phase::Failed(_)) {
            self.phase = Phase::Paused;
        }
        Box::pin(self.wind_up(within, &ExitReason::Asked).map(|(), torrent: &mut Self, ctx| {
            torrent.abandon();
            // Whoever is answered now may open the same files.
            torrent.opened = None;
            torrent.publish();
            torrent.exit = Some(ExitReason::Asked);
            ctx.stop();
        }))
    }
}

impl Handler<Pause> for Torrent {
    type Result = ();
    fn handle(&mut self, _: Pause, ctx: &mut Self::Context) {
        if matches!(self.phase, Phase::Opening | Phase::Checking) {
            self.begin_paused = true;
        } else if self.is_running() {
            self.phase = Phase::Paused;
            ctx.spawn(self.wind_up(GOOD_BYE, &ExitReason::Asked).map(|(), torrent: &mut Self, _| torrent.publish()));
        }
    }
}

impl Handler<Resume> for Torrent {
    type Result = ();
    fn handle(&mut self, _: Resume, ctx: &mut Self::Context) {
        self.begin_paused = false;
        if self.phase == Phase::Paused && !self.stopping && !self.spec.check_only {
            self.phase = match &self.pieces {
                None => Phase::Metadata,
                Some(_) if self.left == 0 => Phase::Seeding,
                Some(_) => Phase::Downloading,
            };
            self.meet(ctx);
            self.publish();
        }
    }
}
