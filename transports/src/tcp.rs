//! TCP, the transport every peer speaks (BEP 3).
//!
//! One listener per address family (an IPv6 socket takes no IPv4 connections), addresses canonical, Nagle's algorithm off:
//! the writer gathers messages itself.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use castanet_core::{
    addr::canonical,
    seams::transport::{Connection, DialOptions, Duplex, Listener, ReadHalf, Transport, TransportError, WriteHalf},
};
use futures_util::stream;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream},
    time::{sleep, timeout},
};

use crate::{Settings, interface::Interface};

const NAME: &str = "tcp";

/// How TCP sockets are made.
#[derive(Debug, Clone)]
pub struct TcpConfig {
    /// What connections leave and come by: see [`Settings::interface`].
    pub interface: Option<Arc<Interface>>,
    /// Connections that wait to be accepted. 1024: a popular torrent's peers return all at once after a restart.
    pub backlog: u32,
    /// Bytes of the kernel's send buffer. `None`: the system adapts it to the path, which it does well.
    pub send_buffer: Option<u32>,
    /// Bytes of the kernel's receive buffer. `None`: as above.
    pub receive_buffer: Option<u32>,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self { interface: None, backlog: 1024, send_buffer: None, receive_buffer: None }
    }
}

/// The TCP transport.
#[derive(Debug, Clone, Default)]
pub struct Tcp {
    config: TcpConfig,
}

/// Builds it for [`crate::BUILTIN`].
pub fn build(settings: &Settings) -> Result<Arc<dyn Transport>, TransportError> {
    Ok(Arc::new(Tcp::new(TcpConfig { interface: settings.interface.clone(), ..TcpConfig::default() })))
}

impl Tcp {
    /// A transport with this configuration; sockets are made when they are needed.
    pub fn new(config: TcpConfig) -> Self {
        Self { config }
    }

    fn outgoing(&self, to: SocketAddr) -> Result<TcpSocket, TransportError> {
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(interface) = &self.config.interface {
            interface.hold_towards(SockRef::from(&socket), to, 0).map_err(|error| self.error(error, to))?;
        }
        // Before connecting, or the window scale is settled without them.
        if let Some(bytes) = self.config.send_buffer {
            socket.set_send_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.config.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        Ok(socket)
    }

    fn error(&self, error: io::Error, to: SocketAddr) -> TransportError {
        match error.kind() {
            io::ErrorKind::Unsupported => TransportError::Unsupported { transport: NAME, to },
            _ => error.into(),
        }
    }

    fn listener(&self, on: SocketAddr) -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(on), Type::STREAM, Some(Protocol::TCP))?;
        // On Windows this would let another program take the port over.
        if cfg!(unix) {
            socket.set_reuse_address(true)?;
        }
        if on.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Accepted sockets inherit them.
        if let Some(bytes) = self.config.send_buffer {
            socket.set_send_buffer_size(bytes as usize)?;
        }
        if let Some(bytes) = self.config.receive_buffer {
            socket.set_recv_buffer_size(bytes as usize)?;
        }
        socket.set_nonblocking(true)?;
        match &self.config.interface {
            Some(interface) => drop(interface.hold(&socket, on)?),
            None => socket.bind(&on.into())?,
        }
        socket.listen(i32::try_from(self.config.backlog).unwrap_or(i32::MAX))?;
        TcpListener::from_std(socket.into())
    }
}

