//! PyPI's libtorrent (the engine of qBittorrent and Deluge), driven by `scripts/peer.py`.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Control, State, peers_folder, script_path};
use crate::payload::Torrent;
use crate::world::{Process, World};

/// A libtorrent session with one torrent.
pub(crate) struct Libtorrent {
    process: Process,
}

/// A Python script of the tests, run where libtorrent can be imported.
pub(crate) fn script(name: &str) -> Command {
    let mut command = Command::new(peers_folder().join("venv/bin/python"));
    command.arg(script_path(name));
    command
}

impl Libtorrent {
    /// Starts a session that uploads at most `limit` bytes a second (0: no limit).
    pub(crate) fn start(
        world: &World,
        torrent: &Torrent,
        folder: &Path,
        address: SocketAddrV4,
        limit: usize,
    ) -> Result<Libtorrent> {
        let mut command = script("peer.py");
        command.args([&torrent.file, folder]).args([address.to_string(), limit.to_string()]);
        Ok(Libtorrent { process: world.start("libtorrent", &mut command)? })
    }

    /// The objects it printed so far.
    fn said(&self) -> Result<Vec<Value>> {
        let stdout = self.process.stdout()?;
        Ok(stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// How many blocks it has sent, each as often as it was sent.
    pub(crate) fn blocks_sent(&self) -> Result<usize> {
        Ok(self.said()?.iter().filter(|object| object.get("block").is_some()).count())
    }

    /// The pieces of which it sent a block, leaving out the first `skip` blocks.
    pub(crate) fn pieces_sent_after(&self, skip: usize) -> Result<BTreeSet<u64>> {
        let said = self.said()?;
        let blocks = said.iter().filter_map(|object| object["block"][0].as_u64());
        Ok(blocks.skip(skip).collect())
    }
}

impl Control for Libtorrent {
    fn state(&mut self) -> Result<State> {
        let said = self.said()?;
        let last = said.iter().rfind(|object| object.get("state").is_some()).context("no state yet")?;
        Ok(match (last["done"].as_bool(), last["state"].as_str()) {
            (Some(true), _) => State::Complete,
            (_, Some("downloading" | "finished")) => State::Downloading,
            _ => State::Starting,
        })
    }

    fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
