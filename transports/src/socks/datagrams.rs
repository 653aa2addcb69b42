//! Datagrams that a SOCKS5 proxy relays (UDP ASSOCIATE, RFC 1928).
//!
//! Each socket is an association of its own: a connection to the proxy that says that we are still there, and a socket that
//! speaks to its relay alone. Whoever waits for a datagram also watches the connection; when it ends, the association is
//! made again, with growing pauses, and until then sending fails. There is no task.

use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use castanet_core::{
    addr::canonical,
    seams::{
        datagrams::{DatagramFactory, Datagrams, WaysOut},
        transport::{Duplex, TransportError},
    },
};
use futures_util::future::BoxFuture;
use tokio::{
    io::AsyncReadExt as _,
    time::{Instant, sleep},
};

use super::{
    SocksTransport,
    answers::{Answers, OtherFamily},
    handshake::{Command, Target},
};

/// How long the proxy may take to begin relaying.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause before an association is made again that could not be; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The largest datagram there is.
const LARGEST: usize = 65_535;

/// Datagram sockets behind a proxy.
#[derive(Debug, Clone)]
pub struct SocksDatagrams {
    socks: Arc<SocksTransport>,
    inner: Arc<dyn DatagramFactory>,
    refused: Arc<Mutex<Option<Refusal>>>,
}

/// That the proxy would not relay, which is not asked for again at once.
#[derive(Debug, Clone)]
struct Refusal {
    kind: io::ErrorKind,
    reason: String,
    until: Instant,
    pause: Duration,
}

impl SocksDatagrams {
    /// Asks the proxy of `socks` for relays, and speaks to them by sockets of `inner`.
    pub fn new(socks: Arc<SocksTransport>, inner: Arc<dyn DatagramFactory>) -> Self {
        Self { socks, inner, refused: Arc::default() }
    }

    async fn associate(self) -> io::Result<Association> {
        // From where we speak is not known yet, and need not be said.
        let anywhere = Target::Address(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0));
        let asked = self.socks.ask(Command::Associate, anywhere, PATIENCE).await;
        let (connection, end) = asked.map_err(|error| match error {
            TransportError::Io(error) => error,
            other => io::Error::other(format!("the proxy {}: {other}", self.socks.proxy)),
        })?;
        let ip = if end.ip().is_unspecified() { connection.remote.ip() } else { end.ip() };
        let relay = canonical(SocketAddr::new(ip, end.port()));
        if relay.port() == 0 {
            return Err(io::Error::other(format!("the proxy {} does not say where its relay is", self.socks.proxy)));
        }
        let any: IpAddr = if relay.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = self.inner.bind(SocketAddr::new(any, 0)).await?;
        Ok(Association { control: connection.io, link: Link { socket, relay } })
    }
}

impl SocksDatagrams {
    /// Every peer that is dialled and every plugin wants a socket: a proxy without relays is not asked for each.
    async fn associate_unless_refused(&self) -> io::Result<Association> {
        let refused = || self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let before = refused().clone();
        if let Some(refusal) = before.as_ref().filter(|refusal| Instant::now() < refusal.until) {
            return Err(io::Error::new(refusal.kind, refusal.reason.clone()));
        }
        let asked = self.clone().associate().await;
        *refused() = asked.as_ref().err().map(|error| {
            let pause = before.map_or(FIRST_PAUSE, |before| (before.pause * 2).min(LONGEST_PAUSE));
            Refusal { kind: error.kind(), reason: error.to_string(), until: Instant::now() + pause, pause }
        });
        asked
    }
}

#[async_trait]
impl DatagramFactory for SocksDatagrams {
    async fn bind(&self, local: SocketAddr) -> io::Result<Arc<dyn Datagrams>> {
        let association = self.associate_unless_refused().await?;
        let shared = Shared { link: Ok(association.link.clone()), answers: Answers::default() };
        let reading = Reading {
            state: State::Up(association),
            since: Instant::now(),
            pause: FIRST_PAUSE,
            buffer: vec![0; LARGEST],
        };
        let via = self.clone();
        Ok(Arc::new(Relayed { via, local, shared: Mutex::new(shared), reading: tokio::sync::Mutex::new(reading) }))
    }

    async fn join(&self, _group: SocketAddr, _interface: IpAddr) -> io::Result<Arc<dyn Datagrams>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "there is no multicast through a proxy"))
    }

    fn ways_out(&self) -> WaysOut {
        self.inner.ways_out()
    }
}

/// What the proxy agreed to, for as long as the connection is open.
struct Association {
    control: Box<dyn Duplex>,
    link: Link,
}

/// The way to the relay.
#[derive(Debug, Clone)]
struct Link {
    socket: Arc<dyn Datagrams>,
    relay: SocketAddr,
}

/// A socket behind the proxy.
#[derive(Debug)]
struct Relayed {
    via: SocksDatagrams,
    local: SocketAddr,
    shared: Mutex<Shared>,
    /// Of whoever reads.
    reading: tokio::sync::Mutex<Reading>,
}

#[derive(Debug)]
struct Shared {
    /// Or why there is none.
    link: Result<Link, String>,
    answers: Answers,
}

struct Reading {
    state: State,
    /// When the association was made.
    since: Instant,
    /// The next one.
    pause: Duration,
    buffer: Vec<u8>,
}

enum State {
    Up(Association),
    /// Being made again. Kept here, so that it goes on whoever gives up reading.
    Making(BoxFuture<'static, io::Result<Association>>),
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self.state, State::Up(_)) { "Up" } else { "Making" })
    }
}

