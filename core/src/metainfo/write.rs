//! Writing torrent files (BEP 3, BEP 12, BEP 19, BEP 27, BEP 47), by `bendy`.

use bendy::encoding::{Encoder, Error, SingleItemEncoder};

/// A v1 torrent to be written.
#[derive(Debug, Clone, Default)]
pub struct NewTorrent {
    /// The name of the file or folder.
    pub name: String,
    /// What is in it.
    pub content: NewContent,
    /// Bytes of every piece but the last.
    pub piece_length: u32,
    /// The SHA-1 digests of all pieces, 20 bytes each.
    pub pieces: Vec<u8>,
    /// Peers by its trackers only (BEP 27).
    pub private: bool,
    /// Trackers by tier; empty tiers are left out.
    pub trackers: Vec<Vec<String>>,
    /// Web seeds (BEP 19).
    pub web_seeds: Vec<String>,
    /// Free text.
    pub comment: Option<String>,
    /// The program that makes the file.
    pub created_by: Option<String>,
    /// Seconds since 1970.
    pub creation_date: Option<i64>,
}

/// A single file or a folder of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewContent {
    /// One file of so many bytes.
    File(u64),
    /// Files, in the order of their bytes in the torrent.
    Folder(Vec<NewFile>),
}

impl Default for NewContent {
    fn default() -> Self {
        Self::File(0)
    }
}

/// A file within a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewFile {
    /// Folders and name.
    pub path: Vec<String>,
    /// Bytes.
    pub length: u64,
    /// A pad file (BEP 47).
    pub pad: bool,
}

/// The torrent file. Its info-hash is what [`super::Metainfo::parse`] says of it, which also checks what is written.
pub fn encode(torrent: &NewTorrent) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.emit_with(|e| file(torrent, e)).expect("keys are in order and the nesting is shallow");
    encoder.get_output().expect("a whole value was written")
}

fn file(torrent: &NewTorrent, e: SingleItemEncoder<'_>) -> Result<(), Error> {
    let tiers: Vec<_> = torrent.trackers.iter().filter(|tier| !tier.is_empty()).collect();
    e.emit_dict(|mut e| {
        if let Some(first) = tiers.first() {
            e.emit_pair(b"announce", &first[0])?;
        }
        if tiers.iter().map(|tier| tier.len()).sum::<usize>() > 1 {
            e.emit_pair(b"announce-list", tiers)?;
        }
        if let Some(comment) = &torrent.comment {
            e.emit_pair(b"comment", comment)?;
        }
        if let Some(created_by) = &torrent.created_by {
            e.emit_pair(b"created by", created_by)?;
        }
        if let Some(date) = torrent.creation_date {
            e.emit_pair(b"creation date", date)?;
        }
        e.emit_pair_with(b"info", |e| info(torrent, e))?;
        if !torrent.web_seeds.is_empty() {
            e.emit_pair(b"url-list", &torrent.web_seeds)?;
        }
        Ok(())
    })
}

fn info(torrent: &NewTorrent, e: SingleItemEncoder<'_>) -> Result<(), Error> {
    e.emit_dict(|mut e| {
        match &torrent.content {
            NewContent::Folder(files) => e.emit_pair_with(b"files", |e| {
                e.emit_list(|e| files.iter().try_for_each(|file| e.emit_with(|e| folder_file(file, e))))
            })?,
            NewContent::File(length) => e.emit_pair(b"length", *length)?,
        }
        e.emit_pair(b"name", &torrent.name)?;
        e.emit_pair(b"piece length", torrent.piece_length)?;
        e.emit_pair_with(b"pieces", |e| e.emit_bytes(&torrent.pieces))?;
        if torrent.private {
            e.emit_pair(b"private", 1)?;
        }
        Ok(())
    })
}

fn folder_file(file: &NewFile, e: SingleItemEncoder<'_>) -> Result<(), Error> {
    e.emit_dict(|mut e| {
        if file.pad {
            e.emit_pair(b"attr", "p")?;
        }
        e.emit_pair(b"length", file.length)?;
        e.emit_pair(b"path", &file.path)
    })
}

/// A piece length for so many bytes: a power of two from 16 KiB to 16 MiB that makes at most 2,000 pieces where it can.
/// Fewer pieces waste more when one is bad; more make the torrent file large.
pub fn good_piece_length(total: u64) -> u32 {
    let wanted = total.div_ceil(2000).clamp(16 << 10, 16 << 20);
    wanted.next_power_of_two() as u32
}
