//! Panics in the middle of everything: whatever dies takes its children along.

use super::*;

#[derive(Message)]
#[rtype(result = "()")]
struct Crash;

impl Handler<Crash> for Torrent {
    type Result = ();
    fn handle(&mut self, _: Crash, _: &mut Context<Self>) {
        panic!("as the test wants it");
    }
}

/// Whether all torrents crash, or the session.
#[derive(Message)]
#[rtype(result = "()")]
struct CrashNow {
    torrents: bool,
}

impl Handler<CrashNow> for Session {
    type Result = ();
    fn handle(&mut self, CrashNow { torrents }: CrashNow, _: &mut Context<Self>) {
        assert!(torrents, "as the test wants it");
        for running in self.torrents.values() {
            tell(&running.addr.clone().recipient(), Crash);
        }
    }
}

#[actix::test]
async fn a_torrent_or_session_that_panics_leaves_nothing_running() {
    tokio::time::pause();
    for torrents in [true, false] {
        let machine = Machine::new(40);
        let mut world = machine
            .start(0, Config { limits: Limits { down: Some(1 << 20), ..Limits::default() }, ..Config::default() });
        world.script.peers.lock().unwrap().push(host(9));
        let mut added = world.add(machine.spec()).await;
        machine.seed(world.dialled.recv().await.unwrap().1, 9, None);
        let mut leech = world.arrive(host(8));
        leech.shake(machine.handshake(8)).await.unwrap();
        added.state.wait_for(|state| state.have >= 5).await.unwrap();
        let _ = world.session.send(CrashNow { torrents }).await;
        assert!(leech.until(|_| None::<()>).await.is_none());
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(added.state.has_changed().is_err(), "the torrent is gone");
        world.assert_empty(&machine);
        if torrents {
            assert!(world.session.send(GetSession).await.unwrap().torrents.is_empty());
            let mut again = world.add(machine.spec()).await;
            until(&mut again, Phase::Downloading).await;
            world.shut_down().await;
        }
    }
}
