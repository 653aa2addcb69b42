//! One uTP connection: what it would send next, and what a packet changes (BEP 29).

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use castanet_core::Moment;

use super::{
    End, Settings,
    arrivals::{Arrival, Arrivals},
    flight::Flight,
    ledbat::Ledbat,
    packet::{HEADER, Header, Kind, Sack},
};

/// How long an acknowledgement may wait for company.
const ACK_DELAY: Duration = Duration::from_millis(50);
/// Data packets after which it does not wait.
const ACK_EVERY: u32 = 2;
/// Timeouts in a row after which the other side is gone.
const MOST_TIMEOUTS: u32 = 6;
/// SYNs that are sent.
const MOST_SYNS: u32 = 4;
/// How long what was written is still delivered after the user has gone.
const LINGER: Duration = Duration::from_secs(20);
/// Packets are spread over a round trip that takes at least so long; a shorter one is no more than a timer's tick or two.
const PACED_FROM: Duration = Duration::from_millis(5);
/// Timers are so late at most: what should have left in this time leaves at once.
const BURST: Duration = Duration::from_millis(2);
/// How much faster than the window is used up packets leave, so that the window stays what limits; and while it doubles.
const PACE: f64 = 1.25;
const PACE_DOUBLING: f64 = 2.0;
/// Acknowledgements that have overtaken this one, so many at most, or it is made up.
const MOST_OVERTAKEN: u64 = 64;
/// Steps of the search for the largest packet that arrives that are too small to be worth it, in bytes.
const MTU_STEP: usize = 16;
/// Packets may be so large to begin with: IPv6 carries 1,280 bytes everywhere, and IPv4 hardly anywhere less.
const SURE_SIZE: usize = 1232;

/// Where a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// We have asked for it.
    SynSent,
    /// We were asked for it, and nothing but that has come.
    SynReceived,
    Open,
    Ended(End),
}

/// A number of which only the lowest 16 bits are sent, next to one that is known.
fn expand(near: u64, short: u16) -> u64 {
    let difference = short.wrapping_sub(near as u16).cast_signed();
    near.saturating_add_signed(i64::from(difference))
}

/// Numbers begin so high that counting back never runs out.
const BASE: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) remote: SocketAddr,
    pub(super) receive_id: u16,
    pub(super) send_id: u16,
    pub(super) state: State,
    flight: Flight,
    arrivals: Arrivals,
    ledbat: Ledbat,
    unsent: VecDeque<u8>,
    most_unsent: usize,
    wants_finish: bool,
    is_finish_sent: bool,
    /// Bytes that the other side takes.
    window: usize,
    /// When the next packet may leave: one burst a round trip would be answered by one acknowledgement, all of which is lost
    /// with it, and fills queues for nothing.
    next_leaves: Moment,
    /// One packet may leave in spite of a closed window.
    may_probe_window: bool,
    /// The window that we told last.
    told_window: usize,
    /// Since when a timeout is counted.
    timer: Option<Moment>,
    /// What the other side's clock and ours make of its last packet.
    delay: u32,
    ack_now: bool,
    ack_due: Option<Moment>,
    unacked: u32,
    /// Bytes of a full datagram, and the most that it might be.
    size: usize,
    largest: usize,
    is_probing: bool,
    /// The user was told to read, to write.
    pub(super) told_readable: bool,
    pub(super) wants_room: bool,
    /// The user has gone.
    pub(super) closed_at: Option<Moment>,
    /// It waits for its turn to send.
    pub(super) is_queued: bool,
    /// When it is on the list of deadlines.
    pub(super) listed: Option<Moment>,
}

impl Connection {
    fn new(remote: SocketAddr, ids: (u16, u16), numbers: (u64, u64), settings: &Settings, now: Moment) -> Self {
        let largest = if remote.is_ipv4() { settings.largest_v4 } else { settings.largest_v6 };
        let size = SURE_SIZE.min(largest);
        Self {
            remote,
            receive_id: ids.0,
            send_id: ids.1,
            state: State::Open,
            flight: Flight::new(numbers.0),
            arrivals: Arrivals::new(numbers.1, settings.receive_window),
            ledbat: Ledbat::new(size - HEADER, now),
            unsent: VecDeque::new(),
            most_unsent: settings.send_buffer,
            wants_finish: false,
            is_finish_sent: false,
            window: size,
            next_leaves: now,
            may_probe_window: false,
            told_window: settings.receive_window,
            timer: None,
            delay: 0,
            ack_now: false,
            ack_due: None,
            unacked: 0,
            size,
            largest,
            is_probing: false,
            told_readable: false,
            wants_room: false,
            closed_at: None,
            is_queued: false,
            listed: None,
        }
    }

