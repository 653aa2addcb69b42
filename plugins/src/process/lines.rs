//! The lines that the engine and a program exchange: JSON, one message a line (docs/PLUGIN-PROTOCOL.md).
//!
//! What the engine says is [`Told`]. What a program says is believed only as [`Said`]: parsed, bounded, with addresses
//! that can be dialled and text that is fit for a terminal.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use castanet_core::{
    Moment, PeerId,
    addr::{canonical, is_dialable},
    seams::discovery::{DiscoveryError, Found, Me, PeerCandidate, PeerFate, PeerOutcome, Progress, SwarmInfo},
};
use castanet_protocol::tracker::plain;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Serialize};

/// The version of the protocol.
pub(crate) const VERSION: u32 = 1;
/// Bytes of a line, in both directions.
pub(crate) const LONGEST_LINE: usize = 64 * 1024;
/// Peers of one message; the rest is passed over.
const MOST_PEERS: usize = 1000;
/// Trackers of one message; the rest is passed over.
const MOST_TRACKERS: usize = 100;
/// Bytes of a tracker's URL.
const LONGEST_URL: usize = 2048;
/// The longest time for which a program can say that it is idle or sleeps.
const LONGEST_IDLE: f64 = 7.0 * 86400.0;
/// Bytes of trackers, and of peers, that a program is told of: with quotes escaped they fit into a line.
const MOST_LISTED: usize = 12 * 1024;

/// What the engine tells a program.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Told<'a> {
    /// The first line.
    Hello { version: u32, engine: &'a str, seed: u64, now: f64 },
    /// Find peers for this torrent.
    Watch(Watch),
    /// The torrent's numbers.
    Progress { torrent: u64, wanted: usize, left: Option<u64>, uploaded: u64, downloaded: u64, now: f64 },
    /// The torrent has more trackers.
    Trackers { torrent: u64, trackers: &'a [String] },
    /// The download is complete.
    Completed { torrent: u64 },
    /// What became of peers: of those that the program found, or of all.
    Outcomes { torrent: u64, peers: Vec<Outcome> },
    /// Our address or port is another one.
    NetworkChanged { torrent: u64 },
    /// The torrent is gone.
    Unwatch { torrent: u64 },
    /// Say all there is to say at this time, then that this was it: time stands meanwhile (in lockstep only).
    Sync { id: u64, now: f64 },
    /// End within so many seconds. The last line.
    Stop { within: f64 },
}

impl Told<'_> {
    /// The message as a line.
    pub(crate) fn line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("text, numbers and lists always have a JSON form");
        line.push('\n');
        line
    }
}

/// All that a program is told of a torrent.
#[derive(Debug, Serialize)]
pub(crate) struct Watch {
    torrent: u64,
    info_hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    info_hash_v2: Option<String>,
    private: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    trackers: Vec<Vec<String>>,
    peers: Vec<String>,
    port: u16,
    peer_id: String,
    wanted: usize,
    left: Option<u64>,
}

impl Watch {
    /// The torrent `id`, with the trackers it got later in a tier at the end.
    pub(crate) fn new(id: u64, info: &SwarmInfo, later: &[String], me: &Me, progress: &Progress) -> Self {
        let mut room = MOST_LISTED;
        let tiers = info.trackers.iter().map(Vec::as_slice).chain([later]);
        let trackers = tiers.map(|tier| fitting(tier, &mut room)).filter(|tier| !tier.is_empty()).collect();
        let name = info.link.as_ref().and_then(|link| link.name.as_ref());
        Self {
            torrent: id,
            info_hash: HEXLOWER.encode(&info.info_hashes.wire()),
            info_hash_v2: info.info_hashes.v2.map(|hash| hash.to_hex()),
            private: info.private,
            name: name.map(|name| plain(name.as_bytes())),
            trackers,
            peers: fitting(&info.peers, &mut MOST_LISTED.clone()),
            port: me.port,
            peer_id: HEXLOWER.encode(&me.peer_id.0),
            wanted: progress.wanted,
            left: progress.left,
        }
    }
}

/// The texts that fit into `room`, which shrinks, and have no control characters, as no tracker or peer has.
fn fitting(texts: &[String], room: &mut usize) -> Vec<String> {
    let fits = |text: &&String| {
        // Quotes and commas count, or a million empty texts would fit.
        let size = text.len() + 3;
        let fits = size <= *room && !text.chars().any(char::is_control);
        *room -= if fits { size } else { 0 };
        fits
    };
    texts.iter().filter(fits).cloned().collect()
}

