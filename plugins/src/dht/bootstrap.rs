//! How the first nodes are found: well-known ones, or those of the settings, whose names are looked up all at once.
//!
//! They serve the whole world, so they are asked only when nobody else is known or answers, and with growing pauses
//! while this does not help. Who listens on loopback only does not ask the well-known ones: it is not of that world.

use std::{net::SocketAddr, time::Duration};

use castanet_core::Moment;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};

use super::node::Node;
use crate::{announcer::resolve, fixed::split};

const WELL_KNOWN: [(&str, u16); 5] = [
    ("router.bittorrent.com", 6881),
    ("dht.transmissionbt.com", 6881),
    ("router.utorrent.com", 6881),
    ("dht.libtorrent.org", 25401),
    ("dht.aelitis.com", 6881),
];
/// Nodes that the settings may name.
const MOST_HOSTS: usize = 32;
/// With fewer nodes than this, help is needed: a bucket (BEP 5).
const FEW_NODES: usize = 8;
/// How long the nodes of last time have to answer before others are asked.
const HEAD_START: Duration = Duration::from_secs(1);
/// The pause after the first attempt; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);
/// How often is looked whether there are still nodes enough.
const CHECK: Duration = Duration::from_secs(60);

/// Nodes to begin with.
#[derive(Debug, Clone)]
pub(super) struct Hosts {
    hosts: Vec<(String, u16)>,
    /// The user named them.
    ours: bool,
}

impl Hosts {
    pub(super) fn well_known() -> Self {
        Self { hosts: WELL_KNOWN.map(|(host, port)| (host.to_owned(), port)).into(), ours: false }
    }

    /// Reads `HOST:PORT,HOST:PORT`; spaces do not matter.
    pub(super) fn parse(list: &str) -> Result<Self, String> {
        let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
        let parse = |name: &str| {
            let (host, port) = split(name).ok_or_else(|| format!("{name:?} is not of the form HOST:PORT"))?;
            Ok((host.to_owned(), port))
        };
        let hosts = names.map(parse).collect::<Result<Vec<_>, String>>()?;
        if hosts.len() > MOST_HOSTS {
            return Err(format!("at most {MOST_HOSTS} bootstrap nodes can be named"));
        }
        Ok(Self { hosts, ours: true })
    }
}

/// The joining of a node, as long as it has the same sockets.
pub(super) struct Bootstrap<'a> {
    node: &'a Node,
    hosts: &'a [(String, u16)],
    under_way: FuturesUnordered<BoxFuture<'a, Result<Vec<SocketAddr>, String>>>,
    next: Moment,
    pause: Duration,
}

impl<'a> Bootstrap<'a> {
    /// Begins at once if no node is known from last time. `lonely`: on loopback only.
    pub(super) fn new(node: &'a Node, lonely: bool, knows_nodes: bool) -> Self {
        let hosts: &[_] = if lonely && !node.hosts.ours { &[] } else { &node.hosts.hosts };
        let next = node.now() + if knows_nodes { HEAD_START } else { Duration::ZERO };
        Self { node, hosts, under_way: FuturesUnordered::new(), next, pause: FIRST_PAUSE }
    }

    /// Starts what is due; says when to come again.
    pub(super) fn poll(&mut self, nodes: usize) -> Moment {
        if self.hosts.is_empty() {
            return Moment::NEVER;
        }
        let now = self.node.now();
        if self.next > now {
            return self.next;
        }
        if nodes >= FEW_NODES {
            (self.next, self.pause) = (now + CHECK, FIRST_PAUSE);
            return self.next;
        }
        if self.under_way.is_empty() {
            let means = &self.node.means;
            let look_up = |(host, port): &'a (String, u16)| -> BoxFuture<'a, _> {
                Box::pin(resolve(&*means.resolver, &means.bind, host, *port))
            };
            self.under_way.extend(self.hosts.iter().map(look_up));
        }
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.next
    }

    /// Passes on the addresses of the next host that has any, and of those that are found at the same moment: whoever looks for
    /// peers then asks all of them, not one that may be far from whom it looks for. Never returns if none has any.
    pub(super) async fn work(&mut self) {
        let mut found = Vec::new();
        while found.is_empty() {
            match self.under_way.next().await {
                Some(answer) => found.extend(addresses(answer)),
                None => std::future::pending().await,
            }
        }
        while let Some(Some(answer)) = self.under_way.next().now_or_never() {
            found.extend(addresses(answer));
        }
        self.node.set_status(|status| status.resolved = true);
        self.node.contact(&found);
    }

    /// The network is another one: after a moment for the nodes that are known.
    pub(super) fn again(&mut self) {
        (self.next, self.pause) = (self.node.now() + HEAD_START, FIRST_PAUSE);
    }
}

/// What became of looking a host up.
fn addresses(answer: Result<Vec<SocketAddr>, String>) -> Vec<SocketAddr> {
    answer.unwrap_or_else(|reason| {
        tracing::debug!(reason, "a bootstrap node has no address");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_as_people_write_them() {
        let hosts = Hosts::parse(" example.com:6881, [::1]:80 ,").unwrap();
        assert_eq!(hosts.hosts, [("example.com".to_owned(), 6881), ("[::1]".to_owned(), 80)]);
        assert!(Hosts::parse("").unwrap().hosts.is_empty());
        for bad in ["example.com", "example.com:0", "a:1;b:2", "::1:80"] {
            assert!(Hosts::parse(bad).is_err(), "{bad}");
        }
        assert!(Hosts::parse(&"a:1,".repeat(MOST_HOSTS + 1)).is_err());
    }
}
