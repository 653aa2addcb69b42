//! What came of a run. It has nothing of the machine it ran on: the same plan gives the same report, byte for byte.

use std::{collections::BTreeMap, time::Duration};

use castanet::seams::discovery::Milestone;
use castanet_core::digest::sha1;
use serde::Serialize;

use super::{
    run::Cast,
    scenario::Behaviour,
    story::{Brought, Story},
};

/// What came of a run. Times are in seconds, sizes in bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The scenario.
    pub scenario: String,
    /// What it is about.
    pub about: String,
    /// What decided all that was drawn.
    pub seed: u64,
    /// How long it went on.
    pub lasted: f64,
    /// Who took part.
    pub groups: Vec<GroupReport>,
    /// The honest peers that began without the torrent, together: what follows is about them.
    pub seekers: GroupReport,
    /// What each plugin brought them, and spent.
    pub plugins: Vec<PluginWorth>,
    /// When each of these peers was complete, counted from its joining, in order.
    pub completions: Vec<f64>,
    /// How many peers passed an address on until it reached the one that learned of it, by plugin: learned of 0, 1, 2... hops away.
    pub hops: BTreeMap<String, Vec<u64>>,
    /// Who learned of whom by what: group, group, plugin, how often.
    pub learned: Vec<(String, String, String, u64)>,
    /// Every peer.
    pub peers: Vec<PeerReport>,
    /// Handshakes that succeeded, counted at both ends.
    pub connections: u64,
    /// How connections and dials ended, in the engine's words.
    pub ends: BTreeMap<String, u64>,
    /// Events in all.
    pub events: u64,
    /// A digest of all that happened.
    pub digest: String,
}

/// What became of a group.
#[derive(Debug, Clone, Serialize)]
pub struct GroupReport {
    /// What it is called.
    pub name: String,
    /// How many there are.
    pub count: usize,
    /// They had every piece from the start.
    pub seed: bool,
    /// How many came.
    pub joined: usize,
    /// How many have every piece now.
    pub complete: usize,
    /// Time to the first peer known.
    pub first_peer: Spread,
    /// Time to the metadata.
    pub metadata: Spread,
    /// Time to the last piece.
    pub completion: Spread,
    /// Bytes sent to peers.
    pub uploaded: u64,
    /// Bytes received, those wasted among them.
    pub downloaded: u64,
    /// Bytes that were bad or came twice.
    pub wasted: u64,
    /// How evenly they gave for what they took, 0 to 1 (Jain's index of the ratios of bytes sent to bytes received).
    pub fairness: Option<f64>,
}

/// How values are spread: as many as there are, and null where there are none.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Spread {
    /// How many.
    pub count: usize,
    /// The least.
    pub least: Option<f64>,
    /// The middle one.
    pub median: Option<f64>,
    /// Nine of ten are at most so large.
    pub nine_of_ten: Option<f64>,
    /// The greatest.
    pub greatest: Option<f64>,
}

/// What a plugin was worth.
#[derive(Debug, Clone, Serialize)]
pub struct PluginWorth {
    /// Its name, or `incoming` for peers that nobody had named.
    pub plugin: String,
    /// Peers found, added up over all who looked.
    pub found: u64,
    /// Of these, those that no other plugin had found.
    pub alone: u64,
    /// Of those found, how many another plugin had found, too: by plugin.
    pub shared: BTreeMap<String, u64>,
    /// With which there was a connection.
    pub connected: u64,
    /// That were in the swarm.
    pub handshaken: u64,
    /// That gave something.
    pub useful: u64,
    /// That could not be reached.
    pub refused: u64,
    /// That were banned.
    pub banned: u64,
    /// Bytes that they gave.
    pub bytes: u64,
    /// Time to the first peer it named.
    pub first: Spread,
    /// Datagrams, and messages of its extension, that it sent and received.
    pub packets: u64,
    /// Bytes in them, or in its streams.
    pub spent: u64,
    /// Peers for whom it found the first one they shook hands with.
    pub first_contacts: u64,
}

/// What became of a peer.
#[derive(Debug, Clone, Serialize)]
pub struct PeerReport {
    /// Its group and number.
    pub name: String,
    /// When it came.
    pub joined: Option<f64>,
    /// When it went.
    pub left: Option<f64>,
    /// When it knew another peer; this and what follows is counted from its joining.
    pub first_peer: Option<f64>,
    /// When it knew what the torrent is.
    pub metadata: Option<f64>,
    /// When it had every piece.
    pub complete: Option<f64>,
    /// Bytes sent.
    pub uploaded: u64,
    /// Bytes received, those wasted among them.
    pub downloaded: u64,
    /// The first peer with which it shook hands.
    pub contact: Option<ContactReport>,
    /// Why its torrent failed.
    pub failure: Option<String>,
}

