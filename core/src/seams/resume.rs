//! The resume seam: what is remembered of a torrent between two runs, and what of it may still be believed.
//!
//! A record claims only pieces that were verified *and* flushed. It is believed piece by piece: [`vouched`] drops every
//! piece that touches a file which has changed since. What is not vouched for is read and hashed again, not fetched
//! again, so a crash at any moment costs time and never correctness.

use std::{fmt, io, path::PathBuf};

use bytes::Bytes;

use super::storage::{FileStamp, Layout, plain};
use crate::{bitfield::Bitfield, geometry::Geometry, ids::InfoHashes};

/// Whose record it is: one torrent in one folder. The same torrent in two folders has two records.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResumeKey {
    /// The torrent.
    pub info_hashes: InfoHashes,
    /// The folder it is downloaded into ([`Layout::root`]).
    pub root: PathBuf,
}

/// What is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumeRecord {
    /// Pieces that were verified and flushed before [`ResumeRecord::stamps`] were taken.
    pub pieces: Bitfield,
    /// What there was of each file, in the layout's order.
    pub stamps: Vec<FileStamp>,
    /// Bytes sent to peers, over all runs.
    pub uploaded: u64,
    /// Bytes of blocks received from peers, those wasted among them, over all runs.
    pub downloaded: u64,
    /// The raw `info` dictionary, where it came from peers (BEP 9).
    pub info: Option<Bytes>,
}

/// Keeps records. Blocking on purpose, as [`super::storage::Storage`] is.
pub trait ResumeStore: fmt::Debug + Send + Sync + 'static {
    /// The record, or `None` if there is none that can be believed: a damaged one counts as none.
    fn load(&self, key: &ResumeKey) -> Result<Option<ResumeRecord>, ResumeError>;
    /// Replaces the record: after a crash at any moment there is the old one or the new one.
    fn save(&self, key: &ResumeKey, record: &ResumeRecord) -> Result<(), ResumeError>;
    /// Forgets the record; nothing happens if there is none.
    fn remove(&self, key: &ResumeKey) -> Result<(), ResumeError>;
    /// Claims the torrent in this folder until the lock is dropped or the process ends, however it ends.
    fn lock(&self, key: &ResumeKey) -> Result<Box<dyn ResumeLock>, ResumeError>;
}

/// A claim on one torrent in one folder; dropping it gives the claim up.
pub trait ResumeLock: fmt::Debug + Send + Sync + 'static {}

