//! uTP, the transport that yields to everything else (BEP 29), over the session's UDP sockets.
//!
//! The protocol is a machine, `castanet_protocol::utp`; here are the task that moves its datagrams (`socket`) and the
//! streams that come out (`stream`). Who dials does so from where we listen, if the peer can be reached from there, so
//! that a NAT which lets our packets out lets the peer's in.

mod socket;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Weak},
};

use async_trait::async_trait;
use castanet_core::{
    addr::canonical,
    seams::{
        datagrams::{DatagramFactory, Protocol},
        transport::{Connection, DialOptions, Listener, Transport, TransportError},
    },
};
use futures_util::stream::unfold;
use tokio::{sync::Mutex, time::timeout};

use self::{
    socket::{Inner, Socket, Stranger},
    stream::UtpStream,
};
use crate::Settings;

const NAME: &str = "utp";
/// Where sockets are bound that nobody asked for elsewhere.
const ANYWHERE: [&str; 2] = ["0.0.0.0:0", "[::]:0"];

/// The uTP transport.
pub struct Utp {
    datagrams: Arc<dyn DatagramFactory>,
    /// Open sockets, each kept by its connections and its listener, and by what is left to be said. The lock is held while
    /// one is bound.
    open: Mutex<Open>,
}

struct Open {
    sockets: Vec<Weak<Inner>>,
    random: fastrand::Rng,
}

impl Open {
    /// The sockets that are there. One is used again even if nobody uses it any more: two machines on one would take each
    /// other's datagrams.
    fn there(&self) -> impl Iterator<Item = Arc<Socket>> + '_ {
        self.sockets.iter().filter_map(Weak::upgrade).filter_map(|inner| Socket::of(inner).map(Arc::new))
    }
}

/// Builds it for [`crate::BUILTIN`].
pub fn build(settings: &Settings) -> Result<Arc<dyn Transport>, TransportError> {
    Ok(Arc::new(Utp::new(settings.datagrams.clone(), settings.seed)))
}

impl Utp {
    /// uTP over the sockets that `datagrams` shares. `seed` is where connections' numbers come from.
    pub fn new(datagrams: Arc<dyn DatagramFactory>, seed: u64) -> Self {
        let open = Open { sockets: Vec::new(), random: fastrand::Rng::with_seed(seed) };
        Self { datagrams, open: Mutex::new(open) }
    }

    /// The socket from which `to` is spoken to.
    async fn socket_to(&self, to: SocketAddr) -> Result<Arc<Socket>, TransportError> {
        let mut open = self.open.lock().await;
        let there = open.there().find(|socket| socket.leads_to(to));
        if let Some(socket) = there {
            return Ok(socket);
        }
        let mut anywhere = ANYWHERE.iter().filter_map(|addr| addr.parse().ok());
        let at = anywhere.find(|addr: &SocketAddr| addr.is_ipv4() == to.is_ipv4());
        let at = at.ok_or(TransportError::Unsupported { transport: NAME, to })?;
        Ok(self.bind_at(&mut open, at).await?)
    }

    /// The socket at `at`, which is bound if it is not there yet.
    async fn socket_at(&self, at: SocketAddr) -> io::Result<Arc<Socket>> {
        let mut open = self.open.lock().await;
        let there = open.there().find(|socket| socket.is_at(at));
        match there {
            Some(socket) => Ok(socket),
            None => self.bind_at(&mut open, at).await,
        }
    }

    async fn bind_at(&self, open: &mut Open, at: SocketAddr) -> io::Result<Arc<Socket>> {
        let datagrams = self.datagrams.shared(at, Protocol::Utp).await?;
        let socket = Socket::start(datagrams, open.random.u64(..));
        open.sockets.retain(|socket| socket.strong_count() > 0);
        open.sockets.push(socket.inner());
        Ok(socket)
    }
}

impl fmt::Debug for Utp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Utp({:?})", self.datagrams)
    }
}

fn connection(stream: UtpStream, remote: SocketAddr, local: SocketAddr) -> Connection {
    Connection { io: Box::new(stream), remote, local, via: NAME }
}

#[async_trait]
impl Transport for Utp {
    fn name(&self) -> &'static str {
        NAME
    }

    fn includes(&self, name: &str) -> bool {
        name == self.name()
    }
    async fn dial(&self, to: SocketAddr, options: DialOptions) -> Result<Connection, TransportError> {
        let to = canonical(to);
        let connecting = async {
            let socket = self.socket_to(to).await?;
            let local = socket.local();
            let stream = UtpStream::connect(socket, to).await?;
            Ok(connection(stream, to, local))
        };
        timeout(options.timeout, connecting).await.unwrap_or(Err(TransportError::Timeout(options.timeout)))
    }

    async fn listen(&self, on: SocketAddr) -> Result<Listener, TransportError> {
        let socket = self.socket_at(on).await?;
        let local = socket.local();
        let accepting = socket::Accepting::on(socket)?;
        let incoming = unfold(accepting, move |accepting| async move {
            let Stranger { id, remote } = accepting.next().await;
            let stream = UtpStream::accepted(accepting.socket().clone(), id);
            Some((Ok(connection(stream, remote, local)), accepting))
        });
        Ok(Listener { local, incoming: Box::pin(incoming) })
    }
}
