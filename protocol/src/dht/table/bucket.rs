//! One bucket: who has a place, who waits for one, and who gives way to whom.

use std::net::SocketAddr;

use castanet_core::Moment;

use super::{Entry, HOPELESS, MOST_WAITING};

/// The nodes that share the same number of leading bits with us.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub(super) entries: Vec<Entry>,
    /// Those who answered when there was no place; the latest is the last.
    pub(super) waiting: Vec<Entry>,
    /// When a node of it last answered.
    pub(super) changed: Moment,
}

impl Bucket {
    /// Takes a node that neither has a place nor waits.
    pub(super) fn admit(&mut self, new: Entry, places: usize, now: Moment) {
        if new.answered.is_some() {
            self.changed = now;
        }
        if self.entries.len() < places {
            self.entries.push(new);
        } else if let Some(at) = self.weakest(new.fits).filter(|_| new.answered.is_some()) {
            self.entries[at] = new;
        } else if new.answered.is_some() {
            if self.waiting.len() == MOST_WAITING {
                self.waiting.remove(0);
            }
            self.waiting.push(new);
        }
    }

    /// Would a node that answers get a place now, or soon because somebody's is in doubt?
    pub(super) fn would_take(&self, fits: bool, places: usize, now: Moment) -> bool {
        let in_doubt = || self.waiting.len() < MOST_WAITING && self.entries.iter().any(|entry| !entry.is_good(now));
        self.entries.len() < places || self.weakest(fits).is_some() || in_doubt()
    }

    /// Who gives way to a node that answered: the bad, then those never heard of, then those whose ids do not fit if
    /// the newcomer's does.
    fn weakest(&self, newcomer_fits: bool) -> Option<usize> {
        let weakness = |entry: &Entry| match entry {
            entry if entry.is_bad() => 3 + entry.failures,
            entry if entry.answered.is_none() => 2,
            entry => u8::from(newcomer_fits && !entry.fits),
        };
        let (at, entry) = self.entries.iter().enumerate().max_by_key(|(_, entry)| weakness(entry))?;
        (weakness(entry) > 0).then_some(at)
    }

    /// A node left a question of this moment unanswered.
    pub(super) fn failed(&mut self, addr: SocketAddr, asked: Moment) {
        let failed = |entry: &Entry| entry.node.addr == addr && entry.answered.is_none_or(|last| last <= asked);
        self.waiting.retain(|entry| !failed(entry));
        let Some(at) = self.entries.iter().position(failed) else { return };
        let entry = &mut self.entries[at];
        entry.failures += 1;
        if entry.failures >= HOPELESS {
            self.entries.remove(at);
        } else if entry.is_bad()
            && let Some(heir) = self.waiting.pop()
        {
            self.entries[at] = heir;
        }
    }
}