#[async_trait]
impl Transport for Tcp {
    fn name(&self) -> &'static str {
        NAME
    }

    fn includes(&self, name: &str) -> bool {
        name == self.name()
    }
    async fn dial(&self, to: SocketAddr, options: DialOptions) -> Result<Connection, TransportError> {
        let to = canonical(to);
        let connecting = self.outgoing(to)?.connect(to);
        let stream =
            timeout(options.timeout, connecting).await.map_err(|_| TransportError::Timeout(options.timeout))??;
        connection(stream, to)
    }

    async fn listen(&self, on: SocketAddr) -> Result<Listener, TransportError> {
        let listener = self.listener(on).map_err(|error| self.error(error, on))?;
        let local = listener.local_addr()?;
        let incoming = stream::unfold((listener, Duration::ZERO), |(listener, pause)| async move {
            sleep(pause).await;
            let accepted = listener.accept().await;
            let pause = accepted.as_ref().err().map_or(Duration::ZERO, |error| pause_after(error, pause));
            let item = accepted.map_err(TransportError::from).and_then(|(stream, remote)| connection(stream, remote));
            Some((item, (listener, pause)))
        });
        Ok(Listener { local, incoming: Box::pin(incoming) })
    }
}

/// How long to rest after a failed accept. Out of descriptors or memory, the next attempt fails at once as well, so the
/// rests grow to a second; a connection that was gone before it was accepted says nothing about the next.
fn pause_after(error: &io::Error, last: Duration) -> Duration {
    match error.kind() {
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted => {
            Duration::ZERO
        }
        _ => (last * 2).clamp(Duration::from_millis(20), Duration::from_secs(1)),
    }
}

fn connection(stream: TcpStream, remote: SocketAddr) -> Result<Connection, TransportError> {
    stream.set_nodelay(true)?;
    let local = canonical(stream.local_addr()?);
    Ok(Connection { io: Box::new(TcpDuplex(stream)), remote: canonical(remote), local, via: NAME })
}

/// A TCP stream behind the seam. Every method that costs something goes straight to tokio's.
#[derive(Debug)]
struct TcpDuplex(TcpStream);

impl Duplex for TcpDuplex {
    fn split(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let (read, write) = self.0.into_split();
        (Box::new(read), Box::new(write))
    }
    fn rehome(self: Box<Self>) -> io::Result<Box<dyn Duplex>> {
        let stream = TcpStream::from_std(self.0.into_std()?)?;
        Ok(Box::new(Self(stream)))
    }
}

