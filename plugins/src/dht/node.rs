//! The node as the plugin's parts share it: the machine, who waits for which look-up, and how things stand.
//!
//! The lock is held for moments. Only `running` takes what the machine wants sent; whoever has told the machine
//! something rings for it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use castanet_core::{
    Moment,
    seams::{discovery::News, means::Means},
};
use castanet_protocol::dht::{Dht, DhtOutput, LookUp, LookUpId, Saved, SwarmSize};
use tokio::sync::{Notify, mpsc, watch};

use super::{NAME, bootstrap::Hosts};

/// Events of one torrent's look-ups that may wait for it; of further ones the peers are lost.
const MOST_EVENTS: usize = 64;
/// Addresses of nodes that wait for the machine to be there.
const MOST_EARLY: usize = 32;

/// Everything that the plugin's parts share.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) means: Means,
    pub(super) hosts: Hosts,
    pub(super) read_only: bool,
    state: Mutex<State>,
    status: watch::Sender<Status>,
    /// Rung when the machine may have something to send, or there is news.
    pub(super) bell: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// There while there are sockets, and after.
    dht: Option<Dht>,
    waiting: BTreeMap<LookUpId, mpsc::Sender<Event>>,
    early: Vec<SocketAddr>,
    network_changed: bool,
    /// There is, or was, a torrent to serve.
    needed: bool,
    /// What the notebook has.
    saved: Option<Vec<u8>>,
}

/// How things stand, for every torrent to tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Status {
    /// There are sockets.
    pub(super) open: bool,
    /// Where others reach the node: the IPv4 port, or else the IPv6 one.
    pub(super) port: Option<u16>,
    /// Nodes in the table, the last time that this changed much.
    pub(super) nodes: usize,
    /// The name of a bootstrap node has an address.
    pub(super) resolved: bool,
    /// We are part of the network.
    pub(super) bootstrapped: bool,
    /// How others see us, by IPv4 and by IPv6.
    pub(super) external: [Option<IpAddr>; 2],
    /// What is wrong with the sockets.
    pub(super) trouble: Option<String>,
}

/// What comes of a look-up.
#[derive(Debug)]
pub(super) enum Event {
    Peers { from: SocketAddr, peers: Vec<SocketAddr> },
    Finished { asked: usize, announced: usize, swarm: Option<SwarmSize> },
}

impl Node {
    pub(super) fn new(means: Means, hosts: Hosts, read_only: bool) -> Self {
        let (status, _) = watch::channel(Status::default());
        Self { means, hosts, read_only, state: Mutex::default(), status, bell: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Moment {
        self.means.clock.now()
    }

    pub(super) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    pub(super) fn set_status(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            *status != before
        });
    }

    /// Replaces the machine. Look-ups of the one before end without a word.
    pub(super) fn begin(&self, make: impl FnOnce(Option<Saved>) -> Dht) {
        let mut state = self.lock();
        let saved = state.dht.as_ref().map(Dht::save);
        state.waiting.clear();
        let mut dht = make(saved);
        let early = std::mem::take(&mut state.early);
        dht.contact(&early, self.now());
        state.dht = Some(dht);
    }

