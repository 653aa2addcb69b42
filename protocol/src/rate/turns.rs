//! Who may move bytes, and when: the limits of a session, of its torrents and of their connections, in one direction.
//!
//! A tree of buckets: the session, a group for each torrent, a member for each connection. Bytes pass all three. Who must
//! wait asks ([`Turns::ask`]); [`Turns::grant`] gives what can be given, [`Turns::poll`] names those who got something and
//! [`Turns::deadline`] says when there will be more. What a bucket gives goes in turns: of the groups to the one that has had
//! the fewest bytes, and within it to the member that has; so a torrent with fifty connections gets no more than one with a
//! single one. Who is held up by its own limit holds up nobody else.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use castanet_core::Moment;

use super::{bucket::TokenBucket, queue::Queue};

/// How long buckets save up: longer than a busy machine lets a timer wait, and one hundredth of ten seconds.
const SAVED: Duration = Duration::from_millis(100);
/// The debt that bytes can make which do not wait for their turn. So long is made up for; what is beyond is not, or who
/// makes others send control messages could stop all blocks.
const MOST_DEBT: Duration = Duration::from_secs(1);
/// What all members together have received and not paid for is at most this part of a second's bytes: one hundredth of ten
/// seconds' ...
const UNPAID: u64 = 10;
/// ... but for each at least so many: less would be all overhead.
const LEAST_BITE: u64 = 64;
/// Whoever has had nothing for so long begins with the least bite again, since it is not known how many begin with it. Each
/// bite may be twice the last one.
const COLD: Duration = Duration::from_secs(1);
/// One grant is at most what the tightest limit lets through in this part of a second, so that savings are not overdrawn ...
const GRANTS_A_SECOND: u64 = 32;
/// ... but not less than this: on the network a packet has to be worth its header.
pub const LEAST_GRANT: u64 = 1024;

/// A torrent's name in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey(u64);

/// A connection's name in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberKey(u64);

/// The tree. Rates are in bytes a second; `None` is unlimited.
#[derive(Debug, Clone)]
pub struct Turns {
    bucket: TokenBucket,
    /// The limit of every member, besides its group's for its members.
    each: Option<u64>,
    queue: Queue<GroupKey>,
    groups: BTreeMap<GroupKey, Group>,
    members: BTreeMap<MemberKey, Member>,
    next: u64,
    granted: VecDeque<MemberKey>,
}

#[derive(Debug, Clone)]
struct Group {
    bucket: TokenBucket,
    each: Option<u64>,
    queue: Queue<MemberKey>,
}

#[derive(Debug, Clone)]
struct Member {
    group: GroupKey,
    bucket: TokenBucket,
    /// Bytes it waits for.
    asked: u64,
    /// Bytes it may move, and has not been told.
    granted: u64,
    /// When it was last granted something, and how much.
    served: (Moment, u64),
}

impl Group {
    /// Who is next here, or when someone will be; `Moment::NEVER` if nobody waits.
    fn next(&mut self, members: &BTreeMap<MemberKey, Member>, now: Moment) -> Result<MemberKey, Moment> {
        if self.bucket.ready() > now {
            return Err(self.bucket.ready());
        }
        self.queue.unpark(now);
        while let Some((key, _)) = self.queue.first() {
            match members.get(&key).map(|member| member.bucket.ready()) {
                Some(ready) if ready > now => self.queue.park(key, ready),
                Some(_) => return Ok(key),
                None => self.queue.leave(key),
            }
        }
        Err(self.queue.next_parked().unwrap_or(Moment::NEVER))
    }
}

impl Turns {
    /// A session with a limit in all, and one for each connection.
    pub fn new(limit: Option<u64>, each: Option<u64>, now: Moment) -> Self {
        Self {
            bucket: TokenBucket::saving(SAVED, limit, now),
            each,
            queue: Queue::new(),
            groups: BTreeMap::new(),
            members: BTreeMap::new(),
            next: 0,
            granted: VecDeque::new(),
        }
    }

    // ---- who there is

    /// One more torrent, with a limit in all and one for each of its connections.
    pub fn add_group(&mut self, limit: Option<u64>, each: Option<u64>, now: Moment) -> GroupKey {
        let key = GroupKey(self.name());
        self.groups.insert(key, Group { bucket: TokenBucket::saving(SAVED, limit, now), each, queue: Queue::new() });
        self.queue.join(key);
        key
    }

    /// Forgets a torrent and its connections.
    pub fn remove_group(&mut self, group: GroupKey) {
        self.groups.remove(&group);
        self.queue.leave(group);
        self.members.retain(|_, member| member.group != group);
    }