    /// One that we ask for. `id` is our receiving id, `number` that of our SYN.
    pub(super) fn ask(remote: SocketAddr, id: u16, number: u16, settings: &Settings, now: Moment) -> Self {
        let numbers = (BASE + u64::from(number), BASE);
        let mut asking = Self::new(remote, (id, id.wrapping_add(1)), numbers, settings, now);
        asking.state = State::SynSent;
        asking.flight.push(Kind::Syn, Vec::new(), 0, now);
        asking.flight.expire();
        asking.flight.timeouts = 0;
        asking
    }

    /// One that we were asked for by `syn`. `number` is that of our first packet.
    pub(super) fn answer(remote: SocketAddr, syn: &Header, number: u16, settings: &Settings, now: Moment) -> Self {
        let ids = (syn.connection.wrapping_add(1), syn.connection);
        let numbers = (BASE + u64::from(number), BASE + u64::from(syn.number) + 1);
        let mut asked = Self::new(remote, ids, numbers, settings, now);
        asked.state = State::SynReceived;
        asked.ack_now = true;
        asked.window = syn.window as usize;
        asked.told_time(syn, now);
        asked
    }

    /// The SYN came again: so did our answer not.
    pub(super) fn asked_again(&mut self) {
        self.ack_now |= self.state == State::SynReceived;
    }

    fn told_time(&mut self, header: &Header, now: Moment) {
        self.delay = micros(now).wrapping_sub(header.sent);
    }

    /// Takes a packet of this connection in.
    pub(super) fn hear(&mut self, header: &Header, payload: &[u8], now: Moment) {
        if matches!(self.state, State::Ended(_)) {
            return;
        }
        if header.kind == Kind::Reset {
            let ack = expand(self.flight.next_number(), header.ack);
            if self.may_be_acked(ack) || self.state == State::SynSent {
                self.end(if self.state == State::SynSent { End::Refused } else { End::Reset });
            }
            return;
        }
        let ack = expand(self.flight.next_number(), header.ack);
        if self.state == State::SynSent {
            if header.kind != Kind::State || ack + 1 != self.flight.next_number() {
                return;
            }
            self.state = State::Open;
            self.arrivals = Arrivals::new(BASE + u64::from(header.number), self.arrivals.window());
        }
        // Who has asked in another's name has not seen our number.
        if !self.may_be_acked(ack) || (self.state == State::SynReceived && ack + 1 != self.flight.next_number()) {
            return;
        }
        let is_newest = ack + 1 >= self.flight.first_number();
        let (under_way, window) = (self.flight.bytes(), self.ledbat.window());
        // What waits for its turn to leave is held back by the window as well.
        let was_full = under_way + self.size > window || (!self.unsent.is_empty() && 2 * under_way > window);
        let is_bare = header.kind == Kind::State;
        let Some(acked) = self.flight.ack(ack, &header.sack, is_bare, now) else { return };
        self.told_time(header, now);
        if is_newest {
            self.window = header.window as usize;
        }
        if self.window < self.size {
            // It is there, and has no room.
            self.flight.timeouts = 0;
        }
        if acked.is_news {
            if header.delay != 0 {
                self.ledbat.delayed(header.delay, now);
            }
            self.ledbat.acked(acked.bytes, was_full);
            self.timer = (!self.flight.is_empty()).then_some(now);
        }
        if acked.is_loss {
            self.ledbat.lost();
        }
        if let Some(has_arrived) = acked.probe {
            self.probed(has_arrived);
        }
        if !is_bare {
            self.arrived(header, payload, now);
        }
    }

    /// Is it an acknowledgement that the other side can have sent lately? A reset may name the next number as well: it answers
    /// what has none of its own.
    fn may_be_acked(&self, ack: u64) -> bool {
        ack + 1 + MOST_OVERTAKEN >= self.flight.first_number() && ack <= self.flight.next_number()
    }

    fn arrived(&mut self, header: &Header, payload: &[u8], now: Moment) {
        if self.state == State::SynReceived {
            self.state = State::Open;
        }
        let number = expand(self.arrivals.next(), header.number);
        match self.arrivals.take(number, payload, header.kind == Kind::Fin) {
            Arrival::InOrder => {
                self.unacked += 1;
                let at_once =
                    self.unacked >= ACK_EVERY || self.arrivals.is_finished() || !self.arrivals.sack().is_empty();
                self.ack_now |= at_once;
                self.ack_due.get_or_insert(now + ACK_DELAY);
            }
            Arrival::Early | Arrival::Known | Arrival::Dropped => self.ack_now = true,
        }
        if self.closed_at.is_some() {
            self.arrivals.discard();
        }
    }

    /// A datagram of the size that was tried has arrived, or has not.
    fn probed(&mut self, has_arrived: bool) {
        let tried = self.tried_size();
        if !std::mem::take(&mut self.is_probing) {
            return;
        }
        if has_arrived {
            self.size = tried;
            self.ledbat.set_packet(tried - HEADER);
        } else {
            self.largest = tried - 1;
        }
    }

