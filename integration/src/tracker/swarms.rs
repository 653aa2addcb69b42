//! What a tracker knows, as a machine: announces and the time go in, answers come out.
//!
//! Ten thousand peers may announce every few seconds, so no announce looks at all the others: counts are kept, the silent
//! are found by a queue, and an answer costs as much as it holds.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use castanet_core::{Moment, PeerId, addr::canonical};
use castanet_protocol::tracker::{Announce, Answer, Event, MOST_PEERS as MOST_BELIEVED};
use fastrand::Rng;

use super::{REQUEST_LIMIT, TrackerConfig};

/// The most torrents that are tracked.
pub const MOST_TORRENTS: usize = 256;
/// The first address for benchmarks and how many there are: 198.18.0.0/15 (RFC 2544).
const NOWHERE: u32 = Ipv4Addr::new(198, 18, 0, 0).to_bits();
const NOWHERE_SIZE: u32 = 1 << 17;

/// What the tracker knows of a torrent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Peers that have everything.
    pub seeds: u32,
    /// Peers that do not.
    pub leeches: u32,
    /// How often `completed` was announced.
    pub completed: u32,
}

/// Why there is no answer, in words for the peer.
pub(super) type Refusal = Cow<'static, str>;

/// A peer as it is given to others.
type Given = (SocketAddr, Option<PeerId>);

/// All torrents.
#[derive(Debug)]
pub(super) struct Swarms {
    config: TrackerConfig,
    random: Rng,
    torrents: BTreeMap<[u8; 20], Torrent>,
    /// Every peer of every torrent, by when it was last heard of.
    heard: BTreeSet<(Moment, [u8; 20], SocketAddr)>,
}

impl Swarms {
    pub(super) fn new(config: TrackerConfig, random: Rng) -> Self {
        Self { config, random, torrents: BTreeMap::new(), heard: BTreeSet::new() }
    }

    pub(super) fn announce(&mut self, now: Moment, from: IpAddr, announce: &Announce) -> Result<Answer, Refusal> {
        if let Some(reason) = &self.config.refuses {
            return Err(reason.clone().into());
        }
        if announce.port == 0 {
            return Err("no port".into());
        }
        self.forget(now);
        if !self.has_room_for(announce.info_hash) {
            return Err("too many torrents".into());
        }
        let me = canonical(SocketAddr::new(from, announce.port));
        self.note(now, me, announce);
        let peers = self.peers_for(me, announce);
        let counts = self.counts(now, announce.info_hash);
        Ok(Answer {
            interval: Some(self.config.interval),
            min_interval: Some(self.config.min_interval),
            seeds: Some(counts.seeds),
            leeches: Some(counts.leeches),
            peers,
            external: Some(me.ip()),
            ..Answer::default()
        })
    }

    pub(super) fn counts(&mut self, now: Moment, info_hash: [u8; 20]) -> Counts {
        self.forget(now);
        self.torrents.get(&info_hash).map_or_else(Counts::default, Torrent::counts)
    }

    /// Drops silent peers.
    fn forget(&mut self, now: Moment) {
        // Who waits for an answer does not announce meanwhile.
        let patience = (self.config.interval + self.config.answers_after) * 2 + REQUEST_LIMIT;
        while let Some((seen, info_hash, addr)) = self.heard.first().copied()
            && is_over(seen, patience, now)
        {
            self.heard.pop_first();
            if let Some(torrent) = self.torrents.get_mut(&info_hash) {
                torrent.remove(addr);
            }
        }
    }

    /// Torrents that nobody has are dropped when their place is needed, and not before: they were downloaded so often.
    fn has_room_for(&mut self, info_hash: [u8; 20]) -> bool {
        if self.torrents.len() >= MOST_TORRENTS && !self.torrents.contains_key(&info_hash) {
            self.torrents.retain(|_, torrent| !torrent.places.is_empty());
            return self.torrents.len() < MOST_TORRENTS;
        }
        true
    }

    /// Writes down who announces.
    fn note(&mut self, now: Moment, me: SocketAddr, announce: &Announce) {
        let torrent = self.torrents.entry(announce.info_hash).or_default();
        let before = torrent.remove(me);
        if let Some(before) = &before {
            self.heard.remove(&(before.seen, announce.info_hash, me));
        }
        let is_welcome = before.is_some() || torrent.places.len() < self.config.most_peers;
        if announce.event != Event::Stopped && is_welcome {
            torrent.insert(announce.left == 0, Peer { addr: me, id: announce.peer_id, seen: now });
            self.heard.insert((now, announce.info_hash, me));
        }
        torrent.completed += u32::from(announce.event == Event::Completed);
    }

