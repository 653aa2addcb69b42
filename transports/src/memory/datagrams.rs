//! Datagrams of the network in memory: late, lost, doubled and overtaken as the link has it, never told to the sender.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;
use castanet_core::{addr::canonical, seams::datagrams::Datagrams};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::state::{Shared, State};

/// The largest payload in bytes, as over IPv4.
pub const LARGEST_DATAGRAM: usize = 65_507;

/// Datagrams that wait at one socket; more are lost, as with a full receive buffer.
const MOST_WAITING: usize = 1024;

/// Where a socket's datagrams wait until they arrive and are read.
#[derive(Debug)]
pub(super) struct Mailbox {
    /// By time of arrival, then in the order in which they were sent.
    waiting: BTreeMap<(Instant, u64), Letter>,
    /// What was let into the host's downlink, and when it has passed.
    passing: Option<(Instant, Letter)>,
    news: Arc<Notify>,
    /// The multicast group that it hears.
    group: Option<SocketAddr>,
}

/// A datagram under way.
#[derive(Debug)]
struct Letter {
    payload: Vec<u8>,
    from: SocketAddr,
    /// The port that it was sent to, as a NAT before the receiver sees it; none of a datagram to a group.
    port: Option<u16>,
}

impl State {
    /// Delivers to the socket bound to `to`, or to every one that joined it: also the sender's, as with multicast on
    /// real networks.
    fn post(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        if !to.ip().is_multicast() {
            let (from, there) = self.translate(from, to);
            return self.deliver(from, there, Some(to.port()), payload);
        }
        for member in self.audience(from.ip(), to) {
            self.deliver(from, member, None, payload);
        }
    }

    /// From which address a datagram comes for its receiver, and which socket that is.
    fn translate(&mut self, from: SocketAddr, to: SocketAddr) -> (SocketAddr, SocketAddr) {
        if self.places.are_neighbours(from.ip(), to.ip()) {
            return (from, to);
        }
        // What has no cable does not come as far as its NAT.
        let is_up = !self.places.unplugged.contains(&from.ip());
        (if is_up { self.nats.outside(from, to) } else { from }, self.nats.inside(to))
    }

    /// Those that joined a group in the sender's LAN.
    fn audience(&self, from: IpAddr, group: SocketAddr) -> Vec<SocketAddr> {
        let joined = |(local, mailbox): (&SocketAddr, &Mailbox)| (mailbox.group == Some(group)).then_some(*local);
        match self.places.lan(from) {
            0 => {
                let all = self.mailboxes.iter().filter_map(joined);
                all.filter(|local| self.places.lan(local.ip()) == 0).collect()
            }
            lan => {
                let hosts = self.places.members(lan).into_iter().flatten();
                let ports = |ip: &IpAddr| SocketAddr::new(*ip, 0)..=SocketAddr::new(*ip, u16::MAX);
                hosts.flat_map(|ip| self.mailboxes.range(ports(ip))).filter_map(joined).collect()
            }
        }
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, port: Option<u16>, payload: &[u8]) {
        if !self.is_connected(from.ip(), to.ip()) {
            return;
        }
        for arrival in self.carry(from.ip(), to.ip(), payload.len()).into_iter().flatten() {
            let number = self.number();
            if let Some(mailbox) = self.mailboxes.get_mut(&to)
                && mailbox.waiting.len() < MOST_WAITING
            {
                mailbox.waiting.insert((arrival, number), Letter { payload: payload.to_vec(), from, port });
                mailbox.news.notify_one();
            }
        }
    }

    /// What a socket finds now: what its host's NAT lets in and its downlink has let pass.
    fn look(&mut self, local: SocketAddr, news: &Arc<Notify>) -> Found {
        let now = Instant::now();
        loop {
            let Some(mailbox) = self.mailbox(local, news) else { return Found::Nothing };
            if let Some((_, letter)) = mailbox.passing.take_if(|(at, _)| *at <= now) {
                return Found::Datagram(letter);
            }
            if let Some((at, _)) = mailbox.passing {
                return Found::Later(at);
            }
            let Some(first) = mailbox.waiting.first_entry() else { return Found::Nothing };
            if first.key().0 > now {
                return Found::Later(first.key().0);
            }
            let ((at, _), letter) = first.remove_entry();
            if !self.is_let_in(&letter, local, at) {
                continue;
            }
            let passed = self.downlinks.pass(self.epoch, local.ip(), at, letter.payload.len());
            if passed <= now {
                return Found::Datagram(letter);
            }
            if let Some(mailbox) = self.mailbox(local, news) {
                mailbox.passing = Some((passed, letter));
            }
        }
    }

    fn is_let_in(&self, letter: &Letter, local: SocketAddr, at: Instant) -> bool {
        let Some(port) = letter.port else { return true };
        self.nats.let_in(letter.from, port, local, at) || self.places.are_neighbours(letter.from.ip(), local.ip())
    }

    /// The mailbox of a socket, unless the host was killed and another socket bound since.
    fn mailbox(&mut self, local: SocketAddr, news: &Arc<Notify>) -> Option<&mut Mailbox> {
        self.mailboxes.get_mut(&local).filter(|mailbox| Arc::ptr_eq(&mailbox.news, news))
    }
}

/// A datagram socket.
#[derive(Debug)]
pub(super) struct MemoryDatagrams {
    net: Shared,
    local: SocketAddr,
    news: Arc<Notify>,
}

/// What a socket finds in its mailbox.
enum Found {
    Datagram(Letter),
    Later(Instant),
    Nothing,
}

impl MemoryDatagrams {
    pub(super) fn bind(net: &Shared, local: SocketAddr, group: Option<SocketAddr>) -> io::Result<Self> {
        let news = Arc::new(Notify::new());
        let mailbox = Mailbox { waiting: BTreeMap::new(), passing: None, news: news.clone(), group };
        net.with(|state| state.claim(local, |state| &mut state.mailboxes, mailbox))?;
        Ok(Self { net: net.clone(), local, news })
    }
}

#[async_trait]
impl Datagrams for MemoryDatagrams {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    async fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<usize> {
        if payload.len() > LARGEST_DATAGRAM {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the datagram is too long"));
        }
        self.net.with(|state| {
            if state.mailbox(self.local, &self.news).is_some() {
                state.post(self.local, canonical(to), payload);
            }
        });
        Ok(payload.len())
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            match self.net.with(|state| state.look(self.local, &self.news)) {
                Found::Datagram(Letter { payload, from, .. }) => {
                    let length = payload.len().min(buffer.len());
                    buffer[..length].copy_from_slice(&payload[..length]);
                    return Ok((length, from));
                }
                Found::Later(at) => tokio::select! {
                    biased;
                    () = self.news.notified() => {}
                    () = sleep_until(at) => {}
                },
                Found::Nothing => self.news.notified().await,
            }
        }
    }
}

impl Drop for MemoryDatagrams {
    fn drop(&mut self) {
        let _mailbox = self.net.with(|state| {
            let is_ours = state.mailbox(self.local, &self.news).is_some();
            is_ours.then(|| state.mailboxes.remove(&self.local))
        });
    }
}
