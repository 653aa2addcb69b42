//! What we asked the remote for, and how much more we may ask (pipelining, timeouts, snubbing).
//!
//! The credit follows the time that blocks take. By Little's law, requests under way = rate × waiting time; so a
//! credit that keeps each block's wait at the shortest seen plus [`QUEUE`] is bandwidth × (delay + queue), without
//! measuring a rate. While waits are short each block adds one to the credit, which doubles it every round trip.

use std::{collections::VecDeque, time::Duration};

use castanet_core::{BLOCK_LENGTH, BlockRef, Moment};

/// Requests under way at most, whatever the remote says it holds: 31 MiB of blocks.
pub const MOST_REQUESTS: usize = 2000;
/// Requests under way at first. 4: it doubles every round trip, and sixteen with each of ten slow peers were a small torrent.
pub const FIRST_CREDIT: usize = 4;
/// Requests under way with a slow peer: one that is being sent, one that waits, and one that waits behind what we send.
pub const LEAST_CREDIT: usize = 3;
/// What a remote is taken to hold until it says otherwise; the customary default of `reqq`.
const USUAL_QUEUE: usize = 250;
/// How long a request should wait in the remote's queue, so that the remote never runs dry.
const QUEUE: Duration = Duration::from_millis(500);
/// How long an offer may be left without an answer before it is repeated.
const OFFER_AGAIN: Duration = Duration::from_secs(1);

/// Requests under way at first under a rate limit in bytes a second: no more than it lets through in a second.
pub fn first_credit(limit: Option<u64>) -> usize {
    let most = limit.map_or(FIRST_CREDIT as u64, |limit| limit / u64::from(BLOCK_LENGTH));
    (most as usize).clamp(LEAST_CREDIT, FIRST_CREDIT)
}

/// Our requests to one remote.
#[derive(Debug)]
pub(super) struct Requests {
    /// Oldest first. Blocks mostly come in this order.
    under_way: VecDeque<Asked>,
    /// Cancelled or lost; the newest last. They may come all the same and are welcome.
    given_up: VecDeque<BlockRef>,
    credit: usize,
    /// The remote's queue, at most [`MOST_REQUESTS`].
    most: usize,
    shortest_wait: Duration,
    /// When the credit was last found too large: what was asked before says so again, and does not count.
    shortened: Moment,
    /// When the last block came, or when we began to wait for one.
    waiting_since: Moment,
    patience: Duration,
    snubbed: bool,
    /// An offer of room has not been answered.
    offered: bool,
    /// How much room was left when the last offer was answered: only more than that is worth another.
    left_over: usize,
    offered_at: Moment,
}

#[derive(Debug)]
struct Asked {
    block: BlockRef,
    at: Moment,
}

/// What a block turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    Expected { back_from_snub: bool },
    WrongLength,
    Unasked,
}

impl Requests {
    pub(super) fn new(patience: Duration, first_credit: usize, now: Moment) -> Self {
        Self {
            under_way: VecDeque::new(),
            given_up: VecDeque::new(),
            credit: first_credit,
            most: USUAL_QUEUE,
            shortest_wait: Duration::MAX,
            shortened: Moment::ZERO,
            waiting_since: now,
            patience,
            snubbed: false,
            offered: false,
            left_over: 0,
            offered_at: now,
        }
    }

