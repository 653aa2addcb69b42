//! What a scenario file says: who takes part, in what network, and what goes wrong when.
//!
//! docs/LAB.md describes every field for those who write such files. [`Scenario::read`] checks all that can be wrong
//! before anything runs.

mod change;
mod check;
mod read;
mod values;

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

pub use self::{
    change::Change,
    read::ScenarioError,
    values::{Bytes, Text, Time, When},
};

/// The most peers and DHT nodes in all: what fits into the memory of a large machine.
pub const MOST_HOSTS: usize = 30_000;
/// What stands among plugins and is none: peers are reached by way of others (BEP 55).
pub(super) const HOLEPUNCH: &str = "holepunch";
/// The largest torrent, since a run holds it in memory once.
pub const LARGEST: u64 = 1 << 30;

/// A whole swarm, from its beginning to its end.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scenario {
    /// What it is about, in a sentence.
    pub about: String,
    /// When it ends, at the latest; with [`Scenario::whole`], just then.
    #[serde(rename = "for")]
    pub lasts: Spanned<Time>,
    /// Goes on although everyone is complete.
    #[serde(default)]
    pub whole: bool,
    /// The discovery plugins of every peer whose group does not say otherwise.
    pub plugins: Vec<Spanned<String>>,
    /// Settings of plugins: by plugin, by key. `{peers:GROUP}` in them stands for the addresses of a group's peers.
    #[serde(default)]
    pub settings: BTreeMap<String, BTreeMap<String, Spanned<Text>>>,
    /// What is exchanged.
    #[serde(default)]
    pub torrent: Torrent,
    /// Between the peers.
    #[serde(default)]
    pub network: Network,
    /// Nodes of the DHT besides the peers.
    #[serde(default)]
    pub dht: Dht,
    /// Trackers that the torrent names.
    #[serde(default, rename = "tracker")]
    pub trackers: Vec<Tracker>,
    /// Plugins that are other programs.
    #[serde(default, rename = "program")]
    pub programs: Vec<Program>,
    /// Peers that have things in common.
    #[serde(rename = "peers")]
    pub groups: Vec<Group>,
    /// What goes wrong, and when.
    #[serde(default, rename = "fault")]
    pub faults: Vec<Fault>,
}

/// What is exchanged: one file of drawn bytes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Torrent {
    /// How many pieces.
    pub pieces: Spanned<u32>,
    /// How long a piece is.
    pub piece: Spanned<Bytes>,
    /// Who has no piece begins with a magnet link alone, not with the torrent file.
    pub magnet: bool,
    /// The private flag (BEP 27).
    pub private: bool,
}

impl Scenario {
    /// The discovery plugins of a group's peers. Whom they know they know whatever the scenario tries.
    pub(in crate::lab) fn plugins_of<'a>(&'a self, group: &'a Group) -> Vec<&'a str> {
        let named = group.plugins.as_ref().unwrap_or(&self.plugins).iter().map(|name| name.get_ref().as_str());
        named.chain((!group.knows.is_empty()).then_some("fixed")).collect()
    }
}

impl Default for Torrent {
    fn default() -> Self {
        let (pieces, piece) = (Spanned::new(0..0, 64), Spanned::new(0..0, Bytes(16 << 10)));
        Self { pieces, piece, magnet: true, private: false }
    }
}

/// What lies between any two peers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Network {
    /// From one to the other.
    pub latency: Time,
    /// How much later it may be.
    pub jitter: Time,
    /// Share of datagrams that are lost, 0 to 1.
    pub loss: Spanned<f64>,
    /// Bytes a second between any two; absent for no limit but those of the peers.
    pub bandwidth: Option<Spanned<Bytes>>,
    /// Ways to peers.
    pub transports: Spanned<Vec<Way>>,
}

impl Default for Network {
    fn default() -> Self {
        let latency = Time(std::time::Duration::from_millis(30));
        let (loss, transports) = (Spanned::new(0..0, 0.0), Spanned::new(0..0, vec![Way::Tcp, Way::Utp]));
        Self { latency, jitter: Time::default(), loss, bandwidth: None, transports }
    }
}

/// A way to peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// A stream that loses nothing.
    Tcp,
    /// uTP (BEP 29) over datagrams.
    Utp,
}

/// Nodes of the DHT that are no peers, and those who lie in it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Dht {
    /// How many. The peers with the plugin `dht` are nodes besides.
    pub nodes: Spanned<usize>,
    /// How many of them are well known: everybody begins with these.
    pub bootstrap: usize,
    /// How long they have to find each other before the scenario begins.
    pub warm_up: Time,
    /// Nodes with ids next to the torrent's that name each other and peers that are not there.
    pub sybils: Spanned<usize>,
    /// How many of the sybils are well known, too.
    pub known_sybils: Spanned<usize>,
}

