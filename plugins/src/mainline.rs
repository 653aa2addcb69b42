//! A second DHT (BEP 5), on the crate `mainline`: off unless it is asked for, and the proof that the seam takes other
//! people's nodes.
//!
//! The node is that crate's: a socket and a thread of its own, IPv4 only, and the system's clock. So it is not for
//! simulations, proxies or a bound interface; it starts with the first torrent, stays on loopback if the session does,
//! and ends when the plugin and its streams are gone. Nodes that a torrent or peers name cannot be given to it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use castanet_core::{
    Moment, PluginName,
    addr::is_dialable,
    seams::{
        discovery::{
            Discovery, DiscoveryError, Found, FoundStream, Milestone, PeerCandidate, Settings, Swarm, SwarmEvent,
            SwarmInfo,
        },
        means::Means,
    },
};
use castanet_protocol::tracker::plain;
use futures_util::{StreamExt, future::join_all};
use mainline::{DEFAULT_BOOTSTRAP_NODES, Dht, Id, async_dht::AsyncDht};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use crate::{
    announcer::resolve,
    driven::{Finds, driven},
    fixed::split,
};

/// The name under which it is registered.
pub const NAME: &str = "mainline";
/// How long after the first look-up the next one comes while peers are wanted; it doubles up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(15);
const LAST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// How often nodes are told that we are there: they forget it after half an hour.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(15 * 60);
/// How long a look-up or an announce may take: a dozen hops of two seconds each are far too many.
const LIMIT: Duration = Duration::from_secs(60);
/// The most peers that are believed from one look-up, and the most bootstrap nodes.
const MOST_PEERS: usize = 2000;
const MOST_BOOTSTRAP: usize = 100;

/// Makes the plugin. Nothing is opened before the first torrent.
///
/// Settings: `bootstrap` (HOST:PORT, separated by commas, instead of the well-known nodes) and `bind` (an IPv4 address
/// instead of the one that the session listens on).
///
/// # Errors
/// If a setting is unknown or cannot be understood.
pub fn build(means: &Means, settings: &Settings) -> Result<Arc<dyn Discovery>, DiscoveryError> {
    let unusable = |text: String| Err(DiscoveryError::Unusable(text));
    let (mut bootstrap, mut bind) = (Vec::new(), None);
    for (key, value) in &settings.0 {
        let shown = plain(value.as_bytes());
        match key.as_str() {
            "bootstrap" => {
                bootstrap =
                    value.split(',').map(|node| node.trim().to_owned()).filter(|node| !node.is_empty()).collect();
                if bootstrap.len() > MOST_BOOTSTRAP {
                    return unusable(format!("{NAME}: more than {MOST_BOOTSTRAP} bootstrap nodes"));
                }
                if bootstrap.iter().any(|node| split(node).is_none()) {
                    return unusable(format!("{NAME}: bootstrap={shown} is not a list of HOST:PORT"));
                }
            }
            "bind" => match value.trim().parse::<Ipv4Addr>() {
                Ok(ip) => bind = Some(ip),
                Err(_) => return unusable(format!("{NAME}: bind={shown} is no IPv4 address")),
            },
            key => return unusable(format!("the plugin {NAME} has no setting {}", plain(key.as_bytes()))),
        }
    }
    Ok(Arc::new(Mainline(Arc::new(Shared { means: means.clone(), bootstrap, bind, node: Mutex::default() }))))
}

#[derive(Debug)]
struct Mainline(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    means: Means,
    bootstrap: Vec<String>,
    bind: Option<Ipv4Addr>,
    /// Its thread ends when the last copy of this handle is dropped.
    node: Mutex<Option<AsyncDht>>,
}

#[async_trait]
impl Discovery for Mainline {
    fn name(&self) -> PluginName {
        NAME.into()
    }
    fn serves(&self, swarm: &SwarmInfo) -> bool {
        !swarm.private
    }
    async fn discover(&self, swarm: Swarm) -> Result<FoundStream, DiscoveryError> {
        let shared = self.0.clone();
        Ok(driven(async move |finds| {
            if !swarm.info.private {
                let target = Id::from(swarm.info.info_hashes.wire());
                Work { shared, target, swarm, finds, announced: None, answered: false }.run().await;
            }
        }))
    }
}

fn unreachable(reason: impl ToString) -> DiscoveryError {
    DiscoveryError::Unreachable { instance: "the DHT".into(), reason: plain(reason.to_string().as_bytes()) }
}

