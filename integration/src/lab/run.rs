//! One run: builds a scenario's world from a seed, lets it happen, and tells what became of everyone.
//!
//! Time is counted from the end of the warm-up, in which the DHT's nodes find each other.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    future::pending,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use castanet::{EngineBuilder, Listen, Magnet, Torrent, TorrentEvent, TorrentHandle, seams::discovery::Build};
use castanet_core::seams::transport::Transport;
use castanet_transports::{link::Link, memory::MemoryTransport, race::Race, resolver::FixedResolver, utp::Utp};
use tokio::{
    sync::{
        Notify,
        broadcast::{Receiver, error::RecvError},
    },
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use super::{
    disk::Disk,
    report::{self, Report},
    scenario::{Behaviour, Group, Scenario, Way},
    story::Story,
    sybil,
};
use crate::{
    payload::Payload,
    universe::{Host, Universe, universe},
};

/// Where everybody listens.
const PORT: u16 = 6881;
/// What a slow peer sends a second.
const SLOW: u64 = 2 << 10;
/// How long one who leaves takes for good-byes.
const GOOD_BYE: Duration = Duration::from_secs(5);
/// How long after the last completion the run goes on, so that what it came to is counted.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// A plugin that the engine does not have, by its name.
pub type Extra = (&'static str, Build);

/// What a run is made from.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What the scenario is called.
    pub name: String,
    /// What it says.
    pub scenario: Arc<Scenario>,
    /// The folder in which its programs run.
    pub folder: PathBuf,
    /// Plugins of one's own.
    pub extra: Vec<Extra>,
    /// Decides all that is drawn.
    pub seed: u64,
}

/// Runs it. The same plan gives the same report.
///
/// # Panics
/// If the engine panics, leaks, or lies: a run is a test, too.
pub fn run(plan: &Plan) -> Report {
    let mut report = None;
    universe(plan.seed, async |world| report = Some(Stage::set(plan, world).await.play().await));
    report.expect("a run that ends has a report")
}

/// One peer of the scenario.
pub(super) struct Peer {
    pub(super) group: usize,
    pub(super) name: String,
    pub(super) story: RefCell<Story>,
    pub(super) disk: Disk,
    pub(super) joins: Duration,
    leaves: Option<Duration>,
    stays: Option<Duration>,
    host: Host,
    handle: RefCell<Option<TorrentHandle>>,
    completed: Notify,
}

/// The world of a run, and who is in it.
pub(super) struct Stage<'a> {
    world: &'a Universe,
    cast: Rc<Cast>,
    trackers: BTreeMap<String, IpAddr>,
    nodes: Vec<Host>,
}

/// What the lives of all peers share.
pub(super) struct Cast {
    pub(super) name: String,
    pub(super) seed: u64,
    pub(super) scenario: Arc<Scenario>,
    pub(super) peers: Vec<Peer>,
    payload: Payload,
    by_ip: BTreeMap<IpAddr, usize>,
    zero: Cell<Instant>,
}

