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
    /// Is there a limit?
    pub fn is_limited(&self) -> bool {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).rate().is_some()
    }
    /// The limit, in bytes per second.
    pub fn rate(&self) -> Option<u64> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).rate()
    }
    /// Counts bytes that do not wait; what comes after them waits the longer.
    pub fn charge(&self, bytes: usize) {
        let now = self.clock.now();
        let _ = self.bucket.lock().unwrap_or_else(PoisonError::into_inner).charge(bytes as u64, now);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::clock;

    #[tokio::test(start_paused = true)]
    async fn many_connections_together_keep_to_the_limit() {
        let clock = clock();
        let throttle = Throttle::new(Some(16_384), clock.clone());
        let connections = (0..10).map(|_| async {
            for _ in 0..6 {
                throttle.pass(1_638).await;
            }
        });
        futures_util::future::join_all(connections).await;
        let took = clock.now().as_secs_f64();
        assert!((5.0..7.5).contains(&took), "six seconds' worth took {took}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_learns_that_the_limit_is_lifted() {
        let clock = clock();
        let throttle = Throttle::new(Some(1), clock.clone());
        throttle.pass(100_000).await;
        let lifting = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            throttle.set_rate(None);
        };
        tokio::join!(throttle.pass(1), lifting);
        assert!(clock.now().as_secs_f64() < 5.0);
    }
}
