//! Who is banned from a swarm, and who is on the way there.
//!
//! A ban is by IP address, but on loopback by address and port, or one bad peer would shut out all others of the
//! machine. There a bad peer could come back from another port, so its peer id is banned as well.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
};

use castanet_core::PeerId;

/// Bans remembered; beyond, the oldest is forgotten.
pub const MOST_BANS: usize = 4096;
/// Suspects remembered; beyond, the one with the fewest strikes is forgotten.
pub const MOST_SUSPECTS: usize = 1024;
/// Strikes that make a ban: bad pieces to which others contributed too, or broken rules.
pub const STRIKES: u32 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Ip(IpAddr),
    Addr(SocketAddr),
    Peer(PeerId),
}

impl Who {
    fn at(addr: SocketAddr) -> Self {
        if addr.ip().is_loopback() { Self::Addr(addr) } else { Self::Ip(addr.ip()) }
    }
}

#[derive(Debug, Default)]
pub(super) struct Bans {
    banned: BTreeSet<Who>,
    order: VecDeque<Who>,
    strikes: BTreeMap<Who, u32>,
}

impl Bans {
    /// Is whoever is at `addr` banned?
    pub(super) fn holds(&self, addr: SocketAddr) -> bool {
        self.banned.contains(&Who::Ip(addr.ip())) || self.banned.contains(&Who::Addr(addr))
    }
    pub(super) fn holds_peer(&self, id: PeerId) -> bool {
        self.banned.contains(&Who::Peer(id))
    }
    /// How many addresses are banned, peer ids aside.
    pub(super) fn addresses(&self) -> usize {
        self.banned.iter().filter(|who| !matches!(who, Who::Peer(_))).count()
    }
    /// Bans whoever is at `addr`.
    pub(super) fn add(&mut self, addr: SocketAddr) {
        self.insert(Who::at(addr));
    }
    /// Bans this address and port alone.
    pub(super) fn add_exactly(&mut self, addr: SocketAddr) {
        self.insert(Who::Addr(addr));
    }
    pub(super) fn add_ip(&mut self, ip: IpAddr) {
        self.insert(Who::Ip(ip));
    }
    /// Bans a peer id, which anyone may claim: only where addresses tell nothing.
    pub(super) fn add_peer(&mut self, id: PeerId) {
        self.insert(Who::Peer(id));
    }

    fn insert(&mut self, who: Who) {
        self.strikes.remove(&who);
        if self.banned.insert(who) {
            self.order.push_back(who);
        }
        if self.order.len() > MOST_BANS
            && let Some(oldest) = self.order.pop_front()
        {
            self.banned.remove(&oldest);
        }
    }

    /// Counts a strike; true if it is one too many.
    pub(super) fn strike(&mut self, addr: SocketAddr) -> bool {
        if self.strikes.len() >= MOST_SUSPECTS
            && !self.strikes.contains_key(&Who::at(addr))
            && let Some(least) = self.strikes.iter().min_by_key(|(_, strikes)| **strikes).map(|(who, _)| *who)
        {
            self.strikes.remove(&least);
        }
        let strikes = self.strikes.entry(Who::at(addr)).or_default();
        *strikes += 1;
        *strikes >= STRIKES
    }

    /// Takes a strike back.
    pub(super) fn forgive(&mut self, addr: SocketAddr) {
        let who = Who::at(addr);
        if let Some(strikes) = self.strikes.get_mut(&who) {
            *strikes -= 1;
            if *strikes == 0 {
                self.strikes.remove(&who);
            }
        }
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.order.len() == self.banned.len() && self.banned.len() <= MOST_BANS);
        assert!(self.strikes.len() <= MOST_SUSPECTS && self.strikes.values().all(|strikes| *strikes > 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_ban_is_by_ip_but_by_port_on_loopback() {
        let mut bans = Bans::default();
        bans.add(addr("8.8.8.8:1"));
        bans.add(addr("127.0.0.1:1"));
        assert!(bans.holds(addr("8.8.8.8:2")));
        assert!(bans.holds(addr("127.0.0.1:1")));
        assert!(!bans.holds(addr("127.0.0.1:2")));
    }

    #[test]
    fn memory_is_bounded() {
        let mut bans = Bans::default();
        let nth = |n: u32| SocketAddr::new(std::net::Ipv4Addr::from(0x0800_0000 + n).into(), 1);
        for n in 0..3 * MOST_BANS as u32 {
            bans.add(nth(n));
            bans.strike(nth(n + 1_000_000));
        }
        bans.check_invariants();
        assert!(!bans.holds(nth(0)) && bans.holds(nth(3 * MOST_BANS as u32 - 1)));
    }

    #[test]
    fn strikes_add_up_and_are_forgiven() {
        let mut bans = Bans::default();
        let suspect = addr("8.8.8.8:1");
        for _ in 0..20 {
            assert!(!bans.strike(suspect));
            bans.forgive(suspect);
        }
        let verdicts: Vec<bool> = (0..STRIKES).map(|_| bans.strike(suspect)).collect();
        assert_eq!(verdicts, [false, false, false, true]);
    }
}
