//! The work for one torrent: what is due is asked, and what comes back is passed on.

use std::sync::Arc;

use castanet_core::{
    Moment,
    seams::discovery::{Found, Swarm, SwarmEvent, SwarmSize},
};
use castanet_protocol::tracker::{
    Announce, Answer, Event,
    schedule::{Due, Schedule, TrackerIndex},
    scrapes::Scrapes,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::sleep;

use super::{Ask, Failure, Shared, report::Reporter, serves};
use crate::driven::Finds;

/// The most scrapes of one torrent that are under way at once.
const MOST_SCRAPES: usize = 8;

pub(super) struct Work<A> {
    shared: Arc<Shared<A>>,
    swarm: Swarm,
    reporter: Arc<Reporter>,
    schedule: Schedule,
    scrapes: Scrapes,
    idle_until: Option<Moment>,
}

impl<A: Ask> Work<A> {
    pub(super) fn new(shared: Arc<Shared<A>>, swarm: Swarm, finds: Finds) -> Self {
        let mut salt = [0; 8];
        salt.copy_from_slice(&swarm.info.info_hashes.wire()[..8]);
        let seed = shared.means.seed ^ u64::from_be_bytes(salt);
        let complete = swarm.progress.borrow().left == Some(0);
        let schedule = Schedule::new(&swarm.info.trackers, serves::<A>, complete, seed);
        let reporter = Arc::new(Reporter::new(finds));
        Self { shared, swarm, reporter, schedule, scrapes: Scrapes::new(), idle_until: None }
    }

    pub(super) async fn run(mut self) {
        let (mut events, mut changes) = (true, true);
        let (mut announcing, mut scraping) = (FuturesUnordered::new(), FuturesUnordered::new());
        while !self.schedule.is_empty() {
            let now = self.shared.means.clock.now();
            let wanted = self.swarm.progress.borrow_and_update().wanted;
            while let Some(due) = self.schedule.poll(wanted, now) {
                announcing.push(self.announce(due));
            }
            let (resting, room) = (wanted == 0, scraping.len() < MOST_SCRAPES);
            while scraping.len() < MOST_SCRAPES
                && let Some(tracker) = self.scrapes.poll(resting, now)
            {
                scraping.push(self.scrape(tracker));
            }
            let scrape = if room { self.scrapes.deadline(resting) } else { Moment::NEVER };
            let wake = self.schedule.deadline(wanted, now).min(scrape);
            if announcing.is_empty() {
                self.rest(wake).await;
            }
            tokio::select! {
                biased;
                Some((due, result)) = announcing.next(), if !announcing.is_empty() => self.finish(due, result).await,
                Some((tracker, result)) = scraping.next(), if !scraping.is_empty() => self.scraped(tracker, result).await,
                event = self.swarm.events.recv(), if events => match event {
                    Some(event) => self.hear(event),
                    None => events = false,
                },
                change = self.swarm.progress.changed(), if changes => changes = change.is_ok(),
                () = sleep(wake.since(now)), if wake != Moment::NEVER => {}
                // Every tracker has sent us away for ever.
                else => break,
            }
        }
    }

    fn hear(&mut self, event: SwarmEvent) {
        match event {
            SwarmEvent::Completed => self.schedule.completed(),
            // Nobody says which of them mirror each other, so each is asked.
            SwarmEvent::TrackersAdded(urls) => urls.chunks(1).for_each(|url| self.schedule.add(url, serves::<A>)),
            SwarmEvent::NetworkChanged => {
                let means = &self.shared.means;
                if let Some(listening) = means.listening().first() {
                    self.swarm.me.port = listening.port();
                }
                self.schedule.network_changed(means.clock.now());
            }
            _ => {}
        }
    }

    /// Makes one announce, with the numbers of this moment.
    fn announce(&self, due: Due) -> impl Future<Output = (Due, Result<Answer, Failure>)> + Send + use<A> {
        let url = self.schedule.url(due.tracker).clone();
        let progress = self.swarm.progress.borrow().clone();
        let announces = Announce::all(&self.swarm.info, &self.swarm.me, &progress, due.event);
        let tracker_id = self.shared.with_known(|known| {
            // From now on it may know us, even if we never hear its answer.
            let trackers = known.entry(self.swarm.info.info_hashes.wire()).or_default();
            let tracker = trackers.entry(url.clone()).or_default();
            match due.event {
                Event::Started => tracker.owed_completed = progress.left != Some(0),
                Event::Completed => tracker.owed_completed = false,
                _ => {}
            }
            tracker.tracker_id.clone()
        });
        let (shared, reporter) = (self.shared.clone(), self.reporter.clone());
        async move { (due, shared.announce(&url, &announces, tracker_id.as_deref(), Some(&reporter)).await) }
    }

    async fn finish(&mut self, due: Due, result: Result<Answer, Failure>) {
        let now = self.shared.means.clock.now();
        let (url, torrent) = (self.schedule.url(due.tracker).clone(), self.swarm.info.info_hashes.wire());
        match result {
            Ok(answer) => {
                self.schedule.answered(due.tracker, &answer, now);
                let size = answer.size();
                self.scrapes.announced(due.tracker, size.is_some(), now);
                self.shared.with_known(|known| {
                    let known = known.entry(torrent).or_default().entry(url.clone()).or_default();
                    known.answered = true;
                    known.tracker_id = answer.tracker_id.or(known.tracker_id.take());
                });
                if let Some(size) = size {
                    self.reporter.size(&url, size).await;
                }
            }
            Err(failure) => {
                self.schedule.failed(due.tracker, failure.retry, now);
                self.shared.with_known(|known| {
                    let Some(trackers) = known.get_mut(&torrent) else { return };
                    if trackers.get(&url).is_some_and(|tracker| !tracker.answered) {
                        trackers.remove(&url);
                    }
                    if trackers.is_empty() {
                        known.remove(&torrent);
                    }
                });
                tracing::debug!(error = %failure.error, "announce failed");
                self.reporter.failed(failure.error).await;
            }
        }
    }

    /// Asks one tracker for numbers.
    fn scrape(
        &self,
        tracker: TrackerIndex,
    ) -> impl Future<Output = (TrackerIndex, Result<Option<SwarmSize>, Failure>)> + Send + use<A> {
        let (shared, url) = (self.shared.clone(), self.schedule.url(tracker).clone());
        let names: Vec<_> = self.swarm.info.info_hashes.wires().collect();
        async move { (tracker, shared.scrape(&url, &names).await) }
    }

    /// Numbers are a courtesy: without them nobody is worse off.
    async fn scraped(&self, tracker: TrackerIndex, result: Result<Option<SwarmSize>, Failure>) {
        match result {
            Ok(Some(size)) => self.reporter.size(self.schedule.url(tracker), size).await,
            Ok(None) => {}
            Err(failure) => tracing::debug!(error = %failure.error, "scrape failed"),
        }
    }

    /// Says once until when there is nothing to do.
    async fn rest(&mut self, wake: Moment) {
        if self.idle_until != Some(wake) {
            self.idle_until = Some(wake);
            let retry_at = (wake != Moment::NEVER).then_some(wake);
            self.reporter.found(Found::Idle { retry_at }).await;
        }
    }
}
