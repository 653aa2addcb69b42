//! libtorrent sessions with whatever discovery a test wants, driven by `scripts/session.py`; and a DHT of many of them,
//! by `scripts/dht.py`.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::libtorrent::script;
use crate::payload::Torrent;
use crate::world::{Process, World, wait_for_listener, wait_until};

/// A libtorrent session with one torrent.
pub(crate) struct Session {
    process: Process,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Session {
    /// Starts a session at `address` with a torrent file; `more` are entries for its configuration.
    pub(crate) fn start(
        world: &World,
        torrent: &Torrent,
        folder: &Path,
        address: impl Into<SocketAddr>,
        more: &Value,
    ) -> Result<Session> {
        Self::start_with(world, address, folder, &json!({ "torrent": torrent.file }), more)
    }

    /// Starts a session that knows nothing but a magnet link.
    pub(crate) fn magnet(
        world: &World,
        link: &str,
        folder: &Path,
        address: impl Into<SocketAddr>,
        more: &Value,
    ) -> Result<Session> {
        Self::start_with(world, address, folder, &json!({ "magnet": link }), more)
    }

    fn start_with(
        world: &World,
        address: impl Into<SocketAddr>,
        folder: &Path,
        source: &Value,
        more: &Value,
    ) -> Result<Session> {
        let address = address.into();
        let mut config = json!({ "address": address.to_string(), "folder": folder });
        for entries in [source, more] {
            for (key, value) in entries.as_object().context("an object")? {
                config[key] = value.clone();
            }
        }
        let mut command = script("session.py");
        command.arg(config.to_string());
        Ok(Session { process: world.start("libtorrent", &mut command)?, address })
    }

    /// Waits until peers can connect.
    pub(crate) fn listens(self) -> Result<Session> {
        wait_for_listener(self.address)?;
        Ok(self)
    }

    /// Waits until the torrent is complete.
    pub(crate) fn complete(&mut self) -> Result<()> {
        self.until("libtorrent is complete", |last| last["done"] == true)
    }

    /// Waits until it downloads and peers can connect by TCP or UDP.
    pub(crate) fn downloads(&mut self) -> Result<()> {
        self.until("libtorrent downloads", |last| {
            last["state"].as_str().is_some_and(|state| state.ends_with("downloading"))
        })
    }

    /// Waits until its DHT knows so many nodes.
    pub(crate) fn knows_nodes(&mut self, count: u64) -> Result<()> {
        self.until("libtorrent knows DHT nodes", |last| last["nodes"].as_u64() >= Some(count))
    }

    /// Waits until it has announced its torrent to the DHT.
    pub(crate) fn announced(&mut self) -> Result<()> {
        self.until("libtorrent has announced to the DHT", |last| last["announced"] == true)
    }

    fn until(&mut self, what: &str, reached: impl Fn(&Value) -> bool) -> Result<()> {
        wait_until(what, || {
            self.process.still_running()?;
            Ok(last(&self.process)?.is_some_and(|last| reached(&last)))
        })
    }
}

/// A DHT of libtorrent sessions.
pub(crate) struct Dht {
    _process: Process,
    /// Where its nodes listen.
    pub(crate) nodes: Vec<SocketAddrV4>,
}

impl Dht {
    /// Starts so many nodes on loopback and waits until most of them know each other.
    pub(crate) fn start(world: &World, count: u8) -> Result<Dht> {
        Self::start_in(world, count, [127, 0, 0])
    }

    /// The same in another network, whose addresses are there.
    pub(crate) fn start_in(world: &World, count: u8, network: [u8; 3]) -> Result<Dht> {
        const PORT: u16 = 7777;
        let [a, b, c] = network;
        let mut command = script("dht.py");
        command.args([count.to_string(), PORT.to_string(), format!("{a}.{b}.{c}")]);
        let process = world.start("dht", &mut command)?;
        wait_until("the DHT has found together", || {
            let Some(said) = last(&process)? else { return Ok(false) };
            let known = said["nodes"].as_array().context("a list of numbers")?;
            let settled = known.iter().filter(|nodes| nodes.as_u64() >= Some(u64::from(count) / 6)).count();
            Ok(settled * 10 >= usize::from(count) * 9)
        })?;
        let node = |at| SocketAddrV4::new(Ipv4Addr::new(a, b, c, at + 2), PORT);
        Ok(Dht { _process: process, nodes: (0..count).map(node).collect() })
    }
}

/// The last object a script printed.
fn last(process: &Process) -> Result<Option<Value>> {
    let stdout = process.stdout()?;
    let whole = stdout.rfind('\n').map_or("", |end| &stdout[..end]);
    Ok(whole.lines().next_back().map(serde_json::from_str).transpose()?)
}
