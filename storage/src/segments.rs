//! Which bytes of which file a range of the torrent covers: the one place where a torrent is cut into files.

use std::{io, path::Component, sync::Arc};

use castanet_core::seams::storage::{Layout, LayoutFile, StorageError};

/// A layout that was checked, with the offset of every file in the torrent.
#[derive(Debug)]
pub(crate) struct Segments {
    files: Arc<[LayoutFile]>,
    /// Offset of each file's first byte, and the torrent's length at the end.
    starts: Vec<u64>,
}

/// The part of a range that lies in one file; never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Index of the file in the layout.
    pub(crate) file: usize,
    /// Offset of the first byte within the file.
    pub(crate) at: u64,
    /// Length in bytes.
    pub(crate) length: usize,
}

impl Segments {
    /// Refuses paths that are not plainly below the root, and lengths that overflow.
    pub(crate) fn new(layout: &Layout) -> Result<Self, StorageError> {
        let mut starts = Vec::with_capacity(layout.files.len() + 1);
        let mut end = 0u64;
        starts.push(0);
        for file in &*layout.files {
            let path = || layout.root.join(&file.path);
            let is_plain = file.path.components().all(|part| matches!(part, Component::Normal(_)));
            if !is_plain || file.path.as_os_str().is_empty() {
                return Err(StorageError::Unsafe { path: path(), reason: "its name is not a plain one" });
            }
            end = end.checked_add(file.length).ok_or_else(|| StorageError::Io {
                action: "cannot open",
                path: path(),
                source: io::Error::new(io::ErrorKind::FileTooLarge, "the torrent is longer than any disk"),
            })?;
            starts.push(end);
        }
        Ok(Self { files: layout.files.clone(), starts })
    }

    /// The files in the torrent's order.
    pub(crate) fn files(&self) -> &[LayoutFile] {
        &self.files
    }

    /// Cuts `length` bytes at `offset` at the borders of files.
    pub(crate) fn cut(&self, offset: u64, length: usize) -> Result<impl Iterator<Item = Segment> + '_, StorageError> {
        let whole = self.starts.last().copied().unwrap_or(0);
        let end = offset.checked_add(length as u64).filter(|end| *end <= whole);
        let end = end.ok_or(StorageError::OutOfRange { offset, length })?;
        // The last file that starts at or before `offset`; empty files before it are passed over.
        let first = self.starts.partition_point(|start| *start <= offset).saturating_sub(1);
        let mut next = offset;
        Ok((first..self.files.len())
            .map_while(move |file| {
                if next >= end {
                    return None;
                }
                let length = (self.starts[file + 1].min(end) - next) as usize;
                let segment = Segment { file, at: next - self.starts[file], length };
                next += length as u64;
                Some(segment)
            })
            .filter(|segment| segment.length > 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use castanet_core::seams::storage::Allocation;

    fn layout(files: &[(&str, u64)]) -> Layout {
        let file = |&(path, length): &(&str, u64)| LayoutFile { path: path.into(), length, pad: false };
        Layout { root: "/r".into(), files: files.iter().map(file).collect(), allocation: Allocation::Sparse }
    }

    #[test]
    fn ranges_are_cut_at_the_borders_of_files() {
        let segments = Segments::new(&layout(&[("e", 0), ("a", 3), ("f", 0), ("b/c", 4), ("g", 0)])).unwrap();
        let cut = |offset, length| {
            segments.cut(offset, length).unwrap().map(|s| (s.file, s.at, s.length)).collect::<Vec<_>>()
        };
        assert_eq!(cut(0, 7), [(1, 0, 3), (3, 0, 4)]);
        assert_eq!(cut(2, 2), [(1, 2, 1), (3, 0, 1)]);
        assert_eq!(cut(3, 1), [(3, 0, 1)]);
        assert_eq!(cut(7, 0), []);
        for (offset, length) in [(7, 1), (0, 8), (u64::MAX, 1), (u64::MAX, 0)] {
            assert!(segments.cut(offset, length).is_err(), "{length} at {offset}");
        }
    }

    #[test]
    fn names_that_leave_the_root_are_refused() {
        for bad in ["", "..", "a/../b", "/etc/passwd", "./a/.."] {
            let error = Segments::new(&layout(&[(bad, 1)])).unwrap_err();
            assert!(matches!(error, StorageError::Unsafe { .. }), "{bad}: {error}");
        }
        assert!(Segments::new(&layout(&[("a", u64::MAX), ("b", 1)])).is_err());
    }
}
