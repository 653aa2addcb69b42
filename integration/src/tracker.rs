//! A small tracker on real sockets, for the demo and the tests: HTTP with `announce` and `scrape` (BEP 3, 7, 23, 24, 48)
//! and UDP (BEP 15) on the same port. It runs until [`Tracker`] is dropped.
//!
//! It believes the sender's address and nothing else, forgets peers that have not been heard of for two intervals, and
//! holds no more than [`MOST_TORRENTS`] × [`MOST_PEERS`] of them.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bendy::encoding::{AsString, Encoder, Error, SingleItemEncoder};
use castanet_core::{
    PeerId,
    addr::{canonical, write_compact},
    digest::sha1,
    seams::discovery::SwarmSize,
};
use castanet_protocol::tracker::{
    Announce, Answer, Event,
    udp::{self, Request},
};
use percent_encoding::percent_decode_str;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
    time::{Instant, timeout},
};

/// The most torrents that are tracked.
pub const MOST_TORRENTS: usize = 256;
/// The most peers of one torrent.
pub const MOST_PEERS: usize = 2000;
/// The most connections at once.
const MOST_CONNECTIONS: usize = 256;
/// The longest head of a request in bytes, and how long it may take to arrive.
const LONGEST_HEAD: usize = 8 * 1024;
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Peers given to who does not say how many, and at most.
const USUAL_PEERS: usize = 50;
const MOST_GIVEN: usize = 200;
/// How long a UDP connection id is good for, at least.
const UDP_EPOCH: Duration = Duration::from_secs(120);

/// How often peers are to announce.
#[derive(Debug, Clone, Copy)]
pub struct TrackerConfig {
    /// After which time they should. Ten seconds by default: a demo has no half hour.
    pub interval: Duration,
    /// Before which time they should not. Five seconds by default.
    pub min_interval: Duration,
}

impl Default for TrackerConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(10), min_interval: Duration::from_secs(5) }
    }
}

/// What the tracker knows of a torrent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Peers that have everything.
    pub seeds: u32,
    /// Peers that do not.
    pub leeches: u32,
    /// How often `completed` was announced.
    pub completed: u32,
}

/// A running tracker. Dropping it stops it and closes its sockets.
#[derive(Debug)]
pub struct Tracker {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

impl Tracker {
    /// Starts a tracker; port 0 finds a free one.
    pub async fn start(on: SocketAddr) -> io::Result<Self> {
        Self::start_with(on, TrackerConfig::default()).await
    }