impl Relayed {
    fn with<T>(&self, act: impl FnOnce(&mut Shared) -> T) -> T {
        act(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The next datagram of the relay, whose association is made again as often as it takes.
    async fn hear<'a>(&self, reading: &'a mut Reading) -> &'a [u8] {
        let length = loop {
            match &mut reading.state {
                State::Making(making) => match making.await {
                    Ok(association) => {
                        self.with(|shared| shared.link = Ok(association.link.clone()));
                        (reading.state, reading.since) = (State::Up(association), Instant::now());
                    }
                    Err(error) => self.lost(reading, error.to_string()),
                },
                State::Up(Association { control, link }) => {
                    let lost = tokio::select! {
                        biased;
                        received = link.socket.recv_from(&mut reading.buffer) => match received {
                            // Nobody but the relay speaks for the proxy.
                            Ok((length, from)) if canonical(from) == link.relay => break length,
                            Ok(_) => continue,
                            Err(error) if is_passing(&error) => continue,
                            Err(error) => format!("the way to its relay is lost: {error}"),
                        },
                        over = end(control) => over,
                    };
                    let reason = format!("the proxy {} relays no more, {lost}", self.via.socks.proxy);
                    if reading.since.elapsed() >= LONGEST_PAUSE {
                        reading.pause = FIRST_PAUSE;
                    }
                    self.lost(reading, reason);
                }
            }
        };
        &reading.buffer[..length.min(LARGEST)]
    }

    /// Begins to make the association again, after a pause, which grows if it does not last.
    fn lost(&self, reading: &mut Reading, reason: String) {
        let pause = reading.pause;
        reading.pause = (pause * 2).min(LONGEST_PAUSE);
        tracing::debug!(reason, "the proxy relays no datagrams");
        self.with(|shared| shared.link = Err(reason));
        let via = self.via.clone();
        let making = async move {
            sleep(pause).await;
            via.associate().await
        };
        // The connection and the socket of the one before are closed here.
        drop(mem::replace(&mut reading.state, State::Making(Box::pin(making))));
    }

    /// Whose it is, and what was said; `None` if it makes no sense.
    fn unwrap<'a>(&self, datagram: &'a [u8]) -> Option<(SocketAddr, &'a [u8])> {
        let (target, payload) = unwrap(datagram)?;
        let from = self.via.socks.book.known_as(target)?;
        match self.with(|shared| shared.answers.whose(payload, from)) {
            Ok(whose) => Some((whose, payload)),
            Err(OtherFamily(stand_in)) => {
                self.via.socks.book.is_of_other_family(stand_in);
                None
            }
        }
    }
}

/// Waits until the proxy ends the association, and says how. Nothing is said over this connection.
async fn end(control: &mut Box<dyn Duplex>) -> String {
    let mut nothing = [0; 64];
    loop {
        match control.read(&mut nothing).await {
            Ok(0) => return "it hung up".to_owned(),
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
    }
}

/// Some systems tell the socket that an earlier datagram found nobody.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused)
}

/// A datagram for the relay: two reserved bytes, the number of a fragment, to whom, what.
fn wrap(target: &Target, payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0; 3];
    target.write(&mut datagram);
    datagram.extend_from_slice(payload);
    datagram
}

/// One of the relay. Fragments, which nobody sends, are not put together.
fn unwrap(datagram: &[u8]) -> Option<(Target, &[u8])> {
    match datagram {
        [_, _, 0, rest @ ..] => Target::read(rest),
        _ => None,
    }
}

#[async_trait]
impl Datagrams for Relayed {
    /// Where it was asked for: by which address and port the world sees it, the proxy does not say.
    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    async fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<usize> {
        let unknown =
            || io::Error::new(io::ErrorKind::Unsupported, "the proxy is not told of a name that was forgotten");
        let target = self.via.socks.book.target(to).ok_or_else(unknown)?;
        let link = self.with(|shared| {
            if matches!(target, Target::Name(..)) {
                shared.answers.asked(payload, to);
            }
            shared.link.clone()
        });
        let link = link.map_err(|reason| io::Error::new(io::ErrorKind::NotConnected, reason))?;
        link.socket.send_to(&wrap(&target, payload), link.relay).await?;
        Ok(payload.len())
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let mut reading = self.reading.lock().await;
        loop {
            let datagram = self.hear(&mut reading).await;
            if let Some((from, payload)) = self.unwrap(datagram) {
                let length = payload.len().min(buffer.len());
                buffer[..length].copy_from_slice(&payload[..length]);
                return Ok((length, from));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers_of_each_kind_and_no_fragments() {
        for (target, length) in [
            (Target::Address("1.2.3.4:5".parse().unwrap()), 10),
            (Target::Address("[2001:db8::1]:5".parse().unwrap()), 22),
            (Target::Name("a.example".into(), 5), 16),
        ] {
            let mut datagram = wrap(&target, b"payload");
            assert_eq!(datagram.len(), length + 7);
            assert_eq!(unwrap(&datagram), Some((target, &b"payload"[..])));
            datagram[2] = 1;
            assert_eq!(unwrap(&datagram), None);
            assert!((0..length).all(|cut| unwrap(&datagram[..cut]).is_none()));
        }
    }

    proptest! {
        #[test]
        fn a_relay_may_send_anything(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some((_, payload)) = unwrap(&bytes) {
                prop_assert!(payload.len() + 7 <= bytes.len() && bytes[2] == 0);
            }
        }
    }
}
