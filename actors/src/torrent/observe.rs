//! What observers see: snapshots, and why nothing arrives.

use std::{sync::Arc, time::Duration};

use actix::prelude::*;
use castanet_core::Moment;
use castanet_protocol::{
    diagnosis::{Facts, Slowness, diagnose},
    picker::Survey,
    swarm::{CloseKind, DialFailure, Worth},
};

use super::{Torrent, holepunch};
use crate::{
    messages::{
        pieces::GetSurvey,
        storage::GetDisk,
        torrent::{Happening, Phase, PluginReport, TorrentSnapshot},
    },
    metered::{Cost, Meter},
};

/// What plugins brought and spent is added up anew so often; in between nobody would see a difference.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// While it is slow, the reason is looked into so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The plugins' reports, and when they were made.
#[derive(Debug, Default)]
pub(super) struct Reports {
    all: Arc<[PluginReport]>,
    made: Moment,
}

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
            self.notice_slowness(ctx);
            self.save_when_due(ctx);
        }
        if now.since(self.reports.made) >= REPORT_EVERY {
            self.publish();
        } else {
            self.state.send_replace(self.snapshot());
        }
    }

    /// Renews all that observers watch.
    pub(super) fn publish(&mut self) {
        self.reports = Reports { all: self.plugin_reports(), made: self.now() };
        self.state.send_replace(self.snapshot());
    }

    fn snapshot(&self) -> TorrentSnapshot {
        let now = self.now();
        TorrentSnapshot {
            phase: self.phase.clone(),
            metainfo: self.metainfo.clone(),
            plugins: self.reports.all.clone(),
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
        // One that found nobody has cost something all the same.
        for (name, _) in self.meters() {
            if !reports.iter().any(|report| *report.worth.plugin.0 == *name) {
                reports.push(self.report_on(Worth::nothing(name.into())));
            }
        }
        reports.extend(self.worth_of_web_seeds());
        reports.sort_by(|a, b| a.worth.plugin.cmp(&b.worth.plugin));
        reports.into()
    }

    /// Who spends something: plugins, and the torrent's own introductions once there were any.
    fn meters(&self) -> impl Iterator<Item = (&str, &Meter)> {
        let own = (self.punching.read() != Cost::default()).then_some((holepunch::NAME, &self.punching));
        self.plugins.iter().map(|started| (&*started.plugin.0, &*started.meter)).chain(own)
    }

    pub(super) fn report_on(&self, worth: Worth) -> PluginReport {
        let meter = self.meters().find(|(name, _)| *worth.plugin.0 == **name);
        PluginReport {
            first_after: worth.first_peer.map(|first| first.since(self.timeline.added())),
            cost: meter.map(|(_, meter)| meter.read()).unwrap_or_default(),
            condition: self.standings.condition(&worth.plugin).map(str::to_owned),
            swarm: self.standings.swarm_size(&worth.plugin),
            worth,
        }
    }

    /// Looks into why nothing arrives, or little, when that is so.
    fn notice_slowness(&mut self, ctx: &mut Context<Self>) {
        let now = self.now();
        let Some(slowness) = self.slowness(now) else {
            self.why = None;
            return;
        };
        if now < self.look_again {
            return;
        }
        self.look_again = now + LOOK_EVERY;
        let (Some(pieces), Some(storage)) = (&self.pieces, &self.storage) else {
            return self.explain(slowness, &Survey::default(), false);
        };
        let (survey, disk) = (pieces.send(GetSurvey), storage.send(GetDisk));
        let asking = async move { (survey.await, disk.await) };
        ctx.spawn(asking.into_actor(self).map(|answers, torrent, _| {
            let now = torrent.now();
            // It may have changed for the better meanwhile. Who does not answer is dead, and the torrent fails.
            if let (Some(slowness), (Ok(survey), Ok(disk))) = (torrent.slowness(now), answers) {
                torrent.explain(slowness, &survey.0, disk.is_busy);
            }
        }));
    }

    fn slowness(&mut self, now: Moment) -> Option<Slowness> {
        let is_waiting = matches!(self.phase, Phase::Downloading | Phase::Metadata) && !self.spec.discover_only;
        let rate = self.down.rate(now);
        self.pace.judge(self.left, rate, now).filter(|_| is_waiting)
    }

    /// Tells observers the reasons, when they are others than before.
    fn explain(&mut self, slowness: Slowness, survey: &Survey, is_disk_busy: bool) {
        let why = diagnose(&self.facts(survey, is_disk_busy));
        let is_news = self.why.as_ref().is_none_or(|before| before.kinds() != why.kinds());
        let text = why.to_string();
        self.why = Some(Arc::new(why));
        if is_news {
            self.happened(match slowness {
                Slowness::Stalled => Happening::Stalled(text),
                Slowness::Crawling => Happening::Slow(text),
            });
        }
    }

    /// What is known about why it goes as it goes.
    fn facts(&mut self, survey: &Survey, is_disk_busy: bool) -> Facts {
        let now = self.now();
        let connected = self.peers.values();
        let counts = self.swarm.counts();
        let is_useless = |key| survey.useless.contains(key);
        Facts {
            away: self.shared.away(),
            is_metadata: self.phase == Phase::Metadata,
            known: counts.known,
            half_open: counts.half_open,
            refused: self.swarm.failed(DialFailure::Refused),
            timed_out: self.swarm.failed(DialFailure::TimedOut),
            unreachable: self.swarm.failed(DialFailure::Unreachable),
            not_this_torrent: self.swarm.failed(DialFailure::Handshake),
            banned: self.swarm.banned(),
            connected: self.peers.len(),
            without_use: self.peers.keys().filter(|key| is_useless(key)).count(),
            choking: self.peers.iter().filter(|(key, peer)| peer.chokes_us && !is_useless(key)).count(),
            snubbed: connected.clone().filter(|peer| peer.view.snubbed).count(),
            without_metadata: connected.filter(|peer| !peer.gives_metadata).count(),
            missing_everywhere: survey.unheld,
            rate: self.down.rate(now),
            rate_limit: self.down_limit.limit(),
            is_held: self.down_limit.is_waited_for(),
            is_disk_busy,
            sources: self.serving().map(|started| self.standings.facts(&started.plugin)).collect(),
        }
    }
}
