//! opentracker as Debian builds it: it serves only the info-hashes of a white list, and never as root.

use std::fs;
use std::net::SocketAddrV4;
use std::process::Command;

use anyhow::{Context, Result};

use crate::http;
use crate::world::{Process, World, wait_for_listener, wait_until};

/// A running tracker; HTTP and UDP on one port.
pub(crate) struct Opentracker {
    _process: Process,
    address: SocketAddrV4,
}

impl Opentracker {
    /// Starts it at `address`, serving these info-hashes (hexadecimal).
    pub(crate) fn start(world: &World, address: SocketAddrV4, info_hashes: &[&str]) -> Result<Opentracker> {
        let folder = world.folder("opentracker")?;
        let list = folder.join("whitelist");
        fs::write(&list, info_hashes.join("\n") + "\n")?;
        // In a user namespace it is nobody, who still owns these files.
        let mut command = Command::new("unshare");
        command
            .args(["--user", "opentracker", "-i", &address.ip().to_string()])
            .args(["-p", &address.port().to_string(), "-P", &address.port().to_string()])
            .args([std::ffi::OsStr::new("-d"), folder.as_os_str(), "-w".as_ref(), list.as_os_str()]);
        let tracker = Opentracker { _process: world.start("opentracker", &mut command)?, address };
        wait_for_listener(address)?;
        Ok(tracker)
    }

    /// The peers of this torrent, six bytes each, as somebody hears who wants them and cannot be reached.
    pub(crate) fn peers(&self, info_hash: &str) -> Result<Vec<u8>> {
        let who = "peer_id=-XX0000-abcdefghijkl&port=1&uploaded=0&downloaded=0&left=1&compact=1";
        let reply = http::get(self.address, &format!("/announce?info_hash={}&{who}", escaped(info_hash)))?;
        let key = b"5:peers";
        let at = reply.body.windows(key.len()).position(|part| part == key).context("no peers")? + key.len();
        let (length, peers) =
            reply.body[at..].split_at(reply.body[at..].iter().position(|byte| *byte == b':').context("a length")?);
        let length: usize = std::str::from_utf8(length)?.parse()?;
        Ok(peers.get(1..=length).context("cut off")?.to_vec())
    }

    /// Waits until a complete peer of this torrent has announced itself.
    pub(crate) fn wait_for_seed(&self, info_hash: &str) -> Result<()> {
        let escaped = escaped(info_hash);
        wait_until("the tracker knows a seed", || {
            let reply = http::get(self.address, &format!("/scrape?info_hash={escaped}"))?;
            let text = String::from_utf8_lossy(&reply.body).into_owned();
            Ok(text.contains("8:completei") && !text.contains("8:completei0e"))
        })
    }
}

/// An info-hash as URLs have it.
fn escaped(info_hash: &str) -> String {
    info_hash.as_bytes().chunks(2).flat_map(|hex| ['%', hex[0].into(), hex[1].into()]).collect()
}

/// The HTTP announce URL of a tracker at `address`.
pub(crate) fn http_url(address: SocketAddrV4) -> String {
    format!("http://{address}/announce")
}

/// The UDP announce URL of a tracker at `address`.
pub(crate) fn udp_url(address: SocketAddrV4) -> String {
    format!("udp://{address}/announce")
}
