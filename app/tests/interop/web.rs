//! Web seeds (BEP 19), served by busybox: a link that needs no peer at all, and what libtorrent makes of ours.

use std::net::SocketAddrV4;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::castanet::{Castanet, LISTEN, command, named};
use crate::discovery::{link, report};
use crate::payload::{self, Shape, Torrent};
use crate::programs::session::Session;
use crate::world::{self, Process, World, wait_for_listener};

/// A web server of this folder.
pub(crate) fn serve(world: &World, folder: &Path, address: SocketAddrV4) -> Result<Process> {
    let mut busybox = Command::new("busybox");
    busybox.args(["httpd", "-f", "-p", &address.to_string(), "-h"]).arg(folder);
    let server = world.start("busybox", &mut busybox)?;
    wait_for_listener(address)?;
    Ok(server)
}

/// The link names a torrent file (`xs`) and a web seed (`ws`).
#[test]
fn a_link_by_the_web_alone() {
    world::test(|world| -> Result<()> {
        let torrent = payload::make(world, Shape::ManyFiles, 61, 16 * 1024, &[])?;
        let address = world.host();
        let _server = serve(world, &torrent.folder, address)?;
        let (folder, listen) = (world.folder("get")?, LISTEN.to_string());
        let link = link(&torrent, &format!("&xs=http://{address}/v1.torrent&ws=http://{address}/"));
        let options = ["--listen", &listen, "--plugins", "magnet"];
        let events = Castanet::get_freely(world, &link, &folder, &options)?.complete()?;
        ensure!(named(&events, "peer_found").count() == 0, "peers: {events:?}");
        let worth = report(&events, "web-seed")?;
        ensure!(worth["bytes"].as_u64() == Some(torrent.length as u64), "{worth}");
        torrent.same_in(&folder, false)
    });
}

/// `castanet create --webseed` writes what others understand.
#[test]
fn libtorrent_uses_the_web_seed_that_we_wrote() {
    world::test(|world| -> Result<()> {
        let made = payload::make(world, Shape::ManyFiles, 62, 16 * 1024, &[])?;
        let address = world.host();
        let _server = serve(world, &made.folder, address)?;
        let file = world.folder("ours")?.join("ours.torrent");
        let mut create = command(&["create", "--webseed", &format!("http://{address}/")]);
        payload::run(create.arg(made.folder.join(&made.name)).arg("-o").arg(&file))?;
        let ours = Torrent { file, ..made };
        let folder = world.folder("leech")?;
        Session::start(world, &ours, &folder, world.host(), &json!({}))?.complete()?;
        ours.same_in(&folder, true)
    });
}
