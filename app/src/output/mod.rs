//! What the user sees: results on stdout, messages on stderr, progress as bars, lines or JSON.

pub(crate) mod bars;
pub(crate) mod human;
pub(crate) mod json;
pub(crate) mod lines;
pub(crate) mod worth;

use std::{
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use castanet::{Happening, InfoHashes, Magnet, Metainfo, PortReport, TorrentState};
use indicatif::MultiProgress;

/// The bars on the terminal, if there are any: messages are written above them.
static ON_SCREEN: OnceLock<MultiProgress> = OnceLock::new();

/// Nobody reads what we print any more. Not worth a word: the program ends.
#[derive(Debug, thiserror::Error)]
#[error("the output was closed")]
pub(crate) struct ClosedOutput;

/// Prints a line of results.
pub(crate) fn print(line: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{line}").and_then(|()| out.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => ClosedOutput.into(),
        _ => anyhow::Error::new(error).context("cannot write to the standard output"),
    })
}

/// Writes a message to the user. That nobody can be told that nobody reads it is accepted.
pub(crate) fn say(message: &str) {
    above_bars(|| {
        let _ = writeln!(io::stderr(), "{message}");
    });
}

/// Does something on the terminal while no bars are on it.
pub(crate) fn above_bars<R>(action: impl FnOnce() -> R) -> R {
    match ON_SCREEN.get() {
        Some(bars) => bars.suspend(action),
        None => action(),
    }
}

/// The terminal's bars.
fn screen() -> MultiProgress {
    ON_SCREEN.get_or_init(MultiProgress::new).clone()
}

/// Is there a terminal to draw bars on?
pub(crate) fn has_screen() -> bool {
    io::stderr().is_terminal()
}

/// A torrent as it is shown.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    /// Its name, safe to print.
    pub(crate) name: String,
    /// Its info-hash in hexadecimal.
    pub(crate) info_hash: String,
    /// What is in it, once that is known.
    pub(crate) metainfo: Option<Arc<Metainfo>>,
    /// Bytes the user wants of it; 0 until they are known.
    pub(crate) wanted: u64,
    /// Counts these bytes when a link has become a torrent.
    count: Option<Count>,
}

/// Counts the bytes that the user wants of a torrent.
#[derive(Clone)]
pub(crate) struct Count(pub(crate) Arc<dyn Fn(&Metainfo) -> u64 + Send + Sync>);

impl std::fmt::Debug for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Count")
    }
}

impl Shown {
    /// A torrent of which the user wants so many bytes.
    pub(crate) fn new(metainfo: Arc<Metainfo>, wanted: u64) -> Self {
        let (name, info_hash) = (human::escaped(&metainfo.info.name).into_owned(), hex(metainfo.info_hashes));
        Self { name, info_hash, metainfo: Some(metainfo), wanted, count: None }
    }

    /// A torrent of which no more is known than its link says.
    pub(crate) fn link(link: &Magnet, count: Count) -> Self {
        let info_hash = hex(link.info_hashes);
        let name = link.name.as_deref().map_or_else(|| info_hash.clone(), |name| human::escaped(name).into_owned());
        Self { name, info_hash, metainfo: None, wanted: 0, count: Some(count) }
    }

    /// The link has become a torrent.
    pub(crate) fn learn(&mut self, metainfo: &Arc<Metainfo>) {
        self.name = human::escaped(&metainfo.info.name).into_owned();
        self.wanted = self.count.as_ref().map_or(metainfo.info.length, |count| (count.0)(metainfo));
        self.metainfo = Some(metainfo.clone());
    }

    /// Pieces of the torrent; 0 until they are known.
    pub(crate) fn pieces(&self) -> u32 {
        self.metainfo.as_ref().map_or(0, |metainfo| metainfo.info.geometry().pieces())
    }
}

fn hex(hashes: InfoHashes) -> String {
    let hash = hashes.v1.map(|hash| hash.to_hex()).or_else(|| hashes.v2.map(|hash| hash.to_hex()));
    hash.unwrap_or_default()
}

