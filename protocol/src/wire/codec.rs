//! Frames: cuts messages out of a read buffer without copying piece data (BEP 3, BEP 6, BEP 10).

use bytes::{Buf, BytesMut};
use castanet_core::{BlockRef, PieceIndex};

use super::{
    limits::Limits,
    message::{Message, id},
};

/// What the front of a read buffer holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A whole message, which has been taken out of the buffer.
    Message(Message),
    /// A frame has begun (or none has) and so many bytes are missing before more can be said; at least 1.
    Need(usize),
}

/// Why the bytes are no messages. The connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A frame is longer than a message of its kind can be in this torrent.
    #[error("a frame of {length} bytes where at most {most} make sense")]
    TooLong {
        /// The length that the frame claims.
        length: usize,
        /// The most that is accepted.
        most: usize,
    },
    /// A message's length does not fit its id.
    #[error("message {id} with a length of {length} bytes")]
    WrongLength {
        /// The message's id.
        id: u8,
        /// The length that the frame claims, its id included.
        length: usize,
    },
}

/// Takes the next message from the front of `buffer`. Messages with unknown ids are skipped, as BEP 3 wants.
///
/// A frame that is too long for its kind is an error as soon as its first five bytes are here, so that nobody waits
/// for it or makes room for it.
pub fn decode(buffer: &mut BytesMut, limits: &Limits) -> Result<Decoded, WireError> {
    loop {
        let Some(prefix) = buffer.first_chunk() else { return Ok(Decoded::Need(4 - buffer.len())) };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length == 0 {
            buffer.advance(4);
            return Ok(Decoded::Message(Message::KeepAlive));
        }
        if length > limits.frame() {
            return Err(WireError::TooLong { length, most: limits.frame() });
        }
        let Some(&id) = buffer.get(4) else { return Ok(Decoded::Need(length)) };
        check_length(id, length, limits)?;
        let missing = (4 + length).saturating_sub(buffer.len());
        if missing > 0 {
            return Ok(Decoded::Need(missing));
        }
        buffer.advance(5);
        if let Some(message) = payload(buffer, id, length - 1) {
            return Ok(Decoded::Message(message));
        }
        buffer.advance(length - 1);
    }
}

/// Is `length` (id included) possible for this id?
fn check_length(id: u8, length: usize, limits: &Limits) -> Result<(), WireError> {
    let (least, most) = match id {
        id::CHOKE | id::UNCHOKE | id::INTERESTED | id::NOT_INTERESTED | id::HAVE_ALL | id::HAVE_NONE => (1, 1),
        id::HAVE | id::SUGGEST | id::ALLOWED_FAST => (5, 5),
        id::REQUEST | id::CANCEL | id::REJECT => (13, 13),
        id::PORT => (3, 3),
        id::PIECE => (9, 9 + limits.block),
        id::BITFIELD => (1, 1 + limits.bitfield),
        id::EXTENDED => (2, 1 + limits.extended),
        _ => (1, 1 + limits.block),
    };
    if length < least || (length > most && most <= 13) {
        return Err(WireError::WrongLength { id, length });
    }
    if length > most {
        return Err(WireError::TooLong { length, most });
    }
    Ok(())
}

/// Takes a payload whose length has been checked. `None`, and nothing taken, if the id is unknown.
fn payload(buffer: &mut BytesMut, id: u8, length: usize) -> Option<Message> {
    Some(match id {
        id::CHOKE => Message::Choke,
        id::UNCHOKE => Message::Unchoke,
        id::INTERESTED => Message::Interested,
        id::NOT_INTERESTED => Message::NotInterested,
        id::HAVE => Message::Have(PieceIndex(buffer.get_u32())),
        id::BITFIELD => Message::Bitfield(buffer.split_to(length).freeze()),
        id::REQUEST => Message::Request(block(buffer)),
        id::PIECE => {
            let (piece, begin) = (PieceIndex(buffer.get_u32()), buffer.get_u32());
            let data = buffer.split_to(length - 8).freeze();
            Message::Piece { block: BlockRef { piece, begin, length: data.len() as u32 }, data }
        }
        id::CANCEL => Message::Cancel(block(buffer)),
        id::PORT => Message::Port(buffer.get_u16()),
        id::SUGGEST => Message::Suggest(PieceIndex(buffer.get_u32())),
        id::HAVE_ALL => Message::HaveAll,
        id::HAVE_NONE => Message::HaveNone,
        id::REJECT => Message::Reject(block(buffer)),
        id::ALLOWED_FAST => Message::AllowedFast(PieceIndex(buffer.get_u32())),
        id::EXTENDED => Message::Extended { id: buffer.get_u8(), payload: buffer.split_to(length - 1).freeze() },
        _ => return None,
    })
}

