//! The other programs: one driver a file, all with the same few verbs.
//!
//! Each is started with one torrent and one folder; it seeds if the payload is there and downloads it if not. What it
//! finds peers with is its tracker alone: DHT, PEX, LSD and port mapping are off. The rest stays as the program has it.

use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::payload::Torrent;
use crate::world::{Process, World, wait_for_listener, wait_until};

pub(crate) mod aria2;
pub(crate) mod bittorrent_dht;
pub(crate) mod bittorrent_tracker;
pub(crate) mod libtorrent;
pub(crate) mod miniupnpd;
pub(crate) mod opentracker;
pub(crate) mod proxies;
pub(crate) mod qbittorrent;
pub(crate) mod rtorrent;
pub(crate) mod session;
pub(crate) mod transmission;

/// A BitTorrent program that the tests can drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// PyPI's libtorrent, driven by a script.
    Libtorrent,
    /// transmission-daemon.
    Transmission,
    /// aria2c.
    Aria2,
    /// qbittorrent-nox.
    Qbittorrent,
    /// rtorrent.
    Rtorrent,
}

/// What a program is asked for besides.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manners {
    /// Only encrypted connections. (Transmission and qBittorrent only.)
    pub(crate) encrypted: bool,
}

/// What a program says of its torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// Not loaded, or still checking what is on disk.
    Starting,
    /// Checked and incomplete.
    Downloading,
    /// Complete and willing to upload.
    Complete,
}

/// A running program with one torrent.
pub(crate) trait Control {
    /// What it says of its torrent; an error as long as it does not answer.
    fn state(&mut self) -> Result<State>;
    /// Its process.
    fn process(&mut self) -> &mut Process;
}

/// A running program with one torrent, and where peers reach it.
pub(crate) struct Peer {
    /// Which program it is.
    pub(crate) program: Program,
    /// Where it listens for peers.
    pub(crate) address: SocketAddrV4,
    control: Box<dyn Control>,
}

impl Program {
    /// All of them.
    pub(crate) const ALL: [Program; 5] =
        [Program::Libtorrent, Program::Transmission, Program::Aria2, Program::Qbittorrent, Program::Rtorrent];

    /// Starts it on `torrent` in `folder`, at an address of its own.
    pub(crate) fn start(self, world: &World, torrent: &Torrent, folder: &Path) -> Result<Peer> {
        self.start_with(world, torrent, folder, Manners::default())
    }

    fn start_with(self, world: &World, torrent: &Torrent, folder: &Path, manners: Manners) -> Result<Peer> {
        let address = world.host();
        let control: Box<dyn Control> = match self {
            Program::Libtorrent => Box::new(libtorrent::Libtorrent::start(world, torrent, folder, address, 0)?),
            Program::Transmission => {
                Box::new(transmission::Transmission::start(world, torrent, folder, address, manners)?)
            }
            Program::Aria2 => Box::new(aria2::Aria2::start(world, torrent, folder, address)?),
            Program::Qbittorrent => {
                Box::new(qbittorrent::Qbittorrent::start(world, torrent, folder, address, manners)?)
            }
            Program::Rtorrent => Box::new(rtorrent::Rtorrent::start(world, torrent, folder, address)?),
        };
        Ok(Peer { program: self, address, control })
    }

    /// Starts it on a complete payload and waits until it serves it.
    pub(crate) fn seed(self, world: &World, torrent: &Torrent) -> Result<Peer> {
        self.seed_with(world, torrent, Manners::default())
    }

    /// The same, with manners.
    pub(crate) fn seed_with(self, world: &World, torrent: &Torrent, manners: Manners) -> Result<Peer> {
        let mut peer = self.start_with(world, torrent, &torrent.folder, manners)?;
        peer.wait_for(State::Complete)?;
        wait_for_listener(peer.address)?;
        Ok(peer)
    }

    /// Starts it on an empty folder and waits until peers can connect to it.
    pub(crate) fn leech(self, world: &World, torrent: &Torrent, folder: &Path) -> Result<Peer> {
        self.leech_with(world, torrent, folder, Manners::default())
    }

    /// The same, with manners.
    pub(crate) fn leech_with(self, world: &World, torrent: &Torrent, folder: &Path, manners: Manners) -> Result<Peer> {
        let mut peer = self.start_with(world, torrent, folder, manners)?;
        peer.wait_for(State::Downloading)?;
        wait_for_listener(peer.address)?;
        Ok(peer)
    }

    /// Whether it creates no files without a byte when it downloads (Transmission before 4.0).
    pub(crate) fn skips_empty_files(self) -> bool {
        self == Program::Transmission
    }
}

impl Peer {
    /// Waits until the program says that it is at least this far.
    pub(crate) fn wait_for(&mut self, state: State) -> Result<()> {
        let mut last = None;
        let what = format!("{:?} is {state:?}", self.program);
        let waited = wait_until(&what, || {
            self.control.process().still_running()?;
            // A program that is starting refuses connections: not an answer, so no failure.
            let now = self.control.state();
            let reached = now.as_ref().is_ok_and(|now| *now >= state);
            last = Some(now);
            Ok(reached)
        });
        match waited {
            Err(error) => bail!("{error:#}; it last said {last:?}"),
            Ok(()) => Ok(()),
        }
    }
}

/// The folder of the peer programs that are no system packages: `tools/peers.sh` fills it.
pub(crate) fn peers_folder() -> PathBuf {
    let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers");
    std::env::var_os("INTEROP_PEERS").map_or_else(usual, PathBuf::from)
}

/// A script of the tests.
pub(crate) fn script_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/scripts").join(name)
}
