//! What observers see: snapshots, and why nothing arrives.

use std::{sync::Arc, time::Duration};

use actix::prelude::*;
use castanet_protocol::swarm::CloseKind;

use super::Torrent;
use crate::messages::torrent::{Happening, Phase, TorrentSnapshot};

/// A download is called stalled when nothing has arrived for so long.
const QUIET: Duration = Duration::from_secs(10);

impl Torrent {
    /// Looks after the torrent, a few times a second.
    pub(super) fn tick(&mut self, ctx: &mut Context<Self>) {
        let now = self.now();
        if self.is_running() {
            self.choke(now);
            if let Some(idle) = self.swarm.whom_to_drop(now) {
                self.disconnect(idle, CloseKind::Idle, "its place was needed");
            }
            self.dial(ctx);
            self.update_progress();
            self.notice_stall();
            self.save_when_due(ctx);
        }
        self.publish();
    }

    /// Renews the state that observers watch.
    pub(super) fn publish(&self) {
        self.state.send_replace(self.snapshot());
    }

    pub(super) fn snapshot(&self) -> TorrentSnapshot {
        let now = self.now();
        TorrentSnapshot {
            phase: self.phase.clone(),
            length: self.geometry.length(),
            left: self.left,
            pieces: self.geometry.pieces(),
            have: self.have.count(),
            checked: self.checking.as_ref().map_or(0, |checking| checking.done()),
            to_check: self.checking.as_ref().map_or(0, |checking| checking.total),
            downloaded: self.totals.downloaded,
            uploaded: self.totals.uploaded,
            wasted: self.totals.wasted,
            down_rate: self.down.rate(now),
            up_rate: self.up.rate(now),
            peers: self.peers.len() as u32,
            seeds: self.peers.values().filter(|connected| connected.is_seed).count() as u32,
            known: self.swarm.counts().known as u32,
            // A large bitfield is copied only when someone can have use of it: when all is at rest.
            bitfield: (!self.is_running()).then(|| Arc::new(self.have.clone())),
            stalled: self.stalled.clone(),
        }
    }

    fn notice_stall(&mut self) {
        let quiet = self.phase == Phase::Downloading && self.now().since(self.quiet_since) >= QUIET;
        let why = quiet.then(|| self.why_quiet());
        if why != self.stalled {
            self.stalled.clone_from(&why);
            if let Some(why) = why {
                self.happened(Happening::Stalled(why));
            }
        }
    }

    /// One sentence on why nothing arrives.
    fn why_quiet(&self) -> String {
        let (connected, known) = (self.peers.len(), self.swarm.counts().known);
        let choking = self.peers.values().filter(|connected| connected.chokes_us).count();
        match (connected, known) {
            (0, 0) => "no peers have been found yet".into(),
            (0, known) => format!("none of the {known} peers known could be reached"),
            (n, _) if choking == n => format!("{n} connected, but none lets us download at the moment"),
            (n, _) => format!("{n} connected, but none sends a piece that is missing"),
        }
    }
}
