//! aria2c, driven by its JSON-RPC.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Control, State};
use crate::http;
use crate::payload::Torrent;
use crate::world::{Process, World};

/// A running aria2c with one torrent.
pub(crate) struct Aria2 {
    process: Process,
    control: SocketAddrV4,
}

impl Aria2 {
    /// Starts aria2c, which goes on as a seed once it is complete.
    pub(crate) fn start(world: &World, torrent: &Torrent, folder: &Path, address: SocketAddrV4) -> Result<Aria2> {
        // aria2 offers its remote control on 127.0.0.1 only.
        let control = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9000 + address.port() % 1000);
        let mut command = Command::new("aria2c");
        command
            .args(["--no-conf", "--enable-rpc", "--seed-ratio=0.0", "--check-integrity=true", "--file-allocation=none"])
            .args(["--enable-dht=false", "--enable-dht6=false", "--enable-peer-exchange=false"])
            .args(["--bt-enable-lpd=false", "--disable-ipv6=true", "--allow-overwrite=true"])
            .arg(format!("--rpc-listen-port={}", control.port()))
            .arg(format!("--listen-port={}", address.port()))
            .arg(format!("--interface={}", address.ip()))
            .arg(format!("--dir={}", folder.display()))
            .arg(&torrent.file);
        Ok(Aria2 { process: world.start("aria2", &mut command)?, control })
    }
}

impl Control for Aria2 {
    fn state(&mut self) -> Result<State> {
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "aria2.tellActive" });
        let answer = http::post(self.control, "/jsonrpc", &[], call.to_string().as_bytes())?.json()?;
        let task = answer["result"].get(0).context("no task yet")?;
        let bytes = |key| task.get(key).and_then(Value::as_str).and_then(|text| text.parse::<u64>().ok());
        Ok(match (bytes("completedLength"), bytes("totalLength")) {
            _ if task.get("verifiedLength").is_some() || task.get("verifyIntegrityPending").is_some() => {
                State::Starting
            }
            (Some(done), Some(total)) if done == total && task["seeder"] == "true" => State::Complete,
            (Some(_), Some(1..)) => State::Downloading,
            _ => State::Starting,
        })
    }

    fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