impl<'a> Stage<'a> {
    async fn set(plan: &Plan, world: &'a Universe) -> Self {
        let scenario = plan.scenario.clone();
        let mut random = fastrand::Rng::with_seed(world.seed());
        let network = &scenario.network;
        world.net().set_default_link(Link {
            latency: network.latency.0,
            jitter: network.jitter.0,
            loss: *network.loss.get_ref(),
            bandwidth: network.bandwidth.map(|bandwidth| bandwidth.0),
            ..Link::default()
        });
        let mut addresses = Addresses { random: random.fork(), taken: BTreeSet::new() };
        let payload = payload(&scenario, world.seed());
        let trackers: BTreeMap<String, IpAddr> =
            scenario.trackers.iter().map(|tracker| (tracker.name.get_ref().clone(), addresses.next())).collect();
        let names = trackers.iter().map(|(name, ip)| (format!("{name}.lab"), vec![*ip])).collect();
        let common = Common {
            folder: plan.folder.clone(),
            extra: plan.extra.clone(),
            scenario: scenario.clone(),
            names: FixedResolver(names),
            well_known: Rc::default(),
        };
        let nodes = common.nodes(world, &mut addresses);
        common.sybils(world, &mut addresses, payload.metainfo.info_hashes.wire());
        let bytes: Arc<[u8]> = payload.files.iter().flat_map(|(_, data)| data.iter().copied()).collect();
        let mut peers = Vec::new();
        for (at, group) in scenario.groups.iter().enumerate() {
            for number in 1..=*group.count.get_ref() {
                let disk = Disk::new(bytes.clone(), scenario.torrent.piece.get_ref().0 as usize, group.seed);
                let place = world.place(addresses.next());
                world.net().set_uplink(place.ip(), group.up.map(|rate| rate.0));
                let host = common.host(world, place, at, disk.clone());
                peers.push(Peer {
                    group: at,
                    name: format!("{} {number}", group.name.get_ref()),
                    story: RefCell::default(),
                    disk,
                    joins: group.join.draw(&mut random),
                    leaves: group.leave.as_ref().map(|leave| leave.draw(&mut random)),
                    stays: group.stay.as_ref().map(|stay| stay.draw(&mut random)),
                    host,
                    handle: RefCell::default(),
                    completed: Notify::new(),
                });
            }
        }
        let by_ip = peers.iter().enumerate().map(|(at, peer)| (peer.host.ip(), at)).collect();
        let zero = Cell::new(Instant::now());
        let cast = Cast { name: plan.name.clone(), seed: plan.seed, scenario, peers, payload, by_ip, zero };
        Self { world, cast: Rc::new(cast), trackers, nodes }
    }

    async fn play(self) -> Report {
        self.warm_up().await;
        self.cast.zero.set(Instant::now());
        let cast = &self.cast;
        let lives: Vec<JoinHandle<()>> =
            (0..cast.peers.len()).map(|peer| actix_rt::spawn(cast.clone().live(peer))).collect();
        let lasts = cast.scenario.lasts.get_ref().0;
        while cast.now() < lasts && (cast.scenario.whole || !cast.is_over()) {
            sleep(Duration::from_millis(250)).await;
        }
        let ended = cast.now();
        if ended < lasts {
            sleep(AFTERWARDS).await;
        }
        for life in lives {
            life.abort();
            let _ = life.await;
        }
        for peer in &cast.peers {
            peer.harvest();
        }
        report::of(cast, ended)
    }

    /// The DHT's nodes come one after the other, and find each other.
    async fn warm_up(&self) {
        let warm_up = self.cast.scenario.dht.warm_up.0;
        let begun = Instant::now();
        let between = warm_up / 2 / (self.nodes.len().max(1) as u32);
        for node in &self.nodes {
            node.start().await;
            sleep(between).await;
        }
        if !self.nodes.is_empty() || self.cast.scenario.dht.sybils > 0 {
            sleep_until(begun + warm_up).await;
        }
    }
}

impl Cast {
    /// Time since the scenario began.
    fn now(&self) -> Duration {
        self.zero.get().elapsed()
    }

    /// Is everyone complete, or gone?
    fn is_over(&self) -> bool {
        self.peers.iter().all(|peer| peer.story.borrow().left.is_some() || peer.disk.is_full() && peer.has_joined())
    }

