//! Connections of a [`Swarm`], from their opening to their end: limits, oneself, duplicates, bad data.
//!
//! Two peers may dial each other at the same time. Both must then close the same one of the two connections: the one
//! that the peer with the larger id has opened. If one peer has opened both, it alone decides, and the other end waits
//! for it (but not for more than [`MOST_TWINS`], one of which may be dead without our knowing). Peer ids are public, so
//! nobody is closed for a stranger at another address who claims the same id.

use std::net::{IpAddr, SocketAddr};

use castanet_core::{
    Moment, PeerId, PeerKey, PluginName,
    addr::{canonical, is_dialable},
    seams::discovery::{PeerCandidate, PeerFate},
};

use super::{
    CloseKind, IDLE, LASTING, LONGEST_RETRY, MOST_PAST, NO_PLACE_RETRY, Opened, Reason, State, Swarm, USELESS_RETRY,
    Verdict,
};

/// Connections that one peer may have opened to us at once.
pub const MOST_TWINS: usize = 2;
/// The name under which peers that came by themselves are counted ([`super::Worth`]) and, once they have said where they
/// listen, candidates.
pub const INCOMING: &str = "incoming";

/// An open connection.
#[derive(Debug)]
pub(super) struct Connected {
    addr: SocketAddr,
    inbound: bool,
    peer_id: Option<PeerId>,
    /// The candidate whose state is this connection.
    candidate: Option<SocketAddr>,
    since: Moment,
    /// When it last carried a block.
    active: Moment,
    /// Bytes of blocks it gave us.
    gave: u64,
    /// It has everything.
    pub(super) seed: bool,
    /// It was told to go.
    refused: Option<Reason>,
}

impl Swarm {
    /// A connection is open. If it is refused it is not counted, and [`Self::closed`] need not be called.
    pub fn connected(&mut self, opened: Opened, now: Moment) -> Verdict {
        let addr = canonical(opened.addr);
        let dialled = !opened.inbound && self.end_dial(addr);
        if let Some(reason) = self.refusal(addr, opened.key) {
            if dialled {
                self.rest_until(addr, now + NO_PLACE_RETRY);
            }
            return Verdict::Refuse(reason);
        }
        // Another connection's candidate stays its own; a dial under way will tell by itself what becomes of it.
        let free = self.candidates.get(addr).is_some_and(|c| matches!(c.state, State::Ready | State::Resting(_)));
        let candidate = (dialled || free).then_some(addr);
        *self.per_ip.entry(addr.ip()).or_default() += 1;
        let connection = Connected {
            addr,
            inbound: opened.inbound,
            peer_id: None,
            candidate,
            since: now,
            active: now,
            gave: 0,
            seed: false,
            refused: None,
        };
        self.connections.insert(opened.key, connection);
        if candidate.is_some() {
            self.candidates.change(addr, |candidate| {
                (candidate.state, candidate.failed) = (State::Connected(opened.key), None);
            });
            self.report(addr, PeerFate::Connected);
        } else {
            self.worth.came(addr, self.candidates.sources(addr), now);
        }
        Verdict::Accept
    }

    fn refusal(&self, addr: SocketAddr, key: PeerKey) -> Option<Reason> {
        if self.bans.holds(addr) {
            Some(Reason::Banned)
        } else if self.connections.contains_key(&key) {
            Some(Reason::Duplicate)
        } else if self.connections.len() >= self.config.most_connections {
            Some(Reason::Full)
        } else {
            self.is_crowded(addr.ip()).then_some(Reason::TooManyPerIp)
        }
    }

    /// The other end has told its peer id; only the first time counts. A connection that is refused, and those to be replaced, are closed by the
    /// caller, who then calls [`Self::closed`] with [`CloseKind::Clean`].
    pub fn handshaken(&mut self, key: PeerKey, id: PeerId) -> Verdict {
        let Some(peer) = self.connections.get_mut(&key) else { return Verdict::Accept };
        if peer.peer_id.is_some() {
            return peer.refused.map_or(Verdict::Accept, Verdict::Refuse);
        }
        peer.peer_id = Some(id);
        let (addr, candidate, inbound) = (peer.addr, peer.candidate, peer.inbound);
        if id == self.me {
            if !inbound {
                self.disown(addr);
            }
            return self.refuse(key, Reason::Oneself);
        }
        if self.bans.holds_peer(id) {
            return self.refuse(key, Reason::Banned);
        }
        if let Some(candidate) = candidate {
            self.candidates.change(candidate, |candidate| candidate.peer_id = Some(id));
            self.report(candidate, PeerFate::Handshaken);
        } else {
            self.worth.fared(addr, self.candidates.sources(addr), PeerFate::Handshaken);
        }
        let by_us_stays = self.me < id;
        let (same, mut opposite): (Vec<PeerKey>, Vec<PeerKey>) =
            self.twins(id).partition(|twin| self.connections[twin].inbound == inbound);
        opposite.retain(|twin| same_host(self.connections[twin].addr.ip(), addr.ip()));
        let spare = if inbound { same.len() >= MOST_TWINS } else { !same.is_empty() };
        if spare || (!opposite.is_empty() && by_us_stays == inbound) {
            return self.refuse(key, Reason::Duplicate);
        }
        self.ids.insert((id, key));
        if opposite.is_empty() {
            return Verdict::Accept;
        }
        for twin in &opposite {
            self.refuse(*twin, Reason::Duplicate);
        }
        Verdict::Replace(opposite)
    }

