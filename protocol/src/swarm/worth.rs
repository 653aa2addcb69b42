//! What each plugin was worth: the peers it named, and what became of them.
//!
//! The ledger is a function of two things, who named whom and what became of whom, in whatever order both come to light:
//! a plugin that names a peer after we have met it is credited with it like the one that named it first, and
//! [`Worth::alone`] tells who could be done without. Peers that nobody named belong to [`INCOMING`].
//!
//! It does not depend on the candidates, which are forgotten when memory is short. Of the peers that were named it
//! remembers a hash each: all up to [`MOST_SAMPLED`], beyond that those with the least hashes, from which the number of
//! all is estimated, within a percent or two. Of peers we had to do with it remembers the deeds, up to [`MOST_MET`];
//! beyond, one is forgotten at random, whose deeds stay counted, and which counts anew if it returns. The hashes depend
//! on a seed, so that no flood can be made to fit. Every operation costs O(log n).

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    ops::Bound,
};

use castanet_core::{Moment, PluginName, seams::discovery::PeerFate};

use super::{INCOMING, Provenance};

/// Peers counted one by one; from more, the number is estimated.
pub const MOST_SAMPLED: usize = 32_768;
/// Peers whose deeds are remembered one by one. More than the candidates of a swarm by default.
pub const MOST_MET: usize = 16_384;
/// Plugins with an account of their own. Those that come later have none.
pub const MOST_PLUGINS: usize = 32;

/// What a plugin was worth to one torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worth {
    /// The plugin, or [`INCOMING`].
    pub plugin: PluginName,
    /// Distinct addresses it named that could be dialled. For [`INCOMING`] those who connected.
    pub found: u64,
    /// Of these, those that no other plugin has named so far.
    pub alone: u64,
    /// How many of those it found were found by another plugin, too; by plugin, without those that share none.
    pub shared: Vec<(PluginName, u64)>,
    /// Peers with which a connection was open.
    pub connected: u64,
    /// Peers that shook hands: they are in this swarm.
    pub handshaken: u64,
    /// Peers that gave at least one block.
    pub useful: u64,
    /// Bytes of blocks given by its peers. A peer named by several counts for each of them.
    pub bytes: u64,
    /// Peers a dial to which came to nothing, be it only once.
    pub refused: u64,
    /// Peers that were banned.
    pub banned: u64,
    /// When it named its first peer.
    pub first_peer: Option<Moment>,
}

impl Worth {
    /// Of a plugin that brought nothing.
    pub fn nothing(plugin: PluginName) -> Self {
        account(plugin)
    }
}

/// A set of plugins, by their place in [`Ledger::accounts`].
type Names = u32;

/// What one peer did.
#[derive(Debug, Clone, Copy, Default)]
struct Deeds {
    connected: bool,
    handshaken: bool,
    useful: bool,
    refused: bool,
    banned: bool,
    bytes: u64,
}

/// A peer we had to do with.
#[derive(Debug, Clone, Copy, Default)]
struct Met {
    named_by: Names,
    deeds: Deeds,
}

/// The accounts of all plugins.
#[derive(Debug)]
pub(super) struct Ledger {
    seed: u64,
    /// One for each plugin; `found` and `alone` count the sample.
    accounts: Vec<Worth>,
    /// How many of the sample two plugins have named both, by their places.
    shared: Vec<[u64; MOST_PLUGINS]>,
    incoming: Worth,
    /// Who named a peer, by the peer's hash: of all the peers named, those with a hash less than `horizon`.
    sample: BTreeMap<u64, Names>,
    /// `None` as long as nobody was left out.
    horizon: Option<u64>,
    met: BTreeMap<u64, Met>,
}

impl Ledger {
    pub(super) fn new(seed: u64) -> Self {
        let (sample, met) = (BTreeMap::new(), BTreeMap::new());
        Self {
            seed,
            accounts: Vec::new(),
            shared: Vec::new(),
            incoming: account(INCOMING.into()),
            sample,
            horizon: None,
            met,
        }
    }

