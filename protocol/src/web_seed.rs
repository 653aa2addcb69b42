//! A web seed (BEP 19): a web server that has the torrent's files, and is asked for parts of them.
//!
//! It takes blocks like a peer that has everything. What lies together in a piece is asked for together, one question at a
//! time; after a failure it rests, twice as long each time, and what it was to fetch goes back.

use std::{collections::VecDeque, ops::Range, time::Duration};

use castanet_core::{BLOCK_LENGTH, BlockRef, Geometry, Moment, metainfo::Info};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Bytes asked for at a time: a question a megabyte costs nothing, and memory for it is always found.
pub const LARGEST_ASK: u32 = 1 << 20;
/// The rest after the first failure; it doubles.
pub const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest rest.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// Web seeds of a torrent that are used.
pub const MOST_WEB_SEEDS: usize = 16;

/// What needs no escape in a path (RFC 3986).
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A stretch of the torrent, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// These bytes of a file.
    File {
        /// Where the file is.
        url: String,
        /// Which of its bytes.
        range: Range<u64>,
    },
    /// So many zeros: a pad file (BEP 47), which no server has.
    Zeros(u64),
}

/// The parts that make up `range` of the torrent's bytes, from the web seed at `base`: the file itself, or a folder with the
/// torrent's folder in it.
pub fn parts(info: &Info, base: &str, range: Range<u64>) -> Vec<Part> {
    let slash = if base.ends_with('/') { "" } else { "/" };
    let escaped = |name: &str| utf8_percent_encode(name, PATH).to_string();
    let url = |path: &[String]| match info.single_file {
        true if slash.is_empty() => format!("{base}{}", escaped(&info.name)),
        true => base.to_owned(),
        false => {
            let path = path.iter().map(|name| format!("/{}", escaped(name))).collect::<String>();
            format!("{base}{slash}{}{path}", escaped(&info.name))
        }
    };
    let part = |file: &castanet_core::metainfo::FileEntry| {
        let begin = range.start.max(file.offset);
        let end = range.end.min(file.offset + file.length);
        (begin < end).then(|| match file.on_disk() {
            true => Part::File { url: url(&file.path), range: begin - file.offset..end - file.offset },
            false => Part::Zeros(end - begin),
        })
    };
    info.files.iter().filter_map(part).collect()
}

/// What one web seed is to fetch.
#[derive(Debug)]
pub struct WebSeed {
    geometry: Geometry,
    queue: VecDeque<BlockRef>,
    under_way: Vec<BlockRef>,
    rests_until: Option<Moment>,
    failures: u32,
}

impl WebSeed {
    /// It is to fetch nothing yet.
    pub fn new(geometry: Geometry) -> Self {
        Self { geometry, queue: VecDeque::new(), under_way: Vec::new(), rests_until: None, failures: 0 }
    }

    /// How many more blocks it can take: no more than a tenth of a second's worth under a limit in bytes a second, since it
    /// comes in one burst.
    pub fn room(&self, limit: Option<u64>, now: Moment) -> usize {
        let most = limit.map_or(LARGEST_ASK, |limit| (limit / 10).min(LARGEST_ASK.into()) as u32);
        let most = (most / BLOCK_LENGTH).max(1) as usize;
        if self.is_resting(now) { 0 } else { most.saturating_sub(self.queue.len()) }
    }

    /// It is to fetch these, too.
    pub fn assign(&mut self, blocks: impl IntoIterator<Item = BlockRef>) {
        self.queue.extend(blocks);
    }

    /// These are no longer wanted of it. What is under way comes all the same.
    pub fn cancel(&mut self, blocks: &[BlockRef]) {
        self.queue.retain(|block| !blocks.contains(block));
    }

    /// What to ask for now: blocks that lie side by side in a piece, in order. To be followed by [`WebSeed::fetched`] or
    /// [`WebSeed::failed`].
    pub fn next(&mut self, now: Moment) -> Option<&[BlockRef]> {
        if !self.under_way.is_empty() || self.is_resting(now) {
            return None;
        }
        self.rests_until = None;
        let mut end = self.geometry.offset_of_block(*self.queue.front()?);
        let piece = self.queue.front()?.piece;
        let fits = |block: &BlockRef, end: u64| block.piece == piece && self.geometry.offset_of_block(*block) == end;
        while let Some(block) = self.queue.pop_front_if(|block| fits(block, end)) {
            end += u64::from(block.length);
            self.under_way.push(block);
        }
        Some(&self.under_way)
    }

