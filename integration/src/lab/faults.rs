//! What goes wrong in a run: trackers and nodes that are gone, groups that are apart, peers that are killed and come back.

use std::{net::IpAddr, rc::Rc};

use castanet_transports::memory::MemoryNet;
use tokio::{task::JoinHandle, time::sleep_until};
use toml::Spanned;

use super::{
    run::{Cast, Peer, Stage},
    scenario::Fault,
};
use crate::universe::Host;

/// Everything that goes wrong, each waiting for its time.
pub(super) fn happen(stage: &Stage<'_>) -> Vec<JoinHandle<()>> {
    let wait = |fault: &Fault| {
        let harm = Harm::of(fault, stage);
        let (at, until) = (fault.at.get_ref().0, fault.until.as_ref().map(|until| until.get_ref().0));
        let (cast, net) = (stage.cast.clone(), stage.world.net().clone());
        actix_rt::spawn(async move {
            sleep_until(cast.zero.get() + at).await;
            harm.begin(&cast, &net).await;
            if let Some(until) = until {
                sleep_until(cast.zero.get() + until).await;
                harm.end(&cast, &net).await;
            }
        })
    };
    stage.cast.scenario.faults.iter().map(wait).collect()
}

/// What a fault does, to whom.
enum Harm {
    /// Their cables are pulled.
    Gone(Vec<IpAddr>),
    /// They are alone with each other, on an island of this number.
    Apart(u32, Vec<IpAddr>),
    /// These peers are killed.
    Killed(Vec<usize>),
}

impl Harm {
    fn of(fault: &Fault, stage: &Stage<'_>) -> Self {
        let cast = &stage.cast;
        let members = |groups: &[Spanned<String>]| -> Vec<usize> {
            let is_meant = |peer: &Peer| groups.iter().any(|name| name.get_ref() == cast.group_of(peer).name.get_ref());
            (0..cast.peers.len()).filter(|peer| is_meant(&cast.peers[*peer])).collect()
        };
        if let Some(groups) = &fault.part {
            let apart = members(groups).into_iter().map(|peer| cast.peers[peer].host.ip());
            // Each fault has an island of its own, wherever it stands in the file.
            return Self::Apart(fault.at.span().start as u32 + 1, apart.collect());
        }
        if let Some(group) = &fault.kill {
            return Self::Killed(members(std::slice::from_ref(group)));
        }
        match &fault.tracker {
            Some(tracker) => Self::Gone(stage.trackers.get(tracker.get_ref()).copied().into_iter().collect()),
            None => Self::Gone(stage.nodes.iter().map(Host::ip).collect()),
        }
    }

    async fn begin(&self, cast: &Rc<Cast>, net: &MemoryNet) {
        match self {
            Self::Gone(hosts) => hosts.iter().for_each(|host| net.unplug(*host)),
            Self::Apart(island, hosts) => net.set_islands(hosts.iter().map(|host| (*host, *island))),
            Self::Killed(peers) => {
                for peer in peers.iter().map(|peer| &cast.peers[*peer]).filter(|peer| peer.host.is_up()) {
                    peer.harvest();
                    peer.host.kill().await;
                }
            }
        }
    }

    async fn end(&self, cast: &Rc<Cast>, net: &MemoryNet) {
        match self {
            Self::Gone(hosts) => hosts.iter().for_each(|host| net.plug(*host)),
            Self::Apart(_, hosts) => net.set_islands(hosts.iter().map(|host| (*host, 0))),
            Self::Killed(peers) => {
                for peer in peers.iter().copied().filter(|peer| cast.peers[*peer].is_dead()) {
                    cast.clone().begin(peer).await;
                }
            }
        }
    }
}
