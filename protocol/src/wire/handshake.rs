//! The handshake: 68 bytes that name the torrent, the peer and what it can do (BEP 3, BEP 4).
//!
//! The info-hash can be read as soon as it is here, because some peers (trackers' probes among them) send their peer
//! id only after ours, and because a session must know the torrent before it can answer.

use castanet_core::PeerId;

/// The length of a handshake in bytes.
pub const HANDSHAKE_LENGTH: usize = 68;
/// So many bytes of a handshake suffice for [`Handshake::peek`].
pub const INFO_HASH_KNOWN: usize = 48;

const PREFIX: &[u8; 20] = b"\x13BitTorrent protocol";

/// The eight bytes in which a peer says what it can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reserved(pub [u8; 8]);

impl Reserved {
    /// What Castanet can do: the fast extension and the extension protocol. Without a DHT its bit stays clear.
    pub fn ours() -> Self {
        Self([0, 0, 0, 0, 0, 0x10, 0, 0x04])
    }
    /// The same with the DHT bit set as told (BEP 5).
    pub fn with_dht(mut self, dht: bool) -> Self {
        self.0[7] = self.0[7] & !0x01 | u8::from(dht);
        self
    }
    /// The fast extension (BEP 6).
    pub fn fast(&self) -> bool {
        self.0[7] & 0x04 != 0
    }
    /// The extension protocol (BEP 10).
    pub fn extended(&self) -> bool {
        self.0[5] & 0x10 != 0
    }
    /// The distributed hash table (BEP 5).
    pub fn dht(&self) -> bool {
        self.0[7] & 0x01 != 0
    }
}

/// A whole handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// What the sender can do.
    pub reserved: Reserved,
    /// The torrent: [`castanet_core::InfoHashes::wire`].
    pub info_hash: [u8; 20],
    /// What the sender calls itself.
    pub peer_id: PeerId,
}

/// The other side does not speak BitTorrent (it may speak an encrypted form of it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the other side does not speak the BitTorrent protocol")]
pub struct HandshakeError;

impl Handshake {
    /// As on the wire.
    pub fn to_bytes(&self) -> [u8; HANDSHAKE_LENGTH] {
        let mut bytes = [0; HANDSHAKE_LENGTH];
        bytes[..20].copy_from_slice(PREFIX);
        bytes[20..28].copy_from_slice(&self.reserved.0);
        bytes[28..48].copy_from_slice(&self.info_hash);
        bytes[48..].copy_from_slice(&self.peer_id.0);
        bytes
    }
    /// Reads what is there of a handshake: `None` until [`INFO_HASH_KNOWN`] bytes have come. An error with the first
    /// wrong byte.
    pub fn peek(bytes: &[u8]) -> Result<Option<(Reserved, [u8; 20])>, HandshakeError> {
        let known = bytes.len().min(PREFIX.len());
        if bytes[..known] != PREFIX[..known] {
            return Err(HandshakeError);
        }
        let reserved = bytes.get(20..28).and_then(|part| part.try_into().ok()).map(Reserved);
        let info_hash = bytes.get(28..48).and_then(|part| part.try_into().ok());
        Ok(reserved.zip(info_hash))
    }
    /// Reads a handshake from the front of `bytes`: `None` until [`HANDSHAKE_LENGTH`] bytes have come.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, HandshakeError> {
        let Some((reserved, info_hash)) = Self::peek(bytes)? else { return Ok(None) };
        let peer_id = bytes.get(48..68).and_then(|part| part.try_into().ok()).map(PeerId);
        Ok(peer_id.map(|peer_id| Self { reserved, info_hash, peer_id }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_torrent_is_known_before_the_peer() {
        let whole =
            Handshake { reserved: Reserved::ours().with_dht(true), info_hash: [7; 20], peer_id: PeerId([9; 20]) };
        let bytes = whole.to_bytes();
        for end in 0..=HANDSHAKE_LENGTH {
            let known = (end >= INFO_HASH_KNOWN).then_some((whole.reserved, whole.info_hash));
            assert_eq!(Handshake::peek(&bytes[..end]), Ok(known));
            assert_eq!(Handshake::parse(&bytes[..end]), Ok((end == HANDSHAKE_LENGTH).then_some(whole)));
        }
    }

    #[test]
    fn another_protocol_fails_with_its_first_wrong_byte() {
        assert_eq!(Handshake::peek(b"G"), Err(HandshakeError));
        assert_eq!(Handshake::peek(b"\x13BitTorrent Protocol"), Err(HandshakeError));
    }

    #[test]
    fn reserved_bits() {
        let ours = Reserved::ours();
        assert!(ours.fast() && ours.extended() && !ours.dht() && ours.with_dht(true).dht());
        assert_eq!(ours.with_dht(true).with_dht(false), ours);
        assert!(!Reserved::default().fast() && !Reserved::default().extended());
    }
}
