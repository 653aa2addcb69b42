//! The info dictionary from peers (BEP 9): fetched from several at once, verified, and given to others.
//!
//! Peers may claim different sizes; what they send is kept apart by the size they claim, and nothing is allocated for a
//! claim but what was sent. If the whole does not match the info-hash and several peers gave parts of it, it is fetched
//! again from one peer at a time: who then proves bad is named, and an honest one wins. Whoever holds others up, by
//! silence or by a trickle, has a limited time for it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use castanet_core::{
    InfoHashes, Moment, PeerKey,
    bencode::{self, Limits},
    digest::{sha1, sha256},
};

use crate::extension::LARGEST_METADATA;

/// Bytes of a piece of the metadata; the last may be shorter.
pub const METADATA_PIECE: usize = 16 * 1024;
/// Sizes that are fetched side by side; whoever claims another one waits. No more than so many times
/// [`LARGEST_METADATA`] is held, all of which must have been sent.
pub const MOST_CLAIMS: usize = 2;
/// Pieces that one peer is asked for at once.
const MOST_ASKED: usize = 4;
/// After so long without an answer another peer is asked, too.
const PATIENCE: Duration = Duration::from_secs(3);
/// After so long a question counts as lost.
const LOST: Duration = Duration::from_secs(20);
/// A peer that refused is left alone for so long.
const REST: Duration = Duration::from_secs(30);
/// A claim, or a single peer on trial, that brought nothing for so long gives way to the next.
const STALE: Duration = Duration::from_secs(15);
/// How long a claim may keep others waiting though it makes progress. It doubles whenever it is not enough, so that slow
/// but honest peers get through in the end.
const FIRST_LEASE: Duration = Duration::from_secs(60);
const LONGEST_LEASE: Duration = Duration::from_secs(1800);
/// How long a single peer may be on trial; the same holds.
const FIRST_TRIAL: Duration = Duration::from_secs(20);
/// Pieces that may come unasked, for instance after their question was given up.
const MOST_UNASKED: u32 = 16;
/// Bytes of the longest message: a piece and a dictionary before it.
const LONGEST: usize = 2 * METADATA_PIECE;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetadataOutput {
    /// Tell a peer this by `ut_metadata`.
    Say {
        /// Whom.
        peer: PeerKey,
        /// The payload.
        payload: Vec<u8>,
    },
    /// The info dictionary, verified. Nothing comes after it.
    Done(Bytes),
    /// These peers sent metadata that do not match the info-hash.
    Bad {
        /// Whom not to trust.
        peers: Vec<PeerKey>,
    },
}

/// Why a peer's message is not acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// It cannot be read.
    #[error("the peer sent a metadata message that cannot be read")]
    Malformed,
    /// It has another size than the peer claimed, or a piece of the wrong length.
    #[error("the peer sent metadata that do not have the size it claimed")]
    WrongSize,
    /// Too much came that nobody had asked for.
    #[error("the peer sends metadata that were not asked for")]
    Unasked,
}

#[derive(Debug)]
struct Source {
    size: u32,
    asked: Vec<(u32, Moment)>,
    rests_until: Moment,
    unasked: u32,
}

/// What those who claim the same size have sent.
#[derive(Debug)]
struct Claim {
    size: u32,
    pieces: BTreeMap<u32, (Bytes, PeerKey)>,
    /// The only one who is asked, after a mixture proved bad.
    on_trial: Option<PeerKey>,
    /// A mixture proved bad: the next trial may take so long.
    next_trial: Option<Duration>,
    trial_ends: Moment,
    /// When the last piece came.
    progress: Moment,
    /// When it gives way to those who wait.
    ends: Moment,
}

impl Claim {
    fn count(&self) -> u32 {
        self.size.div_ceil(METADATA_PIECE as u32)
    }

    /// Has nothing come for long?
    fn is_stale(&self, now: Moment) -> bool {
        now.since(self.progress) >= STALE
    }
}

/// Fetches the metadata of one torrent.
#[derive(Debug)]
pub struct Metadata {
    hashes: InfoHashes,
    random: fastrand::Rng,
    sources: BTreeMap<PeerKey, Source>,
    claims: Vec<Claim>,
    lease: Duration,
    outputs: VecDeque<MetadataOutput>,
    is_done: bool,
}

