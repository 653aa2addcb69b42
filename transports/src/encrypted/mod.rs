//! Encryption (MSE/PE) around any transport: both directions, preferred or required.
//!
//! Dialling begins with the encrypted handshake; who prefers it tries once more without when the peer does not know it, and
//! begins with that the next time. Listening tells the two kinds apart by their first bytes. What is decided is in `castanet_protocol::mse`.

mod greet;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use castanet_core::seams::transport::{Connection, DialOptions, Listener, Swarms, Transport, TransportError};
use castanet_protocol::mse::{self, Initiator, Payloads};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout_at},
};

use self::stream::EncryptedIo;

/// How long the encrypted handshake may take, when there is another way.
const PATIENCE: Duration = Duration::from_secs(5);
/// Peers that are remembered as knowing no encryption.
const MOST_REMEMBERED: usize = 1024;
/// Bytes read at once during a handshake.
const PORTION: usize = 1024;

/// Whether connections are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encryption {
    /// The handshake is, if the peer knows how; what follows only if the peer insists. Everyone can be reached.
    #[default]
    Prefer,
    /// Everything is, or there is no connection.
    Require,
    /// Nothing is.
    Disable,
}

impl Encryption {
    fn payloads(self) -> Payloads {
        if self == Self::Require { Payloads::RC4 } else { Payloads::ANY }
    }
}

/// The wrapper.
pub struct Encrypted {
    inner: Arc<dyn Transport>,
    encryption: Encryption,
    swarms: Swarms,
    shared: Arc<Mutex<Memory>>,
}

struct Memory {
    random: fastrand::Rng,
    /// Peers that know no encryption, the latest last.
    plain: VecDeque<SocketAddr>,
}

impl Encrypted {
    /// `inner`, encrypted. `swarms` are those that connections may come in for; `seed` is where padding and keys come from.
    pub fn new(inner: Arc<dyn Transport>, encryption: Encryption, swarms: Swarms, seed: u64) -> Self {
        let memory = Memory { random: fastrand::Rng::with_seed(seed), plain: VecDeque::new() };
        Self { inner, encryption, swarms, shared: Arc::new(Mutex::new(memory)) }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Memory) -> T) -> T {
        act(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Did this peer not understand us the last time? One dial takes that for granted, no more: it may have been down.
    fn take_plain(&self, peer: SocketAddr) -> bool {
        self.with(|memory| {
            let at = memory.plain.iter().position(|known| *known == peer);
            at.and_then(|at| memory.plain.remove(at)).is_some()
        })
    }

    fn remember_plain(&self, peer: SocketAddr) {
        self.with(|memory| {
            memory.plain.retain(|known| *known != peer);
            if memory.plain.len() == MOST_REMEMBERED {
                memory.plain.pop_front();
            }
            memory.plain.push_back(peer);
        });
    }

    /// Shakes hands as the one who dialled.
    async fn shake(&self, mut connection: Connection, swarm: [u8; 20]) -> Result<Connection, TransportError> {
        let mut random = self.with(|memory| memory.random.fork());
        let mut say = Vec::new();
        let mut initiator = Initiator::new(swarm, self.encryption.payloads(), &[], &mut random, &mut say);
        let mut portion = [0; PORTION];
        loop {
            connection.io.write_all(&say).await?;
            say.clear();
            let length = connection.io.read(&mut portion).await?;
            if length == 0 {
                return Err(TransportError::Handshake("the peer hung up during the encrypted handshake".into()));
            }
            match initiator.hear(&portion[..length], &mut say) {
                Ok(None) => {}
                Ok(Some(agreed)) => {
                    let io = Box::new(EncryptedIo::new(connection.io, agreed));
                    return Ok(Connection { io, ..connection });
                }
                Err(refused) => return Err(TransportError::Handshake(refused.to_string())),
            }
        }
    }
}

impl fmt::Debug for Encrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encrypted({:?}, {:?})", self.inner, self.encryption)
    }
}

/// Could the peer be one that knows no encryption? Not if it cannot be reached at all.
fn is_misunderstanding(error: &TransportError) -> bool {
    match error {
        TransportError::Handshake(_) | TransportError::Timeout(_) => true,
        TransportError::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof
        ),
        _ => false,
    }
}

#[async_trait]
impl Transport for Encrypted {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn includes(&self, name: &str) -> bool {
        self.inner.includes(name)
    }

    async fn dial(&self, to: SocketAddr, options: DialOptions) -> Result<Connection, TransportError> {
        let Some(swarm) = options.swarm.filter(|_| self.encryption != Encryption::Disable) else {
            return self.inner.dial(to, options).await;
        };
        if self.take_plain(to) {
            return self.inner.dial(to, options).await;
        }
        let deadline = Instant::now() + options.timeout;
        let connection = self.inner.dial(to, options.clone()).await?;
        let until = match self.encryption {
            Encryption::Prefer => deadline.min(Instant::now() + PATIENCE),
            _ => deadline,
        };
        let shaken = timeout_at(until, self.shake(connection, swarm)).await;
        let shaken = shaken.unwrap_or(Err(TransportError::Timeout(options.timeout)));
        match shaken {
            Err(error) if self.encryption == Encryption::Prefer && is_misunderstanding(&error) => {
                let connection = self.inner.dial(to, options).await?;
                self.remember_plain(to);
                Ok(connection)
            }
            shaken => shaken,
        }
    }

    async fn listen(&self, on: SocketAddr) -> Result<Listener, TransportError> {
        let Listener { local, incoming } = self.inner.listen(on).await?;
        if self.encryption == Encryption::Disable {
            return Ok(Listener { local, incoming });
        }
        let seed = self.with(|memory| memory.random.u64(..));
        let greeter = greet::Greeter::new(self.encryption, self.swarms.clone(), seed);
        Ok(Listener { local, incoming: greeter.over(incoming) })
    }
}

/// What an accepted connection says that is no handshake that we know.
fn refused(refused: &mse::Refused) -> TransportError {
    TransportError::Handshake(refused.to_string())
}
