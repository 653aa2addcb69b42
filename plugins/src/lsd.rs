//! Peers in the local network, by multicast (BEP 14).
//!
//! What is said and believed is decided by `castanet_protocol::lsd`; this file carries it. One socket for each group and
//! interface serves all torrents, in the plugin's [`run`](Discovery::run), and is open only while there is a torrent. A
//! group that cannot be joined or spoken to is named in the condition, the other one goes on, and it is tried again
//! later. Never for private torrents (BEP 27).

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use castanet_core::{
    Moment, PluginName,
    addr::canonical,
    seams::{
        datagrams::Datagrams,
        discovery::{Discovery, DiscoveryError, Found, FoundStream, News, PeerCandidate, Settings, Swarm, SwarmInfo},
        means::Means,
    },
};
use castanet_protocol::{
    lsd::{GROUP_V4, GROUP_V6, LARGEST_DATAGRAM, Lsd, Neighbour},
    tracker::plain,
};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{sync::Notify, time::sleep};

use crate::driven::{Finds, driven};

/// The name under which it is registered.
pub const NAME: &str = "lsd";
/// The most interfaces that are joined, of those that the session listens on.
const MOST_INTERFACES: usize = 8;
/// How soon a group that failed is tried again.
const AGAIN: Duration = Duration::from_secs(5 * 60);

/// Makes the plugin. It has no settings.
pub fn build(means: &Means, settings: &Settings) -> Result<Arc<dyn Discovery>, DiscoveryError> {
    crate::refuse_settings(NAME, settings)?;
    let state = State { lsd: Lsd::new(means.seed), readers: BTreeMap::new(), last: 0, report: None, moved: false };
    let shared = Shared { means: means.clone(), state: Mutex::new(state), wake: Notify::new() };
    Ok(Arc::new(Local(Arc::new(shared))))
}

#[derive(Debug)]
struct Local(Arc<Shared>);

#[async_trait]
impl Discovery for Local {
    fn name(&self) -> PluginName {
        NAME.into()
    }
    fn serves(&self, swarm: &SwarmInfo) -> bool {
        !swarm.private
    }
    async fn discover(&self, swarm: Swarm) -> Result<FoundStream, DiscoveryError> {
        let shared = self.0.clone();
        Ok(driven(async move |finds| {
            let mut progress = swarm.progress;
            if !swarm.info.private {
                let names = swarm.info.info_hashes.wires();
                let register = |name| Registered::new(shared.clone(), name, swarm.me.port, finds.clone());
                let _registered: Vec<_> = names.map(register).collect();
                while progress.changed().await.is_ok() {}
            }
        }))
    }
    async fn run(&self) {
        loop {
            while !self.0.with(|state| state.has_work()) {
                self.0.wake.notified().await;
            }
            self.0.serve().await;
        }
    }
    fn hear(&self, news: &News) {
        if *news == News::NetworkChanged {
            let now = self.0.means.clock.now();
            self.0.with(|state| {
                state.lsd.network_changed(now);
                state.moved = true;
            });
            self.0.wake.notify_one();
        }
    }
}

/// The place of a torrent, or of one name of a hybrid (BEP 52), among those that are served, until it is dropped.
struct Registered {
    shared: Arc<Shared>,
    info_hash: [u8; 20],
    number: u64,
}

impl Registered {
    fn new(shared: Arc<Shared>, info_hash: [u8; 20], port: u16, finds: Finds) -> Self {
        let now = shared.means.clock.now();
        let number = shared.with(|state| {
            state.last += 1;
            if let Some(report) = &state.report {
                let _ = finds.try_send(report.clone());
            }
            state.lsd.watch(info_hash, port, now);
            state.readers.insert(info_hash, (state.last, finds));
            state.last
        });
        shared.wake.notify_one();
        Self { shared, info_hash, number }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.with(|state| {
            // Another stream may have taken its place.
            if state.readers.get(&self.info_hash).is_some_and(|(number, _)| *number == self.number) {
                state.readers.remove(&self.info_hash);
                state.lsd.unwatch(&self.info_hash);
            }
        });
        self.shared.wake.notify_one();
    }
}

#[derive(Debug)]
struct Shared {
    means: Means,
    state: Mutex<State>,
    /// A torrent came or went, or the network changed.
    wake: Notify,
}

#[derive(Debug)]
struct State {
    lsd: Lsd,
    /// Who is told, by torrent; numbered.
    readers: BTreeMap<[u8; 20], (u64, Finds)>,
    last: u64,
    /// How it goes, as it was last said.
    report: Option<Result<Found, DiscoveryError>>,
    /// The network is another one: the groups must be joined again.
    moved: bool,
}

