//! Who came into the swarm through whom: every peer beside the one with which it shook hands first.

use std::collections::BTreeSet;

use super::is_seed;
use crate::lab::Report;

/// Peers in columns, by how many first contacts lie between them and a seed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) columns: Vec<Vec<Place>>,
    /// How many of the columns begin at a seed; the others lead to none.
    pub(super) rooted: usize,
    /// How many peers there were to place.
    pub(super) peers: usize,
}

/// A peer, and where its first contact is in the column before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) peer: usize,
    pub(super) from: Option<usize>,
}

impl Tree {
    /// Of all peers that came, but no more than `most`: those nearest to seeds.
    pub(super) fn of(report: &Report, most: usize) -> Self {
        let came: BTreeSet<usize> = (0..report.peers.len()).filter(|at| report.peers[*at].joined.is_some()).collect();
        let is_seed: Vec<bool> = report.peers.iter().map(|peer| is_seed(report, peer)).collect();
        let contact = |at: usize| {
            let peer = report.peers[at].contact.as_ref().map(|contact| contact.peer).filter(|_| !is_seed[at]);
            peer.filter(|peer| *peer != at && came.contains(peer))
        };
        let mut children = vec![Vec::new(); report.peers.len()];
        for at in &came {
            if let Some(parent) = contact(*at) {
                children[parent].push(*at);
            }
        }
        let (mut left, mut room) = (came.clone(), most);
        let seeds: Vec<usize> = came.iter().copied().filter(|at| is_seed[*at]).collect();
        let mut columns = spread(&seeds, &children, &mut left, &mut room);
        let rooted = columns.len();
        columns.extend(spread(&apart(&left, contact), &children, &mut left, &mut room));
        Self { columns, rooted, peers: came.len() }
    }

    /// How many have a place.
    pub(super) fn placed(&self) -> usize {
        self.columns.iter().map(Vec::len).sum()
    }
}

/// Where those begin that no seed is at the beginning of: at one without a contact, or in a ring at its first.
fn apart(left: &BTreeSet<usize>, contact: impl Fn(usize) -> Option<usize>) -> Vec<usize> {
    let mut begins = BTreeSet::new();
    let mut known = BTreeSet::new();
    for start in left {
        let (mut way, mut at) = (Vec::new(), *start);
        while known.insert(at) {
            way.push(at);
            match contact(at) {
                Some(next) => at = next,
                None => {
                    begins.insert(at);
                }
            }
        }
        if let Some(ring) = way.iter().position(|peer| *peer == at).filter(|_| contact(at).is_some()) {
            begins.extend(way[ring..].iter().min());
        }
    }
    begins.into_iter().collect()
}

/// From these on, column by column.
fn spread(begins: &[usize], children: &[Vec<usize>], left: &mut BTreeSet<usize>, room: &mut usize) -> Vec<Vec<Place>> {
    let mut columns = Vec::new();
    let mut next: Vec<Place> = begins.iter().map(|peer| Place { peer: *peer, from: None }).collect();
    while !next.is_empty() && *room > 0 {
        next.truncate(*room);
        next.retain(|place| left.remove(&place.peer));
        *room -= next.len();
        let after = next.iter().enumerate().flat_map(|(from, place)| {
            children[place.peer].iter().map(move |peer| Place { peer: *peer, from: Some(from) })
        });
        let after: Vec<Place> = after.filter(|place| left.contains(&place.peer)).collect();
        columns.extend((!next.is_empty()).then_some(next));
        next = after;
    }
    columns
}
