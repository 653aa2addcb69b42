//! The `info` dictionary: what is in a torrent (BEP 3, BEP 27, BEP 47).

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::{MetainfoError, Note, invalid, missing, v2};
use crate::{
    bencode::{Dict, Value},
    digest::Sha1Digest,
    geometry::Geometry,
    ids::PieceIndex,
    paths::{self, Wish},
    seams::storage::{Allocation, Layout, LayoutFile},
};

/// The longest piece, in bytes. Twice what the most generous programs make; a piece is the unit that must arrive whole
/// before anything of it is known to be right.
pub const MOST_PIECE_LENGTH: u32 = 512 << 20;

/// What is in a torrent.
#[derive(Debug, Clone)]
pub struct Info {
    /// The torrent's name as it says it, for people to read.
    pub name: String,
    /// The name of the file or folder on disk.
    pub safe_name: String,
    /// Bytes of every piece but the last: at least 1, at most [`MOST_PIECE_LENGTH`].
    pub piece_length: u32,
    /// Bytes in all, pad files included: at least 1.
    pub length: u64,
    /// The files in the torrent's order, pad files included. Never empty.
    pub files: Vec<FileEntry>,
    /// Is it one file rather than a folder?
    pub single_file: bool,
    /// Are peers to be found by its trackers only (BEP 27)?
    pub private: bool,
    /// The SHA-1 digests of the pieces; `None` if this is a v2-only torrent.
    pub pieces: Option<Pieces>,
    /// 1, or 2 if there is a v2 half (BEP 52).
    pub meta_version: u8,
    geometry: Geometry,
}

/// One file of a torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Folders and name as the torrent says them, for people to read; under the torrent's folder if it is one.
    pub path: Vec<String>,
    /// Bytes.
    pub length: u64,
    /// Where the file begins in the torrent.
    pub offset: u64,
    /// A pad file (BEP 47): zeros that are never on disk.
    pub pad: bool,
    /// A symbolic link (BEP 47): it is not made, and has no bytes.
    pub link: bool,
    /// Root of its tree of SHA-256 hashes (BEP 52); `None` if it is empty or there is no v2 half.
    pub pieces_root: Option<[u8; 32]>,
    pub(super) renamed: Option<Vec<String>>,
}

impl FileEntry {
    /// Folders and name on disk. See [`Info::path_of`] for the whole path.
    pub fn safe_path(&self) -> &[String] {
        self.renamed.as_deref().unwrap_or(&self.path)
    }
    /// Is there such a file on disk once the download is done?
    pub fn on_disk(&self) -> bool {
        !self.pad && !self.link
    }
    /// Its bytes in the torrent.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.length
    }
}

/// The SHA-1 digests of a torrent's pieces; a view into [`super::Metainfo::info_bytes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pieces(Bytes);

impl Pieces {
    /// Number of pieces.
    pub fn count(&self) -> u32 {
        (self.0.len() / 20) as u32
    }
    /// The digest that a piece must have; `None` if there is no such piece.
    pub fn digest(&self, piece: PieceIndex) -> Option<Sha1Digest> {
        self.0.chunks_exact(20).nth(piece.index())?.try_into().ok().map(Sha1Digest)
    }
}

impl Info {
    /// How the bytes are cut into pieces.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }
    /// Has it a v2 half (BEP 52)?
    pub fn is_v2(&self) -> bool {
        self.meta_version == 2
    }
    /// Bytes of the files that people see: without pad files.
    pub fn content_length(&self) -> u64 {
        self.files.iter().filter(|file| !file.pad).map(|file| file.length).sum()
    }
    /// Where a file lies under the download folder: NAME, or NAME/FOLDER/FILE.
    pub fn path_of(&self, file: &FileEntry) -> PathBuf {
        let folder = (!self.single_file).then_some(&self.safe_name);
        folder.into_iter().chain(file.safe_path()).collect()
    }
    /// How the torrent lies on disk under `root`; its files are those of [`Info::files`], one for one.
    pub fn layout(&self, root: &Path, allocation: Allocation) -> Layout {
        let files = self.files.iter();
        let files = files.map(|f| LayoutFile { path: self.path_of(f), length: f.length, pad: !f.on_disk() });
        Layout { root: root.to_owned(), files: files.collect(), allocation }
    }
}

