//! Holepunching (BEP 55) between two homes, each behind a NAT in a namespace of its own: neither can be dialled from outside,
//! and a relay outside tells each of the other.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::castanet::{Castanet, LISTEN, named};
use crate::payload::{self, Shape, Torrent, run};
use crate::programs::session::Session;
use crate::world::{self, Neighbour, World, wait_until};

/// Where Castanet listens at home, and its NAT lets it out.
const PORT: u16 = 6881;

/// Two homes.
const LEECH: Home = Home { number: 1, outside: [203, 0, 113] };
const SEED: Home = Home { number: 2, outside: [198, 51, 100] };

/// A network behind a NAT, whose addresses outside begin as told.
struct Home {
    number: u8,
    outside: [u8; 3],
}

/// What the two machines of a home are, as long as it stands.
struct Standing<'a> {
    _nat: Neighbour<'a>,
    machine: Neighbour<'a>,
}

/// Lets out who is inside, and in nothing but answers. What nobody asked for is dropped without a word, as NATs do: an
/// answer would make this one take it for a connection of its own, and change the port of the next one out.
const NAT: &str = "echo 1 >/proc/sys/net/ipv4/ip_forward && nft -f - <<'END'
table ip nat {
    chain arriving { type filter hook input priority 0; policy drop; ct state established accept; iifname lan accept; }
    chain passing { type filter hook forward priority 0; policy drop; ct state established accept; iifname lan accept; }
    chain leaving { type nat hook postrouting priority 100; oifname wan masquerade; }
}
END";

impl Home {
    /// Where its machine listens.
    fn inside(&self) -> SocketAddr {
        SocketAddr::from(([192, 168, self.number, 2], PORT))
    }

    /// The first address outside its NAT, which is the world's.
    fn gateway(&self) -> Ipv4Addr {
        let [a, b, c] = self.outside;
        Ipv4Addr::new(a, b, c, 1)
    }

    /// The same as seen from outside.
    fn seen(&self) -> String {
        let [a, b, c] = self.outside;
        format!("{a}.{b}.{c}.2:{PORT}")
    }

    /// Builds it beside the world, which is the way to everywhere.
    fn build<'a>(&self, world: &'a World) -> Result<Standing<'a>> {
        let Home { number, outside: [a, b, c] } = self;
        let nat = world.machine(&format!(
            "ip link add wan type veth peer name home{number} netns {} && ip addr add {a}.{b}.{c}.2/24 dev wan && \
             ip link set wan up && ip route add default via {a}.{b}.{c}.1 && {NAT}",
            world.namespace()
        ))?;
        sh(&format!(
            "ip addr add {a}.{b}.{c}.1/24 dev home{number} && ip link set home{number} up && \
             echo 1 >/proc/sys/net/ipv4/ip_forward"
        ))?;
        let machine = world.machine(&format!(
            "ip link add lan type veth peer name lan netns {} && ip addr add 192.168.{number}.2/24 dev lan && \
             ip link set lan up && ip route add default via 192.168.{number}.1",
            nat.namespace()
        ))?;
        nat.at(|| sh(&format!("ip addr add 192.168.{number}.1/24 dev lan && ip link set lan up")))?;
        Ok(Standing { _nat: nat, machine })
    }
}

fn sh(script: &str) -> Result<()> {
    run(Command::new("sh").args(["-c", script])).map(drop)
}

/// A program of the test.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Castanet,
    Libtorrent,
}

/// What runs until the end of the test.
enum Running {
    Castanet(Castanet),
    Libtorrent(Session),
}

/// Where libtorrent relays.
const RELAY: u16 = 7002;

/// Where a home speaks to the relay. libtorrent binds its sockets to the device that holds the address spoken to, so each
/// home takes the one that is on its own link.
fn relay_of(home: &Home, which: Which) -> SocketAddr {
    match which {
        Which::Castanet => LISTEN.into(),
        Which::Libtorrent => (home.gateway(), RELAY).into(),
    }
}

/// Starts a relay that has next to nothing, outside. libtorrent passes on only between addresses that it is connected to, so
/// with it everyone must be there by uTP.
fn relay(world: &World, torrent: &Torrent, which: Which) -> Result<Running> {
    let folder = world.folder("relay")?;
    if which == Which::Libtorrent {
        let idle = json!({ "pex": true, "idle": true, "transports": ["utp"] });
        let everywhere = SocketAddr::from(([0, 0, 0, 0], RELAY));
        let mut session = Session::start(world, torrent, &folder, everywhere, &idle)?;
        session.downloads()?;
        return Ok(Running::Libtorrent(session));
    }
    let listen = LISTEN.to_string();
    let options = ["--listen", &listen, "--plugins", "pex", "--max-down", "1K"];
    let mut castanet = Castanet::get_freely(world, &torrent.file.to_string_lossy(), &folder, &options)?;
    castanet.wait_until_listening()?;
    Ok(Running::Castanet(castanet))
}

