//! Over the system's sockets and over the network in memory: streams, halves, refusals, and that nothing is left behind.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::{
    memory::{Link, MemoryNet},
    udp::Udp,
    udp_mux::UdpMux,
};

fn system() -> Utp {
    Utp::new(Arc::new(UdpMux::new(Arc::new(Udp::default()))), 1)
}

async fn pair(dialler: &Utp, listener: &Utp, on: &str) -> (Connection, Connection, Listener) {
    let mut listening = listener.listen(on.parse().unwrap()).await.unwrap();
    let mut dialled = dialler.dial(listening.local, DialOptions::default()).await.unwrap();
    // Nobody is believed before the first byte: the sender's address could be forged.
    dialled.io.write_all(b"!").await.unwrap();
    let mut accepted = listening.incoming.next().await.unwrap().unwrap();
    assert_eq!(accepted.io.read_u8().await.unwrap(), b'!');
    (dialled, accepted, listening)
}

#[tokio::test]
async fn bytes_both_ways_in_both_families() {
    for on in ["127.0.0.1:0", "[::1]:0"] {
        let (here, there) = (system(), system());
        let (dialled, accepted, _listening) = pair(&here, &there, on).await;
        assert_eq!((dialled.via, dialled.remote), (NAME, accepted.local));
        assert_eq!(dialled.local.port(), accepted.remote.port());
        let (mut read, mut write) = accepted.io.split();
        let (mut back, mut forth) = dialled.io.split();
        let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n / 7) as u8).collect();
        let (sending, mut got) = (sent.clone(), Vec::new());
        let writing = async {
            forth.write_all(&sending).await.unwrap();
            drop(forth);
        };
        let (_, length) = tokio::join!(writing, read.read_to_end(&mut got));
        assert!(length.unwrap() == sent.len() && got == sent);
        write.write_all(b"thanks").await.unwrap();
        write.shutdown().await.unwrap();
        let mut thanks = String::new();
        back.read_to_string(&mut thanks).await.unwrap();
        assert_eq!(thanks, "thanks");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_there_is_silence_nobody_listening_a_refusal() {
    let net = MemoryNet::new(1);
    let at = |n| Arc::new(net.host([10, 0, 0, n].into()));
    let (here, there) = (at(1), at(2));
    let utp = |host: &Arc<crate::memory::MemoryTransport>| Utp::new(Arc::new(UdpMux::new(host.clone())), 1);
    let (one, other) = (utp(&here), utp(&there));
    let options = DialOptions { timeout: Duration::from_secs(30), ..DialOptions::default() };
    let error = one.dial("10.0.0.3:7".parse().unwrap(), options.clone()).await.unwrap_err();
    assert!(error.to_string().contains("answer"), "{error}");
    let listening = other.listen("10.0.0.2:7".parse().unwrap()).await.unwrap();
    assert!(other.listen("10.0.0.2:7".parse().unwrap()).await.is_err(), "somebody listens there");
    let socket = other.socket_at(listening.local).await.unwrap();
    drop(listening);
    let error = one.dial("10.0.0.2:7".parse().unwrap(), options).await.unwrap_err();
    assert_eq!(error.to_string(), "connection refused");
    drop(socket);
}

#[tokio::test(start_paused = true)]
async fn a_lossy_way_in_memory_and_no_task_is_left() {
    let net = MemoryNet::new(2);
    net.set_default_link(Link { latency: Duration::from_millis(20), loss: 0.02, ..Link::default() });
    let utp = |n: u8| Utp::new(Arc::new(UdpMux::new(Arc::new(net.host([10, 0, 0, n].into())))), 3);
    let (one, other) = (utp(1), utp(2));
    let (mut dialled, accepted, listening) = pair(&one, &other, "10.0.0.2:6881").await;
    let mut reader = accepted.io;
    let reading = async {
        let mut got = Vec::new();
        reader.read_to_end(&mut got).await.unwrap();
        got.len()
    };
    let writing = async {
        dialled.io.write_all(&vec![9; 500_000]).await.unwrap();
        dialled.io.shutdown().await.unwrap();
    };
    assert_eq!(tokio::join!(writing, reading).1, 500_000);
    drop((dialled, reader, listening));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}
