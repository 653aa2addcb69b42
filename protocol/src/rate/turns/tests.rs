//! Members that always want more, or not, under limits at every level.

use proptest::prelude::*;

use super::super::tests::{KIB, ms};
use super::*;

const MIB: u64 = 1024 * KIB;

/// Members that want `frame` bytes at a time, over and over.
struct Play {
    turns: Turns,
    /// What each wants at a time, what is left of that, what it has had.
    hungry: BTreeMap<MemberKey, (u64, u64, u64)>,
}

impl Play {
    fn new(turns: Turns) -> Self {
        Self { turns, hungry: BTreeMap::new() }
    }

    fn hungry(&mut self, group: GroupKey, frame: u64) -> MemberKey {
        let key = self.turns.add_member(group, Moment::ZERO);
        self.hungry.insert(key, (frame, frame, 0));
        self.turns.ask(key, frame, false);
        key
    }

    /// Lets time pass; timers have a grain of a millisecond.
    fn play(&mut self, from: Moment, until: Moment) {
        let mut now = from;
        while now < until {
            self.turns.grant(now);
            self.turns.check_invariants();
            let mut is_over = true;
            while let Some(key) = self.turns.poll() {
                let Some((frame, left, had)) = self.hungry.get_mut(&key) else { continue };
                let granted = self.turns.take(key);
                assert!((1..=*left).contains(&granted), "{granted} of {left}");
                *had += granted;
                *left = if *left == granted { *frame } else { *left - granted };
                self.turns.ask(key, *left, left != frame);
                is_over = false;
            }
            if is_over {
                now = self.turns.deadline().max(now + Duration::from_millis(1));
            }
        }
    }

    fn had(&self, key: MemberKey) -> u64 {
        self.hungry[&key].2
    }

    fn all(&self) -> u64 {
        self.hungry.values().map(|(_, _, had)| had).sum()
    }
}

fn is_near(got: u64, wanted: u64) -> bool {
    got.abs_diff(wanted) * 100 <= wanted * 3
}

#[test]
fn a_limit_holds_at_every_rate() {
    for rate in [10 * KIB, MIB, 500 * MIB] {
        for members in [1, 50] {
            let mut play = Play::new(Turns::new(Some(rate), None, ms(0)));
            let group = play.turns.add_group(None, None, ms(0));
            (0..members).for_each(|_| _ = play.hungry(group, 16_397));
            play.play(ms(0), ms(10_000));
            assert!(is_near(play.all(), 10 * rate), "{} of {} by {members}", play.all(), 10 * rate);
        }
    }
}

#[test]
fn fifty_connections_get_no_more_than_one() {
    for rate in [10 * KIB, MIB, 20 * MIB] {
        let mut play = Play::new(Turns::new(Some(rate), None, ms(0)));
        let (crowd, loner) = (play.turns.add_group(None, None, ms(0)), play.turns.add_group(None, None, ms(0)));
        let crowd: Vec<_> = (0..50).map(|_| play.hungry(crowd, 16_397)).collect();
        let loner = play.hungry(loner, 16_397);
        play.play(ms(0), ms(60_000));
        let halves = (play.had(loner), play.all() - play.had(loner));
        assert!(halves.0.abs_diff(halves.1) <= 2 * 16_397, "{halves:?} at {rate}");
        let shares = crowd.iter().map(|key| play.had(*key));
        let (least, most) = (shares.clone().min().unwrap(), shares.max().unwrap());
        assert!(most - least <= 2 * 16_397, "{least} to {most} at {rate}");
    }
}

#[test]
fn every_level_limits_and_holds_up_nobody_else() {
    let mut play = Play::new(Turns::new(Some(100 * KIB), Some(40 * KIB), ms(0)));
    let slow = play.turns.add_group(Some(10 * KIB), None, ms(0));
    let strict = play.turns.add_group(None, Some(5 * KIB), ms(0));
    let free = play.turns.add_group(None, None, ms(0));
    let slow = [play.hungry(slow, 16_397), play.hungry(slow, 16_397)];
    let strict = play.hungry(strict, 16_397);
    let free = play.hungry(free, 16_397);
    play.play(ms(0), ms(20_000));
    let of_slow = play.had(slow[0]) + play.had(slow[1]);
    assert!(is_near(of_slow, 200 * KIB), "the torrent's own limit: {of_slow}");
    assert!(is_near(play.had(strict), 100 * KIB), "its connections' limit: {}", play.had(strict));
    assert!(is_near(play.had(free), 800 * KIB), "the session's for each connection: {}", play.had(free));
}

#[test]
fn what_is_begun_is_finished_first() {
    let mut play = Play::new(Turns::new(Some(10 * KIB), None, ms(0)));
    let group = play.turns.add_group(None, None, ms(0));
    let keys: Vec<_> = (0..8).map(|_| play.hungry(group, 16_397)).collect();
    for second in 0..60 {
        play.play(ms(second * 1000), ms(second * 1000 + 1000));
        let begun = keys.iter().filter(|key| !play.had(**key).is_multiple_of(16_397)).count();
        assert!(begun <= 1, "{begun} blocks are begun and not finished");
    }
}

