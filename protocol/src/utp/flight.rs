//! What was sent and has not arrived yet: packets by number, which of them are lost, how long a round trip takes.

use std::{collections::VecDeque, time::Duration};

use castanet_core::Moment;

use super::packet::{Kind, Sack};

/// Packets after it that have arrived make a packet lost.
const REORDERING: u32 = 3;
/// The least time after which a packet is taken for lost because nothing arrives (BEP 29).
const LEAST_TIMEOUT: Duration = Duration::from_millis(500);
/// That of the first packet, when the way is not known yet.
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
/// The most to which it doubles.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(16);

/// A packet that was sent.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) kind: Kind,
    pub(super) payload: Vec<u8>,
    at: Moment,
    times: u32,
    has_arrived: bool,
    is_lost: bool,
    /// Bytes by which it was padded to try a larger size.
    pub(super) padding: usize,
}

/// What an acknowledgement tells.
#[derive(Debug, Default)]
pub(super) struct Acked {
    /// Bytes of payload that have arrived.
    pub(super) bytes: usize,
    /// Something was lost that the window has not paid for yet.
    pub(super) is_loss: bool,
    /// A larger packet has arrived (`true`) or was lost.
    pub(super) probe: Option<bool>,
    /// Anything new at all.
    pub(super) is_news: bool,
}

/// The packets under way.
#[derive(Debug)]
pub(super) struct Flight {
    packets: VecDeque<Sent>,
    /// The number of the first of them.
    first: u64,
    /// Bytes that are thought to be on the way.
    bytes: usize,
    lost: usize,
    /// Losses up to this number have been paid for.
    recovery: u64,
    same_ack: u32,
    /// Packets after the next of which the other side is known to tell whether they have arrived.
    reach: usize,
    /// When the latest sent of those that have arrived was sent.
    newest_arrived: Moment,
    smooth: Option<Duration>,
    /// The shortest trip of all.
    shortest: Duration,
    variance: Duration,
    timeout: Duration,
    /// Timeouts in a row.
    pub(super) timeouts: u32,
}

impl Flight {
    /// Nothing under way; the next packet has the number `first`.
    pub(super) fn new(first: u64) -> Self {
        Self {
            packets: VecDeque::new(),
            first,
            bytes: 0,
            lost: 0,
            recovery: first,
            same_ack: 0,
            reach: 0,
            newest_arrived: Moment::ZERO,
            smooth: None,
            shortest: FIRST_TIMEOUT,
            variance: Duration::ZERO,
            timeout: FIRST_TIMEOUT,
            timeouts: 0,
        }
    }

