//! The UDP tracker protocol: datagrams in and out, scrapes included (BEP 15), with the URL's path as an option (BEP 41).
//!
//! A client connects first and gets an id that proves its address, valid for [`CONNECTION_LIFETIME`]; then it announces.
//! Both halves are here, since the engine's own tests run a tracker. Retransmission: [`wait`].

use std::{net::SocketAddr, time::Duration};

use castanet_core::{
    addr::{is_dialable, parse_compact_v4, parse_compact_v6, write_compact},
    ids::PeerId,
    seams::discovery::SwarmSize,
};

use super::{Announce, Answer, AnswerError, Event, MOST_PEERS, Retry, plain};

/// How long a connection id may be used by a client.
pub const CONNECTION_LIFETIME: Duration = Duration::from_secs(60);
/// How long an exchange may take before the tracker counts as dead. BEP 15 would go on for more than an hour; the
/// schedule's back-off does that for us, and the user hears of it.
pub const EXCHANGE_LIMIT: Duration = Duration::from_secs(60);
/// Enough for the longest answer that is believed.
pub const LARGEST_DATAGRAM: usize = 64 * 1024;

/// The most torrents in one scrape.
pub const MOST_SCRAPED: usize = 74;

/// The first eight bytes of a connect request.
const PROTOCOL_ID: u64 = 0x0417_2710_1980;
const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const SCRAPE: u32 = 2;
const ERROR: u32 = 3;
/// Bytes of an announce without options.
const ANNOUNCE_LENGTH: usize = 98;
/// The option that carries the URL's path and query (BEP 41).
const URL_DATA: u8 = 2;

/// How long to wait for an answer to the `attempt`-th datagram, counted from 0: 15 s, doubled each time up to 2^8.
pub fn wait(attempt: u32) -> Duration {
    Duration::from_secs(15 << attempt.min(8))
}

/// Asks for a connection id.
pub fn connect_request(transaction: u32) -> Vec<u8> {
    let mut out = PROTOCOL_ID.to_be_bytes().to_vec();
    put(&mut out, CONNECT);
    put(&mut out, transaction);
    out
}

/// Announces. `url_data` is the URL's path and query; an empty one, or `/` alone, is not sent.
pub fn announce_request(connection: u64, transaction: u32, announce: &Announce, url_data: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(ANNOUNCE_LENGTH + 2 + url_data.len());
    out.extend_from_slice(&connection.to_be_bytes());
    put(&mut out, ANNOUNCE);
    put(&mut out, transaction);
    out.extend_from_slice(&announce.info_hash);
    out.extend_from_slice(&announce.peer_id.0);
    for number in [announce.downloaded, announce.left, announce.uploaded] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    let event = match announce.event {
        Event::Regular => 0,
        Event::Completed => 1,
        Event::Started => 2,
        Event::Stopped => 3,
    };
    put(&mut out, event);
    put(&mut out, 0); // our address: the datagram's own
    put(&mut out, announce.key);
    put(&mut out, announce.wanted);
    out.extend_from_slice(&announce.port.to_be_bytes());
    if !matches!(url_data, "" | "/") {
        for chunk in url_data.as_bytes().chunks(255) {
            out.extend_from_slice(&[URL_DATA, chunk.len() as u8]);
            out.extend_from_slice(chunk);
        }
    }
    out
}

/// Asks for the numbers of torrents, at most [`MOST_SCRAPED`]; more are left out.
pub fn scrape_request(connection: u64, transaction: u32, names: &[[u8; 20]]) -> Vec<u8> {
    let mut out = connection.to_be_bytes().to_vec();
    put(&mut out, SCRAPE);
    put(&mut out, transaction);
    names.iter().take(MOST_SCRAPED).for_each(|name| out.extend_from_slice(name));
    out
}

/// What a tracker sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The connection id.
    Connected(u64),
    /// The answer to an announce.
    Announced(Answer),
    /// The numbers of the torrents that were asked for, in that order; at most [`MOST_SCRAPED`].
    Scraped(Vec<SwarmSize>),
}

/// The transaction that a reply belongs to; `None` if it is too short to be one.
pub fn transaction_of(reply: &[u8]) -> Option<u32> {
    (reply.len() >= 8).then(|| u32_at(reply, 4))
}

