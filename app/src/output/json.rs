//! Progress for programs: one JSON object a line on stdout.
//!
//! Each has `event`, `at` (seconds since the start) and, where it is about one torrent, `torrent` (its info-hash). The
//! names of events and fields are a contract: fields are added, never renamed.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use castanet::{
    Happening, Metainfo, OpenPort, Phase, PluginReport, PortReport, TorrentState, eta, seams::discovery::Milestone,
    timeline,
};
use serde::Serialize;

use super::{Display, Shown, human, print};

/// How often `progress` is printed for a torrent.
const EVERY: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Line<'a> {
    at: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    torrent: Option<&'a str>,
    #[serde(flatten)]
    event: Event<'a>,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Listening {
        addresses: &'a [SocketAddr],
    },
    PortMapped {
        port: u16,
        external: SocketAddr,
        method: String,
        udp: bool,
    },
    PortNotMapped {
        why: &'a str,
    },
    Added {
        name: &'a str,
        wanted: Option<u64>,
    },
    Metadata {
        name: &'a str,
        length: u64,
        piece_length: u32,
        pieces: u32,
        files: usize,
        private: bool,
    },
    Started {
        have: u32,
        pieces: u32,
    },
    PeerFound {
        address: SocketAddr,
        plugin: &'a str,
        instance: &'a str,
    },
    PeerConnected {
        address: SocketAddr,
        inbound: bool,
    },
    PeerLost {
        address: SocketAddr,
        reason: &'a str,
    },
    Piece {
        index: u32,
    },
    PieceRejected {
        index: u32,
    },
    Notice {
        text: &'a str,
    },
    Progress(Progress),
    Reached {
        milestone: &'static str,
    },
    Stalled {
        why: &'a str,
    },
    Slow {
        why: &'a str,
    },
    Complete,
    Failed {
        error: &'a str,
    },
    Interrupted,
    Summary {
        downloaded: u64,
        uploaded: u64,
        wasted: u64,
        pieces: u32,
        have: u32,
        left: u64,
        timeline: Vec<Station>,
        plugins: Vec<Plugin<'a>>,
        why: Option<Why>,
    },
}

/// A station of the timeline; `took` is the time since the one before it, so that all add up to the last `after`.
#[derive(Serialize)]
struct Station {
    milestone: &'static str,
    after: f64,
    took: f64,
}

/// What a plugin brought and what it spent.
#[derive(Serialize)]
pub(crate) struct Plugin<'a> {
    plugin: &'a str,
    found: u64,
    alone: u64,
    connected: u64,
    handshaken: u64,
    useful: u64,
    bytes: u64,
    refused: u64,
    banned: u64,
    first_peer_after: Option<f64>,
    packets_sent: u64,
    packets_received: u64,
    messages_sent: u64,
    messages_received: u64,
    connections: u64,
    bytes_sent: u64,
    bytes_received: u64,
    condition: Option<&'a str>,
    swarm: Option<Size>,
}

#[derive(Serialize)]
struct Size {
    seeds: u32,
    leeches: u32,
}

/// Why it is slow: the sentence, and the reasons in their order by name.
#[derive(Serialize)]
struct Why {
    text: String,
    reasons: Vec<&'static str>,
}

impl Event<'_> {
    fn metadata(metainfo: &Metainfo) -> Event<'_> {
        let info = &metainfo.info;
        Event::Metadata {
            name: &info.name,
            length: info.content_length(),
            piece_length: info.piece_length,
            pieces: info.geometry().pieces(),
            files: info.files.iter().filter(|file| !file.pad).count(),
            private: info.private,
        }
    }
}

impl<'a> Plugin<'a> {
    /// The same for programs.
    pub(crate) fn of(report: &'a PluginReport) -> Self {
        let (worth, cost) = (&report.worth, &report.cost);
        Self {
            plugin: &worth.plugin.0,
            found: worth.found,
            alone: worth.alone,
            connected: worth.connected,
            handshaken: worth.handshaken,
            useful: worth.useful,
            bytes: worth.bytes,
            refused: worth.refused,
            banned: worth.banned,
            first_peer_after: report.first_after.map(seconds),
            packets_sent: cost.sent_packets,
            packets_received: cost.received_packets,
            messages_sent: cost.sent_messages,
            messages_received: cost.received_messages,
            connections: cost.connections,
            bytes_sent: cost.sent_bytes,
            bytes_received: cost.received_bytes,
            condition: report.condition.as_deref(),
            swarm: report.swarm.map(|size| Size { seeds: size.seeds, leeches: size.leeches }),
        }
    }
}

/// Milliseconds are precise enough.
fn seconds(span: Duration) -> f64 {
    (span.as_secs_f64() * 1000.0).round() / 1000.0
}

/// A station's name.
fn milestone_name(milestone: Milestone) -> &'static str {
    match milestone {
        Milestone::Added => "added",
        Milestone::NamesResolved => "names_resolved",
        Milestone::Bootstrapped => "bootstrapped",
        Milestone::LookedUp => "looked_up",
        Milestone::FirstPeer => "first_peer",
        Milestone::FirstConnected => "first_connected",
        Milestone::FirstHandshake => "first_handshake",
        Milestone::Metadata => "metadata",
        Milestone::FirstPiece => "first_piece",
        Milestone::Complete => "complete",
        _ => "unknown",
    }
}

