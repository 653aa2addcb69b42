//! The read and the write loop of a connection.
//!
//! Reading waits for memory: a socket is read only with a permit that covers the buffer, and only when the actor has taken
//! the last bytes (back-pressure by awaited replies). Writing gathers what waits into one vectored write.

use std::{collections::VecDeque, io::IoSlice, sync::Arc, time::Duration};

use actix::prelude::*;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use castanet_core::seams::transport::{ReadHalf, WriteHalf};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use super::{Peer, PeerShared};
use crate::{
    budget::{Permit, UNIT},
    mail::tell,
    messages::peer::{BytesRead, BytesWritten, ReadEnded},
    throttle::Throttle,
};

/// Room of a quiet connection's buffer: control messages. A block that comes all the same makes it grow.
const SMALL: usize = 2 * 1024;
/// Room of a slow connection's buffer: two blocks with their headers.
const MEDIUM: usize = 2 * (UNIT + 64);
/// With so many bytes under way a connection reads into a large, recycled buffer.
const MUCH: usize = 512 * 1024;
/// How long a connection may hold memory for bytes that do not come. Short: many slow peers must not hold all of it, and
/// the first bytes after a pause can be read without.
const GRACE: Duration = Duration::from_millis(50);
/// Slices gathered under a rate limit: two blocks with their headers.
const FEW_SLICES: usize = 4;
/// Slices gathered for one write: 32 blocks with their headers.
const MOST_SLICES: usize = 64;

pub(super) async fn read_loop(mut reader: ReadHalf, early: BytesMut, me: Addr<Peer>, shared: PeerShared) {
    let ended = me.clone().recipient();
    let end = |reason: String| tell(&ended, ReadEnded(reason));
    let mut buffer = Buffer { bytes: early, is_large: false };
    let mut permit = Permit::default();
    let mut under_way = 0;
    let mut is_early = !buffer.bytes.is_empty();
    loop {
        if !std::mem::take(&mut is_early) {
            buffer = buffer.with_room(under_way, &shared);
            if under_way > 0 {
                shared.budget.top_up(&mut permit, buffer.bytes.capacity().div_ceil(UNIT)).await;
            }
            // Under a limit in small bites, so that no connection waits long for the bytes of the others.
            let most = if shared.down.iter().any(Throttle::is_limited) { UNIT } else { usize::MAX };
            match read(&mut reader, &mut buffer.bytes, &mut permit, under_way > 0, most).await {
                Ok(0) => return end("the peer closed the connection".into()),
                Ok(bytes) => {
                    for limit in shared.down.iter() {
                        // Where no block is due there are only control messages, which must not wait behind blocks.
                        if under_way > 0 { limit.pass(bytes).await } else { limit.charge(bytes) }
                    }
                }
                Err(error) => return end(format!("the connection broke: {error}")),
            }
        }
        match me.send(BytesRead { buffer: buffer.bytes, permit }).await {
            Ok(refill) => (buffer.bytes, permit, under_way) = (refill.buffer, refill.permit, refill.under_way),
            Err(_) => return,
        }
    }
}

/// Reads what is there. A connection that is quiet, or falls silent, holds no share of the budget: the first bytes
/// after a silence are few, and the rest is read with a permit again.
async fn read(
    reader: &mut ReadHalf,
    buffer: &mut BytesMut,
    permit: &mut Permit,
    is_busy: bool,
    most: usize,
) -> std::io::Result<usize> {
    if is_busy && let Ok(read) = tokio::time::timeout(GRACE, reader.read_buf(&mut (&mut *buffer).limit(most))).await {
        return read;
    }
    *permit = Permit::default();
    reader.read_buf(&mut buffer.limit(SMALL)).await
}

/// Something to send.
pub(super) struct Frame {
    pub(super) bytes: Bytes,
    /// A block or its header, rather than control messages.
    pub(super) is_block: bool,
}

struct Buffer {
    bytes: BytesMut,
    is_large: bool,
}

impl Buffer {
    /// A buffer worth reading into: as large as what is under way deserves. The beginning of a frame moves along.
    fn with_room(self, under_way: usize, shared: &PeerShared) -> Self {
        let large = under_way >= MUCH;
        let (size, least) = match under_way {
            0 => (SMALL, SMALL / 2),
            1..MUCH => (MEDIUM, UNIT / 2),
            _ => (shared.buffers.size(), UNIT),
        };
        let room = self.bytes.capacity() - self.bytes.len();
        if room >= least && (self.is_large == large || !self.bytes.is_empty()) {
            return self;
        }
        let mut bytes = if large { shared.buffers.take() } else { BytesMut::new() };
        bytes.reserve(size.max(self.bytes.len() + least));
        bytes.extend_from_slice(&self.bytes);
        if self.is_large {
            shared.buffers.give(self.bytes);
        }
        Self { bytes, is_large: large }
    }
}

pub(super) async fn write_loop(
    mut writer: WriteHalf,
    mut frames: mpsc::Receiver<Frame>,
    me: Recipient<BytesWritten>,
    limits: Arc<[Throttle]>,
) {
    let mut queue: VecDeque<Bytes> = VecDeque::with_capacity(MOST_SLICES);
    let mut batch = Vec::with_capacity(MOST_SLICES);
    loop {
        if queue.is_empty() {
            // Under a limit in small batches: what comes behind a batch waits for all of it.
            let most = if limits.iter().any(Throttle::is_limited) { FEW_SLICES } else { MOST_SLICES };
            if frames.recv_many(&mut batch, most).await == 0 {
                let _ = writer.shutdown().await;
                return;
            }
            let bytes = batch.iter().map(|frame| frame.bytes.len()).sum();
            // Only blocks wait: requests that waited behind other connections' blocks would strangle the download.
            let has_blocks = batch.iter().any(|frame| frame.is_block);
            queue.extend(batch.drain(..).map(|frame| frame.bytes));
            for limit in limits.iter() {
                if has_blocks { limit.pass(bytes).await } else { limit.charge(bytes) }
            }
        }
        let written = {
            let mut slices = [IoSlice::new(&[]); MOST_SLICES];
            let mut used = 0;
            for (slice, frame) in slices.iter_mut().zip(&queue) {
                *slice = IoSlice::new(frame);
                used += 1;
            }
            // The read loop notices a broken connection too, and says so in words.
            match writer.write_vectored(&slices[..used]).await {
                Ok(0) | Err(_) => return,
                Ok(written) => written,
            }
        };
        let mut rest = written;
        while let Some(front) = queue.front_mut() {
            if rest < front.len() {
                front.advance(rest);
                break;
            }
            rest -= front.len();
            queue.pop_front();
        }
        tell(&me, BytesWritten(written));
    }
}
