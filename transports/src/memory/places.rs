//! Where the hosts are: at a cable, on an island, in a LAN. Only what differs from the beginning is kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) unplugged: BTreeSet<IpAddr>,
    islands: BTreeMap<IpAddr, u32>,
    lans: BTreeMap<IpAddr, u32>,
    /// The hosts of each LAN but 0.
    members: BTreeMap<u32, BTreeSet<IpAddr>>,
}

impl Places {
    /// Does anything get from one to the other?
    pub(super) fn are_together(&self, one: IpAddr, other: IpAddr) -> bool {
        !self.unplugged.contains(&one)
            && !self.unplugged.contains(&other)
            && (self.islands.is_empty() || self.island(one) == self.island(other))
    }

    pub(super) fn island(&self, host: IpAddr) -> u32 {
        self.islands.get(&host).copied().unwrap_or_default()
    }

    pub(super) fn set_island(&mut self, host: IpAddr, island: u32) {
        match island {
            0 => self.islands.remove(&host),
            _ => self.islands.insert(host, island),
        };
    }

    pub(super) fn lan(&self, host: IpAddr) -> u32 {
        self.lans.get(&host).copied().unwrap_or_default()
    }

    pub(super) fn set_lan(&mut self, host: IpAddr, lan: u32) {
        if let Some(before) = self.lans.remove(&host)
            && let Some(members) = self.members.get_mut(&before)
        {
            members.remove(&host);
            if members.is_empty() {
                self.members.remove(&before);
            }
        }
        if lan != 0 {
            self.lans.insert(host, lan);
            self.members.entry(lan).or_default().insert(host);
        }
    }

    /// The hosts of a LAN, but for 0: it is for all who are in none.
    pub(super) fn members(&self, lan: u32) -> Option<&BTreeSet<IpAddr>> {
        self.members.get(&lan)
    }

    /// Is there no NAT between the two?
    pub(super) fn are_neighbours(&self, one: IpAddr, other: IpAddr) -> bool {
        one == other || self.lans.get(&one).is_some_and(|lan| self.lans.get(&other) == Some(lan))
    }
}