fn block(buffer: &mut BytesMut) -> BlockRef {
    BlockRef { piece: PieceIndex(buffer.get_u32()), begin: buffer.get_u32(), length: buffer.get_u32() }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use castanet_core::Geometry;
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{LONGEST_BLOCK, piece_header};

    fn message() -> impl Strategy<Value = Message> {
        let piece = || any::<u32>().prop_map(PieceIndex);
        let block = || {
            (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(p, begin, length)| BlockRef {
                piece: PieceIndex(p),
                begin,
                length,
            })
        };
        let bytes = |most| prop::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from);
        prop_oneof![
            Just(Message::KeepAlive),
            Just(Message::Choke),
            Just(Message::Unchoke),
            Just(Message::Interested),
            Just(Message::NotInterested),
            Just(Message::HaveAll),
            Just(Message::HaveNone),
            piece().prop_map(Message::Have),
            piece().prop_map(Message::Suggest),
            piece().prop_map(Message::AllowedFast),
            block().prop_map(Message::Request),
            block().prop_map(Message::Cancel),
            block().prop_map(Message::Reject),
            any::<u16>().prop_map(Message::Port),
            bytes(200).prop_map(Message::Bitfield),
            (block(), bytes(300)).prop_map(|(block, data)| Message::Piece {
                block: BlockRef { length: data.len() as u32, ..block },
                data
            }),
            (any::<u8>(), bytes(100)).prop_map(|(id, payload)| Message::Extended { id, payload }),
        ]
    }

    proptest! {
        #[test]
        fn every_message_survives_any_cut(messages in prop::collection::vec(message(), 0..20), step in 1usize..70) {
            let mut wire = BytesMut::new();
            for message in &messages {
                message.encode(&mut wire);
            }
            let (mut buffer, mut back) = (BytesMut::new(), Vec::new());
            for chunk in wire.chunks(step) {
                buffer.extend_from_slice(chunk);
                loop {
                    match decode(&mut buffer, &Limits::general()).unwrap() {
                        Decoded::Message(message) => back.push(message),
                        Decoded::Need(missing) => break prop_assert!(missing > 0),
                    }
                }
            }
            prop_assert_eq!(back, messages);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn arbitrary_bytes_never_panic_nor_ask_for_too_much(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let limits = Limits::of(&Geometry::new(1 << 20, 1 << 14).unwrap());
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(decoded) = decode(&mut buffer, &limits) {
                if let Decoded::Need(missing) = decoded {
                    prop_assert!(missing <= 4 + limits.frame());
                    break;
                }
            }
        }
    }

    #[test]
    fn a_block_is_a_slice_of_the_read_buffer() {
        let block = BlockRef { piece: PieceIndex(3), begin: 16_384, length: 5 };
        let mut buffer = BytesMut::from(&piece_header(block)[..]);
        buffer.extend_from_slice(b"hello");
        let address = buffer[13..].as_ptr();
        let Decoded::Message(Message::Piece { block: got, data }) = decode(&mut buffer, &Limits::general()).unwrap()
        else {
            panic!("not a piece")
        };
        assert_eq!((got, &data[..], data.as_ptr()), (block, &b"hello"[..], address));
    }

    #[test]
    fn too_long_is_an_error_before_it_is_buffered() {
        let limits = Limits::of(&Geometry::new(80, 1).unwrap());
        let starts = |length: u32, id: u8| {
            let mut buffer = BytesMut::from(&length.to_be_bytes()[..]);
            buffer.extend_from_slice(&[id]);
            decode(&mut buffer, &limits)
        };
        assert_eq!(starts(11, id::BITFIELD), Ok(Decoded::Need(10)));
        assert_eq!(starts(12, id::BITFIELD), Err(WireError::WrongLength { id: id::BITFIELD, length: 12 }));
        assert_eq!(starts(9 + LONGEST_BLOCK, id::PIECE), Ok(Decoded::Need(8 + LONGEST_BLOCK as usize)));
        assert!(matches!(starts(10 + LONGEST_BLOCK, id::PIECE), Err(WireError::TooLong { .. })));
        assert!(matches!(starts(u32::MAX, id::EXTENDED), Err(WireError::TooLong { .. })));
        assert!(matches!(starts(2, id::CHOKE), Err(WireError::WrongLength { .. })));
        assert!(matches!(starts(8, id::PIECE), Err(WireError::WrongLength { .. })));
        assert!(matches!(starts(1, id::EXTENDED), Err(WireError::WrongLength { .. })));
    }

    #[test]
    fn an_unknown_message_is_skipped() {
        let mut buffer = BytesMut::from(&[0, 0, 0, 3, 99, 1, 2, 0, 0, 0, 1, 1][..]);
        assert_eq!(decode(&mut buffer, &Limits::general()), Ok(Decoded::Message(Message::Unchoke)));
    }
}
