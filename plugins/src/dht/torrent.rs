//! The work for one torrent: look-ups when the plan says so, and telling what comes of them and how the node fares.

use std::{collections::BTreeMap, future::pending, net::SocketAddr, sync::Arc};

use castanet_core::{
    Moment,
    addr::is_dialable,
    seams::discovery::{Found, Milestone, PeerCandidate, Swarm, SwarmEvent, SwarmSize},
};
use castanet_protocol::dht::{AnnounceAs, LookUp};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::watch, time::sleep};

use super::{
    NAME,
    node::{Event, LookUps, Node, Status},
    plan::{Due, Plan},
};
use crate::{announcer::resolve, driven::Finds, fixed::split};

/// Nodes that a torrent may name.
const MOST_NODES: usize = 32;
/// Answering nodes that are told apart as instances; all further ones are one.
const MOST_INSTANCES: usize = 64;

/// Serves a torrent for as long as this is polled.
pub(super) async fn serve(node: Arc<Node>, swarm: Swarm, finds: Finds) {
    let introduce = introduce(&node, swarm.info.nodes.clone());
    let work = Work::new(node.clone(), swarm, finds).run();
    tokio::select! { biased; () = introduce => {} () = work => {} }
}

/// Tells the node of those that the torrent names (BEP 5). Never returns.
async fn introduce(node: &Node, names: Arc<[String]>) {
    let means = &node.means;
    let names = names.iter().take(MOST_NODES).filter_map(|name| split(name));
    let mut under_way: FuturesUnordered<_> =
        names.map(|(host, port)| resolve(&*means.resolver, &means.bind, host, port)).collect();
    while let Some(found) = under_way.next().await {
        match found {
            Ok(found) => node.contact(&found),
            Err(reason) => tracing::debug!(reason, "a node that the torrent names has no address"),
        }
    }
    pending().await
}

struct Work {
    node: Arc<Node>,
    swarm: Swarm,
    finds: Finds,
    status: watch::Receiver<Status>,
    plan: Plan,
    told: Told,
    instances: BTreeMap<SocketAddr, Arc<str>>,
}

/// What has been told already.
#[derive(Debug, Default)]
struct Told {
    status: Status,
    condition: Option<String>,
    looked_up: bool,
    idle_until: Option<Moment>,
}

/// Look-ups under way for all hashes of the torrent.
struct Round {
    look_ups: LookUps,
    due: Due,
    asked: usize,
    announced: usize,
    found: usize,
    size: Option<SwarmSize>,
    is_cut_short: bool,
}

impl Work {
    fn new(node: Arc<Node>, swarm: Swarm, finds: Finds) -> Self {
        let mut salt = [0; 8];
        salt.copy_from_slice(&swarm.info.info_hashes.wire()[..8]);
        let plan = Plan::new(swarm.me.port != 0, node.means.seed ^ u64::from_be_bytes(salt));
        let status = node.status();
        Self { node, swarm, finds, status, plan, told: Told::default(), instances: BTreeMap::new() }
    }

    async fn run(mut self) {
        let (mut events, mut changes) = (true, true);
        let mut wanted = self.wanted();
        let mut round: Option<Round> = None;
        loop {
            let wanted_before = std::mem::replace(&mut wanted, self.wanted());
            let now = self.node.now();
            if wanted && !wanted_before {
                self.plan.wanted_again(now);
            }
            self.tell_status().await;
            if round.is_none() && self.told.status.open {
                round = self.plan.begin(wanted, now).map(|due| self.start(due));
            }
            let is_for_peers_alone = |round: &&mut Round| !round.due.announce && !round.due.scrape;
            if let Some(round) = round.as_mut().filter(|round| !wanted && is_for_peers_alone(round)) {
                round.cut_short();
            }
            let wake = match &round {
                // Without sockets nothing can be done, whatever is due; they ring when they are there.
                _ if !self.told.status.open => Moment::NEVER,
                Some(_) => Moment::NEVER,
                None => self.plan.deadline(wanted),
            };
            if round.is_none() {
                self.rest(wake).await;
            }
            tokio::select! {
                biased;
                event = next(&mut round) => match event {
                    Some(event) => self.hear(event, &mut round).await,
                    None => if let Some(round) = round.take() { self.finish(round).await },
                },
                event = self.swarm.events.recv(), if events => match event {
                    Some(SwarmEvent::Completed) => self.plan.announce_anew(self.node.now()),
                    Some(SwarmEvent::NetworkChanged) => {
                        self.plan.hope(self.node.now());
                        self.plan.announce_anew(self.node.now());
                    }
                    Some(_) => {}
                    None => events = false,
                },
                change = self.swarm.progress.changed(), if changes => changes = change.is_ok(),
                // The node lives as long as we do: we hold it.
                _ = self.status.changed() => {}
                () = sleep(wake.since(now)), if wake != Moment::NEVER => {}
            }
        }
    }

    fn wanted(&mut self) -> bool {
        self.swarm.progress.borrow_and_update().wanted > 0
    }

    async fn tell(&self, found: Found) {
        // The reader owns this future: if it is gone, so are we.
        let _ = self.finds.send(Ok(found)).await;
    }