impl Shared {
    /// The node, which is started by whoever asks first.
    async fn node(&self, finds: &Finds) -> Result<AsyncDht, DiscoveryError> {
        let mut node = self.node.lock().await;
        if let Some(node) = &*node {
            return Ok(node.clone());
        }
        let bind = self.address()?;
        let nodes = self.nodes(bind).await?;
        let _ = finds.send(Ok(Found::Reached(Milestone::NamesResolved))).await;
        // Any port: the usual one may be the session's.
        let dht = Dht::builder().bind_address(bind).port(0).bootstrap(&nodes).build();
        let dht = dht.map_err(|error| unreachable(format!("{bind} cannot be bound: {error}")))?.as_async();
        Ok(node.insert(dht).clone())
    }

    /// Where the node binds: where the session listens, so that what it announces can be dialled.
    fn address(&self) -> Result<Ipv4Addr, DiscoveryError> {
        if let Some(bind) = self.bind {
            return Ok(bind);
        }
        let listening = self.means.listening();
        let v4 = |addr: &SocketAddr| match addr.ip() {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        };
        let ours = listening.iter().chain(&self.means.bind).find_map(v4);
        if is_local(&listening) {
            return Ok(ours.filter(Ipv4Addr::is_loopback).unwrap_or(Ipv4Addr::LOCALHOST));
        }
        ours.ok_or_else(|| DiscoveryError::Unusable(format!("the plugin {NAME} needs IPv4")))
    }

    /// Where it joins. One that listens only for this machine does not talk to the world.
    async fn nodes(&self, bind: Ipv4Addr) -> Result<Vec<SocketAddrV4>, DiscoveryError> {
        let ours = self.bootstrap.iter().map(String::as_str);
        let well_known = DEFAULT_BOOTSTRAP_NODES.into_iter();
        let names: Vec<_> = match self.bootstrap.is_empty() {
            true if is_local(&self.means.listening()) || bind.is_loopback() => {
                let reason = "on loopback it joins only nodes that its setting `bootstrap` names, which is empty";
                return Err(DiscoveryError::Unusable(format!("the plugin {NAME} finds nobody: {reason}")));
            }
            true => well_known.collect(),
            false => ours.collect(),
        };
        let means = &self.means;
        let v4 = [SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))];
        let found = join_all(
            names
                .iter()
                .filter_map(|name| split(name))
                .map(async |(host, port)| resolve(&*means.resolver, &v4, host, port).await),
        );
        let (mut nodes, mut trouble) = (Vec::new(), "no bootstrap node has an IPv4 address".to_owned());
        for found in found.await {
            match found {
                Ok(found) => nodes.extend(found.into_iter().filter_map(|addr| match addr {
                    SocketAddr::V4(addr) if is_dialable(addr.into()) => Some(addr),
                    _ => None,
                })),
                Err(reason) => trouble = reason,
            }
        }
        nodes.truncate(MOST_BOOTSTRAP);
        if nodes.is_empty() { Err(unreachable(trouble)) } else { Ok(nodes) }
    }
}

fn is_local(listening: &[SocketAddr]) -> bool {
    !listening.is_empty() && listening.iter().all(|addr| addr.ip().is_loopback())
}

/// The work for one torrent.
struct Work {
    shared: Arc<Shared>,
    target: Id,
    swarm: Swarm,
    finds: Finds,
    announced: Option<Moment>,
    /// Somebody named a peer.
    answered: bool,
}

