//! Rate limits on sockets: a token bucket that any number of connections wait for in turn.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use castanet_core::seams::means::Clock;
use castanet_protocol::rate::TokenBucket;

/// How long a connection waits before it looks again: a limit may have been lifted meanwhile.
const NAP: Duration = Duration::from_secs(1);

/// A limit shared by cloning. Unlimited costs one lock a call.
#[derive(Debug, Clone)]
pub struct Throttle {
    bucket: Arc<Mutex<TokenBucket>>,
    clock: Clock,
}

impl Throttle {
    /// `rate` in bytes per second; `None` is unlimited.
    pub fn new(rate: Option<u64>, clock: Clock) -> Self {
        let bucket = TokenBucket::new(rate, clock.now());
        Self { bucket: Arc::new(Mutex::new(bucket)), clock }
    }
    /// Changes the limit.
    pub fn set_rate(&self, rate: Option<u64>) {
        let now = self.clock.now();
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).set_rate(rate, now);
    }
    /// Waits until `bytes` may pass.
    pub async fn pass(&self, bytes: usize) {
        loop {
            let now = self.clock.now();
            let taken = self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(bytes as u64, now);
            match taken {
                Ok(()) => return,
                Err(at) => tokio::time::sleep(at.since(now).min(NAP)).await,
            }
        }
    }
}
