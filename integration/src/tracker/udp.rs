//! The tracker over UDP.

use std::{collections::VecDeque, future, net::SocketAddr, sync::Arc, time::Duration};

use castanet_core::{
    Moment,
    digest::sha1,
    seams::{datagrams::Datagrams, discovery::SwarmSize},
};
use castanet_protocol::tracker::udp::{
    Request, announce_reply, connect_reply, error_reply, parse_request, scrape_reply,
};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Counts, Desk, USUAL_PEERS};

/// How long a connection id is good for, at least.
const EPOCH: Duration = Duration::from_secs(120);
/// The most replies of a slow tracker that are under way; who asks then is not answered.
const MOST_LATE: usize = 16 * 1024;

/// A reply, to whom, and when.
type Late = (Instant, Vec<u8>, SocketAddr);

pub(super) async fn serve(socket: Arc<dyn Datagrams>, desk: Arc<Desk>, secret: [u8; 16]) {
    let mut buffer = [0; 2048];
    let mut late = VecDeque::new();
    loop {
        tokio::select! {
            biased;
            () = due(&late) => if let Some((_, reply, to)) = late.pop_front() {
                let _ = socket.send_to(&reply, to).await;
            },
            received = socket.recv_from(&mut buffer) => match received {
                Ok((length, from)) => if let Some(reply) = reply_to(&buffer[..length], from, &secret, &desk) {
                    answer(&*socket, reply, from, desk.config.answers_after, &mut late).await;
                },
                Err(_) if socket.is_lost() => return,
                // About an earlier datagram that found nobody, most likely.
                Err(_) => sleep(Duration::from_millis(50)).await,
            },
        }
    }
}

/// Waits until the first late reply is to be sent.
async fn due(late: &VecDeque<Late>) {
    match late.front() {
        Some((at, ..)) => sleep_until(*at).await,
        None => future::pending().await,
    }
}

/// Sends a reply, now or later.
async fn answer(socket: &dyn Datagrams, reply: Vec<u8>, to: SocketAddr, after: Duration, late: &mut VecDeque<Late>) {
    if after.is_zero() {
        let _ = socket.send_to(&reply, to).await;
    } else if late.len() < MOST_LATE {
        // All wait equally long, so the queue is in order.
        late.push_back((Instant::now() + after, reply, to));
    }
}

fn reply_to(datagram: &[u8], from: SocketAddr, secret: &[u8; 16], desk: &Desk) -> Option<Vec<u8>> {
    let epoch = desk.now().since(Moment::ZERO).as_secs() / EPOCH.as_secs();
    // The id is a digest of the sender's address and the time, so that nothing needs to be remembered.
    let id_of = |epoch: u64| {
        let digest = sha1(&[&secret[..], from.to_string().as_bytes(), &epoch.to_be_bytes()].concat()).0;
        digest[..8].iter().fold(0, |id, byte| id << 8 | u64::from(*byte))
    };
    let granted = |id| id == id_of(epoch) || epoch.checked_sub(1).is_some_and(|epoch| id == id_of(epoch));
    match parse_request(datagram)? {
        Request::Connect { transaction } => Some(connect_reply(transaction, id_of(epoch))),
        Request::Announce { connection, transaction, mut announce, .. } => {
            if !granted(connection) {
                return Some(error_reply(transaction, "unknown connection"));
            }
            if announce.wanted > i32::MAX as u32 {
                announce.wanted = USUAL_PEERS;
            }
            let reply = match desk.with(|swarms, now| swarms.announce(now, from.ip(), &announce)) {
                Ok(mut answer) => {
                    answer.peers.retain(|(peer, _)| peer.is_ipv4() == from.ip().to_canonical().is_ipv4());
                    announce_reply(transaction, &answer)
                }
                Err(reason) => error_reply(transaction, &reason),
            };
            Some(reply)
        }
        Request::Scrape { connection, transaction, names } => {
            if !granted(connection) {
                return Some(error_reply(transaction, "unknown connection"));
            }
            let counts = names.iter().map(|name| desk.with(|swarms, now| swarms.counts(now, *name)));
            let sizes: Vec<_> = counts
                .map(|Counts { seeds, leeches, completed }| SwarmSize { seeds, leeches, completed: Some(completed) })
                .collect();
            Some(scrape_reply(transaction, &sizes))
        }
    }
}
