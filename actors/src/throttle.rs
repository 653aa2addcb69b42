//! Rate limits on streams: a session's, its torrents' and their connections', in one direction.
//!
//! A shell around [`Turns`]: connections wait here for their turn. No task stands behind it: of those who wait one leads,
//! which sleeps until there is something to give and wakes whoever gets it; the others sleep until they are woken. Whoever
//! leaves, also by being dropped, hands the lead on. While nothing at all is limited there is one look at a flag, and no lock.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use castanet_core::{Moment, seams::means::Clock};
use castanet_protocol::rate::{GroupKey, MemberKey, Turns};
use tokio::sync::Notify;

/// The limits of a session in one direction, shared by cloning. Rates are in bytes per second; `None` is unlimited.
#[derive(Debug, Clone)]
pub struct Throttle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    is_limited: AtomicBool,
    state: Mutex<State>,
    clock: Clock,
}

#[derive(Debug)]
struct State {
    turns: Turns,
    /// Wakes each connection.
    wakers: BTreeMap<MemberKey, Arc<Notify>>,
    /// Who watches the time for all who wait. Somebody, if anybody waits.
    leader: Option<MemberKey>,
    /// Until when it sleeps.
    sleeps_until: Moment,
    /// How often the limits have changed.
    changes: u64,
}

impl State {
    /// Gives what can be given, and wakes those who got it.
    fn grant(&mut self, now: Moment) {
        self.turns.grant(now);
        while let Some(key) = self.turns.poll() {
            self.wake(key);
        }
    }

    fn wake(&self, key: MemberKey) {
        if let Some(waker) = self.wakers.get(&key) {
            waker.notify_one();
        }
    }

    /// Lets another lead, if this one did.
    fn hand_on(&mut self, key: MemberKey) {
        if self.leader == Some(key) {
            self.leader = self.turns.anyone();
            self.leader.inspect(|next| self.wake(*next));
        }
    }
}

impl Throttle {
    /// A limit for all together, and one for each connection.
    pub fn new(limit: Option<u64>, each: Option<u64>, clock: Clock) -> Self {
        let turns = Turns::new(limit, each, clock.now());
        let is_limited = AtomicBool::new(turns.is_limited());
        Self(Arc::new(Shared {
            is_limited,
            state: Mutex::new(State {
                turns,
                wakers: BTreeMap::new(),
                leader: None,
                sleeps_until: Moment::ZERO,
                changes: 0,
            }),
            clock,
        }))
    }
    /// One more torrent, with limits of its own.
    pub fn torrent(&self, limit: Option<u64>, each: Option<u64>) -> TorrentThrottle {
        let key = self.change(|turns, now| turns.add_group(limit, each, now));
        TorrentThrottle(Arc::new(Group { all: self.clone(), key }))
    }
    /// Changes the limit for all together.
    pub fn set_limit(&self, limit: Option<u64>) {
        self.change(|turns, now| turns.set_limit(limit, now));
    }
    /// Changes the limit for each connection.
    pub fn set_each(&self, each: Option<u64>) {
        self.change(|turns, now| turns.set_each(each, now));
    }

