//! Who may download from us: the choking algorithm of BEP 3, for one torrent.
//!
//! While leeching it is tit for tat: those who give us most are unchoked, and a few slots rotate among the others so
//! that newcomers can prove themselves. Peers that stopped giving (snubbed) get only such a slot. While seeding, each
//! unchoked peer keeps its slot for a quantum; then the fastest stay and those who waited longest come in.
//!
//! [`Choker::round`] is due at [`Choker::deadline`]; it may be called earlier when a slot has become free. Between
//! rounds [`Choker::interested`] unchokes a newly interested peer without waiting for any timer.

use std::{cmp::Reverse, collections::BTreeSet, time::Duration};

use castanet_core::{Moment, PeerKey};

/// Time between rounds: long enough for TCP to show what a connection can do.
pub const ROUND: Duration = Duration::from_secs(10);
/// How long an optimistic slot stays with one peer.
pub const OPTIMISTIC_TURN: Duration = Duration::from_secs(30);
/// How long a seed lets a peer download before the slot may go to another.
pub const QUANTUM: Duration = Duration::from_secs(30);
/// A peer never yet unchoked counts as new for so long after it connected.
pub const NEW: Duration = Duration::from_secs(60);
/// Never fewer slots than this: below, tit for tat finds no partners.
pub const LEAST_SLOTS: usize = 4;
/// How much likelier an optimistic slot goes to a new peer (BEP 3).
const NEW_WEIGHT: u64 = 3;
/// One more slot is opened if the n-th fastest of n unchoked peers takes n times this many bytes a second. So the
/// number of slots follows the square root of the upload rate, and no slot becomes too slow to be worth having.
const STEP: u64 = 1024;

/// How many peers are served at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChokerConfig {
    /// Slots at the start. 8: enough to fill a common uplink before any rate is known.
    pub first_slots: usize,
    /// Slots at most; 0 for none at all. 100: beyond, a peer's share is too thin on any line.
    pub most_slots: usize,
}

impl Default for ChokerConfig {
    fn default() -> Self {
        Self { first_slots: 8, most_slots: 100 }
    }
}

impl ChokerConfig {
    /// No more slots than these, if a number is given.
    pub fn up_to(most: Option<usize>) -> Self {
        let usual = Self::default();
        most.map_or(usual, |most| Self { most_slots: most.min(usual.most_slots), ..usual })
    }
}

/// What the choker must know of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerView {
    /// Which connection.
    pub key: PeerKey,
    /// Does it want something from us?
    pub interested: bool,
    /// Do we choke it?
    pub choked: bool,
    /// Bytes a second that it gives us.
    pub down_rate: u64,
    /// Bytes a second that we give it.
    pub up_rate: u64,
    /// When it connected.
    pub connected: Moment,
    /// When we last choked or unchoked it; [`Self::connected`] if we never did.
    pub changed: Moment,
    /// It owes us blocks and has sent none for a long time.
    pub snubbed: bool,
}

impl PeerView {
    fn is_new(&self, now: Moment) -> bool {
        self.choked && self.changed == self.connected && now.since(self.connected) < NEW
    }
}

/// A peer to choke or to unchoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetChoke {
    /// Whom.
    pub key: PeerKey,
    /// Choke it (true) or unchoke it.
    pub choke: bool,
}

/// Decides who is unchoked.
#[derive(Debug)]
pub struct Choker {
    config: ChokerConfig,
    random: fastrand::Rng,
    slots: usize,
    next_round: Moment,
}

impl Choker {
    /// A choker whose first round is due at once.
    pub fn new(config: ChokerConfig, seed: u64) -> Self {
        let least = LEAST_SLOTS.min(config.most_slots.saturating_mul(LEAST_SLOTS));
        let most_slots = config.most_slots.max(least);
        let config = ChokerConfig { first_slots: config.first_slots.clamp(least, most_slots), most_slots };
        let random = fastrand::Rng::with_seed(seed);
        Self { config, random, slots: config.first_slots, next_round: Moment::ZERO }
    }

    /// How many interested peers are unchoked at a time.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// When the next round is due.
    pub fn deadline(&self) -> Moment {
        self.next_round
    }

    /// May this peer, which has just become interested, be unchoked at once? `unchoked` is the number of other peers
    /// that are interested and unchoked now.
    pub fn interested(&self, peer: &PeerView, unchoked: usize) -> bool {
        peer.interested && peer.choked && unchoked < self.slots
    }

