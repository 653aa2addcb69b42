//! How much a remote may say that others must be told of: messages of extensions and DHT ports (BEP 10, BEP 5).
//!
//! Each of them waits in somebody's mailbox, so a flood must end with the connection. Conversations are not slowed:
//! whatever we say to the remote through an extension entitles it to one message more.

use std::time::Duration;

use castanet_core::Moment;

/// Messages that a remote may send at once.
pub const MOST_CHATTER: u32 = 256;
/// Messages a second that it may send unasked, in the long run.
pub const CHATTER_RATE: u32 = 16;
/// Long messages count for several: one for each begun 32 KiB, which is more than a piece of metadata takes.
const ONE: usize = 32 * 1024;

/// What a remote may still say.
#[derive(Debug)]
pub(super) struct Chatter {
    left: u32,
    /// When `left` was last topped up.
    since: Moment,
}

impl Chatter {
    pub(super) fn new(now: Moment) -> Self {
        Self { left: MOST_CHATTER, since: now }
    }

    /// A message of so many bytes came; `false` if it is one too many.
    pub(super) fn heard(&mut self, bytes: usize, now: Moment) -> bool {
        let each = Duration::from_secs(1) / CHATTER_RATE;
        let earned = (now.since(self.since).as_nanos() / each.as_nanos()).min(u128::from(MOST_CHATTER)) as u32;
        self.left = (self.left + earned).min(MOST_CHATTER);
        self.since = if self.left == MOST_CHATTER { now } else { self.since + each * earned };
        let cost = 1 + u32::try_from(bytes / ONE).unwrap_or(u32::MAX - 1);
        let fits = cost <= self.left;
        self.left = self.left.saturating_sub(cost);
        fits
    }

    /// We said something to the remote.
    pub(super) fn said(&mut self) {
        self.left = (self.left + 1).min(MOST_CHATTER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_from_a_conversation() {
        let mut chatter = Chatter::new(Moment::ZERO);
        for _ in 0..10_000 {
            assert!(chatter.heard(16_400, Moment::ZERO));
            chatter.said();
        }
        assert_eq!((0..1_000).filter(|_| chatter.heard(100, Moment::ZERO)).count(), MOST_CHATTER as usize);
        let later = Moment::from_secs(2);
        assert_eq!((0..1_000).filter(|_| chatter.heard(100, later)).count(), 2 * CHATTER_RATE as usize);
        let at_last = Moment::NEVER;
        assert_eq!((0..1_000).filter(|_| chatter.heard(1 << 20, at_last)).count(), MOST_CHATTER as usize / 33);
    }
}
