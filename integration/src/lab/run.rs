//! One run: builds a scenario's world from a seed, lets it happen, and tells what became of everyone.
//!
//! Time is counted from the end of the warm-up, in which the DHT's nodes find each other.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    future::pending,
    net::IpAddr,
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use castanet::{Happening, Magnet, Torrent, TorrentEvent, TorrentHandle, seams::discovery::Build};
use castanet_transports::{link::Link, resolver::FixedResolver};
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
    faults,
    report::{self, Report},
    scenario::{Behaviour, Group, Scenario},
    story::Story,
    world::{self, Addresses, Common, furnish, lans, payload},
};
use crate::{
    payload::Payload,
    universe::{Host, Universe, universe},
};

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
    pub(super) host: Host,
    handle: RefCell<Option<TorrentHandle>>,
    completed: Notify,
}

/// The world of a run, and who is in it.
pub(super) struct Stage<'a> {
    pub(super) world: &'a Universe,
    pub(super) cast: Rc<Cast>,
    pub(super) trackers: BTreeMap<String, IpAddr>,
    pub(super) nodes: Vec<Host>,
}

/// What the lives of all peers share.
pub(super) struct Cast {
    pub(super) name: String,
    pub(super) seed: u64,
    pub(super) scenario: Arc<Scenario>,
    pub(super) peers: Vec<Peer>,
    payload: Payload,
    by_ip: BTreeMap<IpAddr, usize>,
    pub(super) zero: Cell<Instant>,
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
            bandwidth: network.bandwidth.as_ref().map(|bandwidth| bandwidth.get_ref().0),
            ..Link::default()
        });
        let mut addresses = Addresses { random: random.fork(), taken: BTreeSet::new() };
        let payload = payload(&scenario, world.seed());
        let trackers: BTreeMap<String, IpAddr> =
            scenario.trackers.iter().map(|tracker| (tracker.name.get_ref().clone(), addresses.next())).collect();
        for tracker in &scenario.trackers {
            world::open(world, tracker, trackers[tracker.name.get_ref()]).await;
        }
        let names = trackers.iter().map(|(name, ip)| (format!("{name}.lab"), vec![*ip])).collect();
        let common = Common {
            folder: plan.folder.clone(),
            extra: plan.extra.clone(),
            scenario: scenario.clone(),
            names: FixedResolver(names),
            well_known: Rc::default(),
            members: Rc::default(),
        };
        let nodes = common.nodes(world, &mut addresses);
        common.sybils(world, &mut addresses, payload.metainfo.info_hashes.wire());
        let bytes: Arc<[u8]> = payload.files.iter().flat_map(|(_, data)| data.iter().copied()).collect();
        let lans = lans(&scenario);
        let mut peers = Vec::new();
        for (at, group) in scenario.groups.iter().enumerate() {
            for number in 1..=*group.count.get_ref() {
                let disk = Disk::new(bytes.clone(), scenario.torrent.piece.get_ref().0 as usize, group.seed);
                let place = world.place(addresses.next());
                furnish(world, place.ip(), group, &lans);
                let host = common.host(world, place, at, disk.clone());
                common.members.borrow_mut().entry(group.name.get_ref().clone()).or_default().push(host.addr());
                peers.push(Peer {
                    group: at,
                    name: format!("{} {number}", group.name.get_ref()),
                    story: RefCell::default(),
                    disk,
                    joins: group.join.draw(&mut random),
                    leaves: group.leave.as_ref().map(|leave| leave.get_ref().draw(&mut random)),
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
        let faults = faults::happen(&self);
        while cast.now() < lasts && (cast.scenario.whole || !cast.is_over()) {
            sleep(Duration::from_millis(250)).await;
        }
        let ended = cast.now();
        if ended < lasts {
            sleep(AFTERWARDS).await;
        }
        for (peer, life) in cast.peers.iter().zip(lives) {
            // Who is just leaving finishes its good-byes.
            if peer.story.borrow().left.is_none() {
                life.abort();
            }
            let _ = life.await;
        }
        for fault in faults {
            fault.abort();
            let _ = fault.await;
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
        if !self.nodes.is_empty() || *self.cast.scenario.dht.sybils.get_ref() > 0 {
            sleep_until(begun + warm_up).await;
        }
    }
}

impl Cast {
    pub(super) fn group_of(&self, peer: &Peer) -> &Group {
        &self.scenario.groups[peer.group]
    }

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
    pub(super) async fn begin(self: Rc<Self>, peer: usize) {
        let this = &self.peers[peer];
        this.host.start().await;
        let mut handle = this.host.engine().add(self.torrent(peer)).await.expect("the torrent can be handled");
        let events = handle.take_events();
        this.handle.replace(Some(handle));
        actix_rt::spawn(self.clone().watch(peer, events));
    }

    fn torrent(&self, peer: usize) -> Torrent {
        let group = self.group_of(&self.peers[peer]);
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
        // Without this holes would be punched, for which there is no plugin.
        torrent
            .allow_plugins(self.scenario.plugins_of(group))
            .peers(known.map(|(_, other)| other.host.addr().to_string()))
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
        // A seed is complete from when it has looked through its disk.
        if matches!(event.what, Happening::Complete | Happening::Started { .. }) && this.disk.is_full() {
            if self.group_of(this).behaviour == Behaviour::Liar {
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

    /// Was it killed, and has not come back?
    pub(super) fn is_dead(&self) -> bool {
        self.has_joined() && self.story.borrow().left.is_none() && !self.host.is_up()
    }

    /// Adds up what its torrent came to, which is about to end.
    pub(super) fn harvest(&self) {
        if let Some(handle) = self.handle.take() {
            self.story.borrow_mut().harvest(&handle.state());
        }
    }
}