/// Starts a seed that knows the relay and asks nobody for others: it dials the leech only if the relay says so.
fn seed(world: &World, torrent: &Torrent, which: Which, relay: SocketAddr) -> Result<Running> {
    let (listen, relay) = (SEED.inside().to_string(), relay.to_string());
    if which == Which::Libtorrent {
        let session = json!({ "peers": [relay] });
        let mut session = Session::start(world, torrent, &torrent.folder, SEED.inside(), &session)?;
        session.complete()?;
        return Ok(Running::Libtorrent(session));
    }
    let options = ["--listen", &listen, "--plugins", "fixed", "--peer", &relay];
    let mut castanet = Castanet::seed_freely(world, &torrent.file, &torrent.folder, &options)?;
    castanet.wait_for("peer_connected", 1)?;
    Ok(Running::Castanet(castanet))
}

/// `castanet get` that knows the relay and hears of others from it.
fn leech(world: &World, torrent: &Torrent, relay: SocketAddr, more: &[&str]) -> Result<Castanet> {
    let (folder, listen, relay) = (world.folder("leech")?, LEECH.inside().to_string(), relay.to_string());
    let options = ["--listen", &listen, "--plugins", "fixed,pex", "--peer", &relay];
    Castanet::get_freely(world, &torrent.file.to_string_lossy(), &folder, &[&options[..], more].concat())
}

fn torrent(world: &World) -> Result<Torrent> {
    payload::make(world, Shape::OneFile, 44, 64 * 1024, &[])
}

/// How often the seed was dialled in vain.
fn in_vain(events: &[Value]) -> usize {
    named(events, "peer_lost").filter(|event| event["address"] == SEED.seen()).count()
}

/// Ends what runs: each must still be well.
fn end(running: Running) -> Result<()> {
    match running {
        Running::Castanet(castanet) => castanet.interrupt(),
        Running::Libtorrent(session) => {
            drop(session);
            Ok(())
        }
    }
}

/// The leech gets everything from a seed that it cannot dial and that cannot dial it. Which of their dials of one another wins
/// is chance.
fn through(relaying: Which, seeding: Which) {
    world::test(|world| {
        let torrent = torrent(world)?;
        let (here, there) = (LEECH.build(world)?, SEED.build(world)?);
        let relay = relay(world, &torrent, relaying)?;
        let seed = there.machine.at(|| seed(world, &torrent, seeding, relay_of(&SEED, relaying)))?;
        let events = here.machine.at(|| leech(world, &torrent, relay_of(&LEECH, relaying), &[])?.complete())?;
        ensure!(in_vain(&events) >= 1, "the seed could be dialled: {events:?}");
        torrent.same_in(&world.folder("leech")?, false)?;
        end(seed)?;
        end(relay)
    });
}

#[test]
fn libtorrent_tells_us_of_each_other() {
    through(Which::Libtorrent, Which::Castanet);
}

#[test]
fn castanet_tells_us_of_each_other() {
    through(Which::Castanet, Which::Castanet);
}

#[test]
fn castanet_tells_libtorrent_of_us() {
    through(Which::Castanet, Which::Libtorrent);
}

#[test]
fn libtorrent_tells_libtorrent_of_us() {
    through(Which::Libtorrent, Which::Libtorrent);
}

/// The control: without uTP there is no holepunching, and nothing else leads through the two NATs.
#[test]
fn without_it_they_do_not_meet() {
    world::test(|world| {
        let torrent = torrent(world)?;
        let (here, there) = (LEECH.build(world)?, SEED.build(world)?);
        let relay = relay(world, &torrent, Which::Castanet)?;
        let seed = there.machine.at(|| seed(world, &torrent, Which::Castanet, LISTEN.into()))?;
        let get = here.machine.at(|| {
            let get = leech(world, &torrent, LISTEN.into(), &["--transport", "tcp"])?;
            wait_until("the seed was dialled in vain, twice", || Ok(in_vain(&get.events()?) >= 2))?;
            get.not_complete()?;
            Ok(get)
        })?;
        get.interrupt()?;
        end(seed)?;
        end(relay)
    });
}
