//! What is remembered, and the page that it is written on.

use std::{cmp::Reverse, fmt::Write as _, net::SocketAddr};

use castanet::{
    is_dialable,
    seams::discovery::{PeerFate, PeerOutcome},
};

/// The most torrents that are remembered, and the most peers of each. All of them fit on a page.
pub const MOST_TORRENTS: usize = 100;
/// See [`MOST_TORRENTS`].
pub const MOST_PEERS: usize = 50;
/// Whoever refused so often, and never shook hands in between, is forgotten.
const ENOUGH: u32 = 3;
/// Between these lines of a page there is one for each torrent: its info-hash, and `ADDRESS,GAVE,REFUSALS` of each peer.
const FIRST: &str = "memory 1\n";
const LAST: &str = "end\n";

/// Torrents by info-hash, those with the latest news last. Of each the peers who gave, the best first.
#[derive(Debug, Default)]
pub(crate) struct Book(Vec<(String, Vec<Known>)>);

/// A peer that gave something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) addr: SocketAddr,
    /// The most that it gave over one connection.
    gave: u64,
    /// How often it has refused since it last shook hands.
    refusals: u32,
}

impl Book {
    /// Whom it remembers of a torrent.
    pub(crate) fn peers(&self, torrent: &str) -> &[Known] {
        self.0.iter().find(|(hash, _)| hash == torrent).map_or(&[], |(_, peers)| peers)
    }

    /// Takes in what became of a peer. True if that changes what is remembered.
    pub(crate) fn learn(&mut self, torrent: &str, PeerOutcome { addr, fate }: &PeerOutcome) -> bool {
        let before = self.peers(torrent);
        let mut peers = before.to_vec();
        match (fate, peers.iter_mut().find(|known| known.addr == *addr)) {
            (PeerFate::Gave(bytes), Some(known)) => known.gave = known.gave.max(*bytes),
            (PeerFate::Gave(bytes), None) => peers.push(Known { addr: *addr, gave: *bytes, refusals: 0 }),
            (PeerFate::Handshaken, Some(known)) => known.refusals = 0,
            (PeerFate::Refused, Some(known)) => known.refusals = known.refusals.saturating_add(1),
            (PeerFate::Banned, Some(known)) => known.refusals = ENOUGH,
            _ => return false,
        }
        peers.retain(|known| known.refusals < ENOUGH && is_dialable(known.addr));
        peers.sort_by_key(|known| (known.refusals, Reverse(known.gave)));
        peers.truncate(MOST_PEERS);
        if peers == before {
            return false;
        }
        self.0.retain(|(hash, _)| hash != torrent);
        self.0.push((torrent.to_owned(), peers));
        self.0.retain(|(_, peers)| !peers.is_empty());
        let too_many = self.0.len().saturating_sub(MOST_TORRENTS);
        self.0.drain(..too_many);
        true
    }

    /// The page.
    pub(crate) fn write(&self) -> String {
        let mut page = FIRST.to_owned();
        for (hash, peers) in &self.0 {
            page += hash;
            for Known { addr, gave, refusals } in peers {
                let _ = write!(page, " {addr},{gave},{refusals}");
            }
            page.push('\n');
        }
        page + LAST
    }

    /// What a page says; `None` if it is not as [`Self::write`] writes one.
    pub(crate) fn read(page: &[u8]) -> Option<Self> {
        let lines = std::str::from_utf8(page).ok()?.strip_prefix(FIRST)?.strip_suffix(LAST)?.lines();
        let book = Self(lines.map(torrent).collect::<Option<_>>()?);
        let is_bounded = book.0.len() <= MOST_TORRENTS && book.0.iter().all(|(_, peers)| peers.len() <= MOST_PEERS);
        is_bounded.then_some(book)
    }
}

fn torrent(line: &str) -> Option<(String, Vec<Known>)> {
    let mut words = line.split(' ');
    let hash = words.next().filter(|hash| hash.len() == 40 && hash.chars().all(|c| c.is_ascii_hexdigit()))?;
    Some((hash.to_owned(), words.map(known).collect::<Option<_>>()?))
}

fn known(word: &str) -> Option<Known> {
    let [addr, gave, refusals] = word.split(',').collect::<Vec<_>>().try_into().ok()?;
    let addr = addr.parse().ok().filter(|addr| is_dialable(*addr))?;
    let refusals = refusals.parse().ok().filter(|refusals| *refusals < ENOUGH)?;
    Some(Known { addr, gave: gave.parse().ok()?, refusals })
}
