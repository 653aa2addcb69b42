//! UDP trackers: `udp:` announce URLs (BEP 12, 15, 41), and their numbers.
//!
//! The datagrams and the schedule are `castanet_protocol::tracker`'s; following the schedule is `Announcer`'s. All
//! torrents share one `Socket` for each of our addresses, the session's UDP socket if possible, and the connection ids
//! that trackers granted.

mod socket;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use castanet_core::{
    Moment,
    seams::{
        datagrams::Protocol,
        discovery::{Discovery, DiscoveryError, Settings, SwarmSize},
        means::Means,
    },
};
use castanet_protocol::tracker::{
    Announce, Answer, AnswerError, larger,
    udp::{self, CONNECTION_LIFETIME, EXCHANGE_LIMIT, Reply},
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{sleep, timeout};

use self::socket::Socket;
use crate::{
    announcer::{Announcer, Ask, Failure, Target},
    sockets::{shared, way_to},
};

/// The name under which it is registered.
pub const NAME: &str = "udp-tracker";
/// How many trackers' connection ids are remembered, unless more are in use.
const MOST_CONNECTIONS: usize = 256;

/// Makes the plugin. It has no settings.
pub fn build(means: &Means, settings: &Settings) -> Result<Arc<dyn Discovery>, DiscoveryError> {
    crate::refuse_settings(NAME, settings)?;
    Ok(Arc::new(Announcer::new(Udp::new(means), means)))
}

/// How long an address of a tracker may be silent before another one is asked as well.
const STAGGER: Duration = Duration::from_secs(4);

/// A connection id and when it was granted. The lock is held while one is asked for, so that torrents share the answer.
type Connection = tokio::sync::Mutex<Option<(u64, Moment)>>;

#[derive(Debug)]
struct Udp {
    means: Means,
    /// By our own address; the lock is held while one is opened.
    sockets: tokio::sync::Mutex<BTreeMap<SocketAddr, Arc<Socket>>>,
    connections: Mutex<BTreeMap<SocketAddr, Arc<Connection>>>,
    random: Mutex<fastrand::Rng>,
}

/// Why an exchange failed.
enum Trouble {
    Io(io::Error),
    Answer(AnswerError),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
impl From<AnswerError> for Trouble {
    fn from(error: AnswerError) -> Self {
        Self::Answer(error)
    }
}

#[async_trait]
impl Ask for Udp {
    const NAME: &'static str = NAME;
    const SCHEMES: &'static [&'static str] = &["udp"];

    async fn ask(
        &self,
        target: &Target,
        addresses: &[SocketAddr],
        announce: &Announce,
        _tracker_id: Option<&[u8]>,
    ) -> Result<Answer, Failure> {
        let mut url_data = target.url.path().to_owned();
        if let Some(query) = target.url.query() {
            url_data.push('?');
            url_data.push_str(query);
        }
        let make = |id, transaction| udp::announce_request(id, transaction, announce, &url_data);
        match self.question(target, addresses, make).await? {
            Reply::Announced(answer) => Ok(answer),
            Reply::Connected(_) | Reply::Scraped(_) => Err(Failure::answer(target, unexpected())),
        }
    }

    fn scrapes(&self, _: &Target) -> bool {
        true
    }

    async fn scrape(
        &self,
        target: &Target,
        addresses: &[SocketAddr],
        names: &[[u8; 20]],
    ) -> Result<Option<SwarmSize>, Failure> {
        match self.question(target, addresses, |id, transaction| udp::scrape_request(id, transaction, names)).await? {
            Reply::Scraped(sizes) => Ok(sizes.into_iter().take(names.len()).reduce(larger)),
            Reply::Connected(_) | Reply::Announced(_) => Err(Failure::answer(target, unexpected())),
        }
    }
}

impl Udp {
    fn new(means: &Means) -> Self {
        let random = Mutex::new(fastrand::Rng::with_seed(means.seed));
        Self { means: means.clone(), sockets: Default::default(), connections: Mutex::default(), random }
    }

    fn draw<T>(&self, f: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        f(&mut self.random.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks one of `addresses` what `make` makes of a connection id and a transaction id.
    async fn question(
        &self,
        target: &Target,
        addresses: &[SocketAddr],
        make: impl Fn(u64, u32) -> Vec<u8> + Send + Sync,
    ) -> Result<Reply, Failure> {
        let exchange = async {
            let to = self.living(addresses).await?;
            self.converse(to, make).await
        };
        match timeout(EXCHANGE_LIMIT, exchange).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(Trouble::Answer(error))) => Err(Failure::answer(target, error)),
            Ok(Err(Trouble::Io(error))) => Err(Failure::unreachable(target, error)),
            Err(_) => {
                let reason = format!("no answer within {} s", EXCHANGE_LIMIT.as_secs());
                Err(Failure::unreachable(target, reason))
            }
        }
    }

    /// The first of `addresses`, of which there is one at least, to grant a connection id. Each gets [`STAGGER`] before the
    /// next is asked, too; those whose id still counts come first.
    async fn living(&self, addresses: &[SocketAddr]) -> Result<SocketAddr, Trouble> {
        let mut order = addresses.to_vec();
        self.draw(|random| random.shuffle(&mut order));
        order.sort_by_key(|to| !self.is_granted(*to));
        let mut order = order.into_iter();
        let mut asked = FuturesUnordered::new();
        loop {
            asked.extend(order.next().map(async |to| self.connect(to, &self.connection(to)).await.map(|_| to)));
            tokio::select! {
                biased;
                Some(answer) = asked.next() => {
                    if answer.is_ok() || (asked.is_empty() && order.len() == 0) {
                        return answer;
                    }
                }
                () = sleep(STAGGER), if order.len() > 0 => {}
            }
        }
    }

    async fn converse(
        &self,
        to: SocketAddr,
        make: impl Fn(u64, u32) -> Vec<u8> + Send + Sync,
    ) -> Result<Reply, Trouble> {
        let connection = self.connection(to);
        loop {
            let (id, granted) = self.connect(to, &connection).await?;
            match self.exchange(to, |transaction| make(id, transaction)).await {
                Ok(reply) => return Ok(reply),
                Err(error) => {
                    // A tracker that was restarted knows nothing of an old id: try once more with a new one.
                    let mut held = connection.lock().await;
                    if held.is_some_and(|(other, _)| other == id) {
                        *held = None;
                    }
                    if granted || matches!(error, Trouble::Io(_)) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// The tracker's connection id, and whether it has been granted just now.
    async fn connect(&self, to: SocketAddr, connection: &Connection) -> Result<(u64, bool), Trouble> {
        let mut held = connection.lock().await;
        if let Some((id, _)) = held.filter(|granted| self.still_counts(granted)) {
            return Ok((id, false));
        }
        match self.exchange(to, udp::connect_request).await? {
            Reply::Connected(id) => {
                *held = Some((id, self.means.clock.now()));
                Ok((id, true))
            }
            Reply::Announced(_) | Reply::Scraped(_) => Err(unexpected().into()),
        }
    }

    fn still_counts(&self, (_, since): &(u64, Moment)) -> bool {
        self.means.clock.now().since(*since) < CONNECTION_LIFETIME
    }

    /// Is there a connection id of this tracker that still counts? Not while one is being asked for.
    fn is_granted(&self, to: SocketAddr) -> bool {
        self.connection(to).try_lock().is_ok_and(|held| held.is_some_and(|granted| self.still_counts(&granted)))
    }

    fn connection(&self, to: SocketAddr) -> Arc<Connection> {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if connections.len() >= MOST_CONNECTIONS {
            connections.retain(|_, connection| Arc::strong_count(connection) > 1);
        }
        connections.entry(to).or_default().clone()
    }

    /// Sends what `make` makes of a transaction id until an answer comes.
    async fn exchange(&self, to: SocketAddr, make: impl Fn(u32) -> Vec<u8> + Send) -> Result<Reply, Trouble> {
        let from = way_to(&self.means, to)?;
        let socket = self.socket(from).await?;
        let transaction = self.draw(|random| random.u32(..));
        match socket.exchange(to, transaction, &make(transaction)).await {
            Ok(reply) => Ok(udp::parse_reply(&reply, to.is_ipv6())?),
            Err(error) => {
                // The network may have changed under the socket: the next one is opened anew.
                self.sockets.lock().await.retain(|_, held| !Arc::ptr_eq(held, &socket));
                Err(error.into())
            }
        }
    }

    async fn socket(&self, from: SocketAddr) -> io::Result<Arc<Socket>> {
        let mut held = self.sockets.lock().await;
        if let Some(socket) = held.get(&from).filter(|socket| !socket.is_lost()) {
            return Ok(socket.clone());
        }
        // A session listens at other addresses when its network has changed: what nobody uses goes.
        held.retain(|_, socket| Arc::strong_count(socket) > 1);
        let socket = Arc::new(Socket::new(shared(&self.means, from, Protocol::Tracker).await?));
        held.insert(from, socket.clone());
        Ok(socket)
    }
}

fn unexpected() -> AnswerError {
    AnswerError::Malformed("it answers another question".to_owned())
}
