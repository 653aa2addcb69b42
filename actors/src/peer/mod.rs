//! A peer actor: one open connection, a shell around the [`PeerMachine`].
//!
//! Owns the connection (its loops are in `read` and `write`) and the machine. Tells the piece manager what the remote
//! has, gives and could be asked for, the torrent what changed, the storage what to read. A connection that opens before
//! the metadata are known tells the torrent only, until `Adopt`. Ends when the connection does, when the machine gives it
//! up, or on `Disconnect`.

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::{net::SocketAddr, time::Duration};

use actix::prelude::*;
use bytes::BytesMut;
use castanet_core::{
    BLOCK_LENGTH, Moment, PeerKey, buffers::BufferPool, seams::means::Clock, seams::transport::Connection,
};
use castanet_protocol::{
    peer::{CloseReason, Haves, Input, Output, PeerConfig, PeerMachine},
    rate::Meter,
};
use tokio::sync::mpsc::{self, error::TrySendError};

use self::{
    read::{Held, read_loop},
    write::{Frame, write_loop},
};

use crate::{
    budget::{Budget, Permit},
    lifecycle::{Child, ChildStopped, ExitReason},
    mail::tell,
    messages::{
        peer::{
            Adopt, Announce, BytesRead, BytesWritten, Cancel, Disconnect, PieceLinks, RangeRead, ReadEnded, Refill,
            Request, SayExtended, SetChoke, SetInterest, Suggest,
        },
        pieces::{BlocksLost, BlocksReceived, PeerHas, PeerJoined, PeerLeft, PeerSuggested, WantWork},
        storage::{Block, ReadRange},
        torrent::{PeerChange, PeerChanged, PeerReport, PeerSaid},
    },
    throttle::PeerThrottle,
};

/// Frames that may wait for the write loop. The machine bounds their bytes; this bounds their number.
const MOST_FRAMES: usize = 16 * 1024;
/// How often a peer that moves data reports.
const REPORT: Duration = Duration::from_millis(500);

/// Whom a peer tells.
#[derive(Debug, Clone)]
pub struct PeerLinks {
    /// Those it works with; `None` until the metadata are known and the files open.
    pub pieces: Option<PieceLinks>,
    /// Torrent: something changed.
    pub changed: Recipient<PeerChanged>,
    /// Torrent: the remote speaks by an extension.
    pub said: Recipient<PeerSaid>,
    /// Torrent: how much moved.
    pub report: Recipient<PeerReport>,
    /// The parent.
    pub parent: Recipient<ChildStopped>,
}

/// What all peers of a session share.
#[derive(Debug, Clone)]
pub struct PeerShared {
    /// The engine's clock.
    pub clock: Clock,
    /// Memory for received blocks.
    pub budget: Budget,
    /// Large read buffers.
    pub buffers: BufferPool,
}

/// Where a connection waits under rate limits; `None` where none ever applies to it.
#[derive(Debug, Default)]
pub struct PeerLimits {
    /// For what it receives.
    pub down: Option<PeerThrottle>,
    /// For what it sends.
    pub up: Option<PeerThrottle>,
}

/// The actor.
pub struct Peer {
    key: PeerKey,
    addr: SocketAddr,
    machine: PeerMachine,
    links: PeerLinks,
    shared: PeerShared,
    connection: Option<(Connection, BytesMut, PeerLimits)>,
    /// Control messages may overtake blocks.
    overtakes: bool,
    outgoing: Option<mpsc::Sender<Frame>>,
    held: Held,
    /// Of this, what the machine knows.
    excused: Duration,
    /// Blocks of the input being handled: one message, however many blocks.
    received: Vec<Block>,
    down: Meter,
    up: Meter,
    reported: (u64, u64, bool),
    timer: Option<(Moment, SpawnHandle)>,
    exit: Option<ExitReason>,
}

