//! Flushing many files without waiting for the disk once for each.

use std::{collections::BTreeSet, fs::File, io};

/// From this many files on, whole file systems are flushed. One wait of some milliseconds a file would make a torrent of
/// 20,000 files take minutes; for a few files, the data of other programs is left alone.
const MANY: usize = 32;

/// One round of flushing.
#[derive(Debug)]
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), allow(dead_code))]
pub(super) struct Flusher {
    are_many: bool,
    /// File systems that were flushed in this round, by device.
    flushed: BTreeSet<u64>,
}

impl Flusher {
    /// A round for so many files, all of them written already.
    pub(super) fn new(files: usize) -> Self {
        Self { are_many: files >= MANY, flushed: BTreeSet::new() }
    }

    /// Returns once what was written to the file before this round survives a power cut.
    pub(super) fn flush(&mut self, file: &File) -> io::Result<()> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if self.are_many {
            let device = std::os::unix::fs::MetadataExt::dev(&file.metadata()?);
            if !self.flushed.contains(&device) {
                rustix::fs::syncfs(file)?;
                self.flushed.insert(device);
            }
            return Ok(());
        }
        file.sync_data()
    }
}
