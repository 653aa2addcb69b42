//! The drivers themselves: the other programs among themselves, so that a failure elsewhere is Castanet's.

use anyhow::Result;

use crate::payload::{self, Shape};
use crate::programs::opentracker::{self, Opentracker};
use crate::programs::{Program, State};
use crate::world;

fn transfer(from: Program, to: Program, shape: Shape) {
    world::test(|world| -> Result<()> {
        let address = world.host();
        let torrent = payload::make(world, shape, 1, 16 * 1024, &[&opentracker::http_url(address)])?;
        let tracker = Opentracker::start(world, address, &[&torrent.info_hash])?;
        let _seed = from.seed(world, &torrent)?;
        tracker.wait_for_seed(&torrent.info_hash)?;
        let folder = world.folder("leech")?;
        let mut leech = to.leech(world, &torrent, &folder)?;
        leech.wait_for(State::Complete)?;
        drop(leech);
        torrent.same_in(&folder, to.skips_empty_files())
    });
}

#[test]
fn libtorrent_to_transmission() {
    transfer(Program::Libtorrent, Program::Transmission, Shape::ManyFiles);
}

#[test]
fn transmission_to_aria2() {
    transfer(Program::Transmission, Program::Aria2, Shape::ManyFiles);
}

#[test]
fn aria2_to_qbittorrent() {
    transfer(Program::Aria2, Program::Qbittorrent, Shape::ManyFiles);
}

#[test]
fn qbittorrent_to_rtorrent() {
    transfer(Program::Qbittorrent, Program::Rtorrent, Shape::ManyFiles);
}

#[test]
fn rtorrent_to_libtorrent() {
    transfer(Program::Rtorrent, Program::Libtorrent, Shape::ManyFiles);
}