impl Work {
    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let needed = self.swarm.me.port != 0 || self.swarm.progress.borrow().wanted > 0;
            if needed && let Err(error) = self.look().await {
                let _ = self.finds.send(Err(error)).await;
            }
            match self.rest(pause).await {
                Wake::Again => pause = (2 * pause).min(LAST_PAUSE),
                Wake::Changed => (pause, self.announced) = (FIRST_PAUSE, None),
                Wake::Gone => return,
            }
        }
    }

    /// One look-up, with an announce to the nodes that answered if it is time for one.
    async fn look(&mut self) -> Result<(), DiscoveryError> {
        let node = self.shared.node(&self.finds).await?;
        let mut told = BTreeSet::new();
        let mut peers = node.get_peers(self.target);
        let read = async {
            while let Some(peers) = peers.next().await {
                let mut new: Vec<_> = peers.into_iter().filter(|addr| is_dialable((*addr).into())).collect();
                new.truncate(MOST_PEERS - told.len());
                new.retain(|addr| told.insert(*addr));
                if !new.is_empty() {
                    self.tell(new).await;
                }
            }
        };
        let complete = timeout(LIMIT, read).await.is_ok();
        let known = node.to_bootstrap().await.len();
        if known == 0 {
            return Err(unreachable("no node answers"));
        }
        let now = self.shared.means.clock.now();
        let due = self.announced.is_none_or(|then| now.since(then) >= ANNOUNCE_AGAIN);
        let mut announced = Ok(());
        if self.swarm.me.port != 0 && due && complete {
            let announce = node.announce_peer(self.target, Some(self.swarm.me.port));
            announced = match timeout(LIMIT, announce).await {
                Ok(Ok(_)) => {
                    self.announced = Some(now);
                    Ok(())
                }
                Ok(Err(error)) => Err(unreachable(format!("nobody took our announce: {error}"))),
                Err(_) => Err(unreachable("nobody took our announce in time")),
            };
        }
        let also = if self.announced.is_some() { " and is announced" } else { "" };
        let _ = self.finds.send(Ok(Found::Condition(format!("knows {known} nodes{also}")))).await;
        announced
    }

    async fn tell(&mut self, peers: Vec<SocketAddrV4>) {
        if !std::mem::replace(&mut self.answered, true) {
            let _ = self.finds.send(Ok(Found::Reached(Milestone::LookedUp))).await;
        }
        let candidate = |addr: SocketAddrV4| PeerCandidate { addr: addr.into(), peer_id: None, instance: NAME.into() };
        let _ = self.finds.send(Ok(Found::Peers(peers.into_iter().map(candidate).collect()))).await;
    }

    /// Waits until peers are wanted again, but at least for `pause`; or until it is time to announce.
    async fn rest(&mut self, pause: Duration) -> Wake {
        let (port, progress) = (self.swarm.me.port, &mut self.swarm.progress);
        let mut watched = progress.clone();
        let until_announce = if self.announced.is_some() { ANNOUNCE_AGAIN } else { pause };
        let announce = async {
            match port {
                0 => std::future::pending().await,
                _ => sleep(until_announce).await,
            }
        };
        let wanted = async {
            sleep(pause).await;
            progress.wait_for(|progress| progress.wanted > 0).await.map_or(Wake::Gone, |_| Wake::Again)
        };
        let changed = async {
            while let Some(event) = self.swarm.events.recv().await {
                if event == SwarmEvent::NetworkChanged {
                    return;
                }
            }
            std::future::pending().await
        };
        tokio::select! {
            biased;
            () = async { while watched.changed().await.is_ok() {} } => Wake::Gone,
            () = changed => Wake::Changed,
            wake = wanted => wake,
            () = announce => Wake::Again,
        }
    }
}

/// Why a rest ended.
enum Wake {
    Again,
    /// The network is another one: what was said must be said again.
    Changed,
    /// The torrent is gone.
    Gone,
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use mainline::Testnet;

