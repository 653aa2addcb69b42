//! What observers see: snapshots, and why nothing arrives.

use std::{sync::Arc, time::Duration};

use actix::prelude::*;
use castanet_core::Moment;
use castanet_protocol::{
    diagnosis::{Facts, SourceFacts, diagnose},
    swarm::{CloseKind, DialFailure, Worth},
};

use super::Torrent;
use crate::messages::torrent::{Happening, Phase, PluginReport, PluginStarted, TorrentSnapshot};

/// A download is called stalled when nothing has arrived for so long.
const QUIET: Duration = Duration::from_secs(10);
/// A download that began so long ago is called slow below this rate (bytes per second), if the rest would take so long.
const CRAWL_AFTER: Duration = Duration::from_secs(30);
const CRAWL_RATE: u64 = 16 * 1024;
const CRAWL_LEFT: Duration = Duration::from_secs(600);

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
            self.renew_door(ctx);
            self.ask_for_metadata(ctx);
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
            metainfo: self.metainfo.clone(),
            plugins: self.plugin_reports(),
            timeline: self.timeline.clone(),
            why: self.why.clone(),
            length: self.geometry.map_or(0, |geometry| geometry.length()),
            left: self.left,
            pieces: self.geometry.map_or(0, |geometry| geometry.pieces()),
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
            stalled: self.why.as_ref().map(|why| why.to_string()),
        }
    }

    /// What each plugin brought and spent.
    fn plugin_reports(&self) -> Arc<[PluginReport]> {
        let mut reports: Vec<PluginReport> =
            self.swarm.worth().into_iter().map(|worth| self.report_on(worth)).collect();
        for started in &self.plugins {
            // One that found nobody has cost something all the same.
            if !reports.iter().any(|report| report.worth.plugin == started.plugin) {
                reports.push(self.report_on(Worth::nothing(started.plugin.clone())));
            }
        }
        reports.sort_by(|a, b| a.worth.plugin.cmp(&b.worth.plugin));
        reports.into()
    }

    fn report_on(&self, worth: Worth) -> PluginReport {
        let started = self.plugins.iter().find(|started| started.plugin == worth.plugin);
        let standing = self.standings.get(&worth.plugin);
        let sizes = standing.into_iter().flat_map(|standing| standing.sizes.values());
        PluginReport {
            first_after: worth.first_peer.map(|first| first.since(self.timeline.added())),
            cost: started.map(|started| started.meter.read()).unwrap_or_default(),
            condition: standing.and_then(|standing| standing.condition.clone()),
            swarm: sizes.copied().max_by_key(|size| u64::from(size.seeds) + u64::from(size.leeches)),
            worth,
        }
    }

    /// Tells observers why nothing arrives, or little, when the reason changes.
    fn notice_stall(&mut self) {
        let now = self.now();
        let is_waiting = matches!(self.phase, Phase::Downloading | Phase::Metadata) && !self.spec.discover_only;
        let is_quiet = is_waiting && now.since(self.quiet_since) >= QUIET;
        let is_slow = is_waiting && self.crawls(now);
        if !is_quiet && !is_slow {
            self.why = None;
            return;
        }
        let why = diagnose(&self.facts(now));
        if self.why.as_ref().is_some_and(|before| before.kinds() == why.kinds()) {
            self.why = Some(Arc::new(why));
            return;
        }
        let text = why.to_string();
        self.why = Some(Arc::new(why));
        self.happened(if is_quiet { Happening::Stalled(text) } else { Happening::Slow(text) });
    }

    /// Does so little arrive that the rest would take very long?
    fn crawls(&mut self, now: Moment) -> bool {
        let rate = self.down.rate(now);
        let is_young = self.pieces.is_none() || now.since(self.began) < CRAWL_AFTER;
        !is_young && rate < CRAWL_RATE && self.left / rate.max(1) > CRAWL_LEFT.as_secs()
    }

    /// What is known about why it goes as it goes.
    fn facts(&mut self, now: Moment) -> Facts {
        let connected = self.peers.values();
        let counts = self.swarm.counts();
        Facts {
            is_metadata: self.phase == Phase::Metadata,
            known: counts.known,
            half_open: counts.half_open,
            refused: self.swarm.failed(DialFailure::Refused),
            timed_out: self.swarm.failed(DialFailure::TimedOut),
            unreachable: self.swarm.failed(DialFailure::Unreachable),
            not_this_torrent: self.swarm.failed(DialFailure::Handshake),
            banned: self.swarm.banned(),
            connected: self.peers.len(),
            choking: connected.clone().filter(|peer| peer.chokes_us).count(),
            snubbed: connected.clone().filter(|peer| peer.view.snubbed).count(),
            without_metadata: connected.filter(|peer| !peer.gives_metadata).count(),
            rate: self.down.rate(now),
            rate_limit: self.shared.down.rate(),
            sources: self.sources(),
            ..Facts::default()
        }
    }

    fn sources(&self) -> Vec<SourceFacts> {
        let source = |started: &PluginStarted| {
            let standing = self.standings.get(&started.plugin);
            SourceFacts {
                plugin: started.plugin.clone(),
                answered: standing.map_or(0, |standing| standing.answered.len()),
                failing: standing.map(|standing| standing.failing.clone().into_iter().collect()).unwrap_or_default(),
                condition: standing.and_then(|standing| standing.condition.clone()),
            }
        };
        let info = self.swarm_info();
        self.plugins.iter().filter(|started| started.seam.serves(&info)).map(source).collect()
    }
}
