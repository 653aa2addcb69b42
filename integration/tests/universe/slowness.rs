//! "Why is it slow?": what the engine itself sees leads to the right reason.

use castanet::{Happening, TorrentHandle};
use castanet_integration::{payload::Payload, universe::universe};

use crate::{KIB, MIB, complete, seconds};

const PIECE: u32 = 64 * KIB as u32;

/// The names of the reasons given now.
fn reasons(handle: &TorrentHandle) -> Vec<&'static str> {
    handle.state().why.map(|why| why.names()).unwrap_or_default()
}

#[test]
fn pieces_that_nobody_has_are_missed() {
    let payload = Payload::one_file("cargo", 4 * MIB, PIECE, 1);
    universe(1, async |world| {
        let hosts = world.hosts(3).await;
        hosts[0].set_uplink(Some(256 * KIB as u64));
        hosts[0].seed(&payload).await;
        let mut first = hosts[1].leech(&payload, &hosts).await;
        let second = hosts[2].leech(&payload, &hosts).await;
        let mut events = first.events();
        seconds(8).await;
        hosts[0].kill().await;
        seconds(30).await;
        let (missing, why) = (first.state().pieces - first.state().have, first.state().why.expect("it is stalled"));
        assert!(missing > 0 && first.state().have == second.state().have, "{:?}", first.state());
        assert_eq!(why.names(), ["nothing_new", "missing_pieces"], "{why}");
        assert!(why.to_string().contains(&format!("nobody connected has {missing} of the pieces")), "{why}");
        let mut told = std::iter::from_fn(|| events.try_recv().ok());
        let stalled = told.find_map(|event| match event.what {
            Happening::Stalled(why) => Some(why),
            _ => None,
        });
        assert_eq!(stalled, Some(why.to_string()), "the first reason told is the right one");
        hosts[0].start().await;
        hosts[0].seed(&payload).await;
        complete(&mut first).await;
        assert_eq!(reasons(&first), [""; 0]);
    });
}
