//! Datagrams of the network in memory: late, lost, doubled and overtaken as the link has it, never told to the sender.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc};

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
    waiting: BTreeMap<(Instant, u64), (Vec<u8>, SocketAddr)>,
    news: Arc<Notify>,
    /// The multicast group that it hears.
    group: Option<SocketAddr>,
}

impl State {
    /// Delivers to the socket bound to `to`, or to every one that joined it: also the sender's, as with multicast on
    /// real networks.
    fn post(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        if !to.ip().is_multicast() {
            return self.deliver(from, to, payload);
        }
        let joined = self.mailboxes.iter().filter(|(_, mailbox)| mailbox.group == Some(to));
        for member in joined.map(|(member, _)| *member).collect::<Vec<_>>() {
            self.deliver(from, member, payload);
        }
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        if !self.is_connected(from.ip(), to.ip()) {
            return;
        }
        for arrival in self.carry(from.ip(), to.ip(), payload.len()).into_iter().flatten() {
            let number = self.number();
            if let Some(mailbox) = self.mailboxes.get_mut(&to)
                && mailbox.waiting.len() < MOST_WAITING
            {
                mailbox.waiting.insert((arrival, number), (payload.to_vec(), from));
                mailbox.news.notify_one();
            }
        }
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
    Datagram(Vec<u8>, SocketAddr),
    Later(Instant),
    Nothing,
}

impl MemoryDatagrams {
    pub(super) fn bind(net: &Shared, local: SocketAddr, group: Option<SocketAddr>) -> io::Result<Self> {
        let news = Arc::new(Notify::new());
        let mailbox = Mailbox { waiting: BTreeMap::new(), news: news.clone(), group };
        net.with(|state| state.claim(local, |state| &mut state.mailboxes, mailbox))?;
        Ok(Self { net: net.clone(), local, news })
    }

    fn look(&self) -> Found {
        let now = Instant::now();
        self.net.with(|state| {
            let Some(mailbox) = state.mailbox(self.local, &self.news) else { return Found::Nothing };
            match mailbox.waiting.first_entry() {
                Some(first) if first.key().0 <= now => {
                    let (payload, from) = first.remove();
                    Found::Datagram(payload, from)
                }
                Some(first) => Found::Later(first.key().0),
                None => Found::Nothing,
            }
        })
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
            match self.look() {
                Found::Datagram(payload, from) => {
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
