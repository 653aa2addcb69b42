//! What we asked the remote for, and how much more we may ask (pipelining, timeouts, snubbing).
//!
//! The credit follows the time that blocks take. By Little's law, requests under way = rate × waiting time; so a
//! credit that keeps each block's wait at the shortest seen plus [`QUEUE`] is bandwidth × (delay + queue), without
//! measuring a rate. While waits are short each block adds one to the credit, which doubles it every round trip.

use std::{collections::VecDeque, time::Duration};

use castanet_core::{BlockRef, Moment};

/// Requests under way at most, whatever the remote says it holds: 31 MiB of blocks.
pub const MOST_REQUESTS: usize = 2000;
/// Requests under way at first.
pub const FIRST_CREDIT: usize = 16;
/// Requests under way with a slow peer: one that is being sent and one that waits.
pub const LEAST_CREDIT: usize = 2;
/// What a remote is taken to hold until it says otherwise; the customary default of `reqq`.
const USUAL_QUEUE: usize = 250;
/// How long a request should wait in the remote's queue, so that the remote never runs dry.
const QUEUE: Duration = Duration::from_secs(1);
/// How long an offer may be left without an answer before it is repeated.
const OFFER_AGAIN: Duration = Duration::from_secs(1);

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
    pub(super) fn new(patience: Duration, now: Moment) -> Self {
        Self {
            under_way: VecDeque::new(),
            given_up: VecDeque::new(),
            credit: FIRST_CREDIT,
            most: USUAL_QUEUE,
            shortest_wait: Duration::MAX,
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
        let is_it = |asked: BlockRef| asked.piece == block.piece && asked.begin == block.begin;
        let asked = if let Some(at) = self.under_way.iter().position(|asked| is_it(asked.block)) {
            let busy = self.under_way.len() * 2 >= self.credit;
            let Some(asked) = self.under_way.remove(at) else { return Arrival::Unasked };
            self.learn(now.since(asked.at), busy);
            asked.block
        } else if let Some(at) = self.given_up.iter().position(|asked| is_it(*asked)) {
            let Some(asked) = self.given_up.remove(at) else { return Arrival::Unasked };
            asked
        } else {
            return Arrival::Unasked;
        };
        if asked.length != block.length {
            return Arrival::WrongLength;
        }
        self.waiting_since = now;
        let back_from_snub = std::mem::take(&mut self.snubbed);
        if back_from_snub {
            self.credit = LEAST_CREDIT.min(self.most);
        }
        Arrival::Expected { back_from_snub }
    }

    fn learn(&mut self, wait: Duration, busy: bool) {
        self.shortest_wait = self.shortest_wait.min(wait);
        let queued = wait - self.shortest_wait;
        if queued <= QUEUE && busy {
            self.credit = (self.credit + 1).min(self.most);
        } else if queued > 2 * QUEUE {
            self.credit = (self.credit - 1).max(LEAST_CREDIT.min(self.most));
        }
    }

    /// Takes a request back; `false` if it was not under way.
    pub(super) fn cancel(&mut self, block: BlockRef) -> bool {
        let found = self.under_way.iter().position(|asked| asked.block == block);
        if let Some(at) = found {
            self.under_way.remove(at);
            self.give_up(block);
        }
        found.is_some()
    }

    /// The remote refused; `true` if the request was under way and is lost. A refusal alone is no reason to offer
    /// room, or a remote that refuses everything would be asked as fast as it answers.
    pub(super) fn rejected(&mut self, block: BlockRef) -> bool {
        let found = self.under_way.iter().position(|asked| asked.block == block);
        if let Some(at) = found {
            self.under_way.remove(at);
            self.left_over += 1;
        } else {
            self.given_up.retain(|given_up| *given_up != block);
        }
        found.is_some()
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
            let keep = usize::from(!self.snubbed && !choked);
            self.lose(keep, lost);
            self.waiting_since = now;
            self.left_over = 0;
            return !std::mem::replace(&mut self.snubbed, true);
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
