//! Finds other instances on this computer: whoever listens at one of the usual ports.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use castanet::{
    PluginName,
    seams::{
        discovery::{Discovery, DiscoveryError, Found, FoundStream, PeerCandidate, Settings, Swarm, SwarmInfo},
        means::Means,
    },
};
use futures_util::stream::unfold;

/// The name under which it is registered.
pub const NAME: &str = "neighbours";
/// How often the same ports are told again while peers are wanted.
const AGAIN: Duration = Duration::from_secs(60);

/// Makes the plugin.
pub fn build(_means: &Means, _settings: &Settings) -> Result<Arc<dyn Discovery>, DiscoveryError> {
    Ok(Arc::new(Neighbours))
}

#[derive(Debug)]
struct Neighbours;

#[async_trait]
impl Discovery for Neighbours {
    fn name(&self) -> PluginName {
        NAME.into()
    }
    fn serves(&self, swarm: &SwarmInfo) -> bool {
        !swarm.private
    }
    async fn discover(&self, swarm: Swarm) -> Result<FoundStream, DiscoveryError> {
        let ours = swarm.me.port;
        let candidate = |port| PeerCandidate {
            addr: SocketAddr::from(([127, 0, 0, 1], port)),
            peer_id: None,
            instance: NAME.into(),
        };
        let peers: Vec<_> = (6881..=6889).filter(|port| *port != ours).map(candidate).collect();
        Ok(Box::pin(unfold((swarm.progress, Duration::ZERO), move |(mut progress, pause)| {
            let peers = peers.clone();
            async move {
                tokio::time::sleep(pause).await;
                // Rests while nobody is wanted. An error means that the torrent is gone, and ends the stream.
                progress.wait_for(|progress| progress.wanted > 0).await.ok()?;
                progress.has_changed().ok()?;
                Some((Ok(Found::Peers(peers)), (progress, AGAIN)))
            }
        })))
    }
}