    /// One peer's life.
    async fn live(self: Rc<Self>, peer: usize) {
        let this = &self.peers[peer];
        sleep_until(self.zero.get() + this.joins).await;
        this.story.borrow_mut().joined = Some(self.now());
        self.clone().begin(peer).await;
        let staying = async {
            this.completed.notified().await;
            match this.stays {
                Some(stays) => sleep(stays).await,
                None => pending().await,
            }
        };
        let leaving = async {
            match this.leaves {
                Some(leaves) => sleep_until(self.zero.get() + leaves).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = leaving => {}
            () = staying => {}
        }
        this.story.borrow_mut().left = Some(self.now());
        this.harvest();
        this.host.shutdown(GOOD_BYE).await;
    }

    /// Its engine starts, or starts again, and gets the torrent.
    async fn begin(self: Rc<Self>, peer: usize) {
        let this = &self.peers[peer];
        this.host.start().await;
        let handle = this.host.engine().add(self.torrent(peer)).await.expect("the torrent can be handled");
        let events = handle.events();
        this.handle.replace(Some(handle));
        actix_rt::spawn(self.clone().watch(peer, events));
    }

    fn torrent(&self, peer: usize) -> Torrent {
        let group = &self.scenario.groups[self.peers[peer].group];
        let torrent = if self.scenario.torrent.magnet && !group.seed {
            let link = Magnet {
                trackers: self.payload.metainfo.trackers.concat(),
                ..Magnet::new(self.payload.metainfo.info_hashes)
            };
            Torrent::from_magnet(link, "/")
        } else {
            Torrent::new(self.payload.metainfo.clone(), "/")
        };
        let known = self.peers.iter().enumerate().filter(|(at, other)| {
            *at != peer
                && group.knows.iter().any(|name| *name.get_ref() == *self.scenario.groups[other.group].name.get_ref())
        });
        torrent.peers(known.map(|(_, other)| other.host.addr().to_string()))
    }

    /// Takes down what happens to a peer until its torrent ends.
    async fn watch(self: Rc<Self>, peer: usize, mut events: Receiver<TorrentEvent>) {
        let this = &self.peers[peer];
        loop {
            match events.recv().await {
                Ok(event) => self.take_down(peer, &event),
                Err(RecvError::Lagged(missed)) => this.story.borrow_mut().events += missed,
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn take_down(&self, peer: usize, event: &TorrentEvent) {
        let this = &self.peers[peer];
        let who = |ip: IpAddr| self.by_ip.get(&ip).copied();
        let hops = |teller: usize, about: usize| {
            // A peer that tells of itself has not learned of itself from anybody.
            let story = self.peers[teller].story.try_borrow();
            story.ok().and_then(|story| story.learned.get(&about).map(|learned| learned.hops)).unwrap_or(0)
        };
        this.story.borrow_mut().heard(event, self.now(), who, hops);
        if matches!(event.what, castanet::Happening::Complete) {
            let group = &self.scenario.groups[this.group];
            if group.behaviour == Behaviour::Liar {
                this.disk.lie();
            }
            this.completed.notify_one();
        }
    }
}

impl Peer {
    fn has_joined(&self) -> bool {
        self.story.borrow().joined.is_some()
    }

    /// Adds up what its torrent came to, which is about to end.
    fn harvest(&self) {
        if let Some(handle) = self.handle.take() {
            self.story.borrow_mut().harvest(&handle.state());
        }
    }
}

/// What the engines of all hosts are made with.
#[derive(Clone)]
struct Common {
    folder: PathBuf,
    extra: Vec<Extra>,
    scenario: Arc<Scenario>,
    names: FixedResolver,
    /// Where everyone's DHT begins.
    well_known: Rc<RefCell<Vec<String>>>,
}

impl Common {
    /// The nodes of the DHT that are no peers, at rest.
    fn nodes(&self, world: &Universe, addresses: &mut Addresses) -> Vec<Host> {
        let dht = &self.scenario.dht;
        let places: Vec<_> = (0..dht.nodes).map(|_| world.place(addresses.next())).collect();
        let known = places.iter().take(dht.bootstrap);
        self.well_known.borrow_mut().extend(known.map(|place| SocketAddr::new(place.ip(), PORT).to_string()));
        let well_known = self.well_known.borrow().join(",");
        let mut hosts = Vec::new();
        for place in places {
            let well_known = well_known.clone();
            hosts.push(world.resting_host(place, move |engine, net| {
                let engine = engine.transports(vec![Arc::new(net.clone())]).retain_plugins(|_| false);
                let engine = engine.enable_plugin("dht").plugin_setting("dht", "always", "true");
                engine.plugin_setting("dht", "bootstrap", &well_known)
            }));
        }
        hosts
    }

    fn sybils(&self, world: &Universe, addresses: &mut Addresses, target: [u8; 20]) {
        let dht = &self.scenario.dht;
        let places: Vec<_> = (0..dht.sybils).map(|_| world.place(addresses.next())).collect();
        let friends: Vec<_> = places.iter().map(|place| SocketAddr::new(place.ip(), PORT)).collect();
        self.well_known.borrow_mut().extend(friends.iter().take(dht.known_sybils).map(ToString::to_string));
        for (number, place) in (0..).zip(places) {
            world.let_live(sybil::lie(place, PORT, number, target, friends.clone()));
        }
    }

    /// A peer's host, at rest.
    fn host(&self, world: &Universe, place: MemoryTransport, group: usize, disk: Disk) -> Host {
        let (common, seed) = (self.clone(), world.seed());
        world.resting_host(place, move |engine, net| {
            common.engine(engine, net, &common.scenario.groups[group], &disk, seed)
        })
    }

    fn engine(
        &self,
        engine: EngineBuilder,
        net: &MemoryTransport,
        group: &Group,
        disk: &Disk,
        seed: u64,
    ) -> EngineBuilder {
        let way = |way: &Way| -> Arc<dyn Transport> {
            match way {
                Way::Tcp => Arc::new(net.clone()),
                Way::Utp => Arc::new(Utp::new(Arc::new(net.clone()), seed)),
            }
        };
        let ways: Vec<_> = self.scenario.network.transports.iter().map(way).collect();
        let ways = if ways.len() > 1 { vec![Arc::new(Race::new(ways)) as Arc<dyn Transport>] } else { ways };
        let mut engine = engine
            .listen(Listen::At(vec![SocketAddr::new(net.ip(), PORT)]))
            .transports(ways)
            .resolver(Arc::new(self.names.clone()))
            .storage(Arc::new(disk.clone()))
            .most_connections(group.connections)
            .max_down(group.down.map(|rate| rate.0));
        if group.behaviour == Behaviour::Slow {
            engine = engine.max_up(Some(SLOW));
        }
        for (name, build) in &self.extra {
            engine = engine.discovery(name, *build);
        }
        for program in &self.scenario.programs {
            engine = engine.process_plugin(program.name.get_ref(), &program.command);
        }
        let plugins: Vec<&str> = group
            .plugins
            .as_ref()
            .unwrap_or(&self.scenario.plugins)
            .iter()
            .map(|name| name.get_ref().as_str())
            .collect();
        for name in &plugins {
            engine = engine.enable_plugin(name);
        }
        // Whom a group knows it knows whatever the scenario tries.
        engine = engine.retain_plugins(|name| plugins.contains(&name) || name == "fixed" && !group.knows.is_empty());
        engine = engine.plugin_setting("dht", "bootstrap", &self.well_known.borrow().join(","));
        for (plugin, settings) in &self.scenario.settings {
            for (key, value) in settings {
                engine = engine.plugin_setting(plugin, key, value);
            }
        }
        engine
    }
}

/// The payload, with the scenario's trackers.
fn payload(scenario: &Scenario, seed: u64) -> Payload {
    let (pieces, piece) = (*scenario.torrent.pieces.get_ref(), scenario.torrent.piece.get_ref().0);
    let payload = Payload::one_file("payload", pieces as usize * piece as usize, piece as u32, seed);
    if scenario.torrent.private { payload.private() } else { payload }
}

/// Addresses as hosts of the internet have them, each once.
struct Addresses {
    random: fastrand::Rng,
    taken: BTreeSet<Ipv4Addr>,
}

impl Addresses {
    fn next(&mut self) -> IpAddr {
        loop {
            let ip = Ipv4Addr::from_bits(self.random.u32(..));
            let [first, second, ..] = ip.octets();
            let is_special = ip.is_private()
                || ip.is_link_local()
                || ip.is_documentation()
                || first == 0
                || first == 127
                || first >= 224
                || (first, second & 0xc0) == (100, 64)
                || (first, second & 0xfe) == (198, 18)
                || (first, second) == (192, 0);
            if !is_special && self.taken.insert(ip) {
                return ip.into();
            }
        }
    }
}
