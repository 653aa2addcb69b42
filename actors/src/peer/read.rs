//! The read loop of a connection.
//!
//! Reading waits for memory: a socket is read only with a permit that covers the buffer, and only when the actor has taken
//! the last bytes (back-pressure by awaited replies). Under a limit it is read in small bites, and each is paid for before
//! the next.

use std::{cell::Cell, rc::Rc, time::Duration};

use actix::prelude::*;
use bytes::{BufMut, BytesMut};
use castanet_core::{
    Moment,
    seams::{means::Clock, transport::ReadHalf},
};
use castanet_protocol::{rate::TokenBucket, wire::HANDSHAKE_LENGTH};
use tokio::io::AsyncReadExt;

use super::{Peer, PeerShared};
use crate::{
    budget::{Permit, UNIT},
    mail::tell,
    messages::peer::{BytesRead, ReadEnded},
    throttle::PeerThrottle,
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

/// Control messages of so many bytes a second never wait; those beyond wait like blocks, or a flood of them would stop
/// everybody's.
pub(super) const FREE_CONTROL: u64 = 4096;

/// How long the read loop has left unread what the remote sends, because of a limit: not the remote's fault.
#[derive(Debug, Clone, Default)]
pub(super) struct Held(Rc<Cell<(Duration, Option<Moment>)>>);

impl Held {
    /// In all, until now.
    pub(super) fn total(&self, now: Moment) -> Duration {
        let (total, since) = self.0.get();
        total + since.map_or(Duration::ZERO, |since| now.since(since))
    }

    async fn during(&self, clock: &Clock, wait: impl Future<Output = ()>) {
        let since = clock.now();
        self.0.set((self.0.get().0, Some(since)));
        wait.await;
        self.0.set((self.total(clock.now()), None));
    }
}

pub(super) async fn read_loop(
    mut reader: ReadHalf,
    early: BytesMut,
    me: Addr<Peer>,
    shared: PeerShared,
    limit: Option<PeerThrottle>,
    held: Held,
) {
    let ended = me.clone().recipient();
    let end = |reason: String| tell(&ended, ReadEnded(reason));
    if let Some(limit) = &limit {
        limit.charge(HANDSHAKE_LENGTH + early.len());
    }
    let mut free = TokenBucket::saving(Duration::from_secs(1), Some(FREE_CONTROL), shared.clock.now());
    let mut buffer = Buffer { bytes: early, is_large: false };
    let mut permit = Permit::default();
    let mut under_way = 0;
    let mut is_early = !buffer.bytes.is_empty();
    loop {
        if !std::mem::take(&mut is_early) {
            let most = limit.as_ref().map_or(usize::MAX, PeerThrottle::bite);
            buffer = buffer.with_room(under_way.min(most), &shared);
            if under_way > 0 {
                shared.budget.top_up(&mut permit, buffer.bytes.capacity().div_ceil(UNIT)).await;
            }
            match read(&mut reader, &mut buffer.bytes, &mut permit, under_way > 0, most).await {
                Ok(0) => return end("the peer closed the connection".into()),
                Ok(bytes) => {
                    if let Some(limit) = limit.as_ref().filter(|limit| limit.is_limited()) {
                        // Where no block is due there are only control messages, which must not wait behind blocks.
                        if under_way == 0 && free.take(bytes as u64, shared.clock.now()).is_ok() {
                            limit.charge(bytes);
                        } else {
                            // Others may have the memory that nothing is in yet.
                            permit = permit.split(buffer.bytes.len());
                            held.during(&shared.clock, limit.pass_all(bytes)).await;
                        }
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
    reader.read_buf(&mut buffer.limit(SMALL.min(most))).await
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