    fn peers_for(&mut self, me: SocketAddr, announce: &Announce) -> Vec<Given> {
        if announce.event == Event::Stopped {
            return Vec::new();
        }
        if self.config.made_up > 0 {
            let count = self.config.made_up.min(MOST_BELIEVED);
            return (0..count).map(|_| (nobody(&mut self.random), None)).collect();
        }
        let wanted = (announce.wanted as usize).min(self.config.given).min(MOST_BELIEVED);
        let torrent = self.torrents.get(&announce.info_hash);
        torrent.map_or_else(Vec::new, |torrent| torrent.some(me, announce.left == 0, wanted, &mut self.random))
    }

    #[cfg(test)]
    pub(super) fn torrents(&self) -> usize {
        self.torrents.len()
    }
}

fn is_over(seen: Moment, patience: Duration, now: Moment) -> bool {
    now.since(seen) >= patience
}

/// An address where nobody is.
fn nobody(random: &mut Rng) -> SocketAddr {
    let ip = Ipv4Addr::from_bits(NOWHERE + random.u32(..NOWHERE_SIZE));
    SocketAddr::new(ip.into(), random.u16(1..))
}

#[derive(Debug)]
struct Peer {
    addr: SocketAddr,
    id: PeerId,
    seen: Moment,
}

/// Where a peer is: among the seeds or the leeches, and its number there.
#[derive(Debug, Clone, Copy)]
struct Place {
    complete: bool,
    number: usize,
}

/// The peers of a torrent, by number and by address.
#[derive(Debug, Default)]
struct Torrent {
    seeds: Vec<Peer>,
    leeches: Vec<Peer>,
    places: BTreeMap<SocketAddr, Place>,
    completed: u32,
}

impl Torrent {
    fn counts(&self) -> Counts {
        Counts { seeds: self.seeds.len() as u32, leeches: self.leeches.len() as u32, completed: self.completed }
    }

    fn among(&mut self, complete: bool) -> &mut Vec<Peer> {
        if complete { &mut self.seeds } else { &mut self.leeches }
    }

    /// Adds a peer that is not there.
    fn insert(&mut self, complete: bool, peer: Peer) {
        let addr = peer.addr;
        let among = self.among(complete);
        among.push(peer);
        let number = among.len() - 1;
        self.places.insert(addr, Place { complete, number });
    }

    /// Removes a peer; the last of its kind gets its number.
    fn remove(&mut self, addr: SocketAddr) -> Option<Peer> {
        let Place { complete, number } = self.places.remove(&addr)?;
        let among = self.among(complete);
        let peer = among.swap_remove(number);
        if let Some(moved) = among.get(number).map(|moved| moved.addr) {
            self.places.insert(moved, Place { complete, number });
        }
        Some(peer)
    }

    /// Some of those that this peer has a use for, each as likely as the others. A seed has none for seeds.
    fn some(&self, me: SocketAddr, complete: bool, wanted: usize, random: &mut Rng) -> Vec<Given> {
        let seeds = if complete { &[] } else { &self.seeds[..] };
        let mine = self.places.get(&me).filter(|place| !place.complete).map(|place| place.number);
        let others = self.leeches.len() + seeds.len() - usize::from(mine.is_some());
        let drawn = draw(others, wanted.min(others), random).into_iter();
        // Numbers go on from the leeches to the seeds, without the one that asks.
        let numbers = drawn.map(|number| number + usize::from(mine.is_some_and(|mine| number >= mine)));
        let peers =
            numbers.filter_map(|number| self.leeches.get(number).or_else(|| seeds.get(number - self.leeches.len())));
        peers.map(|peer| (peer.addr, Some(peer.id))).collect()
    }
}

/// So many different numbers below `below`, each as likely as the others, in any order (Floyd's way: it costs nothing to
/// draw a few out of many).
fn draw(below: usize, count: usize, random: &mut Rng) -> Vec<usize> {
    let mut drawn = BTreeSet::new();
    for last in below - count..below {
        if !drawn.insert(random.usize(..=last)) {
            drawn.insert(last);
        }
    }
    let mut drawn: Vec<_> = drawn.into_iter().collect();
    random.shuffle(&mut drawn);
    drawn
}
