//! The items that others stored with us: bounded, with a share for each host, gone after two hours (BEP 44).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use castanet_core::Moment;

use super::{Item, ItemError, NodeId, limits::Host};

/// How long an item is kept after it was put. Whoever wants it to live puts it once an hour.
pub(super) const ITEM_LIFE: Duration = Duration::from_secs(2 * 3600);
/// Items that are kept, of 1,000 bytes at most; beyond, the one goes that was put longest ago.
pub(super) const MOST_ITEMS: usize = 2048;
/// Items that one host brought.
pub(super) const MOST_ITEMS_OF_A_HOST: usize = 64;

/// The store.
#[derive(Debug, Default)]
pub(super) struct Items {
    items: BTreeMap<NodeId, Stored>,
    by_age: BTreeSet<(Moment, NodeId)>,
    shares: BTreeMap<Host, usize>,
}

#[derive(Debug)]
struct Stored {
    item: Item,
    put: Moment,
    /// Who brought it first.
    host: Host,
}

impl Items {
    /// The item that lies there.
    pub(super) fn get(&self, target: NodeId) -> Option<&Item> {
        self.items.get(&target).map(|stored| &stored.item)
    }

    /// Keeps an item, or keeps it alive. With `cas` only in place of that version, if there is any.
    pub(super) fn put(&mut self, item: Item, cas: Option<i64>, host: Host, now: Moment) -> Result<(), ItemError> {
        self.expire(now);
        item.check()?;
        let target = item.target();
        match self.items.get_mut(&target) {
            Some(stored) => {
                if cas.is_some() && cas != stored.item.seq() && item.seq().is_some() {
                    return Err(ItemError::CasMismatch);
                }
                let same_version = item.seq() == stored.item.seq();
                if item.seq() < stored.item.seq() || same_version && item.value() != stored.item.value() {
                    return Err(ItemError::OldSequence);
                }
                self.by_age.remove(&(stored.put, target));
                stored.item = item;
                stored.put = now;
            }
            None => {
                let share = self.shares.entry(host).or_default();
                if *share >= MOST_ITEMS_OF_A_HOST {
                    return Err(ItemError::ShareUsedUp);
                }
                *share += 1;
                self.items.insert(target, Stored { item, put: now, host });
            }
        }
        self.by_age.insert((now, target));
        if self.items.len() > MOST_ITEMS {
            self.drop_oldest();
        }
        Ok(())
    }

    /// Drops what nobody has put for long.
    pub(super) fn expire(&mut self, now: Moment) {
        while self.by_age.first().is_some_and(|(put, _)| *put + ITEM_LIFE <= now) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let oldest = self.by_age.pop_first().and_then(|(_, target)| self.items.remove(&target));
        if let Some(stored) = oldest
            && let Some(share) = self.shares.get_mut(&stored.host)
        {
            *share -= 1;
            if *share == 0 {
                self.shares.remove(&stored.host);
            }
        }
    }

    /// Items in the store.
    pub(super) fn count(&self) -> usize {
        self.items.len()
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.items.len() <= MOST_ITEMS);
        assert_eq!(self.items.len(), self.shares.values().sum::<usize>());
        assert!(self.shares.values().all(|share| (1..=MOST_ITEMS_OF_A_HOST).contains(share)));
        let ages: BTreeSet<_> = self.items.iter().map(|(target, stored)| (stored.put, *target)).collect();
        assert_eq!(ages, self.by_age);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(n: u32) -> Host {
        Host::V4(n.to_be_bytes())
    }
    fn signed(seq: i64, value: &[u8]) -> Item {
        Item::signed([1; 32], b"", seq, value).unwrap()
    }
    fn number(n: usize) -> Item {
        Item::immutable(format!("i{n}e").as_bytes()).unwrap()
    }
    fn hour(hours: u64) -> Moment {
        Moment::from_secs(hours * 3600)
    }

    #[test]
    fn versions_go_up() {
        let mut items = Items::default();
        let (first, third) = (signed(1, b"i1e"), signed(3, b"i3e"));
        let target = first.target();
        items.put(first.clone(), Some(77), host(1), hour(0)).expect("cas means nothing if there is no item");
        assert_eq!(items.put(third.clone(), None, host(2), hour(0)), Ok(()), "anyone may bring it");
        assert_eq!(items.get(target), Some(&third));
        assert_eq!(items.put(first, None, host(1), hour(0)), Err(ItemError::OldSequence));
        assert_eq!(items.put(signed(3, b"i4e"), None, host(1), hour(0)), Err(ItemError::OldSequence));
        assert_eq!(items.put(signed(4, b"i4e"), Some(2), host(1), hour(0)), Err(ItemError::CasMismatch));
        assert_eq!(items.put(signed(4, b"i4e"), Some(3), host(1), hour(0)), Ok(()));
        items.check_invariants();
    }

    #[test]
    fn an_item_lives_two_hours_after_the_last_put() {
        let mut items = Items::default();
        let item = signed(1, b"le");
        for at in [0, 1] {
            assert_eq!(items.put(item.clone(), None, host(1), hour(at)), Ok(()));
            assert_eq!(items.put(number(1), None, host(1), hour(0)), Ok(()));
        }
        items.expire(hour(2));
        assert_eq!((items.count(), items.get(item.target())), (1, Some(&item)));
        items.check_invariants();
        items.expire(hour(3));
        assert!(items.count() == 0 && items.shares.is_empty());
    }

    #[test]
    fn floods_are_bounded_and_hosts_have_shares() {
        let mut items = Items::default();
        let taken = (0..200).filter(|n| items.put(number(*n), None, host(1), hour(0)).is_ok()).count();
        assert_eq!(taken, MOST_ITEMS_OF_A_HOST);
        assert_eq!(items.put(number(999), None, host(1), hour(0)), Err(ItemError::ShareUsedUp));
        for n in 1000..1000 + 2 * MOST_ITEMS {
            assert_eq!(items.put(number(n), None, host(n as u32), Moment(n as u64)), Ok(()));
        }
        assert_eq!(items.count(), MOST_ITEMS);
        assert_eq!(items.get(number(5).target()), None, "the oldest went");
        items.check_invariants();
    }
}