    /// One more connection of a torrent.
    pub fn add_member(&mut self, group: GroupKey, now: Moment) -> MemberKey {
        let key = MemberKey(self.name());
        let limit = lower(self.each, self.groups.get(&group).and_then(|group| group.each));
        let bucket = TokenBucket::saving(SAVED, limit, now);
        self.members.insert(key, Member { group, bucket, asked: 0, granted: 0, served: (now, 0) });
        if let Some(group) = self.groups.get_mut(&group) {
            group.queue.join(key);
        }
        key
    }

    /// Forgets a connection.
    pub fn remove_member(&mut self, key: MemberKey) {
        self.withdraw(key);
        let member = self.members.remove(&key);
        if let Some(group) = member.and_then(|member| self.groups.get_mut(&member.group)) {
            group.queue.leave(key);
        }
    }

    fn name(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    // ---- limits

    /// Is there any limit at all? If not, nobody has to ask.
    pub fn is_limited(&self) -> bool {
        let of_group = |group: &Group| lower(group.bucket.rate(), group.each).is_some();
        lower(self.bucket.rate(), self.each).is_some() || self.groups.values().any(of_group)
    }

    /// The limit of all members of a group together: its own or the session's, whichever is lower.
    pub fn limit(&self, group: GroupKey) -> Option<u64> {
        lower(self.bucket.rate(), self.groups.get(&group).and_then(|group| group.bucket.rate()))
    }

    /// The lowest limit that applies to a member: its own, its group's or the session's.
    pub fn limit_of(&self, key: MemberKey) -> Option<u64> {
        self.members.get(&key).and_then(|member| lower(member.bucket.rate(), self.limit(member.group)))
    }

    /// Changes the limit of the session.
    pub fn set_limit(&mut self, limit: Option<u64>, now: Moment) {
        self.bucket.set_rate(limit, now);
        self.limits_changed(now);
    }

    /// Changes the limit of every connection.
    pub fn set_each(&mut self, each: Option<u64>, now: Moment) {
        self.each = each;
        self.limits_changed(now);
    }

    /// Changes the limit of a torrent.
    pub fn set_group_limit(&mut self, group: GroupKey, limit: Option<u64>, now: Moment) {
        if let Some(group) = self.groups.get_mut(&group) {
            group.bucket.set_rate(limit, now);
        }
        self.limits_changed(now);
    }

    /// Changes the limit of each connection of a torrent.
    pub fn set_group_each(&mut self, group: GroupKey, each: Option<u64>, now: Moment) {
        if let Some(group) = self.groups.get_mut(&group) {
            group.each = each;
        }
        self.limits_changed(now);
    }

    /// Everybody is looked at anew: who was held up may not be any more.
    fn limits_changed(&mut self, now: Moment) {
        for member in self.members.values_mut() {
            let limit = lower(self.each, self.groups.get(&member.group).and_then(|group| group.each));
            if member.bucket.rate() != limit.map(|limit| limit.max(1)) {
                member.bucket.set_rate(limit, now);
            }
        }
        let keys: Vec<_> = self.members.keys().copied().collect();
        for key in keys {
            // What came in large bites under a high limit is not to be paid for at a low one.
            let bite = self.bite(key, now).max(LEAST_GRANT);
            if let Some(member) = self.members.get_mut(&key) {
                member.asked = member.asked.min(bite);
            }
        }
        for group in self.groups.values_mut() {
            group.queue.unpark(Moment::NEVER);
        }
        self.queue.unpark(Moment::NEVER);
    }

    // ---- bytes

    /// How many bytes a member may receive before it pays for them. They have to be read before anyone knows that they are
    /// there; small bites keep what is received on credit small.
    pub fn bite(&self, key: MemberKey, now: Moment) -> u64 {
        let Some(member) = self.members.get(&key) else { return u64::MAX };
        let group = self.groups.get(&member.group);
        let share = |rate: Option<u64>, of: usize| rate.map(|rate| rate / UNPAID / of.max(1) as u64);
        let in_group = group.map_or(1, |group| 1 + group.queue.len());
        let of_group = share(group.and_then(|group| group.bucket.rate()), in_group);
        let of_all = share(self.bucket.rate(), in_group * (1 + self.queue.len()));
        let bite = lower(lower(share(member.bucket.rate(), 1), of_group), of_all);
        let (served, last) = member.served;
        let most = if now < served + COLD { last.saturating_mul(2) } else { 0 };
        bite.map_or(u64::MAX, |bite| bite.min(most).max(LEAST_BITE))
    }

    /// A member wants to move so many bytes, instead of what it wanted before. With `begun` it is in the middle of something
    /// that others should not delay.
    pub fn ask(&mut self, key: MemberKey, bytes: u64, begun: bool) {
        let Some(member) = self.members.get_mut(&key) else { return };
        if member.granted > 0 || bytes == 0 {
            return;
        }
        member.asked = bytes;
        let name = member.group;
        if let Some(group) = self.groups.get_mut(&name) {
            group.queue.wait(key, begun);
            self.requeue(name);
        }
    }

    /// A member wants nothing any more. What it was granted stays its own.
    pub fn withdraw(&mut self, key: MemberKey) {
        let Some(member) = self.members.get_mut(&key) else { return };
        member.asked = 0;
        let name = member.group;
        if let Some(group) = self.groups.get_mut(&name) {
            group.queue.stay_away(key);
            self.requeue(name);
        }
    }

    /// Bytes moved that could not wait; what comes after them waits the longer, by a second at most.
    pub fn charge(&mut self, key: MemberKey, bytes: u64, now: Moment) {
        self.pay(key, bytes, false, now);
    }

    /// Gives what can be given now.
    pub fn grant(&mut self, now: Moment) {
        self.queue.unpark(now);
        while self.bucket.ready() <= now
            && let Some((name, _)) = self.queue.first()
        {
            let Some(group) = self.groups.get_mut(&name) else { return self.queue.leave(name) };
            match group.next(&self.members, now) {
                Ok(key) => self.serve(key, now),
                Err(Moment::NEVER) => self.queue.stay_away(name),
                Err(until) => self.queue.park(name, until),
            }
        }
    }

    fn serve(&mut self, key: MemberKey, now: Moment) {
        let most = self.limit_of(key).map_or(u64::MAX, |rate| (rate / GRANTS_A_SECOND).max(LEAST_GRANT));
        let Some(member) = self.members.get_mut(&key) else { return };
        let bytes = member.asked.min(most);
        (member.asked, member.granted, member.served) = (0, bytes, (now, bytes));
        let name = member.group;
        self.granted.push_back(key);
        self.pay(key, bytes, true, now);
        if let Some(group) = self.groups.get_mut(&name) {
            group.queue.stay_away(key);
        }
        self.requeue(name);
    }

    fn pay(&mut self, key: MemberKey, bytes: u64, in_turn: bool, now: Moment) {
        let charge = |bucket: &mut TokenBucket| match in_turn {
            true => bucket.charge(bytes, now),
            false => bucket.charge_within(MOST_DEBT, bytes, now),
        };
        let Some(member) = self.members.get_mut(&key) else { return };
        charge(&mut member.bucket);
        let name = member.group;
        if let Some(group) = self.groups.get_mut(&name) {
            charge(&mut group.bucket);
            group.queue.count(key, bytes, in_turn);
        }
        charge(&mut self.bucket);
        self.queue.count(name, bytes, in_turn);
    }

    /// A group waits if anyone in it does.
    fn requeue(&mut self, name: GroupKey) {
        let Some(group) = self.groups.get_mut(&name) else { return };
        match (group.queue.first(), group.queue.next_parked()) {
            (Some((_, begun)), _) => self.queue.wait(name, begun),
            (None, Some(until)) => self.queue.park(name, until),
            (None, None) => self.queue.stay_away(name),
        }
    }

    /// Who has been granted something.
    pub fn poll(&mut self) -> Option<MemberKey> {
        self.granted.pop_front()
    }

    /// Takes what a member was granted; 0 if it has to wait.
    pub fn take(&mut self, key: MemberKey) -> u64 {
        self.members.get_mut(&key).map_or(0, |member| std::mem::take(&mut member.granted))
    }

    /// When [`Turns::grant`] has something to give; `Moment::NEVER` if nobody waits.
    pub fn deadline(&self) -> Moment {
        let next = self.queue.first().map_or(self.queue.next_parked(), |_| Some(Moment::ZERO));
        next.map_or(Moment::NEVER, |next| next.max(self.bucket.ready()))
    }

    /// Does anyone of this group wait?
    pub fn is_waited_for(&self, group: GroupKey) -> bool {
        self.groups.get(&group).is_some_and(|group| group.queue.anyone().is_some())
    }

    /// Anyone who waits.
    pub fn anyone(&self) -> Option<MemberKey> {
        self.queue.anyone().and_then(|name| self.groups.get(&name)?.queue.anyone())
    }

    /// What holds between inputs.
    pub fn check_invariants(&self) {
        self.queue.check_invariants();
        let waits = |group: &Group| group.queue.anyone().is_some();
        for group in self.groups.values() {
            group.queue.check_invariants();
        }
        assert_eq!(self.queue.anyone().is_some(), self.groups.values().any(waits));
        assert!(self.members.values().all(|member| self.groups.contains_key(&member.group)));
    }
}

/// The lower of two limits.
fn lower(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests;