/// What became of a peer.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    address: SocketAddr,
    fate: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

impl Outcome {
    /// `None` for a fate that version 1 has no word for.
    pub(crate) fn new(outcome: &PeerOutcome) -> Option<Self> {
        let (fate, bytes) = match outcome.fate {
            PeerFate::Refused => ("refused", None),
            PeerFate::Connected => ("connected", None),
            PeerFate::Handshaken => ("handshaken", None),
            PeerFate::Gave(bytes) => ("gave", Some(bytes)),
            PeerFate::Banned => ("banned", None),
            _ => return None,
        };
        Some(Self { address: outcome.addr, fate, bytes })
    }
}

/// What a program said, checked.
#[derive(Debug, PartialEq)]
pub(crate) enum Said {
    /// It is there, speaks this version, and wants to hear what became of every peer, or of its own alone.
    Hello { version: u32, overhears: bool },
    /// This is for the stream of one torrent, or of all of them.
    Finds(Option<u64>, Vec<Find>),
    /// It has said all there is to say at the time of this `sync`, and wants to be woken by another after so long.
    Synced(u64, Option<Duration>),
    /// It has nothing to say any more, ever.
    Bye,
    /// Something of a later version.
    Unknown,
}

/// A find, or a sentence about what is wrong.
pub(crate) type Find = Result<Found, Complaint>;

/// An error that is not yet worth a [`DiscoveryError`], which needs the plugin's name.
#[derive(Debug, PartialEq)]
pub(crate) enum Complaint {
    /// The program's own words.
    Said(String),
    /// What is wrong with what it said.
    Wrong(String),
}

