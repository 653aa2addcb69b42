//! One uTP connection: what it would send next, and what a packet changes (BEP 29).

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use castanet_core::Moment;

use super::{
    End, Settings,
    arrivals::{Arrival, Arrivals},
    flight::Flight,
    ledbat::Ledbat,
    mtu::Mtu,
    pacer::Pacer,
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
/// Acknowledgements that have overtaken this one, so many at most, or it is made up.
const MOST_OVERTAKEN: u64 = 64;
/// With so many packets under way others will follow the one that is lost for its size, and show it before a timeout does.
const BUSY: usize = 4;

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
    mtu: Mtu,
    pacer: Pacer,
    unsent: VecDeque<u8>,
    most_unsent: usize,
    wants_finish: bool,
    is_finish_sent: bool,
    /// Bytes that the other side takes.
    window: usize,
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
        let mtu = Mtu::new(largest);
        Self {
            remote,
            receive_id: ids.0,
            send_id: ids.1,
            state: State::Open,
            flight: Flight::new(numbers.0),
            arrivals: Arrivals::new(numbers.1, settings.receive_window),
            ledbat: Ledbat::new(mtu.size() - HEADER, now),
            pacer: Pacer::new(now),
            unsent: VecDeque::new(),
            most_unsent: settings.send_buffer,
            wants_finish: false,
            is_finish_sent: false,
            window: mtu.size(),
            mtu,
            may_probe_window: false,
            told_window: settings.receive_window,
            timer: None,
            delay: 0,
            ack_now: false,
            ack_due: None,
            unacked: 0,
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
        let was_full = under_way + self.mtu.size() > window || (!self.unsent.is_empty() && 2 * under_way > window);
        let is_bare = header.kind == Kind::State;
        let Some(acked) = self.flight.ack(ack, &header.sack, is_bare, now) else { return };
        self.told_time(header, now);
        if is_newest {
            self.window = header.window as usize;
        }
        if self.window < self.mtu.size() {
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
        if acked.probe.is_some_and(|has_arrived| self.mtu.tell(has_arrived)) {
            self.ledbat.set_packet(self.mtu.size() - HEADER);
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

    /// The system says that a datagram was too large.
    pub(super) fn too_large(&mut self) {
        self.mtu.tell(false);
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
        if told < 2 * self.mtu.size() && room >= (2 * self.mtu.size()).max(self.arrivals.window() / 2) && self.is_open()
        {
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
        let leaves = Some(self.pacer.next()).filter(|next| *next > now && self.has_packet());
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
            self.mtu.tell(false);
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
            State::Open => self.ack_now || (self.pacer.next() <= now && self.has_packet()),
        }
    }

    /// Is there a packet, new or to be sent again, that the windows let out?
    fn has_packet(&self) -> bool {
        self.state == State::Open && (self.may_send_again() || self.next_payload().is_some())
    }

    fn may_send_again(&self) -> bool {
        self.flight.has_lost()
            && (self.flight.bytes() == 0 || self.flight.bytes() + self.mtu.size() - HEADER <= self.ledbat.window())
    }

    /// Bytes of the next new packet; 0 for the last one, which carries none.
    fn next_payload(&self) -> Option<usize> {
        if self.flight.has_lost() || self.is_finish_sent {
            return None;
        }
        if self.unsent.is_empty() {
            return self.wants_finish.then_some(0);
        }
        let length = self.unsent.len().min(self.mtu.size() - HEADER);
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
        let may_send = self.state != State::SynReceived && self.pacer.next() <= now && !must_tell;
        if may_send && self.may_send_again() {
            let Some((number, sent)) = self.flight.again(now) else { return false };
            (header.kind, header.number) = (sent.kind, number as u16);
            if sent.kind == Kind::Syn {
                header.connection = self.receive_id;
                header.ack = 0;
            }
            header.write(0, out);
            out.extend_from_slice(&sent.payload);
            self.left(out.len(), now);
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
            let may_try = length + HEADER >= self.mtu.size() && self.flight.len() >= BUSY;
            let padding = if may_try && self.flight.round_trip().is_some() { self.mtu.padding() } else { 0 };
            header.write(padding, out);
            out.extend_from_slice(&payload);
            self.flight.push(header.kind, payload, padding, now);
            self.left(out.len(), now);
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

    fn left(&mut self, bytes: usize, now: Moment) {
        let (window, trip) = (self.ledbat.window(), self.flight.round_trip());
        self.pacer.left(bytes, window, self.ledbat.is_doubling(), trip, now);
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
