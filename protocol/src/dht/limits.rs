//! How much we answer, to whom: a spoofed victim of ours gets little, and a flood costs us little (BEP 5 has no defence).
//!
//! An answer can be ten times as long as its query, and the query's address may be forged. So every host has an
//! allowance of bytes, and there is one for all. Beyond it is silence. On loopback nothing is forged: there every
//! port is a host of its own, with an allowance that only an endless loop exceeds.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use castanet_core::Moment;

/// Bytes a second that one host is answered with, however it asks: a drop beside what a forger could send itself.
pub const HOST_RATE: u64 = 4 << 10;
/// Bytes a second for all hosts together; a busy node of the public network sends half of it.
pub const TOTAL_RATE: u64 = 64 << 10;
/// Bytes a second for a port of this machine; the allowance for all does not count there.
pub(super) const LOCAL_RATE: u64 = 16 << 20;
/// For how long an allowance is saved up: a busy look-up or a hundred announces come at once.
pub(super) const SAVED_UP: Duration = Duration::from_secs(8);
/// Hosts that are remembered. Those who have saved up everything again are forgotten; beyond, strangers are not answered.
pub(super) const MOST_HOSTS: usize = 4096;

/// Who can have one allowance and one share of a store: an IPv4 address, or an IPv6 network, of which one host has all
/// addresses. On loopback, where all hosts look alike, an address with its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Host {
    Local(SocketAddr),
    V4([u8; 4]),
    /// The first 64 bits.
    V6(u64),
}

impl Host {
    pub(super) fn of(addr: SocketAddr) -> Self {
        match addr.ip().to_canonical() {
            ip if ip.is_loopback() => Self::Local(addr),
            IpAddr::V4(ip) => Self::V4(ip.octets()),
            IpAddr::V6(ip) => Self::V6((ip.to_bits() >> 64) as u64),
        }
    }

    fn rate(self, usual: u64) -> u64 {
        if matches!(self, Self::Local(_)) { LOCAL_RATE } else { usual }
    }
}

/// The allowances. Each is the moment at which all that was taken will have been earned again.
#[derive(Debug)]
pub(super) struct Limits {
    host_rate: u64,
    total_rate: u64,
    total: Moment,
    hosts: BTreeMap<Host, Moment>,
}

impl Limits {
    /// In bytes a second, for a host and for all.
    pub(super) fn new(host_rate: u64, total_rate: u64) -> Self {
        Self { host_rate, total_rate, total: Moment::ZERO, hosts: BTreeMap::new() }
    }

    /// May this host be answered?
    pub(super) fn admit(&mut self, host: Host, now: Moment) -> bool {
        let within = |earned: Moment| earned <= now + SAVED_UP;
        if !matches!(host, Host::Local(_)) && !within(self.total) {
            return false;
        }
        if self.hosts.len() >= MOST_HOSTS && !self.hosts.contains_key(&host) {
            self.hosts.retain(|_, earned| *earned > now);
        }
        match self.hosts.get(&host) {
            Some(earned) => within(*earned),
            None => self.hosts.len() < MOST_HOSTS,
        }
    }

    /// It was, with so many bytes.
    pub(super) fn charge(&mut self, host: Host, bytes: usize, now: Moment) {
        if !matches!(host, Host::Local(_)) {
            take(&mut self.total, bytes, self.total_rate, now);
        }
        take(self.hosts.entry(host).or_insert(now), bytes, host.rate(self.host_rate), now);
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.hosts.len() <= MOST_HOSTS);
    }
}

fn take(earned: &mut Moment, bytes: usize, rate: u64, now: Moment) {
    let nanos = (bytes as u64).saturating_mul(1_000_000_000) / rate.max(1);
    *earned = now.max(*earned) + Duration::from_nanos(nanos);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        Host::of(text.parse().unwrap())
    }
    /// Bytes that a host gets in so many seconds, asking a hundred times a second for 1,000 bytes.
    fn flood(limits: &mut Limits, host: impl Fn(u64) -> Host, seconds: u64) -> u64 {
        let mut sent = 0;
        for at in 0..seconds * 100 {
            let (host, now) = (host(at), Moment(at * 10_000_000));
            if limits.admit(host, now) {
                limits.charge(host, 1000, now);
                sent += 1000;
            }
            limits.check_invariants();
        }
        sent
    }

    #[test]
    fn a_forged_address_is_sent_what_it_saved_and_its_rate() {
        let mut limits = Limits::new(HOST_RATE, TOTAL_RATE);
        let sent = flood(&mut limits, |port| Host::of(SocketAddr::new([9, 9, 9, 9].into(), port as u16)), 60);
        assert!((HOST_RATE * 60..=HOST_RATE * 68 + 1000).contains(&sent), "{sent}");
    }

    #[test]
    fn many_forged_addresses_are_sent_what_is_for_all() {
        let mut limits = Limits::new(HOST_RATE, TOTAL_RATE);
        let sent = flood(&mut limits, |n| Host::V4((n as u32).to_be_bytes()), 60);
        assert!((TOTAL_RATE * 60..=TOTAL_RATE * 68 + 1000).contains(&sent), "{sent}");
    }

    #[test]
    fn this_machine_works_at_full_speed() {
        let mut limits = Limits::new(1, 1);
        let sent = flood(&mut limits, |port| Host::of(SocketAddr::new([127, 0, 0, 1].into(), port as u16 % 30)), 60);
        assert_eq!(sent, 6_000_000);
    }

    #[test]
    fn hosts_are_told_apart() {
        assert_eq!(host("1.2.3.4:1"), host("1.2.3.4:2"));
        assert_eq!(host("1.2.3.4:1"), host("[::ffff:1.2.3.4]:2"));
        assert_eq!(host("[2001:db8::1]:1"), host("[2001:db8:0:0:ff::2]:2"));
        assert_ne!(host("[2001:db8::1]:1"), host("[2001:db8:0:1::1]:1"));
        assert_ne!(host("127.0.0.1:1"), host("127.0.0.1:2"));
        assert_ne!(host("[::1]:1"), host("[::1]:2"));
    }

    #[test]
    fn memory_is_bounded_and_strangers_are_admitted_again() {
        let mut limits = Limits::new(1, u64::MAX);
        for n in 0..2 * MOST_HOSTS as u32 {
            let host = Host::V4(n.to_be_bytes());
            let admitted = limits.admit(host, Moment::ZERO);
            assert_eq!(admitted, n < MOST_HOSTS as u32);
            if admitted {
                limits.charge(host, 1, Moment::ZERO);
            }
        }
        assert!(limits.admit(host("200.1.1.1:1"), Moment::from_secs(2)));
        assert!(limits.hosts.is_empty());
    }
}
