//! Rate limits: how exactly they hold, at every level and while they change; who shares them how; and what they must not do.

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use castanet::{EngineBuilder, Happening, Limits, Torrent};
use castanet_core::{BLOCK_LENGTH, BlockRef, PieceIndex};
use castanet_integration::{
    counted::{Count, Counted},
    payload::Payload,
    universe::{Host, Stranger, Universe, strange_id, universe},
};
use castanet_protocol::wire::Message;

use crate::{KIB, MIB, complete, seconds};

/// Bytes a second, down and up, over so many seconds from now on.
async fn rates(count: &Count, over: u64) -> [u64; 2] {
    let before = count.all();
    seconds(over).await;
    let after = count.all();
    [0, 1].map(|way| (after[way] - before[way]) / over)
}

/// The first host of a world, with its bytes counted.
async fn first_host(world: &Universe, setup: impl Fn(EngineBuilder) -> EngineBuilder + 'static) -> (Host, Count) {
    let inner = world.net().host(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
    let count = Count::default();
    let counting = count.clone();
    let host = world
        .host_with(move |engine| {
            let transport = Counted::new(Arc::new(inner.clone()), counting.clone());
            setup(engine).transports(vec![Arc::new(transport)])
        })
        .await;
    assert_eq!(host.ip(), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), "it is the first");
    (host, count)
}

fn is_near(rate: u64, limit: u64) -> bool {
    rate.abs_diff(limit) * 20 <= limit
}

#[test]
fn a_download_limit_holds_over_any_ten_seconds() {
    for (rate, seeds) in [(10 * KIB as u64, 1), (10 * KIB as u64, 20), (MIB as u64, 1), (MIB as u64, 8)] {
        let payload = Payload::one_file("cargo", (rate * 40) as usize, 64 * KIB as u32, 1);
        universe(1, async |world| {
            let (leech, count) = first_host(world, move |engine| engine.max_down(Some(rate))).await;
            let hosts = world.hosts(seeds).await;
            for host in &hosts {
                host.seed(&payload).await;
            }
            let mut leeching = leech.leech(&payload, &hosts).await;
            // From the very first byte on: what comes at the beginning must not be a burst.
            let now = rates(&count, 10).await;
            assert!(now[0] <= rate + rate / 20, "{} of {rate} by {seeds} at the beginning", now[0]);
            for _ in 0..2 {
                let now = rates(&count, 10).await;
                assert!(is_near(now[0], rate), "{} of {rate} by {seeds}", now[0]);
            }
            complete(&mut leeching).await;
            let state = leeching.state();
            // A torrent that is hardly larger than what is asked for at a time is all endgame, with its copies.
            let is_tiny = state.length < (seeds * 4 * 16 * KIB) as u64;
            assert!(is_tiny || state.wasted * 10 <= state.length, "{} of {} came twice", state.wasted, state.length);
        });
    }
}

#[test]
fn an_upload_limit_holds_over_any_ten_seconds() {
    for (rate, leeches) in [(10 * KIB as u64, 1), (10 * KIB as u64, 8), (MIB as u64, 1), (MIB as u64, 8)] {
        let payload = Payload::one_file("cargo", (rate * 40) as usize, 64 * KIB as u32, 1);
        universe(2, async |world| {
            let (seed, count) = first_host(world, move |engine| engine.max_up(Some(rate))).await;
            seed.seed(&payload).await;
            for leech in world.hosts(leeches).await {
                leech.leech(&payload, std::slice::from_ref(&seed)).await;
            }
            let now = rates(&count, 10).await;
            assert!(now[1] <= rate + rate / 20, "{} of {rate} by {leeches} at the beginning", now[1]);
            for _ in 0..2 {
                let now = rates(&count, 10).await;
                assert!(is_near(now[1], rate), "{} of {rate} by {leeches}", now[1]);
            }
        });
    }
}