impl Default for Dht {
    fn default() -> Self {
        let warm_up = Time(std::time::Duration::from_secs(60));
        let none = || Spanned::new(0..0, 0);
        Self { nodes: none(), bootstrap: 3, warm_up, sybils: none(), known_sybils: none() }
    }
}

/// A tracker.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tracker {
    /// What it is called here; its host is `NAME.lab`.
    pub name: Spanned<String>,
    /// What it speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// Its tier (BEP 12), from 0 on.
    #[serde(default)]
    pub tier: u8,
    /// After which time peers announce again.
    #[serde(default = "five_minutes")]
    pub interval: Time,
    /// The most peers it gives at a time.
    #[serde(default = "fifty")]
    pub gives: usize,
    /// How it behaves.
    #[serde(default)]
    pub behaviour: TrackerBehaviour,
}

fn five_minutes() -> Time {
    Time(std::time::Duration::from_secs(300))
}

fn fifty() -> usize {
    50
}

/// What a tracker speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// BEP 3.
    #[default]
    Http,
    /// BEP 15.
    Udp,
}

/// How a tracker behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrackerBehaviour {
    /// As it should.
    #[default]
    Honest,
    /// Its host does not answer.
    Dead,
    /// Names fifty peers that are not there, and nobody else.
    Liar,
    /// Refuses every announce.
    Refuses,
    /// Takes ten seconds for every answer.
    Slow,
}

/// A plugin that is another program (docs/PLUGIN-PROTOCOL.md). While it thinks, the scenario's time stands.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Program {
    /// The plugin's name.
    pub name: Spanned<String>,
    /// The program and its arguments, as words without a shell; run in the scenario file's folder. `{peers:GROUP}` stands for
    /// the addresses of a group's peers.
    pub command: Spanned<String>,
}

/// Peers that have things in common.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Group {
    /// What they are called.
    pub name: Spanned<String>,
    /// How many.
    #[serde(default = "one")]
    pub count: Spanned<usize>,
    /// They have every piece.
    #[serde(default)]
    pub seed: bool,
    /// Their discovery plugins, if not [`Scenario::plugins`].
    pub plugins: Option<Vec<Spanned<String>>>,
    /// Groups whose peers they were told of (the plugin `fixed`).
    #[serde(default)]
    pub knows: Vec<Spanned<String>>,
    /// Bytes a second that one of them can send; absent for no limit.
    pub up: Option<Spanned<Bytes>>,
    /// Bytes a second that one of them can receive; absent for no limit.
    pub down: Option<Spanned<Bytes>>,
    /// What stands between them and the others.
    #[serde(default)]
    pub nat: NatKind,
    /// The local network in which they are; absent: each in one of its own.
    pub lan: Option<String>,
    /// When they come.
    #[serde(default = "at_once")]
    pub join: When,
    /// When they go, complete or not.
    pub leave: Option<Spanned<When>>,
    /// For how long they stay once complete; absent: for good.
    pub stay: Option<When>,
    /// The most connections of one of them.
    #[serde(default = "fifty_connections")]
    pub connections: Spanned<usize>,
    /// How they behave.
    #[serde(default)]
    pub behaviour: Behaviour,
}

fn one() -> Spanned<usize> {
    Spanned::new(0..0, 1)
}

fn fifty_connections() -> Spanned<usize> {
    Spanned::new(0..0, fifty())
}

fn at_once() -> When {
    When::START
}

/// What stands between peers and the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NatKind {
    /// Nothing, or a port that is mapped.
    #[default]
    None,
    /// Lets datagrams in from anybody once one has left.
    FullCone,
    /// Lets them in from addresses that were spoken to.
    Restricted,
    /// Lets them in from addresses and ports that were spoken to.
    PortRestricted,
    /// The same, and has another port for everyone spoken to.
    Symmetric,
}

/// How peers behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Behaviour {
    /// As they should.
    #[default]
    Honest,
    /// They take and never give.
    FreeRider,
    /// They send wrong bytes.
    Liar,
    /// They send 2 KiB a second, whatever their line can do.
    Slow,
}

/// Something that goes wrong: one of its kinds, and when.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Fault {
    /// When it begins.
    pub at: Spanned<Time>,
    /// When it is over; absent: never.
    pub until: Option<Spanned<Time>>,
    /// This tracker's host is gone.
    pub tracker: Option<Spanned<String>>,
    /// The DHT nodes that are no peers are gone.
    #[serde(default)]
    pub dht: bool,
    /// These groups cannot be reached by anybody else, nor reach them.
    pub part: Option<Vec<Spanned<String>>>,
    /// The peers of this group are killed, as by a power cut. At the end of it they come back to what is on their disks.
    pub kill: Option<Spanned<String>>,
}