/// Shows how torrents fare. Fails only if stdout is gone.
pub(crate) trait Display {
    /// A torrent was added.
    fn added(&mut self, torrent: &Shown) -> anyhow::Result<()>;
    /// Something happened in the torrent of this number, counted in the order of `added`.
    fn happened(&mut self, at: usize, torrent: &Shown, what: &Happening) -> anyhow::Result<()>;
    /// Its state now; called a few times a second.
    fn state(&mut self, at: usize, torrent: &Shown, state: &TorrentState) -> anyhow::Result<()>;
    /// Peers may connect at these addresses.
    fn listening(&mut self, at: &[SocketAddr], is_seed: bool) -> anyhow::Result<()> {
        if is_seed {
            say_where(at);
        }
        Ok(())
    }
    /// The router lets peers in, or not. People hear of it only if it does.
    fn port(&mut self, report: &PortReport) -> anyhow::Result<()> {
        if let PortReport::Open(open) = report {
            say(&format!("{open}."));
        }
        Ok(())
    }
    /// It failed before any torrent was at work. People hear of it by the message at the end.
    fn failed(&mut self, _error: &str) -> anyhow::Result<()> {
        Ok(())
    }
    /// The user interrupted.
    fn interrupted(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
    /// The end, with the last states.
    fn summary(&mut self, torrents: &[(Shown, TorrentState)]) -> anyhow::Result<()>;
}

/// Tells a seed's user where peers may connect.
fn say_where(at: &[SocketAddr]) {
    if !at.is_empty() {
        let places: Vec<_> = at.iter().map(ToString::to_string).collect();
        say(&format!("Peers may connect at {}. Ctrl-C ends seeding.", places.join(" and ")));
    }
}

/// Passes on what preparing a run gave; if that is an error, `display` hears of it first.
pub(crate) fn prepared<T>(display: &mut dyn Display, ready: anyhow::Result<T>) -> anyhow::Result<T> {
    // That nobody reads the event must not hide the error.
    ready.inspect_err(|error| drop(display.failed(&human::failure(error))))
}

/// The display that suits: JSON if asked for, bars on a terminal, else lines.
pub(crate) fn display(json: bool) -> Box<dyn Display> {
    match (json, has_screen()) {
        (true, _) => Box::new(json::Json::new()),
        (false, true) => Box::new(bars::Bars::new()),
        (false, false) => Box::new(lines::Lines::default()),
    }
}

/// The message for people about what happened, if it is worth one.
fn message(torrent: &Shown, what: &Happening) -> Option<String> {
    let name = &torrent.name;
    match what {
        Happening::Started { have } if *have > 0 => {
            let pieces = torrent.pieces();
            (*have < pieces).then(|| format!("{name}: {have} of {pieces} pieces are there already"))
        }
        Happening::Metadata(_) => Some(format!("{name}: {}", human::size(torrent.wanted))),
        Happening::Slow(why) => Some(format!("{name}: slow: {}", human::plain(why))),
        Happening::PieceRejected(piece) => Some(format!("{name}: piece {piece} arrived damaged and is fetched again")),
        Happening::Notice(text) => Some(format!("{name}: {}", human::plain(text))),
        Happening::Stalled(why) => Some(format!("{name}: waiting: {}", human::plain(why))),
        _ => None,
    }
}

/// The last lines for people.
fn summary(torrents: &[(Shown, TorrentState)]) {
    let moved = |state: &TorrentState| state.downloaded + state.uploaded + state.wasted > 0;
    for (torrent, state) in torrents.iter().filter(|(_, state)| moved(state)) {
        let wasted = match state.wasted {
            0 => String::new(),
            wasted => format!(", {} came double or damaged", human::size(wasted)),
        };
        let (down, up) = (human::size(state.downloaded), human::size(state.uploaded));
        say(&format!("{}: {down} received, {up} sent{wasted}", torrent.name));
    }
    for (torrent, state) in torrents {
        let is_link = torrent.count.is_some();
        if is_link && !state.timeline.phases().is_empty() {
            say(&format!("{}: {}", torrent.name, state.timeline));
        }
        for line in worth::table(&state.plugins) {
            say(&line);
        }
    }
}
