//! What the remote says: each message is judged, noted and passed on.

use bytes::{Bytes, BytesMut};
use castanet_core::{Bitfield, BlockRef, Moment};

use super::{MOST_FAST_PIECES, PeerMachine};
use crate::{
    extension::{self, ExtendedHandshake, Extension},
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
                self.told_pieces = true;
                match self.config.geometry {
                    None => self.early.have(piece),
                    Some(geometry) if geometry.contains(piece) => self.haves.push(piece),
                    Some(_) => return Err(CloseReason::NoSuchPiece(piece)),
                }
            }
            Message::Bitfield(_) | Message::HaveAll | Message::HaveNone => self.told(message)?,
            Message::Request(block) => self.asked_by_remote(block)?,
            Message::Piece { block, data } => self.block_came(block, data, now)?,
            Message::Cancel(block) => {
                if self.uploads.cancel(block) {
                    self.refuse(block);
                }
            }
            Message::Port(port) => {
                self.bear(2, now)?;
                if port != 0 {
                    self.put(Output::DhtPort(port));
                }
            }
            Message::Suggest(piece) => {
                self.fast_only()?;
                match self.config.geometry {
                    None => self.early.suggested(piece),
                    Some(geometry) if geometry.contains(piece) => self.put(Output::Suggested(piece)),
                    Some(_) => {}
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
                let exists = self.config.geometry.is_none_or(|geometry| geometry.contains(piece));
                if exists && self.fast_pieces.len() < MOST_FAST_PIECES && !self.fast_pieces.contains(&piece) {
                    self.fast_pieces.push(piece);
                }
            }
            Message::Extended { id, payload } => self.extended(id, payload, now)?,
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
    fn told(&mut self, message: Message) -> Result<(), CloseReason> {
        if !matches!(message, Message::Bitfield(_)) {
            self.fast_only()?;
        }
        if std::mem::replace(&mut self.told_pieces, true) && message == Message::HaveNone {
            return Err(CloseReason::TookBack);
        }
        let Some(geometry) = self.config.geometry else { return self.early.told(&message) };
        let haves = match &message {
            Message::Bitfield(bits) => {
                Haves::Bitfield(Bitfield::from_bytes(bits, geometry.pieces()).ok_or(CloseReason::BadBitfield)?)
            }
            Message::HaveAll => Haves::All,
            _ => Haves::None,
        };
        self.flush_haves();
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
        let possible = self.config.geometry.is_none_or(|geometry| geometry.is_within(block));
        if block.length > LONGEST_BLOCK || !possible {
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

    fn extended(&mut self, id: u8, payload: Bytes, now: Moment) -> Result<(), CloseReason> {
        if !self.config.extended {
            return Ok(());
        }
        let ours = Extension::from_id(id).filter(|extension| self.config.extensions.contains(extension));
        if id == extension::HANDSHAKE_ID {
            self.bear(payload.len(), now)?;
            // One that cannot be read tells us nothing; the connection works without it.
            if let Ok(theirs) = ExtendedHandshake::decode(&payload) {
                self.introduced(theirs);
            }
        } else if let Some(extension) = ours {
            self.bear(payload.len(), now)?;
            self.put(Output::Extended { extension, payload });
        }
        Ok(())
    }

    /// The remote introduces itself, perhaps again. An extension that it does not mention is as it was.
    fn introduced(&mut self, theirs: ExtendedHandshake) {
        if let Some(queue) = theirs.queue {
            self.requests.set_most(queue);
        }
        for extension in Extension::ALL {
            if let Some(id) = theirs.id_of(extension) {
                self.offered.retain(|(offered, _)| *offered != extension);
                self.offered.extend(Some((extension, id)).filter(|_| id != extension::HANDSHAKE_ID));
            }
        }
        self.put(Output::ExtendedHandshake(Box::new(theirs)));
    }

    /// Others will be told of a message of so many bytes: is it not one too many?
    fn bear(&mut self, bytes: usize, now: Moment) -> Result<(), CloseReason> {
        if self.chatter.heard(bytes, now) { Ok(()) } else { Err(CloseReason::Flood) }
    }

    fn fast_only(&self) -> Result<(), CloseReason> {
        if self.config.fast { Ok(()) } else { Err(CloseReason::NotFast) }
    }
}
