//! transmission-daemon, driven by its RPC. Version 3.00 never dials 127/8: in the tests nobody lives there. It dials by
//! uTP first, and when nobody answers that, it opens a TCP connection and closes it without a word; hence uTP is off.

use std::fs;
use std::net::SocketAddrV4;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Control, Manners, State};
use crate::http;
use crate::payload::Torrent;
use crate::world::{Process, World, wait_until};

const CONTROL_PORT: u16 = 9091;

/// A daemon with one torrent.
pub(crate) struct Transmission {
    process: Process,
    control: SocketAddrV4,
    session: String,
}

impl Transmission {
    /// Starts a daemon and gives it the torrent.
    pub(crate) fn start(
        world: &World,
        torrent: &Torrent,
        folder: &Path,
        address: SocketAddrV4,
        manners: Manners,
    ) -> Result<Transmission> {
        let settings = world.folder(&format!("transmission-{}", address.port()))?;
        let control = SocketAddrV4::new(*address.ip(), CONTROL_PORT);
        let wanted = json!({
            "bind-address-ipv4": address.ip(), "peer-port": address.port(),
            "rpc-bind-address": address.ip(), "rpc-port": control.port(), "rpc-whitelist-enabled": false,
            "dht-enabled": false, "pex-enabled": false, "lpd-enabled": false, "port-forwarding-enabled": false,
            "utp-enabled": false, "encryption": if manners.encrypted { 2 } else { 1 },
        });
        fs::write(settings.join("settings.json"), wanted.to_string())?;
        let mut command = Command::new("transmission-daemon");
        command.args(["--foreground", "--config-dir"]).arg(settings);
        let process = world.start("transmission", &mut command)?;
        let mut daemon = Transmission { process, control, session: String::new() };
        wait_until("transmission-daemon answers", || {
            daemon.process.still_running()?;
            Ok(daemon.call("session-get", json!({})).is_ok())
        })?;
        daemon.call("torrent-add", json!({ "filename": torrent.file, "download-dir": folder }))?;
        Ok(daemon)
    }

    fn call(&mut self, method: &str, arguments: Value) -> Result<Value> {
        let body = json!({ "method": method, "arguments": arguments }).to_string();
        for _ in 0..2 {
            let session = [("X-Transmission-Session-Id", self.session.as_str())];
            let reply = http::post(self.control, "/transmission/rpc", &session, body.as_bytes())?;
            // The first answer only says the session's id, against forged requests.
            if reply.status == 409 {
                self.session = reply.header("X-Transmission-Session-Id").context("a session id")?.to_owned();
                continue;
            }
            let answer = reply.json()?;
            ensure!(answer["result"] == "success", "{method}: {answer}");
            return Ok(answer["arguments"].clone());
        }
        anyhow::bail!("transmission-daemon forgot its session id")
    }
}

impl Control for Transmission {
    fn state(&mut self) -> Result<State> {
        let answer = self.call("torrent-get", json!({ "fields": ["status", "leftUntilDone", "errorString"] }))?;
        let torrent = &answer["torrents"][0];
        Ok(match (torrent["status"].as_u64(), torrent["leftUntilDone"].as_u64()) {
            (Some(6), Some(0)) => State::Complete,
            (Some(4), Some(1..)) => State::Downloading,
            _ => State::Starting,
        })
    }

    fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
