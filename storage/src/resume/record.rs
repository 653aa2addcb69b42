//! How a resume record is written: bencode, versioned, with a SHA-1 over its content.
//!
//! ```text
//! { checksum: SHA-1 of content, content: bencode of
//!     { downloaded, info?, info-hash?, info-hash-v2?, piece-count, pieces: bitfield, root, stamps: 32 bytes a file, uploaded },
//!   version: 1 }
//! ```
//!
//! A torn, edited or foreign record is refused as a whole; nothing is guessed.

use bendy::{
    decoding::{Decoder, Object},
    encoding::{AsString, Encoder},
};
use bytes::Bytes;
use castanet_core::{
    Bitfield,
    digest::sha1,
    seams::{
        resume::{ResumeKey, ResumeRecord},
        storage::FileStamp,
    },
};

/// The only version there is.
const VERSION: u64 = 1;

/// Bytes of one file's stamp: length (all ones: no file), time, inode, each big-endian.
const STAMP: usize = 8 + 16 + 8;

/// The record as a file's bytes. `None` if it cannot be written so, which no record of this program is.
pub(super) fn encode(key: &ResumeKey, record: &ResumeRecord) -> Option<Vec<u8>> {
    let stamps: Vec<u8> = record.stamps.iter().flat_map(stamp_to_bytes).collect();
    let mut content = Encoder::new();
    let written = content.emit_dict(|mut dict| {
        dict.emit_pair(b"downloaded", record.downloaded)?;
        if let Some(info) = &record.info {
            dict.emit_pair(b"info", AsString(info))?;
        }
        if let Some(v1) = key.info_hashes.v1 {
            dict.emit_pair(b"info-hash", AsString(v1.0))?;
        }
        if let Some(v2) = key.info_hashes.v2 {
            dict.emit_pair(b"info-hash-v2", AsString(v2.0))?;
        }
        dict.emit_pair(b"piece-count", record.pieces.len())?;
        dict.emit_pair(b"pieces", AsString(record.pieces.to_bytes()))?;
        dict.emit_pair(b"root", AsString(key.root.as_os_str().as_encoded_bytes()))?;
        dict.emit_pair(b"stamps", AsString(stamps))?;
        dict.emit_pair(b"uploaded", record.uploaded)
    });
    written.ok()?;
    let content = content.get_output().ok()?;
    let mut envelope = Encoder::new();
    let written = envelope.emit_dict(|mut dict| {
        dict.emit_pair(b"checksum", AsString(sha1(&content).0))?;
        dict.emit_pair(b"content", AsString(&content))?;
        dict.emit_pair(b"version", VERSION)
    });
    written.ok()?;
    envelope.get_output().ok()
}

/// The record in a file's bytes, or why it is not believed.
pub(super) fn decode(bytes: &[u8], key: &ResumeKey) -> Result<ResumeRecord, &'static str> {
    let envelope = Fields::read(bytes).ok_or("it is damaged")?;
    if envelope.integer("version") != Some(VERSION) {
        return Err("another version of this program wrote it");
    }
    let content = envelope.bytes("content").ok_or("it is damaged")?;
    if envelope.bytes("checksum") != Some(&sha1(content).0) {
        return Err("its checksum is wrong");
    }
    let fields = Fields::read(content).ok_or("it is damaged")?;
    let hashes = key.info_hashes;
    let is_ours = fields.bytes("root") == Some(key.root.as_os_str().as_encoded_bytes())
        && fields.bytes("info-hash") == hashes.v1.as_ref().map(|v1| &v1.0[..])
        && fields.bytes("info-hash-v2") == hashes.v2.as_ref().map(|v2| &v2.0[..]);
    if !is_ours {
        return Err("it is about another torrent or folder");
    }
    fields.record().ok_or("it is incomplete")
}

/// The entries of a flat dictionary, in order.
struct Fields<'a>(Vec<(&'a [u8], Field<'a>)>);

enum Field<'a> {
    Bytes(&'a [u8]),
    Integer(u64),
}

