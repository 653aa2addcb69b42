//! When a download counts as stalled or slow.

use std::time::Duration;

use castanet_core::Moment;

/// Nothing has arrived for so long: it is stalled.
pub const QUIET: Duration = Duration::from_secs(10);
/// Before pieces could arrive for so long, slowness means nothing.
pub const SETTLING: Duration = Duration::from_secs(30);
/// At or above this rate nothing is slow, bytes per second.
pub const CRAWL_RATE: u64 = 16 * 1024;
/// Whatever the rate, a download that ends within this time is not slow.
pub const SOON: Duration = Duration::from_secs(600);

/// How a download goes that does not go well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slowness {
    /// Nothing arrives.
    Stalled,
    /// So little arrives that the rest would take very long.
    Crawling,
}

/// How long nothing has arrived, and how long pieces could.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    last: Moment,
    began: Option<Moment>,
}

impl Pace {
    /// Nothing can arrive yet.
    pub fn new(now: Moment) -> Self {
        Self { last: now, began: None }
    }
    /// Something arrived, or is waited for from now on.
    pub fn arrived(&mut self, now: Moment) {
        self.last = now;
    }
    /// Pieces can arrive from now on.
    pub fn begin(&mut self, now: Moment) {
        self.began = Some(now);
    }
    /// How it goes, with so many bytes missing and so many arriving each second.
    pub fn judge(&self, left: u64, rate: u64, now: Moment) -> Option<Slowness> {
        if now.since(self.last) >= QUIET {
            return Some(Slowness::Stalled);
        }
        let is_settled = self.began.is_some_and(|began| now.since(began) >= SETTLING);
        let crawls = rate < CRAWL_RATE && left / rate.max(1) > SOON.as_secs();
        (is_settled && crawls).then_some(Slowness::Crawling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_a_stall_and_little_is_a_crawl() {
        let at = |seconds| Moment::default() + Duration::from_secs(seconds);
        let mut pace = Pace::new(at(0));
        assert_eq!(pace.judge(u64::MAX, 0, at(9)), None);
        assert_eq!(pace.judge(u64::MAX, 0, at(10)), Some(Slowness::Stalled));
        pace.arrived(at(40));
        assert_eq!(pace.judge(u64::MAX, 1, at(41)), None, "pieces cannot arrive yet");
        pace.begin(at(12));
        assert_eq!(pace.judge(u64::MAX, 1, at(41)), None, "it has hardly begun");
        pace.arrived(at(42));
        assert_eq!(pace.judge(u64::MAX, 1, at(42)), Some(Slowness::Crawling));
        assert_eq!(pace.judge(601, 1, at(42)), Some(Slowness::Crawling));
        assert_eq!(pace.judge(600, 1, at(42)), None, "it ends soon");
        assert_eq!(pace.judge(u64::MAX, CRAWL_RATE, at(42)), None);
    }
}