    /// What was under way has come.
    pub fn fetched(&mut self) -> Vec<BlockRef> {
        self.failures = 0;
        std::mem::take(&mut self.under_way)
    }

    /// What was under way has not come: all that it was to fetch goes back, and it rests.
    pub fn failed(&mut self, now: Moment) -> Vec<BlockRef> {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
        self.failures += 1;
        self.rests_until = Some(now + pause);
        let mut back = std::mem::take(&mut self.under_way);
        back.extend(self.queue.drain(..));
        back
    }

    /// How often in a row it has failed.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When it has rested enough, if it rests.
    pub fn deadline(&self) -> Option<Moment> {
        self.rests_until
    }

    fn is_resting(&self, now: Moment) -> bool {
        self.rests_until.is_some_and(|until| until > now)
    }
}

#[cfg(test)]
mod tests {
    use castanet_core::{
        Metainfo, PieceIndex,
        metainfo::write::{NewContent, NewFile, NewTorrent, encode},
    };

    use super::*;

    fn info(content: NewContent) -> Info {
        let length = match &content {
            NewContent::File(length) => *length,
            NewContent::Folder(files) => files.iter().map(|file| file.length).sum(),
        };
        let torrent = NewTorrent {
            name: "a name".into(),
            content,
            piece_length: 32 * 1024,
            pieces: vec![0; 20 * length.div_ceil(32 * 1024) as usize],
            ..NewTorrent::default()
        };
        Metainfo::parse(&encode(&torrent)).unwrap().info
    }

    fn file(url: &str, range: Range<u64>) -> Part {
        Part::File { url: url.into(), range }
    }

    #[test]
    fn a_file_is_the_url_or_lies_in_the_folder_that_it_names() {
        let info = info(NewContent::File(100_000));
        assert_eq!(parts(&info, "http://w/x?y=1", 5..10), [file("http://w/x?y=1", 5..10)]);
        assert_eq!(parts(&info, "http://w/x/", 99_990..100_000), [file("http://w/x/a%20name", 99_990..100_000)]);
        assert_eq!(parts(&info, "http://w/x/", 100_000..100_001), []);
    }

    #[test]
    fn a_stretch_may_touch_many_files() {
        let new = |path: &[&str], length, pad| {
            let path = path.iter().map(|name| name.to_string()).collect();
            NewFile { path, length, pad }
        };
        let (odd, empty) = (new(&["ä", "b#?"], 10, false), new(&["empty"], 0, false));
        let files = vec![odd, empty, new(&[".pad", "20"], 20, true), new(&["d"], 70_000, false)];
        let info = info(NewContent::Folder(files));
        let first = "http://w/a%20name/%C3%A4/b%23%3F";
        for base in ["http://w", "http://w/"] {
            let found = parts(&info, base, 4..31);
            assert_eq!(found, [file(first, 4..10), Part::Zeros(20), file("http://w/a%20name/d", 0..1)]);
        }
    }

    #[test]
    fn what_lies_together_is_asked_for_together_and_failures_give_all_back() {
        let info = info(NewContent::File(100_000));
        let geometry = info.geometry();
        let block = |piece, at| geometry.block(PieceIndex(piece), at);
        let (mut seed, now) = (WebSeed::new(geometry), Moment::from_secs(1));
        assert_eq!([None, Some(u64::MAX), Some(500_000), Some(1)].map(|limit| seed.room(limit, now)), [64, 64, 3, 1]);
        seed.assign([block(0, 0), block(0, 1), block(1, 1), block(2, 0)]);
        assert_eq!(seed.room(None, now), 60);
        assert_eq!(seed.next(now), Some(&[block(0, 0), block(0, 1)][..]), "not beyond the piece");
        assert_eq!(seed.next(now), None, "one at a time");
        seed.cancel(&[block(1, 1), block(0, 1)]);
        assert_eq!(seed.fetched(), [block(0, 0), block(0, 1)], "what is under way comes all the same");
        assert_eq!(seed.next(now), Some(&[block(2, 0)][..]));
        seed.assign([block(3, 0)]);
        assert_eq!(seed.failed(now), [block(2, 0), block(3, 0)]);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let until = seed.deadline().unwrap();
            assert_eq!((seed.room(None, now), seed.next(now)), (0, None));
            assert_eq!(seed.room(None, until), 64);
            pauses.push(until.since(now).as_secs());
            seed.failed(now);
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
        seed.assign([block(1, 0)]);
        assert!(seed.next(now + LONGEST_PAUSE).is_some() && seed.deadline().is_none());
        seed.fetched();
        assert_eq!(seed.failures(), 0);
    }
}
