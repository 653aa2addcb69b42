//! Positioned reads, vectored writes and reservations on one open file, on every system.

use std::{
    fs::File,
    io::{self, IoSlice},
};

/// Slices handed to the kernel at once: IOV_MAX of Linux, macOS and the BSDs.
const MOST_SLICES: usize = 1024;

/// Slices to be written, cut anew at the borders of files without copying a byte.
pub(super) struct Source<'a> {
    slices: &'a [IoSlice<'a>],
    /// Bytes of the first slice that are used up.
    used: usize,
}

impl<'a> Source<'a> {
    pub(super) fn new(slices: &'a [IoSlice<'a>]) -> Self {
        Self { slices, used: 0 }
    }

    /// Replaces `into` with the next `length` bytes; the caller sees to it that there are as many.
    pub(super) fn gather(&mut self, mut length: usize, into: &mut Vec<IoSlice<'a>>) {
        into.clear();
        while let (Some(first), true) = (self.slices.first(), length > 0) {
            let rest = &first[self.used..];
            let part = &rest[..rest.len().min(length)];
            if !part.is_empty() {
                into.push(IoSlice::new(part));
            }
            length -= part.len();
            if part.len() == rest.len() {
                (self.slices, self.used) = (&self.slices[1..], 0);
            } else {
                self.used += part.len();
            }
        }
    }
}

/// Writes all of `slices` at `offset`, as few calls as possible.
pub(super) fn write_all_at(file: &File, slices: &mut Vec<IoSlice<'_>>, mut offset: u64) -> io::Result<()> {
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        match write_some_at(file, &rest[..rest.len().min(MOST_SLICES)], offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                IoSlice::advance_slices(&mut rest, written);
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(unix)]
fn write_some_at(file: &File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
    Ok(rustix::io::pwritev(file, slices, offset)?)
}

#[cfg(windows)]
fn write_some_at(file: &File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_write(file, &slices[0], offset)
}

#[cfg(unix)]
pub(super) fn read_exact_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, offset)
}

#[cfg(windows)]
pub(super) fn read_exact_at(file: &File, mut into: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !into.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, into, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                into = &mut into[read..];
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Is every byte of the file on disk already? Asked first, since reserving again would change the file's time.
pub(super) fn is_reserved(file: &File, length: u64) -> bool {
    #[cfg(unix)]
    let held = |metadata: &std::fs::Metadata| std::os::unix::fs::MetadataExt::blocks(metadata).saturating_mul(512);
    #[cfg(not(unix))]
    let held = std::fs::Metadata::len;
    file.metadata().is_ok_and(|metadata| metadata.len() >= length && held(&metadata) >= length)
}

/// Reserves the file's first `length` bytes on disk; where the system cannot, only the length is set.
pub(super) fn reserve(file: &File, length: u64) -> io::Result<()> {
    let before = file.metadata()?.len();
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd", target_vendor = "apple"))]
    {
        use rustix::{
            fs::{FallocateFlags, fallocate},
            io::Errno,
        };
        match fallocate(file, FallocateFlags::empty(), 0, length) {
            Ok(()) => return Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            Err(errno) => {
                // What was reserved before the disk was full helps nobody.
                file.set_len(before).ok();
                return Err(errno.into());
            }
        }
    }
    if before < length { file.set_len(length) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_slices_than_the_kernel_takes_at_once() {
        let file = tempfile::tempfile().unwrap();
        let data: Vec<u8> = (0..3 * MOST_SLICES).map(|n| n as u8 ^ (n >> 8) as u8).collect();
        let mut slices: Vec<_> = data.chunks(1).map(IoSlice::new).collect();
        write_all_at(&file, &mut slices, 5).unwrap();
        let mut back = vec![0; data.len()];
        read_exact_at(&file, &mut back, 5).unwrap();
        assert_eq!(back, data);
    }

    #[test]
    fn gathering_cuts_slices() {
        let slices = [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cdefg"), IoSlice::new(b"h")];
        let (mut source, mut out) = (Source::new(&slices), Vec::new());
        let mut next = |length| {
            source.gather(length, &mut out);
            out.iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>()
        };
        assert_eq!([next(1), next(2), next(0), next(4), next(1)].concat(), b"abcdefgh");
    }
}