#[test]
fn a_torrent_with_fifty_connections_gets_no_more_than_one_with_a_single_one() {
    let payloads = [1, 2].map(|seed| Payload::one_file("cargo", 4 * MIB, 64 * KIB as u32, seed));
    universe(3, async |world| {
        let (leech, count) = first_host(world, |engine| engine.max_down(Some(64 * KIB as u64))).await;
        let hosts = world.hosts(51).await;
        for host in &hosts[..50] {
            host.seed(&payloads[0]).await;
        }
        hosts[50].seed(&payloads[1]).await;
        let crowded = leech.leech(&payloads[0], &hosts[..50]).await;
        let lonely = leech.leech(&payloads[1], &hosts[50..]).await;
        seconds(20).await;
        let before = [count.all()[0], count.of(hosts[50].ip())[0]];
        seconds(60).await;
        assert_eq!([crowded.state().peers, lonely.state().peers], [50, 1]);
        let [all, loner] = [count.all()[0] - before[0], count.of(hosts[50].ip())[0] - before[1]];
        let (crowd, half) = ((all - loner) / 60, 32 * KIB as u64);
        assert!(is_near(crowd, half) && is_near(loner / 60, half), "{crowd} and {} of {half}", loner / 60);
    });
}

#[test]
fn every_level_has_limits_that_can_change_at_any_time() {
    let payload = Payload::one_file("cargo", 64 * MIB, 256 * KIB as u32, 1);
    universe(4, async |world| {
        let (leech, count) = first_host(world, |engine| engine).await;
        let hosts = world.hosts(2).await;
        for host in &hosts {
            host.set_uplink(Some(512 * KIB as u64));
            host.seed(&payload).await;
        }
        let limits = Limits { down: Some(200 * KIB as u64), ..Limits::default() };
        let others = hosts.iter().map(|host| host.addr().to_string());
        let torrent: Torrent = leech.torrent(&payload).limits(limits).peers(others);
        let leeching = leech.add(torrent).await;
        let is = async |limit: usize, what: &str| {
            // What changes takes hold at once, but what was asked for before comes in its own time.
            seconds(3).await;
            let [down, _] = rates(&count, 10).await;
            assert!(is_near(down, limit as u64), "{down} where {limit} was the limit: {what}");
        };
        let engine = leech.engine();
        is(200 * KIB, "the torrent's, from the start").await;
        engine.set_limits(Some(50 * KIB as u64), None).await;
        is(50 * KIB, "the engine's is lower").await;
        engine.set_limits(Some(300 * KIB as u64), None).await;
        is(200 * KIB, "the torrent's is lower").await;
        leeching.set_limits(None, None).await;
        is(300 * KIB, "the torrent's is gone").await;
        engine.set_peer_limits(Some(40 * KIB as u64), None).await;
        is(80 * KIB, "two connections of 40").await;
        leeching.set_peer_limits(Some(10 * KIB as u64), None).await;
        is(20 * KIB, "two connections of 10").await;
        engine.set_peer_limits(None, None).await;
        leeching.set_peer_limits(None, None).await;
        engine.set_limits(None, None).await;
        is(MIB, "what the others' lines give").await;
    });
}

#[test]
fn a_limit_is_no_reason_to_blame_peers() {
    let payload = Payload::one_file("cargo", 4 * MIB, 64 * KIB as u32, 1);
    universe(5, async |world| {
        let leech = world.host_with(|engine| engine.max_down(Some(4 * KIB as u64))).await;
        let hosts = world.hosts(30).await;
        for host in &hosts {
            host.seed(&payload).await;
        }
        let leeching = leech.leech(&payload, &hosts).await;
        let mut events = leeching.events();
        // Each has 136 bytes a second: two minutes for a block.
        seconds(900).await;
        let state = leeching.state();
        assert_eq!((state.peers, state.wasted), (30, 0));
        assert!(state.downloaded >= 800 * 4 * KIB as u64, "{} bytes", state.downloaded);
        while let Ok(event) = events.try_recv() {
            assert!(!matches!(event.what, Happening::PeerLost { .. }), "{:?}", event.what);
        }
        let why = state.why.expect("it is slow");
        assert!(why.names().contains(&"rate_limit"), "{why}");
    });
}