impl<'a> Fields<'a> {
    /// `None` if the bytes are not exactly one dictionary of byte strings and unsigned integers.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut decoder = Decoder::new(bytes).with_max_depth(1);
        let mut fields = Vec::new();
        {
            let mut dict = decoder.next_object().ok()??.try_into_dictionary().ok()?;
            while let Some((name, value)) = dict.next_pair().ok()? {
                let field = match value {
                    Object::Bytes(bytes) => Field::Bytes(bytes),
                    Object::Integer(text) => Field::Integer(text.parse().ok()?),
                    _ => return None,
                };
                fields.push((name, field));
            }
        }
        decoder.next_object().ok()?.is_none().then_some(Self(fields))
    }

    fn get(&self, name: &str) -> Option<&Field<'a>> {
        self.0.iter().find(|(known, _)| *known == name.as_bytes()).map(|(_, field)| field)
    }

    fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        match self.get(name)? {
            Field::Bytes(bytes) => Some(bytes),
            Field::Integer(_) => None,
        }
    }

    fn integer(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Field::Integer(value) => Some(*value),
            Field::Bytes(_) => None,
        }
    }

    fn record(&self) -> Option<ResumeRecord> {
        let count = u32::try_from(self.integer("piece-count")?).ok()?;
        let stamps = self.bytes("stamps")?;
        Some(ResumeRecord {
            pieces: Bitfield::from_bytes(self.bytes("pieces")?, count)?,
            stamps: stamps.len().is_multiple_of(STAMP).then(|| stamps.chunks(STAMP).map(stamp_from_bytes).collect())?,
            uploaded: self.integer("uploaded")?,
            downloaded: self.integer("downloaded")?,
            info: self.bytes("info").map(Bytes::copy_from_slice),
        })
    }
}

fn stamp_to_bytes(stamp: &FileStamp) -> [u8; STAMP] {
    let mut bytes = [0; STAMP];
    bytes[..8].copy_from_slice(&stamp.length.unwrap_or(u64::MAX).to_be_bytes());
    bytes[8..24].copy_from_slice(&stamp.modified.to_be_bytes());
    bytes[24..].copy_from_slice(&stamp.inode.to_be_bytes());
    bytes
}

fn stamp_from_bytes(bytes: &[u8]) -> FileStamp {
    let number = |bytes: &[u8]| bytes.iter().fold(0u128, |number, byte| number << 8 | u128::from(*byte));
    FileStamp {
        length: Some(number(&bytes[..8]) as u64).filter(|length| *length != u64::MAX),
        modified: number(&bytes[8..24]) as i128,
        inode: number(&bytes[24..]) as u64,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use castanet_core::{InfoHashV1, InfoHashes, PieceIndex};

    use super::*;

    pub(in crate::resume) fn key(root: &str) -> ResumeKey {
        ResumeKey { info_hashes: InfoHashes::v1(InfoHashV1([7; 20])), root: root.into() }
    }

    pub(in crate::resume) fn record() -> ResumeRecord {
        let mut pieces = Bitfield::new(20);
        pieces.set(PieceIndex(3));
        pieces.set(PieceIndex(19));
        let stamps = vec![
            FileStamp { length: Some(1 << 40), modified: -5, inode: u64::MAX },
            FileStamp::default(),
            FileStamp { length: Some(0), modified: 1 << 80, inode: 1 },
        ];
        ResumeRecord { pieces, stamps, uploaded: u64::MAX, downloaded: 0, info: Some(Bytes::from_static(b"de")) }
    }

    #[test]
    fn there_and_back() {
        for info in [None, Some(Bytes::from_static(b"d1:ai1ee"))] {
            let record = ResumeRecord { info, ..record() };
            let bytes = encode(&key("/a"), &record).unwrap();
            assert_eq!(decode(&bytes, &key("/a")).unwrap(), record);
            assert!(decode(&bytes, &key("/b")).is_err());
            let v2 = castanet_core::InfoHashV2([1; 32]);
            let hybrid = ResumeKey { info_hashes: InfoHashes { v2: Some(v2), ..key("/a").info_hashes }, ..key("/a") };
            assert!(decode(&bytes, &hybrid).is_err());
            assert_eq!(decode(&encode(&hybrid, &record).unwrap(), &hybrid).unwrap(), record);
        }
    }

    #[test]
    fn a_torn_or_edited_record_is_never_believed() {
        let bytes = encode(&key("/a"), &record()).unwrap();
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length], &key("/a")).is_err(), "cut to {length}");
            let mut zeroed = bytes.clone();
            zeroed[length..].fill(0);
            assert!(decode(&zeroed, &key("/a")).is_err(), "zeros from {length} on");
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[length] ^= 1 << bit;
                assert!(decode(&flipped, &key("/a")).is_err(), "bit {bit} of byte {length}");
            }
        }
        let longer = [&bytes[..], b"i1e"].concat();
        assert!(decode(&longer, &key("/a")).is_err());
    }

    #[test]
    fn nesting_is_not_followed() {
        assert!(decode(&vec![b'l'; 100_000], &key("/a")).is_err());
        assert!(decode(&vec![b'd'; 100_000], &key("/a")).is_err());
    }
}