    /// Tells what is new about the node.
    async fn tell_status(&mut self) {
        let status = self.status.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.told.status, status.clone());
        if before.nodes == 0 && status.nodes > 0 {
            self.plan.hope(self.node.now());
        }
        let milestones = [
            (status.resolved && !before.resolved, Milestone::NamesResolved),
            (status.bootstrapped && !before.bootstrapped, Milestone::Bootstrapped),
        ];
        for (_, milestone) in milestones.into_iter().filter(|(reached, _)| *reached) {
            self.tell(Found::Reached(milestone)).await;
        }
        for (now, before) in status.external.iter().zip(before.external) {
            if let Some(ip) = now.filter(|ip| Some(*ip) != before) {
                self.tell(Found::ExternalAddress(ip)).await;
            }
        }
        let condition = condition(&status);
        if condition.is_some() && condition != self.told.condition {
            self.told.condition.clone_from(&condition);
            self.tell(Found::Condition(condition.unwrap_or_default())).await;
        }
    }

    /// Looks up all hashes of the torrent: a hybrid has two swarms (BEP 52).
    fn start(&mut self, due: Due) -> Round {
        let (info, me) = (&self.swarm.info.info_hashes, &self.swarm.me);
        let seed = self.swarm.progress.borrow().left == Some(0);
        let announce = due.announce.then(|| AnnounceAs { port: Some(me.port), mapped: self.node.means.mapped_port() });
        let truncated = info.v2.map(|v2| {
            let mut hash = [0; 20];
            hash.copy_from_slice(&v2.0[..20]);
            hash
        });
        let hashes = info.v1.map(|v1| v1.0).into_iter().chain(truncated);
        let look_ups = hashes.map(|info_hash| LookUp { info_hash, announce, seed, scrape: due.scrape });
        let look_ups = self.node.look_up(look_ups);
        Round { look_ups, due, asked: 0, announced: 0, found: 0, size: None, is_cut_short: false }
    }

    async fn hear(&mut self, event: Event, round: &mut Option<Round>) {
        let Some(round) = round else { return };
        match event {
            Event::Peers { from, peers } => {
                self.looked_up().await;
                let listening = self.node.means.listening();
                let others = |addr: &SocketAddr| is_dialable(*addr) && !self.is_us(*addr, &listening);
                let peers: Vec<_> = peers.into_iter().filter(others).collect();
                round.found += peers.len();
                // Announcing goes on when nobody is wanted, and brings peers unasked.
                if self.swarm.progress.borrow().wanted > 0 && !peers.is_empty() {
                    let instance = self.instance(from);
                    let candidate = |addr| PeerCandidate { addr, peer_id: None, instance: instance.clone() };
                    self.tell(Found::Peers(peers.into_iter().map(candidate).collect())).await;
                }
            }
            Event::Finished { asked, announced, swarm } => {
                round.asked += asked;
                round.announced += announced;
                if let Some(swarm) = swarm {
                    let size = round.size.get_or_insert_default();
                    // Whoever is in both swarms of a hybrid counts once.
                    size.seeds = size.seeds.max(swarm.seeds);
                    size.leeches = size.leeches.max(swarm.downloaders);
                }
            }
        }
    }

    async fn finish(&mut self, round: Round) {
        self.plan.done(round.due, round.announced, round.found, round.size.is_some(), self.node.now());
        if round.asked > 0 {
            self.looked_up().await;
        }
        if let Some(size) = round.size {
            self.tell(Found::SwarmSize { instance: NAME.into(), size }).await;
        }
    }

    async fn looked_up(&mut self) {
        if !std::mem::replace(&mut self.told.looked_up, true) {
            self.tell(Found::Reached(Milestone::LookedUp)).await;
        }
    }

    /// Is this what we announced ourselves?
    fn is_us(&self, addr: SocketAddr, listening: &[SocketAddr]) -> bool {
        let is_ours =
            |ip| self.told.status.external.contains(&Some(ip)) || listening.iter().any(|ours| ours.ip() == ip);
        addr.port() == self.swarm.me.port && is_ours(addr.ip())
    }

    fn instance(&mut self, from: SocketAddr) -> Arc<str> {
        let is_full = self.instances.len() >= MOST_INSTANCES;
        match self.instances.get(&from) {
            Some(known) => known.clone(),
            None if is_full => "other nodes".into(),
            None => self.instances.entry(from).or_insert(format!("node {from}").into()).clone(),
        }
    }

    /// Says once until when there is nothing to do.
    async fn rest(&mut self, wake: Moment) {
        if self.told.idle_until != Some(wake) {
            self.told.idle_until = Some(wake);
            let retry_at = (wake != Moment::NEVER).then_some(wake);
            self.tell(Found::Idle { retry_at }).await;
        }
    }
}

impl Round {
    fn cut_short(&mut self) {
        if !std::mem::replace(&mut self.is_cut_short, true) {
            self.look_ups.enough();
        }
    }
}

async fn next(round: &mut Option<Round>) -> Option<Event> {
    match round {
        Some(round) => round.look_ups.next().await,
        None => pending().await,
    }
}

/// How the node fares, in a few words after its name.
fn condition(status: &Status) -> Option<String> {
    let trouble = status.trouble.as_deref();
    let nodes = match (status.open, status.nodes) {
        (false, _) => return trouble.map(str::to_owned),
        (true, 0) => "has no nodes".to_owned(),
        (true, 1) => "has 1 node".to_owned(),
        (true, nodes) => format!("has {nodes} nodes"),
    };
    Some(trouble.map_or(nodes.clone(), |trouble| format!("{nodes} ({trouble})")))
}