#[test]
fn the_local_network_is_exempt_on_request_and_nobody_else() {
    let payload = Payload::one_file("cargo", 4 * MIB, 64 * KIB as u32, 1);
    universe(6, async |world| {
        let limit = 20 * KIB as u64;
        let exempt = move |engine: EngineBuilder| engine.max_down(Some(limit)).max_up(Some(limit)).exempt_lan(true);
        let leech = world.host_with(exempt).await;
        let seed = world.host_with(exempt).await;
        seed.seed(&payload).await;
        let start = world.elapsed();
        complete(&mut leech.leech(&payload, std::slice::from_ref(&seed)).await).await;
        assert!(world.elapsed() - start < Duration::from_secs(5), "{:?}", world.elapsed() - start);

        let far = world.net().host(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)));
        let limited = world.host_with(exempt).await;
        let leeching = limited.add(limited.torrent(&payload)).await;
        seconds(1).await;
        let (payload, to) = (payload.clone(), limited.addr());
        world.let_live(async move {
            let mut stranger = Stranger::dial(&far, to).await.unwrap();
            stranger.shake(payload.metainfo.info_hashes.wire(), strange_id(1), true).await.unwrap();
            let _ = stranger.serve(&payload, |_, _| {}).await;
        });
        seconds(60).await;
        let came = leeching.state().downloaded / 60;
        assert!(came > limit / 2 && came <= limit, "{came} of {limit}");
    });
}

#[test]
fn news_overtake_blocks_that_wait_for_an_upload_limit() {
    let payload = Payload::one_file("cargo", 16 * MIB, 64 * KIB as u32, 1);
    universe(7, async |world| {
        let seed = world.host().await;
        seed.set_uplink(Some(128 * KIB as u64));
        seed.seed(&payload).await;
        let middle = world.host_with(|engine| engine.max_up(Some(10 * KIB as u64))).await;
        let leeching = middle.leech(&payload, std::slice::from_ref(&seed)).await;
        let mut events = leeching.events();
        seconds(10).await;
        // They ask for everything that they hear of, and note when they heard of it.
        let heard: Rc<RefCell<Vec<(PieceIndex, Duration)>>> = Rc::default();
        let blocks = Rc::new(RefCell::new(0));
        for letter in 1..=3 {
            let (from, to, hash) = (world.stranger(), middle.addr(), payload.metainfo.info_hashes.wire());
            let (heard, blocks, start) = (heard.clone(), blocks.clone(), tokio::time::Instant::now() - world.elapsed());
            world.let_live(async move {
                let mut stranger = Stranger::dial(&from, to).await.unwrap();
                stranger.shake(hash, strange_id(letter), true).await.unwrap();
                stranger.say(Message::HaveNone).await.unwrap();
                stranger.say(Message::Interested).await.unwrap();
                loop {
                    match stranger.hear().await {
                        Ok(Message::Have(piece)) => {
                            heard.borrow_mut().push((piece, start.elapsed()));
                            for begin in (0..64 * KIB as u32).step_by(BLOCK_LENGTH as usize) {
                                let block = BlockRef { piece, begin, length: BLOCK_LENGTH };
                                let _ = stranger.say(Message::Request(block)).await;
                            }
                        }
                        Ok(Message::Piece { .. }) => *blocks.borrow_mut() += 1,
                        Ok(_) => {}
                        Err(_) => return,
                    }
                }
            });
        }
        seconds(80).await;
        assert!(*blocks.borrow() >= 40, "{} blocks: its few bytes are spoken for", blocks.borrow());
        let mut late = Vec::new();
        while let Ok(event) = events.try_recv() {
            let Happening::Piece(piece) = event.what else { continue };
            for (_, at) in heard.borrow().iter().filter(|(heard, _)| *heard == piece) {
                late.push(at.as_secs_f64() - event.at.as_secs_f64());
            }
        }
        late.sort_by(f64::total_cmp);
        assert!(late.len() > 200, "{}", late.len());
        let (middling, last) = (late[late.len() / 2], late[late.len() - 1]);
        // One block takes 1.6 s, and who has begun one hears nothing else before its end.
        assert!(middling < 0.5 && last < 3.5, "news came {middling} s late, and {last} s at most");
    });
}
