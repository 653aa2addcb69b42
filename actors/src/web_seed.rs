//! A web seed of a torrent (BEP 19): to the piece manager it is a peer that has everything.
//!
//! A shell around [`Machine`]. Owns one question to the web server at a time; a permit for the bytes is taken before it is
//! asked. Tells the torrent how it fares. While it rests it is gone for the piece manager. Ends on `CloseWebSeed`, or when
//! the server turns out to be of no use.

use std::{ops::Range, sync::Arc};

use actix::prelude::*;
use bytes::{Bytes, BytesMut};
use castanet_core::{
    BlockRef, Geometry, Metainfo, PeerKey,
    seams::{
        means::Clock,
        web::{Web, WebError},
    },
};
use castanet_protocol::{
    peer::Haves,
    web_seed::{Part, WebSeed as Machine, parts},
};

use crate::{
    budget::{Budget, Permit},
    lifecycle::{Child, ChildStopped, ExitReason},
    mail::tell,
    messages::{
        peer::{Cancel, PieceLinks, Request, SetInterest, Suggest},
        pieces::{BlocksLost, BlocksReceived, PeerHas, PeerJoined, PeerLeft, WantWork},
        storage::Block,
        web_seed::{CloseWebSeed, WebSeedFared, WebSeedFate},
    },
    throttle::PeerThrottle,
};

/// Bytes a second that it is taken to give before it has given any: enough to get whole pieces.
const ASSUMED_RATE: u64 = 1 << 20;

/// Whom it tells.
#[derive(Debug, Clone)]
pub struct WebSeedLinks {
    /// The piece manager.
    pub pieces: PieceLinks,
    /// The torrent.
    pub fared: Recipient<WebSeedFared>,
    /// The parent.
    pub parent: Recipient<ChildStopped>,
}

/// What it works with.
#[derive(Debug, Clone)]
pub struct WebSeedMeans {
    /// Fetches.
    pub web: Arc<dyn Web>,
    /// Time.
    pub clock: Clock,
    /// Memory.
    pub budget: Budget,
    /// Where it waits under download limits.
    pub down: Arc<PeerThrottle>,
}

/// The actor.
#[derive(Debug)]
pub struct WebSeed {
    key: PeerKey,
    url: Arc<str>,
    metainfo: Arc<Metainfo>,
    geometry: Geometry,
    machine: Machine,
    means: WebSeedMeans,
    links: WebSeedLinks,
    rate: u64,
    /// It is known to the piece manager.
    is_joined: bool,
    /// Something that it has is missing.
    is_wanted: bool,
    /// It has asked for work.
    is_hungry: bool,
    exit: Option<ExitReason>,
}

impl WebSeed {
    /// The web seed at `url`.
    pub fn new(
        key: PeerKey,
        url: Arc<str>,
        metainfo: Arc<Metainfo>,
        geometry: Geometry,
        means: WebSeedMeans,
        links: WebSeedLinks,
    ) -> Self {
        let machine = Machine::new(geometry);
        let (is_joined, is_wanted, is_hungry) = (false, false, false);
        let (rate, exit) = (ASSUMED_RATE, None);
        Self { key, url, metainfo, geometry, machine, means, links, rate, is_joined, is_wanted, is_hungry, exit }
    }

    fn join(&mut self, ctx: &mut Context<Self>) {
        let me = ctx.address();
        tell(
            &self.links.pieces.joined,
            PeerJoined {
                peer: self.key,
                request: me.clone().recipient(),
                cancel: me.clone().recipient(),
                interest: me.clone().recipient(),
                suggest: me.recipient(),
            },
        );
        self.is_joined = true;
        tell(&self.links.pieces.has, PeerHas { peer: self.key, haves: Haves::All });
    }

    fn leave(&mut self) {
        if std::mem::take(&mut self.is_joined) {
            (self.is_wanted, self.is_hungry) = (false, false);
            tell(&self.links.pieces.left, PeerLeft(self.key));
        }
    }

    /// Asks the web server for what is to be fetched, and the piece manager for more.
    fn feed(&mut self, ctx: &mut Context<Self>) {
        let now = self.means.clock.now();
        if let Some(run) = self.machine.next(now) {
            let range = span(self.geometry, run);
            let parts = parts(&self.metainfo.info, &self.url, range.clone());
            let fetching = fetch(self.means.clone(), parts, (range.end - range.start) as usize, run.len());
            ctx.spawn(fetching.into_actor(self).map(move |fetched, seed, ctx| {
                let took = seed.means.clock.now().since(now);
                match fetched {
                    Ok((data, permit)) => {
                        seed.rate = (data.len() as f64 / took.as_secs_f64().max(0.001)) as u64;
                        seed.fetched(&data, permit);
                        seed.feed(ctx);
                    }
                    Err(error) => seed.failed(error, ctx),
                }
            }));
        }
        let room = self.machine.room(self.means.down.limit(), now);
        if self.is_wanted && !self.is_hungry && room > 0 {
            self.is_hungry = true;
            tell(&self.links.pieces.want, WantWork { peer: self.key, room, rate: self.rate, only: None });
        }
    }

