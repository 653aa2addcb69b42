//! qbittorrent-nox, driven by its Web API. A profile made beforehand accepts the legal notice and lets this host in
//! without a password.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Control, Manners, State};
use crate::http;
use crate::payload::Torrent;
use crate::world::{Process, World, wait_until};

/// A running qbittorrent-nox with one torrent.
pub(crate) struct Qbittorrent {
    process: Process,
    control: SocketAddrV4,
}

impl Qbittorrent {
    /// Starts qbittorrent-nox and gives it the torrent.
    pub(crate) fn start(
        world: &World,
        torrent: &Torrent,
        folder: &Path,
        address: SocketAddrV4,
        manners: Manners,
    ) -> Result<Qbittorrent> {
        let profile = world.folder(&format!("qbittorrent-{}", address.port()))?;
        let control = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8000 + address.port() % 1000);
        let config = profile.join("qBittorrent/config");
        fs::create_dir_all(&config)?;
        fs::write(
            config.join("qBittorrent.conf"),
            format!(
                "[LegalNotice]\nAccepted=true\n\n[Preferences]\nWebUI\\LocalHostAuth=false\nWebUI\\Address=127.0.0.1\n\
                 WebUI\\Port={}\nWebUI\\UseUPnP=false\n\n[Network]\nPortForwardingEnabled=false\n\n[BitTorrent]\n\
                 Session\\Port={}\nSession\\InterfaceAddress={}\nSession\\DHTEnabled=false\nSession\\PeXEnabled=false\n\
                 Session\\LSDEnabled=false\nSession\\MultiConnectionsPerIp=true\nSession\\Encryption={}\n",
                control.port(),
                address.port(),
                address.ip(),
                u8::from(manners.encrypted),
            ),
        )?;
        let mut command = Command::new("qbittorrent-nox");
        command.arg(format!("--profile={}", profile.display()));
        let process = world.start("qbittorrent", &mut command)?;
        let mut running = Qbittorrent { process, control };
        wait_until("qbittorrent-nox answers", || {
            running.process.still_running()?;
            Ok(http::get(control, "/api/v2/app/version").is_ok_and(|reply| reply.status == 200))
        })?;
        running.add(torrent, folder)?;
        Ok(running)
    }

    fn add(&self, torrent: &Torrent, folder: &Path) -> Result<()> {
        const EDGE: &str = "----castanet-interop-form";
        let folder = folder.to_str().context("a folder named in UTF-8")?;
        let mut form = format!("--{EDGE}\r\nContent-Disposition: form-data; name=\"savepath\"\r\n\r\n{folder}\r\n");
        form += &format!(
            "--{EDGE}\r\nContent-Disposition: form-data; name=\"torrents\"; filename=\"a.torrent\"\r\n\
             Content-Type: application/x-bittorrent\r\n\r\n"
        );
        let body = [form.as_bytes(), &fs::read(&torrent.file)?, format!("\r\n--{EDGE}--\r\n").as_bytes()].concat();
        let kind = format!("multipart/form-data; boundary={EDGE}");
        let reply = http::post(self.control, "/api/v2/torrents/add", &[("Content-Type", &kind)], &body)?;
        ensure!(reply.body == b"Ok.", "qBittorrent refused: {}", String::from_utf8_lossy(&reply.body));
        Ok(())
    }
}

impl Control for Qbittorrent {
    fn state(&mut self) -> Result<State> {
        let answer = http::get(self.control, "/api/v2/torrents/info")?.json()?;
        let torrent = answer.get(0).context("no torrent yet")?;
        Ok(match (torrent["state"].as_str(), torrent["progress"].as_f64()) {
            (Some("uploading" | "stalledUP" | "forcedUP" | "queuedUP"), Some(1.0)) => State::Complete,
            (Some("downloading" | "stalledDL" | "forcedDL"), _) => State::Downloading,
            _ => State::Starting,
        })
    }

    fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