    /// Starts a tracker with other intervals.
    pub async fn start_with(on: SocketAddr, config: TrackerConfig) -> io::Result<Self> {
        let (http, datagrams) = bind(on).await?;
        let addr = http.local_addr()?;
        let state = Arc::new(Mutex::new(State { config, started: Instant::now(), torrents: BTreeMap::new() }));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_http(http, state.clone()));
        tasks.spawn(serve_udp(datagrams, state.clone()));
        Ok(Self { addr, state, _tasks: tasks })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
    /// The announce URL for HTTP.
    pub fn url(&self) -> String {
        format!("http://{}/announce", self.addr)
    }
    /// The announce URL for UDP.
    pub fn udp_url(&self) -> String {
        format!("udp://{}/announce", self.addr)
    }
    /// How a torrent is doing.
    pub fn counts(&self, info_hash: [u8; 20]) -> Counts {
        with(&self.state, |state| state.counts(info_hash))
    }
}

/// One port for both protocols. With port 0 the one that TCP got may be taken for UDP: then another is tried.
async fn bind(on: SocketAddr) -> io::Result<(TcpListener, UdpSocket)> {
    let mut tries = if on.port() == 0 { 16 } else { 1 };
    loop {
        let http = TcpListener::bind(on).await?;
        tries -= 1;
        match UdpSocket::bind(http.local_addr()?).await {
            Ok(udp) => return Ok((http, udp)),
            Err(error) if tries == 0 => return Err(error),
            Err(_) => {}
        }
    }
}

fn with<R>(state: &Mutex<State>, f: impl FnOnce(&mut State) -> R) -> R {
    f(&mut state.lock().unwrap_or_else(PoisonError::into_inner))
}

#[derive(Debug)]
struct State {
    config: TrackerConfig,
    started: Instant,
    torrents: BTreeMap<[u8; 20], Torrent>,
}

#[derive(Debug, Default)]
struct Torrent {
    peers: BTreeMap<SocketAddr, Peer>,
    completed: u32,
}

#[derive(Debug)]
struct Peer {
    id: PeerId,
    complete: bool,
    seen: Instant,
}

impl State {
    fn announce(&mut self, from: IpAddr, announce: &Announce) -> Result<Answer, &'static str> {
        if announce.port == 0 {
            return Err("no port");
        }
        self.forget();
        if self.torrents.len() >= MOST_TORRENTS && !self.torrents.contains_key(&announce.info_hash) {
            return Err("too many torrents");
        }
        let now = Instant::now();
        let me = canonical(SocketAddr::new(from, announce.port));
        let torrent = self.torrents.entry(announce.info_hash).or_default();
        let complete = announce.left == 0;
        if announce.event == Event::Stopped {
            torrent.peers.remove(&me);
        } else if torrent.peers.len() < MOST_PEERS || torrent.peers.contains_key(&me) {
            torrent.peers.insert(me, Peer { id: announce.peer_id, complete, seen: now });
        }
        torrent.completed += u32::from(announce.event == Event::Completed);
        // A seed has no use for seeds. A different part of a large swarm every time, without any dice.
        let useful: Vec<_> =
            torrent.peers.iter().filter(|(addr, peer)| **addr != me && !(complete && peer.complete)).collect();
        let wanted = if announce.event == Event::Stopped { 0 } else { (announce.wanted as usize).min(MOST_GIVEN) };
        let skip = (now - self.started).subsec_nanos() as usize % useful.len().max(1);
        let given = useful.iter().cycle().skip(skip).take(wanted.min(useful.len()));
        let peers = given.map(|(addr, peer)| (**addr, Some(peer.id))).collect();
        let counts = self.counts(announce.info_hash);
        Ok(Answer {
            interval: Some(self.config.interval),
            min_interval: Some(self.config.min_interval),
            seeds: Some(counts.seeds),
            leeches: Some(counts.leeches),
            peers,
            external: Some(me.ip()),
            ..Answer::default()
        })
    }

    fn counts(&self, info_hash: [u8; 20]) -> Counts {
        let Some(torrent) = self.torrents.get(&info_hash) else { return Counts::default() };
        let seeds = torrent.peers.values().filter(|peer| peer.complete).count();
        let leeches = torrent.peers.len() - seeds;
        Counts { seeds: seeds as u32, leeches: leeches as u32, completed: torrent.completed }
    }

    /// Drops silent peers, and torrents that nobody has.
    fn forget(&mut self) {
        let patience = self.config.interval * 2 + REQUEST_LIMIT;
        for torrent in self.torrents.values_mut() {
            torrent.peers.retain(|_, peer| peer.seen.elapsed() < patience);
        }
        if self.torrents.len() >= MOST_TORRENTS {
            self.torrents.retain(|_, torrent| !torrent.peers.is_empty());
        }
    }
}

