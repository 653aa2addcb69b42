//! Payloads made on the spot: files of seeded bytes and the torrent that describes them.

use std::{path::Path, sync::Arc};

use castanet::Metainfo;
use castanet_core::{
    digest::sha1,
    metainfo::write::{NewContent, NewFile, NewTorrent, encode},
};

/// A payload: some files and their torrent.
#[derive(Debug, Clone)]
pub struct Payload {
    /// The torrent.
    pub metainfo: Arc<Metainfo>,
    /// The .torrent file.
    pub torrent: Vec<u8>,
    /// The files' contents by path below the download folder.
    pub files: Vec<(String, Vec<u8>)>,
}

impl Payload {
    /// One file `NAME` of `length` bytes drawn from `seed`.
    pub fn one_file(name: &str, length: usize, piece_length: u32, seed: u64) -> Self {
        let data = bytes(length, seed);
        Self::describe(name, vec![(String::new(), data)], piece_length, &[], false)
    }
    /// A folder `NAME` with these files (path with `/`, length).
    pub fn folder(name: &str, files: &[(&str, usize)], piece_length: u32, seed: u64) -> Self {
        let contents = files.iter().zip(seed..).map(|((path, length), seed)| (path.to_string(), bytes(*length, seed)));
        Self::describe(name, contents.collect(), piece_length, &[], false)
    }
    /// The same files in a torrent with this tracker.
    pub fn with_tracker(self, url: &str) -> Self {
        self.with_trackers(&[vec![url.to_string()]])
    }
    /// The same files in a torrent with these tiers of trackers.
    pub fn with_trackers(self, tiers: &[Vec<String>]) -> Self {
        self.described_anew(tiers, false)
    }
    /// The same bytes in a private torrent (BEP 27).
    pub fn private(self) -> Self {
        let trackers = self.metainfo.trackers.clone();
        self.described_anew(&trackers, true)
    }
    fn described_anew(self, trackers: &[Vec<String>], private: bool) -> Self {
        let name = self.metainfo.info.name.clone();
        let prefix = format!("{name}/");
        let below = |path: String| path.strip_prefix(&prefix).map(String::from).unwrap_or_default();
        let files = self.files.into_iter().map(|(path, data)| (below(path), data)).collect();
        Self::describe(&name, files, self.metainfo.info.piece_length, trackers, private)
    }
    /// Writes the files below `folder`.
    pub fn write_to(&self, folder: &Path) -> std::io::Result<()> {
        for (path, data) in &self.files {
            let path = folder.join(path);
            std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
            std::fs::write(path, data)?;
        }
        Ok(())
    }
    /// The first file below `folder` that is not as it should be.
    pub fn difference(&self, folder: &Path) -> Option<String> {
        let differs = |(path, data): &&(String, Vec<u8>)| std::fs::read(folder.join(path)).ok().as_ref() != Some(data);
        self.files.iter().find(differs).map(|(path, _)| path.clone())
    }

    fn describe(
        name: &str,
        files: Vec<(String, Vec<u8>)>,
        piece_length: u32,
        trackers: &[Vec<String>],
        private: bool,
    ) -> Self {
        let all: Vec<u8> = files.iter().flat_map(|(_, data)| data.iter().copied()).collect();
        let pieces = all.chunks(piece_length as usize).flat_map(|piece| sha1(piece).0).collect();
        let is_single = matches!(&files[..], [(path, _)] if path.is_empty());
        let content = if is_single {
            NewContent::File(all.len() as u64)
        } else {
            let file = |(path, data): &(String, Vec<u8>)| NewFile {
                path: path.split('/').map(String::from).collect(),
                length: data.len() as u64,
                pad: false,
            };
            NewContent::Folder(files.iter().map(file).collect())
        };
        let torrent = encode(&NewTorrent {
            name: name.into(),
            content,
            piece_length,
            pieces,
            private,
            trackers: trackers.to_vec(),
            web_seeds: Vec::new(),
            comment: None,
            created_by: None,
            creation_date: None,
        });
        let metainfo = Metainfo::parse(&torrent).expect("a torrent we made ourselves is valid");
        let below = |(path, data): (String, Vec<u8>)| {
            (if path.is_empty() { name.to_string() } else { format!("{name}/{path}") }, data)
        };
        Self { metainfo: Arc::new(metainfo), torrent, files: files.into_iter().map(below).collect() }
    }
}

/// `length` bytes drawn from `seed`.
pub fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut data = vec![0; length];
    random.fill(&mut data);
    data
}
