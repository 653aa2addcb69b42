//! A small tracker on real sockets, for the demo and the tests: HTTP with `announce` and `scrape` (BEP 3, 7, 23, 24, 48)
//! and UDP (BEP 15) on the same port. It runs until [`Tracker`] is dropped.
//!
//! It believes the sender's address and nothing else, forgets peers that have not been heard of for two intervals, and
//! holds no more than [`MOST_TORRENTS`] × [`MOST_PEERS`] of them.

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
    match udp::parse_request(datagram)? {
        Request::Connect { transaction } => Some(udp::connect_reply(transaction, id_of(epoch))),
        Request::Announce { connection, transaction, mut announce, .. } => {
            if connection != id_of(epoch) && epoch.checked_sub(1).is_none_or(|epoch| connection != id_of(epoch)) {
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
    }
}

#[cfg(test)]
mod tests {
    use castanet_core::{
        InfoHashV1, InfoHashes, Moment,
        bencode::{Limits, scan},
        seams::{
            discovery::{Discovery, Found, Me, Progress, Settings, Swarm, SwarmInfo},
            means::{Clock, Means},
        },
    };
    use castanet_plugins::BUILTIN;
    use castanet_transports::{resolver::FixedResolver, tcp, udp::Udp};
    use futures_util::StreamExt;
    use tokio::sync::{mpsc, watch};

    use super::*;

    const HASH: [u8; 20] = [7; 20];

    async fn start() -> Tracker {
        Tracker::start(([127, 0, 0, 1], 0).into()).await.unwrap()
    }

    fn plugin(name: &str) -> Arc<dyn Discovery> {
        let started = Instant::now();
        let means = Means {
            datagrams: Arc::new(Udp),
            dialer: tcp::build(&castanet_transports::Settings::default()).unwrap(),
            resolver: Arc::new(FixedResolver(BTreeMap::new())),
            clock: Clock::new(move || Moment::ZERO + started.elapsed()),
            seed: 1,
            bind: vec![([127, 0, 0, 1], 0).into()],
            user_agent: "Castanet/test".into(),
        };
        let (_, build) = BUILTIN.iter().find(|(builtin, _)| *builtin == name).unwrap();
        build(&means, &Settings::default()).unwrap()
    }

    async fn get(tracker: &Tracker, target: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(tracker.addr()).await.unwrap();
        stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await.unwrap();
        let body = response.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
        response.split_off(body)
    }

    fn announce(port: u16, more: &str) -> String {
        format!("/announce?info_hash={}&peer_id={}&port={port}&{more}", "%07".repeat(20), "p".repeat(20))
    }

    /// Two peers meet through the tracker, one of them finishes, and both say good-bye.
    async fn meet(plugin_name: &str, url: impl Fn(&Tracker) -> String) {
        let tracker = start().await;
        let info = SwarmInfo {
            info_hashes: InfoHashes::v1(InfoHashV1(HASH)),
            private: false,
            trackers: vec![vec![url(&tracker)]].into(),
            peers: Vec::new().into(),
        };
        let (seed, leech) = (plugin(plugin_name), plugin(plugin_name));
        let me = |port| Me { peer_id: PeerId([port as u8; 20]), port, key: 1 };
        let progress = |left| Progress { left: Some(left), wanted: 50, ..Progress::default() };
        let mut kept = Vec::new();
        let mut swarm = |port, left| {
            let (watched, events) = (watch::channel(progress(left)), mpsc::channel(1));
            kept.push((watched.0, events.0));
            Swarm { info: info.clone(), me: me(port), progress: watched.1, events: events.1 }
        };
        let mut seeding = seed.discover(swarm(1001, 0)).await.unwrap();
        while !matches!(seeding.next().await, Some(Ok(Found::Idle { .. }))) {}
        assert_eq!(tracker.counts(HASH), Counts { seeds: 1, leeches: 0, completed: 0 });
        let mut leeching = leech.discover(swarm(1002, 5)).await.unwrap();
        let peers = loop {
            match leeching.next().await {
                Some(Ok(Found::Peers(peers))) => break peers,
                Some(Ok(_)) => {}
                other => panic!("no peers: {other:?}"),
            }
        };
        assert_eq!(peers.iter().map(|peer| peer.addr).collect::<Vec<_>>(), [([127, 0, 0, 1], 1001).into()]);
        while !matches!(leeching.next().await, Some(Ok(Found::Idle { .. }))) {}
        assert_eq!(tracker.counts(HASH), Counts { seeds: 1, leeches: 1, completed: 0 });
        drop((seeding, leeching));
        leech.leave(info.clone(), me(1002), progress(0), Duration::from_secs(60)).await.unwrap();
        assert_eq!(tracker.counts(HASH), Counts { seeds: 1, leeches: 0, completed: 1 });
        seed.leave(info.clone(), me(1001), progress(0), Duration::from_secs(60)).await.unwrap();
        assert_eq!(tracker.counts(HASH), Counts { seeds: 0, leeches: 0, completed: 1 });
    }

    #[tokio::test]
    async fn peers_meet_over_http() {
        meet("http-tracker", Tracker::url).await;
    }

    #[tokio::test]
    async fn peers_meet_over_udp() {
        meet("udp-tracker", Tracker::udp_url).await;
    }

    #[tokio::test]
    async fn requests_by_hand() {
        let tracker = start().await;
        get(&tracker, &announce(80, "left=0&event=completed")).await;
        let body = get(&tracker, &announce(81, "left=1&compact=0&numwant=9")).await;
        let answer = castanet_protocol::tracker::http::parse_answer(&body).unwrap();
        assert_eq!(answer.peers, [(([127, 0, 0, 1], 80).into(), Some(PeerId([b'p'; 20])))]);
        assert_eq!(answer.external, Some([127, 0, 0, 1].into()));
        let seed = get(&tracker, &announce(82, "left=0")).await;
        let seed = castanet_protocol::tracker::http::parse_answer(&seed).unwrap();
        assert_eq!(seed.peers.iter().map(|(peer, _)| peer.port()).collect::<Vec<_>>(), [81], "a seed needs no seed");
        let body = get(&tracker, &format!("/scrape?info_hash={}", "%07".repeat(20))).await;
        let scrape = scan(&body, Limits::MESSAGE).unwrap().root.as_dict().unwrap();
        let counts = scrape.dict("files").unwrap().dict(HASH).unwrap();
        assert_eq!(
            (counts.int("complete"), counts.int("incomplete"), counts.int("downloaded")),
            (Some(2), Some(1), Some(1))
        );
    }

    #[tokio::test]
    async fn bad_requests_are_refused_in_words() {
        let tracker = start().await;
        for (target, reason) in [
            ("/announce", "no info_hash of 20 bytes"),
            ("/announce?info_hash=abc&&=&%", "no info_hash of 20 bytes"),
            (&*announce(0, "left=1"), "no port"),
            (&*announce(1, "left=-1"), "no left"),
        ] {
            let expected = format!("d14:failure reason{}:{reason}e", reason.len());
            assert_eq!(String::from_utf8_lossy(&get(&tracker, target).await), expected, "{target}");
        }
        assert_eq!(get(&tracker, "/else").await, b"");
        // Too long a head closes the connection, without harm to the others.
        let mut flood = TcpStream::connect(tracker.addr()).await.unwrap();
        let _ = flood.write_all(&vec![b'x'; 4 * LONGEST_HEAD]).await;
        assert!(get(&tracker, &announce(9, "left=1")).await.starts_with(b"d8:complete"));
    }

    #[tokio::test]
    async fn a_dropped_tracker_is_gone() {
        let tracker = start().await;
        let addr = tracker.addr();
        drop(tracker);
        while TcpStream::connect(addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
        TcpListener::bind(addr).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_the_silent_are_forgotten() {
        let config = TrackerConfig::default();
        let mut state = State { config, started: Instant::now(), torrents: BTreeMap::new() };
        let ip = IpAddr::from([127, 0, 0, 1]);
        let (mut announce, _) = announce_in(announce(1, "left=1&numwant=99999").split_once('?').unwrap().1).unwrap();
        for port in 1..=MOST_PEERS as u16 + 9 {
            announce.port = port;
            state.announce(ip, &announce).unwrap();
        }
        assert_eq!(state.counts(HASH).leeches as usize, MOST_PEERS);
        assert_eq!(state.announce(ip, &announce).unwrap().peers.len(), MOST_GIVEN);
        for n in 0..MOST_TORRENTS as u32 {
            announce.info_hash[..4].copy_from_slice(&n.to_be_bytes());
            let _ = state.announce(ip, &announce);
        }
        assert_eq!(state.announce(ip, &announce), Err("too many torrents"));
        tokio::time::advance(config.interval * 3 + REQUEST_LIMIT).await;
        assert!(state.announce(ip, &announce).unwrap().peers.is_empty());
        assert_eq!(state.torrents.len(), 1);
    }
}
