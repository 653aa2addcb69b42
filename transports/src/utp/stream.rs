//! A uTP connection as a stream of bytes: reads and writes go to the machine under its socket's lock.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use castanet_core::{
    Moment,
    seams::transport::{Duplex, ReadHalf, TransportError, WriteHalf},
};
use castanet_protocol::utp::{End, Id, Read};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::socket::{Socket, State};

/// A connection. Dropping it says good-bye to the peer, after what was written has arrived.
#[derive(Debug)]
pub(super) struct UtpStream(Arc<Handle>);

/// The use of a connection, shared by its halves.
#[derive(Debug)]
struct Handle {
    socket: Arc<Socket>,
    id: Id,
}

#[derive(Debug)]
struct Reader(Arc<Handle>);

/// Dropping it tells the peer that nothing more will come.
#[derive(Debug)]
struct Writer(Arc<Handle>);

impl UtpStream {
    /// Connects. Gives up when dropped.
    pub(super) async fn connect(socket: Arc<Socket>, to: SocketAddr) -> Result<Self, TransportError> {
        let begun = socket.with(|state, now| {
            let id = state.utp.connect(to, now)?;
            state.waiting(id);
            Ok(id)
        });
        let id = begun.map_err(|full: castanet_protocol::utp::Full| io::Error::other(full))?;
        let stream = Self::accepted(socket, id);
        poll_fn(|cx| stream.0.poll_connected(cx)).await?;
        Ok(stream)
    }

    /// A connection that the machine knows.
    pub(super) fn accepted(socket: Arc<Socket>, id: Id) -> Self {
        Self(Arc::new(Handle { socket, id }))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.socket.with(|state, now| state.forget(self.id, now));
    }
}

/// How an end looks to those who read and write.
fn error_of(end: End) -> io::Error {
    let kind = match end {
        End::Refused => io::ErrorKind::ConnectionRefused,
        End::TimedOut => io::ErrorKind::TimedOut,
        End::Closed => io::ErrorKind::BrokenPipe,
        _ => io::ErrorKind::ConnectionReset,
    };
    io::Error::new(kind, end.to_string())
}

impl Handle {
    fn with<T>(&self, act: impl FnOnce(&mut State, Id, Moment) -> T) -> T {
        self.socket.with(|state, now| act(state, self.id, now))
    }

    fn poll_connected(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.with(|state, id, _| {
            let waiting = state.waiting(id);
            match waiting.end {
                Some(end) => Poll::Ready(Err(error_of(end))),
                None if waiting.is_connected => Poll::Ready(Ok(())),
                None => {
                    waiting.write = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
    }

    fn poll_read(&self, cx: &Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(|state, id, now| match state.utp.read(id, into.initialize_unfilled(), now) {
            Read::Bytes(length) => {
                into.advance(length);
                Poll::Ready(Ok(()))
            }
            Read::Finished => Poll::Ready(Ok(())),
            Read::Ended(end) => Poll::Ready(Err(error_of(end))),
            Read::Empty => {
                let waiting = state.waiting(id);
                if let Some(end) = waiting.end {
                    return Poll::Ready(Err(error_of(end)));
                }
                waiting.read = Some(cx.waker().clone());
                Poll::Pending
            }
        })
    }

    fn poll_write(&self, cx: &Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.with(|state, id, now| {
            let waiting = state.waiting(id);
            if let Some(end) = waiting.end.or(waiting.is_finished.then_some(End::Closed)) {
                return Poll::Ready(Err(error_of(end)));
            }
            let mut written = 0;
            for slice in slices.iter().filter(|slice| !slice.is_empty()) {
                let taken = state.utp.write(id, slice, now);
                written += taken;
                if taken < slice.len() {
                    break;
                }
            }
            if written == 0 && slices.iter().any(|slice| !slice.is_empty()) {
                state.waiting(id).write = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(Ok(written))
        })
    }

    fn finish(&self) {
        self.with(|state, id, now| {
            state.waiting(id).is_finished = true;
            state.utp.finish(id, now);
        });
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.finish();
    }
}

impl Duplex for UtpStream {
    fn split(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        (Box::new(Reader(self.0.clone())), Box::new(Writer(self.0)))
    }
    fn rehome(self: Box<Self>) -> io::Result<Box<dyn Duplex>> {
        // Its socket stays where its task is; only wakers cross threads.
        Ok(self)
    }
}

impl AsyncRead for UtpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, into)
    }
}

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, into)
    }
}

macro_rules! writes {
    ($writer:ty) => {
        impl AsyncWrite for $writer {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
                self.0.poll_write(cx, &[IoSlice::new(from)])
            }
            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                from: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                self.0.poll_write(cx, from)
            }
            fn is_write_vectored(&self) -> bool {
                true
            }
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.0.finish();
                Poll::Ready(Ok(()))
            }
        }
    };
}

writes!(UtpStream);
writes!(Writer);
