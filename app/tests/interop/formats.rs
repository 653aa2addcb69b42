//! BitTorrent v2's torrents before its turn: a hybrid is fetched by its v1 half, a v2-only one is refused in words.

use anyhow::{Context, Result, ensure};

use crate::castanet::{Castanet, refusal};
use crate::payload::{self, Shape};
use crate::programs::Program;
use crate::world;

#[test]
fn a_hybrid_by_its_v1_half() {
    world::test(|world| -> Result<()> {
        let torrent = payload::make_as(world, "hybrid", Shape::ManyFiles, 9, 64 * 1024, &[])?;
        let seed = Program::Libtorrent.seed(world, &torrent)?;
        let folder = world.folder("get")?;
        let peer = seed.address.to_string();
        Castanet::get(world, &torrent.file, &folder, &["--peer", &peer])?.complete()?;
        torrent.same_in(&folder, false)
    });
}

#[test]
fn v2_alone_is_refused_in_one_sentence() {
    world::test(|world| -> Result<()> {
        let torrent = payload::make_as(world, "v2", Shape::OneFile, 10, 64 * 1024, &[])?;
        let folder = world.folder("get")?;
        let folder = folder.to_str().context("a folder named in UTF-8")?;
        let file = torrent.file.to_str().context("a file named in UTF-8")?;
        let said = refusal(&["get", "-o", folder, "--no-dht", "--no-lsd", "--port-mapping", "off", file])?;
        ensure!(said.contains("v2"), "it should name what it cannot do: {said}");
        Ok(())
    });
}
