//! A discovery plugin for Castanet. The contract: docs/ADD-A-PLUGIN.md of its sources.
//!
//! It knows the peers that its setting `peers` names, and tells a torrent of a few of them at a time while more are
//! wanted. It reads what became of them: whoever refuses again and again is not told any more.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use castanet::{
    PluginName,
    seams::{discovery::*, means::Means},
};
use futures_util::stream::unfold;
use tokio::time::{Instant, sleep_until};

/// The name under which it is registered.
pub const NAME: &str = "skeleton";
/// So many peers at a time, and so long until the next.
const FEW: usize = 3;
const PAUSE: Duration = Duration::from_secs(10);
/// Whoever refused so often is not told any more.
const ENOUGH: u32 = 3;

/// Makes the plugin. Its one setting is `peers`: ADDRESS:PORT, separated by spaces.
pub fn build(means: &Means, settings: &Settings) -> Result<Arc<dyn Discovery>, DiscoveryError> {
    let mut settings = settings.0.clone();
    let peers = settings.remove("peers").unwrap_or_default();
    if let Some(key) = settings.keys().next() {
        return Err(DiscoveryError::Unusable(format!("the plugin {NAME} has no setting {key}")));
    }
    let wrong = |word: &str| DiscoveryError::Unusable(format!("{NAME}: {word:?} is not ADDRESS:PORT"));
    let peer = |word: &str| word.parse().map(|addr| (addr, 0)).map_err(|_| wrong(word));
    let known = peers.split_whitespace().map(peer).collect::<Result<_, _>>()?;
    // No dice of its own: a run of the lab is repeated by its seed.
    Ok(Arc::new(Plugin { known, dice: fastrand::Rng::with_seed(means.seed) }))
}

#[derive(Debug, Clone)]
struct Plugin {
    /// Peers, and how often each has refused.
    known: BTreeMap<SocketAddr, u32>,
    dice: fastrand::Rng,
}

#[async_trait]
impl Discovery for Plugin {
    fn name(&self) -> PluginName {
        NAME.into()
    }
    fn serves(&self, swarm: &SwarmInfo) -> bool {
        !swarm.private
    }
    /// Each torrent has a copy of its own. The stream is all the work: the engine drops it to stop it.
    async fn discover(&self, swarm: Swarm) -> Result<FoundStream, DiscoveryError> {
        Ok(Box::pin(unfold((self.clone(), swarm, Instant::now()), async |(mut plugin, mut swarm, mut due)| {
            let peers = plugin.next(&mut swarm, &mut due).await?;
            Some((Ok(Found::Peers(peers)), (plugin, swarm, due)))
        })))
    }
}

impl Plugin {
    /// The next few peers; `None` once the torrent is gone.
    async fn next(&mut self, swarm: &mut Swarm, due: &mut Instant) -> Option<Vec<PeerCandidate>> {
        let Swarm { progress, events, .. } = swarm;
        loop {
            // Nobody is wanted at first, while files are checked. Errors mean that the torrent is gone.
            let turn = async {
                sleep_until(*due).await;
                progress.wait_for(|progress| progress.wanted > 0).await.ok()?;
                progress.has_changed().ok()
            };
            // Without `biased` tokio has dice of its own here.
            tokio::select! {
                biased;
                Some(event) = events.recv() => self.learn(&event),
                is_there = turn => {
                    is_there?;
                    *due = Instant::now() + PAUSE;
                    let willing = self.known.iter().filter(|(_, refusals)| **refusals < ENOUGH).map(|(addr, _)| *addr);
                    let few = self.dice.choose_multiple(willing, FEW).into_iter();
                    let candidate = |addr| PeerCandidate { addr, peer_id: None, instance: NAME.into() };
                    if few.len() > 0 {
                        return Some(few.map(candidate).collect());
                    }
                }
            }
        }
    }

    /// Of what became of those that it named: `overhears` (a method of `Discovery`) would bring the others, too.
    fn learn(&mut self, event: &SwarmEvent) {
        let SwarmEvent::Outcome(outcome) = event else { return };
        match (self.known.get_mut(&outcome.addr), outcome.fate) {
            (Some(refusals), PeerFate::Refused) => *refusals += 1,
            (Some(refusals), PeerFate::Handshaken) => *refusals = 0,
            _ => {}
        }
    }
}
