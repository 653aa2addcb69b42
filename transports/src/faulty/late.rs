//! What is read comes over a [`Line`]: late, in order and in full. It ends with the stream that it wraps.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use castanet_core::Moment;
use tokio::io::{AsyncRead, ReadBuf};

use crate::{
    link::Line,
    time::{Alarm, Epoch},
};

/// Bytes of a connection that are under way at most, counting what keeping each segment costs; what wants to follow stays
/// with the writer.
pub const WINDOW: usize = 1 << 20;

/// Bytes that arrive together, so that much of them on a slow line trickles in.
const SEGMENT: usize = 4096;

/// What a segment costs besides its bytes.
const OVERHEAD: usize = 128;

/// The line of one direction and what is under way on it.
#[derive(Debug)]
pub(super) struct Late {
    line: Line,
    epoch: Epoch,
    under_way: VecDeque<(Moment, Bytes)>,
    held: usize,
    /// How it ended at the other side, and when that is known here.
    end: Option<(Moment, Option<io::Error>)>,
    alarm: Alarm,
}

impl Late {
    pub(super) fn new(line: Line, epoch: Epoch) -> Self {
        Self { line, epoch, under_way: VecDeque::new(), held: 0, end: None, alarm: Alarm::default() }
    }

    /// Timers belong to a runtime.
    pub(super) fn leave_home(&mut self) {
        self.alarm.stop();
    }

    /// Reads from `inner` what has arrived.
    pub(super) fn poll_read(
        &mut self,
        mut inner: Pin<&mut (impl AsyncRead + ?Sized)>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.fill(inner.as_mut(), cx);
        loop {
            let now = self.epoch.now();
            let before = into.filled().len();
            while let Some((at, segment)) = self.under_way.front_mut()
                && *at <= now
                && into.remaining() > 0
            {
                let length = segment.len().min(into.remaining());
                into.put_slice(&segment[..length]);
                segment.advance(length);
                self.held -= length;
                if segment.is_empty() {
                    self.held -= OVERHEAD;
                    self.under_way.pop_front();
                }
            }
            if into.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            let due = match (self.under_way.front(), &mut self.end) {
                (Some((at, _)), _) => *at,
                (None, Some((at, error))) if *at <= now => return Poll::Ready(error.take().map_or(Ok(()), Err)),
                (None, Some((at, _))) => *at,
                (None, None) => return Poll::Pending,
            };
            ready!(self.alarm.poll(self.epoch.instant(due), cx));
        }
    }

    /// Puts all that `inner` has on its way, as far as there is room.
    fn fill(&mut self, mut inner: Pin<&mut (impl AsyncRead + ?Sized)>, cx: &mut Context<'_>) {
        let mut space = [0; SEGMENT];
        while self.end.is_none() && self.held < WINDOW {
            let mut part = ReadBuf::new(&mut space);
            let outcome = match inner.as_mut().poll_read(cx, &mut part) {
                Poll::Ready(outcome) => outcome,
                Poll::Pending => return,
            };
            let now = self.epoch.now();
            let bytes = part.filled();
            let arrival = self.line.pour(now, bytes.len());
            if outcome.is_err() || bytes.is_empty() {
                self.end = Some((arrival, outcome.err()));
            } else {
                self.held += bytes.len() + OVERHEAD;
                self.under_way.push_back((arrival, Bytes::copy_from_slice(bytes)));
            }
        }
    }
}