impl Metadata {
    /// Nobody is known yet.
    pub fn new(hashes: InfoHashes, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        let (sources, outputs) = (BTreeMap::new(), Default::default());
        Self { hashes, random, sources, claims: Vec::new(), lease: FIRST_LEASE, outputs, is_done: false }
    }

    /// A peer speaks `ut_metadata` and says how large the metadata are; without a size it has none to give.
    pub fn peer_ready(&mut self, peer: PeerKey, size: Option<u32>, now: Moment) {
        let Some(size) = size.filter(|size| (1..=LARGEST_METADATA).contains(size)) else { return };
        let known = self.sources.entry(peer);
        known.or_insert(Source { size, asked: Vec::new(), rests_until: Moment::ZERO, unasked: 0 });
        self.plan(now);
    }

    /// A peer is gone.
    pub fn peer_gone(&mut self, peer: PeerKey) {
        self.sources.remove(&peer);
        for claim in self.claims.iter_mut().filter(|claim| claim.on_trial == Some(peer)) {
            claim.on_trial = None;
            claim.pieces.clear();
        }
    }

    /// A `ut_metadata` message came.
    ///
    /// # Errors
    /// If it breaks the rules: the connection is to be closed.
    pub fn received(&mut self, peer: PeerKey, payload: &[u8], now: Moment) -> Result<(), MetadataError> {
        let message = Message::read(payload).ok_or(MetadataError::Malformed)?;
        match message {
            // We have nothing to give yet.
            Message::Request { piece } => self.say(peer, refusal(piece)),
            Message::Reject { piece } => {
                if let Some(source) = self.sources.get_mut(&peer) {
                    source.asked.retain(|(asked, _)| *asked != piece);
                    source.rests_until = now + REST;
                }
            }
            Message::Data { piece, total, data } => self.keep(peer, piece, total, data, now)?,
            Message::Other => {}
        }
        self.plan(now);
        Ok(())
    }

    fn keep(
        &mut self,
        peer: PeerKey,
        piece: u32,
        total: Option<u32>,
        data: &[u8],
        now: Moment,
    ) -> Result<(), MetadataError> {
        let Some(source) = self.sources.get_mut(&peer).filter(|_| !self.is_done) else { return Ok(()) };
        let begin = u64::from(piece) * METADATA_PIECE as u64;
        let expected = u64::from(source.size).saturating_sub(begin).min(METADATA_PIECE as u64);
        if total.is_some_and(|total| total != source.size) || expected == 0 || data.len() as u64 != expected {
            return Err(MetadataError::WrongSize);
        }
        let asked = source.asked.len();
        source.asked.retain(|(known, _)| *known != piece);
        if source.asked.len() == asked {
            source.unasked += 1;
            return if source.unasked > MOST_UNASKED { Err(MetadataError::Unasked) } else { Ok(()) };
        }
        let size = source.size;
        let Some(claim) = self.claims.iter_mut().find(|claim| claim.size == size) else { return Ok(()) };
        if claim.on_trial.is_none_or(|trial| trial == peer) && !claim.pieces.contains_key(&piece) {
            // A copy: a slice would keep the read buffer alive.
            claim.pieces.insert(piece, (Bytes::copy_from_slice(data), peer));
            claim.progress = now;
        }
        if claim.pieces.len() as u32 == claim.count() {
            self.judge(size);
        }
        Ok(())
    }

    /// All pieces of a claim are here: are they what was looked for?
    fn judge(&mut self, size: u32) {
        let Some(claim) = self.claims.iter_mut().find(|claim| claim.size == size) else { return };
        let mut whole = Vec::with_capacity(claim.size as usize);
        claim.pieces.values().for_each(|(data, _)| whole.extend_from_slice(data));
        let is_v1 = self.hashes.v1.is_none_or(|hash| sha1(&whole).0 == hash.0);
        let is_v2 = self.hashes.v2.is_none_or(|hash| sha256(&whole) == hash.0);
        if is_v1 && is_v2 {
            self.is_done = true;
            self.claims.clear();
            return self.outputs.push_back(MetadataOutput::Done(whole.into()));
        }
        let mut givers: Vec<PeerKey> = claim.pieces.values().map(|(_, peer)| *peer).collect();
        givers.sort();
        givers.dedup();
        claim.pieces.clear();
        claim.on_trial = None;
        claim.next_trial.get_or_insert(FIRST_TRIAL);
        if let [liar] = givers[..] {
            self.sources.remove(&liar);
            self.outputs.push_back(MetadataOutput::Bad { peers: vec![liar] });
        }
    }

