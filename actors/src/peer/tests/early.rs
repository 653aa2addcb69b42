//! A connection that opens before the metadata are known: whom it tells of what, and what `Adopt` changes.

use castanet_protocol::{
    extension::{ExtendedHandshake, Extension},
    peer::MOST_CHATTER,
};

use super::*;

/// A peer without metadata that offers `ut_metadata`, and the links that it is given later.
fn early() -> (Addr<Peer>, Remote, Heard, PieceLinks) {
    let mut later = None;
    let (addr, remote, heard, _) = start(1 << 20, |config, links| {
        (config.geometry, config.have) = (None, Bitfield::new(0));
        (config.extended, config.extensions) = (true, vec![Extension::Metadata]);
        later = links.pieces.take();
    });
    (addr, remote, heard, later.unwrap())
}

fn adopt(links: PieceLinks) -> Adopt {
    let mut have = Bitfield::new(PIECES);
    have.set(PieceIndex(3));
    Adopt { geometry: geometry(), have, metadata_size: 1000, links }
}

fn extended(id: u8, payload: &[u8]) -> Wire {
    Wire::Extended { id, payload: Bytes::copy_from_slice(payload) }
}

#[actix::test]
async fn it_tells_the_torrent_alone_until_it_is_adopted() {
    tokio::time::pause();
    let (addr, mut remote, mut heard, links) = early();
    let hello = ExtendedHandshake {
        messages: vec![("ut_metadata".into(), 5)],
        metadata_size: Some(1000),
        ..Default::default()
    };
    for message in [Wire::HaveAll, extended(0, &hello.encode()), extended(1, b"an answer"), Wire::Port(6881)] {
        remote.send(message).await;
    }
    let said = hear(&mut heard.said).await;
    assert_eq!((said.peer, said.extension, &said.payload[..]), (KEY, Extension::Metadata, &b"an answer"[..]));
    let changes: Vec<_> = [hear(&mut heard.changed).await, hear(&mut heard.changed).await].into();
    let PeerChange::Introduced { extensions, metadata_size, .. } = &changes[0].change else { panic!("{changes:?}") };
    assert_eq!((&extensions[..], *metadata_size), (&[Extension::Metadata][..], Some(1000)));
    assert_eq!(changes[1].change, PeerChange::DhtPort(6881));
    assert!(drain(&mut heard.has).is_empty() && drain(&mut heard.joined).is_empty());

    for extension in [Extension::Pex, Extension::Metadata] {
        addr.send(SayExtended { extension, payload: Bytes::from_static(b"a question") }).await.unwrap();
    }
    let next = remote.until(|message| match message {
        Wire::Extended { id: 1.., .. } => Some(message),
        _ => None,
    });
    assert_eq!(next.await, Some(extended(5, b"a question")), "what it does not offer it is not told");

    addr.send(adopt(links)).await.unwrap();
    assert_eq!(hear(&mut heard.joined).await.peer, KEY);
    assert_eq!(hear(&mut heard.has).await.haves, Haves::All);
    let have = remote.until(|message| matches!(message, Wire::Have(PieceIndex(3))).then_some(()));
    assert!(have.await.is_some(), "it learns what we have");
    request(&mut remote, &addr, 1).await;
    tokio::io::AsyncWriteExt::write_all(&mut remote.io, &frame(0)).await.unwrap();
    assert_eq!(hear(&mut heard.received).await.blocks[0].block, block(0));
    addr.send(Disconnect(ExitReason::Asked)).await.unwrap();
    assert_eq!(hear(&mut heard.left).await.0, KEY);
}

#[actix::test]
async fn one_who_had_the_wrong_pieces_is_left_when_that_is_known() {
    tokio::time::pause();
    let (addr, mut remote, mut heard, links) = early();
    remote.send(Wire::Bitfield(vec![0xff; 9].into())).await;
    settle().await;
    addr.send(adopt(links)).await.unwrap();
    assert!(matches!(hear(&mut heard.stopped).await.reason, ExitReason::Violation(_)));
    assert_eq!(hear(&mut heard.left).await.0, KEY);
}

#[actix::test]
async fn a_flood_fills_no_mailbox() {
    tokio::time::pause();
    let (_addr, mut remote, mut heard, _) = early();
    for _ in 0..2 * MOST_CHATTER {
        let mut frame = BytesMut::new();
        extended(1, b"spam").encode(&mut frame);
        if tokio::io::AsyncWriteExt::write_all(&mut remote.io, &frame).await.is_err() {
            break;
        }
    }
    assert!(matches!(hear(&mut heard.stopped).await.reason, ExitReason::Violation(_)));
    assert_eq!(drain(&mut heard.said).len(), MOST_CHATTER as usize);
}