    fn tried_size(&self) -> usize {
        // The largest first: it is what most ways carry.
        if self.size == SURE_SIZE && !self.is_narrowed() {
            self.largest
        } else {
            (self.size + self.largest).div_ceil(2)
        }
    }

    fn is_narrowed(&self) -> bool {
        !matches!(self.largest, LARGEST_V4 | LARGEST_V6)
    }

    /// The system says that a datagram was too large.
    pub(super) fn too_large(&mut self) {
        self.probed(false);
    }

    pub(super) fn end(&mut self, end: End) {
        self.state = State::Ended(end);
        self.unsent.clear();
        self.timer = None;
        (self.ack_now, self.ack_due) = (false, None);
    }

    /// Writes what fits.
    pub(super) fn write(&mut self, bytes: &[u8]) -> usize {
        if self.wants_finish || matches!(self.state, State::Ended(_)) {
            return 0;
        }
        let length = bytes.len().min(self.room());
        self.unsent.extend(&bytes[..length]);
        length
    }

    /// Bytes that may be written. What cannot leave soon is better kept by the writer.
    pub(super) fn room(&self) -> usize {
        let most = (2 * self.ledbat.window()).clamp(64 << 10, self.most_unsent.max(64 << 10));
        most.saturating_sub(self.unsent.len())
    }

    pub(super) fn read(&mut self, into: &mut [u8]) -> usize {
        let length = self.arrivals.read(into);
        // Who was told that there is no room waits to hear that there is.
        let (room, told) = (self.arrivals.window(), self.told_window);
        if told < 2 * self.size && room >= (2 * self.size).max(self.arrivals.window() / 2) && self.is_open() {
            self.ack_now = true;
        }
        length
    }

    pub(super) fn has_bytes(&self) -> bool {
        !self.arrivals.is_empty()
    }
    pub(super) fn is_finished(&self) -> bool {
        self.arrivals.is_finished()
    }
    fn is_open(&self) -> bool {
        matches!(self.state, State::Open | State::SynReceived)
    }

    pub(super) fn finish(&mut self) {
        self.wants_finish = true;
    }

    /// Has all that was written arrived?
    pub(super) fn is_flushed(&self) -> bool {
        self.unsent.is_empty() && self.flight.is_empty() && self.wants_finish == self.is_finish_sent
    }

    pub(super) fn close(&mut self, now: Moment) {
        self.closed_at = Some(now);
        self.finish();
        self.arrivals.discard();
    }

    /// May nothing more be expected of it, once the user has gone?
    pub(super) fn is_over(&self, now: Moment) -> bool {
        let Some(closed) = self.closed_at else { return false };
        match self.state {
            State::Ended(_) | State::SynSent | State::SynReceived => true,
            State::Open => self.is_flushed() || now.since(closed) >= LINGER,
        }
    }

    /// When [`Self::tick`] is due.
    pub(super) fn due(&self, now: Moment) -> Option<Moment> {
        let leaves = (self.next_leaves > now && self.has_packet()).then_some(self.next_leaves);
        let timeout = self.timer.map(|since| since + self.flight.timeout());
        let linger = self.closed_at.map(|closed| closed + LINGER);
        [timeout, linger, self.ack_due, leaves].into_iter().flatten().min()
    }

    pub(super) fn tick(&mut self, now: Moment) {
        if self.ack_due.is_some_and(|due| due <= now) {
            (self.ack_now, self.ack_due) = (true, None);
        }
        if self.timer.is_none_or(|since| now < since + self.flight.timeout()) {
            return;
        }
        self.timer = Some(now);
        if self.flight.is_empty() {
            // The window is closed, and the word that it is open may be lost.
            self.may_probe_window = true;
            return;
        }
        let had_probe = self.flight.expire();
        if had_probe {
            self.probed(false);
        }
        let most = if self.state == State::SynSent { MOST_SYNS } else { MOST_TIMEOUTS };
        if self.flight.timeouts >= most {
            return self.end(End::TimedOut);
        }
        if self.flight.len() > 1 || !had_probe {
            self.ledbat.timed_out();
        }
    }

    /// Is there something that may be sent now?
    pub(super) fn wants_to_send(&self, now: Moment) -> bool {
        match self.state {
            State::Ended(_) => false,
            State::SynSent => self.flight.has_lost(),
            State::SynReceived => self.ack_now,
            State::Open => self.ack_now || (self.next_leaves <= now && self.has_packet()),
        }
    }

    /// Is there a packet, new or to be sent again, that the windows let out?
    fn has_packet(&self) -> bool {
        self.state == State::Open && (self.may_send_again() || self.next_payload().is_some())
    }

