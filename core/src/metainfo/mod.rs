//! Torrent files (BEP 3), from strangers: parsed with every size checked, names made safe, leniencies noted.
//!
//! [`Metainfo::parse`] reads a .torrent file, [`Metainfo::from_info`] an `info` dictionary that peers sent (BEP 9).
//! Here is what surrounds `info`; [`Info`] is in `info.rs`, BitTorrent v2 (BEP 52) in `v2.rs`, writing in [`mod@write`].

mod info;
mod v2;
pub mod write;

use std::{collections::BTreeSet, fmt};

use bytes::Bytes;

pub use info::{FileEntry, Info, MOST_PIECE_LENGTH, Pieces};

use crate::{
    bencode::{BencodeError, Dict, Limits, Oddity, Value, scan},
    digest,
    ids::{InfoHashV1, InfoHashV2, InfoHashes},
};

/// Trackers that are read, over all tiers.
pub const MOST_TRACKERS: usize = 500;
/// Web seeds that are read.
pub const MOST_WEB_SEEDS: usize = 200;
/// DHT nodes that are read.
pub const MOST_NODES: usize = 200;
/// Bytes of a URL or host name that is read.
const LONGEST_URL: usize = 4096;
/// Bytes of a comment that are kept.
const LONGEST_COMMENT: usize = 64 * 1024;

/// A torrent file.
#[derive(Debug, Clone)]
pub struct Metainfo {
    /// SHA-1 and/or SHA-256 of [`Metainfo::info_bytes`].
    pub info_hashes: InfoHashes,
    /// What is in the torrent.
    pub info: Info,
    /// The `info` dictionary, byte for byte.
    pub info_bytes: Bytes,
    /// Trackers by tier (BEP 12): `announce-list`, or `announce` if that is missing or empty. No tier is empty.
    pub trackers: Vec<Vec<String>>,
    /// Web seeds (`url-list`, BEP 19).
    pub web_seeds: Vec<String>,
    /// DHT nodes (BEP 5): host and port.
    pub nodes: Vec<(String, u16)>,
    /// Free text.
    pub comment: Option<String>,
    /// The program that made the file.
    pub created_by: Option<String>,
    /// When it was made, in seconds since 1970.
    pub creation_date: Option<i64>,
    /// What was forgiven or changed, for users.
    pub notes: Vec<Note>,
}

impl Metainfo {
    /// Reads a .torrent file of up to 64 MiB.
    pub fn parse(file: &[u8]) -> Result<Self, MetainfoError> {
        let scanned = scan(file, Limits::TORRENT)?;
        let dict = scanned.root.as_dict().ok_or(MetainfoError::NotADictionary)?;
        let info = dict.get("info").ok_or_else(|| missing("info"))?;
        let mut metainfo = Self::read(Bytes::copy_from_slice(info.raw()), Some(dict))?;
        metainfo.notes.splice(0..0, scanned.oddities.into_iter().map(Note::Oddity));
        metainfo.read_trackers(dict);
        metainfo.web_seeds = match dict.get("url-list") {
            Some(value) => strings(value).filter_map(url).take(MOST_WEB_SEEDS).collect(),
            None => Vec::new(),
        };
        metainfo.nodes = dict.list("nodes").into_iter().flatten().filter_map(node).take(MOST_NODES).collect();
        metainfo.comment = free_text(dict, "comment.utf-8").or_else(|| free_text(dict, "comment"));
        metainfo.created_by = free_text(dict, "created by.utf-8").or_else(|| free_text(dict, "created by"));
        metainfo.creation_date = dict.int("creation date");
        Ok(metainfo)
    }

    /// Reads an `info` dictionary as peers send it (BEP 9). The caller compares [`Metainfo::info_hashes`] with what it
    /// asked for.
    pub fn from_info(info_bytes: Bytes) -> Result<Self, MetainfoError> {
        Self::read(info_bytes, None)
    }

    fn read(info_bytes: Bytes, around: Option<Dict<'_>>) -> Result<Self, MetainfoError> {
        let mut notes = Vec::new();
        let scanned = scan(&info_bytes, Limits::TORRENT)?;
        if scanned.root.raw().len() != info_bytes.len() {
            return Err(invalid("info", "has unknown bytes after its end"));
        }
        let dict = scanned.root.as_dict().ok_or_else(|| invalid("info", "is not a dictionary"))?;
        let v1 = InfoHashV1(digest::sha1(&info_bytes).0);
        let v2 = InfoHashV2(digest::sha256(&info_bytes));
        let info = info::read(dict, &info_bytes, &v1.to_hex(), &mut notes)?;
        // They may be missing as a whole: peers have them too.
        match around.filter(|_| info.is_v2()).map(|around| around.dict("piece layers")) {
            Some(Some(layers)) => v2::check_layers(&info, layers)?,
            Some(None) => notes.push(Note::LayersMissing),
            None => {}
        }
        let info_hashes = InfoHashes { v1: info.pieces.is_some().then_some(v1), v2: info.is_v2().then_some(v2) };
        Ok(Self {
            info_hashes,
            info,
            info_bytes,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            nodes: Vec::new(),
            comment: None,
            created_by: None,
            creation_date: None,
            notes,
        })
    }