    use super::*;
    use crate::testing::{Engine, Torrent, World};

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings(pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect())
    }

    fn on_loopback() -> Means {
        let means = World::new().means();
        *means.listening.write().unwrap() = vec!["127.0.0.1:1".parse().unwrap()];
        means
    }

    /// Like [`build`], with the inside in view.
    fn plugin(bootstrap: &[String]) -> Mainline {
        let (means, bootstrap) = (on_loopback(), bootstrap.to_vec());
        Mainline(Arc::new(Shared { means, bootstrap, bind: None, node: Mutex::default() }))
    }

    async fn with(plugin: &Mainline, port: u16, wanted: usize) -> (FoundStream, Engine) {
        let mut torrent = Torrent::new(&[]);
        (torrent.me.port, torrent.progress.wanted) = (port, wanted);
        let (swarm, engine) = torrent.swarm();
        (plugin.discover(swarm).await.unwrap(), engine)
    }

    #[tokio::test]
    async fn one_finds_the_other_and_the_thread_ends_with_the_plugin() {
        let testnet = Testnet::builder(5).seeded(false).build().unwrap();
        let (seed, leech) = (plugin(&testnet.bootstrap), plugin(&testnet.bootstrap));
        let (mut seeding, _one) = with(&seed, 7001, 0).await;
        loop {
            match seeding.next().await.unwrap() {
                Ok(Found::Condition(text)) => break assert!(text.ends_with("nodes and is announced"), "{text}"),
                Ok(Found::Reached(Milestone::NamesResolved)) => {}
                other => panic!("{other:?}"),
            }
        }
        let (mut looking, _two) = with(&leech, 0, 1).await;
        let (mut peers, mut stations) = (Vec::new(), Vec::new());
        loop {
            match looking.next().await.unwrap() {
                Ok(Found::Peers(found)) => peers.extend(found),
                Ok(Found::Reached(station)) => stations.push(station),
                Ok(Found::Condition(text)) => break assert!(text.ends_with("nodes"), "{text}"),
                other => panic!("{other:?}"),
            }
        }
        let only = PeerCandidate { addr: "127.0.0.1:7001".parse().unwrap(), peer_id: None, instance: NAME.into() };
        assert_eq!(peers, [only], "once, though many nodes name it");
        assert_eq!(stations, [Milestone::NamesResolved, Milestone::LookedUp]);

        let node = leech.0.node.lock().await.clone().unwrap();
        let bound = node.info().await.local_addr();
        assert!(UdpSocket::bind(bound).is_err(), "it is in use, on loopback: {bound}");
        drop((looking, leech, node));
        while UdpSocket::bind(bound).is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn nobody_there_is_said_in_words() {
        // Bound and silent.
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let bootstrap = [silent.local_addr().unwrap().to_string()];
        let plugin = plugin(&bootstrap);
        let (mut stream, _engine) = with(&plugin, 0, 1).await;
        assert!(matches!(stream.next().await, Some(Ok(Found::Reached(Milestone::NamesResolved)))));
        let error = stream.next().await.unwrap().unwrap_err().to_string();
        assert_eq!(error, "the DHT cannot be reached: no node answers");
    }

    #[tokio::test(start_paused = true)]
    async fn on_loopback_it_does_not_talk_to_the_world() {
        for means in [on_loopback(), World::new().means()] {
            let plugin = build(&means, &settings(&[("bind", "127.0.0.1")])).unwrap();
            let (swarm, engine) = Torrent::new(&[]).swarm();
            let mut stream = plugin.discover(swarm).await.unwrap();
            let error = stream.next().await.unwrap().unwrap_err().to_string();
            assert!(error.contains("its setting `bootstrap` names"), "{error}");
            drop(engine);
            assert!(stream.next().await.is_none(), "it ends with the torrent");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_rests_while_there_is_nothing_to_do() {
        let world = World::new();
        let shared =
            Shared { means: world.means(), bootstrap: vec!["wrong.test:1".into()], bind: None, node: Mutex::default() };
        let plugin = Mainline(Arc::new(shared));
        let (mut stream, engine) = with(&plugin, 0, 0).await;
        assert!(timeout(10 * LAST_PAUSE, stream.next()).await.is_err(), "nobody is wanted, and we do not listen");
        engine.progress.send_modify(|progress| progress.wanted = 1);
        let error = stream.next().await.unwrap().unwrap_err().to_string();
        assert_eq!(error, "the DHT cannot be reached: cannot resolve wrong.test: no such name");
        assert!(plugin.0.node.lock().await.is_none(), "no socket without a name");
        engine.events.send(SwarmEvent::NetworkChanged).await.unwrap();
        let now = world.now();
        assert!(stream.next().await.unwrap().is_err());
        assert_eq!(world.now(), now, "another network: at once");

        let (mut seeding, _engine) = with(&plugin, 7001, 0).await;
        for pause in [Duration::ZERO, FIRST_PAUSE, 2 * FIRST_PAUSE] {
            let start = world.now();
            assert!(seeding.next().await.unwrap().is_err());
            assert_eq!(world.now(), start + pause, "until nodes know of us");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn settings_and_private_torrents() {
        let means = on_loopback();
        for (key, value, error) in [
            ("bootstrap", "a:1,b", "mainline: bootstrap=a:1,b is not a list of HOST:PORT"),
            ("bind", "::1", "mainline: bind=::1 is no IPv4 address"),
            ("port", "1", "the plugin mainline has no setting port"),
        ] {
            assert_eq!(build(&means, &settings(&[(key, value)])).unwrap_err().to_string(), error);
        }
        let plugin = build(&means, &settings(&[("bootstrap", " a:1, [::1]:2 ,"), ("bind", "127.0.0.5")])).unwrap();
        let mut info = Torrent::new(&[]).info;
        assert!(plugin.serves(&info));
        info.private = true;
        assert!(!plugin.serves(&info));
    }
}