impl Peer {
    /// A peer over a connection whose handshakes are through; `early` came in behind the remote's.
    pub fn new(
        key: PeerKey,
        connection: Connection,
        early: BytesMut,
        config: PeerConfig,
        links: PeerLinks,
        shared: PeerShared,
        limits: PeerLimits,
    ) -> Self {
        let now = shared.clock.now();
        Self {
            key,
            addr: connection.remote,
            overtakes: config.fast,
            machine: PeerMachine::new(config, now),
            links,
            shared,
            connection: Some((connection, early, limits)),
            outgoing: None,
            held: Held::default(),
            excused: Duration::ZERO,
            received: Vec::new(),
            down: Meter::new(now),
            up: Meter::new(now),
            reported: (0, 0, false),
            timer: None,
            exit: None,
        }
    }

    /// Tells the machine something and does what it says.
    fn feed(&mut self, input: Input<'_>, permit: &mut Permit, ctx: &mut Context<Self>) {
        if self.exit.is_some() {
            return;
        }
        let now = self.shared.clock.now();
        let verdict = self.machine.handle(input, now);
        while let Some(output) = self.machine.poll() {
            self.act(output, permit, now, ctx);
        }
        if !self.received.is_empty() {
            let blocks = std::mem::take(&mut self.received);
            if let Some(work) = &self.links.pieces {
                tell(&work.received, BlocksReceived { peer: self.key, blocks });
            }
        }
        match verdict {
            Err(reason @ (CloseReason::Silent | CloseReason::DoesNotRead)) => {
                self.close(ExitReason::Failed(reason.to_string()), ctx);
            }
            Err(reason) => self.close(ExitReason::Violation(reason.to_string()), ctx),
            Ok(()) => self.arm(now, ctx),
        }
    }

    fn act(&mut self, output: Output, permit: &mut Permit, now: Moment, ctx: &mut Context<Self>) {
        let peer = self.key;
        let work = self.links.pieces.as_ref();
        match output {
            Output::Send(frames) => self.send(Frame::Control(frames), ctx),
            Output::SendBlock { header, data } => {
                self.up.add(data.len() as u64, now);
                self.send(Frame::Block(header, data), ctx);
            }
            Output::Block { block, data } => {
                self.down.add(data.len() as u64, now);
                let permit = permit.split(data.len());
                self.received.push(Block { block, data, permit });
            }
            Output::Lost(blocks) => {
                if let Some(work) = work {
                    tell(&work.lost, BlocksLost { peer, blocks });
                }
            }
            Output::Room(room) => self.want(room, None, now),
            Output::FastRoom { blocks, pieces } => self.want(blocks, Some(pieces), now),
            Output::Has(haves) => {
                let is_seed = match &haves {
                    Haves::All => true,
                    Haves::Bitfield(pieces) => pieces.is_full(),
                    _ => false,
                };
                if is_seed {
                    self.change(PeerChange::IsSeed);
                }
                if let Some(work) = work {
                    tell(&work.has, PeerHas { peer, haves });
                }
            }
            Output::Choked(yes) => self.change(PeerChange::ChokesUs(yes)),
            Output::Interested(yes) => self.change(PeerChange::Interested(yes)),
            Output::Snubbed(yes) => self.change(PeerChange::Snubbed(yes)),
            Output::Read(range) => {
                if let Some(work) = work {
                    tell(&work.read, ReadRange { range, reply: ctx.address().recipient() });
                }
            }
            Output::ExtendedHandshake(hello) => self.change(PeerChange::Introduced {
                client: hello.client.clone(),
                port: hello.port,
                upload_only: hello.upload_only,
                extensions: self.machine.offers().collect(),
                metadata_size: hello.metadata_size,
            }),
            Output::Extended { extension, payload } => tell(&self.links.said, PeerSaid { peer, extension, payload }),
            Output::DhtPort(port) => self.change(PeerChange::DhtPort(port)),
            Output::Suggested(piece) => {
                if let Some(work) = work {
                    tell(&work.suggested, PeerSuggested { peer, piece });
                }
            }
            _ => {}
        }
    }