async fn serve_http(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                Ok((stream, from)) => {
                    let state = state.clone();
                    connections.spawn(async move {
                        let _ = timeout(REQUEST_LIMIT, converse(stream, from, &state)).await;
                    });
                }
                // Out of sockets, most likely: some will be closed soon.
                Err(error) => {
                    tracing::debug!(%error, "the tracker cannot accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
}

/// One request, one response.
async fn converse(mut stream: TcpStream, from: SocketAddr, state: &Mutex<State>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > LONGEST_HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split(' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET"), Some(target)) => respond(target, from.ip(), state),
        _ => ("405 Method Not Allowed", Vec::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body].concat()).await?;
    stream.shutdown().await
}

fn respond(target: &str, from: IpAddr, state: &Mutex<State>) -> (&'static str, Vec<u8>) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let body = match path {
        "/announce" => match announce_in(query) {
            Ok((announce, compact)) => match with(state, |state| state.announce(from, &announce)) {
                Ok(answer) => write_answer(&answer, compact),
                Err(reason) => write_refusal(reason),
            },
            Err(reason) => write_refusal(reason),
        },
        "/scrape" => {
            let hashes = parameters(query).filter(|(key, _)| *key == "info_hash");
            let hashes = hashes.filter_map(|(_, value)| value.try_into().ok()).take(MOST_TORRENTS);
            let files = with(state, |state| hashes.map(|hash| (hash, state.counts(hash))).collect());
            write_scrape(files)
        }
        _ => return ("404 Not Found", Vec::new()),
    };
    // A dictionary of ours always encodes; an empty body would be seen by every test.
    ("200 OK", body.unwrap_or_default())
}

fn parameters(query: &str) -> impl Iterator<Item = (&str, Vec<u8>)> {
    query.split('&').filter_map(|pair| pair.split_once('=')).map(|(key, value)| {
        // Some programs write a blank as a plus sign.
        (key, percent_decode_str(&value.replace('+', " ")).collect())
    })
}

/// The announce in a query, and whether the peers are wanted in the compact form.
fn announce_in(query: &str) -> Result<(Announce, bool), &'static str> {
    let parameters: BTreeMap<&str, Vec<u8>> = parameters(query).collect();
    let twenty = |key| parameters.get(key).and_then(|value: &Vec<u8>| <[u8; 20]>::try_from(&value[..]).ok());
    let text = |key| parameters.get(key).and_then(|value| std::str::from_utf8(value).ok());
    let number = |key| text(key).and_then(|text| text.parse::<u64>().ok());
    let announce = Announce {
        info_hash: twenty("info_hash").ok_or("no info_hash of 20 bytes")?,
        peer_id: PeerId(twenty("peer_id").ok_or("no peer_id of 20 bytes")?),
        port: text("port").and_then(|port| port.parse().ok()).ok_or("no port")?,
        key: text("key").and_then(|key| u32::from_str_radix(key, 16).ok()).unwrap_or(0),
        uploaded: number("uploaded").unwrap_or(0),
        downloaded: number("downloaded").unwrap_or(0),
        left: number("left").ok_or("no left")?,
        wanted: number("numwant").map_or(USUAL_PEERS as u32, |wanted| wanted.min(MOST_GIVEN as u64) as u32),
        event: match text("event") {
            None | Some("" | "empty") => Event::Regular,
            Some("started") => Event::Started,
            Some("completed") => Event::Completed,
            Some("stopped") => Event::Stopped,
            // `paused` (BEP 21) and whatever else there may be.
            Some(_) => Event::Regular,
        },
    };
    Ok((announce, text("compact") != Some("0")))
}

fn write_refusal(reason: &str) -> Result<Vec<u8>, Error> {
    let mut out = Encoder::new();
    out.emit_dict(|mut dict| dict.emit_pair(b"failure reason", reason))?;
    out.get_output()
}

fn write_answer(answer: &Answer, compact: bool) -> Result<Vec<u8>, Error> {
    let seconds = |duration: Option<Duration>| duration.unwrap_or_default().as_secs();
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (peer, _) in &answer.peers {
        write_compact(*peer, if peer.is_ipv4() { &mut v4 } else { &mut v6 });
    }
    let external = answer.external.map_or_else(Vec::new, |ip| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    });
    let mut out = Encoder::new();
    out.emit_dict(|mut dict| {
        dict.emit_pair(b"complete", answer.seeds.unwrap_or(0))?;
        dict.emit_pair(b"external ip", AsString(&external))?;
        dict.emit_pair(b"incomplete", answer.leeches.unwrap_or(0))?;
        dict.emit_pair(b"interval", seconds(answer.interval))?;
        dict.emit_pair(b"min interval", seconds(answer.min_interval))?;
        if !compact {
            return dict.emit_pair_with(b"peers", |list| write_peers(list, answer));
        }
        dict.emit_pair(b"peers", AsString(&v4))?;
        dict.emit_pair(b"peers6", AsString(&v6))
    })?;
    out.get_output()
}