/// Reads a reply. Over IPv6 (`v6`) peers have 18 bytes instead of 6.
pub fn parse_reply(reply: &[u8], v6: bool) -> Result<Reply, AnswerError> {
    if reply.len() < 8 {
        return Err(malformed("the datagram is too short"));
    }
    match u32_at(reply, 0) {
        CONNECT if reply.len() >= 16 => Ok(Reply::Connected(u64_at(reply, 8))),
        ANNOUNCE if reply.len() >= 20 => {
            let peers = &reply[20..];
            let believed = |peers: &mut dyn Iterator<Item = SocketAddr>| {
                peers.filter(|peer| is_dialable(*peer)).take(MOST_PEERS).map(|peer| (peer, None)).collect()
            };
            Ok(Reply::Announced(Answer {
                interval: Some(seconds(u32_at(reply, 8))),
                leeches: Some(u32_at(reply, 12)),
                seeds: Some(u32_at(reply, 16)),
                peers: if v6 { believed(&mut parse_compact_v6(peers)) } else { believed(&mut parse_compact_v4(peers)) },
                ..Answer::default()
            }))
        }
        SCRAPE => {
            let numbers = reply[8..].chunks_exact(12).take(MOST_SCRAPED).map(|numbers| SwarmSize {
                seeds: u32_at(numbers, 0),
                completed: Some(u32_at(numbers, 4)),
                leeches: u32_at(numbers, 8),
            });
            Ok(Reply::Scraped(numbers.collect()))
        }
        ERROR => Err(AnswerError::Refused { message: plain(&reply[8..]), retry: Retry::Usual }),
        // A bare head is how opentracker refuses a torrent that is not on its list.
        ANNOUNCE if reply.len() == 8 => {
            Err(AnswerError::Refused { message: "it does not serve this torrent".to_owned(), retry: Retry::Usual })
        }
        CONNECT | ANNOUNCE => Err(malformed("the datagram is too short")),
        _ => Err(malformed("the datagram is of an unknown kind")),
    }
}

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Asks for a connection id.
    Connect {
        /// To be repeated in the reply.
        transaction: u32,
    },
    /// Announces.
    Announce {
        /// The connection id that it claims to have got from us.
        connection: u64,
        /// To be repeated in the reply.
        transaction: u32,
        /// The question.
        announce: Announce,
        /// The path and query of the URL (BEP 41).
        url_data: String,
    },
    /// Asks for numbers.
    Scrape {
        /// The connection id that it claims to have got from us.
        connection: u64,
        /// To be repeated in the reply.
        transaction: u32,
        /// Of which torrents, at most [`MOST_SCRAPED`].
        names: Vec<[u8; 20]>,
    },
}

/// Reads a request, as a tracker does; `None` for anything else.
pub fn parse_request(request: &[u8]) -> Option<Request> {
    if request.len() < 16 {
        return None;
    }
    let (connection, transaction) = (u64_at(request, 0), u32_at(request, 12));
    match u32_at(request, 8) {
        CONNECT if connection == PROTOCOL_ID => Some(Request::Connect { transaction }),
        ANNOUNCE if request.len() >= ANNOUNCE_LENGTH => {
            let announce = Announce {
                info_hash: twenty_at(request, 16),
                peer_id: PeerId(twenty_at(request, 36)),
                downloaded: u64_at(request, 56),
                left: u64_at(request, 64),
                uploaded: u64_at(request, 72),
                event: match u32_at(request, 80) {
                    0 => Event::Regular,
                    1 => Event::Completed,
                    2 => Event::Started,
                    3 => Event::Stopped,
                    _ => return None,
                },
                key: u32_at(request, 88),
                wanted: u32_at(request, 92),
                port: u16::from_be_bytes([request[96], request[97]]),
            };
            let url_data = url_data(&request[ANNOUNCE_LENGTH..]);
            Some(Request::Announce { connection, transaction, announce, url_data })
        }
        SCRAPE => {
            let names = request[16..].chunks_exact(20).take(MOST_SCRAPED).map(|name| twenty_at(name, 0)).collect();
            Some(Request::Scrape { connection, transaction, names })
        }
        _ => None,
    }
}

