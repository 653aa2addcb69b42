//! The write loop of a connection.
//!
//! Gathers what waits into one vectored write. Under a limit blocks wait for their turn, and a block that has begun is
//! finished before others begin; control messages are counted but wait for nobody unless there are very many, and go before
//! blocks that have not begun.

use std::{collections::VecDeque, io::IoSlice, iter, time::Duration};

use actix::prelude::*;
use bytes::{Buf, Bytes};
use castanet_core::seams::{means::Clock, transport::WriteHalf};
use castanet_protocol::{rate::TokenBucket, wire::HANDSHAKE_LENGTH};
use tokio::{io::AsyncWriteExt, sync::mpsc};

use super::read::FREE_CONTROL;
use crate::{mail::tell, messages::peer::BytesWritten, throttle::PeerThrottle};

/// Frames taken at a time.
const MOST_FRAMES: usize = 32;
/// Slices gathered for one write: 32 blocks with their headers.
const MOST_SLICES: usize = 64;

/// Something to send.
pub(super) enum Frame {
    /// One or more control messages.
    Control(Bytes),
    /// A block: its header, its data.
    Block(Bytes, Bytes),
}

impl Frame {
    fn parts(&self) -> impl Iterator<Item = &Bytes> {
        let (first, second) = match self {
            Self::Control(bytes) => (bytes, None),
            Self::Block(header, data) => (header, Some(data)),
        };
        iter::once(first).chain(second)
    }
}

/// What waits for the socket.
struct Outbox {
    /// What is left of the frame that has begun.
    begun: VecDeque<Bytes>,
    begun_block: bool,
    /// Control messages that overtake blocks.
    urgent: VecDeque<Bytes>,
    queue: VecDeque<Frame>,
    /// Whether they may: who lacks the fast extension (BEP 6) takes a block behind a choke for one that nobody asked for.
    overtakes: bool,
}

/// What comes next, in bytes.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Control(usize),
    Block { bytes: usize, begun: bool },
}

impl Outbox {
    fn new(overtakes: bool) -> Self {
        let (begun, urgent, queue) = (VecDeque::new(), VecDeque::new(), VecDeque::with_capacity(MOST_FRAMES));
        Self { begun, begun_block: false, urgent, queue, overtakes }
    }

    fn is_empty(&self) -> bool {
        self.begun.is_empty() && self.urgent.is_empty() && self.queue.is_empty()
    }

    fn push(&mut self, frame: Frame, is_limited: bool) {
        match frame {
            Frame::Control(bytes) if self.overtakes && is_limited => self.urgent.push_back(bytes),
            frame => self.queue.push_back(frame),
        }
    }

    fn next(&self) -> Next {
        if !self.begun.is_empty() {
            let bytes = self.begun.iter().map(Bytes::len).sum();
            return if self.begun_block { Next::Block { bytes, begun: true } } else { Next::Control(bytes) };
        }
        match (self.urgent.front(), self.queue.front()) {
            (Some(bytes), _) | (None, Some(Frame::Control(bytes))) => Next::Control(bytes.len()),
            (None, Some(Frame::Block(header, data))) => Next::Block { bytes: header.len() + data.len(), begun: false },
            (None, None) => Next::Control(0),
        }
    }

    /// All of it, in order.
    fn slices(&self) -> impl Iterator<Item = &Bytes> {
        self.begun.iter().chain(&self.urgent).chain(self.queue.iter().flat_map(Frame::parts))
    }

    /// So many bytes have left.
    fn written(&mut self, mut bytes: usize) {
        while bytes > 0 {
            if self.begun.is_empty() && !self.begin() {
                return;
            }
            match self.begun.front_mut() {
                Some(front) if bytes < front.len() => return front.advance(bytes),
                front => bytes -= front.map_or(0, |front| front.len()),
            }
            self.begun.pop_front();
        }
    }

    /// The next frame begins; false if there is none.
    fn begin(&mut self) -> bool {
        let next = self.urgent.pop_front().map(Frame::Control).or_else(|| self.queue.pop_front());
        self.begun_block = matches!(next, Some(Frame::Block(..)));
        match next {
            Some(Frame::Control(bytes)) => self.begun.push_back(bytes),
            Some(Frame::Block(header, data)) => self.begun.extend([header, data]),
            None => return false,
        }
        true
    }
}