    /// Does something with the machine, if it is there.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Dht, Moment) -> T) -> Option<T> {
        let now = self.now();
        self.lock().dht.as_mut().map(|dht| act(dht, now))
    }

    /// Nodes may listen there.
    pub(super) fn contact(&self, nodes: &[SocketAddr]) {
        let now = self.now();
        let mut state = self.lock();
        match &mut state.dht {
            Some(dht) => dht.contact(nodes, now),
            None => {
                let room = MOST_EARLY.saturating_sub(state.early.len());
                state.early.extend(nodes.iter().take(room));
            }
        }
        drop(state);
        self.bell.notify_one();
    }

    pub(super) fn hear(&self, news: &News) {
        match news {
            News::DhtNode(addr) => self.contact(&[*addr]),
            News::NetworkChanged => {
                self.lock().network_changed = true;
                self.bell.notify_one();
            }
            _ => {}
        }
    }

    /// There is a torrent to serve.
    pub(super) fn need(&self) {
        self.lock().needed = true;
        self.bell.notify_one();
    }

    /// Waits for the first torrent to serve.
    pub(super) async fn needed(&self) {
        while !self.lock().needed {
            self.bell.notified().await;
        }
    }

    /// Has the network changed since this was asked last?
    pub(super) fn take_network_changed(&self) -> bool {
        std::mem::take(&mut self.lock().network_changed)
    }

    /// Begins look-ups that end when what is returned is dropped.
    pub(super) fn look_up(self: &Arc<Self>, look_ups: impl IntoIterator<Item = LookUp>) -> LookUps {
        let (sender, events) = mpsc::channel(MOST_EVENTS);
        let mut ids = Vec::new();
        let now = self.now();
        let mut state = self.lock();
        let State { dht, waiting, .. } = &mut *state;
        if let Some(dht) = dht {
            for look_up in look_ups {
                let id = dht.find_peers(look_up, now);
                waiting.insert(id, sender.clone());
                ids.push(id);
            }
        }
        drop(state);
        self.bell.notify_one();
        LookUps { node: self.clone(), ids, events }
    }

    /// What the machine wants sent by now; all else that it says goes where it belongs. Also says when to come again.
    pub(super) fn take(&self) -> (Vec<(SocketAddr, Vec<u8>)>, Moment) {
        let now = self.now();
        let mut state = self.lock();
        let State { dht: Some(dht), waiting, .. } = &mut *state else { return (Vec::new(), Moment::NEVER) };
        if dht.deadline() <= now {
            dht.timeout(now);
        }
        let (mut datagrams, mut external, mut bootstrapped) = (Vec::new(), Vec::new(), false);
        while let Some(output) = dht.poll() {
            match output {
                DhtOutput::Send { to, datagram } => datagrams.push((to, datagram)),
                DhtOutput::Peers { look_up, from, peers } => {
                    if let Some(torrent) = waiting.get(&look_up)
                        && torrent.capacity() > MOST_EVENTS / 4
                    {
                        let _ = torrent.try_send(Event::Peers { from, peers });
                    }
                }
                DhtOutput::Finished { look_up, announced, asked, swarm } => {
                    if let Some(torrent) = waiting.remove(&look_up) {
                        let _ = torrent.try_send(Event::Finished { asked, announced, swarm });
                    }
                }
                DhtOutput::Bootstrapped { .. } => bootstrapped = true,
                DhtOutput::ExternalAddress(addr) => external.push(addr.ip()),
                _ => {}
            }
        }
        let (nodes, deadline) = (dht.nodes(), dht.deadline());
        drop(state);
        self.set_status(|status| {
            status.bootstrapped |= bootstrapped;
            external.into_iter().for_each(|ip| status.external[usize::from(ip.is_ipv6())] = Some(ip));
            if is_notable(status.nodes, nodes) {
                status.nodes = nodes;
            }
        });
        (datagrams, deadline)
    }

    /// Reads what was saved last time.
    pub(super) fn load(&self) -> Option<Saved> {
        let page = self.means.notebook.read(NAME).unwrap_or_else(|error| {
            tracing::warn!(%error, "the DHT begins anew");
            None
        })?;
        let saved = Saved::decode(&page);
        if saved.is_none() {
            tracing::warn!("what the notebook says of the DHT is not understood, it begins anew");
        }
        self.lock().saved = saved.is_some().then_some(page);
        saved
    }

    /// Saves what shall be known next time, if there is anything new. Who knows nobody keeps what there was.
    pub(super) fn save(&self) {
        let mut state = self.lock();
        let Some(saved) = state.dht.as_ref().map(Dht::save).filter(|saved| !saved.nodes.is_empty()) else { return };
        let page = saved.encode();
        if state.saved.as_ref() == Some(&page) {
            return;
        }
        match self.means.notebook.write(NAME, &page) {
            Ok(()) => state.saved = Some(page),
            Err(error) => tracing::warn!(%error, "the DHT's nodes are not saved"),
        }
    }
}

/// Is it worth telling that there are `now` nodes instead of `before`?
fn is_notable(before: usize, now: usize) -> bool {
    (before == 0) != (now == 0) || before.abs_diff(now) * 4 > before
}

/// Look-ups under way, given up when this is dropped.
#[derive(Debug)]
pub(super) struct LookUps {
    node: Arc<Node>,
    ids: Vec<LookUpId>,
    events: mpsc::Receiver<Event>,
}

impl LookUps {
    /// What comes of them next; `None` when all are over.
    pub(super) async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Nobody is wanted any more: no further node is asked.
    pub(super) fn enough(&self) {
        self.node.with(|dht, now| self.ids.iter().for_each(|id| dht.enough(*id, now)));
        self.node.bell.notify_one();
    }
}

impl Drop for LookUps {
    fn drop(&mut self) {
        let mut state = self.node.lock();
        let State { dht, waiting, .. } = &mut *state;
        for id in &self.ids {
            // What is no longer waited for is over, or belongs to a machine that is gone.
            if waiting.remove(id).is_some()
                && let Some(dht) = dht
            {
                dht.cancel(*id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_matters_is_told() {
        for (before, now) in [(0, 1), (1, 0), (1, 2), (8, 11), (100, 126), (100, 74)] {
            assert!(is_notable(before, now), "{before} {now}");
        }
        for (before, now) in [(0, 0), (8, 10), (100, 125), (100, 75)] {
            assert!(!is_notable(before, now), "{before} {now}");
        }
    }
}
