//! The peer machine: what it knows of both sides, what our side wants of it, and in which order things happen.

mod heard;

use std::{collections::VecDeque, time::Duration};

use bytes::{Bytes, BytesMut};
use castanet_core::{Bitfield, BlockRef, Geometry, Moment, PieceIndex, addr::is_stand_in};

use super::{
    CloseReason, Haves, Input, Output, PeerConfig,
    allowed_fast::allowed_fast,
    chatter::Chatter,
    early::Early,
    requests::Requests,
    uploads::{LEAST_UNSENT, MOST_REMOTE_REQUESTS, UNSENT_TARGET, Uploads},
};
use crate::{
    extension::{self, ExtendedHandshake, Extension},
    rate::Meter,
    wire::{LONGEST_BLOCK, Limits, Message},
};

/// Bytes of blocks nobody asked for, and of their headers, before the connection is closed.
pub const MOST_UNASKED: u64 = 1024 * 1024;
/// Bytes of control frames that may wait for a remote that does not read.
pub const MOST_UNSENT_CONTROL: u64 = 1024 * 1024;
/// Pieces that a choked remote may fetch from us (BEP 6 suggests ten; large pieces make that generous).
const ALLOWED_FAST: usize = 5;
/// How long we wait to be unchoked before we take what we may have while choked. All newcomers of a network are allowed
/// the same pieces (BEP 6): taken at once, they keep a seed busy with copies that they could have of each other.
const GIFT_PATIENCE: Duration = Duration::from_secs(5);
/// Pieces of the remote's allowed-fast set that we remember.
const MOST_FAST_PIECES: usize = 32;

/// One connection. See the [module](super).
#[derive(Debug)]
pub struct PeerMachine {
    config: PeerConfig,
    limits: Limits,
    outputs: VecDeque<Output>,
    /// Control frames that are not put out yet.
    control: BytesMut,
    /// Bytes that the unfinished frame lacks.
    missing: usize,
    last_sent: Moment,
    last_heard: Moment,
    /// The extensions that the remote offers, and its ids for them.
    offered: Vec<(Extension, u8)>,
    chatter: Chatter,
    /// What was said of pieces before the metadata were known.
    early: Early,

    // What we ask of the remote.
    requests: Requests,
    we_are_interested: bool,
    choked: bool,
    /// Pieces that we may ask for while choked.
    fast_pieces: Vec<PieceIndex>,
    /// When we may ask for these, until then.
    gifts_from: Option<Moment>,
    told_pieces: bool,
    /// Pieces of consecutive "have" messages.
    haves: Vec<PieceIndex>,
    lost: Vec<BlockRef>,
    unasked: u64,
    down: Meter,

    // What the remote asks of us.
    uploads: Uploads,
    interested: bool,
    we_choke: bool,
    /// Pieces that the remote may ask for while choked, and how many bytes of them it may still have.
    allowed_fast: Vec<PieceIndex>,
    fast_budget: u64,
    up: Meter,
}

impl PeerMachine {
    /// A connection whose handshakes are done. Our pieces and what we can do wait to be sent.
    pub fn new(config: PeerConfig, now: Moment) -> Self {
        let mut machine = Self {
            limits: config.geometry.as_ref().map_or_else(Limits::general, Limits::of),
            outputs: VecDeque::new(),
            control: BytesMut::new(),
            missing: 4,
            last_sent: now,
            last_heard: now,
            offered: Vec::new(),
            chatter: Chatter::new(now),
            early: Early::default(),
            requests: Requests::new(config.timing.request, config.first_credit, now),
            we_are_interested: false,
            choked: true,
            fast_pieces: Vec::new(),
            gifts_from: Some(now + GIFT_PATIENCE).filter(|_| config.fast),
            told_pieces: false,
            haves: Vec::new(),
            lost: Vec::new(),
            unasked: 0,
            down: Meter::new(now),
            uploads: Uploads::default(),
            interested: false,
            we_choke: true,
            allowed_fast: Vec::new(),
            fast_budget: 0,
            up: Meter::new(now),
            config,
        };
        machine.introduce();
        machine.settle(now);
        machine
    }

