//! Tests of the session and its torrents, whole, against remotes that the test plays.

mod crash;
mod mapping;
mod network;
mod world;

use std::sync::atomic::Ordering;

use castanet_core::{
    PieceIndex,
    seams::resume::{ResumeKey, ResumeStore},
};
use castanet_protocol::wire::Message as Wire;

use self::world::*;
use super::*;
use crate::{
    messages::{
        session::TorrentSpec,
        torrent::{Happening, Phase, TorrentSnapshot},
    },
    shared::{Config, Limits},
    testing::{Mood, settle},
};

#[actix::test]
async fn a_torrent_is_fetched_saved_and_believed_after_a_restart() {
    tokio::time::pause();
    let machine = Machine::new(40);
    let mut world = machine.start(0, Config::default());
    world.script.peers.lock().unwrap().push(host(9));
    let mut added = world.add(machine.spec()).await;
    let (to, remote) = world.dialled.recv().await.unwrap();
    assert_eq!(to, host(9));
    machine.seed(remote, 9, None);
    // A second peer, with nothing, is told of all pieces.
    let mut leech = world.arrive(host(8));
    leech.shake(machine.handshake(8)).await.unwrap();
    leech.send(Wire::HaveNone).await;
    let state = until(&mut added, Phase::Seeding).await;
    assert_eq!((state.left, state.have), (0, 40));
    assert_eq!(machine.disk.memory.contents("/d/file".as_ref()).unwrap(), *machine.data);
    let mut told = 0;
    while told < 40 {
        match leech.next().await.unwrap() {
            Wire::Have(_) => told += 1,
            Wire::HaveAll => told = 40,
            _ => {}
        }
    }
    world.shut_down().await;
    settle().await;
    assert!(!world.session.connected());
    world.assert_empty(&machine);
    assert!(leech.until(|_| None::<()>).await.is_none(), "connections are closed");

    let world = machine.start(0, Config::default());
    let mut added = world.add(machine.spec()).await;
    until(&mut added, Phase::Seeding).await;
    let told = events(&mut added);
    assert!(matches!(told[0], Happening::Started { have: 40 }), "{told:?}");
    assert_eq!(added.state.borrow().to_check, 0);
    world.shut_down().await;

    // Someone changes a byte behind our back: everything in that file is read again, one piece is missing.
    let mut bytes = (*machine.data).clone();
    bytes[7] ^= 1;
    machine.disk.memory.replace("/d/file".as_ref(), &bytes);
    let world = machine.start(0, Config::default());
    let mut added = world.add(machine.spec()).await;
    assert_eq!(until(&mut added, Phase::Downloading).await.have, 39);
    world.shut_down().await;
    settle().await;
    world.assert_empty(&machine);
}

#[actix::test]
async fn what_was_fetched_before_a_stop_is_believed_after_it() {
    tokio::time::pause();
    let machine = Machine::new(100);
    let world = machine.start(0, Config::default());
    let mut added = world.add(machine.spec()).await;
    until(&mut added, Phase::Downloading).await;
    let mut remote = world.arrive(host(9));
    remote.shake(machine.handshake(9)).await.unwrap();
    remote.send(Wire::HaveAll).await;
    remote.send(Wire::Unchoke).await;
    // The remote gives two whole pieces, and one more block at the very moment of the end.
    for n in 0..9 {
        let block = remote.until(|message| if let Wire::Request(block) = message { Some(block) } else { None }).await;
        let block = block.unwrap();
        let at = (block.piece.0 * PIECE + block.begin) as usize;
        let data = machine.data[at..at + block.length as usize].to_vec().into();
        if n == 8 {
            added.state.wait_for(|state| state.have == 2).await.unwrap();
        }
        remote.send(Wire::Piece { block, data }).await;
    }
    world.shut_down().await;
    settle().await;
    world.assert_empty(&machine);
    let world = machine.start(0, Config::default());
    let mut added = world.add(machine.spec()).await;
    assert_eq!(until(&mut added, Phase::Downloading).await.have, 2);
    let record = machine.resume.load(&ResumeKey {
        info_hashes: machine.metainfo.info_hashes,
        root: machine.metainfo.info.layout("/d".as_ref(), Default::default()).root,
    });
    let layout = machine.metainfo.info.layout("/d".as_ref(), Default::default());
    let storage = castanet_core::seams::storage::StorageFactory::open(&machine.disk, &layout).unwrap();
    let vouched = castanet_core::seams::resume::vouched(
        &record.unwrap().unwrap(),
        &storage.stamps().unwrap(),
        &layout,
        &machine.metainfo.info.geometry(),
    );
    assert_eq!(vouched.count(), 2, "nothing was written after the files were stamped");
    world.shut_down().await;
}

#[actix::test]
async fn who_alone_gave_a_bad_piece_is_banned() {
    tokio::time::pause();
    let machine = Machine::new(10);
    let mut world = machine.start(0, Config::default());
    world.script.peers.lock().unwrap().push(host(9));
    let mut added = world.add(machine.spec()).await;
    machine.seed(world.dialled.recv().await.unwrap().1, 9, Some(3));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let told = events(&mut added);
    let rejected = |what: &&Happening| matches!(what, Happening::PieceRejected(PieceIndex(3)));
    assert_eq!(told.iter().filter(rejected).count(), 1);
    let text = "does not match";
    assert!(told.iter().any(|what| matches!(what, Happening::PeerLost { reason, .. } if reason.contains(text))));
    assert!(world.dialled.try_recv().is_err(), "it is not dialled again");
    let mut again = world.arrive(host(9));
    let _ = again.shake(machine.handshake(9)).await;
    assert!(again.until(|_| None::<()>).await.is_none(), "nor is it let in");
    // Others are.
    machine.seed(world.arrive(host(10)), 10, None);
    let state = until(&mut added, Phase::Seeding).await;
    assert!(state.wasted >= PIECE.into());
    world.shut_down().await;
    settle().await;
    world.assert_empty(&machine);
}

