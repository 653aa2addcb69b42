//! A stream behind an encrypted handshake: first what was heard with it, then what comes, decrypted.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use castanet_core::seams::transport::{Duplex, ReadHalf, WriteHalf};
use castanet_protocol::mse::{Agreed, Cipher};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes encrypted for one write: what is not taken costs a second pass.
const MOST_WRITTEN: usize = 64 * 1024;
/// Room that a writer keeps between two writes: enough for control messages.
const KEPT: usize = 4 * 1024;

/// A stream, or a half of one.
pub(super) struct EncryptedIo<T> {
    inner: T,
    /// Was heard during the handshake and has not been read; decrypted.
    early: Vec<u8>,
    read: Option<Cipher>,
    write: Option<Cipher>,
    /// What is about to be written, encrypted.
    sealed: Vec<u8>,
}

impl<T> EncryptedIo<T> {
    pub(super) fn new(inner: T, agreed: Agreed) -> Self {
        let Agreed { read, write, early, .. } = agreed;
        Self { inner, early, read, write, sealed: Vec::new() }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for EncryptedIo<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.early.is_empty() && into.remaining() > 0 {
            let length = this.early.len().min(into.remaining());
            into.put_slice(&this.early[..length]);
            this.early.drain(..length);
            if this.early.is_empty() {
                this.early = Vec::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = into.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, into))?;
        if let Some(cipher) = &mut this.read {
            cipher.apply(&mut into.filled_mut()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for EncryptedIo<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(from)])
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Some(cipher) = &mut this.write else { return Pin::new(&mut this.inner).poll_write_vectored(cx, from) };
        this.sealed.clear();
        for slice in from {
            let room = MOST_WRITTEN - this.sealed.len();
            this.sealed.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        cipher.preview(&mut this.sealed);
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, &this.sealed))?;
        cipher.advance(written);
        if this.sealed.len() > KEPT {
            this.sealed = Vec::new();
        }
        Poll::Ready(Ok(written))
    }
    fn is_write_vectored(&self) -> bool {
        // Encrypted slices are gathered here, into one.
        self.write.is_some() || self.inner.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Duplex for EncryptedIo<Box<dyn Duplex>> {
    fn split(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let Self { inner, early, read, write, .. } = *self;
        let (reader, writer) = inner.split();
        // A half that changes nothing is not wrapped.
        let reader: ReadHalf = match early.is_empty() && read.is_none() {
            true => reader,
            false => Box::new(EncryptedIo { inner: reader, early, read, write: None, sealed: Vec::new() }),
        };
        let writer: WriteHalf = match write {
            None => writer,
            write => Box::new(EncryptedIo { inner: writer, early: Vec::new(), read: None, write, sealed: Vec::new() }),
        };
        (reader, writer)
    }
    fn rehome(mut self: Box<Self>) -> io::Result<Box<dyn Duplex>> {
        self.inner = self.inner.rehome()?;
        Ok(self)
    }
}