    /// Distributes the slots among all connected peers; returns only what changes, chokes first.
    pub fn round(&mut self, peers: &[PeerView], seeding: bool, now: Moment) -> Vec<SetChoke> {
        if now >= self.next_round {
            self.next_round = now + ROUND;
            self.adapt_slots(peers);
        }
        let mut chosen = Chosen { keys: BTreeSet::new(), slots: self.slots };
        let mut rivals: Vec<&PeerView> = peers.iter().filter(|peer| peer.interested).collect();
        if seeding {
            choose_for_seed(&mut rivals, &mut chosen, now);
        } else {
            self.choose_for_leech(&mut rivals, &mut chosen, now);
        }
        debug_assert!(chosen.keys.len() == rivals.len().min(self.slots), "no slot is wasted");
        let mut changes: Vec<_> = peers
            .iter()
            .map(|peer| (peer.choked, SetChoke { key: peer.key, choke: !chosen.keys.contains(&peer.key) }))
            .filter(|(choked, to)| *choked != to.choke)
            .map(|(_, to)| to)
            .collect();
        changes.sort_by_key(|to| !to.choke);
        changes
    }

    /// One slot more while each of those served is fast enough, one less while they are not and all are taken.
    fn adapt_slots(&mut self, peers: &[PeerView]) {
        let mut rates: Vec<u64> = peers.iter().filter(|p| p.interested && !p.choked).map(|p| p.up_rate).collect();
        rates.sort_unstable_by_key(|rate| Reverse(*rate));
        let worthy = (1..).zip(&rates).take_while(|(n, rate)| **rate >= n * STEP).count();
        if worthy >= self.slots {
            self.slots += 1;
        } else if rates.len() >= self.slots && worthy + 1 < self.slots {
            self.slots -= 1;
        }
        self.slots = self.slots.clamp(LEAST_SLOTS.min(self.config.most_slots), self.config.most_slots);
    }

    /// Tit for tat with optimistic slots, which are a fifth of all and whatever the givers leave.
    fn choose_for_leech(&mut self, rivals: &mut [&PeerView], chosen: &mut Chosen, now: Moment) {
        let optimistic_slots = (self.slots / 5).max(1);
        rivals.sort_by_key(|peer| (Reverse(peer.down_rate), peer.choked, peer.changed, peer.key));
        let givers = rivals.iter().filter(|peer| peer.down_rate > 0 && !peer.snubbed);
        chosen.take(givers.map(|peer| peer.key), self.slots.saturating_sub(optimistic_slots));

        let in_turn = rivals.iter().filter(|peer| !peer.choked && now.since(peer.changed) < OPTIMISTIC_TURN);
        chosen.take(in_turn.map(|peer| peer.key), self.slots);

        let mut lots: Vec<&PeerView> = rivals.iter().copied().filter(|p| !chosen.keys.contains(&p.key)).collect();
        // Those whose turn is over step behind those who wait.
        let turn_over = |peer: &PeerView| !peer.choked;
        lots.sort_by_key(|peer| (turn_over(peer), peer.key));
        while chosen.has_room() && !lots.is_empty() {
            let waiting = lots.partition_point(|peer| !turn_over(peer));
            let drawn = self.draw(if waiting > 0 { &lots[..waiting] } else { &lots }, now);
            chosen.keys.insert(lots.remove(drawn).key);
        }
    }

    /// The index of one of `lots`, which is not empty; new peers hold three lots, others one.
    fn draw(&mut self, lots: &[&PeerView], now: Moment) -> usize {
        let weight = |peer: &PeerView| if peer.is_new(now) { NEW_WEIGHT } else { 1 };
        let mut lot = self.random.u64(..lots.iter().map(|peer| weight(peer)).sum::<u64>());
        lots.iter()
            .position(|peer| {
                let hit = lot < weight(peer);
                lot = lot.saturating_sub(weight(peer));
                hit
            })
            .unwrap_or(0)
    }
}

/// Peers within their quantum stay; half of the other slots go to those who waited longest, half to the fastest.
fn choose_for_seed(rivals: &mut [&PeerView], chosen: &mut Chosen, now: Moment) {
    let slots = chosen.slots;
    rivals.sort_by_key(|peer| (peer.changed, peer.key));
    let served = rivals.iter().filter(|peer| !peer.choked && now.since(peer.changed) < QUANTUM);
    // Should the slots have shrunk, the latest to come stay: they have had least.
    chosen.take(served.rev().map(|peer| peer.key), slots);
    let shared = slots - chosen.keys.len();
    let waiting = || rivals.iter().filter(|peer| peer.choked).map(|peer| peer.key);
    chosen.take(waiting(), chosen.keys.len() + shared.div_ceil(2));
    let mut fastest: Vec<&&PeerView> = rivals.iter().filter(|peer| !peer.choked).collect();
    fastest.sort_by_key(|peer| (Reverse(peer.up_rate), peer.key));
    chosen.take(fastest.iter().filter(|peer| peer.up_rate > 0).map(|peer| peer.key), slots);
    chosen.take(waiting(), slots);
    chosen.take(fastest.iter().map(|peer| peer.key), slots);
}

