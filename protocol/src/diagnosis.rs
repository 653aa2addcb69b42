//! "Why is it slow?": from facts to reasons, the weightiest first, each with its evidence.

use std::{fmt, sync::Arc};

use castanet_core::PluginName;

/// What is known of a torrent that stalls or crawls.
#[derive(Debug, Clone, Default)]
pub struct Facts {
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
    /// Addresses banned for bad data.
    pub banned: usize,
    /// Open connections.
    pub connected: usize,
    /// Of these, how many choke us.
    pub choking: usize,
    /// Of these, how many have stopped sending though asked.
    pub snubbed: usize,
    /// Of these, how many cannot give metadata.
    pub without_metadata: usize,
    /// What arrives, bytes per second.
    pub rate: u64,
    /// Our own limit, bytes per second.
    pub rate_limit: Option<u64>,
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
    /// Our own rate limit is reached.
    RateLimit,
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
    /// Those connected cannot give metadata.
    NoMetadata,
    /// Those connected have nothing that is missing, or are slow.
    LittleToGive,
    /// Trackers fail.
    Trackers,
    /// Another plugin's condition.
    Source,
}

impl ReasonKind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::RateLimit => "rate_limit",
            Self::NoSources => "no_sources",
            Self::NoPeers => "no_peers",
            Self::NotConnected => "not_connected",
            Self::Choked => "choked",
            Self::Snubbed => "snubbed",
            Self::NoMetadata => "no_metadata",
            Self::LittleToGive => "little_to_give",
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

/// Weighs the facts.
pub fn diagnose(facts: &Facts) -> Diagnosis {
    let mut reasons = Vec::new();
    let mut because = |kind, text: String| reasons.push(Reason { kind, text });
    if let Some(limit) = facts.rate_limit.filter(|limit| facts.rate * 10 >= limit * 8) {
        because(ReasonKind::RateLimit, format!("the download limit of {} is reached", rate(limit)));
    }
    match (facts.known, facts.connected) {
        (0, 0) => because(ReasonKind::NoPeers, "no peers have been found yet".into()),
        (_, 0) => because(ReasonKind::NotConnected, not_connected(facts)),
        _ => because_of_the_connected(facts, &mut because),
    }
    let is_short_of_peers = facts.connected < 5;
    if facts.sources.is_empty() && is_short_of_peers {
        because(ReasonKind::NoSources, "no discovery plugin serves this torrent".into());
    }
    if is_short_of_peers {
        because_of_trackers(facts, &mut because);
        for source in facts.sources.iter().filter(|source| !is_tracker(source)) {
            match (&source.condition, source.failing.first()) {
                (Some(condition), _) => because(ReasonKind::Source, format!("{} {condition}", called(source))),
                (None, Some((_, why))) => because(ReasonKind::Source, format!("{} fails ({why})", called(source))),
                (None, None) => {}
            }
        }
    }
    Diagnosis { reasons }
}

fn not_connected(facts: &Facts) -> String {
    let fates = [
        (facts.refused, "refused"),
        (facts.timed_out, "did not answer"),
        (facts.unreachable, "cannot be reached from here"),
        (facts.not_this_torrent, "hung up or have another torrent"),
        (facts.half_open, "being dialled"),
    ];
    let evidence = listed(&fates);
    match evidence.is_empty() {
        true => format!("none of the {} known is connected", peers(facts.known)),
        false => format!("{} known: {evidence}", peers(facts.known)),
    }
}

fn because_of_the_connected(facts: &Facts, because: &mut impl FnMut(ReasonKind, String)) {
    let n = facts.connected;
    let connected = format!("{} connected", peers(n));
    if facts.is_metadata && facts.without_metadata == n {
        return because(ReasonKind::NoMetadata, format!("{connected}, but none can tell what the torrent is"));
    }
    if facts.is_metadata {
        return because(ReasonKind::NoMetadata, format!("{connected}, and no good metadata have come from them yet"));
    }
    match (facts.choking, facts.snubbed) {
        (choking, _) if choking == n => {
            because(ReasonKind::Choked, format!("{connected}: {}", all(n, "choke us", "chokes us")))
        }
        (0, 0) => because(ReasonKind::LittleToGive, format!("{connected}, but they have little to give")),
        (choking, snubbed) => {
            let fates = [(choking, "choke us"), (snubbed, "have stopped sending")];
            let kind = if choking >= snubbed { ReasonKind::Choked } else { ReasonKind::Snubbed };
            because(kind, format!("{connected}: {}", listed(&fates)));
        }
    }
}

