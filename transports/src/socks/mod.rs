//! SOCKS5 (RFC 1928, with user and password by RFC 1929): whatever leaves goes through a proxy, or not at all.
//!
//! [`SocksTransport`] wraps a transport and asks the proxy for each connection; [`SocksDatagrams`] has datagrams relayed;
//! [`ProxyNames`] leaves looking up names to the proxy. The proxy's own name alone is looked up here. What it cannot
//! carry is refused: listening and multicast.

mod answers;
mod datagrams;
mod handshake;
mod names;
mod proxy;
#[cfg(test)]
mod tests;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use castanet_core::{
    addr::canonical,
    seams::{
        means::Resolve,
        transport::{Connection, DialOptions, Listener, Transport, TransportError},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout_at},
};

use self::handshake::{Command, Handshake, Refused, Target};
pub use self::{
    datagrams::SocksDatagrams,
    names::{NameBook, ProxyNames},
    proxy::{Proxy, ProxyError},
};

/// How many addresses of the proxy's name are tried.
const MOST_ADDRESSES: usize = 4;

/// A transport whose connections go through a proxy.
#[derive(Debug)]
pub struct SocksTransport {
    proxy: Proxy,
    inner: Arc<dyn Transport>,
    resolver: Arc<dyn Resolve>,
    book: Arc<NameBook>,
}

impl SocksTransport {
    /// Reaches `proxy` over `inner`, and its name by `resolver`. `book` has the names for which addresses stand in.
    pub fn new(proxy: Proxy, inner: Arc<dyn Transport>, resolver: Arc<dyn Resolve>, book: Arc<NameBook>) -> Self {
        Self { proxy, inner, resolver, book }
    }

    /// A connection to the proxy over which it agreed to a command, and its end.
    async fn ask(
        &self,
        command: Command,
        target: Target,
        within: Duration,
    ) -> Result<(Connection, SocketAddr), TransportError> {
        let deadline = Instant::now() + within;
        let asked = timeout_at(deadline, async {
            let mut connection = self.reach(deadline).await?;
            let end = self.shake(&mut connection, command, target).await?;
            Ok((connection, end))
        });
        asked.await.unwrap_or(Err(TransportError::Timeout(within)))
    }

    /// Connects to the proxy.
    async fn reach(&self, deadline: Instant) -> Result<Connection, TransportError> {
        // That this is about the proxy, and not about whom it should reach, must be seen from the kind of the error, too.
        let fail = |reason: String| io::Error::other(format!("the proxy {} cannot be reached: {reason}", self.proxy));
        let found = self.resolver.resolve(&self.proxy.host).await.map_err(|error| fail(error.reason))?;
        let mut failed = "it has no address".to_owned();
        let left = found.len().min(MOST_ADDRESSES) as u32;
        for (ip, left) in found.into_iter().zip((1..=left).rev()) {
            // One that is dead leaves the others their share.
            let timeout = deadline.saturating_duration_since(Instant::now()) / left;
            let options = DialOptions { timeout, ..DialOptions::default() };
            match self.inner.dial(SocketAddr::new(ip, self.proxy.port), options).await {
                Ok(connection) => return Ok(connection),
                Err(error) => failed = error.to_string(),
            }
        }
        Err(fail(failed).into())
    }

    async fn shake(
        &self,
        connection: &mut Connection,
        command: Command,
        target: Target,
    ) -> Result<SocketAddr, TransportError> {
        let broke = |error: io::Error| {
            let reason = match error.kind() {
                io::ErrorKind::UnexpectedEof => "hung up".to_owned(),
                _ => format!("cannot be heard: {error}"),
            };
            io::Error::other(format!("the proxy {} {reason}", self.proxy))
        };
        let mut say = Vec::new();
        let mut handshake = Handshake::new(self.proxy.login.clone(), command, target, &mut say);
        loop {
            // Who does not listen may have said why, so that is what is told of.
            let _ = connection.io.write_all(&say).await;
            say.clear();
            let mut heard = vec![0; handshake.needs()];
            connection.io.read_exact(&mut heard).await.map_err(broke)?;
            if let Some(end) = handshake.hear(&heard, &mut say).map_err(|refused| self.refused(refused))? {
                return Ok(end);
            }
        }
    }

    /// In words; of what kind it is matters to whoever dialled.
    fn refused(&self, refused: Refused) -> TransportError {
        let text = format!("the proxy {} {refused}", self.proxy);
        let kind = match refused {
            Refused::Reply(3) => io::ErrorKind::NetworkUnreachable,
            Refused::Reply(4 | 6) => io::ErrorKind::HostUnreachable,
            Refused::Reply(5) => io::ErrorKind::ConnectionRefused,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, text).into()
    }
}

#[async_trait]
impl Transport for SocksTransport {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn includes(&self, name: &str) -> bool {
        self.inner.includes(name)
    }

    async fn dial(&self, to: SocketAddr, options: DialOptions) -> Result<Connection, TransportError> {
        let to = canonical(to);
        let unknown = || TransportError::Unsupported { transport: self.name(), to };
        let target = self.book.target(to).ok_or_else(unknown)?;
        let (connection, _) = self.ask(Command::Connect, target, options.timeout).await?;
        Ok(Connection { remote: to, ..connection })
    }

    async fn listen(&self, on: SocketAddr) -> Result<Listener, TransportError> {
        Err(TransportError::Unsupported { transport: self.name(), to: on })
    }
}