    fn introduce(&mut self) {
        let have = &self.config.have;
        let pieces = match self.config.fast {
            true if self.is_seed() => Some(Message::HaveAll),
            true if have.is_none() => Some(Message::HaveNone),
            false if have.is_none() => None,
            _ => Some(Message::Bitfield(have.to_bytes().into())),
        };
        if let Some(message) = pieces {
            self.say(message);
        }
        self.introduce_extensions();
        if let Some(port) = self.config.dht_port {
            self.say(Message::Port(port));
        }
        self.allow_fast();
    }

    fn introduce_extensions(&mut self) {
        if !self.config.extended {
            return;
        }
        let ours = ExtendedHandshake {
            messages: self
                .config
                .extensions
                .iter()
                .map(|extension| (extension.name().into(), extension.id()))
                .collect(),
            client: extension::CLIENT.into(),
            port: Some(self.config.listen_port).filter(|port| *port != 0),
            your_ip: Some(self.config.remote).filter(|ip| !is_stand_in(*ip)),
            queue: Some(MOST_REMOTE_REQUESTS),
            metadata_size: self.config.metadata_size,
            upload_only: self.is_seed(),
        };
        self.say(Message::Extended { id: extension::HANDSHAKE_ID, payload: ours.encode().into() });
    }

    /// Lets the remote have a few pieces while we choke it.
    fn allow_fast(&mut self) {
        let PeerConfig { fast: true, gifts: true, geometry: Some(geometry), remote, info_hash, .. } = self.config
        else {
            return;
        };
        self.allowed_fast = allowed_fast(remote, info_hash, geometry.pieces(), ALLOWED_FAST);
        self.fast_budget = self.allowed_fast.iter().map(|piece| u64::from(geometry.length_of(*piece))).sum();
        for piece in self.allowed_fast.clone() {
            self.say(Message::AllowedFast(piece));
        }
    }

    /// The metadata are known: what the remote said until now is judged, and it learns what we have.
    fn metadata(&mut self, geometry: Geometry, have: Bitfield, size: u32) -> Result<(), CloseReason> {
        if self.config.geometry.is_some() {
            return Ok(());
        }
        self.limits = Limits::of(&geometry);
        self.config.geometry = Some(geometry);
        self.config.metadata_size = Some(size);
        self.config.have = have.clone();
        self.introduce_extensions();
        have.iter().for_each(|piece| self.say(Message::Have(piece)));
        self.allow_fast();
        self.fast_pieces.retain(|piece| geometry.contains(*piece));
        let (told, suggestions) = std::mem::take(&mut self.early).judge(&geometry)?;
        told.into_iter().for_each(|haves| self.put(Output::Has(haves)));
        suggestions.into_iter().for_each(|piece| self.put(Output::Suggested(piece)));
        Ok(())
    }