/// Grants a connection id.
pub fn connect_reply(transaction: u32, connection: u64) -> Vec<u8> {
    let mut out = header(CONNECT, transaction);
    out.extend_from_slice(&connection.to_be_bytes());
    out
}

/// Answers an announce. The peers must be of the datagram's address family.
pub fn announce_reply(transaction: u32, answer: &Answer) -> Vec<u8> {
    let mut out = header(ANNOUNCE, transaction);
    put(&mut out, answer.interval.map_or(0, |interval| interval.as_secs().min(u64::from(u32::MAX)) as u32));
    put(&mut out, answer.leeches.unwrap_or(0));
    put(&mut out, answer.seeds.unwrap_or(0));
    for (peer, _) in &answer.peers {
        write_compact(*peer, &mut out);
    }
    out
}

/// Answers a scrape, with numbers in the order of the question.
pub fn scrape_reply(transaction: u32, sizes: &[SwarmSize]) -> Vec<u8> {
    let mut out = header(SCRAPE, transaction);
    for size in sizes {
        [size.seeds, size.completed.unwrap_or(0), size.leeches].iter().for_each(|number| put(&mut out, *number));
    }
    out
}

/// Refuses.
pub fn error_reply(transaction: u32, message: &str) -> Vec<u8> {
    let mut out = header(ERROR, transaction);
    out.extend_from_slice(message.as_bytes());
    out
}

