//! Local service discovery (BEP 14): who in this network has the same torrents, asked of a multicast group.
//!
//! [`Search`] is the message. [`Lsd`] decides for all torrents of a session what is said and when, and what is believed:
//! each torrent is named at the start and every five minutes, and once more for a neighbour who is new, but at most once a
//! minute. It is told of datagrams by [`Lsd::handle`] and polled for those to send. The times come from BEP 14.

use std::{
    collections::BTreeMap,
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use castanet_core::{InfoHashV1, Moment, addr::is_dialable};

/// The group of IPv4.
pub const GROUP_V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 192, 152, 143)), 6771);
/// The group of IPv6: this site.
pub const GROUP_V6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0xefc0, 0x988f)), 6771);

/// The largest datagram that is read, in bytes. Ours stay under 1400.
pub const LARGEST_DATAGRAM: usize = 2048;
/// The most torrents that are named in one datagram: 52 bytes each, and 130 around them.
const MOST_NAMED: usize = 24;
/// The most that are believed from one.
const MOST_READ: usize = 40;
/// The longest cookie that is read, in bytes.
const LONGEST_COOKIE: usize = 64;
/// How often a torrent is named.
const INTERVAL: Duration = Duration::from_secs(5 * 60);
/// How long after a torrent was named it may be named again at the earliest.
const PAUSE: Duration = Duration::from_secs(60);
/// How long a new torrent waits for others to be named with it.
const GATHER: Duration = Duration::from_millis(250);
/// How much earlier than due a torrent is named with another one.
const EARLY: Duration = Duration::from_secs(30);
/// Between two datagrams.
const SPACING: Duration = Duration::from_millis(100);
/// The longest wait before an answer, so that not all answer at once.
const SPREAD: Duration = Duration::from_secs(1);
/// Datagrams that are read in a second.
const MOST_A_SECOND: u32 = 50;
/// Neighbours that are remembered, over all torrents.
const MOST_NEIGHBOURS: usize = 4096;
/// A neighbour who was not heard for so long is new.
const FORGOTTEN: Duration = Duration::from_secs(11 * 60);

/// The message: who listens at this port has these torrents and looks for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// Where the sender accepts peers; not 0.
    pub port: u16,
    /// Its torrents: 20 bytes each, as on the wire. At least one.
    pub info_hashes: Vec<[u8; 20]>,
    /// By which a sender knows its own messages.
    pub cookie: Option<String>,
}

impl Search {
    /// Reads a datagram. `None` if it is something else, has no port or names no torrent. What it says too much, or
    /// wrongly, is passed over.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(datagram.get(..LARGEST_DATAGRAM).unwrap_or(datagram)).ok()?;
        let mut lines = text.lines();
        lines.next().filter(|line| line.trim_end() == "BT-SEARCH * HTTP/1.1")?;
        let (mut port, mut info_hashes, mut cookie) = (None, Vec::new(), None);
        for (name, value) in lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match name.trim().to_ascii_lowercase().as_str() {
                "port" => port = port.or(value.parse().ok().filter(|port| *port != 0)),
                "infohash" if info_hashes.len() < MOST_READ => {
                    info_hashes.extend(InfoHashV1::from_hex(value).map(|hash| hash.0));
                }
                "cookie" if value.len() <= LONGEST_COOKIE => cookie = Some(value.to_owned()),
                _ => {}
            }
        }
        port.filter(|_| !info_hashes.is_empty()).map(|port| Self { port, info_hashes, cookie })
    }

    /// The datagram for this group.
    pub fn encode(&self, group: SocketAddr) -> Vec<u8> {
        let mut text = format!("BT-SEARCH * HTTP/1.1\r\nHost: {group}\r\nPort: {}\r\n", self.port);
        for hash in &self.info_hashes {
            // Writing to a String cannot fail.
            let _ = write!(text, "Infohash: {}\r\n", InfoHashV1(*hash));
        }
        if let Some(cookie) = &self.cookie {
            let _ = write!(text, "cookie: {cookie}\r\n");
        }
        text.push_str("\r\n\r\n");
        text.into_bytes()
    }
}

/// A neighbour in the swarm of one of our torrents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// The torrent.
    pub info_hash: [u8; 20],
    /// Where it accepts peers.
    pub addr: SocketAddr,
}

