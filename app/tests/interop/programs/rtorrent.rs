//! rtorrent without its screen, driven by XML-RPC over SCGI.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Control, State};
use crate::payload::Torrent;
use crate::world::{Process, World};

/// A running rtorrent with one torrent.
pub(crate) struct Rtorrent {
    process: Process,
    control: SocketAddrV4,
}

impl Rtorrent {
    /// Starts rtorrent on the torrent.
    pub(crate) fn start(world: &World, torrent: &Torrent, folder: &Path, address: SocketAddrV4) -> Result<Rtorrent> {
        let control = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5000 + address.port() % 1000);
        let session = world.folder(&format!("rtorrent-{}", address.port()))?;
        let options = [
            "system.daemon.set=true".to_owned(),
            format!("session.path.set={}", session.display()),
            format!("directory.default.set={}", folder.display()),
            format!("network.bind_address.set={}", address.ip()),
            format!("network.port_range.set={0}-{0}", address.port()),
            "network.port_random.set=no".to_owned(),
            format!("network.scgi.open_port={control}"),
            "dht.mode.set=disable".to_owned(),
            "protocol.pex.set=no".to_owned(),
            "trackers.use_udp.set=yes".to_owned(),
        ];
        let mut command = Command::new("rtorrent");
        command.arg("-n");
        for option in options {
            command.args(["-o", &option]);
        }
        command.arg(&torrent.file).env("TERM", "dumb");
        Ok(Rtorrent { process: world.start("rtorrent", &mut command)?, control })
    }

    fn call(&self, method: &str, parameters: &[&str]) -> Result<String> {
        let parameters: String = parameters
            .iter()
            .map(|parameter| format!("<param><value><string>{parameter}</string></value></param>"))
            .collect();
        let body = format!("<methodCall><methodName>{method}</methodName><params>{parameters}</params></methodCall>");
        let headers = format!("CONTENT_LENGTH\0{}\0SCGI\01\0", body.len());
        let mut stream = TcpStream::connect(self.control)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(format!("{}:{headers},{body}", headers.len()).as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Control for Rtorrent {
    fn state(&mut self) -> Result<State> {
        let answer = self.call("d.multicall2", &["", "main", "d.complete=", "d.hashing=", "d.is_active="])?;
        let numbers: Vec<&str> = answer.split("<i8>").skip(1).filter_map(|rest| rest.split('<').next()).collect();
        let (complete, checking, active) = match numbers[..] {
            [complete, checking, active] => (complete == "1", checking != "0", active == "1"),
            _ => return None.with_context(|| format!("no torrent yet: {answer}")),
        };
        Ok(match (active && !checking, complete) {
            (false, _) => State::Starting,
            (true, false) => State::Downloading,
            (true, true) => State::Complete,
        })
    }

    fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
