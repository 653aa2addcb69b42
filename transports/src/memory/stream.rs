//! Streams of the network in memory: two pipes a connection, each a bounded queue of bytes with times of arrival.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    mem,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf as _, Bytes};
use castanet_core::seams::transport::{Duplex, ReadHalf, WriteHalf};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::state::{Shared, State, TURN};
use crate::time::Alarm;

/// Bytes a connection holds in one direction, under way and unread; a writer waits when they are used up.
pub const WINDOW: usize = 256 * 1024;

/// Bytes that arrive at once, so that a large write on a slow link trickles in.
pub(super) const SEGMENT: usize = 16 * 1024;

/// A connection.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) ends: [SocketAddr; 2],
    /// What the end of this index has written.
    pipes: [Pipe; 2],
    pub(super) is_reset: bool,
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Pipe {
    segments: VecDeque<(Instant, Bytes)>,
    held: usize,
    /// The first segment was let into the reader's downlink: its time is that at which it has passed.
    is_passing: bool,
    /// When the last of it arrives: nothing overtakes.
    last: Option<Instant>,
    /// When the last of it has left the sender.
    left: Option<Instant>,
    /// Nothing more is written; the reader learns of it at `last`.
    is_closed: bool,
    /// Nobody reads any more.
    is_deaf: bool,
    /// The writing half was dropped, not only shut down.
    is_abandoned: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// What a writer achieves.
enum Written {
    /// So many bytes are on their way.
    Now(usize),
    /// Nothing before this moment, when it has its turn.
    Later(Instant),
    /// Nothing before the other end has read.
    Nothing,
}

/// What a reader finds.
enum Found {
    /// Bytes, or the end if there are none.
    Now,
    /// Nothing before this moment.
    Later(Instant),
    /// Nothing that is known of.
    Nothing,
}

impl Wire {
    /// Lets both ends look again.
    pub(super) fn wake_all(&mut self, wakes: &mut Vec<Waker>) {
        for pipe in &mut self.pipes {
            wakes.extend(pipe.reader.take());
            wakes.extend(pipe.writer.take());
        }
    }

    fn is_over(&self) -> bool {
        self.pipes.iter().all(|pipe| pipe.is_deaf && pipe.is_abandoned)
    }
}

impl State {
    /// The end `side` of a wire writes what fits into the window, and into its turn at the uplink.
    fn write(&mut self, wire: u64, side: usize, from: &[IoSlice<'_>], cx: &Context<'_>) -> io::Result<Written> {
        let sender = self.wires.get(&wire).ok_or(io::ErrorKind::NotConnected)?.ends[side].ip();
        let turn = self.turn(sender);
        let found = self.wires.get_mut(&wire).ok_or(io::ErrorKind::NotConnected)?;
        let pipe = &mut found.pipes[side];
        if found.is_reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if pipe.is_closed || pipe.is_deaf {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        // A turn ahead, so that the uplink is never idle for a timer that is late.
        let next = pipe.left.filter(|_| turn.is_some()).map(|left| left - TURN);
        if let Some(next) = next.filter(|next| *next > Instant::now()) {
            pipe.writer = Some(cx.waker().clone());
            return Ok(Written::Later(next));
        }
        let room = (WINDOW - pipe.held).min(turn.unwrap_or(WINDOW));
        if room == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Ok(Written::Nothing);
        }
        let mut gathered = Vec::with_capacity(room.min(from.iter().map(|slice| slice.len()).sum()));
        for slice in from {
            gathered.extend_from_slice(&slice[..slice.len().min(room - gathered.len())]);
        }
        let written = gathered.len();
        let mut rest = Bytes::from(gathered);
        while !rest.is_empty() {
            let segment = rest.split_to(rest.len().min(SEGMENT));
            self.send(wire, side, segment);
        }
        Ok(Written::Now(written))
    }

    /// Puts a segment, or the end if it is empty, on its way.
    fn send(&mut self, wire: u64, side: usize, segment: Bytes) {
        let Some(ends) = self.wires.get(&wire).map(|wire| wire.ends) else { return };
        let [left, arrival] = self.pour(ends[side].ip(), ends[1 - side].ip(), segment.len());
        let Some(pipe) = self.wires.get_mut(&wire).map(|wire| &mut wire.pipes[side]) else { return };
        let arrival = pipe.last.map_or(arrival, |last| last.max(arrival));
        (pipe.last, pipe.left) = (Some(arrival), Some(left));
        if segment.is_empty() {
            pipe.is_closed = true;
        } else if !pipe.is_deaf {
            pipe.held += segment.len();
            pipe.segments.push_back((arrival, segment));
        }
        self.wakes.extend(pipe.reader.take());
    }

    /// The end `side` of a wire reads what has arrived.
    fn read(&mut self, wire: u64, side: usize, into: &mut ReadBuf<'_>, cx: &Context<'_>) -> io::Result<Found> {
        let wire = self.wires.get_mut(&wire).ok_or(io::ErrorKind::NotConnected)?;
        if wire.is_reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let pipe = &mut wire.pipes[1 - side];
        pipe.reader = Some(cx.waker().clone());
        let [here, there] = [side, 1 - side].map(|side| wire.ends[side].ip());
        if !self.places.are_together(here, there) {
            return Ok(Found::Nothing);
        }
        let now = Instant::now();
        let before = pipe.held;
        while let Some((at, segment)) = pipe.segments.front_mut()
            && *at <= now
            && into.remaining() > 0
        {
            if !mem::replace(&mut pipe.is_passing, true) {
                *at = self.downlinks.pass(self.epoch, here, *at, segment.len());
                continue;
            }
            let length = segment.len().min(into.remaining());
            into.put_slice(&segment[..length]);
            segment.advance(length);
            pipe.held -= length;
            if segment.is_empty() {
                pipe.segments.pop_front();
                pipe.is_passing = false;
            }
        }
        if pipe.held < before {
            self.wakes.extend(pipe.writer.take());
            return Ok(Found::Now);
        }
        Ok(match (pipe.segments.front(), pipe.last) {
            (Some((at, _)), _) if *at > now => Found::Later(*at),
            (None, Some(end)) if pipe.is_closed && end > now => Found::Later(end),
            (None, _) if !pipe.is_closed => Found::Nothing,
            _ => Found::Now,
        })
    }

    /// Forgets a wire that nobody holds.
    fn let_go(&mut self, wire: u64, change: impl FnOnce(&mut Self)) {
        change(self);
        if self.wires.get(&wire).is_some_and(Wire::is_over) {
            self.wires.remove(&wire);
        }
    }
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct MemoryStream {
    reader: Reader,
    writer: Writer,
}

impl MemoryStream {
    /// A new connection between two addresses: both its ends.
    pub(super) fn pair(net: &Shared, one: SocketAddr, other: SocketAddr) -> (Self, Self) {
        let wire = net.with(|state| {
            let number = state.number();
            let wire = Wire { ends: [one, other], pipes: Default::default(), is_reset: false };
            state.wires.insert(number, wire);
            number
        });
        let end = |side| Self {
            reader: Reader { net: net.clone(), wire, side, alarm: Alarm::default() },
            writer: Writer { net: net.clone(), wire, side, alarm: Alarm::default() },
        };
        (end(0), end(1))
    }
}

#[derive(Debug)]
struct Reader {
    net: Shared,
    wire: u64,
    side: usize,
    /// Wakes the reader when the next segment arrives.
    alarm: Alarm,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let (wire, side) = (self.wire, 1 - self.side);
        // Unread bytes are freed outside the lock.
        let _unread = self.net.with(|state| {
            let mut unread = VecDeque::new();
            state.let_go(wire, |state| {
                if let Some(pipe) = state.wires.get_mut(&wire).map(|wire| &mut wire.pipes[side]) {
                    pipe.is_deaf = true;
                    pipe.held = 0;
                    unread = mem::take(&mut pipe.segments);
                    state.wakes.extend(pipe.writer.take());
                }
            });
            unread
        });
    }
}

#[derive(Debug)]
struct Writer {
    net: Shared,
    wire: u64,
    side: usize,
    /// Wakes the writer when it has its turn.
    alarm: Alarm,
}

impl Writer {
    fn close(state: &mut State, wire: u64, side: usize) {
        if state.wires.get(&wire).is_some_and(|wire| !wire.pipes[side].is_closed) {
            state.send(wire, side, Bytes::new());
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let (wire, side) = (self.wire, self.side);
        self.net.with(|state| {
            state.let_go(wire, |state| {
                Self::close(state, wire, side);
                if let Some(wire) = state.wires.get_mut(&wire) {
                    wire.pipes[side].is_abandoned = true;
                }
            });
        });
    }
}

impl AsyncRead for Reader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let (wire, side) = (self.wire, self.side);
            match self.net.with(|state| state.read(wire, side, into, cx))? {
                Found::Now => return Poll::Ready(Ok(())),
                Found::Nothing => return Poll::Pending,
                Found::Later(at) => {
                    ready!(self.alarm.poll(at, cx));
                }
            }
        }
    }
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(from)])
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.net.with(|state| state.write(self.wire, self.side, from, cx))? {
                Written::Now(bytes) => return Poll::Ready(Ok(bytes)),
                Written::Nothing => return Poll::Pending,
                Written::Later(at) => ready!(self.alarm.poll(at, cx)),
            }
        }
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.net.with(|state| Self::close(state, self.wire, self.side));
        Poll::Ready(Ok(()))
    }
}

impl Duplex for MemoryStream {
    fn split(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        (Box::new(self.reader), Box::new(self.writer))
    }
    fn rehome(mut self: Box<Self>) -> io::Result<Box<dyn Duplex>> {
        // Timers belong to a runtime.
        self.reader.alarm.stop();
        self.writer.alarm.stop();
        Ok(self)
    }
}

impl AsyncRead for MemoryStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, into)
    }
}

impl AsyncWrite for MemoryStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, from)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write_vectored(cx, from)
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}
