//! `kill -9` at several moments, then the same command again: what was complete is not fetched twice.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::castanet::Castanet;
use crate::payload::{self, Shape, Torrent};
use crate::programs::libtorrent::Libtorrent;
use crate::programs::{Control, State};
use crate::world::{self, World, wait_until};

/// What the seed may upload a second: slow enough to be killed in the middle.
const LIMIT: usize = 640 * 1024;

/// Kills the download each time it has completed so many more pieces, then lets it end.
fn killed_after(pieces: &[usize], shape: Shape, piece_length: usize) {
    world::test(|world| {
        let torrent = payload::make(world, shape, 7, piece_length, &[])?;
        let address = world.host();
        let mut seed = Libtorrent::start(world, &torrent, &torrent.folder, address, LIMIT)?;
        wait_until("the seed is ready", || Ok(seed.state().is_ok_and(|state| state == State::Complete)))?;
        download(world, &torrent, &seed, &address.to_string(), pieces)
    });
}

fn download(world: &World, torrent: &Torrent, seed: &Libtorrent, peer: &str, kills: &[usize]) -> Result<()> {
    let (folder, state) = (world.folder("get")?, world.folder("state")?);
    let state = state.display().to_string();
    let start = || Castanet::get(world, &torrent.file, &folder, &["--peer", peer, "--state", &state]);

    let mut complete = BTreeSet::new();
    for (round, more) in kills.iter().enumerate() {
        let sent_before = seed.blocks_sent()?;
        let mut get = start()?;
        get.wait_for("piece", *more)?;
        get.kill()?;
        get.not_complete()?;
        let pieces = get.pieces()?;
        // What is under way to the dead still counts as sent a moment later.
        sleep(Duration::from_millis(300));
        again(&complete, seed, sent_before, round)?;
        complete.extend(pieces);
    }

    let sent_before = seed.blocks_sent()?;
    start()?.complete()?;
    sleep(Duration::from_millis(300));
    again(&complete, seed, sent_before, kills.len())?;
    torrent.same_in(&folder, false)?;

    // Once more, with nothing left to do: nothing is fetched.
    let sent_before = seed.blocks_sent()?;
    start()?.complete()?;
    ensure!(seed.blocks_sent()? == sent_before, "a complete download fetched again");
    Ok(())
}

/// Fails if the seed has sent a block of a piece that was complete before.
fn again(complete: &BTreeSet<u64>, seed: &Libtorrent, sent_before: usize, round: usize) -> Result<()> {
    let sent = seed.pieces_sent_after(sent_before)?;
    let twice: Vec<_> = sent.intersection(complete).collect();
    ensure!(twice.is_empty(), "after {round} kills, pieces {twice:?} were fetched though they had been complete");
    Ok(())
}

#[test]
fn at_the_first_piece_and_soon_after() {
    killed_after(&[1, 1, 2], Shape::OneFile, 64 * 1024);
}

#[test]
fn in_the_middle_and_near_the_end() {
    killed_after(&[50, 80], Shape::ManyFiles, 16 * 1024);
}

#[test]
fn within_large_pieces() {
    killed_after(&[1, 1], Shape::OneFile, 4 * 1024 * 1024);
}