    /// A plugin names a peer.
    pub(super) fn named(&mut self, plugin: &PluginName, addr: SocketAddr, now: Moment) {
        let Some(name) = self.place(plugin) else { return };
        self.accounts[name].first_peer.get_or_insert(now);
        let key = self.key(addr);
        if let Some(met) = self.met.get(&key).copied() {
            self.rewrite(key, Met { named_by: met.named_by | 1 << name, ..met });
        }
        if self.horizon.is_some_and(|horizon| key >= horizon) {
            return;
        }
        let before = self.sample.get(&key).copied().unwrap_or(0);
        self.recount(before, before | 1 << name);
        self.sample.insert(key, before | 1 << name);
        if self.sample.len() > MOST_SAMPLED
            && let Some((last, names)) = self.sample.pop_last()
        {
            self.recount(names, 0);
            self.horizon = Some(last);
        }
    }

    /// Something became of a peer, which as far as the swarm knows was found by these.
    pub(super) fn fared(&mut self, addr: SocketAddr, found_by: &[Provenance], fate: PeerFate) {
        let mut met = self.meet(addr, found_by);
        match fate {
            PeerFate::Refused => met.deeds.refused = true,
            PeerFate::Connected => met.deeds.connected = true,
            PeerFate::Handshaken => (met.deeds.connected, met.deeds.handshaken) = (true, true),
            PeerFate::Banned => met.deeds.banned = true,
            // Of bytes the swarm reports sums, and not each: [`Self::gave`] counts them.
            _ => return,
        }
        self.rewrite(self.key(addr), met);
    }

    /// A peer that we did not look for has connected.
    pub(super) fn came(&mut self, addr: SocketAddr, found_by: &[Provenance], now: Moment) {
        self.fared(addr, found_by, PeerFate::Connected);
        if self.met.get(&self.key(addr)).is_some_and(|met| met.named_by == 0) {
            self.incoming.first_peer.get_or_insert(now);
        }
    }

    /// A connected peer gave us bytes of blocks.
    pub(super) fn gave(&mut self, addr: SocketAddr, found_by: &[Provenance], bytes: u64) {
        let mut met = self.meet(addr, found_by);
        met.deeds.connected = true;
        met.deeds.useful |= bytes > 0;
        met.deeds.bytes = met.deeds.bytes.saturating_add(bytes);
        self.rewrite(self.key(addr), met);
    }

    /// The peer that came from one address turns out to be the one that listens at another.
    pub(super) fn listens(&mut self, came_from: SocketAddr, addr: SocketAddr, found_by: &[Provenance]) {
        let came = self.met.remove(&self.key(came_from)).unwrap_or_default();
        self.book(came, false);
        let mut met = self.meet(addr, found_by);
        met.named_by |= came.named_by;
        met.deeds.add(came.deeds);
        met.deeds.connected = true;
        self.rewrite(self.key(addr), met);
    }

    /// A peer that never said where it listens is gone: nobody will ever name it.
    pub(super) fn left(&mut self, came_from: SocketAddr) {
        let key = self.key(came_from);
        if self.met.get(&key).is_some_and(|met| met.named_by == 0) {
            self.met.remove(&key);
        }
    }

    /// Every plugin that has named someone, sorted by name.
    pub(super) fn worth(&self) -> Vec<Worth> {
        // The sample's share of all hashes is `horizon` of 2^64.
        let scale = self.horizon.map_or(1.0, |horizon| 2f64.powi(64) / horizon.max(1) as f64);
        let estimate = |count: u64| (count as f64 * scale).round() as u64;
        let shared = |place: usize| {
            let others = self.accounts.iter().zip(self.shared[place]).filter(|(_, count)| *count > 0);
            others.map(|(other, count)| (other.plugin.clone(), estimate(count))).collect()
        };
        let whole = |(place, worth): (usize, &Worth)| {
            let (found, alone) = (estimate(worth.found), estimate(worth.alone));
            Worth { found, alone, shared: shared(place), ..worth.clone() }
        };
        let mut all: Vec<Worth> = self.accounts.iter().enumerate().map(whole).collect();
        let came = self.incoming.connected;
        if came > 0 {
            all.push(Worth { found: came, alone: came, ..self.incoming.clone() });
        }
        all.sort_by(|one, other| one.plugin.cmp(&other.plugin));
        all
    }

    /// Where a plugin's account is. Who came by itself was named by nobody, even if it then said where it listens.
    fn place(&mut self, plugin: &PluginName) -> Option<usize> {
        if *plugin.0 == *INCOMING {
            return None;
        }
        let place = self.accounts.iter().position(|account| account.plugin == *plugin);
        place.or_else(|| {
            let place = self.accounts.len();
            (place < MOST_PLUGINS).then(|| self.accounts.push(account(plugin.clone())))?;
            self.shared.push([0; MOST_PLUGINS]);
            Some(place)
        })
    }