    /// The remote holds so many requests (`reqq`).
    pub(super) fn set_most(&mut self, reqq: usize) {
        self.most = reqq.clamp(1, MOST_REQUESTS);
        self.credit = self.credit.min(self.most);
    }

    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }

    pub(super) fn is_snubbed(&self) -> bool {
        self.snubbed
    }

    pub(super) fn credit(&self) -> usize {
        if self.snubbed { 1 } else { self.credit }
    }

    /// How many more blocks may be asked for.
    pub(super) fn room(&self) -> usize {
        self.credit().saturating_sub(self.len())
    }

    /// Notes a request; `false` if there are too many.
    pub(super) fn ask(&mut self, block: BlockRef, now: Moment) -> bool {
        if self.under_way.is_empty() {
            self.waiting_since = now;
        }
        let fits = self.under_way.len() < MOST_REQUESTS;
        if fits {
            self.under_way.push_back(Asked { block, at: now });
        }
        fits
    }

    /// Work was assigned, perhaps none.
    pub(super) fn answered(&mut self) {
        self.offered = false;
        self.left_over = self.room();
    }

    /// Nothing that was said about room counts any more: the remote choked or unchoked us, or our interest changed.
    pub(super) fn forget_offers(&mut self) {
        self.offered = false;
        self.left_over = 0;
    }

    /// How much room to offer now: only when a quarter of the credit has become free, or again after a while.
    pub(super) fn offer(&mut self, now: Moment) -> Option<usize> {
        let room = self.room();
        self.left_over = self.left_over.min(room);
        let fresh = !self.offered && room >= self.left_over + self.batch();
        let again = room >= self.batch() && now >= self.offered_at + OFFER_AGAIN;
        (fresh || again).then(|| {
            self.offered = true;
            self.offered_at = now;
            room
        })
    }

    /// When the offer is to be repeated.
    pub(super) fn next_offer(&self) -> Moment {
        if self.room() >= self.batch() { self.offered_at + OFFER_AGAIN } else { Moment::NEVER }
    }

    fn batch(&self) -> usize {
        (self.credit() / 4).max(1)
    }

    /// A block came.
    pub(super) fn arrived(&mut self, block: BlockRef, now: Moment) -> Arrival {
        let is_it = |asked: &BlockRef| asked.piece == block.piece && asked.begin == block.begin;
        let busy = self.under_way.len() * 2 >= self.credit;
        let length = if let Some(asked) = take(&mut self.under_way, |asked| is_it(&asked.block)) {
            self.learn(asked.at, busy, now);
            asked.block.length
        } else if let Some(asked) = take(&mut self.given_up, is_it) {
            asked.length
        } else {
            return Arrival::Unasked;
        };
        if length != block.length {
            return Arrival::WrongLength;
        }
        self.waiting_since = now;
        let back_from_snub = std::mem::take(&mut self.snubbed);
        if back_from_snub {
            self.credit = LEAST_CREDIT.min(self.most);
        }
        Arrival::Expected { back_from_snub }
    }

    fn learn(&mut self, asked: Moment, busy: bool, now: Moment) {
        let wait = now.since(asked);
        self.shortest_wait = self.shortest_wait.min(wait);
        let queued = wait - self.shortest_wait;
        if queued <= QUEUE && busy {
            self.credit = (self.credit + 1).min(self.most);
        } else if queued > 2 * QUEUE && asked >= self.shortened {
            self.shortened = now;
            let fits = (self.shortest_wait + QUEUE).as_secs_f64() / wait.as_secs_f64();
            self.credit = ((self.credit as f64 * fits) as usize).max(LEAST_CREDIT.min(self.most));
        }
    }

    /// Takes a request back; `false` if it was not under way.
    pub(super) fn cancel(&mut self, block: BlockRef) -> bool {
        let found = take(&mut self.under_way, |asked| asked.block == block).is_some();
        if found {
            self.give_up(block);
        }
        found
    }

    /// The remote refused; `true` if the request was under way and is lost. A refusal alone is no reason to offer
    /// room, or a remote that refuses everything would be asked as fast as it answers.
    pub(super) fn rejected(&mut self, block: BlockRef) -> bool {
        let found = take(&mut self.under_way, |asked| asked.block == block).is_some();
        if found {
            self.left_over += 1;
        } else {
            take(&mut self.given_up, |given_up| *given_up == block);
        }
        found
    }

    /// Gives up all requests but the `keep` oldest.
    pub(super) fn lose(&mut self, keep: usize, lost: &mut Vec<BlockRef>) {
        while self.under_way.len() > keep
            && let Some(asked) = self.under_way.pop_back()
        {
            self.give_up(asked.block);
            lost.push(asked.block);
        }
    }

    /// Gives up what waited too long. `true` if the peer is snubbed from now on.
    pub(super) fn timeout(&mut self, choked: bool, lost: &mut Vec<BlockRef>, now: Moment) -> bool {
        if self.under_way.is_empty() {
            return false;
        }
        if now >= self.waiting_since + self.patience {
            // One request stays, so that the peer can redeem itself; the next round takes that one, too.
            let keep = usize::from(!self.snubbed && !choked);
            self.lose(keep, lost);
            self.waiting_since = now;
            self.left_over = 0;
            return !choked && !std::mem::replace(&mut self.snubbed, true);
        }
        // Others are answered but these are not: the remote has forgotten them.
        while let Some(oldest) = self.under_way.front()
            && now >= oldest.at + 2 * self.patience
        {
            let block = oldest.block;
            self.under_way.pop_front();
            self.give_up(block);
            lost.push(block);
        }
        false
    }

    /// Nothing was read for so long: that counts for no request.
    pub(super) fn excuse(&mut self, by: Duration, now: Moment) {
        self.waiting_since = (self.waiting_since + by).min(now);
        self.under_way.iter_mut().for_each(|asked| asked.at = (asked.at + by).min(now));
    }

    /// When [`Requests::timeout`] has something to do.
    pub(super) fn deadline(&self) -> Moment {
        self.under_way
            .front()
            .map_or(Moment::NEVER, |oldest| (oldest.at + 2 * self.patience).min(self.waiting_since + self.patience))
    }

    fn give_up(&mut self, block: BlockRef) {
        if self.given_up.len() == MOST_REQUESTS {
            self.given_up.pop_front();
        }
        self.given_up.push_back(block);
    }

    /// The bounds that hold at all times.
    pub(super) fn check_invariants(&self) {
        assert!(self.under_way.len() <= MOST_REQUESTS && self.given_up.len() <= MOST_REQUESTS);
        assert!((1..=self.most).contains(&self.credit) && self.most <= MOST_REQUESTS);
        assert!(self.under_way.iter().is_sorted_by_key(|asked| asked.at));
    }
}

