//! What hosts can receive in all: the part of a host's way in that everything shares.
//!
//! A stream and a socket each let one segment or datagram at a time pass, when its reader asks for it: so readers take
//! turns, none waits for one that does not read, and no host without a limit is concerned.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use tokio::time::Instant;

use crate::{link::Gate, time::Epoch};

/// The most that a timer is late: it must not cost bandwidth.
const TICK: Duration = Duration::from_millis(1);

#[derive(Debug, Default)]
pub(super) struct Downlinks(BTreeMap<IpAddr, Downlink>);

#[derive(Debug, Default)]
struct Downlink {
    /// Bytes a second.
    bandwidth: u64,
    gate: Gate,
}

impl Downlinks {
    pub(super) fn set(&mut self, host: IpAddr, bandwidth: Option<u64>) {
        match bandwidth {
            Some(bandwidth) => self.0.entry(host).or_default().bandwidth = bandwidth,
            None => drop(self.0.remove(&host)),
        }
    }

    /// When `size` bytes have passed that came to a host `at` this time and are asked for now.
    pub(super) fn pass(&mut self, epoch: Epoch, host: IpAddr, at: Instant, size: usize) -> Instant {
        let Some(Downlink { bandwidth, gate }) = self.0.get_mut(&host) else { return at };
        let now = Instant::now();
        let asked = now - now.duration_since(at).min(TICK);
        epoch.instant(gate.pass(epoch.moment(asked), size, *bandwidth))
    }
}