fn because_of_trackers(facts: &Facts, because: &mut impl FnMut(ReasonKind, String)) {
    let trackers = || facts.sources.iter().filter(|source| is_tracker(source));
    let failing: Vec<_> = trackers().flat_map(|source| &source.failing).collect();
    let answered: usize = trackers().map(|source| source.answered).sum();
    let Some((_, why)) = failing.first() else { return };
    let text = match (answered, failing.len()) {
        (0, 1) => format!("the tracker fails ({why})"),
        (0, n) => format!("no tracker answered ({n} tried: {why})"),
        (answered, n) => format!("{n} of {} trackers fail ({why})", answered + n),
    };
    because(ReasonKind::Trackers, text);
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

fn peers(n: usize) -> String {
    if n == 1 { "1 peer".into() } else { format!("{n} peers") }
}

fn all(n: usize, many: &str, one: &str) -> String {
    match n {
        1 => format!("it {one}"),
        2 => format!("both {many}"),
        _ => format!("all {many}"),
    }
}

fn listed(fates: &[(usize, &str)]) -> String {
    let mut fates: Vec<_> = fates.iter().filter(|(n, _)| *n > 0).collect();
    fates.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
    fates.iter().map(|(n, what)| format!("{n} {what}")).collect::<Vec<_>>().join(", ")
}

fn rate(bytes: u64) -> String {
    match bytes {
        ..1024 => format!("{bytes} B/s"),
        ..1_048_576 => format!("{} KiB/s", bytes / 1024),
        _ => format!("{}.{} MiB/s", bytes >> 20, (bytes & 0xf_ffff) * 10 >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(plugin: &str, answered: usize, failing: &[&str], condition: Option<&str>) -> SourceFacts {
        let failing = failing.iter().enumerate().map(|(at, why)| (at.to_string().into(), why.to_string())).collect();
        SourceFacts { plugin: plugin.into(), answered, failing, condition: condition.map(str::to_owned) }
    }

    #[test]
    fn situations_have_their_sentences() {
        let none = Facts::default();
        let dht = || source("dht", 0, &[], Some("has no nodes"));
        let fixed = || source("fixed", 1, &[], None);
        for (facts, sentence) in [
            (none.clone(), "no peers have been found yet; no discovery plugin serves this torrent"),
            (
                Facts {
                    known: 42,
                    refused: 40,
                    timed_out: 2,
                    sources: vec![source("udp-tracker", 0, &["timeout"; 3], None), dht()],
                    ..none.clone()
                },
                "42 peers known: 40 refused, 2 did not answer; no tracker answered (3 tried: timeout); the DHT has no nodes",
            ),
            (
                Facts { known: 9, connected: 2, choking: 2, sources: vec![fixed()], ..none.clone() },
                "2 peers connected: both choke us",
            ),
            (
                Facts { known: 9, connected: 1, choking: 1, sources: vec![fixed()], ..none.clone() },
                "1 peer connected: it chokes us",
            ),
            (
                Facts { known: 9, connected: 8, choking: 5, snubbed: 3, ..none.clone() },
                "8 peers connected: 5 choke us, 3 have stopped sending",
            ),
            (
                Facts {
                    is_metadata: true,
                    known: 1,
                    connected: 1,
                    without_metadata: 1,
                    sources: vec![fixed()],
                    ..none.clone()
                },
                "1 peer connected, but none can tell what the torrent is",
            ),
            (
                Facts { known: 99, connected: 50, rate: 9_900, rate_limit: Some(10_240), ..none.clone() },
                "the download limit of 10 KiB/s is reached; 50 peers connected, but they have little to give",
            ),
            (
                Facts { known: 1, sources: vec![source("http-tracker", 1, &["refused"], None)], ..none.clone() },
                "none of the 1 peer known is connected; 1 of 2 trackers fail (refused)",
            ),
        ] {
            let diagnosis = diagnose(&facts);
            assert_eq!(diagnosis.to_string(), sentence);
            assert_eq!(diagnosis.names().len(), diagnosis.reasons.len());
        }
    }
}
