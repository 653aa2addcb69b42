//! "Why is it slow?": from facts to reasons, the weightiest first, each with its evidence.
//!
//! `pace` says when it is asked, `standing` keeps what is known of the discovery plugins.

mod pace;
mod standing;

use std::{cmp::Reverse, collections::BTreeMap, fmt, sync::Arc};

use castanet_core::PluginName;

pub use self::{
    pace::{CRAWL_RATE, Pace, QUIET, SETTLING, SOON, Slowness},
    standing::{MOST_INSTANCES, Standings},
};

/// With fewer connections than this the way to peers is of interest: who refused us, and how the plugins fare.
const FEW: usize = 5;
/// Characters of a plugin's or a tracker's own words that are quoted.
const LONGEST_QUOTE: usize = 160;

/// What is known of a torrent that stalls or crawls. What is not known is left at 0, `false` or `None`.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Why nothing can be reached at all, if that is so.
    pub away: Option<Arc<str>>,
    /// It waits for its metadata, not for pieces.
    pub is_metadata: bool,
    /// Peers known.
    pub known: usize,
    /// Dials under way.
    pub half_open: usize,
    /// Known peers that refused our connection last time.
    pub refused: usize,
    /// Known peers that did not answer last time.
    pub timed_out: usize,
    /// Known peers to which there is no way.
    pub unreachable: usize,
    /// Known peers whose handshake failed.
    pub not_this_torrent: usize,
    /// Addresses banned.
    pub banned: usize,
    /// Open connections.
    pub connected: usize,
    /// Of these, how many have no piece that is missing here.
    pub without_use: usize,
    /// Of these, how many have some and choke us.
    pub choking: usize,
    /// Of these, how many have stopped sending though asked.
    pub snubbed: usize,
    /// Of these, how many cannot give metadata.
    pub without_metadata: usize,
    /// Wanted pieces that no connected peer has.
    pub missing_everywhere: u32,
    /// What arrives, bytes per second.
    pub rate: u64,
    /// Our own limit, bytes per second.
    pub rate_limit: Option<u64>,
    /// Connections wait for that limit.
    pub is_held: bool,
    /// Peers wait for what they sent to be written.
    pub is_disk_busy: bool,
    /// The discovery plugins that serve the torrent.
    pub sources: Vec<SourceFacts>,
}

/// How a discovery plugin fares.
#[derive(Debug, Clone)]
pub struct SourceFacts {
    /// Which.
    pub plugin: PluginName,
    /// Instances (trackers, say) that have answered.
    pub answered: usize,
    /// Instances that failed last time, and why.
    pub failing: Vec<(Arc<str>, String)>,
    /// Its own words, such as `has no nodes`.
    pub condition: Option<String>,
}

/// Kinds of reasons, by stable names for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ReasonKind {
    /// The interface that is never left is gone.
    Away,
    /// Our own rate limit is reached.
    RateLimit,
    /// What arrives is not written fast enough.
    Disk,
    /// No discovery plugin serves the torrent.
    NoSources,
    /// No peer is known.
    NoPeers,
    /// Peers are known and none is connected.
    NotConnected,
    /// Those connected choke us.
    Choked,
    /// Those connected do not send what was asked.
    Snubbed,
    /// Those connected have nothing that is missing.
    NothingNew,
    /// Those connected have not told what the torrent is, or cannot.
    NoMetadata,
    /// Those connected are slow.
    LittleToGive,
    /// Nobody connected has some of the pieces.
    MissingPieces,
    /// Peers were banned.
    Banned,
    /// Trackers fail, or name nobody.
    Trackers,
    /// How another plugin fares.
    Source,
}

impl ReasonKind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::RateLimit => "rate_limit",
            Self::Disk => "disk",
            Self::NoSources => "no_sources",
            Self::NoPeers => "no_peers",
            Self::NotConnected => "not_connected",
            Self::Choked => "choked",
            Self::Snubbed => "snubbed",
            Self::NothingNew => "nothing_new",
            Self::NoMetadata => "no_metadata",
            Self::LittleToGive => "little_to_give",
            Self::MissingPieces => "missing_pieces",
            Self::Banned => "banned",
            Self::Trackers => "trackers",
            Self::Source => "source",
        }
    }
}

/// One reason with its evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// Of which kind.
    pub kind: ReasonKind,
    /// In words, without a full stop.
    pub text: String,
}

/// All reasons, the weightiest first; it displays as one sentence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// The reasons; at least one.
    pub reasons: Vec<Reason>,
}