/// The decisions, for all torrents of a session.
#[derive(Debug)]
pub struct Lsd {
    cookie: String,
    random: fastrand::Rng,
    torrents: BTreeMap<[u8; 20], Torrent>,
    /// When a neighbour of ours was last passed on.
    heard: BTreeMap<([u8; 20], SocketAddr), Moment>,
    /// No datagram is sent before.
    quiet_until: Moment,
    /// The second that is counted, and the datagrams read in it.
    counted: (Moment, u32),
}

#[derive(Debug)]
struct Torrent {
    port: u16,
    /// When it shall be named.
    due: Moment,
    /// It is not named before: it has been lately.
    earliest: Moment,
}

impl Lsd {
    /// Without torrents. The seed also makes the cookie by which our own messages are known.
    pub fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        Self {
            cookie: format!("{:016x}", random.u64(..)),
            random,
            torrents: BTreeMap::new(),
            heard: BTreeMap::new(),
            quiet_until: Moment::ZERO,
            counted: (Moment::ZERO, 0),
        }
    }

    /// Begins with a torrent, which must not be private (BEP 27). With port 0 it is looked for, but not named.
    pub fn watch(&mut self, info_hash: [u8; 20], port: u16, now: Moment) {
        self.torrents.insert(info_hash, Torrent { port, due: now + GATHER, earliest: now });
    }

    /// Ends with a torrent.
    pub fn unwatch(&mut self, info_hash: &[u8; 20]) {
        self.torrents.remove(info_hash);
        self.heard.retain(|(heard, _), _| heard != info_hash);
    }

    /// The network is another one: its neighbours have not heard of us.
    pub fn network_changed(&mut self, now: Moment) {
        self.heard.clear();
        self.torrents.values_mut().for_each(|torrent| torrent.due = torrent.earliest.max(now + GATHER));
    }

    /// Takes a datagram; returns those who have torrents of ours. Nobody is returned more often than once a minute.
    pub fn handle(&mut self, datagram: &[u8], from: SocketAddr, now: Moment) -> Vec<Neighbour> {
        if now.since(self.counted.0) >= Duration::from_secs(1) {
            self.counted = (now, 0);
        }
        self.counted.1 += 1;
        if self.counted.1 > MOST_A_SECOND {
            return Vec::new();
        }
        let Some(search) = Search::parse(datagram) else { return Vec::new() };
        if search.cookie.as_ref() == Some(&self.cookie) {
            return Vec::new();
        }
        // The address as it is: a link-local one is nothing without its zone.
        let mut addr = from;
        addr.set_port(search.port);
        if !is_dialable(addr) {
            return Vec::new();
        }
        let ours = search.info_hashes.into_iter().filter(|info_hash| self.meet(*info_hash, addr, now));
        ours.map(|info_hash| Neighbour { info_hash, addr }).collect()
    }

    /// Is it somebody to pass on? If they are new, they shall hear of us.
    fn meet(&mut self, info_hash: [u8; 20], addr: SocketAddr, now: Moment) -> bool {
        let Some(torrent) = self.torrents.get_mut(&info_hash) else { return false };
        let last = self.heard.get(&(info_hash, addr)).map(|then| now.since(*then));
        if last.is_some_and(|ago| ago < PAUSE) {
            return false;
        }
        if last.is_none_or(|ago| ago > FORGOTTEN) {
            let answer = now + Duration::from_millis(self.random.u64(..SPREAD.as_millis() as u64));
            torrent.due = torrent.due.min(answer.max(torrent.earliest));
        }
        if last.is_none() && self.heard.len() >= MOST_NEIGHBOURS {
            // Who is forgotten is only passed on sooner again.
            self.heard.pop_first();
        }
        self.heard.insert((info_hash, addr), now);
        true
    }

    /// What is to be sent to every group now, if anything. To be asked again until it is `None`.
    pub fn poll(&mut self, now: Moment) -> Option<Search> {
        if now < self.quiet_until {
            return None;
        }
        let port = self.torrents.values().find(|torrent| torrent.port != 0 && torrent.due <= now)?.port;
        let mut info_hashes = Vec::new();
        for early in [Duration::ZERO, EARLY] {
            for (info_hash, torrent) in &mut self.torrents {
                let due = torrent.due <= now + early && torrent.earliest <= now;
                if torrent.port == port && due && info_hashes.len() < MOST_NAMED {
                    info_hashes.push(*info_hash);
                    (torrent.due, torrent.earliest) = (now + INTERVAL, now + PAUSE);
                }
            }
        }
        self.quiet_until = now + SPACING;
        Some(Search { port, info_hashes, cookie: Some(self.cookie.clone()) })
    }

    /// When [`Self::poll`] has something next.
    pub fn deadline(&self) -> Moment {
        let due = self.torrents.values().filter(|torrent| torrent.port != 0).map(|torrent| torrent.due).min();
        due.map_or(Moment::NEVER, |due| due.max(self.quiet_until))
    }

    /// For tests: is everything within bounds?
    ///
    /// # Panics
    /// If not.
    pub fn check_invariants(&self) {
        assert!(self.heard.len() <= MOST_NEIGHBOURS);
        assert!(self.heard.keys().all(|(info_hash, _)| self.torrents.contains_key(info_hash)));
        assert!(self.torrents.values().all(|torrent| torrent.due >= torrent.earliest));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: [u8; 20] = [0xaa; 20];
    const B: [u8; 20] = [0xbb; 20];

    fn at(seconds: f64) -> Moment {
        Moment::ZERO + Duration::from_secs_f64(seconds)
    }
    fn from(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }
    fn asking(port: u16, info_hashes: &[[u8; 20]]) -> Vec<u8> {
        Search { port, info_hashes: info_hashes.to_vec(), cookie: None }.encode(GROUP_V4)
    }
    /// Everything that is said until `end`, with the second in which it is.
    fn said(lsd: &mut Lsd, end: f64) -> Vec<(u64, Search)> {
        let mut said = Vec::new();
        while lsd.deadline() <= at(end) {
            let now = lsd.deadline();
            let search = lsd.poll(now).expect("it was due");
            said.push((now.as_secs_f64() as u64, search));
            lsd.check_invariants();
        }
        said
    }

    #[test]
    fn the_message_as_others_write_it() {
        let text = "BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 6881\r\n\
            Infohash: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\r\n\
            infohash: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\ncookie: 1a2b\r\n\r\n\r\n";
        let search = Search { port: 6881, info_hashes: vec![A, B], cookie: Some("1a2b".into()) };
        assert_eq!(Search::parse(text.as_bytes()), Some(search.clone()));
        let ours = search.encode(GROUP_V6);
        assert!(
            ours.starts_with(b"BT-SEARCH * HTTP/1.1\r\nHost: [ff15::efc0:988f]:6771\r\nPort: 6881\r\nInfohash: aa")
        );
        assert!(ours.ends_with(b"\r\n\r\n\r\n"));
        assert_eq!(Search::parse(&ours), Some(search));
    }

    #[test]
    fn what_is_wrong_is_passed_over() {
        let hash = InfoHashV1(A);
        let parse = |text: &str| Search::parse(text.as_bytes());
        for bad in [
            "".to_owned(),
            format!("BT-SEARCH * HTTP/1.1\nPort: 0\nInfohash: {hash}\n"),
            format!("BT-SEARCH * HTTP/1.1\nPort: 65536\nInfohash: {hash}\n"),
            format!("BT-SEARCH * HTTP/1.1\nInfohash: {hash}\n"),
            format!("M-SEARCH * HTTP/1.1\nPort: 1\nInfohash: {hash}\n"),
            "BT-SEARCH * HTTP/1.1\nPort: 1\nInfohash: aa\n".to_owned(),
            format!("BT-SEARCH * HTTP/1.1\nPort: 1\n\nInfohash: {hash}\n"),
        ] {
            assert_eq!(parse(&bad), None, "{bad:?}");
        }
        let many = format!("Infohash: {hash}\r\nInfohash: no\r\n").repeat(500);
        let long = format!("BT-SEARCH * HTTP/1.1\r\nPort: 1\r\ncookie: {}\r\n{many}", "c".repeat(65));
        let search = parse(&long).unwrap();
        assert!(search.info_hashes.len() <= MOST_READ && search.cookie.is_none());
    }

    #[test]
    fn every_five_minutes_and_many_at_a_time() {
        let mut lsd = Lsd::new(1);
        for n in 0..60 {
            lsd.watch([n; 20], 6881, at(0.0));
        }
        lsd.watch(B, 7000, at(0.0));
        lsd.watch(A, 0, at(0.0));
        let first = said(&mut lsd, 10.0);
        assert_eq!(
            first.iter().map(|(_, search)| search.info_hashes.len()).sum::<usize>(),
            61,
            "all but that without a port"
        );
        assert_eq!(first.len(), 4, "three for one port, one for the other");
        assert!(first.iter().all(|(_, search)| search.encode(GROUP_V6).len() < 1400));
        assert!(first.iter().all(|(_, search)| (search.port == 7000) == (search.info_hashes == [B])));
        let later: Vec<_> = said(&mut lsd, 700.0).iter().map(|(second, _)| *second).collect();
        assert_eq!(later, [300, 300, 300, 300, 600, 600, 600, 600]);
        for n in 0..60 {
            lsd.unwatch(&[n; 20]);
        }
        lsd.unwatch(&B);
        assert_eq!(lsd.deadline(), Moment::NEVER);
    }

    #[test]
    fn a_new_neighbour_is_answered_but_not_more_than_once_a_minute() {
        let mut lsd = Lsd::new(1);
        lsd.watch(A, 6881, at(0.0));
        assert_eq!(said(&mut lsd, 1.0).len(), 1);
        let neighbour = Neighbour { info_hash: A, addr: from("10.0.0.2:5") };
        assert_eq!(lsd.handle(&asking(5, &[A, B]), from("10.0.0.2:6771"), at(2.0)), [neighbour]);
        assert_eq!(lsd.handle(&asking(5, &[A]), from("10.0.0.2:6771"), at(3.0)), [], "told a second ago");
        lsd.handle(&asking(5, &[A]), from("10.0.0.3:6771"), at(4.0));
        assert_eq!(said(&mut lsd, 200.0).iter().map(|(second, _)| *second).collect::<Vec<_>>(), [60]);
        // Known by now: told again, not answered.
        assert_eq!(lsd.handle(&asking(5, &[A]), from("10.0.0.2:6771"), at(200.0)), [neighbour]);
        assert_eq!(said(&mut lsd, 350.0).len(), 0);
        lsd.network_changed(at(350.0));
        assert_eq!(said(&mut lsd, 351.0).len(), 1);
    }

    #[test]
    fn two_do_not_keep_each_other_talking() {
        let mut nodes = [(Lsd::new(1), from("10.0.0.1:6771")), (Lsd::new(2), from("10.0.0.2:6771"))];
        nodes[0].0.watch(A, 1, at(0.0));
        nodes[1].0.watch(A, 2, at(30.0));
        let (mut said, mut met) = (0, 0);
        loop {
            let speaker = usize::from(nodes[1].0.deadline() < nodes[0].0.deadline());
            let now = nodes[speaker].0.deadline();
            if now > at(3600.0) {
                break;
            }
            let (datagram, from) = (nodes[speaker].0.poll(now).unwrap().encode(GROUP_V4), nodes[speaker].1);
            said += 1;
            for (lsd, _) in &mut nodes {
                met += lsd.handle(&datagram, from, now).len();
            }
        }
        assert!(met >= 20, "{met}");
        // Twelve times an hour each, and the answers at the beginning.
        assert!((22..=27).contains(&said), "{said}");
    }

    #[test]
    fn a_flood_is_read_a_little_at_a_time() {
        let mut lsd = Lsd::new(1);
        lsd.watch(A, 6881, at(0.0));
        let mut told = 0;
        for n in 0..100_000_u32 {
            let source = SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + n), 6771));
            told += lsd.handle(&asking(5, &[A]), source, at(f64::from(n) / 1000.0)).len();
        }
        assert_eq!(told, 100 * MOST_A_SECOND as usize);
        lsd.check_invariants();
        assert!(said(&mut lsd, 100.0).len() <= 2);
    }

    proptest! {
        #[test]
        fn nothing_that_is_said_does_harm(tail in "(Port: [0-9]{0,6}\r\n|Infohash: [a-f0-9]{38,42}\r\n|cookie: \\PC{0,9}\r\n|\\PC{0,20}){0,60}", junk in any::<Vec<u8>>()) {
            let mut lsd = Lsd::new(1);
            lsd.watch(A, 6881, at(0.0));
            lsd.handle(format!("BT-SEARCH * HTTP/1.1\r\n{tail}").as_bytes(), from("[fe80::1%3]:6771"), at(1.0));
            lsd.handle(&junk, from("10.0.0.1:0"), at(1.0));
            lsd.check_invariants();
        }
    }
}