#[derive(Serialize)]
struct Progress {
    phase: &'static str,
    percent: u64,
    wanted: u64,
    left: u64,
    pieces: u32,
    have: u32,
    checked: u32,
    to_check: u32,
    downloaded: u64,
    uploaded: u64,
    wasted: u64,
    down_rate: u64,
    up_rate: u64,
    peers: u32,
    seeds: u32,
    known: u32,
    /// Seconds, if it can be told.
    eta: Option<u64>,
}

/// The display.
#[derive(Debug)]
pub(crate) struct Json {
    start: Instant,
    told: Vec<(Option<Instant>, Phase)>,
}

impl Json {
    /// Time counts from now.
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), told: Vec::new() }
    }

    fn print(&self, torrent: Option<&Shown>, event: Event<'_>) -> anyhow::Result<()> {
        let at = seconds(self.start.elapsed());
        let torrent = torrent.map(|torrent| torrent.info_hash.as_str());
        print(&serde_json::to_string(&Line { at, torrent, event })?)
    }
}

impl Display for Json {
    fn added(&mut self, torrent: &Shown) -> anyhow::Result<()> {
        self.told.push((None, Phase::Opening));
        let (name, wanted) = (torrent.name.as_str(), torrent.metainfo.as_ref().map(|_| torrent.wanted));
        self.print(Some(torrent), Event::Added { name, wanted })?;
        match &torrent.metainfo {
            Some(metainfo) => self.print(Some(torrent), Event::metadata(metainfo)),
            None => Ok(()),
        }
    }

    fn happened(&mut self, _: usize, torrent: &Shown, what: &Happening) -> anyhow::Result<()> {
        let event = match what {
            Happening::Started { have } => Event::Started { have: *have, pieces: torrent.pieces() },
            Happening::Metadata(metainfo) => Event::metadata(metainfo),
            Happening::Reached(milestone) => Event::Reached { milestone: milestone_name(*milestone) },
            Happening::Slow(why) => Event::Slow { why },
            Happening::PeerFound { addr, plugin, instance } => {
                Event::PeerFound { address: *addr, plugin: &plugin.0, instance }
            }
            Happening::PeerConnected { addr, inbound } => Event::PeerConnected { address: *addr, inbound: *inbound },
            Happening::PeerLost { addr, reason } => Event::PeerLost { address: *addr, reason },
            Happening::Piece(piece) => Event::Piece { index: piece.0 },
            Happening::PieceRejected(piece) => Event::PieceRejected { index: piece.0 },
            Happening::Notice(text) => Event::Notice { text },
            Happening::Stalled(why) => Event::Stalled { why },
            Happening::Complete => Event::Complete,
            Happening::Failed(error) => Event::Failed { error },
            _ => return Ok(()),
        };
        self.print(Some(torrent), event)
    }

    fn state(&mut self, at: usize, torrent: &Shown, state: &TorrentState) -> anyhow::Result<()> {
        let Some((told, phase)) = self.told.get_mut(at) else { return Ok(()) };
        if told.is_some_and(|told| told.elapsed() < EVERY) && *phase == state.phase {
            return Ok(());
        }
        *told = Some(Instant::now());
        phase.clone_from(&state.phase);
        let progress = Progress {
            phase: match state.phase {
                Phase::Opening => "opening",
                Phase::Metadata => "metadata",
                Phase::Checking => "checking",
                Phase::Downloading => "downloading",
                Phase::Seeding => "seeding",
                Phase::Paused => "paused",
                Phase::Failed(_) => "failed",
            },
            percent: human::percent(state, torrent.wanted),
            wanted: torrent.wanted,
            left: state.left,
            pieces: state.pieces,
            have: state.have,
            checked: state.checked,
            to_check: state.to_check,
            downloaded: state.downloaded,
            uploaded: state.uploaded,
            wasted: state.wasted,
            down_rate: state.down_rate,
            up_rate: state.up_rate,
            peers: state.peers,
            seeds: state.seeds,
            known: state.known,
            eta: eta(state.left, state.down_rate).map(|eta| eta.as_secs()),
        };
        self.print(Some(torrent), Event::Progress(progress))
    }

    fn listening(&mut self, at: &[SocketAddr], _: bool) -> anyhow::Result<()> {
        self.print(None, Event::Listening { addresses: at })
    }

    fn port(&mut self, report: &PortReport) -> anyhow::Result<()> {
        let event = match report {
            PortReport::Open(OpenPort { port, external, method, udp }) => {
                Event::PortMapped { port: *port, external: (*external).into(), method: method.to_string(), udp: *udp }
            }
            PortReport::Closed(why) => Event::PortNotMapped { why },
        };
        self.print(None, event)
    }

    fn failed(&mut self, error: &str) -> anyhow::Result<()> {
        self.print(None, Event::Failed { error })
    }

    fn interrupted(&mut self) -> anyhow::Result<()> {
        self.print(None, Event::Interrupted)
    }

    fn summary(&mut self, torrents: &[(Shown, TorrentState)]) -> anyhow::Result<()> {
        for (torrent, state) in torrents {
            let TorrentState { downloaded, uploaded, wasted, pieces, have, left, .. } = *state;
            let station = |phase: &timeline::Phase| Station {
                milestone: milestone_name(phase.milestone),
                after: seconds(phase.at),
                took: seconds(phase.took),
            };
            let timeline = state.timeline.phases().iter().map(station).collect();
            let plugins = state.plugins.iter().map(Plugin::of).collect();
            let why = state.why.as_ref().map(|why| Why { text: why.to_string(), reasons: why.names() });
            let summary = Event::Summary { downloaded, uploaded, wasted, pieces, have, left, timeline, plugins, why };
            self.print(Some(torrent), summary)?;
        }
        Ok(())
    }
}