/// Why a resume store could not do it. The text is for users.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeError {
    /// Another program, or another torrent of this one, has the same torrent open in the same folder.
    #[error("this torrent is already open in {}: another instance is downloading or seeding it there", root.display())]
    Locked {
        /// The folder.
        root: PathBuf,
    },
    /// The record would be larger than a store accepts.
    #[error("the resume record has {length} bytes, more than the {most} that are kept")]
    TooLarge {
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        most: usize,
    },
    /// The file system refused.
    #[error("{action} {}: {}", path.display(), plain(source))]
    Io {
        /// What was tried: "cannot write", ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// The pieces of `record` that may be believed, given what there is of each file `now`.
///
/// A piece is vouched for if every file it touches has the length, time of change and identity that were recorded. Pad
/// files (BEP 47) are not on disk and change nothing. A record of another shape vouches for nothing. Linear in pieces
/// plus files.
pub fn vouched(record: &ResumeRecord, now: &[FileStamp], layout: &Layout, geometry: &Geometry) -> Bitfield {
    let none = Bitfield::new(geometry.pieces());
    let files = layout.files.len();
    if record.pieces.len() != geometry.pieces() || record.stamps.len() != files || now.len() != files {
        return none;
    }
    let mut vouched = record.pieces.clone();
    let mut start = 0u64;
    // Neighbouring small files share pieces: each piece is cleared once, however many files it touches.
    let mut cleared = 0;
    for ((file, was), is) in layout.files.iter().zip(&record.stamps).zip(now) {
        let Some(end) = start.checked_add(file.length) else { return none };
        let unchanged = file.pad || (was == is && is.length.is_some() && is.modified != 0);
        if !unchanged {
            let touched = geometry.pieces_of(start..end);
            for piece in touched.start.max(cleared)..touched.end {
                vouched.clear(crate::ids::PieceIndex(piece));
            }
            cleared = cleared.max(touched.end);
        }
        start = end;
    }
    if start == geometry.length() { vouched } else { none }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::PieceIndex,
        seams::storage::{Allocation, LayoutFile},
    };

    fn layout(lengths: &[(u64, bool)]) -> Layout {
        let file =
            |(at, &(length, pad)): (usize, &(u64, bool))| LayoutFile { path: format!("{at}").into(), length, pad };
        Layout {
            root: "/r".into(),
            files: lengths.iter().enumerate().map(file).collect(),
            allocation: Allocation::Sparse,
        }
    }
    fn stamp(length: u64) -> FileStamp {
        FileStamp { length: Some(length), modified: 1_000, inode: 7 }
    }
    fn record(pieces: u32, stamps: &[FileStamp]) -> ResumeRecord {
        let (uploaded, downloaded) = (1, 2);
        ResumeRecord { pieces: Bitfield::full(pieces), stamps: stamps.to_vec(), uploaded, downloaded, info: None }
    }
    fn indices(bitfield: &Bitfield) -> Vec<u32> {
        bitfield.iter().map(|PieceIndex(index)| index).collect()
    }

    #[test]
    fn a_changed_file_takes_the_pieces_it_touches_with_it() {
        // Pieces of 10: the files cover 0..15, 15..15, 15..18, pad 18..20, 20..45.
        let layout = layout(&[(15, false), (0, false), (3, false), (2, true), (25, false)]);
        let geometry = Geometry::new(45, 10).unwrap();
        let was = [stamp(15), stamp(0), stamp(3), FileStamp::default(), stamp(25)];
        let record = record(5, &was);
        assert_eq!(indices(&vouched(&record, &was, &layout, &geometry)), [0, 1, 2, 3, 4]);
        let changed = |at: usize, stamp: FileStamp| {
            let mut now = was;
            now[at] = stamp;
            indices(&vouched(&record, &now, &layout, &geometry))
        };
        assert_eq!(changed(0, FileStamp { modified: 1_001, ..was[0] }), [2, 3, 4]);
        assert_eq!(changed(1, FileStamp::default()), [0, 1, 2, 3, 4], "an empty file touches no piece");
        assert_eq!(changed(2, FileStamp { inode: 8, ..was[2] }), [0, 2, 3, 4]);
        assert_eq!(changed(3, stamp(2)), [0, 1, 2, 3, 4], "pad files do not count");
        assert_eq!(changed(4, FileStamp { length: Some(24), ..was[4] }), [0, 1]);
        assert_eq!(changed(4, FileStamp::default()), [0, 1]);
    }

    #[test]
    fn what_cannot_be_compared_is_not_believed() {
        let layout = layout(&[(15, false)]);
        let geometry = Geometry::new(15, 10).unwrap();
        let absent = [FileStamp::default()];
        assert!(vouched(&record(2, &absent), &absent, &layout, &geometry).is_none(), "a file that was never there");
        let timeless = [FileStamp { modified: 0, ..stamp(15) }];
        assert!(vouched(&record(2, &timeless), &timeless, &layout, &geometry).is_none());
        let good = [stamp(15)];
        assert!(vouched(&record(2, &good), &[], &layout, &geometry).is_none());
        assert!(vouched(&record(2, &[]), &good, &layout, &geometry).is_none());
        assert!(vouched(&record(3, &good), &good, &layout, &geometry).is_none());
        assert!(vouched(&record(2, &good), &good, &layout, &Geometry::new(14, 10).unwrap()).is_none());
        assert!(vouched(&record(2, &good), &good, &layout, &geometry).is_full());
    }
}
