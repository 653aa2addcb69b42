//! Connections that come in: plain or encrypted, told apart and brought to the point where BitTorrent begins.
//!
//! Each costs a Diffie-Hellman if it wants encryption, so they are capped: how many at a time, how many from one address, how
//! many in a second. What is too much is closed.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use castanet_core::{
    addr::host_of,
    seams::transport::{BoxStream, Connection, Swarms, TransportError},
};
use castanet_protocol::{
    mse::{self, Agreed, Responder},
    rate::TokenBucket,
};
use futures_util::{
    StreamExt as _,
    future::{BoxFuture, FutureExt as _},
    stream::{FuturesUnordered, unfold},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout},
};

use super::{Encryption, PORTION, refused, stream::EncryptedIo};

/// How long a connection may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(15);
/// Connections that may be at it at once.
const MOST_AT_ONCE: usize = 256;
/// Of these, how many may come from one address (loopback excepted).
const MOST_OF_A_HOST: usize = 16;
/// Key exchanges in a second, about two hundredths of a core's time.
const MOST_A_SECOND: u64 = 200;

type Greeted = (IpAddr, Result<Connection, TransportError>);

pub(super) struct Greeter {
    encryption: Encryption,
    swarms: Swarms,
    random: fastrand::Rng,
    exchanges: Arc<std::sync::Mutex<TokenBucket>>,
    epoch: Instant,
    greeting: FuturesUnordered<BoxFuture<'static, Greeted>>,
    hosts: BTreeMap<IpAddr, usize>,
}

impl Greeter {
    pub(super) fn new(encryption: Encryption, swarms: Swarms, seed: u64) -> Self {
        let exchanges = TokenBucket::new(Some(MOST_A_SECOND), castanet_core::Moment::ZERO);
        Self {
            encryption,
            swarms,
            random: fastrand::Rng::with_seed(seed),
            exchanges: Arc::new(std::sync::Mutex::new(exchanges)),
            epoch: Instant::now(),
            greeting: FuturesUnordered::new(),
            hosts: BTreeMap::new(),
        }
    }

    /// The connections of `incoming` that are ready for BitTorrent.
    pub(super) fn over(
        self,
        incoming: BoxStream<Result<Connection, TransportError>>,
    ) -> BoxStream<Result<Connection, TransportError>> {
        Box::pin(unfold((self, incoming), |(mut greeter, mut incoming)| async move {
            loop {
                tokio::select! {
                    biased;
                    Some((host, greeted)) = greeter.greeting.next() => {
                        greeter.left(host);
                        return Some((greeted, (greeter, incoming)));
                    }
                    next = incoming.next() => match next {
                        Some(Ok(connection)) => greeter.greet(connection),
                        Some(Err(error)) => return Some((Err(error), (greeter, incoming))),
                        None => return None,
                    },
                }
            }
        }))
    }

    fn greet(&mut self, connection: Connection) {
        let host = host_of(connection.remote.ip());
        let of_host = self.hosts.get(&host).copied().unwrap_or(0);
        if self.greeting.len() >= MOST_AT_ONCE || (of_host >= MOST_OF_A_HOST && !host.is_loopback()) {
            return;
        }
        *self.hosts.entry(host).or_default() += 1;
        let (encryption, swarms, random) = (self.encryption, self.swarms.clone(), self.random.fork());
        let (exchanges, epoch) = (self.exchanges.clone(), self.epoch);
        let may_exchange = move || {
            let now = castanet_core::Moment::ZERO + epoch.elapsed();
            exchanges.lock().is_ok_and(|mut bucket| bucket.take(1, now).is_ok())
        };
        let greeting = async move {
            let greeted = timeout(PATIENCE, receive(connection, encryption, swarms, random, may_exchange)).await;
            (host, greeted.unwrap_or(Err(TransportError::Timeout(PATIENCE))))
        };
        self.greeting.push(greeting.boxed());
    }

    fn left(&mut self, host: IpAddr) {
        if let Some(count) = self.hosts.get_mut(&host) {
            *count -= 1;
            if *count == 0 {
                self.hosts.remove(&host);
            }
        }
    }
}

/// Finds out what a connection is, and shakes hands if it is encrypted.
async fn receive(
    mut connection: Connection,
    encryption: Encryption,
    swarms: Swarms,
    mut random: fastrand::Rng,
    may_exchange: impl Fn() -> bool,
) -> Result<Connection, TransportError> {
    let fail = |reason: &str| Err(TransportError::Handshake(reason.into()));
    let mut heard = Vec::new();
    let is_plain = loop {
        if let Some(is_plain) = mse::is_plain(&heard) {
            break is_plain;
        }
        listen(&mut connection, &mut heard).await?;
    };
    if is_plain {
        if encryption == Encryption::Require {
            return fail("the peer does not encrypt, which is required here");
        }
        let plain = Agreed { swarm: [0; 20], read: None, write: None, early: heard };
        let io = Box::new(EncryptedIo::new(connection.io, plain));
        return Ok(Connection { io, ..connection });
    }
    // Only a whole key costs anything.
    while heard.len() < mse::KEY_LENGTH {
        listen(&mut connection, &mut heard).await?;
    }
    if !may_exchange() {
        return fail("too many encrypted handshakes at a time");
    }
    let mut responder = Responder::new(encryption.payloads(), &mut random);
    let mut say = Vec::new();
    loop {
        let agreed = responder.hear(&heard, |mark| swarms.by_mark(mark), &mut say).map_err(|error| refused(&error))?;
        connection.io.write_all(&say).await?;
        say.clear();
        if let Some(agreed) = agreed {
            let io = Box::new(EncryptedIo::new(connection.io, agreed));
            return Ok(Connection { io, ..connection });
        }
        heard.clear();
        listen(&mut connection, &mut heard).await?;
    }
}

async fn listen(connection: &mut Connection, heard: &mut Vec<u8>) -> Result<(), TransportError> {
    let mut portion = [0; PORTION];
    match connection.io.read(&mut portion).await? {
        0 => Err(TransportError::Handshake("the peer hung up during the handshake".into())),
        length => {
            heard.extend_from_slice(&portion[..length]);
            Ok(())
        }
    }
}