    fn may_send_again(&self) -> bool {
        self.flight.has_lost()
            && (self.flight.bytes() == 0 || self.flight.bytes() + self.size - HEADER <= self.ledbat.window())
    }

    /// Bytes of the next new packet; 0 for the last one, which carries none.
    fn next_payload(&self) -> Option<usize> {
        if self.flight.has_lost() || self.is_finish_sent {
            return None;
        }
        if self.unsent.is_empty() {
            return self.wants_finish.then_some(0);
        }
        let length = self.unsent.len().min(self.size - HEADER);
        let under_way = self.flight.bytes() + length;
        let is_allowed = under_way <= self.ledbat.window().min(self.window);
        (is_allowed || (self.may_probe_window && self.flight.is_empty())).then_some(length)
    }

    /// Writes the next packet; `false` if there is none.
    pub(super) fn transmit(&mut self, now: Moment, out: &mut Vec<u8>) -> bool {
        if !self.wants_to_send(now) {
            return false;
        }
        let window = self.arrivals.window();
        let mut header = Header {
            kind: Kind::State,
            connection: self.send_id,
            sent: micros(now),
            delay: self.delay,
            window: window as u32,
            number: self.flight.next_number() as u16,
            ack: self.arrivals.next().wrapping_sub(1) as u16,
            sack: Sack::default(),
        };
        // Data leaves no room for what has arrived out of order, which nobody else would tell.
        let must_tell = self.ack_now && !self.arrivals.sack().is_empty();
        let may_send = self.state != State::SynReceived && self.next_leaves <= now && !must_tell;
        if may_send && self.may_send_again() {
            let Some((number, sent)) = self.flight.again(now) else { return false };
            (header.kind, header.number) = (sent.kind, number as u16);
            if sent.kind == Kind::Syn {
                header.connection = self.receive_id;
                header.ack = 0;
            }
            header.write(0, out);
            out.extend_from_slice(&sent.payload);
            self.pace(out.len(), now);
        } else if let Some(length) = self.next_payload().filter(|_| may_send) {
            let mut payload = vec![0; length];
            let (front, back) = self.unsent.as_slices();
            let of_front = length.min(front.len());
            payload[..of_front].copy_from_slice(&front[..of_front]);
            payload[of_front..].copy_from_slice(&back[..length - of_front]);
            self.unsent.drain(..length);
            header.kind = if length == 0 { Kind::Fin } else { Kind::Data };
            self.is_finish_sent |= length == 0;
            if self.flight.is_empty() {
                // What it was waiting for before was room.
                self.timer = None;
            }
            let padding = self.padding_for(length);
            header.write(padding, out);
            out.extend_from_slice(&payload);
            self.flight.push(header.kind, payload, padding, now);
            self.pace(out.len(), now);
            self.may_probe_window = false;
        } else {
            header.sack = self.arrivals.sack();
            header.write(0, out);
        }
        self.told_window = window;
        (self.ack_now, self.ack_due, self.unacked) = (false, None, 0);
        self.start_timer(now);
        true
    }

    /// A packet leaves: when may the next?
    fn pace(&mut self, bytes: usize, now: Moment) {
        let Some(trip) = self.flight.round_trip().filter(|trip| *trip >= PACED_FROM) else { return };
        let pace = if self.ledbat.is_doubling() { PACE_DOUBLING } else { PACE };
        let share = bytes as f64 / (pace * self.ledbat.window() as f64);
        let earliest = Moment(now.0.saturating_sub(BURST.as_nanos() as u64));
        self.next_leaves = self.next_leaves.max(earliest) + trip.mul_f64(share.min(1.0));
    }

    /// Bytes to add to a full packet, to see whether a larger one arrives.
    fn padding_for(&mut self, length: usize) -> usize {
        let is_worth_it = self.size + MTU_STEP <= self.largest && self.flight.round_trip().is_some();
        if self.is_probing || !is_worth_it || length + HEADER < self.size || self.flight.len() < 4 {
            return 0;
        }
        self.is_probing = true;
        self.tried_size() - self.size
    }

    fn start_timer(&mut self, now: Moment) {
        let waits_for_room = !self.unsent.is_empty() && self.flight.is_empty();
        if !self.flight.is_empty() || waits_for_room {
            self.timer.get_or_insert(now);
        }
    }

    /// Something was written, or the window moved: a timeout may be due for what cannot leave.
    pub(super) fn watch_window(&mut self, now: Moment) {
        if self.state == State::Open && !self.has_packet() {
            self.start_timer(now);
        }
    }
}

/// The largest payload of UDP in an Ethernet frame, by IPv4 and by IPv6.
pub(super) const LARGEST_V4: usize = 1472;
pub(super) const LARGEST_V6: usize = 1452;

pub(super) fn micros(now: Moment) -> u32 {
    (now.0 / 1000) as u32
}
