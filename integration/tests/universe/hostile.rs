//! Peers that lie, break the protocol or waste time: they are shut out, and the download goes on.

use std::{cell::Cell, io, net::SocketAddr, rc::Rc, time::Duration};

use bytes::Bytes;
use castanet::Happening;
use castanet_core::{BlockRef, PieceIndex};
use castanet_integration::{
    payload::Payload,
    universe::{Host, Stranger, Universe, strange_id, universe},
};
use castanet_protocol::wire::Message;
use castanet_transports::memory::MemoryTransport;
use tokio::time::timeout;

use crate::{KIB, MIB, complete, seconds};

const PIECE: u32 = 64 * KIB as u32;
const PORT: u16 = 6881;

/// A seed with a slow uplink and a leech that knows it and these strangers.
async fn couple(
    world: &Universe,
    payload: &Payload,
    strangers: &[&MemoryTransport],
) -> (Host, castanet::TorrentHandle) {
    let hosts = world.hosts(2).await;
    hosts[0].set_uplink(Some(256 * KIB as u64));
    hosts[0].seed(payload).await;
    let strangers = strangers.iter().map(|stranger| SocketAddr::new(stranger.ip(), PORT).to_string());
    let torrent = hosts[1].torrent(payload).peers([hosts[0].addr().to_string()]).peers(strangers);
    (hosts[1].clone(), hosts[1].add(torrent).await)
}

/// Serves everyone who dials; bytes go through `answer`. Counts those who came.
async fn serve(at: MemoryTransport, payload: Payload, came: Rc<Cell<u32>>, answer: fn(BlockRef, &mut Vec<u8>)) {
    let mut listener = Stranger::listen(&at, PORT).await;
    while let Ok(mut stranger) = Stranger::accept(&mut listener).await {
        came.set(came.get() + 1);
        let hash = payload.metainfo.info_hashes.wire();
        if stranger.shake(hash, strange_id(b'L'), true).await.is_ok() {
            let _ = stranger.serve(&payload, answer).await;
        }
    }
}

#[test]
fn a_liar_is_banned_and_what_it_spoiled_is_fetched_again() {
    let payload = Payload::one_file("cargo", 4 * MIB, PIECE, 1);
    universe(1, async |world| {
        let (liar, came) = (world.stranger(), Rc::new(Cell::new(0)));
        world.let_live(serve(liar.clone(), payload.clone(), came.clone(), |_, bytes| bytes[0] ^= 1));
        let (host, mut leeching) = couple(world, &payload, &[&liar]).await;
        let mut events = leeching.events();
        complete(&mut leeching).await;
        assert_eq!(host.difference(&payload), None);
        assert_eq!(came.get(), 1, "a banned peer is not dialled again");
        let mut told = (0, false);
        while let Ok(event) = events.try_recv() {
            match event.what {
                Happening::PieceRejected(_) => told.0 += 1,
                Happening::PeerLost { addr, reason } if addr.ip() == liar.ip() => told.1 |= reason.contains("hash"),
                _ => {}
            }
        }
        assert!((1..=8).contains(&told.0) && told.1, "{told:?}");
        let knock = async {
            let mut stranger = Stranger::dial(&liar, host.addr()).await?;
            stranger.shake(payload.metainfo.info_hashes.wire(), strange_id(b'M'), true).await?;
            stranger.hear().await
        };
        assert!(timeout(Duration::from_secs(60), knock).await.expect("it is told").is_err(), "and not let in again");
    });
}

#[test]
fn one_bad_block_in_fifty_is_found_out() {
    let payload = Payload::one_file("cargo", 8 * MIB, PIECE, 1);
    universe(2, async |world| {
        let (liar, came) = (world.stranger(), Rc::new(Cell::new(0)));
        let spoil = |block: BlockRef, bytes: &mut Vec<u8>| {
            if block.piece.0 % 12 == 5 && block.begin == 0 {
                bytes[9] ^= 0x80;
            }
        };
        world.let_live(serve(liar.clone(), payload.clone(), came.clone(), spoil));
        let (host, mut leeching) = couple(world, &payload, &[&liar]).await;
        complete(&mut leeching).await;
        assert_eq!(host.difference(&payload), None);
        assert_eq!(came.get(), 1);
    });
}

/// Dials, shakes hands, does something, and hears until the other hangs up.
async fn bother(
    from: MemoryTransport,
    to: SocketAddr,
    hash: [u8; 20],
    act: impl AsyncFnOnce(&mut Stranger) -> io::Result<()>,
) -> io::Result<()> {
    let mut stranger = Stranger::dial(&from, to).await?;
    stranger.shake(hash, strange_id(from.ip().to_string().len() as u8), true).await?;
    act(&mut stranger).await?;
    loop {
        stranger.hear().await?;
    }
}

/// Is the one who does this hung up on within a minute, while the download completes?
fn is_shown_out(name: &str, act: impl AsyncFnOnce(&mut Stranger, &Payload) -> io::Result<()>) {
    let payload = Payload::one_file("cargo", 2 * MIB, PIECE, 1);
    universe(3, async |world| {
        let (host, mut leeching) = couple(world, &payload, &[]).await;
        seconds(1).await;
        let hash = payload.metainfo.info_hashes.wire();
        let bothering = bother(world.stranger(), host.addr(), hash, async |stranger| act(stranger, &payload).await);
        let end = timeout(Duration::from_secs(60), bothering).await;
        assert!(matches!(end, Ok(Err(_))), "who sends {name} is hung up on");
        complete(&mut leeching).await;
        assert_eq!(host.difference(&payload), None);
    });
}