    fn with<T>(&self, act: impl FnOnce(&mut State, Moment) -> T) -> T {
        let now = self.0.clock.now();
        act(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    /// Limits change: whoever waits is looked at anew.
    fn change<T>(&self, act: impl FnOnce(&mut Turns, Moment) -> T) -> T {
        self.with(|state, now| {
            let answer = act(&mut state.turns, now);
            self.0.is_limited.store(state.turns.is_limited(), Relaxed);
            state.changes += 1;
            state.grant(now);
            // It may have to wake at another time.
            state.leader.inspect(|leader| state.wake(*leader));
            answer
        })
    }
}

/// The limits of a torrent in one direction, shared by cloning; they end with the last of its connections.
#[derive(Debug, Clone)]
pub struct TorrentThrottle(Arc<Group>);

#[derive(Debug)]
struct Group {
    all: Throttle,
    key: GroupKey,
}

impl Drop for Group {
    fn drop(&mut self) {
        self.all.change(|turns, _| turns.remove_group(self.key));
    }
}

impl TorrentThrottle {
    /// One more connection.
    pub fn connection(&self) -> PeerThrottle {
        let waker = Arc::new(Notify::new());
        let key = self.0.all.with(|state, now| {
            let key = state.turns.add_member(self.0.key, now);
            state.wakers.insert(key, waker.clone());
            key
        });
        PeerThrottle { torrent: self.clone(), key, waker }
    }
    /// The limit of all connections together: the torrent's or the session's, whichever is lower.
    pub fn limit(&self) -> Option<u64> {
        self.0.all.with(|state, _| state.turns.limit(self.0.key))
    }
    /// Does a connection wait?
    pub fn is_waited_for(&self) -> bool {
        self.0.all.with(|state, _| state.turns.is_waited_for(self.0.key))
    }
    /// Changes the torrent's limit.
    pub fn set_limit(&self, limit: Option<u64>) {
        self.0.all.change(|turns, now| turns.set_group_limit(self.0.key, limit, now));
    }
    /// Changes the limit for each of its connections.
    pub fn set_each(&self, each: Option<u64>) {
        self.0.all.change(|turns, now| turns.set_group_each(self.0.key, each, now));
    }
}

/// A connection's place in the queues of one direction; dropping it leaves them.
#[derive(Debug)]
pub struct PeerThrottle {
    torrent: TorrentThrottle,
    key: MemberKey,
    waker: Arc<Notify>,
}

impl Drop for PeerThrottle {
    fn drop(&mut self) {
        self.with(|state, _| {
            state.turns.remove_member(self.key);
            state.wakers.remove(&self.key);
            state.hand_on(self.key);
        });
    }
}

/// Takes back what was asked for when the wait ends, however it ends.
struct Asking<'a>(&'a PeerThrottle);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.with(|state, _| {
            state.turns.withdraw(self.0.key);
            state.hand_on(self.0.key);
        });
    }
}

