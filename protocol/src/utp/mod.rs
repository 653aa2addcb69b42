//! uTP, all connections of one UDP socket: a reliable stream that yields to everything else (BEP 29, RFC 6817).
//!
//! No I/O and no clock: datagrams are handed in and taken out, and time is an argument. What strangers can make it keep is
//! bounded: connections that nobody has confirmed, connections altogether, and what waits in each of them. A packet
//! counts only from the address and with the number of a connection; anybody else is told that there is none.

mod arrivals;
mod connection;
mod flight;
mod ledbat;
mod mtu;
mod pacer;
mod packet;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::SocketAddr,
    time::Duration,
};

use castanet_core::Moment;

use self::{
    connection::{Connection, LARGEST_V4, LARGEST_V6, State, micros},
    packet::{Header, Kind, Sack},
};

/// Refusals to strangers that wait to be sent.
const MOST_RESETS: usize = 64;
/// How long somebody who has asked for a connection may say nothing else.
const HALF_OPEN: Duration = Duration::from_secs(20);
/// Ids that are tried for a new connection.
const ID_TRIES: usize = 16;

/// What can be set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bytes that may wait for a connection's reader, out of order or not. 1 MiB: 80 Mbit/s over 100 ms.
    pub receive_window: usize,
    /// Bytes that may wait to be sent, before they are under way.
    pub send_buffer: usize,
    /// Connections at once.
    pub most_connections: usize,
    /// Of them, those that were asked for by a packet whose sender may be forged.
    pub most_half_open: usize,
    /// The largest datagram over IPv4 that is tried, in bytes without the headers of UDP and IP.
    pub largest_v4: usize,
    /// The same over IPv6.
    pub largest_v6: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            receive_window: 1 << 20,
            send_buffer: 1 << 20,
            most_connections: 4096,
            most_half_open: 256,
            largest_v4: LARGEST_V4,
            largest_v6: LARGEST_V6,
        }
    }
}

/// A connection's name; no other ever has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A connection that was asked for is there.
    Connected(Id),
    /// Somebody has connected.
    Incoming(Id, SocketAddr),
    /// There is something to read, or the end, after [`Read::Empty`].
    Readable(Id),
    /// There is room to write, after a write that did not take everything.
    Writable(Id),
    /// It has ended other than by what was agreed. What has arrived can still be read.
    Ended(Id, End),
}

/// Why a connection ended. The texts are for users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum End {
    /// We have closed it.
    #[error("the connection was closed")]
    Closed,
    /// The other side knows nothing of it.
    #[error("the peer has dropped the connection")]
    Reset,
    /// The other side did not want it.
    #[error("connection refused")]
    Refused,
    /// Nothing came any more.
    #[error("the peer does not answer any more")]
    TimedOut,
}

/// What reading brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// So many bytes.
    Bytes(usize),
    /// Nothing yet: [`Event::Readable`] will tell.
    Empty,
    /// The other side has said all it had to say.
    Finished,
    /// Nothing will come.
    Ended(End),
}

/// There are too many connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are too many uTP connections")]
pub struct Full;

/// All connections of a socket.
pub struct Utp {
    settings: Settings,
    random: fastrand::Rng,
    accepts: bool,
    next_id: u64,
    connections: BTreeMap<Id, Connection>,
    /// By the other side's address and the id with which it addresses us.
    routes: BTreeMap<(SocketAddr, u16), Id>,
    /// Until when who has asked must say more, the oldest first.
    half_open: VecDeque<(Moment, Id)>,
    /// Those that have something to send, in turn.
    senders: VecDeque<Id>,
    resets: VecDeque<(SocketAddr, Header)>,
    deadlines: BTreeSet<(Moment, Id)>,
    events: VecDeque<Event>,
}

impl fmt::Debug for Utp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Utp({} connections)", self.connections.len())
    }
}

