//! What the HTTP and the UDP tracker plugin have in common: for each torrent, follow its schedule, ask the trackers
//! that are due over each address family we have (BEP 7) and by each of its names (BEP 52), and pass on what they say.
//!
//! Every announce is a future of its own, so one slow name or tracker delays no other; `work` has the loop that holds
//! them. How a single question travels is behind [`Ask`]. Whom to tell `stopped` is remembered here, since that comes
//! after the stream is gone.

mod report;
mod target;
#[cfg(test)]
mod tests;
mod work;

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use castanet_core::{
    PluginName,
    seams::{
        discovery::{Discovery, DiscoveryError, FoundStream, Me, Milestone, Progress, Swarm, SwarmInfo, SwarmSize},
        means::Means,
    },
};
use castanet_protocol::tracker::{Announce, Answer, AnswerError, Event, Retry, plain};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::timeout;

pub(crate) use self::target::{Family, Target, resolve};
use self::{report::Reporter, target::instance, work::Work};
use crate::driven::driven;

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
    /// The name of the plugin.
    const NAME: &'static str;
    /// The schemes of its URLs.
    const SCHEMES: &'static [&'static str];

    /// Announces once, at one of `addresses`, which are all of one family. Takes a bounded time.
    async fn ask(
        &self,
        target: &Target,
        addresses: &[SocketAddr],
        announce: &Announce,
        tracker_id: Option<&[u8]>,
    ) -> Result<Answer, Failure>;

    /// Can this tracker be scraped?
    fn scrapes(&self, target: &Target) -> bool;

    /// Asks once for the numbers of the torrent with these names. Takes a bounded time.
    async fn scrape(
        &self,
        target: &Target,
        addresses: &[SocketAddr],
        names: &[[u8; 20]],
    ) -> Result<Option<SwarmSize>, Failure>;
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
}

#[async_trait]
impl<A: Ask> Discovery for Announcer<A> {
    fn name(&self) -> PluginName {
        A::NAME.into()
    }

    fn serves(&self, swarm: &SwarmInfo) -> bool {
        swarm.trackers.iter().flatten().any(|url| serves::<A>(url))
    }

    async fn discover(&self, swarm: Swarm) -> Result<FoundStream, DiscoveryError> {
        let shared = self.shared.clone();
        Ok(driven(|finds| Work::new(shared, swarm, finds).run()))
    }

    /// Tells all trackers that know of us at the same time; the first failure is reported. Who leaves in the moment of
    /// completion has not said so yet, and does it here.
    async fn leave(&self, swarm: SwarmInfo, me: Me, last: Progress, within: Duration) -> Result<(), DiscoveryError> {
        let stopped = Announce::all(&swarm, &me, &last, Event::Stopped);
        let completed = Announce::all(&swarm, &me, &last, Event::Completed);
        let trackers = self.shared.with_known(|known| known.remove(&swarm.info_hashes.wire())).unwrap_or_default();
        let mut farewells: FuturesUnordered<_> = trackers
            .iter()
            .map(async |(url, known)| {
                let farewell = async {
                    let say = |announces| self.shared.announce(url, announces, known.tracker_id.as_deref(), None);
                    if known.answered && known.owed_completed && last.left == Some(0) {
                        say(&completed).await?;
                    }
                    say(&stopped).await
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

impl<A: Ask> Shared<A> {
    fn with_known<R>(&self, f: impl FnOnce(&mut Known) -> R) -> R {
        f(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Announces each name of a torrent over every family that both the tracker and we have, at once. One success is a
    /// success, with the largest numbers of all. What else is said is reported as soon as it is there.
    async fn announce(
        &self,
        url: &str,
        announces: &[Announce],
        tracker_id: Option<&[u8]>,
        reporter: Option<&Reporter>,
    ) -> Result<Answer, Failure> {
        let target = Target::parse(url)?;
        let families = target.addresses(&self.means).await?;
        if let Some(reporter) = reporter {
            reporter.reached(Milestone::NamesResolved).await;
        }
        // Who sees us by our router's address is told the port that the router has opened.
        let told = |addresses: &[SocketAddr], announce: &Announce| {
            let port = addresses.first().map(|addr| self.means.port_for(addr.ip(), announce.port));
            Announce { port: port.unwrap_or(announce.port), ..announce.clone() }
        };
        let questions: Vec<_> = families
            .iter()
            .flat_map(|addresses| announces.iter().map(move |announce| (addresses, told(addresses, announce))))
            .collect();
        let mut asked: FuturesUnordered<_> = questions
            .iter()
            .map(|(addresses, announce)| self.ask.ask(&target, addresses, announce, tracker_id))
            .collect();
        let (mut success, mut failure): (Option<Answer>, _) = (None, None);
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(mut answer) => {
                    if let Some(reporter) = reporter {
                        reporter.answered(&target, &mut answer).await;
                    }
                    match &mut success {
                        Some(success) => {
                            success.seeds = success.seeds.max(answer.seeds);
                            success.leeches = success.leeches.max(answer.leeches);
                        }
                        None => success = Some(answer),
                    }
                }
                Err(other) => failure = failure.or(Some(other)),
            }
        }
        match (success, failure) {
            (Some(answer), _) => Ok(answer),
            (None, failure) => Err(failure.unwrap_or_else(|| Failure::unreachable(&target, "the torrent has no name"))),
        }
    }

    /// Asks for the numbers of a torrent, over one family; `None` if the tracker has none.
    async fn scrape(&self, url: &str, names: &[[u8; 20]]) -> Result<Option<SwarmSize>, Failure> {
        let target = Target::parse(url)?;
        if !self.ask.scrapes(&target) {
            return Ok(None);
        }
        let families = target.addresses(&self.means).await?;
        self.ask.scrape(&target, &families[0], names).await
    }
}
