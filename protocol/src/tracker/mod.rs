//! Talking to trackers: what is asked, how an answer reads over HTTP and UDP, and when which tracker is asked.
//!
//! [`Announce`] is one question and [`Answer`] what came back, whatever carried them: [`http`] (BEP 3, 7, 23, 24, 31, 48)
//! or [`udp`] (BEP 15, 41). [`schedule`] decides for one torrent which tracker is due (BEP 12), [`scrapes`] when only
//! numbers are asked for.

pub mod http;
pub mod schedule;
pub mod scrapes;
pub mod udp;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use castanet_core::{
    ids::PeerId,
    seams::discovery::{Me, Progress, SwarmInfo, SwarmSize},
};

/// The most peers believed from one answer; trackers send 50 to 200.
pub const MOST_PEERS: usize = 2000;
/// The most peers asked for at once.
pub const MOST_WANTED: usize = 200;
/// The longest text of a tracker that is shown to the user, in characters.
pub const LONGEST_TEXT: usize = 200;
/// The longest tracker id that is sent back, in bytes.
pub const LONGEST_TRACKER_ID: usize = 256;
/// What is "left" while the metadata is unknown: any number but 0, which would make us a seed.
const LEFT_UNKNOWN: u64 = 16 * 1024;
/// The port told when we do not listen. Trackers refuse port 0; at port 1 a peer is refused at once.
const NO_PORT: u16 = 1;

/// What an announce is about (BEP 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Nothing but still being there.
    Regular,
    /// The first one to this tracker.
    Started,
    /// The download has just been finished.
    Completed,
    /// We leave.
    Stopped,
}

/// One question to a tracker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announce {
    /// The 20 bytes that stand for the torrent.
    pub info_hash: [u8; 20],
    /// Our peer id.
    pub peer_id: PeerId,
    /// Where peers may connect; never 0.
    pub port: u16,
    /// By which the tracker knows us after an address change.
    pub key: u32,
    /// Bytes sent to peers.
    pub uploaded: u64,
    /// Bytes received from peers.
    pub downloaded: u64,
    /// Bytes missing.
    pub left: u64,
    /// How many peers we would like, up to [`MOST_WANTED`].
    pub wanted: u32,
    /// Why we ask.
    pub event: Event,
}

impl Announce {
    /// The questions that follow from the state of the torrent, one for each of its names (a hybrid has two, BEP 52).
    /// Who leaves wants no peers.
    pub fn all(swarm: &SwarmInfo, me: &Me, progress: &Progress, event: Event) -> Vec<Self> {
        let wanted = if event == Event::Stopped { 0 } else { progress.wanted.min(MOST_WANTED) };
        let announce = |info_hash| Self {
            info_hash,
            peer_id: me.peer_id,
            port: if me.port == 0 { NO_PORT } else { me.port },
            key: me.key,
            uploaded: progress.uploaded,
            downloaded: progress.downloaded,
            left: progress.left.unwrap_or(LEFT_UNKNOWN),
            wanted: wanted as u32,
            event,
        };
        swarm.info_hashes.wires().map(announce).collect()
    }
}

/// What a tracker answered. Every field has been checked and capped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// When it wants to hear from us again; not clamped yet, that is the schedule's business.
    pub interval: Option<Duration>,
    /// Before which it does not want to hear from us.
    pub min_interval: Option<Duration>,
    /// Peers with the whole torrent.
    pub seeds: Option<u32>,
    /// Peers without.
    pub leeches: Option<u32>,
    /// Peers that can be dialled, at most [`MOST_PEERS`].
    pub peers: Vec<(SocketAddr, Option<PeerId>)>,
    /// The address by which the tracker sees us (BEP 24).
    pub external: Option<IpAddr>,
    /// A sentence for the user, cut and escaped.
    pub warning: Option<String>,
    /// To be sent back with the next announce, at most [`LONGEST_TRACKER_ID`] bytes.
    pub tracker_id: Option<Vec<u8>>,
}

impl Answer {
    /// The numbers in it, if there are any.
    pub fn size(&self) -> Option<SwarmSize> {
        let (seeds, leeches) = (self.seeds.unwrap_or(0), self.leeches.unwrap_or(0));
        (self.seeds.is_some() || self.leeches.is_some()).then_some(SwarmSize { seeds, leeches, completed: None })
    }
}

/// The numbers of a swarm that is counted twice, over both address families or by both names of a hybrid: most peers are
/// in both, so the larger ones are nearer to the truth than the sum.
pub fn larger(one: SwarmSize, other: SwarmSize) -> SwarmSize {
    SwarmSize {
        seeds: one.seeds.max(other.seeds),
        leeches: one.leeches.max(other.leeches),
        completed: one.completed.max(other.completed),
    }
}

/// When a tracker that refused may be asked again (BEP 31).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Retry {
    /// It did not say: our own back-off.
    #[default]
    Usual,
    /// Not before so long.
    After(Duration),
    /// Never again.
    Never,
}

/// Why an answer is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// The tracker refused, in its own words (cut and escaped).
    #[error("{message}")]
    Refused {
        /// Its words.
        message: String,
        /// When to come back.
        retry: Retry,
    },
    /// It is not what a tracker sends.
    #[error("{0}")]
    Malformed(String),
}

/// A stranger's text made fit for a terminal: control characters escaped, cut to [`LONGEST_TEXT`] characters.
pub fn plain(bytes: &[u8]) -> String {
    // Four bytes a character at most, so a megabyte is not decoded for the sake of 200 characters.
    let head = &bytes[..bytes.len().min(4 * LONGEST_TEXT + 4)];
    let text = String::from_utf8_lossy(head);
    let mut out = String::new();
    for (n, c) in text.trim().chars().enumerate() {
        if n == LONGEST_TEXT {
            out.push('…');
            break;
        }
        // Bidirectional overrides can make a line read differently from what it says.
        let hidden = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || hidden {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_text_is_cut_and_escaped() {
        assert_eq!(plain(b" gone\x1b[2J\r\n fishing "), "gone\\u{1b}[2J\\r\\n fishing");
        assert_eq!(plain("\u{202e}evil".as_bytes()), "\\u{202e}evil");
        assert_eq!(plain(&vec![b'a'; 10_000_000]).chars().count(), LONGEST_TEXT + 1);
        assert_eq!(plain(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }
}