impl Diagnosis {
    /// The kinds of its reasons, in their order.
    pub fn kinds(&self) -> Vec<ReasonKind> {
        self.reasons.iter().map(|reason| reason.kind).collect()
    }
    /// The names of its reasons, in their order.
    pub fn names(&self) -> Vec<&'static str> {
        self.reasons.iter().map(|reason| reason.kind.name()).collect()
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, reason) in self.reasons.iter().enumerate() {
            write!(f, "{}{}", if at == 0 { "" } else { "; " }, reason.text)?;
        }
        Ok(())
    }
}

/// Weighs the facts: first what is in our own hands, then the peers, then where they come from.
pub fn diagnose(facts: &Facts) -> Diagnosis {
    if let Some(away) = &facts.away {
        // Whatever else may be said comes of it.
        return Diagnosis { reasons: vec![Reason { kind: ReasonKind::Away, text: away.to_string() }] };
    }
    let mut reasons = Vec::new();
    let mut because = |kind, text: String| reasons.push(Reason { kind, text });
    let is_reached = |limit: &u64| facts.is_held || facts.rate.saturating_mul(10) >= limit.saturating_mul(8);
    if let Some(limit) = facts.rate_limit.filter(is_reached) {
        because(ReasonKind::RateLimit, format!("the download limit of {} is reached", rate(limit)));
    }
    if facts.is_disk_busy {
        because(ReasonKind::Disk, "the disk is slower than what arrives".into());
    }
    let (kind, text) = of_peers(facts);
    because(kind, text);
    if facts.missing_everywhere > 0 && facts.connected > 0 {
        let n = facts.missing_everywhere as usize;
        because(ReasonKind::MissingPieces, format!("nobody connected has {} of the pieces", some(n)));
    }
    if facts.connected < FEW {
        if facts.banned > 0 {
            let is = if facts.banned == 1 { "address is" } else { "addresses are" };
            because(ReasonKind::Banned, format!("{} {is} banned", facts.banned));
        }
        if facts.sources.is_empty() {
            because(ReasonKind::NoSources, "no discovery plugin serves this torrent".into());
        }
        let (trackers, others): (Vec<_>, Vec<_>) = facts.sources.iter().partition(|source| is_tracker(source));
        of_trackers(&trackers, facts).into_iter().for_each(|text| because(ReasonKind::Trackers, text));
        let texts = others.into_iter().filter_map(|source| of_source(source, facts));
        texts.for_each(|text| because(ReasonKind::Source, text));
    }
    Diagnosis { reasons }
}