impl Utp {
    /// No connections, and none accepted. `seed` is where ids and first numbers come from.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            random: fastrand::Rng::with_seed(seed),
            accepts: false,
            next_id: 0,
            connections: BTreeMap::new(),
            routes: BTreeMap::new(),
            half_open: VecDeque::new(),
            senders: VecDeque::new(),
            resets: VecDeque::new(),
            deadlines: BTreeSet::new(),
            events: VecDeque::new(),
        }
    }

    /// Are connections of strangers welcome? If not, they are refused.
    pub fn set_accept(&mut self, accept: bool) {
        self.accepts = accept;
        if !accept {
            std::mem::take(&mut self.half_open).into_iter().for_each(|(_, id)| self.remove(id));
        }
    }

    /// Asks for a connection. [`Event::Connected`] or [`Event::Ended`] follows.
    ///
    /// # Errors
    /// If there are too many.
    pub fn connect(&mut self, to: SocketAddr, now: Moment) -> Result<Id, Full> {
        if self.connections.len() >= self.settings.most_connections {
            return Err(Full);
        }
        let free = (0..ID_TRIES).map(|_| self.random.u16(..)).find(|id| !self.routes.contains_key(&(to, *id)));
        let connection = Connection::ask(to, free.ok_or(Full)?, self.random.u16(..), &self.settings, now);
        let id = self.insert(connection);
        self.settle(id, now);
        Ok(id)
    }

    fn insert(&mut self, connection: Connection) -> Id {
        let id = Id(self.next_id);
        self.next_id += 1;
        self.routes.insert((connection.remote, connection.receive_id), id);
        self.connections.insert(id, connection);
        id
    }

    fn remove(&mut self, id: Id) {
        let Some(connection) = self.connections.remove(&id) else { return };
        self.routes.remove(&(connection.remote, connection.receive_id));
        if let Some(due) = connection.listed {
            self.deadlines.remove(&(due, id));
        }
        self.half_open.retain(|(_, half)| *half != id);
    }

    /// Takes a datagram in.
    pub fn hear(&mut self, from: SocketAddr, packet: &[u8], now: Moment) {
        let Some((header, payload)) = Header::read(packet) else { return };
        match header.kind {
            Kind::Syn => self.asked(from, &header, now),
            Kind::Reset => {
                // Some name the connection by the id that we send with.
                let ids = [header.connection, header.connection.wrapping_sub(1), header.connection.wrapping_add(1)];
                let is_named =
                    |connection: &Connection| [connection.receive_id, connection.send_id].contains(&header.connection);
                let found = ids.iter().filter_map(|id| self.routes.get(&(from, *id)).copied());
                let found = found.into_iter().find(|id| self.connections.get(id).is_some_and(is_named));
                if let Some(id) = found {
                    self.heard(id, &header, payload, now);
                }
            }
            _ => match self.routes.get(&(from, header.connection)).copied() {
                Some(id) => self.heard(id, &header, payload, now),
                None => self.refuse(from, header.connection, &header, now),
            },
        }
    }

    /// Somebody asks for a connection.
    fn asked(&mut self, from: SocketAddr, syn: &Header, now: Moment) {
        let ours = syn.connection.wrapping_add(1);
        if let Some(id) = self.routes.get(&(from, ours)).copied() {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.asked_again();
            }
            return self.settle(id, now);
        }
        if !self.accepts || self.connections.len() >= self.settings.most_connections {
            return self.refuse(from, syn.connection, syn, now);
        }
        if self.half_open.len() >= self.settings.most_half_open
            && let Some((_, oldest)) = self.half_open.front().copied()
        {
            self.remove(oldest);
        }
        let connection = Connection::answer(from, syn, self.random.u16(..), &self.settings, now);
        let id = self.insert(connection);
        self.half_open.push_back((now + HALF_OPEN, id));
        self.settle(id, now);
    }

    fn refuse(&mut self, to: SocketAddr, connection: u16, heard: &Header, now: Moment) {
        if self.resets.len() < MOST_RESETS {
            let header = Header {
                kind: Kind::Reset,
                connection,
                sent: micros(now),
                delay: 0,
                window: 0,
                number: self.random.u16(..),
                ack: heard.number,
                sack: Sack::default(),
            };
            self.resets.push_back((to, header));
        }
    }

    fn heard(&mut self, id: Id, header: &Header, payload: &[u8], now: Moment) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let was = connection.state;
        connection.hear(header, payload, now);
        match (was, connection.state) {
            (State::SynSent, State::Open) => self.events.push_back(Event::Connected(id)),
            (State::SynReceived, State::Open) => {
                self.events.push_back(Event::Incoming(id, connection.remote));
                self.half_open.retain(|(_, half)| *half != id);
            }
            (State::SynReceived, State::Ended(_)) => return self.remove(id),
            (_, State::Ended(_)) => self.ended(id),
            _ => {}
        }
        self.settle(id, now);
    }

    /// Brings the lists up to date with a connection that has changed, and tells its user.
    fn settle(&mut self, id: Id, now: Moment) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.is_over(now) {
            return self.remove(id);
        }
        connection.watch_window(now);
        if connection.closed_at.is_none() {
            if !connection.told_readable && (connection.has_bytes() || connection.is_finished()) {
                connection.told_readable = true;
                self.events.push_back(Event::Readable(id));
            }
            if connection.wants_room && connection.room() > 0 && !matches!(connection.state, State::Ended(_)) {
                connection.wants_room = false;
                self.events.push_back(Event::Writable(id));
            }
        }
        if connection.wants_to_send(now) && !std::mem::replace(&mut connection.is_queued, true) {
            self.senders.push_back(id);
        }
        let due = connection.due(now);
        if due != connection.listed {
            if let Some(listed) = std::mem::replace(&mut connection.listed, due) {
                self.deadlines.remove(&(listed, id));
            }
            self.deadlines.extend(due.map(|due| (due, id)));
        }
    }

    fn ended(&mut self, id: Id) {
        let Some(connection) = self.connections.get(&id) else { return };
        if let (State::Ended(end), None) = (connection.state, connection.closed_at) {
            self.events.push_back(Event::Ended(id, end));
        }
    }

    /// Writes what there is room for; if that is not all, [`Event::Writable`] follows.
    pub fn write(&mut self, id: Id, bytes: &[u8], now: Moment) -> usize {
        let Some(connection) = self.connections.get_mut(&id) else { return 0 };
        let written = connection.write(bytes);
        connection.wants_room |= written < bytes.len();
        self.settle(id, now);
        written
    }

    /// Reads what there is.
    pub fn read(&mut self, id: Id, into: &mut [u8], now: Moment) -> Read {
        let Some(connection) = self.connections.get_mut(&id) else { return Read::Ended(End::Closed) };
        let length = connection.read(into);
        let read = match connection.state {
            _ if length > 0 || into.is_empty() => Read::Bytes(length),
            _ if connection.is_finished() => Read::Finished,
            State::Ended(end) => Read::Ended(end),
            _ => {
                connection.told_readable = false;
                Read::Empty
            }
        };
        self.settle(id, now);
        read
    }

    /// Says that nothing more will be written. Reading goes on.
    pub fn finish(&mut self, id: Id, now: Moment) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.finish();
            self.settle(id, now);
        }
    }

    /// The user has gone: what was written is still delivered, for a time, and nothing more is told.
    pub fn close(&mut self, id: Id, now: Moment) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.close(now);
            self.settle(id, now);
        }
    }

    /// The next datagram to send, into `out`, which must be empty, and where to.
    pub fn transmit(&mut self, now: Moment, out: &mut Vec<u8>) -> Option<SocketAddr> {
        if let Some((to, header)) = self.resets.pop_front() {
            header.write(0, out);
            return Some(to);
        }
        while let Some(id) = self.senders.pop_front() {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.is_queued = false;
            let (has_written, to) = (connection.transmit(now, out), connection.remote);
            self.settle(id, now);
            if has_written {
                return Some(to);
            }
        }
        None
    }

    /// Is there anything for [`Self::transmit`]?
    pub fn has_something_to_send(&self) -> bool {
        !self.resets.is_empty() || !self.senders.is_empty()
    }

    /// What happened, oldest first.
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Self::tick`] must be called at the latest.
    pub fn due(&self) -> Option<Moment> {
        let (first, half_open) = (self.deadlines.first(), self.half_open.front());
        first.into_iter().chain(half_open).map(|(due, _)| *due).min()
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Moment) {
        while let Some((due, id)) = self.deadlines.first().copied().filter(|(due, _)| *due <= now) {
            self.deadlines.remove(&(due, id));
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.listed = None;
            connection.tick(now);
            self.ended(id);
            self.settle(id, now);
        }
        while let Some((_, silent)) = self.half_open.front().copied().filter(|(due, _)| *due <= now) {
            self.remove(silent);
        }
    }

    /// The system would not send a datagram to this address.
    pub fn reachable_error(&mut self, to: SocketAddr, is_too_large: bool, now: Moment) {
        if is_too_large {
            let ids: Vec<Id> = self.routes.range((to, 0)..=(to, u16::MAX)).map(|(_, id)| *id).collect();
            for id in ids {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.too_large();
                }
                self.settle(id, now);
            }
        }
    }

    /// Is there no connection and nothing to send?
    pub fn is_idle(&self) -> bool {
        self.connections.is_empty() && self.resets.is_empty()
    }
}
