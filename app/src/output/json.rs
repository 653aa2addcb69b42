//! Progress for programs: one JSON object a line on stdout.
//!
//! Each has `event`, `at` (seconds since the start) and, where it is about one torrent, `torrent` (its info-hash). The
//! names of events and fields are a contract: fields are added, never renamed.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use castanet::{Happening, Phase, TorrentState, eta};
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
    Listening { addresses: &'a [SocketAddr] },
    Added { name: &'a str, wanted: u64 },
    Metadata { name: &'a str, length: u64, piece_length: u32, pieces: u32, files: usize, private: bool },
    Started { have: u32, pieces: u32 },
    PeerFound { address: SocketAddr, plugin: &'a str, instance: &'a str },
    PeerConnected { address: SocketAddr, inbound: bool },
    PeerLost { address: SocketAddr, reason: &'a str },
    Piece { index: u32 },
    PieceRejected { index: u32 },
    Notice { text: &'a str },
    Progress(Progress),
    Stalled { why: &'a str },
    Complete,
    Failed { error: &'a str },
    Interrupted,
    Summary { downloaded: u64, uploaded: u64, wasted: u64, pieces: u32, have: u32, left: u64 },
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
        let at = (self.start.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        let torrent = torrent.map(|torrent| torrent.info_hash.as_str());
        print(&serde_json::to_string(&Line { at, torrent, event })?)
    }
}

impl Display for Json {
    fn added(&mut self, torrent: &Shown) -> anyhow::Result<()> {
        self.told.push((None, Phase::Opening));
        let info = &torrent.metainfo.info;
        let (name, wanted) = (info.name.as_str(), torrent.wanted);
        self.print(Some(torrent), Event::Added { name, wanted })?;
        let metadata = Event::Metadata {
            name,
            length: info.content_length(),
            piece_length: info.piece_length,
            pieces: info.geometry().pieces(),
            files: info.files.iter().filter(|file| !file.pad).count(),
            private: info.private,
        };
        self.print(Some(torrent), metadata)
    }

    fn happened(&mut self, _: usize, torrent: &Shown, what: &Happening) -> anyhow::Result<()> {
        let event = match what {
            Happening::Started { have } => {
                Event::Started { have: *have, pieces: torrent.metainfo.info.geometry().pieces() }
            }
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

    fn failed(&mut self, error: &str) -> anyhow::Result<()> {
        self.print(None, Event::Failed { error })
    }

    fn interrupted(&mut self) -> anyhow::Result<()> {
        self.print(None, Event::Interrupted)
    }

    fn summary(&mut self, torrents: &[(Shown, TorrentState)]) -> anyhow::Result<()> {
        for (torrent, state) in torrents {
            let TorrentState { downloaded, uploaded, wasted, pieces, have, left, .. } = *state;
            self.print(Some(torrent), Event::Summary { downloaded, uploaded, wasted, pieces, have, left })?;
        }
        Ok(())
    }
}
