//! The program under test, by its contract: arguments, JSON events, exit codes.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::world::{Process, World, wait_for_listener, wait_until};

/// Where Castanet listens: the first address of a world, which is also the source of what is sent from no address in
/// particular. So trackers and peers see the address it listens at.
pub(crate) const LISTEN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 1), 6881);

/// The exit code after an interruption.
pub(crate) const INTERRUPTED: i32 = 130;

/// A running `castanet get` or `castanet seed`.
pub(crate) struct Castanet {
    process: Process,
}

/// `castanet` with these arguments.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_castanet"));
    command.args(arguments);
    command
}

impl Castanet {
    /// Starts `castanet get TORRENT -o FOLDER --json`, finding peers with trackers and `--peer` alone.
    pub(crate) fn get(world: &World, torrent: &Path, folder: &Path, more: &[&str]) -> Result<Castanet> {
        let mut command = command(&["get", "--json", "--no-dht", "--no-lsd", "--no-pex", "--port-mapping", "off"]);
        command.args(["--listen", &LISTEN.to_string()]).args(more).arg("-o").arg(folder).arg(torrent);
        Ok(Castanet { process: world.start("castanet-get", &mut command)? })
    }

    /// Starts `castanet get` with nothing turned off; `more` says how peers may be found, and where it listens.
    pub(crate) fn get_freely(world: &World, source: &str, folder: &Path, more: &[&str]) -> Result<Castanet> {
        let mut command = command(&["get", "--json", "--port-mapping", "off"]);
        command.args(more).arg("-o").arg(folder).arg(source);
        Ok(Castanet { process: world.start("castanet-get", &mut command)? })
    }

    /// The same through a proxy, with all there is in the log.
    pub(crate) fn get_through(
        world: &World,
        proxy: &str,
        source: &str,
        folder: &Path,
        more: &[&str],
    ) -> Result<Castanet> {
        let mut command = command(&["get", "--json", "-vvv"]);
        command.env("CASTANET_PROXY", proxy).args(more).arg("-o").arg(folder).arg(source);
        Ok(Castanet { process: world.start("castanet-get", &mut command)? })
    }

    /// What it said to people, and its log.
    pub(crate) fn stderr(&self) -> Result<String> {
        self.process.stderr()
    }

    /// Starts whatever command ends as `castanet get --json`.
    pub(crate) fn start(world: &World, command: &mut Command) -> Result<Castanet> {
        Ok(Castanet { process: world.start("castanet-get", command)? })
    }

    /// Starts `castanet seed` with nothing turned off.
    pub(crate) fn seed_freely(world: &World, torrent: &Path, folder: &Path, more: &[&str]) -> Result<Castanet> {
        let mut command = command(&["seed", "--json", "--port-mapping", "off"]);
        command.args(more).arg(torrent).arg(folder);
        Ok(Castanet { process: world.start("castanet-seed", &mut command)? })
    }

    /// Starts `castanet seed` that tells HTTP trackers alone, but may ask the router to let peers in; `more` says how.
    pub(crate) fn seed_behind_a_router(
        world: &World,
        torrent: &Path,
        folder: &Path,
        more: &[&str],
    ) -> Result<Castanet> {
        let mut command = command(&["seed", "--json", "--plugins", "http-tracker"]);
        command.args(more).arg(torrent).arg(folder);
        Ok(Castanet { process: world.start("castanet-seed", &mut command)? })
    }

    /// Starts `castanet seed TORRENT FOLDER` in the same way.
    pub(crate) fn seed(world: &World, torrent: &Path, folder: &Path, more: &[&str]) -> Result<Castanet> {
        let mut command = command(&["seed", "--no-dht", "--no-lsd", "--no-pex", "--port-mapping", "off"]);
        command.args(["--listen", &LISTEN.to_string()]).args(more).arg(torrent).arg(folder);
        Ok(Castanet { process: world.start("castanet-seed", &mut command)? })
    }

    /// Waits until peers can connect.
    pub(crate) fn wait_until_listening(&mut self) -> Result<()> {
        self.wait_until_listening_at(LISTEN)
    }

    /// Waits until peers can connect at this address.
    pub(crate) fn wait_until_listening_at(&mut self, address: impl Into<SocketAddr>) -> Result<()> {
        self.process.still_running()?;
        wait_for_listener(address)
    }

    /// The events so far; a line that is not finished yet is left out.
    pub(crate) fn events(&self) -> Result<Vec<Value>> {
        let stdout = self.process.stdout()?;
        let whole = stdout.rfind('\n').map_or("", |end| &stdout[..end]);
        whole.lines().map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))).collect()
    }

    /// The indices of the pieces it said are complete, in that order.
    pub(crate) fn pieces(&self) -> Result<Vec<u64>> {
        let events = self.events()?;
        Ok(named(&events, "piece").filter_map(|event| event["index"].as_u64()).collect())
    }

    /// Waits until it has said so many events of this name.
    pub(crate) fn wait_for(&mut self, event: &str, count: usize) -> Result<()> {
        wait_until(&format!("castanet says {event:?}"), || {
            let enough = named(&self.events()?, event).count() >= count;
            if !enough {
                self.process.still_running()?;
            }
            Ok(enough)
        })
    }

    /// Waits until it ends by itself, complete; returns all it said.
    pub(crate) fn complete(&mut self) -> Result<Vec<Value>> {
        let status = self.process.wait()?;
        ensure!(status.success(), "castanet: {status}: {}", self.process.stderr()?.trim());
        let events = self.events()?;
        ensure!(named(&events, "complete").count() == 1, "it ended well without one \"complete\": {events:?}");
        Ok(events)
    }

    /// Waits until it ends by itself, incomplete.
    pub(crate) fn gives_up(&mut self) -> Result<()> {
        let status = self.process.wait()?;
        ensure!(status.code() == Some(1), "{status}, not exit code 1: {}", self.process.stderr()?.trim());
        self.not_complete()
    }

    /// Fails if it has said that it is complete: for tests that mean to come before.
    pub(crate) fn not_complete(&self) -> Result<()> {
        ensure!(named(&self.events()?, "complete").count() == 0, "it was complete too soon for this test");
        Ok(())
    }

    /// Interrupts it: it must say good-bye and end with [`INTERRUPTED`].
    pub(crate) fn interrupt(mut self) -> Result<()> {
        let status = self.process.terminate()?;
        ensure!(status.code() == Some(INTERRUPTED), "after SIGTERM: {status}, not {INTERRUPTED}");
        Ok(())
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }
}

/// The events of one name.
pub(crate) fn named<'a>(events: &'a [Value], name: &'a str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["event"] == name)
}

/// Runs `castanet` to its end, which must be exit code 1 with one clear sentence; returns that.
pub(crate) fn refusal(arguments: &[&str]) -> Result<String> {
    let output = command(arguments).output()?;
    let said = String::from_utf8(output.stderr)?;
    if output.status.code() != Some(1) {
        bail!("castanet {arguments:?}: {}, not exit code 1: {said}", output.status);
    }
    ensure!(said.trim().lines().count() == 1, "castanet {arguments:?} should say one sentence: {said:?}");
    ensure!(!said.contains("panicked") && !said.contains("Error {"), "no sentence for people: {said}");
    Ok(said)
}
