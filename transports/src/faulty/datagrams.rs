//! Datagram sockets on a bad network: what they receive comes over a [`Line`] of their own. They end with their sockets.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use castanet_core::{
    Moment,
    seams::datagrams::{DatagramFactory, Datagrams, Protocol, WaysOut},
};
use tokio::{
    pin, select,
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::fork;
use crate::{
    link::{Line, Link, Outages, Transit},
    memory::LARGEST_DATAGRAM,
    time::Epoch,
};

/// The wrapper around sockets: what each receives is late, lost, doubled or overtaken as the link has it.
///
/// Nobody is told of a loss. [`MOST_UNDER_WAY`](crate::link::MOST_UNDER_WAY) bytes are under way to a socket at most.
pub struct FaultyDatagrams {
    inner: Arc<dyn DatagramFactory>,
    link: Link,
    outages: Outages,
    random: Mutex<fastrand::Rng>,
}

impl FaultyDatagrams {
    /// `inner` behind such links, with chances drawn by `seed`: each socket has one, with these outages counted from when
    /// it was bound.
    pub fn new(inner: Arc<dyn DatagramFactory>, link: Link, outages: Outages, seed: u64) -> Self {
        Self { inner, link, outages, random: Mutex::new(fastrand::Rng::with_seed(seed)) }
    }

    fn spoil(&self, inner: Arc<dyn Datagrams>) -> Arc<dyn Datagrams> {
        let line = Line::new(self.link, fork(&self.random)).with_outages(&self.outages, Moment::ZERO);
        let (epoch, transit, news) = (Epoch::begin(), Mutex::new(Transit::new(line)), Notify::new());
        Arc::new(Spoiled { inner, epoch, transit, news })
    }
}

impl fmt::Debug for FaultyDatagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyDatagrams({:?}, {:?}, {:?})", self.inner, self.link, self.outages)
    }
}

#[async_trait]
impl DatagramFactory for FaultyDatagrams {
    async fn bind(&self, local: SocketAddr) -> io::Result<Arc<dyn Datagrams>> {
        Ok(self.spoil(self.inner.bind(local).await?))
    }
    async fn shared(&self, local: SocketAddr, protocol: Protocol) -> io::Result<Arc<dyn Datagrams>> {
        Ok(self.spoil(self.inner.shared(local, protocol).await?))
    }
    async fn join(&self, group: SocketAddr, interface: IpAddr) -> io::Result<Arc<dyn Datagrams>> {
        Ok(self.spoil(self.inner.join(group, interface).await?))
    }
    fn ways_out(&self) -> WaysOut {
        self.inner.ways_out()
    }
    fn is_neighbour(&self, ip: IpAddr) -> bool {
        self.inner.is_neighbour(ip)
    }
    fn gateway(&self, from: Ipv4Addr) -> Option<Ipv4Addr> {
        self.inner.gateway(from)
    }
}

/// A socket behind a line.
#[derive(Debug)]
struct Spoiled {
    inner: Arc<dyn Datagrams>,
    epoch: Epoch,
    transit: Mutex<Transit<(Bytes, SocketAddr)>>,
    /// Something is on its way that may be the next to arrive: whoever waits looks again.
    news: Notify,
}

impl Spoiled {
    fn transit(&self) -> MutexGuard<'_, Transit<(Bytes, SocketAddr)>> {
        self.transit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has arrived, or when something does.
    fn look(&self) -> Result<(Bytes, SocketAddr), Option<Instant>> {
        let mut transit = self.transit();
        let found = transit.receive(self.epoch.now());
        found.ok_or_else(|| transit.due().map(|due| self.epoch.instant(due)))
    }
}

#[async_trait]
impl Datagrams for Spoiled {
    fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr()
    }

    fn is_lost(&self) -> bool {
        self.inner.is_lost()
    }

    async fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.inner.send_to(payload, to).await
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let mut space = vec![0; LARGEST_DATAGRAM];
        loop {
            let news = self.news.notified();
            pin!(news);
            news.as_mut().enable();
            let due = match self.look() {
                Ok((payload, from)) => {
                    let length = payload.len().min(buffer.len());
                    buffer[..length].copy_from_slice(&payload[..length]);
                    return Ok((length, from));
                }
                Err(due) => due,
            };
            select! {
                biased;
                // First, so that each is stamped when it comes.
                received = self.inner.recv_from(&mut space) => {
                    let (length, from) = received?;
                    let payload = Bytes::copy_from_slice(&space[..length]);
                    self.transit().send(self.epoch.now(), length, (payload, from));
                    self.news.notify_waiters();
                }
                () = news => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }
}
