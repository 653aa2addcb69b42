//! What a run's world is furnished with: addresses, lines and NATs, engines set up as their group says, nodes of the DHT.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    future::pending,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use castanet::{EngineBuilder, Listen, seams::datagrams::DatagramFactory as _};
use castanet_core::seams::transport::Transport;
use castanet_transports::{
    memory::{MemoryTransport, Nat},
    race::Race,
    resolver::FixedResolver,
    utp::Utp,
};

use super::{
    disk::Disk,
    run::Extra,
    scenario::{Behaviour, Group, MOST_HOSTS, NatKind, Protocol, Scenario, Tracker, TrackerBehaviour, Way},
    sybil,
};
use crate::{
    payload::Payload,
    tracker::{self, TrackerConfig},
    universe::{Host, Universe},
};

/// Where everybody listens.
const PORT: u16 = 6881;
/// Where trackers listen.
const TRACKER_PORT: u16 = 6969;
/// Peers that a lying tracker makes up.
const MADE_UP: usize = 50;
/// How long a slow tracker takes for an answer.
const SLOW_ANSWER: Duration = Duration::from_secs(10);
/// What a slow peer sends a second.
const SLOW: u64 = 2 << 10;

/// What the engines of all hosts are made with.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) folder: PathBuf,
    pub(super) extra: Vec<Extra>,
    pub(super) scenario: Arc<Scenario>,
    pub(super) names: FixedResolver,
    /// Where everyone's DHT begins.
    pub(super) well_known: Rc<RefCell<Vec<String>>>,
    /// The peers of each group, for plugins to be told of.
    pub(super) members: Rc<RefCell<BTreeMap<String, Vec<SocketAddr>>>>,
}

impl Common {
    /// The nodes of the DHT that are no peers, at rest.
    pub(super) fn nodes(&self, world: &Universe, addresses: &mut Addresses) -> Vec<Host> {
        let dht = &self.scenario.dht;
        let places: Vec<_> = (0..*dht.nodes.get_ref()).map(|_| world.place(addresses.next())).collect();
        let known = places.iter().take(dht.bootstrap);
        self.well_known.borrow_mut().extend(known.map(|place| SocketAddr::new(place.ip(), PORT).to_string()));
        let well_known = self.well_known.borrow().join(",");
        let mut hosts = Vec::new();
        for place in places {
            let well_known = well_known.clone();
            hosts.push(world.resting_host(place, move |engine, net| {
                let engine = engine.small().transports(vec![Arc::new(net.clone())]).retain_plugins(|_| false);
                let engine = engine.enable_plugin("dht").plugin_setting("dht", "always", "true");
                engine.plugin_setting("dht", "bootstrap", &well_known)
            }));
        }
        hosts
    }

    pub(super) fn sybils(&self, world: &Universe, addresses: &mut Addresses, target: [u8; 20]) {
        let dht = &self.scenario.dht;
        let places: Vec<_> = (0..*dht.sybils.get_ref()).map(|_| world.place(addresses.next())).collect();
        let friends: Vec<_> = places.iter().map(|place| SocketAddr::new(place.ip(), PORT)).collect();
        self.well_known.borrow_mut().extend(friends.iter().take(*dht.known_sybils.get_ref()).map(ToString::to_string));
        for (number, place) in (0..).zip(places) {
            world.let_live(sybil::lie(place, PORT, number, target, friends.clone()));
        }
    }

    /// A peer's host, at rest.
    pub(super) fn host(&self, world: &Universe, place: MemoryTransport, group: usize, disk: Disk) -> Host {
        let (common, seed) = (self.clone(), world.seed());
        world.resting_host(place, move |engine, net| {
            common.engine(engine, net, &common.scenario.groups[group], &disk, seed)
        })
    }