/// Takes the first item that matches. Blocks mostly come in the order of asking, so it is mostly the very first.
fn take<T>(items: &mut VecDeque<T>, matches: impl Fn(&T) -> bool) -> Option<T> {
    let at = items.iter().position(matches)?;
    items.remove(at)
}

#[cfg(test)]
mod tests {
    use castanet_core::PieceIndex;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn block(n: u32) -> BlockRef {
        BlockRef { piece: PieceIndex(n / 64), begin: n % 64 * 16_384, length: 16_384 }
    }

    /// Lets a remote answer every request after `delay`, but only so many blocks a second.
    fn simulate(reqq: usize, delay: Duration, blocks_a_second: u64, lasts: Duration) -> (usize, Requests) {
        let mut requests = Requests::new(PATIENCE, FIRST_CREDIT, Moment::ZERO);
        requests.set_most(reqq);
        let each = Duration::from_nanos(1_000_000_000 / blocks_a_second);
        let (mut now, mut next, mut link_free, mut offers) = (Moment::ZERO, 0, Moment::ZERO, 0);
        let mut coming = VecDeque::new();
        while now < Moment::ZERO + lasts {
            if let Some(room) = requests.offer(now) {
                offers += 1;
                for _ in 0..room {
                    assert!(requests.ask(block(next), now));
                    link_free = link_free.max(now + delay) + each;
                    coming.push_back((link_free, block(next)));
                    next += 1;
                }
                requests.answered();
            }
            let (at, block) = coming.pop_front().expect("a peer with credit always has requests under way");
            now = at;
            assert_eq!(requests.arrived(block, now), Arrival::Expected { back_from_snub: false });
            requests.check_invariants();
        }
        // A slow peer is worth an offer a block; a fast one must not cost a message a block.
        let most = if requests.credit() < 8 { next } else { next / 2 + 10 };
        assert!(offers <= most, "{offers} offers for {next} blocks");
        (requests.credit(), requests)
    }

    #[test]
    fn loopback_reaches_many_mebibytes_at_once() {
        let (credit, _) = simulate(2000, Duration::from_micros(50), 65_536, Duration::from_millis(50));
        assert_eq!(credit, MOST_REQUESTS);
        let (credit, _) = simulate(250, Duration::from_micros(50), 65_536, Duration::from_millis(50));
        assert_eq!(credit, 250, "never more than the remote holds");
    }

    #[test]
    fn the_credit_follows_bandwidth_and_delay() {
        // 10 MiB/s over 200 ms: 128 blocks for the delay alone, and for a queue of half a second to a second and a half.
        let (credit, _) = simulate(2000, Duration::from_millis(200), 640, Duration::from_secs(30));
        assert!((128 + 320..=128 + 960).contains(&credit), "{credit}");
        // 32 KiB/s: a few seconds' worth.
        let (credit, _) = simulate(2000, Duration::from_millis(200), 2, Duration::from_secs(60));
        assert!((2..=8).contains(&credit), "{credit}");
        // 2 KiB/s: what a block takes is itself longer than the queue should be.
        let (credit, _) = simulate(2000, Duration::from_millis(200), 1, Duration::from_secs(60));
        assert!((2..=4).contains(&credit), "{credit}");
    }

    #[test]
    fn a_slower_link_shrinks_the_credit() {
        let (_, mut requests) = simulate(2000, Duration::from_millis(10), 2000, Duration::from_secs(10));
        let before = requests.credit();
        let mut now = Moment::from_secs(10);
        for n in 1_000_000..1_000_400 {
            requests.ask(block(n), now);
            now += Duration::from_secs(5);
            requests.arrived(block(n), now);
        }
        assert!(requests.credit() < before - 300, "{before} to {}", requests.credit());
    }