pub(super) async fn write_loop(
    mut writer: WriteHalf,
    mut frames: mpsc::Receiver<Frame>,
    me: Recipient<BytesWritten>,
    limit: Option<PeerThrottle>,
    clock: Clock,
    overtakes: bool,
) {
    if let Some(limit) = &limit {
        limit.charge(HANDSHAKE_LENGTH);
    }
    let mut free = TokenBucket::saving(Duration::from_secs(1), Some(FREE_CONTROL), clock.now());
    let mut outbox = Outbox::new(overtakes);
    let mut batch = Vec::with_capacity(MOST_FRAMES);
    // What may leave of what is next, under a limit.
    let mut paid = 0;
    loop {
        let limit = limit.as_ref().filter(|limit| limit.is_limited());
        if outbox.is_empty() {
            if frames.recv_many(&mut batch, MOST_FRAMES).await == 0 {
                let _ = writer.shutdown().await;
                return;
            }
            batch.drain(..).for_each(|frame| outbox.push(frame, limit.is_some()));
        }
        if let Some(limit) = limit
            && paid == 0
        {
            while let Ok(frame) = frames.try_recv() {
                outbox.push(frame, true);
            }
            match outbox.next() {
                Next::Control(bytes) if free.take(bytes as u64, clock.now()).is_ok() => {
                    limit.charge(bytes);
                    paid = bytes;
                }
                Next::Control(bytes) => paid = limit.pass(bytes, true).await,
                Next::Block { bytes, begun } => tokio::select! {
                    biased;
                    granted = limit.pass(bytes, begun) => paid = granted,
                    Some(frame) = frames.recv(), if !begun => {
                        outbox.push(frame, true);
                        continue;
                    }
                },
            }
        }
        let most = limit.map_or(usize::MAX, |_| paid);
        let written = {
            let (mut slices, mut used, mut room) = ([IoSlice::new(&[]); MOST_SLICES], 0, most);
            for (slice, bytes) in slices.iter_mut().zip(outbox.slices()) {
                let length = bytes.len().min(room);
                if length == 0 {
                    break;
                }
                *slice = IoSlice::new(&bytes[..length]);
                (used, room) = (used + 1, room - length);
            }
            // The read loop notices a broken connection too, and says so in words.
            match writer.write_vectored(&slices[..used]).await {
                Ok(0) | Err(_) => return,
                Ok(written) => written,
            }
        };
        paid = limit.map_or(0, |_| paid - written.min(paid));
        outbox.written(written);
        tell(&me, BytesWritten(written));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(text: &'static str) -> Frame {
        Frame::Control(Bytes::from_static(text.as_bytes()))
    }

    fn block(header: &'static str, data: &'static str) -> Frame {
        Frame::Block(Bytes::from_static(header.as_bytes()), Bytes::from_static(data.as_bytes()))
    }

    fn text(outbox: &Outbox) -> String {
        outbox.slices().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }

    #[test]
    fn control_messages_overtake_blocks_that_have_not_begun() {
        let mut outbox = Outbox::new(true);
        outbox.push(block("h1", "data1"), true);
        outbox.push(block("h2", "data2"), true);
        assert_eq!(outbox.next(), Next::Block { bytes: 7, begun: false });
        outbox.written(1);
        outbox.push(control("have"), true);
        assert_eq!(text(&outbox), "1data1haveh2data2");
        assert_eq!(outbox.next(), Next::Block { bytes: 6, begun: true });
        outbox.written(6);
        assert_eq!(outbox.next(), Next::Control(4));
        outbox.written(3);
        assert_eq!((outbox.next(), text(&outbox).as_str()), (Next::Control(1), "eh2data2"));
        outbox.written(8);
        assert!(outbox.is_empty());
    }

    #[test]
    fn without_the_fast_extension_or_a_limit_the_order_stays() {
        for (overtakes, is_limited) in [(false, true), (true, false)] {
            let mut outbox = Outbox::new(overtakes);
            outbox.push(block("h1", "data1"), is_limited);
            outbox.push(control("choke"), is_limited);
            assert_eq!(text(&outbox), "h1data1choke");
            outbox.written(4);
            assert_eq!(text(&outbox), "ta1choke");
        }
    }
}
