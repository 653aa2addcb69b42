//! npm's bittorrent-tracker, HTTP and UDP, run by `scripts/tracker.mjs`.

use std::net::SocketAddrV4;
use std::process::Command;

use anyhow::Result;

use super::{peers_folder, script_path};
use crate::world::{Process, World, wait_until};

/// A running tracker; HTTP and UDP on one port.
pub(crate) struct BittorrentTracker {
    process: Process,
}

impl BittorrentTracker {
    /// Starts it at `address`.
    pub(crate) fn start(world: &World, address: SocketAddrV4) -> Result<BittorrentTracker> {
        let mut command = Command::new("node");
        command.arg(script_path("tracker.mjs")).arg(peers_folder());
        command.args([address.ip().to_string(), address.port().to_string()]);
        let mut process = world.start("bittorrent-tracker", &mut command)?;
        wait_until("bittorrent-tracker listens", || {
            process.still_running()?;
            Ok(process.stdout()?.contains("listening"))
        })?;
        Ok(BittorrentTracker { process })
    }

    /// Waits until so many announces with this event ("start", "update", "complete", "stop") have arrived.
    pub(crate) fn wait_for_event(&self, event: &str, count: usize) -> Result<()> {
        wait_until(&format!("the tracker heard {count} times {event:?}"), || {
            let heard = self.process.stdout()?;
            Ok(heard.lines().filter(|line| line.split(' ').next() == Some(event)).count() >= count)
        })
    }
}