impl Complaint {
    /// With the plugin's name, for the user.
    pub(crate) fn of(self, plugin: &Arc<str>) -> DiscoveryError {
        let instance = plugin.clone();
        match self {
            Self::Said(message) => DiscoveryError::Refused { instance, message },
            Self::Wrong(what) => DiscoveryError::Malformed { instance, what },
        }
    }
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Raw {
    Hello {
        version: u32,
        #[serde(default)]
        overhears: bool,
    },
    Peers {
        torrent: u64,
        peers: Vec<RawPeer>,
    },
    Trackers {
        torrent: u64,
        trackers: Vec<String>,
    },
    Notice {
        torrent: Option<u64>,
        text: String,
    },
    Condition {
        text: String,
    },
    Error {
        torrent: Option<u64>,
        text: String,
    },
    Idle {
        torrent: u64,
        retry_in: Option<f64>,
    },
    Synced {
        id: u64,
        wake_in: Option<f64>,
    },
    Bye,
    #[serde(other)]
    Unknown,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawPeer {
    Short(String),
    Long { address: String, peer_id: Option<String>, instance: Option<String> },
}

/// Believes a line, or says what is wrong with it. Peers without an instance get `plugin`.
pub(crate) fn read(line: &[u8], plugin: &Arc<str>, now: Moment) -> Result<Said, String> {
    let raw: Raw = serde_json::from_slice(line).map_err(|error| format!("{error} in the line {}", plain(line)))?;
    Ok(match raw {
        Raw::Hello { version, overhears } => Said::Hello { version, overhears },
        Raw::Bye => Said::Bye,
        Raw::Unknown => Said::Unknown,
        Raw::Peers { torrent, peers } => Said::Finds(Some(torrent), found(peers, plugin)),
        Raw::Trackers { torrent, mut trackers } => {
            trackers.retain(|url| url.len() <= LONGEST_URL && !url.chars().any(char::is_control));
            trackers.truncate(MOST_TRACKERS);
            Said::Finds(Some(torrent), vec![Ok(Found::Trackers(trackers))])
        }
        Raw::Notice { torrent, text } => Said::Finds(torrent, vec![Ok(Found::Notice(plain(text.as_bytes())))]),
        Raw::Condition { text } => Said::Finds(None, vec![Ok(Found::Condition(plain(text.as_bytes())))]),
        Raw::Error { torrent, text } => Said::Finds(torrent, vec![Err(Complaint::Said(plain(text.as_bytes())))]),
        Raw::Idle { torrent, retry_in } => {
            let retry_at = retry_in.and_then(pause).map(|pause| now + pause);
            Said::Finds(Some(torrent), vec![Ok(Found::Idle { retry_at })])
        }
        Raw::Synced { id, wake_in } => Said::Synced(id, wake_in.and_then(pause)),
    })
}

/// So many seconds, within reason.
fn pause(seconds: f64) -> Option<Duration> {
    (!seconds.is_nan()).then(|| Duration::from_secs_f64(seconds.clamp(0.0, LONGEST_IDLE)))
}

/// The peers that can be dialled, and a word about the first that cannot.
fn found(peers: Vec<RawPeer>, plugin: &Arc<str>) -> Vec<Find> {
    let (mut good, mut bad) = (Vec::new(), None);
    // Many peers of a message share an instance; they share its text, too.
    let mut last: (String, Arc<str>) = (String::new(), plugin.clone());
    for peer in peers.into_iter().take(MOST_PEERS) {
        let (address, peer_id, instance) = match peer {
            RawPeer::Short(address) => (address, None, None),
            RawPeer::Long { address, peer_id, instance } => (address, peer_id, instance),
        };
        let Some(addr) = address.trim().parse().ok().map(canonical).filter(|addr| is_dialable(*addr)) else {
            bad.get_or_insert(address);
            continue;
        };
        let instance = match instance {
            None => plugin.clone(),
            Some(text) => {
                if text != last.0 || text.is_empty() {
                    last = (text.clone(), plain(text.as_bytes()).into());
                }
                last.1.clone()
            }
        };
        let peer_id = peer_id.and_then(|hex| HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok()?.try_into().ok());
        good.push(PeerCandidate { addr, peer_id: peer_id.map(PeerId), instance });
    }
    let good = (!good.is_empty()).then_some(Ok(Found::Peers(good)));
    let bad = bad.map(|address| {
        let address = plain(address.as_bytes());
        Err(Complaint::Wrong(format!("`{address}` is no address to dial; it should look like 192.0.2.1:6881")))
    });
    good.into_iter().chain(bad).collect()
}

#[cfg(test)]
mod tests {
    use castanet_core::{InfoHashV1, InfoHashes};
    use proptest::prelude::*;

    use super::*;

    fn said(line: &str) -> Said {
        read(line.as_bytes(), &"friends".into(), Moment::from_secs(10)).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn peers_in_both_forms() {
        let said = said(
            r#"{"type":"peers","torrent":3,"peers":["1.2.3.4:5",{"address":"[::ffff:1.2.3.4]:6","instance":"Bob\n",
               "peer_id":"2D436E303130302D6162636465666768696A6B6C"},{"address":"[2001:db8::1]:7","peer_id":"short"}]}"#,
        );
        let Said::Finds(Some(3), finds) = said else { panic!("{said:?}") };
        let [Ok(Found::Peers(peers))] = &finds[..] else { panic!("{finds:?}") };
        let shown: Vec<_> =
            peers.iter().map(|peer| format!("{} {} {:?}", peer.addr, peer.instance, peer.peer_id)).collect();
        let expected = [
            "1.2.3.4:5 friends None",
            "1.2.3.4:6 Bob Some(PeerId(-Cn0100-abcdefghijkl))",
            "[2001:db8::1]:7 friends None",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn undialable_peers_are_named_and_the_others_kept() {
        for bad in ["localhost:5", "0.0.0.0:1", "1.2.3.4:0", "224.0.0.1:9", "1.2.3.4", "", "\\u001b[2J"] {
            let said = said(&format!(r#"{{"type":"peers","torrent":0,"peers":["{bad}","127.0.0.1:1","{bad}"]}}"#));
            let Said::Finds(Some(0), finds) = said else { panic!("{said:?}") };
            let [Ok(Found::Peers(peers)), Err(Complaint::Wrong(text))] = &finds[..] else { panic!("{finds:?}") };
            assert_eq!(peers.len(), 1);
            assert!(text.contains("is no address") && !text.contains('\u{1b}'), "{text}");
        }
    }

    #[test]
    fn lists_are_cut() {
        let peers: Vec<_> = (0..3000).map(|n| format!("\"10.0.0.1:{}\"", n + 1)).collect();
        let Said::Finds(_, finds) = said(&format!(r#"{{"type":"peers","torrent":0,"peers":[{}]}}"#, peers.join(",")))
        else {
            panic!("no finds")
        };
        assert!(matches!(&finds[..], [Ok(Found::Peers(peers))] if peers.len() == MOST_PEERS));
        let trackers = vec!["\"udp://t\"".to_owned(); 3000].join(",");
        let Said::Finds(_, finds) = said(&format!(r#"{{"type":"trackers","torrent":0,"trackers":[{trackers}]}}"#))
        else {
            panic!("no finds")
        };
        assert!(matches!(&finds[..], [Ok(Found::Trackers(urls))] if urls.len() == MOST_TRACKERS));
    }

    #[test]
    fn the_other_messages() {
        let one = |find| Said::Finds(None, vec![find]);
        let idle = |retry_at| Said::Finds(Some(1), vec![Ok(Found::Idle { retry_at })]);
        let cases = [
            (r#"{"type":"hello","version":1,"name":"friends"}"#, Said::Hello { version: 1, overhears: false }),
            (r#"{"type":"hello","version":1,"overhears":true}"#, Said::Hello { version: 1, overhears: true }),
            (r#"{"type":"notice","text":"a\tb"}"#, one(Ok(Found::Notice("a\\tb".into())))),
            (r#"{"type":"condition","text":"5 friends"}"#, one(Ok(Found::Condition("5 friends".into())))),
            (r#"{"type":"error","text":"no file"}"#, one(Err(Complaint::Said("no file".into())))),
            (r#"{"type":"idle","torrent":1}"#, idle(None)),
            (r#"{"type":"idle","torrent":1,"retry_in":5}"#, idle(Some(Moment::from_secs(15)))),
            (r#"{"type":"idle","torrent":1,"retry_in":-5}"#, idle(Some(Moment::from_secs(10)))),
            (r#"{"type":"idle","torrent":1,"retry_in":1e300}"#, idle(Some(Moment::from_secs(10 + 7 * 86400)))),
            (r#"{"type":"synced","id":3}"#, Said::Synced(3, None)),
            (r#"{"type":"synced","id":3,"wake_in":0.5}"#, Said::Synced(3, Some(Duration::from_millis(500)))),
            (r#"{"type":"synced","id":3,"wake_in":-1e300}"#, Said::Synced(3, Some(Duration::ZERO))),
            (r#"{"type":"bye"}"#, Said::Bye),
            (r#"{"type":"of tomorrow","torrent":"?"}"#, Said::Unknown),
        ];
        for (line, expected) in cases {
            assert_eq!(said(line), expected, "{line}");
        }
        for bad in ["", "{}", "hello", r#"{"type":"peers"}"#, r#"{"type":"peers","torrent":-1,"peers":[]}"#, "\u{0}"] {
            assert!(read(bad.as_bytes(), &"friends".into(), Moment::ZERO).is_err(), "{bad}");
        }
        assert!(read(&b"[".repeat(LONGEST_LINE), &"friends".into(), Moment::ZERO).is_err(), "deep nesting");
    }

    #[test]
    fn a_watch_fits_into_a_line_whatever_the_torrent_says() {
        let long = |text: &str| vec![text.repeat(100); 5000];
        let mut info = SwarmInfo::new(InfoHashes::v1(InfoHashV1([0xab; 20])));
        info.trackers = vec![long("\""), vec!["udp://t\u{7}".into(), "udp://good".into()]].into();
        info.peers = long("\\").into();
        let me = Me { peer_id: PeerId([b'p'; 20]), port: 6881, key: 1 };
        let watch = Watch::new(7, &info, &["udp://later".into()], &me, &Progress::default());
        assert_eq!(watch.trackers.last().map(Vec::as_slice), Some(&["udp://later".to_owned()][..]));
        assert_eq!(watch.trackers[1], ["udp://good"]);
        let line = Told::Watch(watch).line();
        assert!(line.len() <= LONGEST_LINE, "{}", line.len());
        assert!(line.starts_with(r#"{"type":"watch","torrent":7,"info_hash":"abab"#), "{line}");
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&line, &"friends".into(), Moment::ZERO);
        }
        #[test]
        fn no_fields_make_it_panic(
            kind in "hello|peers|trackers|notice|condition|error|idle|synced|bye|x",
            field in "torrent|peers|text|retry_in|version|overhears|trackers|id|wake_in",
            value in r#"-?[0-9]{1,30}|"[a-z0-9:.\[\]é]{0,30}"|null|\[[0-9,]{0,9}\]|\{\}|1e999"#,
        ) {
            let _ = read(format!(r#"{{"type":"{kind}","torrent":1,"{field}":{value}}}"#).as_bytes(), &"f".into(), Moment::NEVER);
        }
    }
}
