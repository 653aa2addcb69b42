//! The peers that others announced to us: bounded, with a share for each host, gone after half an hour (BEP 5, 33, 51).
//!
//! A swarm holds an IP address once, as BEP 33 wants it; on loopback an address with its port. When there are too
//! many peers or swarms, those go that were announced longest ago.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use castanet_core::Moment;
use fastrand::Rng;

use super::{Bloom, NodeId, Samples, limits::Host};

/// How long a peer is kept after it announced itself. Clients come back after 15 to 30 minutes.
pub(super) const PEER_LIFE: Duration = Duration::from_secs(30 * 60);
/// Swarms that are kept.
pub(super) const MOST_SWARMS: usize = 8192;
/// Peers of a swarm that are kept; the filters of BEP 33 count well up to 6,000.
pub(super) const MOST_PEERS_OF_A_SWARM: usize = 1000;
/// Peers of all swarms that are kept: about ten MiB.
pub(super) const MOST_STORED_PEERS: usize = 65_536;
/// Swarms in which one host is kept: more are not near any one node's id.
pub(super) const MOST_SWARMS_OF_A_HOST: usize = 256;
/// Peers of one IPv6 network in one swarm: a home may have several, one host could have all.
pub(super) const MOST_PEERS_OF_A_NETWORK: usize = 8;
/// Info-hashes of a sample (BEP 51); with nodes of both families they fit a datagram.
pub(super) const SAMPLE_SIZE: usize = 32;
/// How long a sample stays the same (BEP 51).
pub(super) const SAMPLE_LIFE: Duration = Duration::from_secs(10 * 60);

/// The store.
#[derive(Debug, Default)]
pub(super) struct Peers {
    swarms: BTreeMap<NodeId, Swarm>,
    /// All swarms by their latest announce.
    by_age: BTreeSet<(Moment, NodeId)>,
    /// How many peers each host has in the store.
    shares: BTreeMap<Host, usize>,
    total: usize,
    sample: Vec<NodeId>,
    /// When the sample is to be drawn again.
    sample_until: Moment,
}

#[derive(Debug, Default)]
struct Swarm {
    announced: Moment,
    /// By address; the port is 0 except on loopback.
    peers: BTreeMap<SocketAddr, Peer>,
}

#[derive(Debug, Clone, Copy)]
struct Peer {
    addr: SocketAddr,
    seed: bool,
    announced: Moment,
    /// Whose share it counts for.
    host: Host,
}

impl Peer {
    fn is_alive(&self, now: Moment) -> bool {
        now < self.announced + PEER_LIFE
    }
}

/// The host has its share of the store.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ShareUsedUp;

impl Peers {
    /// Keeps a peer that `host` announced.
    pub(super) fn announce(
        &mut self,
        info_hash: NodeId,
        addr: SocketAddr,
        seed: bool,
        host: Host,
        now: Moment,
    ) -> Result<(), ShareUsedUp> {
        self.expire(now);
        let key = key(addr);
        let swarm = self.swarms.get(&info_hash);
        let before = swarm.and_then(|swarm| swarm.peers.get(&key)).map(|peer| peer.host);
        let crowded = before.is_none() && swarm.is_some_and(|swarm| swarm.is_crowded(addr.ip()));
        let share = self.shares.get(&host).copied().unwrap_or_default();
        if crowded || before != Some(host) && share >= MOST_SWARMS_OF_A_HOST {
            return Err(ShareUsedUp);
        }
        let swarm = self.swarms.entry(info_hash).or_default();
        self.by_age.remove(&(swarm.announced, info_hash));
        self.by_age.insert((now, info_hash));
        swarm.announced = now;
        match swarm.peers.insert(key, Peer { addr, seed, announced: now, host }) {
            Some(before) => give_back(&mut self.shares, before.host),
            None => self.total += 1,
        }
        *self.shares.entry(host).or_default() += 1;
        self.trim(info_hash, now);
        Ok(())
    }

    /// Drops peers of this swarm that are dead, and the oldest of what is too much.
    fn trim(&mut self, info_hash: NodeId, now: Moment) {
        let swarm = self.swarms.entry(info_hash).or_default();
        let too_many = swarm.peers.len() > MOST_PEERS_OF_A_SWARM;
        let oldest = swarm.oldest().filter(|_| too_many);
        let gone = swarm.peers.extract_if(.., |key, peer| !peer.is_alive(now) || oldest == Some(*key));
        for (_, peer) in gone {
            give_back(&mut self.shares, peer.host);
            self.total -= 1;
        }
        while self.swarms.len() > MOST_SWARMS {
            self.drop_oldest_swarm();
        }
        while self.total > MOST_STORED_PEERS {
            let Some((_, info_hash)) = self.by_age.first() else { return };
            let swarm = self.swarms.get_mut(info_hash).filter(|swarm| swarm.peers.len() > 1);
            match swarm.and_then(|swarm| swarm.peers.remove(&swarm.oldest()?)) {
                Some(peer) => {
                    give_back(&mut self.shares, peer.host);
                    self.total -= 1;
                }
                None => self.drop_oldest_swarm(),
            }
        }
    }

