//! What the HTTP and the UDP tracker plugin have in common: for each torrent, follow its schedule, ask the trackers
//! that are due over each address family we have (BEP 7), and pass on what they say.
//!
//! Every announce is a future of its own, so one slow name or tracker delays no other. How a single question travels is
//! behind [`Ask`]. Whom to tell `stopped` is remembered here, since that comes after the stream is gone.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use castanet_core::{
    Moment,
    seams::{
        discovery::{DiscoveryError, Found, FoundStream, Me, PeerCandidate, Progress, Swarm, SwarmEvent, SwarmInfo},
        means::{Means, Resolve},
    },
};
use castanet_protocol::tracker::{
    Announce, Answer, AnswerError, Event, Retry, plain,
    schedule::{Due, Schedule},
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{sleep, timeout};
use url::Url;

use crate::driven::{Finds, driven};

/// How long a name may take to resolve.
const RESOLVE_LIMIT: Duration = Duration::from_secs(20);
/// The longest tracker URL that is used, in bytes.
const LONGEST_URL: usize = 4096;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// A tracker's address, understood.
#[derive(Debug)]
pub(crate) struct Target {
    /// As it is shown to the user and named in [`PeerCandidate::instance`].
    pub(crate) instance: Arc<str>,
    pub(crate) url: Url,
}

/// Why an announce failed, and when the tracker may be tried again.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: DiscoveryError,
    pub(crate) retry: Retry,
}

impl Failure {
    pub(crate) fn unreachable(target: &Target, reason: impl fmt::Display) -> Self {
        let (instance, reason) = (target.instance.clone(), plain(reason.to_string().as_bytes()));
        Self { error: DiscoveryError::Unreachable { instance, reason }, retry: Retry::Usual }
    }
    pub(crate) fn answer(target: &Target, error: AnswerError) -> Self {
        let instance = target.instance.clone();
        match error {
            AnswerError::Refused { message, retry } => {
                Self { error: DiscoveryError::Refused { instance, message }, retry }
            }
            error => {
                let what = plain(error.to_string().as_bytes());
                Self { error: DiscoveryError::Malformed { instance, what }, retry: Retry::Usual }
            }
        }
    }
    fn never(text: String) -> Self {
        Self { error: DiscoveryError::Unusable(text), retry: Retry::Never }
    }
}

/// One way of asking a tracker.
#[async_trait]
pub(crate) trait Ask: fmt::Debug + Send + Sync + 'static {
    /// The schemes of its URLs.
    const SCHEMES: &'static [&'static str];

    /// Asks once, at one of `addresses`, which are all of one family. Takes a bounded time.
    async fn ask(
        &self,
        target: &Target,
        addresses: &[SocketAddr],
        announce: &Announce,
        tracker_id: Option<&[u8]>,
    ) -> Result<Answer, Failure>;
}

/// A tracker plugin for all torrents of a session.
#[derive(Debug)]
pub(crate) struct Announcer<A> {
    shared: Arc<Shared<A>>,
}

#[derive(Debug)]
struct Shared<A> {
    ask: A,
    means: Means,
    known: Mutex<Known>,
}

/// For each torrent the trackers that know of us, by URL.
type Known = BTreeMap<[u8; 20], BTreeMap<Arc<str>, Acquaintance>>;

/// What a tracker knows of us.
#[derive(Debug, Clone, Default)]
struct Acquaintance {
    answered: bool,
    /// It heard of the start of a download, and has not been told of its end.
    owed_completed: bool,
    tracker_id: Option<Vec<u8>>,
}

impl<A: Ask> Announcer<A> {
    pub(crate) fn new(ask: A, means: &Means) -> Self {
        Self { shared: Arc::new(Shared { ask, means: means.clone(), known: Mutex::default() }) }
    }

    pub(crate) fn serves(&self, swarm: &SwarmInfo) -> bool {
        swarm.trackers.iter().flatten().any(|url| serves::<A>(url))
    }

    pub(crate) fn discover(&self, swarm: Swarm) -> FoundStream {
        let shared = self.shared.clone();
        driven(|finds| Work::new(shared, swarm, finds).run())
    }