/// Joins the URL-data options; other options are skipped, and a short one ends the list.
fn url_data(mut options: &[u8]) -> String {
    let mut out = Vec::new();
    loop {
        options = match options {
            [1, rest @ ..] => rest, // no operation: a byte of padding
            [0, ..] | [] | [_] => break,
            [kind, length, rest @ ..] => {
                let Some((data, rest)) = rest.split_at_checked(usize::from(*length)) else { break };
                if *kind == URL_DATA {
                    out.extend_from_slice(data);
                }
                rest
            }
        };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Seconds as trackers count them: signed, and nothing negative is meant.
fn seconds(number: u32) -> Duration {
    Duration::from_secs(u64::try_from(number.cast_signed()).unwrap_or(0))
}

fn malformed(what: &str) -> AnswerError {
    AnswerError::Malformed(what.to_owned())
}
fn header(action: u32, transaction: u32) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, action);
    put(&mut out, transaction);
    out
}
fn put(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_be_bytes());
}
// The callers have checked the length.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}
fn twenty_at(bytes: &[u8], at: usize) -> [u8; 20] {
    let mut out = [0; 20];
    out.copy_from_slice(&bytes[at..at + 20]);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn announce(event: Event) -> Announce {
        Announce {
            info_hash: [7; 20],
            peer_id: PeerId([8; 20]),
            port: 6881,
            key: 0xdead_beef,
            uploaded: 1,
            downloaded: 2,
            left: u64::MAX,
            wanted: 50,
            event,
        }
    }

    #[test]
    fn requests_read_back_as_they_were_written() {
        assert_eq!(parse_request(&connect_request(9)), Some(Request::Connect { transaction: 9 }));
        let long = format!("/announce?passkey={}", "x".repeat(600));
        for (event, path) in [(Event::Started, ""), (Event::Stopped, "/announce"), (Event::Completed, &long)] {
            let (connection, announce) = (u64::MAX - 1, announce(event));
            let bytes = announce_request(connection, 5, &announce, path);
            let url_data = path.to_owned();
            assert_eq!(
                parse_request(&bytes),
                Some(Request::Announce { connection, transaction: 5, announce, url_data })
            );
        }
        assert_eq!(announce_request(1, 5, &announce(Event::Regular), "/").len(), ANNOUNCE_LENGTH);
    }

    #[test]
    fn the_layout_is_that_of_bep_15() {
        let connect = connect_request(0x0102_0304);
        assert_eq!(connect, [0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0, 1, 2, 3, 4]);
        let bytes = announce_request(0x1122_3344_5566_7788, 3, &announce(Event::Started), "");
        assert_eq!(bytes[..16], [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0, 0, 0, 1, 0, 0, 0, 3]);
        assert_eq!(bytes[56..64], 2u64.to_be_bytes(), "downloaded comes first");
        assert_eq!(bytes[80..84], 2u32.to_be_bytes(), "started is 2");
        assert_eq!(bytes[96..98], 6881u16.to_be_bytes());
    }

    #[test]
    fn replies_of_both_families() {
        for peer in ["1.2.3.4:80", "[2001:db8::1]:6881"] {
            let peer: SocketAddr = peer.parse().unwrap();
            let answer = Answer {
                interval: Some(Duration::from_secs(1800)),
                seeds: Some(3),
                leeches: Some(4),
                peers: vec![(peer, None)],
                ..Answer::default()
            };
            let mut bytes = announce_reply(77, &answer);
            assert_eq!(transaction_of(&bytes), Some(77));
            assert_eq!(parse_reply(&bytes, peer.is_ipv6()), Ok(Reply::Announced(answer.clone())));
            bytes.push(9); // a broken tail is not a peer
            assert_eq!(parse_reply(&bytes, peer.is_ipv6()), Ok(Reply::Announced(answer)));
        }
        assert_eq!(parse_reply(&connect_reply(1, 99), false), Ok(Reply::Connected(99)));
        let refused = Err(AnswerError::Refused { message: "no\\n".to_owned() + "pe", retry: Retry::Usual });
        assert_eq!(parse_reply(&error_reply(1, "no\npe"), false), refused);
    }

    #[test]
    fn scrapes_and_their_numbers() {
        let names = vec![[7; 20], [8; 20]];
        let bytes = scrape_request(1, 5, &names);
        assert_eq!((bytes.len(), &bytes[8..12]), (56, &[0, 0, 0, 2][..]));
        assert_eq!(parse_request(&bytes), Some(Request::Scrape { connection: 1, transaction: 5, names }));
        assert_eq!(scrape_request(1, 5, &[[7; 20]; 100]).len(), 16 + 20 * MOST_SCRAPED);
        let sizes = vec![SwarmSize { seeds: 1, leeches: 3, completed: Some(2) }, SwarmSize::default()];
        let mut reply = scrape_reply(5, &sizes);
        assert_eq!(reply[8..20], [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3], "seeds, completed, leeches");
        reply.push(9);
        let Ok(Reply::Scraped(read)) = parse_reply(&reply, false) else { panic!("no numbers") };
        assert_eq!((read[0], read[1].completed, read.len()), (sizes[0], Some(0), 2), "a broken tail is left out");
        reply.resize(8 + 12 * 200, 0);
        assert!(matches!(parse_reply(&reply, true), Ok(Reply::Scraped(read)) if read.len() == MOST_SCRAPED));
    }

    #[test]
    fn a_bare_head_is_a_refusal() {
        let reply = &announce_reply(1, &Answer::default())[..8];
        assert!(matches!(parse_reply(reply, false), Err(AnswerError::Refused { .. })));
        let cut = &announce_reply(1, &Answer::default())[..12];
        assert!(matches!(parse_reply(cut, false), Err(AnswerError::Malformed(_))));
    }

    #[test]
    fn lies_are_cut() {
        let mut reply = announce_reply(1, &Answer::default());
        reply[8..12].copy_from_slice(&(-5i32).to_be_bytes());
        reply.extend(std::iter::repeat_n([10, 0, 0, 1, 0, 80, 0, 0, 0, 0, 0, 80], 5000).flatten());
        let Ok(Reply::Announced(answer)) = parse_reply(&reply, false) else { panic!("not an answer") };
        assert_eq!(answer.interval, Some(Duration::ZERO));
        assert_eq!(answer.peers.len(), MOST_PEERS);
        assert!(answer.peers.iter().all(|(peer, _)| !peer.ip().is_unspecified()));
    }

    #[test]
    fn patience_doubles_to_a_bound() {
        assert_eq!([0, 1, 8, 9].map(|n| wait(n).as_secs()), [15, 30, 3840, 3840]);
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..4, v6: bool) {
            let mut bytes = bytes;
            if bytes.len() >= 16 {
                bytes[..4].copy_from_slice(&[0, 0, 0, kind]);
                bytes[8..12].copy_from_slice(&[0, 0, 0, kind]);
            }
            let _ = parse_reply(&bytes, v6);
            let _ = parse_request(&bytes);
            let _ = transaction_of(&bytes);
        }
    }
}
