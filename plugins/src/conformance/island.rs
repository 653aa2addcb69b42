//! A world in which there is nobody: no name has an address, nobody answers, datagrams are lost.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;
use castanet_core::{
    Moment,
    seams::{
        datagrams::{DatagramFactory, Datagrams},
        means::{Clock, Means, Resolve, ResolveError, Scratchpad},
        transport::{Connection, DialOptions, Listener, Transport, TransportError},
    },
};
use tokio::time::Instant;

/// Means without a network: nothing that a plugin does with them leaves the process.
pub fn island() -> Means {
    let start = Instant::now();
    Means {
        datagrams: Arc::new(Island),
        dialer: Arc::new(Island),
        resolver: Arc::new(Island),
        clock: Clock::new(move || Moment::ZERO + start.elapsed()),
        seed: 1,
        bind: vec![([0; 4], 0).into(), ([0u16; 8], 0).into()],
        listening: Arc::default(),
        mapped: Arc::default(),
        notebook: Arc::new(Scratchpad::default()),
        user_agent: concat!("Castanet/", env!("CARGO_PKG_VERSION")).into(),
    }
}

#[derive(Debug)]
struct Island;

#[async_trait]
impl Resolve for Island {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let reason = "there are no names on an island".to_owned();
        host.parse().map(|ip| vec![ip]).map_err(|_| ResolveError { host: host.to_owned(), reason })
    }
}

#[async_trait]
impl Transport for Island {
    fn name(&self) -> &'static str {
        "island"
    }
    fn includes(&self, name: &str) -> bool {
        name == self.name()
    }
    async fn dial(&self, _: SocketAddr, _: DialOptions) -> Result<Connection, TransportError> {
        Err(io::Error::from(io::ErrorKind::ConnectionRefused).into())
    }
    async fn listen(&self, _: SocketAddr) -> Result<Listener, TransportError> {
        Err(io::Error::from(io::ErrorKind::Unsupported).into())
    }
}

#[async_trait]
impl DatagramFactory for Island {
    async fn bind(&self, local: SocketAddr) -> io::Result<Arc<dyn Datagrams>> {
        Ok(Arc::new(Bottle(local)))
    }
    async fn join(&self, group: SocketAddr, _: IpAddr) -> io::Result<Arc<dyn Datagrams>> {
        Ok(Arc::new(Bottle(group)))
    }
}

#[derive(Debug)]
struct Bottle(SocketAddr);

#[async_trait]
impl Datagrams for Bottle {
    fn local_addr(&self) -> SocketAddr {
        self.0
    }
    async fn send_to(&self, payload: &[u8], _: SocketAddr) -> io::Result<usize> {
        Ok(payload.len())
    }
    async fn recv_from(&self, _: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        std::future::pending().await
    }
}