/// How a peer came to know the first it shook hands with.
#[derive(Debug, Clone, Serialize)]
pub struct ContactReport {
    /// Its place among the peers.
    pub peer: usize,
    /// By which plugin it learned of it, or `incoming`.
    pub plugin: String,
    /// How many peers had passed its address on.
    pub hops: u8,
    /// When they shook hands.
    pub after: f64,
}

impl Report {
    /// As JSON, on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a report has text for keys")
    }

    /// What tells it from every other: a digest of its JSON.
    pub fn hash(&self) -> String {
        hex(&sha1(self.to_json().as_bytes()).0)
    }
}

/// Bytes in hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// In seconds, to the microsecond.
pub(super) fn seconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e6
}

impl Spread {
    pub(super) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let last = values.len().saturating_sub(1);
        let at = |share: f64| values.get((last as f64 * share).round() as usize).copied();
        Self { count: values.len(), least: at(0.0), median: median(&values), nine_of_ten: at(0.9), greatest: at(1.0) }
    }
}

/// The middle of sorted values, or of the two in the middle.
pub(super) fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// The report on a run that ended so long after its beginning.
pub(super) fn of(cast: &Cast, ended: Duration) -> Report {
    let stories: Vec<_> = cast.peers.iter().map(|peer| peer.story.borrow()).collect();
    let groups = &cast.scenario.groups;
    let seeks = |at: usize| {
        let group = &groups[cast.peers[at].group];
        !group.seed && group.behaviour == Behaviour::Honest
    };
    let seekers: Vec<&Story> = (0..stories.len()).filter(|at| seeks(*at)).map(|at| &*stories[at]).collect();
    let mut completions = times(&seekers, Milestone::Complete);
    completions.sort_by(f64::total_cmp);
    let digests: Vec<u8> = stories.iter().flat_map(|story| story.digest).collect();
    Report {
        scenario: cast.name.clone(),
        about: cast.scenario.about.clone(),
        seed: cast.seed,
        lasted: seconds(ended),
        groups: (0..groups.len())
            .map(|at| {
                group_report(cast, &stories, &groups[at].name.get_ref().clone(), |peer| cast.peers[peer].group == at)
            })
            .collect(),
        seekers: group_report(cast, &stories, "seekers", seeks),
        plugins: plugins(&seekers),
        completions,
        hops: hops(&stories),
        learned: learned(cast, &stories),
        peers: cast.peers.iter().zip(&stories).map(|(peer, story)| peer_report(&peer.name, story)).collect(),
        connections: stories.iter().map(|story| story.connections).sum(),
        ends: add_up(stories.iter().map(|story| &story.ends)),
        events: stories.iter().map(|story| story.events).sum(),
        digest: hex(&sha1(&digests).0),
    }
}

type Stories<'a> = Vec<std::cell::Ref<'a, Story>>;

fn times(stories: &[&Story], station: Milestone) -> Vec<f64> {
    stories.iter().filter_map(|story| story.reached.get(&station)).copied().map(seconds).collect()
}

fn group_report(cast: &Cast, stories: &Stories<'_>, name: &str, is_member: impl Fn(usize) -> bool) -> GroupReport {
    let members: Vec<usize> = (0..cast.peers.len()).filter(|at| is_member(*at)).collect();
    let theirs: Vec<&Story> = members.iter().map(|at| &*stories[*at]).collect();
    let seed = !members.is_empty() && members.iter().all(|at| cast.group_of(&cast.peers[*at]).seed);
    // Who has everything from the start seeks nothing.
    let spread = |station| Spread::of(if seed { Vec::new() } else { times(&theirs, station) });
    let sum = |what: fn(&Story) -> u64| theirs.iter().map(|story| what(story)).sum();
    let takers = theirs.iter().filter(|story| story.downloaded > 0);
    let ratios: Vec<f64> = takers.map(|story| story.uploaded as f64 / story.downloaded as f64).collect();
    GroupReport {
        name: name.to_owned(),
        count: members.len(),
        seed,
        joined: theirs.iter().filter(|story| story.joined.is_some()).count(),
        complete: members.iter().filter(|at| cast.peers[**at].disk.is_full()).count(),
        first_peer: spread(Milestone::FirstPeer),
        metadata: spread(Milestone::Metadata),
        completion: spread(Milestone::Complete),
        uploaded: sum(|story| story.uploaded),
        downloaded: sum(|story| story.downloaded),
        wasted: sum(|story| story.wasted),
        fairness: fairness(&ratios),
    }
}

impl PluginWorth {
    /// Adds what the same plugin brought elsewhere; its times stay.
    pub(super) fn add(&mut self, other: &Self) {
        self.found += other.found;
        self.alone += other.alone;
        self.shared = add_up([&self.shared, &other.shared].into_iter());
        self.connected += other.connected;
        self.handshaken += other.handshaken;
        self.useful += other.useful;
        self.refused += other.refused;
        self.banned += other.banned;
        self.bytes += other.bytes;
        self.packets += other.packets;
        self.spent += other.spent;
        self.first_contacts += other.first_contacts;
    }
}