impl AsyncRead for TcpDuplex {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for TcpDuplex {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, from)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, from)
    }
    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn pair(tcp: &Tcp, on: &str) -> (Connection, Connection, Listener) {
        let mut listener = tcp.listen(on.parse().unwrap()).await.unwrap();
        assert_ne!(listener.local.port(), 0);
        let dialled = tcp.dial(listener.local, DialOptions::default()).await.unwrap();
        let accepted = listener.incoming.next().await.unwrap().unwrap();
        assert_eq!((dialled.remote, dialled.local), (accepted.local, accepted.remote));
        (dialled, accepted, listener)
    }

    #[tokio::test]
    async fn bytes_both_ways_in_both_families() {
        for on in ["127.0.0.1:0", "[::1]:0"] {
            let (dialled, accepted, _listener) = pair(&Tcp::default(), on).await;
            let (mut read, mut write) = accepted.io.split();
            let mut io = dialled.io;
            assert!(io.is_write_vectored() && write.is_write_vectored());
            io.write_all(b"ping").await.unwrap();
            let mut buffer = [0; 4];
            read.read_exact(&mut buffer).await.unwrap();
            let slices = [IoSlice::new(b"po"), IoSlice::new(b"ng")];
            assert_eq!(write.write_vectored(&slices).await.unwrap(), 4, "one call takes all slices");
            io.read_exact(&mut buffer).await.unwrap();
            assert_eq!(&buffer, b"pong");
            drop(io);
            assert_eq!(read.read(&mut buffer).await.unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn both_families_listen_on_one_port_and_mapped_addresses_are_ipv4() {
        let tcp = Tcp::default();
        let v6 = tcp.listen("[::]:0".parse().unwrap()).await.unwrap();
        let port = v6.local.port();
        let mut v4 = tcp.listen(SocketAddr::new("127.0.0.1".parse().unwrap(), port)).await.unwrap();
        let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), port);
        let dialled = tcp.dial(mapped, DialOptions::default()).await.unwrap();
        assert_eq!(dialled.remote, v4.local);
        assert!(v4.incoming.next().await.unwrap().unwrap().remote.is_ipv4());
    }

    #[tokio::test]
    async fn the_bound_address_is_where_connections_come_from() {
        let tcp = Tcp::new(TcpConfig {
            interface: Some(Arc::new("127.0.0.9".parse().unwrap())),
            send_buffer: Some(65_536),
            receive_buffer: Some(65_536),
            ..TcpConfig::default()
        });
        let (dialled, .., listener) = pair(&tcp, "0.0.0.0:0").await;
        assert_eq!([dialled.local.ip(), listener.local.ip()].map(|ip| ip.to_string()), ["127.0.0.9"; 2]);
        let error = tcp.dial("[::1]:9".parse().unwrap(), DialOptions::default()).await.unwrap_err();
        assert_eq!(error.to_string(), "tcp cannot reach [::1]:9");
        let elsewhere = tcp.listen("127.0.0.1:0".parse().unwrap()).await.unwrap_err();
        assert!(elsewhere.to_string().starts_with("127.0.0.1 is not an address of 127.0.0.9"), "{elsewhere}");
    }

    #[tokio::test]
    async fn what_is_not_there_is_not_left() {
        let interface = Some(Arc::new("192.0.2.77".parse().unwrap()));
        let tcp = Tcp::new(TcpConfig { interface, ..TcpConfig::default() });
        let anybody = tcp.listen("0.0.0.0:0".parse().unwrap()).await.unwrap_err();
        let dialled = tcp.dial("127.0.0.1:9".parse().unwrap(), DialOptions::default()).await.unwrap_err();
        let words = "no interface that is up has the address 192.0.2.77, and nothing goes another way";
        assert_eq!([anybody.to_string(), dialled.to_string()], [words; 2]);
    }

    #[tokio::test]
    async fn nobody_there_is_refused_and_a_dropped_listener_is_nobody() {
        let tcp = Tcp::default();
        let listener = tcp.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let at = listener.local;
        drop(listener);
        let error = tcp.dial(at, DialOptions::default()).await.unwrap_err();
        assert!(matches!(&error, TransportError::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused), "{error}");
    }

    #[tokio::test]
    async fn silence_times_out() {
        // A full backlog that nobody accepts from: the kernel answers no further SYN.
        let tcp = Tcp::new(TcpConfig { backlog: 1, ..TcpConfig::default() });
        let listener = tcp.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let options = DialOptions { timeout: Duration::from_millis(100), ..DialOptions::default() };
        let mut open = Vec::new();
        let error = loop {
            match tcp.dial(listener.local, options.clone()).await {
                Ok(connection) => open.push(connection),
                Err(error) => break error,
            }
            assert!(open.len() < 50, "the backlog never fills");
        };
        assert!(matches!(error, TransportError::Timeout(t) if t == options.timeout), "{error}");
    }

    #[test]
    fn a_connection_moves_to_another_reactor() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (first, second) = (runtime(), runtime());
        let (mut dialled, accepted, _listener) = first.block_on(pair(&Tcp::default(), "127.0.0.1:0"));
        let mut moved = second.block_on(async { accepted.io.rehome() }).unwrap();
        first.block_on(dialled.io.write_all(b"hello")).unwrap();
        let mut buffer = [0; 5];
        // The first reactor does not run now: were the socket still with it, nobody would wake the reader.
        second.block_on(moved.read_exact(&mut buffer)).unwrap();
        assert_eq!(&buffer, b"hello");
    }

    #[test]
    fn rests_grow_only_when_the_system_is_short_of_something() {
        let short = io::Error::from_raw_os_error(24);
        let rests = [1, 2, 3].map(|n| (0..n * 4).fold(Duration::ZERO, |last, _| pause_after(&short, last)));
        assert!(Duration::ZERO < rests[0] && rests[0] < rests[1]);
        assert_eq!(rests[2], Duration::from_secs(1));
        assert_eq!(pause_after(&io::ErrorKind::ConnectionAborted.into(), rests[2]), Duration::ZERO);
    }
}