    fn want(&self, room: usize, only: Option<Vec<castanet_core::PieceIndex>>, now: Moment) {
        if let Some(work) = &self.links.pieces {
            tell(&work.want, WantWork { peer: self.key, room, rate: self.down.rate(now), only });
        }
    }

    fn change(&self, change: PeerChange) {
        tell(&self.links.changed, PeerChanged { peer: self.key, change });
    }

    fn send(&mut self, frame: Frame, ctx: &mut Context<Self>) {
        let reason = match self.outgoing.as_ref().map(|outgoing| outgoing.try_send(frame)) {
            None | Some(Ok(())) => return,
            Some(Err(TrySendError::Full(_))) => "the peer does not read what it is sent",
            Some(Err(TrySendError::Closed(_))) => "the connection broke while sending",
        };
        self.close(ExitReason::Failed(reason.into()), ctx);
    }

    /// One timer for the machine's deadline; it is set anew only when the deadline comes nearer or has passed.
    fn arm(&mut self, now: Moment, ctx: &mut Context<Self>) {
        let deadline = self.machine.deadline();
        if self.timer.is_some_and(|(at, _)| at <= deadline) {
            return;
        }
        if let Some((_, old)) = self.timer.take() {
            ctx.cancel_future(old);
        }
        let handle = ctx.run_later(deadline.since(now), |peer, ctx| {
            peer.timer = None;
            let now = peer.shared.clock.now();
            if now >= peer.machine.deadline() {
                // What a limit has kept us from reading is not the remote's delay.
                let held = peer.held.total(now);
                let excuse = held - std::mem::replace(&mut peer.excused, held);
                if excuse > Duration::ZERO {
                    peer.feed(Input::Excuse(excuse), &mut Permit::default(), ctx);
                } else {
                    peer.feed(Input::Timeout, &mut Permit::default(), ctx);
                }
            } else {
                peer.arm(now, ctx);
            }
        });
        self.timer = Some((deadline, handle));
    }

    fn report(&mut self) {
        let now = self.shared.clock.now();
        let (down_rate, up_rate) = (self.down.rate(now), self.up.rate(now));
        let state = (self.down.total(), self.up.total(), down_rate + up_rate > 0);
        if state != self.reported || state.2 {
            self.reported = state;
            let (downloaded, uploaded, _) = state;
            tell(&self.links.report, PeerReport { peer: self.key, downloaded, uploaded, down_rate, up_rate });
        }
    }

    /// Reports for work to the piece manager.
    fn join(&self, ctx: &Context<Self>) {
        let (Some(work), me) = (&self.links.pieces, ctx.address()) else { return };
        tell(
            &work.joined,
            PeerJoined {
                peer: self.key,
                request: me.clone().recipient(),
                cancel: me.clone().recipient(),
                interest: me.clone().recipient(),
                suggest: me.recipient(),
            },
        );
    }

    fn close(&mut self, reason: ExitReason, ctx: &mut Context<Self>) {
        self.exit.get_or_insert(reason);
        ctx.stop();
    }
}

impl Actor for Peer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some((connection, early, limits)) = self.connection.take() else { return };
        let me = ctx.address();
        self.join(ctx);
        let (reader, writer) = connection.io.split();
        let (outgoing, frames) = mpsc::channel(MOST_FRAMES);
        self.outgoing = Some(outgoing);
        let (shared, held) = (self.shared.clone(), self.held.clone());
        ctx.spawn(read_loop(reader, early, me.clone(), shared, limits.down, held).into_actor(self));
        ctx.spawn(
            write_loop(writer, frames, me.recipient(), limits.up, self.shared.clock.clone(), self.overtakes)
                .into_actor(self),
        );
        ctx.run_interval(REPORT, |peer, _| peer.report());
        self.feed(Input::Timeout, &mut Permit::default(), ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.report();
        if let Some(work) = &self.links.pieces {
            tell(&work.left, PeerLeft(self.key));
        }
        let reason = self.exit.take().unwrap_or(ExitReason::Unexplained);
        tracing::debug!(peer = %self.addr, ?reason, "connection ended");
        tell(&self.links.parent, ChildStopped { child: Child::Peer(self.key), reason });
    }
}