    /// Takes something in. An error ends the connection; what was put out before it is still valid.
    pub fn handle(&mut self, input: Input<'_>, now: Moment) -> Result<(), CloseReason> {
        let result = match input {
            Input::Received(buffer) => self.received(buffer, now),
            Input::Timeout => self.timeout(now),
            Input::Excuse(by) => {
                self.last_heard = (self.last_heard + by).min(now);
                self.requests.excuse(by, now);
                self.timeout(now)
            }
            Input::Metadata { geometry, have, size } => self.metadata(geometry, have, size),
            wish => {
                self.wish(wish, now);
                Ok(())
            }
        };
        self.settle(now);
        result
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is due. It moves with every input.
    pub fn deadline(&self) -> Moment {
        let timing = &self.config.timing;
        // An offer of the few allowed pieces is worth waking up for once.
        let may_ask = self.may_ask() && !self.choked;
        let offer = if may_ask { self.requests.next_offer() } else { Moment::NEVER };
        let hopes = self.we_are_interested && self.choked && !self.fast_pieces.is_empty();
        let gifts = self.gifts_from.filter(|_| hopes).unwrap_or(Moment::NEVER);
        (self.last_sent + timing.keep_alive)
            .min(self.last_heard + timing.silence)
            .min(self.requests.deadline())
            .min(offer)
            .min(gifts)
    }

    /// Bytes that the buffer lacks before the next message is whole: make room for so many.
    pub fn missing(&self) -> usize {
        self.missing
    }
    /// How many more blocks the remote could be asked for now; 0 while it chokes us or we are not interested.
    pub fn room(&self) -> usize {
        if self.may_ask() && !self.choked { self.requests.room() } else { 0 }
    }
    /// Requests of ours under way.
    pub fn outstanding(&self) -> usize {
        self.requests.len()
    }
    /// Requests of the remote that wait for a read.
    pub fn queued(&self) -> usize {
        self.uploads.len()
    }
    /// The extensions that the remote offers, as it said last.
    pub fn offers(&self) -> impl Iterator<Item = Extension> {
        self.offered.iter().map(|(extension, _)| *extension)
    }
    /// Does the remote choke us?
    pub fn is_choked(&self) -> bool {
        self.choked
    }
    /// Does the remote want our pieces?
    pub fn is_interested(&self) -> bool {
        self.interested
    }
    /// Do we choke the remote?
    pub fn we_choke(&self) -> bool {
        self.we_choke
    }
    /// Do we want pieces of the remote?
    pub fn we_are_interested(&self) -> bool {
        self.we_are_interested
    }
    /// Does the remote keep blocks back for long?
    pub fn is_snubbed(&self) -> bool {
        self.requests.is_snubbed()
    }
    /// Bytes a second of blocks that we asked for.
    pub fn rate_down(&self, now: Moment) -> u64 {
        self.down.rate(now)
    }
    /// Bytes a second of blocks for the remote.
    pub fn rate_up(&self, now: Moment) -> u64 {
        self.up.rate(now)
    }
    /// Bytes of blocks received in all that we had asked for.
    pub fn downloaded(&self) -> u64 {
        self.down.total()
    }
    /// Bytes of blocks put out for the remote in all.
    pub fn uploaded(&self) -> u64 {
        self.up.total()
    }

    // ---- what our side wants

    fn wish(&mut self, wish: Input<'_>, now: Moment) {
        match wish {
            Input::Received(_) | Input::Timeout | Input::Excuse(_) | Input::Metadata { .. } => {}
            Input::Written(bytes) => self.uploads.written(bytes),
            Input::Assign(blocks) => self.assign(blocks, now),
            Input::Cancel(blocks) => {
                for block in blocks {
                    if self.requests.cancel(*block) {
                        self.say(Message::Cancel(*block));
                    }
                }
            }
            Input::Choke(choke) => self.choke(choke),
            Input::Interest(interest) => {
                if std::mem::replace(&mut self.we_are_interested, interest) != interest {
                    self.requests.forget_offers();
                    self.say(if interest { Message::Interested } else { Message::NotInterested });
                }
            }
            Input::Announce(pieces) => {
                for piece in pieces {
                    if self.config.have.set(*piece) {
                        self.say(Message::Have(*piece));
                    }
                }
            }
            Input::Suggest(pieces) if self.config.fast => {
                pieces.iter().for_each(|piece| self.say(Message::Suggest(*piece)));
            }
            Input::Suggest(_) => {}
            Input::Data { range, data } => self.send_blocks(range, &data, now),
            Input::ReadFailed(range) => self.refuse_read(range),
            Input::Extended { extension, payload } => {
                if let Some((_, id)) = self.offered.iter().find(|(offered, _)| *offered == extension) {
                    self.say(Message::Extended { id: *id, payload: Bytes::copy_from_slice(payload) });
                    self.chatter.said();
                }
            }
        }
    }

    fn assign(&mut self, blocks: &[BlockRef], now: Moment) {
        for block in blocks {
            let possible = self.config.geometry.is_some_and(|geometry| geometry.is_within(*block))
                && block.length <= LONGEST_BLOCK;
            let allowed = !self.choked || self.fast_pieces.contains(&block.piece);
            if possible && allowed && self.requests.ask(*block, now) {
                self.say(Message::Request(*block));
            } else {
                self.lost.push(*block);
            }
        }
        self.requests.answered();
    }

    fn choke(&mut self, choke: bool) {
        if std::mem::replace(&mut self.we_choke, choke) == choke {
            return;
        }
        self.say(if choke { Message::Choke } else { Message::Unchoke });
        if choke {
            let mut refused = Vec::new();
            self.uploads.clear(&self.allowed_fast, |block| refused.push(block));
            refused.into_iter().for_each(|block| self.refuse(block));
        }
    }

    fn send_blocks(&mut self, range: BlockRef, data: &Bytes, now: Moment) {
        if data.len() != range.length as usize {
            return self.refuse_read(range);
        }
        self.flush(now);
        for block in self.uploads.end_read(range).unwrap_or_default() {
            let start = (block.begin - range.begin) as usize;
            let data = data.slice(start..start + block.length as usize);
            let header = self.uploads.header(block);
            self.uploads.sent(header.len() + data.len());
            self.up.add(data.len() as u64, now);
            self.last_sent = now;
            self.put(Output::SendBlock { header, data });
        }
    }

    fn refuse_read(&mut self, range: BlockRef) {
        for block in self.uploads.end_read(range).unwrap_or_default() {
            self.refuse(block);
        }
    }

    /// Tells the remote that a request of its will not be answered, if there is a way to say so.
    fn refuse(&mut self, block: BlockRef) {
        if self.config.fast {
            self.say(Message::Reject(block));
        }
    }

    // ---- time and order

    fn timeout(&mut self, now: Moment) -> Result<(), CloseReason> {
        if now >= self.last_heard + self.config.timing.silence {
            return Err(CloseReason::Silent);
        }
        if now >= self.last_sent + self.config.timing.keep_alive {
            self.say(Message::KeepAlive);
        }
        if self.requests.timeout(self.choked, &mut self.lost, now) {
            self.put(Output::Snubbed(true));
        }
        Ok(())
    }

    fn is_seed(&self) -> bool {
        self.config.geometry.is_some() && self.config.have.is_full()
    }

    fn may_ask(&self) -> bool {
        let hopes = self.config.geometry.is_some() && self.we_are_interested;
        hopes && (!self.choked || (self.gifts_from.is_none() && !self.fast_pieces.is_empty()))
    }

    /// Ends an input: local news first, then what is to be sent, then what more could be done.
    fn settle(&mut self, now: Moment) {
        self.flush_haves();
        self.gifts_from = self.gifts_from.filter(|from| now < *from);
        if !self.lost.is_empty() {
            let lost = std::mem::take(&mut self.lost);
            self.put(Output::Lost(lost));
        }
        self.flush(now);
        let target = self.up.rate(now).clamp(LEAST_UNSENT, UNSENT_TARGET);
        while let Some(range) = self.uploads.next_read(target) {
            self.put(Output::Read(range));
        }
        if self.may_ask()
            && let Some(blocks) = self.requests.offer(now)
        {
            self.put(match self.choked {
                false => Output::Room(blocks),
                true => Output::FastRoom { blocks, pieces: self.fast_pieces.clone() },
            });
        }
    }

    fn say(&mut self, message: Message) {
        message.encode(&mut self.control);
    }

    fn put(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    fn flush_haves(&mut self) {
        if !self.haves.is_empty() {
            self.outputs.push_back(Output::Has(Haves::Pieces(std::mem::take(&mut self.haves))));
        }
    }

    fn flush(&mut self, now: Moment) {
        if !self.control.is_empty() {
            let frames = self.control.split().freeze();
            self.uploads.sent(frames.len());
            self.last_sent = now;
            self.put(Output::Send(frames));
        }
    }

    /// The bounds that hold between inputs.
    pub fn check_invariants(&self) {
        self.requests.check_invariants();
        self.uploads.check_invariants();
        self.early.check_invariants();
        assert!(self.control.is_empty() && self.haves.is_empty() && self.lost.is_empty());
        assert!(self.fast_pieces.len() <= MOST_FAST_PIECES && self.allowed_fast.len() <= ALLOWED_FAST);
        assert!(self.config.fast || (self.fast_pieces.is_empty() && self.allowed_fast.is_empty()));
        assert!(self.missing > 0 && self.missing <= 4 + self.limits.frame());
    }
}