fn write_peers(list: SingleItemEncoder<'_>, answer: &Answer) -> Result<(), Error> {
    list.emit_list(|list| {
        answer.peers.iter().try_for_each(|(addr, id)| {
            list.emit_dict(|mut peer| {
                peer.emit_pair(b"ip", addr.ip().to_string())?;
                if let Some(id) = id {
                    peer.emit_pair(b"peer id", AsString(&id.0))?;
                }
                peer.emit_pair(b"port", addr.port())
            })
        })
    })
}

fn write_scrape(files: BTreeMap<[u8; 20], Counts>) -> Result<Vec<u8>, Error> {
    let mut out = Encoder::new();
    out.emit_dict(|mut dict| {
        dict.emit_pair_with(b"files", |dict| {
            dict.emit_dict(|mut dict| {
                files.iter().try_for_each(|(hash, counts)| {
                    dict.emit_pair_with(hash, |file| {
                        file.emit_dict(|mut file| {
                            file.emit_pair(b"complete", counts.seeds)?;
                            file.emit_pair(b"downloaded", counts.completed)?;
                            file.emit_pair(b"incomplete", counts.leeches)
                        })
                    })
                })
            })
        })
    })?;
    out.get_output()
}

async fn serve_udp(socket: UdpSocket, state: Arc<Mutex<State>>) {
    let mut secret = [0; 16];
    fastrand::fill(&mut secret);
    let mut buffer = [0; 2048];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            // About an earlier datagram that found nobody, most likely.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if let Some(reply) = reply_to(&buffer[..length], from, &secret, &state) {
            let _ = socket.send_to(&reply, from).await;
        }
    }
}

fn reply_to(datagram: &[u8], from: SocketAddr, secret: &[u8; 16], state: &Mutex<State>) -> Option<Vec<u8>> {
    let epoch = with(state, |state| state.started.elapsed().as_secs() / UDP_EPOCH.as_secs());
    // The id is a digest of the sender's address and the time, so that nothing needs to be remembered.
    let id_of = |epoch: u64| {
        let digest = sha1(&[&secret[..], from.to_string().as_bytes(), &epoch.to_be_bytes()].concat()).0;
        digest[..8].iter().fold(0, |id, byte| id << 8 | u64::from(*byte))
    };
    let granted = |id| id == id_of(epoch) || epoch.checked_sub(1).is_some_and(|epoch| id == id_of(epoch));
    match udp::parse_request(datagram)? {
        Request::Connect { transaction } => Some(udp::connect_reply(transaction, id_of(epoch))),
        Request::Announce { connection, transaction, mut announce, .. } => {
            if !granted(connection) {
                return Some(udp::error_reply(transaction, "unknown connection"));
            }
            if announce.wanted > i32::MAX as u32 {
                announce.wanted = USUAL_PEERS as u32;
            }
            let reply = match with(state, |state| state.announce(from.ip(), &announce)) {
                Ok(mut answer) => {
                    answer.peers.retain(|(peer, _)| peer.is_ipv4() == from.ip().to_canonical().is_ipv4());
                    udp::announce_reply(transaction, &answer)
                }
                Err(reason) => udp::error_reply(transaction, reason),
            };
            Some(reply)
        }
        Request::Scrape { connection, transaction, names } => {
            if !granted(connection) {
                return Some(udp::error_reply(transaction, "unknown connection"));
            }
            let counts = names.iter().map(|name| with(state, |state| state.counts(*name)));
            let sizes: Vec<_> = counts
                .map(|Counts { seeds, leeches, completed }| SwarmSize { seeds, leeches, completed: Some(completed) })
                .collect();
            Some(udp::scrape_reply(transaction, &sizes))
        }
    }
}
