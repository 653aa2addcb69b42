//! The node's life: sockets are opened, datagrams come and go, deadlines pass, the table is saved now and then.
//!
//! Begins with the first torrent to serve, since who has private ones alone (BEP 27) shall not be heard of, and lasts as
//! long as the plugin. Sockets that break, or are no longer where the session listens, are opened anew.

use std::{net::SocketAddr, time::Duration};

use castanet_core::Moment;
use castanet_protocol::dht::{Dht, DhtConfig, Families};
use tokio::time::sleep;

use super::{bootstrap::Bootstrap, node::Node, sockets::Sockets};

/// When the table is saved first: somebody may kill us soon.
const FIRST_SAVE: Duration = Duration::from_secs(60);
/// How often it is saved after that.
const SAVE_EVERY: Duration = Duration::from_secs(600);
/// The pause before sockets are opened again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Sockets that lasted so long were good.
const GOOD: Duration = Duration::from_secs(60);

/// Runs the node for ever, once there is something to do.
pub(super) async fn run(node: &Node) {
    node.needed().await;
    let mut pause = FIRST_PAUSE;
    let mut families = None;
    loop {
        let opened = node.now();
        let trouble = match Sockets::open(&node.means).await {
            Ok(sockets) => {
                let knows_nodes = begin(node, &sockets, &mut families);
                live(node, sockets, knows_nodes).await
            }
            Err(trouble) => Some(trouble),
        };
        if node.now().since(opened) > GOOD {
            pause = FIRST_PAUSE;
        }
        let Some(trouble) = trouble else { continue };
        node.set_status(|status| (status.open, status.port, status.trouble) = (false, None, Some(trouble)));
        tokio::select! {
            biased;
            () = news(node) => pause = FIRST_PAUSE,
            () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
        }
    }
}

/// Waits until the network has changed.
async fn news(node: &Node) {
    while !node.take_network_changed() {
        node.bell.notified().await;
    }
}

/// Makes the machine for these sockets, or tells it that they are others. Does it know nodes to begin with?
fn begin(node: &Node, sockets: &Sockets, families: &mut Option<Families>) -> bool {
    let ours = sockets.families();
    let mut knows_nodes = true;
    if *families == Some(ours) {
        node.with(Dht::network_changed);
    } else {
        let last_time = families.replace(ours).is_none().then(|| node.load()).flatten();
        node.begin(|before| {
            let saved = before.or(last_time);
            knows_nodes = saved.as_ref().is_some_and(|saved| !saved.nodes.is_empty());
            let config = DhtConfig {
                seed: node.means.seed,
                families: ours,
                read_only: node.read_only,
                saved,
                ..DhtConfig::default()
            };
            Dht::new(config, node.now())
        });
    }
    node.set_status(|status| {
        (status.open, status.port, status.trouble) = (true, sockets.port(), sockets.trouble.clone());
    });
    knows_nodes
}

/// Lives with these sockets until they break (why?) or should be others (`None`).
async fn live(node: &Node, mut sockets: Sockets, knows_nodes: bool) -> Option<String> {
    let mut bootstrap = Bootstrap::new(node, sockets.are_lonely(), knows_nodes);
    let mut save_at = node.now() + FIRST_SAVE;
    loop {
        if node.take_network_changed() {
            if !sockets.are_right(&node.means) {
                return None;
            }
            node.with(Dht::network_changed);
            bootstrap.again();
        }
        let nodes = node.with(|dht, _| dht.nodes()).unwrap_or_default();
        let bootstrap_at = bootstrap.poll(nodes);
        if save_at <= node.now() {
            node.save();
            save_at = node.now() + SAVE_EVERY;
        }
        let (datagrams, deadline) = node.take();
        for (to, datagram) in datagrams {
            sockets.send(to, &datagram).await;
        }
        let wake = deadline.min(bootstrap_at).min(save_at);
        tokio::select! {
            biased;
            () = node.bell.notified() => {}
            () = rest(node, wake) => {}
            () = bootstrap.work() => {}
            received = sockets.receive() => match received {
                Ok((from, datagram)) => hear(node, from, datagram),
                Err(error) => return Some(format!("its UDP socket broke: {error}")),
            },
        }
    }
}

fn hear(node: &Node, from: SocketAddr, datagram: &[u8]) {
    node.with(|dht, now| dht.received(from, datagram, now));
}

async fn rest(node: &Node, until: Moment) {
    sleep(until.since(node.now())).await;
}
