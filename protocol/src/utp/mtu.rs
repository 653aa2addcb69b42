//! The search for the largest packet that arrives: now and then a full packet that carries data is padded to a larger size.
//!
//! Padding is lost without harm: the data is sent again without it. What cannot be sent again in smaller pieces is never
//! made larger on trial.

/// Steps that are too small to be worth a packet, in bytes.
const STEP: usize = 16;
/// Packets may be so large to begin with: IPv6 carries 1,280 bytes everywhere, and IPv4 hardly anywhere less.
const SURE: usize = 1232;

/// The size of a full datagram, in bytes without the headers of UDP and IP.
#[derive(Debug)]
pub(super) struct Mtu {
    size: usize,
    /// The most that it might be.
    largest: usize,
    /// The size that is on trial.
    tried: Option<usize>,
    /// Something was too large: what is in between is searched by halves.
    is_narrow: bool,
}

impl Mtu {
    /// A way that carries no more than `largest`.
    pub(super) fn new(largest: usize) -> Self {
        Self { size: SURE.min(largest), largest, tried: None, is_narrow: false }
    }

    /// The largest datagram that is known to arrive.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Begins a trial: bytes to add to a full packet, 0 if there is nothing to try.
    pub(super) fn padding(&mut self) -> usize {
        if self.tried.is_some() || self.size + STEP > self.largest {
            return 0;
        }
        // The largest first: it is what most ways carry.
        let tried = if self.is_narrow { (self.size + self.largest).div_ceil(2) } else { self.largest };
        self.tried = Some(tried);
        tried - self.size
    }

    /// What was on trial has arrived, or has not. Returns whether full packets are larger now.
    pub(super) fn tell(&mut self, has_arrived: bool) -> bool {
        match self.tried.take() {
            Some(tried) if has_arrived => self.size = tried,
            Some(tried) => (self.largest, self.is_narrow) = (tried - 1, true),
            None => return false,
        }
        has_arrived
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found on a way that carries `carried` bytes, and after how many trials.
    fn search(largest: usize, carried: usize) -> (usize, usize) {
        let mut mtu = Mtu::new(largest);
        let mut trials = 0;
        loop {
            let padding = mtu.padding();
            if padding == 0 {
                return (mtu.size(), trials);
            }
            assert_eq!(mtu.padding(), 0, "one at a time");
            trials += 1;
            mtu.tell(mtu.size() + padding <= carried);
        }
    }

    #[test]
    fn most_ways_are_known_after_one_trial_and_every_other_after_a_few() {
        assert_eq!(search(1472, 1472), (1472, 1));
        assert_eq!(search(1452, 9000), (1452, 1));
        for carried in 1232..1472 {
            let (found, trials) = search(1472, carried);
            assert!(found <= carried && carried < found + STEP && trials <= 6, "{carried}: {found} after {trials}");
        }
        assert_eq!(search(600, 600), (600, 0), "nothing is tried beyond what was said to be the most");
    }

    #[test]
    fn nothing_is_learnt_without_a_trial() {
        let mut mtu = Mtu::new(1472);
        assert!(!mtu.tell(true) && !mtu.tell(false));
        assert_eq!((mtu.size(), mtu.padding()), (1232, 240));
    }
}
