//! A spoiled stream: a wrapper around another one, or around half of one, that ends with it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use castanet_core::{
    Moment,
    seams::transport::{Duplex, ReadHalf, WriteHalf},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{Faults, late::Late};
use crate::{
    link::{Line, draw},
    time::{Alarm, Epoch},
};

/// Most bytes read at once through the wrapper.
const MOST_READ: usize = 4096;

/// A stream, or half of one, with faults.
pub(super) struct Spoiled<T> {
    inner: T,
    faults: Faults,
    random: fastrand::Rng,
    /// The link in the way of what is read.
    late: Option<Late>,
    /// When it is cut.
    cut: Option<Instant>,
    alarm: Alarm,
    /// Bytes until reading and writing break.
    left_to_read: u64,
    left_to_write: u64,
}

impl<T> Spoiled<T> {
    pub(super) fn new(inner: T, faults: Faults, mut random: fastrand::Rng) -> Self {
        let mut lifetime = || match &faults.lifetime {
            Some(range) if !range.is_empty() => random.u64(range.clone()),
            _ => u64::MAX,
        };
        let (left_to_read, left_to_write) = (lifetime(), lifetime());
        let epoch = Epoch::begin();
        let cut = faults.cut.as_ref().map(|range| epoch.instant(Moment::ZERO + draw(&mut random, range)));
        let late = faults.link.map(|link| {
            let line = Line::new(link, random.fork()).with_outages(&faults.stalls, Moment::ZERO);
            Late::new(line, epoch)
        });
        Self { inner, faults, random, late, cut, alarm: Alarm::default(), left_to_read, left_to_write }
    }

    /// Fails from when it is cut.
    fn live(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut {
            Some(at) if self.alarm.poll(at, cx).is_ready() => Err(io::ErrorKind::ConnectionReset.into()),
            _ => Ok(()),
        }
    }

    /// How many of `wanted` bytes are moved at once, at least one.
    fn portion(&mut self, wanted: usize, left: u64) -> io::Result<usize> {
        if left == 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let most = wanted.min(usize::try_from(left).unwrap_or(usize::MAX));
        Ok(self.faults.trickle.map_or(most, |trickle| self.random.usize(1..=trickle.max(1)).min(most)))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Spoiled<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.live(cx)?;
        let left = self.left_to_read;
        let portion = self.portion(into.remaining().min(MOST_READ), left)?;
        let mut space = [0; MOST_READ];
        let mut part = ReadBuf::new(&mut space[..portion]);
        let Self { inner, late, .. } = &mut *self;
        let inner = Pin::new(inner);
        ready!(match late {
            Some(late) => late.poll_read(inner, cx, &mut part),
            None => inner.poll_read(cx, &mut part),
        })?;
        let bytes = part.filled_mut();
        if !bytes.is_empty() && self.random.f64() < self.faults.flipped {
            let at = self.random.usize(..bytes.len());
            bytes[at] ^= 1 << self.random.u8(..8);
        }
        into.put_slice(bytes);
        self.left_to_read -= bytes.len() as u64;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Spoiled<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.live(cx)?;
        let left = self.left_to_write;
        let portion = self.portion(from.len(), left)?;
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &from[..portion]))?;
        self.left_to_write -= written as u64;
        Poll::Ready(Ok(written))
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // One slice at a time: writers must cope with it.
        let first = from.iter().find(|slice| !slice.is_empty());
        self.poll_write(cx, first.map_or(&[], |slice| slice))
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Duplex for Spoiled<Box<dyn Duplex>> {
    fn split(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let Self { inner, faults, mut random, late, cut, left_to_read, left_to_write, .. } = *self;
        let (read, write) = inner.split();
        let other = random.fork();
        // Each half has an alarm of its own.
        let alarm = Alarm::default;
        let (faults, theirs) = (faults.clone(), faults);
        (
            Box::new(Spoiled { inner: read, faults, random, late, cut, alarm: alarm(), left_to_read, left_to_write }),
            Box::new(Spoiled {
                inner: write,
                faults: theirs,
                random: other,
                late: None,
                cut,
                alarm: alarm(),
                left_to_read,
                left_to_write,
            }),
        )
    }
    fn rehome(mut self: Box<Self>) -> io::Result<Box<dyn Duplex>> {
        self.inner = self.inner.rehome()?;
        self.alarm.stop();
        if let Some(late) = &mut self.late {
            late.leave_home();
        }
        Ok(self)
    }
}