/// How peers fare: how many, and what is said of one, of many, and of all.
type Fate = (usize, [&'static str; 3]);

/// Why the peers known give so little.
fn of_peers(facts: &Facts) -> (ReasonKind, String) {
    if facts.known == 0 && facts.connected == 0 {
        return (ReasonKind::NoPeers, "no peers have been found yet".into());
    }
    let connected = fates_of_the_connected(facts);
    let kind = connected.iter().max_by_key(|(_, (n, _))| *n).map_or(ReasonKind::NotConnected, |(kind, _)| *kind);
    let mut fates: Vec<Fate> = connected.into_iter().map(|(_, fate)| fate).collect();
    let lost = if facts.connected < FEW { fates_of_the_lost(facts) } else { Vec::new() };
    let (total, what) = match (facts.connected, lost.is_empty()) {
        (1.., true) => (facts.connected, "connected"),
        _ => (facts.known.max(facts.connected), "known"),
    };
    fates.extend(lost);
    fates.sort_by_key(|(n, _)| Reverse(*n));
    let head = format!("{} {what}", counted(total, "peer"));
    let text = match fates.as_slice() {
        [] if total == 1 => format!("{head}, but not connected"),
        [] => format!("{head}, none of them connected"),
        [(1, [one, ..])] if total == 1 => format!("{head}: it {one}"),
        [(2, [.., all])] if total == 2 => {
            format!("{head}: {}", all.replacen("all", "both", 1).replacen("none", "neither", 1))
        }
        [(n, [.., all])] if *n == total => format!("{head}: {all}"),
        fates => {
            let each = fates.iter().map(|(n, [one, many, _])| format!("{n} {}", if *n == 1 { one } else { many }));
            format!("{head}: {}", each.collect::<Vec<_>>().join(", "))
        }
    };
    (kind, text)
}

/// What became of the known peers that are not connected.
fn fates_of_the_lost(facts: &Facts) -> Vec<Fate> {
    let no_way = "cannot be reached from here";
    let stranger = "hung up or have another torrent";
    let mut fates = vec![
        (facts.refused, ["refused", "refused", "all refused"]),
        (facts.timed_out, ["did not answer", "did not answer", "none answered"]),
        (facts.unreachable, [no_way, no_way, "none can be reached from here"]),
        (facts.not_this_torrent, ["hung up or has another torrent", stranger, "all hung up or have another torrent"]),
    ];
    // Those dialled again have a fate already.
    if fates.iter().map(|(n, _)| n).sum::<usize>() + facts.connected + facts.half_open <= facts.known {
        fates.push((facts.half_open, ["is being dialled", "are being dialled", "all are being dialled"]));
    }
    fates.retain(|(n, _)| *n > 0);
    fates
}

/// What those connected do instead of sending; each counts once.
fn fates_of_the_connected(facts: &Facts) -> Vec<(ReasonKind, Fate)> {
    let mut left = facts.connected;
    let mut take = |n: usize| {
        let taken = n.min(left);
        left -= taken;
        taken
    };
    let mut fates = if facts.is_metadata {
        let [cannot, have_not] = [facts.without_metadata, usize::MAX].map(&mut take);
        let ignorant = "cannot tell what the torrent is";
        let (slow, slower) = ("has not told what the torrent is yet", "have not told what the torrent is yet");
        vec![
            (ReasonKind::NoMetadata, (cannot, [ignorant, ignorant, "none can tell what the torrent is"])),
            (ReasonKind::NoMetadata, (have_not, [slow, slower, "none has told what the torrent is yet"])),
        ]
    } else {
        let [without_use, choking, snubbed, rest] =
            [facts.without_use, facts.choking, facts.snubbed, usize::MAX].map(&mut take);
        let (useless, all_useless) = ("have nothing that is missing", "none has a piece that is missing");
        vec![
            (ReasonKind::Choked, (choking, ["chokes us", "choke us", "all choke us"])),
            (
                ReasonKind::Snubbed,
                (snubbed, ["has stopped sending", "have stopped sending", "all have stopped sending"]),
            ),
            (ReasonKind::NothingNew, (without_use, ["has nothing that is missing", useless, all_useless])),
            (ReasonKind::LittleToGive, (rest, ["sends little", "send little", "all send little"])),
        ]
    };
    fates.retain(|(_, (n, _))| *n > 0);
    fates
}

fn of_trackers(trackers: &[&SourceFacts], facts: &Facts) -> Option<String> {
    let mut whys: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, why) in trackers.iter().flat_map(|source| &source.failing) {
        *whys.entry(why).or_default() += 1;
    }
    let failing: usize = whys.values().sum();
    let answered: usize = trackers.iter().map(|source| source.answered).sum();
    // Of several reasons the most frequent stands for all.
    let why = whys.iter().max_by_key(|(_, n)| **n).map(|(why, _)| quote(why)).unwrap_or_default();
    match (answered, failing) {
        (0, 0) => None,
        (n, 0) => (facts.known == 0).then(|| format!("{} answered and named nobody", counted(n, "tracker"))),
        (0, 1) => Some(format!("the tracker fails ({why})")),
        (0, n) => Some(format!("no tracker answered ({why}, {n} tried)")),
        (answered, 1) => Some(format!("1 of {} trackers fails ({why})", answered + 1)),
        (answered, n) => Some(format!("{n} of {} trackers fail ({why})", answered + n)),
    }
}

fn of_source(source: &SourceFacts, facts: &Facts) -> Option<String> {
    let who = called(source);
    match (&source.condition, source.failing.first()) {
        (Some(condition), _) => Some(format!("{who} {}", quote(condition))),
        (None, Some((_, why))) => Some(format!("{who} fails ({})", quote(why))),
        (None, None) => (facts.known == 0).then(|| format!("{who} has found nobody")),
    }
}

fn is_tracker(source: &SourceFacts) -> bool {
    source.plugin.0.ends_with("-tracker")
}

fn called(source: &SourceFacts) -> String {
    match &*source.plugin.0 {
        "dht" => "the DHT".into(),
        name => name.into(),
    }
}

fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn some(n: usize) -> String {
    if n == 1 { "one".into() } else { n.to_string() }
}

/// Someone's own words, cut.
fn quote(words: &str) -> String {
    match words.char_indices().nth(LONGEST_QUOTE) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words.into(),
    }
}

fn rate(bytes: u64) -> String {
    match bytes {
        ..1024 => format!("{bytes} B/s"),
        1024..1_048_576 => format!("{} KiB/s", bytes / 1024),
        _ => format!("{}.{} MiB/s", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20),
    }
}

#[cfg(test)]
mod tests;