impl GroupReport {
    /// Of those who came, the share that is complete.
    pub(super) fn complete_share(&self) -> Option<f64> {
        (self.joined > 0).then(|| self.complete as f64 / self.joined as f64)
    }

    /// Of the bytes that came, the share that was bad or came twice.
    pub(super) fn wasted_share(&self) -> Option<f64> {
        (self.downloaded > 0).then(|| self.wasted as f64 / self.downloaded as f64)
    }

    /// Of something that all plugins of a run brought or spent, the share of one of its seekers.
    pub(super) fn each(&self, what: fn(&PluginWorth) -> u64, run: &Report) -> Option<f64> {
        (self.joined > 0).then(|| run.plugins.iter().map(what).sum::<u64>() as f64 / self.joined as f64)
    }
}

/// Jain's index: 1 if all are equal, 1/n if one has everything.
fn fairness(values: &[f64]) -> Option<f64> {
    let (sum, squares) = values.iter().fold((0.0, 0.0), |(sum, squares), value| (sum + value, squares + value * value));
    (squares > 0.0).then(|| sum * sum / (values.len() as f64 * squares))
}

fn plugins(seekers: &[&Story]) -> Vec<PluginWorth> {
    let mut names: Vec<&String> = seekers.iter().flat_map(|story| story.plugins.keys()).collect();
    names.sort();
    names.dedup();
    let worth = |name: &String| {
        let brought: Vec<&Brought> = seekers.iter().filter_map(|story| story.plugins.get(name)).collect();
        let sum = |what: fn(&Brought) -> u64| brought.iter().map(|brought| what(brought)).sum();
        let contacts = seekers.iter().filter_map(|story| story.contact.as_ref());
        PluginWorth {
            plugin: name.clone(),
            found: sum(|brought| brought.found),
            alone: sum(|brought| brought.alone),
            shared: add_up(brought.iter().map(|brought| &brought.shared)),
            connected: sum(|brought| brought.connected),
            handshaken: sum(|brought| brought.handshaken),
            useful: sum(|brought| brought.useful),
            refused: sum(|brought| brought.refused),
            banned: sum(|brought| brought.banned),
            bytes: sum(|brought| brought.bytes),
            first: Spread::of(brought.iter().filter_map(|brought| brought.first).map(seconds).collect()),
            packets: sum(|brought| brought.packets),
            spent: sum(|brought| brought.spent),
            first_contacts: contacts.filter(|contact| contact.learned.plugin == *name).count() as u64,
        }
    };
    names
        .into_iter()
        .map(worth)
        .filter(|worth| worth.found + worth.connected + worth.packets + worth.spent + worth.first_contacts > 0)
        .collect()
}

fn hops(stories: &Stories<'_>) -> BTreeMap<String, Vec<u64>> {
    let mut all: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for learned in stories.iter().flat_map(|story| story.learned.values()) {
        let counts = all.entry(learned.plugin.clone()).or_default();
        let hops = usize::from(learned.hops);
        counts.resize(counts.len().max(hops + 1), 0);
        counts[hops] += 1;
    }
    all
}

/// Counts of the same things, added up.
fn add_up<'a>(counts: impl Iterator<Item = &'a BTreeMap<String, u64>>) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (what, count) in counts.flatten() {
        *all.entry(what.clone()).or_default() += count;
    }
    all
}

fn learned(cast: &Cast, stories: &Stories<'_>) -> Vec<(String, String, String, u64)> {
    let name = |group: usize| cast.scenario.groups[group].name.get_ref().clone();
    let mut counts: BTreeMap<(usize, usize, &str), u64> = BTreeMap::new();
    for (peer, story) in cast.peers.iter().zip(stories) {
        for (about, how) in &story.learned {
            *counts.entry((peer.group, cast.peers[*about].group, &how.plugin)).or_default() += 1;
        }
    }
    counts.into_iter().map(|((who, whom, by), count)| (name(who), name(whom), by.to_owned(), count)).collect()
}

fn peer_report(name: &str, story: &Story) -> PeerReport {
    let at = |station| story.reached.get(&station).copied().map(seconds);
    PeerReport {
        name: name.to_owned(),
        joined: story.joined.map(seconds),
        left: story.left.map(seconds),
        first_peer: at(Milestone::FirstPeer),
        metadata: at(Milestone::Metadata),
        complete: at(Milestone::Complete),
        uploaded: story.uploaded,
        downloaded: story.downloaded,
        contact: story.contact.as_ref().map(|contact| ContactReport {
            peer: contact.peer,
            plugin: contact.learned.plugin.clone(),
            hops: contact.learned.hops,
            after: seconds(contact.after),
        }),
        failure: story.failure.clone(),
    }
}
