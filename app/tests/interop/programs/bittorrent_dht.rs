//! npm's bittorrent-dht, run by `scripts/dht.mjs`.

use std::net::SocketAddrV4;
use std::process::Command;

use anyhow::Result;
use serde_json::Value;

use super::{peers_folder, script_path};
use crate::world::{Process, World, wait_until};

/// Some of its nodes.
pub(crate) struct BittorrentDht {
    process: Process,
}

impl BittorrentDht {
    /// Starts nodes as the script's CONFIG says.
    pub(crate) fn start(world: &World, config: &Value) -> Result<BittorrentDht> {
        let mut command = Command::new("node");
        command.arg(script_path("dht.mjs")).arg(peers_folder()).arg(config.to_string());
        Ok(BittorrentDht { process: world.start("bittorrent-dht", &mut command)? })
    }

    /// Waits until every one of its nodes knows so many.
    pub(crate) fn know(&mut self, count: u64) -> Result<()> {
        self.until("bittorrent-dht's nodes know some", |said| {
            let nodes = said["nodes"].as_array();
            nodes.is_some_and(|nodes| nodes.iter().all(|nodes| nodes.as_u64() >= Some(count)))
        })
    }

    /// Waits until what it announces is announced.
    pub(crate) fn announced(&mut self) -> Result<()> {
        self.until("bittorrent-dht has announced", |said| said["announced"] == true)
    }

    /// Waits until it has found this peer.
    pub(crate) fn finds(&mut self, peer: SocketAddrV4) -> Result<()> {
        self.until("bittorrent-dht finds a peer", |said| said["peer"] == peer.to_string())
    }

    fn until(&mut self, what: &str, reached: impl Fn(&Value) -> bool) -> Result<()> {
        wait_until(what, || {
            self.process.still_running()?;
            let stdout = self.process.stdout()?;
            let whole = stdout.rfind('\n').map_or("", |end| &stdout[..end]);
            Ok(whole.lines().rev().filter_map(|line| serde_json::from_str(line).ok()).any(|said| reached(&said)))
        })
    }
}
