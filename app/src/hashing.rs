//! SHA-1 of the pieces of files that lie on disk one after the other, on all cores.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::{Context as _, Result, ensure};
use castanet::{Geometry, PieceIndex, seams::hasher::RunningSha1};

use crate::output::human::escaped;

/// Bytes that are read at once.
const UNIT: usize = 256 << 10;

/// One file.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its bytes when it was found.
    pub(crate) length: u64,
}

/// The digests of all pieces, 20 bytes each, computed by `threads` threads. `progress` is called again and again on this
/// thread with the bytes done; when it returns `false` the work stops with `None`.
///
/// # Errors
/// If a file cannot be read, or is shorter than it was.
pub(crate) fn hash(
    parts: &[Part],
    geometry: Geometry,
    threads: usize,
    mut progress: impl FnMut(u64) -> bool,
) -> Result<Option<Vec<u8>>> {
    let starts: Vec<u64> = parts
        .iter()
        .scan(0, |end, part| {
            *end += part.length;
            Some(*end - part.length)
        })
        .collect();
    let (next, done, stop) = (AtomicU32::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let digests = Mutex::new(vec![0; geometry.pieces() as usize * 20]);
    let work = || -> Result<()> {
        let mut reader = Reader { parts, starts: &starts, open: None };
        let mut buffer = vec![0; UNIT];
        while !stop.load(Relaxed) {
            let piece = PieceIndex(next.fetch_add(1, Relaxed));
            if !geometry.contains(piece) {
                break;
            }
            let mut sha1 = RunningSha1::default();
            let range = geometry.range_of(piece);
            let mut at = range.start;
            while at < range.end && !stop.load(Relaxed) {
                let length = usize::try_from(range.end - at).unwrap_or(UNIT).min(UNIT);
                let read = reader.read(at, &mut buffer[..length])?;
                sha1.update(&buffer[..read]);
                at += read as u64;
                done.fetch_add(read as u64, Relaxed);
            }
            let at = piece.index() * 20;
            if let Ok(mut digests) = digests.lock() {
                digests[at..at + 20].copy_from_slice(&sha1.finish().0);
            }
        }
        Ok(())
    };
    let mut finished = true;
    let outcome = std::thread::scope(|scope| {
        let stopping = || work().inspect_err(|_| stop.store(true, Relaxed));
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(stopping)).collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            if !progress(done.load(Relaxed)) {
                stop.store(true, Relaxed);
                finished = false;
            }
        }
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| anyhow::bail!("hashing failed")))
    });
    outcome?;
    Ok(digests.into_inner().ok().filter(|_| finished))
}

/// Reads the files as one run of bytes, one of them open at a time.
struct Reader<'a> {
    parts: &'a [Part],
    starts: &'a [u64],
    open: Option<(usize, File, u64)>,
}

impl Reader<'_> {
    /// Fills `buffer` from `at` on, at least one byte of it, at most to the end of a file.
    fn read(&mut self, at: u64, buffer: &mut [u8]) -> Result<usize> {
        // Several files may begin at one place: all but the last of them are empty.
        let index = self.starts.partition_point(|start| *start <= at) - 1;
        let (part, offset) = (&self.parts[index], at - self.starts[index]);
        let cannot = || format!("cannot read {}", shown(&part.path));
        let (mut file, position) = match self.open.take() {
            Some((open, file, position)) if open == index => (file, position),
            _ => (File::open(&part.path).with_context(cannot)?, 0),
        };
        if position != offset {
            file.seek(SeekFrom::Start(offset)).with_context(cannot)?;
        }
        let length = usize::try_from(part.length - offset).unwrap_or(usize::MAX).min(buffer.len());
        let read = file.read(&mut buffer[..length]).with_context(cannot)?;
        ensure!(read > 0, "{} became shorter while it was read: let it rest and try again", shown(&part.path));
        self.open = Some((index, file, offset + read as u64));
        Ok(read)
    }
}

fn shown(path: &Path) -> String {
    escaped(&path.to_string_lossy()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path, contents: &[&[u8]]) -> Vec<Part> {
        let write = |(n, content): (usize, &&[u8])| {
            let path = folder.join(n.to_string());
            std::fs::write(&path, content).unwrap();
            Part { path, length: content.len() as u64 }
        };
        contents.iter().enumerate().map(write).collect()
    }

    #[test]
    fn pieces_span_files_and_pass_over_empty_ones() {
        let folder = tempfile::tempdir().unwrap();
        let mut random = fastrand::Rng::with_seed(3);
        let long: Vec<u8> = (0..700_000).map(|_| random.u8(..)).collect();
        let contents: [&[u8]; 6] = [b"", b"abc", b"", b"", &long, b"z"];
        let parts = files(folder.path(), &contents);
        let whole = contents.concat();
        for (piece_length, threads) in [(2, 3), (300_000, 2), (1 << 20, 1)] {
            let whole = if piece_length == 2 { &whole[..3] } else { &whole[..] };
            let parts = if piece_length == 2 { &parts[..4] } else { &parts[..] };
            let geometry = Geometry::new(whole.len() as u64, piece_length).unwrap();
            let digests = hash(parts, geometry, threads, |_| true).unwrap().unwrap();
            let expected: Vec<u8> = whole
                .chunks(piece_length as usize)
                .flat_map(|piece| {
                    let mut sha1 = RunningSha1::default();
                    sha1.update(piece);
                    sha1.finish().0
                })
                .collect();
            assert_eq!(digests, expected, "pieces of {piece_length}");
        }
    }

    #[test]
    fn what_shrinks_or_vanishes_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut parts = files(folder.path(), &[b"abc"]);
        parts[0].length = 4;
        let geometry = Geometry::new(4, 4).unwrap();
        let error = hash(&parts, geometry, 2, |_| true).unwrap_err();
        assert!(format!("{error:#}").contains("became shorter"), "{error:#}");
        std::fs::remove_file(&parts[0].path).unwrap();
        let error = hash(&parts, geometry, 2, |_| true).unwrap_err();
        assert!(format!("{error:#}").contains("cannot read"), "{error:#}");
    }

    #[test]
    fn stops_when_told() {
        let folder = tempfile::tempdir().unwrap();
        let parts = files(folder.path(), &[&[7; 1000]]);
        let geometry = Geometry::new(1000, 10).unwrap();
        // The workers may be through before the first question; then the answer comes too late, which is fine.
        let asked = std::cell::Cell::new(false);
        let stopped = hash(&parts, geometry, 1, |_| {
            asked.set(true);
            false
        });
        assert_eq!(stopped.unwrap().is_none(), asked.get());
    }
}
