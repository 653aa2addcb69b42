//! BitTorrent v2 (BEP 52): the file tree, its agreement with a v1 half, and the piece layers.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::{
    FileEntry, Info, MetainfoError, Note,
    info::{Text, pad_path, read_length},
    invalid, missing,
};
use crate::{bencode::Dict, geometry::BLOCK_LENGTH};

/// Bytes that all paths together may take: folder names are written once in the tree but held once a file.
const MOST_PATH_BYTES: usize = 128 << 20;

/// The files of the `file tree`, and whether there is only one. Every file begins at a piece's start: each is followed by
/// the pad file that a hybrid torrent would have there.
pub(super) fn read_tree(
    info: Dict<'_>,
    piece_length: u32,
    notes: &mut Vec<Note>,
) -> Result<(Vec<FileEntry>, bool), MetainfoError> {
    let tree = info.dict("file tree").ok_or_else(|| missing("file tree"))?;
    let mut walk = Walk { files: Vec::new(), path: Vec::new(), path_bytes: 0, piece_length, notes };
    walk.folder(tree)?;
    if walk.files.is_empty() {
        return Err(invalid("file tree", "is empty"));
    }
    let mut real = walk.files.iter().filter(|file| !file.pad);
    let single = real.next().is_some_and(|file| file.path.len() == 1) && real.next().is_none();
    Ok((walk.files, single))
}

struct Walk<'n> {
    files: Vec<FileEntry>,
    /// The folders that are open. Bencode's depth limit bounds them.
    path: Vec<String>,
    path_bytes: usize,
    piece_length: u32,
    notes: &'n mut Vec<Note>,
}

impl Walk<'_> {
    fn folder(&mut self, folder: Dict<'_>) -> Result<(), MetainfoError> {
        for (name, value) in folder {
            if name.is_empty() {
                return Err(invalid("file tree", "has a file where a folder should be"));
            }
            self.path.push(Text::of(name).note(self.notes));
            let entry = value.as_dict().ok_or_else(|| invalid(self.field(""), "is not a dictionary"))?;
            match entry.get("") {
                Some(_) if entry.count() > 1 => return Err(invalid(self.field(""), "is both a file and a folder")),
                Some(file) => {
                    self.file(file.as_dict().ok_or_else(|| invalid(self.field(""), "is not a dictionary"))?)?;
                }
                None => self.folder(entry)?,
            }
            self.path.pop();
        }
        Ok(())
    }

    fn file(&mut self, dict: Dict<'_>) -> Result<(), MetainfoError> {
        let attributes = dict.bytes("attr").unwrap_or_default();
        if attributes.contains(&b'p') {
            return Err(invalid(self.field("attr"), "says pad file, which a v2 torrent does not have"));
        }
        let link = attributes.contains(&b'l') && dict.list("symlink path").is_some();
        let length = if link { 0 } else { read_length(dict, || self.field("length"))? };
        let pieces_root = match dict.bytes("pieces root") {
            _ if length == 0 => None,
            None => return Err(missing(self.field("pieces root"))),
            Some(root) => match root.try_into() {
                Ok(root) => Some(root),
                Err(_) => return Err(invalid(self.field("pieces root"), "is not 32 bytes")),
            },
        };
        self.path_bytes += self.path.iter().map(|name| name.len() + size_of::<String>()).sum::<usize>();
        if self.path_bytes > MOST_PATH_BYTES {
            return Err(invalid("file tree", "has too many and too long paths"));
        }
        if link {
            self.notes.push(Note::LinkSkipped(self.path.join("/")));
        }
        let offset = self.files.last().map_or(0, |file| file.offset + file.length);
        self.files.push(FileEntry { path: self.path.clone(), length, offset, link, pieces_root, ..FileEntry::empty() });
        let filled = offset.checked_add(length).and_then(|end| end.checked_next_multiple_of(self.piece_length.into()));
        let Some(filled) = filled.filter(|end| i64::try_from(*end).is_ok()) else {
            return Err(invalid(self.field("length"), "makes the torrent larger than any disk"));
        };
        let (offset, length) = (offset + length, filled - offset - length);
        if length > 0 {
            self.files.push(FileEntry { path: pad_path(length), length, offset, pad: true, ..FileEntry::empty() });
        }
        Ok(())
    }

    fn field(&self, last: &str) -> String {
        let path = self.path.join("/");
        if last.is_empty() { format!("file tree: {path}") } else { format!("file tree: {path}: {last}") }
    }
}

/// Checks that a hybrid's two halves describe the same files at the same places, and tells the first its roots.
pub(super) fn join_halves(v1: &mut [FileEntry], v2: Vec<FileEntry>, piece_length: u32) -> Result<(), MetainfoError> {
    let mut others = v2.into_iter().filter(|file| !file.pad);
    for file in v1.iter_mut().filter(|file| !file.pad) {
        match others.next() {
            Some(other) if other.path == file.path && other.length == file.length => {
                file.pieces_root = other.pieces_root
            }
            _ => return Err(invalid("file tree", "names other files than the v1 half of this hybrid torrent")),
        }
        if file.length > 0 && !file.offset.is_multiple_of(u64::from(piece_length)) {
            return Err(invalid("files", "are not padded to whole pieces, as a hybrid torrent needs"));
        }
    }
    match others.next() {
        Some(_) => Err(invalid("file tree", "names more files than the v1 half of this hybrid torrent")),
        None => Ok(()),
    }
}

/// Checks that every file of more than one piece has a layer of hashes that leads to its root.
pub(super) fn check_layers(info: &Info, layers: Dict<'_>) -> Result<(), MetainfoError> {
    let layers: BTreeMap<&[u8], &[u8]> = layers.filter_map(|(root, layer)| Some((root, layer.as_bytes()?))).collect();
    for file in info.files.iter().filter(|file| file.length > u64::from(info.piece_length)) {
        let Some(root) = file.pieces_root else { continue };
        let layer = layers.get(&root[..]).copied().unwrap_or_default();
        let pieces = file.length.div_ceil(u64::from(info.piece_length));
        if layer.len() as u64 != pieces * 32 || root_of(layer, info.piece_length) != root {
            return Err(invalid("piece layers", format!("does not fit `{}`", file.path.join("/"))));
        }
    }
    Ok(())
}

/// The root of the tree above a layer of piece hashes; where the tree has more leaves than the file has blocks, they
/// are zeros.
fn root_of(layer: &[u8], piece_length: u32) -> [u8; 32] {
    let join = |a: &[u8], b: &[u8]| -> [u8; 32] { Sha256::new().chain_update(a).chain_update(b).finalize().into() };
    let mut beyond = [0; 32];
    for _ in 0..(piece_length / BLOCK_LENGTH).trailing_zeros() {
        beyond = join(&beyond, &beyond);
    }
    let mut layer: Vec<[u8; 32]> = layer.chunks_exact(32).filter_map(|hash| hash.try_into().ok()).collect();
    while layer.len() > 1 {
        layer = layer.chunks(2).map(|pair| join(&pair[0], pair.get(1).unwrap_or(&beyond))).collect();
        beyond = join(&beyond, &beyond);
    }
    layer.first().copied().unwrap_or(beyond)
}