impl State {
    fn has_work(&self) -> bool {
        !self.readers.is_empty()
    }

    /// Who does not read in time hears it another time: it must not hold up the others.
    fn tell(&self, instance: &Arc<str>, neighbours: Vec<Neighbour>) {
        for Neighbour { info_hash, addr } in neighbours {
            if let Some((_, finds)) = self.readers.get(&info_hash) {
                let peer = PeerCandidate { addr, peer_id: None, instance: instance.clone() };
                let _ = finds.try_send(Ok(Found::Peers(vec![peer])));
            }
        }
    }

    /// Says how it goes, if that is new.
    fn report(&mut self, report: Result<Found, DiscoveryError>) {
        let text = |report: &Result<Found, DiscoveryError>| format!("{report:?}");
        if self.report.as_ref().is_none_or(|last| text(last) != text(&report)) {
            self.readers.values().for_each(|(_, finds)| drop(finds.try_send(report.clone())));
            self.report = Some(report);
        }
    }
}

/// A socket that has joined a group.
struct Joined {
    group: SocketAddr,
    datagrams: Arc<dyn Datagrams>,
    /// As users are told of it.
    instance: Arc<str>,
}

/// What a socket heard, or why it hears no more.
type Received = (Arc<Joined>, Vec<u8>, io::Result<(usize, SocketAddr)>);

fn receive(joined: Arc<Joined>, mut buffer: Vec<u8>) -> BoxFuture<'static, Received> {
    Box::pin(async move {
        buffer.resize(LARGEST_DATAGRAM, 0);
        let received = joined.datagrams.recv_from(&mut buffer).await;
        (joined, buffer, received)
    })
}

impl Shared {
    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Joins the groups and speaks and listens until there is no torrent, or until they shall be joined again.
    async fn serve(&self) {
        let mut trouble = BTreeMap::new();
        self.with(|state| state.moved = false);
        let joined = self.join(&mut trouble).await;
        self.report(&joined, &trouble);
        let mut receiving: FuturesUnordered<_> =
            joined.iter().map(|joined| receive(joined.clone(), Vec::new())).collect();
        let opened = self.means.clock.now();
        loop {
            while let Some(search) = self.with(|state| state.lsd.poll(self.means.clock.now())) {
                for Joined { group, datagrams, instance } in joined.iter().map(|joined| &**joined) {
                    if let Err(error) = datagrams.send_to(&search.encode(*group), *group).await {
                        trouble.insert(instance.clone(), format!("cannot speak: {error}"));
                    }
                }
                self.report(&joined, &trouble);
            }
            let now = self.means.clock.now();
            let again = if trouble.is_empty() { Moment::NEVER } else { opened + AGAIN };
            let (over, deadline) = self.with(|state| (state.moved || !state.has_work(), state.lsd.deadline()));
            if over || now >= again {
                return;
            }
            let deadline = if joined.is_empty() { again } else { deadline.min(again) };
            tokio::select! {
                biased;
                () = self.wake.notified() => {}
                () = sleep(deadline.since(now)), if deadline != Moment::NEVER => {}
                Some((joined, buffer, received)) = receiving.next() => match received {
                    Ok((length, from)) => {
                        self.heard(&joined, &buffer[..length.min(LARGEST_DATAGRAM)], from);
                        receiving.push(receive(joined, buffer));
                    }
                    Err(error) => {
                        trouble.insert(joined.instance.clone(), format!("cannot listen: {error}"));
                    }
                },
            }
            self.report(&joined, &trouble);
        }
    }

    fn heard(&self, joined: &Joined, datagram: &[u8], from: SocketAddr) {
        let from = canonical(from);
        let now = self.means.clock.now();
        self.with(|state| {
            let neighbours = state.lsd.handle(datagram, from, now);
            state.tell(&joined.instance, neighbours);
        });
    }

    /// On each address that the session listens on, or where it binds if it does not listen.
    async fn join(&self, trouble: &mut BTreeMap<Arc<str>, String>) -> Vec<Arc<Joined>> {
        let listening = self.means.listening();
        let addresses = if listening.is_empty() { &self.means.bind } else { &listening };
        let mut interfaces: Vec<_> = addresses.iter().map(|addr| addr.ip().to_canonical()).collect();
        interfaces.sort();
        interfaces.dedup();
        interfaces.truncate(MOST_INTERFACES);
        let mut joined = Vec::new();
        for interface in interfaces {
            let group = if interface.is_ipv4() { GROUP_V4 } else { GROUP_V6 };
            let instance = name(interface);
            match self.means.datagrams.join(group, interface).await {
                Ok(datagrams) => joined.push(Arc::new(Joined { group, datagrams, instance })),
                Err(error) => drop(trouble.insert(instance, format!("cannot listen: {error}"))),
            }
        }
        joined
    }

