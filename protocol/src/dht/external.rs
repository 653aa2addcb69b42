//! Who we are to others: our external address by votes, and node ids that are bound to an address (BEP 42).
//!
//! An id must begin with a hash of its node's address, so whoever wants many nodes near a target needs many addresses.
//! Loopback and private addresses are exempt, in both directions.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
};

use castanet_core::addr::is_local;
use fastrand::Rng;

use super::NodeId;

/// Votes that are remembered, one for each network of voters; the oldest is forgotten first.
pub(super) const MOST_VOTES: usize = 32;
/// Voters of different networks that must agree before we believe them.
pub(super) const QUORUM: usize = 4;

/// Can the address be reached from the Internet? If not, ids need not fit and several nodes may share it.
pub(super) fn is_public(ip: IpAddr) -> bool {
    !is_local(ip) && !ip.is_unspecified()
}

/// What one party is likely to own: the /24 of an IPv4, the /64 of an IPv6 address.
pub(super) fn network(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(ip) => u64::from(ip.to_bits() >> 8),
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
    }
}

/// Does the id belong to the address (BEP 42)? Any id belongs to an address that is not public.
pub(super) fn fits(id: &NodeId, ip: IpAddr) -> bool {
    let [a, b, c, ..] = id.0;
    !is_public(ip) || (u32::from_be_bytes([a, b, c, 0]) ^ prefix(ip, id.0[19])) >> 11 == 0
}

/// A random id that belongs to the address.
pub(super) fn id_for(ip: IpAddr, rng: &mut Rng) -> NodeId {
    let mut id = random_id(rng);
    if is_public(ip) {
        let [a, b, c, _] = prefix(ip, id.0[19]).to_be_bytes();
        (id.0[0], id.0[1], id.0[2]) = (a, b, c & 0xf8 | id.0[2] & 0x07);
    }
    id
}

/// A random id.
pub(super) fn random_id(rng: &mut Rng) -> NodeId {
    let mut id = NodeId([0; 20]);
    rng.fill(&mut id.0);
    id
}

/// Of its 32 bits the first 21 count.
fn prefix(ip: IpAddr, last: u8) -> u32 {
    let r = last & 7;
    match ip {
        IpAddr::V4(ip) => crc32c(&((ip.to_bits() & 0x030f_3fff) | u32::from(r) << 29).to_be_bytes()),
        IpAddr::V6(ip) => {
            let high = (ip.to_bits() >> 64) as u64;
            crc32c(&((high & 0x0103_070f_1f3f_7fff) | u64::from(r) << 61).to_be_bytes())
        }
    }
}

/// CRC-32C (Castagnoli) of a few bytes, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc: u32, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

/// Counts what nodes say our address is. Each network of voters has one vote, its latest.
#[derive(Debug, Default)]
pub(super) struct Votes(VecDeque<(u64, SocketAddr)>);

impl Votes {
    /// Counts a vote. Only public nodes can know a public address; others are not heard.
    pub(super) fn cast(&mut self, voter: SocketAddr, ours: SocketAddr) {
        let comparable = voter.is_ipv4() == ours.is_ipv4() && is_public(voter.ip()) && is_public(ours.ip());
        if !comparable || ours.ip().is_multicast() {
            return;
        }
        let voter = network(voter.ip());
        self.0.retain(|(other, _)| *other != voter);
        if self.0.len() == MOST_VOTES {
            self.0.pop_front();
        }
        self.0.push_back((voter, ours));
    }

    /// The address that the majority agrees upon, and at least [`QUORUM`]. A gateway may give each voter another port;
    /// this is the latest.
    pub(super) fn winner(&self) -> Option<SocketAddr> {
        let latest = self.0.back()?;
        let votes = self.0.iter().filter(|(_, ours)| ours.ip() == latest.1.ip()).count();
        (votes >= QUORUM && votes * 2 > self.0.len()).then_some(latest.1)
    }

    /// Forgets all: the network is another one.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_bep_42() {
        for (ip, rand, expected) in [
            ("124.31.75.21", 1, [0x5f, 0xbf, 0xbf]),
            ("21.75.31.124", 86, [0x5a, 0x3c, 0xe9]),
            ("65.23.51.170", 22, [0xa5, 0xd4, 0x32]),
            ("84.124.73.14", 65, [0x1b, 0x03, 0x21]),
            ("43.213.53.83", 90, [0xe5, 0x6f, 0x6c]),
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            let mut id = NodeId([rand; 20]);
            id.0[..3].copy_from_slice(&expected);
            assert!(fits(&id, ip), "{ip}");
            id.0[2] ^= 7;
            assert!(fits(&id, ip), "three bits of the third byte are free");
            id.0[2] ^= 8;
            assert!(!fits(&id, ip), "{ip}");
        }
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn ids_are_made_to_fit_and_home_networks_are_exempt() {
        let mut rng = Rng::with_seed(1);
        for ip in ["8.8.4.4", "2001:db8::1", "127.0.0.1", "192.168.1.1", "10.0.0.1", "fe80::1"] {
            let ip = ip.parse().unwrap();
            assert!((0..20).all(|_| fits(&id_for(ip, &mut rng), ip)), "{ip}");
            let random = (0..20).filter(|_| fits(&random_id(&mut rng), ip)).count();
            assert_eq!(random, if is_public(ip) { 0 } else { 20 }, "{ip}");
        }
    }

    #[test]
    fn the_majority_of_networks_decides_on_our_address() {
        let voter = |n: u8| SocketAddr::from(([8, 8, n, 1], 1));
        let ours: SocketAddr = "5.6.7.8:9".parse().unwrap();
        let mut votes = Votes::default();
        for n in 0..3 {
            votes.cast(voter(n), ours);
            votes.cast(SocketAddr::from(([8, 8, n, 2], 1)), ours);
            votes.cast("127.0.0.1:4".parse().unwrap(), ours);
            votes.cast(voter(9), "127.0.0.1:4".parse().unwrap());
        }
        assert_eq!(votes.winner(), None, "three networks, however many addresses");
        votes.cast(voter(3), "5.6.7.8:10".parse().unwrap());
        assert_eq!(votes.winner(), Some("5.6.7.8:10".parse().unwrap()));
        // Liars in one network have one vote; in many, they need the majority.
        for n in 0..200 {
            votes.cast(SocketAddr::from(([9, 9, 9, n], 1)), "6.6.6.6:6".parse().unwrap());
        }
        votes.cast(voter(0), ours);
        assert_eq!(votes.winner(), Some(ours));
        for n in 0..=MOST_VOTES as u8 {
            votes.cast(voter(n), ours);
        }
        assert_eq!(votes.0.len(), MOST_VOTES);
    }
}
