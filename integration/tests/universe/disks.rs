//! Disks that are full, read-only, or come back.

use castanet::Happening;
use castanet_integration::{payload::Payload, universe::universe};

use crate::{KIB, MIB, complete};

const PIECE: usize = 64 * KIB;

#[test]
fn a_full_disk_is_told_in_words_and_nothing_is_fetched_twice() {
    let payload = Payload::one_file("cargo", 4 * MIB, PIECE as u32, 1);
    universe(1, async |world| {
        let hosts = world.hosts(2).await;
        hosts[0].seed(&payload).await;
        hosts[1].disk().set_capacity(Some(2 * MIB as u64));
        let mut leeching = hosts[1].leech(&payload, &hosts).await;
        let reason = leeching.completed().await.unwrap_err();
        assert!(reason.contains("cargo") && (reason.contains("full") || reason.contains("space")), "{reason}");
        let before = leeching.state();
        assert!(before.have as usize * PIECE > MIB, "{before:?}");
        assert!(hosts[1].engine().remove(leeching.id()).await);

        hosts[1].disk().set_capacity(None);
        let mut again = hosts[1].leech(&payload, &hosts).await;
        let had = loop {
            if let Happening::Started { have } = again.next_event().await.expect("it starts").what {
                break have;
            }
        };
        assert!(had >= before.have, "of {} pieces {had} are left", before.have);
        complete(&mut again).await;
        crate::seconds(2).await;
        let missing = (again.state().pieces - had) as usize * PIECE;
        let fetched = again.state().downloaded as usize;
        assert!(fetched <= missing + missing / 10, "{fetched} bytes fetched where {missing} were missing");
        assert_eq!(hosts[1].difference(&payload), None);
    });
}

#[test]
fn a_read_only_disk_is_told_in_words() {
    let payload = Payload::folder("ship", &[("a", MIB), ("empty", 0)], PIECE as u32, 1);
    universe(2, async |world| {
        let hosts = world.hosts(2).await;
        hosts[0].seed(&payload).await;
        hosts[1].disk().set_read_only(true);
        let mut leeching = hosts[1].leech(&payload, &hosts).await;
        let reason = leeching.completed().await.unwrap_err();
        assert!(reason.contains("read-only"), "{reason}");
    });
}

#[test]
fn a_seed_on_a_read_only_disk_serves() {
    let payload = Payload::one_file("cargo", MIB, PIECE as u32, 1);
    universe(3, async |world| {
        let hosts = world.hosts(2).await;
        hosts[0].seed(&payload).await;
        hosts[0].disk().set_read_only(true);
        let mut leeching = hosts[1].leech(&payload, &hosts).await;
        complete(&mut leeching).await;
        assert_eq!(hosts[1].difference(&payload), None);
    });
}

#[test]
fn a_seed_whose_file_vanishes_refuses_and_the_rest_comes_from_another() {
    let payload = Payload::one_file("cargo", 2 * MIB, PIECE as u32, 1);
    universe(4, async |world| {
        let hosts = world.hosts(3).await;
        for seed in &hosts[..2] {
            seed.set_uplink(Some(256 * KIB as u64));
            seed.seed(&payload).await;
        }
        let mut leeching = hosts[2].leech(&payload, &hosts).await;
        crate::seconds(1).await;
        hosts[0].disk().remove("/downloads/cargo".as_ref());
        complete(&mut leeching).await;
        assert_eq!(hosts[2].difference(&payload), None);
    });
}