    fn read_trackers(&mut self, dict: Dict<'_>) {
        let mut known = BTreeSet::new();
        // A tier should be a list; some files have the URL itself in its place.
        for tier in dict.list("announce-list").into_iter().flatten() {
            let mut urls = Vec::new();
            for url in strings(tier).filter_map(url) {
                if known.contains(&url) {
                    continue;
                }
                if known.len() == MOST_TRACKERS {
                    self.trackers.extend((!urls.is_empty()).then_some(urls));
                    self.notes.push(Note::TooManyTrackers);
                    return;
                }
                known.insert(url.clone());
                urls.push(url);
            }
            self.trackers.extend((!urls.is_empty()).then_some(urls));
        }
        if self.trackers.is_empty() {
            self.trackers.extend(dict.get("announce").and_then(url).map(|url| vec![url]));
        }
    }
}

/// The strings of a list, or the one string that stands in its place.
fn strings(value: Value<'_>) -> impl Iterator<Item = Value<'_>> {
    let one = value.as_list().is_none().then_some(value);
    value.as_list().into_iter().flatten().chain(one)
}

fn url(value: Value<'_>) -> Option<String> {
    let url = value.as_str()?.trim();
    (!url.is_empty() && url.len() <= LONGEST_URL && !url.contains(char::is_control)).then(|| url.to_owned())
}

fn node(value: Value<'_>) -> Option<(String, u16)> {
    let mut pair = value.as_list()?;
    let host = url(pair.next()?)?;
    let port = u16::try_from(pair.next()?.as_int()?).ok()?;
    Some((host, port))
}

/// Text that is only shown; what is no UTF-8 in it is replaced.
fn free_text(dict: Dict<'_>, key: &str) -> Option<String> {
    let bytes = dict.bytes(key)?;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST_COMMENT)]);
    (!text.is_empty()).then(|| text.into_owned())
}

/// Something that was forgiven or changed; its text is for users.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// A departure from the standard's bencode.
    Oddity(Oddity),
    /// A name that is unsafe, too long or taken: on disk it is another.
    Renamed {
        /// As the torrent says it.
        from: String,
        /// As it is on disk.
        to: String,
    },
    /// A name that is not valid UTF-8; `\u{fffd}` stands for what cannot be read.
    NotUtf8(String),
    /// A symbolic link, which Castanet never makes.
    LinkSkipped(String),
    /// A v2 torrent without the hashes of its pieces (BEP 52).
    LayersMissing,
    /// More than [`MOST_TRACKERS`] trackers.
    TooManyTrackers,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oddity(oddity) => write!(f, "the file has {oddity}"),
            Self::Renamed { from, to } => write!(f, "`{}` is stored as `{to}`", from.escape_debug()),
            Self::NotUtf8(name) => write!(f, "`{}` is not valid UTF-8", name.escape_debug()),
            Self::LinkSkipped(name) => write!(f, "`{}` is a symbolic link and is left out", name.escape_debug()),
            Self::LayersMissing => f.write_str("the v2 hashes of the pieces are missing (`piece layers`)"),
            Self::TooManyTrackers => write!(f, "only the first {MOST_TRACKERS} trackers are used"),
        }
    }
}

/// Why a torrent file is refused. The text is for users.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetainfoError {
    /// It is not well-formed bencode.
    #[error("not a torrent file: {0}")]
    Bencode(#[from] BencodeError),
    /// It is bencode of something else.
    #[error("not a torrent file: it holds no dictionary")]
    NotADictionary,
    /// A field that must be there is not.
    #[error("not a usable torrent file: `{field}` is missing")]
    Missing {
        /// The field, such as `info` or `files[3].path`.
        field: String,
    },
    /// A field holds something it must not.
    #[error("not a usable torrent file: `{field}` {problem}")]
    Invalid {
        /// The field, such as `pieces` or `files[3].length`.
        field: String,
        /// What is wrong with it, as the rest of a sentence.
        problem: String,
    },
}

fn missing(field: impl Into<String>) -> MetainfoError {
    MetainfoError::Missing { field: field.into() }
}
fn invalid(field: impl Into<String>, problem: impl Into<String>) -> MetainfoError {
    MetainfoError::Invalid { field: field.into(), problem: problem.into() }
}

#[cfg(test)]
mod tests;