    fn key(&self, addr: SocketAddr) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, addr).hash(&mut hasher);
        hasher.finish()
    }

    fn meet(&mut self, addr: SocketAddr, found_by: &[Provenance]) -> Met {
        let key = self.key(addr);
        self.met.get(&key).copied().unwrap_or_else(|| {
            let places = found_by.iter().filter_map(|source| self.place(&source.plugin));
            let known = places.fold(0, |names, place| names | 1 << place);
            Met { named_by: known | self.sample.get(&key).copied().unwrap_or(0), deeds: Deeds::default() }
        })
    }

    /// Replaces what is known of a peer, in its plugins' accounts, too.
    fn rewrite(&mut self, key: u64, met: Met) {
        if let Some(before) = self.met.insert(key, met) {
            self.book(before, false);
        }
        self.book(met, true);
        if self.met.len() > MOST_MET {
            // Keys are random, so the next one is anybody's.
            let next = self.met.range((Bound::Excluded(key), Bound::Unbounded)).next().or(self.met.first_key_value());
            if let Some(victim) = next.map(|(victim, _)| *victim) {
                self.met.remove(&victim);
            }
        }
    }

    /// Enters a peer's deeds into the accounts of those who named it, or strikes them out.
    fn book(&mut self, met: Met, enter: bool) {
        if met.named_by == 0 {
            return met.deeds.book(&mut self.incoming, enter);
        }
        members(met.named_by).for_each(|place| met.deeds.book(&mut self.accounts[place], enter));
    }

    /// A peer of the sample was named by some, and now by others.
    fn recount(&mut self, before: Names, after: Names) {
        for (names, enter) in [(before, false), (after, true)] {
            for place in members(names) {
                post(&mut self.accounts[place].found, 1, enter);
                post(&mut self.accounts[place].alone, u64::from(names.is_power_of_two()), enter);
                for other in members(names).filter(|other| *other != place) {
                    post(&mut self.shared[place][other], 1, enter);
                }
            }
        }
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.sample.len() <= MOST_SAMPLED && self.met.len() <= MOST_MET && self.accounts.len() <= MOST_PLUGINS);
        for (place, account) in self.accounts.iter().enumerate() {
            let its = self.sample.values().filter(|names| *names & 1 << place != 0);
            let alone = its.clone().filter(|names| names.is_power_of_two()).count();
            for (other, count) in self.shared[place].iter().enumerate().filter(|(other, _)| *other != place) {
                assert_eq!(*count, its.clone().filter(|names| *names & 1 << other != 0).count() as u64, "{account:?}");
            }
            assert_eq!((account.found, account.alone), (its.count() as u64, alone as u64), "{account:?}");
        }
        for worth in self.accounts.iter().chain([&self.incoming]) {
            assert!(worth.useful <= worth.connected && worth.handshaken <= worth.connected, "{worth:?}");
            assert_eq!(worth.useful == 0, worth.bytes == 0, "{worth:?}");
        }
    }
}

impl Deeds {
    fn add(&mut self, more: Self) {
        self.connected |= more.connected;
        self.handshaken |= more.handshaken;
        self.useful |= more.useful;
        self.refused |= more.refused;
        self.banned |= more.banned;
        self.bytes = self.bytes.saturating_add(more.bytes);
    }

    fn book(self, account: &mut Worth, enter: bool) {
        post(&mut account.connected, self.connected.into(), enter);
        post(&mut account.handshaken, self.handshaken.into(), enter);
        post(&mut account.useful, self.useful.into(), enter);
        post(&mut account.refused, self.refused.into(), enter);
        post(&mut account.banned, self.banned.into(), enter);
        post(&mut account.bytes, self.bytes, enter);
    }
}

fn post(sum: &mut u64, amount: u64, enter: bool) {
    *sum = if enter { sum.saturating_add(amount) } else { sum.saturating_sub(amount) };
}

fn members(names: Names) -> impl Iterator<Item = usize> {
    (0..MOST_PLUGINS).filter(move |place| names & 1 << place != 0)
}

fn account(plugin: PluginName) -> Worth {
    let (found, alone, connected, handshaken, useful, bytes, refused, banned) = Default::default();
    let shared = Vec::new();
    Worth { plugin, found, alone, shared, connected, handshaken, useful, bytes, refused, banned, first_peer: None }
}

#[cfg(test)]
mod tests;