/// Reads an `info` dictionary. `raw` are its bytes; `hash` names the torrent if its own name is unusable.
pub(super) fn read(dict: Dict<'_>, raw: &Bytes, hash: &str, notes: &mut Vec<Note>) -> Result<Info, MetainfoError> {
    let is_v2 = match (dict.get("meta version").map(Value::as_int), dict.dict("file tree")) {
        (Some(Some(2)), Some(_)) => true,
        (Some(Some(2)), None) => return Err(missing("file tree")),
        (None | Some(Some(1)), None) => false,
        (None | Some(Some(1)), Some(_)) => return Err(missing("meta version")),
        (Some(_), _) => return Err(invalid("meta version", "is neither 1 nor 2: a kind of torrent from the future")),
    };
    let has_v1 = !is_v2 || ["files", "length"].iter().any(|key| dict.get(key).is_some());
    let piece_length = read_piece_length(dict, is_v2)?;
    let name = text(dict, "name.utf-8", "name").ok_or_else(|| missing("name"))?.note(notes);

    let (mut files, single_file) = match (has_v1, dict.list("files")) {
        (false, _) => v2::read_tree(dict, piece_length, notes)?,
        (true, Some(list)) => (read_files(list, piece_length, notes)?, false),
        (true, None) => (vec![read_single(dict, &name)?], true),
    };
    if has_v1 && is_v2 {
        v2::join_halves(&mut files, v2::read_tree(dict, piece_length, notes)?.0, piece_length)?;
    }
    let length = files.last().map_or(0, |file| file.offset + file.length);
    if length == 0 {
        return Err(invalid(
            if single_file { "length" } else { "files" },
            "is 0 bytes in all: there is nothing to share",
        ));
    }
    let geometry = Geometry::new(length, piece_length)
        .ok_or_else(|| invalid("piece length", "is too small for the files: there would be too many pieces"))?;
    let pieces = if has_v1 { Some(read_pieces(dict, raw, geometry)?) } else { None };

    let safe_name = make_safe(&mut files, single_file, &name, hash, notes);
    Ok(Info {
        name,
        safe_name,
        piece_length,
        length,
        files,
        single_file,
        private: dict.int("private").is_some_and(|flag| flag != 0),
        pieces,
        meta_version: if is_v2 { 2 } else { 1 },
        geometry,
    })
}

fn read_piece_length(dict: Dict<'_>, is_v2: bool) -> Result<u32, MetainfoError> {
    let value = dict.get("piece length").ok_or_else(|| missing("piece length"))?;
    let length = value.as_int().and_then(|length| u32::try_from(length).ok());
    match length.filter(|length| (1..=MOST_PIECE_LENGTH).contains(length)) {
        None => Err(invalid("piece length", format!("is not a number from 1 to {MOST_PIECE_LENGTH}"))),
        Some(length) if is_v2 && (!length.is_power_of_two() || length < 16 * 1024) => {
            Err(invalid("piece length", "is not a power of two from 16384 on, as a v2 torrent needs"))
        }
        Some(length) => Ok(length),
    }
}

fn read_pieces(dict: Dict<'_>, raw: &Bytes, geometry: Geometry) -> Result<Pieces, MetainfoError> {
    let pieces = dict.get("pieces").ok_or_else(|| missing("pieces"))?;
    let pieces = pieces.as_bytes().ok_or_else(|| invalid("pieces", "is not a string"))?;
    if pieces.len() as u64 != u64::from(geometry.pieces()) * 20 {
        let problem = format!("has {} bytes where {} pieces need 20 each", pieces.len(), geometry.pieces());
        return Err(invalid("pieces", problem));
    }
    Ok(Pieces(raw.slice_ref(pieces)))
}

fn read_single(dict: Dict<'_>, name: &str) -> Result<FileEntry, MetainfoError> {
    if dict.get("files").is_some() {
        return Err(invalid("files", "is not a list"));
    }
    let length = read_length(dict, || "length".into())?;
    Ok(FileEntry { path: vec![name.to_owned()], length, ..FileEntry::empty() })
}