    /// Looks after questions without an answer; to be called a few times a second.
    pub fn timeout(&mut self, now: Moment) {
        for source in self.sources.values_mut() {
            source.asked.retain(|(_, when)| now.since(*when) < LOST);
        }
        for claim in &mut self.claims {
            if (claim.is_stale(now) || now >= claim.trial_ends)
                && let Some(trial) = claim.on_trial.take()
            {
                // It had its chance; the others come first now.
                claim.pieces.clear();
                claim.progress = now;
                if let Some(source) = self.sources.get_mut(&trial) {
                    source.rests_until = now + REST;
                }
            }
        }
        let sources = &self.sources;
        let others_wait = sources.values().any(|source| !self.claims.iter().any(|claim| claim.size == source.size));
        let mut was_too_short = false;
        self.claims.retain(|claim| {
            let is_backed = sources.values().any(|source| source.size == claim.size);
            let is_over = others_wait && now >= claim.ends;
            was_too_short |= is_backed && is_over;
            is_backed && !is_over && !(others_wait && claim.is_stale(now))
        });
        if was_too_short {
            self.lease = (self.lease * 2).min(LONGEST_LEASE);
        }
        self.plan(now);
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<MetadataOutput> {
        self.outputs.pop_front()
    }

    fn say(&mut self, peer: PeerKey, payload: Vec<u8>) {
        self.outputs.push_back(MetadataOutput::Say { peer, payload });
    }

    /// Asks whoever can be asked for what is missing.
    fn plan(&mut self, now: Moment) {
        if self.is_done {
            return;
        }
        self.admit_claims(now);
        for at in 0..self.claims.len() {
            self.put_on_trial(at, now);
            self.ask(at, 0, MOST_ASKED, now);
            // At the end those who have nothing to do ask for what another is about to send.
            self.ask(at, 1, 1, now);
        }
    }

    /// Asks for what at most `others` are about to send, but nobody for more than `most` pieces at once.
    fn ask(&mut self, at: usize, others: usize, most: usize, now: Moment) {
        let Claim { size, on_trial, .. } = self.claims[at];
        let can = |(peer, source): &(&PeerKey, &Source)| {
            source.size == size
                && on_trial.is_none_or(|trial| trial == **peer)
                && source.rests_until <= now
                && source.asked.len() < most
        };
        let about_to = |source: &&Source, piece: u32| {
            source.asked.iter().any(|(asked, when)| *asked == piece && now.since(*when) < PATIENCE)
        };
        for piece in 0..self.claims[at].count() {
            if !self.sources.iter().any(|source| can(&source)) {
                return;
            }
            let sources = self.sources.values().filter(|source| source.size == size);
            let is_here = self.claims[at].pieces.contains_key(&piece);
            if is_here || sources.filter(|source| about_to(source, piece)).count() > others {
                continue;
            }
            let mut able: Vec<_> = self.sources.iter_mut().filter(|(peer, source)| can(&(peer, source))).collect();
            able.retain(|(_, source)| source.asked.iter().all(|(asked, _)| *asked != piece));
            if let Some((peer, source)) = able.into_iter().min_by_key(|(_, source)| source.asked.len()) {
                source.asked.push((piece, now));
                let (peer, payload) = (*peer, request(piece));
                self.outputs.push_back(MetadataOutput::Say { peer, payload });
            }
        }
    }

    /// Lets another size be fetched: the more claim it, the likelier, and everyone's turn comes.
    fn admit_claims(&mut self, now: Moment) {
        while self.claims.len() < MOST_CLAIMS {
            let is_admitted = |size: &u32| self.claims.iter().any(|claim| claim.size == *size);
            let waiting: Vec<u32> =
                self.sources.values().map(|source| source.size).filter(|size| !is_admitted(size)).collect();
            if waiting.is_empty() {
                return;
            }
            self.claims.push(Claim {
                size: waiting[self.random.usize(..waiting.len())],
                pieces: BTreeMap::new(),
                on_trial: None,
                next_trial: None,
                trial_ends: Moment::NEVER,
                progress: now,
                ends: now + self.lease,
            });
        }
    }

    /// After a mixture proved bad one peer at a time is asked.
    fn put_on_trial(&mut self, at: usize, now: Moment) {
        let claim = &mut self.claims[at];
        let (Some(lasts), None) = (claim.next_trial, claim.on_trial) else { return };
        let can = |(_, source): &(&PeerKey, &Source)| source.size == claim.size && source.rests_until <= now;
        let able: Vec<PeerKey> = self.sources.iter().filter(can).map(|(peer, _)| *peer).collect();
        if !able.is_empty() {
            claim.on_trial = Some(able[self.random.usize(..able.len())]);
            claim.next_trial = Some((lasts * 2).min(LONGEST_LEASE));
            claim.trial_ends = now + lasts;
            claim.progress = now;
        }
    }

    /// Checks the stated bounds.
    pub fn check_invariants(&self) {
        assert!(self.claims.len() <= MOST_CLAIMS);
        for claim in &self.claims {
            assert!(claim.pieces.len() as u32 <= claim.count());
        }
        assert!(self.sources.values().all(|source| source.asked.len() <= MOST_ASKED));
    }
}

/// A `ut_metadata` message.
enum Message<'a> {
    Request { piece: u32 },
    Data { piece: u32, total: Option<u32>, data: &'a [u8] },
    Reject { piece: u32 },
    Other,
}

impl<'a> Message<'a> {
    fn read(payload: &'a [u8]) -> Option<Self> {
        let limits = Limits { size: LONGEST, ..Limits::MESSAGE };
        let (scanned, data) = bencode::scan_prefix(payload, limits).ok()?;
        let dict = scanned.root.as_dict()?;
        let piece = dict.int("piece").and_then(|piece| piece.try_into().ok());
        let total = dict.int("total_size").and_then(|total| total.try_into().ok());
        Some(match dict.int("msg_type")? {
            0 => Self::Request { piece: piece? },
            1 => Self::Data { piece: piece?, total, data },
            2 => Self::Reject { piece: piece? },
            _ => Self::Other,
        })
    }
}

fn request(piece: u32) -> Vec<u8> {
    format!("d8:msg_typei0e5:piecei{piece}ee").into_bytes()
}

fn refusal(piece: u32) -> Vec<u8> {
    format!("d8:msg_typei2e5:piecei{piece}ee").into_bytes()
}

/// How much metadata a peer was given lately.
#[derive(Debug, Clone, Copy, Default)]
pub struct Given {
    since: Moment,
    bytes: usize,
}

/// How long the bound of [`answer`] lasts.
const MINUTE: Duration = Duration::from_secs(60);

/// The answer to a peer's message, if it is a question. Within a minute a peer is given the metadata four times at most:
/// it may have lost some, and must not drain us.
pub fn answer(info: &Bytes, payload: &[u8], given: &mut Given, now: Moment) -> Option<Vec<u8>> {
    let Message::Request { piece } = Message::read(payload)? else { return None };
    let begin = (piece as usize).checked_mul(METADATA_PIECE).filter(|begin| *begin < info.len());
    let Some(begin) = begin else { return Some(refusal(piece)) };
    if now.since(given.since) >= MINUTE {
        *given = Given { since: now, bytes: 0 };
    }
    if given.bytes >= 4 * info.len() {
        return Some(refusal(piece));
    }
    let data = &info[begin..info.len().min(begin + METADATA_PIECE)];
    given.bytes += data.len();
    let mut message = format!("d8:msg_typei1e5:piecei{piece}e10:total_sizei{}ee", info.len()).into_bytes();
    message.extend_from_slice(data);
    Some(message)
}

#[cfg(test)]
mod tests;
