//! tokio's time for what is polled: as [`Moment`]s for pure machines, and alarms that a stream may keep.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
};

use castanet_core::Moment;
use tokio::time::{Instant, Sleep, sleep_until};

/// When a clock began: a paused one stands still.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Epoch(Instant);

impl Epoch {
    /// Moment zero is now.
    pub(crate) fn begin() -> Self {
        Self(Instant::now())
    }
    pub(crate) fn now(self) -> Moment {
        Moment::ZERO + self.0.elapsed()
    }
    pub(crate) fn instant(self, at: Moment) -> Instant {
        self.0 + at.since(Moment::ZERO)
    }
    pub(crate) fn moment(self, at: Instant) -> Moment {
        Moment::ZERO + at.duration_since(self.0)
    }
}

/// Wakes a task at an instant that may change from poll to poll. It belongs to the runtime that polled it, until it is
/// [stopped](Alarm::stop).
#[derive(Debug, Default)]
pub(crate) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once `at` has come.
    pub(crate) fn poll(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        let polled = sleep.as_mut().poll(cx);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }

    /// Wakes nobody any more.
    pub(crate) fn stop(&mut self) {
        self.0 = None;
    }
}
