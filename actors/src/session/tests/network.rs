//! An interface that everything is held to goes, comes back, and is another one.

use castanet_core::seams::datagrams::{Only, WaysOut};
use castanet_protocol::diagnosis::ReasonKind;

use super::*;

fn held(ip: Option<[u8; 4]>, device: u32) -> WaysOut {
    let only = Only { name: "wg0".into(), device: ip.map(|_| device), changes: 0 };
    WaysOut { from: [ip.map(Into::into), None], only: Some(only) }
}

/// So that a torrent is still there after a while.
fn slowly() -> Config {
    Config { limits: Limits { down: Some(64 << 10), ..Limits::default() }, ..Config::default() }
}

fn notices(added: &mut TorrentAdded) -> Vec<String> {
    let notice = |what| if let Happening::Notice(text) = what { Some(text) } else { None };
    events(added).into_iter().filter_map(notice).collect()
}

async fn a_look_later() {
    tokio::time::sleep(LOOK_AROUND + Duration::from_secs(1)).await;
}

#[actix::test]
async fn everything_waits_while_the_interface_is_gone_and_goes_on_when_it_is_back() {
    tokio::time::pause();
    let machine = Machine::new(40);
    let mut world = machine.start_by(0, slowly(), held(Some([10, 8, 0, 2]), 5));
    world.script.peers.lock().unwrap().push(host(9));
    let mut added = world.add(machine.spec()).await;
    machine.seed(world.dialled.recv().await.unwrap().1, 9, None);
    added.state.wait_for(|state| state.have >= 1).await.unwrap();
    let heard = || world.script.heard.load(Ordering::Relaxed);

    *world.script.ways.lock().unwrap() = held(None, 5);
    a_look_later().await;
    assert_eq!(notices(&mut added), ["wg0 is gone; everything waits until it is back"]);
    assert_eq!((added.state.borrow().peers, world.shared.listening().len(), heard()), (0, 0, 0));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(world.dialled.try_recv().is_err(), "nobody is dialled");
    let why = added.state.borrow().why.clone().unwrap();
    assert_eq!(why.kinds(), [ReasonKind::Away]);
    assert_eq!(why.to_string(), "wg0 is gone; everything waits until it is back");

    // Back as another device with another address: we listen anew, at the same port.
    *world.script.ways.lock().unwrap() = held(Some([10, 8, 0, 3]), 6);
    a_look_later().await;
    assert_eq!(notices(&mut added), ["wg0 is back"]);
    assert_eq!((world.script.listened.lock().unwrap().clone(), heard()), (vec![host(1)], 1));
    assert_eq!(world.shared.listening(), [host(1)]);
    machine.seed(world.dialled.try_recv().unwrap().1, 9, None);
    let have = added.state.borrow().have;
    added.state.wait_for(|state| state.have > have).await.unwrap();

    // Replaced between two looks: what was open is dead, though nobody noticed that it was gone.
    *world.script.ways.lock().unwrap() = held(Some([10, 8, 0, 3]), 7);
    a_look_later().await;
    assert_eq!(notices(&mut added), ["wg0 is another one by now; everything connects anew"]);
    machine.seed(world.dialled.try_recv().unwrap().1, 9, None);
    until(&mut added, Phase::Seeding).await;
    assert_eq!(heard(), 2);
    world.shut_down().await;
    settle().await;
    world.assert_empty(&machine);
}

#[actix::test]
async fn who_cannot_listen_yet_tries_again() {
    tokio::time::pause();
    let machine = Machine::new(2);
    let world = machine.start_by(0, Config::default(), held(Some([10, 8, 0, 2]), 5));
    world.script.is_deaf.store(true, Ordering::Relaxed);
    *world.script.ways.lock().unwrap() = held(Some([10, 8, 0, 2]), 6);
    a_look_later().await;
    assert!(world.shared.listening().is_empty());
    world.script.is_deaf.store(false, Ordering::Relaxed);
    a_look_later().await;
    assert_eq!(world.shared.listening(), [host(1)]);
    a_look_later().await;
    assert_eq!(world.script.listened.lock().unwrap().len(), 1, "once is enough");
    world.shut_down().await;
}

#[actix::test]
async fn without_an_interface_connections_outlive_a_change() {
    tokio::time::pause();
    let machine = Machine::new(40);
    let free = |ip: [u8; 4]| WaysOut { from: [Some(ip.into()), None], only: None };
    let mut world = machine.start_by(0, slowly(), free([192, 0, 2, 1]));
    world.script.peers.lock().unwrap().push(host(9));
    let mut added = world.add(machine.spec()).await;
    machine.seed(world.dialled.recv().await.unwrap().1, 9, None);
    added.state.wait_for(|state| state.have >= 1).await.unwrap();
    *world.script.ways.lock().unwrap() = free([192, 0, 2, 2]);
    a_look_later().await;
    assert_eq!(added.state.borrow().peers, 1);
    assert_eq!(notices(&mut added), [""; 0]);
    assert_eq!(world.script.heard.load(Ordering::Relaxed), 1);
    assert!(world.script.listened.lock().unwrap().is_empty());
    world.shut_down().await;
}