impl PeerThrottle {
    /// The lowest limit that applies: the connection's own, its torrent's, or the session's.
    pub fn limit(&self) -> Option<u64> {
        self.with(|state, _| state.turns.limit_of(self.key))
    }
    /// Is anything limited, here or elsewhere in the session?
    pub fn is_limited(&self) -> bool {
        self.torrent.0.all.0.is_limited.load(Relaxed)
    }
    /// How many bytes may be received before they are paid for.
    pub fn bite(&self) -> usize {
        if !self.is_limited() {
            return usize::MAX;
        }
        self.with(|state, now| usize::try_from(state.turns.bite(self.key, now)).unwrap_or(usize::MAX))
    }
    /// Counts bytes that do not wait; what comes after them waits the longer.
    pub fn charge(&self, bytes: usize) {
        if self.is_limited() {
            self.with(|state, now| state.turns.charge(self.key, bytes as u64, now));
        }
    }
    /// Waits until some of `bytes` may pass, and says how many may; with `begun` before others who are not in the middle of
    /// something. Nothing is lost when the wait is given up.
    pub async fn pass(&self, bytes: usize, begun: bool) -> usize {
        if !self.is_limited() || bytes == 0 {
            return bytes;
        }
        self.with(|state, _| {
            state.turns.ask(self.key, bytes as u64, begun);
            state.leader.get_or_insert(self.key);
        });
        let _asking = Asking(self);
        loop {
            let (granted, wakes) = self.with(|state, now| {
                state.grant(now);
                let (granted, due) = (state.turns.take(self.key), state.turns.deadline());
                match state.leader.filter(|leader| *leader != self.key) {
                    None => {
                        state.sleeps_until = due;
                        (granted, Some(due.since(now)))
                    }
                    Some(leader) => {
                        // Who comes now may be due sooner than all who were waiting when it fell asleep.
                        if due < state.sleeps_until {
                            state.sleeps_until = due;
                            state.wake(leader);
                        }
                        (granted, None)
                    }
                }
            });
            match (granted, wakes) {
                (1.., _) => return usize::try_from(granted).unwrap_or(usize::MAX).min(bytes),
                (0, None) => self.waker.notified().await,
                (0, Some(nap)) => tokio::select! {
                    biased;
                    () = self.waker.notified() => {}
                    () = tokio::time::sleep(nap) => {}
                },
            }
        }
    }
    /// Waits until all of `bytes` may pass. If the limits change meanwhile the rest is not waited for: it was taken in at
    /// the old ones.
    pub async fn pass_all(&self, bytes: usize) {
        let changes = || self.with(|state, _| state.changes);
        let (mut left, before) = (bytes, changes());
        while left > 0 {
            left -= self.pass(left, false).await.min(left);
            if changes() != before {
                return;
            }
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State, Moment) -> T) -> T {
        self.torrent.0.all.with(act)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::clock;

    #[tokio::test(start_paused = true)]
    async fn many_connections_together_keep_to_the_limit() {
        let clock = clock();
        let throttle = Throttle::new(Some(16_384), None, clock.clone());
        let torrent = throttle.torrent(None, None);
        let connections = (0..10).map(|_| async {
            let connection = torrent.connection();
            for _ in 0..6 {
                connection.pass_all(1_638).await;
            }
        });
        futures_util::future::join_all(connections).await;
        let took = clock.now().as_secs_f64();
        assert!((5.7..6.1).contains(&took), "six seconds' worth took {took}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_learns_that_the_limit_is_lifted() {
        let clock = clock();
        let throttle = Throttle::new(Some(1), None, clock.clone());
        let torrent = throttle.torrent(None, None);
        let (one, other) = (torrent.connection(), torrent.connection());
        let lifting = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            throttle.set_limit(None);
        };
        tokio::join!(one.pass_all(100_000), other.pass_all(100_000), lifting);
        assert!(clock.now().as_secs_f64() < 3.1 && !one.is_limited());
    }

    #[tokio::test(start_paused = true)]
    async fn a_torrent_that_waits_long_holds_up_no_other() {
        let clock = clock();
        let throttle = Throttle::new(None, None, clock.clone());
        let (slow, fast) = (throttle.torrent(Some(1), None), throttle.torrent(Some(1 << 20), None));
        let (of_slow, of_fast) = (slow.connection(), fast.connection());
        let leading = of_slow.pass_all(100_000);
        let passing = async {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            of_fast.pass_all(10 << 20).await;
        };
        tokio::select! { () = leading => panic!("100 KB at 1 B/s"), () = passing => {} }
        let took = clock.now().as_secs_f64();
        assert!((10.5..11.5).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_hands_the_lead_on() {
        let clock = clock();
        let throttle = Throttle::new(Some(1_000), None, clock.clone());
        let torrent = throttle.torrent(None, None);
        let (first, second, third) = (torrent.connection(), torrent.connection(), torrent.connection());
        first.pass_all(1_024).await;
        let patience = Duration::from_millis(10);
        let impatient = async {
            assert!(tokio::time::timeout(patience, first.pass(1_000, false)).await.is_err());
            drop(first);
        };
        tokio::join!(impatient, second.pass_all(1_000), third.pass_all(1_000));
        let took = clock.now().as_secs_f64();
        assert!((2.0..3.2).contains(&took), "{took}");
        throttle.with(|state, _| assert!(state.leader.is_none() && state.turns.anyone().is_none()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_torrent_that_ends_takes_its_limit_along() {
        let throttle = Throttle::new(None, None, clock());
        let (limited, free) = (throttle.torrent(Some(1), None), throttle.torrent(None, None));
        assert_eq!((limited.limit(), free.limit()), (Some(1), None));
        let (of_limited, of_free) = (limited.connection(), free.connection());
        assert!(of_free.is_limited() && of_free.bite() == usize::MAX && of_limited.bite() < 100);
        of_free.pass_all(1 << 30).await;
        drop(limited);
        assert!(of_free.is_limited(), "it has a connection left");
        drop(of_limited);
        assert!(!of_free.is_limited());
    }
}
