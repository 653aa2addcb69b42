//! What the remote says: each message is judged, noted and passed on.

use bytes::{Bytes, BytesMut};
use castanet_core::{Bitfield, BlockRef, Moment};

use super::{MOST_FAST_PIECES, PeerMachine};
use crate::{
    extension::{self, ExtendedHandshake},
    peer::{
        CloseReason, Haves, MOST_UNASKED, MOST_UNSENT_CONTROL, Output,
        requests::Arrival,
        uploads::{LARGEST_READ, UNSENT_TARGET},
    },
    wire::{Decoded, LONGEST_BLOCK, Message, decode},
};

impl PeerMachine {
    pub(super) fn received(&mut self, buffer: &mut BytesMut, now: Moment) -> Result<(), CloseReason> {
        self.last_heard = now;
        loop {
            match decode(buffer, &self.limits)? {
                Decoded::Message(message) => self.heard(message, now)?,
                Decoded::Need(missing) => {
                    self.missing = missing;
                    break;
                }
            }
        }
        let most = UNSENT_TARGET + u64::from(LARGEST_READ) + self.limits.bitfield as u64 + MOST_UNSENT_CONTROL;
        if self.uploads.unsent() + self.control.len() as u64 > most {
            return Err(CloseReason::DoesNotRead);
        }
        Ok(())
    }

    fn heard(&mut self, message: Message, now: Moment) -> Result<(), CloseReason> {
        match message {
            Message::KeepAlive => {}
            Message::Choke => self.choked_by_remote(),
            Message::Unchoke => {
                if std::mem::take(&mut self.choked) {
                    self.requests.forget_offers();
                    self.put(Output::Choked(false));
                }
            }
            Message::Interested | Message::NotInterested => {
                let interested = message == Message::Interested;
                if std::mem::replace(&mut self.interested, interested) != interested {
                    self.put(Output::Interested(interested));
                }
            }
            Message::Have(piece) => {
                if !self.config.geometry.contains(piece) {
                    return Err(CloseReason::NoSuchPiece(piece));
                }
                self.told_pieces = true;
                self.haves.push(piece);
            }
            Message::Bitfield(bits) => {
                let all = Bitfield::from_bytes(&bits, self.config.geometry.pieces());
                self.told(Haves::Bitfield(all.ok_or(CloseReason::BadBitfield)?))?;
            }
            Message::HaveAll => {
                self.fast_only()?;
                self.told(Haves::All)?;
            }
            Message::HaveNone => {
                self.fast_only()?;
                self.told(Haves::None)?;
            }
            Message::Request(block) => self.asked_by_remote(block)?,
            Message::Piece { block, data } => self.block_came(block, data, now)?,
            Message::Cancel(block) => {
                if self.uploads.cancel(block) {
                    self.refuse(block);
                }
            }
            Message::Port(port) => {
                if port != 0 {
                    self.put(Output::DhtPort(port));
                }
            }
            Message::Suggest(piece) => {
                self.fast_only()?;
                if self.config.geometry.contains(piece) {
                    self.put(Output::Suggested(piece));
                }
            }
            Message::Reject(block) => {
                self.fast_only()?;
                if self.requests.rejected(block) {
                    self.lost.push(block);
                    if self.choked {
                        self.fast_pieces.retain(|piece| *piece != block.piece);
                    }
                }
            }
            Message::AllowedFast(piece) => {
                self.fast_only()?;
                let fits = self.fast_pieces.len() < MOST_FAST_PIECES && self.config.geometry.contains(piece);
                if fits && !self.fast_pieces.contains(&piece) {
                    self.fast_pieces.push(piece);
                }
            }
            Message::Extended { id, payload } => self.extended(id, payload),
        }
        Ok(())
    }

    fn choked_by_remote(&mut self) {
        if std::mem::replace(&mut self.choked, true) {
            return;
        }
        self.requests.forget_offers();
        self.put(Output::Choked(true));
        // With the fast extension the remote answers or rejects each request; without it, silence is the answer.
        if !self.config.fast {
            self.requests.lose(0, &mut self.lost);
        }
    }

    /// The remote told all its pieces at once: at first, or later instead of many "have"s, as aria2 does. Pieces are
    /// never lost, so that the later word adds to the earlier one, and "have none" would contradict it.
    fn told(&mut self, haves: Haves) -> Result<(), CloseReason> {
        if std::mem::replace(&mut self.told_pieces, true) && haves == Haves::None {
            return Err(CloseReason::TookBack);
        }
        self.put(Output::Has(haves));
        Ok(())
    }

    fn block_came(&mut self, block: BlockRef, data: Bytes, now: Moment) -> Result<(), CloseReason> {
        match self.requests.arrived(block, now) {
            Arrival::Expected { back_from_snub } => {
                if back_from_snub {
                    self.put(Output::Snubbed(false));
                }
                self.down.add(u64::from(block.length), now);
                self.put(Output::Block { block, data });
            }
            Arrival::WrongLength => return Err(CloseReason::WrongBlockLength(block)),
            Arrival::Unasked => {
                self.unasked += u64::from(block.length) + 13;
                if self.unasked > MOST_UNASKED {
                    return Err(CloseReason::Unasked(self.unasked));
                }
            }
        }
        Ok(())
    }

    fn asked_by_remote(&mut self, block: BlockRef) -> Result<(), CloseReason> {
        if block.length > LONGEST_BLOCK || !self.config.geometry.is_within(block) {
            return Err(CloseReason::BadRequest(block));
        }
        let bytes = u64::from(block.length);
        let gift = self.we_choke && self.allowed_fast.contains(&block.piece) && bytes <= self.fast_budget;
        let granted = (!self.we_choke || gift) && self.config.have.has(block.piece) && self.uploads.ask(block);
        if !granted {
            self.refuse(block);
        } else if gift {
            self.fast_budget -= bytes;
        }
        Ok(())
    }

    fn extended(&mut self, id: u8, payload: Bytes) {
        if !self.config.extended {
            return;
        }
        if id == extension::HANDSHAKE_ID {
            // One that cannot be read tells us nothing; the connection works without it.
            if let Ok(theirs) = ExtendedHandshake::decode(&payload) {
                if let Some(queue) = theirs.queue {
                    self.requests.set_most(queue);
                }
                self.put(Output::ExtendedHandshake(Box::new(theirs)));
            }
        } else if self.config.extensions.iter().any(|(_, ours)| *ours == id) {
            self.put(Output::Extended { id, payload });
        }
    }

    fn fast_only(&self) -> Result<(), CloseReason> {
        if self.config.fast { Ok(()) } else { Err(CloseReason::NotFast) }
    }
}