    /// A program's command or a plugin's setting, with the addresses of a group's peers where it has `{peers:GROUP}`.
    fn expanded(&self, text: &str) -> String {
        self.members.borrow().iter().fold(text.to_owned(), |text, (group, peers)| {
            let addresses: Vec<String> = peers.iter().map(ToString::to_string).collect();
            text.replace(&format!("{{peers:{group}}}"), &addresses.join(" "))
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
        let ways: Vec<_> = self.scenario.network.transports.get_ref().iter().map(way).collect();
        let ways = if ways.len() > 1 { vec![Arc::new(Race::new(ways)) as Arc<dyn Transport>] } else { ways };
        let mut engine = engine
            .listen(Listen::At(vec![SocketAddr::new(net.ip(), PORT)]))
            .transports(ways)
            // Trackers speak TCP, whatever the peers do.
            .dialer(Arc::new(net.clone()))
            .resolver(Arc::new(self.names.clone()))
            .storage(Arc::new(disk.clone()))
            .small()
            .most_connections(*group.connections.get_ref());
        engine = match group.behaviour {
            Behaviour::Slow => engine.max_up(Some(SLOW)),
            Behaviour::FreeRider => engine.upload_slots(0),
            Behaviour::Honest | Behaviour::Liar => engine,
        };
        for (name, build) in &self.extra {
            engine = engine.discovery(name, *build);
        }
        for program in &self.scenario.programs {
            let name = program.name.get_ref();
            engine = engine
                .process_plugin(name, &self.expanded(program.command.get_ref()))
                .plugin_setting(name, "lockstep", "true");
            engine = engine.plugin_setting(name, "folder", &self.folder.to_string_lossy());
        }
        let plugins = self.scenario.plugins_of(group);
        for name in &plugins {
            engine = engine.enable_plugin(name);
        }
        engine = engine.retain_plugins(|name| plugins.contains(&name));
        engine = engine.plugin_setting("dht", "bootstrap", &self.well_known.borrow().join(","));
        for (plugin, settings) in &self.scenario.settings {
            for (key, value) in settings {
                engine = engine.plugin_setting(plugin, key, &self.expanded(&value.get_ref().0));
            }
        }
        engine
    }
}

/// The LANs that the scenario names, by number.
pub(super) fn lans(scenario: &Scenario) -> BTreeMap<&str, u32> {
    let names: BTreeSet<&str> = scenario.groups.iter().filter_map(|group| group.lan.as_deref()).collect();
    names.into_iter().zip(1..).collect()
}

/// Puts a peer's place into the network as its group says.
pub(super) fn furnish(world: &Universe, ip: IpAddr, group: &Group, lans: &BTreeMap<&str, u32>) {
    let net = world.net();
    net.set_uplink(ip, group.up.as_ref().map(|rate| rate.get_ref().0));
    net.set_downlink(ip, group.down.as_ref().map(|rate| rate.get_ref().0));
    net.set_nat(
        ip,
        match group.nat {
            NatKind::None => None,
            NatKind::FullCone => Some(Nat::FullCone),
            NatKind::Restricted => Some(Nat::Restricted),
            NatKind::PortRestricted => Some(Nat::PortRestricted),
            NatKind::Symmetric => Some(Nat::Symmetric),
        },
    );
    // Who is in no LAN that has a name is in one of its own.
    let own = || match ip {
        IpAddr::V4(ip) => ip.to_bits(),
        IpAddr::V6(_) => u32::MAX,
    };
    net.set_lan(ip, group.lan.as_deref().and_then(|lan| lans.get(lan).copied()).unwrap_or_else(own));
}

/// The payload, in a torrent with the scenario's trackers.
pub(super) fn payload(scenario: &Scenario, seed: u64) -> Payload {
    let (pieces, piece) = (*scenario.torrent.pieces.get_ref(), scenario.torrent.piece.get_ref().0);
    let payload = Payload::one_file("payload", pieces as usize * piece as usize, piece as u32, seed);
    let mut tiers: BTreeMap<u8, Vec<String>> = BTreeMap::new();
    for tracker in &scenario.trackers {
        let scheme = match tracker.protocol {
            Protocol::Http => "http",
            Protocol::Udp => "udp",
        };
        let url = format!("{scheme}://{}.lab:{TRACKER_PORT}/announce", tracker.name.get_ref());
        tiers.entry(tracker.tier).or_default().push(url);
    }
    let payload = payload.with_trackers(&tiers.into_values().collect::<Vec<_>>());
    if scenario.torrent.private { payload.private() } else { payload }
}

/// Opens a tracker at its place; a dead one's cable is pulled.
pub(super) async fn open(world: &Universe, tracker: &Tracker, at: IpAddr) {
    let (place, on) = (world.place(at), SocketAddr::new(at, TRACKER_PORT));
    let config = TrackerConfig {
        interval: tracker.interval.0,
        min_interval: tracker.interval.0 / 2,
        given: tracker.gives,
        most_peers: MOST_HOSTS,
        most_connections: MOST_HOSTS,
        made_up: if tracker.behaviour == TrackerBehaviour::Liar { MADE_UP } else { 0 },
        refuses: (tracker.behaviour == TrackerBehaviour::Refuses).then(|| "go away".to_owned()),
        answers_after: if tracker.behaviour == TrackerBehaviour::Slow { SLOW_ANSWER } else { Duration::ZERO },
    };
    let listener = place.listen(on).await.expect("nobody listens at the address of a tracker");
    let socket = place.bind(on).await.expect("nobody is bound to the address of a tracker");
    let running = tracker::Tracker::serve(listener, socket, config, world.seed());
    world.let_live(async move {
        let _running = running;
        pending().await
    });
    if tracker.behaviour == TrackerBehaviour::Dead {
        world.net().unplug(at);
    }
}

/// Addresses as hosts of the internet have them, each once.
pub(super) struct Addresses {
    pub(super) random: fastrand::Rng,
    pub(super) taken: BTreeSet<Ipv4Addr>,
}

impl Addresses {
    pub(super) fn next(&mut self) -> IpAddr {
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
