//! When a torrent is looked up, and when it is announced.
//!
//! Looking up is for those who want peers: at once, then after pauses that grow. Announcing is for those who can be
//! reached: at once, again before the nodes forget us (BEP 5 gives them no time, common ones keep us for half an hour),
//! and anew whenever what was said is no longer true. Each announcement is a look-up, too. The size of the swarm is asked
//! for in look-ups of their own: common nodes tell either that or peers.

use std::time::Duration;

use castanet_core::Moment;
use fastrand::Rng;

/// The pause after a look-up that found nobody, as long as nobody was ever found: others may be joining right now.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The pause after the first look-up that found somebody; it doubles.
const USUAL_PAUSE: Duration = Duration::from_secs(60);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How long an announcement holds, of which up to a quarter is taken off so that torrents do not come all at once.
const ANNOUNCED: Duration = Duration::from_secs(20 * 60);
/// How often the size of the swarm is asked for (BEP 33), and how soon again if nobody told.
const SIZE_EVERY: Duration = Duration::from_secs(30 * 60);
const SIZE_AGAIN: Duration = Duration::from_secs(5 * 60);

/// The plan for one torrent.
#[derive(Debug)]
pub(super) struct Plan {
    rng: Rng,
    /// When to look for more peers, if any are wanted.
    search_at: Moment,
    /// When to announce; never if nobody can reach us.
    announce_at: Moment,
    size_at: Moment,
    pause: Duration,
    /// The pause after an announcement that nobody took.
    retry: Duration,
    /// What is announced right now is no longer true: see [`Plan::announce_anew`].
    is_outdated: bool,
    /// What is looked up right now may be in vain: see [`Plan::hope`].
    is_hopeful: bool,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    /// Announce at the end.
    pub(super) announce: bool,
    /// Ask for the size of the swarm, and nothing else.
    pub(super) scrape: bool,
}