    pub(super) fn next_number(&self) -> u64 {
        self.first + self.packets.len() as u64
    }
    /// The number of the first that has not arrived, or of the next.
    pub(super) fn first_number(&self) -> u64 {
        self.first
    }
    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
    pub(super) fn has_lost(&self) -> bool {
        self.lost > 0
    }
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }
    /// The way to the other side and back takes so long, if it is known.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.smooth
    }

    /// A new packet is sent.
    pub(super) fn push(&mut self, kind: Kind, payload: Vec<u8>, padding: usize, now: Moment) {
        self.bytes += payload.len();
        let sent = Sent { kind, payload, at: now, times: 1, has_arrived: false, is_lost: false, padding };
        self.packets.push_back(sent);
    }

    /// The first lost packet, which is sent again: never padded.
    pub(super) fn again(&mut self, now: Moment) -> Option<(u64, &Sent)> {
        if self.lost == 0 {
            return None;
        }
        let at = self.packets.iter().position(|sent| sent.is_lost)?;
        let sent = self.packets.get_mut(at)?;
        (sent.is_lost, sent.at, sent.padding) = (false, now, 0);
        sent.times += 1;
        self.lost -= 1;
        self.bytes += sent.payload.len();
        Some((self.first + at as u64, sent))
    }

    /// The other side has everything up to `ack`, and of what follows what is marked. `None` if it cannot have.
    pub(super) fn ack(&mut self, ack: u64, sack: &Sack, is_bare: bool, now: Moment) -> Option<Acked> {
        if ack >= self.next_number() {
            return None;
        }
        let mut acked = Acked::default();
        if ack + 1 < self.first {
            // An old one, overtaken by a newer.
            return Some(acked);
        }
        let mut latest = None;
        while self.first <= ack
            && let Some(sent) = self.packets.pop_front()
        {
            self.first += 1;
            self.note(&sent, &mut acked, &mut latest, now);
            acked.is_news = true;
        }
        let mut highest = None;
        for bit in sack.iter() {
            let at = ack + 2 + bit - self.first;
            let Some(mut sent) = usize::try_from(at).ok().and_then(|at| self.packets.get_mut(at)).map(std::mem::take)
            else {
                break;
            };
            if !sent.has_arrived {
                self.note(&sent, &mut acked, &mut latest, now);
                (sent.has_arrived, sent.is_lost) = (true, false);
                acked.is_news = true;
            }
            self.packets[at as usize] = Sent { payload: Vec::new(), ..sent };
            highest = Some(at as usize);
            self.reach = self.reach.max(bit as usize + 2);
        }
        // It is the latest that was answered. Those before it may have been there for long, out of the other side's words'
        // reach; and of one that was sent twice it is not known which has arrived.
        if let Some((sent, 1)) = latest {
            self.measured(now.since(sent));
        }
        if acked.is_news {
            (self.same_ack, self.timeouts) = (0, 0);
            self.set_timeout();
        } else if is_bare && !self.packets.is_empty() {
            self.same_ack += 1;
        }
        self.find_lost(highest, is_bare, &mut acked);
        Some(acked)
    }

    /// Notes that a packet has arrived. `latest`: when the latest sent of those was sent, and how many times it was.
    fn note(&mut self, sent: &Sent, acked: &mut Acked, latest: &mut Option<(Moment, u32)>, now: Moment) {
        if sent.has_arrived {
            return;
        }
        match sent.is_lost {
            true => self.lost -= 1,
            false => self.bytes -= sent.payload.len(),
        }
        acked.bytes += sent.payload.len();
        if sent.padding > 0 {
            acked.probe = Some(true);
        }
        *latest = (*latest).max(Some((sent.at, sent.times)));
        // Of one that was sent twice it is not known which has arrived, unless it can only be the second.
        let is_certain = sent.times == 1 || now.since(sent.at) >= self.shortest;
        if is_certain {
            self.newest_arrived = self.newest_arrived.max(sent.at);
        }
    }

    /// Marks what is lost: what three packets that were sent later have overtaken, and of what was under way when something
    /// was lost already, or was sent again, all that is not told of although something later has arrived.
    fn find_lost(&mut self, highest: Option<usize>, is_bare: bool, acked: &mut Acked) {
        let slack = self.shortest / 4;
        let is_repeated = highest.is_none() && self.same_ack >= REORDERING;
        // While something is lost, the next one is never there, and data may leave no room for more.
        let is_recovering = self.first < self.recovery;
        let told = if is_recovering && is_bare { self.reach.max(1) } else { usize::from(is_recovering || is_repeated) };
        let mut beyond: u32 = 0;
        for at in (0..highest.unwrap_or(0).max(told).min(self.packets.len())).rev() {
            if self.packets.get(at + 1).is_some_and(|next| next.has_arrived) {
                beyond += 1;
            }
            let number = self.first + at as u64;
            let sent = &mut self.packets[at];
            if sent.has_arrived || sent.is_lost {
                continue;
            }
            let is_overtaken = beyond >= REORDERING || (at == 0 && is_repeated);
            let is_overdue = sent.at + slack < self.newest_arrived;
            if (sent.times == 1 && is_overtaken) || ((sent.times > 1 || number < self.recovery) && is_overdue) {
                sent.is_lost = true;
                self.lost += 1;
                self.bytes -= sent.payload.len();
                if sent.padding > 0 {
                    // Too large for the way, probably: no sign of full queues.
                    acked.probe = Some(false);
                } else if number >= self.recovery {
                    acked.is_loss = true;
                }
            }
        }
        if acked.is_loss {
            self.recovery = self.next_number();
        }
        if is_repeated {
            self.same_ack = 0;
        }
    }

    fn measured(&mut self, trip: Duration) {
        self.shortest = self.shortest.min(trip);
        let smooth = match self.smooth {
            None => {
                self.variance = trip / 2;
                trip
            }
            Some(smooth) => {
                self.variance = (self.variance * 3 + smooth.abs_diff(trip)) / 4;
                (smooth * 7 + trip) / 8
            }
        };
        self.smooth = Some(smooth);
    }

    /// Something has arrived: the timeout is what the way takes, however often it was doubled.
    fn set_timeout(&mut self) {
        if let Some(smooth) = self.smooth {
            self.timeout = (smooth + self.variance * 4).clamp(LEAST_TIMEOUT, LONGEST_TIMEOUT);
        }
    }

    /// Nothing has arrived for too long: everything under way is taken for lost. Returns whether a larger packet was
    /// among it.
    pub(super) fn expire(&mut self) -> bool {
        self.timeouts += 1;
        self.timeout = (self.timeout * 2).min(LONGEST_TIMEOUT);
        let mut had_probe = false;
        for sent in self.packets.iter_mut().filter(|sent| !sent.has_arrived && !sent.is_lost) {
            sent.is_lost = true;
            self.lost += 1;
            had_probe |= sent.padding > 0;
        }
        (self.bytes, self.recovery, self.same_ack) = (0, self.next_number(), 0);
        had_probe
    }
}

impl Default for Sent {
    fn default() -> Self {
        Self {
            kind: Kind::Data,
            payload: Vec::new(),
            at: Moment::ZERO,
            times: 0,
            has_arrived: false,
            is_lost: false,
            padding: 0,
        }
    }
}