    /// Tells all trackers that know of us at the same time; the first failure is reported. Who leaves in the moment of
    /// completion has not said so yet, and does it here.
    pub(crate) async fn leave(
        &self,
        swarm: &SwarmInfo,
        me: &Me,
        last: &Progress,
        within: Duration,
    ) -> Result<(), DiscoveryError> {
        let announce = Announce::new(swarm, me, last, Event::Stopped);
        let completed = Announce::new(swarm, me, last, Event::Completed);
        let trackers = self.shared.with_known(|known| known.remove(&announce.info_hash)).unwrap_or_default();
        let mut farewells: FuturesUnordered<_> = trackers
            .iter()
            .map(async |(url, known)| {
                let farewell = async {
                    let say = |announce| self.shared.announce(url, announce, known.tracker_id.as_deref(), None);
                    if known.answered && known.owed_completed && announce.left == 0 {
                        say(&completed).await?;
                    }
                    say(&announce).await
                };
                timeout(within, farewell).await.unwrap_or_else(|_| {
                    let (instance, reason) = (instance(url), "no answer in time".to_owned());
                    Err(Failure { error: DiscoveryError::Unreachable { instance, reason }, retry: Retry::Usual })
                })
            })
            .collect();
        let mut result = Ok(());
        while let Some(farewell) = farewells.next().await {
            result = result.and(farewell.map(drop).map_err(|failure| failure.error));
        }
        result
    }
}

fn serves<A: Ask>(url: &str) -> bool {
    url.split_once(':').is_some_and(|(scheme, _)| A::SCHEMES.iter().any(|ours| scheme.eq_ignore_ascii_case(ours)))
}

fn instance(url: &str) -> Arc<str> {
    plain(url.as_bytes()).into()
}

impl<A: Ask> Shared<A> {
    fn with_known<R>(&self, f: impl FnOnce(&mut Known) -> R) -> R {
        f(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks a tracker over every family that both it and we have, at once. One success is a success. What it says goes
    /// to `finds` as soon as it is there.
    async fn announce(
        &self,
        url: &str,
        announce: &Announce,
        tracker_id: Option<&[u8]>,
        finds: Option<&Finds>,
    ) -> Result<Answer, Failure> {
        let target = target(url)?;
        let addresses = addresses(&self.means, &target).await?;
        let families = [Family::V4, Family::V6]
            .map(|family| addresses.iter().copied().filter(|addr| Family::of(addr.ip()) == family).collect::<Vec<_>>());
        let mut asked: FuturesUnordered<_> = families
            .iter()
            .filter(|addresses| !addresses.is_empty())
            .map(|addresses| self.ask.ask(&target, addresses, announce, tracker_id))
            .collect();
        let mut result: Option<Result<Answer, Failure>> = None;
        while let Some(mut answer) = asked.next().await {
            if let (Ok(answer), Some(finds)) = (&mut answer, finds) {
                tell(&target, answer, finds).await;
            }
            if result.as_ref().is_none_or(|result| result.is_err()) && (answer.is_ok() || result.is_none()) {
                result = Some(answer);
            }
        }
        result.unwrap_or_else(|| Err(Failure::unreachable(&target, "it has no address of a family that we have")))
    }
}

/// Passes on what a tracker said, and keeps of it what the schedule needs.
async fn tell(target: &Target, answer: &mut Answer, finds: &Finds) {
    let candidate = |(addr, peer_id)| PeerCandidate { addr, peer_id, instance: target.instance.clone() };
    let peers: Vec<_> = std::mem::take(&mut answer.peers).into_iter().map(candidate).collect();
    let peers = (!peers.is_empty()).then_some(Found::Peers(peers));
    let external = answer.external.map(Found::ExternalAddress);
    let warning = answer.warning.take().map(|text| Found::Notice(format!("{} says: {text}", target.instance)));
    for found in [peers, external, warning].into_iter().flatten() {
        // The reader owns this future: if it is gone, so are we.
        let _ = finds.send(Ok(found)).await;
    }
}

fn target(url: &str) -> Result<Target, Failure> {
    let instance = instance(url);
    if url.len() > LONGEST_URL {
        return Err(Failure::never(format!("{instance} is too long for a tracker's URL")));
    }
    let parsed = Url::parse(url);
    let url = parsed.map_err(|error| Failure::never(format!("{instance} is no tracker's URL: {error}")))?;
    Ok(Target { instance, url })
}

/// The addresses of a tracker, of the families that we have.
async fn addresses(means: &Means, target: &Target) -> Result<Vec<SocketAddr>, Failure> {
    let unusable = |what| Failure::never(format!("{} is no tracker's URL: {what}", target.instance));
    let host = target.url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| unusable("it has no host"))?;
    let port =
        target.url.port_or_known_default().filter(|port| *port != 0).ok_or_else(|| unusable("it has no port"))?;
    resolve(&*means.resolver, &means.bind, host, port).await.map_err(|reason| Failure::unreachable(target, reason))
}

/// Resolves a host as URLs write it, keeps the families of `bind`, and says in words what went wrong.
pub(crate) async fn resolve(
    resolver: &dyn Resolve,
    bind: &[SocketAddr],
    host: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, String> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let found = timeout(RESOLVE_LIMIT, resolver.resolve(host)).await;
    let found = found.map_err(|_| format!("looking up {host} took too long"))?.map_err(|error| error.to_string())?;
    let ours = |ip: &IpAddr| bind.iter().any(|bind| Family::of(bind.ip()) == Family::of(*ip));
    let found = found.into_iter().map(|ip| ip.to_canonical()).filter(ours);
    Ok(found.map(|ip| SocketAddr::new(ip, port)).collect())
}

/// The work for one torrent.
struct Work<A> {
    shared: Arc<Shared<A>>,
    swarm: Swarm,
    finds: Finds,
    schedule: Schedule,
    idle_until: Option<Moment>,
}

impl<A: Ask> Work<A> {
    fn new(shared: Arc<Shared<A>>, swarm: Swarm, finds: Finds) -> Self {
        let mut salt = [0; 8];
        salt.copy_from_slice(&swarm.info.info_hashes.wire()[..8]);
        let seed = shared.means.seed ^ u64::from_be_bytes(salt);
        let complete = swarm.progress.borrow().left == Some(0);
        let schedule = Schedule::new(&swarm.info.trackers, serves::<A>, complete, seed);
        Self { shared, swarm, finds, schedule, idle_until: None }
    }