    fn report(&self, joined: &[Arc<Joined>], trouble: &BTreeMap<Arc<str>, String>) {
        let reasons: Vec<_> = trouble.iter().map(|(instance, reason)| format!("{instance} {reason}")).collect();
        let reasons = plain(reasons.join("; ").as_bytes());
        let well: Vec<_> =
            joined.iter().map(|joined| &*joined.instance).filter(|one| !trouble.contains_key(*one)).collect();
        let report = match (well.is_empty(), reasons.is_empty()) {
            (true, _) => Err(DiscoveryError::Unreachable { instance: "the local network".into(), reason: reasons }),
            (false, true) => Ok(Found::Condition(format!("listens by {}", well.join(", ")))),
            (false, false) => Ok(Found::Condition(format!("listens by {}; {reasons}", well.join(", ")))),
        };
        self.with(|state| state.report(report));
    }
}

/// `IPv4`, or `IPv4 on 192.168.1.2`.
fn name(interface: IpAddr) -> Arc<str> {
    let family = if interface.is_ipv4() { "IPv4" } else { "IPv6" };
    if interface.is_unspecified() { family.into() } else { format!("{family} on {interface}").into() }
}

#[cfg(test)]
mod tests {
    use castanet_core::InfoHashV2;
    use castanet_protocol::lsd::Search;
    use tokio::select;

    use super::*;
    use crate::testing::{Engine, Torrent, World};

    /// A plugin whose session listens on these addresses.
    fn plugin(world: &World, seed: u64, listening: &[&str]) -> Arc<dyn Discovery> {
        let means = Means { seed, ..world.means() };
        *means.listening.write().unwrap() = listening.iter().map(|addr| addr.parse().unwrap()).collect();
        build(&means, &Settings::default()).unwrap()
    }
    async fn with(plugin: &Arc<dyn Discovery>, port: u16) -> (FoundStream, Engine) {
        let mut torrent = Torrent::new(&[]);
        torrent.me.port = port;
        let (swarm, engine) = torrent.swarm();
        (plugin.discover(swarm).await.unwrap(), engine)
    }
    /// What is said while the plugins do their own work for so many seconds, and `meanwhile` happens in the first one.
    async fn live(
        seconds: u64,
        plugins: &[&Arc<dyn Discovery>],
        streams: &mut [FoundStream],
        meanwhile: impl AsyncFnOnce(),
    ) -> Vec<String> {
        let mut said = Vec::new();
        let mut running: FuturesUnordered<_> = plugins.iter().map(|plugin| plugin.run()).collect();
        let mut reading = futures_util::stream::select_all(streams.iter_mut());
        let reading = async {
            while let Some(found) = reading.next().await {
                match found {
                    Ok(Found::Peers(peers)) => {
                        said.extend(peers.iter().map(|peer| format!("{} by {}", peer.addr, peer.instance)));
                    }
                    Ok(Found::Condition(text)) => said.push(text),
                    Ok(other) => panic!("{other:?}"),
                    Err(error) => said.push(error.to_string()),
                }
            }
            std::future::pending().await
        };
        let time = async {
            sleep(Duration::from_secs(1)).await;
            meanwhile().await;
            sleep(Duration::from_secs(seconds - 1)).await;
        };
        select! {
            biased;
            () = reading => {}
            _ = running.next() => panic!("it runs for ever"),
            () = time => {}
        }
        said
    }