impl Handler<BytesRead> for Peer {
    type Result = Refill;
    fn handle(&mut self, BytesRead { mut buffer, mut permit }: BytesRead, ctx: &mut Self::Context) -> Refill {
        self.feed(Input::Received(&mut buffer), &mut permit, ctx);
        Refill { buffer, permit, under_way: self.machine.outstanding() * BLOCK_LENGTH as usize }
    }
}

impl Handler<ReadEnded> for Peer {
    type Result = ();
    fn handle(&mut self, ReadEnded(reason): ReadEnded, ctx: &mut Self::Context) {
        self.close(ExitReason::Failed(reason), ctx);
    }
}

impl Handler<BytesWritten> for Peer {
    type Result = ();
    fn handle(&mut self, BytesWritten(bytes): BytesWritten, ctx: &mut Self::Context) {
        self.feed(Input::Written(bytes), &mut Permit::default(), ctx);
    }
}

impl Handler<Request> for Peer {
    type Result = ();
    fn handle(&mut self, Request(blocks): Request, ctx: &mut Self::Context) {
        self.feed(Input::Assign(&blocks), &mut Permit::default(), ctx);
    }
}

impl Handler<Cancel> for Peer {
    type Result = ();
    fn handle(&mut self, Cancel(blocks): Cancel, ctx: &mut Self::Context) {
        self.feed(Input::Cancel(&blocks), &mut Permit::default(), ctx);
    }
}

impl Handler<SetInterest> for Peer {
    type Result = ();
    fn handle(&mut self, SetInterest(yes): SetInterest, ctx: &mut Self::Context) {
        self.feed(Input::Interest(yes), &mut Permit::default(), ctx);
    }
}

impl Handler<SetChoke> for Peer {
    type Result = ();
    fn handle(&mut self, SetChoke(yes): SetChoke, ctx: &mut Self::Context) {
        self.feed(Input::Choke(yes), &mut Permit::default(), ctx);
    }
}

impl Handler<Announce> for Peer {
    type Result = ();
    fn handle(&mut self, Announce(pieces): Announce, ctx: &mut Self::Context) {
        self.feed(Input::Announce(&pieces), &mut Permit::default(), ctx);
    }
}

impl Handler<Suggest> for Peer {
    type Result = ();
    fn handle(&mut self, Suggest(pieces): Suggest, ctx: &mut Self::Context) {
        self.feed(Input::Suggest(&pieces), &mut Permit::default(), ctx);
    }
}

impl Handler<RangeRead> for Peer {
    type Result = ();
    fn handle(&mut self, RangeRead { range, data }: RangeRead, ctx: &mut Self::Context) {
        let input = match data {
            Some(data) => Input::Data { range, data },
            None => Input::ReadFailed(range),
        };
        self.feed(input, &mut Permit::default(), ctx);
    }
}

impl Handler<SayExtended> for Peer {
    type Result = ();
    fn handle(&mut self, SayExtended { extension, payload }: SayExtended, ctx: &mut Self::Context) {
        self.feed(Input::Extended { extension, payload: &payload }, &mut Permit::default(), ctx);
    }
}

impl Handler<Adopt> for Peer {
    type Result = ();
    fn handle(&mut self, Adopt { geometry, have, metadata_size: size, links }: Adopt, ctx: &mut Self::Context) {
        if self.links.pieces.is_none() {
            self.links.pieces = Some(links);
            self.join(ctx);
            self.feed(Input::Metadata { geometry, have, size }, &mut Permit::default(), ctx);
        }
    }
}

impl Handler<Disconnect> for Peer {
    type Result = ();
    fn handle(&mut self, Disconnect(reason): Disconnect, ctx: &mut Self::Context) {
        // What waits to be sent is dropped: the remote learns of the end by the end.
        self.close(reason, ctx);
    }
}