#[actix::test]
async fn a_disk_that_refuses_fails_the_torrent_and_not_the_session() {
    tokio::time::pause();
    let machine = Machine::new(40);
    let mut world = machine.start(0, Config::default());
    world.script.peers.lock().unwrap().push(host(9));
    let mut added = world.add(machine.spec()).await;
    machine.disk.set(Mood::Refusing);
    machine.seed(world.dialled.recv().await.unwrap().1, 9, None);
    let failed = |state: &TorrentSnapshot| matches!(&state.phase, Phase::Failed(why) if why.contains("disk is full"));
    added.state.wait_for(failed).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((added.state.borrow().peers, world.shared.budget.in_use()), (0, 0));
    assert_eq!(Arc::strong_count(&world.script.alive), 1, "nobody looks for peers of a failed torrent");
    assert!(failed(&added.state.borrow()));
    assert_eq!(world.session.send(GetSession).await.unwrap().torrents, [added.torrent]);
    assert!(matches!(world.session.send(AddTorrent(machine.spec())).await.unwrap(), Err(AddError::Duplicate)));
    assert!(world.session.send(RemoveTorrent(added.torrent)).await.unwrap());
    machine.disk.set(Mood::Well);
    // It can be added again at once.
    let mut added = world.add(machine.spec()).await;
    until(&mut added, Phase::Downloading).await;
    world.shut_down().await;
    settle().await;
    world.assert_empty(&machine);
}

#[actix::test]
async fn a_plugin_that_panics_is_made_anew_and_put_to_work_again() {
    tokio::time::pause();
    let machine = Machine::new(2);
    let mut world = machine.start(0, Config::default());
    world.script.panics.store(true, Ordering::Relaxed);
    let mut added = world.add(machine.spec()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let built = world.script.built.load(Ordering::Relaxed);
    assert!((3..8).contains(&built), "pauses grow: {built}");
    world.script.panics.store(false, Ordering::Relaxed);
    world.script.peers.lock().unwrap().push(host(9));
    machine.seed(world.dialled.recv().await.unwrap().1, 9, None);
    until(&mut added, Phase::Seeding).await;
    world.shut_down().await;
    settle().await;
    world.assert_empty(&machine);
}

#[actix::test]
async fn a_disk_that_hangs_does_not_hold_up_the_end() {
    tokio::time::pause();
    let machine = Machine::new(2);
    let world = machine.start(1, Config::default());
    let mut added = world.add(machine.spec()).await;
    until(&mut added, Phase::Downloading).await;
    machine.disk.set(Mood::Hanging);
    world.shut_down().await;
    settle().await;
    assert!(!world.session.connected());
    machine.disk.set(Mood::Well);
}

#[actix::test]
async fn a_torrent_may_be_stopped_at_any_moment_of_its_start() {
    tokio::time::pause();
    let machine = Machine::new(300);
    machine.disk.memory.replace("/d/file".as_ref(), &machine.data);
    let world = machine.start(0, Config::default());
    world.script.peers.lock().unwrap().push(host(9));
    for steps in 0..60 {
        let added = world.add(TorrentSpec { recheck: true, ..machine.spec() }).await;
        for _ in 0..steps {
            tokio::task::yield_now().await;
        }
        assert!(world.session.send(RemoveTorrent(added.torrent)).await.unwrap());
        assert!(!world.session.send(ResumeTorrent(added.torrent)).await.unwrap());
        settle().await;
        world.assert_empty(&machine);
        assert_eq!(added.state.borrow().phase, Phase::Paused, "it went on after {steps} steps");
    }
    world.shut_down().await;
}

#[actix::test]
async fn a_pause_closes_everything_and_may_end() {
    tokio::time::pause();
    let machine = Machine::new(20);
    let mut world =
        machine.start(0, Config { limits: Limits { down: Some(1 << 18), ..Limits::default() }, ..Config::default() });
    let mut added = world.add(machine.spec()).await;
    until(&mut added, Phase::Downloading).await;
    machine.seed(world.arrive(host(9)), 9, None);
    added.state.wait_for(|state| state.have >= 2).await.unwrap();
    assert!(world.session.send(PauseTorrent(added.torrent)).await.unwrap());
    until(&mut added, Phase::Paused).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((added.state.borrow().peers, world.shared.budget.in_use()), (0, 0));
    assert!(world.shared.doors.read().unwrap().is_empty() && !machine.is_free());
    let mut refused = world.arrive(host(9));
    assert!(refused.shake(machine.handshake(9)).await.is_none());
    world.script.peers.lock().unwrap().push(host(9));
    assert!(world.session.send(ResumeTorrent(added.torrent)).await.unwrap());
    machine.seed(world.dialled.recv().await.unwrap().1, 9, None);
    until(&mut added, Phase::Seeding).await;
    assert_eq!(machine.disk.memory.contents("/d/file".as_ref()).unwrap(), *machine.data);
    world.shut_down().await;
    settle().await;
    world.assert_empty(&machine);
}