    #[tokio::test(start_paused = true)]
    async fn two_in_one_network_find_each_other() {
        let world = World::new();
        let (a, b) = (plugin(&world, 1, &["10.0.0.1:7001"]), plugin(&world, 2, &["10.0.0.2:7002", "[fe80::2]:7002"]));
        let ((one, _one), (two, _two)) = (with(&a, 7001).await, with(&b, 7002).await);
        let mut said = live(30, &[&a, &b], &mut [one, two], async || {}).await;
        said.sort();
        assert_eq!(
            said,
            [
                "10.0.0.1:7001 by IPv4 on 10.0.0.2",
                "10.0.0.2:7002 by IPv4 on 10.0.0.1",
                "listens by IPv4 on 10.0.0.1",
                "listens by IPv4 on 10.0.0.2, IPv6 on fe80::2",
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_is_answered_and_a_network_that_changed_hears_of_us() {
        let world = World::new();
        let (a, b) = (plugin(&world, 1, &["10.0.0.1:7001"]), plugin(&world, 2, &["10.0.0.2:7002"]));
        let (one, _one) = with(&a, 7001).await;
        let mut streams = [one];
        assert_eq!(live(100, &[&a], &mut streams, async || {}).await, ["listens by IPv4 on 10.0.0.1"]);
        let [one] = streams;
        let (two, _two) = with(&b, 7002).await;
        let said = live(100, &[&a, &b], &mut [one, two], async || {}).await;
        assert!(said.contains(&"10.0.0.1:7001 by IPv4 on 10.0.0.2".into()), "long before its time: {said:?}");

        let (three, _three) = with(&b, 7002).await;
        let said = live(20, &[&b], &mut [three], async || {
            b.hear(&News::NetworkChanged);
            sleep(Duration::from_secs(2)).await;
            let heard = Search { port: 9, info_hashes: vec![[0xab; 20]], cookie: None }.encode(GROUP_V4);
            assert_eq!(world.multicast(GROUP_V4, "10.0.0.9:6771".parse().unwrap(), &heard), 1, "joined anew, once");
        })
        .await;
        assert_eq!(said.last().unwrap(), "10.0.0.9:9 by IPv4 on 10.0.0.2");
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_cannot_be_joined_is_named_once_and_the_other_goes_on() {
        let world = World::new();
        world.without_ipv6_groups();
        let (both, six) = (plugin(&world, 1, &[]), plugin(&world, 2, &["[::1]:1"]));
        let ((one, _one), (two, _two)) = (with(&both, 7001).await, with(&six, 7001).await);
        let heard = Search { port: 9, info_hashes: vec![[0xab; 20], [1; 20]], cookie: None }.encode(GROUP_V4);
        let mut said = live(3600, &[&both, &six], &mut [one, two], async || {
            for datagram in [&b"BT-SEARCH"[..], &heard, &heard] {
                world.multicast(GROUP_V4, "10.0.0.9:6771".parse().unwrap(), datagram);
            }
        })
        .await;
        said.sort();
        assert_eq!(
            said,
            [
                "10.0.0.9:9 by IPv4",
                "listens by IPv4; IPv6 cannot listen: no route",
                "the local network cannot be reached: IPv6 on ::1 cannot listen: no route",
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn sockets_are_open_while_there_is_a_torrent_that_is_not_private() {
        let world = World::new();
        let open = |world: &World| world.multicast(GROUP_V4, "10.0.0.9:6771".parse().unwrap(), b"");
        let a = plugin(&world, 1, &[]);
        let mut torrent = Torrent::new(&[]);
        torrent.info.private = true;
        assert!(!a.serves(&torrent.info));
        let (swarm, _engine) = torrent.swarm();
        let private = a.discover(swarm).await.unwrap();
        live(10, &[&a], &mut [private], async || assert_eq!(open(&world), 0)).await;
        let (public, engine) = with(&a, 7001).await;
        let mut engine = Some(engine);
        live(10, &[&a], &mut [public], async || {
            assert_eq!(open(&world), 1);
            engine = None;
            sleep(Duration::from_secs(1)).await;
            assert_eq!(open(&world), 0, "closed with the last torrent");
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_hybrid_is_known_by_both_names() {
        let world = World::new();
        let a = plugin(&world, 1, &["10.0.0.1:7001"]);
        let mut torrent = Torrent::new(&[]);
        torrent.info.info_hashes.v2 = Some(InfoHashV2([0xcd; 32]));
        let (swarm, _engine) = torrent.swarm();
        let stream = a.discover(swarm).await.unwrap();
        let said = live(10, &[&a], &mut [stream], async || {
            for (port, name) in [(1, [0xab; 20]), (2, [0xcd; 20])] {
                let heard = Search { port, info_hashes: vec![name], cookie: None }.encode(GROUP_V4);
                world.multicast(GROUP_V4, "10.0.0.9:6771".parse().unwrap(), &heard);
            }
        })
        .await;
        assert_eq!(
            said[said.len() - 2..],
            ["10.0.0.9:1", "10.0.0.9:2"].map(|peer| format!("{peer} by IPv4 on 10.0.0.1"))
        );
    }
}