    async fn run(mut self) {
        let (mut events, mut changes) = (true, true);
        let mut under_way = FuturesUnordered::new();
        while !self.schedule.is_empty() {
            let now = self.shared.means.clock.now();
            let wanted = self.swarm.progress.borrow_and_update().wanted;
            while let Some(due) = self.schedule.poll(wanted, now) {
                under_way.push(self.start(due));
            }
            let wake = self.schedule.deadline(wanted, now);
            if under_way.is_empty() {
                self.rest(wake).await;
            }
            tokio::select! {
                biased;
                Some((due, result)) = under_way.next(), if !under_way.is_empty() => self.finish(due, result).await,
                event = self.swarm.events.recv(), if events => match event {
                    Some(SwarmEvent::Completed) => self.schedule.completed(),
                    Some(_) => {}
                    None => events = false,
                },
                change = self.swarm.progress.changed(), if changes => changes = change.is_ok(),
                () = sleep(wake.since(now)), if wake != Moment::NEVER => {}
                // Every tracker has sent us away for ever.
                else => break,
            }
        }
    }

    /// Makes one announce, with the numbers of this moment.
    fn start(&self, due: Due) -> impl Future<Output = (Due, Result<Answer, Failure>)> + Send + use<A> {
        let url = self.schedule.url(due.tracker).clone();
        let announce = Announce::new(&self.swarm.info, &self.swarm.me, &self.swarm.progress.borrow(), due.event);
        let tracker_id = self.shared.with_known(|known| {
            // From now on it may know us, even if we never hear its answer.
            let tracker = known.entry(announce.info_hash).or_default().entry(url.clone()).or_default();
            match due.event {
                Event::Started => tracker.owed_completed = announce.left > 0,
                Event::Completed => tracker.owed_completed = false,
                _ => {}
            }
            tracker.tracker_id.clone()
        });
        let (shared, finds) = (self.shared.clone(), self.finds.clone());
        async move { (due, shared.announce(&url, &announce, tracker_id.as_deref(), Some(&finds)).await) }
    }

    async fn finish(&mut self, due: Due, result: Result<Answer, Failure>) {
        let now = self.shared.means.clock.now();
        let (url, info_hash) = (self.schedule.url(due.tracker).clone(), self.swarm.info.info_hashes.wire());
        match result {
            Ok(answer) => {
                self.schedule.answered(due.tracker, &answer, now);
                self.shared.with_known(|known| {
                    let known = known.entry(info_hash).or_default().entry(url).or_default();
                    known.answered = true;
                    known.tracker_id = answer.tracker_id.or(known.tracker_id.take());
                });
            }
            Err(failure) => {
                self.schedule.failed(due.tracker, failure.retry, now);
                self.shared.with_known(|known| {
                    let Some(trackers) = known.get_mut(&info_hash) else { return };
                    if trackers.get(&url).is_some_and(|tracker| !tracker.answered) {
                        trackers.remove(&url);
                    }
                    if trackers.is_empty() {
                        known.remove(&info_hash);
                    }
                });
                tracing::debug!(error = %failure.error, "announce failed");
                let _ = self.finds.send(Err(failure.error)).await;
            }
        }
    }

    /// Says once until when there is nothing to do.
    async fn rest(&mut self, wake: Moment) {
        if self.idle_until != Some(wake) {
            self.idle_until = Some(wake);
            let retry_at = (wake != Moment::NEVER).then_some(wake);
            let _ = self.finds.send(Ok(Found::Idle { retry_at })).await;
        }
    }
}