#[test]
fn a_limit_changes_at_once_and_old_debts_are_forgiven() {
    let mut play = Play::new(Turns::new(Some(100 * MIB), None, ms(0)));
    let group = play.turns.add_group(None, None, ms(0));
    let member = play.hungry(group, MIB);
    play.play(ms(0), ms(1000));
    let before = play.had(member);
    play.turns.set_limit(Some(10 * KIB), ms(1000));
    // What it asked for was cut.
    play.hungry.insert(member, (16_397, 16_397, before));
    play.turns.ask(member, 16_397, false);
    play.play(ms(1000), ms(11_000));
    assert!(is_near(play.had(member) - before, 100 * KIB), "{}", play.had(member) - before);
    assert!(play.turns.is_limited());
    play.turns.set_group_limit(group, Some(MIB), ms(11_000));
    play.turns.set_limit(None, ms(11_000));
    assert_eq!(play.turns.limit(group), Some(MIB));
    let before = play.had(member);
    play.play(ms(11_000), ms(21_000));
    assert!(is_near(play.had(member) - before, 10 * MIB));
    play.turns.set_group_limit(group, None, ms(21_000));
    assert!(!play.turns.is_limited());
    play.turns.grant(ms(21_000));
    assert!(play.turns.take(member) > 0 && play.turns.deadline() == Moment::NEVER);
}

#[test]
fn absence_earns_nothing() {
    let mut play = Play::new(Turns::new(Some(MIB), None, ms(0)));
    let groups: Vec<_> = (0..2).map(|_| play.turns.add_group(None, None, ms(0))).collect();
    let first = play.hungry(groups[0], 16_397);
    play.play(ms(0), ms(30_000));
    let second = play.hungry(groups[1], 16_397);
    let before = play.had(first);
    play.play(ms(30_000), ms(40_000));
    let (old, new) = (play.had(first) - before, play.had(second));
    assert!(is_near(old, 5 * MIB) && is_near(new, 5 * MIB), "{old} and {new}");
}

#[test]
fn what_is_received_before_it_is_paid_for_is_little() {
    let mut turns = Turns::new(Some(MIB), None, ms(0));
    let group = turns.add_group(None, None, ms(0));
    let keys: Vec<_> = (0..50).map(|_| turns.add_member(group, ms(0))).collect();
    let mut unpaid = 0;
    for key in &keys {
        let bite = turns.bite(*key, ms(0));
        unpaid += bite;
        turns.ask(*key, bite, false);
    }
    assert!(unpaid <= MIB / 100, "{unpaid} bytes by those who have just begun");
    turns.grant(ms(100));
    for key in keys.iter().filter(|key| turns.clone().take(**key) > 0) {
        assert!(turns.bite(*key, ms(100)) * 50 <= MIB);
        assert_eq!(turns.bite(*key, ms(2_000)), LEAST_BITE);
    }
    let unlimited = Turns::new(None, None, ms(0));
    assert!(!unlimited.is_limited() && unlimited.bite(keys[0], ms(0)) == u64::MAX);
}

#[test]
fn who_leaves_is_forgotten_and_what_was_granted_stays() {
    let mut turns = Turns::new(Some(MIB), None, ms(0));
    let group = turns.add_group(None, None, ms(0));
    let (stays, goes) = (turns.add_member(group, ms(0)), turns.add_member(group, ms(0)));
    turns.ask(goes, 100, false);
    turns.ask(stays, 100, false);
    turns.grant(ms(100));
    turns.withdraw(stays);
    turns.remove_member(goes);
    turns.ask(stays, 500, false);
    assert_eq!((turns.take(stays), turns.take(stays), turns.take(goes)), (100, 0, 0));
    turns.ask(stays, 500, false);
    turns.remove_group(group);
    turns.check_invariants();
    turns.grant(ms(9_000));
    assert_eq!((turns.anyone(), turns.deadline(), turns.take(stays)), (None, Moment::NEVER, 0));
}

proptest! {
    #[test]
    fn nothing_that_members_do_beats_the_limits(
        steps in proptest::collection::vec((0u8..7, 0usize..6, 1u64..40_000, 0u64..300), 1..300),
    ) {
        let (limit, of_group) = (50_000, 20_000);
        let mut turns = Turns::new(Some(limit), None, ms(0));
        let groups = [turns.add_group(Some(of_group), None, ms(0)), turns.add_group(None, Some(5_000), ms(0))];
        let mut members: Vec<_> = (0..6).map(|n| turns.add_member(groups[n % 2], ms(0))).collect();
        let (mut now, mut had) = (0, [0, 0]);
        for (what, who, bytes, wait) in steps {
            now += wait;
            let key = members[who];
            match what {
                0 => turns.withdraw(key),
                1 => {
                    turns.remove_member(key);
                    members[who] = turns.add_member(groups[who % 2], ms(now));
                }
                _ => turns.ask(key, bytes, what == 2),
            }
            turns.grant(ms(now));
            turns.check_invariants();
            while let Some(key) = turns.poll() {
                let at = members.iter().position(|member| *member == key);
                at.into_iter().for_each(|at| had[at % 2] += turns.take(key));
            }
            prop_assert!(turns.anyone().is_none() || turns.deadline() > ms(now));
        }
        let most = |rate: u64| rate * now / 1000 + rate / 10 + rate / 32 + LEAST_GRANT;
        prop_assert!(had[0] + had[1] <= most(limit) && had[0] <= most(of_group), "{had:?} in {now} ms");
    }
}