/// Peers that will be unchoked.
struct Chosen {
    keys: BTreeSet<PeerKey>,
    slots: usize,
}

impl Chosen {
    fn has_room(&self) -> bool {
        self.keys.len() < self.slots
    }
    /// Takes from `keys` until so many are chosen in all.
    fn take(&mut self, keys: impl Iterator<Item = PeerKey>, up_to: usize) {
        for key in keys {
            if self.keys.len() >= up_to.min(self.slots) {
                break;
            }
            self.keys.insert(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(count: u64) -> Vec<PeerView> {
        (0..count)
            .map(|n| PeerView {
                key: PeerKey(n),
                interested: true,
                choked: true,
                down_rate: 0,
                up_rate: 0,
                connected: Moment::ZERO,
                changed: Moment::ZERO,
                snubbed: false,
            })
            .collect()
    }

    fn apply(peers: &mut [PeerView], changes: &[SetChoke], now: Moment) {
        for to in changes {
            let peer = peers.iter_mut().find(|peer| peer.key == to.key).unwrap();
            assert_ne!(peer.choked, to.choke, "only changes are reported");
            (peer.choked, peer.changed) = (to.choke, now);
        }
    }

    fn round(choker: &mut Choker, peers: &mut [PeerView], seeding: bool, second: u64) -> Vec<SetChoke> {
        let now = Moment::from_secs(second);
        let changes = choker.round(peers, seeding, now);
        apply(peers, &changes, now);
        changes
    }

    fn unchoked(peers: &[PeerView]) -> Vec<u64> {
        peers.iter().filter(|peer| !peer.choked).map(|peer| peer.key.0).collect()
    }

    #[test]
    fn without_slots_nobody_is_served() {
        let mut choker = Choker::new(ChokerConfig::up_to(Some(0)), 1);
        let mut peers = peers(5);
        for second in 0..100 {
            assert!(!choker.interested(&peers[0], 0));
            assert_eq!(round(&mut choker, &mut peers, second % 2 == 0, second), []);
        }
        assert_eq!(Choker::new(ChokerConfig::up_to(Some(1)), 1).slots(), LEAST_SLOTS);
        assert_eq!(ChokerConfig::up_to(None), ChokerConfig::default());
    }

    #[test]
    fn few_peers_are_all_unchoked_and_the_uninterested_are_not() {
        for seeding in [false, true] {
            let (mut choker, mut peers) = (Choker::new(ChokerConfig::default(), 1), peers(6));
            peers[2].interested = false;
            peers[3].snubbed = true;
            round(&mut choker, &mut peers, seeding, 100);
            assert_eq!(unchoked(&peers), [0, 1, 3, 4, 5]);
            assert_eq!(choker.deadline(), Moment::from_secs(110));
            assert!(round(&mut choker, &mut peers, seeding, 110).is_empty(), "nothing changes without need");
            peers[0].interested = false;
            assert_eq!(round(&mut choker, &mut peers, seeding, 112), [SetChoke { key: PeerKey(0), choke: true }]);
            assert_eq!(choker.deadline(), Moment::from_secs(120), "an early round does not move the timer");
        }
    }

    #[test]
    fn the_best_givers_are_unchoked() {
        let (mut choker, mut peers) = (Choker::new(ChokerConfig::default(), 1), peers(40));
        peers.iter_mut().for_each(|peer| peer.down_rate = 1000 * (peer.key.0 + 1));
        peers[39].snubbed = true;
        round(&mut choker, &mut peers, false, 100);
        let served = unchoked(&peers);
        assert_eq!(served.len(), choker.slots());
        assert!([32, 33, 34, 35, 36, 37, 38].iter().all(|best| served.contains(best)), "{served:?}");
    }

    #[test]
    fn optimistic_slots_rotate_every_thirty_seconds_and_reach_everyone() {
        let (mut choker, mut peers) = (Choker::new(ChokerConfig { first_slots: 4, most_slots: 4 }, 7), peers(8));
        peers[..3].iter_mut().for_each(|peer| peer.down_rate = 1_000_000);
        let mut seen = BTreeSet::new();
        let mut holder = None;
        for turn in 0..40 {
            for third in 0..3 {
                round(&mut choker, &mut peers, false, 100 + 30 * turn + 10 * third);
                let served = unchoked(&peers);
                assert_eq!(served[..3], [0, 1, 2]);
                if third == 0 {
                    assert_ne!(holder, Some(served[3]), "someone else's turn");
                    holder = Some(served[3]);
                    seen.insert(served[3]);
                } else {
                    assert_eq!(holder, Some(served[3]), "a turn lasts three rounds");
                }
            }
        }
        assert_eq!(seen, BTreeSet::from([3, 4, 5, 6, 7]));
    }

    #[test]
    fn a_new_peer_is_three_times_as_likely() {
        let mut wins = 0;
        for seed in 0..2000 {
            let mut choker = Choker::new(ChokerConfig { first_slots: 4, most_slots: 4 }, seed);
            let mut peers = peers(6);
            peers[..3].iter_mut().for_each(|peer| peer.down_rate = 1_000_000);
            peers[5].connected = Moment::from_secs(990);
            peers[5].changed = Moment::from_secs(990);
            round(&mut choker, &mut peers, false, 1000);
            wins += usize::from(!peers[5].choked);
        }
        // 3 of 5 lots.
        assert!((1100..1300).contains(&wins), "{wins} of 2000");
    }

    #[test]
    fn a_snubber_loses_its_slot_to_one_who_gives() {
        let (mut choker, mut peers) = (Choker::new(ChokerConfig { first_slots: 4, most_slots: 4 }, 3), peers(5));
        peers.iter_mut().for_each(|peer| peer.down_rate = 1000 * (5 - peer.key.0));
        round(&mut choker, &mut peers, false, 100);
        assert_eq!(unchoked(&peers)[..3], [0, 1, 2]);
        peers[0].snubbed = true;
        round(&mut choker, &mut peers, false, 110);
        let served = unchoked(&peers);
        assert!([1, 2, 3].iter().all(|giver| served.contains(giver)), "{served:?}");
    }

    #[test]
    fn a_seed_prefers_the_fast_and_starves_no_one() {
        let (mut choker, mut peers) = (Choker::new(ChokerConfig { first_slots: 4, most_slots: 4 }, 3), peers(20));
        let mut rounds = [0; 20];
        for n in 0..200 {
            round(&mut choker, &mut peers, true, 100 + 10 * n);
            for key in unchoked(&peers) {
                rounds[key as usize] += 1;
            }
            for peer in &mut peers {
                peer.up_rate = if peer.choked { 0 } else { 100 * (peer.key.0 + 1) };
            }
        }
        assert!(rounds.iter().all(|served| *served >= 3 * 4), "each has had quanta: {rounds:?}");
        assert!(rounds[19] > 2 * rounds[0], "the fastest has had more: {rounds:?}");
    }

    #[test]
    fn a_seed_leaves_each_its_quantum() {
        let (mut choker, mut peers) = (Choker::new(ChokerConfig { first_slots: 4, most_slots: 4 }, 3), peers(9));
        round(&mut choker, &mut peers, true, 100);
        let first = unchoked(&peers);
        for second in [110, 120] {
            assert!(round(&mut choker, &mut peers, true, second).is_empty());
        }
        round(&mut choker, &mut peers, true, 130);
        assert!(unchoked(&peers).iter().all(|key| !first.contains(key)), "idle ones leave when the quantum is over");
    }

    #[test]
    fn interest_is_answered_at_once_while_slots_are_free() {
        let choker = Choker::new(ChokerConfig::default(), 1);
        let mut peer = peers(1)[0];
        assert!(choker.interested(&peer, 7));
        assert!(!choker.interested(&peer, 8));
        peer.interested = false;
        assert!(!choker.interested(&peer, 0));
    }

    #[test]
    fn slots_follow_the_upload_rate() {
        let (mut choker, mut peers) = (Choker::new(ChokerConfig::default(), 1), peers(150));
        let mut second = 0;
        let mut settle = |choker: &mut Choker, peers: &mut [PeerView], uplink: u64| {
            for _ in 0..200 {
                second += 10;
                round(choker, peers, true, second);
                let share = uplink / unchoked(peers).len() as u64;
                peers.iter_mut().for_each(|peer| peer.up_rate = if peer.choked { 0 } else { share });
            }
            choker.slots()
        };
        assert_eq!(settle(&mut choker, &mut peers, 10 * STEP), LEAST_SLOTS);
        assert!((20..=22).contains(&settle(&mut choker, &mut peers, 400 * STEP)));
        assert_eq!(settle(&mut choker, &mut peers, 100_000 * STEP), 100, "never more than configured");
        assert!(settle(&mut choker, &mut peers, 10 * STEP) <= 5);
    }
}