impl Plan {
    /// Everything is due at once; announcing only if `reachable`.
    pub(super) fn new(reachable: bool, seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            search_at: Moment::ZERO,
            announce_at: if reachable { Moment::ZERO } else { Moment::NEVER },
            size_at: Moment::ZERO,
            pause: FIRST_PAUSE,
            retry: FIRST_PAUSE,
            is_outdated: false,
            is_hopeful: false,
        }
    }

    /// When there is something to do.
    pub(super) fn deadline(&self, wanted: bool) -> Moment {
        match self.peers_due(wanted) {
            // The size alone is not worth a look-up.
            Moment::NEVER => Moment::NEVER,
            due => due.min(self.size_at),
        }
    }

    fn peers_due(&self, wanted: bool) -> Moment {
        if wanted { self.announce_at.min(self.search_at) } else { self.announce_at }
    }

    /// What to begin now, if anything; to be followed by [`Plan::done`].
    pub(super) fn begin(&mut self, wanted: bool, now: Moment) -> Option<Due> {
        (self.is_outdated, self.is_hopeful) = (false, false);
        let scrape = self.peers_due(wanted) > now;
        (self.deadline(wanted) <= now).then_some(Due { announce: !scrape && self.announce_at <= now, scrape })
    }

    /// This was done: `announced` nodes took the announcement, `found` peers came of it, and perhaps the size was told.
    pub(super) fn done(&mut self, due: Due, announced: usize, found: usize, sized: bool, now: Moment) {
        if due.scrape {
            self.size_at = now + if sized { SIZE_EVERY } else { SIZE_AGAIN };
            return;
        }
        if found > 0 {
            self.pause = self.pause.max(USUAL_PAUSE);
        }
        if self.is_hopeful && found == 0 {
            self.search_at = now;
        } else {
            // Up to a quarter more, or else two that began together always just miss each other.
            self.search_at = now + self.pause + self.pause.mul_f64(self.rng.f64() / 4.0);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        if !due.announce || self.is_outdated {
            return;
        }
        if announced > 0 {
            self.announce_at = now + ANNOUNCED.mul_f64(1.0 - self.rng.f64() / 4.0);
            self.retry = FIRST_PAUSE;
        } else if self.is_hopeful {
            self.announce_at = now;
        } else {
            self.announce_at = now + self.retry;
            self.retry = (self.retry * 2).min(LONGEST_PAUSE);
        }
    }

    /// What was announced, or is being announced, is no longer true.
    pub(super) fn announce_anew(&mut self, now: Moment) {
        if self.announce_at != Moment::NEVER {
            (self.announce_at, self.retry, self.is_outdated) = (now, FIRST_PAUSE, true);
        }
    }

    /// There is reason to hope for more than last time: nodes are known that were not, the network is another one.
    pub(super) fn hope(&mut self, now: Moment) {
        (self.search_at, self.pause, self.is_hopeful) = (now, FIRST_PAUSE, true);
        if self.retry > FIRST_PAUSE {
            (self.announce_at, self.retry) = (now, FIRST_PAUSE);
        }
    }

    /// Peers are wanted again.
    pub(super) fn wanted_again(&mut self, now: Moment) {
        self.pause = self.pause.min(USUAL_PAUSE);
        self.search_at = self.search_at.min(now + self.pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A plan that is about peers alone.
    fn of_peers(reachable: bool, seed: u64) -> Plan {
        Plan { size_at: Moment::NEVER, ..Plan::new(reachable, seed) }
    }

    #[test]
    fn who_wants_peers_looks_up_with_growing_pauses() {
        let mut plan = of_peers(false, 1);
        let (mut now, mut pauses) = (Moment::from_secs(5), Vec::new());
        for found in [0, 0, 0, 7, 1, 0, 0] {
            let due = plan.begin(true, now).unwrap();
            assert!(!due.announce, "nobody can reach us");
            plan.done(due, 0, found, false, now);
            pauses.push(plan.deadline(true).since(now).as_secs());
            now = plan.deadline(true);
        }
        let expected = [10, 20, 40, 80, 160, 300, 300];
        for (pause, least) in pauses.iter().zip(expected) {
            assert!((least..=least * 5 / 4).contains(pause), "{pauses:?}");
        }
        assert_eq!(plan.begin(false, now), None);
        assert_eq!(plan.deadline(false), Moment::NEVER);
    }

    #[test]
    fn a_first_find_makes_the_pause_usual() {
        let mut plan = of_peers(false, 2);
        let due = plan.begin(true, Moment::ZERO).unwrap();
        plan.done(due, 0, 3, false, Moment::ZERO);
        assert!((60..=75).contains(&plan.deadline(true).since(Moment::ZERO).as_secs()));
        plan.wanted_again(Moment::from_secs(2));
        assert!(plan.deadline(true) <= Moment::from_secs(62 + 15));
    }

    #[test]
    fn who_can_be_reached_announces_before_it_is_forgotten() {
        let mut plan = of_peers(true, 3);
        let mut now = Moment::from_secs(1);
        for _ in 0..50 {
            let due = plan.begin(false, now).unwrap();
            assert!(due.announce);
            plan.done(due, 8, 0, false, now);
            let pause = plan.deadline(false).since(now);
            assert!((15 * 60..=20 * 60).contains(&pause.as_secs()), "{pause:?}");
            now = plan.deadline(false);
        }
        plan.announce_anew(now - SECOND);
        assert!(plan.begin(false, now).unwrap().announce);
    }

    #[test]
    fn an_announcement_that_nobody_took_is_tried_again_soon() {
        let mut plan = of_peers(true, 4);
        let mut now = Moment::ZERO;
        for pause in [10, 20, 40, 80, 160, 300, 300] {
            let due = plan.begin(false, now).unwrap();
            plan.done(due, 0, 0, false, now);
            assert_eq!(plan.deadline(false).since(now).as_secs(), pause);
            now = plan.deadline(false);
        }
        let due = plan.begin(false, now).unwrap();
        plan.done(due, 0, 0, false, now);
        plan.hope(now + SECOND);
        assert_eq!(plan.deadline(false), now + SECOND, "nodes are known now");
    }

    #[test]
    fn what_happens_meanwhile_is_not_forgotten() {
        let mut plan = of_peers(true, 6);
        let due = plan.begin(true, Moment::ZERO).unwrap();
        plan.announce_anew(Moment::from_secs(1));
        plan.done(due, 8, 5, false, Moment::from_secs(2));
        let due = plan.begin(false, Moment::from_secs(2)).expect("we became a seed while we were announced as none");
        assert!(due.announce);
        plan.done(due, 8, 5, false, Moment::from_secs(4));
        assert!(plan.deadline(false) > Moment::from_secs(60));

        let mut plan = of_peers(true, 7);
        let due = plan.begin(true, Moment::ZERO).unwrap();
        plan.hope(Moment::from_secs(1));
        plan.done(due, 0, 0, false, Moment::from_secs(5));
        let due = plan.begin(true, Moment::from_secs(5)).expect("the only node was dead, now there are others");
        assert!(due.announce);
        plan.done(due, 8, 0, false, Moment::from_secs(6));
        assert_eq!(plan.begin(true, Moment::from_secs(7)), None, "once");
    }

    #[test]
    fn the_size_is_asked_for_now_and_then_and_after_peers() {
        let mut plan = Plan::new(true, 5);
        let mut now = Moment::from_secs(1);
        let due = plan.begin(true, now).unwrap();
        assert_eq!(due, Due { announce: true, scrape: false });
        plan.done(due, 8, 3, false, now);
        let mut size = |told, pause: u64| {
            let due = plan.begin(false, now).unwrap();
            assert_eq!(due, Due { announce: false, scrape: true });
            plan.done(due, 0, 0, told, now);
            assert_eq!(plan.begin(false, now), None);
            now += Duration::from_secs(pause);
        };
        size(false, 5 * 60);
        size(true, 30 * 60);
        assert!(plan.begin(false, now).unwrap().announce, "peers go first");
        let mut nobody = Plan::new(false, 6);
        assert_eq!(nobody.begin(false, now), None, "the size alone is not worth a look-up");
    }
}