#[test]
fn who_breaks_the_protocol_is_shown_out() {
    let block = |piece, begin, length| BlockRef { piece: PieceIndex(piece), begin, length };
    is_shown_out("an oversized frame", async |stranger, _| stranger.say_raw(&[0xff, 0xff, 0xff, 0xf0, 7]).await);
    is_shown_out("a bitfield of a wrong length", async |stranger, _| {
        stranger.say(Message::Bitfield(Bytes::from_static(&[0xff; 9]))).await
    });
    is_shown_out("a bitfield with spare bits set", async |stranger, payload| {
        let pieces = payload.metainfo.info.geometry().pieces();
        assert_eq!(pieces % 8, 0);
        stranger.say(Message::Bitfield(Bytes::from(vec![0xff; pieces as usize / 8 + 1]))).await
    });
    is_shown_out("a piece that there is not", async |stranger, _| {
        stranger.say(Message::Have(PieceIndex(1 << 30))).await
    });
    is_shown_out("a request beyond the end", async |stranger, _| {
        stranger.say(Message::HaveNone).await?;
        stranger.say(Message::Request(block(0, u32::MAX - 5, 16_384))).await
    });
    is_shown_out("megabytes that nobody asked for", async |stranger, _| {
        stranger.say(Message::HaveAll).await?;
        for piece in 0..4 * 1024 {
            let data = Bytes::from_static(&[0; 16_384]);
            stranger.say(Message::Piece { block: block(piece % 32, 0, 16_384), data }).await?;
        }
        Ok(())
    });
    is_shown_out("that it has nothing after all", async |stranger, _| {
        stranger.say(Message::Bitfield(Bytes::from_static(&[0xff; 4]))).await?;
        stranger.say(Message::HaveNone).await
    });
}

#[test]
fn unasked_blocks_that_lie_spoil_nothing() {
    let payload = Payload::one_file("cargo", 2 * MIB, PIECE, 1);
    universe(4, async |world| {
        let (host, mut leeching) = couple(world, &payload, &[]).await;
        let (from, to, hash) = (world.stranger(), host.addr(), payload.metainfo.info_hashes.wire());
        world.let_live(async move {
            let lie = async |stranger: &mut Stranger| {
                stranger.say(Message::HaveNone).await?;
                for piece in 0..32 {
                    let block = BlockRef { piece: PieceIndex(piece), begin: 0, length: 16_384 };
                    stranger.say(Message::Piece { block, data: Bytes::from_static(&[7; 16_384]) }).await?;
                }
                Ok(())
            };
            let _ = bother(from, to, hash, lie).await;
        });
        let mut events = leeching.events();
        complete(&mut leeching).await;
        assert_eq!(host.difference(&payload), None);
        while let Ok(event) = events.try_recv() {
            assert!(!matches!(event.what, Happening::PieceRejected(_)), "{event:?}");
        }
    });
}

#[test]
fn handshakes_that_never_end_keep_nobody_out() {
    let payload = Payload::one_file("cargo", 4 * MIB, PIECE, 1);
    universe(5, async |world| {
        let (host, mut leeching) = couple(world, &payload, &[]).await;
        for n in 0..300 {
            let (from, to) = (world.stranger_again(n), host.addr());
            world.let_live(async move {
                // A byte every five seconds, and again from the start when hung up on.
                while let Ok(mut stranger) = Stranger::dial(&from, to).await {
                    for byte in b"\x13BitTorrent protocol" {
                        if stranger.say_raw(&[*byte]).await.is_err() {
                            break;
                        }
                        seconds(5).await;
                    }
                }
            });
        }
        for (n, words) in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 500], b"\x13BitTorrent protocol"].into_iter().enumerate()
        {
            let (from, to) = (world.stranger_again(n), host.addr());
            world.let_live(async move {
                if let Ok(mut stranger) = Stranger::dial(&from, to).await {
                    let _ = stranger.say_raw(words).await;
                    let _ = stranger.hear().await;
                }
            });
        }
        let wrong = bother(world.stranger(), host.addr(), [9; 20], async |_| Ok(()));
        assert!(timeout(Duration::from_secs(60), wrong).await.expect("it is told").is_err());
        complete(&mut leeching).await;
        assert_eq!(host.difference(&payload), None);
        assert!(world.elapsed() < Duration::from_secs(40), "{:?}", world.elapsed());
    });
}

#[test]
fn a_peer_that_promises_and_never_sends_costs_its_patience_only() {
    let payload = Payload::one_file("cargo", 2 * MIB, PIECE, 1);
    universe(6, async |world| {
        let idler = world.stranger();
        let (at, hash) = (idler.clone(), payload.metainfo.info_hashes.wire());
        world.let_live(async move {
            let mut listener = Stranger::listen(&at, PORT).await;
            while let Ok(mut stranger) = Stranger::accept(&mut listener).await {
                let idling = async {
                    stranger.shake(hash, strange_id(b'I'), true).await?;
                    stranger.say(Message::HaveAll).await?;
                    stranger.say(Message::Unchoke).await?;
                    loop {
                        stranger.hear().await?;
                    }
                };
                let _: io::Result<()> = idling.await;
            }
        });
        let (host, mut leeching) = couple(world, &payload, &[&idler]).await;
        complete(&mut leeching).await;
        assert_eq!(host.difference(&payload), None);
        assert!(world.elapsed() < Duration::from_secs(20), "8 s is what the seed needs: {:?}", world.elapsed());
    });
}