    /// Is the peer of this id connected from this host?
    pub(super) fn is_here(&self, id: PeerId, ip: IpAddr) -> bool {
        self.twins(id).any(|twin| same_host(self.connections[&twin].addr.ip(), ip))
    }

    /// Connections to the peer of this id that may stay.
    fn twins(&self, id: PeerId) -> impl Iterator<Item = PeerKey> + '_ {
        self.ids.range((id, PeerKey(0))..=(id, PeerKey(u64::MAX))).map(|(_, key)| *key)
    }

    fn refuse(&mut self, key: PeerKey, reason: Reason) -> Verdict {
        if let Some(peer) = self.connections.get_mut(&key) {
            peer.refused = Some(reason);
            if let Some(id) = peer.peer_id {
                self.ids.remove(&(id, key));
            }
        }
        Verdict::Refuse(reason)
    }

    /// A peer that dialled us says on which port it listens (BEP 10), so that we can find it again.
    pub fn listens(&mut self, key: PeerKey, port: u16, now: Moment) {
        let Some(peer) = self.connections.get(&key).filter(|peer| peer.inbound && peer.candidate.is_none()) else {
            return;
        };
        let (mut addr, id) = (peer.addr, peer.peer_id);
        addr.set_port(port);
        if !is_dialable(addr) || self.own.contains(&addr) {
            return;
        }
        if self.candidates.get(addr).is_none() {
            let found = PeerCandidate { addr, peer_id: id, instance: INCOMING.into() };
            self.found(&PluginName::from(INCOMING), vec![found], now);
        }
        let free = self.candidates.get(addr).is_some_and(|c| matches!(c.state, State::Ready | State::Resting(_)));
        if free {
            self.candidates.change(addr, |candidate| {
                (candidate.state, candidate.failed) = (State::Connected(key), None);
                candidate.peer_id = id;
            });
            if let Some(peer) = self.connections.get_mut(&key) {
                peer.candidate = Some(addr);
                self.worth.listens(peer.addr, addr, self.candidates.sources(addr));
            }
        }
    }

    /// A connected peer has everything, as its bitfield says. Refused if so have we.
    pub fn is_seed(&mut self, key: PeerKey) -> Verdict {
        let Some(peer) = self.connections.get_mut(&key) else { return Verdict::Accept };
        peer.seed = true;
        if let Some(addr) = peer.candidate {
            self.candidates.change(addr, |candidate| candidate.seed = true);
        }
        if self.seeding { Verdict::Refuse(Reason::BothSeeds) } else { Verdict::Accept }
    }

    /// A peer gave us `bytes` of blocks. Its plugins hear of it with the first and whenever the sum has doubled.
    pub fn gave(&mut self, key: PeerKey, bytes: u64, now: Moment) {
        let Some(peer) = self.connections.get_mut(&key) else { return };
        let before = peer.gave;
        peer.gave = peer.gave.saturating_add(bytes);
        peer.active = now;
        let named = peer.candidate.unwrap_or(peer.addr);
        self.worth.gave(named, self.candidates.sources(named), bytes);
        if let (Some(addr), true) = (peer.candidate, peer.gave.checked_ilog2() > before.checked_ilog2()) {
            let fate = PeerFate::Gave(peer.gave);
            self.report(addr, fate);
        }
    }

    /// A peer took a block from us.
    pub fn took(&mut self, key: PeerKey, now: Moment) {
        if let Some(peer) = self.connections.get_mut(&key) {
            peer.active = now;
            self.in_vain = super::InVain::default();
        }
    }

    /// A piece to which this peer contributed has failed its hash. True if the peer is banned for it and its
    /// connection is to be closed as [`CloseKind::BadData`]: at once if nobody else contributed, else for the
    /// [`super::STRIKES`]th time. Works for connections closed a while ago, too.
    pub fn bad_piece(&mut self, key: PeerKey, sole_contributor: bool) -> bool {
        let Some(addr) = self.address_of(key) else { return false };
        let banned = sole_contributor || self.bans.strike(addr);
        if banned {
            self.ban_peer(key);
        }
        banned
    }

    /// A piece to which this peer contributed was right: an earlier strike is forgiven.
    pub fn good_piece(&mut self, key: PeerKey) {
        if let Some(addr) = self.address_of(key) {
            self.bans.forgive(addr);
        }
    }

    fn address_of(&self, key: PeerKey) -> Option<SocketAddr> {
        self.connections.get(&key).map(|peer| peer.addr).or_else(|| self.past.get(&key).copied())
    }

    fn ban_peer(&mut self, key: PeerKey) {
        let peer = self.connections.get(&key);
        let (listens, id) = peer.map_or((None, None), |peer| (peer.candidate, peer.peer_id));
        if let (Some(id), true) = (id, peer.is_some_and(|peer| peer.addr.ip().is_loopback())) {
            self.bans.add_peer(id);
        }
        for addr in [self.address_of(key), listens].into_iter().flatten() {
            self.ban(addr);
        }
    }

    /// A connection has ended. Unknown keys, such as those of refused connections, are ignored.
    pub fn closed(&mut self, key: PeerKey, kind: CloseKind, now: Moment) {
        match kind {
            CloseKind::BadData => self.ban_peer(key),
            CloseKind::Violation => self.punish(key),
            _ => {}
        }
        let Some(peer) = self.connections.remove(&key) else { return };
        self.leave_ip(peer.addr.ip());
        if let Some(id) = peer.peer_id {
            self.ids.remove(&(id, key));
        }
        if self.seeding && !peer.inbound && peer.active == peer.since {
            self.in_vain.add(now);
        }
        self.past.insert(key, peer.addr);
        if self.past.len() > MOST_PAST {
            self.past.pop_first();
        }
        let Some(addr) = peer.candidate else {
            if self.bans.holds(peer.addr) {
                self.worth.fared(peer.addr, self.candidates.sources(peer.addr), PeerFate::Banned);
            }
            return self.worth.left(peer.addr);
        };
        if peer.gave > 0 {
            self.report(addr, PeerFate::Gave(peer.gave));
        }
        let useful = peer.peer_id.is_some() && (peer.gave > 0 || now.since(peer.since) >= LASTING);
        if useful {
            self.candidates.change(addr, |candidate| (candidate.worked, candidate.failures) = (true, 0));
        }
        match (peer.refused, kind) {
            (Some(_), _) => self.rest_until(addr, now + LONGEST_RETRY),
            (_, CloseKind::NetworkGone) => self.rest_until(addr, now),
            (_, CloseKind::BothSeeds | CloseKind::Idle) => self.rest_until(addr, now + USELESS_RETRY),
            _ if useful => self.rest(addr, now),
            _ => self.rest_after_failure(addr, now),
        }
    }

    /// Who broke the protocol is not dialled again; other peers at its address are, until it happens too often.
    fn punish(&mut self, key: PeerKey) {
        let Some(addr) = self.address_of(key) else { return };
        if self.bans.strike(addr) {
            return self.ban_peer(key);
        }
        let listens = self.connections.get(&key).and_then(|peer| peer.candidate);
        for addr in [Some(addr), listens].into_iter().flatten() {
            self.bans.add_exactly(addr);
        }
    }

    /// If the swarm is full and a peer that was never tried waits for a place: the connection that has been idle
    /// longest, to be closed as [`CloseKind::Idle`]. A look at every connection, so ask every few seconds only.
    pub fn whom_to_drop(&self, now: Moment) -> Option<PeerKey> {
        let full = self.connections.len() + self.half_open >= self.config.most_connections;
        if !full || self.candidates.fresh() == 0 {
            return None;
        }
        let idle = self.connections.iter().filter(|(_, peer)| peer.refused.is_none() && now.since(peer.active) >= IDLE);
        idle.min_by_key(|(key, peer)| (peer.active, **key)).map(|(key, _)| *key)
    }

    /// Panics if the books do not balance. For tests.
    pub fn check_invariants(&self) {
        self.candidates.check_invariants();
        self.bans.check_invariants();
        self.worth.check_invariants();
        assert!(self.connections.len() <= self.config.most_connections);
        assert!(self.half_open <= self.config.most_half_open);
        assert!(self.own.len() <= super::MOST_OWN && self.past.len() <= MOST_PAST);
        assert!(self.feedback.len() <= super::MOST_FEEDBACK);
        assert_eq!(self.per_ip.values().sum::<usize>(), self.connections.len() + self.half_open);
        let states: Vec<_> = self
            .candidates
            .addresses()
            .into_iter()
            .filter_map(|addr| self.candidates.get(addr).map(|c| (addr, c.state)))
            .collect();
        assert_eq!(self.half_open, states.iter().filter(|(_, state)| *state == State::HalfOpen).count());
        for (addr, state) in &states {
            if let State::Connected(key) = state {
                assert_eq!(self.connections[key].candidate, Some(*addr));
            }
        }
        for (key, peer) in &self.connections {
            if let Some(addr) = peer.candidate {
                assert!(states.contains(&(addr, State::Connected(*key))));
            }
        }
        for (id, key) in &self.ids {
            assert_eq!(self.connections[key].peer_id, Some(*id));
        }
    }
}

/// Whatever of 127.0.0.0/8 it is called, this machine is one host.
fn same_host(one: IpAddr, other: IpAddr) -> bool {
    one == other || (one.is_loopback() && other.is_loopback())
}
