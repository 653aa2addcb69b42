//! What became of one peer: its stations, whom it learned of by what, and what it gave and took.
//!
//! A story goes on when its peer is killed and comes back. It is filled by the peer's events; what the plugins were worth is
//! harvested from its torrent's state when that is about to end.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr, time::Duration};

use castanet::{Happening, PluginReport, TorrentEvent, TorrentState, Worth, seams::discovery::Milestone};
use castanet_core::digest::sha1;

/// Acquaintances of one peer that are remembered; of more, the way they were learned of is not known.
const MOST_KNOWN: usize = 4096;

/// Ends of connections that are told apart.
const MOST_ENDS: usize = 64;

/// How a peer learned of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Learned {
    /// The plugin that named it first, or `incoming`.
    pub(super) plugin: String,
    /// How many peers passed the address on, one after the other.
    pub(super) hops: u8,
    /// When, counted from the scenario's beginning.
    pub(super) at: Duration,
}

/// The first peer with which another shook hands.
#[derive(Debug, Clone)]
pub(super) struct Contact {
    pub(super) peer: usize,
    pub(super) learned: Learned,
    /// When they shook hands, counted from its joining.
    pub(super) after: Duration,
}

/// What became of one peer.
#[derive(Debug, Default)]
pub(super) struct Story {
    /// When it came, counted from the scenario's beginning.
    pub(super) joined: Option<Duration>,
    /// When it went for good.
    pub(super) left: Option<Duration>,
    /// Its stations, counted from its joining.
    pub(super) reached: BTreeMap<Milestone, Duration>,
    pub(super) learned: BTreeMap<usize, Learned>,
    pub(super) contact: Option<Contact>,
    pub(super) plugins: BTreeMap<String, Brought>,
    pub(super) uploaded: u64,
    pub(super) downloaded: u64,
    pub(super) wasted: u64,
    pub(super) events: u64,
    /// A digest of all its events.
    pub(super) digest: [u8; 20],
    pub(super) failure: Option<String>,
    pub(super) connections: u64,
    /// How connections and dials ended, in words.
    pub(super) ends: BTreeMap<String, u64>,
}

/// What a plugin brought to one peer and spent for it, in all its lives.
#[derive(Debug, Clone, Default)]
pub(super) struct Brought {
    pub(super) found: u64,
    pub(super) alone: u64,
    pub(super) shared: BTreeMap<String, u64>,
    pub(super) connected: u64,
    pub(super) handshaken: u64,
    pub(super) useful: u64,
    pub(super) refused: u64,
    pub(super) banned: u64,
    pub(super) bytes: u64,
    pub(super) packets: u64,
    pub(super) spent: u64,
    /// When it named the first peer, counted from the torrent's start.
    pub(super) first: Option<Duration>,
}

impl Story {
    /// Something happened, `at` after the scenario's beginning. `who` knows peers by their address, and `hops` how many peers
    /// another's knowledge of a third had come through.
    pub(super) fn heard(
        &mut self,
        event: &TorrentEvent,
        at: Duration,
        who: impl Fn(IpAddr) -> Option<usize>,
        hops: impl Fn(usize, usize) -> u8,
    ) {
        let since = at.saturating_sub(self.joined.unwrap_or(at));
        self.events += 1;
        self.digest(&event.what, at);
        match &event.what {
            Happening::Reached(station) => {
                self.reached.entry(*station).or_insert(since);
            }
            Happening::PeerFound { addr, plugin, instance } => {
                let Some(peer) = who(addr.ip()) else { return };
                let teller = instance.parse::<std::net::SocketAddr>().ok().and_then(|teller| who(teller.ip()));
                // A plugin's instance that is the peer itself has passed nothing on.
                let hops =
                    teller.filter(|teller| *teller != peer).map_or(0, |teller| hops(teller, peer).saturating_add(1));
                self.learn(peer, Learned { plugin: plugin.to_string(), hops, at });
            }
            Happening::PeerLost { reason, .. } => self.count_end(reason),
            Happening::PeerConnected { addr, .. } => {
                self.connections += 1;
                let Some(peer) = who(addr.ip()) else { return };
                self.learn(peer, Learned { plugin: "incoming".into(), hops: 0, at });
                if self.contact.is_none()
                    && let Some(learned) = self.learned.get(&peer).cloned()
                {
                    self.contact = Some(Contact { peer, learned, after: since });
                }
            }
            Happening::Failed(reason) => self.failure = Some(reason.clone()),
            _ => {}
        }
    }

    fn count_end(&mut self, reason: &str) {
        if self.ends.len() < MOST_ENDS || self.ends.contains_key(reason) {
            *self.ends.entry(reason.to_owned()).or_default() += 1;
        }
    }

    fn learn(&mut self, peer: usize, how: Learned) {
        if self.learned.len() < MOST_KNOWN {
            self.learned.entry(peer).or_insert(how);
        }
    }

    fn digest(&mut self, what: &Happening, at: Duration) {
        let mut line = format!("{} ", at.as_nanos());
        let _ = match what {
            // What the torrent is is the same for all, and long.
            Happening::Metadata(_) => line.write_str("metadata"),
            what => write!(line, "{what:?}"),
        };
        self.digest = sha1(&[&self.digest[..], line.as_bytes()].concat()).0;
    }

    /// The peer's torrent is about to end: what it came to is added up.
    pub(super) fn harvest(&mut self, state: &TorrentState) {
        self.uploaded += state.uploaded;
        self.downloaded += state.downloaded;
        self.wasted += state.wasted;
        for PluginReport { worth, cost, first_after, .. } in state.plugins.iter() {
            let brought = self.plugins.entry(worth.plugin.to_string()).or_default();
            brought.add(worth);
            brought.packets += cost.sent_packets + cost.received_packets;
            brought.packets += cost.sent_messages + cost.received_messages;
            brought.spent += cost.sent_bytes + cost.received_bytes;
            brought.first = brought.first.or(*first_after);
        }
    }
}

impl Brought {
    fn add(&mut self, worth: &Worth) {
        self.found += worth.found;
        self.alone += worth.alone;
        for (other, count) in &worth.shared {
            *self.shared.entry(other.to_string()).or_default() += count;
        }
        self.connected += worth.connected;
        self.handshaken += worth.handshaken;
        self.useful += worth.useful;
        self.refused += worth.refused;
        self.banned += worth.banned;
        self.bytes += worth.bytes;
    }
}
