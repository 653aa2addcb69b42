//! Castanet and each of the programs, in both directions: what arrives is what was sent, to the byte.

use anyhow::Result;

use crate::castanet::Castanet;
use crate::payload::{self, Shape};
use crate::programs::opentracker::{self, Opentracker};
use crate::programs::{Program, State};
use crate::world;

/// A tracker that is down: rtorrent takes no torrent without any.
const NOBODY: &str = "http://10.77.0.1:9/announce";

/// The program seeds; `castanet get --peer` fetches.
fn castanet_gets(from: Program, shape: Shape, piece_length: usize) {
    world::test(|world| -> Result<()> {
        let torrent = payload::make(world, shape, 2, piece_length, &[NOBODY])?;
        let seed = from.seed(world, &torrent)?;
        let folder = world.folder("get")?;
        let peer = seed.address.to_string();
        Castanet::get(world, &torrent.file, &folder, &["--peer", &peer])?.complete()?;
        torrent.same_in(&folder, false)
    });
}

/// `castanet seed --peer` dials the program, which fetches.
fn castanet_seeds(to: Program, shape: Shape, piece_length: usize) {
    world::test(|world| -> Result<()> {
        let torrent = payload::make(world, shape, 3, piece_length, &[NOBODY])?;
        let folder = world.folder("leech")?;
        let mut leech = to.leech(world, &torrent, &folder)?;
        let peer = leech.address.to_string();
        let seed = Castanet::seed(world, &torrent.file, &torrent.folder, &["--peer", &peer])?;
        leech.wait_for(State::Complete)?;
        seed.interrupt()?;
        drop(leech);
        torrent.same_in(&folder, to.skips_empty_files())
    });
}

/// `castanet seed` announces itself; the program finds it by the tracker, dials and fetches.
fn castanet_is_found(to: Program, shape: Shape, piece_length: usize) {
    world::test(|world| -> Result<()> {
        let address = world.host();
        let torrent = payload::make(world, shape, 4, piece_length, &[&opentracker::http_url(address)])?;
        let tracker = Opentracker::start(world, address, &[&torrent.info_hash])?;
        let seed = Castanet::seed(world, &torrent.file, &torrent.folder, &[])?;
        tracker.wait_for_seed(&torrent.info_hash)?;
        let folder = world.folder("leech")?;
        let mut leech = to.leech(world, &torrent, &folder)?;
        leech.wait_for(State::Complete)?;
        seed.interrupt()?;
        drop(leech);
        torrent.same_in(&folder, to.skips_empty_files())
    });
}

macro_rules! with {
    ($($module:ident: $program:ident;)*) => {$(
        mod $module {
            use super::{Program, Shape};

            const SMALL: usize = 16 * 1024;
            const LARGE: usize = 4 * 1024 * 1024;

            #[test]
            fn gets_one_file_in_small_pieces() {
                super::castanet_gets(Program::$program, Shape::OneFile, SMALL);
            }

            #[test]
            fn gets_one_file_in_large_pieces() {
                super::castanet_gets(Program::$program, Shape::OneFile, LARGE);
            }

            #[test]
            fn gets_many_files_in_small_pieces() {
                super::castanet_gets(Program::$program, Shape::ManyFiles, SMALL);
            }

            #[test]
            fn gets_many_files_in_large_pieces() {
                super::castanet_gets(Program::$program, Shape::ManyFiles, LARGE);
            }

            #[test]
            fn seeds_one_file_in_small_pieces() {
                super::castanet_is_found(Program::$program, Shape::OneFile, SMALL);
            }

            #[test]
            fn seeds_one_file_in_large_pieces() {
                super::castanet_seeds(Program::$program, Shape::OneFile, LARGE);
            }

            #[test]
            fn seeds_many_files_in_small_pieces() {
                super::castanet_seeds(Program::$program, Shape::ManyFiles, SMALL);
            }

            #[test]
            fn seeds_many_files_in_large_pieces() {
                super::castanet_is_found(Program::$program, Shape::ManyFiles, LARGE);
            }
        }
    )*};
}

with! {
    libtorrent: Libtorrent;
    transmission: Transmission;
    aria2: Aria2;
    qbittorrent: Qbittorrent;
    rtorrent: Rtorrent;
}
