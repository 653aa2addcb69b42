//! Peers that the user named: HOST:PORT, looked up and passed on. `tell` does it for the magnet plugin's `x.pe`, too.
//!
//! Each is told once, and again every three minutes while peers are wanted, since a peer may have come back or its name may
//! mean another address now. A name that does not resolve is tried again with growing pauses. The user's own word also
//! counts for a private torrent.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use castanet_core::{
    PluginName,
    addr::is_dialable,
    seams::{
        discovery::{
            Discovery, DiscoveryError, Found, FoundStream, PeerCandidate, Progress, Settings, Swarm, SwarmInfo,
        },
        means::Means,
    },
};
use castanet_protocol::tracker::plain;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::watch, time::sleep};

use crate::{
    announcer::resolve,
    driven::{Finds, driven},
};

/// The name under which it is registered.
pub const NAME: &str = "fixed";
/// How often a peer is told again while peers are wanted.
const AGAIN: Duration = Duration::from_secs(3 * 60);
/// How long to wait after a name did not resolve the first time, and at most.
const FIRST_BACK_OFF: Duration = Duration::from_secs(15);
const LAST_BACK_OFF: Duration = Duration::from_secs(30 * 60);
/// The most peers of one torrent.
pub(crate) const MOST_PEERS: usize = 1000;

/// Makes the plugin. It has no settings.
pub fn build(means: &Means, settings: &Settings) -> Result<Arc<dyn Discovery>, DiscoveryError> {
    crate::refuse_settings(NAME, settings)?;
    Ok(Arc::new(Fixed { means: means.clone() }))
}

#[derive(Debug)]
struct Fixed {
    means: Means,
}

#[async_trait]
impl Discovery for Fixed {
    fn name(&self) -> PluginName {
        NAME.into()
    }
    fn serves(&self, swarm: &SwarmInfo) -> bool {
        !swarm.peers.is_empty()
    }
    async fn discover(&self, swarm: Swarm) -> Result<FoundStream, DiscoveryError> {
        let means = self.means.clone();
        Ok(driven(async move |finds| {
            let peers = swarm.info.peers.iter().take(MOST_PEERS);
            let tell = |peer| tell(&means, peer, peer, swarm.progress.clone(), &finds);
            let mut tellers: FuturesUnordered<_> = peers.map(|peer| tell(peer.as_str())).collect();
            while tellers.next().await.is_some() {}
        }))
    }
}

/// Tells of one peer, HOST:PORT, as long as the torrent lives; `instance` is what it is called.
pub(crate) async fn tell(
    means: &Means,
    peer: &str,
    instance: &str,
    mut progress: watch::Receiver<Progress>,
    finds: &Finds,
) {
    let instance: Arc<str> = plain(instance.as_bytes()).into();
    let Some((host, port)) = split(peer) else {
        let _ = finds.send(Err(DiscoveryError::Unusable(format!("{instance} is not of the form HOST:PORT")))).await;
        return;
    };
    let mut back_off = FIRST_BACK_OFF;
    loop {
        let found = resolve(&*means.resolver, &means.bind, host, port).await.and_then(|found| {
            let found: Vec<_> = found.into_iter().filter(|addr| is_dialable(*addr)).collect();
            if found.is_empty() { Err("it has no address that can be dialled".to_owned()) } else { Ok(found) }
        });
        let pause = match found {
            Ok(found) => {
                let candidate = |addr| PeerCandidate { addr, peer_id: None, instance: instance.clone() };
                let _ = finds.send(Ok(Found::Peers(found.into_iter().map(candidate).collect()))).await;
                back_off = FIRST_BACK_OFF;
                AGAIN
            }
            Err(reason) => {
                let reason = plain(reason.as_bytes());
                let instance = instance.clone();
                let _ = finds.send(Err(DiscoveryError::Unreachable { instance, reason })).await;
                let pause = back_off;
                back_off = (back_off * 2).min(LAST_BACK_OFF);
                pause
            }
        };
        sleep(pause).await;
        // Rests while nobody is wanted; ends when the torrent is gone.
        let wanted = progress.wait_for(|progress| progress.wanted > 0).await.is_ok();
        if !wanted || progress.has_changed().is_err() {
            return;
        }
    }
}

/// `HOST:PORT`, where the host may be an IPv6 address in brackets.
pub(crate) fn split(peer: &str) -> Option<(&str, u16)> {
    let (host, port) = peer.trim().rsplit_once(':')?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty() && (bracketed || !host.contains(':'))).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use castanet_core::Moment;

    use super::*;
    use crate::testing::{Torrent, World};

    fn addrs(found: Option<Result<Found, DiscoveryError>>) -> Vec<String> {
        match found {
            Some(Ok(Found::Peers(peers))) => peers.iter().map(|peer| peer.addr.to_string()).collect(),
            other => panic!("no peers: {other:?}"),
        }
    }

    #[test]
    fn peers_as_people_write_them() {
        assert_eq!(split(" example.com:80 "), Some(("example.com", 80)));
        assert_eq!(split("[::1]:80"), Some(("[::1]", 80)));
        for bad in ["", ":", "x", "x:", ":80", "x:0", "x:99999", "::1:80", "[::1]"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn peers_are_told_again_while_they_are_wanted() {
        let world = World::new();
        let plugin = build(&world.means(), &Settings::default()).unwrap();
        let mut torrent = Torrent::new(&[]);
        torrent.info.peers = vec!["127.0.0.1:7".to_owned()].into();
        assert!(plugin.serves(&torrent.info));
        let (swarm, torrent) = torrent.swarm();
        let mut stream = plugin.discover(swarm).await.unwrap();
        assert_eq!(addrs(stream.next().await), ["127.0.0.1:7"]);
        assert_eq!(addrs(stream.next().await), ["127.0.0.1:7"]);
        assert_eq!(world.now(), Moment::ZERO + AGAIN);
        torrent.progress.send_modify(|progress| progress.wanted = 0);
        assert!(tokio::time::timeout(10 * AGAIN, stream.next()).await.is_err(), "it rests");
        torrent.progress.send_modify(|progress| progress.wanted = 1);
        assert_eq!(addrs(stream.next().await), ["127.0.0.1:7"]);
        drop(torrent);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_or_wrong_name_delays_nobody() {
        let world = World::new();
        world.silent_name("slow.test");
        world.name("good.test", &["127.0.0.2", "::1"]);
        let plugin = build(&world.means(), &Settings::default()).unwrap();
        let mut torrent = Torrent::new(&[]);
        let named = ["slow.test:1", "wrong.test:1", "no\u{1b}port", "0.0.0.0:1", "good.test:5"];
        torrent.info.peers = named.map(str::to_owned).to_vec().into();
        let (swarm, _torrent) = torrent.swarm();
        let stream = plugin.discover(swarm).await.unwrap();
        let (mut good, mut errors) = (Vec::new(), Vec::new());
        let mut stream = stream.take(5);
        while let Some(found) = stream.next().await {
            match found {
                Ok(found) => good = addrs(Some(Ok(found))),
                Err(error) => errors.push(error.to_string()),
            }
        }
        assert_eq!(good, ["127.0.0.2:5", "[::1]:5"]);
        assert_eq!(
            errors,
            [
                "wrong.test:1 cannot be reached: cannot resolve wrong.test: no such name",
                "no\\u{1b}port is not of the form HOST:PORT",
                "0.0.0.0:1 cannot be reached: it has no address that can be dialled",
                "wrong.test:1 cannot be reached: cannot resolve wrong.test: no such name",
            ]
        );
    }
}