    fn fetched(&mut self, data: &Bytes, mut permit: Permit) {
        let mut begin = 0;
        let block = |block: BlockRef| {
            let end = begin + block.length as usize;
            let data = data.slice(std::mem::replace(&mut begin, end)..end);
            Block { block, permit: permit.split(data.len()), data }
        };
        let blocks = self.machine.fetched().into_iter().map(block).collect();
        tell(&self.links.pieces.received, BlocksReceived { peer: self.key, blocks });
        self.fared(WebSeedFate::Gave(data.len() as u64));
    }

    fn failed(&mut self, error: WebError, ctx: &mut Context<Self>) {
        let now = self.means.clock.now();
        let blocks = self.machine.failed(now);
        tell(&self.links.pieces.lost, BlocksLost { peer: self.key, blocks });
        self.leave();
        match error {
            WebError::Useless(reason) => {
                self.fared(WebSeedFate::Useless(reason));
                self.exit = Some(ExitReason::Asked);
                ctx.stop();
            }
            other => {
                self.fared(WebSeedFate::Failed(other.to_string()));
                let pause = self.machine.deadline().unwrap_or(now).since(now);
                ctx.run_later(pause, |seed, ctx| seed.join(ctx));
            }
        }
    }

    fn fared(&self, fate: WebSeedFate) {
        tell(&self.links.fared, WebSeedFared { seed: self.key, fate });
    }
}

/// Where blocks that lie side by side are in the torrent.
fn span(geometry: Geometry, run: &[BlockRef]) -> Range<u64> {
    let begin = run.first().map_or(0, |block| geometry.offset_of_block(*block));
    begin..begin + run.iter().map(|block| u64::from(block.length)).sum::<u64>()
}

/// Fetches the parts one after another.
async fn fetch(
    means: WebSeedMeans,
    parts: Vec<Part>,
    length: usize,
    blocks: usize,
) -> Result<(Bytes, Permit), WebError> {
    // Who waits for its turn holds no memory meanwhile.
    let of_files = parts.iter().map(|part| match part {
        Part::File { range, .. } => (range.end - range.start) as usize,
        Part::Zeros(_) => 0,
    });
    means.down.pass_all(of_files.sum()).await;
    let mut permit = Permit::default();
    means.budget.top_up(&mut permit, blocks).await;
    let mut data = BytesMut::with_capacity(length);
    for part in parts {
        match part {
            Part::File { url, range } => {
                let wanted = range.end - range.start;
                let bytes = means.web.get(&url, range).await?;
                if bytes.len() as u64 != wanted {
                    return Err(WebError::Failed(format!("it sent {} of {wanted} bytes", bytes.len())));
                }
                data.extend_from_slice(&bytes);
            }
            Part::Zeros(length) => data.resize(data.len() + length as usize, 0),
        }
    }
    Ok((data.freeze(), permit))
}

impl Actor for WebSeed {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.join(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.leave();
        let reason = self.exit.take().unwrap_or(ExitReason::Unexplained);
        tell(&self.links.parent, ChildStopped { child: Child::WebSeed(self.key), reason });
    }
}

impl Handler<Request> for WebSeed {
    type Result = ();
    fn handle(&mut self, Request(blocks): Request, ctx: &mut Self::Context) {
        self.is_hungry = false;
        self.machine.assign(blocks);
        self.feed(ctx);
    }
}

impl Handler<Cancel> for WebSeed {
    type Result = ();
    fn handle(&mut self, Cancel(blocks): Cancel, ctx: &mut Self::Context) {
        self.machine.cancel(&blocks);
        self.feed(ctx);
    }
}

impl Handler<SetInterest> for WebSeed {
    type Result = ();
    fn handle(&mut self, SetInterest(yes): SetInterest, ctx: &mut Self::Context) {
        self.is_wanted = yes;
        self.feed(ctx);
    }
}

/// It wants no pieces.
impl Handler<Suggest> for WebSeed {
    type Result = ();
    fn handle(&mut self, _: Suggest, _: &mut Self::Context) {}
}

impl Handler<CloseWebSeed> for WebSeed {
    type Result = ();
    fn handle(&mut self, _: CloseWebSeed, ctx: &mut Self::Context) {
        self.leave();
        self.exit = Some(ExitReason::Asked);
        ctx.stop();
    }
}
