//! Over the network in memory: every policy with every other, plain peers, strangers and floods.

use castanet_core::seams::transport::Duplex;
use futures_util::StreamExt as _;
use tokio::time::sleep;

use super::*;
use crate::memory::{MemoryNet, MemoryTransport};

const SWARM: [u8; 20] = *b"a swarm of 20 bytes.";
const AT: &str = "10.0.0.2:1";

fn hosts() -> (MemoryNet, MemoryTransport, MemoryTransport) {
    let net = MemoryNet::new(1);
    let hosts = [1, 2].map(|last| net.host([10, 0, 0, last].into()));
    let [one, other] = hosts;
    (net, one, other)
}

fn around(inner: MemoryTransport, encryption: Encryption) -> Encrypted {
    let swarms = Swarms::default();
    swarms.insert(SWARM);
    Encrypted::new(Arc::new(inner), encryption, swarms, 7)
}

fn options() -> DialOptions {
    DialOptions { swarm: Some(SWARM), ..DialOptions::default() }
}

/// What goes through between two policies: whether at all.
async fn transfer(dialler: Encryption, listener: Encryption) -> Result<(), TransportError> {
    let (_net, one, other) = hosts();
    let mut listener = around(other, listener).listen(AT.parse().unwrap()).await?;
    let local = listener.local;
    let accepting = tokio::spawn(async move {
        while let Some(found) = listener.incoming.next().await {
            let Ok(mut connection) = found else { continue };
            let mut heard = [0; 68];
            if connection.io.read_exact(&mut heard).await.is_ok() && heard.starts_with(b"\x13BitTorrent protocol") {
                let (mut reader, mut writer) = connection.io.split();
                let large = vec![9; 300_000];
                writer.write_all(&large).await.unwrap();
                let mut back = vec![0; large.len()];
                reader.read_exact(&mut back).await.unwrap();
                assert!(back == large);
                return;
            }
        }
    });
    let transport = around(one, dialler);
    let mut connection = transport.dial(local, options()).await?;
    let mut handshake = [0; 68];
    handshake[..20].copy_from_slice(b"\x13BitTorrent protocol");
    connection.io.write_all(&handshake).await?;
    let (mut reader, mut writer) = connection.io.split();
    let mut heard = vec![0; 300_000];
    reader.read_exact(&mut heard).await?;
    assert!(heard.iter().all(|byte| *byte == 9));
    writer.write_all(&heard).await?;
    accepting.await.unwrap();
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn who_may_talk_to_whom() {
    use Encryption::{Disable, Prefer, Require};
    for (dialler, listener, works) in [
        (Prefer, Prefer, true),
        (Prefer, Require, true),
        (Prefer, Disable, true),
        (Require, Prefer, true),
        (Require, Require, true),
        (Disable, Prefer, true),
        (Disable, Disable, true),
        (Require, Disable, false),
        (Disable, Require, false),
    ] {
        let (transferred, case) = (transfer(dialler, listener).await, (dialler, listener));
        assert_eq!(transferred.is_ok(), works, "{case:?}: {transferred:?}");
    }
}

/// A peer that knows no encryption: it hangs up on whatever is not plain, or just waits.
async fn plain_peer(host: MemoryTransport, hangs_up: bool) -> tokio::task::JoinHandle<()> {
    let mut listener = host.listen(AT.parse().unwrap()).await.unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Some(Ok(mut connection)) = listener.incoming.next().await {
            let mut first = [0; 20];
            connection.io.read_exact(&mut first).await.unwrap();
            if &first == b"\x13BitTorrent protocol" {
                connection.io.write_all(b"welcome").await.unwrap();
            } else if hangs_up {
                continue;
            }
            kept.push(connection);
        }
    })
}

#[tokio::test(start_paused = true)]
async fn who_knows_no_encryption_is_reached_plain_and_remembered() {
    for hangs_up in [true, false] {
        let (_net, one, other) = hosts();
        let _peer = plain_peer(other, hangs_up).await;
        let transport = around(one, Encryption::Prefer);
        let mut took = Vec::new();
        for _ in 0..2 {
            let start = Instant::now();
            let mut connection = transport.dial(AT.parse().unwrap(), options()).await.unwrap();
            took.push(start.elapsed());
            connection.io.write_all(b"\x13BitTorrent protocol").await.unwrap();
            let mut answer = [0; 7];
            connection.io.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"welcome");
        }
        assert_eq!(took[1], Duration::from_millis(20), "the second time it is dialled plain at once");
        assert!(took[0] < PATIENCE + Duration::from_secs(1), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_required_is_not_given_up() {
    let (_net, one, other) = hosts();
    let _peer = plain_peer(other, true).await;
    let error = around(one, Encryption::Require).dial(AT.parse().unwrap(), options()).await.unwrap_err();
    assert_eq!(error.to_string(), "the peer hung up during the encrypted handshake");
}

#[tokio::test(start_paused = true)]
async fn nobody_there_is_dialled_once() {
    let (_net, one, _other) = hosts();
    let error = around(one, Encryption::Prefer).dial(AT.parse().unwrap(), options()).await.unwrap_err();
    assert!(matches!(error, TransportError::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused));
}

#[tokio::test(start_paused = true)]
async fn without_a_swarm_nothing_is_encrypted() {
    let (_net, one, other) = hosts();
    let mut listener = other.listen(AT.parse().unwrap()).await.unwrap();
    let mut connection =
        around(one, Encryption::Require).dial(AT.parse().unwrap(), DialOptions::default()).await.unwrap();
    connection.io.write_all(b"GET / HTTP/1.1").await.unwrap();
    let mut heard = [0; 14];
    listener.incoming.next().await.unwrap().unwrap().io.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"GET / HTTP/1.1");
}

#[tokio::test(start_paused = true)]
async fn the_silent_the_noisy_and_the_many_keep_nobody_out() {
    let (net, one, other) = hosts();
    let mut listener = around(other, Encryption::Prefer).listen(AT.parse().unwrap()).await.unwrap();
    let accepted = tokio::spawn(async move {
        let mut failures = Vec::new();
        loop {
            match listener.incoming.next().await.unwrap() {
                Ok(connection) => return (connection, failures),
                Err(error) => failures.push(error.to_string()),
            }
        }
    });
    let stranger = net.host([10, 0, 0, 66].into());
    let mut kept: Vec<Box<dyn Duplex>> = Vec::new();
    for round in 0..100u8 {
        let mut connection = stranger.dial(AT.parse().unwrap(), DialOptions::default()).await.unwrap();
        if round % 2 == 0 {
            // Noise with no end.
            let _ = connection.io.write_all(&[round; 4096]).await;
        }
        kept.push(connection.io);
        if round == 50 {
            // The silent ones are let go meanwhile.
            sleep(Duration::from_secs(20)).await;
        }
    }
    let ours = around(one, Encryption::Require).dial(AT.parse().unwrap(), options()).await.unwrap();
    let (connection, failures) = accepted.await.unwrap();
    assert_eq!(connection.remote, ours.local);
    assert!(failures.iter().any(|reason| reason.contains("no answer")), "{failures:?}");
    assert!(failures.iter().any(|reason| reason.contains("does not speak")), "{failures:?}");
}