    #[test]
    fn blocks_come_in_any_order_late_and_once() {
        let now = Moment::ZERO;
        let mut requests = Requests::new(PATIENCE, FIRST_CREDIT, now);
        (0..4).for_each(|n| assert!(requests.ask(block(n), now)));
        assert_eq!(requests.arrived(block(2), now), Arrival::Expected { back_from_snub: false });
        assert_eq!(requests.arrived(block(2), now), Arrival::Unasked);
        assert!(requests.cancel(block(0)) && !requests.cancel(block(0)));
        assert_eq!(requests.arrived(block(0), now), Arrival::Expected { back_from_snub: false });
        assert_eq!(requests.arrived(BlockRef { length: 9, ..block(1) }, now), Arrival::WrongLength);
        assert_eq!(requests.len(), 1);
    }

    #[test]
    fn a_peer_that_keeps_blocks_back_is_snubbed_and_can_redeem_itself() {
        let mut requests = Requests::new(PATIENCE, FIRST_CREDIT, Moment::ZERO);
        (0..4).for_each(|n| assert!(requests.ask(block(n), Moment::ZERO)));
        requests.answered();
        let mut lost = Vec::new();
        assert_eq!(requests.deadline(), Moment::ZERO + PATIENCE);
        assert!(!requests.timeout(false, &mut lost, requests.deadline() - Duration::from_nanos(1)));
        assert!(requests.timeout(false, &mut lost, requests.deadline()));
        assert_eq!(lost, [block(3), block(2), block(1)]);
        assert_eq!((requests.credit(), requests.room()), (1, 0));
        assert!(!requests.timeout(false, &mut lost, requests.deadline()), "it is snubbed already");
        assert_eq!((lost.len(), requests.room(), requests.deadline()), (4, 1, Moment::NEVER));
        assert_eq!(requests.arrived(block(3), Moment::from_secs(200)), Arrival::Expected { back_from_snub: true });
        assert_eq!(requests.credit(), LEAST_CREDIT);
    }

    #[test]
    fn what_we_do_not_read_is_not_late() {
        let mut requests = Requests::new(PATIENCE, first_credit(Some(10 * 1024)), Moment::ZERO);
        assert_eq!(requests.credit(), LEAST_CREDIT);
        assert_eq!((first_credit(Some(50_000)), first_credit(None)), (3, FIRST_CREDIT));
        (0..2).for_each(|n| assert!(requests.ask(block(n), Moment::ZERO)));
        let (mut now, mut lost) = (requests.deadline(), Vec::new());
        requests.excuse(PATIENCE / 2, now);
        assert!(!requests.timeout(false, &mut lost, now) && lost.is_empty());
        now += PATIENCE / 2;
        assert_eq!(requests.deadline(), now);
        assert!(requests.timeout(false, &mut lost, now));
    }

    #[test]
    fn a_forgotten_request_is_lost_while_others_are_answered() {
        let (mut requests, mut now, mut lost) =
            (Requests::new(PATIENCE, FIRST_CREDIT, Moment::ZERO), Moment::ZERO, Vec::new());
        requests.ask(block(0), now);
        for n in 1..=12 {
            requests.ask(block(n), now);
            now += Duration::from_secs(10);
            requests.arrived(block(n), now);
            assert!(!requests.timeout(false, &mut lost, now));
        }
        assert_eq!(lost, [block(0)]);
    }

    #[test]
    fn room_is_offered_in_batches_and_again_after_a_while() {
        let now = Moment::ZERO;
        let mut requests = Requests::new(PATIENCE, 16, now);
        assert_eq!(requests.offer(now), Some(16));
        assert_eq!(requests.offer(now), None, "the first offer has no answer yet");
        (0..16).for_each(|n| assert!(requests.ask(block(n), now)));
        requests.answered();
        requests.arrived(block(0), now);
        assert_eq!(requests.offer(now), None, "two free blocks are not worth a message");
        requests.arrived(block(1), now);
        assert_eq!(requests.offer(now), Some(4));
        requests.answered();
        assert_eq!(requests.offer(now), None, "there was no work");
        assert_eq!(requests.offer(requests.next_offer()), Some(4));
        requests.answered();
        (2..10).for_each(|n| assert!(requests.rejected(block(n))));
        assert_eq!(requests.offer(requests.next_offer() - Duration::from_nanos(1)), None, "refusals invite nothing");
    }
}
