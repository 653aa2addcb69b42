//! Tests of the first 68 bytes.

use castanet_core::PeerId;
use castanet_protocol::wire::{HANDSHAKE_LENGTH, Reserved};

use super::*;
use crate::testing::{address, connection};

const HASH: [u8; 20] = [5; 20];

fn hello(info_hash: [u8; 20]) -> Vec<u8> {
    let peer_id = PeerId([2; 20]);
    Handshake { reserved: Reserved::ours(), info_hash, peer_id }.to_bytes().to_vec()
}

/// Ours.
fn handshake() -> Handshake {
    Handshake { reserved: Reserved::ours().with_dht(true), info_hash: HASH, peer_id: PeerId([1; 20]) }
}

fn ours(hash: &[u8; 20]) -> Option<Handshake> {
    (*hash == HASH).then(handshake)
}

#[tokio::test(start_paused = true)]
async fn both_sides_learn_of_each_other_and_nothing_that_follows_is_lost() {
    let (mut connection, mut remote) = connection(address(2), 4096);
    let bytes = [hello(HASH), vec![0, 0, 0, 1, 2]].concat();
    remote.io.write_all(&bytes).await.unwrap();
    let (theirs, early) = inbound(&mut connection, ours).await.unwrap();
    assert_eq!((theirs.peer_id, &early[..]), (PeerId([2; 20]), &bytes[HANDSHAKE_LENGTH..]));
    let mut answer = [0; HANDSHAKE_LENGTH];
    remote.io.read_exact(&mut answer).await.unwrap();
    assert_eq!(Handshake::parse(&answer), Ok(Some(handshake())));
    remote.io.write_all(&bytes).await.unwrap();
    let (theirs, early) = outbound(&mut connection, handshake()).await.unwrap();
    assert_eq!((theirs.info_hash, early.len()), (HASH, 5));
}

#[tokio::test(start_paused = true)]
async fn bytes_may_come_one_by_one_and_the_answer_comes_before_the_peer_id() {
    let (mut connection, mut remote) = connection(address(2), 4096);
    let slow = async {
        // Some programs wait for an answer before they tell their peer id.
        for byte in &hello(HASH)[..48] {
            remote.io.write_all(&[*byte]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut answer = [0; HANDSHAKE_LENGTH];
        remote.io.read_exact(&mut answer).await.unwrap();
        remote.io.write_all(&hello(HASH)[48..]).await.unwrap();
    };
    let (shaken, ()) = tokio::join!(inbound(&mut connection, ours), slow);
    assert!(shaken.unwrap().1.is_empty());
}

#[tokio::test(start_paused = true)]
async fn strangers_liars_and_sleepers_are_refused() {
    let refused = async |bytes: Vec<u8>, outward: bool| {
        let (mut connection, mut remote) = connection(address(2), 4096);
        remote.io.write_all(&bytes).await.unwrap();
        let shaken = match outward {
            true => outbound(&mut connection, handshake()).await,
            false => inbound(&mut connection, ours).await,
        };
        shaken.unwrap_err()
    };
    assert!(refused(hello([6; 20]), false).await.contains("not served"));
    assert!(refused(hello([6; 20]), true).await.contains("another torrent"));
    refused(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n".to_vec(), false).await;
    for outward in [false, true] {
        assert!(refused(hello(HASH)[..60].to_vec(), outward).await.contains("did not finish"));
    }
    let (mut connection, remote) = connection(address(2), 4096);
    drop(remote);
    assert!(inbound(&mut connection, ours).await.is_err());
}