    /// Drops swarms of which nobody has announced anything for long.
    pub(super) fn expire(&mut self, now: Moment) {
        while self.by_age.first().is_some_and(|(announced, _)| *announced + PEER_LIFE <= now) {
            self.drop_oldest_swarm();
        }
    }

    fn drop_oldest_swarm(&mut self) {
        let Some((_, info_hash)) = self.by_age.pop_first() else { return };
        for peer in self.swarms.remove(&info_hash).into_iter().flat_map(|swarm| swarm.peers.into_values()) {
            give_back(&mut self.shares, peer.host);
            self.total -= 1;
        }
    }

    fn alive(&self, info_hash: NodeId, now: Moment) -> impl Iterator<Item = &Peer> {
        let peers = self.swarms.get(&info_hash).into_iter().flat_map(|swarm| swarm.peers.values());
        peers.filter(move |peer| peer.is_alive(now))
    }

    /// Some peers of one family, at most `most`, by lot; without seeds if `noseed`.
    pub(super) fn some(
        &self,
        info_hash: NodeId,
        (v6, noseed): (bool, bool),
        most: usize,
        rng: &mut Rng,
        now: Moment,
    ) -> Vec<SocketAddr> {
        let fitting = self.alive(info_hash, now).filter(|peer| peer.addr.is_ipv6() == v6 && !(noseed && peer.seed));
        rng.choose_multiple(fitting.map(|peer| peer.addr), most)
    }

    /// All peers of a swarm that are in the store; without seeds if `noseed`.
    pub(super) fn all(&self, info_hash: NodeId, noseed: bool) -> Vec<SocketAddr> {
        let peers = self.swarms.get(&info_hash).into_iter().flat_map(|swarm| swarm.peers.values());
        peers.filter(|peer| !(noseed && peer.seed)).map(|peer| peer.addr).collect()
    }

    /// Seeds and others of a swarm; `None` if there are none (BEP 33).
    pub(super) fn filters(&self, info_hash: NodeId, now: Moment) -> Option<(Bloom, Bloom)> {
        let mut filters = None;
        for peer in self.alive(info_hash, now) {
            let (seeds, others): &mut (Bloom, Bloom) = filters.get_or_insert_default();
            if peer.seed { seeds } else { others }.insert(peer.addr.ip());
        }
        filters
    }

    /// Some info-hashes; the same ones until the interval is over (BEP 51).
    pub(super) fn sample(&mut self, rng: &mut Rng, now: Moment) -> Samples {
        let could_be_larger = self.sample.len() < self.swarms.len().min(SAMPLE_SIZE);
        if now >= self.sample_until || could_be_larger {
            self.sample = rng.choose_multiple(self.swarms.keys().copied(), SAMPLE_SIZE);
            self.sample_until = now + SAMPLE_LIFE;
        }
        Samples {
            interval: Duration::from_secs(self.sample_until.since(now).as_secs()),
            total: u32::try_from(self.swarms.len()).unwrap_or(u32::MAX),
            hashes: self.sample.clone(),
        }
    }

    /// Swarms and peers in the store.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.swarms.len(), self.total)
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.swarms.len() <= MOST_SWARMS && self.total <= MOST_STORED_PEERS);
        assert_eq!(self.total, self.swarms.values().map(|swarm| swarm.peers.len()).sum::<usize>());
        assert_eq!(self.total, self.shares.values().sum::<usize>());
        let ages: BTreeSet<_> = self.swarms.iter().map(|(hash, swarm)| (swarm.announced, *hash)).collect();
        assert_eq!(ages, self.by_age);
        assert!(self.shares.values().all(|share| (1..=MOST_SWARMS_OF_A_HOST).contains(share)));
        assert!(self.swarms.values().all(|swarm| swarm.peers.len() <= MOST_PEERS_OF_A_SWARM));
    }
}

impl Swarm {
    fn oldest(&self) -> Option<SocketAddr> {
        self.peers.iter().min_by_key(|(_, peer)| peer.announced).map(|(key, _)| *key)
    }

    /// Does the network of this address have its share of the swarm?
    fn is_crowded(&self, ip: IpAddr) -> bool {
        let IpAddr::V6(ip) = ip else { return false };
        let host_part = u128::from(u64::MAX);
        let end = |bits: u128| SocketAddr::new(Ipv6Addr::from_bits(bits).into(), 0);
        let network = end(ip.to_bits() & !host_part)..=end(ip.to_bits() | host_part);
        !ip.is_loopback() && self.peers.range(network).count() >= MOST_PEERS_OF_A_NETWORK
    }
}

fn key(addr: SocketAddr) -> SocketAddr {
    if addr.ip().is_loopback() { addr } else { SocketAddr::new(addr.ip(), 0) }
}

fn give_back(shares: &mut BTreeMap<Host, usize>, host: Host) {
    if let Some(share) = shares.get_mut(&host) {
        *share -= 1;
        if *share == 0 {
            shares.remove(&host);
        }
    }
}

#[cfg(test)]
mod tests;