fn read_files(
    list: crate::bencode::List<'_>,
    piece_length: u32,
    notes: &mut Vec<Note>,
) -> Result<Vec<FileEntry>, MetainfoError> {
    let mut files = Vec::new();
    let mut offset = 0_u64;
    for (index, value) in list.enumerate() {
        let field = |name: &str| format!("files[{index}]{name}");
        let dict = value.as_dict().ok_or_else(|| invalid(field(""), "is not a dictionary"))?;
        let attributes = dict.bytes("attr").unwrap_or_default();
        let link = attributes.contains(&b'l') && dict.list("symlink path").is_some();
        let length = if link { 0 } else { read_length(dict, || field(".length"))? };
        let mut path = read_path(dict, notes).ok_or_else(|| invalid(field(".path"), "is not a list of strings"))?;
        let marked = attributes.contains(&b'p');
        if path.is_empty() && marked {
            path = pad_path(length);
        }
        if path.is_empty() {
            return Err(missing(field(".path")));
        }
        let end = offset.checked_add(length).filter(|end| i64::try_from(*end).is_ok());
        let end = end.ok_or_else(|| invalid(field(".length"), "makes the torrent larger than any disk"))?;
        // Names alone are believed only of what fills a piece up, which is all that pad files are for.
        let pad = marked || (is_pad_name(&path, length) && end.is_multiple_of(u64::from(piece_length)));
        if link {
            notes.push(Note::LinkSkipped(path.join("/")));
        }
        files.push(FileEntry { path, length, offset, pad, link, ..FileEntry::empty() });
        offset = end;
    }
    if files.is_empty() { Err(invalid("files", "is empty")) } else { Ok(files) }
}

/// A length that is not negative and fits a file system. `field` names it.
pub(super) fn read_length(dict: Dict<'_>, field: impl Fn() -> String) -> Result<u64, MetainfoError> {
    let value = dict.get("length").ok_or_else(|| missing(field()))?;
    let length = value.as_int().ok_or_else(|| invalid(field(), "is not a number that fits 64 bits"))?;
    u64::try_from(length).map_err(|_| invalid(field(), "is negative"))
}

fn read_path(dict: Dict<'_>, notes: &mut Vec<Note>) -> Option<Vec<String>> {
    let Some(list) = dict.list("path.utf-8").or_else(|| dict.list("path")) else {
        return dict.get("path").is_none().then(Vec::new);
    };
    list.map(|name| Some(Text::of(name.as_bytes()?).note(notes))).collect()
}

/// What pad files are called.
pub(super) fn pad_path(length: u64) -> Vec<String> {
    vec![".pad".into(), length.to_string()]
}

/// Is this a pad file by its name: BitComet's, or that of old libtorrent versions without `attr`?
fn is_pad_name(path: &[String], length: u64) -> bool {
    let bit_comet = path.last().is_some_and(|name| name.starts_with("_____padding_file"));
    bit_comet || matches!(path, [folder, name] if folder == ".pad" && *name == length.to_string())
}

impl FileEntry {
    pub(super) fn empty() -> Self {
        Self { path: Vec::new(), length: 0, offset: 0, pad: false, link: false, pieces_root: None, renamed: None }
    }
}

/// Gives every file its path on disk; returns the torrent's name on disk.
fn make_safe(files: &mut [FileEntry], single_file: bool, name: &str, hash: &str, notes: &mut Vec<Note>) -> String {
    let safe_name = match paths::safe_name(name) {
        Some(safe) if !name.is_empty() => safe.into_owned(),
        _ => hash.to_owned(),
    };
    let renamed = paths::safe_paths(files.iter().map(|file| Wish { path: &file.path, on_disk: file.on_disk() }));
    for (file, renamed) in files.iter_mut().zip(renamed) {
        file.renamed = renamed;
    }
    if let ([file, ..], true) = (&mut *files, single_file) {
        // With nothing left of its name, a single file is called by the info-hash as a folder is.
        if paths::safe_name(&file.path[0]).is_none() || file.path[0].is_empty() {
            file.renamed = Some(vec![hash.to_owned()]);
        }
    } else if safe_name != name {
        notes.push(Note::Renamed { from: name.to_owned(), to: safe_name.clone() });
    }
    for file in files.iter().filter(|file| file.on_disk()) {
        if let Some(renamed) = &file.renamed {
            notes.push(Note::Renamed { from: file.path.join("/"), to: renamed.join("/") });
        }
    }
    safe_name
}

/// A name, and whether it was valid UTF-8.
pub(super) struct Text {
    text: String,
    valid: bool,
}

impl Text {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let valid = std::str::from_utf8(bytes).is_ok();
        Self { text: String::from_utf8_lossy(bytes).into_owned(), valid }
    }
    /// The text; a note is taken if it was not valid.
    pub(super) fn note(self, notes: &mut Vec<Note>) -> String {
        if !self.valid {
            notes.push(Note::NotUtf8(self.text.clone()));
        }
        self.text
    }
}

/// The string under the key that promises UTF-8, else under the other.
fn text(dict: Dict<'_>, utf8_key: &str, key: &str) -> Option<Text> {
    dict.bytes(utf8_key).or_else(|| dict.bytes(key)).map(Text::of)
}
